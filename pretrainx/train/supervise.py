"""A run kept going: restarted with back-off after a crash, given up where it gets no further, with a journal of where time went.

Exit codes of the command are what `core/errors.py` says: 0, 2 (bad input) and 3 (the guard) are final, 75 is a run that was
interrupted and saved, and everything else is a crash: a kill, and 76, by which a run ends itself that hangs or lost a host.
"""

import json
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

from pretrainx.core.errors import EXIT_BAD_INPUT, EXIT_GUARD, EXIT_INTERRUPTED, EXIT_WATCHDOG
from pretrainx.core.logs import duration, log
from pretrainx.train import progress

FINAL = (0, EXIT_BAD_INPUT, EXIT_GUARD)
JOURNAL = "supervision.jsonl"
# What wall time went to. `train` is the rest of a run's time from its first step on: forward, or lost where steps were lived again.
CAUSES = ("forward", "startup", "lost_steps", "data", "save", "evaluate", "backoff", "unknown")
MAX_LINE = 2000  # characters of a last line in the journal


@dataclass(frozen=True)
class Policy:
    """When to go on. Back-off doubles from first_s to longest_s and begins anew whenever a start has got further."""

    max_restarts: int = 100
    max_stuck: int = 3  # starts in a row that got no further than any before
    first_s: float = 1.0
    longest_s: float = 300.0

    def backoff(self, stuck: int) -> float:
        """Seconds to wait before the next start, after `stuck` starts in a row without progress.

        >>> [Policy().backoff(n) for n in (0, 1, 2, 20)]
        [1.0, 2.0, 4.0, 300.0]
        """
        return float(min(self.first_s * 2.0 ** min(stuck, 60), self.longest_s))


@dataclass(frozen=True)
class Attempt:
    """One start of the command, from `began` to `ended` (seconds since the epoch); 0 steps where it reached none."""

    began: float
    ended: float
    code: int
    first_step: int = 0
    step: int = 0
    saved: int = 0
    ready: float = 0.0  # when its first step began; 0: it never came so far
    known: float = 0.0  # until when it told what it does
    seconds: Mapping[str, float] = field(default_factory=dict)
    last_line: str = ""


def goodput(attempts: Sequence[Attempt], finished: bool = False) -> dict[str, float]:
    """Seconds by cause, from the first start to the last end: they add up to the wall time.

    Steps beyond where the next attempt began were lived for nothing, and so was their share of the attempt's training time;
    of the last attempt, those beyond its last checkpoint, unless it ended well.
    """
    total = dict.fromkeys(CAUSES, 0.0)
    for number, attempt in enumerate(attempts):
        wall = max(attempt.ended - attempt.began, 0.0)
        following = next((a.first_step for a in attempts[number + 1 :] if a.ready), None)
        kept = following if following is not None else (attempt.step if finished else attempt.saved)
        if not attempt.ready:
            total["startup"] += wall
        else:
            startup = min(max(attempt.ready - attempt.began, 0.0), wall)
            running = min(max(attempt.known - attempt.ready, 0.0), wall - startup)
            held = {cause: max(attempt.seconds.get(cause, 0.0), 0.0) for cause in progress.CAUSES}
            scale = min(1.0, running / sum(held.values())) if sum(held.values()) else 0.0  # clocks differ: never more than there was
            for cause, seconds in held.items():
                total[cause] += scale * seconds
            train = max(running - scale * sum(held.values()), 0.0)  # rounding may leave less than nothing
            steps = attempt.step - attempt.first_step
            lost = min(max(attempt.step - max(kept, attempt.first_step), 0) / steps, 1.0) if steps > 0 else 0.0
            total["startup"] += startup
            total["lost_steps"] += train * lost
            total["forward"] += train * (1 - lost)
            total["unknown"] += wall - startup - running
        if number + 1 < len(attempts):
            total["backoff"] += max(attempts[number + 1].began - attempt.ended, 0.0)
    return total


def shares(seconds: Mapping[str, float]) -> dict[str, float]:
    """The same as parts of one."""
    wall = sum(seconds.values())
    return {cause: value / wall if wall else 0.0 for cause, value in seconds.items()}


