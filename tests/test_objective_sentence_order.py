"""Sentence order: two texts of one document, swapped at their rate, and no other trace of it; masks are n-grams."""

import dataclasses
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import settings as hypothesis_settings
from hypothesis import strategies as st
from objective_support import (
    KINDS,
    batch_of,
    documents_of,
    ends_sentence,
    find,
    log_softmax,
    run,
    texts_of,
    totals,
    vocabulary,
    weights_of,
    window_of,
    windows,
    within,
)
from support import BYTES

from pretrainx.core.errors import InputError
from pretrainx.core.rng import generator
from pretrainx.core.vocabulary import Vocabulary
from pretrainx.objectives import sentence_order
from pretrainx.objectives.examples import feature_spec
from pretrainx.objectives.interface import Features, Window


def ids(text: str) -> list[int]:
    return [b + 3 for b in text.encode()]


def pair(window: Window, address: int = 0, words: Vocabulary = BYTES, **options: Any) -> Features:
    return sentence_order.Objective(words, len(window.tokens) + 3, **options).example(window, generator(0, "test", address))


def test_the_kinds_of_pair() -> None:
    window = window_of([*ids("t. One is a. Two is b! Three? Fo"), 1], first_input=77)
    found = set()
    for address in range(200):
        features = pair(window, address, mask_rate=0, short_rate=0)
        first, second = (BYTES.decode(part) for part in texts_of(features, BYTES))
        found.add((first, second, int(features["pair_label"])))
        assert features["pair_weights"] == 1
    # whole sentences at both ends, so that only their order tells
    assert found == {
        (" One is a.", " Two is b! Three?", 0), (" One is a. Two is b!", " Three?", 0),
        (" Two is b! Three?", " One is a.", 1), (" Three?", " One is a. Two is b!", 1),
    }  # fmt: skip


@pytest.mark.parametrize("rate", [0.5, 0.8])
def test_texts_are_swapped_at_their_rate(rate: float) -> None:
    window = window_of([*ids("One is a. Two is b! Three?"), 1])
    labels = [int(pair(window, address, swap_rate=rate, mask_rate=0)["pair_label"]) for address in range(3000)]
    assert within(sum(labels), 3000, rate)


@given(texts=st.lists(st.text("ab. \n", max_size=40), min_size=1, max_size=5), pad=st.integers(2, 30), seed=st.integers(0, 99))
@hypothesis_settings(max_examples=300)
def test_both_texts_are_one_stretch_of_one_document(texts: list[str], pad: int, seed: int) -> None:
    window = window_of(*([*ids(t), 1] for t in texts), pad=pad)
    features = pair(window, seed)
    first, second = texts_of(features, BYTES)
    in_order = [second, first] if features["pair_label"] else [first, second]
    assert any(find(np.concatenate(in_order), home) for home in documents_of(window, BYTES))
    assert features["pair_weights"] == (len(second) > 0) == (max(map(len, texts)) > 1)
    assert features["pair_weights"] or features["pair_label"] == 0


@pytest.mark.parametrize("kind", KINDS)
def test_only_the_order_tells_in_real_text(kind: str) -> None:
    """A and B begin and end alike with either label: the shares differ by less than a tenth."""
    words = vocabulary(kind)
    shapes: dict[float, list[tuple[int, bool, bool]]] = {0.0: [], 1.0: []}
    for address, window in enumerate(windows(kind, 253)[:200]):
        for rate, rows in shapes.items():
            features = pair(window, address, words, swap_rate=rate)
            first, second = texts_of(features, words)
            assert features["pair_label"] == rate and features["pair_weights"] == 1
            rows.append((len(first), ends_sentence(first, words), ends_sentence(second, words)))
    straight, swapped = (np.mean(rows, axis=0) for rows in shapes.values())
    assert np.abs(straight - swapped)[1:].max() < 0.1 and straight[1] > 0.7
    assert abs(straight[0] - swapped[0]) < 0.15 * 253


