"""Curation killed again and again, at instants drawn from a seed: its output is, byte for byte, that of a run left alone."""

import random
import signal
import time
from pathlib import Path

import pytest

pytest.importorskip("zstandard", reason="curation needs pip install 'pretrainx[curate]'")

from test_curate import OWN, command, corpus, curate, options, output, write_config

KILLS, SEED = 10, 5


@pytest.mark.slow
def test_ten_kills_at_any_instant(tmp_path: Path) -> None:
    """A kill comes a random moment after a random number of files has appeared: while one is read, filtered, or written."""
    chosen = options(
        inputs=corpus(tmp_path / "in", 6), reading={"piece_bytes": 1}, output={"shard_bytes": 2000},
        filters={OWN: {"min_characters": 30, "word": "bad", "pause_s": 0.05}},
    )  # fmt: skip
    config, out, draw = write_config(tmp_path / "c.py", chosen), tmp_path / "out", random.Random(SEED)
    curate(tmp_path / "whole", chosen)
    wanted, kills, files = output(tmp_path / "whole"), 0, 0
    for _ in range(4 * KILLS):
        if kills == KILLS:
            break
        process = command(out, config, "--workers=1")
        files += draw.randint(0, 4)  # beyond what is there: it gets a little further each time
        while process.poll() is None and sum(1 for path in out.rglob("*") if path.is_file()) < files:
            time.sleep(0.002)
        time.sleep(draw.uniform(0, 0.05))
        kills += process.poll() is None
        process.send_signal(signal.SIGKILL)
        process.communicate()
        if process.returncode == 0:  # it came to its end: begin once more, from nothing
            assert output(out) == wanted
            files, out = 0, tmp_path / f"out_{kills}"
    assert kills == KILLS
    process = command(out, config, "--workers=1")
    _, errors = process.communicate(timeout=300)
    assert process.returncode == 0, errors
    assert output(out) == wanted and not list(out.glob("work/*/.*"))
