"""Likelihoods of continuations: closed forms, a decoder in NumPy, brute force for masked models; and what must not matter."""

import math
from collections.abc import Callable, Sequence
from dataclasses import replace
from types import ModuleType
from typing import Any

import jax
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from support import BYTES, documents, numpy_params

from pretrainx.core.errors import InputError
from pretrainx.core.sections import Data
from pretrainx.core.vocabulary import SpecialIds, Vocabulary
from pretrainx.evaluate.likelihood import Likelihood, Scorer, spell, way_for
from pretrainx.models import decoder, encoder, prefix_decoder, skeleton, t5
from pretrainx.models.skeleton import Params, Skeleton
from pretrainx.objectives import packing
from pretrainx.objectives.examples import make_objective
from pretrainx.objectives.interface import Prompt
from pretrainx.parallel import layouts, mesh
from pretrainx.parallel.shard import Partitioner
from pretrainx.tasks import vocabulary_spec

WINDOW = 64
SMALL: dict[str, Any] = {"vocab_size": 264, "d_model": 32, "num_layers": 2, "num_heads": 4, "mlp_dim": 64, "max_length": WINDOW}
START = BYTES.special.start

# Contexts and continuations of many lengths; short ones twice, one pair whose context ends in spaces, one without context.
ITEMS = [(text[: 3 * i], text[3 * i : 4 * i + 1 + i % 3]) for i, text in enumerate(documents()[:13])]
ITEMS += [("The end ", "is near"), ("The end", " is near"), ("", "Who?"), ("q", "\u00e9t\u00e9"), ("q", "\u00e9t\u00e9")]


def build(module: ModuleType = decoder, layout: str = "dp", sizes: dict[str, int] | None = None, **change: Any) -> Skeleton:
    section = mesh.MeshSection(**(sizes or {"data": 1}))
    devices = jax.devices()[: math.prod((sizes or {"data": 1}).values())]
    return skeleton.build(module, module.Config(**(SMALL | change)), Partitioner(mesh.make(section, devices), layouts.resolve(layout)))


@pytest.fixture(scope="module")
def model() -> Skeleton:
    return build()


@pytest.fixture(scope="module")
def params(model: Skeleton) -> Params:
    return numpy_params(model)


def ids(text: str) -> list[int]:
    return BYTES.encode(text)


def log_softmax(logits: np.ndarray) -> np.ndarray:
    logits = np.asarray(logits, np.float64)
    top = logits.max(-1, keepdims=True)
    return logits - top - np.log(np.exp(logits - top).sum(-1, keepdims=True))


# ---- a decoder in NumPy, in float64


def decoder_logits(params: Params, tokens: Sequence[int]) -> np.ndarray:
    """[L, V] of one unpadded row: norm, rotary attention, gated MLP, twice."""
    p = jax.tree.map(lambda x: np.asarray(x, np.float64), params)

    def norm(x: np.ndarray, scale: np.ndarray) -> np.ndarray:
        return x / np.sqrt((x * x).mean(-1, keepdims=True) + 1e-6) * scale

    def turned(x_LNH: np.ndarray) -> np.ndarray:
        half = x_LNH.shape[-1] // 2
        angle = np.arange(len(x_LNH))[:, None, None] * 10_000.0 ** (-np.arange(half) / half)
        z = (x_LNH[..., :half] + 1j * x_LNH[..., half:]) * np.exp(1j * angle)
        return np.concatenate([z.real, z.imag], -1)

    x = p["embedder"]["embedding"][list(tokens)]
    blocks = p["stack"]["blocks"]
    for i in range(SMALL["num_layers"]):
        b = jax.tree.map(lambda a, i=i: a[i], blocks)
        y = norm(x, b["attention_norm"]["scale"])
        q, k, v = (np.einsum("LD,DNH->LNH", y, b["attention"][name]) for name in ("query", "key", "value"))
        q, k = turned(q) / math.sqrt(q.shape[-1]), turned(k)
        scores = np.where(np.tri(len(x), dtype=bool), np.einsum("TNH,SNH->NTS", q, k), -np.inf)
        mixed = np.einsum("NTS,SNH->TNH", np.exp(log_softmax(scores)), v)
        x = x + np.einsum("TNH,NHD->TD", mixed, b["attention"]["out"])
        y = norm(x, b["mlp_norm"]["scale"])
        gate = y @ b["mlp"]["gate"]
        x = x + (gate / (1 + np.exp(-gate)) * (y @ b["mlp"]["up"])) @ b["mlp"]["down"]
    return norm(x, p["stack"]["final_norm"]["scale"]) @ p["token_head"]["kernel"]


