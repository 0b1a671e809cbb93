"""What is known of earlier corpora: the indexes that this run's documents are compared with, and the one that it leaves.

An index holds documents as they were when this run compared them, before passages or leaks were cut out of them, so that a copy
is found by the same rules in a later run as it would have been in this one. Its format is that of curate/deduplicate/index.py.
"""

import os
import shutil
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np

from pretrainx.core import schema
from pretrainx.core.errors import InputError
from pretrainx.curate.deduplicate import index, near
from pretrainx.curate.deduplicate.index import Index
from pretrainx.curate.documents import Document, batches
from pretrainx.curate.pipeline import corpus as corpora
from pretrainx.curate.pipeline import decisions, ids, inputs, shards, store
from pretrainx.curate.pipeline.corpus import Corpus, Names
from pretrainx.curate.pipeline.decisions import Decided
from pretrainx.curate.pipeline.executor import Executor

VERSION = 1
SHARD = "shard"
COMPARED = ("read", "ids_drop", "filter")  # the stages before documents are compared


@dataclass(frozen=True)
class Against:
    """The indexes of a run's config as one, and a hash of all that they hold ("" for none)."""

    index: Index
    key: str = ""


NONE = Against(Index([], [], [], []))


@dataclass(frozen=True)
class Task:
    name: str
    number: int  # of the shard
    corpus: Path  # a saved Corpus, with repeated.npy beside it
    settings: near.Settings
    folded: bool
    folder: Path

    def __str__(self) -> str:
        return self.name


def find(folders: Sequence[str], settings: near.Settings | None, folded: bool | None, own: Path) -> Index:
    """The indexes of these folders, in order; `settings` and `folded` are those of this run's stages, None for a stage that is off;
    `own` is where this run would leave its own.

    Raises:
      InputError: a folder is none, is this run's own, or holds an index that was made with other settings.
    """
    if folders and settings is None and folded is None:
        raise InputError("deduplicate.against names indexes, but both deduplicate.exact and deduplicate.near are off: turn one on")
    for folder in folders:
        if Path(folder).resolve() == own.resolve():
            raise InputError(f"deduplicate.against: {folder} is the index that this run writes; compare with it in another --workdir")
        if not Path(folder).is_dir():
            raise InputError(f"deduplicate.against: no folder {folder} (looked from {Path.cwd()})")
    return index.join([index.read(Path(folder), settings, folded) for folder in folders])


def against(found: Index, memory: Path, executor: Executor) -> Against:
    """The index with its hash; of files that `memory` knows, it is not computed again."""
    if not len(found):
        return NONE
    paths = [path for tables in (found.near, found.sets, found.exact, found.ids) for table in tables for path in sorted(table.iterdir())]
    listed = [inputs.File("", path, path.name, "index") for path in paths]
    prints = inputs.fingerprints(listed, memory, executor)
    hashes = [[path.parent.name, path.name, known["sha256"]] for path, known in zip(paths, prints, strict=True)]
    return Against(found, store.key_of("against", VERSION, hashes))


def write(road: Any, corpus: Corpus, plan: Path, repeated: np.ndarray, home: Path) -> dict[str, int]:
    """Makes the index `home` of what the run keeps; returns {documents, bytes}. `road` is run.Road, `plan` the saved corpus."""
    settings = road.near or near.Settings()
    folded = road.exact is not None and road.exact.folded
    said = [schema.to_dict(settings), folded]
    tasks = []
    for i in range(len(corpus.shards)):
        first, last = np.searchsorted(repeated, [corpus.starts[i], corpus.starts[i + 1]])
        renamed = (repeated[first:last] - corpus.starts[i]).tolist()
        key = store.key_of("index", VERSION, corpus.keys[i], said, renamed)
        tasks.append(Task(f"indexing of shard {i}", i, plan, settings, folded, road.folder("index", key)))
    results = road.map("index", run, tasks, "indexing what is kept")
    temporary = home.with_name(f".{home.name}")
    shutil.rmtree(temporary, ignore_errors=True)
    temporary.mkdir()
    index.begin(temporary, settings, folded)
    for i, task in enumerate(tasks):
        shutil.copytree(task.folder / SHARD, temporary / f"{i:08d}", copy_function=_link)
    shutil.rmtree(home, ignore_errors=True)
    os.replace(temporary, home)
    return {name: sum(result[name] for result in results) for name in ("documents", "bytes")}


def run(task: Task) -> dict[str, Any]:
    """Writes the tables of one shard's documents."""
    corpus = corpora.load(task.corpus)
    names = Names(corpus, np.load(task.corpus.with_name("repeated.npy"), mmap_mode="r"))
    decided = corpus.decided[task.number]
    alive = decisions.alive(decided)

    def documents() -> Iterator[Document]:
        for place, (name, text, origin, source, *_) in shards.rows(_compared(decided), alive):
            number = corpus.starts[task.number] + place
            yield Document(ids.renamed(name, origin, source) if names.is_repeated(number) else name, text, origin, source)

    # Which document of an index is preferred is no question: none is dropped.
    settings = replace(task.settings, keep="first", sources=())
    with store.writing(task.folder) as folder:
        index.write_shard(folder / SHARD, batches(documents()), settings, task.folded)
        size = sum(path.stat().st_size for path in (folder / SHARD).rglob("*.npy"))
        result = {"documents": int(alive.sum()), "bytes": size}
        store.tell(folder, result)
    return result


def _compared(decided: Sequence[Decided]) -> Path:
    """The folder with a shard's documents as they were when they were compared."""
    return [one.texts for one in decided if one.stage in COMPARED][-1]


def _link(source: str, target: str) -> None:
    try:
        os.link(source, target)
    except OSError:
        shutil.copyfile(source, target)
