"""What is read off the hidden states: tokens, relations of two texts, tokens between two boundaries, replaced tokens; and off
the table of tokens itself, neighbours.

Legend: B batch, L length, K predicted positions, D embed, E the embedding's own size, V vocab.
"""

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
from flax import nnx

from pretrainx.models.layers import ACTIVATIONS, NORMS, Dense, cuts_length, normal, project, weight
from pretrainx.parallel.shard import Partitioner

NEIGHBOUR_SCALE = 100.0
BOUNDARY_POSITION_SIZE = 200  # of SpanBERT's position embeddings (Joshi 2020, section 3.2)


def tied_logits(hidden: jax.Array, embedding: jax.Array, apart: bool = False) -> jax.Array:
    """float32 [..., V] of [..., E] and the table of tokens [V, E]."""
    return project(hidden, embedding.astype(hidden.dtype).T, out_dtype="float32", apart=apart)


class TokenHead(nnx.Module):
    """`head(hidden [..., D], embedding [V, E]) -> float32 [..., V]`.

    Tied, the embedding is the output matrix; untied, the head has its own. A transform before it (dense, activation,
    norm: BERT's MLM head) gives vectors of the embedding's size and comes with a bias on the logits.
    """

    def __init__(self, config: Any, partitioner: Partitioner, *, rngs: nnx.Rngs):
        D, E, V, dtype = config.d_model, config.embed_size, config.vocab_size, config.param_dtype
        self.config, self.partitioner = config, partitioner
        if config.head_transform:
            self.transform = Dense((D, E), ("embed", None), std=config.init_std, dtype=dtype, rngs=rngs)
            self.norm = NORMS[config.norm](E, dtype=dtype, rngs=rngs, eps=config.norm_eps)
            self.bias = weight(rngs, (V,), ("vocab",), nnx.initializers.zeros, dtype)
        if not config.tied_head:
            size, dim = (E, config.embed_dim) if config.head_transform else (D, "embed")
            std = size**-0.5 if config.head_init_std is None else config.head_init_std
            self.kernel_dims = (dim, "vocab")
            self.kernel = weight(rngs, (size, V), self.kernel_dims, normal(std), dtype)

    def reader(self, hidden: jax.Array, embedding: jax.Array) -> tuple[jax.Array, Callable[[jax.Array], jax.Array]]:
        """The hidden states, and `(part of them) -> logits` for losses that call it more than once: the matrix is gathered here."""
        kernel = None
        if not self.config.tied_head:
            hidden, kernel = self.partitioner.whole_at(hidden, self.kernel[...], self.kernel_dims, hidden.dtype)
        return hidden, lambda part: self(part, embedding, kernel)

    def __call__(self, hidden: jax.Array, embedding: jax.Array, kernel: jax.Array | None = None) -> jax.Array:
        config = self.config
        if config.head_transform:
            hidden = self.norm(ACTIVATIONS[config.activation](self.transform(hidden)))
        if config.tied_head:
            hidden = hidden * config.d_model**-0.5 if config.logit_scale == "embed" else hidden
            logits = tied_logits(hidden, embedding, cuts_length(self.partitioner))
        else:
            kernel = self.kernel[...] if kernel is None else kernel
            logits = project(hidden, kernel.astype(hidden.dtype), out_dtype="float32", apart=cuts_length(self.partitioner))
        if config.head_transform:
            logits = logits + self.bias[...].astype(jnp.float32)
        if config.logit_softcap:
            logits = config.logit_softcap * jnp.tanh(logits / config.logit_softcap)
        parts = self.partitioner.axis_size(self.partitioner.layout.activations.get("length", ()))
        lengths = ["length" if size % parts == 0 else None for size in logits.shape[1:-1]]  # also of a loss's part of the length
        return self.partitioner.constrain(logits, "batch", *lengths, "vocab")


class PairHead(nnx.Module):
    """`head(first [B, D]) -> float32 [B, 2]`: how two texts relate, from the first token's vector (Devlin 2018, section 3.1; Lan 2020)."""

    def __init__(self, config: Any, *, rngs: nnx.Rngs):
        D, std, dtype = config.d_model, config.init_std, config.param_dtype
        self.pooler = Dense((D, D), ("embed", None), std=std, dtype=dtype, rngs=rngs)
        self.classifier = Dense((D, 2), ("embed", None), std=std, dtype=dtype, rngs=rngs)

    def __call__(self, first_BD: jax.Array) -> jax.Array:
        return self.classifier(jnp.tanh(self.pooler(first_BD))).astype(jnp.float32)


