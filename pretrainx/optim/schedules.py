"""Learning-rate shapes: functions of the step that give a share of the peak, 0 to 1. A new one is one entry.

Step s (from 0) has the value of s + 1, so that the first step of a warm-up already learns.
"""

from collections.abc import Callable

import jax.numpy as jnp
from jax import Array

from pretrainx.core.errors import InputError, nearest


def cosine(done: Array, end: float) -> Array:
    """Half a cosine from 1 to `end` (Loshchilov and Hutter 2017) as `done` goes from 0 to 1."""
    return end + (1 - end) * 0.5 * (1 + jnp.cos(jnp.pi * done))


def linear(done: Array, end: float) -> Array:
    return 1 - (1 - end) * done


def constant(done: Array, end: float) -> Array:
    del end
    return jnp.ones_like(done)


SHAPES: dict[str, Callable[[Array, float], Array]] = {"cosine": cosine, "linear": linear, "constant": constant}
NAMES = (*SHAPES, "warmup_stable_decay", "inverse_square_root")


def build(name: str, *, warmup_steps: int, total_steps: int, decay_steps: int, end: float) -> Callable[[Array], Array]:
    """Linear warm-up, then the named shape until `total_steps`, where it reaches `end` (and stays).

    warmup_stable_decay: constant, then linear to `end` over the last `decay_steps` (Hu 2024, MiniCPM).
    inverse_square_root: sqrt(warmup_steps / step) (Vaswani 2017, section 5.3); `end` does not apply.
    """
    if name not in NAMES:
        raise InputError(f"optim.schedule: unknown name {name!r}; {nearest(name, NAMES)}")
    if warmup_steps + (decay_steps if name == "warmup_stable_decay" else 0) > total_steps:
        raise InputError(f"optim.warmup: {warmup_steps} steps (and the decay) do not fit into train.steps {total_steps}")

    def schedule(step: Array) -> Array:
        step = jnp.asarray(step, jnp.float32) + 1
        rising = step / max(warmup_steps, 1)
        if name == "inverse_square_root":
            falling = jnp.sqrt(max(warmup_steps, 1) / jnp.maximum(step, 1))
        elif name == "warmup_stable_decay":
            falling = linear(jnp.clip((step - (total_steps - decay_steps)) / max(decay_steps, 1), 0, 1), end)
        else:
            falling = SHAPES[name](jnp.clip((step - warmup_steps) / max(total_steps - warmup_steps, 1), 0, 1), end)
        return jnp.where(step < warmup_steps, rising, falling)

    return schedule
