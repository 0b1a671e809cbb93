"""Which of the documents that repeat each other stay."""

from collections.abc import Sequence

import numpy as np
from numba import njit

from pretrainx.curate.deduplicate import columns
from pretrainx.curate.deduplicate.columns import Table


def representatives(pairs: Sequence[Table], sketches: Sequence[Table], index: int = 0) -> dict[str, np.ndarray]:
    """The documents to drop: `place` (ascending), `kept` (the place of the document that stays) and `similarity` of the two.

    Documents are decided in the order of keeping: one is dropped where an earlier one that stays is near it (`near.verify`'s pairs), so
    that in a chain A ~ B ~ C, with A and C unlike, B goes and C stays, and nothing is dropped without a near copy that is kept. Of
    several the nearest counts, then the earliest. Documents of equal n-grams (Jaccard 1) share their fate, since they are equally near
    to everything: `near.candidates` need not pair each of them, and a copy that came between may be nearer than the one that is named.
    Documents of the index (the first `index` shards) always stay.

    Memory: 40 bytes for each pair.
    """
    first, second, jaccard = (
        np.concatenate([np.array(columns.column(table, name)) for table in pairs]) for name in ("first", "second", "jaccard")
    )
    places, inverse = np.unique(np.concatenate([first, second]), return_inverse=True)
    rank = columns.gather(sketches, "rank", places)
    old = places < index << columns.SHARD_BITS
    rank[old] = np.iinfo(np.int64).min
    ordered = np.lexsort((places, rank))
    number = np.empty(len(places), np.int64)
    number[ordered] = np.arange(len(places))
    one, other = number[inverse[: len(first)]], number[inverse[len(first) :]]
    order = np.lexsort((one, other))
    kept, similarity = _decide(one[order], other[order], jaccard[order], len(places), int(old.sum()))
    dropped = np.flatnonzero(kept != np.arange(len(places)))
    place, by = places[ordered[dropped]], places[ordered[kept[dropped]]]
    order = np.argsort(place, kind="stable")
    return {"place": place[order], "kept": by[order], "similarity": similarity[dropped][order]}


def sizes(dropped: Table) -> dict[int, int]:
    """{documents in a cluster, the kept one included: how many such clusters}."""
    _, counts = np.unique(np.array(columns.column(dropped, "kept")), return_counts=True)
    found, number = np.unique(counts + 1, return_counts=True)
    return dict(zip(found.tolist(), number.tolist(), strict=True))


@njit(cache=True)
def _decide(first, second, jaccard, count, fixed):
    kept = np.arange(count)
    similarity = np.zeros(count)
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
    return kept, similarity
