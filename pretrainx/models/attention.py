"""Attention: who may see whom, the kernels that compute it, and the layer with its projections.

Legend: B batch, T query length, S key length, N heads, K kv heads, G = N/K, H head_dim, D embed.
"""

from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from flax import nnx
from jax.sharding import PartitionSpec

from pretrainx.core.errors import InputError
from pretrainx.models.layers import NORMS, fan_in_normal, project, rotary, rotation, weight
from pretrainx.parallel.shard import Partitioner, spec

KeysValues = tuple[jax.Array, jax.Array]
MASKED = -1e30  # finite, so that a row with nothing to see gives numbers and not NaN


@dataclass(frozen=True)
class Visibility:
    """Who may see whom: the same segment, and no later position if causal. Every kernel honours all of it, or refuses."""

    segment_ids: jax.Array | None = None  # [B, T]; None: one segment
    causal: bool = True
    key_slots: jax.Array | None = None  # [B, T]: reading from a cache; query t sees its slots <= key_slots[b, t]
    bidirectional: jax.Array | None = None  # [B, S], int or bool: marked keys are seen by all of their segment, also if causal
    key_segment_ids: jax.Array | None = None  # [B, S], where the keys are another sequence's; None: as segment_ids

    def mask(self, length: int, key_length: int) -> jax.Array | None:
        """bool [B or 1, T, S], True where seen; None: everything is."""
        if self.key_slots is not None:
            return jnp.arange(key_length)[None, None, :] <= self.key_slots[:, :, None]
        seen = jnp.tril(jnp.ones((1, length, key_length), bool)) if self.causal else None
        if seen is not None and self.bidirectional is not None:
            seen = seen | self.bidirectional.astype(bool)[:, None, :]
        if self.segment_ids is not None:
            keys = self.segment_ids if self.key_segment_ids is None else self.key_segment_ids
            same = self.segment_ids[:, :, None] == keys[:, None, :]
            seen = same if seen is None else seen & same
        return seen


