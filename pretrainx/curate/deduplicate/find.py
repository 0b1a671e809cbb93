"""Duplicates of documents that fit in memory: the shard tasks one after the other, without files."""

from collections.abc import Iterable, Sequence

import numpy as np

from pretrainx.curate import documents
from pretrainx.curate.deduplicate import clusters, near
from pretrainx.curate.deduplicate.near import Settings
from pretrainx.curate.documents import Batch, Document


def find(
    texts: Iterable[str] | Sequence[Batch], settings: Settings | None = None, shards: int = 1, rows_at_once: int = 8_000_000
) -> dict[str, np.ndarray]:
    """The near duplicates among these texts, or among the documents of these batches: `index` of each dropped document, ascending,
    `kept`, the index of the one that stays in its place, and `similarity` (Jaccard) of the two.

    >>> find(["one two three four five six", "Quite another text, with words of its own.", "One two three: four five six!"])["index"]
    array([2])
    """
    settings = settings or Settings()
    batches = as_batches(texts)
    size = -(-len(batches) // shards) if batches else 1
    parts = [batches[i : i + size] for i in range(0, len(batches), size)]
    starts = np.cumsum([0, *(sum(map(len, part)) for part in parts)])
    if not parts:
        return {"index": np.empty(0, np.int64), "kept": np.empty(0, np.int64), "similarity": np.empty(0)}
    sketches = [near.sketch(part, settings) for part in parts]
    pairs = [near.candidates(sketches, keys, settings) for keys in near.partitions(sketches, rows_at_once)]
    sets = [near.shingle_sets(part, settings, near.members(pairs, shard)) for shard, part in enumerate(parts)]
    verified = [near.verify(pairs, sets, shard, settings) for shard in range(len(parts))]
    dropped = clusters.representatives(verified, sketches)
    index, kept = (starts[dropped[name] >> 32] + (dropped[name] & 0xFFFFFFFF) for name in ("place", "kept"))
    return {"index": index, "kept": kept, "similarity": dropped["similarity"]}


def as_batches(texts: Iterable[str] | Sequence[Batch]) -> list[Batch]:
    found = list(texts)
    if all(isinstance(one, Batch) for one in found):
        return [one for one in found if isinstance(one, Batch)]
    return list(documents.batches(Document(str(i), str(text), f"#{i + 1}") for i, text in enumerate(found)))
