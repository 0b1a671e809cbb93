"""Generation: the cache changes nothing, filters keep what they say, beams find what there is, and no prompt disturbs another."""

import itertools
from dataclasses import replace
from types import ModuleType
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from support import BYTES, numpy_params, quick_first

from pretrainx.core.errors import InputError
from pretrainx.core.sections import Data
from pretrainx.evaluate.beam import Beam
from pretrainx.evaluate.generate import Generation, Generator, prompter
from pretrainx.evaluate.sampling import Sampling, draw, filter_logits
from pretrainx.models import bart, decoder, encoder, encoder_decoder, glm, prefix_decoder, skeleton, t5
from pretrainx.models.skeleton import Skeleton
from pretrainx.objectives.examples import from_pieces, make_objective
from pretrainx.objectives.interface import Prompt
from pretrainx.parallel import layouts, mesh
from pretrainx.parallel.shard import Partitioner

ONE = Partitioner(mesh.make(mesh.MeshSection(), jax.devices()[:1]), layouts.resolve("dp"))
SMALL = {"vocab_size": 264, "d_model": 32, "num_layers": 2, "num_heads": 4, "mlp_dim": 48, "max_length": 128}
EOS, WORDS = BYTES.special.eos, replace(BYTES, size=300, num_sentinels=36)
TEXTS = ["a", "short?", "hello there"]


def build(module: ModuleType = decoder, partitioner: Partitioner = ONE, **change: Any) -> Skeleton:
    return skeleton.build(module, module.Config(**(SMALL | change)), partitioner)


def causal(text: list[int]) -> Prompt:
    return Prompt([BYTES.special.start, *text])


def whole_prefix(text: list[int]) -> Prompt:
    return Prompt([BYTES.special.start, *text], seen=len(text) + 1)


def translate(text: list[int]) -> Prompt:
    return Prompt([BYTES.special.start, 70], source=[*text, EOS])


PASSES: dict[Any, Any] = {}


def whole_pass(model: Skeleton) -> Any:
    """Jitted log-probabilities float32 [L, V] after each token of a row; what stands behind a token does not matter to it."""

    def run(params: Any, batch: Any) -> jax.Array:
        outputs = model.merge(params)(batch)
        return jax.nn.log_softmax(outputs.logits(outputs.hidden[0]))

    return PASSES.setdefault(model.init, jax.jit(run))


def log_probs(model: Skeleton, params: Any, prompt: Prompt, made: list[int]) -> np.ndarray:
    """float32 [len(made) + 1, V]: of each token that was made and of the one after, in one pass without a cache."""

    def row(tokens: list[int], length: int) -> np.ndarray:
        return np.asarray([tokens + [0] * (length - len(tokens))], np.int32)

    tokens, length = [*prompt.tokens, *made], 32
    batch = {"tokens": row(tokens, length), "positions": np.arange(length)[None], "segment_ids": row([1] * len(tokens), length)}
    batch["bidirectional"] = row([1] * prompt.seen, length)
    if prompt.source:
        ones = row([1] * len(prompt.source), length)
        batch |= {"encoder_tokens": row(prompt.source, length), "encoder_positions": np.arange(length)[None], "encoder_segment_ids": ones}
    return np.asarray(whole_pass(model)(params, batch))[len(prompt.tokens) - 1 : len(tokens)]


def uncached(model: Skeleton, params: Any, prompt: Prompt, num_tokens: int) -> list[int]:
    """Greedy, the whole sequence anew for each token."""
    made: list[int] = []
    while len(made) < num_tokens and EOS not in made:
        made.append(int(np.argmax(log_probs(model, params, prompt, made)[-1])))
    return made


