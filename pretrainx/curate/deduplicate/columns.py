"""Tables of plain arrays that lie in memory or in a folder of .npy files, sorted, so that a reduce reads a range of each.

A table is a mapping from names to arrays, or the folder that `write` made of one. Every shuffle here is this: a map leaves a table
sorted by some key, and the reduce of one range of keys takes that range out of every table by binary search. How many ranges there are
is decided when they are read, by the memory that one may take, and nothing depends on it.
"""

import itertools
import os
import shutil
import tempfile
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path

import numpy as np

from pretrainx.core.errors import InputError

Arrays = Mapping[str, np.ndarray]
Table = Arrays | Path
SHARD_BITS = 32  # of a place: shard << 32 | index


def write(folder: Path, table: Arrays) -> Path:
    """Writes a table as NAME.npy files; the folder is there whole or not at all."""
    folder.parent.mkdir(parents=True, exist_ok=True)
    temporary = Path(tempfile.mkdtemp(dir=folder.parent, prefix=f".{folder.name}."))
    try:
        for name, values in table.items():
            with open(temporary / f"{name}.npy", "wb") as out:
                np.save(out, values, allow_pickle=False)
                out.flush()
                os.fsync(out.fileno())
        if folder.exists():
            shutil.rmtree(folder)
        os.replace(temporary, folder)
    except BaseException:
        shutil.rmtree(temporary, ignore_errors=True)
        raise
    return folder


def column(table: Table, name: str) -> np.ndarray:
    """One column; of a folder a view of the file, of which only what is touched is read. Copy what should outlive it."""
    if isinstance(table, Mapping):
        return table[name]
    path = table / f"{name}.npy"
    try:
        try:
            return np.load(path, mmap_mode="r", allow_pickle=False)
        except ValueError:  # an array without elements cannot be mapped
            return np.load(path, allow_pickle=False)
    except FileNotFoundError:
        raise InputError(f"deduplication table {table} has no column {name!r}: {path} not found") from None
    except (ValueError, EOFError, OSError) as error:
        raise InputError(f"deduplication table {path} cannot be read: {error}") from None


def between(tables: Sequence[Table], key: str, names: Sequence[str], low: int, high: int) -> tuple[list[np.ndarray], np.ndarray]:
    """The rows with low <= key < high of all tables, sorted by `key` each: (a copy of each named column, the table of each row)."""
    parts: list[list[np.ndarray]] = [[] for _ in names]
    lengths = []
    for table in tables:
        keys = column(table, key)
        first = int(np.searchsorted(keys, keys.dtype.type(low)))
        # The end of the last range may lie one above what the type holds.
        last = len(keys) if high > np.iinfo(keys.dtype).max else int(np.searchsorted(keys, keys.dtype.type(high)))
        lengths.append(last - first)
        for part, name in zip(parts, names, strict=True):
            part.append(np.array(column(table, name)[first:last]))
    if not tables:
        raise InputError("deduplication: no table to read")
    return [np.concatenate(part) for part in parts], np.repeat(np.arange(len(tables)), lengths)


def ranges(count: int) -> list[tuple[int, int]]:
    """The 64-bit hashes cut into so many ranges of equal width."""
    edges = [i * 2**64 // count for i in range(count + 1)]
    return list(itertools.pairwise(edges))


def gather(tables: Sequence[Table], name: str, places: np.ndarray) -> np.ndarray:
    """The value of a column that has a row for every document, at each of these places (in ascending order)."""
    edges = np.searchsorted(places, [shard << SHARD_BITS for shard in range(len(tables) + 1)])
    found = [
        column(table, name)[places[first:last] & 0xFFFFFFFF]
        for table, first, last in zip(tables, edges, edges[1:], strict=False)
        if last > first
    ]
    return np.concatenate(found) if found else np.empty(0, np.int64)


def in_shard(table: Table, key: str, names: Iterable[str], shard: int) -> list[np.ndarray]:
    """The rows of a table sorted by place that belong to one shard: what a shard's own task needs of a result."""
    return between([table], key, list(names), shard << SHARD_BITS, (shard + 1) << SHARD_BITS)[0]


def place(shard: int | np.ndarray, index: np.ndarray) -> np.ndarray:
    """int64: shard << 32 | index."""
    return (np.asarray(shard, np.int64) << SHARD_BITS) | index.astype(np.int64)
