"""The transformer that most families are: an embedder, a stack, heads; and the config that all families extend.

Legend: B batch, L length, K predicted positions, D embed, V vocab.
"""

import functools
import math
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Annotated, Any, ClassVar, Literal

import jax
import jax.numpy as jnp
from flax import nnx

from pretrainx.core.errors import InputError, nearest
from pretrainx.core.schema import Range
from pretrainx.models import quantized, remat
from pretrainx.models.attention import Visibility
from pretrainx.models.embedder import Batch, Embedder, key_for
from pretrainx.models.heads import BoundaryHead, ClassHead, NeighbourHead, PairHead, TokenHead
from pretrainx.models.layers import ACTIVATIONS
from pretrainx.models.parts import in_parts
from pretrainx.models.stack import Cache, Stack
from pretrainx.parallel.shard import Partitioner

Size = Annotated[int, Range(ge=1)]
OptionalSize = Annotated[int, Range(ge=0)]
Positive = Annotated[float, Range(gt=0)]


@dataclass(frozen=True)
class Tower:
    """One of a model's stacks: its sizes, the features it reads and looks up, and whether tokens are predicted from it."""

    config: "TransformerConfig"
    tokens: str = "tokens"
    memory: str = ""
    predicts: bool = True


@dataclass(frozen=True)
class TransformerConfig:
    """Sizes and choices. The family's file sets the defaults that are its own; `train` sets the last three."""

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
    norm_eps: Positive = 1e-6
    post_norm: bool = False  # norm after each residual sum (BERT) instead of before each branch
    embed_norm: bool = False  # norm of the summed embeddings; post_norm has it in any case
    embedding_size: OptionalSize = 0  # of the token table where it is factorised (Lan 2020, section 3.1); 0: d_model
    bigram_rows: OptionalSize = 0  # of a table for pairs of tokens, by hash (encoders; embedder.py); 0: none
    bigram_dim: Size = 8  # numbers that a pair adds to
    positions: Literal["rotary", "learned", "relative", "none"] = "rotary"
    max_length: OptionalSize = 0  # of learned positions; 0: the data's sequence length
    position_offset: OptionalSize = 0  # rows of learned positions that lie unused before the first
    max_block_positions: OptionalSize = 0  # learned positions within a block, from feature block_positions (GLM); 0: none
    relative_buckets: Annotated[int, Range(ge=4)] = 32
    relative_max_distance: Size = 128  # all that is further away shares a bucket
    num_token_types: OptionalSize = 0
    rope_theta: Positive = 10_000.0
    use_bias: bool = False
    qk_norm: bool = False
    tied_head: bool = False
    head_transform: bool = False  # dense + activation + norm before the head, and a bias on the logits (BERT's MLM head)
    attention_scale: Literal["head_dim", "none"] = "head_dim"  # scores times head_dim^-0.5; none: queries start smaller by that
    attention_softcap: float = 0.0  # 0: none; else cap * tanh(scores / cap) (Gemma 2)
    logit_scale: Literal["none", "embed"] = "none"  # embed: logits of a tied head times d_model^-0.5 (T5)
    logit_softcap: float = 0.0
    attention_kernel: Literal["auto", "xla", "splash", "cudnn"] = "auto"
    fused_qkv: bool = False  # queries, keys and values of one text by one product, where no mesh axis cuts heads
    attention_window: OptionalSize = 0  # places that a query sees, its own among them, back (and ahead, if it may); 0: all
    matmul: Literal["float", "int8", "fp8"] = "float"  # of the layers' products; in eight bits as quantized.py says
    init_std: float | None = None  # of matrices; none: 1/sqrt(fan in)
    depth_scaled_init: bool = True  # what is added to the residual stream starts smaller by the root of the number of additions
    embed_init_std: float = 0.02
    head_init_std: float | None = 0.02  # of an untied head, small: the first guess is even; none: 1/sqrt(fan in)
    embed_scale: Positive = 1.0  # embeddings are multiplied by it on their way in (Vaswani 2017, section 3.4: sqrt(d_model))
    heads: tuple[str, ...] = ()  # beyond the one over tokens; `train` adds those that the mixture's objectives need
    max_span: Size = 20  # longest span of the head "boundary"
    num_classes: OptionalSize = 0  # outputs of the head "classes"; the objective settles it
    pooling: Literal["first", "last", "mean", "attention"] = "first"  # what of a text's hidden states the head "classes" reads
    class_hidden: bool = True  # a dense layer and tanh before its outputs (Devlin 2018); without it is linear
    lora_rank: OptionalSize = 0  # of adapters, which are then all that is trained (lora.py); 0: none
    lora_alpha: Positive = 16.0
    lora_targets: tuple[str, ...] = ("*attention/query", "*attention/value")
    dropout: Annotated[float, Range(ge=0, lt=1)] = 0.0  # of embeddings and of what each branch adds, while training
    word_dropout: Annotated[float, Range(ge=0, lt=1)] = 0.0  # of tokens, while training: read as the unknown one (Iyyer 2015, section 3)
    unknown_id: OptionalSize = 0  # that a dropped token is read as; 0: the vocabulary's
    mlp_chunks: Size = 1  # the MLP runs over the tokens in so many parts: less memory while a layer is done again, same result
    loss_chunks: Size = 1  # the head and the loss run over the tokens in so many parts: less memory, same result
    scan_layers: bool = True
    remat: str = "none"
    dtype: str = "float32"
    param_dtype: str = "float32"

    # Of the family: the sights of objectives that it can serve (objectives/interface.py), and the heads it may have.
    sights: ClassVar[tuple[str, ...]] = ("causal",)
    possible_heads: ClassVar[tuple[str, ...]] = ("pair", "boundary", "classes", "neighbours")

    @property
    def causal(self) -> bool:
        """Whether it can go on from a text token by token."""
        return "causal" in self.sights

    @property
    def drops(self) -> bool:
        """Whether it drops anything while training."""
        return bool(self.dropout or self.word_dropout)

    @property
    def kv_heads(self) -> int:
        return self.num_kv_heads or self.num_heads

    @property
    def head_size(self) -> int:
        return self.head_dim or self.d_model // self.num_heads

    @property
    def embed_size(self) -> int:
        return self.embedding_size or self.d_model

    @property
    def embed_dim(self) -> str:
        """The logical dim of the embedder's vectors."""
        return "embed" if self.embed_size == self.d_model else "embedding"

    @property
    def derived_mlp_dim(self) -> int:
        return math.ceil(self.d_model * 8 / 3 / 64) * 64 if self.gated_mlp else 4 * self.d_model

    @property
    def towers(self) -> tuple[Tower, ...]:
        return (Tower(self),)

    @property
    def present_heads(self) -> tuple[str, ...]:
        """What `Outputs.heads` will hold."""
        return self.heads

    def check(self) -> None:
        """What a single field cannot tell. Raises InputError."""
        if self.num_heads % self.kv_heads:
            raise InputError(f"model.num_kv_heads {self.kv_heads} does not divide model.num_heads {self.num_heads}")
        if not self.head_dim and self.d_model % self.num_heads:
            raise InputError(f"model.d_model {self.d_model} is not divisible by model.num_heads {self.num_heads}; set model.head_dim")
        if self.bigram_rows and self.sights != ("bidirectional",):
            raise InputError(f"model.bigram_rows: only encoders have vectors of pairs, and model.name {self.name!r} is none; set it to 0")
        if self.bigram_rows and self.bigram_dim > self.embed_size:
            raise InputError(f"model.bigram_dim {self.bigram_dim} is more than the {self.embed_size} numbers of a token's vector")
        if self.positions == "rotary" and self.head_size % 2:
            raise InputError(f"model.head_dim {self.head_size} is odd, and rotary positions turn pairs; choose an even one")
        if self.positions == "relative" and self.attention_kernel in ("splash", "cudnn"):
            kernel = self.attention_kernel
            raise InputError(f"model.attention_kernel {kernel!r} has no biased scores (model.positions 'relative'); choose 'auto' or 'xla'")
        if self.positions == "relative" and (self.relative_buckets % 4 or self.relative_buckets >= 2 * self.relative_max_distance):
            raise InputError(
                f"model.relative_buckets {self.relative_buckets} must be a multiple of 4, and less than twice "
                f"model.relative_max_distance {self.relative_max_distance}"
            )
        if self.activation not in ACTIVATIONS:
            raise InputError(f"model.activation: unknown name {self.activation!r}; {nearest(self.activation, ACTIVATIONS)}")
        remat.policy(self.remat)
        if self.matmul != "float":
            quantized.require(self.matmul)
        if self.tied_head and self.embed_size != self.d_model and not self.head_transform:
            raise InputError(
                f"model.tied_head: vectors of model.d_model {self.d_model} do not fit a table of model.embedding_size "
                f"{self.embedding_size}; set model.head_transform, or untie the head"
            )
        for head in self.heads:
            if head not in self.possible_heads:
                has = (
                    f"it can have {' and '.join(map(repr, self.possible_heads))}"
                    if self.possible_heads
                    else "it can have none beyond tokens"
                )
                raise InputError(f"model.heads: model.name {self.name!r} has no head {head!r}, {has}; choose another model or objective")


