"""Resampling with replacement (Efron 1979): what a number would have been, had chance chosen other items."""

from collections.abc import Sequence

import numpy as np

RESAMPLES = 1000
AT_ONCE = 1 << 22  # item numbers drawn at a time: 32 MB, however many items there are


def by_group(values: np.ndarray, groups: Sequence[str]) -> dict[str, np.ndarray]:
    """{group: its values}, sorted."""
    labels = np.asarray(groups)
    return {group: values[..., labels == group] for group in sorted(set(groups))}


def resampled_sums(columns: np.ndarray, groups: Sequence[str], seed: int) -> np.ndarray:
    """float64 [groups in sorted order, RESAMPLES, K]: sums of [K, N] columns over items drawn anew.

    Each group is resampled by itself and keeps its size: what is left to chance is which items a group has, not which
    groups there are. All columns see the same draws, so that differences of two of them are paired.
    """
    rng = np.random.default_rng(seed)
    members = by_group(np.asarray(columns, np.float64), groups)
    sums = np.empty((len(members), RESAMPLES, len(columns)))
    for number, own in enumerate(members.values()):
        count = own.shape[1]
        rows = max(1, AT_ONCE // count)
        for first in range(0, RESAMPLES, rows):
            drawn = rng.integers(count, size=(min(rows, RESAMPLES - first), count))
            for k, column in enumerate(own):
                sums[number, first : first + rows, k] = column[drawn].sum(axis=1)
    return sums


def sizes(groups: Sequence[str]) -> np.ndarray:
    """int64 [groups in sorted order]: how many items each has."""
    return np.unique(np.asarray(groups), return_counts=True)[1]


def ends(draws: np.ndarray) -> tuple[float, float]:
    """The 95 % interval of [RESAMPLES] values, by percentiles."""
    low, high = np.percentile(draws, [2.5, 97.5])
    return float(low), float(high)
