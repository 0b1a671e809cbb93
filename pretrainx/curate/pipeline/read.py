"""Stage "read": from raw files to cleaned documents with an id and a source, and a count of what could not be read.

The id is the record's own, else a hash of source, file name, record number and text: it stays when a corpus is moved or grows.
"""

import hashlib
import math
from collections import Counter
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Literal

from pretrainx.core.errors import InputError
from pretrainx.curate import formats, presets
from pretrainx.curate.documents import Batch, Document, batches
from pretrainx.curate.pipeline import shards, store
from pretrainx.curate.pipeline.inputs import Piece, Shard
from pretrainx.curate.pipeline.settings import Chain, Chains, Reading
from pretrainx.curate.readers import Counts, Format
from pretrainx.curate.streams import BadRecord

VERSION = 2  # of what this file makes; 1: languages were not counted
NOT_SAID = "not said"  # the language of a document of which neither its record nor a filter tells one
EMPTY = "empty_text"
CLEANED_AWAY = "empty_after_cleaning"
NO_SOURCE = "documents"  # the source of a record when neither it nor the config says one
SENTENCES = 5  # of bad records that a shard tells in its result; all of them are among the dropped


@dataclass(frozen=True)
class Task:
    shard: Shard
    reading: Reading
    clean: Chains
    folder: Path

    def __str__(self) -> str:
        return str(self.shard)


@dataclass(frozen=True)
class Unread:
    """The place of a record that is no document, in the stream of documents."""

    id: str
    source: str
    origin: str
    reason: str
    sentence: str


def key(shard: Shard, reading: Reading, clean: Chains) -> str:
    """The name of the result: what does not change documents (the policy for bad records, a piece's size) is left out."""
    said = [reading.text_key, reading.id_key, reading.source_key, reading.encoding_errors, reading.html, reading.max_document_bytes]
    return store.key_of("read", VERSION, shard.as_json(), said, clean.as_json([shard.source] if shard.source else None))


def run(task: Task) -> dict[str, Any]:
    """Reads and cleans one shard."""
    counts, faults = Counts(), [0]
    cleaned: Counter[str] = Counter()
    languages: Counter[str] = Counter()
    sentences: list[str] = []
    with store.writing(task.folder) as folder, shards.Writer(folder) as writer:
        for group in _groups(_documents(task, counts, faults)):
            if isinstance(group, Unread):
                if len(sentences) < SENTENCES:
                    sentences.append(group.sentence)
                writer.add(Document(group.id, "", group.origin, group.source), group.reason, group.sentence)
                continue
            for document in clean(group, task.clean, cleaned).documents:
                writer.add(document, "" if document.text else CLEANED_AWAY)
                if document.text:
                    languages[language_of(document.metadata)] += 1
        found = writer.finish()
        table = shards.columns(folder)
        result = {
            **found, "faults": faults[0], "sentences": sentences, "cleaned": dict(sorted(cleaned.items())),
            "documents_replaced": counts.documents_replaced, "characters_replaced": counts.characters_replaced,
            "bytes": int(table["bytes"].sum()), "languages": dict(sorted(languages.items())),
        }  # fmt: skip
        store.tell(folder, result)
    return result


def language_of(metadata: Mapping[str, Any]) -> str:
    """What a record's metadata say of its language."""
    said = metadata.get("language")
    return said[:40] if isinstance(said, str) else NOT_SAID


def clean(batch: Batch, chains: Chains, counts: Counter[str]) -> Batch:
    """The batch after each source's cleaning steps, its documents in the same order."""
    made: list[Document] = list(batch.documents)
    for chain, places in by_chain(batch, chains):
        part = batch if len(places) == len(batch) else Batch([batch.documents[i] for i in places])
        part, _, told = presets.apply(part, chain)
        counts.update(told)
        for place, document in zip(places, part.documents, strict=True):
            made[place] = document
    return Batch(made)


def by_chain(batch: Batch, chains: Chains) -> Iterator[tuple[Chain, list[int]]]:
    """(chain, places of the documents that get it), for each chain that is not empty."""
    places: dict[str, list[int]] = {}
    for place, document in enumerate(batch.documents):
        places.setdefault(document.source if document.source in chains.by_source else "", []).append(place)
    for source, some in places.items():
        chain = chains.by_source.get(source, chains.default)
        if chain:
            yield chain, some