@dataclass(frozen=True)
class Outputs:
    """Last hidden states [B, L, D], and the heads that read them.

    `logits` makes float32 [..., V] of any part of the hidden states: losses call it on slices, so that [B, L, V] need
    never exist as a whole. `heads` has those that `config.heads` names; nothing of them is computed before they are called:
      "pair"      `() -> float32 [B, 2]`, logits of how the row's two texts relate
      "boundary"  `(left [B, K, D], right [B, K, D], offsets [B, K]) -> float32 [B, K, V]`, logits of the tokens in spans,
                  from the hidden states just outside a span and a token's place in it, from 0
      "classes"   `() -> float32 [B, num_classes]`, logits of a class of the row's text, or a score
      "neighbours"  `(tokens [B, L], drawn [B, K]) -> (float32 [B, L, L], float32 [B, L, K])`, logits that the second token stands
                  near the first, of all pairs of the row and with tokens drawn for it
      "replaced"  `(tokens [B, L]) -> float32 [B, L]`, logits that the token there is not the original
    """

    hidden: jax.Array
    logits: Callable[[jax.Array], jax.Array]
    chunks: int = 1
    gather_targets: bool = False  # see objectives/losses.py
    own_rows: bool = False  # see parts.py
    heads: dict[str, Callable[..., jax.Array]] = field(default_factory=dict)
    memo: dict[int, Any] = field(default_factory=dict)  # what losses of one batch share; see objectives/losses.py

    @classmethod
    def of(
        cls, config: TransformerConfig, partitioner: Partitioner, hidden: jax.Array, logits: Callable[[jax.Array], jax.Array],
        heads: dict[str, Callable[..., jax.Array]],
    ) -> "Outputs":  # fmt: skip
        """With what the config and the mesh say of how losses are computed."""
        vocab = partitioner.layout.activations.get("vocab", ())
        gathers = partitioner.platform == "cpu" and partitioner.axis_size(vocab) == 1  # by index, where none holds a part of the vocabulary
        return cls(hidden, logits, config.loss_chunks, gathers, partitioner.own_rows, heads)

    def in_parts(self, function: Callable[..., Any], *arrays: jax.Array) -> Any:
        """`function(*arrays)` of [B, L, ...], in `chunks` that are each computed again in the backward pass."""
        return in_parts(function, arrays, self.chunks, self.own_rows, functools.partial(jax.checkpoint, prevent_cse=False))


