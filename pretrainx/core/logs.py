"""What a person sees while something long runs: a live bar on a terminal, plain lines in a log. All to stderr."""

import contextlib
import sys
import time
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import TextIO, TypeVar

T = TypeVar("T")
_tee: TextIO | None = None


@contextlib.contextmanager
def tee(path: Path | str) -> Iterator[None]:
    """Inside it, `log` also appends to this file."""
    global _tee
    stream = open(path, "a", encoding="utf-8", buffering=1)  # noqa: SIM115 - closing it may fail, which must end nothing
    _tee = stream
    try:
        yield
    finally:
        _tee = None
        with contextlib.suppress(OSError):
            stream.close()


def log(message: str) -> None:
    """One plain line to stderr (and to the run's log.txt). A log that cannot be written never stops a run."""
    for stream in (sys.stderr, _tee):
        if stream is not None:
            try:
                if stream is sys.stderr and stream.isatty():
                    stream.write("\r\x1b[2K")
                stream.write(message + "\n")
                stream.flush()
            except OSError:
                pass


def live(message: str) -> None:
    """A line that the next one overwrites, on a terminal; nothing otherwise."""
    if sys.stderr.isatty():
        sys.stderr.write("\r\x1b[2K" + message)
        sys.stderr.flush()


def duration(seconds: float) -> str:
    """
    >>> duration(75), duration(4000), duration(200000)
    ('1m15s', '1h06m', '2d07h')
    """
    whole = int(max(seconds, 0))
    if whole < 60:
        return f"{whole}s"
    if whole < 3600:
        return f"{whole // 60}m{whole % 60:02d}s"
    if whole < 86400:
        return f"{whole // 3600}h{whole % 3600 // 60:02d}m"
    return f"{whole // 86400}d{whole % 86400 // 3600:02d}h"


def progress(items: Iterable[T], total: int, what: str, unit: str = "it", every_s: float = 10.0) -> Iterator[T]:
    """Yields the items, showing count, rate and time left: a live bar on a terminal, else a line every `every_s`."""
    start = shown = time.monotonic()
    for count, item in enumerate(items, 1):
        yield item
        now = time.monotonic()
        rate = count / max(now - start, 1e-9)
        share = count / max(total, 1)
        left = duration((total - count) / max(rate, 1e-9))
        if sys.stderr.isatty():
            bar = "#" * int(24 * share)
            live(f"{what} [{bar:<24}] {count:,}/{total:,} {unit} {rate:,.1f}/s, {left} left")
        elif now - shown > every_s or count == total:
            shown = now
            log(f"{what}: {count:,}/{total:,} {unit} ({share:.0%}), {rate:,.1f}/s, {left} left")
    if sys.stderr.isatty():
        log(f"{what}: {total:,} {unit} in {duration(time.monotonic() - start)}")
