"""Dynamic loss scaling for float16, whose gradients would else fall below its smallest number (Micikevicius 2018, section 3.2).

The loss is multiplied by a scale before the backward pass and gradients are divided by it after. Where they overflow the step is
refused, as any step whose gradients are not finite, and the scale halves; after `PATIENCE` good steps in a row it doubles. The
scale lies in the optimizer's state, and only in float16's: no other state or checkpoint has it.
"""

import functools
from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import optax

FIRST, LEAST, MOST = 2.0**15, 1.0, 2.0**24
PATIENCE = 2000  # as PyTorch's GradScaler


class Scaled(NamedTuple):
    """State of an optimizer behind a scale; `good` counts steps since the scale last moved."""

    inner: Any
    scale: jax.Array  # float32
    good: jax.Array  # int32


def behind_scale(tx: optax.GradientTransformation, dtype: str) -> optax.GradientTransformation:
    """The optimizer with a place for the scale in its state, if the computation is in float16; else as it is."""
    if dtype != "float16":
        return tx

    def init(params: Any) -> Scaled:
        return Scaled(tx.init(params), jnp.full((), FIRST, jnp.float32), jnp.zeros((), jnp.int32))

    def update(grads: Any, state: Scaled, params: Any = None) -> tuple[Any, Scaled]:
        updates, inner = tx.update(grads, state.inner, params)
        return updates, state._replace(inner=inner)

    return optax.GradientTransformation(init, update)


def scale_of(opt_state: Any) -> jax.Array | None:
    """The scale that a state holds; None: the computation needs none."""
    return opt_state.scale if isinstance(opt_state, Scaled) else None


def value_and_grad(loss: Callable[..., tuple[jax.Array, Any]], scale: jax.Array | None) -> Callable[..., Any]:
    """As `jax.value_and_grad(loss, has_aux=True)`; the backward pass runs `scale` times as large, value and gradients do not."""
    if scale is None:
        return jax.value_and_grad(loss, has_aux=True)

    def run(params: Any, *rest: Any) -> tuple[tuple[jax.Array, Any], Any]:
        value, pull, aux = jax.vjp(lambda p: loss(p, *rest), params, has_aux=True)
        (grads,) = pull(scale.astype(value.dtype))
        return (value, aux), jax.tree.map(lambda g: (g / scale).astype(g.dtype), grads)

    return run


def adjusted(opt_state: Any, good: jax.Array) -> Any:
    """The state with the scale for the next step, after one whose loss and gradients were all finite (`good`) or not."""
    if not isinstance(opt_state, Scaled):
        return opt_state
    count = jnp.where(good, opt_state.good + 1, 0)
    grown = count >= PATIENCE
    scale = jnp.where(good, jnp.where(grown, opt_state.scale * 2, opt_state.scale), opt_state.scale / 2)
    return opt_state._replace(scale=jnp.clip(scale, LEAST, MOST), good=jnp.where(grown, 0, count))


def is_overflow(opt_state: Any, loss: jax.Array, good: jax.Array) -> jax.Array:
    """Whether a refused step only says that its scale was too large: the loss is finite, and a smaller scale is left to try."""
    if not isinstance(opt_state, Scaled):
        return jnp.zeros((), bool)
    return ~good & jnp.isfinite(loss) & (opt_state.scale > LEAST)


def without_scale(shapes: dict[str, tuple[int, ...]]) -> dict[str, tuple[int, ...]]:
    """A state's {path: shape} as it is without a scale."""
    return {path.removeprefix("inner/"): shape for path, shape in shapes.items() if path not in ("scale", "good")}


def as_stored(opt_state: Any, shapes: dict[str, tuple[int, ...]], sharding: jax.sharding.Sharding) -> Any:
    """The abstract state as a checkpoint of these {path: shape} has it, with a scale (which lies as `sharding` says) or without."""
    has_scale = "scale" in shapes
    if has_scale == isinstance(opt_state, Scaled):
        return opt_state
    scalar = functools.partial(jax.ShapeDtypeStruct, (), sharding=sharding)
    return Scaled(opt_state, scalar(jnp.float32), scalar(jnp.int32)) if has_scale else opt_state.inner


def as_wanted(found: Any, wanted: Any) -> Any:
    """What a checkpoint has, for a run whose state is like `wanted`: a scale begins anew, or is left behind."""
    if isinstance(found, Scaled) == isinstance(wanted, Scaled):
        return found
    if isinstance(found, Scaled):
        return found.inner
    begin = jax.jit(
        lambda: (jnp.full((), FIRST, jnp.float32), jnp.zeros((), jnp.int32)), out_shardings=(wanted.scale.sharding, wanted.good.sharding)
    )
    return Scaled(found, *begin())
