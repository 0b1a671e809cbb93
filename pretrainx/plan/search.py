"""The layouts of one experiment on one topology, ranked by the analytic step time: mesh shapes, remat, microbatches.

Stages of a pipeline stay as the config has them.

What the analytic memory says does not fit is dropped. Nothing is compiled here: the best few are worth a compile each.
"""

from dataclasses import dataclass, replace
from itertools import product
from typing import Any

from pretrainx.plan import analytic
from pretrainx.plan.analytic import Estimate, Run, Shape
from pretrainx.plan.topology import Topology

TENSORS = (1, 2, 4, 8, 16)
MICROBATCHES = (1, 2, 4, 8, 16)
ROOM = 0.9  # share of the memory that may be planned for: the analytic memory is a tenth off and more


@dataclass(frozen=True)
class Candidate:
    """A layout and what is expected of it; `flags` are the command line's words for it."""

    run: Run
    found: Estimate
    memory_bytes: float
    flags: tuple[str, ...]


def search(shape: Shape, run: Run, topology: Topology, batch_size: int) -> tuple[list[Candidate], int]:
    """All candidates that fit, the fastest first, and how many were tried. The batch and the sequence stay as they are."""
    tried, kept = 0, []
    for tensor, remat, grad_accum in product(TENSORS, analytic.REMATS, MICROBATCHES):
        candidate = with_layout(shape, run, topology, batch_size, tensor, remat, grad_accum)
        if candidate is None:
            continue
        tried += 1
        if candidate.memory_bytes <= ROOM * topology.chip.hbm_bytes:
            kept.append(candidate)
    # Of two as fast, the one with more room.
    return sorted(kept, key=lambda c: (round(c.found.seconds, 4), c.memory_bytes)), tried


def with_layout(shape: Shape, run: Run, topology: Topology, batch_size: int, tensor: int, remat: str, grad_accum: int) -> Candidate | None:
    """One candidate; None where its axes do not divide the model, the batch or the slice."""
    devices, stages, copies = topology.chip.devices, run.stages_within, 1 if run.stages_between else topology.slices
    slice_devices = topology.slice_chips * devices
    cut = (shape.num_heads, shape.num_kv_heads, shape.mlp_dim, shape.vocab_size)
    if slice_devices % (tensor * stages) or any(size % tensor for size in cut):
        return None
    if tensor > 1 and not topology.chip.torus and tensor > topology.chip.domain:
        return None
    fsdp = slice_devices // (tensor * stages)
    shards = fsdp * copies * run.pipeline.microbatches
    if batch_size % (shards * grad_accum) or shape.d_model % (fsdp * run.stages):
        return None
    layout = replace(
        run, tensor=max(1, tensor // devices), fsdp=fsdp // (1 if tensor > 1 else devices), remat=remat, grad_accum=grad_accum,
        rows=batch_size / topology.chips / grad_accum, slices=topology.slices,
    )  # fmt: skip
    flags = (
        f"--config.layout={'fsdp_tp' if tensor > 1 else 'fsdp'}", f"--config.mesh.data={copies}", f"--config.mesh.fsdp={fsdp}",
        f"--config.mesh.tensor={tensor}", *([f"--config.mesh.stage={run.stages}"] if run.stages > 1 else []),
        f"--config.train.remat={remat}", f"--config.train.grad_accum={grad_accum}",
    )  # fmt: skip
    return Candidate(layout, analytic.estimate(shape, layout), sum(analytic.memory_bytes(shape, layout).values()), flags)


def table(candidates: list[Candidate], tried: int, most: int = 10) -> dict[str, Any]:
    """The search as `plan --json` prints it."""
    ranked = [
        {
            "step_seconds": c.found.seconds,
            "mfu": c.found.mfu,
            "peak_bytes": c.memory_bytes,
            "binds": c.found.binds,
            "flags": list(c.flags),
        }
        for c in candidates[:most]
    ]
    return {"tried": tried, "fit": len(candidates), "compiled": 0, "ranked": ranked}
