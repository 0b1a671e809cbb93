"""The training loop, on one page: load, step, report, evaluate, save, in this order and nowhere else.

A checkpoint of step s holds everything after s batches; it is written after the evaluation of step s, so that a
resumed run neither repeats nor misses one. The loader needs no saving: its state is s.
"""

import json
import time
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager, nullcontext
from dataclasses import replace
from pathlib import Path
from typing import Any

import jax
import numpy as np

from pretrainx.core import files, logs
from pretrainx.core.chips import peak_flops
from pretrainx.core.errors import GuardStop, InputError, Interrupted
from pretrainx.core.logs import log
from pretrainx.data import skips
from pretrainx.data.loader import DIGEST_BITS, Batch, batches, open_mixture
from pretrainx.evaluate.perplexity import Evaluator
from pretrainx.parallel import multihost
from pretrainx.tasks import corpora
from pretrainx.train import build, curves, describe, resume, warm_start
from pretrainx.train import state as states
from pretrainx.train.build import Program
from pretrainx.train.checkpoint import Checkpoints
from pretrainx.train.experiment import Experiment
from pretrainx.train.guards import maintenance, recheck, spikes
from pretrainx.train.guards.signals import Signals
from pretrainx.train.guards.spikes import Rewind, Rewinds, Spikes
from pretrainx.train.guards.watchdog import Watchdog
from pretrainx.train.progress import Progress
from pretrainx.train.report import Reporter, evaluated, keep_until
from pretrainx.train.standing import Run, go_back, leave_out, stand_at
from pretrainx.train.state import State, shapes_by_path


def prepare(experiment: Experiment, folder: Path, allowed: Iterable[str] = ()) -> Run:
    """Everything that can fail cheaply, in order of cost: data, program, checkpoint; then the state itself."""
    mixture = open_mixture(experiment.data, "train")
    corpora.require_decontaminated(experiment.data, sorted({source.corpus for source in mixture.sources}))
    program, builder = build.from_mixture(experiment, mixture)
    experiment = program.experiment
    held_out = open_mixture(experiment.data, experiment.eval.split) if program.lengths.eval_every else None
    lengths = program.lengths
    checkpoints = Checkpoints(folder / "checkpoints", experiment.checkpoint.keep, lengths.keep_every)
    identity = {
        "model": program.skeleton.shapes(),
        "vocabulary": mixture.vocabulary.sha256 or mixture.vocabulary.kind,
        "data": mixture.data_sha256,
    }
    facts = {"identity": identity, "config": experiment.resolved(), "vocabulary": mixture.vocabulary.describe()}
    facts["config"] = json.loads(json.dumps(facts["config"]))  # tuples become lists, as they do on disk
    run = Run(program, builder, mixture, held_out, folder, checkpoints, facts, Spikes(experiment.train))
    latest = checkpoints.latest()
    saved = None
    if latest is not None:
        saved = resume.facts(checkpoints, latest)
        for line in resume.check(folder, saved, facts["config"], identity, allowed, experiment.defaults()):
            log(f"changed since the checkpoint: {line}")
        resume.check_optimizer(folder, checkpoints.optimizer_shapes(latest), shapes_by_path(program.abstract_state.opt_state))
    stand_at(run, latest or 0, saved)
    if experiment.train.skip_rows:
        leave_out(run, skips.read(experiment.train.skip_rows))
    return run


def to_device(program: Program, rows: np.ndarray, batch_size: int) -> Callable[[dict[str, np.ndarray]], dict[str, jax.Array]]:
    """Puts this process's rows of a batch (or more of its rows) onto its devices, as part of the global batch."""
    shardings = program.batch_shardings
    return lambda local: multihost.to_global(local, rows, batch_size, {name: shardings[name] for name in local})


def train(run: Run) -> dict[str, Any]:
    """Runs to the end (or to stop_at) and gives the closing numbers of `train --json`.

    Raises:
      Interrupted: after a signal, with all saved.
      GuardStop: too many non-finite steps in a row, with the last good state saved.
      SaveFailed: the last save came to nothing; those before it that failed were logged and counted.
    """
    if run.step >= run.program.lengths.stop_at:
        log(f"nothing to do: {run.folder} is at step {run.step} of {run.program.lengths.steps}; its results lie there")
    train = run.program.experiment.train
    progress, signals, rewinds = Progress(run.folder if multihost.is_first() else None, run.step), Signals(), Rewinds(train)
    with Watchdog(run.folder, train.watchdog_seconds, progress.where), maintenance.watched(signals.ask):
        while True:
            try:
                return stretch(run, progress, signals)
            except Rewind as spike:
                go_back(run, spike, rewinds)
            except GuardStop:
                run.checkpoints.collect(wait=True)  # a save under way is of a step that was good
                raise


