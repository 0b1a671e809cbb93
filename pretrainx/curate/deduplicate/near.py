"""Documents that nearly repeat another: MinHash bands name candidates, which are compared in full.

    sketch      map over shards: the band keys of each document, sorted
    candidates  reduce over ranges of keys: pairs that share a band
    shingle_sets  map over shards: the n-gram sets of the documents that are in a pair
    verify      map over shards of the pairs' first documents: exact Jaccard similarity and containment
    clusters.representatives  which of them stay

A corpus that was curated before takes part as an *index*: its sketches and shingle sets stand first in the lists, and its documents
are preferred to all others.
"""

import dataclasses
from collections.abc import Iterable, Sequence
from dataclasses import dataclass

import numpy as np
from numba import njit

from pretrainx.core.errors import InputError, nearest
from pretrainx.curate.deduplicate import columns, lsh, shingles
from pretrainx.curate.deduplicate.columns import Table
from pretrainx.curate.deduplicate.shingles import Hashes, mix
from pretrainx.curate.documents import Batch

KEEP = ("first", "longest", "source")
_IN_INDEX = -(2**62)  # a rank before all others
_MINIMA_AT_ONCE = 16_000_000  # 64 MB of signatures
_KEYS_AT_ONCE = 4_000_000  # sorted together: 100 MB
_PAIRS_AT_ONCE = 4_000_000  # 64 MB of pairs before they are made unique
_HASHES_AT_ONCE = 16_000_000  # 128 MB of n-gram sets held by one comparison


@dataclass(frozen=True)
class Settings:
    """How near is a duplicate, and how hard to look; the numbers of `bands` and `rows` decide the curve `lsh.chance`."""

    ngram: int = 5  # words
    bands: int = 64
    rows: int = 3
    min_jaccard: float = 0.35  # 0: every candidate counts, as published settings without a check have it
    min_containment: float = 1.01  # share of the dropped document's n-grams that are in the kept one; above 1: not looked at
    keep: str = "first"  # which of two stays: the first in order, the longest, or by the order of `sources`
    sources: tuple[str, ...] = ()  # the first is preferred; what is not named comes last
    reach: int = 32  # in a band shared by many, a document is compared with the first so many and those just before it
    seed: int = 0

    def __post_init__(self) -> None:
        for name, least in (("ngram", 1), ("bands", 1), ("rows", 1), ("reach", 1), ("seed", 0)):
            if getattr(self, name) < least:
                raise InputError(f"deduplicate.near.{name} = {getattr(self, name)}: a whole number from {least} is wanted")
        if not 0 <= self.min_jaccard <= 1.01 or not 0 < self.min_containment <= 1.01:
            raise InputError(
                f"deduplicate.near: min_jaccard = {self.min_jaccard} and min_containment = {self.min_containment}: "
                "shares from 0 to 1 are wanted (above 1: not looked at)"
            )
        if self.keep not in KEEP:
            raise InputError(f"deduplicate.near.keep = {self.keep!r}; {nearest(self.keep, KEEP)}")
        if self.keep == "source" and not self.sources:
            raise InputError("deduplicate.near.keep = 'source' needs deduplicate.near.sources, the preferred source first")


# Published settings, without a check where they have none. Bands are ours where the paper only says how near two documents must be.
PRESETS = {
    "default": Settings(),
    # Shorter runs of words survive more edits; the containment finds documents quoted whole in longer ones.
    "sensitive": Settings(ngram=3, bands=96, rows=3, min_jaccard=0.25, min_containment=0.8),
    "fineweb": Settings(bands=14, rows=8, min_jaccard=0.0),  # Penedo et al. 2024, section 3.4
    "datatrove": Settings(bands=14, rows=8, min_jaccard=0.0),  # its defaults, which FineWeb used
    "refinedweb": Settings(bands=450, rows=20, min_jaccard=0.0),  # Penedo et al. 2023, appendix G.3.1: 9,000 hashes
    "lee2022": Settings(bands=450, rows=20, min_jaccard=0.8),  # Lee et al. 2022, section 4.2 and appendix A
    "gopher": Settings(ngram=13, bands=32, rows=8, min_jaccard=0.8),  # Rae et al. 2021, appendix A.1: 13-grams, Jaccard above 0.8
    "slimpajama": Settings(ngram=13, bands=9, rows=13, min_jaccard=0.8),  # Shen et al. 2023: 13-grams, 0.8, 128 hashes
}


