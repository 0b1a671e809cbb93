"""Stages "exact", "near", "semantic", "passages": shard tasks of curate/deduplicate; tables are results, findings become decisions.

A document is known to them by its shard and its index among the shard's documents that are still there; here that becomes its number.

    exact       exact_hash (a shard) -> exact_find (a range of hashes)
    passages    passages_hash (a shard) -> passages_find (a range) -> passages (a shard)
    near        near_sketch (a shard) -> near_pairs (a range of keys) -> near_sets, near_verify (a shard) -> near_choose
    semantic    semantic_embed (a shard) -> semantic_centroids -> semantic_assign (a shard) -> semantic_find (some clusters)
"""

import dataclasses
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

import numpy as np

from pretrainx.core import schema
from pretrainx.core.errors import InputError, nearest
from pretrainx.curate.deduplicate import clusters, columns, exact, near, semantic
from pretrainx.curate.documents import Batch, batches
from pretrainx.curate.pipeline import corpus as corpora
from pretrainx.curate.pipeline import decisions, shards, store
from pretrainx.curate.pipeline.corpus import Corpus
from pretrainx.curate.pipeline.decisions import Decided

VERSION = 1
CLUSTER_TASKS = 64  # into which the comparison within clusters is cut
ROWS_AT_ONCE = 8_000_000  # of one range of keys: 320 MB while they are worked on


@dataclass(frozen=True)
class Exact:
    """Options of the stage "exact"."""

    folded: bool = False  # compare without regard to case, forms of characters and white space
    keep: Literal["first", "longest", "source"] = "first"
    sources: tuple[str, ...] = ()  # with keep = "source", the preferred first


@dataclass(frozen=True)
class Task:
    """One task of any of these stages; which of the fields it needs depends on the stage."""

    name: str
    folder: Path
    options: Any
    shard: Path = Path()  # the documents
    before: tuple[Decided, ...] = ()
    tables: tuple[Path, ...] = ()  # of all shards
    pairs: tuple[Path, ...] = ()
    number: int = 0  # of the shard
    keys: tuple[int, int] = (0, 0)
    index: int = 0  # how many of the tables, the first, are of earlier runs' indexes

    def __str__(self) -> str:
        return self.name


@dataclass(frozen=True)
class Found:
    """Documents to drop, by number, ascending; the number of the one that stays in place of each, and how near the two are. Documents
    of an index have numbers from corpus.IN_INDEX down."""

    numbers: np.ndarray
    kept: np.ndarray
    similarity: np.ndarray | None = field(default=None)


def exact_options(given: Mapping[str, Any]) -> Exact:
    options = schema.parse(Exact, given, "deduplicate.exact")
    _ranking(options)  # names a missing `sources`
    return options


def passages_options(given: Mapping[str, Any]) -> exact.Passages:
    return exact.Passages(**schema.typed(schema.hints(exact.Passages), given, "deduplicate.passages"))


def near_options(given: Mapping[str, Any]) -> near.Settings:
    """A preset ("default" where none is named) with what is said otherwise."""
    changes = dict(given)
    name = schema.coerce(str, changes.pop("preset", "default"), "deduplicate.near.preset")
    if name not in near.PRESETS:
        raise InputError(f"deduplicate.near.preset = {name!r}; {nearest(name, near.PRESETS)}")
    return dataclasses.replace(near.PRESETS[name], **schema.typed(schema.hints(near.Settings), changes, "deduplicate.near", ["preset"]))


def semantic_options(given: Mapping[str, Any]) -> semantic.Settings:
    rest = dict(given)
    of_embedding = schema.coerce(dict[str, Any], rest.pop("embedding_options", {}), "deduplicate.semantic.embedding_options")
    typed = schema.typed(schema.hints(semantic.Settings), rest, "deduplicate.semantic")
    options = semantic.Settings(**typed, embedding_options=of_embedding)
    semantic.load(options)  # names a missing plug-in or model
    return options


