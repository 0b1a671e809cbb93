"""Time of our training step over the time of the same mathematics in bare JAX and Optax, side by side in one run.

    python benchmarks/train_step.py [--rounds=40] [--flat]

4 layers, d_model 256, 4 heads, SwiGLU 1024, vocabulary 8192, sequences of 256, batch 8, float32, AdamW with clipping.
Rounds alternate between the two (A B B A ...), so that a drift of the machine's speed touches both alike; the ratio is
of the medians. Both start from the same weights and read the same batch, and their losses are compared.

The bare script multiplies [batch, length, d] by weights, as one would write it, and XLA for CPUs is slow at the gradients of
that; with --flat it multiplies [batch * length, d], as our layers do.
"""

import argparse
import json
import statistics
import time

import jax
import jax.numpy as jnp
import numpy as np
import optax

from pretrainx.core.config import Config
from pretrainx.train import build, experiment

L, D, N, F, V, T, B, LR = 4, 256, 4, 1024, 8192, 256, 8, 3e-4
CONFIG = {
    "data": {"objective": "causal", "sequence_length": T},
    "model": {"name": "decoder", "vocab_size": V, "d_model": D, "num_layers": L, "num_heads": N, "mlp_dim": F},
    "optim": {"name": "adamw", "peak_lr": LR, "schedule": "constant", "warmup": 0},
    "train": {"steps": 1000, "batch_size": B, "dtype": "float32"},
}


def rms(x, scale):
    return x * jax.lax.rsqrt(jnp.mean(x * x, -1, keepdims=True) + 1e-6) * scale


def rope(x, positions):
    half = x.shape[-1] // 2
    angle = positions[:, None, None] * 10_000.0 ** (-jnp.arange(half) / half)
    a, b = x[..., :half], x[..., half:]
    return jnp.concatenate([a * jnp.cos(angle) - b * jnp.sin(angle), b * jnp.cos(angle) + a * jnp.sin(angle)], -1)


def bare_loss(p, tokens, targets, flat):
    """The decoder as one would write it by hand: scanned layers, plain attention, log-softmax."""

    def times(x, w, num_in=1):
        if not flat:
            return jnp.tensordot(x, w, num_in)
        out = x.reshape(B * T, -1) @ w.reshape(np.prod(w.shape[:num_in]), -1)
        return out.reshape(B, T, *w.shape[num_in:])

    x = p["embedder"]["embedding"][tokens]
    positions = jnp.arange(T, dtype=jnp.float32)
    mask = jnp.tril(jnp.ones((T, T), bool))

    def layer(x, w):
        h = rms(x, w["attention_norm"]["scale"])
        q, k, v = (times(h, w["attention"][n]) for n in ("query", "key", "value"))
        q, k = rope(q, positions), rope(k, positions)
        s = jnp.einsum("btnh,bsnh->bnts", q, k) * (D // N) ** -0.5
        a = jax.nn.softmax(jnp.where(mask, s, -1e30), -1)
        x = x + times(jnp.einsum("bnts,bsnh->btnh", a, v), w["attention"]["out"], 2)
        h = rms(x, w["mlp_norm"]["scale"])
        return x + times(jax.nn.silu(times(h, w["mlp"]["gate"])) * times(h, w["mlp"]["up"]), w["mlp"]["down"]), None

    x, _ = jax.lax.scan(layer, x, p["stack"]["blocks"])
    logits = times(rms(x, p["stack"]["final_norm"]["scale"]), p["token_head"]["kernel"])
    return optax.softmax_cross_entropy_with_integer_labels(logits, targets).mean()


def bare_step(decays, flat):
    tx = optax.chain(optax.clip_by_global_norm(1.0), optax.adamw(LR, 0.9, 0.95, weight_decay=0.1, mask=decays))

    def step(params, opt_state, tokens, targets):
        loss, grads = jax.value_and_grad(bare_loss)(params, tokens, targets, flat)
        updates, opt_state = tx.update(grads, opt_state, params)
        return optax.apply_updates(params, updates), opt_state, loss

    return tx, jax.jit(step, donate_argnums=(0, 1))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rounds", type=int, default=40)
    parser.add_argument("--flat", action="store_true", help="the bare script too as products of two matrices")
    parser.add_argument("--json", action="store_true")
    args = parser.parse_args()
    program = build.without_data(experiment.load(Config("benchmark", "benchmark", CONFIG, CONFIG)))
    ours, state = program.compile_train(), program.init_state()
    rng = np.random.default_rng(0)
    stream = rng.integers(3, V, (B, T + 1)).astype(np.int32)
    batch = {
        "tokens": stream[:, :-1], "targets": stream[:, 1:], "loss_weights": np.ones((B, T), np.float32),
        "positions": np.tile(np.arange(T, dtype=np.int32), (B, 1)), "segment_ids": np.ones((B, T), np.int32),
        "objective": np.zeros(B, np.int32),
    }  # fmt: skip
    batch = jax.device_put(batch, program.batch_shardings)
    params = jax.tree.map(jnp.copy, state.params)
    tx, bare = bare_step(jax.tree.map(lambda x: x.ndim > 2 or max(x.shape) > 1024, params), args.flat)
    opt_state = tx.init(params)
    times: dict[str, list[float]] = {"ours": [], "bare": []}
    losses: dict[str, float] = {}
    for round_number in range(args.rounds + 3):
        for name in ("ours", "bare") if round_number % 2 else ("bare", "ours"):
            start = time.perf_counter()
            if name == "ours":
                state, metrics = ours(state, batch)
                losses[name] = float(metrics["loss"])
            else:
                params, opt_state, loss = bare(params, opt_state, batch["tokens"], batch["targets"])
                losses[name] = float(loss)
            if round_number >= 3:  # the first rounds warm caches and allocators
                times[name].append(time.perf_counter() - start)
    median = {name: statistics.median(t) for name, t in times.items()}
    best = {name: min(t) for name, t in times.items()}
    result = {
        "ours_ms": 1000 * median["ours"], "bare_ms": 1000 * median["bare"], "ratio_of_medians": median["ours"] / median["bare"],
        "ratio_of_minima": best["ours"] / best["bare"], "loss_difference": abs(losses["ours"] - losses["bare"]), "rounds": args.rounds,
    }  # fmt: skip
    if args.json:
        print(json.dumps(result))
    else:
        for key, value in result.items():
            print(f"{key:>18} {value:.4g}")


if __name__ == "__main__":
    main()
