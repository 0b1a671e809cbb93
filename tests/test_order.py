"""The order of rows: bijections, exact rates, and a golden value that nobody changes by accident."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from pretrainx.core.errors import InputError
from pretrainx.data.order import Order, Permutation

RATES = st.lists(st.sampled_from([0.02, 0.1, 0.3, 1 / 3, 0.7, 1.0, 3.14159, 7.0]), min_size=1, max_size=5)


def order_of(rates: list[float], windows: list[int] | None = None, seed: int = 0) -> Order:
    windows = windows or [50 + 13 * k for k in range(len(rates))]
    return Order(seed, [f"s{k}" for k in range(len(rates))], rates, windows)


def test_a_permutation_is_a_bijection_for_every_small_size() -> None:
    for size in [*range(1, 70), *range(70, 2001, 37), 255, 256, 257, 1023, 1024, 1025, 2000]:
        everything = np.arange(size)
        shuffled = Permutation(size, key=size * 977)(everything)
        assert np.array_equal(np.sort(shuffled), everything), size
        assert np.array_equal(Permutation(size, key=size * 977).inverse(shuffled), everything), size


@given(size=st.integers(1, 1 << 45), key=st.integers(0, (1 << 128) - 1), data=st.data())
@settings(max_examples=60)
def test_a_permutation_of_any_size_stays_in_range_and_inverts(size: int, key: int, data: st.DataObject) -> None:
    index = np.asarray(data.draw(st.lists(st.integers(0, size - 1), min_size=1, max_size=20)), np.int64)
    permutation = Permutation(size, key)
    value = permutation(index)
    assert value.dtype == np.int64 and np.all((0 <= value) & (value < size))
    assert np.array_equal(permutation.inverse(value), index)
    assert len(set(value.tolist())) == len(set(index.tolist()))


@pytest.mark.parametrize("size", [2, 3, 5, 7, 12])
def test_every_place_is_equally_likely(size: int) -> None:
    """Chi-square of (position, value) counts over 600 keys; the bound is the 1 - 1e-6 quantile by Wilson and Hilferty."""
    counts = np.zeros((size, size))
    for key in range(600):
        counts[np.arange(size), Permutation(size, key * 0x9E3779B97F4A7C15)(np.arange(size))] += 1
    chi_square = float(np.sum((counts - 600 / size) ** 2 / (600 / size)))
    freedom = (size - 1) ** 2
    bound = freedom * (1 - 2 / (9 * freedom) + 4.75 * np.sqrt(2 / (9 * freedom))) ** 3
    assert chi_square < bound


def test_neighbours_are_torn_apart() -> None:
    """Windows of one document must not stay together: the mean distance of neighbours is near size / 3."""
    shuffled = Permutation(10_000, 5)(np.arange(10_000))
    assert 0.3 < np.mean(np.abs(np.diff(shuffled))) / 10_000 < 0.367


def test_the_order_differs_by_epoch_source_and_seed() -> None:
    order = order_of([1.0, 1.0], [300, 300])
    index = np.arange(300)
    shuffles = [
        order.permutation(0, 0),
        order.permutation(0, 1),
        order.permutation(1, 0),
        order_of([1.0, 1.0], [300, 300], seed=1).permutation(0, 0),
    ]
    made = {permutation(index).tobytes() for permutation in shuffles}
    assert len(made) == 4


def test_a_source_keeps_its_order_when_others_come_or_go() -> None:
    alone, mixed = Order(3, ["a"], [1.0], [77]), Order(3, ["b", "a"], [2.0, 1.0], [10, 77])
    index = np.arange(77)
    assert np.array_equal(alone.permutation(0, 2)(index), mixed.permutation(1, 2)(index))


@given(rates=RATES, blocks=st.integers(0, 1 << 34))
@settings(max_examples=150)
def test_rates_hold_within_one_row_and_counts_never_fall(rates: list[float], blocks: int) -> None:
    order = order_of(rates)
    total = sum(rates)
    now, then = order.counts(blocks), order.counts(blocks + 1)
    rows = blocks * order.block
    assert sum(now) == rows
    for have, later, rate in zip(now, then, rates, strict=True):
        # In float64 the wanted number is itself only known to 2^-50 of it.
        assert abs(have - rows * rate / total) <= 1 + rows * 1e-15
        assert later - have >= 2


@given(rates=RATES, seed=st.integers(0, 1 << 40))
@settings(max_examples=25)
def test_blocks_hold_what_counts_promise(rates: list[float], seed: int) -> None:
    order = order_of(rates, seed=seed)
    rows = order.rows(0, 2 * order.block)
    for blocks in (1, 2):
        assert np.bincount(rows.source[: blocks * order.block], minlength=len(rates)).tolist() == order.counts(blocks)


def test_every_window_is_read_once_an_epoch() -> None:
    order = order_of([0.2, 0.5, 0.3], [37, 211, 400])
    rows = order.rows(0, 6000)
    for k, size in enumerate(order.num_windows):
        mine = rows.source == k
        epochs = rows.epoch[mine]
        assert np.all(np.diff(epochs) >= 0)
        for epoch in range(int(epochs[-1])):  # the last one may not be over
            assert np.array_equal(np.sort(rows.window[mine][epochs == epoch]), np.arange(size))
        last = rows.window[mine][epochs == epochs[-1]]
        assert len(set(last.tolist())) == len(last)


@given(rates=RATES, start=st.integers(0, 5000), length=st.integers(0, 3000))
@settings(max_examples=25)
def test_rows_do_not_depend_on_where_reading_starts(rates: list[float], start: int, length: int) -> None:
    order = order_of(rates)
    part, whole = order.rows(start, start + length), order.rows(0, start + length)
    for field in ("number", "source", "epoch", "window"):
        assert np.array_equal(getattr(part, field), getattr(whole, field)[start:]), field


@given(
    rates=RATES, windows=st.lists(st.integers(5, 5000), min_size=5, max_size=5), before=st.integers(0, 6000), data=st.data()
)  # fmt: skip
@settings(max_examples=25)
def test_find_is_the_inverse_of_rows(rates: list[float], windows: list[int], before: int, data: st.DataObject) -> None:
    order = order_of(rates, windows[: len(rates)])
    source = data.draw(st.integers(0, len(rates) - 1))
    window = data.draw(st.integers(0, windows[source] - 1))
    rows = order.rows(0, before)
    wanted = rows.number[(rows.source == source) & (rows.window == window)].tolist()
    assert order.find(source, window, before) == wanted


def test_rows_near_two_to_the_45() -> None:
    """A run of 3.5e13 rows: numbers, epochs and windows in int64, the inverse too."""
    order = order_of([0.3, 0.7], [1 << 44, 1 << 43])
    start = (1 << 45) - 500
    rows = order.rows(start, start + 1000)
    assert rows.number.dtype == rows.epoch.dtype == rows.window.dtype == np.int64
    assert np.array_equal(rows.number, start + np.arange(1000))
    for k, size in enumerate(order.num_windows):
        mine = rows.source == k
        assert mine.sum() > 200
        window = rows.window[mine]
        assert np.all((0 <= window) & (window < size)) and len(set(window.tolist())) == len(window)
        assert window.max() > size // 2  # no truncation to 32 bits
        expected_position = (1 << 45) * [0.3, 0.7][k]
        assert np.all(np.abs(rows.epoch[mine] - expected_position // size) <= 1)
    probe = 123
    assert int(rows.number[probe]) in order.find(int(rows.source[probe]), int(rows.window[probe]), start + 1000)


def test_the_golden_order() -> None:
    """Changing any of these numbers changes every run that was ever started: do it only with a new format number."""
    rows = Order(42, ["a:causal", "b:causal"], [0.25, 0.75], [100, 1000]).rows(1020, 1030)
    found = [tuple(int(x) for x in row) for row in zip(rows.source, rows.epoch, rows.window, strict=True)]
    assert found == GOLDEN


GOLDEN = [(1, 0, 316), (1, 0, 21), (1, 0, 442), (1, 0, 449), (0, 2, 99), (1, 0, 114), (1, 0, 901), (1, 0, 470), (1, 0, 651), (1, 0, 880)]


@pytest.mark.parametrize(
    ("rates", "windows", "message"),
    [
        ([0.0, 1.0], [5, 5], "rate of 's0' is 0.0"),
        ([float("nan"), 1.0], [5, 5], "rate of 's0' is nan"),
        ([1.0, 1.0], [5, 0], "'s1' has no tokens"),
        ([1e-9, 1.0], [5, 5], "rate of 's0' is less than"),
    ],
)
def test_what_cannot_be_ordered_is_refused(rates: list[float], windows: list[int], message: str) -> None:
    with pytest.raises(InputError, match=message):
        order_of(rates, windows)
