"""How far a live run is and what its time went to, in a file that whoever watches the run can read: progress.json.

It is no part of the run's result: it cannot be written, the run goes on; it is gone, nothing is lost.
"""

import contextlib
import json
import os
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from pretrainx.core import files

NAME = "progress.json"
CAUSES = ("data", "save", "evaluate")  # what holds a step up, in seconds of the main thread
STARTUP, STEP = "start-up", "step"
EVERY_S = 1.0  # at most one write a second: steps may take milliseconds


class Progress:
    """Steps and seconds of this process since it came up. Only the first process of a run has a folder."""

    def __init__(self, folder: Path | None, step: int):
        self.folder, self.first_step, self.step, self.saved = folder, step, step, step
        self.seconds = dict.fromkeys(CAUSES, 0.0)
        self._ready = self._written = 0.0
        self._phase, self._moved = STARTUP, time.monotonic()
        self._begun = False  # whether a step came to its end

    def ready(self) -> None:
        """All is compiled and restored: steps begin here."""
        self._ready = time.time()
        self.write()

    def where(self) -> tuple[int, str, float]:
        """(step, what the main thread is at, seconds since it last came to the end of anything)."""
        # Its first step waits for the start of all other processes: that is start-up too.
        return self.step, self._phase if self._begun else STARTUP, time.monotonic() - self._moved

    @contextlib.contextmanager
    def spent(self, cause: str) -> Iterator[None]:
        """Counts the time inside for a cause."""
        start = self._moved = time.monotonic()
        self._phase = cause
        try:
            yield
        finally:
            self._phase, self._moved = STEP, time.monotonic()
            self.seconds[cause] += self._moved - start

    def stepped(self, step: int, saved: int, at_once: bool = False) -> None:
        """After a step; `saved` is the newest committed one. Writes at most once in EVERY_S, unless `at_once`."""
        self.step, self.saved, self._moved = step, saved, time.monotonic()
        self._phase, self._begun = STEP, True
        if at_once or not 0 <= time.time() - self._written < EVERY_S:  # a clock that was set back must not silence us
            self.write()

    def write(self) -> None:
        self._written = time.time()
        if self.folder is None:
            return
        values = {
            "pid": os.getpid(), "ready": self._ready, "written": self._written, "first_step": self.first_step, "step": self.step,
            "saved": self.saved, "seconds": self.seconds,
        }  # fmt: skip
        temporary = self.folder / f".{NAME}"
        with contextlib.suppress(OSError):  # a full disk is the checkpoint's to tell
            temporary.write_text(json.dumps(values))  # renamed, not synced: it says nothing after a power cut anyway
            os.replace(temporary, self.folder / NAME)


def read(folder: Path) -> dict[str, Any]:
    """What a run last wrote, {} if there is nothing or it is damaged: every value has its type."""
    with contextlib.suppress(Exception):
        values = files.read_json(folder / NAME, "progress of the run")
        whole = {name: int(values[name]) for name in ("pid", "first_step", "step", "saved")}
        times = {name: float(values[name]) for name in ("ready", "written")}
        return whole | times | {"seconds": {cause: float(values["seconds"][cause]) for cause in CAUSES}}
    return {}
