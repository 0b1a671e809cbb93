"""Which of the documents that repeat each other stay: against a plain reading of the rule, however little memory it may take."""

from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

pytest.importorskip("numba", reason="deduplication needs pretrainx[curate]")

from pretrainx.curate.deduplicate import clusters

Pair = tuple[int, int, float]


def decided(pairs: list[Pair], order: list[int], fixed: set[int]) -> dict[int, tuple[int, float]]:
    """{dropped: (kept, similarity)} by the rule, document after document in the order of keeping."""
    found: dict[int, tuple[int, float]] = {}
    for document in order:
        near: list[tuple[float, int, int]] = []  # (similarity, order, who stays)
        for a, b, jaccard in pairs:
            if b != document:
                continue
            if a not in found:
                near.append((jaccard, -order.index(a), a))
            elif jaccard == 1.0:  # equal n-grams: what dropped the one drops the other
                near.append((found[a][1], -order.index(a), found[a][0]))
        if near and document not in fixed:
            similarity, _, kept = max(near)
            found[document] = (kept, similarity)
    return found


@given(st.data(), st.integers(1, 12), st.integers(0, 3), st.sampled_from([1, 3, 100]), st.sampled_from([1, 4, 100]))
@settings(max_examples=150)
def test_representatives_are_those_of_the_rule(data: Any, documents: int, of_index: int, pairs_at_once: int, rows_at_once: int) -> None:
    total = of_index + documents
    rank = [-(10**9)] * of_index + data.draw(st.lists(st.integers(0, 2), min_size=documents, max_size=documents))
    order = sorted(range(total), key=lambda i: (rank[i], i))
    number = {document: i for i, document in enumerate(order)}
    drawn = data.draw(st.sets(st.tuples(st.integers(0, total - 1), st.integers(of_index, total - 1)), max_size=30))
    pairs = [
        (*sorted(pair, key=number.__getitem__), data.draw(st.sampled_from([0.4, 0.5, 0.75, 1.0])))
        for pair in sorted({tuple(sorted(pair)) for pair in drawn if pair[0] != pair[1]})
    ]
    cuts = sorted(data.draw(st.lists(st.integers(0, len(pairs)), max_size=3)))
    place = lambda i: i if i < of_index else (1 << 32 | (i - of_index)) if of_index else i  # noqa: E731 - the index is the first shard
    tables = []
    for low, high in zip([0, *cuts], [*cuts, len(pairs)], strict=True):
        some = sorted(pairs[low:high])
        tables.append(
            {
                "first": np.array([place(a) for a, _, _ in some], np.int64),
                "second": np.array([place(b) for _, b, _ in some], np.int64),
                "jaccard": np.array([j for _, _, j in some], np.float64),
            }
        )
    ranks = [np.array(part, np.int64) for part in (rank[:of_index], rank[of_index:]) if part]
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(clusters, "_PAIRS_AT_ONCE", pairs_at_once)
        patch.setattr(clusters, "_ROWS_AT_ONCE", rows_at_once)
        found = clusters.representatives(tables, [{"rank": one} for one in ranks], index=1 if of_index else 0)
    wanted = decided(pairs, order, set(range(of_index)))  # type: ignore[arg-type]
    assert found["place"].tolist() == sorted(place(i) for i in wanted)
    told = dict(zip(found["place"].tolist(), zip(found["kept"].tolist(), found["similarity"].tolist(), strict=True), strict=True))
    assert told == {place(i): (place(kept), similarity) for i, (kept, similarity) in wanted.items()}
