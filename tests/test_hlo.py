"""Compiled text read back: loops, arithmetic, bytes and collectives against hand arithmetic and against the unrolled program."""

import gzip
from collections import Counter
from collections.abc import Callable
from functools import cache
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from jax.sharding import NamedSharding, PartitionSpec
from support import ROOT

from pretrainx.core.errors import InputError
from pretrainx.plan import hlo, walk
from pretrainx.plan.collectives import Collective, first_group
from pretrainx.plan.trips import trip_count

P = PartitionSpec
TPU_TEXT = ROOT / "tests" / "data" / "train_step_v5e_2x2.hlo.gz"


def mesh(**axes: int) -> jax.sharding.Mesh:
    return jax.make_mesh(tuple(axes.values()), tuple(axes), axis_types=(jax.sharding.AxisType.Auto,) * len(axes))


def walked(function: Callable[..., Any], *shapes: Any) -> walk.Loop:
    return walk.walk(hlo.parse(jax.jit(function).lower(*shapes).compile().as_text()))


def flops(loop: walk.Loop) -> float:
    return sum(times * sum(step.flops.values()) for step, times in walk.flat(loop))


def moved(loop: walk.Loop) -> list[tuple[Collective, int]]:
    return [(step.collective, times) for step, times in walk.flat(loop) if step.collective]


def wire(loop: walk.Loop) -> dict[str, float]:
    total: Counter[str] = Counter()
    for collective, times in moved(loop):
        total[collective.kind] += times * collective.wire_bytes
    return dict(total)


@cache
def tpu() -> hlo.Module:
    """A training step as compiled for v5e:2x2, fsdp over 4, full remat.

    3 layers, d_model 256, 2 heads of 128, SwiGLU 512, vocabulary 1024 untied; 2 rows of 256 tokens a device. The kernels' bodies
    and the compiler's settings are cut out of the text, except its estimates in cycles.
    """
    return hlo.parse(gzip.decompress(TPU_TEXT.read_bytes()).decode())


# --- the training step compiled for TPU, against arithmetic on its sizes

D, MLP, LAYERS, VOCAB, TOKENS = 256, 512, 3, 1024, 512
LAYER_WEIGHTS = 4 * D * D + 3 * D * MLP
HEAD_WEIGHTS = D * VOCAB


def test_products_of_a_tpu_step_are_those_of_the_model() -> None:
    """Two FLOPs a weight and token forward, four backward, two again for remat; the last product of a layer need not be redone."""
    found = Counter[str]()
    for step, times in walk.flat(walk.walk(tpu())):
        found[step.kind] += times * sum(step.flops.values())
    layers = TOKENS * LAYERS * (8 * LAYER_WEIGHTS - 2 * MLP * D)
    assert found["matmul"] == layers + TOKENS * 6 * HEAD_WEIGHTS
    # Attention: 2 products forward, twice; 3 and 4 backward; each 2 * rows * heads * queries * keys * head_dim.
    assert found["kernel"] == LAYERS * (2 + 2 + 3 + 4) * 2 * 2 * 2 * 256 * 256 * 128


def test_collectives_of_a_tpu_step_are_two_gathers_and_one_scatter() -> None:
    found = wire(walk.walk(tpu()))
    layers, table = LAYERS * LAYER_WEIGHTS * 2 * 3 / 4, HEAD_WEIGHTS * 2 * 3 / 4
    # Gradients in bfloat16; the embedding's in float32 (its rows are scattered into).
    assert found["reduce-scatter"] == pytest.approx(layers + 2 * table, rel=0.002)
    # Layers forward and again backward; the head so too, and the embedding once, in float32. Norms are the rest.
    assert found["all-gather"] == pytest.approx(2 * layers + 2 * table + 2 * table, rel=0.002)
    # Gradients of the norms, float32; loss, the global norm and flags are the rest.
    assert found["all-reduce"] == pytest.approx((2 * LAYERS + 1) * D * 4 * 2 * 3 / 4, abs=100)


