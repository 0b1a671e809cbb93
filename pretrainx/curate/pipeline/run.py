"""The whole road: read and clean, ids, filter, deduplicate, decontaminate, write, report.

Every stage is a list of tasks; a task whose result is there is not done again. What a result is made from is in its name,
so that other settings or other input redo what they touch and nothing else.
"""

import contextlib
import os
import platform
import shutil
import time
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, TypeVar

import numpy as np

from pretrainx.core import files, logs, schema, versions
from pretrainx.core.errors import InputError
from pretrainx.curate.pipeline import corpus as corpora
from pretrainx.curate.pipeline import decisions, filter, ids, inputs, read, report, settings, shards, store, write
from pretrainx.curate.pipeline.corpus import Corpus
from pretrainx.curate.pipeline.executor import Executor
from pretrainx.curate.pipeline.settings import Chains, Settings

VERSION = 1
LEAK_MANIFEST, LEAKS = "decontamination.json", "leaks.jsonl.gz"
MANIFEST, REPORT, WORK, INDEX = "manifest.json", "report.html", "work", "index"
CORPUS = "corpus.json"  # beside repeated.npy, in the folder of a plan
PACKAGES = ("pretrainx", "numpy", "numba", "pyarrow", "zstandard", "ftfy", "py3langid")
DUPLICATE_ID = "duplicate_id"
BINS = 40  # of the length histogram: powers of the square root of 2

Task = TypeVar("Task")


@dataclass
class Road:
    """A run under way: where results lie, who runs tasks, and what was done."""

    settings: Settings
    clean: Chains
    filters: Chains
    exact: Any  # duplicates.Exact or None
    near: Any  # deduplicate.near.Settings or None
    semantic: Any  # deduplicate.semantic.Settings or None
    passages: Any  # deduplicate.exact.Passages or None
    against: Any  # indexes.Against, or None where no stage compares documents
    work: Path
    executor: Executor
    used: set[Path] = field(default_factory=set)  # folders of this run's results
    tasks: dict[str, dict[str, int]] = field(default_factory=dict)  # stage -> {done, found}
    seconds: dict[str, float] = field(default_factory=dict)

    def folder(self, stage: str, key: str) -> Path:
        return self.work / stage / key

    def map(self, stage: str, function: Callable[[Task], dict[str, Any]], tasks: Sequence[Task], what: str) -> list[dict[str, Any]]:
        """The result of each task (which has a `folder`): found, or made now."""
        folders = [task.folder for task in tasks]  # type: ignore[attr-defined]
        missing = {folder: task for folder, task in zip(folders, tasks, strict=True) if not folder.is_dir()}
        with self.timed(stage):
            if missing:
                self.executor.map(function, list(missing.values()), what)
        self.note(stage, folders, len(missing))
        return [store.result(folder) for folder in folders]

    def note(self, stage: str, folders: Iterable[Path], done: int) -> None:
        all_folders = list(folders)
        self.used.update(all_folders)
        tally = self.tasks.setdefault(stage, {"done": 0, "found": 0})
        tally["done"] += done
        tally["found"] += len(all_folders) - done

    @contextlib.contextmanager
    def timed(self, stage: str) -> Iterator[None]:
        start = time.perf_counter()
        try:
            yield
        finally:
            self.seconds[stage] = self.seconds.get(stage, 0.0) + time.perf_counter() - start