VARIANTS: dict[str, tuple[ModuleType, dict[str, Any], Any]] = {
    "gqa": (decoder, {"num_kv_heads": 2, "qk_norm": True, "attention_softcap": 10.0}, causal),
    "learned": (decoder, {"positions": "learned", "norm": "layer", "use_bias": True, "num_token_types": 2}, causal),
    "unrolled": (decoder, {"scan_layers": False, "tied_head": True, "remat": "full"}, causal),
    "bfloat16": (decoder, {"dtype": "bfloat16", "num_kv_heads": 1}, causal),
    "prefix": (prefix_decoder, {}, whole_prefix),
    "relative_prefix": (prefix_decoder, {"positions": "relative"}, whole_prefix),
    "glm": (glm, {"tied_head": False}, whole_prefix),
    "encoder_decoder": (encoder_decoder, {"num_decoder_layers": 3, "num_kv_heads": 2, "qk_norm": True}, translate),
    "t5": (t5, {}, translate),
    "t5_unrolled": (t5, {"scan_layers": False, "remat": "full"}, translate),
    "bart": (bart, {"tied_head": False}, translate),
}


def varied(name: str) -> tuple[Skeleton, Any, Any]:
    module, change, prompt = VARIANTS[name]
    model = build(module, **change)
    params = numpy_params(model, seed=3)
    # Or positions and biases drown the tokens, and it says one thing for ever.
    params["embedder"]["embedding"] *= 16 if name in ("learned", "glm", "bart") else 1
    return model, params, prompt


QUICK = ("gqa", "relative_prefix", "t5")


@pytest.mark.parametrize("variant", quick_first(VARIANTS, QUICK))
def test_cached_greedy_equals_uncached(variant: str) -> None:
    model, params, prompt = varied(variant)
    found = Generator(model, BYTES, prompt, Sampling(temperature=0), 10, batch_size=2)(params, TEXTS)
    prompts = [prompt(BYTES.encode(text)) for text in TEXTS]
    wanted = [uncached(model, params, p, 10) for p in prompts]
    # the model says different things
    assert len({tuple(w) for w in wanted}) == 3 and len({token for row in wanted for token in row}) > 4
    for made, tokens, asked in zip(found, wanted, prompts, strict=True):
        # In bfloat16 two logits may be equal to the last bit, and then either is the greatest: the start must agree.
        cut = 4 if variant == "bfloat16" else 10
        assert made.tokens.tolist()[:cut] == tokens[:cut]
        if variant != "bfloat16":
            said = log_probs(model, params, asked, tokens)
            assert made.nats == pytest.approx(sum(said[i, t] for i, t in enumerate(tokens)), abs=1e-3)


@pytest.mark.parametrize("variant", ["gqa", "t5"])
@pytest.mark.parametrize("choice", [Sampling(1.0, top_p=0.9), Beam(3)], ids=["sampling", "beam"])
def test_neither_batch_nor_order_nor_mesh_matters(variant: str, choice: Sampling | Beam) -> None:
    model, params, prompt = varied(variant)
    module, change, _ = VARIANTS[variant]
    texts = [*TEXTS, "x" * 40, "", "yes, and " * 5, "seven"]
    alone = Generator(model, BYTES, prompt, choice, 12, batch_size=1)(params, texts, seed=5)
    together = Generator(model, BYTES, prompt, choice, 12, batch_size=7)(params, texts, seed=5)
    wide = Partitioner(mesh.make(mesh.MeshSection(data=2, fsdp=2, tensor=2)), layouts.resolve("fsdp"))
    spread = build(module, wide, **change)
    laid = jax.tree.map(jax.device_put, params, skeleton.map_with_dims(wide.weight, spread.dims))
    on_mesh = Generator(spread, BYTES, prompt, choice, 12, batch_size=6)(laid, texts, seed=5)
    assert len({generation.text for generation in alone}) > 5
    for other in (together, on_mesh):
        assert [g.tokens.tolist() for g in other] == [g.tokens.tolist() for g in alone]
        np.testing.assert_allclose([g.nats for g in other], [g.nats for g in alone], atol=1e-3)
    if isinstance(choice, Sampling):
        assert [g.text for g in Generator(model, BYTES, prompt, choice, 12)(params, texts, seed=6)] != [g.text for g in alone]


