"""Documents that hold texts of evaluation sets: found by runs of words in common, and a manifest that training asks for.

A run of 13 words that an evaluation item and a document share counts as a leak (Brown et al. 2020, appendix C; words as
`deduplicate.shingles` finds them: folded, so that neither case, punctuation nor spacing hides one). An item of fewer words is looked
for whole; one below `min_words` is too common a phrase to say anything, and is counted as not looked for.
"""

import dataclasses
import json
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numba import njit

from pretrainx.core import files
from pretrainx.core.errors import InputError, nearest
from pretrainx.curate import readers, records
from pretrainx.curate.decontaminated import FORMAT
from pretrainx.curate.deduplicate import columns, shingles
from pretrainx.curate.documents import Batch, Document

ACTIONS = ("drop", "cut", "report")
_ITEMS_NAMED = 5  # of the items that share one span


@dataclass(frozen=True)
class EvaluationSet:
    """Files of evaluation items: an item is a record (`records.read_file`), its texts the values of `fields`, by default all strings."""

    files: str  # a glob of .jsonl, .tsv, .txt, .arrow or .parquet files
    fields: tuple[str, ...] = ()
    id_key: str = ""  # "": `id`, or else the number of the record within its file


@dataclass(frozen=True)
class Settings:
    """What counts as a leak, and what becomes of the document."""

    ngram: int = 13  # words
    min_words: int = 8  # items of fewer words are not looked for
    action: str = "drop"  # the document; or "cut" the span out of it, or "report" only
    margin: int = 0  # characters cut on each side of a span, to the next white space
    context: int = 60  # characters shown on each side of a span

    def __post_init__(self) -> None:
        if self.action not in ACTIONS:
            raise InputError(f"decontaminate.action = {self.action!r}; {nearest(self.action, ACTIONS)}")
        if not 1 <= self.min_words <= self.ngram:
            raise InputError(f"decontaminate: min_words = {self.min_words} and ngram = {self.ngram}: 1 <= min_words <= ngram is wanted")
        if self.margin < 0 or self.context < 0:
            raise InputError(f"decontaminate: margin = {self.margin} and context = {self.context}: whole numbers from 0 are wanted")


@dataclass(frozen=True)
class Index:
    """The runs of words of all items: what `search` needs, and what a manifest says of the sets."""

    key: np.ndarray  # uint64, ascending: the hash of a run
    item: np.ndarray  # int32: an item that has it; a run of several items has several rows
    bits: np.ndarray  # uint8: which hashes are there at all, by their upper bits: most runs are settled by one look
    names: tuple[tuple[str, str], ...]  # (set, item id) of each item
    widths: tuple[int, ...]  # of the runs, in words
    sets: Mapping[str, Mapping[str, Any]]  # by name: files and hashes, items, and how many are looked for


@dataclass(frozen=True)
class Hit:
    """A stretch of a document that evaluation items have too."""

    document: int  # its index in the batch
    start: int  # characters
    end: int
    words: int
    items: tuple[tuple[str, str], ...]  # (set, item id), those with the most runs in it first

    def row(self, document: Document, settings: Settings) -> dict[str, Any]:
        """What the report says of it, as JSON values."""
        text, around = document.text, settings.context
        return {
            "id": document.id, "origin": document.origin, "source": document.source, "action": settings.action,
            "start": self.start, "end": self.end, "words": self.words,
            "items": [{"set": name, "item": item} for name, item in self.items],
            "before": text[max(self.start - around, 0) : self.start], "text": text[self.start : self.end],
            "after": text[self.end : self.end + around],
        }  # fmt: skip


