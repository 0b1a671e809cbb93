"""The proof of resumption: it finds what is wrong, and finds nothing where nothing is."""

import itertools
import json
import os
import re
from pathlib import Path
from typing import Any

import pytest
from support import ROOT, command, finish, settings, write_config

from pretrainx.core.errors import InputError
from pretrainx.train import prove
from pretrainx.train.guards import faults

# A run without JAX, whose state is a number. FAULT says how it resumes wrongly.
RUN = """
import hashlib, json, os, sys, time
from pathlib import Path
from pretrainx.train.guards import faults

FAULT = {fault!r}
folder = Path(next(w for w in sys.argv if w.startswith("--workdir=")).partition("=")[2])
log, saved = folder / "metrics.jsonl", folder / "saved.json"
step, state, rows = json.loads(saved.read_text()) if saved.exists() else (0, 1, 0)
if FAULT == "dies" and step:
    sys.exit("error: a fault of its own")
lines = log.read_text().splitlines(True) if log.exists() else []
kept = [line for line in lines if line.endswith("}}\\n") and json.loads(line)["step"] <= step + (FAULT == "repeats")]
(folder / "kept").write_text("".join(kept[:-1] if FAULT == "loses" and step else kept))
os.replace(folder / "kept", log)  # it may be killed here too
if FAULT == "forgets" and step:
    state = 1
while step < 20:
    step += 1
    rows += step
    state = state * 1103515245 % 2**31
    time.sleep(0.002)
    with open(log, "a") as stream:
        stream.write(json.dumps({{"step": step, "train/loss": state / 2**31, "train/step_seconds": time.time()}}) + "\\n")
    if step % 4 == 0:
        faults.reached("before_save")
        (folder / "tmp").write_text(json.dumps([step, state, rows]))
        for phase in ("copied", "item_written", "before_digests", "before_commit"):
            faults.reached(phase)
        os.replace(folder / "tmp", saved)
        for phase in ("committed", "removing", "removed"):
            faults.reached(phase)
shas = {{name: hashlib.sha256(str(x).encode()).hexdigest() for name, x in (("state_sha256", state), ("rows_sha256", rows))}}
print(json.dumps({{"step": step, "loss": state / 2**31, "tokens": 8 * step, "skipped": 0}} | shas))
"""


def tried(folder: Path, fault: str, kills: int = 12) -> prove.Verdict:
    script = folder / "run.py"
    script.write_text(RUN.format(fault=fault))
    runs = prove.Command((str(script),), os.environ | {"PYTHONPATH": str(ROOT)})
    return prove.prove(runs, folder / "runs", kills=kills, seed=3, meshes=(), tolerance=0.0)


def test_nothing_is_found_where_nothing_is_wrong(tmp_path: Path) -> None:
    verdict = tried(tmp_path, "", kills=20)
    assert verdict.proven and verdict.kills.total() == 20 and verdict.steps == 20
    assert verdict.kills.keys() > set(faults.PHASES)  # each phase of a save, and other instants
    assert not list((tmp_path / "runs").glob("killed_*"))


@pytest.mark.parametrize(
    ("fault", "message"),
    [
        ("repeats", r"step \d+: (step is \d+ and was \d+|train/loss is|train/step)"),
        ("loses", r"step \d+: step is \d+ and was \d+ in the unbroken run"),
        ("forgets", r"step \d+: train/loss is 0\.\d+ and was 0\.\d+ in the unbroken run"),
        ("dies", "a fault of its own"),
    ],
)
def test_what_is_wrong_is_found(tmp_path: Path, fault: str, message: str) -> None:
    verdict = tried(tmp_path, fault)
    assert not verdict.proven
    assert re.search(message, verdict.difference), verdict.difference


