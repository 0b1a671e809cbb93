"""Builds the token caches of a mixture: its Tasks run up to their cache placeholder, by shards, in parallel processes.

A shard of the cache is one source file where a source has several, else every n-th record of its single stream (n is
data.cache_shards, less for small files); this does not depend on how many processes there are. Each shard records the
hash of what it was made from (source file, vocabulary, steps): a shard whose hash still fits is never built again.
Processes that do not tokenise import no TensorFlow, so that finding nothing to do is quick.
"""

import multiprocessing
import os
import signal
import sys
import threading
import time
from collections.abc import Iterable, Iterator, Mapping
from concurrent.futures import Future, ProcessPoolExecutor, as_completed
from concurrent.futures.process import BrokenProcessPool
from contextlib import ExitStack, contextmanager
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from pretrainx.core import files, platforms
from pretrainx.core.errors import InputError, Interrupted
from pretrainx.core.logs import log, progress
from pretrainx.core.sections import Data
from pretrainx.core.vocabulary import Vocabulary
from pretrainx.data import cache
from pretrainx.data.mixture_spec import is_described, parse_mixture, rates_file
from pretrainx.tasks import corpora, vocabulary_spec

PART_BYTES = 1 << 18  # of a file: starting a shard costs as much as tokenising a megabyte


@dataclass(frozen=True)
class Shard:
    """One shard to be: records `index` modulo `of`, or file `index` of `of`, of one split."""

    corpus: str
    split: str
    index: int
    of: int
    made_from: str


@dataclass(frozen=True)
class Split:
    """One split of one corpus: its shards, and what its manifest says about where it came from."""

    corpus: str
    split: str
    folder: Path
    task_sha256: str
    shards: tuple[Shard, ...]
    source: dict[str, Any] = field(compare=False)


@dataclass(frozen=True)
class Described:
    """What a worker tells of a Task that only SeqIO knows."""

    identity: str  # hash of its steps and source
    shards: dict[str, list[str]]  # by split: names of files, or whatever the source calls its shards


def build(data: Data, processes: int = 0) -> dict[str, Any]:
    """Caches every corpus of `data.mixture`, each split it has of train and validation.

    Returns {"corpora": {name: {split: counts}}, "shards", "built", "seconds"}.

    Raises:
      InputError: bad input, or another process is at work on the same cache.
      Interrupted: Ctrl-C or SIGTERM; finished shards stay, and the next call goes on from them.
    """
    start = time.monotonic()
    vocabulary = vocabulary_spec.load(data.vocabulary)
    with Workers(data, processes or min(platforms.usable_cores(), 8)) as workers, ExitStack() as locks:
        names = _corpora_of(data, workers)
        for name in names:
            locks.enter_context(files.locked(cache.locate(data.cache_dir, name, "train").parent))
        splits = [split for name in names for split in _plan(name, data, vocabulary, workers)]
        missing = {split: [s for s in split.shards if cache.finished_shard(split.folder, s.index, s.made_from) is None] for split in splits}
        for split, shards in missing.items():
            if shards or not _is_current(split):
                (split.folder / "manifest.json").unlink(missing_ok=True)  # a reader must not mix old and new shards
        wanted = [shard for shards in missing.values() for shard in shards]
        if wanted:
            workers.build(wanted)
        summary = {name: {s.split: _finish(s, vocabulary, data) for s in splits if s.corpus == name} for name in names}
    return {
        "corpora": summary,
        "shards": sum(len(s.shards) for s in splits),
        "built": len(wanted),
        "seconds": round(time.monotonic() - start, 3),
    }


def _corpora_of(data: Data, workers: "Workers") -> list[str]:
    """The corpora that a mixture reads; a SeqIO Mixture's rates are left beside the cache for the training process."""
    if isinstance(data.mixture, str) and data.mixture and not is_described(data.mixture, data):
        if not data.module:
            parse_mixture(data)  # raises the sentence
        files.write_json(rates_file(data, data.mixture), workers.ask(_resolve))
    return sorted({corpus for corpus, _ in parse_mixture(data)})


