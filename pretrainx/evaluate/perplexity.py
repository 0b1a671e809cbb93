"""Perplexity and bits per byte over a split: sums over every token, so neither batch size nor mesh nor padding matters.

A token sees its own window, so the first of a window see little. With a stride, windows overlap and each scores only what the
one before has not: a token sees `sequence_length - stride` tokens or more, or its document from the beginning, at
sequence_length / stride times the cost. Both are code lengths of the whole text; numbers of unlike strides do not compare.
"""

import math
from collections.abc import Callable, Iterator, Sequence
from dataclasses import replace
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from pretrainx.core.errors import InputError
from pretrainx.core.logs import progress
from pretrainx.data.loader import Mixture, RowBuilder, Source
from pretrainx.data.order import Rows
from pretrainx.data.windows import Windows
from pretrainx.evaluate.by_document import DocumentNats, together
from pretrainx.evaluate.results import Items
from pretrainx.models.skeleton import Params, Skeleton
from pretrainx.objectives.interface import Features, Objective
from pretrainx.objectives.losses import by_term, target_losses, term_names
from pretrainx.parallel import multihost

EvalStep = Callable[[Params, dict[str, jax.Array]], dict[str, jax.Array]]
PLACES = "by place"  # beside the terms, whose names have no space


def make_eval_step(skeleton: Skeleton, objectives: dict[str, Objective], by_place: bool = False) -> EvalStep:
    """`(params, batch) -> {term: [summed loss, summed weight, summed weight of right first guesses]}`; NaN where none is counted.

    With `by_place` also {PLACES: [B, L] weighted losses}, which is what a causal objective sums.
    """

    def eval_step(params: Params, batch: dict[str, jax.Array]) -> dict[str, jax.Array]:
        outputs = skeleton.merge(params)(batch)
        found = by_term(objectives, lambda objective, rows: objective.loss(outputs, rows), batch)
        nothing = jnp.full((), jnp.nan)
        sums = {key: jnp.stack([x.total, x.weight, nothing if x.correct is None else x.correct]) for key, x in found.items()}
        if by_place:
            sums[PLACES] = target_losses(outputs, batch["targets"])[0] * batch["loss_weights"]
        return sums

    return eval_step


def source_batches(mixture: Mixture, builder: RowBuilder, index: int, batch_size: int, max_rows: int) -> Iterator[Features]:
    """All rows of one source in stream order, each token with a weight in one of them; the last batch is filled with rows of none.

    Random choices (masks) have the address of epoch -1, so that every evaluation of a run predicts the same positions.
    """
    windows = mixture.sources[index].windows
    count, overlap = len(windows), windows.overlap if isinstance(windows, Windows) else 0
    count = min(count, max_rows) if max_rows else count
    for start in range(0, count, batch_size):
        window = np.arange(start, start + batch_size, dtype=np.int64)
        rows = Rows(window, np.full(batch_size, index, np.int32), np.full(batch_size, -1, np.int64), np.minimum(window, count - 1))
        batch = builder.build(rows)
        for name in batch:
            if name.endswith("weights"):
                batch[name][window >= count] = 0
                if overlap:
                    batch[name][window > 0, :overlap] = 0
        yield batch


def label(source: Source) -> str:
    """The source's name in metrics: its corpus, and the objective where that is not plain language modelling."""
    return source.corpus if source.objective_name == "causal" else source.name


def with_stride(mixture: Mixture, stride: int) -> Mixture:
    """The mixture with windows of its causal sources that begin `stride` tokens apart; 0: as they are.

    Raises:
      InputError: the stride leaves tokens out, or no source is causal.
    """
    if not stride:
        return mixture
    if stride > mixture.sequence_length:
        raise InputError(f"eval.stride {stride} is more than data.sequence_length {mixture.sequence_length}: tokens would be left out")
    if not any(source.objective_name == "causal" for source in mixture.sources):
        names = ", ".join(source.objective_name for source in mixture.sources)
        raise InputError(f"eval.stride {stride}: windows may overlap for the objective causal alone; the mixture has: {names}")
    return replace(mixture, sources=tuple(_strided(source, stride) for source in mixture.sources))


def _strided(source: Source, stride: int) -> Source:
    if source.objective_name != "causal":
        return source
    windows = source.windows
    assert isinstance(windows, Windows), "the objective causal reads a stream"
    return replace(source, windows=Windows(windows.cache, windows.length, windows.feature, stride))


