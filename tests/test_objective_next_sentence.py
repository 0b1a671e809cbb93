"""Next sentence: where texts are cut, which are drawn and how often, and that nothing but the text tells the label."""

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
from pretrainx.objectives import next_sentence, pairs
from pretrainx.objectives.examples import feature_spec
from pretrainx.objectives.interface import Features, Window


def ids(text: str) -> list[int]:
    return [b + 3 for b in text.encode()]


def text(tokens: np.ndarray) -> str:
    return BYTES.decode(tokens)


def pair(window: Window, address: int = 0, words: Vocabulary = BYTES, length: int = 0, **options: Any) -> Features:
    objective = next_sentence.Objective(words, length or len(window.tokens) + 3, **options)
    return objective.example(window, generator(0, "test", address))


DOCUMENT, OTHER = ids("One is a. Two is b! Three?"), ids("est. Four is d. Five is e. Six.")


# ---- by hand


def test_the_two_kinds_of_pair() -> None:
    window = window_of([*DOCUMENT, 1], elsewhere=[*OTHER, 1])
    found = set()
    for address in range(200):
        features = pair(window, address, mask_rate=0, short_rate=0)
        first, second = texts_of(features, BYTES)
        found.add((text(first), text(second), int(features["pair_label"])))
        assert features["pair_weights"] == 1 and not features["loss_weights"].any()
    # the other text begins with its first whole sentence, and is no longer than what follows: as whole sentences, if one fits
    assert found == {
        ("One is a.", " Two is b! Three?", 0), ("One is a. Two is b!", " Three?", 0),
        ("One is a.", " Four is d.", 1), ("One is a. Two is b!", " Four i", 1),
    }  # fmt: skip


def test_a_window_cut_inside_a_document_begins_with_its_next_sentence() -> None:
    cut = window_of([*ids("rest of it. "), *DOCUMENT, 1], first_input=77, elsewhere=OTHER)
    begun = window_of([*ids("rest of it. "), *DOCUMENT, 1], elsewhere=OTHER)
    for address in range(20):
        assert text(texts_of(pair(cut, address, short_rate=0), BYTES)[0]).startswith(" One is a.")
        assert text(texts_of(pair(begun, address, short_rate=0), BYTES)[0]).startswith("rest of it.")


def test_sentence_ends() -> None:
    def ends(of: str) -> list[int]:
        return pairs.sentence_ends(np.asarray(ids(of), np.int32), BYTES).tolist()

    assert ends("a. b\n c") == [2, 5]
    assert ends("wait... what?!\n\nyes.") == [7, 16, 20]  # after the last of several
    assert ends("none") == ends("") == []


# ---- how often


@pytest.mark.parametrize("rate", [0.5, 0.2])
def test_labels_come_at_their_rate(rate: float) -> None:
    window = window_of([*DOCUMENT, 1], elsewhere=OTHER)
    labels = [int(pair(window, address, next_rate=rate, mask_rate=0)["pair_label"]) for address in range(3000)]
    assert within(labels.count(0), 3000, rate)


def test_short_examples_are_as_published() -> None:
    """Nine in ten have the full length, the others an even draw from 2 to it (Devlin 2018, appendix A.2 and the authors' code)."""
    piece, room = np.asarray(ids("a" * 60), np.int32), 21
    lengths = np.asarray([len(pairs.draw_stretch(piece, room, 0.1, BYTES, generator(0, "short", i))) for i in range(20_000)])
    counts = np.bincount(lengths, minlength=room + 1)
    assert not counts[:2].any() and len(counts) == room + 1
    assert all(within(n, 20_000, 0.1 / 20) for n in counts[2:room])
    assert within(counts[room], 20_000, 0.9 + 0.1 / 20)
    starts = [pairs.draw_stretch(np.arange(10, dtype=np.int32), 4, 1.0, BYTES, generator(0, "short", i))[0] for i in range(50)]
    assert set(starts) == {0}  # without sentences there is one place to begin


def test_stretches_begin_at_any_sentence_that_leaves_enough() -> None:
    piece = np.asarray(ids("aaa." * 20), np.int32)
    starts = np.asarray([len(piece) - len(pairs.draw_stretch(piece, 80 - 4 * i, 0, BYTES, generator(0, "x", i))) for i in range(20)])
    assert starts.tolist() == [4 * i for i in range(20)]  # all that fits is taken
    marked = np.asarray(ids("".join(f"{c * 3}." for c in "abcdefghij")), np.int32)
    stretches = [text(pairs.draw_stretch(marked, 14, 0, BYTES, generator(0, "begin", i))) for i in range(4000)]
    assert {len(stretch) for stretch in stretches} == {14}
    counts = [sum(stretch.startswith(c * 3) for stretch in stretches) for c in "abcdefg"]
    assert sum(counts) == 4000 and all(within(n, 4000, 1 / 7) for n in counts)


