"""The step of configs/decoder_1b.py in bare JAX and Optax, as one would write it: scanned layers, a kernel's attention, FSDP by annotation.

What benchmarks/scale.py compiles beside ours. Nothing of the project is used.
"""

import jax
import jax.numpy as jnp
import numpy as np
import optax
from jax.experimental.pallas.ops.tpu.splash_attention import splash_attention_kernel as splash
from jax.experimental.pallas.ops.tpu.splash_attention import splash_attention_mask as masks
from jax.sharding import AxisType, NamedSharding
from jax.sharding import PartitionSpec as P

LAYERS, D, N, H, F, V, T, ROWS = 16, 2048, 16, 128, 8192, 32768, 2048, 4
POLICIES = {"full": jax.checkpoint_policies.nothing_saveable, "minimal": jax.checkpoint_policies.dots_with_no_batch_dims_saveable}
# Shape, and the dims that lie on (fsdp, tensor); every matrix is cut along d_model.
WEIGHTS = {
    "norms": ((LAYERS, 2, D), P()),
    "qkv": ((LAYERS, 3, D, N, H), P(None, None, "fsdp", "tensor")),
    "out": ((LAYERS, N, H, D), P(None, "tensor", None, "fsdp")),
    "in": ((LAYERS, 2, D, F), P(None, None, "fsdp", "tensor")),
    "down": ((LAYERS, F, D), P(None, "tensor", "fsdp")),
    "norm": ((D,), P()),
    "embedding": ((V, D), P("tensor", "fsdp")),
    "head": ((D, V), P("fsdp", "tensor")),
}


def norm(x, scale):
    y = x.astype(jnp.float32)
    return (y * jax.lax.rsqrt(jnp.mean(y * y, -1, keepdims=True) + 1e-6) * scale).astype(x.dtype)


def rope(x):
    angle = jnp.arange(T, dtype=jnp.float32)[:, None, None] * 10_000.0 ** (-jnp.arange(H // 2) / (H // 2))
    a, b = x[..., : H // 2].astype(jnp.float32), x[..., H // 2 :].astype(jnp.float32)
    return jnp.concatenate([a * jnp.cos(angle) - b * jnp.sin(angle), b * jnp.cos(angle) + a * jnp.sin(angle)], -1).astype(x.dtype)


def splash_attention(num_heads):
    """TPU's: `(q, k, v, ids) -> mixed`, [B, N, T, H]."""
    blocks = splash.BlockSizes(**{k: 512 for k in ("block_q", "block_kv", "block_kv_compute", "block_q_dkv", "block_kv_dkv",
                                                   "block_kv_dkv_compute", "block_q_dq", "block_kv_dq")})  # fmt: skip
    kernel = splash.make_splash_mha_single_device(masks.MultiHeadMask([masks.CausalMask((T, T))] * num_heads), block_sizes=blocks)
    return jax.vmap(lambda q, k, v, i: kernel(q, k, v, segment_ids=splash.SegmentIds(i, i)))


def jax_attention(implementation):
    """GPU's, "cudnn" or "xla", of the same shapes."""

    def attend(q, k, v, ids):
        q, k, v = (x.swapaxes(1, 2) for x in (q, k, v))
        same = ids[:, None, :, None] == ids[:, None, None, :]
        return jax.nn.dot_product_attention(q, k, v, mask=same, scale=1.0, is_causal=True, implementation=implementation).swapaxes(1, 2)

    return attend


def make(devices, tensor=1, remat="full", attention="splash"):
    """`(jitted step, its abstract arguments)` on a mesh of (fsdp, tensor)."""
    mesh = jax.make_mesh((len(devices) // tensor, tensor), ("fsdp", "tensor"), axis_types=(AxisType.Auto,) * 2, devices=devices)
    place = lambda x, *spec: jax.lax.with_sharding_constraint(x, NamedSharding(mesh, P(*spec)))  # noqa: E731
    heads = P("fsdp", "tensor")
    local = splash_attention(N // tensor) if attention == "splash" else jax_attention(attention)
    attend = jax.shard_map(local, mesh=mesh, in_specs=(heads, heads, heads, P("fsdp")), out_specs=heads, check_vma=False)

    def loss_of(p, batch):
        def layer(x, w):
            h = norm(x, w["norms"][0])
            q, k, v = (jnp.einsum("btd,dnh->btnh", h, m.astype(x.dtype)) for m in w["qkv"])
            mixed = attend(*(y.swapaxes(1, 2) for y in (rope(q) * H**-0.5, rope(k), v)), batch["segment_ids"])
            x = place(x + jnp.einsum("bnth,nhd->btd", mixed, w["out"].astype(x.dtype)), "fsdp")
            h = norm(x, w["norms"][1])
            gate, up = (jnp.einsum("btd,df->btf", h, m.astype(x.dtype)) for m in w["in"])
            return place(x + jnp.einsum("btf,fd->btd", jax.nn.silu(gate) * up, w["down"].astype(x.dtype)), "fsdp"), None

        x = place(p["embedding"].astype(jnp.bfloat16)[batch["tokens"]], "fsdp")
        layers = {name: p[name] for name in ("norms", "qkv", "out", "in", "down")}
        x, _ = jax.lax.scan(jax.checkpoint(layer, policy=POLICIES[remat], prevent_cse=False), x, layers)
        logits = jnp.einsum("btd,dv->btv", norm(x, p["norm"]), p["head"].astype(x.dtype), preferred_element_type=jnp.float32)
        losses = optax.softmax_cross_entropy_with_integer_labels(place(logits, "fsdp", None, "tensor"), batch["targets"])
        return jnp.sum(losses * batch["weights"]) / jnp.sum(batch["weights"])

    tx = optax.chain(optax.clip_by_global_norm(1.0), optax.adamw(3e-4, 0.9, 0.95, weight_decay=0.1))

    def step(params, opt_state, batch):
        loss, grads = jax.value_and_grad(loss_of)(params, batch)
        updates, opt_state = tx.update(grads, opt_state, params)
        return optax.apply_updates(params, updates), opt_state, loss

    lies = {name: NamedSharding(mesh, spec) for name, (_, spec) in WEIGHTS.items()}
    params = {name: jax.ShapeDtypeStruct(shape, jnp.float32, sharding=lies[name]) for name, (shape, _) in WEIGHTS.items()}
    moment = lambda path, x: lies.get(str(getattr(path[-1], "key", "")), NamedSharding(mesh, P()))  # noqa: E731
    state = jax.eval_shape(tx.init, params)
    where = jax.tree_util.tree_map_with_path(moment, state)
    state = jax.tree.map(lambda x, s: jax.ShapeDtypeStruct(x.shape, x.dtype, sharding=s), state, where)
    rows = NamedSharding(mesh, P("fsdp"))
    types = {"tokens": np.int32, "targets": np.int32, "segment_ids": np.int32, "weights": np.float32}
    batch = {name: jax.ShapeDtypeStruct((ROWS * len(devices), T), dtype, sharding=rows) for name, dtype in types.items()}
    return jax.jit(step, donate_argnums=(0, 1), out_shardings=(lies, where, NamedSharding(mesh, P()))), (params, state, batch)
