"""The proof that a config resumes exactly: its own run in short form, killed again and again, against one that was left alone.

Kills are kill -9 of real processes of tools/train.py: at named phases of a save (train/guards/faults.py), and at seeded instants of
start-up and training. Compared are the hashes of the final state and of every row fed, and every logged number but the clock's.
"""

import json
import os
import random
import re
import shutil
import subprocess
import sys
import time
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from pretrainx.core.errors import InputError, nearest
from pretrainx.core.logs import duration, log
from pretrainx.core.sections import Mesh
from pretrainx.train.guards import faults

SAME = ("step", "loss", "state_sha256", "rows_sha256", "tokens", "skipped")
CLOCK = ("train/step_seconds", "train/tokens_per_second", "train/tflops", "train/data_wait_share", "train/mfu")
TOLERANCE = 2e-3  # relative, of a loss on another mesh: the same float32 sums in another order, carried through the steps
POLL_S = 0.002
STARTUP, TRAINING = "start-up", "training"


@dataclass(frozen=True)
class Command:
    """`tools/train.py` with a config's words, and the environment of its processes."""

    words: tuple[str, ...]
    environment: Mapping[str, str]

    def start(self, folder: Path, *more: str, kill_at: str = "", devices: int = 0) -> "Process":
        """A process of the run in `folder`; `devices` forces as many CPU devices."""
        environment = dict(self.environment)
        environment.pop(faults.VARIABLE, None)
        if kill_at:
            environment[faults.VARIABLE] = kill_at
        if devices:
            flags = re.sub(r"--xla_force_host_platform_device_count=\d+", "", environment.get("XLA_FLAGS", ""))
            environment |= {"JAX_PLATFORMS": "cpu", "XLA_FLAGS": f"{flags} --xla_force_host_platform_device_count={devices}".strip()}
        folder.mkdir(parents=True, exist_ok=True)
        out, err = folder / "stdout.txt", folder / "stderr.txt"
        with open(out, "w") as stdout, open(err, "w") as stderr:
            process = subprocess.Popen(
                [sys.executable, *self.words, f"--workdir={folder}", "--json", *more], env=environment, stdout=stdout, stderr=stderr
            )
        return Process(process, folder, out, err, time.monotonic())


@dataclass(frozen=True)
class Process:
    """A running `tools/train.py`."""

    process: subprocess.Popen[bytes]
    folder: Path
    out: Path
    err: Path
    started: float

    def result(self, timeout_s: float | None = None) -> dict[str, Any]:
        """The JSON it ends with.

        Raises:
          Failed: it ended with another code than 0, or not in time.
        """
        try:
            code = self.process.wait(timeout_s)
        except subprocess.TimeoutExpired:
            self.kill()
            raise Failed(f"did not end within {duration(timeout_s or 0)}", None) from None
        if code:
            raise Failed((self.err.read_text(errors="replace").splitlines() or ["(nothing on stderr)"])[-1], code)
        values: dict[str, Any] = json.loads(self.out.read_text().splitlines()[-1])
        return values

    def kill(self) -> bool:
        """Whether kill -9 found it alive."""
        self.process.kill()
        return self.process.wait() == -9

    def wait_for_bytes(self, count: int) -> None:
        """Until its metrics.jsonl has so many bytes, or it is over."""
        path = self.folder / "metrics.jsonl"
        while self.process.poll() is None and not (path.exists() and path.stat().st_size >= count):
            time.sleep(POLL_S)


class Failed(Exception):
    """A process that was to end well did not: (its last line, its exit code)."""


@dataclass
class Verdict:
    """What was tried and found; `difference` is the first one, "" if there is none."""

    steps: int
    reference: dict[str, Any]
    kills: Counter[str] = field(default_factory=Counter)
    rounds: int = 0
    difference: str = ""
    meshes: dict[str, dict[str, Any]] = field(default_factory=dict)
    missed: list[tuple[str, int, float]] = field(default_factory=list)  # phases that a run's last process came to no more

    @property
    def proven(self) -> bool:
        return not self.difference


