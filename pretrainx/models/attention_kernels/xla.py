"""The plain form of attention, which XLA compiles for any platform: scores as a whole, softmax in float32. It can do everything.

Legend: B batch, T query length, S key length, N heads, K kv heads, G = N/K, H head_dim.
"""

import jax
import jax.numpy as jnp
from jax.ad_checkpoint import checkpoint_name

from pretrainx.models.attention_kernels.case import OUT, Attend, Case

MASKED = -1e30  # finite, so that a row with nothing to see gives numbers and not NaN


def xla_attention(
    q_BTNH: jax.Array, k_BSKH: jax.Array, v_BSKH: jax.Array, mask_BTS: jax.Array | None, softcap: float, bias: jax.Array | None = None
) -> jax.Array:
    """[B, T, N, H] of scaled queries; bias is float32 [B or 1, N, T, S]."""
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


def why_not(case: Case) -> str:
    del case
    return ""


def attender(case: Case) -> Attend:
    """The mask is made once, outside the loop over layers. Where queries are cut along their length, keys and values are gathered."""
    mask = case.sight.mask(case.length, case.key_length)

    def attend(q: jax.Array, k: jax.Array, v: jax.Array) -> jax.Array:
        if case.length_axes:
            k, v = (case.partitioner.constrain(x, "batch", None, "kv", None) for x in (k, v))
        return checkpoint_name(xla_attention(q, k, v, mask, case.softcap, case.bias), OUT)

    return attend