def test_asynchronous_collectives_of_a_tpu_step_are_counted_once_and_end() -> None:
    loop = walk.walk(tpu())
    forward = next(step for step in loop.steps if isinstance(step, walk.Loop))
    begun = [s for s in forward.steps if isinstance(s, walk.Step) and s.begins.startswith("channel")]
    ended = [s.ends for s in forward.steps if isinstance(s, walk.Step) and s.ends.startswith("channel")]
    assert len(begun) >= 4 and sorted(s.begins for s in begun) == sorted(ended)
    order = [s.begins or s.ends for s in forward.steps if isinstance(s, walk.Step)]
    assert all(order.index(name) < len(order) - 1 - order[::-1].index(name) for name in ended)


def test_loops_and_kernels_of_a_tpu_step_are_found() -> None:
    loop = walk.walk(tpu())
    assert [inner.times for inner in loop.steps if isinstance(inner, walk.Loop)] == [LAYERS, LAYERS] and not walk.unknown_loops(loop)
    kernels: Counter[str] = Counter()
    for step, times in walk.flat(loop):
        kernels[step.kernel] += times
    del kernels[""]
    calls = {"splash_mha_fwd": 2 * LAYERS, "splash_mha_dq": LAYERS, "splash_mha_dkv": LAYERS}
    assert kernels == {f"tpu_custom_call:{name}": count for name, count in calls.items()}
    assert sum(step.cycles * times for step, times in walk.flat(loop)) > 0


def test_groups_of_a_tpu_step_run_over_the_meshs_axis() -> None:
    sizes = {"data": 1, "fsdp": 4, "tensor": 1}
    assert {c.axes(sizes) for c, _ in moved(walk.walk(tpu()))} == {("fsdp",)}


# --- programs compiled here for eight CPU devices


def stack(num_layers: int, scanned: bool) -> Callable[..., Any]:
    def run(x: jax.Array, weights: jax.Array) -> jax.Array:
        def layer(x: jax.Array, w: jax.Array) -> tuple[jax.Array, None]:
            x = jax.lax.with_sharding_constraint(jnp.tanh(x @ w), NamedSharding(mesh(fsdp=8), P("fsdp", None)))
            return x, None

        if scanned:
            return jax.lax.scan(layer, x, weights)[0].sum()
        for i in range(num_layers):
            x, _ = layer(x, weights[i])
        return x.sum()

    return jax.grad(run, argnums=1)


def test_a_scan_costs_what_its_unrolled_program_does() -> None:
    devices = mesh(fsdp=8)
    x = jax.ShapeDtypeStruct((64, 32), jnp.float32, sharding=NamedSharding(devices, P("fsdp", None)))
    w = jax.ShapeDtypeStruct((5, 32, 32), jnp.float32, sharding=NamedSharding(devices, P(None, "fsdp", None)))
    scanned, unrolled = (walked(stack(5, s), x, w) for s in (True, False))
    # Forward, and backward for weights in all layers, for inputs in all but the first (which a scan computes too).
    product = 2 * 8 * 32 * 32
    assert flops(unrolled) == product * (5 + 5 + 4) and flops(scanned) == product * 15
    gathers = 5 * 32 * 32 * 4 * 7 / 8
    assert wire(unrolled)["all-gather"] in (gathers, 2 * gathers) and wire(scanned)["all-gather"] in (gathers, 2 * gathers)
    reduced = [sum(v for k, v in wire(loop).items() if k.startswith(("all-reduce", "reduce-scatter"))) for loop in (scanned, unrolled)]
    assert reduced[0] == reduced[1] > 0