def test_splits_are_even_over_sentences() -> None:
    stretch = np.asarray(ids("a. bbbbbbb. c. dd. e."), np.int32)
    splits = [len(pairs.draw_split(stretch, BYTES, generator(0, "split", i))[0]) for i in range(4000)]
    assert sorted(set(splits)) == [2, 11, 14, 18]
    assert all(within(splits.count(n), 4000, 1 / 4) for n in (2, 11, 14, 18))
    anywhere = [len(pairs.draw_split(stretch[3:8], BYTES, generator(0, "split", i))[0]) for i in range(4000)]
    assert all(within(anywhere.count(n), 4000, 1 / 4) for n in (1, 2, 3, 4)) and set(anywhere) == {1, 2, 3, 4}


def test_documents_of_a_window_are_drawn_by_length() -> None:
    parts = [ids("a" * 10), ids("b" * 20), ids("c"), ids("d" * 30)]
    window = window_of(*([*part, 1] for part in parts), [1])
    drawn = [text(pairs.draw_piece(window, BYTES, generator(0, "draw", i))) for i in range(6000)]
    assert set(drawn) == {"a" * 10, "b" * 20, "d" * 30}  # no pair in a single token
    assert all(within(drawn.count(c * n), 6000, n / 60) for c, n in (("a", 10), ("b", 20), ("d", 30)))


# ---- any window


@given(
    texts=st.lists(st.text("ab. \n", max_size=40), min_size=1, max_size=5), other=st.text("xy. ", max_size=60),
    room=st.integers(2, 80), seed=st.integers(0, 99), rate=st.sampled_from([0.0, 0.15]), first=st.booleans(),
)  # fmt: skip
@hypothesis_settings(max_examples=300)
def test_texts_are_stretches_of_their_documents(texts: list[str], other: str, room: int, seed: int, rate: float, first: bool) -> None:
    used = sum(len(t) + 1 for t in texts)
    room = max(room, used)
    start = 77 if first else BYTES.special.start
    window = window_of(*([*ids(t), 1] for t in texts), pad=room - used, elsewhere=[*ids(other), 1], first_input=start)
    features = pair(window, seed, mask_rate=rate)
    one, two = texts_of(features, BYTES)
    both = np.concatenate([one, two])
    homes = documents_of(window, BYTES)
    # A's place, and after it B's: in one document of the window, or B in the other one
    if features["pair_label"] == 0:
        assert any(find(both, home) for home in homes)
    else:
        assert any(find(one, home) for home in homes) and find(two, np.asarray(ids(other), np.int32))
    if features["pair_weights"]:
        assert len(one) and len(two) and other
    else:
        assert features["pair_label"] == 0
        assert not other or len(both) < 2
    assert len(both) >= min(2, max(map(len, texts))) and len(features["tokens"]) == room + 3
    ordinary = len(both)
    assert features["loss_weights"].sum() == (max(1, round(ordinary * rate)) if ordinary and rate else 0)


def test_what_is_short_or_alone_has_no_weight() -> None:
    for window in (window_of([50, 1], [51, 1], elsewhere=OTHER), window_of([1], pad=3, elsewhere=OTHER), window_of(pad=9, elsewhere=OTHER)):
        features = pair(window)
        assert features["pair_weights"] == features["pair_label"] == 0 and not len(texts_of(features, BYTES)[1])
    for elsewhere in ([], [1]):
        for address in range(20):
            features = pair(window_of([*DOCUMENT, 1], elsewhere=elsewhere), address, short_rate=0)
            assert features["pair_weights"] == features["pair_label"] == 0
            assert text(np.concatenate(texts_of(features, BYTES))) == "One is a. Two is b! Three?"


@pytest.mark.parametrize("kind", KINDS)
def test_real_text_is_cut_into_whole_sentences(kind: str) -> None:
    words = vocabulary(kind)
    labels, whole, lengths, used = [], [], [], []
    for address, window in enumerate(windows(kind, 253)[:80]):
        features = pair(window, address, words)
        first, second = texts_of(features, words)
        home = max(documents_of(window, words), key=lambda d: len(find(first, d)))
        assert find(first, home)
        assert find(second, window.elsewhere) if features["pair_label"] else find(np.concatenate([first, second]), home)
        labels.append(int(features["pair_label"]))
        whole.append(ends_sentence(first, words))
        lengths.append(len(second))
        used.append(len(first) + len(second))
        assert features["loss_weights"].sum() == round(0.15 * words.is_ordinary[np.concatenate([first, second])].sum())
    assert 20 < sum(labels) < 60 and np.mean(whole) > 0.85 and min(lengths) > 0
    assert np.mean(used) > 0.5 * 253


