"""A head on a frozen trunk: the trunk's features are computed once, then heads of many seeds and learning rates are fitted side by side.

The result is that of `tools/train.py` with optim.trainable = ("class_head/*",), for a small part of its time: the trunk runs once over
each text instead of once a step.

Legend: R runs, N texts, S steps, B batch, L length, D embed, C classes.
"""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax
from flax import nnx

from pretrainx.core.rng import generator, key_of
from pretrainx.evaluate.labelled import device_batches
from pretrainx.models.heads import ClassHead
from pretrainx.models.skeleton import Params, Skeleton
from pretrainx.objectives.losses import class_cross_entropy, squared_error
from pretrainx.optim import schedules

TRAINABLE = ("class_head/*",)  # the config of a frozen trunk


@dataclass(frozen=True)
class Features:
    """What a head reads of N texts: hidden [N, L, D] (L is 1 where they are pooled already), real bool [N, L], labels [N], weights [N]."""

    hidden: np.ndarray
    real: np.ndarray
    labels: np.ndarray
    weights: np.ndarray


def features(
    skeleton: Skeleton, params: Params, objective: Any, records: Sequence[dict[str, np.ndarray]], batch_size: int, what: str = "features"
) -> Features:
    """The trunk's hidden states of labelled records: of every token for attention pooling, else pooled."""
    config, partitioner = skeleton.config, skeleton.partitioner
    every = config.pooling == "attention"

    def read(params: Params, batch: dict[str, jax.Array]) -> jax.Array:
        model = skeleton.merge(params)
        hidden, real = model.encode(batch), batch["segment_ids"] > 0
        return hidden if every else model.class_head.pool(hidden, real)[:, None]

    run = jax.jit(read, out_shardings=partitioner.replicated)
    parts: list[tuple[np.ndarray, ...]] = []
    for batch, rows, count in device_batches(partitioner, objective, records, batch_size, what):
        hidden = np.asarray(run(params, batch), np.float32)
        real = rows["segment_ids"] > 0 if every else np.ones((len(hidden), 1), bool)
        parts.append(tuple(x[:count] for x in (hidden, real, rows["class_label"], rows["class_weights"])))
    return Features(*map(np.concatenate, zip(*parts, strict=True)))


@dataclass(frozen=True)
class Recipe:
    """How heads are fitted: AdamW with the config's schedule; `peak_lrs` and `seeds` are of the R runs."""

    seeds: tuple[int, ...]
    peak_lrs: tuple[float, ...]
    steps: int
    batch_size: int
    warmup: int
    optim: Any


class Head:
    """Heads of one config, fitted and used together for R runs."""

    def __init__(self, config: Any):
        # Pooled features stand at the first place of a row of one.
        self.config = replace(config, pooling=config.pooling if config.pooling == "attention" else "first", dtype="float32")
        make = lambda key: ClassHead(self.config, rngs=nnx.Rngs(key))  # noqa: E731
        self.graph, _ = nnx.split(nnx.eval_shape(lambda: make(jax.random.key(0))))
        self.make = lambda key: nnx.to_pure_dict(nnx.state(make(key)))

    def outputs(self, params: Params, hidden: jax.Array, real: jax.Array) -> jax.Array:
        """float32 [B, C] of one run."""
        made: jax.Array = nnx.merge(self.graph, params)(hidden, real)
        return made

    def fit(self, data: Features, recipe: Recipe) -> Params:
        """Parameters of all runs, with a leading dim R. Each run draws its own order of texts, anew in each epoch."""
        optim = recipe.optim
        schedule = schedules.build(
            optim.schedule, warmup_steps=recipe.warmup, total_steps=recipe.steps, decay_steps=0, end=optim.end_lr_ratio
        )  # fmt: skip
        order = np.stack([batches(seed, len(data.labels), recipe.steps, recipe.batch_size) for seed in recipe.seeds])
        arrays = tuple(jnp.asarray(x) for x in (data.hidden, data.real, data.labels, data.weights))

        def loss(params: Params, index: jax.Array) -> jax.Array:
            hidden, real, labels, weights = (x[index] for x in arrays)
            made = self.outputs(params, hidden, real)
            if self.config.num_classes == 1:
                found = squared_error(made[:, 0], labels, weights)
            else:
                found = class_cross_entropy(made, labels.astype(jnp.int32), weights)
            return found.total / jnp.maximum(found.weight, 1)

        def chain(peak: jax.Array) -> optax.GradientTransformation:
            parts = [optax.clip_by_global_norm(optim.clip_norm)] if optim.clip_norm else []
            decays = lambda params: jax.tree_util.tree_map_with_path(lambda path, _: path[-1].key == "kernel", params)  # noqa: E731
            parts += [optax.scale_by_adam(optim.b1, optim.b2, optim.eps), optax.add_decayed_weights(optim.weight_decay, mask=decays)]
            return optax.chain(*parts, optax.scale_by_learning_rate(lambda step: peak * schedule(step)))

        def one(key: jax.Array, peak: jax.Array, order_SB: jax.Array) -> Params:
            tx, params = chain(peak), self.make(key)

            def step(carry: Any, index: jax.Array) -> tuple[Any, None]:
                params, state = carry
                updates, state = tx.update(jax.grad(loss)(params, index), state, params)
                return (optax.apply_updates(params, updates), state), None

            return jax.lax.scan(step, (params, tx.init(params)), order_SB)[0][0]

        keys = jnp.stack([jax.random.key(key_of(seed, "head") % (1 << 32)) for seed in recipe.seeds])
        fitted: Params = jax.jit(jax.vmap(one))(keys, jnp.asarray(recipe.peak_lrs, jnp.float32), jnp.asarray(order))
        return fitted

    def predict(self, params: Params, data: Features) -> np.ndarray:
        """float64 [R, N, C]"""
        run = jax.jit(jax.vmap(self.outputs, in_axes=(0, None, None)))
        return np.asarray(run(params, jnp.asarray(data.hidden), jnp.asarray(data.real)), np.float64)


def batches(seed: int, count: int, steps: int, batch_size: int) -> np.ndarray:
    """int32 [steps, batch_size]: places of texts, every one once in each epoch."""
    wanted, found, epoch = steps * batch_size, [np.zeros(0, np.int64)], 0
    while sum(map(len, found)) < wanted:
        found.append(generator(seed, "probe", epoch).permutation(count))
        epoch += 1
    return np.concatenate(found)[:wanted].reshape(steps, batch_size).astype(np.int32)