def test_a_config_that_does_not_run_is_bad_input(tmp_path: Path) -> None:
    (tmp_path / "run.py").write_text("import sys; sys.exit('error: no such corpus')")
    with pytest.raises(InputError, match="the config does not run, exit code 1: no such corpus"):
        prove.prove(prove.Command((str(tmp_path / "run.py"),), os.environ), tmp_path / "runs", kills=1, seed=0, meshes=(), tolerance=0.0)


def test_the_first_difference_is_the_first(tmp_path: Path) -> None:
    result = dict.fromkeys(prove.SAME, 1)
    rows = [{"step": n, "train/loss": 1 / n, "train/step_seconds": n} for n in range(1, 5)]

    def written(name: str, lines: list[dict[str, Any]]) -> Path:
        (tmp_path / name).mkdir()
        (tmp_path / name / "metrics.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines))
        return tmp_path / name

    unbroken = written("unbroken", rows)
    slower = written("slower", [row | {"train/step_seconds": 99} for row in rows])
    assert prove.difference(result, slower, result, unbroken) == ""
    assert prove.difference(result | {"rows_sha256": 2}, slower, result, unbroken).startswith("at the end, rows_sha256 is 2 and was 1")
    off = written("off", [*rows[:2], rows[2] | {"train/loss": 0.5}, rows[3] | {"train/loss": 0.5}])
    assert prove.difference(result, off, result, unbroken).startswith("step 3: train/loss is 0.5 and was 0.333")
    short = written("short", rows[:3])
    assert "has 3 rows, fewer than the 4 of the unbroken run; the first is of step 4" in prove.difference(result, short, result, unbroken)
    again = written("again", [*rows, rows[3]])
    assert "has 5 rows, more than the 4" in prove.difference(result, again, result, unbroken)


def test_kills_are_everywhere_and_from_the_seed() -> None:
    first = list(itertools.islice(prove.places(5), 32))
    assert first == list(itertools.islice(prove.places(5), 32)) != list(itertools.islice(prove.places(6), 32))
    assert {place for place, _, _ in first[:16]} == {*faults.PHASES, prove.STARTUP, prove.TRAINING}
    assert all(count in (1, 2) and 0 <= share < 1 for _, count, share in first)


@pytest.mark.parametrize(
    ("mesh", "message"),
    [
        ("dta=2", "no mesh axis 'dta'; did you mean 'data'"),
        ("data=0", "accepted are 1 to 64"),
        ("data", "data is ''"),
        ("layout=", "layout has no value"),
    ],
)
def test_meshes_are_checked(mesh: str, message: str) -> None:
    with pytest.raises(InputError, match=message):
        prove.parse_mesh(mesh)


def test_no_phase_no_kill(monkeypatch: pytest.MonkeyPatch) -> None:
    """Where the variable is unset, or names another phase or a later time, nothing happens; were it otherwise, this process would end."""
    for value in (None, "removed", "committed:3"):
        monkeypatch.setattr(faults, "_seen", {})
        monkeypatch.delenv(faults.VARIABLE, raising=False) if value is None else monkeypatch.setenv(faults.VARIABLE, value)
        for _ in range(2):
            faults.reached("committed")


@pytest.mark.slow
def test_the_command_proves_a_real_run(cache_dir: Path, tmp_path: Path) -> None:
    """Ten kills of processes of tools/train.py, and another mesh; docs/reliability.md has the long form."""
    config = write_config(tmp_path / "tiny.py", settings(cache_dir, model={"num_layers": 1}, eval={"every": 20}, train={"steps": 100}))
    words = (f"--config={config}", "--kills=10", "--seed=4", "--json", f"--workdir={tmp_path / 'runs'}", "--meshes", "data=2")
    found = finish(command(*words, tool="prove_resume"))
    assert found["proven"] and found["difference"] == "" and found["kills"] == 10 and len(found["kills_by_place"]) >= 6
    assert found["meshes"]["data=2"]["rows_equal"] and found["meshes"]["data=2"]["largest_relative_difference"] < 1e-4
