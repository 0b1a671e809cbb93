"""Weights with logical dims, and the small layers every family is made of.

Legend: B batch, L length, D embed, N heads, K kv heads, H head_dim, F mlp, V vocab.
"""

import functools
import math
from collections.abc import Callable, Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from flax import nnx
from jax.ad_checkpoint import checkpoint_name
from jax.extend.random import threefry2x32_p

from pretrainx.models import quantized, remat
from pretrainx.models.parts import in_parts
from pretrainx.parallel.shard import Dims, Partitioner

Initializer = Callable[..., jax.Array]


def normal(std: float) -> Initializer:
    """Normal, cut at two standard deviations and rescaled so that the deviation is `std`."""
    return nnx.initializers.truncated_normal(std / 0.87962566103423978)


def fan_in_normal(shape: Sequence[int], num_in: int, std: float | None, shares: int = 1) -> Initializer:
    """For a weight whose first `num_in` dims are summed over: deviation 1/sqrt(fan in), so that a unit input gives a
    unit output at any width; or a fixed `std`. Divided by sqrt(shares): what is one of so many additions to the residual
    stream (GPT-2, section 2.3) leaves the stream's variance as it is at any depth.
    """
    base = 1 / math.sqrt(math.prod(shape[:num_in])) if std is None else std
    return normal(base / math.sqrt(max(shares, 1)))


def weight(rngs: nnx.Rngs, shape: Sequence[int], dims: Dims, init: Initializer, dtype: str) -> nnx.Param:
    """A parameter whose every dim has a logical name: what sharding, the optimizer and reports go by."""
    assert len(shape) == len(dims), (shape, dims)
    return nnx.Param(init(rngs.params(), tuple(shape), jnp.dtype(dtype)), dims=dims)


def dropout(x: jax.Array, rate: float, key: jax.Array | None, rows: jax.Array | None = None) -> jax.Array:
    """x with a share `rate` of its elements zero and the others scaled up by as much (Srivastava 2014); without a key, x.

    The share is a multiple of 2^-16. What is dropped is a function of the key and the element's place: no mesh changes it.
    `rows` [B]: the places of x's rows in the whole batch, where x is a part of it, which has what the whole would have.
    """
    if key is None or not (dropped := round(rate * 2**16)):
        return x
    bits = jax.random.bits(key, x.shape, jnp.uint16) if rows is None else bits_of_rows(key, rows, x.shape)
    kept = bits >= dropped
    return jnp.where(kept, x * (2**16 / (2**16 - dropped)), 0).astype(x.dtype)


def bits_of_rows(key: jax.Array, rows: jax.Array, shape: tuple[int, ...]) -> jax.Array:
    """uint16: these `rows` of `jax.random.bits(key, (any number, *shape[1:]), uint16)`, with nothing made of the others.

    JAX's bits are Threefry of an element's number in the array (`jax_threefry_partitionable`), 64 bits wide in two halves.
    """
    size, rows = math.prod(shape[1:]), rows.astype(jnp.uint32)
    # rows * size in two halves: rows, of fewer than 2^16, times either half of the size is no more than 32 bits.
    upper, lower = rows * np.uint32(size >> 16), rows * np.uint32(size & 0xFFFF)
    start_low = (upper << 16) + lower
    start_high = (upper >> 16) + (start_low < lower)
    wide = (-1, *(1 for _ in shape[1:]))
    within = jnp.arange(size, dtype=jnp.uint32).reshape(1, *shape[1:])
    low = start_low.reshape(wide) + within
    high = start_high.reshape(wide) + (low < within)
    first, second = jax.random.key_data(key)
    one, other = threefry2x32_p.bind(*(jnp.broadcast_to(k, shape) for k in (first, second)), high, low)
    return (one ^ other).astype(jnp.uint16)


def stack(make: Callable[[nnx.Rngs], nnx.Module], num_layers: int, rngs: nnx.Rngs) -> nnx.Module:
    """`num_layers` modules as one, each weight with a leading dim `layers`: what `lax.scan` runs over."""
    split = nnx.split_rngs(splits=num_layers)(nnx.vmap(make, in_axes=(0,), out_axes=0))
    stacked = split(rngs)
    for _, variable in nnx.iter_graph(stacked):
        if isinstance(variable, nnx.Param):
            variable.set_metadata("dims", ("layers", *variable.get_metadata("dims")))
    return stacked


class RMSNorm(nnx.Module):
    """x / rms(x) * scale, in float32 (Zhang and Sennrich 2019)."""

    def __init__(self, size: int, *, dtype: str, rngs: nnx.Rngs, eps: float = 1e-6):
        self.scale = weight(rngs, (size,), ("norm",), nnx.initializers.ones, dtype)
        self.eps = eps

    def __call__(self, x: jax.Array) -> jax.Array:
        y = x.astype(jnp.float32)
        y = y * jax.lax.rsqrt(jnp.mean(jnp.square(y), axis=-1, keepdims=True) + self.eps)
        return (y * self.scale[...].astype(jnp.float32)).astype(x.dtype)


class LayerNorm(nnx.Module):
    """(x - mean) / deviation * scale + bias, in float32 (Ba 2016)."""

    def __init__(self, size: int, *, dtype: str, rngs: nnx.Rngs, eps: float = 1e-12):
        self.scale = weight(rngs, (size,), ("norm",), nnx.initializers.ones, dtype)
        self.bias = weight(rngs, (size,), ("norm",), nnx.initializers.zeros, dtype)
        self.eps = eps

    def __call__(self, x: jax.Array) -> jax.Array:
        y = x.astype(jnp.float32)
        y = y - jnp.mean(y, axis=-1, keepdims=True)
        y = y * jax.lax.rsqrt(jnp.mean(jnp.square(y), axis=-1, keepdims=True) + self.eps)
        return (y * self.scale[...].astype(jnp.float32) + self.bias[...].astype(jnp.float32)).astype(x.dtype)


