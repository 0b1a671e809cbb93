"""Stage "write": shards of kept documents, and of dropped ones with the stage and the reason.

Which document goes to which file depends on the documents alone, not on how the input was cut: a file is full at so many bytes of
text, and each source that the config names begins files of its own.
"""

import gzip
import hashlib
import json
from collections import Counter
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import numpy as np

from pretrainx.curate.pipeline import corpus as corpora
from pretrainx.curate.pipeline import ids, shards, store
from pretrainx.curate.pipeline.corpus import Corpus, Names
from pretrainx.curate.pipeline.read import language_of
from pretrainx.curate.pipeline.settings import Output

VERSION = 2  # 1: no notes of filters in the metadata
DROPPED_ROWS = 500_000  # of one file
EXAMPLE_CHARACTERS = 300
_BUFFER = 1 << 20


@dataclass(frozen=True)
class Segment:
    """Records `start` to `stop` of a shard."""

    shard: int
    start: int
    stop: int


@dataclass(frozen=True)
class Task:
    kind: Literal["documents", "dropped"]
    name: str  # of the file
    segments: tuple[Segment, ...]
    corpus: Path  # a saved Corpus, with repeated.npy beside it
    output: Output
    folder: Path
    index: tuple[Path, ...] = ()  # tables of ids, of the documents of earlier runs

    def __str__(self) -> str:
        return f"{self.kind}/{self.name}"


