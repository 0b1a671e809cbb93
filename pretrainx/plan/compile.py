"""Compiles an experiment's own training step for a described topology: what a device would hold, move and take."""

import re
import time
from collections import defaultdict
from typing import Any

from pretrainx.core.chips import Chip
from pretrainx.core.errors import InputError
from pretrainx.plan import analytic, cudnn, estimate, gpus, hlo, roofline, topology, walk
from pretrainx.plan.jaxpr import count_flops
from pretrainx.train import build
from pretrainx.train.describe import memory_bytes
from pretrainx.train.experiment import Experiment

OUT_OF_MEMORY = ("CompileTimeHbmOom", "exceeds available HBM")  # the compiler has two ways to say it
CAUSAL_SHARE = 0.55  # of the scores that a causal kernel computes: half, and the rest of the blocks on the diagonal
KERNEL_CALLS = re.compile(r'custom_call_target="(?:tpu_custom_call|__cudnn\$fmha)')
REMATERIALISED = re.compile(r"%([\w.\-]+\.remat[\w.]*) = ")
GPU_SHARE = 0.75  # of a GPU's memory that JAX takes by itself (docs.jax.dev, "GPU memory allocation")
NUM_BUFFERS = 8
UNITS = {"B": 1.0, "K": 2.0**10, "M": 2.0**20, "G": 2.0**30, "T": 2.0**40}


def plan(experiment: Experiment, name: str, tokens: float | None = None, price: float | None = None) -> dict[str, Any]:
    """Numbers of one device, as `plan --json` prints them; `fits` is False where the compiler refuses for memory."""
    place = topology.parse(name)
    program = build.without_data(experiment, topology.devices(name))
    per_step = experiment.train.batch_size * experiment.data.sequence_length
    sizes = dict(program.partitioner.mesh.shape)
    result: dict[str, Any] = {
        "topology": name,
        "source": "compiled",
        "devices": program.partitioner.mesh.size,
        "chips": place.chips,
        "mesh": {a: s for a, s in sizes.items() if s > 1},
        "parameters": program.skeleton.num_params,
        "tokens_per_step": per_step,
        "model_flops_per_step": program.flops_per_step,
        "hbm_limit_bytes": place.chip.hbm_bytes / place.chip.devices,
        "uncut_weights": program.partitioner.uncut(program.skeleton.table()),
    }
    if program.partitioner.schedule is not None:
        result["pipeline"] = program.partitioner.schedule.facts
    start, cpu = time.perf_counter(), time.process_time()
    try:
        compiled = program.compile_train()
    except Exception as error:  # the compiler's own error types are private
        if not any(words in str(error) for words in OUT_OF_MEMORY):
            raise
        refused = {"fits": False, "compile_seconds": time.perf_counter() - start, "refusal": str(error).splitlines()[0]}
        named = {"largest_buffers": refused_buffers(str(error)), "required_bytes": required_bytes(str(error))}
        return result | refused | named | first_change(experiment, place)
    text = compiled.as_text()
    module = hlo.parse(text)
    result |= memory_of(compiled, module, place.chip) | {
        "kernel_calls": kernel_calls(text),
        "compile_seconds": time.perf_counter() - start,
        "compile_cpu_seconds": time.process_time() - cpu,
    }  # fmt: skip
    result |= fit(result, experiment, place)
    result["notes"] = [*notes(result, text, place), *sums_in_parts(program)]
    loop = walk.walk(module, CAUSAL_SHARE if experiment.model.causal else 1.0)
    result |= time_of(loop, place, program.flops_per_step) | {
        "flops_per_step": traced_flops(program),
        "collectives": collectives(loop, sizes),
        "largest_buffers": largest_arrays(module),
        "unknown_loops": walk.unknown_loops(loop),
    }
    return result | estimate.totals(experiment, place, result, tokens, price)


def kernel_calls(text: str) -> int:
    """Calls of hand-written kernels in compiled text: Pallas on TPU, cuDNN's attention on GPU. A loop's body counts once."""
    return len(KERNEL_CALLS.findall(text))


def memory_of(compiled: Any, module: hlo.Module, chip: Chip) -> dict[str, int]:
    """Bytes of one device: the compiler's, and with them what cuDNN asks for when it runs."""
    found = memory_bytes(compiled.memory_analysis())
    workspace = 0 if chip.is_tpu else cudnn.workspace_bytes(module, gpus.TARGETS[chip.name].capability[0])
    if workspace:
        found |= {kind: found[kind] + workspace for kind in ("temp_bytes", "peak_bytes")} | {"kernel_workspace_bytes": workspace}
    return found


def fit(result: dict[str, Any], experiment: Experiment, place: topology.Topology) -> dict[str, Any]:
    """Whether a compiled step fits. A TPU's compiler has refused what does not; a GPU's compiles it all the same."""
    peak, limit = result["peak_bytes"], result["hbm_limit_bytes"]
    if not place.chip.is_tpu and peak > limit:
        return {"fits": False, "refusal": f"its peak is {peak / 1e9:.1f} GB"} | first_change(experiment, place)
    return {"fits": True}


