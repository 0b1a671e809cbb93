"""Published training runs, and what the analytic form predicts for them: how far a plan may be off, said honestly.

Only what the source states is used: model, chips, rows a chip, remat, layout, and the figure. Where a figure is an MFU that counts causal
attention in full it is taken as it is; tokens a second need no convention. Nothing here was run by us.
"""

import statistics
from collections.abc import Sequence
from dataclasses import dataclass, replace

from pretrainx.core.chips import CHIPS, Chip
from pretrainx.plan.analytic import Run, Shape, estimate
from pretrainx.plan.roofline import ASSUMED, Assumptions

# MaxText's sizes by "global_parameter_scale" (its configs/v5p and v5e scripts): heads of 128, SwiGLU, vocabulary 32,000.
MAXTEXT = {
    "16B": Shape(4096, 32, 64, 64, 128, 28672, 32000),
    "32B": Shape(8192, 32, 64, 64, 128, 28672, 32000),
    "64B": Shape(8192, 64, 64, 64, 128, 28672, 32000),
    "128B": Shape(8192, 64, 128, 128, 128, 57344, 32000),
}
LLAMA = {
    "Llama 2 7B": Shape(4096, 32, 32, 32, 128, 11008, 32000),
    "Llama 2 70B": Shape(8192, 80, 64, 8, 128, 28672, 32000),
    "Llama 3.1 8B": Shape(4096, 32, 32, 8, 128, 14336, 128256),
    "Llama 3.1 70B": Shape(8192, 80, 64, 8, 128, 28672, 128256),
}
# llm-foundry's MPT (scripts/train/yamls): four times d_model without a gate, tied, vocabulary 50,368.
MPT = {
    "MPT 1B": Shape(2048, 24, 16, 16, 128, 8192, 50368, gated_mlp=False, tied_head=True),
    "MPT 3B": Shape(2560, 32, 20, 20, 128, 10240, 50368, gated_mlp=False, tied_head=True),
    "MPT 7B": Shape(4096, 32, 32, 32, 128, 16384, 50368, gated_mlp=False, tied_head=True),
    "MPT 13B": Shape(5120, 40, 40, 40, 128, 20480, 50368, gated_mlp=False, tied_head=True),
    "MPT 30B": Shape(7168, 48, 56, 56, 128, 28672, 50368, gated_mlp=False, tied_head=True),
    "MPT 70B": Shape(8192, 80, 64, 64, 128, 32768, 50368, gated_mlp=False, tied_head=True),
}
SHAPES = MAXTEXT | LLAMA | MPT

V5P = "MaxText, configs/v5p/README.md and scripts beside it"
V5E = "MaxText, configs/v5e/README.md and scripts beside it"
V6E = "MaxText, docs/reference/models/tiering.md; benchmarks/maxtext_trillium_model_configs.py"
FUJI = "AXLearn, experiments/text/gpt/fuji.py"
FOUNDRY = "llm-foundry, scripts/train/benchmarking/README.md"
TITAN = "torchtitan, benchmarks/llama3_h100_202412_torchtitan.md (500 W cards with 2.4 TB/s)"


@dataclass(frozen=True)
class Point:
    """One published figure: `mfu`, or tokens a second and chip, or seconds a step."""

    model: str
    run: Run
    source: str
    mfu: float = 0.0
    tokens_per_second: float = 0.0
    seconds: float = 0.0

    @property
    def step_seconds(self) -> float:
        """The published step time, from whichever figure was given."""
        if self.seconds:
            return self.seconds
        if self.tokens_per_second:
            return self.run.tokens / self.tokens_per_second
        return SHAPES[self.model].model_flops(self.run.length) * self.run.tokens / (self.mfu * self.run.chip.flops("bf16"))


def _run(chip: str, chips: int, length: int, rows: float, remat: str, **more: int) -> Run:
    return Run(CHIPS[chip], chips, length, rows, remat, **more)  # type: ignore[arg-type]


