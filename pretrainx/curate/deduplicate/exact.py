"""Equal documents, and lines or paragraphs that were there before.

Documents are equal by a 128-bit hash, so that none is dropped by chance however large the corpus. Lines have 64 bits: among a billion
different ones the chance that any two share a hash is 1 in 37, and what is lost then is a line.

    documents, duplicates      map over shards, reduce over ranges of hashes: whole documents
    passages, repeated, cut    map, reduce, map: lines or paragraphs
"""

import hashlib
from collections.abc import Iterable, Sequence
from dataclasses import dataclass

import numpy as np
from numba import njit

from pretrainx.core.errors import InputError, nearest
from pretrainx.curate.deduplicate import columns, near
from pretrainx.curate.deduplicate.columns import Table
from pretrainx.curate.deduplicate.shingles import fold, mix
from pretrainx.curate.documents import Batch, Document

UNITS = ("line", "paragraph")
_IN_INDEX = -(2**62)
_NEW_LINE = 10


@dataclass(frozen=True)
class Passages:
    """Which passages are dropped where they were seen before."""

    unit: str = "line"  # or "paragraph": what stands between blank lines
    min_characters: int = 30  # without the white space around; a shorter passage always stays

    def __post_init__(self) -> None:
        if self.unit not in UNITS:
            raise InputError(f"deduplicate.passages.unit = {self.unit!r}; {nearest(self.unit, UNITS)}")
        if self.min_characters < 1:
            raise InputError(f"deduplicate.passages.min_characters = {self.min_characters}: a whole number from 1 is wanted")


def normal(text: str) -> str:
    """The text folded (NFKC, casefold), quotes made plain, each run of white space one space, none around."""
    if text.isascii():
        return " ".join(text.lower().split())
    folded = fold(text)
    for curly, plain in (("\u2019", "'"), ("\u2018", "'"), ("\u201c", '"'), ("\u201d", '"')):
        folded = folded.replace(curly, plain)
    return " ".join(folded.split())


def documents(batches: Iterable[Batch], folded: bool = False, settings: near.Settings | None = None) -> dict[str, np.ndarray]:
    """A shard's table for `duplicates`: `key` (sorted) and `low`, the halves of each document's hash, with its `index`; `rank` as in
    `near.sketch`. `folded` documents are compared by `normal`."""
    settings = settings or near.Settings()
    digests: list[bytes] = []
    orders = [np.empty(0, np.int64)]
    for batch in batches:
        texts = map(normal, batch.texts) if folded else batch.texts
        digests.extend(hashlib.blake2b(text.encode("utf-8"), digest_size=16).digest() for text in texts)
        orders.append(near.ranks(batch, settings))
    halves = np.frombuffer(b"".join(digests), np.uint64).reshape(-1, 2)
    order = np.lexsort((halves[:, 1], halves[:, 0]))
    return {
        "key": halves[order, 0], "low": halves[order, 1], "index": order.astype(np.uint32), "rank": np.concatenate(orders),
    }  # fmt: skip


def duplicates(tables: Sequence[Table], keys: tuple[int, int], index: int = 0) -> dict[str, np.ndarray]:
    """The documents to drop among those whose hash lies in this range: `place` (ascending) and `kept`, the place of the one that stays,
    the preferred one by `rank`, then the first. Documents of the index (the first `index` shards) always stay."""
    (key, low, inner), shard = columns.between(tables, "key", ["key", "low", "index"], *keys)
    places = columns.place(shard, inner)
    order = np.lexsort((places, low, key))
    key, low, places = key[order], low[order], places[order]
    same = np.zeros(len(key), np.bool_)
    same[1:] = (key[1:] == key[:-1]) & (low[1:] == low[:-1])
    group = np.cumsum(~same)
    known = np.sort(places)
    rank = columns.gather(tables, "rank", known)[np.searchsorted(known, places)]
    rank[places < index << columns.SHARD_BITS] = _IN_INDEX
    order = np.lexsort((places, rank, group))  # groups stay together, the preferred one first
    places = places[order]
    kept = places[np.flatnonzero(~same)[group - 1]]
    drop = same & (places >= index << columns.SHARD_BITS)
    place, by = places[drop], kept[drop]
    order = np.argsort(place, kind="stable")
    return {"place": place[order], "kept": by[order]}


def partitions(tables: Sequence[Table], rows_at_once: int = 8_000_000) -> list[tuple[int, int]]:
    """Ranges of hashes of about so many rows each, for `duplicates` and `repeated`."""
    return near.partitions(tables, rows_at_once)


def passages(batches: Iterable[Batch], settings: Passages) -> dict[str, np.ndarray]:
    """A shard's table for `repeated`: `key` (sorted), the hash of each passage that is long enough, the `index` of its document and
    its `number` within, both from 0. Passages are compared with the white space around them gone."""
    parts: list[list[np.ndarray]] = [[], [], []]
    start = 0
    for batch in batches:
        hashes, document, number, _, _ = split(batch, settings)
        long = hashes != 0
        for part, values in zip(parts, (hashes[long], (document[long] + start).astype(np.uint32), number[long]), strict=True):
            part.append(values)
        start += len(batch)
    empty = [np.empty(0, np.uint64), np.empty(0, np.uint32), np.empty(0, np.uint32)]
    key, index, number = (np.concatenate([none, *part]) for none, part in zip(empty, parts, strict=True))
    order = np.argsort(key, kind="stable")
    return {"key": key[order], "index": index[order], "number": number[order]}


