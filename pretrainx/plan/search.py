"""The layouts of one experiment on one topology, ranked by the analytic step time: mesh shapes, sequence cuts, remat, microbatches.

What the analytic memory says does not fit is dropped before anything is compiled; the best few are then worth a compile each. Stages of a
pipeline stay as the config has them.
"""

from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from itertools import product
from typing import Any

from pretrainx.core.errors import InputError
from pretrainx.plan import analytic
from pretrainx.plan.analytic import Estimate, Run, Shape
from pretrainx.plan.topology import Topology

TENSORS = (1, 2, 4, 8, 16)
COPIES = (1, 4, 16)  # of the weights within a slice: fewer chips to gather from, and a sum of gradients between the copies
MICROBATCHES = (1, 2, 4, 8, 16)
ROOM = 0.9  # share of the memory that may be planned for: the analytic memory is a tenth off and more
# Layouts of one candidate that the analytic form does not tell apart: the compiler does.
ALIKE = {"fsdp": ("fsdp_manual", "fsdp"), "fsdp_tp": ("fsdp_tp",), "fsdp_tp_sequence": ("fsdp_ulysses", "fsdp_tp_sequence")}
MANUAL = ("fsdp_manual", "fsdp_ulysses")


@dataclass(frozen=True)
class Candidate:
    """A layout and what is expected of it; `flags` are the command line's words for all but the layout."""

    run: Run
    found: Estimate
    memory_bytes: float
    layout: str
    flags: tuple[str, ...]

    def words(self, layout: str = "") -> list[str]:
        """What to paste behind `--config=...`."""
        return [f"--config.layout={layout or self.layout}", *self.flags]


def search(shape: Shape, run: Run, topology: Topology, batch_size: int) -> tuple[list[Candidate], int]:
    """All candidates that fit, the fastest first, and how many were tried. The batch and the sequence stay as they are."""
    tried, kept = 0, []
    for tensor, copies, remat, grad_accum in product(TENSORS, COPIES, analytic.REMATS, MICROBATCHES):
        for layout in ("fsdp",) if tensor == 1 else ("fsdp_tp", "fsdp_tp_sequence"):
            candidate = with_layout(shape, run, topology, batch_size, layout, tensor, copies, remat, grad_accum)
            if candidate is None:
                continue
            tried += 1
            if candidate.memory_bytes <= ROOM * topology.chip.hbm_bytes:
                kept.append(candidate)
    # Of two as fast, the one with more room.
    return sorted(kept, key=lambda c: (round(c.found.seconds, 4), c.memory_bytes)), tried


def with_layout(
    shape: Shape, run: Run, topology: Topology, batch_size: int, layout: str, tensor: int, copies: int, remat: str, grad_accum: int
) -> Candidate | None:  # fmt: skip
    """One candidate; None where its axes do not divide the model, the batch or the slice."""
    devices, stages, slices = topology.chip.devices, run.stages_within, 1 if run.stages_between else topology.slices
    slice_devices = topology.slice_chips * devices
    cut = (shape.num_heads, shape.num_kv_heads, shape.mlp_dim, shape.vocab_size)
    if slice_devices % (tensor * stages * copies) or any(size % tensor for size in cut):
        return None
    if tensor > 1 and not topology.chip.torus and tensor > topology.chip.domain:
        return None
    if layout == "fsdp_tp_sequence" and run.length % tensor:
        return None
    fsdp = slice_devices // (tensor * stages * copies)
    data = slices * copies
    if fsdp == 1 and copies > 1:  # weights that nobody cuts are the layouts dp and zero1: nothing to gather, and no room
        return None
    if batch_size % (fsdp * data * run.pipeline.microbatches * grad_accum) or shape.d_model % (fsdp * run.stages):
        return None
    placed = replace(
        run, tensor=max(1, tensor // devices), fsdp=max(1, fsdp // (1 if tensor > 1 else devices)), remat=remat, grad_accum=grad_accum,
        rows=batch_size / topology.chips / grad_accum, slices=topology.slices, stream_cut=layout != "fsdp_tp",
    )  # fmt: skip
    flags = (
        f"--config.mesh.data={data}", f"--config.mesh.fsdp={fsdp}", f"--config.mesh.tensor={tensor}",
        *([f"--config.mesh.stage={run.stages}"] if run.stages > 1 else []), f"--config.train.remat={remat}",
        f"--config.train.grad_accum={grad_accum}",
    )  # fmt: skip
    memory = sum(analytic.memory_bytes(shape, placed).values())
    return Candidate(placed, analytic.estimate(shape, placed), memory, layout, flags)


def table(candidates: list[Candidate], tried: int, most: int = 10) -> dict[str, Any]:
    """The search as `plan --json` prints it."""
    ranked = [
        {"step_seconds": c.found.seconds, "mfu": c.found.mfu, "peak_bytes": c.memory_bytes, "binds": c.found.binds, "flags": c.words()}
        for c in candidates[:most]
    ]
    return {"tried": tried, "fit": len(candidates), "compiled": 0, "ranked": ranked}


def to_compile(candidates: list[Candidate], most: int) -> Iterator[tuple[Candidate, str]]:
    """The first `most` (candidate, layout) to compile: by rank, each in the layouts that the estimate holds alike."""
    pairs = (
        (candidate, layout)
        for candidate in candidates
        for layout in ALIKE[candidate.layout]
        if layout not in MANUAL or candidate.run.stages == 1
    )
    for _, pair in zip(range(most), pairs, strict=False):
        yield pair


def compiled(candidates: list[Candidate], most: int, compile_with: Callable[[list[str]], dict[str, Any]]) -> list[dict[str, Any]]:
    """What the compiler says of the best, the fastest that fit first; what it or the experiment refuses comes last, with the reason."""
    rows = []
    for candidate, layout in to_compile(candidates, most):
        row: dict[str, Any] = {"flags": candidate.words(layout), "estimated_seconds": candidate.found.seconds}
        try:
            plan = compile_with(row["flags"])
        except InputError as error:
            rows.append(row | {"fits": False, "refusal": str(error)})
            continue
        wire = sum(moved["wire_bytes"] for moved in plan.get("collectives", ()))
        kept = ("fits", "step_seconds", "step_seconds_low", "step_seconds_high", "mfu", "peak_bytes", "binds", "refusal", "kept")
        rows.append(row | {name: plan[name] for name in kept if name in plan} | {"wire_bytes": wire})
    return sorted(rows, key=lambda row: (not row["fits"], row.get("step_seconds", 0.0)))
