"""A compiled step as what it costs, op by op: arithmetic by type, HBM bytes, bytes on wires, loops with their trip counts.

XLA's own `cost_analysis` counts a loop's body once and kernels not at all, hence this.
"""

import json
import re
from collections.abc import Iterator
from dataclasses import dataclass, field, replace

import numpy as np

from pretrainx.plan import cudnn
from pretrainx.plan.collectives import BETWEEN_SLICES, Collective, collective, kind_of
from pretrainx.plan.hlo import MAIN_MEMORY, Array, Computation, Module, Op
from pretrainx.plan.trips import trip_count

FREE = {
    "parameter", "constant", "tuple", "get-tuple-element", "bitcast", "after-all", "partition-id", "replica-id", "opt-barrier",
    "optimization-barrier", "add-dependency", "iota", "domain",
}  # fmt: skip
NO_TRAFFIC = {"AllocateBuffer", "AssumeGatherIndicesInBound", "ConcatBitcast", "Sharding", "AsyncCollectiveStart", "AsyncCollectiveDone",
              "PrepareAsyncCallStart", "PrepareAsyncCallDone"}  # fmt: skip
SLICES = {"dynamic-slice", "slice", "gather"}
# Products of the size [rows, heads, queries, keys, head_dim] in a call of an attention kernel (Dao 2022, algorithms 1 and 4): scores
# and mixing forward; for the gradient of queries scores, their gradient and its product; for that of keys and values one more.
KERNEL_PRODUCTS = {"splash_mha_fwd": 2, "splash_mha_dq": 3, "splash_mha_dkv": 4, "flash_attention_dkv": 4, "flash_attention_dq": 3,
                   "flash_attention": 2}  # fmt: skip


@dataclass(frozen=True)
class Step:
    """One op, or its start or end where it runs beside others.

    flops     by element type of the factors; a multiply-add is two
    begins    a name under which this runs on while the next steps do theirs; `ends` waits for it
    cycles    the TPU compiler's own estimate, where it wrote one
    """

    name: str
    kind: str  # matmul, kernel, elementwise, copy, collective, ends
    op_name: str = ""
    flops: dict[str, float] = field(default_factory=dict)
    hbm_bytes: float = 0.0
    collective: Collective | None = None
    begins: str = ""
    ends: str = ""
    kernel: str = ""
    cycles: int = 0


@dataclass(frozen=True)
class Loop:
    """Steps that run `times` over. `known` is False where the text does not tell how often (once is assumed)."""

    name: str
    times: int
    steps: tuple["Step | Loop", ...]
    known: bool = True


def walk(module: Module, visible: float = 1.0) -> Loop:
    """The whole module as a loop that runs once. `visible`: the share of the scores that attention kernels compute (causal: half)."""
    return Loop("step", 1, tuple(_Walker(module, visible).steps(module.entry)))


def flat(loop: Loop, times: int = 1) -> Iterator[tuple[Step, int]]:
    """Every step with how often it runs in all."""
    for step in loop.steps:
        if isinstance(step, Loop):
            yield from flat(step, times * loop.times)
        else:
            yield step, times * loop.times


def unknown_loops(loop: Loop) -> list[str]:
    """Names of loops whose trip count the text does not tell."""
    inner = [name for step in loop.steps if isinstance(step, Loop) for name in unknown_loops(step)]
    return inner if loop.known else [loop.name, *inner]


_CYCLES = re.compile(r'"estimated_cycles":"(\d+)"')


