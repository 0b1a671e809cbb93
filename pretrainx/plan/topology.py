"""Devices that are described, not present: TPU slices and nodes of GPUs, by name."""

import importlib.util
import math
import os
import re
from dataclasses import dataclass
from typing import Any

from pretrainx.core.chips import CHIPS, Chip, chip
from pretrainx.core.errors import InputError
from pretrainx.plan import gpus

TPUS = tuple(name for name, found in CHIPS.items() if found.is_tpu)
GPUS = tuple(name for name, found in CHIPS.items() if not found.is_tpu)
CORES_IN_NAMES = ("v4", "v5p", "tpu7x")  # whose names count TensorCores, two a chip: v5p-128 is 64 chips
ALL = ("v5e-16", "v5e-256", "v5e-256x4", "v6e-256", "v5p-128", "v5p-1024", "tpu7x-128", "h100x8", "h100x64", "a100x8", "b200x64")
_SHAPE = re.compile(r"(?P<family>[a-z0-9]+):(?P<shape>\d+x\d+(?:x\d+)?)(?:@(?P<slices>\d+))?$")
_COUNT = re.compile(r"(?P<family>[a-z0-9]+)-(?P<count>\d+)(?:x(?P<slices>\d+))?$")
_NODES = re.compile(r"(?P<family>[a-z0-9]+)x(?P<count>\d+)$")


@dataclass(frozen=True)
class Topology:
    """So many slices of so many chips; `shape` is a slice's torus, of GPUs nodes x GPUs in each."""

    name: str
    chip: Chip
    slice_chips: int
    slices: int = 1
    shape: str = ""

    @property
    def chips(self) -> int:
        return self.slice_chips * self.slices

    @property
    def joined_chips(self) -> int:
        """Chips that fast links join: a slice, or a node of GPUs."""
        return min(self.slice_chips, self.chip.domain)

    @property
    def num_devices(self) -> int:
        """JAX devices: two a chip on v4 and tpu7x."""
        return self.chips * self.chip.devices

    @property
    def compiles(self) -> bool:
        """Whether the step can be compiled for it, as far as this machine's packages go; TPUs' are asked for by `check`."""
        return self.chip.is_tpu or not gpus.missing()


def parse(name: str) -> Topology:
    """The topology of a name: v5e:4x4 (a slice's torus, @4 for four slices), v5e-256, v5e-256x4, v5p-128, h100x64.

    Raises:
      InputError: another form, an unknown family, or a number of chips that no slice has.
    """
    for form in (_SHAPE, _COUNT, _NODES):
        match = form.match(name)
        if match and match["family"] in (GPUS if form is _NODES else TPUS):
            break
    else:
        raise InputError(
            f"--topology={name}: expected FAMILY:SHAPE such as v5e:4x4, FAMILY-N such as v5e-256, v5p-128 or v5e-256x4 (slices) "
            f"with a family of {', '.join(TPUS)}, or GPUs such as h100x64 of {', '.join(GPUS)}"
        )
    family = chip(match["family"])
    if form is _NODES:
        count = int(match["count"])
        if not count or (count > family.domain and count % family.domain):
            raise InputError(f"--topology={name}: GPUs come in nodes of {family.domain}, so expected less, or a multiple of it")
        node = min(count, family.domain)
        return Topology(name, family, count, shape=f"{count // node}x{node}")
    slices = int(match["slices"] or 1)
    if form is _SHAPE:
        sides = [int(side) for side in match["shape"].split("x")]
        if len(sides) != family.torus:
            raise InputError(f"--topology={name}: a slice of {family.name} has {family.torus} dimensions, found {match['shape']}")
        return Topology(name, family, math.prod(sides), slices, match["shape"])
    count = int(match["count"])
    chips = count // 2 if family.name in CORES_IN_NAMES else count
    shape = torus(chips, family.torus)
    if not shape or chips > family.domain or slices < 1 or (family.name in CORES_IN_NAMES and count % 2):
        counted = " (the number counts TensorCores, two a chip)" if family.name in CORES_IN_NAMES else ""
        raise InputError(f"--topology={name}: a slice has a power of two of chips, from 4 to {family.domain}{counted}; found {count}")
    return Topology(name, family, chips, slices, shape)


def torus(chips: int, dimensions: int) -> str:
    """The usual shape of a slice: sides as equal as powers of two allow, the shortest first; "" where there is none.

    >>> torus(256, 2), torus(8, 2), torus(64, 3), torus(8, 3), torus(4, 3), torus(12, 2)
    ('16x16', '2x4', '4x4x4', '2x2x2', '2x2x1', '')
    """
    if chips < 4 or chips & (chips - 1):
        return ""
    power = chips.bit_length() - 1
    if dimensions == 3 and chips == 4:
        return "2x2x1"
    least, more = divmod(power, dimensions)
    return "x".join(str(2 ** (least + (i >= dimensions - more))) for i in range(dimensions))


def check(name: str) -> Topology:
    """As `parse`, and refuses TPUs where their compiler is not installed, before anything heavy is loaded. GPUs are then estimated."""
    found = parse(name)
    if found.chip.is_tpu:
        require_compiler(found)
    return found


def require_compiler(topology: Topology) -> None:
    """Raises InputError where the compiler for these chips is not installed; says how to install it."""
    if not topology.chip.is_tpu:
        gpus.require()
    elif importlib.util.find_spec("libtpu") is None:
        raise InputError(
            "planning for TPUs needs the TPU compiler; install it with: pip install 'pretrainx[plan]' -c constraints.txt, "
            "or estimate without it: --analytic"
        )


def devices(name: str) -> list[Any]:
    """The devices of a topology such as "v5e:4x4" or "h100x8".

    The TPU compiler aborts the whole process on a shape that no slice has: call this in a process of its own.
    """
    found = parse(name)
    if not found.chip.is_tpu:
        nodes, each = map(int, found.shape.split("x"))
        return gpus.devices(found.chip.name, nodes, each)
    # Set before libtpu is loaded: ask no metadata server, and let several compiles run side by side, since none of
    # them holds a device.
    os.environ.setdefault("TPU_SKIP_MDS_QUERY", "1")
    os.environ.setdefault("ALLOW_MULTIPLE_LIBTPU_LOAD", "1")
    from jax.experimental import topologies

    more = {"num_slices": found.slices} if found.slices > 1 else {}
    described = topologies.get_topology_desc(topology_name=f"{found.chip.family}:{found.shape}", platform="tpu", **more)
    return list(described.devices)
