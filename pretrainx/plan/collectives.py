"""Collectives of compiled HLO: which devices talk, and how many bytes each of them sends."""

import math
import re
from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np

from pretrainx.plan.hlo import Array, Computation, Op

KINDS = ("all-gather", "all-reduce", "reduce-scatter", "all-to-all", "collective-permute", "collective-broadcast", "ragged-all-to-all")
BETWEEN_SLICES = "slice-exchange"


@dataclass(frozen=True)
class Collective:
    """One collective operation of one device.

    payload_bytes  of the whole array: gathered, reduced, exchanged or passed on
    wire_bytes     that a device sends in a ring (an all-reduce twice what a reduce-scatter does); what it receives is as much
    group_size     devices that take part together; `members` are those of device 0 (or of the first group)
    """

    kind: str
    dtype: str
    payload_bytes: float
    wire_bytes: float
    group_size: int
    members: tuple[int, ...]
    asynchronous: bool = False

    def axes(self, mesh: Mapping[str, int]) -> tuple[str, ...]:
        """Axes of the mesh that the group runs over; the devices of a mesh are numbered row by row."""
        sizes = tuple(mesh.values())
        if not self.members or max(self.members) >= math.prod(sizes):
            return ()
        places = np.array(np.unravel_index(np.array(self.members), sizes))
        return tuple(axis for axis, along in zip(mesh, places, strict=True) if len(set(along.tolist())) > 1)


def kind_of(op: Op) -> str | None:
    """The collective that an op is or starts; None for a -done, and for what is none."""
    name = op.opcode.removesuffix("-start")
    return name if name in KINDS else None


def collective(op: Op, computation: Computation, num_devices: int, *, asynchronous: bool = False, scattered: bool = False) -> Collective:
    """What an op moves, by ring arithmetic from its operands. `scattered`: an all-reduce of which each device keeps its part."""
    kind = kind_of(op)
    assert kind
    sent = [array for name in op.operands if name in computation.by_name for array in computation.by_name[name].result]
    operand_bytes = sum(array.num_bytes for array in sent)
    if kind == "collective-permute":
        pairs = re.search(r"source_target_pairs=\{(\{[\d,{}]*\})\}", op.attributes)
        ends = [(int(a), int(b)) for a, b in re.findall(r"\{(\d+),(\d+)\}", pairs[1])] if pairs else []
        pair = next((pair for pair in ends if pair[0] != pair[1]), ())  # what stays where it is tells no axis
        return Collective(kind, _dtype(sent), operand_bytes, operand_bytes, 2, pair, asynchronous)
    members = first_group(op.attributes, num_devices)
    n = len(members)
    if scattered and kind == "all-reduce":
        kind = "reduce-scatter"
    payload = operand_bytes * n if kind == "all-gather" else operand_bytes
    turns = {"all-reduce": 2.0, "collective-broadcast": 1.0}.get(kind, 1.0)
    wire = payload * turns * (n - 1) / n
    return Collective(kind, _dtype(sent), payload, wire, n, members, asynchronous)


def _dtype(sent: list[Array]) -> str:
    return max(sent, key=lambda array: array.num_bytes).dtype if sent else ""


def first_group(attributes: str, num_devices: int) -> tuple[int, ...]:
    """Device numbers of the first replica group, in any of the three ways they are written; all devices where none is.

    >>> first_group("replica_groups={{0,2},{1,3}}", 4), first_group("replica_groups=[2,2]<=[2,2]T(1,0)", 4)
    ((0, 2), (0, 2))
    >>> first_group("replica_groups=mesh['a'=2,'b'=2] {'b'}, x=1", 4)
    (0, 1)
    """
    listed = re.search(r"replica_groups=\{\{([\d,]*)\}", attributes)
    if listed:
        return tuple(int(n) for n in listed[1].split(",") if n)
    iota = re.search(r"replica_groups=\[([\d,]+)\]<=\[([\d,]+)\](?:T\(([\d,]+)\))?", attributes)
    if iota:
        shape, dims = (tuple(int(n) for n in iota[i].split(",")) for i in (1, 2))
        order = np.arange(math.prod(dims)).reshape(dims)
        if iota[3]:
            order = order.transpose([int(n) for n in iota[3].split(",")])
        return tuple(order.reshape(shape[0], -1)[0].tolist())
    mesh = re.search(r"replica_groups=mesh\[([^\]]*)\]\s*\{([^}]*)\}", attributes)
    if mesh:
        sizes = {name: int(size) for name, size in re.findall(r"'([^']+)'=(\d+)", mesh[1])}
        grid = np.arange(math.prod(sizes.values())).reshape(tuple(sizes.values()))
        taken: list[np.ndarray] = [np.zeros(1, np.int64)]
        names = list(sizes)
        # An axis may be cut: 'a':(2)4 is the middle 4 of an axis of 2 x 4 x rest.
        for name, before, part in re.findall(r"'([^']+)'(?::\((\d+)\)(\d+))?", mesh[2]):
            stride = grid.strides[names.index(name)] // grid.itemsize
            size = int(part) if part else sizes[name]
            inner = sizes[name] // (int(before) * size) if part else 1
            taken.append(np.arange(size) * stride * inner)
        members = taken[0]
        for along in taken[1:]:
            members = (members[:, None] + along[None, :]).reshape(-1)
        return tuple(members.tolist())
    return tuple(range(num_devices))
