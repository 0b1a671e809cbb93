"""Spans and their boundaries: places, offsets, whole words, and the loss from the two vectors around a span."""

import dataclasses
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import settings as hypothesis_settings
from hypothesis import strategies as st
from objective_support import (
    KINDS,
    alone,
    batch_of,
    encoded,
    log_softmax,
    run,
    totals,
    vocabulary,
    weights_of,
    window_of,
    windows,
    within,
    word_numbers,
)
from support import BYTES

from pretrainx.core.errors import InputError
from pretrainx.core.rng import generator
from pretrainx.core.vocabulary import Vocabulary
from pretrainx.objectives import span_boundary
from pretrainx.objectives.examples import feature_spec
from pretrainx.objectives.interface import Features, Window

MASK = BYTES.special.mask


def ids(text: str) -> list[int]:
    return [b + 3 for b in text.encode()]


def make(window: Window, address: int = 0, words: Vocabulary = BYTES, **options: Any) -> Features:
    return span_boundary.Objective(words, len(window.tokens), **options).example(window, generator(0, "test", address))


def spans_of(features: Features) -> list[np.ndarray]:
    """Runs of predicted places; boundaries are not masked, so two spans never make one run."""
    places = np.flatnonzero(features["loss_weights"])
    return np.split(places, np.flatnonzero(np.diff(places) > 1) + 1) if len(places) else []


def check(features: Features, window: Window) -> None:
    """Everything that holds for every example."""
    length, ids_of = len(window.tokens), window.segment_ids
    assert np.array_equal(features["targets"], window.tokens) and np.array_equal(features["segment_ids"], ids_of)
    assert np.array_equal(features["bidirectional"], ids_of > 0)
    rest = features["loss_weights"] == 0
    assert np.array_equal(features["tokens"][rest], window.tokens[rest])
    left, right, offset = np.zeros((3, length), np.int32)
    for span in spans_of(features):
        before, after = span[0] - 1, span[-1] + 1
        assert (
            before >= 0 and after < length and ids_of[before] == ids_of[span[0]] == ids_of[after] and (ids_of[span] == ids_of[before]).all()
        )
        for n, place in enumerate(span[:20], 1):
            left[place], right[place], offset[place] = before, after, n
    for name, wanted in (("span_left", left), ("span_right", right), ("span_offset", offset)):
        assert np.array_equal(features[name], wanted) and features[name].dtype == np.int32


def test_a_span_by_hand() -> None:
    window = window_of(ids("..a."), [50], ids("b"))
    found = set()
    for address in range(60):
        features = make(window, address, mask_rate=0.17, mask_share=1, random_share=0)
        check(features, window)
        found.add(tuple(np.stack([features[n] for n in ("span_left", "span_right", "span_offset")])[:, :4].ravel().tolist()))
    # one of six tokens is predicted: the second or the third, which alone have neighbours in their document
    assert found == {(0, 0, 0, 0, 0, 2, 0, 0, 0, 1, 0, 0), (0, 0, 1, 0, 0, 0, 3, 0, 0, 0, 1, 0)}


@given(
    texts=st.lists(st.text("ab .", max_size=40), min_size=1, max_size=6), pad=st.integers(0, 9), rate=st.floats(0.02, 1.0),
    seed=st.integers(0, 99), ended=st.booleans(),
)  # fmt: skip
@hypothesis_settings(max_examples=300)
def test_boundaries_exist_and_nothing_is_lost(texts: list[str], pad: int, rate: float, seed: int, ended: bool) -> None:
    window = window_of(*([*ids(text), *[1] * ended] for text in texts), pad=max(pad, 1))
    features = make(window, seed, mask_rate=rate)
    check(features, window)
    ordinary = sum(map(len, texts))
    assert features["loss_weights"].sum() <= (max(1, round(ordinary * rate)) if ordinary else 0)
    if any(len(text) + ended > 2 for text in texts):
        assert features["loss_weights"].any()  # some token has two neighbours


@pytest.mark.parametrize("kind", KINDS)
def test_real_text_is_masked_by_whole_words(kind: str) -> None:
    words, counted, several = vocabulary(kind), [], 0
    for address, window in enumerate(windows(kind, 256)[:40]):
        features = make(window, address, words)
        check(features, window)
        number = word_numbers(window.tokens, words)
        for span in spans_of(features):
            for edge, beyond in ((span[0], span[0] - 1), (span[-1], span[-1] + 1)):
                assert number[edge] != number[beyond] or not words.is_ordinary[window.tokens[beyond]]
            several += len(set(number[span])) > 1
        counted.append(features["loss_weights"].sum() / words.is_ordinary[window.tokens].sum())
    assert several > 100 and 0.14 < np.mean(counted) <= 0.155


