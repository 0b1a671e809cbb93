"""Step time and memory of a decoder from its sizes alone: the roofline's arithmetic without a compile, for any chip and any number.

Coarser than a walked program (plan/walk.py), and what plan/calibration.py holds against published runs. Seconds and bytes of one chip.
Sources: FLOPs as in models/flops.py; communication of ZeRO stage 3 by Rajbhandari 2020, section 7; of tensor cuts with sequence-sharded
activations by Korthikanti 2022, section 4. A pipeline's bubble is arithmetic (parallel/pipeline.py).
"""

import math
from dataclasses import dataclass, replace
from typing import Any

from pretrainx.core.chips import Chip
from pretrainx.parallel.pipeline import Schedule
from pretrainx.plan.roofline import ASSUMED, Assumptions, ring_bandwidth

REMATS = ("none", "dots", "minimal", "full")
ONE_STAGE = Schedule(1, 1)


@dataclass(frozen=True)
class Shape:
    """Sizes of a decoder, as the config's model section names them."""

    d_model: int
    num_layers: int
    num_heads: int
    num_kv_heads: int
    head_size: int
    mlp_dim: int
    vocab_size: int
    gated_mlp: bool = True
    tied_head: bool = False

    @property
    def layer_weights(self) -> int:
        """Of the products of one layer: what is multiplied, and gathered."""
        D, heads, kv = self.d_model, self.num_heads * self.head_size, self.num_kv_heads * self.head_size
        return D * (2 * heads + 2 * kv) + D * self.mlp_dim * (3 if self.gated_mlp else 2)

    @property
    def head_weights(self) -> int:
        return self.d_model * self.vocab_size

    @property
    def weights(self) -> int:
        """All of them but norms and biases."""
        return self.num_layers * self.layer_weights + self.head_weights * (1 if self.tied_head else 2)

    def model_flops(self, length: int) -> float:
        """Of training on one token in a row of `length`; attention counted in full, as models/flops.py does."""
        scores = 2 * length * self.num_heads * self.head_size
        return 6.0 * (self.num_layers * (self.layer_weights + scores) + self.head_weights)


