"""Masked tokens: counts, fates, whole words, and the laws of spans and n-grams, by counting and in closed form."""

import dataclasses
from itertools import pairwise
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import settings as hypothesis_settings
from hypothesis import strategies as st
from objective_support import KINDS, alone, encoded, log_softmax, totals, vocabulary, weights_of, window_of, windows, within, word_numbers
from support import BYTES

from pretrainx.core.errors import InputError
from pretrainx.core.rng import generator
from pretrainx.core.vocabulary import Vocabulary
from pretrainx.objectives import masked
from pretrainx.objectives.interface import Features, Window
from pretrainx.objectives.masked import Masking

SPECIAL = np.asarray(BYTES.special.ids)
MASK = BYTES.special.mask
UNITS = ("token", "word", "span", "ngram")
ORDINARY = np.arange(3, 259)  # the 256 bytes


def mask(window: Window, address: int = 0, words: Vocabulary = BYTES, **options: Any) -> Features:
    return masked.Objective(words, len(window.tokens), **options).example(window, generator(0, "test", address))


def chosen_runs(masking: Masking, window: Window, address: int) -> list[np.ndarray]:
    """The runs of an `inner` masking, which do not touch."""
    groups = masking.choose(window.tokens, window.segment_ids, generator(0, "test", address))
    places = np.sort(np.concatenate(groups)) if groups else np.zeros(0, int)
    return np.split(places, np.flatnonzero(np.diff(places) > 1) + 1)


# ---- how many, and which


@given(
    lengths=st.lists(st.integers(1, 40), min_size=1, max_size=6), pad=st.integers(0, 9), rate=st.floats(0.01, 1.0),
    unit=st.sampled_from(UNITS), seed=st.integers(0, 99),
)  # fmt: skip
@hypothesis_settings(max_examples=200)
def test_what_is_chosen_and_what_is_not(lengths: list[int], pad: int, rate: float, unit: str, seed: int) -> None:
    rng = np.random.default_rng(seed)
    window = window_of(*([*rng.integers(3, 259, n - 1).tolist(), 1] for n in lengths), pad=pad)
    before = window.tokens.copy()
    objective = masked.Objective(BYTES, len(before), mask_rate=rate, unit=unit)  # type: ignore[arg-type]
    features = objective.example(window, generator(0, "test", seed))
    ordinary = sum(lengths) - len(lengths)  # each document ends with an end token
    chosen = features["loss_weights"] > 0
    most = max(1, round(ordinary * rate)) if ordinary else 0
    assert min(1, most) <= chosen.sum() <= most <= objective.num_predicted
    if unit == "token":
        assert chosen.sum() == most
    assert set(np.unique(features["loss_weights"]).tolist()) <= {0.0, 1.0}
    assert np.array_equal(features["targets"], before) and np.array_equal(window.tokens, before)
    assert not np.isin(before[chosen], SPECIAL).any()
    assert np.array_equal(features["tokens"][~chosen], before[~chosen])
    put_in = features["tokens"][chosen & (features["tokens"] != before)]
    assert np.isin(put_in[put_in != MASK], ORDINARY).all()
    assert np.array_equal(features["segment_ids"], window.segment_ids) and np.array_equal(features["positions"], window.positions)
    assert np.array_equal(features["bidirectional"], window.segment_ids > 0)
    assert [features[n].dtype for n in ("tokens", "targets", "loss_weights", "bidirectional")] == [np.int32, np.int32, np.float32, np.int32]


@pytest.mark.parametrize("unit", UNITS)
def test_masked_of_nothing_predicts_nothing(unit: str) -> None:
    for window in (window_of(pad=5), window_of([1], [1], [1])):
        features = mask(window, unit=unit)
        assert features["loss_weights"].sum() == 0 and np.array_equal(features["tokens"], window.tokens)


@pytest.mark.parametrize("unit", UNITS)
def test_masked_takes_one_of_one(unit: str) -> None:
    assert mask(window_of([7, 1], pad=2), unit=unit)["loss_weights"].tolist() == [1, 0, 0, 0]


@pytest.mark.parametrize("unit", UNITS)
def test_masked_depends_on_its_address_alone(unit: str) -> None:
    window = windows("bytes", 128)[2]
    one, again, other = mask(window, 5, unit=unit), mask(window, 5, unit=unit), mask(window, 6, unit=unit)
    assert all(np.array_equal(one[n], again[n]) for n in one)
    assert not np.array_equal(one["loss_weights"], other["loss_weights"])


