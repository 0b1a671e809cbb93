"""cuDNN's flash attention for NVIDIA GPUs, through JAX: never holds scores, [B, N, T, S].

Causality and a causal window are the kernel's own, and it skips what they hide. Segments, prefixes and two-sided windows are a
mask [B, 1, T, S] in the computation's type beside them: 2N times smaller than the float32 scores of the plain form, yet square in
the length, and what it hides is computed. A window beside a mask needs cuDNN 9.10.2.

cuDNN's packed layout (lengths and offsets of segments) needs no mask, but keeps the sums of the softmax once for each segment that
a row may have, refuses GPUs before Hopper, and JAX scales the offsets of keys by the number of query heads, which is wrong for
grouped heads (0.10.2); it is not used.
"""

from typing import Literal

import jax
import jax.numpy as jnp
from jax.ad_checkpoint import checkpoint_name

from pretrainx.models.attention_kernels.case import OUT, Attend, Case, on_each_device

MAX_HEAD_DIM = 128  # of Ampere; Hopper has 256, which is not known of a GPU that is only described
DTYPES = ("bfloat16", "float16")


def why_not(case: Case) -> str:
    if case.softcap:
        return "soft cap of scores (model.attention_softcap)"
    if case.bias is not None:
        return "biased scores (model.positions 'relative')"  # it has, but not the gradient of a bias that the batch's rows share
    if case.dtype not in DTYPES:
        return f"{case.dtype} (train.dtype; it has {' and '.join(DTYPES)})"
    if case.head_dim % 8 or case.head_dim > MAX_HEAD_DIM:
        return f"model.head_dim {case.head_dim} (multiples of 8 up to {MAX_HEAD_DIM} it has)"
    if case.length % 2 or case.key_length % 2:
        return f"odd length (data.sequence_length {case.length if case.length % 2 else case.key_length})"
    return ""


def attender(case: Case, implementation: Literal["cudnn", "xla"] = "cudnn") -> Attend:
    """`implementation` "xla" runs the very same call without a GPU, for tests."""
    sight, partitioner = case.sight, case.partitioner
    # Of a part of the queries the kernel's own causality would count from the part's start: there all is in the mask.
    own = sight.causal and sight.bidirectional is None and not case.length_axes and case.length == case.key_length
    alone = sight.segment_ids is None
    mask = None if own and alone else sight.mask(case.length, case.key_length)
    window = (sight.window - 1, 0) if own and sight.window else None

    def local(q: jax.Array, k: jax.Array, v: jax.Array, *masks: jax.Array) -> jax.Array:
        if masks and implementation == "cudnn":
            return masked(q, k, v, masks[0][:, None], own, window)
        return jax.nn.dot_product_attention(
            q, k, v, mask=masks[0][:, None] if masks else None, scale=1.0, is_causal=own, local_window_size=window,
            implementation=implementation,
        )  # fmt: skip

    queries, keys = ("batch", "length", "heads", None), ("batch", None, "kv", None)
    seen = [] if mask is None else [(None if mask.shape[0] == 1 else "batch", "length", None)]
    run = on_each_device(partitioner, local, [queries, keys, keys, *seen], queries)
    return lambda q, k, v: checkpoint_name(run(q, k, v, *(() if mask is None else (mask,))), OUT)


def masked(q: jax.Array, k: jax.Array, v: jax.Array, mask: jax.Array, causal: bool, window: tuple[int, int] | None) -> jax.Array:
    """What `jax.nn.dot_product_attention` does with a mask [B or 1, 1, T, S], but for a gradient of the mask that nobody wants.

    Up to JAX 0.11.0 the public function turns the mask into a bias and asks cuDNN for the bias's gradient too, for which cuDNN's
    backward pass works on the gradients of all scores, [B, N, T, S], in HBM: 512 MiB for 4 rows of 2,048 tokens and 16 heads, and
    32 GiB for one row of 32,768, where without it it needs 65 and 258 MiB (as cuDNN 9.28 plans it for an H100). There the function
    below it is called, which is not public: tests/test_attention.py compares what both ask for. Later the public one leaves it out.
    """
    from jax._src.cudnn import fused_attention_stablehlo as fused

    if not hasattr(fused, "should_export_dbias"):
        return jax.nn.dot_product_attention(
            q, k, v, mask=mask, scale=1.0, is_causal=causal, local_window_size=window, implementation="cudnn"
        )
    bias = jnp.where(mask, jnp.zeros((), q.dtype), fused.get_large_negative_number(q.dtype))
    unused = (jnp.zeros(0, q.dtype),) * 6  # lengths, offsets and pages
    kind = fused.MaskType.CAUSAL if causal else fused.MaskType.NO_MASK
    scale, seed, dropout, variadic = 1.0, 42, 0.0, (True, False)  # there is a bias, and no gradient of it
    return fused._dot_product_attention(
        q, k, v, bias, *unused, scale, seed, dropout, variadic, kind, fused.AttentionLayout.BTNH.value,
        None if window is None else window[0] + 1, fused.check_cudnn_version(), False,
    )  # fmt: skip
