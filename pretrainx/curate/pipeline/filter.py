"""Stage "filter": the reason, if any, for which each document is dropped, by the chain of its source.

A chain may mend texts between its filters (C4's rules for lines stand behind its rules for documents); the shard is then written
anew with the texts that go on, a dropped document keeping the text it came with.
"""

from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from pretrainx.curate import presets
from pretrainx.curate.documents import Batch, batches
from pretrainx.curate.pipeline import decisions, shards, store
from pretrainx.curate.pipeline.decisions import Decided
from pretrainx.curate.pipeline.read import by_chain, language_of
from pretrainx.curate.pipeline.settings import Chains

VERSION = 2  # 1: no notes


@dataclass(frozen=True)
class Task:
    name: str
    shard: Path  # the folder with the documents
    before: tuple[Decided, ...]
    filters: Chains
    edits: bool  # whether a chain of this shard's sources mends texts
    folder: Path

    def __str__(self) -> str:
        return self.name


def key(before: Sequence[str], filters: Chains, sources: Sequence[str]) -> str:
    """The name of the result: of the filters, only those that the shard's sources get."""
    return store.key_of("filter", VERSION, list(before), filters.as_json(sources))


def edits(filters: Chains, sources: Sequence[str]) -> bool:
    return any(stage.kind == "clean" for source in sources for stage in filters.of(source))


def run(task: Task) -> dict[str, Any]:
    """Decides for one shard."""
    alive = decisions.alive(task.before)
    code = np.zeros(len(alive), np.int32)
    reasons: dict[str, int] = {}
    cleaned: Counter[str] = Counter()
    languages: Counter[str] = Counter()
    places = np.flatnonzero(alive)
    noted: dict[str, np.ndarray] = {}
    values: dict[str, dict[str, int]] = {}

    def texts() -> Iterator[str]:
        done = 0
        for batch in batches(shards.documents(task.shard, alive)):
            after, found, notes = decide(batch, task.filters, cleaned)
            mine = places[done : done + len(batch)]
            code[mine] = [reasons.setdefault(reason, len(reasons) + 1) if reason else 0 for reason in found]
            for name, told in notes.items():
                known = values.setdefault(name, {})
                noted.setdefault(name, np.zeros(len(alive), np.int16))[mine] = [
                    known.setdefault(v, len(known) + 1) if v else 0 for v in told
                ]
            languages.update(spoken(batch, notes.get("language")))
            done += len(batch)
            yield from after.texts

    with store.writing(task.folder) as folder:
        if task.edits:
            shards.rewrite(task.shard, task.before[0].codes(), task.before[0].reasons(), alive, texts(), folder)
        else:
            for _ in texts():
                pass
        decisions.write(folder, code)
        if noted:
            np.savez(folder / decisions.NOTES, **noted)  # type: ignore[arg-type]
        result = {
            "reasons": list(reasons), "cleaned": dict(sorted(cleaned.items())), "languages": dict(sorted(languages.items())),
            "notes": {name: list(known) for name, known in values.items()},
        }  # fmt: skip
        store.tell(folder, result)
    return result


def decide(batch: Batch, filters: Chains, cleaned: Counter[str]) -> tuple[Batch, list[str], dict[str, np.ndarray]]:
    """(the documents, those that stay mended; why each of the others is dropped, "" for those that stay; what filters noted of each)."""
    made, found = list(batch.documents), [""] * len(batch)
    notes: dict[str, np.ndarray] = {}
    for chain, places in by_chain(batch, filters):
        part = batch if len(places) == len(batch) else Batch([batch.documents[i] for i in places])
        noted: dict[str, np.ndarray] = {}
        after, reasons, told = presets.apply(part, chain, noted)
        cleaned.update(told)
        for name, values in noted.items():
            notes.setdefault(name, np.full(len(batch), None, object))[places] = values
        mended = iter(after.documents)
        for place, reason in zip(places, reasons, strict=True):
            found[place] = reason
            if not reason:
                document = next(mended)
                made[place] = document
                if not document.text:
                    found[place] = EMPTIED
    return Batch(made), found, notes


def spoken(batch: Batch, noted: np.ndarray | None = None) -> Iterator[str]:
    """The language of each document: what a filter noted, else what its record says."""
    for i, document in enumerate(batch.documents):
        yield language_of(document.metadata) if noted is None or noted[i] is None else noted[i]


EMPTIED = "empty_after_cleaning"
