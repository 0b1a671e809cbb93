"""Muon for the matrices of the layers (Jordan 2024), AdamW for embeddings, head, norms and biases."""

import math
from dataclasses import dataclass, replace
from typing import Annotated

import jax
import jax.numpy as jnp
import optax

from pretrainx.core.dims import matrix_dims
from pretrainx.core.schema import Range
from pretrainx.optim.common import OptimConfig, Params, Schedule, adamw, clip, map_paths
from pretrainx.optim.newton_schulz import orthogonalise


@dataclass(frozen=True)
class Config(OptimConfig):
    name: str = "muon"
    muon_lr: Annotated[float, Range(gt=0)] = 0.02  # of the matrices; peak_lr is AdamW's
    momentum: Annotated[float, Range(ge=0, lt=1)] = 0.95
    muon_weight_decay: Annotated[float, Range(ge=0)] = 0.0


def is_matrix(path: str, dims: tuple[str | None, ...]) -> bool:
    """Weights inside the layers that map a vector to a vector."""
    return "layers" in dims and "norm" not in dims and not path.endswith("bias")


def orthogonal_update(momentum: jax.Array, dims: tuple[str | None, ...]) -> jax.Array:
    """The momentum of a weight orthogonalised, times sqrt(outputs / inputs) where more come out; dims such as `layers` hold matrices."""
    inputs, outputs = matrix_dims(dims)
    batch = tuple(i for i in range(momentum.ndim) if i not in inputs + outputs)
    order = (*batch, *inputs, *outputs)
    moved = jnp.transpose(momentum, order)
    into, out = (math.prod(momentum.shape[i] for i in group) for group in (inputs, outputs))
    matrices = moved.reshape(*(momentum.shape[i] for i in batch), into, out)
    updates = orthogonalise(matrices) * math.sqrt(max(1, out / into))
    return jnp.transpose(updates.reshape(moved.shape), [order.index(i) for i in range(momentum.ndim)])


def scale_by_orthogonality(dims: Params) -> optax.GradientTransformation:
    def update(updates: Params, state: optax.EmptyState, params: Params | None = None) -> tuple[Params, optax.EmptyState]:
        del params
        return jax.tree.map(orthogonal_update, updates, dims), state

    return optax.GradientTransformation(lambda params: optax.EmptyState(), update)


def build(config: Config, dims: Params, schedule: Schedule) -> optax.GradientTransformation:
    """clip -> by weight: Newton-Schulz orthogonalised momentum, or AdamW. Both follow the same schedule shape."""
    labels = map_paths(lambda path, d: "muon" if is_matrix(path, d) else "adamw", dims)
    # A weight that is not Muon's is masked out of this tree, and so must its dims be.
    matrices = map_paths(lambda path, d: d if is_matrix(path, d) else optax.MaskedNode(), dims)
    rest = map_paths(lambda path, d: optax.MaskedNode() if is_matrix(path, d) else d, dims)
    muon = optax.chain(
        optax.trace(config.momentum, nesterov=True, accumulator_dtype=config.mu_dtype),
        scale_by_orthogonality(matrices),
        optax.add_decayed_weights(config.muon_weight_decay),
        optax.scale_by_learning_rate(lambda step: config.muon_lr * schedule(step)),
    )
    plain = adamw(replace(config), rest, lambda step: config.peak_lr * schedule(step))
    return optax.chain(clip(config), optax.partition({"muon": muon, "adamw": plain}, labels))
