"""Compiled HLO text read into computations and ops: what the compiler will run, in its order, for TPU, GPU and CPU.

Only the text is read, so that a saved compile can be studied anywhere. What an op costs is in plan/walk.py.
"""

import re
from collections.abc import Mapping
from dataclasses import dataclass
from functools import cached_property

from pretrainx.core.errors import InputError

BITS = {
    "pred": 8, "s4": 4, "u4": 4, "s8": 8, "u8": 8, "s16": 16, "u16": 16, "s32": 32, "u32": 32, "s64": 64, "u64": 64,
    "f16": 16, "bf16": 16, "f32": 32, "f64": 64, "c64": 64, "c128": 128, "f4e2m1fn": 4, "f8e8m0fnu": 8,
}  # fmt: skip
MAIN_MEMORY = 0  # memory spaces of TPU layouts: 1 is on-chip vector memory, 5 the host's; without a mark it is HBM

_ARRAY = re.compile(r"(?P<dtype>[a-z]+\d*[a-z0-9]*)\[(?P<dims>[\d,<=]*)\](?:\{(?P<layout>[^{}]*)\})?")
_SPACE = re.compile(r"S\((\d+)\)")
_COMPUTATION = re.compile(r"^(?P<entry>ENTRY )?%?(?P<name>[\w.\-]+) .*\{$")
_OP = re.compile(r"^\s+(?P<root>ROOT )?%?(?P<name>[\w.\-]+) = ")
_OPCODE = re.compile(r"\s*([a-z][a-z0-9\-]*)\(")
_NAME = re.compile(r"%([\w.\-]+)")
_CALLS = re.compile(r"(calls|to_apply|body|condition|true_computation|false_computation)=%?([\w.\-]+)")
_BRANCHES = re.compile(r"(?:branch_computations|called_computations)=\{([^}]*)\}")


@dataclass(frozen=True)
class Array:
    """One array of a result: its type, its sizes, and the memory space it lies in."""

    dtype: str
    dims: tuple[int, ...]
    space: int = MAIN_MEMORY

    @cached_property
    def size(self) -> int:
        count = 1
        for dim in self.dims:
            count *= dim
        return count

    @cached_property
    def num_bytes(self) -> float:
        return self.size * (BITS.get(self.dtype) or (8 if self.dtype.startswith("f8") else 0)) / 8

    @property
    def hbm_bytes(self) -> float:
        return self.num_bytes if self.space == MAIN_MEMORY else 0.0


@dataclass(frozen=True)
class Op:
    """One line: `name = result opcode(operands), attributes`. The arrays of a tuple lie flat in `result`."""

    name: str
    opcode: str
    result: tuple[Array, ...]
    operands: tuple[str, ...]
    literal: str  # what stands between the parentheses: a constant's value, a parameter's number
    attributes: str
    is_root: bool = False

    @cached_property
    def calls(self) -> Mapping[str, tuple[str, ...]]:
        """Computations by role: calls, to_apply, body, condition, branches."""
        found: dict[str, tuple[str, ...]] = {}
        for role, name in _CALLS.findall(self.attributes):
            key = "branches" if role.endswith("_computation") else role
            found[key] = (*found.get(key, ()), name)
        for names in _BRANCHES.findall(self.attributes):
            found["branches"] = tuple(name.strip().lstrip("%") for name in names.split(","))
        return found

    @cached_property
    def op_name(self) -> str:
        """The path of the traced operation, such as "jit(step)/transpose(jvp())/while/body/dot_general"; "" without metadata."""
        match = re.search(r'op_name="([^"]*)"', self.attributes)
        return match[1] if match else ""

    @cached_property
    def target(self) -> str:
        """Of a custom call, whom it calls."""
        match = re.search(r'custom_call_target="([^"]*)"', self.attributes)
        return match[1] if match else ""

    @cached_property
    def channel(self) -> int | None:
        match = re.search(r"channel_id=(\d+)", self.attributes)
        return int(match[1]) if match else None

    def number(self, name: str) -> int | None:
        """An attribute `name=5`, such as index of get-tuple-element."""
        match = re.search(rf"\b{name}=(\d+)", self.attributes)
        return int(match[1]) if match else None

    def numbers(self, name: str) -> tuple[int, ...]:
        """An attribute `name={1,2}`; () where it is absent."""
        match = re.search(rf"\b{name}=\{{([\d,]*)\}}", self.attributes)
        return tuple(int(n) for n in match[1].split(",") if n) if match else ()