def build(sets: Mapping[str, EvaluationSet], settings: Settings) -> Index:
    """The index of these sets.

    Raises:
      InputError: no sets, files that are not there or not readable, or a set of which no item is long enough to be looked for.
    """
    if not sets:
        raise InputError("decontaminate.sets is empty: name an evaluation set and its files")
    names: list[tuple[str, str]] = []
    texts: list[str] = []
    owners: list[int] = []
    facts: dict[str, dict[str, Any]] = {}
    for name, described in sets.items():
        where = f"decontaminate.sets.{name}"
        paths = readers.list_files(described.files, where=where)
        facts[name] = {
            "files": [{"file": path.name, "sha256": files.sha256_file(path)} for path in paths],
            "fields": list(described.fields), "items": 0, "looked_for": 0,
        }  # fmt: skip
        for path in paths:
            for number, (values, place) in enumerate(records.read_file(path), 1):
                found = _texts(values, described.fields, place)
                texts.extend(found)
                owners.extend([len(names)] * len(found))
                facts[name]["items"] += 1
                names.append((name, _name(values, described.id_key, path, number, len(paths), place)))
        if not facts[name]["items"]:
            raise InputError(f"{where}: {described.files!r} holds no record")
    words = shingles.words(Batch([Document("", text, "") for text in texts]))
    counts = np.diff(words.bounds)
    long = counts >= settings.min_words
    runs = shingles.shingles(words, settings.ngram)
    each = np.diff(runs.bounds)
    chosen = np.repeat(long, each)
    key, item = runs.values[chosen], np.repeat(np.array(owners, np.int32), each)[chosen]
    looked_for = Counter(names[i][0] for i in np.unique(np.array(owners, np.int64)[long]).tolist())
    for name in sets:
        facts[name]["looked_for"] = looked_for[name]
        if not looked_for[name]:
            raise InputError(
                f"decontaminate.sets.{name}: none of {facts[name]['items']} items has {settings.min_words} words (decontaminate.min_words)"
            )
    order = np.lexsort((item, key))
    key, item = key[order], item[order]
    fresh = np.ones(len(key), np.bool_)
    fresh[1:] = (key[1:] != key[:-1]) | (item[1:] != item[:-1])
    key, item = key[fresh], item[fresh]
    widths = sorted(set(np.minimum(counts[long], settings.ngram).tolist()))
    return Index(key, item, _bits(key), tuple(names), tuple(widths), facts)


def write_index(folder: Path, index: Index) -> Path:
    """The index as a folder, whole or not there: what other processes read."""
    told = json.dumps({"names": index.names, "widths": index.widths, "sets": index.sets}, ensure_ascii=False).encode()
    return columns.write(folder, {"key": index.key, "item": index.item, "told": np.frombuffer(told, np.uint8)})


def read_index(folder: Path) -> Index:
    key, item, told = (np.array(columns.column(folder, name)) for name in ("key", "item", "told"))
    values = json.loads(told.tobytes())
    names = tuple((name, item) for name, item in values["names"])
    return Index(key, item, _bits(key), names, tuple(values["widths"]), values["sets"])


def search(batch: Batch, index: Index) -> list[Hit]:
    """The stretches of the batch's documents that items have too, in order; runs that overlap are one stretch."""
    words = shingles.words(batch)
    found: dict[int, list[tuple[int, int, np.uint64]]] = {}  # by document: (first word, words, hash)
    for width in index.widths:
        runs = shingles.shingles(words, width)
        maybe = _maybe(runs.values, index.bits)
        row = np.searchsorted(index.key, runs.values[maybe])
        sure = maybe[index.key[np.minimum(row, len(index.key) - 1)] == runs.values[maybe]]
        document = np.searchsorted(runs.bounds, sure, side="right") - 1
        for at, d in zip(sure.tolist(), document.tolist(), strict=True):
            held = min(width, int(words.bounds[d + 1] - words.bounds[d]))
            found.setdefault(d, []).append((at - int(runs.bounds[d]), held, runs.values[at]))
    return [hit for d in sorted(found) for hit in _join(d, batch.documents[d].text, found[d], index)]


def clean(batch: Batch, hits: Sequence[Hit], settings: Settings) -> tuple[Batch, np.ndarray]:
    """The documents as they are to go on, and bool[documents], which of the batch's are to be dropped (these are not in it)."""
    spans: dict[int, list[tuple[int, int]]] = {}
    for hit in hits:
        spans.setdefault(hit.document, []).append((hit.start, hit.end))
    drop = np.zeros(len(batch), np.bool_)
    if settings.action == "report" or not spans:
        return batch, drop
    kept = list(batch.documents)
    for d, cuts in spans.items():
        text = "" if settings.action == "drop" else _without(kept[d].text, cuts, settings.margin)
        drop[d] = not text.strip()
        kept[d] = dataclasses.replace(kept[d], text=text)
    return Batch([document for document, gone in zip(kept, drop, strict=True) if not gone]), drop