def _groups(items: Iterator[Document | Unread]) -> Iterator[Batch | Unread]:
    """Batches of documents, with the records that are none where they belong."""
    held: list[Unread] = []

    def only_documents() -> Iterator[Document]:
        for item in items:
            if isinstance(item, Unread):
                held.append(item)
                yield Document("", "", "", "")  # keeps the place
            else:
                yield item

    for batch in batches(only_documents()):
        run: list[Document] = []
        for document in batch.documents:
            if document.origin:
                run.append(document)
                continue
            if run:
                yield Batch(run)
                run = []
            yield held.pop(0)
        if run:
            yield Batch(run)


def _documents(task: Task, counts: Counts, faults: list[int]) -> Iterator[Document | Unread]:
    """Documents with id, source and metadata as they will be written, and the records that are none, in the files' order."""
    for piece in task.shard.pieces:
        unread: list[Unread] = []

        def on_bad(bad: BadRecord, piece: Piece = piece, unread: list[Unread] = unread) -> None:
            if bad.fault:
                if task.reading.bad_records == "stop":
                    raise InputError(f"{bad} (reading.bad_records='stop')")
                faults[0] += 1
                if faults[0] > task.reading.max_bad_records:
                    raise too_many(task.reading, str(bad))
            origin = f"{piece.file.name}#{bad.number}"
            unread.append(Unread(origin, piece.file.source or NO_SOURCE, origin, bad.reason, str(bad)))

        form = _format(piece, task.reading)
        stream = formats.read(piece.file.path, piece.file.name, piece.file.kind, form, task.reading.html, counts, on_bad)
        for document in stream:
            yield from unread
            unread.clear()
            yield _settle(document, piece)
        yield from unread


def too_many(reading: Reading, last: str) -> InputError:
    return InputError(f"more than reading.max_bad_records = {reading.max_bad_records:,} records cannot be read, the last of them: {last}")


def _format(piece: Piece, reading: Reading) -> Format:
    known: dict[str, Literal["jsonl", "parquet"]] = {"jsonl": "jsonl", "parquet": "parquet"}
    kind: Literal["jsonl", "parquet", "text"] = known.get(piece.file.kind, "text")
    return Format(
        kind, reading.text_key, reading.id_key, "line" if piece.file.kind == "lines" else "file", reading.encoding_errors,
        reading.max_document_bytes, piece=(piece.first, piece.end, piece.number),
        metadata=True, source_key=reading.source_key, keep_empty=True, section="reading",
    )  # fmt: skip


def _settle(document: Document, piece: Piece) -> Document | Unread:
    """The document with its lasting names: source, origin and id without the folder that the corpus happens to lie in."""
    number = document.origin.rpartition("#")[2]
    origin = f"{piece.file.name}#{number}"
    source = piece.file.source or document.source or NO_SOURCE
    own = document.id not in (document.origin, str(piece.file.path))
    if not document.text:
        return Unread(document.id if own else origin, source, origin, EMPTY, f"{piece.file.path}, record {number}: the text is empty")
    metadata = plain(document.metadata) if document.metadata else {}
    if document.source and document.source != source:
        metadata = {**metadata, "source": document.source}
    name = document.id if own else content_id(source, origin, document.text)
    return replace(document, id=name, origin=origin, source=source, metadata=metadata)


def content_id(source: str, origin: str, text: str) -> str:
    """The id of a document whose record has none: 128 bits as hex."""
    digest = hashlib.blake2b(f"{source}\0{origin}\0".encode("utf-8", "replace"), digest_size=16)
    digest.update(text.encode())
    return digest.hexdigest()


def plain(value: Any, depth: int = 0) -> Any:
    """Metadata as JSON that every reader takes: no nan or inf, no half characters, text for what JSON has no form for."""
    if isinstance(value, str):
        return value if value.isascii() else value.encode("utf-8", "replace").decode()
    if value is None or isinstance(value, bool | int):
        return value
    if isinstance(value, float):
        return value if math.isfinite(value) else None
    if depth > 50:
        return "..."
    if isinstance(value, Mapping):
        return {plain(str(key)): plain(inner, depth + 1) for key, inner in value.items()}
    if isinstance(value, list | tuple):
        return [plain(inner, depth + 1) for inner in value]
    if isinstance(value, bytes):
        return value.decode("utf-8", "replace")
    return plain(str(value))