@pytest.mark.parametrize("penalty", [0.0, 0.6, 2.0])
@pytest.mark.parametrize("variant", ["gqa", pytest.param("t5", marks=pytest.mark.slow)])
def test_enough_beams_find_the_best_of_all_texts(variant: str, penalty: float) -> None:
    module, change, prompt = VARIANTS[variant]
    model = build(module, **(change | {"vocab_size": 5}))
    params = numpy_params(model, seed=1)
    few, N = replace(BYTES, size=5), 3  # of which the first three are special
    asked = prompt([])
    asked = Prompt([0, 3], source=[4, 3, 2] if asked.source else None)
    best, best_score = [], -np.inf
    for length in range(1, N + 1):
        for tokens in itertools.product(range(5), repeat=length):
            if EOS in tokens[:-1] or (length < N and tokens[-1] != EOS):
                continue
            said = log_probs_of(model, params, asked, list(tokens))
            if said / ((5 + length) / 6) ** penalty > best_score:
                best, best_score, best_nats = list(tokens), said / ((5 + length) / 6) ** penalty, said
    found = Generator(model, few, lambda text: asked, Beam(80, penalty), N)(params, ["", ""])[1]
    assert found.tokens.tolist() == best and found.nats == pytest.approx(best_nats, abs=1e-4)
    assert found.stopped == (EOS in best)


def log_probs_of(model: Skeleton, params: Any, prompt: Prompt, tokens: list[int]) -> float:
    said = log_probs(model, params, prompt, tokens)
    return float(sum(said[i, t] for i, t in enumerate(tokens)))


def test_one_beam_is_greedy_and_more_are_no_less_likely() -> None:
    model, params, prompt = varied("gqa")
    params["token_head"]["kernel"][:, EOS] = -params["token_head"]["kernel"][:, 50]  # it never stops, nearly
    greedy = Generator(model, BYTES, prompt, Sampling(0.0), 8)(params, TEXTS)
    one = Generator(model, BYTES, prompt, Beam(1, 0.0), 8)(params, TEXTS)
    many = Generator(model, BYTES, prompt, Beam(8, 0.0), 8)(params, TEXTS)
    for a, b, c in zip(greedy, one, many, strict=True):
        assert a.tokens.tolist() == b.tokens.tolist() and a.nats == pytest.approx(b.nats, abs=1e-4)
        assert c.nats >= a.nats - 1e-4
    assert any(c.nats > a.nats + 0.01 for a, c in zip(greedy, many, strict=True))


def reference(logits: np.ndarray, sampling: Sampling) -> np.ndarray:
    """The distribution by sorting in float64."""
    scaled = logits.astype(np.float64) / sampling.temperature
    order = np.argsort(-scaled, kind="stable")
    keep = np.zeros(len(scaled), bool)
    keep[order[: sampling.top_k or len(scaled)]] = True
    p = np.where(keep, np.exp(scaled - scaled.max()), 0)
    p /= p.sum()
    total = 0.0
    for index in order:
        if total >= sampling.top_p:
            keep[index] = False
        total += p[index]
    p = np.where(keep, p, 0)
    return p / p.sum()


@given(
    seed=st.integers(0, 500),
    k=st.sampled_from([0, 1, 3, 20, 99]),
    p=st.sampled_from([1.0, 0.9, 0.01]),
    temperature=st.sampled_from([0.3, 2.0]),
)
@settings(max_examples=40)
def test_filters_equal_numpy(seed: int, k: int, p: float, temperature: float) -> None:
    logits = np.random.default_rng(seed).normal(size=20).astype(np.float32) * 2
    sampling = Sampling(temperature, k, p)
    found = np.asarray(jax.nn.softmax(filter_logits(jnp.asarray(logits), sampling)))
    np.testing.assert_allclose(found, reference(logits, sampling), atol=1e-5)


def test_draws_follow_the_distribution() -> None:
    logits, sampling = np.asarray([2.0, 1.0, 0.0, -1.0, -9.0], np.float32), Sampling(1.0, 4, 0.97)
    drawn = np.asarray(draw(jax.random.split(jax.random.key(0), 20_000), jnp.broadcast_to(jnp.asarray(logits), (20_000, 5)), sampling))
    wanted = reference(logits, sampling)
    shares = np.bincount(drawn, minlength=5) / 20_000
    assert np.all(np.abs(shares - wanted) <= 5 * np.sqrt(wanted * (1 - wanted) / 20_000))