def in_numpy(params: Params, read: Sequence[int], targets: Sequence[int], first: int) -> tuple[float, bool]:
    """Log-likelihood of targets[first:], and whether all are the first guess."""
    logs = log_softmax(decoder_logits(params, read))
    places = np.arange(first, len(targets))
    return float(logs[places, np.asarray(targets)[places]].sum()), bool((logs.argmax(-1) == targets)[places].all())


@pytest.fixture(scope="module")
def found(model: Skeleton, params: Params) -> list[Likelihood]:
    return Scorer(model, BYTES, 4)(params, ITEMS)


def test_equals_a_float64_decoder_row_by_row(params: Params, found: list[Likelihood]) -> None:
    assert len({len(ids(a + b)) for a, b in ITEMS}) > 10 and max(len(ids(a + b)) for a, b in ITEMS) <= WINDOW
    for (context, continuation), mine in zip(ITEMS, found, strict=True):
        targets = ids(context + continuation)
        first = len(ids(context.rstrip()))
        nats, greedy = in_numpy(params, [START, *targets[:-1]], targets, first)
        assert mine.nats == pytest.approx(nats, rel=3e-6)  # float32 through two layers
        assert (mine.greedy, mine.num_tokens, mine.num_bytes) == (greedy, len(targets) - first, len(targets) - first)
        assert not mine.cut and not mine.crossed


def test_first_guesses_are_greedy_and_one_other_token_is_not(model: Skeleton, params: Params) -> None:
    text = ids("The ")
    for _ in range(5):
        text.append(int(decoder_logits(params, [START, *text])[-1].argmax()))
    ascii_vocabulary = Vocabulary("bytes", 264, SpecialIds(bos=259))
    scorer = Scorer(model, ascii_vocabulary, 1)
    scorer.encode = lambda text: [ord(c) for c in text]  # ids of any kind, as if they were text
    context, rest = "".join(map(chr, text[:4])), "".join(map(chr, text[4:]))
    wrong = rest[:2] + chr((ord(rest[2]) + 1) % 256) + rest[3:]
    assert [x.greedy for x in scorer(params, [(context, rest), (context, wrong), (context, wrong[:2])])] == [True, False, True]


def test_order_does_not_matter_to_the_last_bit(model: Skeleton, params: Params, found: list[Likelihood]) -> None:
    order = np.random.default_rng(0).permutation(len(ITEMS))
    again = Scorer(model, BYTES, 4)(params, [ITEMS[i] for i in order])
    assert again == [found[i] for i in order]
    assert found[13] == found[14] and found[16] == found[17]  # the same question; and the same but for where the space is


MESHES: dict[str, tuple[str, dict[str, int]]] = {
    "eight rows": ("dp", {"data": 8}),
    "sharded weights, vocabulary and length": ("fsdp_tp", {"fsdp": 2, "tensor": 2, "sequence": 2}),
}


@pytest.mark.parametrize("batch_size", [1, 3, 500])
def test_batch_size_does_not_matter(model: Skeleton, params: Params, found: list[Likelihood], batch_size: int) -> None:
    same(Scorer(model, BYTES, batch_size)(params, ITEMS), found)


@pytest.mark.parametrize("name", MESHES)
def test_mesh_does_not_matter(params: Params, found: list[Likelihood], name: str) -> None:
    layout, sizes = MESHES[name]
    cut = build(layout=layout, sizes=sizes)
    placed = jax.device_put(params, skeleton.map_with_dims(cut.partitioner.weight, cut.dims))
    same(Scorer(cut, BYTES, 5)(placed, ITEMS), found)


def same(mine: Sequence[Likelihood], wanted: Sequence[Likelihood]) -> None:
    """Equal, but for the order in which float32 products are summed."""
    assert [replace(x, nats=0.0) for x in mine] == [replace(x, nats=0.0) for x in wanted]
    np.testing.assert_allclose([x.nats for x in mine], [x.nats for x in wanted], rtol=3e-6)