def short_form(overrides: Sequence[str], steps: int) -> list[str]:
    """Words that make any config short: the schedule stays, the run stops early, and saves, evaluates and reports often.

    What the command line itself sets stays as it is set there.

    >>> short_form(["train.stop_at=9", "log.every=3", "eval.every=0"], 40)
    ['--config.checkpoint.every=5', '--config.checkpoint.keep=2', '--config.eval.max_rows=16', '--config.log.tensorboard=false']
    """
    often = {
        "train.stop_at": steps, "checkpoint.every": max(1, steps // 8), "checkpoint.keep": 2, "eval.every": max(1, steps // 3),
        "eval.max_rows": 16, "log.every": 1, "log.tensorboard": "false",
    }  # fmt: skip
    said = {override.partition("=")[0] for override in overrides}
    return [f"--config.{path}={value}" for path, value in often.items() if path not in said]


def rows(folder: Path) -> list[dict[str, Any]]:
    """metrics.jsonl without what the clock decides."""
    lines = (folder / "metrics.jsonl").read_text(encoding="utf-8").splitlines()
    return [{name: value for name, value in json.loads(line).items() if name not in CLOCK} for line in lines]


def difference(result: Mapping[str, Any], folder: Path, wanted: Mapping[str, Any], wanted_folder: Path) -> str:
    """The first thing in which a run differs from the unbroken one, "" if nothing does."""
    ours, theirs = rows(folder), rows(wanted_folder)
    for row, other in zip(ours, theirs, strict=False):
        for name in sorted(row.keys() | other.keys(), key=lambda n: (n != "step", n)):
            if row.get(name) != other.get(name):
                return f"step {other['step']}: {name} is {row.get(name)} and was {other.get(name)} in the unbroken run"
    if len(ours) != len(theirs):
        longer, more = (ours, "more") if len(ours) > len(theirs) else (theirs, "fewer")
        first = longer[min(len(ours), len(theirs))]["step"]
        return f"metrics.jsonl has {len(ours)} rows, {more} than the {len(theirs)} of the unbroken run; the first is of step {first}"
    for name in SAME:
        if result.get(name) != wanted.get(name):
            return f"at the end, {name} is {result.get(name)} and was {wanted.get(name)} in the unbroken run"
    return ""


def prove(command: Command, workdir: Path, *, kills: int, seed: int, meshes: Sequence[str], tolerance: float) -> Verdict:
    """Runs once in peace, then again with kills until so many were done, then on each mesh; stops at the first difference.

    Raises:
      InputError: the config does not run at all.
    """
    parsed = {mesh: parse_mesh(mesh) for mesh in meshes}
    log("the unbroken run ...")
    calm = command.start(workdir / "unbroken")
    try:
        reference = calm.result()
    except Failed as failed:
        line, code = failed.args
        raise InputError(
            f"the config does not run, exit code {code}: {str(line).removeprefix('error: ')} (all of it: {calm.err})"
        ) from None
    took = time.monotonic() - calm.started
    verdict = Verdict(int(reference["step"]), reference)
    log(f"  {duration(took)}, loss {reference['loss']:.6f}, state {reference['state_sha256'][:12]}, rows {reference['rows_sha256'][:12]}")
    began = time.monotonic()
    plan = places(seed)
    patience = 60 + 20 * took  # other processes may want the machine too
    while verdict.kills.total() < kills and not verdict.difference:
        verdict.rounds += 1
        folder = workdir / f"killed_{verdict.rounds}"
        verdict.difference = killed(command, folder, plan, verdict, workdir / "unbroken", patience, (kills, began))
    for mesh, (words, devices) in parsed.items():
        if not verdict.difference:
            verdict.difference = on_mesh(command, workdir, mesh, words, devices, verdict, tolerance, patience)
    return verdict


def places(seed: int) -> Iterator[tuple[str, int, float]]:
    """Without end, (phase of a save, start-up or training; how often it is passed first; a share of the time there), seeded.

    Every phase comes once before any comes twice, so that few kills already are at all of them.
    """
    draw = random.Random(seed)
    deck: list[str] = []
    while True:
        if not deck:
            # A checkpoint is written in a fraction of a step's time: half of the kills go there, half to the rest of a run's life.
            deck = [*faults.PHASES, STARTUP, *[TRAINING] * (len(faults.PHASES) - 1)]
            draw.shuffle(deck)
        yield deck.pop(), draw.randint(1, 2), draw.random()


def killed(
    command: Command,
    folder: Path,
    plan: Iterator[tuple[str, int, float]],
    verdict: Verdict,
    unbroken: Path,
    patience_s: float,
    progress: tuple[int, float],
) -> str:
    """One run to its end through the kills of the plan that it meets; gives the first difference.

    A phase that it ends before is the first of the next run: every phase is met, however slow the machine.
    """
    startup_s = patience_s / 60
    fresh = True
    while verdict.kills.total() < progress[0]:
        place, count, share = verdict.missed.pop() if verdict.missed else next(plan)
        phase = place in faults.PHASES
        process = command.start(folder, kill_at=f"{place}:{count}" if phase else "")
        before = (folder / "metrics.jsonl").stat().st_size if (folder / "metrics.jsonl").exists() else 0
        if place == STARTUP:
            time.sleep(share * startup_s)
        elif place == TRAINING:
            process.wait_for_bytes(before + 1)
            startup_s = time.monotonic() - process.started
            time.sleep(share * patience_s / 400)
        if phase:
            try:
                process.result(patience_s)
                died = False
            except Failed as failed:
                line, code = failed.args
                if code != -9:
                    return f"a process that was to be killed at {place} ended by itself (exit code {code}): {line}"
                died = True
        else:
            died = process.kill()
        if died:
            verdict.kills[place] += 1
            fresh = False
            told(verdict, progress, place, last_step(folder))
        elif (code := process.process.returncode) != 0:
            return f"a process ended by itself with exit code {code} before it was killed: {_last_line(process.err)}"
        else:
            if phase and not (fresh and count == 1):  # a whole run without it has none
                verdict.missed.append((place, 1, share))
            return compare(process, folder, verdict, unbroken)
    process = command.start(folder)
    try:
        process.result(patience_s)
    except Failed as failed:
        line, code = failed.args
        return f"the run did not go on after a kill (exit code {code}): {line}"
    return compare(process, folder, verdict, unbroken)


def compare(process: Process, folder: Path, verdict: Verdict, unbroken: Path) -> str:
    """The first difference of a run at its end; a run without any leaves no files."""
    found = difference(process.result(), folder, verdict.reference, unbroken)
    log(f"run {verdict.rounds} at its end after {verdict.kills.total()} kills in all: {found or 'the same bytes'}")
    if not found:
        shutil.rmtree(folder, ignore_errors=True)
    return found and f"{found} ({folder})"


def told(verdict: Verdict, progress: tuple[int, float], place: str, step: int) -> None:
    kills, began = progress
    done = verdict.kills.total()
    left = duration((time.monotonic() - began) / done * (kills - done))
    log(f"kill {done}/{kills}, {place}, last logged step {step}; {left} left")


def last_step(folder: Path) -> int:
    """The last whole row's step of a run that may be dead, 0 if there is none."""
    path = folder / "metrics.jsonl"
    for line in reversed(path.read_text(errors="replace").splitlines() if path.exists() else []):
        try:
            return int(json.loads(line)["step"])
        except (ValueError, KeyError, TypeError):
            continue
    return 0


def _last_line(path: Path) -> str:
    return (path.read_text(errors="replace").splitlines() or ["(nothing on stderr)"])[-1]


def parse_mesh(text: str) -> tuple[list[str], int]:
    """(config words, devices) of "fsdp=2" or "data=2,tensor=2,layout=fsdp_tp".

    >>> parse_mesh("fsdp=2,layout=fsdp")
    (['--config.mesh.data=1', '--config.mesh.fsdp=2', '--config.mesh.tensor=1', '--config.mesh.sequence=1', '--config.mesh.expert=1', \
'--config.mesh.stage=1', '--config.layout=fsdp'], 2)
    """
    sizes, words, devices = {name: 1 for name in Mesh.__dataclass_fields__}, [], 1
    for part in text.split(","):
        name, _, value = part.partition("=")
        if name == "layout":
            if not value:
                raise InputError(f"--meshes {text}: layout has no value; write layout=fsdp")
            words.append(f"--config.layout={value}")
        elif name not in sizes:
            raise InputError(f"--meshes {text}: no mesh axis {name!r}; {nearest(name, [*sizes, 'layout'])}")
        elif not value.isdecimal() or not 1 <= int(value) <= 64:
            raise InputError(f"--meshes {text}: {name} is {value!r}; accepted are 1 to 64 (CPU devices are forced)")
        else:
            sizes[name] = int(value)
            devices *= int(value)
    return [*(f"--config.mesh.{name}={size}" for name, size in sizes.items()), *words], devices


def on_mesh(
    command: Command, workdir: Path, mesh: str, words: Sequence[str], devices: int, verdict: Verdict, tolerance: float, patience_s: float
) -> str:
    """Half of the run on the config's own mesh, the rest on another: the same rows, losses within the tolerance."""
    folder = workdir / ("mesh_" + re.sub(r"[^\w=.-]+", "_", mesh))
    half = max(1, verdict.steps // 2)
    try:
        command.start(folder, f"--config.train.stop_at={half}").result(patience_s)
        result = command.start(folder, *words, devices=devices).result(patience_s)
    except Failed as failed:
        line, code = failed.args
        return f"mesh {mesh}: exit code {code}: {line}"
    worst, where = 0.0, 0
    for row, other in zip(rows(folder), rows(workdir / "unbroken"), strict=False):
        if row.keys() != other.keys() or row["step"] != other["step"]:
            return f"mesh {mesh}: metrics.jsonl has a row of step {row['step']} where the unbroken run has one of step {other['step']}"
        for name in row:
            if name.endswith("loss") and (apart := _apart(row[name], other[name])) > worst:
                worst, where = apart, row["step"]
    same_rows = result["rows_sha256"] == verdict.reference["rows_sha256"]
    verdict.meshes[mesh] = {"rows_equal": same_rows, "loss": result["loss"], "largest_relative_difference": worst, "tolerance": tolerance}
    log(f"mesh {mesh}: rows {'equal' if same_rows else 'NOT equal'}, losses within {worst:.1e} (accepted: {tolerance:g})")
    if not same_rows:
        return f"mesh {mesh}: other rows were fed ({result['rows_sha256'][:12]}, and {verdict.reference['rows_sha256'][:12]} before)"
    return f"mesh {mesh}: a loss of step {where} is {worst:.1e} off, more than {tolerance:g}" if worst > tolerance else ""


def _apart(value: float | None, other: float | None) -> float:
    """The relative difference; a number that is none (NaN is null in the log) differs from every other."""
    if value is None or other is None:
        return 0.0 if value is other else float("inf")
    return abs(value - other) / max(abs(other), 1e-12)


def environment(compiled: Path) -> dict[str, str]:
    """This process's, with a place where one process leaves the compiled step to the next."""
    own = {"JAX_COMPILATION_CACHE_DIR": str(compiled), "JAX_PERSISTENT_COMPILATION_CACHE_MIN_COMPILE_TIME_SECS": "0.1"}
    return {**own, **os.environ}
