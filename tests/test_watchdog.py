"""Lost and hung processes: named by the others, which end with a code of their own; the run then goes on exactly."""

import json
import os
import resource
import signal
import socket
import subprocess
import threading
import time
from pathlib import Path
from typing import Any

import pytest
from support import command, finish, metrics, settings, write_config

from pretrainx.core.errors import EXIT_WATCHDOG
from pretrainx.train.checkpoint import Checkpoints
from pretrainx.train.guards import watchdog
from pretrainx.train.guards.watchdog import Peer, Watchdog
from pretrainx.train.progress import Progress

SECTIONS: dict[str, Any] = {
    "train": {"steps": 1_000_000}, "checkpoint": {"every": 20}, "log": {"every": 10}, "eval": {"every": 0},
    "model": {"num_layers": 1}, "mesh": {"data": 1, "fsdp": 2}, "layout": "fsdp",
}  # fmt: skip
SAME = ("step", "loss", "state_sha256", "rows_sha256")


class Ended(Exception):
    pass


@pytest.fixture
def ends(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """Instead of ending this process, what it would have said."""
    said: list[str] = []

    def end(self: Watchdog, why: str) -> None:
        said.append(why)
        raise Ended

    monkeypatch.setattr(Watchdog, "_end", end)
    monkeypatch.setattr(watchdog, "DUMP_S", 0.0)
    return said


def told(process: int, step: int, phase: str = "step", beat: int = 1, ended: str = "") -> dict[str, Any]:
    return {"process": process, "host": f"host{process}", "pid": 100 + process, "beat": beat, "step": step, "phase": phase, "ended": ended}


def write(folder: Path, **values: Any) -> None:
    (folder / watchdog.HEARTBEATS).mkdir(exist_ok=True)
    (folder / watchdog.HEARTBEATS / f"process_{values['process']}.json").write_text(json.dumps(values))


def of_three(folder: Path, still: float = 0.0, limit_s: float = 0.0, phase: str = "step", **options: Any) -> Watchdog:
    dog = Watchdog(folder, limit_s, lambda: (7, phase, still), **options)
    dog.count = 3
    return dog


def test_a_silent_process_is_lost_and_an_old_file_is_not(tmp_path: Path, ends: list[str]) -> None:
    dog = of_three(tmp_path, lost_s=0.0)
    write(tmp_path, **told(1, 5))
    write(tmp_path, **told(2, 7))  # left by an earlier run: it never changes
    dog._look()
    assert ends == []
    write(tmp_path, **told(1, 6, beat=2))
    dog._hear()
    time.sleep(0.01)
    with pytest.raises(Ended):
        dog._look()
    assert ends[0].startswith("process 1 (host1, pid 101) is lost: silent for 0 s, last heard of at step 6, step; this process 0 was at")


def test_one_that_is_done_is_not_lost(tmp_path: Path, ends: list[str]) -> None:
    dog = of_three(tmp_path, lost_s=0.0)
    for beat, ended in ((1, ""), (2, watchdog.DONE)):
        write(tmp_path, **told(1, 6, beat=beat, ended=ended))
        dog._hear()
    time.sleep(0.01)
    dog._look()
    assert ends == []


def test_last_words_are_passed_on(tmp_path: Path, ends: list[str], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(watchdog, "GRACE_S", 0.0)
    dog = of_three(tmp_path)
    for beat, ended in ((1, ""), (2, "SaveFailed: no space")):
        write(tmp_path, **told(2, 6, "save", beat, ended))
        dog._hear()
    time.sleep(0.01)
    with pytest.raises(Ended):
        dog._look()
    assert "process 2 (host2, pid 102) ended at step 6, save: SaveFailed: no space" in ends[0]


@pytest.mark.parametrize(
    ("others", "words"),
    [
        ((told(1, 7), told(2, 6, "data")), "behind is process 2 (host2, pid 102) (step 6)"),
        ((told(1, 7, "evaluate"), told(2, 7)), "behind is process 1 (host1, pid 101) (step 7)"),
        ((told(1, 7), told(2, 7)), "all are at step 7, step"),
    ],
)
def test_the_laggard_is_the_one_behind(tmp_path: Path, ends: list[str], others: tuple[dict[str, Any], ...], words: str) -> None:
    dog = of_three(tmp_path, still=9.0, limit_s=5.0)
    for values in others:
        dog.peers[values["process"]] = Peer(values, time.monotonic(), alive=True)
    with pytest.raises(Ended):
        dog._look()
    assert "process 0 hangs at step 7, step: nothing came to its end for 9 s" in ends[0] and words in ends[0]
    stacks = (tmp_path / watchdog.STACKS / "process_0.txt").read_text()
    assert "test_the_laggard_is_the_one_behind" in stacks and (tmp_path / watchdog.STACKS / ".asked").exists()


def test_asked_for_its_stacks_a_process_writes_them_once(tmp_path: Path) -> None:
    dog = of_three(tmp_path, still=1.0, limit_s=5.0)
    (tmp_path / watchdog.STACKS).mkdir()
    (tmp_path / watchdog.STACKS / ".asked").touch()
    dog._look()
    written = tmp_path / watchdog.STACKS / "process_0.txt"
    assert "Current thread" in written.read_text()
    written.unlink()
    dog._look()
    assert not written.exists()


def test_start_up_has_longer_and_phases_are_told(tmp_path: Path, ends: list[str]) -> None:
    progress = Progress(tmp_path, 3)
    progress.ready()
    with progress.spent("data"):  # of the first step, which waits for others
        assert progress.where()[:2] == (3, "start-up")
    progress.stepped(4, 0)
    with progress.spent("save"):
        assert progress.where()[:2] == (4, "save")
    assert progress.where()[:2] == (4, "step") and progress.where()[2] < 60
    of_three(tmp_path, still=9.0, limit_s=1.0, phase="start-up")._look()
    assert ends == []
    with pytest.raises(Ended):
        of_three(tmp_path, still=11.0, limit_s=1.0, phase="start-up")._look()
    assert "(train.watchdog_seconds 1, 10 times that before the first step)" in ends[0]


@pytest.mark.parametrize("content", [b"", b"{", b"[]", b'{"process": "x"}', b"\xff", b'{"process": 1, "pid": null}'])
def test_a_damaged_heartbeat_is_none(tmp_path: Path, content: bytes) -> None:
    (tmp_path / "process_1.json").write_bytes(content)
    assert watchdog.read(tmp_path / "process_1.json") == {} == watchdog.read(tmp_path / "nowhere.json")


def test_it_ends_with_its_run(tmp_path: Path) -> None:
    before = threading.active_count()
    with Watchdog(tmp_path, 60.0, lambda: (1, "step", 0.0)):
        assert threading.active_count() == before + 1
        assert watchdog.read(tmp_path / watchdog.HEARTBEATS / "process_0.json")["step"] == 1
    for _ in range(300):
        if threading.active_count() == before:
            break
        time.sleep(0.01)
    assert threading.active_count() == before
    assert watchdog.read(tmp_path / watchdog.HEARTBEATS / "process_0.json")["ended"] == watchdog.DONE


def pair(config: Path, folder: Path, *words: str) -> list[subprocess.Popen[str]]:
    """Two processes of one run."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    shared = (f"--config={config}", f"--workdir={folder}", "--json", f"--coordinator=127.0.0.1:{port}", "--num_processes=2", *words)
    return [command(*shared, f"--process_id={i}") for i in range(2)]


def to_the_end(config: Path, folder: Path, *words: str) -> dict[str, Any]:
    first, second = pair(config, folder, *words)
    result = finish(first)
    second.communicate(timeout=60)
    assert second.returncode == 0
    return result


@pytest.fixture(scope="module")
def config(cache_dir: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_config(tmp_path_factory.mktemp("config") / "tiny.py", settings(cache_dir, **SECTIONS))


def goes_on_exactly(config: Path, folder: Path) -> None:
    """Ten steps beyond its last checkpoint it is, bit for bit, where a run comes that was left alone."""
    saved = Checkpoints(folder / "checkpoints", read_only=True).latest()
    assert saved
    stop = f"--config.train.stop_at={saved + 10}"
    result, wanted = to_the_end(config, folder, stop), to_the_end(config, folder.with_name("unbroken"), stop)
    assert {k: result[k] for k in SAME} == {k: wanted[k] for k in SAME}
    assert metrics(folder) == metrics(folder.with_name("unbroken"))


def until_saved(folder: Path, processes: list[subprocess.Popen[str]]) -> None:
    while all(p.poll() is None for p in processes) and not any(path.name.isdecimal() for path in (folder / "checkpoints").glob("*")):
        time.sleep(0.02)
    for _ in range(1000):  # until each has been heard of twice
        beats = [watchdog.read(folder / watchdog.HEARTBEATS / f"process_{i}.json").get("beat", 0) for i in range(2)]
        if min(beats) > 3:
            return
        time.sleep(0.02)
    raise AssertionError([p.communicate(timeout=5) for p in processes if p.poll() is not None])


@pytest.mark.slow
@pytest.mark.parametrize("number", [signal.SIGKILL, signal.SIGSTOP])
def test_a_lost_process_is_named_and_the_run_goes_on_exactly(config: Path, tmp_path: Path, number: signal.Signals) -> None:
    """One of two is killed, or stopped as a host that hangs; the other names it, writes its stacks where it hung, and ends with 76."""
    folder = tmp_path / "run"
    words = ("--config.train.watchdog_seconds=10",) if number == signal.SIGSTOP else ()
    processes = pair(config, folder, *words)
    try:
        until_saved(folder, processes)
        os.kill(processes[1].pid, number)
        said = processes[0].communicate(timeout=120)[1]
    finally:
        processes[1].kill()
        processes[1].communicate()
    last = said.splitlines()[-1]
    assert processes[0].returncode == EXIT_WATCHDOG, said[-3000:]
    assert last.startswith("watchdog: ") and f"process 1 ({socket.gethostname()}, pid {processes[1].pid}) is lost" in last
    if number == signal.SIGSTOP:
        assert "hangs at step" in last and "Thread 0x" in (folder / watchdog.STACKS / "process_0.txt").read_text()
    goes_on_exactly(config, folder)


@pytest.mark.slow
def test_a_save_that_fails_in_one_process_ends_all_in_order(config: Path, tmp_path: Path) -> None:
    """The second may write no file of more than 8 KB: it says why it ends, the first passes its words on, and nothing is lost."""
    folder = tmp_path / "run"
    processes = pair(config, folder)
    try:
        until_saved(folder, processes)
        resource.prlimit(processes[1].pid, resource.RLIMIT_FSIZE, (8192, resource.RLIM_INFINITY))
        said = [process.communicate(timeout=180)[1].splitlines() for process in reversed(processes)][::-1]
    finally:
        for process in processes:
            process.kill()
    assert processes[1].returncode == 1 and processes[0].returncode == EXIT_WATCHDOG, (said[0][-3:], said[1][-3:])
    failed = next(line for line in said[1] if line.startswith("not saved: "))
    assert "could not be saved" in failed and "is whole; run the same command again to go on" in failed
    assert f"process 1 ({socket.gethostname()}, pid {processes[1].pid}) ended at step " in said[0][-1] and "SaveFailed: " in said[0][-1]
    goes_on_exactly(config, folder)