@pytest.mark.parametrize("kind", KINDS)
def test_the_length_of_b_does_not_tell(kind: str) -> None:
    """The same draws with either label give the same A, and lengths of B that no threshold tells apart (Kolmogorov and Smirnov)."""
    words, lengths, ended = vocabulary(kind), [], np.zeros(2)
    for address, window in enumerate(windows(kind, 125)[:400]):
        true, other = (pair(window, address, words, next_rate=rate, mask_rate=0) for rate in (1.0, 0.0))
        if not true["pair_weights"]:
            continue
        (first, follows), (again, random) = texts_of(true, words), texts_of(other, words)
        assert np.array_equal(first, again) and other["pair_label"] == 1
        lengths.append((len(follows), len(random)))
        ended += [ends_sentence(follows, words), ends_sentence(random, words)]
    count, (one, two) = len(lengths), np.transpose(lengths)
    assert count > 150
    longer = [np.mean(one > n) - np.mean(two > n) for n in range(125)]
    assert np.abs(longer).max() < 0.1
    assert abs(np.mean(one) - np.mean(two)) < 0.1 * np.std(one)
    assert abs(ended[0] - ended[1]) < 0.1 * count


def test_it_depends_on_its_address_alone() -> None:
    window = windows("bytes", 253)[5]
    one, again, other = (pair(window, address) for address in (3, 3, 4))
    assert all(np.array_equal(one[n], again[n]) for n in one)
    assert not np.array_equal(one["tokens"], other["tokens"])


# ---- what it says of itself, options, losses


def test_what_it_says_of_itself() -> None:
    objective = next_sentence.Objective(BYTES, 64)
    assert (objective.window_length, objective.sight, objective.needs, objective.terms) == (
        61,
        "bidirectional",
        ("pair",),
        {"mlm": 1, "nsp": 1},
    )
    assert objective.needs_elsewhere and not objective.codes_text and not objective.aligned
    spec = feature_spec(objective, BYTES)
    assert spec["pair_label"] == ((), np.int32) and spec["pair_weights"] == ((), np.float32)
    assert all(shape == (64,) for name, (shape, _) in spec.items() if not name.startswith("pair"))
    for address, window in enumerate([window_of(pad=61), window_of([1], pad=60), windows("bytes", 61)[7]]):
        made = objective.example(window, generator(0, "spec", address))
        assert {name: (array.shape, array.dtype) for name, array in made.items()} == spec
    alone = next_sentence.Objective(dataclasses.replace(BYTES, special=dataclasses.replace(BYTES.special, mask=-1)), 64, mask_rate=0)
    assert alone.terms == {"nsp": 1}


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"next_rate": 1.5}, "next_sentence.next_rate 1.5: accepted are numbers from 0 to 1"),
        ({"short_rate": -0.1}, "next_sentence.short_rate -0.1"),
        ({"mask_rate": -0.1}, "next_sentence.mask_rate -0.1"),
        ({"unit": "sentence"}, "next_sentence.unit 'sentence'"),
        ({"sequence_length": 4}, "data.sequence_length 4: data.objectives.next_sentence needs 5 or more"),
        ({"cls": -1}, "no cls token"),
        ({"sep": -1}, "no sep token"),
        ({"mask": -1}, "no mask token"),
    ],
)
def test_options_that_make_no_sense_are_refused(options: dict[str, Any], message: str) -> None:
    special = {name: options.pop(name) for name in ("cls", "sep", "mask") if name in options}
    words = dataclasses.replace(BYTES, special=dataclasses.replace(BYTES.special, **special))
    with pytest.raises(InputError, match=message) as caught:
        next_sentence.Objective(words, options.pop("sequence_length", 32), **options)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("rate", [0.15, 0])
def test_losses_equal_numpy(rate: float) -> None:
    objective = next_sentence.Objective(BYTES, 64, mask_rate=rate)
    chosen = [*windows("bytes", 61)[3:8], window_of([7, 1], pad=59)]  # the last has no pair
    examples = [objective.example(window, generator(0, "loss", i)) for i, window in enumerate(chosen)]
    weights, batch = weights_of(264, 64), batch_of(examples)
    hidden = np.asarray(run(weights, batch).hidden, np.float64)
    found = totals(objective, weights, examples)
    labels = np.asarray([e["pair_label"] for e in examples])
    scores = log_softmax(hidden[:, 0] @ weights["pair"])
    counted = np.asarray([1, 1, 1, 1, 1, 0])
    assert {0, 1} == set(labels[:5].tolist())
    assert found["nsp"] == (pytest.approx(-np.sum(scores[np.arange(6), labels] * counted), rel=1e-5), 5)
    if rate:
        picked = np.take_along_axis(log_softmax(hidden @ weights["head"]), np.asarray(batch["targets"])[..., None], -1)[..., 0]
        predicted = np.asarray(batch["loss_weights"])
        assert found["mlm"] == (pytest.approx(-np.sum(picked * predicted), rel=1e-5), predicted.sum())
    else:
        assert list(found) == ["nsp"]
    # rows of other objectives count nothing
    others = [e | {n: np.zeros_like(a) for n, a in e.items() if n.endswith("weights")} for e in examples]
    assert set(totals(objective, weights, others).values()) == {(0.0, 0.0)}