@pytest.mark.parametrize("kind", KINDS)
def test_masks_are_ngrams_within_one_text(kind: str) -> None:
    words, total, most = vocabulary(kind), 0, 0
    for address, window in enumerate(windows(kind, 253)[:40]):
        features = pair(window, address, words)
        count = words.is_ordinary[np.concatenate(texts_of(features, words))].sum()
        total, most = total + features["loss_weights"].sum(), most + max(1, round(0.15 * count))
    assert 0.97 * most < total <= most


def test_it_depends_on_its_address_alone() -> None:
    window = windows("bytes", 253)[5]
    one, again, other = (pair(window, address) for address in (3, 3, 4))
    assert all(np.array_equal(one[n], again[n]) for n in one)
    assert not np.array_equal(one["tokens"], other["tokens"])


def test_what_it_says_of_itself() -> None:
    objective = sentence_order.Objective(BYTES, 64)
    assert (objective.window_length, objective.sight, objective.needs, objective.terms) == (
        61,
        "bidirectional",
        ("pair",),
        {"mlm": 1, "sop": 1},
    )
    assert not (objective.needs_elsewhere or objective.codes_text or objective.aligned)
    spec = feature_spec(objective, BYTES)
    for address, window in enumerate([window_of(pad=61), window_of([1], pad=60), windows("bytes", 61)[7]]):
        made = objective.example(window, generator(0, "spec", address))
        assert {name: (array.shape, array.dtype) for name, array in made.items()} == spec


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"swap_rate": -0.5}, "sentence_order.swap_rate -0.5: accepted are numbers from 0 to 1"),
        ({"short_rate": 2}, "sentence_order.short_rate 2"),
        ({"ngram_max": 0}, "sentence_order.ngram_max 0"),
        ({"mask_share": 1.1}, "sentence_order: mask_share 1.1"),
        ({"sequence_length": 3}, "data.sequence_length 3"),
    ],
)
def test_options_that_make_no_sense_are_refused(options: dict[str, Any], message: str) -> None:
    with pytest.raises(InputError, match=message) as caught:
        sentence_order.Objective(BYTES, options.pop("sequence_length", 32), **options)
    assert "\n" not in str(caught.value)


def test_a_vocabulary_needs_cls_and_sep_and_a_mask_only_if_it_masks() -> None:
    for role in ("cls", "sep", "mask"):
        words = dataclasses.replace(BYTES, special=dataclasses.replace(BYTES.special, **{role: -1}))
        with pytest.raises(InputError, match=f"no {role} token"):
            sentence_order.Objective(words, 32)
    assert sentence_order.Objective(words, 32, mask_rate=0).terms == {"sop": 1}


def test_losses_equal_numpy() -> None:
    objective = sentence_order.Objective(BYTES, 64)
    chosen = [*windows("bytes", 61)[3:8], window_of([7, 1], pad=59)]  # the last has no pair
    examples = [objective.example(window, generator(0, "loss", i)) for i, window in enumerate(chosen)]
    weights, batch = weights_of(264, 64), batch_of(examples)
    hidden = np.asarray(run(weights, batch).hidden, np.float64)
    labels = np.asarray([e["pair_label"] for e in examples])
    assert {0, 1} == set(labels[:5].tolist())
    scores = log_softmax(hidden[:, 0] @ weights["pair"])[np.arange(5), labels[:5]]
    picked = np.take_along_axis(log_softmax(hidden @ weights["head"]), np.asarray(batch["targets"])[..., None], -1)[..., 0]
    predicted = np.asarray(batch["loss_weights"])
    assert totals(objective, weights, examples) == {
        "sop": (pytest.approx(-scores.sum(), rel=1e-5), 5),
        "mlm": (pytest.approx(-np.sum(picked * predicted), rel=1e-5), predicted.sum()),
    }
