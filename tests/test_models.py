"""Layers against NumPy in float64; the families against what their names promise; counts against the compiler's."""

import dataclasses
import math
from types import ModuleType
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx
from hypothesis import given, settings
from hypothesis import strategies as st
from support import BYTES, numpy_params

from pretrainx.core.errors import InputError
from pretrainx.models import bert, decoder, encoder, flops, layers, skeleton
from pretrainx.models.attention import Visibility
from pretrainx.models.attention_kernels.xla import xla_attention
from pretrainx.models.embedder import PRODUCT_ROWS, look_up
from pretrainx.models.layers import LayerNorm, RMSNorm
from pretrainx.models.parts import in_parts
from pretrainx.models.rotary import rotary, rotary_by_product, rotation
from pretrainx.models.skeleton import Skeleton
from pretrainx.objectives import causal
from pretrainx.parallel import layouts, mesh
from pretrainx.parallel.shard import Partitioner

ONE = Partitioner(mesh.make(mesh.MeshSection(), jax.devices()[:1]), layouts.resolve("dp"))
SMALL = {"vocab_size": 64, "d_model": 32, "num_layers": 2, "num_heads": 4, "mlp_dim": 48, "max_length": 16}


def build(module: ModuleType = decoder, **change: Any) -> Skeleton:
    config = module.Config(**(SMALL | change))
    config.check()
    return skeleton.build(module, config, ONE)


def batch_of(length: int = 16, rows: int = 2, seed: int = 0, documents: bool = True) -> dict[str, jax.Array]:
    rng = np.random.default_rng(seed)
    segments, positions = np.ones((rows, length), np.int32), np.tile(np.arange(length, dtype=np.int32), (rows, 1))
    if documents:
        for row in range(rows):
            cut = int(rng.integers(1, length))
            segments[row, cut:], positions[row, cut:] = 2, np.arange(length - cut)
    tokens = rng.integers(3, 64, (rows, length)).astype(np.int32)
    return {"tokens": jnp.asarray(tokens), "positions": jnp.asarray(positions), "segment_ids": jnp.asarray(segments)}


def logits_of(model: Skeleton, batch: dict[str, jax.Array], params: Any = None) -> np.ndarray:
    def forward(params: Any, batch: Any) -> jax.Array:
        outputs = model.merge(params)(batch)
        return outputs.logits(outputs.hidden)

    return np.asarray(jax.jit(forward)(numpy_params(model) if params is None else params, batch))


# ---- layers against references


def reference_attention(q: Any, k: Any, v: Any, seen: np.ndarray, softcap: float) -> np.ndarray:
    """float64, head by head: query head n reads key head n * K // N."""
    B, T, N, H = q.shape
    out = np.zeros((B, T, N, H))
    for b in range(B):
        for n in range(N):
            group = n * k.shape[2] // N
            scores = np.asarray(q, np.float64)[b, :, n] @ np.asarray(k, np.float64)[b, :, group].T
            scores = softcap * np.tanh(scores / softcap) if softcap else scores
            scores = np.where(seen[b], scores, -np.inf)
            weights = np.exp(scores - scores.max(-1, keepdims=True))
            out[b, :, n] = weights / weights.sum(-1, keepdims=True) @ np.asarray(v, np.float64)[b, :, group]
    return out


@given(
    kv_heads=st.sampled_from([1, 2, 4]),
    is_causal=st.booleans(),
    segmented=st.booleans(),
    softcap=st.sampled_from([0.0, 2.0]),
    seed=st.integers(0, 9),
)
@settings(max_examples=12)
def test_attention_equals_numpy(kv_heads: int, is_causal: bool, segmented: bool, softcap: float, seed: int) -> None:
    rng = np.random.default_rng(seed)
    B, T, N, H = 2, 9, 4, 8
    q, k, v = (jnp.asarray(rng.normal(size=(B, T, heads, H)), jnp.float32) for heads in (N, kv_heads, kv_heads))
    segments = np.sort(rng.integers(0, 3, (B, T)), axis=1) if segmented else np.ones((B, T), int)
    seen = segments[:, :, None] == segments[:, None, :]
    seen = seen & np.tril(np.ones((T, T), bool)) if is_causal else seen
    sight = Visibility(jnp.asarray(segments) if segmented else None, is_causal)
    found = xla_attention(q, k, v, sight.mask(T, T), softcap)
    # float32 sums of 9 products of unit size.
    np.testing.assert_allclose(found, reference_attention(q, k, v, seen, softcap), atol=3e-6)