class _Walker:
    def __init__(self, module: Module, visible: float):
        self.module, self.visible = module, visible
        self.started = {c.channel for comp in module.computations.values() if _marked(comp, "AsyncCollectiveStart") for c in _inside(comp)}

    def steps(self, computation: Computation) -> Iterator[Step | Loop]:
        for op in computation.ops:
            cycles = _CYCLES.search(op.attributes)
            for step in self._of(computation, op):
                # Of an op that is several steps, the arithmetic has the estimate.
                yield replace(step, cycles=int(cycles[1])) if cycles and isinstance(step, Step) and step.kind != "collective" else step

    def _of(self, computation: Computation, op: Op) -> Iterator[Step | Loop]:
        code = op.opcode
        if code in FREE:
            return
        if code == "while":
            body = self.module.called(op, "body")
            times = trip_count(self.module, computation, op)
            assert body
            yield Loop(op.name, 1 if times is None else times, tuple(self.steps(body)), times is not None)
        elif code == "call":
            inner = self.module.called(op, "to_apply")
            assert inner
            yield from self.steps(inner)
        elif code == "conditional":
            # Which branch runs is not known; the dearest is counted.
            branches = [Loop(name, 1, tuple(self.steps(self.module.computations[name]))) for name in op.calls.get("branches", ())]
            if branches:
                yield max(branches, key=lambda b: sum(s.hbm_bytes + sum(s.flops.values()) for s, _ in flat(b)))
        elif kind_of(op):
            # GPUs' compiler writes every collective as a start and a done, and marks those that it let nothing run beside.
            asynchronous = code.endswith("-start") and '"is_sync":true' not in op.attributes
            moved = collective(op, computation, self.module.num_devices, asynchronous=asynchronous)
            yield Step(op.name, "collective", op.op_name, {}, _traffic(computation, op), moved, begins=op.name if asynchronous else "")
        elif code in ("async-start", "call-start"):  # the latter hands a collective to tpu7x's SparseCore
            yield from self._wrapped(op)
        elif code == "send":
            # Slices exchange through their hosts: each is a program of its own, and no collective names them together.
            sent = computation.operand(op, 0).result
            size = sum(array.num_bytes for array in sent)
            yield Step(
                op.name,
                "collective",
                op.op_name,
                {},
                0.0,
                Collective(BETWEEN_SLICES, sent[0].dtype, size, size, 2, (), True),
                begins=op.name,
            )
        elif code == "recv":
            return  # as long as what is sent
        elif code.endswith("-done"):
            yield Step(op.name, "ends", op.op_name, ends=_started_by(computation, op))
        elif code == "async-update":
            return
        elif code in ("copy-start", "slice-start", "dynamic-slice-start"):
            # The result holds the target first (of a copy) or second (of a slice), the source and a flag.
            source, target = computation.operand(op, 0).result[0], op.result[0 if code == "copy-start" else 1]
            yield Step(op.name, "copy", op.op_name, {}, _within(target, source) + target.hbm_bytes, begins=op.name)
        elif code == "fusion":
            yield from self._fusion(computation, op)
        elif code == "custom-call":
            yield from self._custom(computation, op)
        elif code in ("dot", "convolution"):
            yield Step(op.name, "matmul", op.op_name, product(computation, op), _traffic(computation, op))
        elif code == "dynamic-update-slice":
            update = computation.operand(op, 1).result[0]
            yield Step(op.name, "elementwise", op.op_name, {}, update.hbm_bytes + _within(update, op.result[0]))
        elif code in SLICES:
            whole, part = computation.operand(op, 0).result[0], op.result[0]
            yield Step(op.name, "elementwise", op.op_name, {}, _within(part, whole) + part.hbm_bytes)
        else:
            kind = "copy" if code in ("copy", "transpose", "reshape", "concatenate", "pad") else "elementwise"
            yield Step(op.name, kind, op.op_name, {}, _traffic(computation, op))

    def _wrapped(self, op: Op) -> Iterator[Step | Loop]:
        """async-start: the one collective (or copy, or computation) inside runs beside what follows."""
        inner = self.module.called(op, "to_apply" if op.opcode == "call-start" else "calls")
        if inner is None:
            return
        steps = list(self.steps(inner))
        moves = [step for step in steps if isinstance(step, Step) and step.collective]
        for step in moves or steps:  # what is fused around a collective is its own traffic
            if isinstance(step, Step):
                moved = replace(step.collective, asynchronous=True) if step.collective else None
                yield replace(step, begins=op.name, collective=moved)
            else:
                yield step

    def _fusion(self, computation: Computation, op: Op) -> Iterator[Step | Loop]:
        inner = self.module.called(op)
        assert inner
        work = self._arithmetic(inner)
        moves = _inside(inner)
        read = sum(_read(self.module, inner, i, computation.operand(op, i).result) for i in range(len(op.operands)))
        traffic = read + _written(self.module, inner, op.result)
        if not moves:
            yield Step(op.name, "matmul" if work else "elementwise", op.op_name, work, traffic)
            return
        # TPU runs a collective beside fusions as three or more of them: one that starts it, ones that take it further along with
        # arithmetic of their own, one that ends it. They name the same channel, and it is counted where it starts.
        starts, ends = _marked(inner, "AsyncCollectiveStart"), _marked(inner, "AsyncCollectiveDone")
        scattered = inner.name.startswith("all-reduce-scatter")
        if starts or (not ends and moves[0].channel not in self.started):
            for move in moves:
                moved = collective(move, inner, self.module.num_devices, asynchronous=starts, scattered=scattered)
                begins = f"channel {move.channel}" if starts else ""
                yield Step(op.name, "collective", move.op_name or op.op_name, {}, 0.0, moved, begins=begins)
        if ends:
            yield Step(op.name, "ends", op.op_name, ends=f"channel {moves[0].channel}")
        elif work:
            yield Step(op.name, "matmul", op.op_name, work, traffic)
        elif not starts:
            yield Step(op.name, "elementwise", op.op_name, {}, traffic)

    def _custom(self, computation: Computation, op: Op) -> Iterator[Step]:
        if op.target in NO_TRAFFIC:
            return
        traffic = _traffic(computation, op)
        if op.target.startswith("__cublas"):
            yield Step(op.name, "matmul", op.op_name, _gemm(computation, op), traffic)
            return
        if cudnn.is_attention(op):
            yield Step(op.name, "kernel", op.op_name, cudnn.flops(computation, op, self.visible), traffic, kernel=op.target)
            return
        name = re.sub(r"(_(no_)?residuals|_segmented|\.\d+|\.clone)+", "", op.name)
        yield Step(op.name, "kernel", op.op_name, self._kernel(computation, op), traffic, kernel=f"{op.target}:{name}")

    def _kernel(self, computation: Computation, op: Op) -> dict[str, float]:
        """FLOPs of an attention kernel by its name and the shapes of queries and keys; none for a kernel that is not known."""
        products = next((n for name, n in KERNEL_PRODUCTS.items() if op.name.startswith(name)), 0)
        given = [computation.operand(op, i).result[0] for i in range(len(op.operands)) if computation.operand(op, i).result]
        # Queries and keys are [rows, heads, length, head_dim], and without the rows where there is one.
        floats = [array for array in given if "f" in array.dtype and len(array.dims) >= 3]
        if not products or len(floats) < 2:
            return {}
        queries, S = floats[0], floats[1].dims[-2]
        return {queries.dtype: 2.0 * products * queries.size * S * self.visible}

    def _arithmetic(self, computation: Computation) -> dict[str, float]:
        """FLOPs of the products in a fused computation, however deep."""
        total: dict[str, float] = {}
        for op in computation.ops:
            inner = self.module.called(op) if op.opcode == "fusion" else None
            found = self._arithmetic(inner) if inner else product(computation, op) if op.opcode in ("dot", "convolution") else {}
            for dtype, flops in found.items():
                total[dtype] = total.get(dtype, 0.0) + flops
        return total


