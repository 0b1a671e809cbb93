"""Cross-entropy in float32 over hidden states and a head, in as many parts as asked: memory falls, the result stays.

Legend: B batch, L length, D embed, V vocab.
"""

from typing import Any

import jax
import jax.numpy as jnp

from pretrainx.objectives.interface import Loss


def token_losses(logits: jax.Array, targets: jax.Array) -> jax.Array:
    """-log softmax(logits)[target], float32 [...]. The target is picked by comparing, not by gathering, so that the
    gradient is elementwise and a vocabulary that is cut over devices stays so."""
    logits = logits.astype(jnp.float32)
    shifted = logits - jax.lax.stop_gradient(jnp.max(logits, axis=-1, keepdims=True))
    is_target = jax.lax.broadcasted_iota(jnp.int32, logits.shape, logits.ndim - 1) == targets[..., None]
    picked = jnp.sum(jnp.where(is_target, shifted, 0.0), axis=-1)
    return jnp.log(jnp.sum(jnp.exp(shifted), axis=-1)) - picked


def cross_entropy(outputs: Any, targets_BL: jax.Array, weights_BL: jax.Array) -> Loss:
    """Sum of weighted token losses, and of weights. `outputs.chunks` parts along the length, each recomputed backward."""

    def part(hidden: jax.Array, targets: jax.Array, weights: jax.Array) -> jax.Array:
        return jnp.sum(token_losses(outputs.logits(hidden), targets) * weights)

    chunks = outputs.chunks
    if chunks == 1:
        total = part(outputs.hidden, targets_BL, weights_BL)
    else:
        B, L = targets_BL.shape
        cut = lambda x: jnp.moveaxis(x.reshape(B, chunks, L // chunks, *x.shape[2:]), 1, 0)  # noqa: E731
        step = jax.checkpoint(lambda total, inputs: (total + part(*inputs), None), prevent_cse=False)
        total, _ = jax.lax.scan(step, jnp.zeros((), jnp.float32), (cut(outputs.hidden), cut(targets_BL), cut(weights_BL)))
    return Loss(total, jnp.sum(weights_BL))


def rows_of(batch: dict[str, jax.Array], number: int, count: int) -> dict[str, jax.Array]:
    """The batch with the weights of rows of other objectives set to zero."""
    if count == 1:
        return batch
    mine = (batch["objective"] == number).astype(jnp.float32)
    return batch | {"loss_weights": batch["loss_weights"] * mine[:, None]}
