"""The token cache: tokenised documents on disk, read at random without TensorFlow.

One folder holds one split of one corpus. Each feature of a document (`targets`; `inputs` too for supervised Tasks)
is one long token stream, cut into records of `BLOCK` tokens in ArrayRecord shards:

    shard-00003.targets.arrayrecord   blocks of tokens, uint16 or uint32, little-endian
    shard-00003.targets.ends.npy      int64[documents]: where each document ends in this shard's stream
    shard-00003.bytes.npy             int64[documents]: UTF-8 bytes of each document's text
    shard-00003.ids                   "id<TAB>origin" of each document, a line each; .ids.ends.npy: where lines end
    shard-00003.json                  counts and hashes: written last, so a shard without it does not exist
    manifest.json                     the whole split: vocabulary, task hash, totals, data hash

A document's last token is the vocabulary's end-of-document token, so streams concatenate without loss.
"""

import os
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
from array_record.python.array_record_module import ArrayRecordReader, ArrayRecordWriter

from pretrainx.core import files
from pretrainx.core.errors import InputError
from pretrainx.core.vocabulary import Vocabulary

BLOCK = 4096  # tokens a record: 8 kB, so that a window of any length costs few reads and little waste
FORMAT = 1
FEW_READS = 8  # up to here one after another (9 us each); beyond, ArrayRecord's threads (25 us each) may hide a slow disk's waits
WRITER_OPTIONS = "group_size:1,uncompressed"  # a record is its own chunk with its own checksum


@dataclass(frozen=True)
class Document:
    """Where a document lies: `start` and `end` count tokens from the start of the split."""

    index: int
    id: str
    origin: str  # file and record it was read from, e.g. "train-00.jsonl.gz#17"
    start: int
    end: int
    num_bytes: int


@dataclass(frozen=True)
class CachedDocument:
    """What the writer takes."""

    id: str
    origin: str
    num_bytes: int
    features: dict[str, np.ndarray]  # name -> int tokens [length], end-of-document token included


def token_dtype(vocab_size: int) -> np.dtype:
    return np.dtype("<u2") if vocab_size <= 1 << 16 else np.dtype("<u4")


def write_shard(
    folder: Path,
    index: int,
    documents: Iterable[CachedDocument],
    features: Sequence[str],
    vocab_size: int,
    made_from: str = "",
    counts: dict[str, int] | None = None,
) -> dict[str, Any]:
    """Writes one shard and returns its summary (as in its .json). A killed writer leaves no shard behind.

    `made_from` is the hash of what the shard depends on, for whoever asks whether it is still good. `counts` is read
    when the documents have run out: what their giver met on the way.

    Raises:
      InputError: a token id outside the vocabulary, naming the document.
    """
    folder.mkdir(parents=True, exist_ok=True)
    stem = f"shard-{index:05d}"
    (folder / f"{stem}.json").unlink(missing_ok=True)
    dtype = token_dtype(vocab_size)
    writers = {f: ArrayRecordWriter(str(folder / f"{stem}.{f}.arrayrecord"), WRITER_OPTIONS) for f in features}
    pending: dict[str, list[np.ndarray]] = {f: [] for f in features}
    held = dict.fromkeys(features, 0)
    ends: dict[str, list[int]] = {f: [] for f in features}
    num_bytes: list[int] = []
    names = bytearray()
    name_ends: list[int] = []
    hashes = {f: files.hashlib.sha256() for f in features}

    def flush(feature: str, everything: bool) -> None:
        stream = np.concatenate(pending[feature]) if pending[feature] else np.zeros(0, dtype)
        whole = len(stream) if everything else len(stream) // BLOCK * BLOCK
        for start in range(0, whole, BLOCK):
            record = stream[start : min(start + BLOCK, whole)].tobytes()
            hashes[feature].update(record)
            writers[feature].write(record)
        pending[feature] = [stream[whole:]]
        held[feature] = len(stream) - whole

    for document in documents:
        for feature in features:
            tokens = np.asarray(document.features[feature])
            if len(tokens) and not (0 <= tokens.min() and tokens.max() < vocab_size):
                bad = int(tokens.max() if tokens.max() >= vocab_size else tokens.min())
                raise InputError(
                    f"document {document.id!r} ({document.origin}): token id {bad} of feature {feature!r} is outside "
                    f"the vocabulary of {vocab_size}; the Task's vocabulary and the config's data.vocabulary must be one"
                )
            pending[feature].append(tokens.astype(dtype))
            held[feature] += len(tokens)
            ends[feature].append((ends[feature][-1] if ends[feature] else 0) + len(tokens))
            if held[feature] >= 64 * BLOCK:
                flush(feature, everything=False)
        num_bytes.append(document.num_bytes)
        # a tab parts the two and a newline ends the line, so neither may hold one
        line = "\t".join(" ".join(part.splitlines()).replace("\t", " ") for part in (document.id, document.origin))
        names += line.encode("utf-8", "replace") + b"\n"
        name_ends.append(len(names))
    for feature in features:
        flush(feature, everything=True)
        writers[feature].close()
        np.save(folder / f"{stem}.{feature}.ends.npy", np.asarray(ends[feature], np.int64))
    np.save(folder / f"{stem}.bytes.npy", np.asarray(num_bytes, np.int64))
    (folder / f"{stem}.ids").write_bytes(bytes(names))
    np.save(folder / f"{stem}.ids.ends.npy", np.asarray(name_ends, np.int64))
    summary = {
        "stem": stem,
        "num_documents": len(num_bytes),
        "num_bytes": int(sum(num_bytes)),
        "num_tokens": {f: (ends[f][-1] if ends[f] else 0) for f in features},
        "tokens_sha256": {f: hashes[f].hexdigest() for f in features},
        "ids_sha256": files.sha256_bytes(bytes(names)),
        "made_from": made_from,
        "counts": dict(counts or {}),
        "sizes": {path.name: _synced_size(path) for path in sorted(folder.glob(f"{stem}.*"))},
    }
    files.write_json(folder / f"{stem}.json", summary)
    return summary