def test_a_row_is_scored_once_and_lengths_are_few(model: Skeleton) -> None:
    scorer = Scorer(model, BYTES, 2)
    texts = documents()[0]
    items = [(texts[:i], texts[i : i + 1]) for i in range(WINDOW)] * 3
    rows = {row.key: row for item in items for row in scorer.rows(spell(BYTES.encode, item))}
    plan = list(scorer.batches(list(rows), rows))
    assert sorted(key for keys, _ in plan for key in keys) == sorted(rows) and len(rows) == WINDOW
    assert {lengths for _, lengths in plan} == {(32, 0), (64, 0)}
    assert all(len(rows[key].tokens) <= lengths[0] for keys, lengths in plan for key in keys)
    assert (scorer.rows_of(32), scorer.rows_of(64)) == (4, 2)  # always about as many tokens
    assert [scorer.padded(n) for n in (1, 32, 33, 64)] == [32, 32, 64, 64]


# ---- closed forms


def test_an_even_model_pays_the_log_of_the_vocabulary(model: Skeleton, params: Params) -> None:
    even = params | {"token_head": {"kernel": np.zeros_like(params["token_head"]["kernel"])}}
    each, *mine = Scorer(model, BYTES, 3)(even, [("", "a"), *ITEMS])
    assert each.nats == pytest.approx(-math.log(264), rel=1e-7)
    for x in mine:
        assert x.nats == x.num_tokens * each.nats  # equal losses add up to the last bit
        assert not x.greedy
    assert len({x.num_tokens for x in mine}) > 10


def test_a_bigram_model_pays_what_was_counted() -> None:
    """No layer adds anything, embeddings are one-hot, and the head holds the logs of counted pairs."""
    V = 264
    flat = build(d_model=V, num_layers=1, num_heads=2, num_kv_heads=1, mlp_dim=8)
    counts = np.ones((V, V))
    text = [START, *ids("".join(documents()[:20]))]
    np.add.at(counts, (text[:-1], text[1:]), 1)
    logs = np.log(counts / counts.sum(1, keepdims=True))
    weights = jax.tree.map(lambda leaf: np.zeros(leaf.shape, np.float32), flat.abstract)
    weights["embedder"]["embedding"] = np.eye(V, dtype=np.float32)
    weights["stack"]["final_norm"]["scale"] = np.full(V, 1 / math.sqrt(V), np.float32)  # undoes the norm of a one-hot
    weights["token_head"]["kernel"] = logs.astype(np.float32)
    mine = Scorer(flat, BYTES, 4)(weights, [("The cl", "ass of"), ("", "The"), ("i", "zq")])
    for (read, said), x in zip([("lass o", "ass of"), (None, "The"), ("iz", "zq")], mine, strict=True):
        pairs = zip(ids(read) if read else [START, *ids("Th")], ids(said), strict=False)
        # one-hots have mean square 1/V, to which the norm adds its 1e-6: 264e-6 / 2 relative on the logits
        assert x.nats == pytest.approx(sum(logs[a, b] for a, b in list(pairs)[-len(said) :]), rel=2e-3)
    ones = Scorer(flat, BYTES, 4)(weights, [("t", chr(int(logs[ids("t")[0]].argmax()) - 3))])
    assert ones[0].greedy


# ---- the seam

PIECES = ["the ", " of the", "of", ". T", "hes", "is ", " is", ":\n", "  ", "é"]


def longest_match(text: str) -> list[int]:
    """A lossless vocabulary whose pieces cross words: the longest piece that fits, or one character."""
    found = []
    while text:
        piece = max((p for p in PIECES if text.startswith(p)), key=len, default=text[0])
        found.append(PIECES.index(piece) if piece in PIECES else 1000 + ord(piece))
        text = text[len(piece) :]
    return found


def spelled(tokens: Sequence[int] | np.ndarray) -> str:
    return "".join(PIECES[t] if t < len(PIECES) else chr(t - 1000) for t in tokens)


TEXT = st.lists(st.sampled_from([*PIECES, " ", "a", "t", "h", "e", "\n", "o"]), max_size=8).map("".join)