def _ranking(options: Exact) -> near.Settings:
    return near.Settings(keep=options.keep, sources=options.sources)


def find_exact(road: Any, corpus: Corpus, options: Exact) -> Found:
    """Equal documents. `road` is run.Road: who runs tasks and knows where results lie."""
    said = schema.to_dict(options)
    tables = _each_shard(road, corpus, "exact_hash", exact_hash, options, said, "hashing documents")
    old = road.against
    ranges = exact.partitions([*old.index.exact, *tables], ROWS_AT_ONCE)
    tasks = _each_range(road, "exact_find", tables, ranges, options, said, old.index.exact)
    road.map("exact_find", exact_find, tasks, "comparing hashes")
    found = [[columns.column(task.folder, name) for task in tasks] for name in ("place", "kept")]
    place, kept = (np.concatenate(parts) for parts in found)
    order = np.argsort(place, kind="stable")
    return _numbered(corpus, place[order], kept[order], None, len(old.index))


def find_near(road: Any, corpus: Corpus, options: near.Settings) -> Found:
    """Nearly equal documents."""
    said = schema.to_dict(options)
    tables = _each_shard(road, corpus, "near_sketch", near_sketch, options, said, "sketching documents")
    old = road.against
    ranges = near.partitions([*old.index.near, *tables], ROWS_AT_ONCE)
    tasks = _each_range(road, "near_pairs", tables, ranges, options, said, old.index.near)
    road.map("near_pairs", near_pairs, tasks, "pairing sketches")
    pairs = tuple(task.folder for task in tasks)
    made_from = [folder.name for folder in pairs]
    first = len(old.index)
    sets = _each_shard(road, corpus, "near_sets", near_sets, options, [said, made_from], "n-grams of candidates", pairs, first)
    key = [[folder.name for folder in sets], made_from, said]
    verify = [
        Task(f"comparing candidates of shard {i}", road.folder("near_verify", store.key_of(VERSION, key, i)), options,
             tables=(*old.index.sets, *sets), pairs=pairs, number=i)
        for i in range(first + len(tables))
    ]  # fmt: skip
    road.map("near_verify", near_verify, verify, "comparing candidates")
    verified = tuple(task.folder for task in verify)
    name = store.key_of("near_choose", VERSION, [folder.name for folder in (*verified, *tables)])
    choose = Task("choosing which copies stay", road.folder("near_choose", name), options, tables=(*old.index.near, *tables),
                  pairs=verified, index=first)  # fmt: skip
    road.map("near_choose", near_choose, [choose], "choosing which copies stay")
    place, kept, similarity = (np.array(columns.column(choose.folder, name)) for name in ("place", "kept", "similarity"))
    return _numbered(corpus, place, kept, similarity, first)


