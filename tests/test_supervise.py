"""Runs kept going: restarts, back-off, giving up, exit codes, signals, and the account of where the time went."""

import importlib
import itertools
import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from support import ROOT, command, environment, finish, settings, write_config

from pretrainx.core.errors import InputError
from pretrainx.train import progress, supervise
from pretrainx.train.progress import Progress
from pretrainx.train.supervise import Attempt, Policy, Supervisor

# A run that does at each start what the next entry of PLAN says: (exit code or -signal, steps it gets further).
SCRIPT = """
import json, os, signal, sys
from pathlib import Path
from pretrainx.train.progress import Progress
folder = Path(sys.argv[1])
plan = json.loads((folder / "plan.json").read_text())
count = len(list(folder.glob("start_*")))
(folder / f"start_{count}").touch()
code, steps = plan[min(count, len(plan) - 1)]
saved = folder / "saved"
step = int(saved.read_text()) if saved.exists() else 0
if steps is not None:
    told = Progress(folder, step)
    told.ready()
    saved.write_text(str(step + steps))
    told.stepped(step + steps + 1, step + steps, at_once=True)
print(f"start {count} ends", file=sys.stderr)
if code < 0:
    os.kill(os.getpid(), -code)
sys.exit(code)
"""


def supervised(folder: Path, plan: list[tuple[int, int | None]], **policy: Any) -> tuple[int, Supervisor, list[float]]:
    (folder / "run.py").write_text(SCRIPT)
    (folder / "plan.json").write_text(json.dumps(plan))
    waited: list[float] = []
    os.environ["PYTHONPATH"] = str(ROOT)
    supervisor = Supervisor([sys.executable, str(folder / "run.py"), str(folder)], folder, Policy(**policy), waited.append)
    return supervisor.run(), supervisor, waited


def journal(folder: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in (folder / supervise.JOURNAL).read_text().splitlines()]


