"""Every kernel of attention against float64 NumPy and against the others: results and gradients, for every sight.

Splash is interpreted; cuDNN's call is run by XLA with the very arguments that cuDNN would get, since no GPU is asked for.
"""

import itertools
import re
from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from pretrainx.core.errors import InputError
from pretrainx.core.sections import Mesh
from pretrainx.models import decoder
from pretrainx.models.attention import KERNELS, Visibility, attender, cross_attender
from pretrainx.models.attention_kernels import balance, cudnn, splash, xla
from pretrainx.models.attention_kernels.case import Attend, Case
from pretrainx.parallel import layouts, mesh
from pretrainx.parallel.shard import Partitioner

ONE = Partitioner(mesh.make(Mesh(data=1), jax.devices()[:1]), layouts.resolve("dp"))
Arrays = tuple[np.ndarray, ...]


@dataclass(frozen=True)
class Shape:
    """What is asked of attention, in a few words."""

    causal: bool = True
    window: int = 0
    marked: bool = False
    packed: bool = True
    biased: bool = False
    softcap: float = 0.0
    kv_heads: int = 2
    length: int = 128
    key_length: int = 0  # of another sequence; 0: the queries' own
    heads: int = 4
    size: int = 8
    rows: int = 2


def drawn(shape: Shape, seed: int = 0) -> tuple[Arrays, np.ndarray, dict[str, Any], np.ndarray | None]:
    """Queries, keys, values; the gradient that comes back; what a Visibility is made of; the bias."""
    rng = np.random.default_rng(seed)
    S = shape.key_length or shape.length
    sizes = ((shape.length, shape.heads), (S, shape.kv_heads), (S, shape.kv_heads))
    q, k, v = (rng.normal(size=(shape.rows, n, heads, shape.size)) for n, heads in sizes)
    back = rng.normal(size=q.shape)
    ids, key_ids = (np.sort(rng.integers(1, 4, (shape.rows, n)), axis=1).astype(np.int32) for n in (shape.length, S))
    sight: dict[str, Any] = {"causal": shape.causal, "window": shape.window}
    if shape.packed:
        sight["segment_ids"] = ids
        if shape.key_length:
            sight["key_segment_ids"] = key_ids
    if shape.marked:
        sight["bidirectional"] = rng.integers(0, 2, (shape.rows, S)).astype(np.int32)
    bias = rng.normal(size=(1, shape.heads, shape.length, S)) if shape.biased else None
    return (q, k, v), back, sight, bias


def seen_by_rule(sight: dict[str, Any], rows: int, length: int, key_length: int) -> np.ndarray:
    """bool[B, T, S], by the words of the definition, place by place."""
    ids, marks, window = sight.get("segment_ids"), sight.get("bidirectional"), sight["window"]
    key_ids = sight.get("key_segment_ids", ids)
    seen = np.zeros((rows, length, key_length), bool)
    for b, t, s in itertools.product(range(rows), range(length), range(key_length)):
        early = s <= t or not sight["causal"] or (marks is not None and marks[b, s])
        seen[b, t, s] = early and (not window or abs(t - s) < window) and (ids is None or ids[b, t] == key_ids[b, s])
    return seen


def reference(qkv: Arrays, back: np.ndarray, seen: np.ndarray, softcap: float, bias: np.ndarray | None) -> tuple[np.ndarray, Arrays]:
    """Attention and its gradients in float64, head by head: query head n reads key head n * K // N."""
    q, k, v = qkv
    out, grads = np.zeros_like(q), tuple(np.zeros_like(x) for x in qkv)
    for b, n in itertools.product(range(q.shape[0]), range(q.shape[2])):
        g = n * k.shape[2] // q.shape[2]
        scores = q[b, :, n] @ k[b, :, g].T
        capped = softcap * np.tanh(scores / softcap) if softcap else scores
        slope = 1 - (capped / softcap) ** 2 if softcap else 1.0
        biased = capped + (0 if bias is None else bias[0, n])
        biased = np.where(seen[b], biased, -np.inf)
        shares = np.exp(biased - biased.max(-1, keepdims=True))
        shares /= shares.sum(-1, keepdims=True)
        out[b, :, n] = shares @ v[b, :, g]
        d_shares = back[b, :, n] @ v[b, :, g].T
        d_scores = shares * (d_shares - (d_shares * shares).sum(-1, keepdims=True)) * slope
        grads[0][b, :, n] += d_scores @ k[b, :, g]
        grads[1][b, :, g] += d_scores.T @ q[b, :, n]
        grads[2][b, :, g] += shares.T @ back[b, :, n]
    return out, grads