def finished_shard(folder: Path, index: int, made_from: str) -> dict[str, Any] | None:
    """The summary of a shard that is there, whole, and made from this; None where it must be made."""
    path = folder / f"shard-{index:05d}.json"
    if not path.exists():
        return None
    try:
        summary = files.read_json(path, "cache shard")
    except InputError:  # cut off: as good as absent
        return None
    sizes = {name: (folder / name).stat().st_size if (folder / name).exists() else -1 for name in summary.get("sizes", {})}
    return summary if summary.get("made_from") == made_from and sizes and sizes == summary["sizes"] else None


def _synced_size(path: Path) -> int:
    """The file's size, once it is on the disk: after a power cut a shard's .json must not outlive its data."""
    with open(path, "rb") as stream:
        os.fsync(stream.fileno())
        return os.fstat(stream.fileno()).st_size


def write_manifest(
    folder: Path, *, corpus: str, split: str, task_sha256: str, vocabulary: Vocabulary, num_shards: int, source: dict[str, Any]
) -> dict[str, Any]:
    """Joins the finished shards into a split. `source` is kept as it is (inputs, hashes, counts of drops)."""
    shards = [files.read_json(folder / f"shard-{i:05d}.json", "cache shard") for i in range(num_shards)]
    features = sorted(shards[0]["num_tokens"])
    vocabulary.save(folder)
    manifest = {
        "format": FORMAT,
        "corpus": corpus,
        "split": split,
        "task_sha256": task_sha256,
        "vocabulary": vocabulary.describe(),
        "features": features,
        "block": BLOCK,
        "num_documents": sum(s["num_documents"] for s in shards),
        "num_bytes": sum(s["num_bytes"] for s in shards),
        "num_tokens": {f: sum(s["num_tokens"][f] for s in shards) for f in features},
        "shards": shards,
        "source": source,
    }
    manifest["data_sha256"] = files.sha256_json([[s["tokens_sha256"], s["ids_sha256"]] for s in shards])
    files.write_json(folder / "manifest.json", manifest)
    return manifest