class Transformer(nnx.Module):
    """`model(batch) -> Outputs`. Batch: tokens [B, L], and positions, segment_ids, token_types, ... where they apply."""

    def __init__(self, config: TransformerConfig, partitioner: Partitioner, *, rngs: nnx.Rngs):
        config.check()
        self.config, self.partitioner = config, partitioner
        self.embedder = Embedder(config, partitioner, rngs=rngs)
        self.stack = Stack(config, partitioner, two_sided=config.sights != ("causal",), rngs=rngs)
        self.token_head = TokenHead(config, partitioner, rngs=rngs)
        if "pair" in config.heads:
            self.pair_head = PairHead(config, rngs=rngs)
        if "boundary" in config.heads:
            self.boundary_head = BoundaryHead(config, partitioner, rngs=rngs)
        if "classes" in config.heads:
            self.class_head = ClassHead(config, rngs=rngs)
        if "neighbours" in config.heads:
            self.neighbour_head = NeighbourHead(config, partitioner, rngs=rngs)

    def logits(self, hidden: jax.Array) -> jax.Array:
        """[..., D] -> float32 [..., V]."""
        return self.token_head(hidden, self.embedder.embedding[...])

    def __call__(self, batch: Batch) -> Outputs:
        config = self.config
        both_ways = batch.get("bidirectional") if "prefix" in config.sights else None
        sight = Visibility(batch.get("segment_ids"), config.causal, bidirectional=both_ways)
        hidden, _ = self.stack(self.embedder(batch), batch["positions"], sight, key=key_for(batch, "stack"))
        heads: dict[str, Callable[..., jax.Array]] = {}
        if "pair" in config.heads:
            heads["pair"] = lambda: self.pair_head(hidden[:, 0])
        if "boundary" in config.heads:
            heads["boundary"] = lambda left, right, offsets: self.boundary_head(left, right, offsets, self.embedder.embedding[...])
        if "classes" in config.heads:
            heads["classes"] = lambda: self.class_head(hidden, batch["segment_ids"] > 0)
        if "neighbours" in config.heads:
            heads["neighbours"] = lambda tokens, drawn: self.neighbour_head(self.embedder.embedding[...], tokens, drawn)
        hidden, logits = self.token_head.reader(hidden, self.embedder.embedding[...])
        return Outputs.of(config, self.partitioner, hidden, logits, heads)

    def encode(self, batch: Batch) -> jax.Array:
        """Hidden states [B, L, D]: what a head for another task reads."""
        return self(batch).hidden

    def begin(self, batch: Batch, rows: int, length: int) -> Cache:
        """The cache of so many rows before their first token, with room for `length` tokens. Of the batch nothing is read here."""
        del batch
        return Cache.empty(self.config, self.partitioner, rows, length)

    def decode(self, tokens: jax.Array, positions: jax.Array, cache: Cache, seen: jax.Array | None = None) -> tuple[jax.Array, Cache]:
        """Hidden states [B, T, D] of new tokens [B, T], given a cache of those before; and the cache with them written.

        A query sees the slots of the cache up to its own position, or the first `seen` [B, T], where that is more.
        """
        slots = positions if seen is None else jnp.maximum(positions, seen - 1)
        x = self.embedder({"tokens": tokens, "positions": positions})
        hidden, cache = self.stack(x, positions, Visibility(key_slots=slots, own_slots=positions), cache=cache)
        return hidden, cache