def test_masked_positions_are_uniform() -> None:
    window = window_of(range(3, 43))
    counts = sum(mask(window, address)["loss_weights"] for address in range(2000))
    assert abs(counts - 300).max() < 5 * np.sqrt(2000 * 0.15 * 0.85)


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("unit", ["word", "span", "ngram"])
def test_words_of_real_text_are_masked_wholly_or_not_at_all(kind: str, unit: str) -> None:
    words, runs = vocabulary(kind), 0
    for address, window in enumerate(windows(kind, 128)[:40]):
        chosen = mask(window, address, words, unit=unit)["loss_weights"] > 0
        ordinary = words.is_ordinary[window.tokens]
        number = word_numbers(window.tokens, words)
        # special tokens and cuts between documents end a word too
        cut = ~ordinary[1:] | ~ordinary[:-1] | (window.segment_ids[1:] != window.segment_ids[:-1]) | (number[1:] != number[:-1])
        for word in np.split(np.arange(len(chosen)), np.flatnonzero(cut) + 1):
            assert chosen[word].all() or not chosen[word].any()
            runs += len(word) > 1 and chosen[word].all()
        left = max(1, round(ordinary.sum() * 0.15)) - chosen.sum()
        assert left >= 0
        if unit == "word":  # what is left over holds none of the words that were passed over
            assert all(len(w) > left or chosen[w[0]] or not ordinary[w[0]] for w in np.split(np.arange(128), np.flatnonzero(cut) + 1))
    assert runs > 40  # so the property was put to the test


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("unit", ["word", "span", "ngram"])
def test_the_count_of_real_text_is_nearly_reached(kind: str, unit: str) -> None:
    found = [mask(w, i, vocabulary(kind), unit=unit)["loss_weights"].sum() for i, w in enumerate(windows(kind, 512)[:20])]
    assert 0.98 * 77 < np.mean(found) <= 77  # 0.15 * 512, less the end tokens


@pytest.mark.parametrize("unit", ["word", "span", "ngram"])
def test_where_the_count_holds_no_word_some_of_its_tokens_are_taken(unit: str) -> None:
    window = window_of([*encoded("bytes")[0][:0], *(b + 3 for b in b"incomprehensibilities")])
    for address in range(20):
        assert mask(window, address, unit=unit)["loss_weights"].sum() == 3  # 0.15 * 21


def test_words_are_drawn_evenly() -> None:
    window = window_of(list(b + 3 for b in b"one two six ten fox dog cat pig" + b" "))
    counts = np.zeros(32)
    for address in range(3000):  # three letters and no space: the count is exactly three
        groups = Masking(BYTES, 0.09, unit="word").choose(window.tokens, window.segment_ids, generator(0, "even", address))
        counts[np.concatenate(groups)] += 1
    letters = counts.reshape(8, 4)[:, :3]
    assert (letters == letters[:, :1]).all()
    # the first word or space drawn decides: 8 words of 16; else three spaces, with no room for a word
    assert all(within(n, 3000, 1 / 16) for n in letters[:, 0])


# ---- what is put there


def test_masked_eighty_ten_ten() -> None:
    """Shares over 60,000 choices; the bound is five standard deviations of a binomial."""
    window = window_of(np.random.default_rng(1).integers(3, 259, 1000).tolist())
    fates, replacements = np.zeros(3), []
    for address in range(400):
        features = mask(window, address)
        chosen = features["loss_weights"] > 0
        tokens, targets = features["tokens"][chosen], features["targets"][chosen]
        is_mask, stays = tokens == MASK, tokens == targets
        fates += [is_mask.sum(), (~is_mask & ~stays).sum(), stays.sum()]
        replacements.append(tokens[~is_mask & ~stays])
    total = fates.sum()
    assert total == 400 * 150
    lucky = 0.1 / len(ORDINARY)  # a random token that is the right one
    for count, share in zip(fates, (0.8, 0.1 - lucky, 0.1 + lucky), strict=True):
        assert within(count, total, share)
    put_in = np.concatenate(replacements)
    assert np.isin(put_in, ORDINARY).all()
    counts = np.bincount(put_in, minlength=264)[3:259]
    assert all(within(n, len(put_in), 1 / 256) for n in counts)


def test_a_span_meets_one_fate_and_spans_meet_eighty_ten_ten() -> None:
    """Neighbours differ (no token follows itself), so a random span cannot look as if it stayed but by 1 in 256."""
    window = window_of(np.tile(np.arange(3, 103), 10))
    fates, masking = np.zeros(3), Masking(BYTES, 0.15, unit="span")
    for address in range(400):
        rng = generator(0, "fates", address)
        spans = masking.choose(window.tokens, window.segment_ids, rng)
        tokens = masking.replace(window.tokens, spans, rng)
        for span in spans:
            is_mask, stays = tokens[span] == MASK, tokens[span] == window.tokens[span]
            assert is_mask.all() or not is_mask.any()
            fates += [is_mask.all(), not (is_mask.all() or stays.all()), stays.all()]
    lucky = 0.1 * sum(p / 256**n for n, p in enumerate(masking.length_shares, 1))
    assert fates.sum() > 10_000
    for count, share in zip(fates, (0.8, 0.1 - lucky, 0.1 + lucky), strict=True):
        assert within(count, fates.sum(), share)