def test_temperature_zero_is_the_greatest_logit() -> None:
    logits = jnp.asarray(np.random.default_rng(0).normal(size=(7, 11)))
    for seed in range(3):
        assert np.array_equal(draw(jax.random.split(jax.random.key(seed), 7), logits, Sampling(0.0)), np.argmax(logits, -1))


@pytest.fixture(scope="module")
def biased() -> tuple[Skeleton, Any]:
    """A model that gives end-of-document a fair chance."""
    model = build(vocab_size=300)  # rounded up, as one does for a mesh: the last ids are no token
    params = numpy_params(model, seed=1)
    params["token_head"]["kernel"][:, EOS] *= 2
    return model, params


def many(biased: tuple[Skeleton, Any], **options: Any) -> list[Generation]:
    model, params = biased
    return Generator(model, BYTES, causal, Sampling(1.0), 40, batch_size=64, **options)(params, ["ab"] * 64)


def test_a_text_ends_where_the_document_does(biased: tuple[Skeleton, Any]) -> None:
    made = many(biased)
    stopped = [g for g in made if g.stopped]
    assert 0 < len(stopped) < 64 and len({g.text for g in made}) > 32
    for generation in made:
        tokens = generation.tokens.tolist()
        assert max(tokens) < BYTES.size  # never an id that stands for nothing
        assert (tokens[-1] == EOS) == generation.stopped and EOS not in tokens[:-1]
        assert generation.stopped or len(tokens) == 40
        assert generation.text == BYTES.decode([t for t in tokens if t != EOS])
    assert [g.text for g in many(biased)] == [g.text for g in made]


def test_a_text_ends_before_a_stop_text(biased: tuple[Skeleton, Any]) -> None:
    made, wanted = many(biased), ("e", "ab", "\x80")
    found = many(biased, stop=wanted)
    cut = 0
    for before, after in zip(made, found, strict=True):
        places = [place for place in (before.text.find(stop) for stop in wanted) if place >= 0]
        assert after.text == before.text[: min(places, default=None)]
        assert after.stopped == (before.stopped or bool(places))
        cut += bool(places)
    assert 3 < cut


def test_a_prompt_says_what_else_stops(biased: tuple[Skeleton, Any]) -> None:
    model, params = biased
    stops = tuple(range(3, 120))
    found = Generator(model, BYTES, lambda text: Prompt([0, *text], stop=stops), Sampling(1.0), 40, batch_size=64)(params, ["ab"] * 64)
    for generation in found:
        assert generation.stopped and not set(generation.tokens[:-1].tolist()) & {EOS, *stops}
        assert generation.tokens[-1] in (EOS, *stops)
    assert Generator(model, BYTES, lambda text: Prompt([0, *text], stop=stops), Beam(4), 40)(params, ["ab"])[0].stopped


def test_the_device_says_what_it_did(biased: tuple[Skeleton, Any]) -> None:
    model, params = biased
    generator = Generator(model, BYTES, causal, Sampling(1.0), 8, batch_size=4)
    made = generator(params, ["ab", "c" * 50, ""])
    assert generator.speed.tokens == sum(len(g.tokens) for g in made) and generator.speed.prompt_tokens == 3 + 51 + 1
    assert generator.speed.seconds > 0 and "tokens made at" in str(generator.speed)


def objective(name: str, **options: Any) -> Any:
    """One on windows of 8 tokens, so that span corruption has a single span, the last."""
    return make_objective("own", Data(sequence_length=64, objectives={"own": {"objective": name, **options}}), WORDS)


PROMPTED: list[tuple[str, dict[str, Any], ModuleType]] = [
    ("causal", {}, decoder),
    ("prefix", {}, prefix_decoder),
    ("prefix", {"form": "encoder_decoder"}, t5),
    ("prefix", {"form": "encoder_decoder", "mode_token": -2}, t5),
    ("span_corruption", {"window_length": 8}, t5),
    ("span_corruption", {"window_length": 8, "form": "decoder", "mode_token": -1}, prefix_decoder),
    ("ul2", {"denoisers": [["S", 0, 0.25]], "form": "decoder"}, prefix_decoder),
    ("ul2", {"denoisers": [["S", 0, 0.25]]}, t5),
    ("denoising", {"transforms": ["token_masking"], "mask_rate": 0.0001}, bart),
]


