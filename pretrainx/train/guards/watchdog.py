"""A thread beside the training that says when the run has stopped moving, and who is behind: it ends what would wait for ever.

Each process tells once a second in `heartbeats/process_N.json` of the run's folder where it is, and reads what the others tell.
One that falls silent is lost (its host died, or it is stopped): the others name it and end, since no collective will ever
complete. One that tells, and whose training thread has not come on for `train.watchdog_seconds`, hangs: every process writes
the stacks of its threads to `stacks/`, the one that is behind is named, and all end. Exit code 76, which tools/supervise.py
starts again. Clocks of different hosts are never compared.
"""

import contextlib
import faulthandler
import json
import os
import socket
import sys
import threading
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType
from typing import Any

import jax

from pretrainx.core import files
from pretrainx.core.errors import EXIT_WATCHDOG, GuardStop, Interrupted
from pretrainx.core.logs import log
from pretrainx.train.progress import STARTUP, STEP

HEARTBEATS, STACKS = "heartbeats", "stacks"
PERIOD_S = 1.0
LOST_S = 20.0  # of silence; less than the 30 s after which JAX itself ends the processes, with a message that names a task number
SUSPECT_S = 5.0  # of silence, once a collective has failed
# For a process whose neighbour ended: it may be about to end for the same reason, with a message of its own. And the neighbour must be
# gone first (tools/train.py: 10 s at most): JAX ends, with a message of its own, what is still there when process 0 leaves.
GRACE_S = 15.0
DUMP_S = 3.0  # for the others to write their stacks
STARTUP_FACTOR = 10  # compiles, restores and waits for all other processes take longer than a step, a save or an evaluation
DONE = "done"


@dataclass
class Peer:
    """Another process as its heartbeats tell; `heard` is when (of our own clock) they last changed."""

    told: dict[str, Any]
    heard: float
    alive: bool = False  # whether they changed since we look: what an earlier run left does not

    @property
    def name(self) -> str:
        return f"process {self.told['process']} ({self.told['host']}, pid {self.told['pid']})"

    @property
    def place(self) -> str:
        return f"at step {self.told['step']}, {self.told['phase']}"