def curate(chosen: Settings, workdir: Path, executor: Executor) -> tuple[dict[str, Any], dict[str, dict[str, int]]]:
    """Runs what is not there yet; returns the manifest, and how many tasks of each stage were done and found.

    Writes WORKDIR/documents, WORKDIR/dropped, WORKDIR/manifest.json (last: with it the output is whole) and WORKDIR/report.html.

    Raises:
      InputError: the config, an input file, or too many records are bad.
    """
    clean, filters = settings.chains(chosen).split()
    exact, near, semantic, passages, sets = _compiled_stages(chosen)
    sets_key = sets.key() if sets else ""
    known = _indexes(chosen, near, exact, workdir)
    found = inputs.find(chosen)
    with files.locked(workdir):
        work = workdir / WORK
        work.mkdir(exist_ok=True)
        prints = inputs.fingerprints(found, work / "inputs.json", executor)
        against = known(work, executor)
        run_key = store.key_of(
            "run", VERSION, schema.to_dict(chosen), clean.as_json(), filters.as_json(), sets_key,
            *map(schema.to_dict, (exact, near, semantic, passages)), against.key if against else "",
            [[f.source, str(f.path), f.name, f.kind, one["sha256"]] for f, one in zip(found, prints, strict=True)],
        )  # fmt: skip
        if (done := finished(workdir, run_key)) is not None:
            return done, {}
        store.remove_begun(work)
        road = Road(chosen, clean, filters, exact, near, semantic, passages, against, work, executor)
        corpus, results = _read(road, inputs.shards(found, prints, chosen.reading.piece_bytes))
        corpus, repeated = _ids(road, corpus)
        corpus = _filter(road, corpus, results)
        corpus = _deduplicate(road, corpus)
        told, spans = None, list[Path]()
        if sets is not None:
            from pretrainx.curate.pipeline import leaks

            corpus, told, spans = leaks.find(road, corpus, sets, sets_key)
        plan = _plan(road, corpus, repeated)
        manifest = _write(road, corpus, repeated, plan, workdir)
        manifest |= _write_index(road, corpus, repeated, plan, workdir)
        _write_leaks(workdir, told, spans)
        manifest |= {"decontamination": told} if told else {}
        manifest |= _counts(corpus, results) | {
            "run_key": run_key,
            "inputs": inputs.as_manifest(found, prints),
            "settings": schema.to_dict(chosen) | {"clean": clean.as_json(), "filters": filters.as_json()},
            "versions": {"python": platform.python_version(), **versions.installed(PACKAGES)},
            "seconds": {stage: round(seconds, 3) for stage, seconds in road.seconds.items()},
            "tasks": road.tasks,
        }
        files.write_bytes(workdir / REPORT, report.page(manifest).encode())
        files.write_json(workdir / MANIFEST, manifest)
        store.clean_up(work, road.used)
    return manifest, road.tasks


def _compiled_stages(chosen: Settings) -> list[Any]:
    """The options of the stages exact, near, semantic, passages and decontaminate, None for those that are off.

    Their modules hold compiled loops: who turns them off needs no compiler.
    """
    of = chosen.deduplicate
    given = (of.exact, of.near, of.semantic, of.passages, chosen.decontaminate)
    if all(one is None for one in given) and not of.against and not of.write_index:
        return [None] * len(given)
    try:
        from pretrainx.curate.pipeline import duplicates, leaks
    except ModuleNotFoundError as error:
        if error.name != "numba":
            raise
        raise InputError(
            "deduplication and decontamination need numba: pip install 'pretrainx[curate]', or turn them off: "
            "--config.deduplicate=\"{'exact': None, 'near': None}\""
        ) from None
    parse = (
        duplicates.exact_options, duplicates.near_options, duplicates.semantic_options, duplicates.passages_options, leaks.options,
    )  # fmt: skip
    return [None if one is None else parsed(one) for parsed, one in zip(parse, given, strict=True)]


def _indexes(chosen: Settings, near: Any, exact: Any, workdir: Path) -> Callable[[Path, Executor], Any]:
    """Sees that the config's indexes fit, and returns what reads all of them: (work folder, executor) -> indexes.Against."""
    of = chosen.deduplicate
    if near is None and exact is None and not of.against and not of.write_index:
        return lambda work, executor: None
    from pretrainx.curate.pipeline import indexes

    found = indexes.find(of.against, near, None if exact is None else exact.folded, workdir / INDEX)
    return lambda work, executor: indexes.against(found, work / "indexes.json", executor)


def finished(workdir: Path, run_key: str) -> dict[str, Any] | None:
    """The manifest of a whole output that these settings and this input made."""
    if not (workdir / MANIFEST).exists() or not (workdir / REPORT).exists():
        return None
    manifest: dict[str, Any] = files.read_json(workdir / MANIFEST, "curation manifest")
    if manifest.get("run_key") != run_key:
        return None
    for kind in ("documents", "dropped"):
        there = {path.name: path.stat().st_size for path in (workdir / kind).glob("*.jsonl.gz")}
        if there != {entry["file"]: entry["bytes"] for entry in manifest[kind]}:
            return None
    if "decontamination" in manifest and not (workdir / LEAK_MANIFEST).exists():
        return None
    if "index" in manifest and not (workdir / INDEX).is_dir():
        return None
    return manifest