def test_a_crash_is_restarted_and_the_end_is_the_end(tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    code, supervisor, waited = supervised(tmp_path, [(1, 5), (-9, 5), (75, 5), (0, 5)])
    assert code == 0 and len(supervisor.attempts) == 4 and waited == [1.0, 1.0, 0.0]
    rows = journal(tmp_path)
    assert [row["event"] for row in rows] == [*["start", "end"] * 4, "over"]
    ends = [row for row in rows if row["event"] == "end"]
    assert [(row["code"], row["first_step"], row["step"], row["saved"]) for row in ends] == [
        (1, 0, 6, 5), (-9, 5, 11, 10), (75, 10, 16, 15), (0, 15, 21, 20),
    ]  # fmt: skip
    assert [row["last_line"] for row in ends] == [f"start {n} ends" for n in range(4)]
    assert rows[-1]["starts"] == 4 and sum(rows[-1]["seconds"].values()) == pytest.approx(rows[-1]["wall_seconds"])
    assert "supervise: done; 4 starts" in capfd.readouterr().err


@pytest.mark.parametrize("final", [0, 2, 3])
def test_final_codes_are_passed_on(tmp_path: Path, final: int) -> None:
    code, supervisor, waited = supervised(tmp_path, [(final, 1)])
    assert code == final and len(supervisor.attempts) == 1 and waited == []


def test_a_watchdogs_end_is_started_again(tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    """With back-off, as after a crash; and said as what it is."""
    code, supervisor, waited = supervised(tmp_path, [(76, 5), (76, 0), (0, 5)])
    assert code == 0 and len(supervisor.attempts) == 3 and waited == [1.0, 2.0]
    assert "supervise: a host lost or hung (76) at step 6, saved 5; starting again in 1 s" in capfd.readouterr().err


def test_given_up_where_it_gets_no_further(tmp_path: Path) -> None:
    """Two starts move, then the same step fails again and again, once before it even came up."""
    code, supervisor, waited = supervised(tmp_path, [(1, 5), (1, 5), (1, 0), (1, None), (1, 0), (0, 5)], max_stuck=3, first_s=2.0)
    assert code == 1 and len(supervisor.attempts) == 5
    assert waited == [2.0, 2.0, 4.0, 8.0]  # doubled while nothing moves
    assert journal(tmp_path)[-1]["why"] == "given up: 4 starts in a row got no further than step 10, last line: start 4 ends"


def test_progress_begins_the_count_anew(tmp_path: Path) -> None:
    code, supervisor, waited = supervised(tmp_path, [(1, 1), (1, 0), (1, 0), (1, 1), (1, 0), (1, 0), (0, 1)], max_stuck=3)
    assert code == 0 and len(supervisor.attempts) == 7 and waited == [1.0, 2.0, 4.0, 1.0, 2.0, 4.0]


def test_restarts_are_bounded(tmp_path: Path) -> None:
    code, supervisor, _ = supervised(tmp_path, [(-11, 1)], max_restarts=2)
    assert code == 128 + 11 and len(supervisor.attempts) == 3
    assert journal(tmp_path)[-1]["why"] == "given up after 2 restarts"


def test_where_the_time_went_by_hand() -> None:
    """The first start: 10 s to come up, 40 s of 20 steps with 4 s of waiting and 6 s of saves, killed 2 s later, saved 15. Back-off of
    3 s. The second: 5 s up, 10 s for steps 15 to 25."""
    held = {"data": 4.0, "save": 6.0, "evaluate": 0.0}
    first = Attempt(100.0, 152.0, -9, 0, 20, 15, 110.0, 150.0, held)
    second = Attempt(155.0, 170.0, 0, 15, 25, 25, 160.0, 170.0, {})
    spent = supervise.goodput([first, second], finished=True)
    assert spent == {
        "forward": 30 * 0.75 + 10, "startup": 10 + 5, "lost_steps": 30 * 0.25, "data": 4, "save": 6, "evaluate": 0, "backoff": 3,
        "unknown": 2,
    }  # fmt: skip
    assert sum(spent.values()) == 70 and supervise.shares(spent)["forward"] == pytest.approx(32.5 / 70)
    assert supervise.goodput([first])["lost_steps"] == 30 * 0.25  # nothing follows: what was not saved is lost


moments = st.floats(0, 1e6)
attempts = st.builds(
    Attempt, moments, moments, st.integers(-15, 255), st.integers(0, 99), st.integers(0, 99), st.integers(0, 99), moments, moments,
    st.dictionaries(st.sampled_from(progress.CAUSES), st.floats(-5, 1e6)),
)  # fmt: skip


@given(st.lists(attempts, max_size=4), st.booleans())
def test_shares_add_up_whatever_the_clocks_said(found: list[Attempt], finished: bool) -> None:
    spent = supervise.goodput(found, finished)
    assert all(value >= 0 for value in spent.values())
    wall = sum(max(a.ended - a.began, 0) for a in found) + sum(max(b.began - a.ended, 0) for a, b in itertools.pairwise(found))
    assert sum(spent.values()) == pytest.approx(wall, rel=1e-6, abs=1e-6)


@given(st.one_of(st.binary(max_size=40), st.fixed_dictionaries({}, optional={
    name: st.one_of(st.none(), st.integers(), st.text(max_size=3), st.floats(), st.dictionaries(st.text(max_size=4), st.integers()))
    for name in ("pid", "first_step", "step", "saved", "ready", "written", "seconds")
}).map(lambda values: json.dumps(values).encode())))  # fmt: skip
def test_progress_of_any_content_is_progress_or_nothing(tmp_path_factory: pytest.TempPathFactory, content: bytes) -> None:
    folder = tmp_path_factory.getbasetemp()
    (folder / progress.NAME).write_bytes(content)
    found = progress.read(folder)
    assert found == {} or (isinstance(found["step"], int) and set(found["seconds"]) == set(progress.CAUSES))


def test_progress_survives_a_disk_that_refuses_and_a_clock_that_jumps(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    Progress(tmp_path / "nowhere", 3).ready()  # no such folder: nothing happens
    told = Progress(tmp_path, 3)
    told.ready()
    monkeypatch.setattr(time, "time", lambda: 1.0)  # back to 1970
    told.stepped(4, 3)
    assert progress.read(tmp_path)["step"] == 4


def test_the_folder_is_found(tmp_path: Path) -> None:
    assert (
        supervise.workdir_of(["train.py", "--workdir=runs/a"]) == supervise.workdir_of(["--workdir", "runs/a", "--json"]) == Path("runs/a")
    )
    assert supervise.workdir_of(["train.py", "--workdir"]) is None


@pytest.mark.parametrize(
    ("words", "message"),
    [
        ([], "no command: write it after --"),
        (["--", "true"], "the command has no --workdir"),
        (["--", "true", "--rewind_to=3", "--workdir=x"], "--rewind_to in a supervised command would go back at every start"),
        (["--max_stuck=0", "--", "true"], "--max_stuck 0: accepted are 1 and above"),
        (["--", "/nowhere/python", "--workdir=HERE"], "cannot be started: No such file"),
    ],
)
def test_bad_words_are_one_sentence(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, words: list[str], message: str) -> None:
    monkeypatch.syspath_prepend(ROOT / "tools")
    main = importlib.import_module("supervise").main
    with pytest.raises(InputError, match=message):
        main([word.replace("HERE", str(tmp_path)) for word in words])


@pytest.mark.slow
def test_a_real_run_that_dies_twice_ends_as_if_it_had_not(cache_dir: Path, tmp_path: Path) -> None:
    """Killed once by hand; then the supervisor is told to stop, and what it started saves and ends with 75."""
    sections: dict[str, Any] = {"model": {"num_layers": 1}, "train": {"steps": 1500}, "checkpoint": {"every": 100}, "log": {"every": 50}}
    config = write_config(tmp_path / "tiny.py", settings(cache_dir, **sections))
    folder = tmp_path / "run"
    train = [sys.executable, str(ROOT / "tools" / "train.py"), f"--config={config}", f"--workdir={folder}", "--json"]

    def start() -> subprocess.Popen[str]:
        words = [sys.executable, str(ROOT / "tools" / "supervise.py"), "--backoff=0.1", "--", *train]
        return subprocess.Popen(words, env=environment(), stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)

    def until(reached: int) -> int:
        while supervising.poll() is None and progress.read(folder).get("saved", 0) < reached:
            time.sleep(0.02)
        return int(progress.read(folder)["pid"])

    supervising = start()
    os.kill(until(100), signal.SIGKILL)
    first = journal_when(folder, "end")
    assert first["code"] == -9 and first["saved"] >= 100
    until(first["saved"] + 100)
    supervising.send_signal(signal.SIGTERM)
    said = finish(supervising, code=75)["stderr"]
    assert "told to stop by SIGTERM; 2 starts" in said and "goodput" in said
    supervising = start()
    result = finish(supervising)
    wanted = finish(command(f"--config={config}", f"--workdir={tmp_path / 'unbroken'}", "--json"))
    assert (result["state_sha256"], result["rows_sha256"]) == (wanted["state_sha256"], wanted["rows_sha256"])
    over = [row for row in journal(folder) if row["event"] == "over"]
    assert [row["code"] for row in over] == [75, 0] and over[0]["seconds"]["startup"] > 0 and 0 < over[1]["goodput"] < 1


def journal_when(folder: Path, event: str) -> dict[str, Any]:
    """The first row of this kind, once it is there."""
    for _ in range(6000):
        if (folder / supervise.JOURNAL).exists() and (found := [row for row in journal(folder) if row["event"] == event]):
            return found[0]
        time.sleep(0.02)
    raise AssertionError(f"no {event} in the journal")
