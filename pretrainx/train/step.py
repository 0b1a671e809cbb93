"""One training step: a pure function of state and batch."""

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import optax

from pretrainx.models.skeleton import Params, Skeleton, map_with_dims
from pretrainx.objectives.interface import Objective
from pretrainx.objectives.losses import rows_of
from pretrainx.train.state import State

Batch = dict[str, jax.Array]
Metrics = dict[str, jax.Array]


def microbatches(batch: Batch, count: int) -> Batch:
    """[B, ...] -> [count, B / count, ...]. Rows are dealt in turn, so that each device splits its own rows."""
    return jax.tree.map(lambda x: x.reshape(x.shape[0] // count, count, *x.shape[1:]).swapaxes(0, 1), batch)


def make_train_step(
    skeleton: Skeleton,
    tx: optax.GradientTransformation,
    objectives: dict[str, Objective],
    loss_weights: dict[str, float],
    grad_accum: int,
    learning_rate: Callable[[jax.Array], jax.Array],
) -> Callable[[State, Batch], tuple[State, Metrics]]:
    """`(state, batch) -> (state, metrics)`.

    The loss is the weighted sum over objectives of summed loss / summed weight, both over the global batch: so
    padding, packing, accumulation and the number of devices cannot tilt it.
    A step whose loss or gradient is not finite changes nothing but the counters.
    """
    numbered = list(enumerate(objectives.items()))

    def losses(params: Params, batch: Batch, weights: dict[str, jax.Array]) -> tuple[jax.Array, dict[str, jax.Array]]:
        outputs = skeleton.merge(params)(batch)
        parts = {
            name: objective.loss(outputs, rows_of(batch, number, len(numbered))).total / jnp.where(weights[name] > 0, weights[name], 1.0)
            for number, (name, objective) in numbered
        }
        return sum((loss_weights.get(n, 1.0) * v for n, v in parts.items()), jnp.zeros(())), parts

    def gradients(params: Params, batch: Batch) -> tuple[Params, jax.Array, dict[str, jax.Array], dict[str, jax.Array]]:
        weights = {name: objective.weight(rows_of(batch, number, len(numbered))) for number, (name, objective) in numbered}
        grad = jax.value_and_grad(losses, has_aux=True)
        if grad_accum == 1:
            (loss, parts), grads = grad(params, batch, weights)
            return grads, loss, parts, weights

        def add(total: Any, micro: Batch) -> tuple[Any, None]:
            (loss, parts), grads = grad(params, micro, weights)
            return jax.tree.map(jnp.add, total, (grads, loss, parts)), None

        zeros = jax.tree.map(jnp.zeros_like, params), jnp.zeros(()), {name: jnp.zeros(()) for name in objectives}
        (grads, loss, parts), _ = jax.lax.scan(add, zeros, microbatches(batch, grad_accum))
        return grads, loss, parts, weights

    partitioner = skeleton.partitioner
    sharded_update = partitioner.layout.optimizer is not None and partitioner.mesh.size > 1

    def place(tree: Params, sharding: Callable[..., Any]) -> Params:
        return map_with_dims(lambda dims, x: jax.lax.with_sharding_constraint(x, sharding(dims)), skeleton.dims, tree)

    def train_step(state: State, batch: Batch) -> tuple[State, Metrics]:
        grads, loss, parts, weights = gradients(state.params, batch)
        if sharded_update:  # ZeRO: each device reduces, and updates, the part whose moments it holds
            grads = place(grads, partitioner.moment)
        grad_norm = optax.tree.norm(grads)
        good = jnp.isfinite(loss) & jnp.isfinite(grad_norm)
        updates, opt_state = tx.update(grads, state.opt_state, state.params)
        params = optax.apply_updates(state.params, updates)
        # Select, never multiply: 0 * NaN is NaN.
        params, opt_state = jax.tree.map(lambda new, old: jnp.where(good, new, old), (params, opt_state), (state.params, state.opt_state))
        if sharded_update:
            params = place(params, partitioner.weight)
        bad = (~good).astype(jnp.int32)
        new = State(state.step + 1, params, opt_state, state.skipped + bad, (state.skipped_in_a_row + bad) * bad)
        metrics = {"loss": loss, "grad_norm": grad_norm, "lr": learning_rate(state.step - state.skipped), "skipped": new.skipped}
        metrics |= {"skipped_in_a_row": new.skipped_in_a_row, "targets": sum(weights.values(), jnp.zeros(()))}
        if len(numbered) > 1:
            metrics |= {f"loss/{name}": v for name, v in parts.items()} | {f"targets/{name}": v for name, v in weights.items()}
        return new, metrics

    return train_step
