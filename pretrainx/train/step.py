"""One training step: a pure function of state and batch."""

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import optax

from pretrainx.models.embedder import DROPOUT_KEY
from pretrainx.models.skeleton import Params, Skeleton, map_with_dims
from pretrainx.objectives.interface import Objective
from pretrainx.objectives.losses import by_term, term_names
from pretrainx.train import loss_scale
from pretrainx.train.state import State

Batch = dict[str, jax.Array]
Metrics = dict[str, jax.Array]
Sums = dict[str, jax.Array]  # by term of the loss


def microbatches(batch: Batch, count: int) -> Batch:
    """[B, ...] -> [count, B / count, ...]. Rows are dealt in turn, so that each device splits its own rows."""
    return jax.tree.map(lambda x: x.reshape(x.shape[0] // count, count, *x.shape[1:]).swapaxes(0, 1), batch)


def term_scales(objectives: dict[str, Objective], loss_weights: dict[str, float]) -> dict[str, float]:
    """What each term of the loss is multiplied by: its published weight, or what `train.loss_weights` says for the term
    ("next_sentence/nsp"), times what that says for its objective as a whole ("next_sentence", default 1).
    """
    scales: dict[str, float] = {}
    for name, objective in objectives.items():
        for term, key in term_names(name, objective).items():
            own = loss_weights.get(key, objective.terms[term]) if key != name else objective.terms[term]
            scales[key] = own * loss_weights.get(name, 1.0)
    return scales


def make_train_step(
    skeleton: Skeleton,
    tx: optax.GradientTransformation,
    objectives: dict[str, Objective],
    loss_weights: dict[str, float],
    grad_accum: int,
    learning_rate: Callable[[jax.Array], jax.Array],
    trained: Params | None = None,
    seed: int = 0,
    inner: Skeleton | None = None,
) -> Callable[[State, Batch], tuple[State, Metrics]]:
    """`(state, batch) -> (state, metrics)`.

    The loss is the weighted sum, over objectives and their terms, of summed loss / summed weight, both over the global
    batch: so padding, packing, accumulation and the number of devices cannot tilt it.
    A step whose loss or gradient is not finite changes nothing but the counters.
    In a manual layout, loss and gradients are computed by each device on its own tokens, and `inner` is the skeleton for that.
    `trained` says of each weight whether a gradient is wanted; None: of all. What dropout drops follows from `seed` and the step.
    """
    scales = term_scales(objectives, loss_weights)
    model = skeleton if inner is None else inner
    own = model.partitioner

    def losses(params: Params, batch: Batch, weights: Sums, key: jax.Array | None) -> tuple[jax.Array, Sums]:
        if trained is not None:  # nothing is computed for the gradients of what is frozen
            params = jax.tree.map(lambda x, keep: x if keep else jax.lax.stop_gradient(x), params, trained)
        outputs = model.merge(model.whole(params))(batch if key is None else batch | {DROPOUT_KEY: key})
        found = by_term(objectives, lambda objective, rows: objective.loss(outputs, rows), batch)
        parts = {key: loss.total / jnp.where(weights[key] > 0, weights[key], 1.0) for key, loss in found.items()}
        return sum((scales[key] * part for key, part in parts.items()), jnp.zeros(())), parts

    def gradients(
        params: Params, batch: Batch, key: jax.Array | None, scale: jax.Array | None = None
    ) -> tuple[Params, jax.Array, Sums, Sums]:
        weights = own.over_tokens(by_term(objectives, lambda objective, rows: objective.weights(rows), batch))
        grad = loss_scale.value_and_grad(losses, scale)
        if grad_accum == 1:
            (loss, parts), grads = grad(params, batch, weights, key)
            return summed(grads, loss, parts, weights)

        def add(total: Any, inputs: tuple[Batch, Any]) -> tuple[Any, None]:
            (loss, parts), grads = grad(params, inputs[0], weights, inputs[1])
            return jax.tree.map(jnp.add, total, (grads, loss, parts)), None

        keys = None if key is None else jax.random.split(key, grad_accum)
        zeros = jax.tree.map(jnp.zeros_like, params), jnp.zeros(()), {name: jnp.zeros(()) for name in scales}
        (grads, loss, parts), _ = jax.lax.scan(add, zeros, (microbatches(batch, grad_accum), keys))
        return summed(grads, loss, parts, weights)

    def summed(grads: Params, loss: jax.Array, parts: Sums, weights: Sums) -> tuple[Params, jax.Array, Sums, Sums]:
        """Over all devices; `weights` are that already."""
        return map_with_dims(lambda dims, g: own.summed(g, dims), skeleton.dims, grads), *own.over_tokens((loss, parts)), weights

    partitioner = skeleton.partitioner
    sharded_update = partitioner.layout.optimizer is not None and partitioner.mesh.size > 1

    def place(tree: Params, sharding: Callable[..., Any]) -> Params:
        return map_with_dims(lambda dims, x: jax.lax.with_sharding_constraint(x, sharding(dims)), skeleton.dims, tree)

    def train_step(state: State, batch: Batch) -> tuple[State, Metrics]:
        key = jax.random.fold_in(jax.random.key(seed), state.step) if skeleton.config.drops else None
        scale = loss_scale.scale_of(state.opt_state)
        if partitioner.runs_per_device:
            here, shardings = partitioner.replicated, map_with_dims(partitioner.weight, skeleton.dims)
            rows = {name: partitioner.tokens(x.ndim) for name, x in batch.items()}
            run = partitioner.per_device(lambda p, b: gradients(p, b, key, scale), (shardings, rows), (shardings, here, here, here))
            grads, loss, parts, weights = run(state.params, batch)
        else:
            grads, loss, parts, weights = gradients(state.params, batch, key, scale)
        if sharded_update:  # ZeRO: each device reduces, and updates, the part whose moments it holds
            grads = place(grads, partitioner.moment)
        grad_norm = optax.tree.norm(grads)
        good = jnp.isfinite(loss) & jnp.isfinite(grad_norm)
        updates, opt_state = tx.update(grads, state.opt_state, state.params)
        params = optax.apply_updates(state.params, updates)
        # Select, never multiply: 0 * NaN is NaN.
        params, opt_state = jax.tree.map(lambda new, old: jnp.where(good, new, old), (params, opt_state), (state.params, state.opt_state))
        opt_state = loss_scale.adjusted(opt_state, good)
        if sharded_update:
            params = place(params, partitioner.weight)
        bad = (~good).astype(jnp.int32)
        # A step that was refused for its scale alone is no sign of a run gone wrong.
        wrong = bad * (~loss_scale.is_overflow(state.opt_state, loss, good)).astype(jnp.int32)
        new = State(state.step + 1, params, opt_state, state.skipped + bad, (state.skipped_in_a_row + wrong) * bad)
        metrics = {"loss": loss, "grad_norm": grad_norm, "lr": learning_rate(state.step - state.skipped), "skipped": new.skipped}
        metrics |= {"skipped_in_a_row": new.skipped_in_a_row, "targets": sum(weights.values(), jnp.zeros(()))}
        if len(scales) > 1:
            metrics |= {f"loss/{name}": v for name, v in parts.items()} | {f"targets/{name}": v for name, v in weights.items()}
        return new, metrics

    return train_step