def stretch(run: Run, progress: Progress, signals: Signals) -> dict[str, Any]:
    """As `train`, from the checkpoint that the run stands at.

    Raises:
      Rewind: the loss spiked, and the config wants to go back.
    """
    program, lengths, batch_size = run.program, run.program.lengths, run.program.experiment.train.batch_size
    experiment = program.experiment
    with logs_of(run) as reporter:
        run.compiled = run.compiled or describe.compile_and_say(program, run.mixture)
        advance = recheck.checked(run.compiled, program, experiment.train.recheck_every)
        if run.step:
            log(f"resuming {run.folder} at step {run.step} of {lengths.steps}")
            run.state = run.checkpoints.restore(run.step, program.abstract_state, program.state_shardings)
        else:
            run.state = first_state(program)
        rows = multihost.local_rows(program.partitioner.batch(), batch_size)
        put = to_device(program, rows, batch_size)
        score = scorer(run, reporter)
        if score and run.step and evaluation_owed(run):
            score(run.step)
        started, first_step = time.perf_counter(), run.step
        source: Iterator[Batch] = batches(
            run.builder, batch_size=batch_size, local_rows=rows, start=run.step, stop=lengths.stop_at,
            prefetch=experiment.data.prefetch, workers=experiment.data.workers,
            counted_rows=multihost.counted_rows(program.partitioner.batch(), batch_size),
        )  # fmt: skip
        reporter.restart_clock()
        progress.ready()
        metrics: dict[str, Any] = {}
        stopping = False
        with signals:
            while run.step < lengths.stop_at and not stopping:
                waiting = time.perf_counter()
                with progress.spent("data"):
                    batch = next_batch(run, source, reporter)
                waited = time.perf_counter() - waiting
                on_device = put(batch.features)
                jax.block_until_ready(metrics)  # at most one step runs while the next is prepared
                if spikes.LIMIT in program.batch_spec:  # which follows from the losses of all steps before
                    reporter.flush()
                    on_device |= put(spikes.limit_feature(run.spikes, len(rows)))
                run.state, metrics = advance(run.step + 1, run.state, on_device)
                run.step += 1
                run.rows_digest += batch.digest
                reporter.step(run.step, metrics, waited)
                if run.checkpoints.collect():
                    reporter.write(run.step, {"train/failed_saves": float(run.checkpoints.failed)})
                stopping = signals.agreed() or bad_steps(reporter) >= experiment.train.max_bad_steps
                if score and evaluation_due(run) and not stopping:  # a run that must stop now owes it to its resumption
                    with progress.spent("evaluate"):
                        score(run.step)
                if stopping or run.step == lengths.stop_at or (lengths.checkpoint_every and run.step % lengths.checkpoint_every == 0):
                    with progress.spent("save"):
                        save(run, reporter)
                    reporter.restart_clock()
                progress.stepped(run.step, run.checkpoints.committed)
            try:  # a signal while the last save is written is a second one, if it is not the first
                with progress.spent("save"):
                    run.checkpoints.close()
            finally:
                progress.stepped(run.step, run.checkpoints.committed, at_once=True)
        if (bad := bad_steps(reporter)) >= experiment.train.max_bad_steps:
            raise GuardStop(
                f"{bad} steps in a row were refused (a loss or gradient that is not finite, or a spike); the state before them is saved at "
                f"step {run.step}"
            )
        if stopping:
            raise Interrupted(f"{signals.caught or 'another process'} at step {run.step}; saved, run the same command again to go on")
        seconds = time.perf_counter() - started
    draw(run)
    return {
        "step": run.step,
        "loss": reporter.last.get("loss", run.loss),
        "tokens": run.step * batch_size * experiment.data.sequence_length,
        "seconds": seconds,
        "tokens_per_second": (run.step - first_step) * batch_size * experiment.data.sequence_length / max(seconds, 1e-9),
        "skipped": int(run.state.skipped),
        "spikes": run.spikes.count,
        "rows_left_out": len(run.mixture.skips),
        "params": program.skeleton.num_params,
        "state_sha256": states.sha256(run.state),
        "rows_sha256": total_rows(run),
        "workdir": str(run.folder),
    }


def next_batch(run: Run, source: Iterator[Batch], reporter: Reporter) -> Batch:
    """The next batch. Where the data cannot be read any more, a run of one process saves what it has learned before it ends."""
    try:
        return next(source)
    except InputError:
        if jax.process_count() == 1:
            run.checkpoints.collect(wait=True)
            if run.step and run.step not in run.checkpoints.steps():
                log(f"the data of step {run.step + 1} cannot be read; saving first")
                save(run, reporter)
                run.checkpoints.close()
        raise


