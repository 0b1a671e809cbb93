"""A run and where it stands: at its start, at a checkpoint, or put back to one, and which rows it is not fed."""

from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from pretrainx.core.logs import log
from pretrainx.data import skips
from pretrainx.data.loader import Mixture, RowBuilder
from pretrainx.parallel import multihost
from pretrainx.train import resume
from pretrainx.train.build import Program
from pretrainx.train.checkpoint import Checkpoints
from pretrainx.train.guards import spikes
from pretrainx.train.guards.spikes import Rewind, Rewinds, Spikes
from pretrainx.train.state import State


@dataclass
class Run:
    """A program with its folder, data and state: what the loop moves forward."""

    program: Program
    builder: RowBuilder
    mixture: Mixture
    held_out: Mixture | None
    folder: Path
    checkpoints: Checkpoints
    facts: dict[str, Any]  # identity and config, as each checkpoint keeps them
    spikes: Spikes
    compiled: Any = None
    state: State | None = None
    step: int = 0
    rows_digest: int = 0  # of all rows fed, over all processes, up to the last save; this process's own since then
    pending: list[dict[str, float]] = field(default_factory=list)
    loss: float | None = None  # of the last step before a resumption


def stand_at(run: Run, step: int, saved: dict[str, Any] | None) -> None:
    """Puts the run to a checkpoint's step with the facts of it, or to its start."""
    train, first = run.program.experiment.train, multihost.is_first()
    facts = saved or resume.START
    run.step, run.pending, run.loss, run.state = step, list(facts["pending"]), facts["loss"], None
    run.rows_digest = int(facts["rows_sha256"], 16) if first else 0
    run.spikes = spikes.restored(train, facts, run.folder / spikes.JOURNAL if first else None)
    feed_without(run, facts["skip_rows"])


def feed_without(run: Run, rows: skips.Skips) -> None:
    """Lets the run be fed its order without these rows: all of them, those that it has passed too."""
    run.mixture = replace(run.mixture, skips=rows)
    run.builder = RowBuilder(run.mixture)


def leave_out(run: Run, rows: skips.Skips) -> None:
    """From the run's step on, these rows are not fed either."""
    old = run.mixture.skips
    new = old.with_rows(rows, run.step * run.program.experiment.train.batch_size)
    feed_without(run, new)
    if len(new) > len(old):
        log(f"rows left out from step {run.step} on: {len(new) - len(old):,} more ({len(new):,} in all)")


def go_back(run: Run, spike: Rewind, rewinds: Rewinds) -> None:
    """Puts the run back to its last checkpoint, and leaves out what it was fed where the loss spiked.

    Raises:
      GuardStop: it went back there often enough.
    """
    train = run.program.experiment.train
    run.checkpoints.collect(wait=True)
    base = run.checkpoints.latest()
    rewinds.require(spike.step, base or 0)
    left_out = run.mixture.skips
    cause = spikes.rows_of(left_out, max(spike.step - train.spike_reach, base or 0), spike.step, train.batch_size)
    stand_at(run, base or 0, None if base is None else resume.facts(run.checkpoints, base))
    feed_without(run, left_out)  # with what earlier rewinds to this checkpoint found
    leave_out(run, cause)
