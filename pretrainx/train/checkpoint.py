"""Checkpoints: parameters, the rest of the state, and the run's own facts, under one step, written behind the training.

Orbax writes into a temporary folder and renames it when all is there, so a step that exists is whole.
"""

import copy
import shutil
from pathlib import Path
from typing import Any

import jax
import orbax.checkpoint as ocp

from pretrainx.core.errors import InputError
from pretrainx.models.skeleton import Params
from pretrainx.parallel.multihost import is_first
from pretrainx.train.state import State

ITEMS = ("params", "rest", "facts")


class Checkpoints:
    """The folder `checkpoints/` of a run. `keep` last ones stay, and every `keep_every`-th step for good."""

    def __init__(self, folder: Path, keep: int = 2, keep_every: int = 0, read_only: bool = False):
        self.folder = folder.resolve()
        if not read_only and is_first():
            self.folder.mkdir(parents=True, exist_ok=True)
            for leftover in self.folder.glob("*.orbax-checkpoint-tmp*"):  # of a run that was killed while saving
                shutil.rmtree(leftover, ignore_errors=True)
        options = ocp.CheckpointManagerOptions(
            max_to_keep=None if read_only else keep, keep_period=keep_every or None, read_only=read_only, create=not read_only
        )
        # The first process makes the folder; another must not conclude from being early that there is none.
        there = not read_only or self.folder.exists()
        self._manager = ocp.CheckpointManager(self.folder, options=options, item_names=ITEMS) if there else None

    def latest(self) -> int | None:
        return self._manager.latest_step() if self._manager else None

    def steps(self) -> list[int]:
        return sorted(self._manager.all_steps()) if self._manager else []

    def save(self, state: State, step: int, facts: dict[str, Any]) -> None:
        """Starts the save; returns when the arrays are copied to the host, long before they are on disk."""
        assert self._manager is not None
        facts = copy.deepcopy(facts)  # it is written behind the training, which goes on to change what it was given
        rest = {"step": state.step, "opt_state": state.opt_state, "skipped": state.skipped, "skipped_in_a_row": state.skipped_in_a_row}
        self._manager.save(
            step,
            args=ocp.args.Composite(
                params=ocp.args.StandardSave(state.params), rest=ocp.args.StandardSave(rest), facts=ocp.args.JsonSave(facts)
            ),
        )

    def facts(self, step: int) -> dict[str, Any]:
        """What the run wrote beside the arrays of a step."""
        return self._restore(step, facts=ocp.args.JsonRestore())["facts"]

    def restore(self, step: int, abstract: State, shardings: State) -> State:
        """The state of a step, on whatever mesh the shardings say."""
        like = jax.tree.map(lambda x, s: jax.ShapeDtypeStruct(x.shape, x.dtype, sharding=s), abstract, shardings)
        rest = {"step": like.step, "opt_state": like.opt_state, "skipped": like.skipped, "skipped_in_a_row": like.skipped_in_a_row}
        found = self._restore(step, params=ocp.args.StandardRestore(like.params), rest=ocp.args.StandardRestore(rest))
        return State(params=found["params"], **found["rest"])

    def restore_params(self, step: int, abstract: Params, shardings: Params) -> Params:
        like = jax.tree.map(lambda x, s: jax.ShapeDtypeStruct(x.shape, x.dtype, sharding=s), abstract, shardings)
        return self._restore(step, params=ocp.args.StandardRestore(like))["params"]

    def _restore(self, step: int, **items: Any) -> Any:
        if step not in self.steps() or self._manager is None:
            raise InputError(f"{self.folder}: no checkpoint of step {step}; those there: {', '.join(map(str, self.steps())) or 'none'}")
        return self._manager.restore(step, args=ocp.args.Composite(**items))

    def close(self) -> None:
        """Waits until what was started is on disk; an error of a background save surfaces here at the latest."""
        if self._manager is not None:
            self._manager.wait_until_finished()
            self._manager.close()
