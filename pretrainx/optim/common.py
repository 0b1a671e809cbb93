"""What every optimizer's config has, and what the chains share."""

from dataclasses import dataclass
from typing import Annotated, Any

import jax
import optax

from pretrainx.core.schema import Range
from pretrainx.core.sections import Duration, Fraction

Schedule = Any  # step (int32 array) -> learning rate (float32 array)
Params = dict[str, Any]


@dataclass(frozen=True)
class OptimConfig:
    name: str = "adamw"
    peak_lr: Annotated[float, Range(gt=0)] = 3e-4
    warmup: Duration = "2%"
    schedule: str = "cosine"
    end_lr_ratio: Fraction = 0.1  # last learning rate / peak
    decay: Duration = "20%"  # of warmup_stable_decay: how long the last part is
    weight_decay: Annotated[float, Range(ge=0)] = 0.1
    clip_norm: Annotated[float, Range(ge=0)] = 1.0  # of the whole gradient; 0: no clipping
    b1: Annotated[float, Range(ge=0, lt=1)] = 0.9
    b2: Annotated[float, Range(ge=0, lt=1)] = 0.95
    eps: Annotated[float, Range(gt=0)] = 1e-8
    trainable: tuple[str, ...] = ()  # patterns of weights' paths, such as "class_head/*": all others stay as they are; (): all are trained
    layer_decay: Annotated[float, Range(gt=0, le=1)] = 1.0  # each layer's steps are this much of those of the layer above it


def is_dims(x: Any) -> bool:
    return isinstance(x, tuple)


def map_paths(function: Any, dims: Params) -> Params:
    """function("blocks/mlp/up", dims) over the tree of dims."""
    return jax.tree_util.tree_map_with_path(lambda path, d: function("/".join(str(k.key) for k in path), d), dims, is_leaf=is_dims)


def decays(path: str, dims: tuple[str | None, ...]) -> bool:
    """Weight decay is for matrices and embeddings; scales of norms and biases are left alone."""
    return not path.endswith("bias") and "norm" not in dims


def clip(config: OptimConfig) -> optax.GradientTransformation:
    return optax.clip_by_global_norm(config.clip_norm) if config.clip_norm else optax.identity()


def adamw(config: OptimConfig, dims: Params, schedule: Schedule) -> optax.GradientTransformation:
    """Adam with decoupled weight decay (Loshchilov and Hutter 2019), decay times the scheduled learning rate."""
    return optax.chain(
        optax.scale_by_adam(config.b1, config.b2, config.eps),
        optax.add_decayed_weights(config.weight_decay, mask=map_paths(decays, dims)),
        optax.scale_by_learning_rate(schedule),
    )
