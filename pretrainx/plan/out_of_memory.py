"""What to lower when a run's devices are out of memory: the analytic plan's answer, for the devices that are there."""

import re
from typing import Any

from pretrainx.core.chips import Chip, of_kind
from pretrainx.core.errors import InputError
from pretrainx.plan import analytic, estimate
from pretrainx.plan.topology import Topology
from pretrainx.train.build import Program

MARKS = ("RESOURCE_EXHAUSTED", "Out of memory")  # of accelerators and compilers; of CPUs


def happened(error: BaseException) -> bool:
    """Whether an error of JAX says that memory did not suffice, at the compile or at a step."""
    return any(mark in str(error) for mark in MARKS)


def sentence(program: Program, error: BaseException) -> str:
    """One sentence: what did not fit, what fills most by the analytic plan, and the config value that lessens it."""
    devices = program.partitioner.mesh.devices.flatten()
    kind = devices[0].device_kind
    wanted = re.search(r"([\d.]+\s?[KMGT]i?B?|\d+ bytes)", str(error))
    what = f"out of memory on {len(devices)} x {kind}" + (f" ({wanted[1]} wanted)" if wanted else "")
    try:
        memory, advice = parts(program, kind, len(devices))
    except InputError:  # a model of two stacks: the analytic plan knows none
        return f"{what}: lower train.batch_size, or raise train.grad_accum, or set --config.train.remat=full"
    largest = ", ".join(f"{name} {size / 1e9:.3g} GB" for name, size in sorted(memory.items(), key=lambda item: -item[1])[:3])
    return f"{what}: by the plan a device holds {sum(memory.values()) / 1e9:.3g} GB ({largest}); {advice}"


def parts(program: Program, kind: str, count: int) -> tuple[dict[str, float], str]:
    """(bytes of a device by what they are for, what to change)."""
    chip = of_kind(kind) or nameless(kind)
    topology: Any = Topology(kind, chip, max(1, count // chip.devices))
    shape, run = estimate.run_of(program.experiment, topology)
    memory = analytic.memory_bytes(shape, run)
    return memory, estimate.advice(memory, run)


def nameless(kind: str) -> Chip:
    """A chip that no table has, such as a CPU: for sizes alone, nothing of its speed is used."""
    return Chip(kind, kind, {"bf16": 1.0, "f32": 1.0}, 0.0, 1.0, 1.0, 1.0, 1 << 20)