@given(context=TEXT, continuation=TEXT)
@settings(max_examples=300)
def test_every_character_of_the_continuation_is_paid_for(context: str, continuation: str) -> None:
    s = spell(longest_match, (context, continuation))
    kept = context.rstrip()
    moved = context[len(kept) :] + continuation
    assert spelled(s.tokens) == context + continuation
    assert longest_match(kept)[: s.first] == s.tokens[: s.first].tolist()  # the context as it is spelled alone
    assert len(spelled(s.tokens[: s.first])) <= len(kept)
    assert s.num_bytes == len(moved.encode())
    if s.crossed:
        assert len(spelled(s.tokens[s.first :])) > len(moved)
    else:
        assert spelled(s.tokens[s.first :]) == moved


def test_seams_by_hand() -> None:
    def parts(context: str, continuation: str) -> tuple[str, str, bool]:
        s = spell(longest_match, (context, continuation))
        return spelled(s.tokens[: s.first]), spelled(s.tokens[s.first :]), s.crossed

    assert parts("thus", " of the") == ("thus", " of the", False)
    assert parts("a ", "is") == ("a", " is", False)  # the space of the context goes with the word
    assert parts("end.", " These") == ("end", ". These", True)  # the piece ". T" crosses
    assert parts("", "the x") == ("", "the x", False)
    assert parts(" \n", "x") == ("", " \nx", False)


# ---- longer than the window


def test_long_texts_lose_their_beginning(model: Skeleton, params: Params) -> None:
    text = documents()[3]
    items = [(text[:200], text[200:210]), (text[:20], text[20:WINDOW]), (text[:20], text[20 : WINDOW + 1])]
    mine = Scorer(model, BYTES, 2)(params, items)
    assert [x.cut for x in mine] == [True, False, True]
    for (context, continuation), x in zip(items, mine, strict=True):
        whole = [START, *ids(context + continuation)]
        read, targets = whole[-WINDOW - 1 : -1], whole[-WINDOW:] if len(whole) > WINDOW else whole[1:]
        first = len(targets) - len(ids(context + continuation)) + len(ids(context.rstrip()))
        nats, greedy = in_numpy(params, read, targets, first)
        assert x.nats == pytest.approx(nats, rel=3e-6) and x.greedy == greedy


def test_a_continuation_longer_than_the_window_is_scored_in_turns(model: Skeleton, params: Params) -> None:
    text = documents()[4]
    (mine,) = Scorer(model, BYTES, 2)(params, [(text[:30], text[30:180])])
    whole = [START, *ids(text[:180])]
    wanted = 0.0
    # Targets 116 to 179 in the last window, 52 to 115 in the one before, then 30 to 51 after what comes before them.
    for begin, stop, first in [(116, 180, 0), (52, 116, 0), (0, 52, 30)]:
        wanted += in_numpy(params, whole[begin:stop], whole[begin + 1 : stop + 1], first)[0]
    assert mine.nats == pytest.approx(wanted, rel=3e-6)
    assert (mine.num_tokens, mine.cut) == (150, True)


# ---- a prefix seen both ways


Forward = Callable[[dict[str, Any]], np.ndarray]


def forward_of(model: Skeleton, params: Params) -> Forward:
    """The features of one unpadded row -> its logits [L, V], by the model itself."""

    @jax.jit
    def logits(params: Params, batch: dict[str, jax.Array]) -> jax.Array:
        outputs = model.merge(params)(batch)
        return outputs.logits(outputs.hidden[0])

    return lambda row: np.asarray(logits(params, {k: np.asarray(v, np.int32)[None] for k, v in row.items() if k != "loss_weights"}))


@pytest.fixture(scope="module")
def both_ways() -> tuple[Skeleton, Params]:
    model = build(prefix_decoder)
    return model, numpy_params(model, seed=2)


