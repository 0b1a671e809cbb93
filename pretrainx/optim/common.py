"""What every optimizer's config has, and what the chains share."""

from dataclasses import dataclass
from typing import Annotated, Any, Literal

import jax
import optax

from pretrainx.core.errors import InputError
from pretrainx.core.schema import Range
from pretrainx.core.sections import Duration, Fraction

Schedule = Any  # step (int32 array) -> learning rate (float32 array)
Params = dict[str, Any]
MomentType = Literal["float32", "bfloat16"]


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
    mu_dtype: MomentType = "float32"  # in which the first moment is kept between steps; it is computed in float32
    nu_dtype: MomentType = "float32"  # and the second, where b2 lets it be rounded
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


# A share of a bfloat16 that is lost in rounding is at most 2^-9. Rounded to the nearest, a second moment stands still where its step,
# (1 - b2) of its distance, is less: within 2^-9 / (1 - b2) of where it should be. At b2 = 0.99 that is 20 % (of the update's size,
# its root: 10 %), at 0.95 4 %; from 0.998 on it would never fall at all.
MOST_B2 = 0.99


def require_sound(config: OptimConfig) -> None:
    """Raises InputError where a second moment in bfloat16 would stand still."""
    if config.nu_dtype != "float32" and config.b2 > MOST_B2:
        raise InputError(
            f"optim.nu_dtype {config.nu_dtype!r}: with optim.b2 {config.b2} its steps are lost in rounding; give b2 of at most {MOST_B2}, "
            "or nu_dtype 'float32'"
        )


def kept_in(tx: optax.GradientTransformation, mu_dtype: str, nu_dtype: str) -> optax.GradientTransformation:
    """Adam's scaling with its moments rounded between steps; each step computes with them in float32."""
    if mu_dtype == nu_dtype == "float32":
        return tx

    def stored(state: Any) -> Any:
        return state._replace(mu=optax.tree.cast(state.mu, mu_dtype), nu=optax.tree.cast(state.nu, nu_dtype))

    def update(grads: Params, state: Any, params: Params | None = None) -> tuple[Params, Any]:
        whole = state._replace(mu=optax.tree.cast(state.mu, "float32"), nu=optax.tree.cast(state.nu, "float32"))
        updates, new = tx.update(grads, whole, params)
        return updates, stored(new)

    return optax.GradientTransformation(lambda params: stored(tx.init(params)), update)


def adamw(config: OptimConfig, dims: Params, schedule: Schedule) -> optax.GradientTransformation:
    """Adam with decoupled weight decay (Loshchilov and Hutter 2019), decay times the scheduled learning rate."""
    require_sound(config)
    return optax.chain(
        kept_in(optax.scale_by_adam(config.b1, config.b2, config.eps), config.mu_dtype, config.nu_dtype),
        optax.add_decayed_weights(config.weight_decay, mask=map_paths(decays, dims)),
        optax.scale_by_learning_rate(schedule),
    )