def _plan(name: str, data: Data, vocabulary: Vocabulary, workers: "Workers") -> list[Split]:
    """The splits of a corpus with the hash of each shard."""
    described = data.corpora.get(name) or corpora.BUILTIN.get(name)
    if described is None and not data.module:
        corpora.get(name, data)  # raises the sentence
    if described is not None and described.source != "tfds":
        corpus = corpora.get(name, data)
        shards = {s: [str(p) for p in corpora.split_files(name, corpus, s)] for s in corpora.splits(name, corpus)}
        identity: Any = asdict(corpus)
    else:
        answer: Described = workers.ask(_describe, name)
        shards, identity = answer.shards, [answer.identity, asdict(described) if described else None]
    # max_document_bytes is left out: raising it, as its error advises, must not build everything anew
    task_sha256 = files.sha256_json([corpora.PREPROCESS_VERSION, cache.FORMAT, vocabulary.describe(), data.encoding_errors, identity])
    return [_plan_split(name, split, found, task_sha256, data) for split, found in shards.items()]


def _plan_split(name: str, split: str, sources: list[str], task_sha256: str, data: Data) -> Split:
    folder = cache.locate(data.cache_dir, name, split)
    known = _known_hashes(folder)
    inputs = [_input(path, known) for path in sources]
    of = len(sources) if len(sources) > 1 else _parts(inputs[0], data.cache_shards)
    shards = []
    for index in range(of):
        read, part = (inputs[index], [0, 1]) if len(sources) > 1 else (inputs[0], [index, of])
        made_from = files.sha256_json([task_sha256, split, read["name"], read.get("sha256"), part])
        shards.append(Shard(name, split, index, of, made_from))
    return Split(name, split, folder, task_sha256, tuple(shards), {"inputs": inputs})


