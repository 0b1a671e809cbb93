"""Which of the documents that repeat each other stay."""

import itertools
from collections.abc import Iterator, Sequence

import numpy as np
from numba import njit

from pretrainx.curate.deduplicate import columns
from pretrainx.curate.deduplicate.columns import Table

_PAIRS_AT_ONCE = 8_000_000
_ROWS_AT_ONCE = 4_000_000  # of a table that is looked through


def representatives(pairs: Sequence[Table], sketches: Sequence[Table], index: int = 0) -> dict[str, np.ndarray]:
    """The documents to drop: `place` (ascending), `kept` (the place of the document that stays) and `similarity` of the two.

    Documents are decided in the order of keeping: one is dropped where an earlier one that stays is near it (`near.verify`'s pairs), so
    that in a chain A ~ B ~ C, with A and C unlike, B goes and C stays, and nothing is dropped without a near copy that is kept. Of
    several the nearest counts, then the earliest. Documents of equal n-grams (Jaccard 1) share their fate, since they are equally near
    to everything: `near.candidates` need not pair each of them, and a copy that came between may be nearer than the one that is named.
    Documents of the index (the first `index` shards) always stay.

    Memory: 50 bytes for each document that is in a pair, and 50 for each of `_PAIRS_AT_ONCE` pairs, which are taken by ranges of their
    second documents: whether a document stays depends on earlier ones alone.
    """
    found = [np.unique(part) for table in pairs for part in _stretches(table, ("first", "second"))]
    places = np.unique(np.concatenate([np.empty(0, np.int64), *found]))
    del found
    rank = columns.gather(sketches, "rank", places)
    old = places < index << columns.SHARD_BITS
    rank[old] = np.iinfo(np.int64).min
    ordered = np.lexsort((places, rank))
    number = np.empty(len(places), np.int64)
    number[ordered] = np.arange(len(places))
    kept, similarity = np.arange(len(places)), np.zeros(len(places))
    for low, high in _ranges(pairs, places, number):
        one, other, jaccard = _between(pairs, places, number, low, high)
        order = np.lexsort((one, other))
        _decide(one[order], other[order], jaccard[order], int(old.sum()), kept, similarity)
    dropped = np.flatnonzero(kept != np.arange(len(places)))
    place, by = places[ordered[dropped]], places[ordered[kept[dropped]]]
    order = np.argsort(place, kind="stable")
    return {"place": place[order], "kept": by[order], "similarity": similarity[dropped][order]}


def _stretches(table: Table, names: Sequence[str]) -> Iterator[np.ndarray]:
    """These columns of a table in parts, [column, row]; of a file no more than a part is read at once."""
    held = [columns.column(table, name) for name in names]
    for start in range(0, len(held[0]), _ROWS_AT_ONCE):
        yield np.stack([np.array(values[start : start + _ROWS_AT_ONCE]) for values in held])


def _ranges(pairs: Sequence[Table], places: np.ndarray, number: np.ndarray) -> list[tuple[int, int]]:
    """Ranges of the order of keeping, the second documents of which have about _PAIRS_AT_ONCE pairs together, or are one."""
    counts = np.zeros(len(places), np.int64)
    for table in pairs:
        for (second,) in _stretches(table, ("second",)):
            mine, count = np.unique(second, return_counts=True)
            counts[number[np.searchsorted(places, mine)]] += count
    part = (np.cumsum(counts) - counts) // _PAIRS_AT_ONCE
    edges = [0, *(np.flatnonzero(np.diff(part)) + 1).tolist(), len(places)]
    return list(itertools.pairwise(edges))


def _between(
    pairs: Sequence[Table], places: np.ndarray, number: np.ndarray, low: int, high: int
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """(first, second, jaccard) of the pairs whose second document is in this range, documents by their place in the order of keeping."""
    ones, others, nearness = [np.empty(0, np.int64)], [np.empty(0, np.int64)], [np.empty(0)]
    for table in pairs:
        start = 0
        jaccard = columns.column(table, "jaccard")
        for first, second in _stretches(table, ("first", "second")):
            other = number[np.searchsorted(places, second)]
            mine = np.flatnonzero((other >= low) & (other < high))
            ones.append(number[np.searchsorted(places, first[mine])])
            others.append(other[mine])
            nearness.append(np.array(jaccard[start : start + len(first)])[mine])
            start += len(first)
    return np.concatenate(ones), np.concatenate(others), np.concatenate(nearness)


def sizes(dropped: Table) -> dict[int, int]:
    """{documents in a cluster, the kept one included: how many such clusters}."""
    _, counts = np.unique(np.array(columns.column(dropped, "kept")), return_counts=True)
    found, number = np.unique(counts + 1, return_counts=True)
    return dict(zip(found.tolist(), number.tolist(), strict=True))


@njit(cache=True)
def _decide(first, second, jaccard, fixed, kept, similarity):
    at = 0
    while at < len(second):
        d = second[at]
        best, best_kept = -1.0, d
        while at < len(second) and second[at] == d:
            a = first[at]
            near = jaccard[at]
            by = a
            if kept[a] != a:
                if jaccard[at] < 1.0:
                    at += 1
                    continue
                by, near = kept[a], similarity[a]
            if near > best:
                best, best_kept = near, by
            at += 1
        if best >= 0 and d >= fixed:
            kept[d], similarity[d] = best_kept, best