@pytest.mark.parametrize(
    ("kind", "function", "out", "sent"),
    [
        ("all-gather", lambda x: jax.lax.all_gather(x, "b", tiled=True), P("a"), 3 * 2 * 16 * 4),
        ("reduce-scatter", lambda x: jax.lax.psum_scatter(x, "b", tiled=True, scatter_dimension=1), P(("a", "b")), 2 * 16 * 4 * 3 / 4),
        ("all-reduce", lambda x: jax.lax.psum(x, "b"), P("a"), 2 * 2 * 16 * 4 * 3 / 4),
        ("all-to-all", lambda x: jax.lax.all_to_all(x, "b", 1, 0, tiled=True), P(("a", "b")), 2 * 16 * 4 * 3 / 4),
        ("collective-permute", lambda x: jax.lax.ppermute(x, "b", [(i, (i + 1) % 4) for i in range(4)]), P(("a", "b")), 2 * 16 * 4),
    ],
)
def test_bytes_on_the_wire_are_those_of_a_ring(kind: str, function: Callable[..., Any], out: P, sent: float) -> None:
    """Each device holds float32 [2, 16], and four of them talk."""
    devices = mesh(a=2, b=4)
    program = jax.shard_map(function, mesh=devices, in_specs=P(("a", "b")), out_specs=out, check_vma=False)
    loop = walked(program, jax.ShapeDtypeStruct((16, 16), jnp.float32, sharding=NamedSharding(devices, P(("a", "b")))))
    assert wire(loop) == {kind: sent}
    (found, _), *_ = moved(loop)
    assert found.axes({"a": 2, "b": 4}) == ("b",) and found.dtype == "f32"


def test_products_in_a_nested_loop_are_multiplied_through() -> None:
    def run(x: jax.Array) -> jax.Array:
        inner = lambda x, _: (x @ x, None)  # noqa: E731
        return jax.lax.scan(lambda x, _: (jax.lax.scan(inner, x, None, length=3)[0], None), x, None, length=4)[0]

    assert flops(walked(run, jax.ShapeDtypeStruct((16, 16), jnp.float32))) == 12 * 2 * 16**3


def test_slices_of_a_stack_are_read_and_not_the_stack() -> None:
    """A scan over [100, 256] float32 reads and writes it about once, not a hundred times."""
    run = lambda xs: jax.lax.scan(lambda c, x: (c, x * 2 + 1), 0, xs)[1]  # noqa: E731
    loop = walked(run, jax.ShapeDtypeStruct((100, 256), jnp.float32))
    traffic = sum(times * step.hbm_bytes for step, times in walk.flat(loop))
    assert 2 * 100 * 256 * 4 <= traffic < 8 * 100 * 256 * 4


# --- the parser and the counts of it alone

LOOP = """HloModule m
%body (c: (s32[], f32[2])) -> (s32[], f32[2]) {{
  %c = (s32[], f32[2]{{0}}) parameter(0)
  %i = s32[] get-tuple-element(%c), index=0
  %x = f32[2]{{0}} get-tuple-element(%c), index=1
  %step = s32[] constant({step})
  %next = s32[] {operation}(%i, %step)
  ROOT %t = (s32[], f32[2]{{0}}) tuple(%next, %x)
}}
%condition (c.1: (s32[], f32[2])) -> pred[] {{
  %c.1 = (s32[], f32[2]{{0}}) parameter(0)
  %j = s32[] get-tuple-element(%c.1), index=0
  %limit = s32[] constant({limit})
  ROOT %less = pred[] compare({sides}), direction={direction}
}}
ENTRY %main (x.1: f32[2]) -> f32[2] {{
  %x.1 = f32[2]{{0}} parameter(0)
  %start = s32[] constant({start})
  %begin = s32[] copy(%start)
  %t.1 = (s32[], f32[2]{{0}}) tuple(%begin, %x.1)
  %w = (s32[], f32[2]{{0}}) while(%t.1), condition=%condition, body=%body
  ROOT %out = f32[2]{{0}} get-tuple-element(%w), index=1
}}
"""


def count(**values: Any) -> int | None:
    module = hlo.parse(LOOP.format(**values))
    return trip_count(module, module.entry, module.entry.by_name["w"])


@given(start=st.integers(-50, 50), limit=st.integers(-50, 50), step=st.integers(1, 7), turned=st.booleans(), closed=st.booleans())
@settings(max_examples=100)
def test_trips_are_those_of_a_range(start: int, limit: int, step: int, turned: bool, closed: bool) -> None:
    sides = "%limit, %j" if turned else "%j, %limit"
    up = ("GE" if turned else "LE") if closed else ("GT" if turned else "LT")
    down = ("LE" if turned else "GE") if closed else ("LT" if turned else "GT")
    assert count(start=start, limit=limit, step=step, operation="add", sides=sides, direction=up) == len(range(start, limit + closed, step))
    found = count(start=start, limit=limit, step=step, operation="subtract", sides=sides, direction=down)
    assert found == len(range(start, limit - closed, -step))