def test_a_prefix_is_read_as_the_objective_shows_it(both_ways: tuple[Skeleton, Params]) -> None:
    model, params = both_ways
    context, continuation = "All of this is seen", " at once"
    y = np.asarray(ids(context + continuation), np.int32)
    text = packing.Text(1, y, packing.ones(len(y)), START, len(context))
    logs = log_softmax(forward_of(model, params)(packing.with_prefix([text], len(y), 0)))
    (mine,) = Scorer(model, BYTES, 2, "prefix")(params, [(context, continuation)])
    assert mine.nats == pytest.approx(logs[np.arange(len(context), len(y)), y[len(context) :]].sum(), rel=3e-6)
    (causal,) = Scorer(model, BYTES, 2, "causal")(params, [(context, continuation)])
    assert abs(causal.nats - mine.nats) > 1e-3
    # Without a context there is nothing to see both ways.
    same(Scorer(model, BYTES, 2, "prefix")(params, [("", "x y")]), Scorer(model, BYTES, 2, "causal")(params, [("", "x y")]))


# ---- masked models


@pytest.fixture(scope="module")
def masked() -> tuple[Skeleton, Params, Forward]:
    model = build(encoder, max_length=32)
    params = numpy_params(model, seed=4)
    return model, params, forward_of(model, params)


def brute_force(forward: Forward, shown: list[int], hidden: dict[int, list[int]]) -> float:
    """Sum over places of the log-probability of what is there, with the places hidden[place] masked."""
    total, one = 0.0, np.ones(len(shown))
    for place, gone in hidden.items():
        tokens = [BYTES.special.mask if i in gone else token for i, token in enumerate(shown)]
        logits = forward({"tokens": tokens, "positions": np.arange(len(shown)), "segment_ids": one, "bidirectional": one})
        total += float(log_softmax(logits)[place, shown[place]])
    return total


def test_pseudo_likelihood_equals_brute_force(masked: tuple[Skeleton, Params, Forward]) -> None:
    model, params, forward = masked
    items = [("An old ", "cat, too"), ("", "An old cat, too"), ("An old", " cat, too"), ("Of what", " x")]
    mine = Scorer(model, BYTES, 3, "masked")(params, items)
    shown = [*ids("An old cat, too"), BYTES.special.eos]
    for x, first in ((mine[0], 6), (mine[1], 0)):
        assert x.nats == pytest.approx(brute_force(forward, shown, {p: [p] for p in range(first, 15)}), rel=3e-6)
        assert x.num_tokens == 15 - first
    assert mine[0] == mine[2]


def test_the_rest_of_a_word_is_hidden_with_a_token(masked: tuple[Skeleton, Params, Forward]) -> None:
    model, params, forward = masked
    shown = [*ids("An old cat, too"), BYTES.special.eos]
    #         " "        c          a       t     ","        " "          t           o        o
    hidden = [[6], [7, 8, 9], [8, 9], [9], [10], [11], [12, 13, 14], [13, 14], [14]]
    (mine,) = Scorer(model, BYTES, 3, "masked_words")(params, [("An old", " cat, too")])
    assert mine.nats == pytest.approx(brute_force(forward, shown, dict(zip(range(6, 15), hidden, strict=True))), rel=3e-6)


def test_a_prefix_decoder_may_be_read_masked(both_ways: tuple[Skeleton, Params]) -> None:
    model, params = both_ways
    (mine,) = Scorer(model, BYTES, 3, "masked")(params, [("ab", " cd")])
    wanted = brute_force(forward_of(model, params), [*ids("ab cd"), BYTES.special.eos], {p: [p] for p in (2, 3, 4)})
    assert mine.nats == pytest.approx(wanted, rel=3e-6)


def test_models_of_pairs_read_their_own_marks() -> None:
    scorer = Scorer(build(encoder, heads=("pair",)), BYTES, 2, "masked")
    (row,) = scorer.rows(spell(BYTES.encode, ("a", "b")))
    special = BYTES.special
    assert row.tokens.tolist() == [special.cls, *ids("a"), special.mask, special.sep] and row.first == 2


def test_masked_tokens_of_a_long_text_all_have_their_row(masked: tuple[Skeleton, Params, Forward]) -> None:
    scorer = Scorer(masked[0], BYTES, 2, "masked")
    text = documents()[5][:90]
    rows = scorer.rows(spell(BYTES.encode, (text[:10], text[10:])))
    assert [row.targets[row.first] for row in rows] == ids(text[10:])
    for row in rows:
        assert len(row.tokens) == 32 and row.tokens[-1] == BYTES.special.eos
        assert row.tokens[row.first] == BYTES.special.mask and (row.tokens == BYTES.special.mask).sum() == 1
    assert [row.first for row in rows[-31:]] == list(range(31))  # those of the last window
    assert {row.first for row in rows[10:-31]} == {15} and rows[0].first == 10


