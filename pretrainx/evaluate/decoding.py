"""A model that goes on from prompts, on its mesh: prompts read at once, then token by token with a cache.

How the next token is chosen is a file of its own: sampling.py, beam.py.

Legend: B rows, P prompt length, S encoder length, N tokens to make, V vocab.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import jax
import jax.numpy as jnp

from pretrainx.core.vocabulary import Vocabulary
from pretrainx.models.skeleton import Params, Skeleton
from pretrainx.models.stack import Cache

# tokens [B, P] aligned left, lengths [B], seen [B], idle bool [B], keys uint32 [B, 2]; for an encoder, encoder_* [B, S].
Batch = dict[str, jax.Array]


@jax.tree_util.register_dataclass
@dataclass(frozen=True)
class Found:
    """tokens int32 [B, N], padded after a token that stops; nats float32 [B], their log-probability; done bool [B]: stopped."""

    tokens: jax.Array
    nats: jax.Array
    done: jax.Array


@dataclass(frozen=True)
class Decoder:
    """Logits of what comes next. `stop` are the ids that end a text."""

    skeleton: Skeleton
    vocabulary: Vocabulary
    num_tokens: int
    stop_ids: Sequence[int]

    @property
    def pad(self) -> int:
        return self.vocabulary.special.pad

    @property
    def stop(self) -> jax.Array:
        return jnp.asarray(self.stop_ids, jnp.int32)

    def read_prompts(self, params: Params, batch: Batch) -> tuple[jax.Array, Cache]:
        """(float32 [B, V] of the token after each prompt, cache). What padding writes into the cache is overwritten before
        any query can see it."""
        model = self.skeleton.merge(params)
        B, P = batch["tokens"].shape
        positions = jnp.broadcast_to(jnp.arange(P, dtype=jnp.int32), (B, P))
        seen = jnp.broadcast_to(batch["seen"][:, None], (B, P))
        hidden, cache = model.decode(batch["tokens"], positions, model.begin(batch, B, P + self.num_tokens), seen)
        last = jnp.take_along_axis(hidden, (batch["lengths"] - 1)[:, None, None], axis=1)[:, 0]
        return self.sayable(model.logits(last)), cache

    def read(self, params: Params, tokens: jax.Array, positions: jax.Array, cache: Cache) -> tuple[jax.Array, Cache]:
        """(float32 [B, V] of the token after `tokens` [B, 1], which stand at positions [B]; cache)."""
        model = self.skeleton.merge(params)
        hidden, cache = model.decode(tokens, positions[:, None], cache)
        return self.sayable(model.logits(hidden[:, 0])), cache

    def sayable(self, logits: jax.Array) -> jax.Array:
        """An embedding may have more rows than the vocabulary has ids; those stand for nothing."""
        return jnp.where(jnp.arange(logits.shape[-1]) < self.vocabulary.size, logits, -jnp.inf)
