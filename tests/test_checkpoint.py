"""Resume is exact: a run stopped at any step and continued ends in the same bytes as one never stopped."""

import asyncio
import dataclasses
import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import jax
import numpy as np
import orbax.checkpoint as ocp
import pytest
from support import BYTES, documents, experiment, metrics, write_split

from pretrainx.core.errors import GuardStop, InputError, Interrupted
from pretrainx.models.skeleton import flatten
from pretrainx.train import loop, resume
from pretrainx.train import state as states
from pretrainx.train.checkpoint import Checkpoints
from pretrainx.train.guards import signals

RUN: dict[str, Any] = {"eval": {"every": 4, "max_rows": 16}, "checkpoint": {"every": 5}, "log": {"every": 3, "tensorboard": True}}
SAME = ("step", "loss", "state_sha256", "rows_sha256", "tokens", "skipped")


def run(cache_dir: Path, folder: Path, allowed: tuple[str, ...] = (), **sections: Any) -> dict[str, Any]:
    checked = experiment(cache_dir, **{k: {**RUN.get(k, {}), **v} if isinstance(v, dict) else v for k, v in {**RUN, **sections}.items()})
    return loop.train(loop.prepare(checked, folder, allowed))


pytestmark = pytest.mark.usefixtures("one_device")


@pytest.fixture(scope="module")
def unbroken(cache_dir: Path, tmp_path_factory: pytest.TempPathFactory) -> tuple[dict[str, Any], Path]:
    folder = tmp_path_factory.mktemp("unbroken")
    return run(cache_dir, folder), folder


def same(result: dict[str, Any], folder: Path, unbroken: tuple[dict[str, Any], Path]) -> None:
    wanted, wanted_folder = unbroken
    assert {k: result[k] for k in SAME} == {k: wanted[k] for k in SAME}
    assert metrics(folder) == metrics(wanted_folder)


def test_a_run_leaves_what_it_promises(unbroken: tuple[dict[str, Any], Path]) -> None:
    result, folder = unbroken
    assert result["step"] == 12 and result["tokens"] == 12 * 8 * 32 and np.isfinite(result["loss"])
    names = {path.name for path in folder.iterdir()}
    assert {"config.json", "manifest.json", "metrics.jsonl", "checkpoints", "tensorboard", "curves.png", "log.txt"} <= names
    rows = metrics(folder)
    assert [r["step"] for r in rows if "train/loss" in r] == [3, 6, 9, 12]
    assert [r["step"] for r in rows if "eval/topics/bits_per_byte" in r] == [4, 8, 12]
    assert json.loads((folder / "config.json").read_text())["train"]["batch_size"] == 8


STOPS = [[1], [4], [5, 6], [8, 11, 12]]


@pytest.mark.parametrize("stops", [s if s in ([4],) else pytest.param(s, marks=pytest.mark.slow) for s in STOPS], ids=str)
def test_stop_at_and_go_on(cache_dir: Path, tmp_path: Path, unbroken: tuple[dict[str, Any], Path], stops: list[int]) -> None:
    for stop in stops:
        assert run(cache_dir, tmp_path, train={"stop_at": stop})["step"] == stop
    same(run(cache_dir, tmp_path), tmp_path, unbroken)


@pytest.mark.parametrize("step", [8, pytest.param(7, marks=pytest.mark.slow), pytest.param(12, marks=pytest.mark.slow)])
def test_a_signal_at_any_step_is_no_loss(
    cache_dir: Path, tmp_path: Path, unbroken: tuple[dict[str, Any], Path], monkeypatch: pytest.MonkeyPatch, step: int
) -> None:
    """Steps 8 and 12 are evaluated: the stopped run owes that to its resumption."""
    asked = []
    with monkeypatch.context() as patch:
        patch.setattr(signals.Signals, "agreed", lambda self: asked.append(0) or len(asked) == step)
        with pytest.raises(Interrupted, match=f"at step {step}; saved"):
            run(cache_dir, tmp_path)
    same(run(cache_dir, tmp_path), tmp_path, unbroken)


@pytest.mark.slow
def test_a_finished_run_says_the_same_again(cache_dir: Path, tmp_path: Path, unbroken: tuple[dict[str, Any], Path]) -> None:
    folder = tmp_path / "again"
    shutil.copytree(unbroken[1], folder)
    same(run(cache_dir, folder), folder, unbroken)


