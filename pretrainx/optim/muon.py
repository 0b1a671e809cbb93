"""Muon for the matrices of the layers (Jordan 2024), AdamW for embeddings, head, norms and biases."""

from dataclasses import dataclass, replace
from typing import Annotated

import optax
from optax.contrib import MuonDimensionNumbers, scale_by_muon
from optax.contrib._muon import scale_by_shape

from pretrainx.core.dims import matrix_dims
from pretrainx.core.schema import Range
from pretrainx.optim.common import OptimConfig, Params, Schedule, adamw, clip, map_paths


@dataclass(frozen=True)
class Config(OptimConfig):
    name: str = "muon"
    muon_lr: Annotated[float, Range(gt=0)] = 0.02  # of the matrices; peak_lr is AdamW's
    momentum: Annotated[float, Range(ge=0, lt=1)] = 0.95
    muon_weight_decay: Annotated[float, Range(ge=0)] = 0.0


def is_matrix(path: str, dims: tuple[str | None, ...]) -> bool:
    """Weights inside the layers that map a vector to a vector."""
    return "layers" in dims and "norm" not in dims and not path.endswith("bias")


def matrix_form(dims: tuple[str | None, ...]) -> MuonDimensionNumbers:
    """Which dims of a weight are summed over and which come out; the others (`layers`) are a batch of matrices."""
    inputs, outputs = matrix_dims(dims)
    return MuonDimensionNumbers(reduction_axis=inputs, output_axis=outputs)


def build(config: Config, dims: Params, schedule: Schedule) -> optax.GradientTransformation:
    """clip -> by weight: Newton-Schulz orthogonalised momentum, or AdamW. Both follow the same schedule shape."""
    labels = map_paths(lambda path, d: "muon" if is_matrix(path, d) else "adamw", dims)
    # A weight that is not Muon's is masked out of this tree, and so must its numbers be.
    numbers = map_paths(lambda path, d: matrix_form(d) if is_matrix(path, d) else optax.MaskedNode(), dims)
    rest = map_paths(lambda path, d: optax.MaskedNode() if is_matrix(path, d) else d, dims)
    muon = optax.chain(
        scale_by_muon(beta=config.momentum, weight_dimension_numbers=numbers, mu_dtype=config.mu_dtype),
        scale_by_shape(weight_dimension_numbers=numbers),
        optax.add_decayed_weights(config.muon_weight_decay),
        optax.scale_by_learning_rate(lambda step: config.muon_lr * schedule(step)),
    )
    plain = adamw(replace(config), rest, lambda step: config.peak_lr * schedule(step))
    return optax.chain(clip(config), optax.partition({"muon": muon, "adamw": plain}, labels))