def _read(road: Road, pieces: Sequence[inputs.Shard]) -> tuple[Corpus, list[dict[str, Any]]]:
    reading = road.settings.reading
    keys = [read.key(shard, reading, road.clean) for shard in pieces]
    tasks = [read.Task(shard, reading, road.clean, road.folder("read", key)) for shard, key in zip(pieces, keys, strict=True)]
    results = road.map("read", read.run, tasks, "reading and cleaning")
    faults = sum(result["faults"] for result in results)
    sentences = [sentence for result in results for sentence in result["sentences"]]
    if faults and reading.bad_records == "stop":
        raise InputError(f"{sentences[0]} (reading.bad_records='stop')")
    if faults > reading.max_bad_records:
        raise read.too_many(reading, sentences[-1])
    starts = np.cumsum([0, *(result["records"] for result in results)]).tolist()
    folders = tuple(task.folder for task in tasks)
    corpus = Corpus(tuple(shard.source for shard in pieces), folders, tuple(starts), ((),) * len(pieces), ((),) * len(pieces))
    corpus = corpus.with_stage("read", folders)
    if not any(corpora.alive(corpus, shard).any() for shard in range(len(pieces))):
        raise InputError(f"no document could be read from {len(pieces)} shards of input{': ' + sentences[0] if sentences else ''}")
    for sentence in sentences[:10]:
        logs.log(f"not read: {sentence}")
    return corpus, results


def _ids(road: Road, corpus: Corpus) -> tuple[Corpus, np.ndarray]:
    """Applies the policy for duplicate ids; returns the numbers of the documents that get another."""
    policy = road.settings.reading.duplicate_ids
    tasks = [
        ids.Task(low, high, corpus.shards, corpus.starts[:-1], road.folder("ids", ids.key([keys[0] for keys in corpus.keys], low, high)))
        for low, high in ids.partitions(corpus.records)
    ]
    road.map("ids", ids.run, tasks, "comparing ids")
    again, firsts = ids.repeated([task.folder for task in tasks])
    if not len(again):
        return corpus, again
    shown = corpora.Names(corpus, np.zeros(0, np.int64)).of(again[:3])
    said = f"{len(again):,} documents bear the id of one before them (reading.duplicate_ids={policy!r}): {', '.join(map(repr, shown))}"
    if policy == "stop":
        raise InputError(said)
    logs.log(said)
    if policy == "rename":
        return corpus, again
    return _scatter(road, corpus, "ids_drop", again, firsts, DUPLICATE_ID), again[:0]


def _scatter(
    road: Road, corpus: Corpus, stage: str, numbers: np.ndarray, kept: np.ndarray, reason: str, similarity: np.ndarray | None = None
) -> Corpus:
    """The corpus after a stage that looked at all of it: `numbers` (sorted) are dropped, as copies of `kept`.

    What a shard gets is named by its content, so that later stages are redone only where it has changed.
    """
    folders = []
    done = 0
    for shard in range(len(corpus.shards)):
        code, copies, near = corpora.scatter(corpus, numbers, kept, similarity, shard)
        said = files.sha256_bytes(code.tobytes() + copies.tobytes() + near.tobytes())
        folder = road.folder(stage, store.key_of(stage, corpus.keys[shard], reason, said))
        if not folder.is_dir():
            done += 1
            with store.writing(folder) as made:
                decisions.write(made, code, copies, near)
                store.tell(made, {"reasons": [reason, f"{reason}_as_before"]})
        folders.append(folder)
    road.note(stage, folders, done)
    return corpus.with_stage(stage, folders)


def _filter(road: Road, corpus: Corpus, results: Sequence[Mapping[str, Any]]) -> Corpus:
    if not road.filters.default and not any(road.filters.by_source.values()):
        return corpus
    tasks = []
    for i, result in enumerate(results):
        folder = road.folder("filter", filter.key(corpus.keys[i], road.filters, result["sources"]))
        edits = filter.edits(road.filters, result["sources"])
        tasks.append(filter.Task(f"filtering of shard {i}", corpus.shards[i], corpus.decided[i], road.filters, edits, folder))
    road.map("filter", filter.run, tasks, "filtering")
    texts = [task.folder if task.edits else task.shard for task in tasks]
    return corpus.with_stage("filter", [task.folder for task in tasks], texts)


