"""Products in eight bits against NumPy's account of them, their gradients, and a model that learns with them."""

import importlib.util
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import ml_dtypes
import numpy as np
import pytest
from test_step import batch_of, fresh, program_of

from pretrainx.core.errors import InputError
from pretrainx.models import decoder, quantized

needs_qwix = pytest.mark.skipif(importlib.util.find_spec("qwix") is None, reason="the [quantized] extra (qwix) is not installed")
LARGEST = {"int8": 127.5, "float8_e4m3fn": 448.0, "float8_e5m2": 57344.0}


def rounded(x: np.ndarray, qtype: str, axis: int) -> np.ndarray:
    """x as it is after the way to eight bits and back, with a scale for all that lies along an axis."""
    scale = np.abs(x).max(axis=axis, keepdims=True) / LARGEST[qtype]
    short = x / scale
    return scale * (np.clip(np.round(short), -128, 127) if qtype == "int8" else short.astype(getattr(ml_dtypes, qtype)).astype(np.float64))


@needs_qwix
@pytest.mark.parametrize("kind", quantized.KINDS)
@pytest.mark.parametrize("shape", [(6, 32), (2, 3, 32)])
def test_a_product_and_its_gradients_equal_numpy(kind: str, shape: tuple[int, ...]) -> None:
    rng = np.random.default_rng(0)
    x, w, back = (rng.normal(size=size) for size in (shape, (32, 5), (*shape[:-1], 5)))
    out, pull = jax.vjp(lambda x, w: quantized.product(x, w, kind), jnp.asarray(x, jnp.float32), jnp.asarray(w, jnp.float32))
    to_x, to_w = pull(jnp.asarray(back, jnp.float32))
    there, here = quantized.KINDS[kind]
    wanted = rounded(x, there, -1) @ rounded(w, there, 0)
    # A number next to the middle between two steps may go to either, which moves a sum of 32 products by a step of one of them.
    near = {"int8": 0.1, "fp8": 0.6}[kind]
    np.testing.assert_allclose(out, wanted, atol=near)
    assert np.abs(out - wanted).mean() < near / 10
    np.testing.assert_allclose(to_x, rounded(back, here, -1) @ rounded(w, there, 1).T, atol=near)
    np.testing.assert_allclose(to_w, x.reshape(-1, 32).T @ back.reshape(-1, 5), atol=1e-5)
    assert np.abs(out - x @ w).max() > 1e-3  # and it is not the plain product


@needs_qwix
@pytest.mark.slow
@pytest.mark.parametrize("kind", quantized.KINDS)
def test_a_model_learns_in_eight_bits(kind: str, cache_dir: Path) -> None:
    losses: dict[str, list[float]] = {}
    for name in ("float", kind):
        program, builder, mixture = program_of(cache_dir, model={"matmul": name}, optim={"peak_lr": 1e-2})
        state, step, losses[name] = fresh(program), program.compile_train(), []
        for number in range(6):
            state, metrics = step(state, jax.device_put(batch_of(builder, mixture, number)))
            losses[name].append(float(metrics["loss"]))
    assert losses[kind][-1] < losses[kind][0] and losses[kind] != losses["float"]
    np.testing.assert_allclose(losses[kind], losses["float"], rtol=0.02)


def test_without_the_library_its_extra_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(__import__("sys").modules, "qwix", None)
    with pytest.raises(InputError, match=r"model.matmul 'int8' needs qwix; install it with: pip install 'pretrainx\[quantized\]'"):
        decoder.Config(matmul="int8").check()


def test_a_float_product_needs_no_library(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(__import__("sys").modules, "qwix", None)
    config: Any = decoder.Config()
    config.check()