class BoundaryHead(nnx.Module):
    """`head(left [B, K, D], right [B, K, D], offsets [B, K], embedding) -> float32 [B, K, V]` (Joshi 2020, section 3.2).

    The tokens of a span from the vectors just outside it and a token's place in it, from 0: twice dense, GELU and norm,
    then the table of tokens, with a bias of its own as in the authors' code.
    """

    def __init__(self, config: Any, partitioner: Partitioner, *, rngs: nnx.Rngs):
        D, E, P, std, dtype = config.d_model, config.embed_size, BOUNDARY_POSITION_SIZE, config.init_std, config.param_dtype
        self.partitioner = partitioner
        self.position_embedding = weight(rngs, (config.max_span, P), ("positions", None), normal(config.embed_init_std), dtype)
        self.first = Dense((2 * D + P, D), (None, "embed"), std=std, dtype=dtype, rngs=rngs)
        self.first_norm = NORMS["layer"](D, dtype=dtype, rngs=rngs, eps=config.norm_eps)
        self.second = Dense((D, E), ("embed", None), std=std, dtype=dtype, rngs=rngs)
        self.second_norm = NORMS["layer"](E, dtype=dtype, rngs=rngs, eps=config.norm_eps)
        self.bias = weight(rngs, (config.vocab_size,), ("vocab",), nnx.initializers.zeros, dtype)

    def __call__(self, left: jax.Array, right: jax.Array, offsets: jax.Array, embedding: jax.Array) -> jax.Array:
        gelu = ACTIVATIONS["gelu"]
        places = self.position_embedding[...].astype(left.dtype)[offsets]
        x = self.first_norm(gelu(self.first(jnp.concatenate([left, right, places], axis=-1))))
        x = self.second_norm(gelu(self.second(x)))
        logits = tied_logits(x, embedding) + self.bias[...].astype(jnp.float32)
        return self.partitioner.constrain(logits, "batch", None, "vocab")


class ReplacedHead(nnx.Module):
    """`head(hidden [..., D]) -> float32 [...]`: the logit that a token is not the original (Clark 2020, section 2)."""

    def __init__(self, config: Any, *, rngs: nnx.Rngs):
        D, std, dtype = config.d_model, config.init_std, config.param_dtype
        self.dense = Dense((D, D), ("embed", None), std=std, dtype=dtype, rngs=rngs)
        self.out = Dense((D, 1), ("embed", None), std=std, dtype=dtype, rngs=rngs)
        self.activation = config.activation

    def __call__(self, hidden: jax.Array) -> jax.Array:
        return self.out(ACTIVATIONS[self.activation](self.dense(hidden)))[..., 0].astype(jnp.float32)


class NeighbourHead(nnx.Module):
    """`head(embedding [V, E], tokens [B, L], drawn [B, K]) -> (float32 [B, L, L], float32 [B, L, K])`: how well each token of a row
    goes with each other, and with each of those drawn for the row: products of the first one's embedding with a vector that
    the second has as a neighbour, at first zero (Mikolov 2013b, section 2.2); times NEIGHBOUR_SCALE, so that embeddings stay as
    small as stacks are used to, at learning rates that they are used to."""

    def __init__(self, config: Any, partitioner: Partitioner, *, rngs: nnx.Rngs):
        self.partitioner, shape = partitioner, (config.vocab_size, config.embed_size)
        self.embedding = weight(rngs, shape, ("vocab", config.embed_dim), nnx.initializers.zeros, config.param_dtype)

    def __call__(self, embedding: jax.Array, tokens: jax.Array, drawn: jax.Array) -> tuple[jax.Array, jax.Array]:
        constrain, beside = self.partitioner.constrain, self.embedding[...].astype(jnp.float32)
        vectors = constrain(NEIGHBOUR_SCALE * embedding.astype(jnp.float32)[tokens], "batch", "length", None)
        near = jnp.einsum("ble,bme->blm", vectors, beside[tokens])
        far = jnp.einsum("ble,bke->blk", vectors, beside[drawn])
        return constrain(near, "batch", "length", None), constrain(far, "batch", "length", None)


class ClassHead(nnx.Module):
    """`head(hidden [B, L, D], real bool [B, L]) -> float32 [B, C]`: the class of a text, or a score.

    It reads the first token's vector (Devlin 2018), the last real one's (Radford 2018), the mean of the real ones, or their mean
    under attention by one learned query; then a dense layer and tanh, unless it is linear; then the outputs.
    """

    def __init__(self, config: Any, *, rngs: nnx.Rngs):
        D, std, dtype = config.d_model, config.init_std, config.param_dtype
        self.pooling, self.has_hidden = config.pooling, config.class_hidden
        if self.pooling == "attention":
            self.query = weight(rngs, (D,), ("embed",), nnx.initializers.zeros, dtype)  # at first, the mean
        if self.has_hidden:
            self.dense = Dense((D, D), ("embed", None), std=std, dtype=dtype, rngs=rngs)
        self.out = Dense((D, config.num_classes), ("embed", None), std=std, dtype=dtype, rngs=rngs)

    def pool(self, hidden_BLD: jax.Array, real_BL: jax.Array) -> jax.Array:
        """[B, D]"""
        if self.pooling == "first":
            return hidden_BLD[:, 0]
        if self.pooling == "last":
            last = jnp.maximum(jnp.sum(real_BL, axis=1) - 1, 0)
            return jnp.take_along_axis(hidden_BLD, last[:, None, None], axis=1)[:, 0]
        scores = jnp.zeros(real_BL.shape)
        if self.pooling == "attention":
            query = self.query[...].astype(jnp.float32)
            scores = jnp.einsum("bld,d->bl", hidden_BLD.astype(jnp.float32), query) / hidden_BLD.shape[-1] ** 0.5
        shares = jax.nn.softmax(jnp.where(real_BL, scores, -1e30), axis=-1)
        return jnp.einsum("bl,bld->bd", shares, hidden_BLD.astype(jnp.float32)).astype(hidden_BLD.dtype)

    def __call__(self, hidden_BLD: jax.Array, real_BL: jax.Array) -> jax.Array:
        pooled = self.pool(hidden_BLD, real_BL)
        if self.has_hidden:
            pooled = jnp.tanh(self.dense(pooled))
        return self.out(pooled).astype(jnp.float32)
