"""Data that goes away or hardly comes while a run trains: said in one sentence, nothing lost, and no exit that hangs."""

import json
import os
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import jax
import pytest
from support import ROOT, command, documents, environment, experiment, finish, metrics, settings, write_config, write_split

from pretrainx.data.loader import RowBuilder
from pretrainx.train import loop
from pretrainx.train.checkpoint import Checkpoints

SECTIONS: dict[str, Any] = {"model": {"num_layers": 1}, "train": {"steps": 400}, "checkpoint": {"every": 300}, "log": {"every": 1}}


def until_logged(folder: Path, process: subprocess.Popen[str], lines: int) -> None:
    path = folder / "metrics.jsonl"
    while process.poll() is None and not (path.exists() and len(path.read_text().splitlines()) >= lines):
        time.sleep(0.005)


@pytest.mark.slow
@pytest.mark.parametrize("workers", [0, 1])
def test_shards_deleted_while_it_trains(tmp_path: Path, workers: int) -> None:
    """The shard is named, what was learned is saved, and with the shard built again the run ends as if nothing had been."""
    cache = tmp_path / "cache"
    write_split(cache, "topics", "train", documents()[:60], num_shards=30)
    config = write_config(tmp_path / "tiny.py", settings(cache, **SECTIONS, data={"workers": workers}))
    wanted = finish(command(f"--config={config}", f"--workdir={tmp_path / 'unbroken'}", "--json"))
    process = command(f"--config={config}", f"--workdir={tmp_path / 'run'}", "--json")
    until_logged(tmp_path / "run", process, 3)
    for path in (cache / "topics" / "train").glob("*.arrayrecord"):
        path.unlink()
    said = finish(process, code=2)["stderr"].splitlines()
    assert said[-1].startswith("error: token cache: ") and ".arrayrecord is damaged or missing" in said[-1], said[-5:]
    assert any("cannot be read; saving first" in line for line in said)
    shutil.rmtree(cache)
    write_split(cache, "topics", "train", documents()[:60], num_shards=30)
    saved = Checkpoints(tmp_path / "run" / "checkpoints", read_only=True).latest()
    assert saved is not None and 3 <= saved < 300
    result = finish(command(f"--config={config}", f"--workdir={tmp_path / 'run'}", "--json"))
    assert (result["state_sha256"], result["rows_sha256"]) == (wanted["state_sha256"], wanted["rows_sha256"])
    assert metrics(tmp_path / "run") == metrics(tmp_path / "unbroken")


@pytest.mark.slow
def test_slow_storage_shows(cache_dir: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    devices = jax.devices()[:1]
    monkeypatch.setattr(jax, "devices", lambda *_: devices)
    build = RowBuilder.build
    slow = lambda self, rows: time.sleep(0.3) or build(self, rows)  # type: ignore[func-returns-value]  # noqa: E731
    monkeypatch.setattr(RowBuilder, "build", slow)
    sections = SECTIONS | {"train": {"steps": 8}, "data": {"prefetch": 1}, "checkpoint": {"every": 8}}
    loop.train(loop.prepare(experiment(cache_dir, **sections), tmp_path))
    text = (tmp_path / "metrics.jsonl").read_text()
    shares = [row["train/data_wait_share"] for row in map(json.loads, text.splitlines())]
    assert max(shares) > 0.3  # of a step of some milliseconds


STUCK = """
import runpy, sys, time
from pretrainx.data import loader
build = loader.RowBuilder.build
def stuck(self, rows):
    if rows.number[0] >= 80:  # from step 11 on the storage does not answer
        time.sleep(3600)
    return build(self, rows)
loader.RowBuilder.build = stuck
runpy.run_path({train!r}, run_name="__main__")
"""


@pytest.mark.slow
def test_storage_that_does_not_answer_holds_up_no_exit(cache_dir: Path, tmp_path: Path) -> None:
    """A first signal waits for the step, which never comes; the second ends it at once, whatever thread still reads."""
    config = write_config(tmp_path / "tiny.py", settings(cache_dir, **SECTIONS | {"checkpoint": {"every": 5}}))
    (tmp_path / "stuck.py").write_text(STUCK.format(train=str(ROOT / "tools" / "train.py")))
    words = [sys.executable, str(tmp_path / "stuck.py"), f"--config={config}", f"--workdir={tmp_path / 'run'}"]
    process = subprocess.Popen(words, env=environment(), cwd=ROOT, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
    try:
        while process.poll() is None and not (tmp_path / "run" / "checkpoints" / "10").exists():
            time.sleep(0.01)
        time.sleep(1.0)
        process.send_signal(signal.SIGTERM)
        time.sleep(1.0)
        assert process.poll() is None
        process.send_signal(signal.SIGTERM)
        said = process.communicate(timeout=60)[1]
    finally:
        process.kill()
    assert process.returncode == 75 and "interrupted: second signal: stopped at once" in said, said[-2000:]
    assert Checkpoints(tmp_path / "run" / "checkpoints", read_only=True).latest() == 10
    assert not os.path.exists(f"/proc/{process.pid}")


@pytest.mark.slow
def test_the_watchdog_ends_a_run_whose_storage_does_not_answer(cache_dir: Path, tmp_path: Path) -> None:
    """Without anybody there to send a signal: exit code 76, and the stacks say where it waits."""
    train = {"steps": 400, "watchdog_seconds": 10.0}
    config = write_config(tmp_path / "tiny.py", settings(cache_dir, **SECTIONS | {"checkpoint": {"every": 5}, "train": train}))
    (tmp_path / "stuck.py").write_text(STUCK.format(train=str(ROOT / "tools" / "train.py")))
    words = [sys.executable, str(tmp_path / "stuck.py"), f"--config={config}", f"--workdir={tmp_path / 'run'}"]
    process = subprocess.Popen(words, env=environment(), cwd=ROOT, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
    said = finish(process, code=76)["stderr"].splitlines()[-1]
    assert said.startswith("watchdog: process 0 hangs at step 10, data: nothing came to its end for ") and "it is in: data" in said
    assert "in stuck" in (tmp_path / "run" / "stacks" / "process_0.txt").read_text()
