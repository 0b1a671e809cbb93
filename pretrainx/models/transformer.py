"""The transformer that the families share: embeddings, a scanned stack of blocks, a head.

Legend: B batch, L length, D embed, V vocab.
"""

import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import Annotated, Any, Literal

import jax
import jax.numpy as jnp
from flax import nnx

from pretrainx.core.errors import InputError, nearest
from pretrainx.core.schema import Range
from pretrainx.models.attention import Attention, Visibility, attender
from pretrainx.models.layers import ACTIVATIONS, MLP, NORMS, fan_in_normal, normal, stack, weight
from pretrainx.parallel.shard import Partitioner

Size = Annotated[int, Range(ge=1)]
OptionalSize = Annotated[int, Range(ge=0)]
Batch = dict[str, jax.Array]

# What the backward pass keeps of each layer; the rest is computed again (Chen 2016).
REMAT_POLICIES: dict[str, Any] = {
    "none": None,
    "full": jax.checkpoint_policies.nothing_saveable,
    "dots": jax.checkpoint_policies.dots_saveable,
    "minimal": jax.checkpoint_policies.dots_with_no_batch_dims_saveable,
}


@dataclass(frozen=True)
class TransformerConfig:
    """Sizes and choices. The family's file sets the defaults that are its own; `train` sets the last four."""

    name: str = "decoder"
    vocab_size: OptionalSize = 0  # 0: the data's vocabulary
    d_model: Size = 512
    num_layers: Size = 8
    num_heads: Size = 8
    num_kv_heads: OptionalSize = 0  # 0: as many as heads
    head_dim: OptionalSize = 0  # 0: d_model / num_heads
    mlp_dim: OptionalSize = 0  # 0: 4 * d_model, or 8/3 of it (a multiple of 64) with a gate: about the same weights
    gated_mlp: bool = True
    activation: str = "silu"
    norm: Literal["rms", "layer"] = "rms"
    norm_eps: float = 1e-6
    post_norm: bool = False  # norm after each residual sum (BERT) instead of before each branch
    positions: Literal["rotary", "learned", "none"] = "rotary"
    max_length: OptionalSize = 0  # rows of learned positions; 0: the data's sequence length
    num_token_types: OptionalSize = 0
    rope_theta: float = 10_000.0
    use_bias: bool = False
    qk_norm: bool = False
    tied_head: bool = False
    head_transform: bool = False  # dense + activation + norm before the head, and a bias on the logits (BERT's MLM head)
    attention_softcap: float = 0.0  # 0: none; else cap * tanh(scores / cap) (Gemma 2)
    logit_softcap: float = 0.0
    causal: bool = True
    attention_kernel: Literal["auto", "xla", "splash"] = "auto"
    init_std: float | None = None  # of matrices; none: 1/sqrt(fan in)
    embed_init_std: float = 0.02  # of embeddings and head
    embed_scale: Annotated[float, Range(gt=0)] = (
        1.0  # embeddings are multiplied by it on their way in (Vaswani 2017, section 3.4: sqrt(d_model))
    )
    loss_chunks: Size = 1  # the head and the loss run over the sequence in so many parts: less memory, same result
    scan_layers: bool = True
    remat: str = "none"
    dtype: str = "float32"
    param_dtype: str = "float32"

    @property
    def kv_heads(self) -> int:
        return self.num_kv_heads or self.num_heads

    @property
    def head_size(self) -> int:
        return self.head_dim or self.d_model // self.num_heads

    def check(self) -> None:
        """What a single field cannot tell. Raises InputError."""
        if self.num_heads % self.kv_heads:
            raise InputError(f"model.num_kv_heads {self.kv_heads} does not divide model.num_heads {self.num_heads}")
        if not self.head_dim and self.d_model % self.num_heads:
            raise InputError(f"model.d_model {self.d_model} is not divisible by model.num_heads {self.num_heads}; set model.head_dim")
        if self.positions == "rotary" and self.head_size % 2:
            raise InputError(f"model.head_dim {self.head_size} is odd, and rotary positions turn pairs; choose an even one")
        if self.activation not in ACTIVATIONS:
            raise InputError(f"model.activation: unknown name {self.activation!r}; {nearest(self.activation, ACTIVATIONS)}")
        if self.remat not in REMAT_POLICIES:
            raise InputError(f"train.remat: unknown policy {self.remat!r}; {nearest(self.remat, REMAT_POLICIES)}")

    @property
    def derived_mlp_dim(self) -> int:
        return math.ceil(self.d_model * 8 / 3 / 64) * 64 if self.gated_mlp else 4 * self.d_model