# On v5p all of a slice is one ring; a node of eight is the domain of GPUs, and weights are cut over all chips where none other is said.
POINTS: tuple[Point, ...] = (
    Point("32B", _run("v5p", 64, 2048, 7, "minimal", tensor=4), V5P, mfu=0.7147),
    Point("32B", _run("v5p", 128, 2048, 7, "minimal", tensor=4, slices=2), V5P, mfu=0.6943),
    Point("64B", _run("v5p", 64, 2048, 3, "minimal", tensor=4), V5P, mfu=0.7031),
    Point("64B", _run("v5p", 128, 2048, 3, "minimal", tensor=4, slices=2), V5P, mfu=0.6726),
    Point("128B", _run("v5p", 128, 2048, 1, "minimal", tensor=8), V5P, mfu=0.6868),
    Point("128B", _run("v5p", 256, 2048, 1, "minimal", tensor=8), V5P, mfu=0.6883),
    Point("128B", _run("v5p", 256, 2048, 1, "minimal", tensor=8, slices=2), V5P, mfu=0.6634),
    Point("16B", _run("v5e", 256, 2048, 6, "full"), V5E, mfu=0.6110),
    Point("16B", _run("v5e", 1024, 2048, 6, "full", slices=4), V5E, mfu=0.5914),
    Point("16B", _run("v5e", 8192, 2048, 6, "full", slices=32), V5E, mfu=0.5465),
    Point("32B", _run("v5e", 256, 2048, 4, "full"), V5E, mfu=0.6686),
    Point("32B", _run("v5e", 8192, 2048, 4, "full", slices=32), V5E, mfu=0.6040),
    Point("64B", _run("v5e", 256, 2048, 2, "full"), V5E, mfu=0.5990),
    Point("128B", _run("v5e", 256, 2048, 1, "minimal", tensor=16), V5E, mfu=0.5606),
    Point("Llama 2 7B", _run("v5e", 1024, 4096, 1, "dots", slices=4), FUJI, seconds=2.21),
    Point("Llama 2 70B", _run("v5e", 1024, 4096, 1, "dots", slices=4), FUJI, seconds=14.3736),
    Point("Llama 2 70B", _run("v6e", 256, 4096, 4, "full"), V6E, tokens_per_second=900),
    Point("Llama 3.1 70B", _run("v6e", 256, 8192, 5, "full"), V6E, tokens_per_second=960),
    Point("Llama 2 7B", _run("h100", 256, 4096, 4, "none", fsdp=8), FUJI, seconds=1.78),
    Point("MPT 1B", _run("h100", 64, 2048, 20, "none"), FOUNDRY, tokens_per_second=44402),
    Point("MPT 3B", _run("h100", 64, 2048, 6, "none", grad_accum=3), FOUNDRY, tokens_per_second=22525),
    Point("MPT 7B", _run("h100", 8, 2048, 6, "none"), FOUNDRY, tokens_per_second=10643),
    Point("MPT 7B", _run("h100", 8, 8192, 8, "full", grad_accum=2), FOUNDRY, tokens_per_second=6935),
    Point("MPT 13B", _run("h100", 64, 2048, 2, "none"), FOUNDRY, tokens_per_second=4800),
    Point("MPT 30B", _run("h100", 32, 2048, 14, "full", grad_accum=3), FOUNDRY, tokens_per_second=2308),
    Point("MPT 70B", _run("h100", 64, 2048, 8, "full", grad_accum=4), FOUNDRY, tokens_per_second=1039),
    Point("Llama 3.1 8B", _run("h100", 8, 8192, 2, "minimal"), TITAN, tokens_per_second=6667),
    Point("Llama 3.1 8B", _run("h100", 128, 8192, 2, "minimal"), TITAN, tokens_per_second=6514),
)


@dataclass(frozen=True)
class Compared:
    """`error` is predicted over published, less one: 0.1 is a step predicted a tenth too long."""

    point: Point
    published: float
    predicted: float

    @property
    def error(self) -> float:
        return self.predicted / self.published - 1


def compare(points: Sequence[Point] = POINTS, assumed: Assumptions = ASSUMED) -> list[Compared]:
    """Predicted against published step seconds."""
    return [Compared(p, p.step_seconds, estimate(SHAPES[p.model], p.run, assumed).seconds) for p in points]


def median_error(found: Sequence[Compared]) -> float:
    """The median of the errors' sizes."""
    return statistics.median(abs(c.error) for c in found)


def left_out(points: Sequence[Point] = POINTS, assumed: Assumptions = ASSUMED) -> list[Compared]:
    """Each point predicted with a chip's efficiency fitted to the others of its chip alone: the error on a run not seen."""
    found = []
    for point in points:
        others = [p for p in points if p.run.chip.name == point.run.chip.name and p is not point]
        products = dict(assumed.products) | {point.run.chip.name: fitted(others, point.run.chip, assumed)}
        found += compare([point], replace(assumed, products=products))
    return found


def fitted(points: Sequence[Point], chip: Chip, assumed: Assumptions = ASSUMED) -> float:
    """The share of the chip's peak in products, to a hundredth, with the least median error over these points."""
    shares = [s / 100 for s in range(40, 96)]
    return min(shares, key=lambda s: median_error(compare(points, replace(assumed, products={**assumed.products, chip.name: s}))))
