"""Perplexity and bits per byte over a split: sums over every token, so neither batch size nor mesh nor padding matters."""

import math
from collections.abc import Callable, Iterator
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from pretrainx.core.logs import progress
from pretrainx.data.loader import Mixture, RowBuilder, Source
from pretrainx.data.order import Rows
from pretrainx.models.skeleton import Params, Skeleton
from pretrainx.objectives.interface import Features, Objective
from pretrainx.objectives.losses import rows_of

EvalStep = Callable[[Params, dict[str, jax.Array]], dict[str, jax.Array]]


def make_eval_step(skeleton: Skeleton, objectives: dict[str, Objective]) -> EvalStep:
    """`(params, batch) -> {objective: [summed loss, summed weight]}`."""
    numbered = list(enumerate(objectives.items()))

    def eval_step(params: Params, batch: dict[str, jax.Array]) -> dict[str, jax.Array]:
        outputs = skeleton.merge(params)(batch)
        result = {}
        for number, (name, objective) in numbered:
            loss = objective.loss(outputs, rows_of(batch, number, len(numbered)))
            result[name] = jnp.stack([loss.total, loss.weight])
        return result

    return eval_step


def source_batches(mixture: Mixture, builder: RowBuilder, index: int, batch_size: int, max_rows: int) -> Iterator[Features]:
    """All rows of one source in stream order; the last batch is filled with rows of no weight.

    Random choices (masks) have the address of epoch -1, so that every evaluation of a run predicts the same positions.
    """
    count = len(mixture.sources[index].windows)
    count = min(count, max_rows) if max_rows else count
    for start in range(0, count, batch_size):
        window = np.arange(start, start + batch_size, dtype=np.int64)
        rows = Rows(window, np.full(batch_size, index, np.int32), np.full(batch_size, -1, np.int64), np.minimum(window, count - 1))
        batch = builder.build(rows)
        batch["loss_weights"][window >= count] = 0
        yield batch


def label(source: Source) -> str:
    """The source's name in metrics: its corpus, and the objective where that is not plain language modelling."""
    return source.corpus if source.objective_name == "causal" else source.name


def evaluate(
    params: Params,
    mixture: Mixture,
    eval_step: EvalStep,
    to_device: Callable[[Features], dict[str, jax.Array]],
    *,
    batch_size: int,
    max_rows: int = 0,
    show: bool = False,
) -> dict[str, float]:
    """{"eval/<source>/<metric>": value} for every source, and for `all` causal ones together.

    loss is nats per predicted token; bits_per_byte divides by the UTF-8 bytes of the text that was predicted (the
    end-of-document tokens cost bits and have no bytes). With `max_rows` only that many rows of each source count.
    """
    builder = RowBuilder(mixture)
    token_bytes = mixture.vocabulary.token_bytes
    results: dict[str, float] = {}
    total = np.zeros(3)
    for index, source in enumerate(mixture.sources):
        sums, num_bytes, pending = np.zeros(2), 0, []
        batches: Any = source_batches(mixture, builder, index, batch_size, max_rows)
        rows = len(source.windows) if not max_rows else min(max_rows, len(source.windows))
        if show:
            batches = progress(batches, -(-rows // batch_size), f"evaluate {label(source)}", "batches")
        for batch in batches:
            num_bytes += int(token_bytes[batch["targets"][batch["loss_weights"] > 0]].sum())
            pending.append(eval_step(params, to_device(batch))[source.objective_name])
            if len(pending) > 2:  # the device works on while the host reads, and no queue grows
                sums += np.asarray(pending.pop(0), np.float64)
        sums += np.sum([np.asarray(p, np.float64) for p in pending], axis=0)
        if not mixture.vocabulary.lossless:
            num_bytes = 0 if max_rows else source.windows.cache.num_bytes
        results |= summary(f"eval/{label(source)}", sums[0], sums[1], num_bytes if mixture.objectives[source.objective_name].causal else 0)
        if source.objective_name == "causal":
            total += np.asarray([sums[0], sums[1], num_bytes])
    if total[1] and len(mixture.sources) > 1:
        results |= summary("eval/all", *total)
    return results


def summary(prefix: str, nats: float, tokens: float, num_bytes: float) -> dict[str, float]:
    found = {
        f"{prefix}/loss": nats / max(tokens, 1),
        f"{prefix}/perplexity": math.exp(min(nats / max(tokens, 1), 700.0)),
        f"{prefix}/tokens": float(tokens),
    }
    if num_bytes:
        found[f"{prefix}/bits_per_byte"] = nats / math.log(2) / num_bytes
        found[f"{prefix}/bytes"] = float(num_bytes)
    return found