def case_of(
    shape: Shape, sight: Visibility, bias: np.ndarray | None = None, partitioner: Partitioner = ONE, dtype: str = "float32"
) -> Case:
    return Case(
        sight, shape.length, shape.key_length or shape.length, shape.heads, shape.kv_heads, shape.size, dtype, shape.softcap, partitioner,
        None if bias is None else jnp.asarray(bias, jnp.float32),
    )  # fmt: skip


def visibility(sight: dict[str, Any]) -> Visibility:
    return Visibility(**{k: jnp.asarray(x) if isinstance(x, np.ndarray) and k != "order" else x for k, x in sight.items()})


def with_gradients(attend: Attend, qkv: Arrays, back: np.ndarray) -> tuple[np.ndarray, Arrays]:
    def run(*qkv: jax.Array) -> tuple[jax.Array, tuple[jax.Array, ...]]:
        out, pull = jax.vjp(attend, *qkv)
        return out, pull(jnp.asarray(back, out.dtype))

    out, grads = jax.jit(run)(*(jnp.asarray(x, jnp.float32) for x in qkv))
    return np.asarray(out), tuple(np.asarray(g) for g in grads)


def assert_equal(found: tuple[np.ndarray, Arrays], wanted: tuple[np.ndarray, Arrays]) -> None:
    """Float32 sums of some hundred products of unit size, in another order."""
    np.testing.assert_allclose(found[0], wanted[0], atol=2e-5)
    for name, a, b in zip("qkv", found[1], wanted[1], strict=True):
        np.testing.assert_allclose(a, b, atol=1e-4, err_msg=f"gradient of {name}")


SHAPES = {
    "causal": Shape(),
    "unpacked": Shape(packed=False),
    "both_ways": Shape(causal=False),
    "one_kv_head": Shape(kv_heads=1, softcap=3.0),
    "window": Shape(window=5),
    "window_both_ways": Shape(causal=False, window=70, kv_heads=4),
    "window_of_one": Shape(window=1),
    "prefix": Shape(marked=True),
    "prefix_in_a_window": Shape(marked=True, window=9),
    "biased": Shape(biased=True, causal=False),
    "another_sequence": Shape(causal=False, key_length=256),
}


@pytest.mark.parametrize("name", SHAPES)
def test_the_plain_form_equals_float64(name: str) -> None:
    shape = SHAPES[name]
    qkv, back, sight, bias = drawn(shape)
    wanted = reference(qkv, back, seen_by_rule(sight, shape.rows, *qkv[0].shape[1:2], *qkv[1].shape[1:2]), shape.softcap, bias)
    assert_equal(with_gradients(xla.attender(case_of(shape, visibility(sight), bias)), qkv, back), wanted)


def plain(shape: Shape, qkv: Arrays, back: np.ndarray, sight: dict[str, Any]) -> tuple[np.ndarray, Arrays]:
    return with_gradients(xla.attender(case_of(shape, visibility(sight))), qkv, back)


SPLASH = {name: replace(shape, size=128, rows=1) for name, shape in SHAPES.items() if not shape.marked and not shape.biased}
SPLASH["long"] = Shape(length=640, size=128, rows=1, heads=2, kv_heads=1)  # five blocks
SPLASH["long_window"] = Shape(length=640, size=128, rows=1, heads=2, kv_heads=2, window=150)


@pytest.mark.parametrize("name", [name if name in ("causal", "window") else pytest.param(name, marks=pytest.mark.slow) for name in SPLASH])
def test_splash_equals_the_plain_form(name: str) -> None:
    from jax.experimental.pallas import tpu as pltpu

    shape = SPLASH[name]
    qkv, back, sight, _ = drawn(shape)
    qkv = (qkv[0] * 128**-0.5, *qkv[1:])  # as a layer scales its queries
    wanted = plain(shape, qkv, back, sight)
    with pltpu.force_tpu_interpret_mode():
        found = with_gradients(splash.attender(case_of(shape, visibility(sight))), qkv, back)
    assert_equal(found, wanted)


CUDNN = {name: shape for name, shape in SHAPES.items() if not shape.biased and not shape.softcap}