def test_what_was_written_after_the_checkpoint_is_lived_again(
    cache_dir: Path, tmp_path: Path, unbroken: tuple[dict[str, Any], Path]
) -> None:
    """As after kill -9 at step 12 with the last whole checkpoint at 10, and a half-written one beside it."""
    folder = tmp_path / "killed"
    shutil.copytree(unbroken[1], folder)
    shutil.rmtree(folder / "checkpoints" / "12")
    (folder / "checkpoints" / "12.orbax-checkpoint-tmp").mkdir()
    with open(folder / "metrics.jsonl", "a") as stream:
        stream.write('{"step": 13, "train/lo')
    same(run(cache_dir, folder), folder, unbroken)


def test_facts_are_those_of_the_save(cache_dir: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """They are written while the training goes on, perhaps late: what it changes meanwhile belongs to later checkpoints."""
    write = ocp.JsonCheckpointHandler._save_fn

    async def write_late(*arguments: Any) -> None:
        await asyncio.sleep(0.3)
        await write(*arguments)

    monkeypatch.setattr(ocp.JsonCheckpointHandler, "_save_fn", write_late)
    state = loop.prepare(experiment(cache_dir), tmp_path / "run").program.init_state()
    checkpoints, pending = Checkpoints(tmp_path / "checkpoints"), [{"loss": 1.0}]
    checkpoints.save(state, 1, {"pending": pending})
    pending.append({"loss": 2.0})
    checkpoints.close()
    assert Checkpoints(tmp_path / "checkpoints", read_only=True).facts(1) == {"pending": [{"loss": 1.0}]}


@pytest.mark.slow
def test_old_checkpoints_go_and_some_stay(cache_dir: Path, tmp_path: Path) -> None:
    run(cache_dir, tmp_path, checkpoint={"every": 1, "keep": 2, "keep_every": 5})
    assert Checkpoints(tmp_path / "checkpoints", read_only=True).steps() == [5, 10, 11, 12]


@pytest.mark.slow
def test_another_mesh_restores_the_same_bytes(cache_dir: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Eight devices with fsdp, then one."""
    devices = jax.devices("cpu") if len(jax.devices()) > 1 else jax.local_devices()
    with monkeypatch.context() as patch:
        patch.setattr(jax, "devices", lambda *_: devices)
        wide = {"layout": "fsdp", "mesh": {"data": 1, "fsdp": 8}, "eval": {"every": 0}}
        first = run(cache_dir, tmp_path, train={"stop_at": 6}, **wide)
    prepared = loop.prepare(experiment(cache_dir, **RUN), tmp_path)
    state = prepared.checkpoints.restore(6, prepared.program.abstract_state, prepared.program.state_shardings)
    assert states.sha256(state) == first["state_sha256"]
    assert {leaf.sharding.device_set.__len__() for leaf in jax.tree.leaves(state)} == {1}
    params = prepared.checkpoints.restore_params(6, prepared.program.abstract_state.params, prepared.program.state_shardings.params)
    for (path, a), (_, b) in zip(flatten(params), flatten(state.params), strict=True):
        assert np.array_equal(a, b), path
    prepared.checkpoints.close()
    assert run(cache_dir, tmp_path)["step"] == 12


@pytest.fixture(scope="module")
def half(cache_dir: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("half")
    run(cache_dir, folder, train={"stop_at": 3}, eval={"every": 0})
    return folder


@pytest.mark.parametrize(
    ("sections", "message"),
    [
        ({"model": {"d_model": 64}}, "holds a checkpoint of another model .*is .* there and .* here"),
        ({"data": {"mixture": {"short": 1.0}}}, "data.mixture.short: None -> 1.0"),
        ({"data": {"seed": 1}}, "data.seed: 0 -> 1"),
        ({"optim": {"peak_lr": 0.5}}, "optim.peak_lr: 0.01 -> 0.5; .*--allow_change=optim.peak_lr"),
        ({"train": {"grad_accum": 2}}, "train.grad_accum: 1 -> 2"),
        ({"train": {"steps": 13}}, "train.steps: 12 -> 13"),
        ({"optim": {"name": "muon"}}, "optim"),
    ],
)
def test_another_run_is_refused(cache_dir: Path, half: Path, sections: dict[str, Any], message: str) -> None:
    with pytest.raises(InputError, match=message):
        loop.prepare(experiment(cache_dir, **(RUN | {"eval": {"every": 0}} | sections)), half)


@pytest.mark.parametrize(
    ("sections", "allowed"),
    [
        ({"train": {"remat": "full"}}, ()),
        ({"eval": {"every": 2}, "log": {"every": 1}, "checkpoint": {"every": 1, "keep": 9}, "data": {"workers": 1}}, ()),
        ({"optim": {"peak_lr": 0.5}}, ("optim.peak_lr",)),
        ({"optim": {"peak_lr": 0.5, "weight_decay": 0.0}}, ("optim",)),
        ({"data": {"seed": 1}}, ("data",)),
    ],
)
def test_what_may_change_may_change(cache_dir: Path, half: Path, sections: dict[str, Any], allowed: tuple[str, ...]) -> None:
    assert loop.prepare(experiment(cache_dir, **(RUN | sections)), half, allowed).step == 3


def test_a_leaf_that_came_with_a_later_version_stands_for_its_default(cache_dir: Path) -> None:
    checked = experiment(cache_dir, **RUN)
    now, identity = json.loads(json.dumps(checked.resolved())), {"model": {}, "vocabulary": "", "data": ""}
    before = json.loads(json.dumps(now))
    del before["data"]["rates"], before["model"]["dropout"]
    facts = {"config": before, "identity": identity}
    assert resume.check("runs/x", facts, now, identity, (), checked.defaults()) == []
    now["model"]["dropout"] = 0.5
    with pytest.raises(InputError, match="model.dropout: None -> 0.5"):
        resume.check("runs/x", facts, now, identity, (), checked.defaults())


def test_another_vocabulary_is_refused(cache_dir: Path, half: Path, tmp_path: Path) -> None:
    """Same sizes, another meaning: told by its hash."""
    other = dataclasses.replace(BYTES, sha256="f" * 64)
    for split in ("train", "validation"):
        write_split(tmp_path, "topics", split, documents()[:60], vocabulary=other)
    with pytest.raises(InputError, match="checkpoint of another vocabulary"):
        loop.prepare(experiment(tmp_path, **RUN), half)


def test_another_text_under_the_same_name_is_refused(cache_dir: Path, half: Path, tmp_path: Path) -> None:
    """The config is the same; what lies in the cache is not."""
    for split in ("train", "validation"):
        write_split(tmp_path, "topics", split, documents()[1:61])
    with pytest.raises(InputError, match="checkpoint of another data .*--allow_change=data"):
        loop.prepare(experiment(tmp_path, **RUN), half)
    assert loop.prepare(experiment(tmp_path, **RUN), half, ("data",)).step == 3


def test_an_absent_step_names_those_there(half: Path) -> None:
    checkpoints = Checkpoints(half / "checkpoints", read_only=True)
    assert checkpoints.latest() == 3
    with pytest.raises(InputError, match="no checkpoint of step 4; those there: 3"):
        checkpoints.facts(4)
    nothing = Checkpoints(half / "nowhere", read_only=True)
    assert nothing.latest() is None and nothing.steps() == [] and not (half / "nowhere").exists()


@pytest.mark.slow
def test_steps_that_are_not_finite_stop_the_run(cache_dir: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """From step 5 on every batch is poisoned; the guard stops after three, with the state of before."""
    poison: Callable[..., Any] = loop.batches

    def poisoned(*arguments: Any, **options: Any) -> Any:
        for batch in poison(*arguments, **options):
            if batch.step >= 4:
                batch.features["loss_weights"][0, 0] = np.nan
            yield batch

    before = run(cache_dir, tmp_path / "before", train={"stop_at": 4}, eval={"every": 0})
    monkeypatch.setattr(loop, "batches", poisoned)
    with pytest.raises(GuardStop, match="not finite"):
        run(cache_dir, tmp_path / "run", train={"max_bad_steps": 3}, eval={"every": 0})
    prepared = loop.prepare(experiment(cache_dir, **RUN), tmp_path / "run", ("train.max_bad_steps",))
    state = prepared.checkpoints.restore(prepared.step, prepared.program.abstract_state, prepared.program.state_shardings)
    assert int(state.skipped) == int(state.skipped_in_a_row) == prepared.step - 4 >= 3
    assert states.sha256(state) == before["state_sha256"]


def test_a_run_goes_on_in_float16_and_back(cache_dir: Path, tmp_path: Path) -> None:
    """The loss scale begins anew, or is left behind; moments and weights are those of the checkpoint."""
    wanted = run(cache_dir, tmp_path / "plain", train={"dtype": "float32", "stop_at": 5})
    dtypes = {2: "float32", 4: "float16", 5: "float32"}
    for stop, dtype in dtypes.items():
        found = run(cache_dir, tmp_path / "switched", ("train.dtype",), train={"dtype": dtype, "stop_at": stop})
    assert found["step"] == 5 and found["skipped"] == 0
    assert 0 < abs(found["loss"] - wanted["loss"]) < 2e-3 * wanted["loss"]  # two steps had three digits


def test_another_optimizers_state_is_refused(cache_dir: Path, half: Path) -> None:
    with pytest.raises(InputError, match=r"the optimizer's state in the checkpoint is another's: .* here; go back .*--config.init_from="):
        loop.prepare(experiment(cache_dir, **(RUN | {"optim": {"name": "muon"}})), half, ("optim",))
