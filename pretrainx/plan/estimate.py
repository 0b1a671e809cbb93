"""A plan without a compiler, from an experiment's sizes: in seconds, for GPUs too, and for numbers of chips nobody compiles for."""

from typing import Any

from pretrainx.core.errors import InputError
from pretrainx.parallel import layouts, mesh
from pretrainx.plan import analytic
from pretrainx.plan.analytic import Run, Shape
from pretrainx.plan.cost import run_cost, run_flops
from pretrainx.plan.topology import Topology
from pretrainx.train import build
from pretrainx.train.experiment import Experiment, lengths


def run_of(experiment: Experiment, topology: Topology, any_batch: bool = False) -> tuple[Shape, Run]:
    """The analytic form's view of an experiment on a topology; `any_batch` leaves it to a search whether the batch spreads.

    Raises:
      InputError: the model has more than one stack, the mesh does not fit, or the batch does not spread over it.
    """
    model, train = experiment.model, experiment.train
    if len(model.towers) != 1:
        raise InputError(
            f"model.name={model.name!r}: the analytic estimate knows models of one stack; leave --analytic out, for a TPU topology"
        )
    sizes = mesh.sizes(experiment.mesh, topology.num_devices)
    schedule = build.schedule_of(experiment, sizes["stage"])
    shards, microbatches = sizes["data"] * sizes["fsdp"], train.grad_accum * (schedule.microbatches if schedule else 1)
    if not any_batch and train.batch_size % (shards * microbatches):
        raise InputError(
            f"train.batch_size {train.batch_size} does not spread over {shards} devices of the batch's axes in {microbatches} "
            f"microbatches; give a multiple of {shards * microbatches}, such as {4 * shards * microbatches}"
        )
    layout = layouts.resolve(experiment.layout)
    axes = {axis for rule in layout.weights.values() for axis in layouts.axes_of(rule)}
    chips, devices = topology.chips, topology.chip.devices
    run = Run(
        topology.chip, chips, experiment.data.sequence_length,
        rows=train.batch_size / chips / train.grad_accum,
        remat=train.remat if train.remat in analytic.REMATS else "full",  # what keeps some parts, or sends them off, keeps little
        # Both devices of a chip lie on the innermost axis that has room for them.
        tensor=max(1, sizes["tensor"] // devices) if "tensor" in axes else 1,
        fsdp=max(1, min(sizes["fsdp"] // (1 if sizes["tensor"] > 1 else devices), topology.slice_chips)) if "fsdp" in axes else 1,
        slices=topology.slices,
        grad_accum=train.grad_accum,
        loss_chunks=max(1, model.loss_chunks),
        mlp_chunks=model.mlp_chunks,
        causal=model.causal,
        stream_cut=any("tensor" in layout.activations.get(dim, ()) for dim in ("length", "residual", "embed")),
        pipeline=schedule or analytic.ONE_STAGE,
        head_cut="fsdp" in axes,
        stages_between=topology.slices > 1 and mesh.between_slices(sizes, topology.slices) == "stage",
    )  # fmt: skip
    return analytic.shape_of(model), run


def plan(experiment: Experiment, topology: Topology, tokens: float | None = None, price: float | None = None) -> dict[str, Any]:
    """Numbers of one chip, by the names that `plan --json` gives a compiled plan too; `source` says that nothing was compiled."""
    shape, run = run_of(experiment, topology)
    found = analytic.estimate(shape, run)
    memory = analytic.memory_bytes(shape, run)
    peak = sum(memory.values())
    tokens_per_step = experiment.train.batch_size * experiment.data.sequence_length
    result: dict[str, Any] = {
        "topology": topology.name,
        "source": "analytic",
        "devices": topology.num_devices,
        "chips": topology.chips,
        "mesh": {axis: size for axis, size in mesh.sizes(experiment.mesh, topology.num_devices).items() if size > 1},
        "parameters": shape.weights,
        "tokens_per_step": tokens_per_step,
        "model_flops_per_step": shape.model_flops(run.length) * tokens_per_step,
        "fits": peak <= topology.chip.hbm_bytes,
        "hbm_limit_bytes": topology.chip.hbm_bytes,
        "peak_bytes": peak,
        "memory_by_kind": memory,
        "step_seconds": found.seconds,
        "step_seconds_low": found.low,
        "step_seconds_high": found.high,
        "mfu": found.mfu,
        "binds": found.binds,
        "time_by_kind": found.parts,
    }
    if run.stages > 1:
        result["pipeline"] = run.pipeline.facts
    if not result["fits"]:
        result["advice"] = advice(memory, run)
    return result | totals(experiment, topology, result, tokens, price)


def totals(experiment: Experiment, topology: Topology, result: dict[str, Any], tokens: float | None, price: float | None) -> dict[str, Any]:
    """The whole run's tokens, time, FLOPs and money, for a plan that has its step time."""
    wanted = float(tokens or run_tokens(experiment))
    per_token = result["model_flops_per_step"] / result["tokens_per_step"]
    cost = run_cost(topology, result["step_seconds"], result["tokens_per_step"], wanted, price)
    return cost | run_flops(result["parameters"], wanted, per_token)


def run_tokens(experiment: Experiment) -> int:
    """Tokens of the config's own run."""
    return lengths(experiment, None).steps * experiment.train.batch_size * experiment.data.sequence_length


def advice(memory: dict[str, float], run: Run) -> str:
    """The first thing to change when it does not fit: what fills most, and the config value that lessens it."""
    largest = max(memory, key=lambda kind: memory[kind])
    state = largest in ("weights", "moments", "gradients", "gathered weights")
    if state:
        if run.cut * run.tensor * run.stages_within < run.slice_size:
            return f"{largest} fill most: cut them over more chips (--config.layout=fsdp --config.mesh.fsdp=-1)"
        return f"{largest} fill most and are cut over the whole slice: take more chips, or chips with more memory"
    if largest == "logits":
        return f"logits fill most: compute the loss in chunks (--config.model.loss_chunks={max(2, 2 * run.loss_chunks)})"
    if run.remat != "full":
        return f"{largest} fill most: keep less of them (--config.train.remat={'minimal' if run.remat in ('none', 'dots') else 'full'})"
    return f"{largest} fill most: work on fewer rows at once (--config.train.grad_accum={2 * run.grad_accum})"
