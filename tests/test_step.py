"""One training step: what is summed, what is divided, and what a bad step leaves behind."""

import math
from dataclasses import replace
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from support import experiment, numpy_params

from pretrainx.core.errors import InputError
from pretrainx.data.loader import Mixture, RowBuilder, open_mixture
from pretrainx.models.skeleton import flatten
from pretrainx.train import build
from pretrainx.train import state as states
from pretrainx.train.build import Program
from pretrainx.train.state import State

OPTIM = {"eps": 1e-3, "peak_lr": 1e-2}


def program_of(cache_dir: Path, **sections: Any) -> tuple[Program, RowBuilder, Mixture]:
    checked = experiment(cache_dir, **({"optim": OPTIM} | sections))
    mixture = open_mixture(checked.data, "train")
    return *build.from_mixture(checked, mixture, jax.devices()[:1]), mixture


def fresh(program: Program) -> State:
    state = jax.tree.map(lambda x: np.zeros(x.shape, x.dtype), program.abstract_state)
    return jax.device_put(
        State(state.step, numpy_params(program.skeleton), state.opt_state, state.skipped, state.skipped_in_a_row), program.state_shardings
    )


def batch_of(builder: RowBuilder, mixture: Mixture, step: int = 0, size: int = 8) -> dict[str, np.ndarray]:
    return builder.build(mixture.order().rows(step * size, (step + 1) * size))


def host(state: State) -> dict[str, np.ndarray]:
    return {jax.tree_util.keystr(p): np.array(x) for p, x in jax.tree_util.tree_leaves_with_path((state.params, state.opt_state))}


def test_accumulation_changes_nothing(cache_dir: Path) -> None:
    """Rows of unequal weight, so that a mean of means would show."""
    results = []
    for accum in (1, 2, 4):
        program, builder, mixture = program_of(cache_dir, data={"mixture": {"short": 1.0}}, train={"grad_accum": accum})
        batch = batch_of(builder, mixture)
        batch["loss_weights"][:3, 5:] = 0
        batch["loss_weights"][6] = 0
        state, metrics = program.compile_train()(fresh(program), jax.device_put(batch))
        results.append((host(state), jax.device_get(metrics)))
    for state, metrics in results[1:]:
        assert metrics["loss"] == pytest.approx(float(results[0][1]["loss"]), rel=1e-6)
        assert metrics["targets"] == results[0][1]["targets"]
        for path, array in state.items():
            # The same float32 sums in another order; eps = 1e-3 keeps Adam's quotient smooth (see test_parallel).
            np.testing.assert_allclose(array, results[0][0][path], rtol=1e-4, atol=4e-6, err_msg=path)


@pytest.fixture(scope="module")
def plain(cache_dir: Path) -> tuple[Program, Any, list[dict[str, np.ndarray]]]:
    program, builder, mixture = program_of(cache_dir)
    return program, program.compile_train(), [batch_of(builder, mixture, step) for step in range(3)]


@pytest.mark.parametrize("poison", [np.nan, np.inf, -np.inf])
def test_a_step_that_is_not_finite_changes_nothing(plain: tuple[Program, Any, list[dict[str, np.ndarray]]], poison: float) -> None:
    program, step, batches = plain
    state, _ = step(fresh(program), jax.device_put(batches[0]))
    before, sha = host(state), states.sha256(state)
    bad = batches[1] | {"loss_weights": batches[1]["loss_weights"].copy()}
    bad["loss_weights"][0, 0] = poison
    for row in (1, 2):
        state, metrics = step(state, jax.device_put(bad))
        assert int(metrics["skipped"]) == int(metrics["skipped_in_a_row"]) == row
    for path, array in host(state).items():
        assert array.tobytes() == before[path].tobytes(), path
    assert states.sha256(state) == sha and int(state.step) == 3
    state, metrics = step(state, jax.device_put(batches[2]))
    assert (int(metrics["skipped"]), int(metrics["skipped_in_a_row"])) == (2, 0)
    assert math.isfinite(float(metrics["loss"])) and states.sha256(state) != sha
    # The schedule counts updates: the refused steps did not use it up.
    assert float(metrics["lr"]) == pytest.approx(1e-2)