def test_rotary_equals_complex_rotation() -> None:
    rng = np.random.default_rng(0)
    x, positions = rng.normal(size=(2, 7, 3, 10)), rng.integers(0, 500, (2, 7))
    z = x[..., :5] + 1j * x[..., 5:]
    z *= np.exp(1j * positions[..., None, None] * 10_000.0 ** (-np.arange(5) / 5))
    found = rotary(jnp.asarray(x, jnp.float32), *rotation(jnp.asarray(positions), x.shape[-1], 10_000.0))
    # An angle of 500 in float32 is known to 3e-5.
    np.testing.assert_allclose(found, np.concatenate([z.real, z.imag], -1), atol=2e-4)


@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
def test_rotary_by_product_is_rotary_to_the_last_bit(dtype: str) -> None:
    """Forward and backward."""
    x, g = (jax.random.normal(jax.random.key(i), (2, 7, 3, 10), dtype) for i in range(2))
    turn = rotation(jnp.arange(14).reshape(2, 7) * 37, 10, 10_000.0)
    (wanted, back), (found, back_by_product) = (jax.vjp(lambda x, f=f: f(x, *turn), x) for f in (rotary, rotary_by_product))
    assert found.dtype == x.dtype and np.array_equal(found, wanted)
    np.testing.assert_allclose(*(np.asarray(f(g)[0], np.float32) for f in (back_by_product, back)), rtol=1e-6, atol=1e-6)


@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
def test_what_a_tpu_looks_up_gets_its_gradient_summed_in_float32(dtype: str) -> None:
    """Against float64, of rows that are read 400 times, once and never: closer than a scatter in the table's own type."""
    rng = np.random.default_rng(0)
    table, ids = jnp.asarray(rng.normal(size=(9, 12)), dtype), rng.permutation(np.asarray([3] * 400 + [7, 1])).reshape(2, 201)
    g = jnp.asarray(rng.normal(size=(2, 201, 12)) + 0.5, dtype)
    wanted = np.zeros(table.shape)
    np.add.at(wanted, ids, np.asarray(g, np.float64))
    found = {}
    for platform in ("tpu", "cpu"):
        rows, back = jax.vjp(lambda table, platform=platform: look_up(table, jnp.asarray(ids), platform), table)
        assert rows.dtype == table.dtype and np.array_equal(rows, table[ids])
        found[platform] = np.abs(np.asarray(back(g)[0], np.float64) - wanted).max()
    # 400 roundings in float32, of which most cancel; and the last one, to the table's type.
    eps = max(20 * jnp.finfo("float32").eps, jnp.finfo(dtype).eps)
    assert found["tpu"] <= eps * np.abs(wanted).max()
    if dtype == "bfloat16":
        assert found["tpu"] < found["cpu"] / 3


def test_a_large_table_is_looked_up_without_a_product() -> None:
    def step(rows: int) -> str:
        table = jnp.zeros((rows, 2))
        return str(jax.make_jaxpr(jax.grad(lambda table: look_up(table, jnp.zeros((1, 3), jnp.int32), "tpu").sum()))(table))

    assert "dot_general" in step(PRODUCT_ROWS) and "dot_general" not in step(PRODUCT_ROWS + 1)