NORMS: dict[str, Any] = {"rms": RMSNorm, "layer": LayerNorm}

ACTIVATIONS: dict[str, Callable[[jax.Array], jax.Array]] = {
    "silu": jax.nn.silu,
    "gelu": lambda x: jax.nn.gelu(x, approximate=False),
    "gelu_tanh": lambda x: jax.nn.gelu(x, approximate=True),
    "relu": jax.nn.relu,
}


def project(
    x: jax.Array, w: jax.Array, num_in: int = 1, *, out_dtype: str | None = None, apart: bool = False, kind: str = "float"
) -> jax.Array:
    """[..., *in] times [*in, *out] gives [..., *out]; `in` is the first `num_in` dims of the weight. `kind`: see quantized.py.

    Written as one product of two matrices. With batch and length `apart`, XLA for CPUs transposes copies of the activations
    for each gradient of a weight, which is a quarter of a step; TPU and GPU compile both forms to the same. Where the length is
    cut over devices (`cuts_length`) they must stay apart: of a dim that is cut twice, the compiler would gather one part.
    """
    rows, out = x.shape[: x.ndim - num_in], w.shape[num_in:]
    size = math.prod(w.shape[:num_in])
    if kind != "float":
        flat = x.reshape(*rows, size) if apart else x.reshape(-1, size)
        return quantized.product(flat, w.reshape(size, -1), kind).reshape(*rows, *out)
    if apart:
        summed = tuple(range(len(rows), x.ndim)), tuple(range(num_in))
        return jax.lax.dot_general(x, w, (summed, ((), ())), preferred_element_type=out_dtype)
    product = jnp.matmul(x.reshape(-1, size), w.reshape(size, -1), preferred_element_type=out_dtype)
    return product.reshape(*rows, *out)


def cuts_length(partitioner: Partitioner) -> bool:
    """Whether the compiler is told of activations that they are cut along their length."""
    return bool(partitioner.length_axes) and not partitioner.inside


class Dense(nnx.Module):
    """x @ kernel + bias: the layers of heads and projections, outside the stack."""

    def __init__(self, shape: tuple[int, int], dims: Dims, *, std: float | None, dtype: str, rngs: nnx.Rngs):
        self.kernel = weight(rngs, shape, dims, fan_in_normal(shape, 1, std), dtype)
        self.bias = weight(rngs, shape[1:], ("norm",), nnx.initializers.zeros, dtype)

    def __call__(self, x: jax.Array) -> jax.Array:
        return project(x, self.kernel[...].astype(x.dtype)) + self.bias[...].astype(x.dtype)


class MLP(nnx.Module):
    """Two matrices with an activation between them, or three with a gate (Shazeer 2020: SwiGLU, GeGLU).

    `num_writes` is how many branches of the stack add to its residual stream, where their initial size goes by it.
    """

    def __init__(self, config: Any, partitioner: Partitioner, *, num_writes: int, rngs: nnx.Rngs):
        embed, mlp, dtype, std = config.d_model, config.mlp_dim, config.param_dtype, config.init_std
        self.gated, self.activation, self.dtype, self.partitioner = config.gated_mlp, config.activation, config.dtype, partitioner
        if self.gated:
            self.gate = weight(rngs, (embed, mlp), ("embed", "mlp"), fan_in_normal((embed,), 1, std), dtype)
        self.up = weight(rngs, (embed, mlp), ("embed", "mlp"), fan_in_normal((embed,), 1, std), dtype)
        self.down = weight(rngs, (mlp, embed), ("mlp", "embed"), fan_in_normal((mlp,), 1, std, num_writes), dtype)
        self.biased, self.how = config.use_bias, {"apart": cuts_length(partitioner), "kind": config.matmul}
        self.chunks, self.kept = config.mlp_chunks, functools.partial(remat.within, config.remat)
        if self.biased:
            self.up_bias = weight(rngs, (mlp,), ("mlp",), nnx.initializers.zeros, dtype)
            self.down_bias = weight(rngs, (embed,), ("norm",), nnx.initializers.zeros, dtype)

    def __call__(self, x_BLD: jax.Array) -> jax.Array:
        weights = {name: leaf[...].astype(self.dtype) for name, leaf in vars(self).items() if isinstance(leaf, nnx.Param)}
        # By places, also where rows could be parts: on 256 chips a TPU's compiler then holds 1 % less.
        return in_parts(functools.partial(self.part, weights), (x_BLD,), self.chunks, own_rows=False, kept=self.kept)

    def part(self, weights: dict[str, jax.Array], x_BLD: jax.Array) -> jax.Array:
        """Of some of the tokens."""
        act, x_BLD = ACTIVATIONS[self.activation], checkpoint_name(x_BLD, "mlp_in")
        up = project(x_BLD, weights["up"], **self.how)
        up = checkpoint_name(up + weights["up_bias"] if self.biased else up, "mlp_up")
        hidden = act(checkpoint_name(project(x_BLD, weights["gate"], **self.how), "mlp_gate")) * up if self.gated else act(up)
        hidden = checkpoint_name(self.partitioner.constrain(hidden, "batch", "length", "mlp"), "mlp_hidden")
        out = project(hidden, weights["down"], **self.how)
        return out + weights["down_bias"] if self.biased else out