def first_state(program: Program) -> State:
    """A fresh state, or one with the weights of the run that the config begins from."""
    state, spec = program.init_state(), program.experiment.config.init_from
    return replace(state, params=warm_start.parameters(program, state.params, spec)) if spec else state


def bad_steps(reporter: Reporter) -> int:
    """Refused steps in a row, as of the last step whose metrics were read."""
    return int(reporter.last.get("skipped_in_a_row", 0))


def evaluator(run: Run) -> Evaluator:
    """`(params) -> numbers` of the run's held-out split, as its config wants it evaluated."""
    assert run.held_out is not None
    experiment = run.program.experiment
    rows, stride = experiment.eval.max_rows, experiment.eval.stride
    return Evaluator(run.program.skeleton, run.held_out, experiment.eval_batch_size, rows, stride=stride)


def scorer(run: Run, reporter: Reporter) -> Callable[[int], None] | None:
    """`score(step)`: evaluates the run's state and reports it; None where the config asks for no evaluation."""
    if run.held_out is None:
        return None
    evaluate = evaluator(run)

    def score(step: int) -> None:
        reporter.flush()
        assert run.state is not None
        found = evaluate(run.state.params)
        log_evaluation(step, found)
        reporter.write(step, found)
        reporter.restart_clock()

    return score


def evaluation_due(run: Run) -> bool:
    """Whether the config wants an evaluation after the run's step."""
    lengths = run.program.lengths
    return bool(lengths.eval_every) and (run.step % lengths.eval_every == 0 or run.step == lengths.steps)


def evaluation_owed(run: Run) -> bool:
    """Whether the step that a run goes on from was due and not evaluated: a signal came, or the config is another."""
    owed = multihost.is_first() and evaluation_due(run) and not evaluated(run.folder / "metrics.jsonl", run.step)
    return bool(multihost.sum_over_processes(int(owed), 8))  # only the first process has the file


def total_rows(run: Run) -> str:
    """The hash over every row fed since step 0, the same however many processes fed them."""
    return f"{multihost.sum_over_processes(run.rows_digest, DIGEST_BITS):064x}"


def save(run: Run, reporter: Reporter) -> None:
    reporter.flush()
    assert run.state is not None
    facts = run.facts | {"pending": reporter.pending, "rows_sha256": total_rows(run), "loss": reporter.last.get("loss", run.loss)}
    facts |= run.spikes.facts() | {"skip_rows": run.mixture.skips.to_json()}
    run.checkpoints.save(run.state, run.step, facts)


def log_evaluation(step: int, found: dict[str, float]) -> None:
    """One line: bits per byte where there are any, else the loss."""
    for name, heading in (("bits_per_byte", "bits per byte"), ("loss", "loss")):
        shown = {k.removesuffix("/loss").removesuffix("/bits_per_byte"): v for k, v in found.items() if k.endswith(f"/{name}")}
        if name == "loss":
            shown = {k: v for k, v in shown.items() if f"{k}/bits_per_byte" not in found}
        if shown:
            log(f"step {step} evaluation, {heading}: " + ", ".join(f"{k.removeprefix('eval/')} {v:.4f}" for k, v in shown.items()))


def draw(run: Run) -> None:
    """The curves, on the first process. A picture that fails never spoils a run."""
    if multihost.is_first():
        try:
            curves.draw(run.folder / "metrics.jsonl", run.folder / "curves.png")
        except Exception as error:
            log(f"warning: curves.png was not drawn: {error}")


@contextmanager
def logs_of(run: Run) -> Iterator[Reporter]:
    """The run's folder files and its reporter; only the first process writes."""
    program, first = run.program, multihost.is_first()
    experiment = program.experiment
    if first:
        run.folder.mkdir(parents=True, exist_ok=True)
        keep_until(run.folder / "metrics.jsonl", run.step)
        files.write_json(run.folder / "config.json", run.facts["config"])
        run.mixture.vocabulary.save(run.folder)
        files.write_json(run.folder / "manifest.json", describe.manifest(run.mixture, run.facts))
    devices = program.partitioner.mesh.devices.flat
    peak = peak_flops(devices[0].device_kind)
    reporter = Reporter(
        run.folder if first else None, every=program.lengths.log_every, total=program.lengths.steps,
        tokens_per_step=program.tokens_per_step,
        flops_per_step=program.flops_per_step,
        peak=peak * len(devices) if peak else None, tensorboard=experiment.log.tensorboard, watch=run.spikes.observe,
    )  # fmt: skip
    reporter.pending = list(run.pending)
    with logs.tee(run.folder / "log.txt") if first else nullcontext():
        try:
            yield reporter
        finally:
            reporter.close()