def test_a_loop_whose_count_is_not_told_is_named() -> None:
    text = LOOP.format(start=0, limit=4, step=1, operation="multiply", sides="%j, %limit", direction="LT")
    assert walk.unknown_loops(walk.walk(hlo.parse(text))) == ["w"]
    endless = count(start=0, limit=4, step=0, operation="add", sides="%j, %limit", direction="LT")
    assert endless is None


@pytest.mark.parametrize(
    ("text", "devices", "group"),
    [
        ("replica_groups={{0,1,2,3}}, x", 4, (0, 1, 2, 3)),
        ("replica_groups=[4,2]<=[8]", 8, (0, 1)),
        ("replica_groups=[2,4]<=[4,2]T(1,0)", 8, (0, 2, 4, 6)),
        ("replica_groups=mesh['a'=2,'b'=4] {'a'}, x", 8, (0, 4)),
        ("replica_groups=mesh['a'=2,'b'=4] {'a','b'}, x", 8, tuple(range(8))),
        ("replica_groups=mesh['a'=8] {'a':(2)4}, x", 8, (0, 1, 2, 3)),
        ("replica_groups=mesh['a'=8] {'a':(1)2}, x", 8, (0, 4)),
        ("replica_groups={}", 4, (0, 1, 2, 3)),
    ],
)
def test_groups_are_read_however_written(text: str, devices: int, group: tuple[int, ...]) -> None:
    assert first_group(text, devices) == group


CONVOLUTION = """HloModule m
ENTRY %main (a: bf16[{left}], b: bf16[{right}]) -> bf16[{out}] {{
  %a = bf16[{left}] parameter(0)
  %b = bf16[{right}] parameter(1)
  ROOT %c = bf16[{out}] convolution(%a, %b), window={{{window}}}, dim_labels={labels}
}}
"""


@pytest.mark.parametrize(
    ("left", "right", "out", "window", "labels", "wanted"),
    [
        # A plain product, [6, 5] x [5, 7].
        ("6,5", "5,7", "6,7", "", "bf_io->bf", 2 * 6 * 5 * 7),
        # A batch of 3 products as TPU writes it: of the window of 3 only one position falls on data.
        ("3,6,5", "3,5,7", "3,6,7", "size=3 stride=2 pad=2_2 lhs_dilate=3", "0bf_0io->0bf", None),
        # One-dimensional, 8 places, window 3, same size out: 2 * (8 * 3 - 2) hits.
        ("1,8,4", "3,4,2", "1,8,2", "size=3 pad=1_1", "b0f_0io->b0f", 2 * 4 * 2 * (8 * 3 - 2)),
        # Stride 2, no padding: 3 places of 3.
        ("1,8,4", "3,4,2", "1,3,2", "size=3 stride=2", "b0f_0io->b0f", 2 * 4 * 2 * 9),
    ],
)
def test_convolutions_count_what_meets_data(left: str, right: str, out: str, window: str, labels: str, wanted: int | None) -> None:
    text = CONVOLUTION.format(left=left, right=right, out=out, window=window, labels=labels)
    if wanted is None:  # by brute force over positions
        at = [(o, k) for o in range(3) for k in range(3) if 0 <= o * 2 + k - 2 <= 6 and (o * 2 + k - 2) % 3 == 0]
        wanted = 2 * 6 * 5 * 7 * len(at)
    assert flops(walk.walk(hlo.parse(text))) == wanted


def test_arrays_know_their_bytes_and_their_memory() -> None:
    text = "(f32[2,3]{1,0}, bf16[8,128]{1,0:T(8,128)(2,1)S(1)}, pred[], f8e4m3fn[4], s4[6], bf16[<=16,2]{1,0})"
    found = hlo.arrays(text)
    assert [array.num_bytes for array in found] == [24, 2048, 1, 4, 3, 64]
    assert [array.hbm_bytes for array in found] == [24, 0, 1, 4, 3, 64]