def manifest(index: Index, settings: Settings, rows: Sequence[Mapping[str, Any]], documents: int) -> dict[str, Any]:
    """What `decontamination.json` says: the sets by name with their files' hashes, the settings, and what was found.

    `rows` are the report's (`Hit.row`) of all shards, `documents` how many were searched.
    """
    named = {(entry["set"], entry["item"]) for row in rows for entry in row["items"]}
    found = Counter(name for name, _ in named)
    return {
        "format": FORMAT, "settings": dataclasses.asdict(settings), "documents": documents,
        "documents_with_leaks": len({(row["origin"], row["id"]) for row in rows}), "spans": len(rows),
        "sets": {name: {**facts, "found": found[name]} for name, facts in index.sets.items()},
    }  # fmt: skip


def _texts(values: Mapping[str, Any], fields: Sequence[str], place: str) -> list[str]:
    if not fields:
        return list(_strings(values))
    record = records.Record(values, {field: field for field in fields}, place)
    record.require(fields)
    return [text for field in fields for text in _strings(values[field])]


def _strings(value: Any) -> Iterator[str]:
    if isinstance(value, str):
        yield value.encode("utf-8", "replace").decode()  # JSON may hold halves of surrogate pairs
    elif isinstance(value, Mapping):
        for inner in value.values():
            yield from _strings(inner)
    elif isinstance(value, (list, tuple)):
        for inner in value:
            yield from _strings(inner)


def _name(values: Mapping[str, Any], key: str, path: Path, number: int, of_files: int, place: str) -> str:
    if key and key not in values:
        raise InputError(f"{place}: no field {key!r}; {nearest(key, map(str, values))}")
    found = values.get(key or "id")
    if found not in (None, ""):
        return str(found)
    return f"{path.name}#{number}" if of_files > 1 else str(number)


def _join(document: int, text: str, runs: list[tuple[int, int, np.uint64]], index: Index) -> Iterator[Hit]:
    _, starts, ends = shingles.positions(text)
    runs.sort(key=lambda run: run[:2])
    stretches: list[list[Any]] = []  # first word, end, hashes
    for first, held, value in runs:
        if stretches and first < stretches[-1][1]:
            stretches[-1][1] = max(stretches[-1][1], first + held)
            stretches[-1][2].append(value)
        else:
            stretches.append([first, first + held, [value]])
    for first, end, values in stretches:
        rows = np.concatenate(
            [np.arange(np.searchsorted(index.key, value), np.searchsorted(index.key, value, "right")) for value in values]
        )
        owners, counts = np.unique(index.item[rows], return_counts=True)
        best = owners[np.lexsort((owners, -counts))][:_ITEMS_NAMED]
        yield Hit(document, int(starts[first]), int(ends[end - 1]), end - first, tuple(index.names[i] for i in best.tolist()))


def _without(text: str, cuts: Sequence[tuple[int, int]], margin: int) -> str:
    kept, at = [], 0
    for start, end in cuts:
        if margin:
            start, end = max(start - margin, at), min(end + margin, len(text))
            while start > at and not text[start - 1].isspace():
                start -= 1
            while end < len(text) and not text[end].isspace():
                end += 1
        kept.append(text[at : max(start, at)])
        at = max(end, at)
    return "".join([*kept, text[at:]])


def _bits(key: np.ndarray) -> np.ndarray:
    """One bit for each of 16 times as many upper parts of hashes as there are hashes, so that 15 of 16 others are told at once."""
    depth = min(max(int(len(key) * 16).bit_length(), 10), 34)
    bits = np.zeros(2**depth // 8, np.uint8)
    upper = key >> np.uint64(64 - depth)
    np.bitwise_or.at(bits, (upper >> np.uint64(3)).astype(np.int64), (np.uint8(1) << (upper & np.uint64(7)).astype(np.uint8)))
    return bits


@njit(cache=True, nogil=True)
def _maybe(values, bits):
    shift = np.uint64(64)
    size = len(bits) * 8
    while size > 1:
        size //= 2
        shift -= np.uint64(1)
    out = np.empty(64, np.int64)
    count = 0
    for i in range(len(values)):
        upper = values[i] >> shift
        if bits[upper >> np.uint64(3)] >> (upper & np.uint64(7)) & np.uint64(1):
            if count == len(out):
                longer = np.empty(2 * count, np.int64)
                longer[:count] = out
                out = longer
            out[count] = i
            count += 1
    return out[:count]