def preset(name: str, **changes: object) -> Settings:
    """The settings of this name, with some of them changed."""
    if name not in PRESETS:
        raise InputError(f"deduplicate.near.preset = {name!r}; {nearest(name, PRESETS)}")
    known = [field.name for field in dataclasses.fields(Settings)]
    for key in changes:
        if key not in known:
            raise InputError(f"deduplicate.near: unknown setting {key!r}; {nearest(key, known)}")
    return dataclasses.replace(PRESETS[name], **changes)  # type: ignore[arg-type]


def sketch(batches: Iterable[Batch], settings: Settings) -> dict[str, np.ndarray]:
    """A shard's table for `candidates`: `key` (sorted) and `index` for each band of each document; for each document `words` (a hash
    of all its words in order) and `rank` (in the order of keeping, lower is preferred)."""
    keys, wholes, orders = [], [], []
    for batch in batches:
        words = shingles.words(batch)
        ngrams = shingles.shingles(words, settings.ngram)
        step = max(1, _MINIMA_AT_ONCE // (settings.bands * settings.rows))
        for start in range(0, len(batch), step):  # many short documents have larger signatures than texts
            part = Hashes(ngrams.values, ngrams.bounds[start : start + step + 1])
            minima = lsh.signatures(part, settings.bands * settings.rows, settings.seed)
            keys.append(lsh.band_keys(minima, settings.bands, settings.rows))
        wholes.append(_hash_all(words.values, words.bounds))
        orders.append(ranks(batch, settings))
    if not keys:
        return {
            "key": np.empty(0, np.uint64),
            "index": np.empty(0, np.uint32),
            "words": np.empty(0, np.uint64),
            "rank": np.empty(0, np.int64),
        }
    whole = np.concatenate(wholes)
    worded = whole != 0  # documents without a word have no n-gram to agree in
    key = np.concatenate(keys)[worded].ravel()
    keys.clear()
    key, index = sorted_keys(key, np.flatnonzero(worded).astype(np.uint32), settings.bands)
    return {"key": key, "index": index, "words": whole, "rank": np.concatenate(orders)}


def sorted_keys(key: np.ndarray, documents: np.ndarray, bands: int) -> tuple[np.ndarray, np.ndarray]:
    """(the keys sorted, uint32 the document of each); a range of keys after the other, so that little is held beside the two."""
    out, index = np.empty_like(key), np.empty(len(key), np.uint32)
    at = 0
    for low, high in columns.ranges(max(1, -(-len(key) // _KEYS_AT_ONCE))):
        mine = np.flatnonzero((key >= np.uint64(low)) & (key <= np.uint64(high - 1)))
        mine = mine[np.argsort(key[mine], kind="stable")]
        out[at : at + len(mine)], index[at : at + len(mine)] = key[mine], documents[mine // bands]
        at += len(mine)
    return out, index


def ranks(batch: Batch, settings: Settings) -> np.ndarray:
    """int64[documents]: of two documents the one with the lower rank stays; of equal ranks, the first in order."""
    if settings.keep == "longest":
        return -np.diff(batch.bounds)
    if settings.keep == "source":
        known = {source: i for i, source in enumerate(settings.sources)}
        return np.array([known.get(document.source, len(known)) for document in batch.documents], np.int64)
    return np.zeros(len(batch), np.int64)


def partitions(sketches: Sequence[Table], rows_at_once: int = 8_000_000) -> list[tuple[int, int]]:
    """Ranges of keys of about so many rows (40 bytes each while they are worked on), for `candidates`."""
    rows = sum(len(columns.column(table, "key")) for table in sketches)
    return columns.ranges(max(1, -(-rows // rows_at_once)))


def candidates(sketches: Sequence[Table], keys: tuple[int, int], settings: Settings, index: int = 0) -> dict[str, np.ndarray]:
    """The pairs that share a band whose key lies in this range: `first`, `second` (places), each pair once, sorted.

    The first is preferred to the second. Sketch number i in the list is shard i; the first `index` of them are the index's, whose
    documents are not paired with each other. Of documents with equal words all but the preferred one are paired with that one only,
    since whatever is near one of them is near all (`clusters.representatives` knows this); others in a band of up to 2 * reach
    documents are all paired, in a larger one each with the `reach` first and the `reach` before it: linear, whatever a corpus repeats.
    """
    (key, inner), shard = columns.between(sketches, "key", ["key", "index"], *keys)
    places = columns.place(shard, inner)
    del inner, shard
    order = np.argsort(key, kind="stable")
    key, places = key[order], places[order]
    same = key[1:] == key[:-1]
    shared = np.zeros(len(key), np.bool_)
    shared[:-1] |= same
    shared[1:] |= same
    key, places = key[shared], places[shared]
    if not len(key):
        return {"first": np.empty(0, np.int64), "second": np.empty(0, np.int64)}
    known, inverse = np.unique(places, return_inverse=True)
    rank = columns.gather(sketches, "rank", known)
    rank[known < index << columns.SHARD_BITS] = _IN_INDEX
    # From here on a document is its number in the order of keeping.
    ordered = np.lexsort((known, rank))
    number = np.empty(len(known), np.int64)
    number[ordered] = np.arange(len(known))
    whole = columns.gather(sketches, "words", known)[inverse]
    numbers = number[inverse]
    bucket = np.concatenate([[0], np.cumsum(key[1:] != key[:-1])])
    # A run of one bucket and equal words: its first is the leader.
    order = np.lexsort((numbers, whole, bucket))
    leads = np.ones(len(order), np.bool_)
    leads[1:] = (bucket[order][1:] != bucket[order][:-1]) | (whole[order][1:] != whole[order][:-1])
    leaders = numbers[order][np.flatnonzero(leads)[np.cumsum(leads) - 1]]
    found = [_unique(leaders[~leads], numbers[order][~leads])]
    bucket, numbers = bucket[order][leads], numbers[order][leads]
    order = np.lexsort((numbers, bucket))
    bucket, numbers = bucket[order], numbers[order]
    starts = np.concatenate([np.flatnonzero(np.concatenate([[True], bucket[1:] != bucket[:-1]])), [len(bucket)]])
    totals = np.concatenate([[0], np.cumsum(_count_pairs(np.diff(starts), settings.reach))])
    done, held = 0, 0
    while done < len(starts) - 1:
        until = max(done + 1, int(np.searchsorted(totals, totals[done] + _PAIRS_AT_ONCE, side="right")) - 1)
        one, other = _pair(numbers, starts[done : until + 1], settings.reach, totals[until] - totals[done])
        found.append(_unique(one, other))
        held += len(found[-1][0])
        if held > _PAIRS_AT_ONCE:
            found = [_unique(*map(np.concatenate, zip(*found, strict=True)))]
            held = 0
        done = until
    one, other = _unique(*map(np.concatenate, zip(*found, strict=True)))
    first, second = known[ordered[one]], known[ordered[other]]
    old = second < index << columns.SHARD_BITS  # the index comes before all others, so that both are of it
    first, second = first[~old], second[~old]
    order = np.lexsort((second, first))
    return {"first": first[order], "second": second[order]}


def members(pairs: Sequence[Table], shard: int) -> np.ndarray:
    """The indices of a shard's documents that are in any pair: those whose n-grams `verify` will ask for."""
    low, high = shard << columns.SHARD_BITS, (shard + 1) << columns.SHARD_BITS
    found = [np.empty(0, np.int64)]
    for table in pairs:
        found.append(np.unique(columns.in_shard(table, "first", ["first"], shard)[0]))
        second = columns.column(table, "second")
        for start in range(0, len(second), _PAIRS_AT_ONCE):
            part = second[start : start + _PAIRS_AT_ONCE]
            found.append(np.unique(part[(part >= low) & (part < high)]))
    return np.unique(np.concatenate(found)) & 0xFFFFFFFF


def shingle_sets(batches: Iterable[Batch], settings: Settings, wanted: np.ndarray | None = None) -> dict[str, np.ndarray]:
    """A shard's table for `verify`: `index` (ascending) of the wanted documents, by default of all, and their n-grams as sorted
    64-bit hashes, `values` with `bounds`."""
    start = 0
    parts: list[Hashes] = []
    indices = [np.empty(0, np.int64)]
    for batch in batches:
        mine = np.arange(len(batch)) if wanted is None else wanted[(wanted >= start) & (wanted < start + len(batch))] - start
        if len(mine):
            chosen = batch if len(mine) == len(batch) else Batch([batch.documents[i] for i in mine.tolist()])
            parts.append(shingles.sets(shingles.shingles(shingles.words(chosen), settings.ngram)))
            indices.append(mine + start)
        start += len(batch)
    sizes = [np.diff(part.bounds) for part in parts]
    return {
        "index": np.concatenate(indices),
        "values": np.concatenate([np.empty(0, np.uint64), *(part.values for part in parts)]),
        "bounds": np.cumsum(np.concatenate([np.zeros(1, np.int64), *sizes])),
    }


def verify(pairs: Sequence[Table], sets: Sequence[Table], shard: int, settings: Settings) -> dict[str, np.ndarray]:
    """The candidates whose first document is in this shard and that are near enough: `first`, `second`, sorted; float64 `jaccard`,
    and `containment`, the share of the second's n-grams that the first has. `sets` are the shards' n-grams, in order."""
    low, high = shard << columns.SHARD_BITS, (shard + 1) << columns.SHARD_BITS
    (first, second), _ = columns.between(pairs, "first", ["first", "second"], low, high)
    first, second = _unique(first, second)
    jaccard, containment = np.zeros(len(first)), np.zeros(len(first))
    places = np.unique(np.concatenate([first, second]))
    sizes = _sizes(sets, places)
    near = _may_be_near(sizes[np.searchsorted(places, first)], sizes[np.searchsorted(places, second)], settings)
    first, second = first[near], second[near]
    jaccard, containment = np.zeros(len(first)), np.zeros(len(first))
    done = 0
    while done < len(first):
        until = _as_many_as_fit(first, second, places, sizes, done)
        chosen = np.unique(np.concatenate([first[done:until], second[done:until]]))
        held = _load(sets, chosen, sizes[np.searchsorted(places, chosen)])
        _compare(
            held.values, held.bounds, np.searchsorted(chosen, first[done:until]), np.searchsorted(chosen, second[done:until]),
            jaccard[done:until], containment[done:until],
        )  # fmt: skip
        done = until
    kept = (jaccard >= settings.min_jaccard) | (containment >= settings.min_containment)
    return {"first": first[kept], "second": second[kept], "jaccard": jaccard[kept], "containment": containment[kept]}


def _may_be_near(one: np.ndarray, other: np.ndarray, settings: Settings) -> np.ndarray:
    """Whether sets of these sizes can be near enough: sparing most comparisons of a short text with a long one."""
    smaller = np.minimum(one, other)
    jaccard = smaller >= settings.min_jaccard * np.maximum(one, other)
    return jaccard | (smaller >= settings.min_containment * other)


def _sizes(sets: Sequence[Table], places: np.ndarray) -> np.ndarray:
    sizes = np.zeros(len(places), np.int64)
    for shard, table in enumerate(sets):
        first, last = np.searchsorted(places, [shard << columns.SHARD_BITS, (shard + 1) << columns.SHARD_BITS])
        if last > first:
            rows = _rows(table, places[first:last], shard)
            bounds = columns.column(table, "bounds")
            sizes[first:last] = bounds[rows + 1] - bounds[rows]
    return sizes


def _rows(table: Table, places: np.ndarray, shard: int) -> np.ndarray:
    index = columns.column(table, "index")
    rows = np.searchsorted(index, places & 0xFFFFFFFF)
    if len(rows) and (rows[-1] >= len(index) or (index[rows] != places & 0xFFFFFFFF).any()):
        raise InputError(f"deduplicate.near: the n-grams of shard {shard} do not cover all documents in pairs: made from other candidates?")
    return rows


def _as_many_as_fit(first: np.ndarray, second: np.ndarray, places: np.ndarray, sizes: np.ndarray, done: int) -> int:
    """Where the stretch of pairs that begins at `done` ends: with at most _HASHES_AT_ONCE hashes, one pair at least."""
    taken = np.empty(2 * (len(first) - done), np.int64)
    taken[0::2], taken[1::2] = np.searchsorted(places, first[done:]), np.searchsorted(places, second[done:])
    fresh = np.zeros(len(taken), np.int64)
    each, at = np.unique(taken, return_index=True)  # a document counts where it is met first
    fresh[at] = sizes[each]
    total = np.cumsum(fresh)[1::2]
    return done + max(1, int(np.searchsorted(total, _HASHES_AT_ONCE, side="right")))


def _load(sets: Sequence[Table], places: np.ndarray, sizes: np.ndarray) -> Hashes:
    bounds = np.concatenate([[0], np.cumsum(sizes)])
    values = np.empty(bounds[-1], np.uint64)
    for shard, table in enumerate(sets):
        first, last = np.searchsorted(places, [shard << columns.SHARD_BITS, (shard + 1) << columns.SHARD_BITS])
        if last > first:
            rows = _rows(table, places[first:last], shard)
            _copy(columns.column(table, "values"), columns.column(table, "bounds")[rows], bounds[first : last + 1], values)
    return Hashes(values, bounds)


def _unique(first: np.ndarray, second: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Each pair once, sorted."""
    order = np.lexsort((second, first))
    first, second = first[order], second[order]
    fresh = np.ones(len(first), np.bool_)
    fresh[1:] = (first[1:] != first[:-1]) | (second[1:] != second[:-1])
    return first[fresh], second[fresh]


def _count_pairs(sizes: np.ndarray, reach: int) -> np.ndarray:
    """How many pairs `_pair` makes of buckets of these sizes: all up to 2 * reach, then 2 * reach for each further document."""
    small = np.minimum(sizes, 2 * reach)
    return small * (small - 1) // 2 + np.maximum(sizes - 2 * reach, 0) * 2 * reach


@njit(cache=True, nogil=True)
def _pair(numbers, starts, reach, total):
    one, other = np.empty(total, np.int64), np.empty(total, np.int64)
    at = 0
    for b in range(len(starts) - 1):
        start = starts[b]
        for i in range(start, starts[b + 1]):
            for j in range(start, min(i, start + reach)):
                one[at], other[at] = numbers[j], numbers[i]
                at += 1
            for j in range(max(start + reach, i - reach), i):
                one[at], other[at] = numbers[j], numbers[i]
                at += 1
    return one, other


@njit(cache=True, nogil=True)
def _hash_all(values, bounds):
    """A hash of each document's hashes in order; 0 for a document without."""
    out = np.zeros(len(bounds) - 1, np.uint64)
    for d in range(len(out)):
        h = np.uint64(bounds[d + 1] - bounds[d])
        for i in range(bounds[d], bounds[d + 1]):
            h = (h ^ values[i]) * np.uint64(0x9FB21C651E98DF25)
            h ^= h >> np.uint64(32)
        if bounds[d + 1] > bounds[d]:
            out[d] = mix(h) | np.uint64(1)
    return out


@njit(cache=True, nogil=True)
def _copy(values, starts, bounds, out):
    for d in range(len(starts)):
        for i in range(bounds[d + 1] - bounds[d]):
            out[bounds[d] + i] = values[starts[d] + i]


@njit(cache=True, nogil=True)
def _compare(values, bounds, first, second, jaccard, containment):
    for p in range(len(first)):
        i, last_i = bounds[first[p]], bounds[first[p] + 1]
        j, last_j = bounds[second[p]], bounds[second[p] + 1]
        size_i, size_j = last_i - i, last_j - j
        common = 0
        while i < last_i and j < last_j:
            x, y = values[i], values[j]
            common += x == y  # no branch to mispredict
            i += x <= y
            j += y <= x
        union = size_i + size_j - common
        jaccard[p] = common / union if union else 0.0
        containment[p] = common / size_j if size_j else 0.0
