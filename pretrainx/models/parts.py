"""A function of tokens over them in parts, one after the other: memory falls, the result stays.

Legend: B batch, L length, b and l of a part.
"""

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp


def in_parts(function: Callable[..., Any], arrays: tuple[jax.Array, ...], parts: int, own_rows: bool, kept: Callable[..., Any]) -> Any:
    """`function(*arrays)` of [B, L, ...] each, which gives a tree of such, in `parts` under `kept`'s remat.

    Parts are whole rows where no mesh cuts these (`own_rows`) and they divide: that moves nothing. Else they have places of all rows,
    every `parts`-th, so that where a mesh cuts the length each device splits its own part of it. Whole, where neither divides.
    """
    rows, length = arrays[0].shape[:2]
    by_rows = own_rows and rows % parts == 0
    if parts == 1 or (not by_rows and length % parts):
        return function(*arrays)

    def cut(x: jax.Array) -> jax.Array:  # [B, L, ...] to [parts, b, l, ...]
        if by_rows:
            return x.reshape(parts, rows // parts, *x.shape[1:])
        return jnp.moveaxis(x.reshape(rows, length // parts, parts, *x.shape[2:]), 2, 0)

    def join(x: jax.Array) -> jax.Array:
        return (x if by_rows else jnp.moveaxis(x, 0, 2)).reshape(rows, length, *x.shape[3:])

    return jax.tree.map(join, jax.lax.map(lambda cuts: kept(function)(*cuts), tuple(map(cut, arrays))))
