"""Documents between stages: a compressed file of one JSON list a line, and columns of numbers beside it.

A record that could not be read has its place too, with an empty text and the reason: every record of the input is one place in
the order of the corpus, and a stage's decision about it is one number in an array.

    documents.jsonl.zst   [id, text, origin, source, metadata] a line; of a bad record [id, "", origin, source, {}, sentence]
    columns.npz           bytes, characters int64; source, code int32 (0: read, else 1 + the place of its reason)
    ids.bin, ids_*.npy    the ids one after the other and where each ends; the documents' 64-bit hashes in order, and whose they are
"""

import hashlib
import json
from array import array
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from pretrainx.core.errors import InputError
from pretrainx.curate.documents import Document

DOCUMENTS, COLUMNS = "documents.jsonl.zst", "columns.npz"
LEVEL = 1  # of compression: these files are read two to five times and then thrown away


def zstandard() -> Any:
    try:
        import zstandard
    except ImportError:
        raise InputError("curation needs the package zstandard: pip install 'pretrainx[curate]'") from None
    return zstandard


@dataclass
class Writer:
    """Writes one shard's documents, inside a `with`; `finish` writes the columns and returns what to count."""

    folder: Path
    sources: list[str] = field(default_factory=list)
    reasons: list[str] = field(default_factory=list)
    _columns: "array[int]" = field(default_factory=lambda: array("q"))  # four numbers a record
    _ids: list[bytes] = field(default_factory=list)

    def __post_init__(self) -> None:
        self._file = open(self.folder / DOCUMENTS, "wb")  # noqa: SIM115 - closed by __exit__
        self._stream = zstandard().ZstdCompressor(level=LEVEL).stream_writer(self._file, closefd=False)

    def __enter__(self) -> "Writer":
        return self

    def __exit__(self, *_: object) -> None:
        self._file.close()

    def add(self, document: Document, reason: str = "", sentence: str = "") -> None:
        """One record: a document, or with a `reason` one that is none."""
        values: list[Any] = [document.id, document.text, document.origin, document.source, document.metadata]
        line = json.dumps([*values, sentence] if reason else values, ensure_ascii=False)
        self._stream.write(line.encode() + b"\n")
        code = 1 + _place(self.reasons, reason) if reason else 0
        size = len(document.text) if document.text.isascii() else len(document.text.encode())
        self._columns.extend((size, len(document.text), _place(self.sources, document.source), code))
        self._ids.append(document.id.encode())

    def finish(self) -> dict[str, Any]:
        self._stream.close()
        size, characters, source, code = np.array(self._columns, np.int64).reshape(-1, 4).T
        np.savez(
            self.folder / COLUMNS, bytes=size, characters=characters,
            source=source.astype(np.int32), code=code.astype(np.int32),
        )  # fmt: skip
        (self.folder / "ids.bin").write_bytes(b"".join(self._ids))
        np.save(self.folder / "ids_end.npy", np.cumsum([len(i) for i in self._ids], dtype=np.int64))
        read = np.flatnonzero(code == 0)  # the id of a record that is no document is not taken
        hashes = np.array([int.from_bytes(hashlib.blake2b(self._ids[i], digest_size=8).digest(), "little") for i in read], np.uint64)
        order = np.argsort(hashes, kind="stable")
        np.save(self.folder / "ids_hash.npy", hashes[order])
        np.save(self.folder / "ids_order.npy", read[order].astype(np.int64))
        return {"records": len(size), "sources": self.sources, "reasons": self.reasons}


def _place(names: list[str], name: str) -> int:
    try:
        return names.index(name)
    except ValueError:
        names.append(name)
        return len(names) - 1


def columns(folder: Path) -> dict[str, np.ndarray]:
    with np.load(folder / COLUMNS, allow_pickle=False) as found:
        return dict(found)


def ids(folder: Path, places: np.ndarray) -> list[str]:
    """The ids at these places of the shard, of which only they are read."""
    ends = np.load(folder / "ids_end.npy", mmap_mode="r")
    with open(folder / "ids.bin", "rb") as stream:
        found = []
        for place in places.tolist():
            start = int(ends[place - 1]) if place else 0
            stream.seek(start)
            found.append(stream.read(int(ends[place]) - start).decode())
    return found


def rows(folder: Path, want: np.ndarray, start: int = 0) -> Iterator[tuple[int, list[Any]]]:
    """(place, row) of the records that `want` (bool, one for each from `start` on) asks for; no other is parsed."""
    stop = start + len(want)
    with open(folder / DOCUMENTS, "rb") as raw, zstandard().ZstdDecompressor().stream_reader(raw) as stream:
        for place, line in enumerate(_lines(stream)):
            if place >= stop:
                return
            if place >= start and want[place - start]:
                yield place, json.loads(line)


def documents(folder: Path, want: np.ndarray) -> Iterator[Document]:
    """The documents at the places where `want` is true."""
    for _, (name, text, origin, source, metadata, *_) in rows(folder, want):
        yield Document(name, text, origin, source, metadata)


def rewrite(source: Path, code: np.ndarray, reasons: list[str], changed: np.ndarray, texts: Iterator[str], folder: Path) -> None:
    """Writes a shard anew with another text (the next of `texts`) where `changed` is true, every record in its place."""
    with Writer(folder) as writer:
        for place, (name, text, origin, where, metadata, *sentence) in rows(source, np.ones(len(code), bool)):
            reason = reasons[code[place] - 1] if code[place] else ""
            writer.add(Document(name, next(texts) if changed[place] else text, origin, where, metadata), reason, *sentence)
        writer.finish()


def _lines(stream: Any, size: int = 1 << 20) -> Iterator[bytes]:
    """Lines of a decompressed stream; much quicker than its own line by line."""
    rest: list[bytes] = []
    while block := stream.read(size):
        head, newline, tail = block.rpartition(b"\n")
        if not newline:
            rest.append(block)
            continue
        whole = b"".join([*rest, head])
        rest = [tail]
        yield from whole.split(b"\n")