def test_spans_follow_the_geometric_law_and_share_a_fate() -> None:
    """4,000 spans of one-token words: their number of words against p (1 - p)^(n - 1), cut at ten, within five deviations.

    The last of each window may be cut by the count, so it is one of many: windows of 8,000 tokens.
    """
    window, lengths, fates = window_of(np.tile([ord("."), ord("!"), ord("?")], 2667).tolist()), [], np.zeros(3)
    for address in range(13):
        features = make(window, address)
        check(features, window)
        for span in spans_of(features):
            lengths.append(len(span))
            is_mask, stays = features["tokens"][span] == MASK, features["tokens"][span] == window.tokens[span]
            assert is_mask.all() or not is_mask.any()
            fates += [is_mask.all(), not (is_mask.all() or stays.all()), stays.all()]
    shares = 0.2 * 0.8 ** np.arange(10) / (1 - 0.8**10)
    counts, total = np.bincount(lengths, minlength=11)[1:], len(lengths)
    assert total > 4000 and all(abs(n - total * p) < 5 * np.sqrt(total * p * (1 - p)) + 13 for n, p in zip(counts, shares, strict=True))
    assert np.sum((counts - total * shares) ** 2 / (total * shares)) < 33.7  # chi-square of nine degrees, 1 in 10,000
    assert np.mean(lengths) == pytest.approx(3.8, abs=0.25)  # five standard errors
    lucky = 0.1 * (shares @ (1 / 256.0 ** np.arange(1, 11)))
    assert all(within(n, total, share) for n, share in zip(fates, (0.8, 0.1 - lucky, 0.1 + lucky), strict=True))


def test_long_spans_are_predicted_from_their_boundaries_for_twenty_tokens() -> None:
    window = window_of(ids(". " + "x" * 50 + " ."))
    for address in range(30):
        features = make(window, address, mask_rate=0.95)
        check(features, window)
        if max(map(len, spans_of(features))) >= 50:
            break
    offsets = features["span_offset"]
    assert offsets.max() == 20 and features["loss_weights"].sum() >= 50
    objective = span_boundary.Objective(BYTES, len(window.tokens), mask_rate=0.95)
    found = objective.weights(batch_of([features]))
    assert float(found["sbo"]) == (offsets > 0).sum() < float(found["mlm"])


def test_it_depends_on_its_address_alone() -> None:
    window = windows("bytes", 256)[5]
    one, again, other = (make(window, address) for address in (3, 3, 4))
    assert all(np.array_equal(one[n], again[n]) for n in one)
    assert not np.array_equal(one["loss_weights"], other["loss_weights"])


def test_what_it_says_of_itself() -> None:
    objective = span_boundary.Objective(BYTES, 64)
    assert (objective.window_length, objective.sight, objective.needs) == (64, "bidirectional", ("boundary",))
    assert objective.terms == {"mlm": 1, "sbo": 1} and objective.aligned and not (objective.codes_text or objective.needs_elsewhere)
    spec = feature_spec(objective, BYTES)
    for address, window in enumerate([window_of(pad=64), window_of([1], pad=63), windows("bytes", 64)[7]]):
        made = objective.example(window, generator(0, "spec", address))
        assert {name: (array.shape, array.dtype) for name, array in made.items()} == spec
        assert made["loss_weights"].any() == (address == 2)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"span_p": 0}, "span_boundary.span_p 0: accepted are"), ({"span_max": -1}, "span_boundary.span_max -1"),
        ({"mask_rate": 0}, "span_boundary.mask_rate 0"), ({"random_share": 0.3}, "span_boundary: mask_share 0.8 and random_share 0.3"),
    ],
)  # fmt: skip
def test_options_that_make_no_sense_are_refused(options: dict[str, Any], message: str) -> None:
    with pytest.raises(InputError, match=message):
        span_boundary.Objective(BYTES, 32, **options)
    with pytest.raises(InputError, match="no mask token"):
        span_boundary.Objective(dataclasses.replace(BYTES, special=dataclasses.replace(BYTES.special, mask=-1)), 32)


def test_losses_equal_numpy_and_packing_changes_nothing() -> None:
    objective = span_boundary.Objective(BYTES, 160)
    text = [encoded("bytes")[i][-40 - i : None] for i in range(3)]
    packed = objective.example(window_of(*text, pad=160 - sum(map(len, text))), generator(0, "loss", 0))
    other = objective.example(windows("bytes", 160)[2], generator(0, "loss", 1))
    weights = weights_of(264, 160)
    for examples in ([packed], [packed, other, packed]):
        batch = batch_of(examples)
        hidden = np.asarray(run(weights, batch).hidden, np.float64)
        mlm = sbo = 0.0
        for row, features in enumerate(examples):
            for span in spans_of(features):
                for n, place in enumerate(span):
                    mlm -= log_softmax(hidden[row, place] @ weights["head"])[features["targets"][place]]
                    before, after = hidden[row, span[0] - 1] @ weights["left"], hidden[row, span[-1] + 1] @ weights["right"]
                    if n < 20:  # the head's rows begin at 0
                        sbo -= log_softmax(before + after + weights["offset"][n])[features["targets"][place]]
        found = totals(objective, weights, examples)
        assert found["mlm"][0] == pytest.approx(mlm, rel=1e-5) and found["sbo"][0] == pytest.approx(sbo, rel=1e-5)
        assert found["mlm"][1] == sum(e["loss_weights"].sum() for e in examples) >= found["sbo"][1] > 0
    whole, parts = totals(objective, weights, [packed]), totals(objective, weights, alone(packed))
    for term in whole:  # float32 sums in another order
        assert parts[term][1] == whole[term][1] and parts[term][0] == pytest.approx(whole[term][0], rel=1e-5)
    none = packed | {"loss_weights": np.zeros_like(packed["loss_weights"])}
    assert set(totals(objective, weights, [none]).values()) == {(0.0, 0.0)}