@dataclass(frozen=True)
class Outputs:
    """Last hidden states [B, L, D], and the head that makes float32 logits [..., V] of any part of them.

    Losses call `logits` on slices, so that [B, L, V] need never exist as a whole.
    """

    hidden: jax.Array
    logits: Callable[[jax.Array], jax.Array]
    chunks: int = 1
    gather_targets: bool = False  # see objectives/losses.py


class Block(nnx.Module):
    """Attention and MLP, each with a norm and a residual sum."""

    def __init__(self, config: TransformerConfig, partitioner: Partitioner, *, rngs: nnx.Rngs):
        norm = NORMS[config.norm]
        self.config, self.partitioner = config, partitioner
        self.attention = Attention(config, partitioner, rngs=rngs)
        self.attention_norm = norm(config.d_model, dtype=config.param_dtype, rngs=rngs, eps=config.norm_eps)
        self.mlp = MLP(config, constrain=partitioner.constrain, rngs=rngs)
        self.mlp_norm = norm(config.d_model, dtype=config.param_dtype, rngs=rngs, eps=config.norm_eps)

    def __call__(self, x: jax.Array, positions: jax.Array, attend: Callable[..., Any], cache: Any = None) -> tuple[jax.Array, Any]:
        constrain = self.partitioner.constrain
        if self.config.post_norm:
            mixed, cache = self.attention(x, positions, attend, cache)
            x = self.attention_norm(x + mixed)
            x = self.mlp_norm(x + self.mlp(x))
        else:
            mixed, cache = self.attention(self.attention_norm(x), positions, attend, cache)
            x = constrain(x + mixed, "batch", "length", "embed")
            x = x + self.mlp(self.mlp_norm(x))
        return constrain(x, "batch", "length", "embed"), cache


