"""All shards of a corpus as one list of numbered records, and what the stages decided of each."""

from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np

from pretrainx.core import files
from pretrainx.curate.pipeline import decisions, ids, shards
from pretrainx.curate.pipeline.decisions import Decided


@dataclass(frozen=True)
class Corpus:
    """`starts[i]` is the number of shard i's first record; `decided[i]` holds the stages so far, "read" first."""

    names: tuple[str, ...]  # of the inputs' sources, by shard ("": the records say it)
    shards: tuple[Path, ...]
    starts: tuple[int, ...]
    decided: tuple[tuple[Decided, ...], ...]
    keys: tuple[tuple[str, ...], ...] = field(default=())  # of the results in `decided`

    def with_stage(self, stage: str, folders: Sequence[Path], texts: Sequence[Path] | None = None) -> "Corpus":
        """The corpus after a stage; `texts` are the folders with the documents where it has changed any."""
        after = tuple(self.shards if texts is None else texts)
        made = zip(self.decided, folders, after, strict=True)
        decided = tuple((*some, Decided(stage, folder, text)) for some, folder, text in made)
        keys = tuple((*some, folder.name) for some, folder in zip(self.keys, folders, strict=True))
        return Corpus(self.names, after, self.starts, decided, keys)

    @property
    def records(self) -> int:
        return self.starts[-1]

    def size(self, shard: int) -> int:
        return self.starts[shard + 1] - self.starts[shard]

    def save(self, path: Path) -> None:
        """Writes it as JSON, for tasks that need all of it; `path` is work/<stage>/<key>/<file>, and folders are named from work on."""
        work = path.parents[2]
        decided = [
            [[one.stage, str(one.folder.relative_to(work)), str(one.texts.relative_to(work))] for one in some] for some in self.decided
        ]
        folders = [str(shard.relative_to(work)) for shard in self.shards]
        value = {"names": self.names, "shards": folders, "starts": self.starts, "decided": decided}
        files.write_json(path, value)


def load(path: Path) -> Corpus:
    found = files.read_json(path, "list of shards")
    work = path.parents[2]
    decided = tuple(tuple(Decided(stage, work / folder, work / texts) for stage, folder, texts in some) for some in found["decided"])
    return Corpus(tuple(found["names"]), tuple(work / shard for shard in found["shards"]), tuple(found["starts"]), decided)


IN_INDEX = -2  # and below: IN_INDEX - place is the number of a document that an index of an earlier run has at this place


class Names:
    """The ids of documents by their numbers, duplicate ids renamed; `index` are the tables of ids of earlier runs' indexes."""

    def __init__(self, corpus: Corpus, repeated: np.ndarray, index: Sequence[Path] = ()):
        self._corpus, self._repeated, self._index = corpus, repeated, index
        self._starts = np.asarray(corpus.starts)

    def is_repeated(self, number: int) -> bool:
        at = int(np.searchsorted(self._repeated, number))
        return at < len(self._repeated) and int(self._repeated[at]) == number

    def of(self, numbers: np.ndarray) -> list[str]:
        """One id each, in the order asked for; each shard is opened once."""
        found: dict[int, str] = {}
        where = np.searchsorted(self._starts, numbers, side="right") - 1
        if (old := numbers[numbers <= IN_INDEX]).size:
            from pretrainx.curate.deduplicate import index

            found.update(zip(old.tolist(), index.ids(self._index, IN_INDEX - old), strict=True))
        for shard in np.unique(where[numbers >= 0]).tolist():
            mine = np.unique(numbers[where == shard])
            places = mine - self._corpus.starts[shard]
            found.update(zip(mine.tolist(), shards.ids(self._corpus.shards[shard], places), strict=True))
            for number, place in zip(mine.tolist(), places.tolist(), strict=True):
                if self.is_repeated(number):
                    ((_, row),) = shards.rows(self._corpus.shards[shard], np.ones(1, bool), place)
                    found[number] = ids.renamed(row[0], row[2], row[3])
        return [found[number] for number in numbers.tolist()]


def scatter(
    corpus: Corpus, numbers: np.ndarray, kept: np.ndarray, similarity: np.ndarray | None, shard: int
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """(code, kept, similarity) of one shard's records out of a sorted list of dropped numbers: for reason 1, or where the one that is
    kept is an index's, 2."""
    first, last = np.searchsorted(numbers, [corpus.starts[shard], corpus.starts[shard + 1]])
    code, copies = np.zeros(corpus.size(shard), np.int32), np.full(corpus.size(shard), -1, np.int64)
    mine = numbers[first:last] - corpus.starts[shard]
    code[mine], copies[mine] = np.where(kept[first:last] <= IN_INDEX, 2, 1), kept[first:last]
    near = np.ones(corpus.size(shard), np.float32)
    if similarity is not None:
        near[mine] = similarity[first:last]
    return code, copies, near


def alive(corpus: Corpus, shard: int) -> np.ndarray:
    return decisions.alive(corpus.decided[shard])