def _parts(stream: Mapping[str, Any], most: int) -> int:
    """Into how many shards a single stream goes: a file in pieces of PART_BYTES or more, whatever is no file in `most`."""
    return min(most, -(-stream["size"] // PART_BYTES)) if stream.get("size") else most


def _input(name: str, known: Mapping[str, dict[str, Any]]) -> dict[str, Any]:
    """A source file with its hash; size and time that have not changed stand for content that has not."""
    if not os.path.isfile(name):
        return {"name": name}  # a table of a database, a split of a function, a remote file
    stat = os.stat(name)
    entry = {"name": name, "size": stat.st_size, "mtime_ns": stat.st_mtime_ns}
    before = known.get(name, {})
    same = all(before.get(key) == entry[key] for key in entry)
    return {**entry, "sha256": before["sha256"] if same else files.sha256_file(name)}


def _known_hashes(folder: Path) -> dict[str, dict[str, Any]]:
    try:
        manifest = files.read_json(folder / "manifest.json", "cache manifest")
        return {entry["name"]: entry for entry in manifest["source"]["inputs"]}
    except (InputError, KeyError, TypeError):
        return {}


def _is_current(split: Split) -> bool:
    """Whether a split's manifest is of exactly these shards."""
    try:
        manifest = files.read_json(split.folder / "manifest.json", "cache manifest")
    except InputError:
        return False
    found = [s.get("made_from") for s in manifest.get("shards", [])]
    return manifest.get("task_sha256") == split.task_sha256 and found == [s.made_from for s in split.shards]


def _finish(split: Split, vocabulary: Vocabulary, data: Data) -> dict[str, Any]:
    """Writes a split's manifest unless it is current, removes what belongs to no shard of it; returns its counts."""
    if not _is_current(split):
        stems = {f"shard-{s.index:05d}" for s in split.shards}
        for path in split.folder.glob("shard-*"):
            if path.name.split(".")[0] not in stems:
                path.unlink()
        cache.write_manifest(
            split.folder, corpus=split.corpus, split=split.split, task_sha256=split.task_sha256, vocabulary=vocabulary,
            num_shards=len(split.shards), source=split.source,
        )  # fmt: skip
    manifest = files.read_json(split.folder / "manifest.json", "cache manifest")
    counts: dict[str, int] = {}
    for shard in manifest["shards"]:
        for key, count in shard.get("counts", {}).items():
            counts[key] = counts.get(key, 0) + count
    if not manifest["num_documents"] and split.split == "train":
        raise InputError(f"corpus {split.corpus!r}: its train split holds no document with any token (sources: {_names(split)})")
    return {
        "num_documents": manifest["num_documents"], "num_bytes": manifest["num_bytes"], "num_tokens": manifest["num_tokens"],
        "data_sha256": manifest["data_sha256"], "shards": len(split.shards), "counts": counts,
    }  # fmt: skip


def _names(split: Split) -> str:
    return ", ".join(entry["name"] for entry in split.source["inputs"][:3])


class Workers:
    """A pool of processes that starts when it is first asked, each with SeqIO and TensorFlow imported once."""

    def __init__(self, data: Data, processes: int):
        self.data, self.processes = data, processes
        self._pool: ProcessPoolExecutor | None = None

    def __enter__(self) -> "Workers":
        return self

    def __exit__(self, kind: type | None, *_: object) -> None:
        if self._pool is not None:
            processes = list((self._pool._processes or {}).values())
            self._pool.shutdown(wait=kind is None, cancel_futures=True)
            for process in processes if kind is not None else ():
                process.terminate()  # what is half done is worth nothing, and the user waits

    def _submit(self, *call: Any) -> Future:
        if self._pool is None:
            self._pool = ProcessPoolExecutor(
                self.processes, multiprocessing.get_context("spawn"), initializer=_start_worker, initargs=(self.data, os.getpid())
            )
        return self._pool.submit(*call)

    def ask(self, *call: Any) -> Any:
        """The result of one call in a worker."""
        with _stoppable():
            return _result(self._submit(*call))

    def build(self, shards: Iterable[Shard]) -> None:
        """Builds the shards, with a progress bar; the first error ends it."""
        shards = list(shards)
        self.processes = min(self.processes, len(shards))
        what = ", ".join(sorted({s.corpus for s in shards}))
        with _stoppable():
            log(f"caching {len(shards)} shards of {what} in {self.processes} {'process' if self.processes == 1 else 'processes'} ...")
            futures = [self._submit(_build_shard, shard) for shard in shards]
            for future in progress(as_completed(futures), len(futures), "caching", "shards"):
                _result(future)


def _result(future: Future) -> Any:
    try:
        return future.result()
    except BrokenProcessPool:
        raise InputError(
            "a caching process died (killed, or out of memory); finished shards stay: run again, with fewer --processes"
        ) from None


@contextmanager
def _stoppable() -> Iterator[None]:
    """Ctrl-C and SIGTERM end the block as Interrupted."""
    main = threading.current_thread() is threading.main_thread()
    before = signal.signal(signal.SIGTERM, signal.default_int_handler) if main else None
    try:
        yield
    except KeyboardInterrupt:
        raise Interrupted("finished shards are kept; run the same command again to go on") from None
    finally:
        if main:
            signal.signal(signal.SIGTERM, before)


# ---- what runs in the worker processes. SeqIO is imported in these functions, so that the parent need not.

_data: Data
_tasks: dict[str, Any] = {}


def _start_worker(data: Data, parent: int) -> None:
    global _data
    _data = data
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # the parent ends us
    threading.Thread(target=_die_with, args=(parent,), daemon=True).start()
    if os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3") != "0":
        # TensorFlow and SentencePiece write notes to the bare file descriptor; Python's own stderr stays
        sys.stderr = os.fdopen(os.dup(2), "w", buffering=1)
        os.dup2(os.open(os.devnull, os.O_WRONLY), 2)
    os.environ["CUDA_VISIBLE_DEVICES"] = ""  # tokenising needs none, and TensorFlow would take a GPU's whole memory
    import tensorflow as tf

    tf.config.threading.set_inter_op_parallelism_threads(1)  # the processes are the parallelism
    tf.config.threading.set_intra_op_parallelism_threads(1)


def _die_with(parent: int) -> None:
    """Ends this process when its parent is gone, even one that was killed."""
    while os.getppid() == parent:
        time.sleep(0.5)
    os._exit(1)


def _task(corpus: str) -> Any:
    from pretrainx.tasks import registry

    if corpus not in _tasks:
        _tasks[corpus] = registry.find_task(corpus, _data)
    return _tasks[corpus]


def _resolve() -> dict[str, float]:
    from pretrainx.tasks import registry

    return registry.resolve(_data)


def _describe(corpus: str) -> Described:
    from pretrainx.tasks import cacheable

    task = _task(corpus)
    shards = cacheable.shard_names(task)  # first, since it says what is wrong with a source
    return Described(cacheable.identity(task, _data), shards)


def _build_shard(shard: Shard) -> None:
    from pretrainx.tasks import cacheable

    task = _task(shard.corpus)
    vocabulary = vocabulary_spec.load(_data.vocabulary)
    counts: dict[str, int] = {}
    documents = (
        cache.CachedDocument(d["id"], d["origin"], d["num_bytes"], {f: np.asarray(d[f]) for f in task.output_features})
        for d in cacheable.examples(task, shard.split, shard.index, shard.of, vocabulary, counts)
    )
    folder = cache.locate(_data.cache_dir, shard.corpus, shard.split)
    cache.write_shard(folder, shard.index, documents, list(task.output_features), vocabulary.size, shard.made_from, counts)
