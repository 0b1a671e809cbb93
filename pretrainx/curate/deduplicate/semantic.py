"""Documents that say the same in other words: vectors, clusters of them, and a cosine threshold within each (SemDeDup, Abbas et al. 2023).

    embed        map over shards: a vector for each document
    centroids    k-means of a sample, the same whatever the shards
    assign       map over shards: each document's cluster
    duplicates   reduce over clusters: which documents stay

Where the paper keeps, of near ones, that farthest from the centroid, a document here is dropped for one that is kept, in the order of
keeping, as in `clusters`. What lies in another cluster is not compared: copies on a border between two clusters are missed.
"""

import importlib
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Protocol

import numpy as np
from numba import njit

from pretrainx.core import plugins, schema
from pretrainx.core.errors import InputError, nearest
from pretrainx.curate.deduplicate import columns, near
from pretrainx.curate.deduplicate.columns import Table
from pretrainx.curate.deduplicate.shingles import mix
from pretrainx.curate.documents import Batch

_PACKAGE = "pretrainx.curate.deduplicate.embeddings"
_SLACK = 1e-4  # above what float32 products of unit vectors can be wrong by
_BLOCK = 1024  # documents compared at once with all that are kept


class Embedding(Protocol):
    """What a plug-in gives: texts to vectors; each text's must not depend on the texts beside it."""

    def embed(self, texts: Sequence[str]) -> np.ndarray:
        """float32[texts, width]."""


@dataclass(frozen=True)
class Settings:
    embedding: str = "static_tokens"  # a file of `embeddings/`, or one's own: "package.module" with a class Embedding, "module:attribute"
    embedding_options: Mapping[str, Any] = field(default_factory=dict)
    # What 99.9 % of unlike documents stay below in static_tokens; encoders that read sentences tell more apart (the paper: about 0.95).
    min_cosine: float = 0.999
    clusters: int = 0  # 0: the square root of the number of documents
    sample: int = 100_000  # documents that the clusters are found from
    iterations: int = 10
    keep: str = "first"  # as `near.Settings.keep`
    sources: tuple[str, ...] = ()

    def __post_init__(self) -> None:
        if not -1 <= self.min_cosine <= 1:
            raise InputError(f"deduplicate.semantic.min_cosine = {self.min_cosine}: a number from -1 to 1 is wanted")
        for name, least in (("clusters", 0), ("sample", 1), ("iterations", 0)):
            if getattr(self, name) < least:
                raise InputError(f"deduplicate.semantic.{name} = {getattr(self, name)}: a whole number from {least} is wanted")
        near.Settings(keep=self.keep, sources=self.sources)


def load(settings: Settings) -> Embedding:
    """The embedding that the settings name, made with their options."""
    where = "deduplicate.semantic.embedding"
    name, colon, attribute = settings.embedding.partition(":")
    if colon:
        try:
            module = importlib.import_module(name)
        except ImportError as error:
            raise InputError(f"{where}: cannot import {name!r}: {error}") from None
    else:
        module, attribute = plugins.find(_PACKAGE, "Embedding", name, where), "Embedding"
    if not hasattr(module, attribute):
        raise InputError(f"{where}: module {name!r} has no {attribute!r}; {nearest(attribute, vars(module))}")
    make = getattr(module, attribute)
    if not callable(make):
        return make
    return make(**schema.arguments(make, 0, settings.embedding_options, "deduplicate.semantic.embedding_options"))


def embed(batches: Iterable[Batch], embedding: Embedding, settings: Settings) -> dict[str, np.ndarray]:
    """A shard's table: `vector`, float32[documents, width], of length 1 (or 0: a document that is like no other), and `rank`."""
    order = near.Settings(keep=settings.keep, sources=settings.sources)
    vectors, ranks = [], []
    for batch in batches:
        found = np.asarray(embedding.embed(batch.texts))
        if found.ndim != 2 or len(found) != len(batch) or found.dtype != np.float32:
            raise InputError(
                f"deduplicate.semantic.embedding {settings.embedding!r} gave {found.dtype} of shape {found.shape} for {len(batch)} texts; "
                "float32[texts, width] is wanted"
            )
        if not np.isfinite(found).all():
            raise InputError(f"deduplicate.semantic.embedding {settings.embedding!r} gave values that are not finite numbers")
        length = np.sqrt((found.astype(np.float64) ** 2).sum(1, keepdims=True))
        vectors.append((found / np.where(length > 0, length, 1)).astype(np.float32))
        ranks.append(near.ranks(batch, order))
    if not vectors:
        return {"vector": np.empty((0, 0), np.float32), "rank": np.empty(0, np.int64)}
    return {"vector": np.concatenate(vectors), "rank": np.concatenate(ranks)}


def centroids(tables: Sequence[Table], settings: Settings) -> np.ndarray:
    """float32[clusters, width] by Lloyd's k-means on a sample of documents: those with the least hashes of their vectors, so that
    neither the order nor the shards of a corpus matter; the first of them are where the clusters begin."""
    chosen: list[np.ndarray] = []
    hashes: list[np.ndarray] = []
    total = 0
    for table in tables:
        vectors = columns.column(table, "vector")
        total += len(vectors)
        found = _hash_rows(np.ascontiguousarray(vectors).view(np.uint32)) if len(vectors) else np.empty(0, np.uint64)
        least = np.argsort(found, kind="stable")[: settings.sample]
        chosen.append(np.array(vectors[least]))
        hashes.append(found[least])
    kept = [part for part in chosen if len(part)]
    if not kept:
        return np.empty((0, 0), np.float32)
    values = np.concatenate(hashes)
    _, order = np.unique(values, return_index=True)  # equal vectors count once
    sample = np.concatenate(kept)[order[: settings.sample]]
    count = min(settings.clusters or max(1, round(total**0.5)), len(sample))
    centers = sample[:count].copy()
    for _ in range(settings.iterations):
        owner = _nearest(sample, np.ascontiguousarray(centers.T))
        sums = np.zeros(centers.shape)
        np.add.at(sums, owner, sample)
        length = np.sqrt((sums**2).sum(1, keepdims=True))
        moved = np.where(length > 0, sums / np.where(length > 0, length, 1), centers).astype(np.float32)  # an empty one stays
        if np.array_equal(moved, centers):
            break
        centers = moved
    return centers