@pytest.mark.parametrize(
    ("name", "options", "module"), PROMPTED, ids=[f"{n}-{m.__name__.split('.')[-1]}-{i}" for i, (n, _, m) in enumerate(PROMPTED)]
)
def test_a_prompt_is_what_was_read_in_training(name: str, options: dict[str, Any], module: ModuleType) -> None:
    """Of a training example: the tokens up to the first that is predicted are what the text before it is prompted with."""
    made = objective(name, **options)
    ask = prompter(module.Config(**SMALL), [made])
    text = np.arange(10, 10 + made.window_length).astype(np.int32)
    lengths = set()
    for seed in range(12):
        row = made.example(from_pieces(text, [(0, len(text))], BYTES.special.start), np.random.default_rng(seed))
        told = row["targets"][row["loss_weights"] > 0].tolist()
        first = next(token for token in told if 10 <= token < 10 + len(text))
        prompt = ask(text[: first - 10].tolist())
        read = row["tokens"][: row["targets"].tolist().index(first) + 1].tolist()
        lengths.add(len(read))
        if name == "denoising":  # what is told anew begins at the start
            prompt = ask(text.tolist())
            assert prompt.source is not None and prompt.source[:-1] == row["encoder_tokens"][row["encoder_segment_ids"] > 0].tolist()
            assert prompt.source[-1] == WORDS.special.mask and prompt.tokens[: len(text)] == row["tokens"].tolist()
            continue
        assert prompt.tokens == read
        if "bidirectional" in row:
            assert prompt.seen == row["bidirectional"].sum()
        if "encoder_tokens" in row:
            assert prompt.source == row["encoder_tokens"][row["encoder_segment_ids"] > 0].tolist()
    assert len(lengths) > 1 or name not in ("prefix", "ul2") or module is t5


def test_the_most_natural_objective_prompts() -> None:
    config = prefix_decoder.Config(**SMALL)
    spans, prefix, plain = objective("span_corruption", form="decoder"), objective("prefix"), objective("causal")
    assert prompter(config, [spans, prefix, plain])([7]) == plain.prompt([7])
    assert prompter(config, [spans, prefix])([7]) == prefix.prompt([7])
    assert prompter(config, [objective("masked"), spans])([7]) == spans.prompt([7])
    assert objective("ul2", form="decoder").prompt([7]).seen == 2  # by S, whatever stands first
    assert objective("fill_in_middle").prompt([7]) == plain.prompt([7])


def test_what_cannot_generate() -> None:
    with pytest.raises(InputError, match="model.name 'encoder': cannot generate"):
        prompter(encoder.Config(**SMALL), [objective("masked"), objective("causal")])
    model = build(positions="learned", max_length=42)
    with pytest.raises(InputError, match="prompt 2 takes 44 positions with its continuation, and the model has 42 learned ones"):
        Generator(model, BYTES, causal, Sampling(), 40)({}, ["", "abc"])
    with pytest.raises(InputError, match="num_tokens 0"):
        Generator(model, BYTES, causal, Sampling(), 0)
    with pytest.raises(InputError, match="--stop ''"):
        Generator(model, BYTES, causal, Sampling(), 4, stop=["a", ""])


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: Sampling(-1.0), "temperature -1"),
        (lambda: Sampling(1.0, -2), "top_k -2"),
        (lambda: Sampling(1.0, 0, 0.0), "top_p 0"),
        (lambda: Sampling(1.0, 0, 1.5), "top_p 1.5"),
        (lambda: Beam(0), "num_beams 0"),
        (lambda: Beam(2, -0.5), "length_penalty -0.5"),
    ],
)
def test_choices_have_ranges(make: Any, message: str) -> None:
    with pytest.raises(InputError, match=message):
        make()
