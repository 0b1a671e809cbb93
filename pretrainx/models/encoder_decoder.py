"""Encoder and decoder (Vaswani 2017) with the decoder family's layers: two stacks, the second looking into the first.

Legend: B batch, S encoder length, L decoder length, D embed, V vocab.
"""

from dataclasses import dataclass, replace
from typing import ClassVar

import jax
import jax.numpy as jnp
from flax import nnx

from pretrainx.models.attention import Visibility, cross_attender
from pretrainx.models.embedder import DROPOUT_KEY, Batch, Embedder, key_for
from pretrainx.models.heads import TokenHead
from pretrainx.models.stack import Cache, Memory, Stack
from pretrainx.models.transformer import OptionalSize, Outputs, Tower, TransformerConfig
from pretrainx.parallel.shard import Partitioner


@dataclass(frozen=True)
class Config(TransformerConfig):
    name: str = "encoder_decoder"
    num_decoder_layers: OptionalSize = 0  # 0: as many as num_layers, which are the encoder's

    sights: ClassVar[tuple[str, ...]] = ("encoder_decoder",)
    possible_heads: ClassVar[tuple[str, ...]] = ()

    @property
    def decoder(self) -> "Config":
        """The decoder's sizes."""
        return replace(self, num_layers=self.num_decoder_layers or self.num_layers)

    @property
    def towers(self) -> tuple[Tower, ...]:
        return Tower(self, "encoder_tokens", predicts=False), Tower(self.decoder, memory="encoder_tokens")


class Model(nnx.Module):
    """`model(batch) -> Outputs` of the decoder. Batch: tokens, positions, segment_ids [B, L], and the same [B, S] as `encoder_...`.

    Both sides and the head share one table of tokens. A segment of the decoder sees the encoder's segment of its number.
    """

    def __init__(self, config: Config, partitioner: Partitioner, *, rngs: nnx.Rngs):
        config.check()
        self.config, self.partitioner = config, partitioner
        self.embedder = Embedder(config, partitioner, rngs=rngs)
        self.encoder_embedder = Embedder(config, partitioner, shared=True, rngs=rngs)
        self.encoder = Stack(config, partitioner, two_sided=True, rngs=rngs)
        self.decoder = Stack(config.decoder, partitioner, two_sided=False, cross=True, rngs=rngs)
        self.token_head = TokenHead(config, partitioner, rngs=rngs)

    def encode(self, batch: Batch) -> jax.Array:
        """The encoder's hidden states [B, S, D]."""
        own = {name.removeprefix("encoder_"): x for name, x in batch.items() if name.startswith("encoder_")}
        if (key := key_for(batch, "encoder")) is not None:
            own[DROPOUT_KEY] = key
        x = self.encoder_embedder(own, self.embedder.embedding[...])
        return self.encoder(x, own["positions"], Visibility(own.get("segment_ids"), causal=False), key=key_for(own, "stack"))[0]

    def logits(self, hidden: jax.Array) -> jax.Array:
        """[..., D] -> float32 [..., V]."""
        return self.token_head(hidden, self.embedder.embedding[...])

    def __call__(self, batch: Batch) -> Outputs:
        config, segment_ids = self.config, batch.get("segment_ids")
        encoded = self.encode(batch)
        across = Visibility(segment_ids, causal=False, key_segment_ids=batch.get("encoder_segment_ids"))
        memory = Memory(encoded, cross_attender(config, self.partitioner, across, batch["tokens"].shape[1], encoded.shape[1]))
        hidden, _ = self.decoder(self.embedder(batch), batch["positions"], Visibility(segment_ids), memory, key=key_for(batch, "stack"))
        hidden, logits = self.token_head.reader(hidden, self.embedder.embedding[...])
        return Outputs.of(config, self.partitioner, hidden, logits, {})

    def begin(self, batch: Batch, rows: int, length: int) -> Cache:
        """As models/transformer.py, with what the decoder looks up of the encoder's part of the batch."""
        cache = Cache.empty(self.config.decoder, self.partitioner, rows, length)
        return replace(cache, memory=self.decoder.remember(self.encode(batch)), memory_ids=batch["encoder_segment_ids"])

    def decode(self, tokens: jax.Array, positions: jax.Array, cache: Cache, seen: jax.Array | None = None) -> tuple[jax.Array, Cache]:
        """As models/transformer.py."""
        assert cache.memory_ids is not None
        slots = positions if seen is None else jnp.maximum(positions, seen - 1)
        across = Visibility(jnp.ones_like(tokens), causal=False, key_segment_ids=cache.memory_ids)
        memory = Memory(None, cross_attender(self.config, self.partitioner, across, tokens.shape[1], cache.memory_ids.shape[1], "xla"))
        x = self.embedder({"tokens": tokens, "positions": positions})
        hidden, cache = self.decoder(x, positions, Visibility(key_slots=slots, own_slots=positions), memory, cache)
        return hidden, cache