class Watchdog:
    """Runs inside its `with`. `where` gives (step, phase, seconds since the training thread last came on)."""

    def __init__(self, folder: Path, limit_s: float, where: Callable[[], tuple[int, str, float]], lost_s: float = LOST_S):
        self.folder, self.limit_s, self.where, self.lost_s = folder, limit_s, where, lost_s
        self.process, self.count = jax.process_index(), jax.process_count()
        self.peers: dict[int, Peer] = {}
        self._beat = 0
        self._ended = ""
        self._dumped = False
        self._stop = threading.Event()
        self._thread = threading.Thread(target=self._run, name="watchdog", daemon=True)

    def __enter__(self) -> "Watchdog":
        if self.count > 1 or self.limit_s:
            with contextlib.suppress(OSError):
                self._asked().unlink(missing_ok=True)
            self._tell()
            self._thread.start()
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        if not self._thread.is_alive():
            return
        if isinstance(error, jax.errors.JaxRuntimeError) and self.count > 1:
            self._blame(error)
        self._stop.set()
        # What all processes agreed on is no reason for the others to end before they come to it themselves.
        agreed = error is None or isinstance(error, (GuardStop, Interrupted))
        self._ended = DONE if agreed else " ".join(f"{kind.__name__ if kind else ''}: {error}".split())[:300]
        self._tell()

    def _run(self) -> None:
        while not self._stop.wait(PERIOD_S):
            try:
                self._tell()
                self._look()
            except Exception as error:  # a watchdog that fails must not be what ends a run
                log(f"warning: the watchdog stumbled: {type(error).__name__}: {error}")

    def _tell(self) -> None:
        """Writes this process's heartbeat."""
        self._beat += 1
        step, phase, _ = self.where()
        told = {
            "process": self.process, "host": socket.gethostname(), "pid": os.getpid(), "beat": self._beat, "step": step, "phase": phase,
            "ended": self._ended,
        }  # fmt: skip
        folder = self.folder / HEARTBEATS
        with contextlib.suppress(OSError):  # a full disk is the checkpoint's to tell; the others will then take us for lost
            folder.mkdir(parents=True, exist_ok=True)
            temporary = folder / f".process_{self.process}.json"
            temporary.write_text(json.dumps(told))
            os.replace(temporary, folder / f"process_{self.process}.json")

    def _hear(self) -> None:
        """Reads what the others tell."""
        now = time.monotonic()
        for number in range(self.count):
            told = read(self.folder / HEARTBEATS / f"process_{number}.json")
            if number == self.process or not told or told["process"] != number:
                continue
            peer = self.peers.get(number)
            if peer is None:
                self.peers[number] = Peer(told, now)
            elif (told["pid"], told["beat"]) != (peer.told["pid"], peer.told["beat"]):
                self.peers[number] = Peer(told, now, alive=True)

    def _silent(self, seconds: float) -> list[Peer]:
        now = time.monotonic()
        return [
            p
            for p in self.peers.values()
            if p.alive and p.told["ended"] != DONE and now - p.heard > (GRACE_S if p.told["ended"] else seconds)
        ]

    def _look(self) -> None:
        """Ends this process where another is lost, or this one hangs; writes stacks where any asks for them."""
        self._hear()
        step, phase, still = self.where()
        if self._asked().exists() and not self._dumped:
            self._dump()
        if lost := self._silent(self.lost_s):
            self._end(f"{'; '.join(map(described, lost))}; this process {self.process} was at step {step}, {phase}")
        limit_s = self.limit_s * (STARTUP_FACTOR if phase == STARTUP else 1)
        if limit_s and still > limit_s:
            self._dump()
            with contextlib.suppress(OSError):
                self._asked().touch()
            time.sleep(DUMP_S if self.count > 1 else 0.0)
            self._hear()
            more = f", {STARTUP_FACTOR} times that before the first step" if phase == STARTUP else ""
            self._end(
                f"process {self.process} hangs at step {step}, {phase}: nothing came to its end for {still:.0f} s (train.watchdog_seconds "
                f"{self.limit_s:g}{more}); {self._laggard(step, phase)}; the stacks are in {self.folder / STACKS}"
            )

    def _laggard(self, step: int, phase: str) -> str:
        """Who is behind: one that does not answer, or the one at the smallest step; of equals one that is not in the step itself."""
        if self.count == 1:
            return f"it is in: {phase}"
        if silent := self._silent(2.5 * PERIOD_S):
            return "; ".join(map(described, silent))
        places = {p.name: (p.told["step"], p.told["phase"] == STEP) for p in self.peers.values()}
        places[f"process {self.process}"] = (step, phase == STEP)
        least = min(places.values())
        behind = [name for name, place in places.items() if place == least]
        return f"behind is {', '.join(behind)} (step {least[0]})" if len(behind) < len(places) else f"all are at step {step}, {phase}"

    def _blame(self, error: BaseException) -> None:
        """After a collective failed: if another process is gone, this one ends and names it; else the error is the run's own."""
        until = time.monotonic() + SUSPECT_S + 2 * PERIOD_S
        while time.monotonic() < until:
            self._hear()
            if lost := self._silent(SUSPECT_S) + [p for p in self.peers.values() if p.alive and p.told["ended"] == DONE]:
                step, phase, _ = self.where()
                self._end(f"{'; '.join(map(described, lost))}; this process {self.process} was at step {step}, {phase}")
            time.sleep(PERIOD_S / 4)

    def _asked(self) -> Path:
        return self.folder / STACKS / ".asked"

    def _dump(self) -> None:
        """The stacks of all threads of this process, in a file."""
        self._dumped = True
        with contextlib.suppress(OSError):
            (self.folder / STACKS).mkdir(parents=True, exist_ok=True)
            step, phase, _ = self.where()
            with open(self.folder / STACKS / f"process_{self.process}.txt", "w") as stream:
                stream.write(f"process {self.process}, pid {os.getpid()}, at step {step}, {phase}\n\n")
                stream.flush()
                faulthandler.dump_traceback(stream, all_threads=True)

    def _end(self, why: str) -> None:
        log(f"watchdog: {why}; the last checkpoint is whole, run the same command again to go on")
        leave(EXIT_WATCHDOG)


def described(peer: Peer) -> str:
    """What became of a process that is no longer heard of."""
    if peer.told["ended"]:
        return f"{peer.name} ended {peer.place}: {peer.told['ended']}"
    return f"{peer.name} is lost: silent for {time.monotonic() - peer.heard:.0f} s, last heard of {peer.place}"


def leave(code: int) -> None:
    """Ends this process at once: no other thread of it, nor any other process, is waited for."""
    for stream in (sys.stdout, sys.stderr):
        with contextlib.suppress(Exception):
            stream.flush()
    os._exit(code)


def read(path: Path) -> dict[str, Any]:
    """A heartbeat, {} where there is none or it is damaged: every value has its type."""
    with contextlib.suppress(Exception):
        values = files.read_json(path, "heartbeat")
        whole = {name: int(values[name]) for name in ("process", "pid", "beat", "step")}
        return whole | {name: str(values[name]) for name in ("host", "phase", "ended")}
    return {}
