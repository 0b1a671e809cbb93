"""Checkpoints: parameters, the rest of the state, and the run's own facts, under one step, written behind the training.

Everything is written into a temporary folder, digests of all files last, and renamed when all is there: a step that exists is
whole, or was damaged in place, which its digests tell. A save that fails costs its interval and nothing else.
"""

import contextlib
import copy
import os
import shutil
import sys
import threading
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import jax
import orbax.checkpoint as ocp

from pretrainx.core.errors import InputError, Interrupted, SaveFailed
from pretrainx.core.logs import log
from pretrainx.models.skeleton import Params
from pretrainx.parallel.multihost import is_first, sum_over_processes
from pretrainx.train import digests, loss_scale
from pretrainx.train.guards import faults
from pretrainx.train.state import State, shapes_by_path

ITEMS = ("params", "rest", "facts")
UNFINISHED = "*.orbax-checkpoint-tmp*"
POLL_S = 0.05  # between two looks at a save under way
QUARANTINE = "damaged_checkpoints"  # in the run's folder
ASIDE = "set_aside_checkpoints"  # what tools/train.py --rewind_to moved


class Checkpoints:
    """The folder `checkpoints/` of a run. `keep` last ones stay, and every `keep_every`-th step for good."""

    def __init__(self, folder: Path, keep: int = 2, keep_every: int = 0, read_only: bool = False):
        self.folder = folder.resolve()
        self.keep, self.keep_every, self.read_only = keep, keep_every, read_only
        self.failed = 0  # saves that came to nothing
        self.committed = 0  # the newest step that is surely on disk; 0: none
        self._saving: int | None = None  # the step of the save under way
        self._error: SaveFailed | None = None  # of the last save, if that failed
        self._broken: BaseException | None = None  # what went wrong in this process's part of a save, of several processes
        self._whole: set[int] = set()  # steps whose digests were compared
        if not read_only and is_first():
            self.folder.mkdir(parents=True, exist_ok=True)
            self._remove_unfinished()  # of a run that was killed while saving
        # The first process makes the folder; another must not conclude from being early that there is none.
        self._manager = self._open() if not read_only or self.folder.exists() else None

    def _open(self) -> ocp.CheckpointManager:
        # What is kept is decided in `_remove_old`: only after a commit, and never a folder that is half removed.
        several = ocp.AsyncOptions(barrier_sync_fn=self._barrier(ocp.multihost.get_barrier_sync_fn())) if jax.process_count() > 1 else None
        options = ocp.CheckpointManagerOptions(
            max_to_keep=None, read_only=self.read_only, create=not self.read_only, temporary_path_class=_path_class(self),
            async_options=several,
        )  # fmt: skip
        return ocp.CheckpointManager(self.folder, options=options, item_names=ITEMS)

    def _barrier(self, wait: Callable[..., None]) -> Callable[..., None]:
        """The library's barrier, at which a process whose part of a save has failed does not wait.

        The library comes to it in a `finally`, and would wait for the others, which wait for this one, until its timeout of 20 minutes.
        """

        def barrier(*, key: str, timeout_ms: int) -> None:
            # The main thread may well come here while it handles something else.
            if (error := sys.exc_info()[1]) is not None and threading.current_thread() is not threading.main_thread():
                self._broken = error
                raise error
            wait(key=key, timeout_ms=timeout_ms)

        return barrier

    def latest(self) -> int | None:
        """The newest step whose files are as they were written. Damaged newer ones are said, and put aside unless read only.

        Raises:
          InputError: there are checkpoints, and all are damaged.
        """
        if self._manager is None:
            return None
        step, moved = self._newest_whole() if is_first() else (0, False)
        step, moved = sum_over_processes(step, 64), bool(sum_over_processes(int(moved), 8))  # the first process decides
        if moved:
            self._manager.reload()
        self._whole.add(step - 1)
        self.committed = max(step - 1, 0)
        return step - 1 if step else None

    def _newest_whole(self) -> tuple[int, bool]:
        """(the step plus one, or 0; whether a damaged one was put aside)."""
        steps = sorted(self.steps(), reverse=True)
        found, wrong = digests.first_whole(self.folder, steps)
        if found is None and wrong:
            step, what = next(iter(wrong.items()))
            raise InputError(
                f"{self.folder}: every checkpoint is damaged ({', '.join(map(str, wrong))}; of step {step}, {what}); "
                "bring back a copy of one, or use another --workdir to begin anew"
            )
        for step, what in wrong.items():
            place = "" if self.read_only else f"; put aside in {self._quarantine(step)}"
            log(f"warning: the checkpoint of step {step} is damaged: {what}{place}; step {found} is used")
        if found is not None and not digests.has_digests(self.folder / str(found)):
            log(f"warning: the checkpoint of step {found} has no digests (an older version wrote it): it is used unchecked")
        return 0 if found is None else found + 1, bool(wrong) and not self.read_only

    def _quarantine(self, step: int) -> Path:
        return move(self.folder, step, QUARANTINE)

    def steps(self) -> list[int]:
        """Committed steps, oldest first, damaged or not."""
        there = self.folder.iterdir() if self.folder.exists() else ()
        return sorted(int(path.name) for path in there if path.name.isascii() and path.name.isdecimal() and path.is_dir())

    def save(self, state: State, step: int, facts: dict[str, Any]) -> None:
        """Starts the save; returns when the arrays are copied to the host, long before they are on disk.

        A save that fails, now or later, is logged and counted (`collect`), and the one before stays.
        """
        faults.reached("before_save")
        self.collect(wait=True)
        assert self._manager is not None
        facts = copy.deepcopy(facts)  # it is written behind the training, which goes on to change what it was given
        rest = {"step": state.step, "opt_state": state.opt_state, "skipped": state.skipped, "skipped_in_a_row": state.skipped_in_a_row}
        self._error = None
        try:
            self._manager.save(
                step,
                args=ocp.args.Composite(
                    params=ocp.args.StandardSave(state.params), rest=ocp.args.StandardSave(rest), facts=ocp.args.JsonSave(facts)
                ),
                custom_metadata=digests.MARK,
            )
        except Interrupted:
            raise  # a second signal, not a failure
        except Exception as error:
            self._give_up(step, error)
            return
        self._saving = step
        faults.reached("copied")

    def collect(self, wait: bool = False) -> bool:
        """Whether the save under way has come to nothing, which is said and counted; call it now and then."""
        if self._saving is None or self._manager is None:
            return False
        if jax.process_count() > 1:
            # The whole answer costs a barrier, which only a save or the end of the run may have; what went wrong in this process
            # is known here.
            while wait and self._broken is None and self._manager.is_saving_in_progress():
                time.sleep(POLL_S)
            if self._broken is not None:
                self._give_up(self._saving, self._broken)
            if not wait:
                return False
        if not wait and self._manager.is_saving_in_progress():
            return False
        step, self._saving = self._saving, None
        try:
            self._manager.wait_until_finished()
        except Interrupted:
            raise
        except Exception as error:
            self._give_up(step, error)
            return True
        self.committed = step
        return False

    def _give_up(self, step: int, error: BaseException) -> None:
        """After a failed save: room is made for the next one, and the manager forgets it.

        Raises:
          SaveFailed: there are other processes. They may have saved and no longer agree with this one, so all end (guards/watchdog.py).
        """
        self.failed += 1
        reason = " ".join(str(error).split())[:300] or type(error).__name__
        there = self.steps()
        kept = f"the checkpoint of step {there[-1]} is whole" if there else "there is no checkpoint yet"
        self._error = SaveFailed(
            f"the checkpoint of step {step} could not be saved ({reason}); {kept}; run the same command again to go on"
        )
        if jax.process_count() > 1:
            raise self._error from error
        log(f"warning: SAVE FAILED ({self.failed} so far): step {step}: {reason}; {kept}, the run goes on and saves at the next interval")
        old, self._manager = self._manager, None
        try:
            if old is not None:
                old.close()
        except Exception as again:  # its threads are over; what they left is in `error`
            log(f"  and while closing: {type(again).__name__}")
        self._remove_unfinished()
        self._manager = self._open()

    def _remove_unfinished(self) -> None:
        for leftover in self.folder.glob(UNFINISHED):
            shutil.rmtree(leftover, ignore_errors=True)

    def _remove_old(self) -> None:
        """Removes what need not be kept, after a commit. Renamed first: a kill in the middle leaves no half of a step."""
        for step in self.steps()[: -self.keep]:
            if self.keep_every and step % self.keep_every == 0:
                continue
            doomed = self.folder / f"{step}.orbax-checkpoint-tmp-old"
            try:
                (self.folder / str(step)).rename(doomed)
            except OSError as error:
                log(f"warning: the old checkpoint of step {step} cannot be removed: {error}")
                continue
            faults.reached("removing")
            shutil.rmtree(doomed, ignore_errors=True)
        faults.reached("removed")

    def facts(self, step: int) -> dict[str, Any]:
        """What the run wrote beside the arrays of a step."""
        try:
            return self._restore(step, facts=ocp.args.JsonRestore())["facts"]
        except (ValueError, OSError, KeyError, RecursionError) as error:  # of a checkpoint without digests: others were compared
            raise InputError(f"{self.folder}: the facts of step {step} cannot be read: {type(error).__name__}: {error}") from None

    def optimizer_shapes(self, step: int) -> dict[str, tuple[int, ...]]:
        """{path: shape} of the optimizer's arrays at a step."""
        self._require_whole(step)
        with contextlib.closing(ocp.PyTreeCheckpointHandler()) as handler:
            return shapes_by_path(handler.metadata(self.folder / str(step) / "rest").tree["opt_state"])

    def restore(self, step: int, abstract: State, shardings: State) -> State:
        """The state of a step, on whatever mesh the shardings say; a loss scale (float16) begins anew, or is left behind."""
        like = jax.tree.map(lambda x, s: jax.ShapeDtypeStruct(x.shape, x.dtype, sharding=s), abstract, shardings)
        opt_state = loss_scale.as_stored(like.opt_state, self.optimizer_shapes(step), shardings.step)
        rest = {"step": like.step, "opt_state": opt_state, "skipped": like.skipped, "skipped_in_a_row": like.skipped_in_a_row}
        found = self._restore(step, params=ocp.args.StandardRestore(like.params), rest=ocp.args.StandardRestore(rest))
        found["rest"]["opt_state"] = loss_scale.as_wanted(found["rest"]["opt_state"], like.opt_state)
        return State(params=found["params"], **found["rest"])

    def restore_params(self, step: int, abstract: Params, shardings: Params) -> Params:
        like = jax.tree.map(lambda x, s: jax.ShapeDtypeStruct(x.shape, x.dtype, sharding=s), abstract, shardings)
        return self._restore(step, params=ocp.args.StandardRestore(like))["params"]

    def _require_whole(self, step: int) -> None:
        there = ", ".join(map(str, self.steps())) or "none"
        if step not in self.steps() or self._manager is None:
            raise InputError(f"{self.folder}: no checkpoint of step {step}; those there: {there}")
        if step not in self._whole and (what := digests.problem(self.folder / str(step))):
            raise InputError(f"{self.folder}: the checkpoint of step {step} is damaged: {what}; those there: {there}")
        self._whole.add(step)

    def _restore(self, step: int, **items: Any) -> Any:
        self._require_whole(step)
        assert self._manager is not None
        return self._manager.restore(step, args=ocp.args.Composite(**items))

    def close(self) -> None:
        """Waits until what was started is on disk.

        Raises:
          SaveFailed: the last save came to nothing.
        """
        self.collect(wait=True)
        if self._manager is not None:
            self._manager.close()
        if self._error is not None:
            raise self._error


