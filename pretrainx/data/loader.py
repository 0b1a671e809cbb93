"""From a mixture to batches: opens the caches, builds each process's rows of a step, and reads ahead.

The global batch of step s is rows [s * batch_size, (s + 1) * batch_size) of the order, without those that are left out
(data/skips.py). A process builds the rows that its devices hold, so the batch does not depend on how many processes there
are. The loader's whole state is the step.
"""

import hashlib
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import grain
import numpy as np
from absl import flags

from pretrainx.core import files, plugins
from pretrainx.core.errors import InputError, nearest
from pretrainx.core.sections import Data
from pretrainx.core.vocabulary import Vocabulary
from pretrainx.data.cache import TokenCache, locate
from pretrainx.data.mixture_spec import parse_mixture
from pretrainx.data.order import Order, Rows
from pretrainx.data.records import Records
from pretrainx.data.skips import NONE, Skips
from pretrainx.data.windows import Windows
from pretrainx.objectives.examples import fill, joint_spec, make_objectives, randomness
from pretrainx.objectives.interface import Features, Objective
from pretrainx.tasks import corpora

DIGEST_BITS = 256


@dataclass(frozen=True)
class Source:
    """One entry of the mixture: a corpus's windows, or labelled records, under one objective."""

    name: str  # "corpus:objective"
    corpus: str
    objective_name: str
    objective: Objective
    windows: Windows | Records
    rate: float


@dataclass(frozen=True)
class Mixture:
    """The sources of one split, with the vocabulary they share."""

    sources: tuple[Source, ...]
    vocabulary: Vocabulary
    seed: int
    sequence_length: int
    options: dict[str, dict[str, Any]]  # arguments by objective name
    skips: Skips = NONE  # rows that are not fed

    @property
    def objectives(self) -> dict[str, Objective]:
        """Objectives by name, in the order in which rows number them."""
        return {s.objective_name: s.objective for s in sorted(self.sources, key=lambda s: s.objective_name)}

    @property
    def data_sha256(self) -> str:
        """The hash of everything that decides a row's content: tokens, objectives and their arguments, lengths, rates and seed."""
        parts = [[s.name, s.rate, s.windows.cache.manifest["data_sha256"]] for s in self.sources]
        return files.sha256_json([parts, self.vocabulary.sha256, self.seed, self.sequence_length, self.options])

    def order(self) -> Order:
        return Order(self.seed, [s.name for s in self.sources], [s.rate for s in self.sources], [len(s.windows) for s in self.sources])

    @property
    def rows_per_epoch(self) -> int:
        """Rows until the mixture has shown as many windows as there are."""
        return sum(len(s.windows) for s in self.sources)

    def source(self, name: str) -> Source:
        return next(s for s in self.sources if s.name == name)


def open_mixture(data: Data, split: str) -> Mixture:
    """Opens the caches of `data.mixture`.

    Raises:
      InputError: a cache is missing, caches disagree on the vocabulary, or an objective refuses its arguments.
    """
    rates = parse_mixture(data)
    caches = {corpus: open_cache(data, corpus, split) for corpus, _ in rates}
    first, *others = caches.items()
    for corpus, cache in others:
        if cache.vocabulary != first[1].vocabulary:
            raise InputError(
                f"data.mixture: {corpus!r} and {first[0]!r} were tokenised with different vocabularies; run tools/cache_tasks.py"
            )
    objectives = make_objectives(sorted({o for _, o in rates}), data, first[1].vocabulary)
    unused = sorted(set(data.objectives) - set(objectives))
    if unused:
        raise InputError(f"data.objectives.{unused[0]}: no entry of data.mixture uses it; those used: {', '.join(objectives)}")
    if data.rates == "documents":
        rates = {(corpus, name): rate * tokens_per_document(caches[corpus]) for (corpus, name), rate in rates.items()}
    sources = tuple(
        Source(f"{corpus}:{name}", corpus, name, objectives[name], units(caches[corpus], objectives[name]), rate)
        for (corpus, name), rate in sorted(rates.items())
    )
    for source in sources:
        require_classes(source, data)
    for source in sources:
        if not len(source.windows):
            raise InputError(f"data.mixture: {source.corpus!r} has no tokens in its split {split!r}; look at its files, or leave it out")
    return Mixture(sources, first[1].vocabulary, data.seed, data.sequence_length, data.objectives)


