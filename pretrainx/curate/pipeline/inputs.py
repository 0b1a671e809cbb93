"""The files of a corpus in a fixed order, their hashes, and the shards that they are read in.

A shard is a task's share: stretches of files, of one source. Large plain files of lines are cut at line ends, and small files are put
together; neither is seen in the output.
"""

import glob
import hashlib
import os
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from pretrainx.core import files
from pretrainx.core.errors import InputError, nearest
from pretrainx.curate import formats, streams
from pretrainx.curate.pipeline.executor import Executor
from pretrainx.curate.pipeline.settings import Input, Settings

_BLOCK = 1 << 22


@dataclass(frozen=True)
class File:
    """An input file: `name` is its path below the part of the glob that is fixed, so that ids do not depend on where a corpus lies."""

    source: str  # "": the records say it themselves
    path: Path
    name: str
    kind: str


@dataclass(frozen=True)
class Piece:
    """A stretch of a file, from byte `first` to `end` (0: its end), whose first line is record `number`."""

    file: File
    first: int = 0
    end: int = 0
    number: int = 1


@dataclass(frozen=True)
class Shard:
    """What one task reads; `sha256` is of the files that it is from."""

    pieces: tuple[Piece, ...]
    sha256: tuple[str, ...]

    @property
    def source(self) -> str:
        return self.pieces[0].file.source

    def __str__(self) -> str:
        first = self.pieces[0]
        at = f" from byte {first.first:,}" if first.first else ""
        more = f" and {len(self.pieces) - 1} more" if len(self.pieces) > 1 else ""
        return f"{first.file.path}{at}{more}"

    def as_json(self) -> list[Any]:
        """What its documents depend on."""
        return [[p.file.source, p.file.name, p.file.kind, sha, p.first, p.end] for p, sha in zip(self.pieces, self.sha256, strict=True)]


def find(settings: Settings) -> list[File]:
    """All input files: sources in the config's order, the files of each sorted by name."""
    inputs = settings.inputs if isinstance(settings.inputs, Mapping) else {"": settings.inputs}
    found = []
    for source, given in inputs.items():
        one = given if isinstance(given, Input) else Input(given)
        found += _files(source, one, f"inputs.{source}" if source else "inputs")
    return found


def _files(source: str, given: Input, where: str) -> list[File]:
    pattern = given.files
    root = pattern if os.path.isdir(pattern) else _root(pattern)
    if os.path.isdir(pattern):
        pattern = os.path.join(glob.escape(pattern), "**", "*")
    hidden = any(part.startswith(".") for part in Path(pattern).parts)
    paths = sorted({path for path in glob.glob(pattern, recursive=True, include_hidden=hidden) if os.path.isfile(path)})
    if not paths:
        kind = "glob without a match" if glob.has_magic(pattern) else "file not found"
        raise InputError(f"{where}: {kind}: {given.files!r} (looked from {Path.cwd()})")
    found = []
    for path in paths:
        kind = formats.kind_of(Path(path), given.format)
        if not kind:
            raise InputError(
                f"{where}: no reader is known for {path} by its name; {nearest(Path(path).suffix, formats.KINDS_BY_SUFFIX)}, "
                f"or say which: --config.inputs=\"{{'name': {{'files': '{given.files}', 'format': 'text'}}}}\""
            )
        found.append(File(source, Path(path), os.path.relpath(path, root), kind))
    return found


def _root(pattern: str) -> str:
    """The folder that all matches of a glob have in common by its text."""
    parts = []
    for part in Path(pattern).parts[:-1]:
        if glob.has_magic(part):
            break
        parts.append(part)
    return os.path.join(*parts) if parts else "."


def fingerprints(found: Sequence[File], memory: Path, executor: Executor) -> list[dict[str, Any]]:
    """Of each file {sha256, bytes, ends}: `ends` are line ends at about every few megabytes of a plain file of lines, (byte, lines before).

    A hash is computed once: a file whose size, times and inode are unchanged is taken to be unchanged (`memory` is where that is kept).
    """
    known = files.read_json(memory, "list of input files") if memory.exists() else {}
    stamps = [list(files.stamp(file.path)) for file in found]
    entries: dict[str, Any] = {}
    todo: list[tuple[str, str]] = []
    for file, stamp in zip(found, stamps, strict=True):
        name = str(file.path.resolve())
        if known.get(name, {}).get("stamp") == stamp:
            entries[name] = known[name]
        elif name not in entries:
            entries[name] = {"stamp": stamp}
            todo.append((name, file.kind))
    if todo:
        for (name, _), made in zip(todo, executor.map(fingerprint, todo, "hashing the input"), strict=True):
            entries[name].update(made)
        files.write_json(memory, entries)
    return [entries[str(file.path.resolve())] for file in found]


def fingerprint(task: tuple[str, str]) -> dict[str, Any]:
    """{sha256, bytes, ends} of one file."""
    path, kind = Path(task[0]), task[1]
    cut = kind in ("jsonl", "lines") and path.suffix not in streams.COMPRESSED
    digest, size, lines, ends = hashlib.sha256(), 0, 0, []
    with open(path, "rb") as stream:
        while block := stream.read(_BLOCK):
            digest.update(block)
            if cut:
                last = block.rfind(b"\n") + 1
                lines += block.count(b"\n")
                if last:
                    ends.append([size + last, lines])
            size += len(block)
    return {"sha256": digest.hexdigest(), "bytes": size, "ends": ends}


def shards(found: Sequence[File], prints: Sequence[Mapping[str, Any]], piece_bytes: int) -> list[Shard]:
    """Shards of about `piece_bytes` each, in the files' order; one never holds two sources."""
    made: list[Shard] = []
    held: list[tuple[Piece, str]] = []
    size = 0
    for piece, sha, length in _pieces(found, prints, piece_bytes):
        if held and (held[0][0].file.source != piece.file.source or size + length > piece_bytes):
            made.append(_shard(held))
            held, size = [], 0
        held.append((piece, sha))
        size += length
    if held:
        made.append(_shard(held))
    return made


def _shard(held: list[tuple[Piece, str]]) -> Shard:
    return Shard(tuple(piece for piece, _ in held), tuple(sha for _, sha in held))


def _pieces(found: Sequence[File], prints: Sequence[Mapping[str, Any]], piece_bytes: int) -> Iterator[tuple[Piece, str, int]]:
    for file, known in zip(found, prints, strict=True):
        first, number = 0, 1
        for end, lines in known["ends"]:
            if end - first >= piece_bytes and end < known["bytes"]:
                yield Piece(file, first, end, number), known["sha256"], end - first
                first, number = end, lines + 1
        yield Piece(file, first, 0, number), known["sha256"], known["bytes"] - first


def as_manifest(found: Sequence[File], prints: Sequence[Mapping[str, Any]]) -> list[dict[str, Any]]:
    return [
        {"file": str(file.path), "source": file.source, "format": file.kind, "bytes": known["bytes"], "sha256": known["sha256"]}
        for file, known in zip(found, prints, strict=True)
    ]