@given(st.integers(1, 6), st.integers(1, 12), st.integers(1, 6), st.booleans())
@settings(max_examples=60)
def test_parts_change_nothing_and_are_equal(rows: int, length: int, parts: int, own_rows: bool) -> None:
    x = jnp.arange(rows * length * 3, dtype=jnp.float32).reshape(rows, length, 3)
    seen = []

    def function(x: jax.Array, y: jax.Array) -> tuple[jax.Array, jax.Array]:
        seen.append(x.shape[:2])
        return x * 2, y[..., None] - x

    found = in_parts(function, (x, x[..., 0]), parts, own_rows, lambda f: f)
    for a, b in zip(found, (x * 2, x[..., :1] - x), strict=True):
        np.testing.assert_array_equal(a, b)
    expected = (
        (rows // parts, length) if own_rows and rows % parts == 0 else (rows, length // parts) if length % parts == 0 else (rows, length)
    )
    assert set(seen) == {expected}


def test_rotary_sees_distances_only() -> None:
    rng = np.random.default_rng(0)
    q, k = (jnp.asarray(rng.normal(size=(1, 6, 1, 8)), jnp.float32) for _ in range(2))
    positions = jnp.arange(6)[None]

    def scores(shift: int) -> jax.Array:
        turn = rotation(positions + shift, q.shape[-1], 1e4)
        return jnp.einsum("BTNH,BSNH->TS", rotary(q, *turn), rotary(k, *turn))

    np.testing.assert_allclose(scores(0), scores(77), atol=5e-5)
    assert np.abs(np.asarray(scores(0) - jnp.einsum("BTNH,BSNH->TS", q, k))).max() > 0.1


@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
def test_norms_equal_numpy(dtype: str) -> None:
    x = np.random.default_rng(0).normal(size=(3, 40)) * 7 + 2
    given_x = jnp.asarray(x, dtype)
    x64 = np.asarray(given_x.astype(jnp.float32), np.float64)
    rms = RMSNorm(40, dtype="float32", rngs=nnx.Rngs(0))
    centred = LayerNorm(40, dtype="float32", rngs=nnx.Rngs(0))
    scale, bias = np.linspace(0.5, 2, 40), np.linspace(-1, 1, 40)
    rms.scale[...] = centred.scale[...] = jnp.asarray(scale, jnp.float32)
    centred.bias[...] = jnp.asarray(bias, jnp.float32)
    tolerance = {"rtol": 1e-5, "atol": 1e-5} if dtype == "float32" else {"rtol": 2**-8, "atol": 2**-8}  # half a bfloat16 step
    wanted = x64 / np.sqrt((x64**2).mean(-1, keepdims=True) + 1e-6) * scale
    np.testing.assert_allclose(np.asarray(rms(given_x), np.float64), wanted, **tolerance)
    y = x64 - x64.mean(-1, keepdims=True)
    wanted = y / np.sqrt((y**2).mean(-1, keepdims=True)) * scale + bias
    np.testing.assert_allclose(np.asarray(centred(given_x), np.float64), wanted, **tolerance)
    assert rms(given_x).dtype == centred(given_x).dtype == jnp.dtype(dtype)


# ---- the stack


VARIANTS: dict[str, tuple[ModuleType, dict[str, Any]]] = {
    "llama": (decoder, {}),
    "gqa": (decoder, {"num_kv_heads": 2, "qk_norm": True, "tied_head": True, "attention_softcap": 20.0, "logit_softcap": 10.0}),
    "gpt2": (decoder, {"norm": "layer", "positions": "learned", "use_bias": True, "gated_mlp": False, "activation": "gelu_tanh"}),
    "encoder": (encoder, {}),
    "bert": (bert, SMALL),
}


@pytest.mark.parametrize("variant", VARIANTS)
def test_a_scanned_stack_equals_an_unrolled_one(variant: str) -> None:
    module, change = VARIANTS[variant]
    scanned, unrolled = build(module, **change), build(module, **change, scan_layers=False)
    # The same float32 operations; the compiler may fuse them otherwise.
    np.testing.assert_allclose(logits_of(scanned, batch_of()), logits_of(unrolled, batch_of()), rtol=1e-5, atol=1e-5)


def loss_and_grads(model: Skeleton, batch: dict[str, jax.Array], params: Any) -> Any:
    objective = causal.Objective(BYTES, 16)

    def loss(params: Any) -> jax.Array:
        return objective.loss(model.merge(params)(batch), batch)["tokens"].total

    return jax.jit(jax.value_and_grad(loss))(params)


@pytest.mark.parametrize("change", [{"num_kv_heads": 2, "qk_norm": True, "use_bias": True}, {"positions": "learned", "max_length": 16}])
def test_queries_keys_and_values_by_one_product(change: dict[str, Any]) -> None:
    apart, fused = build(**change), build(**change, fused_qkv=True)
    params, batch = numpy_params(apart), scored_batch()
    assert jax.tree.structure(apart.abstract) == jax.tree.structure(fused.abstract)
    (wanted, slopes), (found, fused_slopes) = (loss_and_grads(model, batch, params) for model in (apart, fused))
    assert float(found) == pytest.approx(float(wanted), rel=1e-6)
    for a, b in zip(jax.tree.leaves(fused_slopes), jax.tree.leaves(slopes), strict=True):
        np.testing.assert_allclose(a, b, rtol=1e-5, atol=1e-5)  # the same sums in another order


def scored_batch() -> dict[str, jax.Array]:
    """Three rows with targets, each of weight 1."""
    batch = batch_of(rows=3)
    targets = np.random.default_rng(1).integers(3, 64, (3, 16))
    return batch | {"targets": jnp.asarray(targets), "loss_weights": jnp.ones((3, 16))}


@pytest.fixture(scope="module")
def scored() -> dict[str, jax.Array]:
    return scored_batch()


@pytest.fixture(scope="module")
def plain(scored: dict[str, jax.Array]) -> tuple[Any, Any]:
    model = build()
    params = numpy_params(model, 1)
    return params, loss_and_grads(model, scored, params)


@pytest.mark.parametrize(
    "change",
    [
        {"remat": "full", "scan_layers": False},
        {"loss_chunks": 4},
    ],
    ids=str,
)
def test_what_saves_memory_changes_no_result(change: dict[str, Any], scored: dict[str, jax.Array], plain: tuple[Any, Any]) -> None:
    params, wanted = plain
    found = loss_and_grads(build(**change), scored, params)
    for a, b in zip(jax.tree.leaves(found), jax.tree.leaves(wanted), strict=True):
        # Sums of 48 float32 token losses in another order.
        np.testing.assert_allclose(a, b, rtol=2e-4, atol=2e-5)


@pytest.mark.parametrize("variant", ["llama", "gqa", "gpt2"])
def test_packing_equals_each_document_alone(variant: str) -> None:
    """Two documents in one row give the logits that each gives by itself."""
    module, change = VARIANTS[variant]
    model = build(module, **change)
    rng = np.random.default_rng(2)
    first, second = rng.integers(3, 64, 7), rng.integers(3, 64, 9)

    def row(*parts: np.ndarray) -> dict[str, jax.Array]:
        segments = np.concatenate([np.full(len(p), i + 1) for i, p in enumerate(parts)])
        positions = np.concatenate([np.arange(len(p)) for p in parts])
        pad = 16 - len(segments)
        return {
            "tokens": jnp.asarray(np.pad(np.concatenate(parts), (0, pad))[None], jnp.int32),
            "segment_ids": jnp.asarray(np.pad(segments, (0, pad))[None], jnp.int32),
            "positions": jnp.asarray(np.pad(positions, (0, pad))[None], jnp.int32),
        }

    packed, one, two = (logits_of(model, r)[0] for r in (row(first, second), row(first), row(second)))
    np.testing.assert_allclose(packed[:7], one[:7], atol=2e-5)
    np.testing.assert_allclose(packed[7:], two[:9], atol=2e-5)
    assert np.abs(packed[7:] - logits_of(model, row(np.concatenate([first, second])))[0][7:]).max() > 1e-2


@pytest.mark.parametrize("variant", VARIANTS)
def test_who_sees_whom(variant: str) -> None:
    module, change = VARIANTS[variant]
    model, batch = build(module, **change), batch_of(documents=False)
    changed = batch | {"tokens": batch["tokens"].at[:, 10].set(5)}
    moved = np.abs(logits_of(model, batch) - logits_of(model, changed)).max(axis=(0, 2)) > 1e-6
    assert moved[10:].all()
    assert moved[:10].all() == (module is not decoder) and moved[:10].any() == (module is not decoder)


def test_segments_are_walls() -> None:
    for module in (decoder, encoder):
        model, batch = build(module), batch_of(documents=False)
        batch |= {"segment_ids": jnp.asarray(np.repeat([[1] * 8 + [2] * 8], 2, axis=0))}
        changed = batch | {"tokens": batch["tokens"].at[:, 3].set(5)}
        moved = np.abs(logits_of(model, batch) - logits_of(model, changed)).max(axis=(0, 2))
        assert moved[8:].max() == 0 and moved[3:8].min() > 0


def test_token_types_matter_to_bert() -> None:
    model, batch = build(bert, **SMALL), batch_of()
    typed = batch | {"token_types": jnp.ones_like(batch["tokens"])}
    assert np.abs(logits_of(model, batch) - logits_of(model, typed)).max() > 1e-4


# ---- counts and statistics


def expected_params(c: Any) -> int:
    D, V, N, K, H, F = c.d_model, c.vocab_size, c.num_heads, c.kv_heads, c.head_size, c.mlp_dim
    norm = D * (2 if c.norm == "layer" else 1)
    layer = D * H * (2 * N + 2 * K) + D * F * (3 if c.gated_mlp else 2) + 2 * norm + (2 * H if c.qk_norm else 0)
    layer += (N * H + 2 * K * H + D + F + D) if c.use_bias else 0
    total = c.num_layers * layer + V * D + norm  # final norm, or the embedding's where norms come after
    total += c.max_length * D if c.positions == "learned" else 0
    total += c.num_token_types * D
    total += (D * D + D + norm + V) if c.head_transform else 0
    return total + (0 if c.tied_head else D * V)


@pytest.mark.parametrize("variant", VARIANTS)
def test_parameters_are_as_many_as_the_formula_says(variant: str) -> None:
    module, change = VARIANTS[variant]
    model = build(module, **change)
    assert model.num_params == expected_params(model.config)


def test_bert_base_has_its_110_million() -> None:
    sizes = {"vocab_size": 30_522, "d_model": 768, "num_layers": 12, "num_heads": 12, "mlp_dim": 3072, "max_length": 512}
    model = build(bert, **sizes)
    pooler = 768 * 768 + 768  # which masked language modelling does not use
    mlm_head = 768 * 768 + 768 + 2 * 768 + 30_522
    assert model.num_params - mlm_head + pooler == 109_482_240  # bert-base-uncased


def test_initial_deviations() -> None:
    model = build(decoder, d_model=256, num_layers=8, num_heads=8, num_kv_heads=4, mlp_dim=512, vocab_size=1024)
    params = jax.jit(model.init)(jax.random.key(0))
    block = params["stack"]["blocks"]
    wanted = {
        "query": (block["attention"]["query"], 256**-0.5), "key": (block["attention"]["key"], 256**-0.5),
        "out": (block["attention"]["out"], 256**-0.5 / 4), "up": (block["mlp"]["up"], 256**-0.5), "gate": (block["mlp"]["gate"], 256**-0.5),
        "down": (block["mlp"]["down"], 512**-0.5 / 4), 
        "embedding": (params["embedder"]["embedding"], 0.02), "head": (params["token_head"]["kernel"], 0.02),
    }  # fmt: skip
    for name, (array, std) in wanted.items():
        x = np.asarray(array, np.float64)
        # The deviation of n draws is known to about std / sqrt(2 n); the smallest array has 262,144.
        assert x.std() == pytest.approx(std, rel=0.01), name
        assert abs(x.mean()) < 5 * std / math.sqrt(x.size), name
        assert np.abs(x).max() <= 2 * std / 0.8796 * 1.0001, name  # cut at two deviations of the normal that was cut
    layer_norms = {tuple(np.asarray(w)[i].ravel()[:3]) for i in range(8) for w in (block["mlp"]["up"],)}
    assert len(layer_norms) == 8  # each layer has its own draw
    assert np.all(np.asarray(params["stack"]["final_norm"]["scale"]) == 1)


def test_a_fixed_deviation_is_the_one_given() -> None:
    model = build(bert, **SMALL).config
    assert model.init_std == 0.02
    for shares, std in ((1, 0.02), (4, 0.01)):
        drawn = np.asarray(layers.fan_in_normal((64, 512), 1, model.init_std, shares)(jax.random.key(0), (64, 512)))
        assert drawn.std() == pytest.approx(std, rel=0.01)


FEW = ["gqa", "bert", *(pytest.param(v, marks=pytest.mark.slow) for v in ("llama", "gpt2", "encoder"))]


@pytest.mark.parametrize("variant", FEW)
def test_dtypes(variant: str) -> None:
    module, change = VARIANTS[variant]
    model = build(module, **change, dtype="bfloat16")
    assert {leaf.dtype for leaf in jax.tree.leaves(model.abstract)} == {jnp.dtype("float32")}

    def forward(params: Any, batch: Any) -> tuple[jax.Array, jax.Array]:
        outputs = model.merge(params)(batch)
        return outputs.hidden, outputs.logits(outputs.hidden)

    hidden, logits = jax.eval_shape(forward, model.abstract, batch_of())
    assert hidden.dtype == jnp.bfloat16 and logits.dtype == jnp.float32
    # bfloat16 has 8 bits: logits of size 1 agree to a few per cent.
    exact = logits_of(build(module, **change), batch_of())
    assert np.abs(logits_of(model, batch_of()) - exact).max() < 0.05 * max(1.0, np.abs(exact).max())


@pytest.mark.parametrize("variant", FEW)
def test_flops_equal_the_compilers_count(variant: str) -> None:
    module, change = VARIANTS[variant]
    # Wide enough that norms, activations and softmax, which the formula leaves out, are a few per cent.
    sizes = {"d_model": 512, "mlp_dim": 1536, "vocab_size": 2048, "max_length": 128, "num_heads": 2, "scan_layers": False}
    model = build(module, **(change | sizes | ({"num_kv_heads": 1} if "num_kv_heads" in change else {})))
    batch = batch_of(length=128, documents=False)

    def forward(params: Any, batch: Any) -> jax.Array:
        outputs = model.merge(params)(batch)
        return outputs.logits(outputs.hidden)

    counted = jax.jit(forward).lower(model.abstract, batch).compile().cost_analysis()["flops"]
    row = flops.forward_flops_per_row(model.config, {"tokens": (128,)})
    assert 2 * row == pytest.approx(counted, rel=0.03)
    assert 128 * flops.train_flops_per_token(model.config, 128) == pytest.approx(3 * row)


@pytest.mark.parametrize(("module", "seen"), [(decoder, 5), (encoder, 9)])
def test_flops_of_a_window_are_those_of_its_places(module: Any, seen: int) -> None:
    """Two products of head_dim multiply-adds for each query, place seen and head, in each layer; no more places than a row has."""

    def row(**change: int) -> float:
        return flops.forward_flops_per_row(build(module, **SMALL, **change).config, {"tokens": (32,)})

    config = build(module, **SMALL).config
    scores = 2 * 2 * 32 * config.num_layers * config.num_heads * config.head_size
    assert row() - row(attention_window=5) == scores * (32 - seen)
    assert row(attention_window=32) == row()


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"num_kv_heads": 3}, "num_kv_heads 3 does not divide"),
        ({"num_heads": 5}, "d_model 32 is not divisible by model.num_heads 5"),
        ({"head_dim": 7}, "head_dim 7 is odd"),
        ({"activation": "gelo"}, "unknown name 'gelo'; did you mean 'gelu'"),
        ({"positions": "relative", "relative_buckets": 30}, "relative_buckets 30 must be a multiple of 4"),
        ({"positions": "relative", "attention_kernel": "splash"}, "'splash' has no biased scores"),
        ({"tied_head": True, "embedding_size": 8}, "set model.head_transform, or untie the head"),
        ({"heads": ("replaced",)}, "'decoder' has no head 'replaced', it can have 'pair' and 'boundary'"),
        ({"remat": "ful"}, "train.remat: unknown policy 'ful'; did you mean 'full'"),
    ],
)
def test_models_that_cannot_be(change: dict[str, Any], message: str) -> None:
    with pytest.raises(InputError, match=message):
        decoder.Config(**(SMALL | change)).check()