def product(computation: Computation, op: Op) -> dict[str, float]:
    """FLOPs of a dot or a convolution by the type of its factors. Positions of a window that fall on padding are not counted.

    float32 factors of precision "highest" or "high" are named f32x6 and f32x3: bfloat16 units pass over them so often.
    """
    left, right, out = computation.operand(op, 0).result[0], computation.operand(op, 1).result[0], op.result[0]
    dtype = max((left, right), key=lambda a: a.num_bytes / max(1, a.size)).dtype
    precision = re.search(r"operand_precision=\{(\w+)", op.attributes)
    if dtype == "f32" and precision and precision[1] in ("high", "highest"):
        dtype = {"high": "f32x3", "highest": "f32x6"}[precision[1]]
    if op.opcode == "dot":
        contracted = 1
        for dim in op.numbers("lhs_contracting_dims"):
            contracted *= left.dims[dim]
        return {dtype: 2.0 * out.size * contracted}
    labels = re.search(r"dim_labels=(\w+)_(\w+)->(\w+)", op.attributes)
    assert labels, op.attributes[:200]
    lhs, rhs, result = labels[1], labels[2], labels[3]
    window = {k: v.split("x") for k, v in re.findall(r"(size|stride|pad|lhs_dilate|rhs_dilate)=([\dx_\-]+)", _window(op))}
    count = float(out.dims[result.index("b")] * out.dims[result.index("f")] * right.dims[rhs.index("i")])
    for d in range(len(lhs) - 2):
        into, kernel, positions = left.dims[lhs.index(str(d))], right.dims[rhs.index(str(d))], out.dims[result.index(str(d))]
        stride, left_dilation, right_dilation = (int(window[k][d]) if k in window else 1 for k in ("stride", "lhs_dilate", "rhs_dilate"))
        before = int(window["pad"][d].split("_")[0]) if "pad" in window else 0
        at = np.arange(positions)[:, None] * stride + np.arange(kernel)[None, :] * right_dilation - before
        count *= int(np.count_nonzero((at >= 0) & (at <= (into - 1) * left_dilation) & (at % left_dilation == 0)))
    return {dtype: 2.0 * count}


