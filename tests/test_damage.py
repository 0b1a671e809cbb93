"""A checkpoint damaged in place never loads: every file of it, cut, flipped or gone; and what a save that fails leaves behind."""

import json
import random
import resource
import shutil
import signal
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import orbax.checkpoint as ocp
import pytest
from hypothesis import given
from hypothesis import settings as hypothesis_settings
from hypothesis import strategies as st
from support import command, experiment, finish, metrics, settings, write_config

from pretrainx.core.errors import InputError, SaveFailed
from pretrainx.train import checkpoint, digests, loop
from pretrainx.train import state as states
from pretrainx.train.checkpoint import QUARANTINE, Checkpoints
from pretrainx.train.state import State

PLACES, SEED = 20, 7


def state_of(step: int) -> State:
    """A state of two thousand numbers that differ from step to step."""
    weights = {"a": {"kernel": jnp.arange(1500, dtype=jnp.float32) * step}, "b": jnp.full((20, 25), step, jnp.float32)}
    count = lambda n: jnp.asarray(n, jnp.int32)  # noqa: E731
    return State(count(step), weights, {"mu": jax.tree.map(lambda x: x / 7, weights)}, count(0), count(0))


def restored(checkpoints: Checkpoints, step: int) -> State:
    like = state_of(1)
    return checkpoints.restore(step, like, jax.tree.map(lambda x: x.sharding, like))