def find_semantic(road: Any, corpus: Corpus, options: semantic.Settings) -> Found:
    """Documents that say the same, by the embedding of the options."""
    said = schema.to_dict(options)
    tables = _each_shard(road, corpus, "semantic_embed", semantic_embed, options, said, "embedding documents")
    made_from = [table.name for table in tables]
    name = store.key_of("semantic_centroids", VERSION, made_from, said)
    centroids = Task("finding clusters", road.folder("semantic_centroids", name), options, tables=tables)
    road.map("semantic_centroids", semantic_centroids, [centroids], "finding clusters")
    places = [road.folder("semantic_assign", store.key_of(VERSION, name, i)) for i in range(len(tables))]
    assign = [
        Task(f"clusters of shard {i}", place, options, table, pairs=(centroids.folder,))
        for i, (place, table) in enumerate(zip(places, tables, strict=True))
    ]
    road.map("semantic_assign", semantic_assign, assign, "assigning documents to clusters")
    assigned = tuple(task.folder for task in assign)
    count = store.result(centroids.folder)["rows"]["center"]
    step = max(1, -(-count // CLUSTER_TASKS))
    find = []
    for low in range(0, count, step):
        keys = (low, min(count, low + step))
        folder = road.folder("semantic_find", store.key_of("semantic_find", VERSION, name, keys))
        find.append(Task(f"clusters {keys[0]} to {keys[1]}", folder, options, tables=tables, pairs=assigned, keys=keys))
    road.map("semantic_find", semantic_find, find, "comparing within clusters")
    columns_of = [[columns.column(task.folder, key) for task in find] for key in ("place", "kept", "similarity")]
    place, kept, similarity = (np.concatenate([np.empty(0, np.int64), *parts]) for parts in columns_of)
    order = np.argsort(place, kind="stable")
    return _numbered(corpus, place[order].astype(np.int64), kept[order].astype(np.int64), similarity[order])


def cut_passages(road: Any, corpus: Corpus, options: exact.Passages) -> Corpus:
    """The corpus without lines or paragraphs that were there before; a document that loses all is dropped."""
    said = schema.to_dict(options)
    tables = _each_shard(road, corpus, "passages_hash", passages_hash, options, said, "hashing passages")
    tasks = _each_range(road, "passages_find", tables, exact.partitions(tables, ROWS_AT_ONCE), options, said, ())
    road.map("passages_find", passages_find, tasks, "comparing passages")
    found = tuple(task.folder for task in tasks)
    made_from = [folder.name for folder in found]
    keys = [store.key_of("passages", VERSION, corpus.keys[i], made_from, said, i) for i in range(len(tables))]
    cut = [
        Task(f"cutting passages of shard {i}", road.folder("passages", key), options, corpus.shards[i], corpus.decided[i], found, number=i)
        for i, key in enumerate(keys)
    ]
    results = road.map("passages", passages_cut, cut, "cutting passages")
    texts = [task.folder if result["edited"] else task.shard for task, result in zip(cut, results, strict=True)]
    return corpus.with_stage("passages", [task.folder for task in cut], texts)


def passages_hash(task: Task) -> dict[str, Any]:
    return _save(task.folder, exact.passages(_batches(task), task.options))


def passages_find(task: Task) -> dict[str, Any]:
    return _save(task.folder, exact.repeated(task.tables, task.keys))


def passages_cut(task: Task) -> dict[str, Any]:
    """Writes one shard without its repeated passages."""
    low, high = task.number << columns.SHARD_BITS, (task.number + 1) << columns.SHARD_BITS
    (place, number), _ = columns.between(task.tables, "place", ["place", "number"], low, high)
    order = np.lexsort((number, place))
    index, number = place[order] - low, number[order]
    alive = decisions.alive(task.before)
    places = np.flatnonzero(alive)
    code = np.zeros(len(alive), np.int32)

    def texts() -> Iterator[str]:
        start = 0
        for batch in _batches(task):
            after, _ = exact.cut(batch, task.options, start, index, number)
            for i, document in enumerate(after.documents):
                code[places[start + i]] = not document.text
                # A document that is dropped is shown as it came.
                yield document.text or batch.documents[i].text
            start += len(batch)

    with store.writing(task.folder) as folder:
        if len(index):
            shards.rewrite(task.shard, task.before[0].codes(), task.before[0].reasons(), alive, texts(), folder)
        decisions.write(folder, code)
        result = {"reasons": ["nothing_new"], "edited": bool(len(index)), "passages": len(index)}
        store.tell(folder, result)
    return result


def exact_hash(task: Task) -> dict[str, Any]:
    return _save(task.folder, exact.documents(_batches(task), task.options.folded, _ranking(task.options)))


def exact_find(task: Task) -> dict[str, Any]:
    return _save(task.folder, exact.duplicates(task.tables, task.keys, task.index))


def near_sketch(task: Task) -> dict[str, Any]:
    return _save(task.folder, near.sketch(_batches(task), task.options))


def near_pairs(task: Task) -> dict[str, Any]:
    return _save(task.folder, near.candidates(task.tables, task.keys, task.options, task.index))


def near_sets(task: Task) -> dict[str, Any]:
    return _save(task.folder, near.shingle_sets(_batches(task), task.options, near.members(task.pairs, task.number)))


def near_verify(task: Task) -> dict[str, Any]:
    return _save(task.folder, near.verify(task.pairs, task.tables, task.number, task.options))


def near_choose(task: Task) -> dict[str, Any]:
    return _save(task.folder, clusters.representatives(task.pairs, task.tables, task.index))


def semantic_embed(task: Task) -> dict[str, Any]:
    return _save(task.folder, semantic.embed(_batches(task), semantic.load(task.options), task.options))


def semantic_centroids(task: Task) -> dict[str, Any]:
    return _save(task.folder, {"center": semantic.centroids(task.tables, task.options)})


def semantic_assign(task: Task) -> dict[str, Any]:
    return _save(task.folder, semantic.assign(task.shard, np.array(columns.column(task.pairs[0], "center"))))


def semantic_find(task: Task) -> dict[str, Any]:
    return _save(task.folder, semantic.duplicates(task.tables, task.pairs, task.keys, task.options))


def _each_shard(
    road: Any, corpus: Corpus, stage: str, function: Any, options: Any, said: Any, what: str, pairs: tuple[Path, ...] = (), first: int = 0
) -> tuple[Path, ...]:
    """Maps over shards, the number of the first of which is `first`; returns the tables."""
    tasks = [
        Task(
            f"{what}, shard {i}", road.folder(stage, store.key_of(stage, VERSION, corpus.keys[i], said, i if pairs else 0)), options,
            corpus.shards[i], corpus.decided[i], pairs=pairs, number=first + i,
        )
        for i in range(len(corpus.shards))
    ]  # fmt: skip
    road.map(stage, function, tasks, what)
    return tuple(task.folder for task in tasks)


def _each_range(
    road: Any, stage: str, tables: tuple[Path, ...], ranges: list[tuple[int, int]], options: Any, said: Any, index: Sequence[Path]
) -> list[Task]:
    names = [*([road.against.key] if index else []), *(table.name for table in tables)]
    folders = [road.folder(stage, store.key_of(stage, VERSION, names, said, keys)) for keys in ranges]
    return [
        Task(f"{stage} {i + 1} of {len(ranges)}", folder, options, tables=(*index, *tables), keys=keys, index=len(index))
        for i, (folder, keys) in enumerate(zip(folders, ranges, strict=True))
    ]


def _batches(task: Task) -> Iterator[Batch]:
    return batches(shards.documents(task.shard, decisions.alive(task.before)))


def _save(folder: Path, table: Mapping[str, np.ndarray]) -> dict[str, Any]:
    """Writes a table as columns.py reads it."""
    with store.writing(folder) as made:
        for name, values in table.items():
            np.save(made / f"{name}.npy", values, allow_pickle=False)
        result = {"rows": {name: len(values) for name, values in table.items()}}
        store.tell(made, result)
    return result


def _numbered(corpus: Corpus, place: np.ndarray, kept: np.ndarray, similarity: np.ndarray | None, first: int = 0) -> Found:
    return Found(_numbers(corpus, place, first), _numbers(corpus, kept, first), similarity)


def _numbers(corpus: Corpus, places: np.ndarray, first: int) -> np.ndarray:
    """Numbers of documents from (shard, index among those that are there); the `first` shards are of an index."""
    found = corpora.IN_INDEX - places
    where = (places >> columns.SHARD_BITS) - first
    for shard in np.unique(where[where >= 0]).tolist():
        mine = where == shard
        index = places[mine] & ((1 << columns.SHARD_BITS) - 1)
        found[mine] = corpus.starts[shard] + np.flatnonzero(corpora.alive(corpus, shard))[index]
    return found
