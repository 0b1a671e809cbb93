"""Blank infilling: the two parts, the two positions, how much is blank and in what lengths, and that nothing is lost."""

from collections import Counter
from dataclasses import replace
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from objective_checks import (
    EOS,
    MASK,
    SENTINELS,
    TinyModel,
    assert_packed_is_unpacked,
    documents_of,
    make,
    many_documents,
    random_window,
    real_windows,
    segment,
    strings,
    window_of,
    within,
)
from support import BYTES

from pretrainx.core.errors import InputError
from pretrainx.objectives.blank_infilling import Objective
from pretrainx.objectives.interface import Features

BEGIN, END = SENTINELS.sentinels(200)[[-7, -8]].tolist()


def objective(length: int = 128, **options: Any) -> Objective:
    return Objective(SENTINELS, length, **options)


def blanks(features: Features, number: int) -> tuple[list[int], list[tuple[int, list[int]]]]:
    """(part A of a document, its spans as told: (place of the mask in part A, tokens)), after a look at each feature."""
    row = strings(features, number)
    size = row["block_positions"].count(0)
    assert row["tokens"][:size] == row["targets"][:size] and row["positions"][:size] == list(range(size))
    assert row["loss_weights"] == [0.0] * size + [1.0] * (len(row["tokens"]) - size)
    assert row["bidirectional"] == [1] * size + [0] * (len(row["tokens"]) - size) and not any(row["block_positions"][:size])
    told, i = [], size
    while i < len(row["tokens"]):
        stop = row["targets"].index(END, i)
        tokens = row["targets"][i:stop]
        assert row["tokens"][i : stop + 1] == [BEGIN, *tokens] and tokens
        assert row["block_positions"][i : stop + 1] == list(range(1, len(tokens) + 2))
        (place,) = set(row["positions"][i : stop + 1])
        assert row["tokens"][place] == MASK and place < size
        told.append((place, tokens))
        i = stop + 1
    return row["tokens"][:size], told


def rebuilt(part_a: list[int], told: list[tuple[int, list[int]]]) -> list[int]:
    filled = dict(told)
    assert len(filled) == len(told) == part_a.count(MASK)
    return [t for i, token in enumerate(part_a) for t in filled.get(i, [token])]


@given(lengths=many_documents, length=st.integers(1, 160), rate=st.sampled_from([0.03, 0.15, 0.5, 0.9]),
       mean=st.sampled_from([0.5, 3.0, 12.0]), seed=st.integers(0, 99))  # fmt: skip
@settings(max_examples=200)
def test_nothing_is_lost(lengths: list[int], length: int, rate: float, mean: float, seed: int) -> None:
    made = objective(length, mask_rate=rate, poisson_lambda=mean)
    window = random_window(lengths, made.window_length, seed)
    features = make(made, window, seed)
    documents, blank = documents_of(window), 0
    for number, document in enumerate(documents, 1):
        part_a, told = blanks(features, number)
        assert rebuilt(part_a, told) == document
        assert all(part_a[i : i + 2] != [MASK, MASK] for i in range(len(part_a)))
        blank += sum(len(tokens) for _, tokens in told)
    if sum(map(len, documents)) > 1 and rate <= 0.5 and min(map(len, documents)) >= 8:
        assert blank == made.count(sum(map(len, documents)))


def test_a_case_by_hand() -> None:
    """The figure of the paper, by what must hold of it: two spans of one text."""
    made = objective(32, mask_rate=0.5, poisson_lambda=1.5)
    window = window_of([11, 12, 13, 14, 15, 16], length=made.window_length)
    for address in range(200):
        features = make(made, window, address)
        row = strings(features, 1)
        if row["tokens"] == [11, 12, MASK, 14, MASK, BEGIN, 15, 16, BEGIN, 13]:
            assert row["targets"] == [11, 12, MASK, 14, MASK, 15, 16, END, 13, END]
            assert row["positions"] == [0, 1, 2, 3, 4, 4, 4, 4, 2, 2]
            assert row["block_positions"] == [0, 0, 0, 0, 0, 1, 2, 3, 1, 2]
            return
    raise AssertionError("the paper's example was not drawn")


def test_span_lengths_are_poisson() -> None:
    """Against drawing them anew, simply: lengths above 0 until the count is reached. 2,000 windows each way."""
    made, draws, count = objective(512), 2000, 67
    ours = Counter(n for i in range(draws) for n in made.span_lengths(count, made.most_spans(444), np.random.default_rng([1, i])).tolist())
    rng = np.random.default_rng(0)
    theirs: Counter[int] = Counter()
    for _ in range(draws):
        left = count
        while left:
            length = int(rng.poisson(3.0))
            if length:
                theirs[min(length, left)] += 1
                left -= min(length, left)
    assert made.count(444) == count and sum(n * c for n, c in ours.items()) == draws * count == sum(n * c for n, c in theirs.items())
    total = sum(theirs.values())
    assert abs(sum(ours.values()) - total) < 5 * np.sqrt(2 * draws) * 2.4  # the number of spans of a window deviates by 2.4
    for length in range(1, 9):
        share = theirs[length] / total
        assert abs(ours[length] - theirs[length]) < 5 * np.sqrt(2 * total * share * (1 - share)), length


