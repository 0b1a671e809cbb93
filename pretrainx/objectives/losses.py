"""Cross-entropy in float32 over hidden states and a head, in as many parts as asked: memory falls, the result stays.

Legend: B batch, L length, D embed, V vocab.
"""

from collections.abc import Callable
from functools import partial
from typing import Any

import jax
import jax.numpy as jnp

from pretrainx.objectives.interface import Batch, Defaults, Loss, Objective


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
    """Sum of weighted token losses, and of weights. In as many parts as the model says (`model.loss_chunks`)."""
    losses, right = target_losses(outputs, targets_BL)
    return Loss(jnp.sum(losses * weights_BL), jnp.sum(weights_BL), jnp.sum(right * weights_BL))


def target_losses(outputs: Any, targets_BL: jax.Array) -> tuple[jax.Array, jax.Array]:
    """([B, L] losses in nats, [B, L] whether the first guess is right), of every place.

    All who ask for the same targets of one batch share one pass of the head, forward and backward: `outputs.memo`.
    """
    memo: dict[int, Any] = getattr(outputs, "memo", {})
    if id(targets_BL) not in memo:  # the array is kept beside, so that its id stays its own
        memo[id(targets_BL)] = (targets_BL, *outputs.in_parts(_scores(outputs), outputs.hidden, targets_BL))
    _, losses, right = memo[id(targets_BL)]
    return losses, right


def predicted_cross_entropy(outputs: Any, targets_BL: jax.Array, weights_BL: jax.Array, count: int) -> Loss:
    """As `cross_entropy` where at most `count` positions of each row have a weight: the head runs on those alone."""
    places, weights = predicted(weights_BL, count)
    losses, right = _scores(outputs)(take(outputs.hidden, places), take(targets_BL, places))
    return Loss(jnp.sum(losses * weights), jnp.sum(weights), jnp.sum(right * weights))


def predicted(weights_BL: jax.Array, count: int) -> tuple[jax.Array, jax.Array]:
    """(places int32[B, K], weights float32[B, K]) of the K = `count` positions with the most weight, ties in order."""
    weights, places = jax.lax.top_k(weights_BL, min(count, weights_BL.shape[1]))
    return places, weights


def take(x: jax.Array, places_BK: jax.Array) -> jax.Array:
    """x[b, places[b, k]] of [B, L] or [B, L, D]."""
    index = places_BK if x.ndim == 2 else places_BK[..., None]
    return jnp.take_along_axis(x, index, axis=1)


def _scores(outputs: Any) -> Callable[[jax.Array, jax.Array], tuple[jax.Array, jax.Array]]:
    """`(hidden [B, L, D], targets [B, L]) -> ([B, L] losses in nats, [B, L] whether the first guess is right)`."""

    def scores(hidden: jax.Array, targets: jax.Array) -> tuple[jax.Array, jax.Array]:
        logits = outputs.logits(hidden)
        return token_losses(logits, targets, outputs.gather_targets), jnp.argmax(logits, axis=-1) == targets

    return scores


def binary_cross_entropy(logits: jax.Array, labels: jax.Array, weights: jax.Array) -> Loss:
    """Of float32 logits that the label is 1; all of one shape."""
    losses = jnp.maximum(logits, 0) - logits * labels + jnp.log1p(jnp.exp(-jnp.abs(logits)))
    right = jnp.sum(((logits > 0) == (labels > 0)) * weights)
    return Loss(jnp.sum(losses * weights), jnp.sum(weights), right)


def class_cross_entropy(logits_BC: jax.Array, labels_B: jax.Array, weights_B: jax.Array) -> Loss:
    """Of one label a row."""
    right = jnp.sum((jnp.argmax(logits_BC, axis=-1) == labels_B) * weights_B)
    return Loss(jnp.sum(token_losses(logits_BC.astype(jnp.float32), labels_B, True) * weights_B), jnp.sum(weights_B), right)


def squared_error(made_B: jax.Array, labels_B: jax.Array, weights_B: jax.Array) -> Loss:
    """Of one number a row, summed."""
    return Loss(jnp.sum(jnp.square(made_B - labels_B) * weights_B), jnp.sum(weights_B))


class PredictsTargets(Defaults):
    """For objectives that predict `targets` [B, L] with `loss_weights` [B, L]: their loss, and its weight."""

    def weights(self, batch: Batch) -> dict[str, jax.Array]:
        return {"tokens": jnp.sum(batch["loss_weights"])}

    def loss(self, outputs: Any, batch: Batch) -> dict[str, Loss]:
        return {"tokens": cross_entropy(outputs, batch["targets"], batch["loss_weights"])}


def term_names(name: str, objective: Objective) -> dict[str, str]:
    """term -> its name in metrics and in train.loss_weights: the objective's own, with the term's behind it if it has several."""
    return {term: name if len(objective.terms) == 1 else f"{name}/{term}" for term in objective.terms}


def rows_of(batch: Batch, number: int, count: int) -> Batch:
    """The batch with all weights of rows of other objectives set to zero."""
    if count == 1:
        return batch
    mine = (batch["objective"] == number).astype(jnp.float32)
    return batch | {k: v * mine.reshape(-1, *[1] * (v.ndim - 1)) for k, v in batch.items() if k.endswith("weights")}


def by_term(objectives: dict[str, Objective], function: Callable[[Objective, Batch], dict[str, Any]], batch: Batch) -> dict[str, Any]:
    """{name of the term: what `function(objective, its rows)` says of it} over all objectives of a batch."""
    found: dict[str, Any] = {}
    for number, (name, objective) in enumerate(objectives.items()):
        own = function(objective, rows_of(batch, number, len(objectives)))
        found |= {key: own[term] for term, key in term_names(name, objective).items()}
    return found