def _deduplicate(road: Road, corpus: Corpus) -> Corpus:
    if road.exact is None and road.near is None and road.semantic is None and road.passages is None:
        return corpus
    from pretrainx.curate.pipeline import duplicates

    if road.exact is not None:
        found = duplicates.find_exact(road, corpus, road.exact)
        corpus = _scatter(road, corpus, "exact", found.numbers, found.kept, "same_text")
    if road.near is not None:
        found = duplicates.find_near(road, corpus, road.near)
        corpus = _scatter(road, corpus, "near", found.numbers, found.kept, "near_copy", found.similarity)
    if road.semantic is not None:
        found = duplicates.find_semantic(road, corpus, road.semantic)
        corpus = _scatter(road, corpus, "semantic", found.numbers, found.kept, "same_meaning", found.similarity)
    if road.passages is not None:  # last, so that no passage goes for one in a document that is dropped
        corpus = duplicates.cut_passages(road, corpus, road.passages)
    return corpus


def _write_leaks(workdir: Path, told: dict[str, Any] | None, spans: Sequence[Path]) -> None:
    """Puts decontamination.json and leaks.jsonl.gz beside the manifest; none stays from a run that looked for other sets."""
    (workdir / LEAK_MANIFEST).unlink(missing_ok=True)
    (workdir / LEAKS).unlink(missing_ok=True)
    if told is not None:
        from pretrainx.curate.pipeline import leaks

        leaks.join(spans, workdir / LEAKS)
        files.write_json(workdir / LEAK_MANIFEST, told)


def _write_index(road: Road, corpus: Corpus, repeated: np.ndarray, plan: Path, workdir: Path) -> dict[str, Any]:
    """Leaves an index of what is kept, if the config wants one, else none: one from before would tell of other documents."""
    if road.settings.deduplicate.write_index:
        from pretrainx.curate.pipeline import indexes

        return {"index": indexes.write(road, corpus, plan / CORPUS, repeated, workdir / INDEX)}
    shutil.rmtree(workdir / INDEX, ignore_errors=True)
    return {}


def _plan(road: Road, corpus: Corpus, repeated: np.ndarray) -> Path:
    """A folder with what tasks that write must know of the whole corpus."""
    key = store.key_of("plan", files.sha256_bytes(repeated.tobytes()), corpus.keys, corpus.starts)
    folder = road.folder("plan", key)
    if not folder.is_dir():
        with store.writing(folder) as made:
            np.save(made / "repeated.npy", repeated)
            corpus.save(made / CORPUS)
    road.used.add(folder)
    return folder


def _write(road: Road, corpus: Corpus, repeated: np.ndarray, plan: Path, workdir: Path) -> dict[str, Any]:
    """Makes the output files and puts them in place; returns what the manifest says of them."""
    renamed = files.sha256_bytes(repeated.tobytes())
    old = road.against.key if road.against else ""
    index = tuple(road.against.index.ids) if road.against else ()
    tasks = []
    for kind, name, segments in write.plan(corpus, road.settings.output):
        task = write.Task(kind, name, segments, plan / CORPUS, road.settings.output, Path(), index)
        tasks.append(replace(task, folder=road.folder("write", write.key(task, corpus, renamed, old))))
    for task in tasks:  # a file that was changed since is made anew
        if task.folder.is_dir() and (task.folder / task.name).stat().st_size != store.result(task.folder)["bytes"]:
            shutil.rmtree(task.folder)
    results = road.map("write", write.run, tasks, "writing")
    (workdir / MANIFEST).unlink(missing_ok=True)  # from here on until the new one, what lies there is not whole
    found: dict[str, Any] = {"documents": [], "dropped": []}
    examples: dict[str, Any] = {}
    languages: Counter[str] = Counter()
    for task, result in zip(tasks, results, strict=True):
        found[task.kind].append({name: result[name] for name in ("file", "bytes", "sha256", "documents", "text_bytes")})
        languages.update(result["languages"])
        _merge_examples(examples, result["examples"], road.settings.output.examples)
    for kind in ("documents", "dropped"):
        _publish(workdir / kind, [task.folder / task.name for task in tasks if task.kind == kind])
    return found | {"examples": examples, "languages": dict(sorted(languages.items()))}  # of what is kept


def _merge_examples(into: dict[str, Any], more: Mapping[str, Any], most: int) -> None:
    for source, stages in more.items():
        for stage, reasons in stages.items():
            for reason, rows in reasons.items():
                some = into.setdefault(source, {}).setdefault(stage, {}).setdefault(reason, [])
                some += rows[: most - len(some)]


