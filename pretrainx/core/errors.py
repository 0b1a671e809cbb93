"""The errors a user meets, and the exit code each one ends a command with."""

import difflib
from collections.abc import Iterable

EXIT_BAD_INPUT = 2
EXIT_GUARD = 3
EXIT_SAVE_FAILED = 1  # as of any other failure that running the command again may mend
EXIT_INTERRUPTED = 75
EXIT_WATCHDOG = 76  # a process was lost or hung; running the command again goes on from the last checkpoint


class InputError(Exception):
    """The user's input is wrong: one sentence saying what, where, what is accepted and the nearest match.

    What the sentence quotes may hold line ends; it stays one line.
    """

    def __init__(self, message: str):
        super().__init__(" ".join(message.splitlines()))


class GuardStop(Exception):
    """Too many bad steps in a row: the run stopped itself, and its last good state is saved."""


class SaveFailed(Exception):
    """The last checkpoint of a run came to nothing: what it says names the one before."""


class Interrupted(Exception):
    """A signal asked the run to stop: it saved, and running the same command again goes on exactly."""


def nearest(name: str, accepted: Iterable[str], limit: int = 12) -> str:
    """The end of an error sentence: the nearest accepted names, then what is accepted.

    >>> nearest("adanw", ["adamw", "muon"])
    "did you mean 'adamw'? accepted: adamw, muon"
    """
    accepted = sorted(accepted)
    close = difflib.get_close_matches(name, accepted, n=2, cutoff=0.5)
    hint = f"did you mean {' or '.join(repr(c) for c in close)}? " if close else ""
    shown = ", ".join(accepted[:limit]) + (f", ... ({len(accepted)} in all)" if len(accepted) > limit else "")
    return f"{hint}accepted: {shown or '(none)'}"
