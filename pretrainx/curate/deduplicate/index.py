"""A curated corpus as an index: what later corpora are deduplicated against, without its texts.

FOLDER/settings.json             what its tables depend on; another corpus must be looked at in the same way
FOLDER/<shard>/{near,sets,exact,ids}  the tables of `near.sketch`, `near.shingle_sets`, `exact.documents`, and the documents' ids
"""

import dataclasses
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from pretrainx.core import files
from pretrainx.core.errors import InputError
from pretrainx.curate.deduplicate import columns, exact, near
from pretrainx.curate.deduplicate.columns import SHARD_BITS
from pretrainx.curate.deduplicate.near import Settings
from pretrainx.curate.documents import Batch

VERSION = 1  # of the hashes and tables
TABLES = ("near", "sets", "exact", "ids")
_DECIDING = ("ngram", "bands", "rows", "seed")  # the settings that the tables depend on


@dataclass(frozen=True)
class Index:
    """The tables of all shards, in order: the first arguments of the lists that `near` and `exact` are given."""

    near: list[Path]
    sets: list[Path]
    exact: list[Path]
    ids: list[Path]

    def __len__(self) -> int:
        return len(self.near)

    def id(self, place: int) -> str:
        """The id of the document at this place."""
        return ids(self.ids, np.array([place]))[0]


def join(indexes: Sequence[Index]) -> Index:
    """Several indexes as one, the first first."""
    return Index(*([table for one in indexes for table in getattr(one, name)] for name in TABLES))


def ids(tables: Sequence[Path], places: np.ndarray) -> list[str]:
    """The ids of the documents at these places, by an index's tables of ids, each of which is opened once."""
    found: dict[int, str] = {}
    for shard in np.unique(places >> SHARD_BITS).tolist():
        bounds, text = (columns.column(tables[shard], name) for name in ("bounds", "bytes"))
        for place in np.unique(places[places >> SHARD_BITS == shard]).tolist():
            i = place & (1 << SHARD_BITS) - 1
            found[place] = text[bounds[i] : bounds[i + 1]].tobytes().decode()
    return [found[place] for place in places.tolist()]


def begin(folder: Path, settings: Settings, folded: bool) -> None:
    """Makes a folder that `write_shard` may be called for, or sees that it is one of these settings."""
    _agree(folder, settings, folded, write=True)


def add(folder: Path, shard: str, batches: Iterable[Batch], settings: Settings, folded: bool = True) -> None:
    """Adds one shard's documents under this name; shards are in the order of their names. Texts pass through memory by batches."""
    begin(folder, settings, folded)
    write_shard(folder / shard, batches, settings, folded)


def write_shard(home: Path, batches: Iterable[Batch], settings: Settings, folded: bool) -> None:
    """Writes a shard's tables."""
    parts: list[dict[str, dict[str, np.ndarray]]] = []
    ids: list[bytes] = []
    for batch in batches:
        some = [batch]
        parts.append(
            {
                "near": near.sketch(some, settings),
                "sets": near.shingle_sets(some, settings),
                "exact": exact.documents(some, folded, settings),
            }
        )
        ids.extend(document.id.encode() for document in batch.documents)
    for name, sort in (("near", "key"), ("sets", ""), ("exact", "key")):
        columns.write(home / name, _join([part.pop(name) for part in parts], sort))
    bounds = np.cumsum([0, *map(len, ids)], dtype=np.int64)
    columns.write(home / "ids", {"bytes": np.frombuffer(b"".join(ids), np.uint8), "bounds": bounds})


def read(folder: Path, settings: Settings | None, folded: bool | None = True) -> Index:
    """The index of a folder, if it was made with settings that agree with these (None: with any, since they are not used)."""
    _agree(folder, settings, folded, write=False)
    shards = sorted(path for path in folder.iterdir() if (path / "ids").is_dir())  # `ids` is written last: a shard is whole or left out
    if not shards:
        raise InputError(f"deduplication index {folder} holds no shard")
    return Index(*([shard / name for shard in shards] for name in TABLES))


def _agree(folder: Path, settings: Settings | None, folded: bool | None, write: bool) -> None:
    mine: dict[str, object] = {"version": VERSION} if folded is None else {"folded": folded, "version": VERSION}
    if settings is not None:
        mine = {name: value for name, value in dataclasses.asdict(settings).items() if name in _DECIDING} | mine
    path = folder / "settings.json"
    if write and not path.exists():
        files.write_json(path, mine)
        return
    theirs = files.read_json(path, "deduplication index")
    different = [name for name in mine if not isinstance(theirs, dict) or theirs.get(name) != mine[name]]
    if different:
        told = ", ".join(
            f"{name} = {theirs.get(name) if isinstance(theirs, dict) else None!r} there, {mine[name]!r} here" for name in different
        )
        raise InputError(f"deduplication index {folder} was made with other settings: {told}; use these, or build the index again")


def _join(parts: Sequence[dict[str, np.ndarray]], sort: str) -> dict[str, np.ndarray]:
    """Tables of consecutive batches as one: `index` counts on, `bounds` go on, rows are sorted by the column `sort`."""
    if not parts:
        return near.sketch([], Settings()) | {"low": np.empty(0, np.uint64)} if sort else near.shingle_sets([], Settings())
    per_document = "rank" if sort else "index"
    starts = np.cumsum([0, *(len(part[per_document]) for part in parts)])
    joined: dict[str, np.ndarray] = {}
    for name in list(parts[0]):
        values = [part.pop(name) for part in parts]  # what is joined need not be held twice
        if name == "index":
            values = [each + each.dtype.type(start) for each, start in zip(values, starts, strict=False)]
        elif name == "bounds":
            ends = np.cumsum([0, *(each[-1] for each in values)])
            values = [np.zeros(1, np.int64), *(each[1:] + end for each, end in zip(values, ends, strict=False))]
        joined[name] = np.concatenate(values)
    if sort and "low" not in joined:
        joined["key"], joined["index"] = near.sorted_keys(joined["key"], joined["index"], 1)
    elif sort:
        order = np.argsort(joined[sort], kind="stable")
        joined |= {name: joined[name][order] for name in ("key", "index", "low") if name in joined}
    return joined