# ---- what cannot be


def test_ways_follow_what_was_trained() -> None:
    def objectives(*names: str) -> list[Any]:
        vocabulary = replace(BYTES, size=272, num_sentinels=8)
        return [make_objective(name, Data(sequence_length=WINDOW), vocabulary) for name in names]

    both, one = prefix_decoder.Config(), decoder.Config()
    assert way_for(both, objectives("masked", "causal")) == "causal"
    assert way_for(both, objectives("masked", "prefix")) == "prefix"
    assert way_for(both, objectives("masked")) == "masked"
    assert way_for(one, objectives("fill_in_middle")) == "causal"
    continues = make_objective("prefix", Data(sequence_length=WINDOW, objectives={"prefix": {"form": "encoder_decoder"}}), BYTES)
    assert way_for(t5.Config(), [continues]) == "encoder_decoder"
    with pytest.raises(InputError, match="trained on nothing .* accepted are: encoder_decoder"):
        way_for(t5.Config(), objectives("span_corruption"))
    with pytest.raises(InputError, match="trained on nothing .* accepted are: causal, prefix, masked"):
        way_for(both, [])


@pytest.mark.parametrize("batch_size", [1, 3])
def test_an_encoder_reads_the_context(model: Skeleton, batch_size: int) -> None:
    """Each continuation in a pass of its own, unpadded."""
    both = skeleton.build(t5, t5.Config(**(SMALL | {"relative_max_distance": 32})), model.partitioner)
    params = numpy_params(both, seed=4)
    logits = jax.jit(lambda p, b: (lambda o: o.logits(o.hidden))(both.merge(p)(b)))
    found = Scorer(both, BYTES, batch_size, "encoder_decoder")(params, ITEMS)
    for (context, continuation), mine in zip(ITEMS, found, strict=True):
        source, targets = ids(context.rstrip()), ids(context[len(context.rstrip()) :] + continuation)
        nats, greedy = by_hand(logits, params, source or [BYTES.special.eos], [START, *targets[:-1]], targets, 0)
        assert mine.nats == pytest.approx(nats, rel=3e-6) and mine.greedy == greedy
        assert mine.num_tokens == mine.num_bytes == len(targets) and not mine.cut and not mine.crossed
    long = Scorer(both, BYTES, 1, "encoder_decoder", window=32)(params, [("a" * 40, "b" * 3), ("a" * 3, "b" * 40)])
    nats, _ = by_hand(logits, params, ids("a" * 32), [START, *ids("bb")], ids("bbb"), 0)  # the last of the context
    assert long[0].nats == pytest.approx(nats, rel=3e-6) and [x.cut for x in long] == [True, True] and long[1].num_tokens == 40


def by_hand(logits: Any, params: Params, source: list[int], read: list[int], targets: list[int], first: int) -> tuple[float, bool]:
    """As `in_numpy`, of an encoder with a decoder."""
    batch = {"tokens": read, "positions": range(len(read)), "segment_ids": [1] * len(read)}
    batch |= {"encoder_tokens": source, "encoder_positions": range(len(source)), "encoder_segment_ids": [1] * len(source)}
    logs = log_softmax(logits(params, {name: np.asarray([list(x)], np.int32) for name, x in batch.items()})[0])
    places = np.arange(first, len(targets))
    return float(logs[places, np.asarray(targets)[places]].sum()), bool((logs.argmax(-1) == targets)[places].all())