class _Shard:
    """One shard's arrays and readers, opened when first touched."""

    def __init__(self, folder: Path, summary: dict[str, Any], dtype: np.dtype):
        self.folder, self.summary, self.dtype = folder, summary, dtype
        self._readers: dict[str, ArrayRecordReader] = {}
        self._ends: dict[str, np.ndarray] = {}

    def _open(self, suffix: str) -> np.ndarray:
        path = self.folder / f"{self.summary['stem']}.{suffix}"
        try:
            if not path.stat().st_size:
                return np.zeros(0, np.int64)
            # still a mapped file, but as a plain array: indexing a memmap costs ten times as much
            return np.load(path, mmap_mode="r", allow_pickle=False).view(np.ndarray)
        except (OSError, ValueError) as error:
            raise InputError(f"token cache: {path} cannot be read ({error}); run tools/cache_tasks.py again") from None

    def ends(self, feature: str) -> np.ndarray:
        if feature not in self._ends:
            self._ends[feature] = self._open(f"{feature}.ends.npy")
        return self._ends[feature]

    @cached_property
    def num_bytes(self) -> np.ndarray:
        return self._open("bytes.npy")

    @cached_property
    def name_ends(self) -> np.ndarray:
        return self._open("ids.ends.npy")

    def name(self, index: int) -> tuple[str, str]:
        start = int(self.name_ends[index - 1]) if index else 0
        with open(self.folder / f"{self.summary['stem']}.ids", "rb") as stream:
            stream.seek(start)
            line = stream.read(int(self.name_ends[index]) - start)
        identity, _, origin = line.decode("utf-8").rstrip("\n").partition("\t")
        return identity, origin

    @cached_property
    def names(self) -> bytes:
        """All lines of "id<TAB>origin"."""
        return (self.folder / f"{self.summary['stem']}.ids").read_bytes()

    def find(self, identity: str) -> list[int]:
        """Documents with this id, by a search for its bytes: ten million names are looked through in a moment."""
        wanted, found, at = b"\n" + identity.encode("utf-8", "replace") + b"\t", [], 0
        names = b"\n" + self.names  # so that the first line begins like the others
        while (at := names.find(wanted, at)) >= 0:
            found.append(int(np.searchsorted(self.name_ends, at, side="right")))
            at += 1
        return found

    def blocks(self, feature: str, indices: Sequence[int]) -> list[np.ndarray]:
        path = self.folder / f"{self.summary['stem']}.{feature}.arrayrecord"
        try:
            if feature not in self._readers:
                self._readers[feature] = ArrayRecordReader(str(path), "readahead_buffer_size:0")
            reader, batches = self._readers[feature], [list(indices)] if len(indices) > FEW_READS else [[i] for i in indices]
            return [np.frombuffer(record, self.dtype) for batch in batches for record in reader.read(batch)]
        except Exception as error:  # array_record raises bare RuntimeError / IndexError / OSError
            raise InputError(
                f"token cache: {path} is damaged or missing ({error}); delete its folder and run tools/cache_tasks.py again"
            ) from None

    def __getstate__(self) -> dict[str, Any]:
        return {"folder": self.folder, "summary": self.summary, "dtype": self.dtype, "_readers": {}, "_ends": {}}