def xla_attention(
    q_BTNH: jax.Array, k_BSKH: jax.Array, v_BSKH: jax.Array, mask_BTS: jax.Array | None, softcap: float, bias: jax.Array | None = None
) -> jax.Array:
    """The plain form; softmax in float32. q is already scaled; bias is float32 [B or 1, N, T, S]. Gives [B, T, N, H]."""
    B, T, N, H = q_BTNH.shape
    K = k_BSKH.shape[2]
    q_BTKGH = q_BTNH.reshape(B, T, K, N // K, H)
    scores = jnp.einsum("BTKGH,BSKH->BKGTS", q_BTKGH, k_BSKH, preferred_element_type=jnp.float32)
    if softcap:
        scores = softcap * jnp.tanh(scores / softcap)
    if bias is not None:
        scores = scores + bias.reshape(-1, K, N // K, *bias.shape[2:])
    if mask_BTS is not None:
        scores = jnp.where(mask_BTS[:, None, None], scores, MASKED)
    shares = jax.nn.softmax(scores, axis=-1).astype(v_BSKH.dtype)
    return jnp.einsum("BKGTS,BSKH->BTKGH", shares, v_BSKH).reshape(B, T, N, H)


def splash_attention(q: jax.Array, k: jax.Array, v: jax.Array, sight: Visibility, softcap: float, partitioner: Partitioner) -> jax.Array:
    """TPU's blocked kernel (Pallas splash attention): never holds [T, S]. Each device attends for its rows and heads."""
    from jax.experimental.pallas.ops.tpu.splash_attention import splash_attention_kernel, splash_attention_mask

    T, N = q.shape[1], q.shape[2]
    rules = partitioner.layout.activations
    heads_axes = spec(("heads",), rules)[0]
    local_heads = N // partitioner.axis_size(heads_axes or ())
    make_mask = splash_attention_mask.CausalMask if sight.causal else splash_attention_mask.FullMask
    block = next((b for b in (512, 384, 256, 128) if T % b == 0), 0)  # the kernel wants whole blocks of whole lanes
    if not block:
        raise InputError(f"model.attention_kernel 'splash' needs a data.sequence_length that 128 divides, found {T}; or choose 'xla'")
    blocks = splash_attention_kernel.BlockSizes(
        block_q=block, block_kv=block, block_kv_compute=block, block_q_dkv=block, block_kv_dkv=block,
        block_kv_dkv_compute=block, block_q_dq=block, block_kv_dq=block,
    )  # fmt: skip
    kernel = splash_attention_kernel.make_splash_mha(
        mask=splash_attention_mask.MultiHeadMask([make_mask((T, T))] * local_heads),
        block_sizes=blocks,
        head_shards=1,
        q_seq_shards=1,
        attn_logits_soft_cap=softcap or None,
        residual_checkpoint_name="attention_residuals",
    )
    repeats = N // k.shape[2]  # the kernel wants as many key heads as query heads here
    k, v = (jnp.repeat(x, repeats, axis=2) if repeats > 1 else x for x in (k, v))
    rows: PartitionSpec = spec(("batch", "heads", None, None), rules)
    segment_ids = sight.segment_ids if sight.segment_ids is not None else jnp.ones(q.shape[:2], jnp.int32)

    @partial(
        jax.shard_map,
        mesh=partitioner.mesh,
        in_specs=(rows, rows, rows, spec(("batch", None), rules)),
        out_specs=rows,
        check_vma=False,  # the kernel does not say how its outputs vary over the mesh
    )
    def local(q_BNTH: jax.Array, k_BNSH: jax.Array, v_BNSH: jax.Array, segments: jax.Array) -> jax.Array:
        ids = splash_attention_kernel.SegmentIds(q=segments, kv=segments)
        return jax.vmap(kernel)(q_BNTH, k_BNSH, v_BNSH, segment_ids=ids)

    out = local(*(x.transpose(0, 2, 1, 3) for x in (q, k, v)), segment_ids)
    return out.transpose(0, 2, 1, 3)


def platform_kernel(partitioner: Partitioner, length: int) -> str:
    """The kernel that `auto` means on the mesh's devices: splash on TPU where the length fits its blocks, else XLA."""
    return "splash" if partitioner.platform == "tpu" and length % 128 == 0 else "xla"


@dataclass(frozen=True)
class Places:
    """Where the tokens of a forward pass stand: their positions [B, T], and the rotation for them where the model has one."""

    positions: jax.Array
    rotation: tuple[jax.Array, jax.Array] | None

    @classmethod
    def of(cls, config: Any, positions: jax.Array) -> "Places":
        rotary = config.positions == "rotary"
        return cls(positions, rotation(positions, config.head_size, config.rope_theta) if rotary else None)


@dataclass(frozen=True)
class LayerCache:
    """Keys and values of all layers, each [layers, B, S, K, H], and the layer that is at work (an index, also a traced one).

    All layers are handed on as one, so that a token's write is done in place: a layer cut out and put back is two copies.
    """

    stacked: KeysValues
    layer: Any

    def write(self, new: KeysValues, positions: jax.Array) -> KeysValues:
        """With [B, T, K, H] at these positions [B, T]."""
        rows = jnp.arange(positions.shape[0])[:, None]
        keys, values = (old.at[self.layer, rows, positions].set(x) for old, x in zip(self.stacked, new, strict=True))
        return keys, values


class Attention(nnx.Module):
    """Multi-head attention with grouped key-value heads, rotary positions and query-key norm as the config says.

    Queries are scaled by head_dim^-0.5, or start smaller by as much (`attention_scale` "none": T5).
    """

    def __init__(self, config: Any, partitioner: Partitioner, *, num_writes: int, rngs: nnx.Rngs):
        D, N, K, H, dtype, std = config.d_model, config.num_heads, config.kv_heads, config.head_size, config.param_dtype, config.init_std
        self.config, self.partitioner = config, partitioner
        query_init = fan_in_normal((D,), 1, std, 1 if config.attention_scale == "head_dim" else H)
        self.query = weight(rngs, (D, N, H), ("embed", "heads", "head_dim"), query_init, dtype)
        self.key = weight(rngs, (D, K, H), ("embed", "kv", "head_dim"), fan_in_normal((D,), 1, std), dtype)
        self.value = weight(rngs, (D, K, H), ("embed", "kv", "head_dim"), fan_in_normal((D,), 1, std), dtype)
        self.out = weight(rngs, (N, H, D), ("heads", "head_dim", "embed"), fan_in_normal((N, H), 2, std, num_writes), dtype)
        if config.use_bias:
            zeros = nnx.initializers.zeros
            self.query_bias = weight(rngs, (N, H), ("heads", "head_dim"), zeros, dtype)
            self.key_bias = weight(rngs, (K, H), ("kv", "head_dim"), zeros, dtype)
            self.value_bias = weight(rngs, (K, H), ("kv", "head_dim"), zeros, dtype)
            self.out_bias = weight(rngs, (D,), ("norm",), zeros, dtype)
        if config.qk_norm:
            self.query_norm = NORMS["rms"](H, dtype=dtype, rngs=rngs)
            self.key_norm = NORMS["rms"](H, dtype=dtype, rngs=rngs)

    def keys_values(self, read_BSD: jax.Array) -> KeysValues:
        """Of what is looked up, [B, S, K, H] each; without their place."""
        config, dtype = self.config, self.config.dtype
        k = project(read_BSD, self.key[...].astype(dtype))
        v = project(read_BSD, self.value[...].astype(dtype))
        if config.use_bias:
            k, v = k + self.key_bias[...].astype(dtype), v + self.value_bias[...].astype(dtype)
        return (self.key_norm(k) if config.qk_norm else k), v

    def __call__(
        self,
        x_BTD: jax.Array,
        places: Places,
        attend: Callable[..., Any],
        cached: LayerCache | None = None,
        memory: jax.Array | KeysValues | None = None,
    ) -> tuple[jax.Array, KeysValues | None]:
        """Gives [B, T, D] and, where a cache came in, all layers' keys and values with these positions of this layer written.

        Keys and values are of `memory`, where one is given: another sequence [B, S, D], whose order positions say nothing of,
        or what `keys_values` made of it.
        """
        config, constrain, dtype = self.config, self.partitioner.constrain, self.config.dtype
        q = project(x_BTD, self.query[...].astype(dtype))
        if config.use_bias:
            q = q + self.query_bias[...].astype(dtype)
        if config.qk_norm:
            q = self.query_norm(q)
        k, v = memory if isinstance(memory, tuple) else self.keys_values(x_BTD if memory is None else memory)
        if places.rotation is not None and memory is None:
            q, k = rotary(q, *places.rotation), rotary(k, *places.rotation)
        q = constrain(q, "batch", "length", "heads", None)
        if config.attention_scale == "head_dim":
            q = q * (config.head_size**-0.5)
        k, v = constrain(k, "batch", "length", "kv", None), constrain(v, "batch", "length", "kv", None)
        written = None
        if cached is not None:
            written = cached.write((k, v), places.positions)
            k, v = (x[cached.layer] for x in written)
        mixed = constrain(attend(q, k, v), "batch", "length", "heads", None)
        out = project(mixed, self.out[...].astype(dtype), 2)
        if config.use_bias:
            out = out + self.out_bias[...].astype(dtype)
        return out, written


def attender(
    config: Any, partitioner: Partitioner, sight: Visibility, length: int, key_length: int, bias: jax.Array | None = None
) -> Callable[..., jax.Array]:
    """`(q, k, v) -> mixed` for one forward pass within a sequence. The mask is made once, outside the loop over layers.

    Raises:
      InputError: `splash` is asked for, and cannot do what this model or batch needs.
    """
    kernel, plain = config.attention_kernel, bias is None and sight.bidirectional is None
    if kernel == "auto":
        kernel = platform_kernel(partitioner, length) if plain else "xla"
    if kernel == "splash" and not plain:
        what = "biased scores (model.positions 'relative')" if bias is not None else "prefix seen both ways (feature 'bidirectional')"
        raise InputError(f"model.attention_kernel 'splash' has no {what}; accepted here are 'auto' and 'xla'")
    if kernel == "splash" and sight.key_slots is None:
        return partial(splash_attention, sight=sight, softcap=config.attention_softcap, partitioner=partitioner)
    return xla_attender(config, sight, length, key_length, bias)


def xla_attender(config: Any, sight: Visibility, length: int, key_length: int, bias: jax.Array | None = None) -> Callable[..., jax.Array]:
    """As `attender`, always the plain form: also for queries that look into another sequence."""
    mask = sight.mask(length, key_length)
    return lambda q, k, v: xla_attention(q, k, v, mask, config.attention_softcap, bias)


def relative_buckets(num_buckets: int, max_distance: int, two_sided: bool) -> np.ndarray:
    """int32[2 * max_distance + 1]: the bucket of (key - query) position from -max_distance on (Raffel 2020, section 2.1).

    Half of a side's buckets hold one distance each, the others widths that grow exponentially up to max_distance, beyond
    which all share the last. Two-sided, later keys have the upper half of the buckets; otherwise all share bucket 0.
    """
    distance = np.arange(-max_distance, max_distance + 1)
    side = num_buckets // 2 if two_sided else num_buckets
    away = np.abs(distance) if two_sided else np.maximum(-distance, 0)
    exact = side // 2
    # In float32, as in the published code: at the edges of buckets the rounding decides.
    growth = np.log(np.maximum(away, 1).astype(np.float32) / np.float32(exact)) / np.float32(np.log(max_distance / exact))
    far = np.minimum(exact + (growth * np.float32(side - exact)).astype(np.int32), side - 1)
    bucket = np.where(away < exact, away, far)
    return np.asarray(bucket + (side * (distance > 0) if two_sided else 0), np.int32)
