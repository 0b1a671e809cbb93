"""Fill in the middle: both orders, where documents are cut, how many are changed, and that nothing is lost."""

from collections import Counter
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from objective_checks import (
    EOS,
    SENTINELS,
    START,
    assert_packed_is_unpacked,
    documents_of,
    make,
    many_documents,
    random_window,
    real_windows,
    strings,
    window_of,
    within,
)
from support import BYTES

from pretrainx.core.errors import InputError
from pretrainx.objectives.fill_in_middle import Objective

PRE, SUF, MID = SENTINELS.sentinels(200)[[-4, -5, -6]].tolist()


def objective(length: int = 128, **options: Any) -> Objective:
    return Objective(SENTINELS, length, **options)


def parts(string: list[int]) -> tuple[str, list[int], list[int], list[int]]:
    """(order, prefix, middle, suffix); of SPM prefix and middle are together, as the model sees them too.

    PSM without any prefix is the same string as SPM, and is taken for it.
    """
    if string[0] != PRE:
        return "as it is", string, [], []
    end = [EOS] if string[-1] == EOS else []
    body = string[1 : len(string) - len(end)]
    if body[0] == SUF:
        cut = body.index(MID)
        return "SPM", body[cut + 1 :], [], body[1:cut] + end
    suf, mid = body.index(SUF), body.index(MID)
    return "PSM", body[:suf], body[mid + 1 :], body[suf + 1 : mid] + end


def rebuilt(string: list[int]) -> list[int]:
    _, prefix, middle, suffix = parts(string)
    return prefix + middle + suffix


@given(lengths=many_documents, length=st.integers(4, 300), rate=st.sampled_from([0.2, 1.0]), spm=st.sampled_from([0.0, 0.5, 1.0]),
       least=st.integers(1, 20), seed=st.integers(0, 99))  # fmt: skip
@settings(max_examples=200)
def test_nothing_is_lost(lengths: list[int], length: int, rate: float, spm: float, least: int, seed: int) -> None:
    made = objective(length, rate=rate, spm_rate=spm, min_length=least)
    window = random_window(lengths, made.window_length, seed)
    features = make(made, window, seed)
    changed = 0
    for number, document in enumerate(documents_of(window), 1):
        row = strings(features, number)
        order = parts(row["targets"])[0]
        assert rebuilt(row["targets"]) == document and row["loss_weights"] == [1.0] * len(row["targets"])
        assert row["tokens"] == [START, *row["targets"][:-1]]
        assert order == "as it is" or (len(document) >= least and len(row["targets"]) == len(document) + 3)
        assert order != "PSM" or spm < 1
        changed += order != "as it is"
    candidates = sum(len(document) >= least for document in documents_of(window))
    assert changed <= made.room and (rate < 1 or changed == min(made.room, candidates))


def test_both_orders_by_hand() -> None:
    made = objective(16, rate=1.0, min_length=1)
    window = window_of([11, 12, 13, 14, EOS], length=made.window_length)
    wanted = {
        "PSM": [PRE, 11, SUF, 13, 14, MID, 12, EOS],  # the middle is what comes last, and ends
        "SPM": [PRE, SUF, 13, 14, MID, 11, 12, EOS],  # the same cut: the middle goes on from the prefix
    }
    found = [make(made, window, address)["targets"][:8].tolist() for address in range(300)]
    assert all(string in found for string in wanted.values())


def test_the_token_before_the_window_is_read_where_text_goes_on() -> None:
    window = window_of([11, 12, 13, EOS], length=60, first_input=10)
    plain, changed = objective(63, room=1, min_length=9), objective(63, room=1, rate=1.0, min_length=1)
    assert make(plain, window)["tokens"][0] == 10
    assert make(changed, window)["tokens"][0] == START