@pytest.mark.parametrize("name", CUDNN)
def test_what_cudnn_is_asked_for_is_the_plain_form(name: str) -> None:
    """The arguments mean the same: mask, own causality, window, scale. Computed by XLA under the same function of JAX."""
    shape = CUDNN[name]
    qkv, back, sight, _ = drawn(shape)
    case = case_of(shape, visibility(sight), dtype="bfloat16")
    assert cudnn.why_not(case) == ""
    assert_equal(with_gradients(cudnn.attender(case, "xla"), qkv, back), plain(shape, qkv, back, sight))


@pytest.mark.parametrize(("causal", "window", "kv_heads"), [(True, None, 4), (False, None, 4), (True, (7, 0), 4), (True, None, 2)])
def test_with_a_mask_cudnn_is_asked_what_jax_asks_it_but_for_the_masks_gradient(
    causal: bool, window: tuple[int, int] | None, kv_heads: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The public function and ours, lowered for CUDA: the same call forward; backward none has a result of the mask's shape but, up to
    JAX 0.11.0, the public one."""
    from jax._src.cudnn import fused_attention_stablehlo as fused

    monkeypatch.setattr(fused, "check_cudnn_version", lambda: 91200)  # looks for the library, which a CPU lacks
    q, k = (jax.ShapeDtypeStruct((2, 64, heads, 16), jnp.bfloat16) for heads in (4, kv_heads))
    mask = jax.ShapeDtypeStruct((2, 1, 64, 64), jnp.bool_)

    def public(q: jax.Array, k: jax.Array, v: jax.Array, mask: jax.Array) -> jax.Array:
        return jax.nn.dot_product_attention(
            q, k, v, mask=mask, scale=1.0, is_causal=causal, local_window_size=window, implementation="cudnn"
        )

    def ours(q: jax.Array, k: jax.Array, v: jax.Array, mask: jax.Array) -> jax.Array:
        return cudnn.masked(q, k, v, mask, causal, window)

    def calls(run: Callable[..., jax.Array]) -> list[str]:
        gradient = jax.grad(lambda *args: run(*args).astype(jnp.float32).sum(), argnums=(0, 1, 2))
        text = jax.jit(gradient).trace(q, k, k, mask).lower(lowering_platforms=("cuda",)).as_text()
        return [re.sub(r"%\w+(#\d+)?(:\d+)?|loc\(.*", "", line) for line in text.splitlines() if "custom_call @__cudnn" in line]

    theirs, found = calls(public), calls(ours)
    assert len(theirs) == len(found) == 2 and theirs[0] == found[0] != theirs[1]
    dropped = "tensor<2x1x64x64xbf16>, "  # from the result's type, after the last arrow
    before, _, result = theirs[1].rpartition("->")
    assert result.count(dropped) == hasattr(fused, "should_export_dbias") and dropped not in found[1].rpartition("->")[2]
    config = re.compile(r'backend_config = "(.*?[^\\])"')
    assert config.findall(before) == config.findall(found[1])


@given(
    st.booleans(), st.sampled_from([0, 1, 2, 4, 40]), st.booleans(), st.booleans(), st.booleans(),
    st.sampled_from([1, 2, 4]), st.sampled_from([0.0, 2.0]), st.integers(0, 99),
)  # fmt: skip
@settings(max_examples=25)
def test_any_sight_equals_float64(
    causal: bool, window: int, marked: bool, packed: bool, biased: bool, kv_heads: int, softcap: float, seed: int
) -> None:
    shape = Shape(causal, window, marked, packed, biased, softcap, kv_heads, length=9)
    qkv, back, sight, bias = drawn(shape, seed)
    seen = seen_by_rule(sight, shape.rows, 9, 9)
    mask = visibility(sight).mask(9, 9)
    np.testing.assert_array_equal(np.broadcast_to(True if mask is None else np.asarray(mask), seen.shape), seen)
    wanted, _ = reference(qkv, back, seen, softcap, bias)
    found = xla.attender(case_of(shape, visibility(sight), bias))(*(jnp.asarray(x, jnp.float32) for x in qkv))
    np.testing.assert_allclose(found, wanted, atol=1e-5)


def test_a_window_in_a_cache_is_the_window_of_the_row() -> None:
    """Queries one by one against a cache of what was read see what they saw in the row; a prefix that is seen ahead too."""
    row = Visibility(window=3).mask(7, 7)
    places = jnp.arange(7)[None]
    np.testing.assert_array_equal(Visibility(key_slots=places, window=3).mask(7, 9)[:, :, :7], row)
    ahead = Visibility(window=3, bidirectional=(places < 5).astype(jnp.int32)).mask(7, 7)
    slots = jnp.maximum(places, 4)
    np.testing.assert_array_equal(Visibility(key_slots=slots, own_slots=places, window=3).mask(7, 7), ahead)


# ---- who does what


class Tpu:
    platform, layout, mesh = "tpu", layouts.resolve("dp"), ONE.mesh
    exchanges, length_axes = 1, ()

    def axis_size(self, axes: Any) -> int:
        return ONE.axis_size(axes)


class Gpu(Tpu):
    platform = "gpu"


MODEL = decoder.Config(num_heads=4, num_kv_heads=2, d_model=512, dtype="bfloat16")
IDS, MARKS, BIAS = jnp.ones((1, 128), jnp.int32), jnp.ones((1, 128), jnp.int32), jnp.zeros((1, 4, 128, 128))


def chosen(monkeypatch: pytest.MonkeyPatch, partitioner: Any, sight: Visibility, length: int = 128, **change: Any) -> str:
    """The name of the kernel that attention comes to."""
    bias = change.pop("bias", None)
    for name, kernel in KERNELS.items():
        monkeypatch.setattr(kernel, "attender", lambda case, name=name: name)
    return attender(replace(MODEL, **change), partitioner, sight, length, length, bias)  # type: ignore[return-value]


def test_auto_is_the_platforms_kernel_where_it_can_do_it(monkeypatch: pytest.MonkeyPatch) -> None:
    def on(platform: Any, sight: Visibility, **change: Any) -> str:
        return chosen(monkeypatch, platform(), sight, **change)

    for sight in (Visibility(IDS), Visibility(IDS, causal=False)):
        for window in (0, 9):
            assert on(Tpu, sight, attention_window=window) == "splash" and on(Gpu, sight, attention_window=window) == "cudnn"
    assert on(Tpu, Visibility(IDS, bidirectional=MARKS)) == "xla" and on(Gpu, Visibility(IDS, bidirectional=MARKS)) == "cudnn"
    assert on(Tpu, Visibility(IDS), bias=BIAS) == on(Gpu, Visibility(IDS), bias=BIAS) == "xla"
    assert on(Tpu, Visibility(IDS), attention_softcap=5.0) == "splash" and on(Gpu, Visibility(IDS), attention_softcap=5.0) == "xla"
    assert on(Tpu, Visibility(), length=100) == "xla" and on(Gpu, Visibility(), length=101) == "xla"
    assert on(Gpu, Visibility(), dtype="float32") == "xla" and on(Gpu, Visibility(), head_dim=36) == "xla"
    reading = Visibility(key_slots=jnp.zeros((1, 1), jnp.int32))
    assert on(Tpu, reading) == on(Gpu, reading) == on(Tpu, reading, attention_kernel="splash") == "xla"
    assert chosen(monkeypatch, ONE, Visibility(IDS)) == "xla"
    assert chosen(monkeypatch, ONE, Visibility(IDS), attention_kernel="splash") == "splash"


@pytest.mark.parametrize(
    ("kernel", "sight", "change", "message"),
    [
        ("splash", Visibility(IDS, bidirectional=MARKS), {}, "'splash' has no prefix seen both ways"),
        ("splash", Visibility(), {"length": 100}, "'splash' has no blocks for 100 queries and 100 keys .* multiples of 128"),
        ("splash", Visibility(), {"bias": BIAS}, "'splash' has no biased scores"),
        ("cudnn", Visibility(), {"bias": BIAS}, "'cudnn' has no biased scores"),
        ("cudnn", Visibility(), {"attention_softcap": 5.0}, "'cudnn' has no soft cap"),
        ("cudnn", Visibility(), {"dtype": "float32"}, "'cudnn' has no float32 .*bfloat16 and float16"),
        ("cudnn", Visibility(), {"head_dim": 36}, "'cudnn' has no model.head_dim 36"),
        ("cudnn", Visibility(), {"length": 101}, "'cudnn' has no odd length"),
    ],
)
def test_a_kernel_refuses_what_it_cannot_do(kernel: str, sight: Visibility, change: dict[str, Any], message: str) -> None:
    words = dict(change)
    length, bias = words.pop("length", 128), words.pop("bias", None)
    with pytest.raises(InputError, match=message):
        attender(replace(MODEL, attention_kernel=kernel, **words), ONE, sight, length, length, bias)
    if bias is None:
        with pytest.raises(InputError, match=message):
            cross_attender(replace(MODEL, attention_kernel=kernel, **words), ONE, sight, length, length)


# ---- a length that is cut


def cut(parts: int, **axes: int) -> Partitioner:
    layout = layouts.resolve("fsdp_cp" if "tensor" not in axes else TENSOR)
    devices = jax.devices()[: parts * int(np.prod(list(axes.values()), dtype=int))]
    return Partitioner(mesh.make(Mesh(data=1, sequence=parts, **axes), devices), layout)


TENSOR: dict[str, Any] = {"activations": {"length": "sequence", "heads": "tensor", "kv": "tensor"}}


@pytest.mark.parametrize("parts", [1, 2, 3, 4, 8])
def test_zigzag_is_equal_work_for_each_part(parts: int) -> None:
    """Counted: the keys that a part's queries see; and it is a permutation."""
    order = balance.zigzag(parts, 48)
    assert sorted(order.tolist()) == list(range(48))
    work = (order.reshape(parts, -1) + 1).sum(axis=1)
    assert len(set(work.tolist())) == 1
    np.testing.assert_array_equal(balance.take_pieces(jnp.arange(48), order, 0), order)


@pytest.mark.parametrize("parts", [2, 3, 4, 8])
def test_the_exchange_brings_rows_into_zigzag_and_back(parts: int) -> None:
    partitioner = cut(parts)
    x = jnp.asarray(np.random.default_rng(0).normal(size=(2, 48, 3)), jnp.float32)
    there = jax.jit(lambda x: balance.exchange(x, partitioner))(x)
    np.testing.assert_array_equal(there, np.asarray(x)[:, balance.zigzag(parts, 48)])
    np.testing.assert_array_equal(jax.jit(lambda x: balance.exchange(x, partitioner, back=True))(there), x)


def test_only_a_plain_causal_sight_is_balanced() -> None:
    partitioner = cut(4)
    assert balance.order_for(partitioner, Visibility(IDS), 128) is not None
    for other in (Visibility(causal=False), Visibility(window=3), Visibility(bidirectional=MARKS), Visibility(key_slots=IDS)):
        assert balance.order_for(partitioner, other, 128) is None
    assert balance.order_for(partitioner, Visibility(), 36) is None and balance.order_for(ONE, Visibility(), 128) is None


CUT = {
    "causal": (Shape(length=256, size=128, heads=2, kv_heads=1, rows=1), cut(2)),
    "window": (Shape(length=256, size=128, heads=2, kv_heads=1, rows=1, window=70), cut(2)),
    "wide_both_ways": (Shape(causal=False, length=512, size=128, heads=1, kv_heads=1, rows=1, window=300), cut(4)),
    "wider_than_the_row": (Shape(causal=False, length=256, size=128, heads=1, kv_heads=1, rows=1, window=256), cut(2)),
    "four": (Shape(length=512, size=128, heads=1, kv_heads=1, rows=1), cut(4)),
    "both_ways": (Shape(causal=False, length=256, size=128, heads=2, kv_heads=2, rows=2), cut(2, fsdp=2)),
    "heads_too": (Shape(length=256, size=128, heads=4, kv_heads=2, rows=1), cut(2, tensor=2)),
}


@pytest.mark.parametrize("kernel", ["xla", "cudnn", pytest.param("splash", marks=pytest.mark.slow)])
@pytest.mark.parametrize("name", CUT)
def test_a_length_that_is_cut_changes_nothing(name: str, kernel: str) -> None:
    """Queries over several devices, in zig-zag order where that balances them, equal one device in results and gradients."""
    from jax.experimental.pallas import tpu as pltpu

    shape, partitioner = CUT[name]
    qkv, back, sight, _ = drawn(shape)
    qkv = (qkv[0] * 128**-0.5, *qkv[1:])
    wanted = plain(shape, qkv, back, sight)
    order = balance.order_for(partitioner, visibility(sight), shape.length)
    assert (order is not None) == (shape.causal and not shape.window)
    index = np.arange(shape.length) if order is None else order
    moved = {k: x[:, index] if isinstance(x, np.ndarray) else x for k, x in sight.items()} | {"order": order}
    case = case_of(shape, visibility(moved), partitioner=partitioner, dtype="bfloat16")
    qkv, back = tuple(x[:, index] for x in qkv), back[:, index]
    if kernel == "splash":
        with pltpu.force_tpu_interpret_mode():
            found = with_gradients(splash.attender(case), qkv, back)
    else:
        found = with_gradients(cudnn.attender(case, "xla") if kernel == "cudnn" else xla.attender(case), qkv, back)
    back_again = np.argsort(index)
    assert_equal((found[0][:, back_again], tuple(g[:, back_again] for g in found[1])), wanted)