class Evaluator:
    """`evaluator(params)`: the numbers of a split. What does not depend on the parameters is settled once.

    `batch_size` is rounded up to what the mesh's batch shards divide; no result depends on it. With `max_rows` only that
    many rows of each source count. `stride` is that of causal sources: see the head of this file. `by_document`: `score` gives the
    bits of each document of causal sources too.
    """

    def __init__(
        self, skeleton: Skeleton, mixture: Mixture, batch_size: int, max_rows: int = 0, show: bool = False, stride: int = 0,
        by_document: bool = False,
    ):  # fmt: skip
        partitioner, mixture = skeleton.partitioner, with_stride(mixture, stride)
        self.mixture, self.max_rows, self.show = mixture, max_rows, show
        self.batch_size = partitioner.round_up(batch_size)
        self.builder, self.stride = RowBuilder(mixture), stride
        self.shardings = {name: partitioner.batch(len(shape)) for name, (shape, _) in self.builder.batch_spec(self.batch_size).items()}
        self.by_document = by_document and any(source.objective_name == "causal" for source in mixture.sources)
        step = make_eval_step(skeleton, mixture.objectives, self.by_document)
        self.step: EvalStep = jax.jit(step, out_shardings=partitioner.replicated)

    def to_device(self, batch: Features) -> dict[str, jax.Array]:
        # Each process builds whole batches, to count their bytes.
        return multihost.to_global(batch, np.arange(self.batch_size), self.batch_size, self.shardings)

    def __call__(self, params: Params) -> dict[str, float]:
        """{"eval/<source>/<metric>": value} for every source, and for `all` causal ones together.

        loss is nats per predicted token, accuracy the share of right first guesses; an objective of several terms has
        "eval/<source>/<term>/<metric>". bits_per_byte divides by the UTF-8 bytes of the text that was predicted, where an
        objective predicts text (the end-of-document tokens cost bits and have no bytes). `stride` stands beside what has one.
        """
        return self.score(params)[0]

    def score(self, params: Params) -> tuple[dict[str, float], dict[str, Items]]:
        """The numbers, and {source: bits and bytes of its documents} of causal sources, if `by_document`."""
        results: dict[str, float] = {}
        items: dict[str, Items] = {}
        whole, whole_bytes = np.zeros(3), 0
        for index, source in enumerate(self.mixture.sources):
            sums, num_bytes, documents = self._score(params, index)
            if documents and (own := documents.items()):
                items[label(source)] = own
            for term, counted in sums.items():
                prefix = f"eval/{label(source)}" + (f"/{term}" if len(sums) > 1 else "")
                results |= summary(prefix, counted, num_bytes)
            if source.objective_name == "causal" and self.stride:
                results[f"eval/{label(source)}/stride"] = float(self.stride)
            if source.objective_name == "causal":
                whole, whole_bytes = whole + sums["tokens"], whole_bytes + num_bytes
        if whole[1] and len(self.mixture.sources) > 1:
            results |= summary("eval/all", whole, whole_bytes)
            if len(items) == sum(source.objective_name == "causal" for source in self.mixture.sources):
                items["all"] = together(items)
        return results, items

    def _score(self, params: Params, index: int) -> tuple[dict[str, np.ndarray], int, DocumentNats | None]:
        """({term: [loss, weight, right guesses]}, bytes of the text that was predicted, its documents) of one source."""
        source, vocabulary = self.mixture.sources[index], self.mixture.vocabulary
        terms = term_names(source.objective_name, source.objective)
        sums, num_bytes, pending = {term: np.zeros(3) for term in terms}, 0, []
        documents = None
        if self.by_document and source.objective_name == "causal":
            assert isinstance(source.windows, Windows)
            documents = DocumentNats(source.windows)
        batches: Any = source_batches(self.mixture, self.builder, index, self.batch_size, self.max_rows)
        rows = min(self.max_rows or len(source.windows), len(source.windows))
        if self.show:
            batches = progress(batches, -(-rows // self.batch_size), f"evaluate {label(source)}", "batches")

        def collect(number: int, found: dict[str, jax.Array]) -> None:
            for term, key in terms.items():
                sums[term] += np.asarray(found[key], np.float64)
            if documents:
                first = number * self.batch_size
                documents.add(first, np.asarray(found[PLACES])[: rows - first])

        for number, batch in enumerate(batches):
            if source.objective.codes_text:
                num_bytes += int(vocabulary.token_bytes[batch["targets"][batch["loss_weights"] > 0]].sum())
            pending.append((number, self.step(params, self.to_device(batch))))
            if len(pending) > 2:  # the device works on while the host reads, and no queue grows
                collect(*pending.pop(0))
        for found in pending:
            collect(*found)
        if not vocabulary.lossless:  # the cache counted the bytes of the whole text; those of a part cannot be told
            num_bytes = source.windows.cache.num_bytes if source.objective_name == "causal" and not self.max_rows else 0
        return sums, num_bytes, documents


def summary(prefix: str, sums: Sequence[float] | np.ndarray, num_bytes: float) -> dict[str, float]:
    """The numbers of one term, from its [summed loss in nats, weight, weight of right guesses]."""
    nats, weight, correct = (float(x) for x in sums)
    found = {
        f"{prefix}/loss": nats / max(weight, 1),
        f"{prefix}/perplexity": math.exp(min(nats / max(weight, 1), 700.0)),
        f"{prefix}/tokens": weight,
    }
    if math.isfinite(correct):
        found[f"{prefix}/accuracy"] = correct / max(weight, 1)
    if num_bytes:
        found[f"{prefix}/bits_per_byte"] = nats / math.log(2) / num_bytes
        found[f"{prefix}/bytes"] = float(num_bytes)
    return found
