"""Where tests and tools/prove_resume.py may end a run: named phases of a save. Off unless an environment variable names one."""

import os
import signal

VARIABLE = "PRETRAINX_KILL_AT"  # "PHASE" or "PHASE:COUNT": kill -9 of this process when it comes there for the COUNT-th time
PHASES = ("before_save", "copied", "item_written", "before_digests", "before_commit", "committed", "removing", "removed")

_seen: dict[str, int] = {}


def reached(phase: str) -> None:
    """Ends this process as kill -9 does if the environment says so for this phase; else nothing."""
    wanted = os.environ.get(VARIABLE)
    if not wanted:
        return
    name, _, count = wanted.partition(":")
    _seen[phase] = _seen.get(phase, 0) + 1
    if name == phase and _seen[phase] == int(count or 1):
        os.kill(os.getpid(), signal.SIGKILL)
