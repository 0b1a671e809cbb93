"""Stage "ids": which documents bear the id of one before them, by 64-bit hashes of the ids; memory is bounded by partitions."""

import hashlib
import itertools
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from pretrainx.curate.pipeline import store

VERSION = 1
PARTITION = 4_000_000  # ids that one task compares


@dataclass(frozen=True)
class Task:
    """One range of hashes, over all shards. `starts` are the numbers of the shards' first records."""

    low: int
    high: int  # the first hash that is another task's
    shards: tuple[Path, ...]
    starts: tuple[int, ...]
    folder: Path

    def __str__(self) -> str:
        return f"ids whose hashes begin with {self.low >> 56:02x}"


def partitions(records: int) -> list[tuple[int, int]]:
    """Ranges of hashes with about PARTITION ids each."""
    number = max(1, -(-records // PARTITION))
    edges = [(i << 64) // number for i in range(number + 1)]
    return list(itertools.pairwise(edges))


def key(shard_keys: Sequence[str], low: int, high: int) -> str:
    return store.key_of("ids", VERSION, list(shard_keys), low, high)


def run(task: Task) -> dict[str, Any]:
    """Finds (number of the record, number of the first with its id) in one range."""
    hashes, numbers = [], []
    for shard, start in zip(task.shards, task.starts, strict=True):
        table = np.load(shard / "ids_hash.npy", mmap_mode="r")
        first = int(np.searchsorted(table, np.uint64(task.low)))
        last = len(table) if task.high >> 64 else int(np.searchsorted(table, np.uint64(task.high)))
        hashes.append(np.asarray(table[first:last]))
        numbers.append(np.load(shard / "ids_order.npy", mmap_mode="r")[first:last] + start)
    keys, places = np.concatenate(hashes), np.concatenate(numbers)
    order = np.lexsort((places, keys))
    keys, places = keys[order], places[order]
    again = np.zeros(len(keys), bool)
    again[1:] = keys[1:] == keys[:-1]
    groups = np.flatnonzero(~again)
    firsts = places[groups[np.cumsum(~again) - 1]]
    pairs = np.stack([places[again], firsts[again]]).astype(np.int64)
    with store.writing(task.folder) as folder:
        np.save(folder / "pairs.npy", pairs[:, np.argsort(pairs[0], kind="stable")])
        result = {"found": int(again.sum())}
        store.tell(folder, result)
    return result


def repeated(folders: Sequence[Path]) -> tuple[np.ndarray, np.ndarray]:
    """(numbers of records, numbers of the first with the same id), in the order of the records."""
    pairs = np.concatenate([np.load(folder / "pairs.npy") for folder in folders], axis=1)
    pairs = pairs[:, np.argsort(pairs[0], kind="stable")]
    return pairs[0], pairs[1]


def renamed(name: str, origin: str, source: str) -> str:
    """Another id for a document whose own is taken: the same for the same record wherever the corpus lies."""
    place = f"{source}\0{origin}".encode("utf-8", "replace")
    return f"{name}~{hashlib.blake2b(place, digest_size=6).hexdigest()}"