def tokens_per_document(cache: TokenCache) -> float:
    """By which a rate of documents is multiplied to be one of tokens; of labelled records, whose row is a document, 1."""
    return cache.num_tokens() / max(1, cache.num_documents) if "targets" in cache.manifest["features"] else 1.0


def units(cache: TokenCache, objective: Objective) -> Windows | Records:
    """What an objective makes its examples of."""
    if objective.reads:
        return Records(cache, objective.reads)
    if "targets" not in cache.manifest["features"]:
        raise InputError(
            f"token cache {cache.folder} is of labelled records ({', '.join(cache.manifest['features'])}), and the objective reads plain "
            "text; name the objective 'classify' or 'text_to_text' in data.mixture"
        )
    return Windows(cache, objective.window_length)


def require_classes(source: Source, data: Data) -> None:
    """Raises InputError where an objective's classes are not those of the labelled task that the config describes."""
    corpus, wanted = corpora.known(data).get(source.corpus), getattr(source.objective, "num_classes", None)
    if corpus is None or not corpus.task or wanted is None:
        return
    found = corpora.task_of(source.corpus, corpus).num_classes
    if found != wanted:
        raise InputError(
            f"data.objectives.{source.objective_name}.num_classes is {wanted}, and task {corpus.task!r} of corpus {source.corpus!r} has "
            f"{found}; set it to {found}"
        )


def open_cache(data: Data, corpus: str, split: str) -> TokenCache:
    """The cache of a corpus; where there is none, the error tells a name never heard of from one not cached yet."""
    folder = locate(data.cache_dir, corpus, split)
    if (folder / "manifest.json").exists():
        return TokenCache(folder)
    others = sorted(path.parent.name for path in folder.parent.glob("*/manifest.json"))
    if others:
        there = f"{corpus!r} has no split {split!r} in {data.cache_dir}; those there: {', '.join(others)}"
        raise InputError(f"data.mixture: {there}; run tools/cache_tasks.py")
    cached = {path.parent.parent.name for path in Path(data.cache_dir).glob(f"*/{split}/manifest.json")}
    known = cached | set(corpora.known(data))
    name, _, objective = corpus.partition(":")
    if objective and name in known:
        objectives = plugins.names("pretrainx.objectives", "Objective")
        raise InputError(f"data.mixture: unknown objective {objective!r} in {corpus!r}; {nearest(objective, objectives)}")
    if corpus in known or data.module:
        raise InputError(
            f"data.mixture: {corpus!r} has no token cache for its split {split!r} in {data.cache_dir}; run tools/cache_tasks.py first"
        )
    raise InputError(f"data.mixture: unknown corpus {corpus!r}; {nearest(corpus, known)}")


def example(source: Source, windows: Sequence[int], epochs: Sequence[int], seed: int) -> list[Features]:
    """The features of rows of one source. Randomness has the address (seed, source, epoch, window)."""
    elsewhere = None
    if source.objective.needs_elsewhere:
        assert isinstance(source.windows, Windows)
        addresses = [(seed, source.name, int(epoch), int(index)) for index, epoch in zip(windows, epochs, strict=True)]
        elsewhere = [source.windows.elsewhere(address[3], address) for address in addresses]
    read = source.windows.read(windows, elsewhere)
    return [
        source.objective.example(window, randomness(seed, source.name, int(epoch), int(index)))
        for window, index, epoch in zip(read, windows, epochs, strict=True)
    ]