def move(folder: Path, step: int, name: str) -> Path:
    """Moves a checkpoint into a folder beside, and gives its new place; nothing is ever overwritten there."""
    places = (folder.parent / name / (str(step) + (f".{n}" if n else "")) for n in range(1 << 20))
    place = next(p for p in places if not p.exists())
    place.parent.mkdir(exist_ok=True)
    (folder / str(step)).rename(place)
    return place


def rewind(folder: Path, step: int) -> list[int]:
    """The steps whose checkpoints were put aside, so that the run goes on from the one of `step` (0: from its start).

    Raises:
      InputError: there is no checkpoint of that step, or it is damaged.
    """
    checkpoints = Checkpoints(folder, read_only=True)
    there = checkpoints.steps()
    if step and step not in there:
        raise InputError(f"--rewind_to {step}: no checkpoint of that step in {folder}; accepted: {', '.join(map(str, [0, *there]))}")
    if step and (what := digests.problem(folder / str(step))):
        raise InputError(f"--rewind_to {step}: that checkpoint is damaged: {what}")
    newer = [other for other in there if other > step]
    for other in reversed(newer):  # the newest first: killed here, what is left is a run that stands earlier, not one with a gap
        log(f"the checkpoint of step {other} is put aside in {move(folder, other, ASIDE)}")
    return newer


def _path_class(checkpoints: Checkpoints) -> type[ocp.path.atomicity.AtomicRenameTemporaryPath]:
    """The library's temporary folder, which writes digests before it becomes a step, and removes old steps after that."""

    class Digested(ocp.path.atomicity.AtomicRenameTemporaryPath):
        async def finalize(self) -> None:
            if self.get_final().name in ITEMS:  # its items are such folders too
                await super().finalize()
                faults.reached("item_written")
                return
            faults.reached("before_digests")
            digests.write(Path(os.fspath(self.get())))
            faults.reached("before_commit")
            await super().finalize()
            faults.reached("committed")
            checkpoints._remove_old()

    return Digested