def plan(corpus: Corpus, output: Output) -> list[tuple[Literal["documents", "dropped"], str, tuple[Segment, ...]]]:
    """(kind, file name, segments) of every file, documents first."""
    kept: dict[str, list[Segment]] = {}
    dropped: dict[str, list[Segment]] = {}
    filled: dict[str, int] = {}
    gone = 0
    for shard in range(len(corpus.shards)):
        alive = corpora.alive(corpus, shard)
        size = np.where(alive, shards.columns(corpus.shards[shard])["bytes"], 0)
        source = corpus.names[shard] or "documents"
        begin = filled.get(source, 0) + np.cumsum(size) - size
        filled[source] = filled.get(source, 0) + int(size.sum())
        _cut(kept, shard, alive, begin // output.shard_bytes, f"{_file_name(source)}-{{:05d}}.jsonl.gz")
        before = gone + np.cumsum(~alive) - ~alive
        gone += int((~alive).sum())
        _cut(dropped, shard, ~alive, before // DROPPED_ROWS, "dropped-{:05d}.jsonl.gz")
    found: list[tuple[Literal["documents", "dropped"], str, tuple[Segment, ...]]] = []
    found += [("documents", name, tuple(some)) for name, some in kept.items()]
    found += [("dropped", name, tuple(some)) for name, some in dropped.items()]
    return found


def _cut(found: dict[str, list[Segment]], shard: int, wanted: np.ndarray, file: np.ndarray, name: str) -> None:
    places = np.flatnonzero(wanted)
    if len(places):
        for number in np.unique(file[places]).tolist():
            mine = places[file[places] == number]
            found.setdefault(name.format(number), []).append(Segment(shard, int(mine[0]), int(mine[-1]) + 1))


def _file_name(source: str) -> str:
    plain = "".join(c if (c.isalnum() and c.isascii()) or c in "._" else "_" for c in source)
    # Two sources must not share a file, also where only signs that no file name should have tell them apart.
    return plain if plain == source else f"{plain}-{hashlib.blake2b(source.encode(), digest_size=3).hexdigest()}"


def key(task: Task, corpus: Corpus, repeated: str, index: str) -> str:
    """The name of the result. Segments are of shards, whose keys say what is in them; `index` is the hash of earlier runs' indexes."""
    said = [[*corpus.keys[s.shard], s.start, s.stop] for s in task.segments]
    output = (
        [task.output.gzip_level]
        if task.kind == "documents"
        else [task.output.gzip_level, task.output.dropped_characters, task.output.examples]
    )
    # A dropped document may name a document of any shard, or of an earlier run.
    others = repeated if task.kind == "documents" else store.key_of(repeated, corpus.keys, index)
    return store.key_of("write", VERSION, task.kind, task.name, output, others, said)


def run(task: Task) -> dict[str, Any]:
    """Writes one file."""
    corpus = corpora.load(task.corpus)
    names = Names(corpus, np.load(task.corpus.with_name("repeated.npy"), mmap_mode="r"), task.index)
    examples: dict[str, dict[str, dict[str, list[dict[str, Any]]]]] = {}
    counted = {"documents": 0, "text_bytes": 0}
    languages: Counter[str] = Counter()

    def keep_example(row: dict[str, Any], text: str) -> None:
        some = examples.setdefault(row["source"], {}).setdefault(row["stage"], {}).setdefault(row["reason"], [])
        if len(some) < task.output.examples:
            some.append({**{k: v for k, v in row.items() if k != "text"}, "text": text[:EXAMPLE_CHARACTERS]})

    with store.writing(task.folder) as folder:
        rows = _kept(task, corpus, names, languages) if task.kind == "documents" else _dropped(task, corpus, names, keep_example)
        size, sha = _write(folder / task.name, rows, task.output.gzip_level, counted)
        result = {
            "file": task.name,
            "bytes": size,
            "sha256": sha,
            **counted,
            "examples": examples,
            "languages": dict(sorted(languages.items())),
        }
        store.tell(folder, result)
    return result


def _kept(task: Task, corpus: Corpus, names: Names, languages: Counter[str]) -> Iterator[dict[str, Any]]:
    for segment in task.segments:
        want = corpora.alive(corpus, segment.shard)[segment.start : segment.stop]
        notes = {name: told for one in corpus.decided[segment.shard] for name, told in one.notes().items()}
        for place, (name, text, origin, source, metadata, *_) in shards.rows(corpus.shards[segment.shard], want, segment.start):
            if names.is_repeated(corpus.starts[segment.shard] + place):
                name = ids.renamed(name, origin, source)
            metadata = with_notes(metadata, {name: values[c - 1] for name, (codes, values) in notes.items() if (c := codes[place])})
            languages[language_of(metadata)] += 1
            yield {"id": name, "text": text, "source": source, "origin": origin, "metadata": metadata}


def with_notes(metadata: dict[str, Any], notes: Mapping[str, str]) -> dict[str, Any]:
    """The metadata with what filters found; what the record said otherwise stays as NAME_of_record."""
    own = {f"{name}_of_record": metadata[name] for name, value in notes.items() if metadata.get(name, value) != value}
    return {**metadata, **own, **notes} if notes else metadata


def _dropped(task: Task, corpus: Corpus, names: Names, keep_example: Callable[[dict[str, Any], str], None]) -> Iterator[dict[str, Any]]:
    for segment in task.segments:
        decided = corpus.decided[segment.shard]
        part = slice(segment.start, segment.stop)
        codes = np.stack([one.codes()[part] for one in decided])
        first = np.argmax(codes > 0, axis=0)  # the stage that dropped it
        want = np.asarray(codes.any(axis=0))
        reasons = [one.reasons() for one in decided]
        copies = [None if (kept := one.kept()) is None else kept[part] for one in decided]
        nearness = [None if (found := one.similarity()) is None else found[part] for one in decided]
        of = np.array([-1 if (c := copies[s]) is None else c[i] for i, s in enumerate(first.tolist())], np.int64)
        copied = np.flatnonzero(want & (of != -1))
        originals = dict(zip(copied.tolist(), names.of(of[copied]), strict=True))
        for place, (name, text, origin, source, _, *sentence) in shards.rows(corpus.shards[segment.shard], want, segment.start):
            i = place - segment.start
            if names.is_repeated(corpus.starts[segment.shard] + place):
                name = ids.renamed(name, origin, source)
            stage = decided[int(first[i])].stage
            row = {"id": name, "source": source, "origin": origin, "stage": stage, "reason": reasons[first[i]][codes[first[i], i] - 1]}
            if i in originals:
                row["duplicate_of"] = originals[i]
                near = nearness[int(first[i])]
                row["similarity"] = 1.0 if near is None else round(float(near[i]), 4)
            if sentence and sentence[0]:
                row["sentence"] = sentence[0]
            if task.output.dropped_characters and text:
                row["text"] = text[: task.output.dropped_characters]
            keep_example(row, text)
            yield row


def _write(path: Path, rows: Iterator[dict[str, Any]], level: int, counted: dict[str, int]) -> tuple[int, str]:
    """Writes gzip without a name and a time, so that equal rows are equal bytes; returns size and hash."""
    held: list[bytes] = []
    size = 0
    with open(path, "wb") as raw, gzip.GzipFile(filename="", mode="wb", compresslevel=level, fileobj=raw, mtime=0) as stream:
        for row in rows:
            line = json.dumps(row, ensure_ascii=False).encode() + b"\n"
            held.append(line)
            size += len(line)
            counted["documents"] += 1
            counted["text_bytes"] += len(row.get("text", "").encode())
            if size >= _BUFFER:
                stream.write(b"".join(held))
                held, size = [], 0
        stream.write(b"".join(held))
    with open(path, "rb") as written:
        return path.stat().st_size, hashlib.file_digest(written, "sha256").hexdigest()
