"""TPU's blocked kernel (Pallas splash attention): never holds scores, and skips the blocks that a static mask hides.

Causal, two-sided and windowed masks are static; segments are compared inside the kernel. A prefix that differs by row is no
static mask. Each device attends for its rows, heads and, where the length is cut, for its part of the queries to all keys.

Legend: B batch, T query length, S key length, N heads, K kv heads, H head_dim.
"""

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax.sharding import NamedSharding, PartitionSpec

from pretrainx.core.errors import InputError
from pretrainx.models.attention_kernels.balance import take_pieces
from pretrainx.models.attention_kernels.case import OUT, Attend, Case, on_each_device
from pretrainx.models.attention_kernels.sight import Visibility
from pretrainx.parallel.shard import Dims, spec

LANES = 128
BLOCKS = (512, 384, 256, LANES)  # the kernel wants whole blocks of whole lanes


def why_not(case: Case) -> str:
    if case.bias is not None:
        return "biased scores (model.positions 'relative')"
    if case.sight.bidirectional is not None:
        return "prefix seen both ways (feature 'bidirectional')"
    parts = case.partitioner.axis_size(case.length_axes)
    if case.length % (LANES * parts) or case.key_length % LANES:
        return f"blocks for {case.length} queries and {case.key_length} keys (it needs multiples of {LANES * parts} and {LANES})"
    if case.sight.causal and case.length != case.key_length:
        return f"causal sight of {case.key_length} keys by {case.length} queries"
    return ""


def static_mask(sight: Visibility, length: int, key_length: int) -> Any:
    """The part of who sees whom that no batch changes, with queries in the order in which they lie and keys in that of the row."""
    from jax.experimental.pallas.ops.tpu.splash_attention import splash_attention_mask as masks

    shape = (length, key_length)
    if sight.window and (sight.causal or sight.window < max(shape)):
        mask = masks.LocalMask(shape, (sight.window - 1, 0 if sight.causal else sight.window - 1), 0)
    else:
        mask = masks.CausalMask(shape) if sight.causal else masks.FullMask(shape)
    if sight.order is not None and hasattr(mask, "q_sequence"):
        mask.q_sequence = np.asarray(sight.order, np.int32)
    return mask


def make_kernel(case: Case, num_heads: int) -> tuple[Any, Any]:
    """Of so many heads, for queries that lie in parts on as many devices; and how its tables are cut over these."""
    from jax.experimental.pallas.ops.tpu.splash_attention import splash_attention_kernel, splash_attention_mask

    sight, parts = case.sight, case.partitioner.axis_size(case.length_axes)
    length = case.length // parts
    block_q, block_kv = (next(b for b in BLOCKS if n % b == 0) for n in (length, case.key_length))
    blocks = splash_attention_kernel.BlockSizes(
        block_q=block_q, block_kv=block_kv, block_kv_compute=block_kv, block_q_dkv=block_q, block_kv_dkv=block_kv,
        block_kv_dkv_compute=block_kv, block_q_dq=block_q, block_kv_dq=block_kv,
    )  # fmt: skip
    same = not sight.causal and not 0 < sight.window < max(case.length, case.key_length)  # every part sees all keys
    mask = static_mask(sight, length if same else case.length, case.key_length)
    kernel = splash_attention_kernel.make_splash_mha(
        mask=splash_attention_mask.MultiHeadMask([mask] * num_heads),
        block_sizes=blocks,
        head_shards=1,
        q_seq_shards=1 if same else parts,
        attn_logits_soft_cap=case.softcap or None,
        residual_checkpoint_name=OUT,  # with the result goes what the backward kernels need of the softmax, [N, T]
    )
    axes = None if same else case.length_axes or None
    return kernel, kernel.manual_sharding_spec(NamedSharding(case.partitioner.mesh, PartitionSpec(None, axes)))


def attender(case: Case) -> Attend:
    """
    Raises:
      InputError: the case is none for this kernel.
    """
    from jax.experimental.pallas.ops.tpu.splash_attention import splash_attention_kernel

    if lacking := why_not(case):
        raise InputError(f"model.attention_kernel 'splash' has no {lacking}; accepted here are 'auto' and 'xla'")
    sight, partitioner, axes = case.sight, case.partitioner, case.length_axes
    rules = partitioner.layout.activations
    heads, kv = (spec((dim,), rules)[0] or () for dim in ("heads", "kv"))
    together = heads == kv  # key heads lie with the query heads that read them
    kernel, kernel_cut = make_kernel(case, case.num_heads // partitioner.axis_size(heads))
    within = sight.key_segment_ids is None and case.length == case.key_length  # keys are the queries' own sequence, cut as they are
    natural = None if sight.order is None else np.argsort(sight.order)

    def of_row(x: jax.Array) -> jax.Array:
        """All of each row from the devices' parts, in the row's order: dim 1 of keys, values or their segments."""
        if not within:
            return x
        if axes:
            x = jax.lax.all_gather(x, axes, axis=1, tiled=True)
        return x if natural is None else take_pieces(x, natural, 1)

    def local(kernel: Any, q: jax.Array, k: jax.Array, v: jax.Array, *segments: jax.Array) -> jax.Array:
        ids = splash_attention_kernel.SegmentIds(segments[0], of_row(segments[-1])) if segments else None
        q, k, v = (x.transpose(0, 2, 1, 3) for x in (q, of_row(k), of_row(v)))
        return jax.vmap(kernel, in_axes=(0, 0, 0, None if ids is None else 0))(q, k, v, ids).transpose(0, 2, 1, 3)

    key_length: str | None = "length" if within else None
    queries: Dims = ("batch", "length", "heads", None)
    keys: Dims = ("batch", key_length, "kv" if together else "heads", None)
    segments = [ids for ids in (sight.segment_ids, sight.key_segment_ids) if ids is not None]
    id_dims: tuple[Dims, ...] = (("batch", "length"), ("batch", None))
    run = on_each_device(partitioner, local, [kernel_cut, queries, keys, keys, *id_dims[: len(segments)]], queries)

    def attend(q: jax.Array, k: jax.Array, v: jax.Array) -> jax.Array:
        if not together:
            k, v = (jnp.repeat(x, case.num_heads // case.kv_heads, axis=2) for x in (k, v))
        return run(kernel, q, k, v, *segments)

    return attend
