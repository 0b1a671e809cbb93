"""Schedules against closed forms, AdamW against NumPy in float64, Muon against what orthogonal means."""

import math
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from pretrainx.core.errors import InputError
from pretrainx.optim import adamw, muon, newton_schulz, schedules

DIMS: dict[str, Any] = {
    "embedding": ("vocab", "embed"),
    "final_norm": {"scale": ("norm",)},
    "blocks": {
        "attention": {"query": ("layers", "embed", "heads", "head_dim"), "out": ("layers", "heads", "head_dim", "embed"),
                      "query_bias": ("layers", "heads", "head_dim")},
        "mlp": {"up": ("layers", "embed", "mlp"), "down": ("layers", "mlp", "embed"), "up_bias": ("layers", "mlp")},
        "norm": {"scale": ("layers", "norm")},
    },
    "head": ("embed", "vocab"),
}  # fmt: skip
SIZES = {"vocab": 20, "embed": 12, "norm": 12, "layers": 2, "heads": 3, "head_dim": 4, "mlp": 24}


def arrays(seed: int, scale: float = 1.0) -> Any:
    rng = np.random.default_rng(seed)
    make = lambda dims: jnp.asarray(rng.normal(size=[SIZES[d] for d in dims]) * scale, jnp.float32)  # noqa: E731
    return jax.tree.map(make, DIMS, is_leaf=lambda x: isinstance(x, tuple))


def paths(tree: Any) -> dict[str, np.ndarray]:
    return {"/".join(k.key for k in path): np.asarray(leaf) for path, leaf in jax.tree_util.tree_leaves_with_path(tree)}


DECAYED = {"embedding", "head", "blocks/attention/query", "blocks/attention/out", "blocks/mlp/up", "blocks/mlp/down"}


@pytest.mark.parametrize("clip_norm", [0.0, 1.0, 1e6])
def test_adamw_equals_numpy(clip_norm: float) -> None:
    config = adamw.Config(peak_lr=1e-2, weight_decay=0.3, clip_norm=clip_norm, b1=0.9, b2=0.95, eps=1e-8)
    schedule = schedules.build("cosine", warmup_steps=2, total_steps=6, decay_steps=0, end=0.1)
    tx = adamw.build(config, DIMS, schedule)
    params = arrays(0)
    state = tx.init(params)
    wanted = {k: v.astype(np.float64) for k, v in paths(params).items()}
    m, v = ({k: np.zeros_like(x) for k, x in wanted.items()} for _ in range(2))
    rates = [0.5, 1.0] + [0.1 + 0.9 * 0.5 * (1 + math.cos(math.pi * s / 4)) for s in (1, 2, 3, 4)]
    for step in range(6):
        grads = arrays(step + 1)
        updates, state = tx.update(grads, state, params)
        params = optax.apply_updates(params, updates)
        g = {k: x.astype(np.float64) for k, x in paths(grads).items()}
        norm = math.sqrt(sum(float(np.sum(x**2)) for x in g.values()))
        shrink = min(1.0, clip_norm / norm) if clip_norm else 1.0
        for k in wanted:
            m[k] = 0.9 * m[k] + 0.1 * g[k] * shrink
            v[k] = 0.95 * v[k] + 0.05 * (g[k] * shrink) ** 2
            direction = (m[k] / (1 - 0.9 ** (step + 1))) / (np.sqrt(v[k] / (1 - 0.95 ** (step + 1))) + 1e-8)
            wanted[k] -= 1e-2 * rates[step] * (direction + (0.3 * wanted[k] if k in DECAYED else 0))
    for k, x in paths(params).items():
        # Six float32 updates of size 1e-2 on weights of size 1.
        np.testing.assert_allclose(x, wanted[k], rtol=2e-6, atol=2e-6, err_msg=k)


def closed_form(name: str, step: int, warmup: int, total: int, decay: int, end: float) -> float:
    s = step + 1
    if s < warmup:
        return s / warmup
    done = min(max((s - warmup) / max(total - warmup, 1), 0), 1)
    if name == "cosine":
        return end + (1 - end) * (1 + math.cos(math.pi * done)) / 2
    if name == "linear":
        return 1 - (1 - end) * done
    if name == "warmup_stable_decay":
        return 1.0 if s <= total - decay else max(1 - (1 - end) * (s - total + decay) / decay, end)
    return math.sqrt(max(warmup, 1) / s) if name == "inverse_square_root" else 1.0


@pytest.mark.parametrize("name", schedules.NAMES)
@pytest.mark.parametrize(
    ("warmup", "total", "decay", "end"), [(10, 100, 20, 0.1), (0, 7, 3, 0.0), (1, 1, 0, 0.5), (5, 5, 0, 0.1), (3, 50, 47, 1.0)]
)
def test_schedules_equal_their_closed_forms(name: str, warmup: int, total: int, decay: int, end: float) -> None:
    schedule = schedules.build(name, warmup_steps=warmup, total_steps=total, decay_steps=decay, end=end)
    found = [float(schedule(jnp.asarray(s))) for s in range(total + 10)]
    if not (name == "warmup_stable_decay" and decay == 0):
        np.testing.assert_allclose(
            found, [closed_form(name, s, warmup, total, decay, end) for s in range(total + 10)], rtol=1e-5, atol=1e-6
        )
    assert found[0] > 0 or end == 0
    assert max(found) <= 1 + 1e-6
    if warmup and name != "constant":
        assert found[warmup - 1] == pytest.approx(1 if total > warmup or name == "inverse_square_root" else found[warmup - 1])
    if name in ("cosine", "linear") and total > warmup:
        assert found[total - 1 :] == pytest.approx([end] * 11, abs=1e-6)


