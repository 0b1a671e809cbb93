"""The order of training rows as a function: row number -> (source, epoch, window), and its inverse.

No state, no buffers: any row of a run of any length is computed at once, on any host, in int64.
A row's source comes from the rates, in blocks (see `Order`); its window from a permutation per (source, epoch).
"""

import itertools
from collections.abc import Sequence
from dataclasses import dataclass
from fractions import Fraction
from functools import lru_cache
from typing import Any

import numpy as np

from pretrainx.core.errors import InputError
from pretrainx.core.rng import generator, key_of

ROUNDS = 6  # of the Feistel network: four are pseudo-random (Luby and Rackoff 1988), two more for short indices
CHUNK = 1024  # rows whose addresses are computed together: a few rows cost as much; a power of two, as blocks are
SMALLEST_RATE = 1e-6  # of the sum of rates; below it a block of the mixture would not fit in memory


_SHIFT_30, _SHIFT_27, _SHIFT_31 = np.uint64(30), np.uint64(27), np.uint64(31)
_FACTOR_1, _FACTOR_2 = np.uint64(0xBF58476D1CE4E5B9), np.uint64(0x94D049BB133111EB)


def _mix(x: np.ndarray, key: np.uint64) -> np.ndarray:
    """splitmix64's finaliser: every bit of the result depends on every bit of x and key."""
    x = x + key
    x ^= x >> _SHIFT_30
    x *= _FACTOR_1
    x ^= x >> _SHIFT_27
    x *= _FACTOR_2
    x ^= x >> _SHIFT_31
    return x


@lru_cache(maxsize=256)  # a permutation is asked for a few rows at a time, and its keys cost as much as those rows
def _round_keys(key: int) -> tuple[np.uint64, ...]:
    return tuple(np.random.SeedSequence(key).generate_state(ROUNDS, np.uint64))


