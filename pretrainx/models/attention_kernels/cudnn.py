"""cuDNN's flash attention for NVIDIA GPUs, through `jax.nn.dot_product_attention`: never holds scores, [B, N, T, S].

Causality and a causal window are the kernel's own, and it skips what they hide. Segments, prefixes and two-sided windows are a
mask [B, 1, T, S] in the computation's type beside them: 2N times smaller than the float32 scores of the plain form, yet square in
the length, and what it hides is computed. JAX's public function has no form of segments without it.
"""

from typing import Literal

import jax
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
        return jax.nn.dot_product_attention(
            q, k, v, mask=masks[0][:, None] if masks else None, scale=1.0, is_causal=own, local_window_size=window,
            implementation=implementation,
        )  # fmt: skip

    queries, keys = ("batch", "length", "heads", None), ("batch", None, "kv", None)
    seen = [] if mask is None else [(None if mask.shape[0] == 1 else "batch", "length", None)]
    run = on_each_device(partitioner, local, [queries, keys, keys, *seen], queries)
    return lambda q, k, v: checkpoint_name(run(q, k, v, *(() if mask is None else (mask,))), OUT)
