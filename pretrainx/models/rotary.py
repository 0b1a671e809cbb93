"""Rotary positions (Su 2021): queries and keys turned by their place, so that scores see distances alone.

Legend: B batch, L length, N heads, H head_dim.
"""

import jax
import jax.numpy as jnp
import numpy as np


def rotation(positions_BL: jax.Array, head_dim: int, theta: float) -> tuple[jax.Array, jax.Array]:
    """Sine and cosine [B, L, 1, H] of position * theta^(-2i/H), both halves alike: the same for every layer, so made once."""
    half = head_dim // 2
    frequency = theta ** (-jnp.arange(half, dtype=jnp.float32) / half)
    angle = positions_BL[..., None, None].astype(jnp.float32) * jnp.concatenate([frequency, frequency])
    return jnp.sin(angle), jnp.cos(angle)


def rotary(x_BLNH: jax.Array, sin: jax.Array, cos: jax.Array) -> jax.Array:
    """Rotates pairs (x[i], x[i + H/2]) by their angle (Su 2021, in the half-split form of GPT-NeoX)."""
    half = x_BLNH.shape[-1] // 2
    sin, cos = sin[..., :half], cos[..., :half]
    first, second = x_BLNH[..., :half].astype(jnp.float32), x_BLNH[..., half:].astype(jnp.float32)
    return jnp.concatenate([first * cos - second * sin, second * cos + first * sin], axis=-1).astype(x_BLNH.dtype)


@jax.custom_vjp
def rotary_by_product(x_BLNH: jax.Array, sin: jax.Array, cos: jax.Array) -> jax.Array:
    """As `rotary`, to the last bit; what stands across comes by a product with a matrix of 0, 1 and -1.

    A TPU's vectors are 128 numbers wide: cut in halves, heads of 128 are stored as twice as many vectors that are half empty. The
    matrix unit exchanges halves on its way, for half a percent of a step's FLOPs. Remat's policies see a function with a rule of its
    own, not the product in it, and so never keep that.
    The gradient is the rotation back, of the gradient as it comes.
    """
    return _turned(x_BLNH, sin, cos, 1)


def _turned(x_BLNH: jax.Array, sin: jax.Array, cos: jax.Array, sign: int) -> jax.Array:
    size = x_BLNH.shape[-1]
    half = np.arange(size // 2)
    across = np.zeros((size, size), np.float32)
    across[half, half + size // 2], across[half + size // 2, half] = sign, -sign
    exact = {"precision": jax.lax.Precision.HIGHEST, "preferred_element_type": jnp.float32}
    other: jax.Array = jnp.matmul(x_BLNH, jnp.asarray(across, x_BLNH.dtype), **exact)
    return (x_BLNH.astype(jnp.float32) * cos + other * sin).astype(x_BLNH.dtype)


rotary_by_product.defvjp(
    lambda x, sin, cos: (rotary_by_product(x, sin, cos), (sin, cos)),
    lambda turn, g: (_turned(g, turn[0], turn[1], -1), None, None),
)