@pytest.mark.parametrize("unit", ["word", "ngram"])
def test_words_and_ngrams_meet_their_fates_token_by_token(unit: str) -> None:
    window = windows("bytes", 512)[3]
    mixed = 0
    for address in range(30):
        features = mask(window, address, unit=unit)
        places = np.flatnonzero(features["loss_weights"])
        is_mask = features["tokens"][places] == MASK
        mixed += sum(b == a + 1 and x != y for (a, b), (x, y) in zip(pairwise(places), pairwise(is_mask), strict=True))
    assert mixed > 100


@pytest.mark.parametrize(("shares", "seen"), [((1.0, 0.0), "mask"), ((0.0, 1.0), "random"), ((0.0, 0.0), "same")])
def test_shares_at_their_ends(shares: tuple[float, float], seen: str) -> None:
    features = mask(windows("bytes", 512)[1], mask_share=shares[0], random_share=shares[1])
    tokens, targets = (features[n][features["loss_weights"] > 0] for n in ("tokens", "targets"))
    if seen == "random":
        assert (tokens != MASK).all() and (tokens != targets).mean() > 0.9
    else:
        assert (tokens == (MASK if seen == "mask" else targets)).all()


def test_neither_sentinels_nor_spare_ids_are_put_in() -> None:
    wide = dataclasses.replace(BYTES, size=464, num_sentinels=200)
    features = mask(window_of(range(3, 259)), 0, wide, mask_rate=1.0, mask_share=0.0, random_share=1.0)
    assert np.isin(features["tokens"], ORDINARY).all()


# ---- the laws of lengths


def expected_runs(shares: np.ndarray, budget: int) -> np.ndarray:
    """How many runs of 1, 2, ... words are expected where runs are drawn by `shares` until they fill `budget`, the last cut.

    By renewal: reached[s] is the chance that s is the sum of some first runs.
    """
    most = len(shares)
    reached = np.zeros(budget)
    reached[0] = 1
    for s in range(1, budget):
        reached[s] = sum(shares[n - 1] * reached[s - n] for n in range(1, min(most, s) + 1))
    expected = np.zeros(most)
    for s in range(budget):
        for n in range(1, most + 1):
            expected[min(n, budget - s) - 1] += reached[s] * shares[n - 1]
    return expected


@pytest.mark.parametrize("unit", ["span", "ngram"])
@pytest.mark.parametrize("rate", [0.03, 0.1])
def test_lengths_follow_their_law(unit: str, rate: float) -> None:
    """Words of one token, with room enough that any run finds a place: counts equal the expectation within five standard errors."""
    window = window_of([ord(".") + 3] * 600)
    masking = Masking(BYTES, rate, unit=unit, inner=True)  # type: ignore[arg-type]
    most = len(masking.length_shares)
    counts = np.asarray([np.bincount([len(r) for r in chosen_runs(masking, window, i)], minlength=most + 1)[1:] for i in range(600)])
    expected = expected_runs(masking.length_shares, round(600 * rate))
    assert np.dot(expected, np.arange(1, most + 1)) == pytest.approx(round(600 * rate))
    error = 5 * counts.std(0) / np.sqrt(len(counts))
    assert (np.abs(counts.mean(0) - expected) <= error + 1e-9).all()


def test_the_shares_of_lengths() -> None:
    spans = Masking(BYTES, 0.15, unit="span").length_shares
    assert spans.sum() == pytest.approx(1) and spans[1:] / spans[:-1] == pytest.approx(0.8) and len(spans) == 10
    assert spans @ np.arange(1, 11) == pytest.approx(3.8, abs=0.005)  # Joshi 2020, section 3.1
    assert Masking(BYTES, 0.15, unit="ngram").length_shares == pytest.approx([6 / 11, 3 / 11, 2 / 11])  # Lan 2020, section 4.1


def test_spans_of_a_long_text_have_a_mean_of_nearly_four_words() -> None:
    window = window_of([ord(".") + 3] * 40_000)
    lengths = [len(span) for span in chosen_runs(Masking(BYTES, 0.15, unit="span", inner=True), window, 0)]
    assert sum(lengths) == 6000
    shares = Masking(BYTES, 0.15, unit="span").length_shares
    deviation = np.sqrt(shares @ np.arange(1, 11) ** 2 - (shares @ np.arange(1, 11)) ** 2)
    assert abs(np.mean(lengths) - 3.797) < 5 * deviation / np.sqrt(len(lengths)) + 10 / len(lengths)  # the last may be cut