def test_every_position_is_blank_as_often() -> None:
    """15% of tokens; those at the ends less, since a span has fewer places there."""
    made, window, draws = objective(128), window_of(range(10, 110), length=0), 1500
    counts = np.zeros(100)
    for address in range(draws):
        features = made.example(window, np.random.default_rng([2, address]))
        _, told = blanks(features, 1)
        for token in (t for _, tokens in told for t in tokens):
            counts[token - 10] += 1
    assert counts.sum() == draws * 15
    inner = counts[10:90] / draws
    assert within(inner.mean() * 80 * draws, 80 * draws, 0.152, 8) and np.abs(inner - inner.mean()).max() < 5 * np.sqrt(0.15 * 0.85 / draws)


def test_spans_are_told_in_random_order() -> None:
    made, window, draws = objective(64, mask_rate=0.3, poisson_lambda=2.0), random_window([40], 40), 2000
    rising = pairs = 0
    for address in range(draws):
        _, told = blanks(made.example(window, np.random.default_rng([4, address])), 1)
        if len(told) > 1:
            pairs += 1
            rising += told[0][0] < told[1][0]
    assert pairs > 1900 and within(rising, pairs, 0.5)


def test_nothing_that_predicts_sees_what_it_must_say() -> None:
    """Another last token of part B changes no loss but its own: the blank is not to be seen in part A."""
    made, model = objective(64), TinyModel()
    features = make(made, random_window([40], made.window_length))
    used = int(np.count_nonzero(features["segment_ids"]))
    changed = {name: array.copy() for name, array in features.items()}
    changed["tokens"][used - 1] = 5  # the last token read, which only the last position may see
    before, after = model.losses(features), model.losses(changed)
    assert np.array_equal(before[: used - 1], after[: used - 1]) and before[used - 1] != after[used - 1]


def test_real_text_packed_equals_unpacked() -> None:
    made = objective(100)
    windows = real_windows(made.window_length, 8)
    assert sum(assert_packed_is_unpacked(make(made, window, i)) for i, window in enumerate(windows)) >= 8
    assert segment(make(made, windows[0]), 1)["segment_ids"].max() == 1


@pytest.mark.parametrize("document", [1, 2, 3, 4, 8, 40])
def test_full_windows_of_short_documents_fit(document: int) -> None:
    for options in ({}, {"mask_rate": 0.5}, {"poisson_lambda": 1.0}):
        made = objective(200, **options)
        for address in range(5):
            window = random_window([document] * 200, made.window_length)
            features = make(made, window, address)
            assert [rebuilt(*blanks(features, n)) for n in range(1, window.segment_ids.max() + 1)] == documents_of(window)


def test_windows_of_nothing_predict_nothing() -> None:
    made = objective(16)
    for window in (window_of(length=made.window_length), window_of([7], [EOS], length=made.window_length)):
        assert make(made, window)["loss_weights"].sum() == 0


def test_it_depends_on_its_address_alone() -> None:
    made, window = objective(), random_window([64, 30], 100)
    one, again, other = (make(made, window, address) for address in (5, 5, 6))
    assert all(np.array_equal(one[name], again[name]) for name in one)
    assert not np.array_equal(one["tokens"], other["tokens"])


@pytest.mark.parametrize(("options", "message"), [
    ({"mask_rate": 0}, r"data\.objectives\.blank_infilling\.mask_rate 0: accepted are numbers above 0 and below 1"),
    ({"mask_rate": 1.0}, r"mask_rate 1\.0"),
    ({"poisson_lambda": 0}, r"poisson_lambda 0: accepted are numbers above 0"),
])  # fmt: skip
def test_wrong_options_are_refused(options: dict[str, Any], message: str) -> None:
    with pytest.raises(InputError, match=message):
        objective(**options)


def test_vocabularies_without_masks_or_sentinels_are_refused() -> None:
    with pytest.raises(InputError, match=r"blank_infilling: needs 8 sentinels .*data\.vocabulary in '\+8'"):
        Objective(BYTES, 64)
    with pytest.raises(InputError, match=r"blank_infilling: the vocabulary .* has no mask token"):
        Objective(replace(SENTINELS, special=replace(BYTES.special, mask=-1)), 64)