class Transformer(nnx.Module):
    """`model(batch) -> Outputs`. Batch: tokens [B, L], and positions, segment_ids, token_types where they apply."""

    def __init__(self, config: TransformerConfig, partitioner: Partitioner, *, rngs: nnx.Rngs):
        D, V, dtype = config.d_model, config.vocab_size, config.param_dtype
        self.config, self.partitioner = config, partitioner
        embed_init = normal(config.embed_init_std)
        self.embedding = weight(rngs, (V, D), ("vocab", "embed"), embed_init, dtype)
        if config.positions == "learned":
            self.position_embedding = weight(rngs, (config.max_length, D), ("positions", "embed"), embed_init, dtype)
        if config.num_token_types:
            self.type_embedding = weight(rngs, (config.num_token_types, D), ("types", "embed"), embed_init, dtype)
        norm = NORMS[config.norm]
        if config.post_norm:
            self.embedding_norm = norm(D, dtype=dtype, rngs=rngs, eps=config.norm_eps)
        self.blocks = stack(lambda r: Block(config, partitioner, rngs=r), config.num_layers, rngs)
        if not config.post_norm:
            self.final_norm = norm(D, dtype=dtype, rngs=rngs, eps=config.norm_eps)
        if config.head_transform:
            self.transform = weight(rngs, (D, D), ("embed", None), fan_in_normal((D,), 1, config.init_std), dtype)
            self.transform_bias = weight(rngs, (D,), ("norm",), nnx.initializers.zeros, dtype)
            self.transform_norm = norm(D, dtype=dtype, rngs=rngs, eps=config.norm_eps)
            self.head_bias = weight(rngs, (V,), ("vocab",), nnx.initializers.zeros, dtype)
        if not config.tied_head:
            self.head = weight(rngs, (D, V), ("embed", "vocab"), embed_init, dtype)  # small: the first guess is even

    def embed(self, batch: Batch) -> jax.Array:
        config = self.config
        x = self.embedding[...].astype(config.dtype)[batch["tokens"]] * config.embed_scale
        if config.positions == "learned":
            x = x + self.position_embedding[...].astype(config.dtype)[batch["positions"]]
        if config.num_token_types:
            x = x + self.type_embedding[...].astype(config.dtype)[batch.get("token_types", jnp.zeros_like(batch["tokens"]))]
        if config.post_norm:
            x = self.embedding_norm(x)
        return self.partitioner.constrain(x, "batch", "length", "embed")

    def run_blocks(self, x: jax.Array, positions: jax.Array, attend: Callable[..., Any], cache: Any = None) -> tuple[jax.Array, Any]:
        """All layers in turn. One compiled layer serves all (scan), and rematerialisation goes by layer."""
        graph, weights = nnx.split(self.blocks)

        def layer(x: jax.Array, inputs: tuple[Any, Any]) -> tuple[jax.Array, Any]:
            layer_weights, layer_cache = inputs
            return nnx.merge(graph, layer_weights)(x, positions, attend, layer_cache)

        if self.config.remat != "none" and cache is None:
            layer = jax.checkpoint(layer, policy=REMAT_POLICIES[self.config.remat], prevent_cse=not self.config.scan_layers)
        if self.config.scan_layers:
            return jax.lax.scan(layer, x, (weights, cache))
        caches = []
        for i in range(self.config.num_layers):
            x, new = layer(x, jax.tree.map(lambda a: a[i], (weights, cache)))  # noqa: B023 - used at once
            caches.append(new)
        return x, jax.tree.map(lambda *a: jnp.stack(a), *caches)

    def logits(self, hidden: jax.Array) -> jax.Array:
        """[..., D] -> float32 [..., V]."""
        config, dtype = self.config, self.config.dtype
        if config.head_transform:
            hidden = hidden @ self.transform[...].astype(dtype) + self.transform_bias[...].astype(dtype)
            hidden = self.transform_norm(ACTIVATIONS[config.activation](hidden))
        if config.tied_head:
            logits = jnp.einsum("...D,VD->...V", hidden, self.embedding[...].astype(dtype), preferred_element_type=jnp.float32)
        else:
            logits = jnp.einsum("...D,DV->...V", hidden, self.head[...].astype(dtype), preferred_element_type=jnp.float32)
        if config.head_transform:
            logits = logits + self.head_bias[...].astype(jnp.float32)
        if config.logit_softcap:
            logits = config.logit_softcap * jnp.tanh(logits / config.logit_softcap)
        return self.partitioner.constrain(logits, "batch", *[None] * (logits.ndim - 2), "vocab")

    def __call__(self, batch: Batch) -> Outputs:
        length = batch["tokens"].shape[1]
        sight = Visibility(batch.get("segment_ids"), self.config.causal)
        attend = attender(self.config, self.partitioner, sight, length, length)
        hidden, _ = self.run_blocks(self.embed(batch), batch["positions"], attend)
        hidden = hidden if self.config.post_norm else self.final_norm(hidden)
        return Outputs(hidden, self.logits, self.config.loss_chunks, self.gather_targets)

    @property
    def gather_targets(self) -> bool:
        """Whether a loss does best to pick targets by index: on a CPU, where no device holds a part of the vocabulary."""
        axes = self.partitioner.layout.activations.get("vocab", ())
        return self.partitioner.platform == "cpu" and self.partitioner.axis_size(axes) == 1

    def empty_cache(self, batch_size: int, length: int) -> tuple[jax.Array, jax.Array]:
        """Keys and values of no tokens yet: two arrays [layers, B, S, K, H]."""
        shape = (self.config.num_layers, batch_size, length, self.config.kv_heads, self.config.head_size)
        return jnp.zeros(shape, self.config.dtype), jnp.zeros(shape, self.config.dtype)

    def decode(self, tokens: jax.Array, positions: jax.Array, cache: tuple[jax.Array, jax.Array]) -> tuple[jax.Array, Any]:
        """Hidden states [B, T, D] of new tokens, given a cache of those before; and the cache with them written.

        Position p lies in slot p of the cache, and a query sees the slots up to its own position.
        """
        attend = attender(self.config, self.partitioner, Visibility(key_slots=positions), tokens.shape[1], cache[0].shape[2])
        x = self.embed({"tokens": tokens, "positions": positions})
        hidden, cache = self.run_blocks(x, positions, attend, cache)
        return (hidden if self.config.post_norm else self.final_norm(hidden)), cache