SPARSECORE = """HloModule m, num_partitions=4
%gather (x.1: bf16[8,16]) -> bf16[32,16] {
  %x.1 = bf16[8,16] parameter(0)
  ROOT %g = bf16[32,16] all-gather(%x.1), channel_id=1, replica_groups=[1,4]<=[4], dimensions={0}
}
%called (x.2: bf16[8,16], t: token[]) -> bf16[32,16] {
  %x.2 = bf16[8,16] parameter(0)
  %t = token[] parameter(1)
  ROOT %f = bf16[32,16] fusion(%x.2), kind=kCustom, calls=%gather
}
ENTRY %main (x: bf16[8,16], q: bf16[2,128,64], k: bf16[2,256,64]) -> bf16[32,16] {
  %x = bf16[8,16] parameter(0)
  %q = bf16[2,128,64] parameter(1)
  %k = bf16[2,256,64] parameter(2)
  %p = token[] custom-call(%x), custom_call_target="PrepareAsyncCallStart"
  %s = ((bf16[8,16], token[]), bf16[32,16]) call-start(%x, %p), async_execution_thread="sparsecore", to_apply=%called
  %splash_mha_fwd.1 = bf16[2,128,64] custom-call(%q, %k), custom_call_target="tpu_custom_call"
  ROOT %d = bf16[32,16] call-done(%s)
}
"""


def test_what_is_handed_to_another_core_runs_beside_and_is_counted_once() -> None:
    """tpu7x's form: a call with a collective in a fusion; and a kernel of one row, whose arrays have no dim for it."""
    begun, kernel, ended = walk.walk(hlo.parse(SPARSECORE)).steps
    assert isinstance(begun, walk.Step) and isinstance(kernel, walk.Step) and isinstance(ended, walk.Step)
    assert begun.collective and begun.collective.asynchronous and begun.collective.wire_bytes == 3 * 8 * 16 * 2
    assert begun.begins == ended.ends == "s"
    assert kernel.flops == {"bf16": 2 * 2.0 * 2 * 128 * 256 * 64}


SLICES = """HloModule m, num_partitions=4
ENTRY %main (x: bf16[8,16]) -> bf16[8,16] {
  %x = bf16[8,16] parameter(0)
  %a = token[] after-all()
  %s = (bf16[8,16], u32[], token[]) send(%x, %a), channel_id=2, is_host_transfer=true
  %r = (bf16[8,16], u32[], token[]) recv(%a), channel_id=1, is_host_transfer=true
  %sd = token[] send-done(%s), channel_id=2, is_host_transfer=true
  %rd = (bf16[8,16], token[]) recv-done(%r), channel_id=1, is_host_transfer=true
  ROOT %out = bf16[8,16] get-tuple-element(%rd), index=0
}
"""


def test_what_slices_exchange_through_their_hosts_is_counted_as_sent() -> None:
    begun, *ended = walk.walk(hlo.parse(SLICES)).steps
    assert isinstance(begun, walk.Step) and begun.collective and begun.collective.wire_bytes == 8 * 16 * 2
    assert [step.ends for step in ended if isinstance(step, walk.Step)] == ["s", "r"] and begun.begins == "s"


@pytest.mark.parametrize("text", ["", "module @jit_f {", "HloModule m\n%f (x: f32[]) -> f32[] {\n  ROOT %x = f32[] parameter(0)\n}\n"])
def test_what_is_no_module_is_refused(text: str) -> None:
    with pytest.raises(InputError, match="HLO"):
        hlo.parse(text)


def test_precision_of_float32_products_shows() -> None:
    run = lambda x: jax.lax.dot(x, x, precision="highest")  # noqa: E731
    found = [step.flops for step, _ in walk.flat(walked(run, jax.ShapeDtypeStruct((8, 8), jnp.float32))) if step.flops]
    assert found in ([{"f32x6": 2.0 * 8**3}], [{"f32": 2.0 * 8**3}])  # a backend may drop what it does not need
    assert np.isfinite(sum(found[0].values()))
