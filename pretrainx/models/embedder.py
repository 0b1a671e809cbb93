"""What a stack reads: the sum of embeddings of tokens, positions and types.

Legend: B batch, L length, D embed, E the embedding's own size (D, or smaller where factorised), V vocab.
"""

import zlib
from typing import Any

import jax
import jax.numpy as jnp
from flax import nnx

from pretrainx.models.layers import NORMS, dropout, normal, weight
from pretrainx.parallel.shard import Partitioner

Batch = dict[str, jax.Array]
DROPOUT_KEY = "dropout_key"  # in a batch only while training, and only where the model drops


def key_for(batch: Batch, part: str) -> jax.Array | None:
    """The key of one part of a model for what it drops; None where the batch has none."""
    key = batch.get(DROPOUT_KEY)
    return None if key is None else jax.random.fold_in(key, zlib.crc32(part.encode()))


def unknown_for(tokens: jax.Array, rate: float, unknown_id: int, key: jax.Array | None) -> jax.Array:
    """`tokens` [B, L] with a share `rate` of them replaced by `unknown_id`; without a key, `tokens`.

    So a text is learned without some of its words, and what stands for the words that training did not have is learned too: on a
    few thousand sentences that beats embeddings dropped to zero (Iyyer 2015) by a point.
    """
    return jnp.where(dropout(jnp.ones(tokens.shape), rate, key) > 0, tokens, unknown_id)


def bigram_rows(before: jax.Array, tokens: jax.Array, rows: int) -> jax.Array:
    """The row, of so many, of each pair of token ids [B, L]: a multiplicative hash, its bits mixed as in MurmurHash3's finaliser."""
    mixed = before.astype(jnp.uint32) * jnp.uint32(0x9E3779B1) + tokens.astype(jnp.uint32) * jnp.uint32(0x85EBCA77)
    for factor in (0x85EBCA6B, 0xC2B2AE35):
        mixed = (mixed ^ (mixed >> 15)) * jnp.uint32(factor)
    return ((mixed ^ (mixed >> 16)) % jnp.uint32(rows)).astype(jnp.int32)


PRODUCT_ROWS = 2**16  # of a table; with more, a product with all of them takes longer than it saves


def look_up(table: jax.Array, ids: jax.Array, platform: str) -> jax.Array:
    """Rows [..., E] of the table [R, E] by their ids [...]. On a TPU the table's gradient comes by a product, where it has few rows.

    A scatter adds in the table's type, one row after the other: in bfloat16 an often read row loses what is added to it late. The
    product of which token reads which row [..., R], never written down, with the gradient of each sums in float32.
    """
    return _looked_up(table, ids) if platform == "tpu" and len(table) <= PRODUCT_ROWS else table[ids]


@jax.custom_vjp
def _looked_up(table: jax.Array, ids: jax.Array) -> jax.Array:
    return table[ids]


def _scattered(saved: tuple[jax.Array, int], g: jax.Array) -> tuple[jax.Array, None]:
    ids, rows = saved
    g = g.reshape(-1, g.shape[-1])
    reads = (ids.reshape(-1, 1) == jnp.arange(rows, dtype=ids.dtype)).astype(g.dtype)
    exact = {"precision": jax.lax.Precision.HIGHEST, "preferred_element_type": jnp.float32}
    summed = jax.lax.dot_general(reads, g, (((0,), (0,)), ((), ())), **exact)
    return summed.astype(g.dtype), None


_looked_up.defvjp(lambda table, ids: (table[ids], (ids, len(table))), _scattered)


class Embedder(nnx.Module):
    """`embedder(batch) -> [B, L, E]` of `tokens`, and of `positions, block_positions, token_types` where the config has them.

    With `bigram_rows`, a token and the one before it in its segment have a vector of their own, of `bigram_dim` numbers, which is added
    to the first of the token's: what a pair of words says ("not bad") need not be composed from what each does, and is learned from
    few texts (fastText's hashed pairs, Joulin 2017, section 2.1). Pairs share rows where their hashes fall together.

    Where a batch has no block positions or types they are 0, and so are types where there is one only (RoBERTa).
    Learned positions have `position_offset` rows that nothing reads before the first (2 in RoBERTa and BART).
    With `shared`, the table of tokens belongs to another embedder and is given at each call.
    """

    def __init__(self, config: Any, partitioner: Partitioner, *, shared: bool = False, rngs: nnx.Rngs):
        self.config, self.partitioner = config, partitioner

        def table(rows: int, dim: str) -> nnx.Param:
            init = normal(config.embed_init_std)
            return weight(rngs, (rows, config.embed_size), (dim, config.embed_dim), init, config.param_dtype)

        if not shared:
            self.embedding = table(config.vocab_size, "vocab")
        if config.bigram_rows:  # zeros: at first all is as without them
            shape, dims = (config.bigram_rows, config.bigram_dim), ("bigrams", "norm")
            self.bigram_embedding = weight(rngs, shape, dims, nnx.initializers.zeros, config.param_dtype)
        if config.positions == "learned":
            self.position_embedding = table(config.position_offset + config.max_length, "positions")
        if config.max_block_positions:
            self.block_position_embedding = table(config.max_block_positions, "positions")
        if config.num_token_types:
            self.type_embedding = table(config.num_token_types, "types")
        if config.post_norm or config.embed_norm:
            self.norm = NORMS[config.norm](config.embed_size, dtype=config.param_dtype, rngs=rngs, eps=config.norm_eps)

    def __call__(self, batch: Batch, embedding: jax.Array | None = None) -> jax.Array:
        config, tokens = self.config, batch["tokens"]
        if config.word_dropout:
            tokens = unknown_for(tokens, config.word_dropout, config.unknown_id, key_for(batch, "words"))
        x = self.rows_of(self.embedding[...] if embedding is None else embedding, tokens) * config.embed_scale
        if config.bigram_rows:
            x = x + self.bigrams(tokens, batch.get("segment_ids"))
        if config.positions == "learned":
            x = x + self.rows_of(self.position_embedding[...], batch["positions"] + config.position_offset)
        if config.max_block_positions:
            x = x + self.rows_of(self.block_position_embedding[...], batch.get("block_positions", jnp.zeros_like(tokens)))
        if config.num_token_types:
            types = batch.get("token_types") if config.num_token_types > 1 else None
            x = x + self.rows_of(self.type_embedding[...], jnp.zeros_like(tokens) if types is None else types)
        if config.post_norm or config.embed_norm:
            x = self.norm(x)
        x = dropout(x, config.dropout, key_for(batch, "embedder"))
        return self.partitioner.constrain(x, "batch", "length", config.embed_dim)

    def rows_of(self, table: jax.Array, ids: jax.Array) -> jax.Array:
        return look_up(table.astype(self.config.dtype), ids, self.partitioner.platform)

    def bigrams(self, tokens: jax.Array, segment_ids: jax.Array | None) -> jax.Array:
        """[B, L, E] of each token [B, L] with the one before it; zeros for the first of a segment, and where there is none."""
        config = self.config
        segments = jnp.ones_like(tokens) if segment_ids is None else segment_ids
        paired = (segments > 0) & (self.partitioner.before(segments) == segments)
        rows = bigram_rows(self.partitioner.before(tokens), tokens, config.bigram_rows)
        found = jnp.where(paired[..., None], self.rows_of(self.bigram_embedding[...], rows), 0)
        return jnp.pad(found, ((0, 0), (0, 0), (0, config.embed_size - config.bigram_dim)))