def notes(result: dict[str, Any], text: str, place: topology.Topology) -> list[str]:
    """What is worth knowing beside the numbers of a GPU's compiled step, in sentences."""
    if place.chip.is_tpu:
        return []
    found = []
    if again := len(set(REMATERIALISED.findall(text))):
        found.append(f"the compiler came near the memory's end and computes {again} ops again: fewer rows, or more remat, may be faster")
    if result["fits"] and result["peak_bytes"] > GPU_SHARE * result["hbm_limit_bytes"]:
        found.append(f"JAX takes {GPU_SHARE:.0%} of a GPU's memory; give it more: XLA_PYTHON_CLIENT_MEM_FRACTION=0.95")
    return found


def sums_in_parts(program: build.Program) -> list[str]:
    """A sentence where the head's gradient is summed over devices more than once a step."""
    parts, sizes = program.experiment.model.loss_chunks, program.partitioner.mesh.shape
    if program.experiment.layout != "fsdp" or parts == 1 or sizes["fsdp"] == 1 or program.partitioner.schedule is not None:
        return []
    return [
        f"by layout 'fsdp' each of the loss's {parts} parts sums the head's gradient over devices: --config.layout=fsdp_manual sums it once"
    ]


def time_of(loop: walk.Loop, place: topology.Topology, model_flops: float) -> dict[str, Any]:
    """Step time and where it goes, by the roofline of the walked program."""
    found = roofline.predict(loop, place.chip, place.joined_chips)
    peak = place.chips * place.chip.flops("bf16")
    return {
        "step_seconds": found.seconds,
        "step_seconds_low": found.low,
        "step_seconds_high": found.high,
        "mfu": model_flops / (peak * found.seconds) if found.seconds else None,
        "binds": found.binds,
        "busy_seconds": found.busy,
        "exposed_seconds": found.exposed,
        "time_by_kind": found.by_kind,
        "time_by_part": found.by_part,
        "compiler_seconds": found.compiler_seconds,
    }


def traced_flops(program: build.Program) -> float:
    """FLOPs of the step as traced: the model's, and what remat computes again; attention's masked half too."""
    import jax

    batch = {name: jax.ShapeDtypeStruct(shape, dtype) for name, (shape, dtype) in program.batch_spec.items()}
    return count_flops(jax.make_jaxpr(program.step)(program.abstract_state, batch))


def collectives(loop: walk.Loop, mesh: dict[str, int]) -> list[dict[str, Any]]:
    """By kind, mesh axes and element type: calls and bytes on the wire of one device and step, the most first."""
    found: dict[tuple[Any, ...], list[float]] = defaultdict(lambda: [0.0, 0.0])
    for step, times in walk.flat(loop):
        if step.collective:
            moved = step.collective
            entry = found[(moved.kind, moved.axes(mesh), moved.dtype, moved.asynchronous)]
            entry[0] += times
            entry[1] += times * moved.wire_bytes
    rows = [
        {"kind": kind, "axes": list(axes), "dtype": dtype, "asynchronous": beside, "calls": int(calls), "wire_bytes": wire}
        for (kind, axes, dtype, beside), (calls, wire) in found.items()
    ]
    return sorted(rows, key=lambda row: -row["wire_bytes"])


def largest_arrays(module: hlo.Module) -> list[dict[str, Any]]:
    """The largest arrays that the program makes in HBM, by where they are made; not all of them live at once."""
    found: dict[str, dict[str, Any]] = {}
    called = {name for c in module.computations.values() for op in c.ops if op.opcode == "fusion" for name in op.calls.get("calls", ())}
    for computation in module.computations.values():
        if computation.name in called:
            continue
        for op in computation.ops:
            if op.opcode in walk.FREE or op.opcode in ("while", "conditional") or op.opcode.endswith("-done"):
                continue
            for array in op.result:
                if array.hbm_bytes:
                    key = f"{array.dtype}{list(array.dims)}"
                    row = {"bytes": array.hbm_bytes, "array": key, "op": op.op_name or op.name, "part": roofline.part_of(op.op_name)}
                    if key not in found or (op.op_name and found[key]["op"].startswith(("copy", "custom-call"))):
                        found[key] = row
    return sorted(found.values(), key=lambda row: -row["bytes"])[:NUM_BUFFERS]


def required_bytes(message: str) -> float | None:
    """Bytes that the compiler's refusal says the program would need, in either of its two ways; None where it does not say."""
    found = re.search(r"Used ([\d.]+)([BKMGT]) of|temporaries \(([\d.]+)([BKMGT])\)", message)
    return float(found[1] or found[3]) * UNITS[found[2] or found[4]] if found else None


def refused_buffers(message: str) -> list[dict[str, Any]]:
    """The largest allocations that the compiler's refusal names (it does so only where it came as far as placing them)."""
    rows = []
    for block in re.split(r"\n\s*\d+\. Size: ", message)[1 : NUM_BUFFERS + 1]:
        size = re.match(r"([\d.]+)([BKMGT])", block)
        shape, name = re.search(r"Shape: ([^{\s]+)", block), re.search(r'op_name="([^"]*)"', block)
        if size:
            made = {"array": shape[1] if shape else "", "op": name[1] if name else ""}
            rows.append({"bytes": float(size[1]) * UNITS[size[2]]} | made)
    return rows


def first_change(experiment: Experiment, place: topology.Topology) -> dict[str, str]:
    """What to change first, by the analytic memory where it knows the model."""
    try:
        shape, run = estimate.run_of(experiment, place)
    except InputError:
        return {}
    return {"advice": estimate.advice(analytic.memory_bytes(shape, run), run)}
