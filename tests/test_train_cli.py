"""The command, in processes of its own: killed, interrupted, locked, and several as one."""

import random
import shutil
import signal
import socket
import subprocess
import time
from pathlib import Path
from typing import Any

import pytest
from support import command, finish, metrics, settings, write_config

SAME = ("step", "loss", "state_sha256", "rows_sha256", "tokens", "skipped")
SECTIONS: dict[str, Any] = {
    "train": {"steps": 40}, "checkpoint": {"every": 7}, "eval": {"every": 20, "max_rows": 16},
    "log": {"every": 5}, "model": {"num_layers": 1},
}  # fmt: skip


@pytest.fixture(scope="session")
def config(cache_dir: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_config(tmp_path_factory.mktemp("config") / "tiny.py", settings(cache_dir, **SECTIONS))


@pytest.fixture(scope="session")
def unbroken(config: Path, tmp_path_factory: pytest.TempPathFactory) -> tuple[dict[str, Any], Path]:
    folder = tmp_path_factory.mktemp("unbroken")
    return finish(command(f"--config={config}", f"--workdir={folder}", "--json")), folder


def same(result: dict[str, Any], folder: Path, unbroken: tuple[dict[str, Any], Path]) -> None:
    assert {k: result[k] for k in SAME} == {k: unbroken[0][k] for k in SAME}
    assert metrics(folder) == metrics(unbroken[1])


def wait_for(path: Path, process: subprocess.Popen[str], lines: int = 1) -> None:
    """Until the file has so many lines, or the process is over."""
    while process.poll() is None and not (path.exists() and len(path.read_text().splitlines()) >= lines):
        time.sleep(0.02)


@pytest.mark.slow
def test_killed_at_random_instants(config: Path, tmp_path: Path, unbroken: tuple[dict[str, Any], Path]) -> None:
    """kill -9 three times, the third mostly in the middle of saving; then to the end: the same bytes."""
    words = (f"--config={config}", f"--workdir={tmp_path}", "--json")
    draw = random.Random(7)
    for lines in (1, 3, 6):
        process = command(*words)
        wait_for(tmp_path / "metrics.jsonl", process, lines)
        time.sleep(draw.uniform(0, 0.1))
        process.kill()
        process.communicate()
    same(finish(command(*words)), tmp_path, unbroken)


@pytest.mark.slow
@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_a_signal_saves_and_exits_with_75(
    config: Path, tmp_path: Path, unbroken: tuple[dict[str, Any], Path], number: signal.Signals
) -> None:
    words = (f"--config={config}", f"--workdir={tmp_path}", "--json")
    process = command(*words)
    wait_for(tmp_path / "metrics.jsonl", process, 2)
    process.send_signal(number)
    said = finish(process, code=75)["stderr"].splitlines()[-1]
    assert said.startswith(f"interrupted: {number.name} at step ") and "run the same command again" in said
    same(finish(command(*words)), tmp_path, unbroken)


@pytest.mark.slow
def test_a_folder_has_one_live_run(config: Path, tmp_path: Path) -> None:
    words = (f"--config={config}", f"--workdir={tmp_path}", "--config.train.steps=100000", "--config.optim.warmup=2")
    first = command(*words)
    try:
        wait_for(tmp_path / "metrics.jsonl", first)
        said = finish(command(*words), code=2)["stderr"]
        assert f"in use by a live run (pid {first.pid})" in said
        assert said.startswith("error: ") and len(said.splitlines()) == 1
    finally:
        first.kill()
        first.communicate()


@pytest.mark.slow
@pytest.mark.parametrize(
    ("word", "message"),
    [("--config.model.d_model=48", "checkpoint of another model"), ("--config.optim.peak_lr=0.5", "--allow_change=optim.peak_lr")],
)
def test_another_run_in_the_folder_is_one_line(config: Path, unbroken: tuple[dict[str, Any], Path], word: str, message: str) -> None:
    said = finish(command(f"--config={config}", f"--workdir={unbroken[1]}", word), code=2)["stderr"]
    assert said.startswith("error: ") and len(said.splitlines()) == 1 and message in said


def together(config: Path, folder: Path, count: int, *words: str, devices: int = 1, tool: str = "train") -> dict[str, Any]:
    """A tool run by several processes on this machine; gives what the first one ends with."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    shared = (f"--config={config}", f"--workdir={folder}", "--json", f"--coordinator=127.0.0.1:{port}", f"--num_processes={count}", *words)
    processes = [command(*shared, f"--process_id={i}", devices=devices, tool=tool) for i in range(count)]
    try:
        result = finish(processes[0])
        for process in processes[1:]:
            process.communicate(timeout=60)
            assert process.returncode == 0
        return result
    finally:
        for process in processes:
            process.kill()


@pytest.mark.slow
@pytest.mark.parametrize(("count", "layout"), [(1, "dp"), (2, "fsdp"), (4, "dp")])
def test_processes_make_one_run(config: Path, tmp_path: Path, unbroken: tuple[dict[str, Any], Path], count: int, layout: str) -> None:
    axis = "fsdp" if layout == "fsdp" else "data"
    shape = (f"--config.mesh.{axis}={count}", f"--config.layout={layout}")
    if count != 2:
        result = together(config, tmp_path, count, *shape)
    else:  # two processes leave a checkpoint, and one goes on
        assert together(config, tmp_path, count, "--config.train.stop_at=21", *shape)["step"] == 21
        result = finish(command(f"--config={config}", f"--workdir={tmp_path}", "--json"))
    wanted, wanted_folder = unbroken
    assert result["rows_sha256"] == wanted["rows_sha256"] and result["step"] == 40
    # The same float32 sums in another order, through 40 steps of training at a high learning rate.
    assert result["loss"] == pytest.approx(wanted["loss"], rel=2e-3)
    ours, theirs = metrics(tmp_path), metrics(wanted_folder)
    assert [row["step"] for row in ours] == [row["step"] for row in theirs]
    for row, other in zip(ours, theirs, strict=True):
        assert row.keys() == other.keys()
        for name in row:
            if name.endswith(("/tokens", "/bytes", "/targets", "/lr")):
                assert row[name] == other[name], name
            elif name.endswith(("loss", "bits_per_byte")):
                assert row[name] == pytest.approx(other[name], rel=2e-3), (name, row["step"])


@pytest.mark.slow
def test_evaluation_does_not_depend_on_processes_mesh_or_batch(config: Path, unbroken: tuple[dict[str, Any], Path], tmp_path: Path) -> None:
    """The same checkpoint scored by 1 process, by 2 with 2 devices each, and by 4: the same counts and, but for float32 sums, numbers."""
    folder = tmp_path / "run"
    shutil.copytree(unbroken[1], folder)
    alone = finish(command(f"--config={config}", f"--workdir={folder}", "--json", tool="evaluate"))
    lines = len(metrics(folder))
    for count, devices, words in (
        (2, 2, ("--config.mesh.fsdp=2", "--config.mesh.data=2", "--config.layout=fsdp")),
        (4, 1, ("--config.mesh.data=4", "--config.eval.batch_size=12")),
    ):
        found = together(config, folder, count, *words, devices=devices, tool="evaluate")
        assert found.keys() == alone.keys()
        for name, value in alone.items():
            exact = name.endswith(("/tokens", "/bytes", "step"))
            assert found[name] == (value if exact else pytest.approx(value, rel=2e-6)), (count, name)
    assert len(metrics(folder)) == lines + 2  # written by one process each time