def assign(table: Table, centers: np.ndarray) -> dict[str, np.ndarray]:
    """A shard's table for `duplicates`: `key` (sorted), the cluster whose centroid is nearest, and `index` of the document."""
    vectors = columns.column(table, "vector")
    if not len(vectors):
        return {"key": np.empty(0, np.uint64), "index": np.empty(0, np.uint32)}
    owner = _nearest(np.ascontiguousarray(vectors), np.ascontiguousarray(centers.T))
    order = np.argsort(owner, kind="stable")
    order = order[np.any(vectors, axis=1)[order]]  # an empty vector is like no other
    return {"key": owner[order].astype(np.uint64), "index": order.astype(np.uint32)}


def duplicates(
    tables: Sequence[Table], assigned: Sequence[Table], clusters: tuple[int, int], settings: Settings, index: int = 0
) -> dict[str, np.ndarray]:
    """The documents to drop in these clusters (first, one after the last): `place` (ascending), `kept` and `similarity` (cosine).

    Memory: the vectors of one cluster, and those kept of it. Documents of the index (the first `index` shards) always stay.
    """
    (key, inner), shard = columns.between(assigned, "key", ["key", "index"], *clusters)
    places = columns.place(shard, inner)
    found: list[tuple[np.ndarray, np.ndarray, np.ndarray]] = []
    for cluster in np.unique(key):
        mine = np.sort(places[key == cluster])
        rank = columns.gather(tables, "rank", mine)
        rank[mine < index << columns.SHARD_BITS] = np.iinfo(np.int64).min
        vectors = columns.gather(tables, "vector", mine)
        order = np.lexsort((mine, rank))
        fixed = int((mine < index << columns.SHARD_BITS).sum())
        kept, similarity = _greedy(vectors[order], settings.min_cosine, fixed)
        dropped = np.flatnonzero(kept != np.arange(len(kept)))
        found.append((mine[order[dropped]], mine[order[kept[dropped]]], similarity[dropped]))
    if not found:
        return {"place": np.empty(0, np.int64), "kept": np.empty(0, np.int64), "similarity": np.empty(0)}
    place, kept, similarity = map(np.concatenate, zip(*found, strict=True))
    order = np.argsort(place, kind="stable")
    return {"place": place[order], "kept": kept[order], "similarity": similarity[order]}


def _greedy(vectors: np.ndarray, threshold: float, fixed: int) -> tuple[np.ndarray, np.ndarray]:
    """(which one each is dropped for, itself if it stays; the cosine), in order; the first `fixed` all stay."""
    kept = np.arange(len(vectors))
    similarity = np.zeros(len(vectors))
    stay = np.empty(0, np.int64)
    for start in range(0, len(vectors), _BLOCK):
        block = np.arange(start, min(start + _BLOCK, len(vectors)))
        # Matrix products only name candidates, with some slack: their last bits depend on the shape of what is multiplied.
        row, column = np.nonzero(vectors[block] @ vectors[stay].T >= threshold - _SLACK)
        inner_row, inner_column = np.nonzero(np.tril(vectors[block] @ vectors[block].T >= threshold - _SLACK, -1))
        one = np.concatenate([stay[column], block[inner_column]])
        other = np.concatenate([block[row], block[inner_row]])
        order = np.lexsort((one, other))
        one, other = one[order], other[order]
        exact = (vectors[one].astype(np.float64) * vectors[other].astype(np.float64)).sum(1)
        _drop(one, other, exact, threshold, fixed, kept, similarity)
        stay = np.concatenate([stay, block[kept[block] == block]])
    return kept, similarity


@njit(cache=True)
def _drop(one, other, cosine, threshold, fixed, kept, similarity):
    for p in range(len(other)):
        a, b = one[p], other[p]
        if b >= fixed and kept[a] == a and cosine[p] >= threshold and (kept[b] == b or cosine[p] > similarity[b]):
            kept[b], similarity[b] = a, cosine[p]


@njit(cache=True, nogil=True)
def _hash_rows(rows):
    out = np.empty(len(rows), np.uint64)
    for i in range(len(rows)):
        h = np.uint64(0)
        for value in rows[i]:
            h = (h ^ np.uint64(value)) * np.uint64(0x9FB21C651E98DF25)
            h ^= h >> np.uint64(32)
        out[i] = mix(h)
    return out


@njit(cache=True, nogil=True)
def _nearest(vectors, centers):
    """The centroid of the greatest product with each vector, the first of equal ones. `centers` is [width, clusters]; sums go over the
    width in order, so that no shape of the work changes their last bits."""
    out = np.empty(len(vectors), np.int64)
    products = np.empty(centers.shape[1], np.float32)
    for i in range(len(vectors)):
        products[:] = 0
        for j in range(len(centers)):
            x = vectors[i, j]
            for k in range(len(products)):
                products[k] += x * centers[j, k]
        best = 0
        for k in range(1, len(products)):
            if products[k] > products[best]:
                best = k
        out[i] = best
    return out