class Supervisor:
    """Starts a command until it is done, given up, or this process is told to stop. `folder` is the run's --workdir."""

    def __init__(self, command: Sequence[str], folder: Path, policy: Policy, wait: Callable[[float], object] | None = None):
        self.command, self.folder, self.policy = list(command), folder, policy
        self.attempts: list[Attempt] = []
        self.asked = ""  # the signal that told us to stop
        self._child: subprocess.Popen[bytes] | None = None
        self._stop = threading.Event()
        self._wait = wait or self._stop.wait

    def run(self) -> int:
        """The exit code: that of the command's last start (of a signal N, 128 + N, as a shell has it)."""
        stuck, furthest = 0, -1
        old = {number: signal.signal(number, self._forward) for number in (signal.SIGTERM, signal.SIGINT)}
        try:
            while True:
                attempt = self._attempt()
                code = attempt.code
                if code in FINAL or self.asked:
                    return self._end(code, "done" if code == 0 else f"told to stop by {self.asked}" if self.asked else "final")
                reached = max(attempt.saved, attempt.step if code == EXIT_INTERRUPTED else 0)
                stuck, furthest = (0, reached) if reached > furthest else (stuck + 1, furthest)
                if stuck >= self.policy.max_stuck:
                    return self._end(
                        code, f"given up: {stuck + 1} starts in a row got no further than step {furthest}, last line: {attempt.last_line}"
                    )
                if len(self.attempts) > self.policy.max_restarts:
                    return self._end(code, f"given up after {self.policy.max_restarts} restarts")
                pause = 0.0 if code == EXIT_INTERRUPTED else self.policy.backoff(stuck)
                what = "a host lost or hung (76)" if code == EXIT_WATCHDOG else f"exit code {code}"
                log(f"supervise: {what} at step {attempt.step}, saved {attempt.saved}; starting again in {pause:g} s")
                self._wait(pause)
                if self.asked:
                    return self._end(code, f"told to stop by {self.asked}")
        finally:
            for number, handler in old.items():
                signal.signal(number, handler)

    def _attempt(self) -> Attempt:
        began = time.time()
        self._write({"event": "start", "time": began, "attempt": len(self.attempts) + 1, "command": self.command})
        last = ""
        # In a group of its own: Ctrl-C reaches it once, through us, and not as a second signal that ends it at once.
        self._child = subprocess.Popen(self.command, stderr=subprocess.PIPE, process_group=0)
        if self.asked:  # it came between the decision to start and the start
            self._child.send_signal(signal.Signals[self.asked])
        assert self._child.stderr is not None
        with self._child.stderr as lines:  # passed on as they come, the last kept
            for raw in lines:
                sys.stderr.write(raw.decode(errors="replace"))
                sys.stderr.flush()
                last = raw.decode(errors="replace").strip() or last
        code = self._child.wait()
        ended = time.time()
        told = progress.read(self.folder)
        if told.get("pid") != self._child.pid:
            told = {}  # of an earlier start: this one never came so far
        attempt = Attempt(
            began, ended, code, told.get("first_step", 0), told.get("step", 0), told.get("saved", 0), told.get("ready", 0.0),
            told.get("written", 0.0), told.get("seconds", {}), last[-MAX_LINE:],
        )  # fmt: skip
        self.attempts.append(attempt)
        self._write({"event": "end", "time": ended, "attempt": len(self.attempts)} | asdict(attempt))
        return attempt

    def _end(self, code: int, why: str) -> int:
        spent = goodput(self.attempts, finished=code in (0, EXIT_INTERRUPTED))
        parts = shares(spent)
        wall = sum(spent.values())
        self._write({
            "event": "over", "time": time.time(), "why": why, "code": code, "starts": len(self.attempts), "wall_seconds": wall,
            "seconds": spent, "goodput": parts["forward"],
        })  # fmt: skip
        losses = ", ".join(f"{cause} {part:.1%}" for cause, part in parts.items() if cause != "forward" and part >= 0.0005)
        starts, share = f"{len(self.attempts)} starts in {duration(wall)}", f"{parts['forward']:.1%}"
        log(f"supervise: {why}; {starts}, goodput {share} (lost: {losses or 'nothing'})")
        return code if code >= 0 else 128 - code

    def _write(self, row: Mapping[str, Any]) -> None:
        """A line in the journal. One that cannot be written stops nothing."""
        try:
            self.folder.mkdir(parents=True, exist_ok=True)
            with open(self.folder / JOURNAL, "a", encoding="utf-8") as stream:
                stream.write(json.dumps(row, ensure_ascii=False) + "\n")
        except OSError as error:
            log(f"warning: the journal cannot be written: {error}")

    def _forward(self, number: int, frame: Any) -> None:
        self.asked = signal.Signals(number).name
        self._stop.set()
        if self._child is not None and self._child.poll() is None:
            self._child.send_signal(number)


def workdir_of(words: Iterable[str]) -> Path | None:
    """The --workdir of a command, None if it has none."""
    words = list(words)
    for number, word in enumerate(words):
        if word.startswith("--workdir="):
            return Path(word.partition("=")[2])
        if word == "--workdir" and number + 1 < len(words):
            return Path(words[number + 1])
    return None