def test_every_activation_and_norm_is_finite_at_extremes() -> None:
    x = jnp.asarray([[-1e4, -1.0, 0.0, 1.0, 1e4]])
    for name, activation in layers.ACTIVATIONS.items():
        assert np.isfinite(activation(x)).all() and np.isfinite(jax.grad(lambda x: activation(x).sum())(x)).all(), name  # noqa: B023
    for norm in (RMSNorm, LayerNorm):
        module = norm(5, dtype="float32", rngs=nnx.Rngs(0))
        assert np.isfinite(jax.grad(lambda x: module(x).sum())(jnp.zeros((1, 5)))).all()  # noqa: B023


def test_configs_are_values() -> None:
    assert dataclasses.replace(decoder.Config(), d_model=512) == decoder.Config()
    assert encoder.Config().causal is False and decoder.Config().causal is True


def test_dropout_keeps_the_mean_and_drops_its_share() -> None:
    x = jnp.ones((256, 1024))
    for rate in (0.1, 0.5, 0.875):
        made = np.asarray(layers.dropout(x, rate, jax.random.key(3)))
        share = (made == 0).mean()
        assert abs(share - rate) < 4 * (rate * (1 - rate) / x.size) ** 0.5  # four deviations of a binomial
        assert np.unique(made[made != 0]) == pytest.approx([1 / (1 - rate)], rel=1e-4)
    assert layers.dropout(x, 0.5, None) is x and layers.dropout(x, 0.0, jax.random.key(0)) is x
