"""Float16 with its loss scale, moments in bfloat16, and moments in the host's memory."""

from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from test_step import batch_of, fresh, host, program_of

from pretrainx.core.errors import InputError
from pretrainx.optim import adamw, muon, schedules
from pretrainx.optim.common import kept_in
from pretrainx.train import loss_scale
from pretrainx.train.loss_scale import Scaled
from pretrainx.train.state import State

# ---- the scale


def test_only_float16_has_a_scale() -> None:
    tx = optax.sgd(0.1)
    assert loss_scale.behind_scale(tx, "bfloat16") is tx and loss_scale.scale_of(tx.init(jnp.ones(2))) is None
    state = loss_scale.behind_scale(tx, "float16").init(jnp.ones(2))
    assert loss_scale.scale_of(state) == 2.0**15 and loss_scale.adjusted(tx.init(jnp.ones(2)), jnp.zeros((), bool)) == tx.init(jnp.ones(2))


def test_the_scale_halves_on_overflow_and_doubles_after_patience(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(loss_scale, "PATIENCE", 3)
    state, seen = Scaled(None, jnp.float32(8), jnp.int32(0)), []
    for good in (True, True, False, True, True, True, True, False, False, False, False, False, False):
        state = loss_scale.adjusted(state, jnp.asarray(good))
        seen.append(float(state.scale))
    assert seen == [8, 8, 4, 4, 4, 8, 8, 4, 2, 1, 1, 1, 1]
    state = Scaled(None, jnp.float32(2.0**24), jnp.int32(2))
    assert loss_scale.adjusted(state, jnp.asarray(True)).scale == 2.0**24


def test_small_gradients_live_through_float16() -> None:
    """A factor of 2^-26 is nothing in float16, and whole behind a scale of 2^15."""

    def loss(x: jax.Array, factor: jax.Array) -> tuple[jax.Array, Any]:
        return (x.astype(jnp.float16) * jnp.float16(1)).astype(jnp.float32).sum() * factor, "beside"

    x, factor = jnp.ones(3), jnp.float32(2.0**-26)
    for scale, wanted in ((None, 0.0), (jnp.float32(2.0**15), 2.0**-26)):
        (value, beside), grads = loss_scale.value_and_grad(loss, scale)(x, factor)
        assert value == 3 * 2.0**-26 and beside == "beside"
        np.testing.assert_array_equal(grads, np.full(3, wanted, np.float32))


@pytest.fixture(scope="module")
def half(cache_dir: Path) -> Any:
    program, builder, mixture = program_of(cache_dir, train={"dtype": "float16", "grad_accum": 2})
    return program, program.compile_train(), [batch_of(builder, mixture, step) for step in range(3)]


def test_float16_learns_as_float32_does(half: Any, cache_dir: Path) -> None:
    program, step, batches = half
    other, _, _ = program_of(cache_dir, train={"grad_accum": 2})
    state, exact, exact_step = fresh(program), fresh(other), other.compile_train()
    state = State(state.step, state.params, state.opt_state._replace(scale=jnp.float32(2.0**10)), state.skipped, state.skipped_in_a_row)
    for batch in batches:
        state, metrics = step(state, jax.device_put(batch))
        exact, wanted = exact_step(exact, jax.device_put(batch))
        # Three digits are what float16 has; the scale itself is exact, being a power of two.
        assert float(metrics["loss"]) == pytest.approx(float(wanted["loss"]), rel=2e-3)
        assert float(metrics["grad_norm"]) == pytest.approx(float(wanted["grad_norm"]), rel=1e-2)
    assert int(state.skipped) == 0 and int(state.opt_state.good) == 3 and state.opt_state.scale == 2.0**10


def test_an_overflow_changes_the_scale_alone_and_is_no_bad_step(half: Any) -> None:
    program, step, batches = half
    state = fresh(program)
    state = State(state.step, state.params, state.opt_state._replace(scale=jnp.float32(2.0**24)), state.skipped, state.skipped_in_a_row)
    before = host(state)
    state, metrics = step(state, jax.device_put(batches[0]))
    after = host(state)
    changed = {path for path in before if not np.array_equal(before[path], after[path])}
    assert len(changed) == 1 and next(iter(changed)).endswith(".scale") and state.opt_state.scale == 2.0**23
    assert int(metrics["skipped"]) == 1 and int(metrics["skipped_in_a_row"]) == 0 and np.isfinite(metrics["loss"])


def test_a_loss_that_is_not_finite_is_a_bad_step_in_float16_too(half: Any) -> None:
    program, step, batches = half
    state = fresh(program)
    params = jax.tree.map(lambda x: x * np.float32(np.nan), state.params)
    state = State(state.step, params, state.opt_state._replace(scale=jnp.float32(4)), state.skipped, state.skipped_in_a_row)
    for count in (1, 2, 3):
        state, metrics = step(state, jax.device_put(batches[0]))
        assert int(metrics["skipped_in_a_row"]) == count
    assert state.opt_state.scale == 1


# ---- moments


def test_moments_in_bfloat16_are_float32s_rounded_once_a_step() -> None:
    rng = np.random.default_rng(0)
    tx = kept_in(optax.scale_by_adam(0.9, 0.95, 1e-8), "bfloat16", "bfloat16")
    params = {"x": jnp.zeros(50)}
    state = tx.init(params)
    m = v = np.zeros(50)

    def rounded(x: np.ndarray) -> np.ndarray:
        return np.asarray(jnp.asarray(x, jnp.float32).astype(jnp.bfloat16), np.float64)

    for step in range(1, 6):
        g = rng.normal(size=50)
        updates, state = tx.update({"x": jnp.asarray(g, jnp.float32)}, state, params)
        m, v = 0.9 * m + 0.1 * g, 0.95 * v + 0.05 * g**2
        wanted = m / (1 - 0.9**step) / (np.sqrt(v / (1 - 0.95**step)) + 1e-8)
        # A float32 that lies next to the middle between two bfloat16 may be rounded either way: half a per cent, once in a while.
        np.testing.assert_allclose(updates["x"], wanted, rtol=1e-2)
        m, v = rounded(m), rounded(v)
    assert state.mu["x"].dtype == state.nu["x"].dtype == jnp.bfloat16


DIMS: dict[str, Any] = {"a": ("layers", "embed", "mlp"), "b": ("vocab", "embed")}


@pytest.mark.parametrize("module", [adamw, muon])
def test_an_optimizer_keeps_its_moments_as_told(module: Any) -> None:
    schedule = schedules.build("constant", warmup_steps=1, total_steps=9, decay_steps=0, end=1.0)
    params = {"a": jnp.ones((2, 4, 6)), "b": jnp.ones((5, 4))}
    for dtype in ("float32", "bfloat16"):
        tx = module.build(module.Config(mu_dtype=dtype), DIMS, schedule)
        state = tx.init(params)
        updates, state = tx.update(params, state, params)
        kinds = {leaf.dtype.name for leaf in jax.tree.leaves(state) if leaf.ndim}
        assert (kinds == {"float32"}) == (dtype == "float32") and kinds <= {"float32", "bfloat16"}
        assert {leaf.dtype.name for leaf in jax.tree.leaves(updates)} == {"float32"}


def test_a_second_moment_that_would_stand_still_is_refused() -> None:
    with pytest.raises(InputError, match=r"optim.nu_dtype 'bfloat16': with optim.b2 0.999 its steps are lost in rounding"):
        adamw.build(adamw.Config(nu_dtype="bfloat16", b2=0.999), DIMS, lambda step: step)
    adamw.build(adamw.Config(nu_dtype="bfloat16", b2=0.95), DIMS, lambda step: step)


# ---- moments in the host's memory


def test_moments_on_the_host_change_no_bit(cache_dir: Path) -> None:
    states = []
    for offloaded in (False, True):
        program, builder, mixture = program_of(cache_dir, train={"offload_optimizer": offloaded})
        state, step = fresh(program), program.compile_train()
        for number in range(2):
            state, _ = step(state, jax.device_put(batch_of(builder, mixture, number)))
        states.append(host(state))
        kinds = {leaf.sharding.memory_kind for leaf in jax.tree.leaves(state.opt_state) if leaf.ndim}
        assert (kinds == {"pinned_host"}) == offloaded
        assert {leaf.sharding.memory_kind for leaf in jax.tree.leaves(state.params)} != {"pinned_host"}
    for path in states[0]:
        np.testing.assert_array_equal(states[0][path], states[1][path], err_msg=path)