def test_spans_lie_evenly() -> None:
    """Away from the ends, where fewer spans reach; the bound is five standard deviations of independent draws."""
    window = window_of([ord(".") + 3] * 120)
    counts = np.zeros(120)
    for address in range(1500):
        counts[
            np.concatenate(Masking(BYTES, 0.05, unit="span").choose(window.tokens, window.segment_ids, generator(0, "lie", address)))
        ] += 1
    middle = counts[20:-20]
    assert abs(middle - middle.mean()).max() < 5 * np.sqrt(1500 * (p := middle.mean() / 1500) * (1 - p))
    assert counts.min() > 0


@given(
    texts=st.lists(st.text("ab .", min_size=0, max_size=30), min_size=1, max_size=6), unit=st.sampled_from(["span", "ngram"]),
    rate=st.floats(0.05, 0.9), seed=st.integers(0, 99), inner=st.booleans(), ended=st.booleans(),
)  # fmt: skip
@hypothesis_settings(max_examples=200)
def test_runs_keep_to_one_document(texts: list[str], unit: Any, rate: float, seed: int, inner: bool, ended: bool) -> None:
    window = window_of(*([*(b + 3 for b in text.encode()), *[1] * ended] for text in texts), pad=3)
    masking = Masking(BYTES, rate, unit=unit, inner=inner)
    groups = masking.choose(window.tokens, window.segment_ids, np.random.default_rng(seed))
    chosen = np.zeros(len(window.tokens), int)
    for group in groups:
        assert (np.diff(group) == 1).all() and len(set(window.segment_ids[group])) == 1
        chosen[group] += 1
    assert chosen.max(initial=0) <= 1
    if inner:
        for run in chosen_runs(masking, window, seed):
            for place in (run[:1] - 1, run[-1:] + 1):
                assert (window.segment_ids[place] == window.segment_ids[run[:1]]).all() and (place >= 0).all()
    elif any(texts):
        assert groups


# ---- options and losses


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"mask_rate": 0}, "masked.mask_rate 0: accepted are numbers above 0"),
        ({"mask_rate": 1.1}, "mask_rate 1.1"),
        ({"mask_rate": float("nan")}, "mask_rate nan"),
        ({"mask_share": 0.9, "random_share": 0.2}, "sum to at most 1"),
        ({"mask_share": -0.1}, "at least 0"),
        ({"mask_share": float("nan")}, "at least 0"),
        ({"unit": "words"}, "unit 'words': accepted are 'token', 'word', 'span', 'ngram'"),
        ({"span_p": 1.0}, "span_p 1.0: accepted are"),
        ({"span_max": 0}, "span_max 0: accepted are whole numbers"),
        ({"ngram_max": 2.5}, "ngram_max 2.5"),
    ],
)
def test_options_that_make_no_sense_are_refused(options: dict[str, Any], message: str) -> None:
    with pytest.raises(InputError, match=message) as caught:
        masked.Objective(BYTES, 16, **options)
    assert "data.objectives.masked" in str(caught.value) and "\n" not in str(caught.value)


def test_a_vocabulary_without_a_mask_token_is_refused() -> None:
    with pytest.raises(InputError, match="no mask token"):
        masked.Objective(dataclasses.replace(BYTES, special=dataclasses.replace(BYTES.special, mask=-1)), 16)


@pytest.mark.parametrize("unit", UNITS)
def test_loss_equals_numpy_and_packing_changes_nothing(unit: str) -> None:
    objective = masked.Objective(BYTES, 128, unit=unit)  # type: ignore[arg-type]
    text = [encoded("bytes")[i][-30 - i : None] for i in range(3)]
    features = objective.example(window_of(*text, pad=128 - sum(map(len, text))), np.random.default_rng(0))
    weights = weights_of(264, 128)
    found = totals(objective, weights, [features])["tokens"]
    assert found[1] == features["loss_weights"].sum() > 10
    parts = totals(objective, weights, alone(features))["tokens"]
    assert parts[1] == found[1] and parts[0] == pytest.approx(found[0], rel=1e-5)  # float32 sums in another order
    assert found[0] == pytest.approx(reference(weights, features), rel=1e-5)


def reference(weights: dict[str, np.ndarray], features: Features) -> float:
    """The loss of an example by a loop over its predicted tokens, attention and all in float64."""
    w = {name: array.astype(np.float64) for name, array in weights.items()}
    x = w["embed"][features["tokens"]] + w["place"][features["positions"]]
    total = 0.0
    for i in np.flatnonzero(features["loss_weights"]):
        own = features["segment_ids"] == features["segment_ids"][i]
        shares = np.exp(log_softmax(x[own] @ x[i] / 4))
        total -= log_softmax((x[i] + shares @ x[own]) @ w["head"])[features["targets"][i]]
    return total
