"""Attention: the layer with its projections, and the choice of the kernel that computes it (attention_kernels/).

Legend: B batch, T query length, S key length, N heads, K kv heads, H head_dim, D embed.
"""

import math
from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from flax import nnx
from jax.ad_checkpoint import checkpoint_name

from pretrainx.core.errors import InputError
from pretrainx.models.attention_kernels import cudnn, splash, xla
from pretrainx.models.attention_kernels.case import Attend, Case, Kernel
from pretrainx.models.attention_kernels.sight import Visibility
from pretrainx.models.layers import NORMS, cuts_length, fan_in_normal, project, weight
from pretrainx.models.rotary import rotary, rotary_by_product, rotation
from pretrainx.parallel.shard import Partitioner

KeysValues = tuple[jax.Array, jax.Array]


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
        self.how = {"apart": cuts_length(partitioner), "kind": config.matmul}  # products are computed
        self.rotary = rotary_by_product if partitioner.platform == "tpu" else rotary
        cuts = partitioner.layout.activations
        self.fused = config.fused_qkv and partitioner.axis_size(cuts.get("heads", ())) * partitioner.axis_size(cuts.get("kv", ())) == 1
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
        dtype = self.config.dtype
        k = project(read_BSD, self.key[...].astype(dtype), **self.how)
        v = project(read_BSD, self.value[...].astype(dtype), **self.how)
        return self.finished(k, v)

    def finished(self, k: jax.Array, v: jax.Array) -> KeysValues:
        """What products gave, with biases and norm."""
        config, dtype = self.config, self.config.dtype
        if config.use_bias:
            k, v = k + self.key_bias[...].astype(dtype), v + self.value_bias[...].astype(dtype)
        return (self.key_norm(k) if config.qk_norm else k), v

    def at_once(self, x_BTD: jax.Array) -> tuple[jax.Array, jax.Array, jax.Array]:
        """What the weights of queries, keys and values give, by one product."""
        weights = [w[...].astype(self.config.dtype) for w in (self.query, self.key, self.value)]
        ends = np.cumsum([w.shape[1] for w in weights[:2]])
        q, k, v = jnp.split(project(x_BTD, jnp.concatenate(weights, axis=1), **self.how), ends, axis=2)
        return q, k, v

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
        if self.fused and memory is None:
            q, k, v = self.at_once(x_BTD)
            k, v = self.finished(k, v)
        else:
            q = project(x_BTD, self.query[...].astype(dtype), **self.how)
            k, v = memory if isinstance(memory, tuple) else self.keys_values(x_BTD if memory is None else memory)
        if config.use_bias:
            q = q + self.query_bias[...].astype(dtype)
        if config.qk_norm:
            q = self.query_norm(q)
        if places.rotation is not None and memory is None:
            q, k = self.rotary(q, *places.rotation), self.rotary(k, *places.rotation)
        q, k, v = checkpoint_name(q, "query"), checkpoint_name(k, "key"), checkpoint_name(v, "value")
        q = constrain(q, "batch", "length", "heads", None)
        if config.attention_scale == "head_dim":
            q = q * (config.head_size**-0.5)
        k, v = constrain(k, "batch", "length", "kv", None), constrain(v, "batch", "length", "kv", None)
        written = None
        if cached is not None:
            written = cached.write((k, v), places.positions)
            k, v = (x[cached.layer] for x in written)
        mixed = constrain(attend(q, k, v), "batch", "length", "heads", None)
        out = project(mixed, self.out[...].astype(dtype), 2, **self.how)
        if config.use_bias:
            out = out + self.out_bias[...].astype(dtype)
        return out, written


KERNELS: dict[str, Kernel] = {"xla": xla, "splash": splash, "cudnn": cudnn}
BEST = {"tpu": "splash", "gpu": "cudnn"}  # what `auto` means by platform, where it can do what is asked; else xla


def attender(
    config: Any, partitioner: Partitioner, sight: Visibility, length: int, key_length: int, bias: jax.Array | None = None
) -> Attend:
    """`(q, k, v) -> mixed` for one forward pass within a sequence, with the model's window. Masks are made once, outside the layers.

    Raises:
      InputError: the kernel that the config names cannot do what this model or batch needs.
    """
    sight = replace(sight, window=config.attention_window)
    kernel = "xla" if sight.key_slots is not None else config.attention_kernel  # from a cache, whatever else is chosen
    return choose(config, partitioner, sight, length, key_length, bias, kernel)


def cross_attender(
    config: Any, partitioner: Partitioner, sight: Visibility, length: int, key_length: int, kernel: str | None = None
) -> Attend:
    """As `attender`, for queries that look into another sequence."""
    return choose(config, partitioner, sight, length, key_length, None, kernel or config.attention_kernel)


def choose(
    config: Any, partitioner: Partitioner, sight: Visibility, length: int, key_length: int, bias: jax.Array | None, kernel: str
) -> Attend:
    """What the kernel of this name, or of the platform where it is `auto`, makes of it."""
    case = Case(
        sight, length, key_length, config.num_heads, config.kv_heads, config.head_size, config.dtype, config.attention_softcap,
        partitioner, bias,
    )  # fmt: skip
    return of_heads(case, kernel) if partitioner.exchanges > 1 else of_kernel(case, kernel)


def of_heads(case: Case, kernel: str) -> Attend:
    """Where each of several devices holds a part of every row: the kernel over whole rows of each one's heads."""
    partitioner, parts = case.partitioner, case.partitioner.exchanges
    kv_heads = math.lcm(case.kv_heads, parts)  # those that are fewer than devices are there more than once
    segments, both_ways = (x if x is None else partitioner.of_row(x) for x in (case.sight.segment_ids, case.sight.bidirectional))
    whole = replace(
        case, sight=replace(case.sight, segment_ids=segments, bidirectional=both_ways), length=case.length * parts,
        key_length=case.key_length * parts, num_heads=case.num_heads // parts, kv_heads=kv_heads // parts, partitioner=partitioner.of_heads,
    )  # fmt: skip
    mix = of_kernel(whole, kernel)

    def attend(q: jax.Array, k: jax.Array, v: jax.Array) -> jax.Array:
        k, v = (jnp.repeat(x, kv_heads // case.kv_heads, axis=2) for x in (k, v))
        exchanged = [checkpoint_name(partitioner.exchange(x), name) for name, x in (("query", q), ("key", k), ("value", v))]
        return partitioner.exchange(mix(*exchanged), back=True)

    return attend


def of_kernel(case: Case, kernel: str) -> Attend:
    name = BEST.get(case.partitioner.platform, "xla") if kernel == "auto" else kernel
    if lacking := KERNELS[name].why_not(case):
        if kernel != "auto":
            raise InputError(f"model.attention_kernel {name!r} has no {lacking}; accepted here are 'auto' and 'xla'")
        name = "xla"
    return KERNELS[name].attender(case)


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
