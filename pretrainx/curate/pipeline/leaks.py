"""Stage "decontaminate": documents that hold texts of evaluation sets are dropped, or the stretches cut, and every stretch is told.

Beside the manifest lie `decontamination.json`, which training can require (`decontaminate.require`), and `leaks.jsonl.gz` with each
stretch, its item and the text around it.
"""

import gzip
import json
import os
import shutil
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from pretrainx.core import files, schema
from pretrainx.core.errors import InputError
from pretrainx.curate import decontaminate, readers
from pretrainx.curate.decontaminate import EvaluationSet
from pretrainx.curate.documents import batches
from pretrainx.curate.pipeline import decisions, shards, store
from pretrainx.curate.pipeline.corpus import Corpus
from pretrainx.curate.pipeline.decisions import Decided

VERSION = 1
SPANS, INDEX = "spans.jsonl", "index"


@dataclass(frozen=True)
class Options:
    sets: Mapping[str, EvaluationSet]
    settings: decontaminate.Settings

    def key(self) -> str:
        """The hash of all that an index is made from, the sets' files by content."""
        found = {
            name: [[path.name, files.sha256_file(path)] for path in readers.list_files(one.files, where=f"decontaminate.sets.{name}")]
            for name, one in self.sets.items()
        }
        described = {name: [list(one.fields), one.id_key] for name, one in self.sets.items()}
        return store.key_of("decontaminate", VERSION, found, described, schema.to_dict(self.settings))


@dataclass(frozen=True)
class Task:
    name: str
    shard: Path
    before: tuple[Decided, ...]
    index: Path
    settings: decontaminate.Settings
    folder: Path

    def __str__(self) -> str:
        return self.name


def options(given: Mapping[str, Any]) -> Options:
    """The section of the config: `sets`, {name: glob or {files, fields, id_key}}, and what decontaminate.Settings has."""
    rest = dict(given)
    named = schema.coerce(dict[str, str | dict[str, Any]], rest.pop("sets", {}), "decontaminate.sets")
    if not named:
        raise InputError("decontaminate.sets is empty: name evaluation sets and their files, such as {'arc': 'eval/arc*.jsonl'}")
    sets = {
        name: EvaluationSet(one) if isinstance(one, str) else schema.parse(EvaluationSet, one, f"decontaminate.sets.{name}")
        for name, one in named.items()
    }
    return Options(sets, schema.parse(decontaminate.Settings, rest, "decontaminate"))


def find(road: Any, corpus: Corpus, chosen: Options, key: str) -> tuple[Corpus, dict[str, Any], list[Path]]:
    """(the corpus after it, what decontamination.json says, the shards' files of stretches). `road` is run.Road."""
    home = road.folder("leak_index", key)
    with road.timed("decontaminate"):
        if not home.is_dir():
            index = decontaminate.build(chosen.sets, chosen.settings)
            with store.writing(home) as made:
                decontaminate.write_index(made / INDEX, index)
    road.used.add(home)
    tasks = [
        Task(f"decontamination of shard {i}", corpus.shards[i], corpus.decided[i], home / INDEX, chosen.settings,
             road.folder("decontaminate", store.key_of("decontaminate", VERSION, corpus.keys[i], key)))
        for i in range(len(corpus.shards))
    ]  # fmt: skip
    results = road.map("decontaminate", run, tasks, "looking for evaluation items")
    spans = [task.folder / SPANS for task in tasks]
    searched = sum(result["documents"] for result in results)
    told = decontaminate.manifest(decontaminate.read_index(home / INDEX), chosen.settings, list(_rows(spans)), searched)
    texts = [task.folder if result["edited"] else task.shard for task, result in zip(tasks, results, strict=True)]
    return corpus.with_stage("decontaminate", [task.folder for task in tasks], texts), told, spans


def run(task: Task) -> dict[str, Any]:
    """Searches one shard."""
    alive = decisions.alive(task.before)
    places = np.flatnonzero(alive)
    code = np.zeros(len(alive), np.int32)
    reasons: dict[str, int] = {}
    index = decontaminate.read_index(task.index)
    cut: dict[int, str] = {}
    done = 0
    with store.writing(task.folder) as folder:
        with open(folder / SPANS, "w", encoding="utf-8") as spans:
            for batch in batches(shards.documents(task.shard, alive)):
                hits = decontaminate.search(batch, index)
                for hit in hits:
                    spans.write(json.dumps(hit.row(batch.documents[hit.document], task.settings), ensure_ascii=False) + "\n")
                after, dropped = decontaminate.clean(batch, hits, task.settings)
                first = {hit.document: hit.items[0][0] for hit in reversed(hits)}
                kept = iter(after.documents)
                for i, gone in enumerate(dropped.tolist()):
                    place = int(places[done + i])
                    if gone:
                        code[place] = reasons.setdefault(f"leak/{first[i]}", len(reasons) + 1)
                    elif (text := next(kept).text) is not batch.documents[i].text:
                        cut[place] = text
                done += len(batch)
        if cut:
            changed = np.zeros(len(alive), bool)
            changed[list(cut)] = True
            ordered = iter([cut[place] for place in sorted(cut)])
            shards.rewrite(task.shard, task.before[0].codes(), task.before[0].reasons(), changed, ordered, folder)
        decisions.write(folder, code)
        result = {"reasons": list(reasons), "documents": int(alive.sum()), "edited": bool(cut), "cut": len(cut)}
        store.tell(folder, result)
    return result


def _rows(spans: Sequence[Path]) -> Iterator[dict[str, Any]]:
    for path in spans:
        with open(path, encoding="utf-8", newline="\n") as stream:
            for line in stream:
                yield json.loads(line)


def join(spans: Sequence[Path], path: Path) -> None:
    """One compressed file of all stretches, whole or absent."""
    temporary = path.with_name(f".{path.name}")
    with open(temporary, "wb") as raw:
        with gzip.GzipFile(filename="", mode="wb", fileobj=raw, mtime=0) as stream:
            for one in spans:
                with open(one, "rb") as source:
                    shutil.copyfileobj(source, stream)
        raw.flush()
        os.fsync(raw.fileno())
    os.replace(temporary, path)
