"""An order of the row's pieces in which causal attention is equal work for every device that holds a part of the length.

Cut in order, the device with a row's end sees 2n - 1 times what the one with its beginning does. In zig-zag order (Llama 3,
section 3.3.2) device d of n holds the pieces d and 2n - 1 - d of 2n, which see as much together whatever d is. Activations
are brought into it once before the layers, and back once after them: all that is between is by place, but attention.
"""

from dataclasses import replace
from itertools import pairwise

import jax
import jax.numpy as jnp
import numpy as np

from pretrainx.models.attention_kernels.case import on_each_device
from pretrainx.models.attention_kernels.sight import Visibility
from pretrainx.parallel.shard import Partitioner


def zigzag(parts: int, length: int) -> np.ndarray:
    """int[length]: the place in the row of what lies t-th, cut into so many parts.

    >>> zigzag(2, 8).tolist()
    [0, 1, 6, 7, 2, 3, 4, 5]
    """
    pieces = np.arange(length).reshape(2 * parts, -1)
    return np.stack([pieces[:parts], pieces[: parts - 1 : -1]], axis=1).reshape(-1)


def order_for(partitioner: Partitioner, sight: Visibility, length: int) -> np.ndarray | None:
    """The zig-zag order where it balances something: a plain causal sight, a length that is cut, and whole pieces. Else None.

    A window is balanced by itself, and what a prefix seen both ways needs lies where the row's prefix is.
    """
    parts = 1 if partitioner.inside else partitioner.axis_size(partitioner.length_axes)  # inside, devices have whole rows of some heads
    causal = sight.causal and not sight.window and sight.bidirectional is None and sight.key_slots is None
    return zigzag(parts, length) if causal and parts > 1 and length % (2 * parts) == 0 else None


def take_pieces(x: jax.Array, index: np.ndarray, dim: int) -> jax.Array:
    """x[..., index, ...] of a static index that is a few runs of neighbours: slices put together, which need no gather."""
    starts = [0, *(np.flatnonzero(np.diff(index) != 1) + 1).tolist(), len(index)]
    runs = [(int(index[a]), int(index[b - 1]) + 1) for a, b in pairwise(starts)]
    return jnp.concatenate([jax.lax.slice_in_dim(x, a, b, axis=dim) for a, b in runs], axis=dim)


def reorder(order: np.ndarray, positions: jax.Array, sight: Visibility) -> tuple[jax.Array, Visibility]:
    """Positions [B, L] and the sight of a sequence whose activations lie in this order."""
    segment_ids = None if sight.segment_ids is None else take_pieces(sight.segment_ids, order, 1)
    return take_pieces(positions, order, 1), replace(sight, segment_ids=segment_ids, order=order)


def exchange(x: jax.Array, partitioner: Partitioner, *, back: bool = False) -> jax.Array:
    """Activations [B, L, D] from the row's order into zig-zag, or back: each device sends, and gets, its two pieces."""
    axes = partitioner.length_axes
    n = partitioner.axis_size(axes)
    # Device d of the row's order holds the pieces 2d and 2d + 1. Its first goes to where that piece lies in zig-zag order, which
    # is another device for each d; so does its second.
    homes = [[piece if piece < n else 2 * n - 1 - piece for piece in range(start, 2 * n, 2)] for start in (0, 1)]
    first, second = ([(d, home) if not back else (home, d) for d, home in enumerate(each)] for each in homes)

    def local(x: jax.Array) -> jax.Array:
        odd = jax.lax.axis_index(axes) % 2 == 1  # pieces of odd number are the lower ones here, and come second
        a, b = jnp.split(x, 2, axis=1)
        if back:
            a, b = jnp.where(odd, b, a), jnp.where(odd, a, b)
        a, b = jax.lax.ppermute(a, axes, first), jax.lax.ppermute(b, axes, second)
        if not back:
            a, b = jnp.where(odd, b, a), jnp.where(odd, a, b)
        return jnp.concatenate([a, b], axis=1)

    dims = ("batch", "length", None)
    return on_each_device(partitioner, local, [dims], dims)(x)