def _publish(folder: Path, paths: Sequence[Path]) -> None:
    """Makes the folder hold exactly these files: links to them, or copies where the file system has no links."""
    folder.mkdir(exist_ok=True)
    names = {path.name for path in paths}
    for old in folder.iterdir():
        if old.name not in names and (old.name.endswith(".jsonl.gz") or old.name.startswith(".")):
            old.unlink()
    for path in paths:
        target, temporary = folder / path.name, folder / f".{path.name}"
        if target.exists() and target.samefile(path):
            continue
        temporary.unlink(missing_ok=True)
        try:
            os.link(path, temporary)
        except OSError:
            shutil.copyfile(path, temporary)
            with open(temporary, "rb") as copied:
                os.fsync(copied.fileno())
        os.replace(temporary, target)


def _counts(corpus: Corpus, results: Sequence[Mapping[str, Any]]) -> dict[str, Any]:
    """What went in and came out of each stage by source, lengths before and after, clusters of copies, repairs."""
    stages = [one.stage for one in corpus.decided[0]]
    flow: dict[str, dict[str, dict[str, Any]]] = {stage: {} for stage in stages}
    lengths = {"before": np.zeros(BINS, np.int64), "after": np.zeros(BINS, np.int64)}
    copies: list[np.ndarray] = []
    languages: Counter[str] = Counter()
    cleaned: Counter[str] = Counter()
    for shard, result in enumerate(results):
        first, names = shards.columns(corpus.decided[shard][0].texts), result["sources"]
        alive, texts, table = np.ones(corpus.size(shard), bool), corpus.decided[shard][0].texts, first
        for one in corpus.decided[shard]:
            code, reasons = np.where(alive, one.codes(), 0), one.reasons()
            stays = alive & (code == 0)
            after = table if one.texts == texts else shards.columns(one.texts)
            _tally(flow[one.stage], names, table, alive, after, stays)
            for source, dropped in decisions.count(code, reasons, table, names).items():
                for reason, (number, size) in dropped.items():
                    entry = flow[one.stage][source]["dropped"].setdefault(reason, {"documents": 0, "bytes": 0})
                    entry["documents"] += number
                    entry["bytes"] += size
            if (kept := one.kept()) is not None:
                copies.append(kept[code > 0])
            alive, texts, table = stays, one.texts, after
            if one.stage in ("read", "filter"):
                told = store.result(one.folder)
                cleaned.update(told["cleaned"])
        languages.update(told["languages"])  # as the filters found them, else as records say
        lengths["before"] += _length_bins(first["characters"][first["code"] == 0])
        lengths["after"] += _length_bins(table["characters"][alive])
    sizes: Counter[int] = Counter()
    if copies:
        sizes.update((np.unique(np.concatenate(copies), return_counts=True)[1] + 1).tolist())
    return {
        "flow": flow,
        "lengths": {name: found.tolist() for name, found in lengths.items()},
        "clusters": {str(size): count for size, count in sorted(sizes.items())},
        "languages_before": dict(sorted(languages.items())),
        "cleaned": dict(sorted(cleaned.items())),
        "bad_records": {
            "faults": sum(result["faults"] for result in results),
            "documents_with_replaced_characters": sum(result["documents_replaced"] for result in results),
            "characters_replaced": sum(result["characters_replaced"] for result in results),
            "first": [sentence for result in results for sentence in result["sentences"]][:20],
        },
    }


def _length_bins(characters: np.ndarray) -> np.ndarray:
    bins = np.floor(2 * np.log2(np.maximum(characters, 1))).astype(np.int64)
    return np.bincount(np.clip(bins, 0, BINS - 1), minlength=BINS)


def _tally(
    flow: dict[str, dict[str, Any]],
    names: Sequence[str],
    table: Mapping[str, np.ndarray],
    before: np.ndarray,
    table_after: Mapping[str, np.ndarray],
    after: np.ndarray,
) -> None:
    """Adds to {source: {in, out, dropped, edited_bytes}}: bytes in = bytes out + bytes dropped + bytes that editing took away."""
    for place, source in enumerate(names):
        mine = table["source"] == place
        entry = flow.setdefault(
            source, {"in": {"documents": 0, "bytes": 0}, "out": {"documents": 0, "bytes": 0}, "dropped": {}, "edited_bytes": 0}
        )
        for side, chosen, sizes in (("in", before & mine, table), ("out", after & mine, table_after)):
            entry[side]["documents"] += int(chosen.sum())
            entry[side]["bytes"] += int(sizes["bytes"][chosen].sum())
        if table_after is not table:
            entry["edited_bytes"] += int(table["bytes"][after & mine].sum() - table_after["bytes"][after & mine].sum())