@pytest.fixture(scope="module")
def saved(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The checkpoints of steps 4 and 8."""
    folder = tmp_path_factory.mktemp("saved") / "checkpoints"
    checkpoints = Checkpoints(folder)
    for step in (4, 8):
        checkpoints.save(state_of(step), step, {"loss": 1.0 / step})
    checkpoints.close()
    return folder


@pytest.fixture
def copy(saved: Path, tmp_path: Path) -> Path:
    return Path(shutil.copytree(saved, tmp_path / "run" / "checkpoints"))


def files_of(folder: Path) -> list[Path]:
    return sorted(path.relative_to(folder) for path in folder.rglob("*") if path.is_file())


def places(folder: Path) -> Iterator[tuple[Path, str, int]]:
    """(file, what happens to it, where): each file is lost once, cut once, and flipped at PLACES seeded bits over all files."""
    draw = random.Random(SEED)
    found = files_of(folder)
    for name in found:
        yield name, "lost", 0
        if size := (folder / name).stat().st_size:
            yield name, "cut", draw.randrange(size)
            yield name, "flipped", draw.randrange(8 * size)
    full = [name for name in found if (folder / name).stat().st_size]
    for _ in range(PLACES):
        name = draw.choice(full)
        yield name, "flipped", draw.randrange(8 * (folder / name).stat().st_size)


def damage(path: Path, how: str, where: int) -> None:
    content = bytearray(path.read_bytes())
    if how == "lost":
        path.unlink()
    elif how == "cut":
        path.write_bytes(content[:where])
    else:
        content[where // 8] ^= 1 << where % 8
        path.write_bytes(content)


def test_every_file_damaged_in_every_way_is_told(saved: Path, tmp_path: Path) -> None:
    """The two files that hold nothing which is ever loaded may pass where what is damaged has no meaning (a time, a mark)."""
    step, tried, passed = saved / "8", 0, []
    assert digests.problem(step) == "" and digests.NAME in map(str, files_of(step)) and len(files_of(step)) > 20
    for name, how, where in places(step):
        broken = Path(shutil.copytree(step, tmp_path / "8"))
        damage(broken / name, how, where)
        tried += 1
        if not (what := digests.problem(broken)):
            passed.append((str(name), how))
        else:
            assert str(name) == digests.NAME or str(name) in what  # a flipped list may blame any file
        shutil.rmtree(broken)
    assert tried >= 2 * PLACES
    assert {name for name, _ in passed} <= {digests.COMMIT_MARK, digests.STEP_METADATA}
    assert all(how == "flipped" for name, how in passed if name == digests.STEP_METADATA)


@pytest.mark.parametrize("number", range(PLACES))
def test_the_one_before_is_restored_and_the_damaged_one_put_aside(copy: Path, number: int, capsys: pytest.CaptureFixture[str]) -> None:
    draw = random.Random(f"{SEED} {number}")
    held = [
        n for n in files_of(copy / "8") if str(n) not in (digests.COMMIT_MARK, digests.STEP_METADATA) and (copy / "8" / n).stat().st_size
    ]
    name, how = draw.choice(held), draw.choice(("lost", "cut", "flipped"))
    size = (copy / "8" / name).stat().st_size
    damage(copy / "8" / name, how, draw.randrange(8 * size if how == "flipped" else size))
    with pytest.raises(InputError, match="the checkpoint of step 8 is damaged: "):
        Checkpoints(copy, read_only=True).facts(8)
    checkpoints = Checkpoints(copy)
    assert checkpoints.latest() == 4 and checkpoints.steps() == [4]
    assert states.sha256(restored(checkpoints, 4)) == states.sha256(state_of(4)) and checkpoints.facts(4) == {"loss": 0.25}
    said = capsys.readouterr().err
    assert "warning: the checkpoint of step 8 is damaged: " in said and "put aside in" in said and "step 4 is used" in said
    assert (copy.parent / QUARANTINE / "8").is_dir()
    checkpoints.save(state_of(8), 8, {})  # lived again, and saved under the same step
    checkpoints.close()
    assert Checkpoints(copy).latest() == 8


def test_readers_use_the_one_before_and_move_nothing(copy: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (copy / "8" / "facts" / "metadata").write_text("{}")
    assert Checkpoints(copy, read_only=True).latest() == 4
    assert (copy / "8").is_dir() and not (copy.parent / QUARANTINE).exists()
    assert "facts/metadata has 2 bytes and had" in capsys.readouterr().err


def test_nothing_begins_anew_where_all_are_damaged(copy: Path) -> None:
    for step in ("4", "8"):
        (copy / step / "facts" / "metadata").write_text("{}")
    for _ in range(2):  # and not at the second try either
        with pytest.raises(InputError, match=r"every checkpoint is damaged \(8, 4; of step 8, facts/metadata has 2 bytes"):
            Checkpoints(copy).latest()


def test_quarantine_overwrites_nothing(copy: Path) -> None:
    (copy.parent / QUARANTINE / "8").mkdir(parents=True)
    (copy / "8" / "facts" / "metadata").unlink()
    assert Checkpoints(copy).latest() == 4 and (copy.parent / QUARANTINE / "8.1" / "params").is_dir()


def test_a_checkpoint_of_before_there_were_digests_is_used_and_said(copy: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (copy / "8" / digests.NAME).unlink()
    path = copy / "8" / digests.STEP_METADATA
    path.write_text(path.read_text().replace('"custom_metadata": {"digests": 1}', '"custom_metadata": {}'))
    checkpoints = Checkpoints(copy)
    assert checkpoints.latest() == 8 and states.sha256(restored(checkpoints, 8)) == states.sha256(state_of(8))
    assert "has no digests (an older version wrote it): it is used unchecked" in capsys.readouterr().err


@hypothesis_settings(max_examples=300)
@given(st.one_of(st.binary(max_size=60), st.recursive(
    st.one_of(st.none(), st.booleans(), st.integers(), st.floats(), st.text(max_size=70)),
    lambda inner: st.one_of(st.lists(inner, max_size=3), st.dictionaries(st.text(max_size=20), inner, max_size=3)), max_leaves=8,
).map(lambda value: json.dumps(value).encode())), st.sampled_from((digests.NAME, digests.STEP_METADATA)))  # fmt: skip
def test_lists_of_any_content_are_a_finding_and_no_error(tmp_path_factory: pytest.TempPathFactory, content: bytes, name: str) -> None:
    folder = tmp_path_factory.getbasetemp() / "fuzzed"
    shutil.rmtree(folder, ignore_errors=True)
    (folder / "params").mkdir(parents=True)
    (folder / "params" / "data").write_bytes(b"weights")
    (folder / digests.STEP_METADATA).write_text('{"custom_metadata": {"digests": 1}}')
    if name == digests.STEP_METADATA:
        digests.write(folder)
    (folder / name).write_bytes(content)
    found = digests.problem(folder)
    assert isinstance(found, str) and found


def fail_saves(monkeypatch: pytest.MonkeyPatch, times: int) -> list[int]:
    """The next saves fail behind the training, as the last bytes are written."""
    left = [times]
    write = digests.write

    def fails(folder: Path) -> None:
        if left[0]:
            left[0] -= 1
            raise OSError(28, "No space left on device")
        write(folder)

    monkeypatch.setattr(checkpoint.digests, "write", fails)
    return left


def test_a_save_that_fails_behind_the_training_keeps_the_old_ones(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    checkpoints = Checkpoints(tmp_path / "checkpoints", keep=1)
    checkpoints.save(state_of(1), 1, {})
    checkpoints.collect(wait=True)
    fail_saves(monkeypatch, 2)
    for step in (2, 3):
        checkpoints.save(state_of(step), step, {})
        while not checkpoints.collect():  # surfaces by itself, without the next save
            time.sleep(0.01)
    assert checkpoints.failed == 2 and checkpoints.steps() == [1]
    assert {path.name for path in checkpoints.folder.iterdir()} == {"1"}  # room for the next try
    said = capsys.readouterr().err
    assert "SAVE FAILED (2 so far): step 3: [Errno 28] No space left on device; the checkpoint of step 1 is whole" in said
    checkpoints.save(state_of(4), 4, {})
    checkpoints.close()
    assert checkpoints.steps() == [4] and states.sha256(restored(Checkpoints(tmp_path / "checkpoints"), 4)) == states.sha256(state_of(4))


def test_the_last_save_may_not_fail_in_silence(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    checkpoints = Checkpoints(tmp_path / "checkpoints")
    fail_saves(monkeypatch, 1)
    checkpoints.save(state_of(3), 3, {})
    with pytest.raises(SaveFailed, match="step 3 could not be saved .*No space left.*there is no checkpoint yet"):
        checkpoints.close()


def test_a_save_that_fails_at_once_is_no_other(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    checkpoints = Checkpoints(tmp_path / "checkpoints")
    with monkeypatch.context() as patch:
        patch.setattr(ocp.CheckpointManager, "save", lambda *_, **__: (_ for _ in ()).throw(OSError(5, "Input/output error")))
        checkpoints.save(state_of(1), 1, {})
    assert checkpoints.failed == 1
    checkpoints.save(state_of(2), 2, {})
    checkpoints.close()
    assert checkpoints.steps() == [2]


TINY: dict[str, Any] = {"train": {"steps": 12}, "checkpoint": {"every": 4}, "model": {"num_layers": 1}, "log": {"every": 1}}


@pytest.mark.slow
def test_a_run_goes_on_from_the_one_before(cache_dir: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A bit flipped in the newest of a real run: it ends as if never interrupted."""
    devices = jax.devices()[:1]
    monkeypatch.setattr(jax, "devices", lambda *_: devices)
    run = lambda folder, **train: loop.train(loop.prepare(experiment(cache_dir, **{**TINY, "train": {**TINY["train"], **train}}), folder))  # noqa: E731
    wanted = run(tmp_path / "unbroken")
    run(tmp_path / "run", stop_at=8)
    newest = tmp_path / "run" / "checkpoints" / "8"
    heaviest = max((newest / name for name in files_of(newest)), key=lambda path: path.stat().st_size)
    damage(heaviest, "flipped", 4 * heaviest.stat().st_size)
    result = run(tmp_path / "run")
    assert {k: result[k] for k in ("step", "loss", "state_sha256", "rows_sha256")} == {
        k: wanted[k] for k in ("step", "loss", "state_sha256", "rows_sha256")
    }
    assert metrics(tmp_path / "run") == metrics(tmp_path / "unbroken")
    assert (tmp_path / "run" / QUARANTINE / "8").is_dir()


@pytest.mark.slow
def test_a_full_disk_costs_its_interval_and_nothing_else(cache_dir: Path, tmp_path: Path) -> None:
    """A real process that may write no file of more than 8 KB: logs fit and arrays do not. The limit is lifted while it runs."""
    longer = {**TINY, "train": {"steps": 300}, "checkpoint": {"every": 20}, "log": {"every": 50}}
    words = f"--config={write_config(tmp_path / 'tiny.py', settings(cache_dir, **longer))}"
    wanted = finish(command(words, f"--workdir={tmp_path / 'unbroken'}", "--json"))
    process = command(words, f"--workdir={tmp_path / 'run'}", "--json")
    log = tmp_path / "run" / "log.txt"
    while process.poll() is None and not (log.exists() and "compiled in" in log.read_text()):
        time.sleep(0.01)
    resource.prlimit(process.pid, resource.RLIMIT_FSIZE, (8192, resource.RLIM_INFINITY))
    while process.poll() is None and "SAVE FAILED" not in log.read_text():
        time.sleep(0.01)
    resource.prlimit(process.pid, resource.RLIMIT_FSIZE, (resource.RLIM_INFINITY, resource.RLIM_INFINITY))
    result = finish(process)
    assert result["state_sha256"] == wanted["state_sha256"] and result["rows_sha256"] == wanted["rows_sha256"]
    assert "SAVE FAILED (1 so far)" in log.read_text()
    assert Checkpoints(tmp_path / "run" / "checkpoints", read_only=True).latest() == 300
    losses = [row["train/loss"] for row in metrics(tmp_path / "run") if "train/loss" in row]
    assert losses == [row["train/loss"] for row in metrics(tmp_path / "unbroken") if "train/loss" in row]
    assert np.isfinite(losses).all() and any(row.get("train/failed_saves") for row in metrics(tmp_path / "run"))


@pytest.mark.slow
def test_a_clock_that_jumps_changes_nothing(cache_dir: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A year back, then a year on, between saves; while one is written, the checkpoint library would take a jump for its timeout."""
    devices = jax.devices()[:1]
    monkeypatch.setattr(jax, "devices", lambda *_: devices)
    run = lambda folder: loop.train(loop.prepare(experiment(cache_dir, **TINY), folder))  # noqa: E731
    wanted = run(tmp_path / "unbroken")
    save, true, offsets = Checkpoints.save, time.time, [365 * 86400.0, -365 * 86400.0]

    def jumps(self: Checkpoints, *arguments: Any) -> None:
        self.collect(wait=True)
        if offsets:
            offset = offsets.pop()
            monkeypatch.setattr(time, "time", lambda: true() + offset)
        save(self, *arguments)

    monkeypatch.setattr(Checkpoints, "save", jumps)
    result = run(tmp_path / "run")
    assert offsets == [] and result["state_sha256"] == wanted["state_sha256"] and result["rows_sha256"] == wanted["rows_sha256"]
    assert metrics(tmp_path / "run") == metrics(tmp_path / "unbroken")
    assert Checkpoints(tmp_path / "run" / "checkpoints", read_only=True).steps() == [8, 12]


def flood(process: Any, folder: Path, count: int) -> None:
    """SIGTERM so often, the first once a step is logged, the others at once behind it."""
    while process.poll() is None and not (folder / "metrics.jsonl").exists():
        time.sleep(0.01)
    while process.poll() is None and not (folder / "metrics.jsonl").read_text():
        time.sleep(0.01)
    for _ in range(count):
        process.send_signal(signal.SIGTERM)
        time.sleep(0.02)  # two that are pending at once are one


@pytest.mark.slow
def test_a_second_signal_ends_it_at_once_and_loses_only_its_interval(cache_dir: Path, tmp_path: Path) -> None:
    """Perhaps in the middle of the save that the first one asked for: what is there is whole, and the run goes on exactly."""
    longer = {**TINY, "train": {"steps": 600}, "checkpoint": {"every": 20}, "log": {"every": 10}}
    words = f"--config={write_config(tmp_path / 'tiny.py', settings(cache_dir, **longer))}"
    wanted = finish(command(words, f"--workdir={tmp_path / 'unbroken'}", "--json"))
    process = command(words, f"--workdir={tmp_path / 'run'}", "--json")
    flood(process, tmp_path / "run", 4)
    said = process.communicate()[1]
    assert process.returncode in (75, -signal.SIGTERM), said  # the last may come when nobody listens any more
    assert "SAVE FAILED" not in said
    result = finish(command(words, f"--workdir={tmp_path / 'run'}", "--json"))
    assert (result["state_sha256"], result["rows_sha256"]) == (wanted["state_sha256"], wanted["rows_sha256"])
    assert metrics(tmp_path / "run") == metrics(tmp_path / "unbroken")