@pytest.mark.parametrize("family", [{}, *(pytest.param({"name": n}, marks=pytest.mark.slow) for n in ("bert", "electra", "bart"))])
def test_dropout_is_a_function_of_seed_and_step(cache_dir: Path, family: dict[str, str]) -> None:
    """Another draw at every step, the same at the same one; on eight devices as on one, rematerialised or not; none at rate 0."""
    objectives = {"bert": "masked", "electra": "replaced_token", "bart": "denoising"}
    sections: dict[str, Any] = {"data": {"mixture": {f"short:{objectives.get(family.get('name', ''), 'causal')}": 1.0}}, "optim": OPTIM}

    def losses(dropout: float, devices: int = 1, at: int = 0, **train: Any) -> list[float]:
        checked = experiment(cache_dir, **sections, model={**family, "dropout": dropout}, train=train, mesh={"data": devices})
        mixture = open_mixture(checked.data, "train")
        program, builder = build.from_mixture(checked, mixture, jax.devices()[:devices])
        step, state = program.compile_train(), fresh(program)
        batch, found = batch_of(builder, mixture), []
        for _ in range(2):
            state = replace(state, step=jnp.asarray(at))
            state, metrics = step(jax.device_put(state, program.state_shardings), jax.device_put(batch))
            found.append(float(metrics["loss"]))
        return found

    plain, dropped = losses(0.0)[0], losses(0.5)[0]
    assert abs(dropped - plain) > 1e-4
    assert losses(0.5)[0] == dropped != losses(0.5, at=1)[0] != losses(0.5, seed=1)[0]
    assert losses(0.5, remat="full")[0] == pytest.approx(dropped, rel=1e-6)
    assert losses(0.5, devices=8)[0] == pytest.approx(dropped, rel=1e-5)
    assert losses(2**-17)[0] == plain  # rounds to none


def test_word_dropout_reads_unknown_tokens(cache_dir: Path) -> None:
    """In training alone: a share of the tokens is read as the vocabulary's unknown one, the others as they are."""
    program, _, _ = program_of(cache_dir, model={"word_dropout": 0.25})
    model = program.skeleton.merge(numpy_params(program.skeleton))
    tokens = jnp.arange(5, 4 + 4096)[None] % 200 + 5
    batch = {"tokens": tokens, "positions": jnp.arange(tokens.shape[1])[None]}
    plain = np.asarray(model.embedder(batch))[0]
    dropped = np.asarray(model.embedder(batch | {"dropout_key": jax.random.key(0)}))[0]
    unknown = np.asarray(model.embedder(batch | {"tokens": jnp.full_like(tokens, program.experiment.model.unknown_id)}))[0]
    gone = (dropped == unknown).all(axis=1)
    assert abs(gone.mean() - 0.25) < 0.04  # over five standard deviations of 4,091 tokens
    assert program.experiment.model.unknown_id == 2 and (dropped[~gone] == plain[~gone]).all()


def test_a_batch_without_targets_is_a_step_of_zero_loss(plain: tuple[Program, Any, list[dict[str, np.ndarray]]]) -> None:
    program, step, batches = plain
    empty = batches[0] | {"loss_weights": np.zeros_like(batches[0]["loss_weights"])}
    _, metrics = step(fresh(program), jax.device_put(empty))
    assert float(metrics["loss"]) == 0 and float(metrics["grad_norm"]) == 0 and int(metrics["skipped"]) == 0