def test_tokens_after_a_prompt_are_scored_as_it_says(model: Skeleton, params: Params) -> None:
    asked = [(Prompt([START, *ids(context)]), ids(continuation)) for context, continuation in ITEMS]
    found = Scorer(model, BYTES, 3).after(params, [*asked, (Prompt([START]), [])])
    for (prompt, targets), (nats, greedy) in zip(asked, found, strict=False):
        read = [*prompt.tokens, *targets]
        assert (pytest.approx(nats, rel=3e-6), greedy) == in_numpy(params, read[:-1], read[1:], len(prompt.tokens) - 1)
    assert found[-1] == (0.0, True)
    # A prefix model sees the prompt as a whole, and an encoder's prompt may go on in the decoder.
    prefix = build(prefix_decoder)
    items = [(a.rstrip(), b) for a, b in ITEMS]
    whole = Scorer(prefix, BYTES, 4, "prefix")(params, items)
    tokens = [([START, *ids(a)], ids(b)) for a, b in items]
    mine = Scorer(prefix, BYTES, 4, "prefix").after(params, [(Prompt(read, seen=len(read)), targets) for read, targets in tokens])
    np.testing.assert_allclose([nats for nats, _ in mine], [x.nats for x in whole], rtol=3e-6)
    both = skeleton.build(t5, t5.Config(**(SMALL | {"relative_max_distance": 32})), model.partitioner)
    weights = numpy_params(both, seed=4)
    ((nats, _),) = Scorer(both, BYTES, 1, "encoder_decoder").after(weights, [(Prompt([START, 70], source=[9, 8, 7]), [30, 31])])
    logits = jax.jit(lambda p, b: (lambda o: o.logits(o.hidden))(both.merge(p)(b)))
    assert nats == pytest.approx(by_hand(logits, weights, [9, 8, 7], [START, 70, 30], [70, 30, 31], 1)[0], rel=3e-6)
    with pytest.raises(InputError, match="example 2 takes 66 positions, and the model sees 64 at once"):
        Scorer(model, BYTES, 1).after(params, [asked[0], (Prompt([START]), [5] * 66)])


def test_what_is_refused(model: Skeleton, params: Params) -> None:
    with pytest.raises(InputError, match="--way=masked: not for model.name 'decoder'; .*accepted: causal"):
        Scorer(model, BYTES, 1, "masked")
    with pytest.raises(InputError, match="--way=maskd.* did you mean 'masked'"):
        Scorer(build(encoder), BYTES, 1, "maskd")
    with pytest.raises(InputError, match="--way=causal: not for model.name 't5'; .*accepted: encoder_decoder"):
        Scorer(skeleton.build(t5, t5.Config(**(SMALL | {"relative_max_distance": 32})), model.partitioner), BYTES, 1)
    with pytest.raises(InputError, match="no mask token"):
        Scorer(build(encoder), Vocabulary("bytes", 264, SpecialIds()), 1, "masked")
    with pytest.raises(InputError, match="no room"):
        Scorer(build(encoder, max_length=1), BYTES, 1, "masked")
    broken = params | {"token_head": {"kernel": np.full_like(params["token_head"]["kernel"], np.nan)}}
    with pytest.raises(InputError, match="not finite"):
        Scorer(model, BYTES, 1)(broken, [("a", "b")])


def test_nothing_is_as_likely_as_can_be(model: Skeleton, params: Params) -> None:
    assert Scorer(model, BYTES, 1)(params, [("abc", ""), ("", "")]) == [Likelihood(0.0, True, 0, 0, False, False)] * 2
    assert Scorer(model, BYTES, 1)(params, []) == []


@pytest.mark.slow
def test_a_word_list_reads_text_through_its_task(tmp_path: Any) -> None:
    """TensorFlow's tokenizer; a context is a prefix of the whole, since words are split first."""
    pytest.importorskip("pretrainx.tasks.vocabularies", reason="needs pretrainx[tasks]")
    words = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]", "the", "cat", "##s", "sat", "."]
    (tmp_path / "words.txt").write_text("\n".join(words) + "\n")
    vocabulary = vocabulary_spec.load(f"wordpiece:{tmp_path}/words.txt")
    tiny = build(encoder, vocab_size=16, num_layers=1, max_length=32)
    scorer = Scorer(tiny, vocabulary, 2, "masked_words")
    s = spell(scorer.encode, ("The ", "cats sat."))
    assert [words[t] for t in s.tokens] == ["the", "cat", "##s", "sat", "."] and (s.first, s.num_bytes) == (1, 10)
    read = [[words[t] for t in row.tokens] for row in scorer.rows(s)]
    assert read[0] == ["the", "[MASK]", "[MASK]", "sat", ".", "[SEP]"] and read[1] == ["the", "cat", "[MASK]", "sat", ".", "[SEP]"]
    (found,) = scorer(numpy_params(tiny), [("The ", "cats sat.")])
    assert found.num_tokens == 4 and found.nats < 0
