"""Steps computed twice: equal steps pass, one flipped bit on one device is found and the device named."""

from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from support import experiment, metrics

from pretrainx.core.errors import GuardStop
from pretrainx.train import loop
from pretrainx.train.guards import faults, recheck

TINY: dict[str, Any] = {"model": {"num_layers": 1}, "checkpoint": {"every": 3}, "log": {"every": 1}, "eval": {"every": 0}}


def run(cache_dir: Path, folder: Path, devices: int = 2, **train: Any) -> dict[str, Any]:
    with pytest.MonkeyPatch.context() as patch:
        there = jax.devices()[:devices]
        patch.setattr(jax, "devices", lambda *_: there)
        sections = {"mesh": {"data": 1, "fsdp": devices}, "layout": "fsdp", "train": {"steps": 8, **train}}
        return loop.train(loop.prepare(experiment(cache_dir, **TINY, **sections), folder))


def test_bits_are_bits() -> None:
    """NaN equals itself, zero is not minus zero."""
    a = jnp.asarray([np.nan, 0.0, 1.0], jnp.float32)
    assert np.array_equal(recheck.bits(a), recheck.bits(a + 0)) and recheck.bits(a)[1] != recheck.bits(-a)[1]
    assert recheck.bits(a.astype(jnp.bfloat16)).dtype == jnp.uint16 and recheck.bits(jnp.arange(3)).dtype == jnp.int32


@pytest.mark.slow
def test_a_rechecked_run_is_the_same_run(cache_dir: Path, tmp_path: Path) -> None:
    wanted = run(cache_dir, tmp_path / "plain")
    found = run(cache_dir, tmp_path / "twice", recheck_every=2)
    assert found["state_sha256"] == wanted["state_sha256"] and metrics(tmp_path / "twice") == metrics(tmp_path / "plain")


@pytest.mark.slow
@pytest.mark.parametrize("device", [0, 1])
def test_one_bit_on_one_device_names_it(cache_dir: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, device: int) -> None:
    """At step 6 of a run that saves at 3 and 6: the wrong step is not saved, and the run goes on from 3 to the right end."""
    wanted = run(cache_dir, tmp_path / "plain")
    monkeypatch.setenv(faults.FLIP, f"6:{device}")
    with pytest.raises(GuardStop) as caught:
        run(cache_dir, tmp_path / "run", recheck_every=3)
    said = str(caught.value)
    names = [str(d) for d in jax.devices()[:2]]
    assert "step 6, computed twice" in said and names[device] in said and names[1 - device] not in said and ".params['" in said
    monkeypatch.delenv(faults.FLIP)
    assert [path.name for path in (tmp_path / "run" / "checkpoints").iterdir()] == ["3"]
    assert run(cache_dir, tmp_path / "run", recheck_every=3)["state_sha256"] == wanted["state_sha256"]


@pytest.mark.slow
def test_an_error_that_reached_every_device_says_so(cache_dir: Path, tmp_path: Path) -> None:
    with pytest.MonkeyPatch.context() as patch:
        there = jax.devices()[:2]
        patch.setattr(jax, "devices", lambda *_: there)
        sections = {"mesh": {"data": 2}, "train": {"steps": 8}}
        program = loop.prepare(experiment(cache_dir, **TINY, **sections), tmp_path).program
    arrays = len(jax.tree.leaves(program.abstract_state))
    recheck.require_equal(program, 5, np.zeros((2, arrays), bool))
    with pytest.raises(GuardStop, match="differs on every device, so it happened before a reduction"):
        recheck.require_equal(program, 5, np.ones((2, arrays), bool))
    state = program.init_state()
    assert not recheck.differences(program)(state, state).any() and recheck.differences(program)(state, state).shape == (2, arrays)