@pytest.mark.parametrize(("name", "warmup", "decay", "message"), [
    ("cosin", 1, 0, "optim.schedule: unknown name 'cosin'; did you mean 'cosine'"),
    ("cosine", 11, 0, "optim.warmup: 11 steps"),
    ("warmup_stable_decay", 6, 5, "do not fit into train.steps 10"),
])  # fmt: skip
def test_schedules_that_cannot_be(name: str, warmup: int, decay: int, message: str) -> None:
    with pytest.raises(InputError, match=message):
        schedules.build(name, warmup_steps=warmup, total_steps=10, decay_steps=decay, end=0.1)


def flat_schedule(step: jax.Array) -> jax.Array:
    return jnp.ones(())


def test_muon_orthogonalises_matrices_and_leaves_the_rest_to_adamw() -> None:
    config = muon.Config(peak_lr=1e-2, muon_lr=1.0, clip_norm=0.0)
    tx, plain = muon.build(config, DIMS, flat_schedule), adamw.build(adamw.Config(peak_lr=1e-2, clip_norm=0.0), DIMS, flat_schedule)
    params, grads = arrays(0), arrays(1)
    updates, theirs = (paths(t.update(grads, t.init(params), params)[0]) for t in (tx, plain))
    matrices = {
        "blocks/attention/query": (12, 12),
        "blocks/attention/out": (12, 12),
        "blocks/mlp/up": (12, 24),
        "blocks/mlp/down": (24, 12),
    }
    for name, (rows, columns) in matrices.items():
        scale = math.sqrt(max(1, columns / rows))
        for layer in updates[name]:
            values = np.linalg.svd(layer.reshape(rows, columns), compute_uv=False) / scale
            # Five Newton-Schulz steps bring singular values to 0.7..1.2, not to 1 (Jordan 2024).
            assert np.all((0.6 < values) & (values < 1.3)), name
    for name in updates.keys() - matrices.keys():
        np.testing.assert_allclose(updates[name], theirs[name], rtol=1e-6, atol=1e-9, err_msg=name)


@pytest.mark.parametrize("spread", [1.0, 1e3, 1e6])  # the largest singular value / the smallest
@pytest.mark.parametrize("order", [newton_schulz.by_matrix, newton_schulz.by_gram])
def test_both_orders_of_newton_schulz_equal_its_polynomial_in_float64(order: Any, spread: float) -> None:
    """The iteration changes singular values only: each by the quintic, five times (Jordan 2024)."""
    rng = np.random.default_rng(0)
    left, right = np.linalg.qr(rng.normal(size=(2, 32, 32)))[0], np.linalg.qr(rng.normal(size=(2, 128, 32)))[0].swapaxes(1, 2)
    values = np.geomspace(1, 1 / spread, 32)
    values /= np.linalg.norm(values)
    wanted = values
    for _ in range(5):
        wanted = 3.4445 * wanted - 4.7750 * wanted**3 + 2.0315 * wanted**5
    found = order(jnp.asarray(left @ (values[:, None] * right), jnp.float32))
    np.testing.assert_allclose(found, left @ (wanted[:, None] * right), atol=1e-3)


def test_muon_steps_as_optax_does() -> None:
    """Against optax's own Muon, which also corrects its momentum for its start: compared where 0.95^step has died away."""
    config = muon.Config(muon_lr=0.1, clip_norm=0.0)
    dims = {"up": ("layers", "embed", "mlp"), "down": ("layers", "mlp", "embed")}
    params = {"up": jnp.zeros((2, 8, 64)), "down": jnp.zeros((2, 64, 8))}
    numbers = optax.contrib.MuonDimensionNumbers(1, 2)
    theirs = optax.contrib.muon(0.1, muon_weight_dimension_numbers=dict.fromkeys(params, numbers))
    both = muon.build(config, dims, flat_schedule), theirs
    updates = [jax.jit(tx.update) for tx in both]
    states = [tx.init(params) for tx in both]
    for step in range(210):
        rng = np.random.default_rng(step)
        grads = jax.tree.map(lambda p, rng=rng: jnp.asarray(rng.normal(size=p.shape), jnp.float32), params)
        made = [update(grads, state, params) for update, state in zip(updates, states, strict=True)]
        states = [state for _, state in made]
        if step >= 200:
            for name in params:
                np.testing.assert_allclose(made[0][0][name], made[1][0][name], atol=1e-3 * 0.1, err_msg=f"{name}, step {step}")


def test_muon_treats_each_layer_alone() -> None:
    """Two layers stacked get what each would get by itself."""
    config = muon.Config(clip_norm=0.0)
    dims = {"up": ("layers", "embed", "mlp")}
    tx = muon.build(config, dims, flat_schedule)
    grads = jnp.asarray(np.random.default_rng(0).normal(size=(2, 8, 16)), jnp.float32)
    together = tx.update({"up": grads}, tx.init({"up": grads}), {"up": grads})[0]["up"]
    for layer in range(2):
        one = grads[layer : layer + 1]
        alone = tx.update({"up": one}, tx.init({"up": one}), {"up": one})[0]["up"]
        np.testing.assert_allclose(together[layer], alone[0], rtol=1e-5, atol=1e-7)


def test_muon_decays_its_matrices_when_asked() -> None:
    dims = {"up": ("layers", "embed", "mlp")}
    params, zeros = {"up": jnp.ones((1, 4, 8))}, {"up": jnp.zeros((1, 4, 8))}
    tx = muon.build(muon.Config(muon_lr=0.1, muon_weight_decay=0.5), dims, flat_schedule)
    updates, _ = tx.update(zeros, tx.init(params), params)
    np.testing.assert_allclose(updates["up"], -0.05, rtol=1e-6)
