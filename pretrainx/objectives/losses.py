"""Cross-entropy in float32 over hidden states and a head, in as many parts as asked: memory falls, the result stays.

Legend: B batch, L length, D embed, V vocab.
"""

from functools import partial
from typing import Any

import jax
import jax.numpy as jnp

from pretrainx.objectives.interface import Loss


@partial(jax.custom_vjp, nondiff_argnums=(2,))
def token_losses(logits: jax.Array, targets: jax.Array, gather: bool = False) -> jax.Array:
    """-log softmax(logits)[target] of float32 [..., V] and int [...].

    The gradient, softmax - one-hot, is written out: nothing of size V is kept but the logits themselves.
    `gather` picks the target by index, a quarter less time on a CPU; otherwise by comparing with every id, which is
    elementwise: right for accelerators, and for a vocabulary cut over devices.
    """
    return _forward(logits, targets, gather)[0]


def _is_target(logits: jax.Array, targets: jax.Array) -> jax.Array:
    return jax.lax.broadcasted_iota(targets.dtype, logits.shape, logits.ndim - 1) == targets[..., None]


def _forward(logits: jax.Array, targets: jax.Array, gather: bool) -> tuple[jax.Array, Any]:
    normalizer = jax.nn.logsumexp(logits, axis=-1)
    if gather:
        picked = jnp.take_along_axis(logits, targets[..., None], axis=-1)[..., 0]
    else:
        picked = jnp.sum(jnp.where(_is_target(logits, targets), logits, 0.0), axis=-1)
    return normalizer - picked, (logits, normalizer, targets)


def _backward(gather: bool, saved: Any, grad: jax.Array) -> tuple[jax.Array, None]:
    logits, normalizer, targets = saved
    shares = jnp.exp(logits - normalizer[..., None]) * grad[..., None]
    if gather:
        index = (*jnp.ogrid[tuple(slice(n) for n in targets.shape)], targets)
        return shares.at[index].add(-grad), None
    return shares - jnp.where(_is_target(logits, targets), grad[..., None], 0.0), None


token_losses.defvjp(_forward, _backward)


def cross_entropy(outputs: Any, targets_BL: jax.Array, weights_BL: jax.Array) -> Loss:
    """Sum of weighted token losses, and of weights. `outputs.chunks` parts along the length, each recomputed backward."""

    def part(hidden: jax.Array, targets: jax.Array, weights: jax.Array) -> jax.Array:
        return jnp.sum(token_losses(outputs.logits(hidden), targets, outputs.gather_targets) * weights)

    chunks = outputs.chunks
    if chunks == 1:
        total = part(outputs.hidden, targets_BL, weights_BL)
    else:
        B, L = targets_BL.shape
        cut = lambda x: jnp.moveaxis(x.reshape(B, chunks, L // chunks, *x.shape[2:]), 1, 0)  # noqa: E731
        step = jax.checkpoint(lambda total, inputs: (total + part(*inputs), None), prevent_cse=False)
        total, _ = jax.lax.scan(step, jnp.zeros((), jnp.float32), (cut(outputs.hidden), cut(targets_BL), cut(weights_BL)))
    return Loss(total, jnp.sum(weights_BL))


class PredictsTargets:
    """For objectives that predict `targets` [B, L] with `loss_weights` [B, L]: their loss, and its weight."""

    def weight(self, batch: dict[str, Any]) -> jax.Array:
        return jnp.sum(batch["loss_weights"])

    def loss(self, outputs: Any, batch: dict[str, jax.Array]) -> Loss:
        return cross_entropy(outputs, batch["targets"], batch["loss_weights"])


def rows_of(batch: dict[str, jax.Array], number: int, count: int) -> dict[str, jax.Array]:
    """The batch with the weights of rows of other objectives set to zero."""
    if count == 1:
        return batch
    mine = (batch["objective"] == number).astype(jnp.float32)
    return batch | {"loss_weights": batch["loss_weights"] * mine[:, None]}
