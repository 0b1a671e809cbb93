"""Asked to stop: what SIGINT and SIGTERM do to a run."""

import signal
from dataclasses import dataclass, field
from typing import Any

import jax
import numpy as np
from jax.experimental import multihost_utils

from pretrainx.core.errors import Interrupted


@dataclass
class Signals:
    """SIGINT and SIGTERM ask the run to stop after the step at hand; a second one stops it at once."""

    caught: str = ""
    _old: dict[int, Any] = field(default_factory=dict)

    def __enter__(self) -> "Signals":
        for number in (signal.SIGINT, signal.SIGTERM):
            self._old[number] = signal.signal(number, self._catch)
        return self

    def __exit__(self, *_: object) -> None:
        for number, handler in self._old.items():
            signal.signal(number, handler)

    def _catch(self, number: int, frame: Any) -> None:
        if self.caught:
            raise Interrupted("second signal: stopped at once; the last checkpoint is whole")
        self.caught = signal.Signals(number).name

    def ask(self, why: str) -> None:
        """As a first signal does, from another thread; `why` is what the run says when it stops."""
        self.caught = self.caught or why

    def agreed(self) -> bool:
        """Whether any process was asked to stop: all of them must stop after the same step."""
        if jax.process_count() == 1:
            return bool(self.caught)
        return bool(np.any(multihost_utils.process_allgather(np.asarray(bool(self.caught)))))
