"""Loss spikes: what counts as one, and the policies that answer it (`train.spike_policy`).

A loss is a spike where it lies more than `deviations` robust standard deviations above the median of the `window` losses before it. All
is a function of those losses, which a checkpoint carries, so a resumed run sees the spikes that an unbroken one does.
"""

import contextlib
import json
import math
import statistics
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from pretrainx.core import sections
from pretrainx.core.errors import GuardStop
from pretrainx.core.logs import log
from pretrainx.data.skips import Skips
from pretrainx.train.state import State

JOURNAL = "spikes.jsonl"  # in the run's folder
LIMIT = "loss_limit"  # in a batch of a program that skips: the same number in every row
SIGMA = 1.4826  # the standard deviation of a normal distribution in median absolute deviations
LEAST_SIGMA = 0.005  # of the median: losses that hardly move must not make a spike of their own noise


class Rewind(Exception):
    """The loss of `step` is a spike, and the policy is to go back."""

    def __init__(self, step: int):
        super().__init__(f"loss spike at step {step}")
        self.step = step


def limit_of(losses: list[float], window: int, deviations: float) -> float:
    """The largest loss that is no spike, a float32 number; infinite while there are fewer than half a window of losses.

    >>> limit_of([1.0, 2.0, 3.0, 4.0], 8, 10.0)
    17.325998306274414
    >>> limit_of([1.0, 2.0, 3.0], 8, 10.0)
    inf
    """
    if len(losses) < window // 2:
        return math.inf
    middle, sigma = spread(losses, LEAST_SIGMA)
    return float(np.float32(middle + deviations * sigma))  # as the step compares it


def spread(values: list[float], least: float) -> tuple[float, float]:
    """(median, robust standard deviation), the latter at least that share of the median."""
    middle = statistics.median(values)
    return middle, max(SIGMA * statistics.median(abs(x - middle) for x in values), least * abs(middle))


@dataclass
class Spikes:
    """The past losses of a run and the spikes among them. Every process has the same, since every process reads the same losses."""

    train: sections.Train
    journal: Path | None = None  # a line for each spike, for people and tools/autopsy.py; only the first process has one
    losses: list[float] = field(default_factory=list)  # the last `spike_window`, oldest first
    count: int = 0

    @property
    def limit(self) -> float:
        return limit_of(self.losses, self.train.spike_window, self.train.spike_deviations)

    def observe(self, step: int, loss: float) -> bool:
        """Whether the loss of a step is a spike; said, and counted. Call it once a step, in their order.

        Raises:
          Rewind: the policy says so.
        """
        if not math.isfinite(loss):  # the step has refused it already
            return False
        limit = self.limit
        spike = loss > limit
        if spike:
            what = {"log": "", "skip": "; its update is refused", "rewind": "; going back"}[self.train.spike_policy]
            log(f"warning: LOSS SPIKE at step {step}: {loss:.4f} is above {limit:.4f}{what}")
            self.count += 1
            self._write({"step": step, "loss": loss, "limit": limit, "policy": self.train.spike_policy})
            if self.train.spike_policy == "rewind":
                raise Rewind(step)
        # A spike counts among the past too: half a window of them is no spike any more, but what the loss is now.
        self.losses = [*self.losses, loss][-self.train.spike_window :]
        return spike

    def _write(self, row: dict[str, Any]) -> None:
        if self.journal is not None:
            with contextlib.suppress(OSError), open(self.journal, "a", encoding="utf-8") as stream:
                stream.write(json.dumps(row | {"time": time.time()}) + "\n")

    def facts(self) -> dict[str, Any]:
        """What a checkpoint keeps."""
        return {"losses": self.losses, "spikes": self.count}


def restored(train: sections.Train, facts: dict[str, Any], journal: Path | None) -> Spikes:
    """As a checkpoint's facts have it; those of earlier versions have no past."""
    return Spikes(train, journal, [float(loss) for loss in facts["losses"]][-train.spike_window :], facts["spikes"])


def refusing(step: Callable[..., Any]) -> Callable[..., Any]:
    """The training step of policy "skip": as `step`, but a loss above the batch's limit changes nothing but the counters.

    The limit comes as a feature of the batch, the same number in every row, so that it is laid over devices and processes as the rest is.
    """

    def guarded(state: State, batch: dict[str, jax.Array]) -> tuple[State, dict[str, jax.Array]]:
        rows = {name: array for name, array in batch.items() if name != LIMIT}
        new, metrics = step(state, rows)
        spike = metrics["loss"] > jnp.min(batch[LIMIT])  # false of a loss that is not finite, which `step` itself has refused
        keep = lambda fresh, old: jnp.where(spike, old, fresh)  # noqa: E731
        params, opt_state = jax.tree.map(keep, (new.params, new.opt_state), (state.params, state.opt_state))
        bad = spike.astype(jnp.int32)
        skipped, in_a_row = new.skipped + bad, jnp.where(spike, state.skipped_in_a_row + 1, new.skipped_in_a_row)
        metrics = metrics | {"skipped": skipped, "skipped_in_a_row": in_a_row}
        return State(new.step, params, opt_state, skipped, in_a_row), metrics

    return guarded


def limit_feature(spikes: Spikes, rows: int) -> dict[str, np.ndarray]:
    """What the batch of a program that skips has besides."""
    return {LIMIT: np.full(rows, spikes.limit, np.float32)}


@dataclass
class Rewinds:
    """How often a run went back to the same checkpoint."""

    train: sections.Train
    base: int = -1
    count: int = 0

    def require(self, step: int, base: int) -> None:
        """Counts one more rewind to the checkpoint of step `base`.

        Raises:
          GuardStop: there were as many as there may be.
        """
        self.base, self.count = base, self.count + 1 if base == self.base else 1
        if self.count > self.train.max_rewinds:
            raise GuardStop(
                f"the loss spikes again at step {step}, after {self.count - 1} rewinds to step {base} (train.max_rewinds); look at it "
                f"with tools/autopsy.py --step={step}"
            )


def rows_of(skips: Skips, first: int, last: int, batch_size: int) -> Skips:
    """The rows that steps first + 1 to `last` were fed, under `skips`."""
    return Skips(((skips.number(first * batch_size), skips.number(last * batch_size - 1) + 1),))