def _window(op: Op) -> str:
    match = re.search(r"window=\{([^}]*)\}", op.attributes)
    return match[1] if match else ""


def _gemm(computation: Computation, op: Op) -> dict[str, float]:
    """FLOPs of cuBLAS's call: its contracted dims stand in the backend's config."""
    left, out = computation.operand(op, 0).result[0], op.result[0]
    config = re.search(r"backend_config=(\{.*\})", op.attributes)
    dims = json.loads(config[1]).get("gemm_backend_config", {}).get("dot_dimension_numbers", {}) if config else {}
    contracted = 1
    for dim in dims.get("lhs_contracting_dimensions", ()):
        contracted *= left.dims[int(dim)]
    return {left.dtype: 2.0 * out.size * contracted}


def _inside(computation: Computation) -> list[Op]:
    return [op for op in computation.ops if kind_of(op)]


def _marked(computation: Computation, target: str) -> bool:
    return any(op.opcode == "custom-call" and op.target == target for op in computation.ops)


def _started_by(computation: Computation, op: Op) -> str:
    """The start that a -done waits for, through updates and tuples between."""
    source = computation.operand(op, 0)
    while not source.opcode.endswith("-start") and source.opcode not in ("send", "recv") and source.operands:
        source = computation.operand(source, 0)
    return source.name


def _traffic(computation: Computation, op: Op) -> float:
    operands = (array for i in range(len(op.operands)) for array in computation.operand(op, i).result)
    return sum(array.hbm_bytes for array in (*operands, *op.result))


def _within(part: Array, whole: Array) -> float:
    """Bytes of a part that lies where the whole lies."""
    return part.num_bytes if whole.space == MAIN_MEMORY else 0.0


def _read(module: Module, computation: Computation, i: int, given: tuple[Array, ...]) -> float:
    """HBM bytes that a fused computation reads of its i-th operand: slices where it only slices, nothing where it writes in place."""
    whole = sum(array.hbm_bytes for array in given)
    if not whole or len(given) != 1 or i >= len(computation.parameters):
        return whole
    return min(whole, _part_read(module, computation, computation.parameters[i], whole))


def _part_read(module: Module, computation: Computation, op: Op, whole: float) -> float:
    total = 0.0
    for user in computation.users.get(op.name, ()):
        if user.opcode in SLICES and user.operands[0] == op.name and op.name not in user.operands[1:]:
            total += sum(array.num_bytes for array in user.result)
        elif user.opcode == "dynamic-update-slice" and user.operands[0] == op.name and op.name not in user.operands[1:]:
            continue
        elif user.opcode in ("bitcast", "reshape"):
            total += _part_read(module, computation, user, whole)
        elif user.opcode == "fusion":
            inner = module.called(user)
            assert inner
            total += sum(_part_read(module, inner, inner.parameters[j], whole) for j, name in enumerate(user.operands) if name == op.name)
        else:
            return whole
        if total >= whole:
            return whole
    return total


def _written(module: Module, computation: Computation, result: tuple[Array, ...]) -> float:
    """HBM bytes that a fused computation writes: of an update in place only what is new."""
    root = computation.root
    parts = [computation.operand(root, i) for i in range(len(root.operands))] if root.opcode == "tuple" else [root]
    if len(parts) != len(result):
        return sum(array.hbm_bytes for array in result)
    return sum(_update(module, computation, part, array) for part, array in zip(parts, result, strict=True))


def _update(module: Module, computation: Computation, op: Op, array: Array) -> float:
    if op.opcode in ("bitcast", "reshape") and op.operands:
        return _update(module, computation, computation.operand(op, 0), array)
    if op.opcode == "dynamic-update-slice":
        return _within(computation.operand(op, 1).result[0], array)
    if op.opcode == "fusion" and len(op.result) == 1:
        inner = module.called(op)
        assert inner
        return _update(module, inner, inner.root, array)
    return 0.0 if op.opcode == "parameter" else array.hbm_bytes
