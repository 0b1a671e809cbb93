"""Each family against what it was published as: counts, initial sizes, who sees whom, heads; on eight devices as on one."""

import functools
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from types import ModuleType
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.special import erf
from support import numpy_params

from pretrainx.core.errors import InputError
from pretrainx.interop import hf
from pretrainx.models import (
    bart,
    bert,
    decoder,
    electra,
    encoder,
    encoder_decoder,
    flops,
    glm,
    gpt2,
    llama,
    prefix_decoder,
    roberta,
    skeleton,
    t5,
)
from pretrainx.models.attention import Visibility
from pretrainx.models.attention_kernels.xla import xla_attention
from pretrainx.models.skeleton import Skeleton, flatten, map_with_dims
from pretrainx.parallel import layouts, mesh
from pretrainx.parallel.shard import Partitioner

ONE = Partitioner(mesh.make(mesh.MeshSection(), jax.devices()[:1]), layouts.resolve("dp"))
SMALL = {"vocab_size": 64, "d_model": 32, "num_layers": 2, "num_heads": 4, "mlp_dim": 48, "max_length": 16}
Batch = dict[str, Any]


def build(module: ModuleType, partitioner: Partitioner = ONE, **change: Any) -> Skeleton:
    return skeleton.build(module, module.Config(**(SMALL | change)), partitioner)


# Every family with all that it can have, small.
FAMILIES: dict[str, tuple[ModuleType, dict[str, Any]]] = {
    "decoder": (decoder, {"num_kv_heads": 2, "qk_norm": True}),
    "relative": (decoder, {"positions": "relative", "relative_buckets": 8, "relative_max_distance": 12}),
    "gpt2": (gpt2, {}),
    "llama": (llama, {}),
    "prefix_decoder": (prefix_decoder, {"embed_norm": True}),
    "glm": (glm, {"max_block_positions": 7}),
    "encoder": (encoder, {"heads": ("pair", "boundary"), "embedding_size": 16}),
    "bert": (bert, {"heads": ("pair", "boundary")}),
    "roberta": (roberta, {}),
    "encoder_decoder": (encoder_decoder, {"num_decoder_layers": 3}),
    "t5": (t5, {"relative_buckets": 8, "relative_max_distance": 12, "head_dim": 6}),
    "t5_v1_1": (t5, {"gated_mlp": True, "activation": "gelu_tanh", "tied_head": False}),
    "bart": (bart, {"num_decoder_layers": 1}),
    "electra": (electra, {"embedding_size": 16, "generator_size": 0.5}),
}
TWO_STACKS = ("encoder_decoder", "t5", "t5_v1_1", "bart")


def quick(*names: str, among: Sequence[str] = tuple(FAMILIES)) -> list[Any]:
    """For parametrize: these families in every run, the others where there is time."""
    return [*names, *(pytest.param(name, marks=pytest.mark.slow) for name in among if name not in names)]


def family(name: str, partitioner: Partitioner = ONE, **change: Any) -> Skeleton:
    module, options = FAMILIES[name]
    return build(module, partitioner, **(options | change))


