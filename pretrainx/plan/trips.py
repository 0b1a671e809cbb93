"""How often a compiled while loop runs, from its text: no count is written there on TPU."""

import math
import re
from dataclasses import dataclass

from pretrainx.plan.hlo import Computation, Module, Op

_KNOWN = re.compile(r'"known_trip_count":\{"n":"(\d+)"\}')
SMALL = 64  # ops of a fused computation that may still be a counter's arithmetic
_TRANSPARENT = {"copy", "bitcast", "convert", "reshape", "copy-done", "opt-barrier", "optimization-barrier"}


@dataclass(frozen=True)
class Value:
    """A number that is known before the loop runs: `offset`, plus the loop's carry at place `carry` where there is one."""

    offset: int
    carry: int | None = None


@dataclass(frozen=True)
class Compare:
    direction: str
    left: Value
    right: Value


Known = Value | Compare | tuple["Known | None", ...] | None


def trip_count(module: Module, computation: Computation, loop: Op) -> int | None:
    """Runs of the loop's body; None where the text does not tell.

    The compiler's own count where it is given (GPU, CPU). Else the condition compares a carried counter with a constant (or with a
    carried value that starts as one), the body adds a constant to it, and it starts from one.
    """
    known = _KNOWN.search(loop.attributes)
    if known:
        return int(known[1])
    condition, body = module.called(loop, "condition"), module.called(loop, "body")
    if condition is None or body is None:
        return None
    test = _Reader(module, condition, carried=True).value(condition.root)
    if not isinstance(test, Compare):
        return None
    counter, limit, direction = test.left, test.right, test.direction
    if counter.carry is None:
        counter, limit = limit, counter
        direction = {"LT": "GT", "GT": "LT", "LE": "GE", "GE": "LE"}.get(direction, direction)
    if counter.carry is None:
        return None
    outside = _Reader(module, computation)
    begun = computation.by_name[loop.operands[0]]
    start = outside.element(begun, counter.carry)
    after = _Reader(module, body, carried=True).element(body.root, counter.carry)
    if limit.carry is not None:
        carried = outside.element(begun, limit.carry)
        limit = Value(carried.offset + limit.offset, carried.carry) if isinstance(carried, Value) else limit
    if not isinstance(start, Value) or not isinstance(after, Value) or after.carry != counter.carry or limit.carry is not None:
        return None
    stride, distance = after.offset, limit.offset - start.offset - counter.offset
    if direction == "NE":
        return distance // stride if stride and distance % stride == 0 and distance // stride >= 0 else None
    if direction in ("LE", "GE"):
        distance += 1 if direction == "LE" else -1
    if not stride or (stride > 0) != (direction in ("LT", "LE")):
        return None
    return max(0, math.ceil(distance / stride))


class _Reader:
    """What results of one computation are, as far as constants and a loop's carry tell; each op is looked at once.

    `carried`: the one parameter is the loop's carry. `arguments`: what is known of a fused computation's parameters.
    """

    def __init__(self, module: Module, computation: Computation, carried: bool = False, arguments: tuple[Known, ...] = ()):
        self.module, self.computation, self.carried, self.arguments = module, computation, carried, arguments
        self.seen: dict[str, Known] = {}

    def element(self, op: Op, index: int) -> Known:
        """One element of a tuple, and of nothing beside it."""
        if op.opcode == "tuple":
            return self.value(self.computation.operand(op, index))
        whole = self.value(op)
        return whole[index] if isinstance(whole, tuple) and index < len(whole) else None

    def value(self, op: Op) -> Known:
        if op.name not in self.seen:
            self.seen[op.name] = self._value(op)
        return self.seen[op.name]

    def _of(self, op: Op, i: int) -> Known:
        return self.value(self.computation.operand(op, i))

    def _value(self, op: Op) -> Known:
        match op.opcode:
            case "constant":
                return Value(int(op.literal)) if re.fullmatch(r"-?\d+", op.literal) else None
            case "parameter":
                return self.arguments[int(op.literal)] if self.arguments else None
            case "get-tuple-element":
                index = op.number("index") or 0
                source = self.computation.operand(op, 0)
                if self.carried and source.opcode == "parameter":
                    return Value(0, carry=index)
                return self.element(source, index)
            case "tuple":
                return tuple(self._of(op, i) for i in range(len(op.operands)))
            case "add" | "subtract":
                return _sum(self._of(op, 0), self._of(op, 1), -1 if op.opcode == "subtract" else 1)
            case "compare":
                left, right = self._of(op, 0), self._of(op, 1)
                direction = re.search(r"direction=([A-Z]+)", op.attributes)
                return Compare(direction[1], left, right) if isinstance(left, Value) and isinstance(right, Value) and direction else None
            case "fusion" | "call":
                inner = self.module.called(op, "calls" if op.opcode == "fusion" else "to_apply")
                if inner is None or len(inner.ops) > SMALL:
                    return None
                given = tuple(self._of(op, i) for i in range(len(op.operands)))
                return _Reader(self.module, inner, arguments=given).value(inner.root)
            case code if code in _TRANSPARENT and op.operands:
                return self._of(op, 0)
        return None


def _sum(left: Known, right: Known, sign: int) -> Value | None:
    if not isinstance(left, Value) or not isinstance(right, Value):
        return None
    if right.carry is not None and (left.carry is not None or sign < 0):
        return None
    return Value(left.offset + sign * right.offset, right.carry if left.carry is None else left.carry)