class TokenCache:
    """One split of one corpus, read at random. Cheap to open; safe to copy to reader processes."""

    def __init__(self, folder: Path | str):
        self.folder = Path(folder)
        manifest = files.read_json(self.folder / "manifest.json", "token cache (run tools/cache_tasks.py first)")
        if manifest.get("format") != FORMAT:
            raise InputError(
                f"token cache {folder}: format {manifest.get('format')!r}, this version reads {FORMAT}; run tools/cache_tasks.py again"
            )
        self.manifest: dict[str, Any] = manifest
        self.vocabulary = Vocabulary.load(self.folder, manifest["vocabulary"])
        dtype = token_dtype(self.vocabulary.size)
        self._shards = [_Shard(self.folder, s, dtype) for s in manifest["shards"] if s["num_documents"]]
        self._starts = {
            f: np.cumsum([0] + [s.summary["num_tokens"][f] for s in self._shards], dtype=np.int64) for f in manifest["features"]
        }
        self._document_starts = np.cumsum([0] + [s.summary["num_documents"] for s in self._shards], dtype=np.int64)

    @property
    def num_documents(self) -> int:
        return int(self._document_starts[-1])

    @property
    def main_feature(self) -> str:
        """What stands for a document: its text, or the first feature of a labelled record."""
        features: list[str] = self.manifest["features"]
        return "targets" if "targets" in features else features[0]

    def num_tokens(self, feature: str = "targets") -> int:
        return int(self._starts[feature][-1])

    @property
    def num_bytes(self) -> int:
        return int(self.manifest["num_bytes"])

    def read(self, start: int, stop: int, feature: str = "targets") -> np.ndarray:
        """Tokens [start, stop) of the split's stream, int32. Positions outside it are an error of ours."""
        return self.read_many([(start, stop)], feature)[0]

    def read_many(self, spans: Sequence[tuple[int, int]], feature: str = "targets") -> list[np.ndarray]:
        """Several spans at once: each block that they touch is read once."""
        starts = self._starts[feature]
        pieces: list[tuple[int, int, int, int, int]] = []  # span, shard, block, from, to (in the block)
        for number, (start, stop) in enumerate(spans):
            assert 0 <= start <= stop <= starts[-1], (start, stop, int(starts[-1]))
            while start < stop:
                shard = int(np.searchsorted(starts, start, side="right")) - 1
                local = start - int(starts[shard])
                block, offset = divmod(local, BLOCK)
                take = min(stop - start, BLOCK - offset, int(starts[shard + 1]) - start)
                pieces.append((number, shard, block, offset, offset + take))
                start += take
        wanted: dict[int, dict[int, np.ndarray]] = {}
        for _, shard, block, _, _ in pieces:
            wanted.setdefault(shard, {})[block] = np.zeros(0)
        for shard, blocks in wanted.items():
            indices = sorted(blocks)
            blocks.update(zip(indices, self._shards[shard].blocks(feature, indices), strict=True))
        parts: list[list[np.ndarray]] = [[] for _ in spans]
        for number, shard, block, first, last in pieces:
            parts[number].append(wanted[shard][block][first:last])
        return [np.concatenate(p).astype(np.int32) if p else np.zeros(0, np.int32) for p in parts]

    def document_span(self, index: int, feature: str = "targets") -> tuple[int, int]:
        """Where document `index` lies in the stream."""
        shard = int(np.searchsorted(self._document_starts, index, side="right")) - 1
        local = index - int(self._document_starts[shard])
        ends = self._shards[shard].ends(feature)
        base = int(self._starts[feature][shard])
        return base + (int(ends[local - 1]) if local else 0), base + int(ends[local])

    def document(self, index: int, feature: str = "targets") -> Document:
        shard = int(np.searchsorted(self._document_starts, index, side="right")) - 1
        local = index - int(self._document_starts[shard])
        start, end = self.document_span(index, feature)
        identity, origin = self._shards[shard].name(local)
        return Document(index, identity, origin, start, end, int(self._shards[shard].num_bytes[local]))

    def documents_in(self, start: int, stop: int, feature: str = "targets") -> list[tuple[int, int, int]]:
        """(document index, first, last) for each document that has tokens in [start, stop), clipped to it."""
        found = []
        position = start
        starts = self._starts[feature]
        while position < stop:
            shard = int(np.searchsorted(starts, position, side="right")) - 1
            base, ends = int(starts[shard]), self._shards[shard].ends(feature)
            local = int(np.searchsorted(ends, position - base, side="right"))
            while local < len(ends) and position < stop:
                last = min(base + int(ends[local]), stop)
                if last > position:
                    found.append((int(self._document_starts[shard]) + local, position, last))
                position, local = last, local + 1
        return found

    def find_document(self, identity: str) -> list[int]:
        """Indices of the documents with this id (an id may repeat)."""
        return [
            int(base) + local
            for shard, base in zip(self._shards, self._document_starts[:-1], strict=True)
            for local in shard.find(identity)
        ]

    def document_ids(self) -> Iterator[str]:
        """The id of every document in order."""
        for shard in self._shards:
            for line in shard.names.splitlines():
                yield line.partition(b"\t")[0].decode("utf-8", "replace")


def locate(cache_dir: str | Path, corpus: str, split: str) -> Path:
    """The folder of a split of a corpus. The corpus name is a path component: it is checked."""
    if not corpus or any(c in corpus for c in "/\\\0") or corpus.startswith("."):
        raise InputError(f"corpus name {corpus!r} cannot be a folder name; use letters, digits, '_' and '-'")
    return Path(cache_dir) / corpus / split