def batch_of(name: str, rows: int = 2, length: int = 12, seed: int = 0) -> Batch:
    """Rows of two segments and padding, with every feature that the family reads."""
    rng = np.random.default_rng(seed)

    def side(length: int, prefix: str) -> Batch:
        first, second = rng.integers(2, length // 2, (rows, 1)), rng.integers(length // 2 + 1, length + 1, (rows, 1))
        places = np.broadcast_to(np.arange(length), (rows, length))
        segments = np.where(places < first, 1, np.where(places < second, 2, 0))
        positions = np.where(segments == 2, places - first, np.where(segments == 1, places, 0))
        tokens = rng.integers(3, 64, (rows, length))
        made = {"tokens": tokens, "segment_ids": segments, "positions": positions}
        return {prefix + k: np.asarray(v, np.int32) for k, v in made.items()}

    batch = side(length, "") | (side(length + 3, "encoder_") if name in TWO_STACKS else {})
    if name in ("prefix_decoder", "glm"):
        batch["bidirectional"] = rng.integers(0, 2, (rows, length)).astype(np.int32)
    if name == "glm":
        batch["block_positions"] = rng.integers(0, 7, (rows, length)).astype(np.int32)
    if name in ("bert", "roberta", "electra"):
        batch["token_types"] = rng.integers(0, 2, (rows, length)).astype(np.int32)
    return batch


def everything(model: Skeleton, params: Any, batch: Batch) -> dict[str, jax.Array]:
    """All that the model gives: logits of the tokens, and of each head."""
    outputs = model.merge(params)(batch)
    found = {"tokens": outputs.logits(outputs.hidden)}
    assert set(outputs.heads) == set(model.config.present_heads)
    if "pair" in outputs.heads:
        found["pair"] = outputs.heads["pair"]()
    if "boundary" in outputs.heads:
        offsets = jnp.asarray(batch["positions"][:, :5]) % 20
        found["boundary"] = outputs.heads["boundary"](outputs.hidden[:, :5], outputs.hidden[:, 5:10], offsets)
    if "replaced" in outputs.heads:
        found["replaced"] = outputs.heads["replaced"](batch["tokens"][:, ::-1])
    return found


def run(model: Skeleton, batch: Batch, params: Any = None) -> dict[str, np.ndarray]:
    found = jax.jit(functools.partial(everything, model))(numpy_params(model) if params is None else params, batch)
    return {k: np.asarray(v) for k, v in found.items()}


@functools.cache
def reference(name: str) -> tuple[Any, Batch, jax.Array, Any]:
    """(params, batch, score, its gradients) of eight rows on one device; row 0 is all padding, row 1's encoder holds nothing for it."""
    model, batch = family(name), batch_of(name, rows=8)
    batch["segment_ids"][0] = 0
    if "encoder_segment_ids" in batch:
        batch["encoder_segment_ids"][1] = 3
    params = numpy_params(model)
    return params, batch, *jax.jit(jax.value_and_grad(functools.partial(score, model)))(params, batch)


def score(model: Skeleton, params: Any, batch: Batch) -> jax.Array:
    """A number that depends on all of `everything`, with sums of one size."""
    return sum((jnp.mean(jnp.square(x - 0.3)) for x in everything(model, params, batch).values()), jnp.zeros(()))


# ---- counts


@dataclass(frozen=True)
class Published:
    """A model and the number of its weights; `parts` where only some of ours are in it."""

    module: ModuleType
    sizes: dict[str, Any]
    count: int
    parts: tuple[str, ...] = ()


BASE = {"d_model": 768, "num_layers": 12, "num_heads": 12, "mlp_dim": 3072}
PUBLISHED = {
    "gpt2": Published(gpt2, BASE | {"vocab_size": 50_257, "max_length": 1024}, 124_439_808),
    "bert-base": Published(bert, BASE | {"vocab_size": 30_522, "max_length": 512, "heads": ("pair",)}, 110_106_428),
    "bert-base, no heads": Published(
        bert, BASE | {"vocab_size": 30_522, "max_length": 512, "heads": ("pair",)}, 109_482_240, ("embedder", "stack", "pair_head/pooler")
    ),
    "roberta-base": Published(roberta, BASE | {"vocab_size": 50_265, "max_length": 512}, 124_697_433),
    "electra-small": Published(
        electra,
        {"vocab_size": 30_522, "d_model": 256, "num_layers": 12, "num_heads": 4, "mlp_dim": 1024, "max_length": 512, "embedding_size": 128},
        13_549_057, ("embedder", "discriminator", "replaced_head"),
    ),
    "t5-small": Published(
        t5, {"vocab_size": 32_128, "d_model": 512, "num_layers": 6, "num_heads": 8, "head_dim": 64, "mlp_dim": 2048}, 60_506_624
    ),
    "t5-base": Published(t5, BASE | {"vocab_size": 32_128, "head_dim": 64}, 222_903_552),
    "t5-v1_1-small": Published(
        t5,
        {"vocab_size": 32_128, "d_model": 512, "num_layers": 8, "num_heads": 6, "head_dim": 64, "mlp_dim": 1024, "gated_mlp": True,
         "activation": "gelu_tanh", "tied_head": False},
        76_961_152,
    ),
    "bart-base": Published(bart, BASE | {"vocab_size": 50_265, "num_layers": 6, "max_length": 1024}, 139_420_416),
    "llama-7b": Published(
        llama, {"vocab_size": 32_000, "d_model": 4096, "num_layers": 32, "num_heads": 32, "mlp_dim": 11_008}, 6_738_415_616
    ),
}  # fmt: skip


@pytest.mark.parametrize("name", PUBLISHED)
def test_as_many_weights_as_published(name: str) -> None:
    wanted = PUBLISHED[name]
    model = build(wanted.module, **wanted.sizes)
    parts = [int(np.prod(shape)) for path, (_, shape) in model.table().items() if not wanted.parts or path.startswith(wanted.parts)]
    assert sum(parts) == wanted.count


def test_heads_cost_nothing_where_they_are_not_asked_for() -> None:
    plain, headed = build(bert), build(bert, heads=("pair", "boundary"))
    extra = {path.split("/")[0] for path in headed.table().keys() - plain.table().keys()}
    assert extra == {"pair_head", "boundary_head"}
    D, V = 32, 64
    pair = D * D + D + 2 * D + 2
    boundary = 20 * 200 + (2 * D + 200) * D + D + 2 * D + D * D + D + 2 * D + V
    assert headed.num_params - plain.num_params == pair + boundary


def test_every_weight_has_dims_that_layouts_know() -> None:
    for name in FAMILIES:
        for path, (dims, shape) in family(name).table().items():
            assert len(dims) == len(shape), path
            assert set(dims) <= {None, *layouts.WEIGHT_DIMS}, path


# ---- initial sizes


def deviations(model: Skeleton) -> dict[str, float]:
    return {path: float(np.std(np.asarray(x, np.float64))) for path, x in flatten(jax.jit(model.init)(jax.random.key(0)))}


def test_initial_deviations_are_the_published_ones() -> None:
    sizes: dict[str, Any] = {"vocab_size": 512, "d_model": 64, "num_layers": 2, "num_heads": 4, "head_dim": 64, "mlp_dim": 256}
    D, inner, F = 64, 256, 256
    raffel, gpt, devlin = (
        deviations(build(module, **sizes, **change))
        for module, change in ((t5, {"tied_head": False}), (gpt2, {}), (bert, {"heads": ("pair",)}))
    )
    expected = {
        "token_head/kernel": D**-0.5,
        "embedder/embedding": 1.0,
        "encoder/blocks/attention/query": (D * 64) ** -0.5, "decoder/blocks/attention/key": D**-0.5,
        "decoder/blocks/cross_attention/out": inner**-0.5, "encoder/blocks/mlp/up": D**-0.5, "decoder/blocks/mlp/down": F**-0.5,
    }  # fmt: skip
    for path, std in expected.items():
        assert raffel[path] == pytest.approx(std, rel=0.02), path
    assert raffel["encoder/relative_bias"] == pytest.approx(D**-0.5, rel=0.25)  # 128 draws, the others 16,384 and more: known to 0.6 %
    for path in ("embedder/embedding", "stack/blocks/attention/query", "stack/blocks/mlp/up"):
        assert gpt[path] == pytest.approx(0.02, rel=0.02) and devlin[path] == pytest.approx(0.02, rel=0.02), path
    for path in ("stack/blocks/attention/out", "stack/blocks/mlp/down"):
        assert gpt[path] == pytest.approx(0.02 / 4**0.5, rel=0.02)  # 2 layers, two residual sums each
        assert devlin[path] == pytest.approx(0.02, rel=0.02)
    assert devlin["pair_head/pooler/kernel"] == pytest.approx(0.02, rel=0.05)


# ---- who sees whom


@given(st.booleans(), st.booleans(), st.booleans(), st.booleans(), st.booleans(), st.integers(0, 99))
@settings(max_examples=25)
def test_visibility_and_bias_equal_loops(causal: bool, marked: bool, segmented: bool, crossed: bool, biased: bool, seed: int) -> None:
    """The mask by its definition, position by position; attention with it in float64."""
    rng = np.random.default_rng(seed)
    B, T, N, K, H = 2, 5, 4, 2, 3
    S = 7 if crossed else T
    causal, marked = causal and not crossed, marked and not crossed
    ids, key_ids = (np.sort(rng.integers(0, 3, (B, length)), axis=1) for length in (T, S))
    key_ids = key_ids if crossed else ids
    marks = rng.integers(0, 2, (B, S))
    sight = Visibility(
        jnp.asarray(ids) if segmented else None, causal, bidirectional=jnp.asarray(marks) if marked else None,
        key_segment_ids=jnp.asarray(key_ids) if segmented and crossed else None,
    )  # fmt: skip
    seen = np.ones((B, T, S), bool)
    for b in range(B):
        for t in range(T):
            for s in range(S):
                early = s <= t or not causal or (marked and marks[b, s])
                seen[b, t, s] = early and (not segmented or ids[b, t] == key_ids[b, s])
    mask = sight.mask(T, S)
    np.testing.assert_array_equal(np.broadcast_to(True if mask is None else np.asarray(mask), seen.shape), seen)
    q, k, v = (rng.normal(size=(B, n, heads, H)) for n, heads in ((T, N), (S, K), (S, K)))
    bias = rng.normal(size=(1, N, T, S)) if biased else None
    scores = np.einsum("btnh,bsnh->bnts", q, np.repeat(k, N // K, axis=2)) + (0 if bias is None else bias)
    scores = np.where(seen[:, None], scores, -1e30)
    shares = np.exp(scores - scores.max(-1, keepdims=True))
    wanted = np.einsum("bnts,bsnh->btnh", shares / shares.sum(-1, keepdims=True), np.repeat(v, N // K, axis=2))
    q32, k32, v32 = (jnp.asarray(x, jnp.float32) for x in (q, k, v))
    found = xla_attention(q32, k32, v32, mask, 0.0, None if bias is None else jnp.asarray(bias, jnp.float32))
    np.testing.assert_allclose(found, wanted, atol=5e-6)


def moved(name: str, place: int, feature: str = "tokens", **change: Any) -> np.ndarray:
    """bool[L]: where the logits of a row of one segment change with the token at `place`."""
    model, length = family(name), 12
    ones, places = np.ones((1, length), np.int32), np.arange(length, dtype=np.int32)[None]
    rng = np.random.default_rng(3)
    batch: Batch = {}
    for prefix in ("", "encoder_"):
        batch |= {f"{prefix}segment_ids": ones, f"{prefix}positions": places}
        batch |= {f"{prefix}tokens": rng.integers(3, 64, (1, length)).astype(np.int32)}
    batch |= change
    other = batch | {feature: np.where(places == place, batch[feature] ^ 1, batch[feature])}
    return np.abs(run(model, batch)["tokens"] - run(model, other)["tokens"]).max(axis=(0, 2)) > 1e-6


@pytest.mark.parametrize("name", quick("prefix_decoder", among=("prefix_decoder", "glm")))
def test_a_prefix_is_seen_both_ways(name: str) -> None:
    prefix = (np.arange(12) < 6).astype(np.int32)[None]
    assert moved(name, 4, bidirectional=prefix).all()  # a token of the prefix reaches all
    assert moved(name, 8, bidirectional=prefix).tolist() == [False] * 8 + [True] * 4
    assert moved(name, 8, bidirectional=np.ones((1, 12), np.int32)).all()  # all marked: an encoder
    assert moved(name, 8).tolist() == [False] * 8 + [True] * 4  # no such feature: a decoder


def test_a_decoder_looks_into_its_encoder_and_back_into_itself() -> None:
    assert moved("t5", 8, "encoder_tokens").all()
    assert moved("t5", 8).tolist() == [False] * 8 + [True] * 4


def parts_of(batch: Batch, row: int, segment: int) -> Batch:
    """One segment of a row by itself."""
    found: Batch = {}
    for prefix in ("", "encoder_"):
        if f"{prefix}segment_ids" in batch:
            mine = batch[f"{prefix}segment_ids"][row] == segment
            own = [k for k in batch if k.startswith("encoder_") == bool(prefix)]
            found |= {k: batch[k][row : row + 1, mine] for k in own}
    return found | {k: np.ones_like(v) for k, v in found.items() if k.endswith("segment_ids")}


@pytest.mark.parametrize("name", quick("t5"))
def test_packed_texts_are_each_by_themselves(name: str) -> None:
    model, batch = family(name, heads=()), batch_of(name)
    together = run(model, batch)["tokens"]
    for segment in (1, 2):
        alone = run(model, parts_of(batch, 0, segment))["tokens"]
        # Float32 sums of the same numbers among more zeros.
        np.testing.assert_allclose(together[0, batch["segment_ids"][0] == segment], alone[0], atol=3e-5)


@pytest.mark.parametrize("name", quick("prefix_decoder", "t5", "electra"))
def test_padding_gives_numbers_and_gradients(name: str) -> None:
    """Nothing to see is no NaN; and every weight takes part."""
    _, _, value, grads = reference(name)
    assert np.isfinite(value)
    for path, grad in flatten(grads):
        assert np.isfinite(grad).all() and np.any(grad), path


def test_splash_refuses_what_it_cannot_do() -> None:
    batch = batch_of("prefix_decoder")
    model = family("prefix_decoder", attention_kernel="splash")
    with pytest.raises(InputError, match="'splash' has no prefix seen both ways"):
        jax.eval_shape(lambda params, batch: model.merge(params)(batch).hidden, model.abstract, batch)


# ---- the same model in other ways


def assert_same(found: tuple[Any, Any], wanted: tuple[Any, Any]) -> None:
    """Scores and gradients that are sums of the same float32 numbers in another order. What is zero but for rounding
    (the gradients of biases on keys) is measured by the whole gradient."""
    assert float(found[0]) == pytest.approx(float(wanted[0]), rel=3e-6)
    whole = np.sqrt(sum(float(np.sum(np.square(g))) for _, g in flatten(wanted[1])))
    for (path, a), (_, b) in zip(flatten(found[1]), flatten(wanted[1]), strict=True):
        assert np.linalg.norm(np.asarray(a) - np.asarray(b)) <= 1e-5 * max(np.linalg.norm(b), 1e-2 * whole), path


@pytest.mark.parametrize("name", quick("t5"))
def test_unrolling_and_recomputing_change_no_result(name: str) -> None:
    params, batch, *wanted = reference(name)
    model = family(name, scan_layers=False, remat="full")
    assert_same(jax.jit(jax.value_and_grad(functools.partial(score, model)))(params, batch), (wanted[0], wanted[1]))


@pytest.mark.parametrize("name", quick("relative", among=("relative", "prefix_decoder", "gpt2", "glm", "llama")))
def test_a_cache_gives_what_a_whole_pass_gives(name: str) -> None:
    model, length = family(name), 10
    params = numpy_params(model)
    tokens = np.random.default_rng(0).integers(3, 64, (2, length)).astype(np.int32)
    positions = np.tile(np.arange(length, dtype=np.int32), (2, 1))
    whole = run(model, {"tokens": tokens, "positions": positions}, params)["tokens"]

    @jax.jit
    def decode(params: Any, tokens: Any, positions: Any, cache: Any) -> Any:
        merged = model.merge(params)
        hidden, cache = merged.decode(tokens, positions, cache)
        return merged.logits(hidden), cache

    first, cache = decode(params, tokens[:, :7], positions[:, :7], model.merge(params).begin({}, 2, length))
    found = [first]
    for i in range(7, length):
        logits, cache = decode(params, tokens[:, i : i + 1], positions[:, i : i + 1], cache)
        found.append(logits)
    np.testing.assert_allclose(jnp.concatenate(found, axis=1), whole, atol=2e-5)


def test_generation_is_for_those_that_go_on_from_a_text() -> None:
    causal = {name for name, (module, _) in FAMILIES.items() if module.Config().causal}
    assert causal == {"decoder", "relative", "gpt2", "llama", "prefix_decoder", "glm"}


LAYOUTS = {"fsdp": {"data": 2, "fsdp": 4}, "fsdp_tp": {"data": 2, "fsdp": 2, "tensor": 2}}


@pytest.mark.parametrize("layout", ["fsdp_tp", pytest.param("fsdp", marks=pytest.mark.slow)])
@pytest.mark.parametrize("name", quick("t5", "electra"))
def test_eight_devices_give_what_one_gives(name: str, layout: str) -> None:
    params, batch, *wanted = reference(name)
    eight = Partitioner(mesh.make(mesh.MeshSection(**LAYOUTS[layout])), layouts.resolve(layout))
    model = family(name, eight)
    assert not eight.misfits(model.table())
    placed = jax.device_put(params, map_with_dims(eight.weight, model.dims))
    rows = {k: jax.device_put(v, eight.batch(v.ndim)) for k, v in batch.items()}
    found = jax.jit(jax.value_and_grad(functools.partial(score, model)))(placed, rows)
    assert_same(found, (wanted[0], wanted[1]))


# ---- heads


def dense(x: np.ndarray, layer: Any) -> np.ndarray:
    return x @ np.asarray(layer["kernel"], np.float64) + np.asarray(layer["bias"], np.float64)


def layer_norm(x: np.ndarray, norm: Any) -> np.ndarray:
    y = x - x.mean(-1, keepdims=True)
    return y / np.sqrt((y**2).mean(-1, keepdims=True) + 1e-12) * np.asarray(norm["scale"]) + np.asarray(norm["bias"])


def gelu(x: np.ndarray) -> np.ndarray:
    return x * 0.5 * (1 + erf(x / np.sqrt(2)))


def test_heads_equal_numpy() -> None:
    model, batch = family("bert"), batch_of("bert")
    params = numpy_params(model)
    found = run(model, batch, params)
    hidden = np.asarray(jax.jit(lambda params: model.merge(params)(batch).hidden)(params), np.float64)
    pair, boundary, embedding = params["pair_head"], params["boundary_head"], np.asarray(params["embedder"]["embedding"], np.float64)
    wanted = dense(np.tanh(dense(hidden[:, 0], pair["pooler"])), pair["classifier"])
    np.testing.assert_allclose(found["pair"], wanted, atol=1e-5)
    places = np.asarray(boundary["position_embedding"])[batch["positions"][:, :5] % 20]
    x = np.concatenate([hidden[:, :5], hidden[:, 5:10], places], axis=-1)
    x = layer_norm(gelu(dense(x, boundary["first"])), boundary["first_norm"])
    x = layer_norm(gelu(dense(x, boundary["second"])), boundary["second_norm"])
    np.testing.assert_allclose(found["boundary"], x @ embedding.T + boundary["bias"], atol=2e-5)


def test_electra_judges_what_it_is_shown() -> None:
    model, batch = family("electra"), batch_of("electra")
    params = numpy_params(model)

    @jax.jit
    def judge(params: Any, tokens: jax.Array) -> jax.Array:
        return model.merge(params)(batch).heads["replaced"](tokens)

    shown = jnp.asarray(batch["tokens"])
    logits = judge(params, shown)
    assert logits.shape == shown.shape and logits.dtype == jnp.float32
    assert np.abs(logits - judge(params, shown.at[:, 0].set(9)))[:, 0].min() > 1e-4
    # One embedder serves both; a generator's own weights say nothing to the discriminator, and the other way round.
    for part, concerned in (("embedder", True), ("discriminator", True), ("generator", False), ("token_head", False)):
        changed = params | {part: jax.tree.map(lambda x: x * 1.1, params[part])}
        assert (np.abs(judge(changed, shown) - logits).max() > 1e-5) == concerned, part


def test_electra_runs_its_discriminator_when_asked() -> None:
    model, batch = family("electra", vocab_size=256), batch_of("electra")

    def count(all_heads: bool) -> float:
        def forward(params: Any) -> Any:
            outputs = model.merge(params)(batch)
            logits = outputs.logits(outputs.hidden)
            return (logits, outputs.heads["replaced"](batch["tokens"])) if all_heads else logits

        return float(jax.jit(forward).lower(model.abstract).cost_analysis()["flops"])

    assert count(all_heads=True) > 1.5 * count(all_heads=False)


@pytest.mark.parametrize(
    ("module", "change", "message"),
    [
        (bert, {"heads": ("replaced",)}, "'bert' has no head 'replaced', it can have 'pair' and 'boundary'"),
        (electra, {"heads": ("pair",)}, "'electra' has no head 'pair', it can have 'replaced'"),
        (t5, {"heads": ("pair",)}, "'t5' has no head 'pair', it can have none beyond tokens"),
        (electra, {"generator_size": 0.7}, "generator_size 0.7 gives a generator that cannot be: model.d_model 22 is not divisible"),
    ],
)
def test_models_that_cannot_be(module: ModuleType, change: dict[str, Any], message: str) -> None:
    with pytest.raises(InputError, match=message):
        build(module, **change)


def test_one_token_type_takes_any() -> None:
    model, batch = family("roberta"), batch_of("roberta")
    found = run(model, batch)["tokens"]
    np.testing.assert_array_equal(found, run(model, batch | {"token_types": 1 - batch["token_types"]})["tokens"])


def test_block_positions_matter_to_glm() -> None:
    model, batch = family("glm"), batch_of("glm")
    found = run(model, batch)["tokens"]
    assert np.abs(found - run(model, batch | {"block_positions": batch["block_positions"] * 0})["tokens"]).max() > 1e-3
    without = {k: v for k, v in batch.items() if k != "block_positions"}
    np.testing.assert_array_equal(run(model, without)["tokens"], run(model, batch | {"block_positions": batch["tokens"] * 0})["tokens"])


@pytest.mark.parametrize("name", FAMILIES)
def test_dtypes(name: str) -> None:
    """Hidden states in bfloat16, what losses read in float32, weights in float32."""
    model = family(name, dtype="bfloat16")
    assert {leaf.dtype for leaf in jax.tree.leaves(model.abstract)} == {jnp.dtype("float32")}
    batch = {k: jnp.asarray(v) for k, v in batch_of(name).items()}
    hidden = jax.eval_shape(lambda params: model.merge(params)(batch).hidden, model.abstract)
    found = jax.eval_shape(functools.partial(everything, model), model.abstract, batch)
    assert hidden.dtype == jnp.bfloat16 and {x.dtype for x in found.values()} == {jnp.dtype("float32")}


# ---- FLOPs


@pytest.mark.parametrize("name", quick("t5", "electra", among=("t5", "electra", "bert", "glm", "bart", "encoder")))
def test_flops_equal_the_compilers_count(name: str) -> None:
    # Wide enough that norms, activations and softmax, which the formula leaves out, are a few per cent.
    sizes: dict[str, Any] = {"d_model": 512, "mlp_dim": 1536, "num_heads": 2, "head_dim": 256, "vocab_size": 2048, "max_length": 144}
    sizes |= {"scan_layers": False}
    sizes |= {"embedding_size": 256} if name in ("electra", "encoder") else {}
    sizes |= {"heads": ("pair",)} if name in ("bert", "encoder") else {}
    model, batch = family(name, **sizes), batch_of(name, length=128)
    counted = jax.jit(functools.partial(everything, model)).lower(model.abstract, batch).compile().cost_analysis()["flops"]
    features = {k: v.shape[1:] for k, v in batch.items()}
    row = flops.forward_flops_per_row(model.config, features)
    assert 2 * row == pytest.approx(counted, rel=0.03)
    assert flops.train_flops_per_row(model.config, features) == 3 * row
    head = flops.head_flops(model.config.towers[0 if name == "electra" else -1].config, 1)
    assert row - flops.forward_flops_per_row(model.config, features, num_predicted=28) == pytest.approx(100 * head)


def test_flops_of_the_boundary_head_are_counted_by_hand() -> None:
    plain, headed = build(bert).config, build(bert, heads=("boundary",)).config
    extra = [flops.forward_flops_per_row(c, {"tokens": (16,)}, num_predicted=3) for c in (headed, plain)]
    assert extra[0] - extra[1] == 2 * 3 * ((64 + 200) * 32 + 32 * 32 + 32 * 64)


# ---- Hugging Face's names


HF: dict[str, tuple[str, Callable[[], Skeleton]]] = {
    "gpt2": ("gpt2", lambda: family("gpt2")),
    "llama": ("llama", lambda: family("llama", num_kv_heads=2)),
    "bert": ("bert", lambda: family("bert", heads=("pair",))),
    "bert, tokens only": ("bert", lambda: build(bert)),
    "roberta": ("roberta", lambda: family("roberta")),
    "electra": ("electra", lambda: family("electra")),
    "t5": ("t5", lambda: family("t5")),
    "t5_v1_1": ("t5", lambda: family("t5_v1_1")),
    "bart": ("bart", lambda: family("bart")),
}


@pytest.mark.parametrize("name", HF)
def test_to_their_names_and_back(name: str) -> None:
    theirs, make = HF[name]
    model = make()
    params = numpy_params(model)
    state = hf.to_hf(theirs, params)
    again = hf.from_hf(theirs, state, model)
    assert jax.tree.structure(again) == jax.tree.structure(params)
    for (path, a), (_, b) in zip(flatten(again), flatten(params), strict=True):
        assert a.dtype == b.dtype
        np.testing.assert_array_equal(a, b, err_msg=path)
    distinct = sum(x.size for key, x in state.items() if key not in hf.TABLES[theirs]().zeros and not is_copy(theirs, key, model))
    assert distinct == model.num_params  # each number once, beside the copies


def is_copy(theirs: str, key: str, model: Skeleton) -> bool:
    own_head = key == "lm_head.weight" and not model.config.tied_head
    return not own_head and any(key == c or (c.endswith(".") and key.startswith(c)) for c in hf.TABLES[theirs]().copies)


def test_names_that_do_not_fit_are_named() -> None:
    model = family("gpt2")
    state = hf.to_hf("gpt2", numpy_params(model))
    with pytest.raises(InputError, match=r"missing transformer\.h\.1\.attn\.c_attn\.bias$"):
        hf.from_hf("gpt2", {k: v for k, v in state.items() if k != "transformer.h.1.attn.c_attn.bias"}, model)
    with pytest.raises(InputError, match=r"left over transformer\.h\.2\.ln_1\.bias, what\.is\.this"):
        hf.from_hf("gpt2", state | {"what.is.this": np.ones(2), "transformer.h.2.ln_1.bias": np.ones(32)}, model)
    with pytest.raises(InputError, match=r"transformer\.wpe\.weight: expected the shape \(16, 32\) for this model, found \(17, 32\)"):
        hf.from_hf("gpt2", state | {"transformer.wpe.weight": np.ones((17, 32))}, model)
    with pytest.raises(InputError, match=r"lm_head\.weight differs from transformer\.wte\.weight"):
        hf.from_hf("gpt2", state | {"lm_head.weight": state["lm_head.weight"] + 1}, model)
    with pytest.raises(InputError, match="unknown family 'gpt3'; did you mean 'gpt2'"):
        hf.from_hf("gpt3", state, model)
    with pytest.raises(InputError, match="has no token_head/kernel, which this model has"):
        hf.to_hf("gpt2", numpy_params(family("gpt2", tied_head=False)))
    biased = hf.to_hf("bart", numpy_params(family("bart")))
    with pytest.raises(InputError, match="final_logits_bias is not zero"):
        hf.from_hf("bart", biased | {"final_logits_bias": np.ones((1, 64))}, family("bart"))


def test_copies_and_old_buffers_may_be_absent_or_there() -> None:
    model = family("gpt2")
    params = numpy_params(model)
    state = hf.to_hf("gpt2", params)
    del state["lm_head.weight"]
    state["transformer.h.0.attn.bias"] = np.tril(np.ones((1, 1, 16, 16)))
    for a, b in zip(jax.tree.leaves(hf.from_hf("gpt2", state, model)), jax.tree.leaves(params), strict=True):
        np.testing.assert_array_equal(a, b)