def repeated(tables: Sequence[Table], keys: tuple[int, int]) -> dict[str, np.ndarray]:
    """The passages to cut among those whose hash lies in this range: `place` of the document and `number`, sorted: each but the first
    in the order of the corpus."""
    (key, inner, number), shard = columns.between(tables, "key", ["key", "index", "number"], *keys)
    places = columns.place(shard, inner)
    order = np.lexsort((number, places, key))
    key, places, number = key[order], places[order], number[order]
    seen = np.zeros(len(key), np.bool_)
    seen[1:] = key[1:] == key[:-1]
    places, number = places[seen], number[seen]
    order = np.lexsort((number, places))
    return {"place": places[order], "number": number[order]}


def cut(batch: Batch, settings: Passages, start: int, index: np.ndarray, number: np.ndarray) -> tuple[Batch, np.ndarray]:
    """The documents without these passages, and int64[documents], how many characters each lost.

    `index` and `number` are all of a shard's (as `columns.in_shard` gives them, less the shard); the batch's first document has the
    index `start`. A passage goes with the line ends after it. A document that loses all is an empty one: the caller drops it.
    """
    mine = (index >= start) & (index < start + len(batch))
    lost = np.zeros(len(batch), np.int64)
    if not mine.any():
        return batch, lost
    touched, inner = np.unique(index[mine] - start, return_inverse=True)
    _, document, _, starts, ends = split(Batch([batch.documents[d] for d in touched.tolist()]), settings)
    first = np.searchsorted(document, np.arange(len(touched)))
    rows = np.sort(first[inner] + number[mine])  # a document's passages are numbered as they stand
    changed: dict[int, list[tuple[int, int]]] = {}
    for d, a, b in zip(touched[document[rows]].tolist(), starts[rows].tolist(), ends[rows].tolist(), strict=True):
        changed.setdefault(d, []).append((a, b))
    found: list[Document] = list(batch.documents)
    for d, spans in changed.items():
        text, at, kept = found[d].text, 0, []
        for a, b in spans:
            kept.append(text[at:a])
            at = b
        kept.append(text[at:])
        shorter = "".join(kept)
        lost[d] = len(text) - len(shorter)
        found[d] = _with_text(found[d], shorter if shorter.strip() else "")
    return Batch(found), lost


def split(batch: Batch, settings: Passages) -> tuple[np.ndarray, np.ndarray, np.ndarray, np.ndarray, np.ndarray]:
    """(hash, document, number, start, end) of each passage; the hash is 0 where it is too short to be compared, start and end count
    the characters of its document, line ends after it included."""
    characters = batch.characters
    count = int(_split(characters, batch.bounds, settings.unit == "paragraph", settings.min_characters, *_room(0)))
    room = _room(count)
    _split(characters, batch.bounds, settings.unit == "paragraph", settings.min_characters, *room)
    return room


def _room(count: int) -> tuple[np.ndarray, np.ndarray, np.ndarray, np.ndarray, np.ndarray]:
    hashes, numbers = np.empty(count, np.uint64), np.empty(count, np.uint32)
    return hashes, np.empty(count, np.int64), numbers, np.empty(count, np.int64), np.empty(count, np.int64)


def _with_text(document: Document, text: str) -> Document:
    return Document(document.id, text, document.origin, document.source, document.metadata)


@njit(cache=True, inline="always")
def _is_space(c):
    """As str.isspace."""
    if c < 0x80:
        return c == 32 or 9 <= c <= 13 or 28 <= c <= 31
    return (
        c == 0x85 or c == 0xA0 or c == 0x1680 or 0x2000 <= c <= 0x200A
        or c == 0x2028 or c == 0x2029 or c == 0x202F or c == 0x205F or c == 0x3000
    )  # fmt: skip


@njit(cache=True, nogil=True)
def _split(characters, bounds, paragraphs, least, hashes, documents, numbers, starts, ends):
    """The count of passages; they are written where there is room."""
    write = len(hashes) > 0
    count = 0
    for d in range(len(bounds) - 1):
        first, last = bounds[d], bounds[d + 1]
        at, number = first, 0
        while at < last:
            end = at  # of the passage's own characters
            i = at
            filled = False
            while i < last:
                while i < last and characters[i] != _NEW_LINE:
                    if not _is_space(characters[i]):
                        filled = True
                    i += 1
                end = i
                i = min(i + 1, last)
                if not paragraphs:
                    break
                j = i  # a paragraph ends where a line holds nothing but white space
                while j < last and characters[j] != _NEW_LINE and _is_space(characters[j]):
                    j += 1
                if filled and (j == last or characters[j] == _NEW_LINE):
                    break
            if paragraphs:  # blank lines after it are its own
                while i < last:
                    j = i
                    while j < last and characters[j] != _NEW_LINE and _is_space(characters[j]):
                        j += 1
                    if j < last and characters[j] != _NEW_LINE:
                        break
                    i = min(j + 1, last)
            if write:
                a, b = at, end
                while a < b and _is_space(characters[a]):
                    a += 1
                while b > a and _is_space(characters[b - 1]):
                    b -= 1
                h = np.uint64(0)
                if b - a >= least:
                    h = np.uint64(b - a) * np.uint64(0xD6E8FEB86659FD93)
                    for k in range(a, b):
                        h = (h ^ np.uint64(characters[k])) * np.uint64(0x9FB21C651E98DF25)
                        h ^= h >> np.uint64(32)
                    h = mix(h) | np.uint64(1)
                hashes[count], documents[count], numbers[count] = h, d, number
                starts[count], ends[count] = at - first, i - first
            count += 1
            number += 1
            at = i
    return count