@dataclass(frozen=True)
class Run:
    """How a model is trained: chips, and how rows and weights lie on them.

    rows      sequences a chip works on at once (batch / chips / grad_accum; with a tensor axis of t a group of t has t times as many;
              of a pipeline's stages, before its microbatches are counted)
    slices    parts joined by the network alone, across which gradients are summed
    fsdp      chips that weights are cut over (0: all of a slice that tensor leaves)
    factors   element type of the products' factors
    stream_cut  the residual stream is cut over the tensor axis too (else each of its chips holds all of the group's rows)
    pipeline  of layers over stages of chips; `stages_between` slices, where gradients are not summed
    head_cut  embedding and head are cut over the stages too
    """

    chip: Chip
    chips: int
    length: int
    rows: float
    remat: str = "full"
    tensor: int = 1
    fsdp: int = 0
    slices: int = 1
    grad_accum: int = 1
    factors: str = "bf16"
    loss_chunks: int = 1
    mlp_chunks: int = 1
    causal: bool = True
    stream_cut: bool = True
    pipeline: Schedule = ONE_STAGE
    head_cut: bool = True
    stages_between: bool = False

    @property
    def stages(self) -> int:
        return self.pipeline.stages

    @property
    def stages_within(self) -> int:
        """Stages of one slice."""
        return self.stages // self.slices if self.stages_between else self.stages

    @property
    def turns(self) -> float:
        """Work of the layers with what runs in the bubble, of that without."""
        return 1 / (1 - self.pipeline.bubble)

    @property
    def slice_size(self) -> int:
        return self.chips // self.slices

    @property
    def cut(self) -> int:
        """Chips that hold one copy of the weights along fsdp."""
        return self.fsdp or max(1, self.slice_size // (self.tensor * self.stages_within))

    @property
    def stream_copies(self) -> int:
        """Chips that hold the same part of the residual stream."""
        return 1 if self.stream_cut else self.tensor

    @property
    def tokens(self) -> float:
        """Of one chip in one step."""
        return self.rows * self.length * self.grad_accum

    def held(self, shape: Shape) -> float:
        """Weights that one chip keeps."""
        layers = shape.num_layers * shape.layer_weights / self.stages
        return (layers + (shape.weights - shape.num_layers * shape.layer_weights) / (self.stages if self.head_cut else 1)) / (
            self.cut * self.tensor
        )


@dataclass(frozen=True)
class Estimate:
    """Seconds of one step, where they go, and what of it is interval; MFU counts the model's FLOPs only."""

    seconds: float
    low: float
    high: float
    mfu: float
    binds: str
    parts: dict[str, float]
    tokens_per_second: float


def estimate(shape: Shape, run: Run, assumed: Assumptions = ASSUMED) -> Estimate:
    """The step time of a decoder."""
    compute, vector = products_seconds(shape, run, assumed), streams_seconds(shape, run, assumed)
    gathers, gathers_on = weights_seconds(shape, run, assumed)
    cuts = tensor_seconds(shape, run, assumed)
    across = slices_seconds(shape, run, assumed)
    updates = optimizer_seconds(shape, run, assumed)
    handed = stages_seconds(shape, run, assumed)
    work = compute + vector
    # Layers' gathers and scatters run beside arithmetic; a part of each never does, and what is longer than the arithmetic shows.
    waiting = gathers - min(assumed.hidden * gathers, assumed.hidden * work) + (1 - assumed.hidden_tensor) * cuts
    parts = {
        "products": compute,
        "streams": vector,
        "weights and activations on the wire": waiting,
        "between stages": handed,
        "gradients between slices": across,
        "optimizer": updates,
    }
    seconds = sum(parts.values())
    busy = {"compute": compute, "hbm": vector + updates, "ici": cuts, "network": across}
    busy[gathers_on] += gathers
    busy["network" if run.stages_between else "ici"] += handed
    chips_flops = run.chip.flops("bf16")
    mfu = shape.model_flops(run.length) * run.tokens / (seconds * chips_flops)
    low, high = assumed.interval
    binds = max(busy, key=lambda name: busy[name])
    return Estimate(seconds, seconds * low, seconds * high, mfu, binds, parts, run.tokens * run.chips / seconds)


def products_seconds(shape: Shape, run: Run, assumed: Assumptions) -> float:
    """Products and attention, with what remat computes again and without the half that a causal kernel skips."""
    again = 1.0 if run.remat == "full" else 0.0
    spared = 2.0 * shape.num_layers * shape.mlp_dim * shape.d_model * again  # the last product of a layer is not asked for again
    per_token = 2.0 * (3 + again) * shape.num_layers * shape.layer_weights - spared
    head = 2.0 * shape.head_weights * (3 + (run.loss_chunks > 1))
    scores = 2.0 * run.length * shape.num_heads * shape.head_size * shape.num_layers * (0.55 if run.causal else 1.0)
    # Two products forward, five or seven backward (scores again, in one or two kernels); a remat that keeps no scores repeats the kernel.
    turns = 2 + (7 if run.chip.is_tpu else 5) + (2 if run.remat in ("full", "minimal") else 0)
    reached = assumed.of_products(run.chip)
    per_token, scores = per_token * run.turns, scores * run.turns
    products = per_token / (run.chip.flops(run.factors) * reached) + head / (run.chip.flops("bf16") * reached)
    return run.tokens * (products + turns * scores / (run.chip.flops("bf16") * assumed.kernels))


def streams_seconds(shape: Shape, run: Run, assumed: Assumptions) -> float:
    """Norms, activations, residual sums, rotations: elements that only pass through memory, bfloat16, forward, backward and again."""
    D, mlp = shape.d_model, shape.mlp_dim * (1.5 if shape.gated_mlp else 1.0)
    turns = 3.0 + (1.0 if run.remat == "full" else 0.0)
    layers = shape.num_layers * (6.0 * D * run.stream_copies + 2.0 * mlp) * 2 * turns * run.turns
    logits = shape.vocab_size * 4.0 * 4
    return run.tokens * (layers + logits) / (run.chip.hbm_bandwidth * assumed.memory)


def weights_seconds(shape: Shape, run: Run, assumed: Assumptions) -> tuple[float, str]:
    """Two gathers of the weights and one scatter of their gradients in bfloat16, for each microbatch; and the wire they go over.

    In a pipeline a visit to a stage gathers the layers that it runs, so that each iteration moves them anew.
    """
    n = run.cut
    if n == 1 and run.slice_size == run.tensor * run.stages_within:
        return 0.0, "ici"
    held = 2.0 * n * run.held(shape)
    layers = 2.0 * shape.num_layers * shape.layer_weights / (run.tensor * run.stages)
    visits = run.pipeline.iterations / run.pipeline.repeats
    moved = 3 * (held + layers * (visits - 1)) * (n - 1) / n * run.grad_accum
    copies = run.slice_size // (run.tensor * run.stages_within * n)
    wire, speed = ring_bandwidth(run.chip, n * run.tensor, run.slice_size if run.chip.is_tpu else None)
    reached = assumed.network if wire == "network" else assumed.links
    gathers = shape.num_layers / run.stages * visits * run.grad_accum
    seconds = moved / (speed * reached) + 3 * gathers * hops(run.chip, n) * assumed.hop_seconds
    if copies > 1:  # copies within a slice (hybrid sharding) sum their parts of the gradients
        over, between = ring_bandwidth(run.chip, run.slice_size, run.slice_size if run.chip.is_tpu else None)
        seconds += 2 * held / n * (copies - 1) / copies / (between * (assumed.network if over == "network" else assumed.links))
    return seconds, wire


def hops(chip: Chip, n: int) -> float:
    """Of a ring over n chips: along each dimension of a torus in turn, or from node to node and within one."""
    if chip.torus:
        size = min(n, chip.domain)
        return chip.torus * size ** (1 / chip.torus)
    return n / chip.domain + chip.domain if n > chip.domain else n


def tensor_seconds(shape: Shape, run: Run, assumed: Assumptions) -> float:
    """Four gathers and four scatters of the residual stream a layer, in bfloat16, over the tensor axis; two more where remat repeats."""
    t = run.tensor
    if t == 1:
        return 0.0
    turns = 8 + (4 if run.remat == "full" else 0)
    moved = turns * shape.num_layers * run.tokens * run.turns * (t - 1) * shape.d_model * 2
    wire, speed = ring_bandwidth(run.chip, t, run.slice_size if run.chip.is_tpu else None)
    return moved / (speed * (assumed.network if wire == "network" else assumed.links))


def stages_seconds(shape: Shape, run: Run, assumed: Assumptions) -> float:
    """Activations handed on in bfloat16, three times an iteration forward and backward (the state, and what waits before and after
    it); with repeats also float32 weights to their stages, and their gradients back.
    """
    S, schedule = run.stages, run.pipeline
    if S == 1:
        return 0.0
    one = run.tokens * S * run.stream_copies / schedule.microbatches * shape.d_model * 2  # a chip's part of a stage's microbatch
    moved = 2 * 3 * schedule.iterations * one
    if schedule.repeats > 1:
        moved += 2 * 4.0 * shape.num_layers * shape.layer_weights / (S * run.cut * run.tensor) * (S - 1) / S * run.grad_accum
    if run.stages_between:
        return moved / (run.chip.network_bytes * assumed.network)
    wire, speed = ring_bandwidth(run.chip, S * run.cut * run.tensor, run.slice_size if run.chip.is_tpu else None)
    return moved / (speed * (assumed.network if wire == "network" else assumed.links))


def slices_seconds(shape: Shape, run: Run, assumed: Assumptions) -> float:
    """The sum of float32 gradients across slices, of the part that a chip holds."""
    if run.slices == 1 or run.stages_between:
        return 0.0
    held = 4.0 * run.held(shape)
    return 2 * held * (run.slices - 1) / run.slices / (run.chip.network_bytes * assumed.network)


def optimizer_seconds(shape: Shape, run: Run, assumed: Assumptions) -> float:
    """AdamW reads weights, two moments and gradients in float32, and writes three."""
    return 7 * 4.0 * run.held(shape) / (run.chip.hbm_bandwidth * assumed.memory)


def memory_bytes(shape: Shape, run: Run) -> dict[str, float]:
    """Bytes of one chip by what they are for: float32 weights, two moments and gradients, cut; activations as remat keeps them.

    Rough (a tenth and more): what the compiler holds besides differs by program. The compile is what decides.
    A pipeline keeps what all its microbatches, and the bubble, leave in a stage's layers, and works on one microbatch at a time.
    """
    share = run.held(shape)
    tokens, D = run.rows * run.length, shape.d_model
    heads = (shape.num_heads + 2 * shape.num_kv_heads) * shape.head_size
    mlp = shape.mlp_dim * (3 if shape.gated_mlp else 2)
    D *= run.stream_copies
    kept = {"full": D, "minimal": D + 2 * heads + mlp, "dots": D + 2 * heads + mlp, "none": 4 * D + 3 * heads + 2 * mlp}[run.remat]
    alive = 2 * D + heads + mlp / run.mlp_chunks  # of the layer at work
    return {
        "weights": 4 * share,
        "moments": 8 * share,
        "gradients": 4 * share if run.grad_accum > 1 else 2 * share,
        "activations": 2 * tokens * (kept * shape.num_layers * run.turns + alive * run.stages / run.pipeline.microbatches),
        "gathered weights": 2 * 2 * shape.layer_weights / run.tensor,
        "logits": 6 * tokens * shape.vocab_size / run.loss_chunks,
    }


def scaling(shape: Shape, run: Run, chips: tuple[int, ...] = (16, 64, 256, 1024, 4096)) -> dict[int, Estimate]:
    """The same work a chip on more chips: slices are added where the chip's domain ends; of GPUs, nodes."""
    found = {}
    for n in chips:
        domain = run.chip.domain if run.chip.is_tpu else n
        more = replace(run, chips=n, slices=max(1, math.ceil(n / domain)))
        if n % (run.tensor * run.stages) or (run.stages_between and run.stages % more.slices):
            continue
        cut = min(run.fsdp, more.slice_size // (run.tensor * more.stages_within)) if run.fsdp else 0
        found[n] = estimate(shape, replace(more, fsdp=cut))
    return found


def shape_of(model: Any) -> Shape:
    """The shape of a config's model section, of a model of one stack."""
    return Shape(
        model.d_model, model.num_layers, model.num_heads, model.kv_heads, model.head_size, model.mlp_dim, model.vocab_size,
        model.gated_mlp, model.tied_head,
    )  # fmt: skip