def test_cuts_are_uniform() -> None:
    """Two places, each even over the five of four tokens, in order: (0, 0) once in 25, (0, 1) twice."""
    made, draws = objective(16, rate=1.0, spm_rate=0.0, min_length=1), 5000
    counts: Counter[tuple[int, int]] = Counter()
    for address in range(draws):
        string = made.reorder(np.asarray([11, 12, 13, 14], np.int32), np.random.default_rng([1, address])).tolist()
        first = string.index(SUF) - 1
        counts[first, first + len(string) - 1 - string.index(MID)] += 1
    for a in range(5):
        for b in range(a, 5):
            assert within(counts.pop((a, b)), draws, (1 + (a != b)) / 25)
    assert not counts


def test_rates() -> None:
    """Half of the documents with 8 tokens or more, and half of these in each order."""
    made, draws = objective(256, room=8), 800
    window = random_window([30, 7, 40, 3, 9, 50], made.window_length)
    # Where one of the two places is the first of the n + 1 of n tokens, there is no prefix, and the orders look alike.
    alike = float(np.mean([1 - (n / (n + 1)) ** 2 for n in (29, 39, 9, 49)]))
    orders: Counter[str] = Counter()
    for address in range(draws):
        features = made.example(window, np.random.default_rng([2, address]))
        orders.update(parts(strings(features, n)["targets"])[0] for n in (1, 3, 5, 6))
        assert all(parts(strings(features, n)["targets"])[0] == "as it is" for n in (2, 4))
    assert within(orders["as it is"], 4 * draws, 0.5)
    assert within(orders["PSM"], 4 * draws, 0.25 * (1 - alike)) and within(orders["SPM"], 4 * draws, 0.25 * (1 + alike))


def test_room_is_shared_evenly() -> None:
    made, draws = objective(128, rate=1.0, room=2), 2000
    counts = Counter(int(i) for a in range(draws) for i in made.choose(np.asarray([20, 90, 8, 7, 40, 9]), np.random.default_rng([3, a])))
    assert sorted(counts) == [0, 1, 2, 4, 5] and all(within(count, draws, 0.4) for count in counts.values())


def test_lengths() -> None:
    assert (objective(1024).room, objective(1024).window_length) == (8, 1000)
    assert (objective(100).room, objective(100).window_length) == (1, 97)
    assert objective().sight == "causal" and not Objective.codes_text


def test_real_text_packed_equals_unpacked() -> None:
    made = objective(100, rate=1.0)
    windows = real_windows(made.window_length, 6)
    assert sum(assert_packed_is_unpacked(make(made, window, i)) for i, window in enumerate(windows)) >= 6


def test_windows_of_nothing_predict_nothing() -> None:
    assert make(objective(32), window_of(length=29))["loss_weights"].sum() == 0


def test_it_depends_on_its_address_alone() -> None:
    made, window = objective(rate=1.0), random_window([100], 120)
    one, again, other = (make(made, window, address) for address in (5, 5, 6))
    assert all(np.array_equal(one[name], again[name]) for name in one)
    assert not np.array_equal(one["tokens"], other["tokens"])


@pytest.mark.parametrize(("options", "message"), [
    ({"rate": 0.0}, r"data\.objectives\.fill_in_middle\.rate 0\.0: accepted are numbers above 0 and up to 1"),
    ({"spm_rate": 1.5}, r"spm_rate 1\.5: accepted are numbers from 0 to 1"),
    ({"min_length": 0}, r"min_length 0: accepted are numbers from 1"),
    ({"room": 0}, r"room 0: accepted are numbers from 1"),
    ({"room": 43}, r"room 43: accepted are numbers from 1, three times of which are less than data\.sequence_length 128"),
])  # fmt: skip
def test_wrong_options_are_refused(options: dict[str, Any], message: str) -> None:
    with pytest.raises(InputError, match=message):
        objective(**options)


def test_too_few_sentinels_are_refused() -> None:
    with pytest.raises(InputError, match=r"fill_in_middle: needs 6 sentinels .*data\.vocabulary in '\+6'"):
        Objective(BYTES, 64)