class RowBuilder:
    """Builds batches from addresses: features stacked, and zeros where a row's objective lacks one or has a shorter one."""

    def __init__(self, mixture: Mixture):
        self.mixture = mixture
        self.objective_ids = {name: i for i, name in enumerate(mixture.objectives)}
        self.spec = joint_spec(mixture.objectives, mixture.vocabulary)

    def batch_spec(self, batch_size: int) -> dict[str, tuple[tuple[int, ...], np.dtype]]:
        """name -> (shape, dtype) of a global batch."""
        spec = {name: ((batch_size, *shape), dtype) for name, (shape, dtype) in self.spec.items()}
        return spec | {"objective": ((batch_size,), np.dtype(np.int32))}

    def build(self, rows: Rows) -> Features:
        count = len(rows.number)
        batch = {name: np.zeros((count, *shape), dtype) for name, (shape, dtype) in self.spec.items()}
        batch["objective"] = np.zeros(count, np.int32)
        for k in np.unique(rows.source):
            source = self.mixture.sources[k]
            places = np.flatnonzero(rows.source == k)
            made = example(source, rows.window[places].tolist(), rows.epoch[places].tolist(), self.mixture.seed)
            for place, features in zip(places, made, strict=True):
                fill(batch, features, (int(place),))
            batch["objective"][places] = self.objective_ids[source.objective_name]
        return batch


def rows_digest(numbers: np.ndarray, batch: Features) -> int:
    """A sum over rows of sha256(row number, content), modulo 2^256: the same however the rows are shared out."""
    total = 0
    for place, number in enumerate(numbers.tolist()):
        digest = hashlib.sha256(number.to_bytes(8, "little"))
        for name in sorted(batch):
            digest.update(np.ascontiguousarray(batch[name][place]).data)
        total += int.from_bytes(digest.digest(), "little")
    return total % (1 << DIGEST_BITS)


@dataclass(frozen=True)
class Batch:
    """This process's rows of one step; the digest is of those that it counts."""

    step: int
    rows: Rows
    features: Features
    digest: int


class _Steps:
    """Grain's view: element s is this process's part of step s."""

    def __init__(
        self, builder: RowBuilder, order: Order, batch_size: int, local_rows: np.ndarray, num_steps: int, counted_rows: np.ndarray | None
    ):
        self.builder, self.order, self.batch_size, self.local_rows, self.num_steps = builder, order, batch_size, local_rows, num_steps
        self.counted = np.flatnonzero(np.isin(local_rows, local_rows if counted_rows is None else counted_rows))

    def __len__(self) -> int:
        return self.num_steps

    def __getitem__(self, step: Any) -> Batch:
        step = int(step)
        every = self.builder.mixture.skips.rows(self.order, step * self.batch_size, (step + 1) * self.batch_size)
        mine = Rows(*(getattr(every, f)[self.local_rows] for f in ("number", "source", "epoch", "window")))
        features = self.builder.build(mine)
        counted = {name: x[self.counted] for name, x in features.items()} if len(self.counted) < len(mine.number) else features
        return Batch(step, mine, features, rows_digest(mine.number[self.counted], counted))


def batches(
    builder: RowBuilder, *, batch_size: int, local_rows: np.ndarray, start: int, stop: int, prefetch: int, workers: int,
    counted_rows: np.ndarray | None = None,
) -> Iterator[Batch]:  # fmt: skip
    """Batches of steps [start, stop), read ahead by a thread or by `workers` processes. Where processes share rows, each of them is
    in the digest of one: of the process that has it among `counted_rows` (default: all)."""
    steps = _Steps(builder, builder.mixture.order(), batch_size, local_rows, stop, counted_rows)
    # One thread: reading is a few large copies, and more threads only contend for the interpreter.
    options = grain.ReadOptions(num_threads=1, prefetch_buffer_size=prefetch)
    dataset = grain.MapDataset.source(steps).slice(slice(start, stop)).to_iter_dataset(options)
    if workers:
        if not flags.FLAGS.is_parsed():  # Grain reads absl flags here, which our command line does not use
            flags.FLAGS.mark_as_parsed()
        dataset = dataset.mp_prefetch(grain.MultiprocessingOptions(num_workers=workers, per_worker_buffer_size=prefetch))
    return iter(dataset)
