"""Products of activations and weights in eight bits, whose own units on TPUs and newer GPUs are up to twice as fast.

Each row of activations and each column of weights has its own scale, found anew at every product (dynamic, symmetric: the largest
magnitude is the type's largest number), by qwix. Forward, and backward for the activations' gradient, both factors are eight bits
wide; the weights' gradient is summed from what the product was given, unrounded, since what is lost there is lost to the weights.
Weights, gradients and all that is no product stay as they are. The head over tokens and attention's scores are not quantized.
"""

from functools import partial
from typing import Any

import jax
import jax.numpy as jnp

from pretrainx.core.errors import InputError

# By kind: the type of factors forward, and of the gradient that comes back. float8 has more range and fewer digits for gradients
# (Micikevicius 2022, section 2).
KINDS = {"int8": ("int8", "int8"), "fp8": ("float8_e4m3fn", "float8_e5m2")}


def require(kind: str) -> None:
    """Raises InputError where the library is not installed."""
    try:
        import qwix  # noqa: F401
    except ImportError:
        raise InputError(
            f"model.matmul {kind!r} needs qwix; install it with: pip install 'pretrainx[quantized]' -c constraints.txt, or choose 'float'"
        ) from None


@partial(jax.custom_vjp, nondiff_argnums=(2,))
def product(x: jax.Array, w: jax.Array, kind: str) -> jax.Array:
    """[..., in] times [in, out] gives [..., out] in the type of x; `kind` is one of KINDS."""
    import qwix

    qtype, rows = KINDS[kind][0], tuple(range(x.ndim - 1))
    short_x, short_w = qwix.quantize(x, qtype, channelwise_axes=rows), qwix.quantize(w, qtype, channelwise_axes=(1,))
    return qwix.dot_general(short_x, short_w, (((x.ndim - 1,), (0,)), ((), ()))).astype(x.dtype)


def _forward(x: jax.Array, w: jax.Array, kind: str) -> tuple[jax.Array, Any]:
    return product(x, w, kind), (x, w)


def _backward(kind: str, saved: Any, grad: jax.Array) -> tuple[jax.Array, jax.Array]:
    import qwix

    x, w = saved
    forward, back = KINDS[kind]
    rows = tuple(range(x.ndim - 1))
    short_grad, short_w = qwix.quantize(grad, back, channelwise_axes=rows), qwix.quantize(w, forward, channelwise_axes=(0,))
    to_x = qwix.dot_general(short_grad, short_w, (((grad.ndim - 1,), (1,)), ((), ()))).astype(x.dtype)
    to_w = jax.lax.dot_general(x, grad, ((rows, rows), ((), ())), preferred_element_type=jnp.float32)
    return to_x, to_w.astype(w.dtype)


product.defvjp(_forward, _backward)