@dataclass(frozen=True)
class Permutation:
    """A pseudo-random permutation of range(size) that is computed, not stored: a Feistel network on the next power of
    four, walked until it lands inside the range (Black and Rogaway 2002)."""

    size: int
    key: int  # 128 bits

    def _walk(self, index: np.ndarray, forward: bool) -> np.ndarray:
        half = np.uint64(max((self.size - 1).bit_length() + 1, 2) // 2)
        mask = np.uint64((1 << int(half)) - 1)
        keys = _round_keys(self.key) if forward else _round_keys(self.key)[::-1]
        value = np.asarray(index, np.uint64).copy()
        pending = np.arange(value.size)
        while pending.size:
            left, right = value[pending] >> half, value[pending] & mask
            for key in keys:
                if forward:
                    left, right = right, left ^ (_mix(right, key) & mask)
                else:
                    left, right = right ^ (_mix(left, key) & mask), left
            value[pending] = (left << half) | right
            pending = pending[value[pending] >= self.size]
        return value.astype(np.int64)

    def __call__(self, index: np.ndarray) -> np.ndarray:
        """int64 positions -> int64 values; any shape of one dim."""
        return self._walk(index, forward=True)

    def inverse(self, value: np.ndarray) -> np.ndarray:
        return self._walk(value, forward=False)


@dataclass(frozen=True)
class Rows:
    """Addresses of rows: arrays of one length. `source` indexes the order's names."""

    number: np.ndarray  # int64, counted from the start of the run
    source: np.ndarray  # int32
    epoch: np.ndarray  # int64
    window: np.ndarray  # int64


class Order:
    """Rows of a mixture: `names` with their `rates` and `num_windows`.

    Rows come in blocks of `block`. After n blocks source k has had within one row of n * block * rate[k] of them,
    exactly in integers, so rates hold at any point of a run. Inside a block the sources are shuffled by (seed, block).
    """

    def __init__(self, seed: int, names: Sequence[str], rates: Sequence[float], num_windows: Sequence[int]):
        for name, rate, count in zip(names, rates, num_windows, strict=True):
            if not rate > 0:
                raise InputError(f"data.mixture: the rate of {name!r} is {rate}; rates are above 0 (leave the entry out instead)")
            if count < 1:
                raise InputError(f"data.mixture: {name!r} has no tokens to train on; look at its files, or leave it out")
        exact = [Fraction(str(float(r))) for r in rates]
        total = sum(exact)
        if min(exact) / total < SMALLEST_RATE:
            raise InputError(f"data.mixture: the rate of {names[exact.index(min(exact))]!r} is less than {SMALLEST_RATE} of the sum")
        self.seed, self.names, self.num_windows = seed, tuple(names), tuple(num_windows)
        bounds = [sum(exact[: k + 1], Fraction(0)) / total for k in range(len(exact))]
        self._bounds = [(b.numerator, b.denominator) for b in bounds]
        # Large enough that every source has two rows or more in each block: counts below then never fall.
        self.block = max(CHUNK, 1 << (int(4 * total / min(exact))).bit_length())
        self._hold_caches()

    def _hold_caches(self) -> None:
        self._assignment = lru_cache(maxsize=4)(self._assign)
        self._addresses = lru_cache(maxsize=4)(self._address)

    def __getstate__(self) -> dict[str, Any]:
        """Without what is held in memory, which cannot travel to a reader process."""
        return {name: value for name, value in self.__dict__.items() if name not in ("_assignment", "_addresses")}

    def __setstate__(self, state: dict[str, Any]) -> None:
        self.__dict__.update(state)
        self._hold_caches()

    def counts(self, blocks: int) -> list[int]:
        """Rows of each source in the first `blocks` blocks."""
        n = blocks * self.block
        edges = [0] + [(2 * n * num + den) // (2 * den) for num, den in self._bounds]
        return [b - a for a, b in itertools.pairwise(edges)]

    def _assign(self, block: int) -> tuple[np.ndarray, np.ndarray]:
        """Of one block: the source of each row, and which row of its source it is since the start of the run."""
        before, after = self.counts(block), self.counts(block + 1)
        own = [b - a for a, b in zip(before, after, strict=True)]
        source = np.repeat(np.arange(len(own), dtype=np.int32), own)
        if len(own) > 1:
            source = generator(self.seed, "mixture", block).permutation(source)
        position = np.empty(self.block, np.int64)
        for k, (start, count) in enumerate(zip(before, own, strict=True)):
            position[source == k] = start + np.arange(count, dtype=np.int64)
        return source, position

    def permutation(self, source: int, epoch: int) -> Permutation:
        return Permutation(self.num_windows[source], key_of(self.seed, "shuffle", self.names[source], epoch))

    def _address(self, chunk: int) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        """Source, epoch and window of the rows of one chunk."""
        block, inside = divmod(chunk * CHUNK, self.block)
        source, position = (array[inside : inside + CHUNK] for array in self._assignment(block))
        sizes = np.asarray(self.num_windows, np.int64)[source]
        epoch, within = position // sizes, position % sizes
        window = np.empty_like(within)
        for k, e in sorted(set(zip(source.tolist(), epoch.tolist(), strict=True))):
            chosen = (source == k) & (epoch == e)
            window[chosen] = self.permutation(k, e)(within[chosen])
        return source, epoch, window

    def rows(self, start: int, stop: int) -> Rows:
        """Addresses of rows [start, stop)."""
        first = start // CHUNK
        parts = [self._addresses(chunk) for chunk in range(first, max(-(-stop // CHUNK), first + 1))]
        inside = slice(start - first * CHUNK, stop - first * CHUNK)
        source, epoch, window = (np.concatenate(arrays)[inside] for arrays in zip(*parts, strict=True))
        return Rows(np.arange(start, stop, dtype=np.int64), source, epoch, window)

    def find(self, source: int, window: int, before_row: int) -> list[int]:
        """The row numbers below `before_row` that read this window of this source: one an epoch."""
        found = []
        assigned = self.counts(-(-before_row // self.block))[source]  # rows of this source in the blocks looked at
        for epoch in range(-(-assigned // self.num_windows[source])):
            within = int(self.permutation(source, epoch).inverse(np.asarray([window]))[0])
            position = epoch * self.num_windows[source] + within
            if position >= assigned:  # the last epoch may end before it comes to this window
                break
            low, high = 0, -(-before_row // self.block)  # the block that holds it, by bisection on exact counts
            while low < high:
                middle = (low + high) // 2
                low, high = (middle + 1, high) if self.counts(middle + 1)[source] <= position else (low, middle)
            sources, positions = self._assignment(low)
            row = low * self.block + int(np.flatnonzero((sources == source) & (positions == position))[0])
            if row < before_row:
                found.append(row)
        return found