@dataclass(frozen=True)
class Computation:
    """Ops in the order they run (a compiled module is scheduled)."""

    name: str
    ops: tuple[Op, ...]

    @cached_property
    def by_name(self) -> Mapping[str, Op]:
        return {op.name: op for op in self.ops}

    @cached_property
    def root(self) -> Op:
        return next((op for op in self.ops if op.is_root), self.ops[-1])

    @cached_property
    def parameters(self) -> tuple[Op, ...]:
        found = [op for op in self.ops if op.opcode == "parameter"]
        return tuple(sorted(found, key=lambda op: int(op.literal)))

    @cached_property
    def users(self) -> Mapping[str, tuple[Op, ...]]:
        found: dict[str, list[Op]] = {}
        for op in self.ops:
            for name in dict.fromkeys(op.operands):
                found.setdefault(name, []).append(op)
        return {name: tuple(ops) for name, ops in found.items()}

    def operand(self, op: Op, i: int) -> Op:
        return self.by_name[op.operands[i]]


@dataclass(frozen=True)
class Module:
    computations: Mapping[str, Computation]
    entry: Computation
    num_devices: int

    def called(self, op: Op, role: str = "calls") -> Computation | None:
        """The computation that an op calls in this role, if it does."""
        names = op.calls.get(role, ())
        return self.computations[names[0]] if names else None


def arrays(text: str) -> tuple[Array, ...]:
    """All arrays of a type's text: one, or those of a tuple, however deep.

    >>> arrays("(s32[], bf16[8,128]{1,0:T(8,128)(2,1)S(1)})")
    (Array(dtype='s32', dims=(), space=0), Array(dtype='bf16', dims=(8, 128), space=1))
    """
    found = []
    for match in _ARRAY.finditer(text):
        space = _SPACE.search(match["layout"] or "")
        dims = tuple(int(d.lstrip("<=")) for d in match["dims"].split(",") if d)
        found.append(Array(match["dtype"], dims, int(space[1]) if space else MAIN_MEMORY))
    return tuple(found)


def parse(text: str) -> Module:
    """The module of `compiled.as_text()`.

    Raises:
      InputError: the text is no HLO module.
    """
    if not text.startswith("HloModule"):
        raise InputError(f"expected compiled HLO text that begins with 'HloModule', found {text[:40]!r}")
    header = text.partition("\n")[0]
    computations: dict[str, Computation] = {}
    entry, name, lines = "", "", list[str]()
    for line in text.splitlines()[1:]:
        if not name:
            begun = _COMPUTATION.match(line)
            if begun:
                name, lines = begun["name"], []
                entry = name if begun["entry"] else entry
        elif line.rstrip() == "}" or line.startswith("}, execution_thread"):
            computations[name] = Computation(name, tuple(map(_op, lines)))
            name = ""
        elif _OP.match(line):
            lines.append(line)
        elif lines:
            lines[-1] += line  # an attribute of a kernel may hold line ends
    if not entry or entry not in computations:
        raise InputError("the HLO text has no ENTRY computation, or is cut short")
    counts = [re.search(rf"{key}=(\d+)", header) for key in ("num_partitions", "replica_count")]
    num_devices = 1
    for count in counts:
        num_devices *= int(count[1]) if count else 1
    return Module(computations, computations[entry], num_devices)


def _op(line: str) -> Op:
    begun = _OP.match(line)
    assert begun
    rest = line[begun.end() :]
    cut = _closing(rest, 0) + 1 if rest.startswith("(") else rest.index(" ")
    opcode = _OPCODE.match(rest, cut)
    if not opcode:
        raise InputError(f"cannot read the HLO line {line.strip()[:120]!r}")
    end = _closing(rest, opcode.end() - 1)
    inside = rest[opcode.end() : end]
    operands = () if opcode[1] in ("constant", "parameter") else tuple(_NAME.findall(inside))
    if not operands and opcode[1] not in ("constant", "parameter") and inside.strip():
        operands = tuple(word.split()[-1] for word in inside.split(","))  # names without a percent sign
    return Op(begun["name"], opcode[1], arrays(rest[:cut]), operands, inside, rest[end + 1 :], bool(begun["root"]))


def _closing(text: str, start: int) -> int:
    """Where the parenthesis that opens at `start` closes."""
    depth = 0
    for match in re.compile(r"[()]").finditer(text, start):
        depth += 1 if match[0] == "(" else -1
        if not depth:
            return match.start()
    raise InputError(f"cannot read the HLO line {text[:120]!r}: a parenthesis does not close")