def test_the_loss_is_the_mean_over_targets(plain: tuple[Program, Any, list[dict[str, np.ndarray]]]) -> None:
    """Doubling all weights changes nothing; a row's weight is its share of the mean."""
    program, step, batches = plain

    def loss(weights: np.ndarray) -> float:
        return float(step(fresh(program), jax.device_put(batches[0] | {"loss_weights": weights}))[1]["loss"])

    ones = batches[0]["loss_weights"]
    first, rest = ones.copy(), ones.copy()
    first[1:], rest[:1] = 0, 0
    n, m = first.sum(), rest.sum()
    assert loss(ones) == pytest.approx((n * loss(first) + m * loss(rest)) / (n + m), rel=1e-6)
    assert loss(2 * ones) == pytest.approx(loss(ones), rel=1e-6)
    assert loss(ones * np.float32(2**-12)) == pytest.approx(loss(ones), rel=1e-6)  # also where the weights sum to less than one


def test_objectives_in_one_batch_add_up(cache_dir: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The same objective under a second name, in a user's own module: the total is the weighted sum of both losses."""
    (tmp_path / "mine_for_step").mkdir()
    (tmp_path / "mine_for_step" / "__init__.py").write_text("")
    (tmp_path / "mine_for_step" / "second.py").write_text(
        "from pretrainx.objectives.causal import Objective as Base\n\n\nclass Objective(Base):\n    pass\n"
    )
    monkeypatch.syspath_prepend(str(tmp_path))
    two = {"topics": 1.0, "short:mine_for_step.second": 1.0}
    program, builder, mixture = program_of(
        cache_dir, data={"mixture": two}, train={"loss_weights": {"causal": 2.0, "mine_for_step.second": 0.5}}
    )
    assert list(program.objectives) == ["causal", "mine_for_step.second"]
    step, batch = program.compile_train(), batch_of(builder, mixture, step=1)
    assert set(batch["objective"].tolist()) == {0, 1}
    _, metrics = step(fresh(program), jax.device_put(batch))
    alone = {}
    single, _, _ = program_of(cache_dir)
    single_step = single.compile_train()
    for number, name in enumerate(program.objectives):
        mine = (batch["objective"] == number)[:, None].astype(np.float32)
        weights = batch["loss_weights"] * mine
        _, own = single_step(fresh(single), jax.device_put(batch | {"loss_weights": weights}))
        alone[name] = float(own["loss"])
        assert float(metrics[f"loss/{name}"]) == pytest.approx(alone[name], rel=1e-6)
        assert float(metrics[f"targets/{name}"]) == weights.sum()
    assert float(metrics["loss"]) == pytest.approx(2 * alone["causal"] + 0.5 * alone["mine_for_step.second"], rel=1e-6)


def test_the_state_hash_sees_every_bit(plain: tuple[Program, Any, list[dict[str, np.ndarray]]]) -> None:
    program, _, _ = plain
    state = fresh(program)
    seen = {states.sha256(state)}
    for path, leaf in flatten(state.params):
        changed = np.array(leaf)
        changed.flat[-1] = np.nextafter(changed.flat[-1], np.float32(9))
        params = jax.tree_util.tree_map_with_path(
            lambda p, x, path=path, changed=changed: changed if "/".join(k.key for k in p) == path else x, state.params
        )
        seen.add(states.sha256(jax.device_put(State(state.step, params, state.opt_state, state.skipped, state.skipped_in_a_row))))
    assert len(seen) == 1 + len(flatten(state.params))


@pytest.mark.parametrize(
    ("sections", "message"),
    [
        ({"data": {"objective": "masked"}}, "objective 'masked' needs a bidirectional model"),
        ({"model": {"name": "encoder"}}, "objective 'causal' needs a causal model"),
        ({"train": {"loss_weights": {"casual": 1.0}}}, "train.loss_weights.casual: .*did you mean 'causal'"),
        ({"model": {"vocab_size": 100}}, "model.vocab_size 100 is smaller"),
        ({"train": {"stop_at": 13}}, "train.stop_at 13 is beyond"),
        ({"optim": {"warmup": 13}}, "optim.warmup: 13 steps"),
        ({"model": {"loss_chunks": 5}}, "loss_chunks 5 does not divide"),
    ],
)
def test_parts_that_do_not_meet(cache_dir: Path, sections: dict[str, Any], message: str) -> None:
    with pytest.raises(InputError, match=message):
        program_of(cache_dir, **sections)
