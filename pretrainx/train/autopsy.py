"""The autopsy of a step: replayed from the checkpoint before it, row by row, with the documents that each row is made of.

A row's loss and gradient are its own parts of the batch's: they add up to what the step computed, whatever the mixture.
"""

import json
import math
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax

from pretrainx.core import sections
from pretrainx.core.errors import InputError
from pretrainx.core.logs import log, progress
from pretrainx.data import ledger, skips
from pretrainx.data.ledger import Piece, Row
from pretrainx.data.loader import batches, open_mixture
from pretrainx.data.skips import Skips
from pretrainx.models.skeleton import Params
from pretrainx.objectives.interface import Features
from pretrainx.objectives.losses import by_term
from pretrainx.parallel import mesh, multihost
from pretrainx.train import build, curves, resume
from pretrainx.train import experiment as experiments
from pretrainx.train.build import Program
from pretrainx.train.checkpoint import Checkpoints
from pretrainx.train.experiment import Experiment
from pretrainx.train.guards import spikes
from pretrainx.train.guards.spikes import Spikes
from pretrainx.train.loop import first_state
from pretrainx.train.state import State
from pretrainx.train.step import term_scales
from pretrainx.train.trained import saved_config

LEAST_SIGMA = 0.01  # of the median: as in train/guards/spikes.py, for the few rows of a batch


@dataclass(frozen=True)
class Part:
    """A document's piece of a row; its loss is the mean of its predicted tokens, None where it cannot be told apart."""

    piece: Piece
    loss: float | None


@dataclass(frozen=True)
class Finding:
    """One row of the step. `loss` is the row's own mean (nats), `share` what it adds to the batch's, `gradient` the norm of its part."""

    row: Row
    loss: float
    share: float
    gradient: float
    deviations: float  # robust standard deviations above the median row: of the loss or of the gradient, what is more
    parts: tuple[Part, ...]

    def to_json(self) -> dict[str, Any]:
        row, pieces = self.row, [(part.piece, part.loss) for part in self.parts]
        named: dict[str, Any] = {name: getattr(row, name) for name in ("row", "number", "source", "epoch", "window")}
        named |= {name: getattr(self, name) for name in ("loss", "share", "gradient", "deviations")}
        return named | {"documents": [{"id": p.id, "origin": p.origin, "start": p.start, "end": p.end, "loss": loss} for p, loss in pieces]}


@dataclass(frozen=True)
class Autopsy:
    """A replayed step; `findings` begin with the row that stands out most."""

    folder: Path
    step: int
    base: int  # the checkpoint that it was replayed from; 0: the run's start
    loss: float
    gradient: float
    limit: float  # above which the loss is a spike
    recorded: float | None  # the loss that the run itself wrote down for this step
    history: dict[int, float]  # losses of the steps before, as the run logged and the replay computed them
    findings: tuple[Finding, ...]

    def standing_out(self, deviations: float) -> tuple[Finding, ...]:
        """Rows that are so far from the others."""
        return tuple(f for f in self.findings if f.deviations > deviations)


def recorded_spikes(folder: Path) -> dict[int, float]:
    """{step: loss} of the spikes that a run wrote down, in their order."""
    path, found = folder / spikes.JOURNAL, {}
    for line in path.read_text(encoding="utf-8", errors="replace").splitlines() if path.exists() else []:
        try:
            row = json.loads(line)
            found[int(row["step"])] = float(row["loss"])
        except (ValueError, KeyError, TypeError):  # a torn line
            continue
    return found


def examine(folder: Path, step: int, parts_of: int = 8) -> Autopsy:
    """The autopsy of a step (counted from 1) of a run. The `parts_of` rows that stand out most are told apart by document.

    It runs on the run's own mesh where there are as many devices, else on one: then numbers agree but for the order of float32 sums.

    Raises:
      InputError: the folder is no run's, or its data cannot be read.
    """
    experiment = on_these_devices(experiments.load(saved_config(folder)))
    mixture = open_mixture(experiment.data, "train")
    checkpoints = Checkpoints(folder / "checkpoints", read_only=True)
    base = max((s for s in checkpoints.steps() if s < step), default=0)
    facts = resume.facts(checkpoints, base) if base else resume.START
    left_out: Skips = facts["skip_rows"]
    if experiment.train.skip_rows:
        left_out = left_out.with_rows(skips.read(experiment.train.skip_rows), base * experiment.train.batch_size)
    mixture = replace(mixture, skips=left_out)
    program, builder = build.from_mixture(experiment, mixture)
    if not 1 <= step <= program.lengths.steps:
        raise InputError(f"--step {step}: the run has steps 1 to {program.lengths.steps}")
    state = checkpoints.restore(base, program.abstract_state, program.state_shardings) if base else first_state(program)
    past = spikes.restored(replace(experiment.train, spike_policy="log"), facts, None)
    log(f"replaying {folder} from step {base} to {step}")
    history = logged_losses(folder, step)
    compiled, batch_size = program.compile_train(), experiment.train.batch_size
    rows = np.arange(batch_size)
    reader = batches(builder, batch_size=batch_size, local_rows=rows, start=base, stop=step, prefetch=2, workers=0)
    for batch in progress(reader, step - base, "replay", "steps"):
        features = on_device(program, batch.features, past)
        if batch.step + 1 == step:
            measured = measure(program, state, batch.features)
            limit = past.limit
        state, metrics = compiled(state, features)
        loss = float(metrics["loss"])
        if batch.step + 1 < step:
            history[batch.step + 1] = loss
            past.observe(batch.step + 1, loss)
    trail = ledger.describe_step(mixture, step - 1, batch_size)
    deviations = np.maximum(robust(measured["loss"]), robust(measured["gradient"]))
    order = np.argsort(-deviations, kind="stable")
    findings = []
    for place, i in enumerate(order.tolist()):
        row = trail.rows[i]
        parts = [Part(piece, None) for piece in row.documents]
        if place < parts_of:
            parts = told_apart(measured["own_loss"], row, mixture.source(row.source).objective, batch.features, i)
        own = {name: float(measured[name][i]) for name in ("loss", "share", "gradient")}
        findings.append(Finding(row, deviations=float(deviations[i]), parts=tuple(parts), **own))
    recorded, norm = recorded_spikes(folder).get(step), float(metrics["grad_norm"])
    return Autopsy(folder, step, base, loss, norm, limit, recorded, history, tuple(findings))


def on_these_devices(experiment: Experiment) -> Experiment:
    """The experiment, on one device where its own mesh does not fit those that are here."""
    try:
        mesh.make(experiment.mesh)
    except InputError:
        log("the run's mesh does not fit the devices that are here: replayed on one")
        return replace(experiment, mesh=sections.Mesh(data=1), layout="dp")
    return experiment


def on_device(program: Program, features: Features, past: Spikes) -> dict[str, jax.Array]:
    rows = len(features["objective"])
    if spikes.LIMIT in program.batch_spec:
        features = features | spikes.limit_feature(past, rows)
    return multihost.to_global(features, np.arange(rows), rows, program.batch_shardings)


def logged_losses(folder: Path, step: int) -> dict[int, float]:
    """{step: loss} of the run's log before a step: means of a report's steps."""
    path = folder / "metrics.jsonl"
    logged = curves.read(path).get("train/loss", {}) if path.exists() else {}
    return {at: loss for at, loss in logged.items() if at < step}


def measure(program: Program, state: State, features: Features) -> dict[str, Any]:
    """Of each row: its own mean loss, what it adds to the batch's loss, and the norm of its part of the gradient.

    Rows go one by one, each as often as the mesh cuts a batch, so that any mesh takes them; without dropout, as in evaluation.
    `own_loss` is `features of one row -> its own mean loss`.
    """
    skeleton, objectives, partitioner = program.skeleton, program.objectives, program.partitioner
    scales, copies = term_scales(objectives, program.experiment.train.loss_weights), partitioner.batch_shards
    shardings = program.batch_shardings

    def weights_of(batch: dict[str, jax.Array]) -> dict[str, jax.Array]:
        return by_term(objectives, lambda objective, rows: objective.weights(rows), batch)

    def share(params: Params, batch: dict[str, jax.Array], weights: dict[str, jax.Array]) -> tuple[jax.Array, jax.Array]:
        """(part of the batch's loss, own mean loss) of `copies` equal rows."""
        outputs = skeleton.merge(params)(batch)
        found = by_term(objectives, lambda objective, rows: objective.loss(outputs, rows), batch)
        divided = lambda by: sum(scales[key] * loss.total / jnp.where(by[key] > 0, by[key], 1.0) for key, loss in found.items())  # noqa: E731
        return jnp.asarray(divided(weights)) / copies, jnp.asarray(divided(weights_of(batch)))

    def all_of(params: Params, batch: dict[str, jax.Array], weights: dict[str, jax.Array]) -> tuple[jax.Array, jax.Array, jax.Array]:
        (part, own), gradient = jax.value_and_grad(share, has_aux=True)(params, batch, weights)
        return part, own, optax.tree.norm(gradient)

    def copied(row: Features) -> dict[str, jax.Array]:
        wide = {name: np.repeat(array[None], copies, axis=0) for name, array in row.items()}
        return jax.device_put(wide, {name: shardings[name] for name in wide})

    count = len(features["objective"])
    whole = {name: shardings[name] for name in features}
    weights = jax.jit(weights_of, out_shardings=partitioner.replicated)(jax.device_put(features, whole))
    jitted, forward = jax.jit(all_of, out_shardings=partitioner.replicated), jax.jit(share, out_shardings=partitioner.replicated)
    found = [jitted(state.params, copied({n: a[i] for n, a in features.items()}), weights) for i in progress(range(count), count, "rows")]
    part, own, gradient = (np.asarray([float(x) for x in column]) for column in zip(*found, strict=True))
    params = jax.tree.map(jnp.copy, state.params)  # the step uses the state up
    return {
        "share": part, "loss": own, "gradient": gradient,
        "own_loss": lambda row: float(forward(params, copied(row), weights)[1]),
    }  # fmt: skip


def told_apart(own_loss: Any, row: Row, objective: Any, features: Features, place: int) -> list[Part]:
    """The pieces of a row with the loss of each, where the objective's positions are those of the text."""
    whole = {name: array[place] for name, array in features.items()}
    found = []
    for piece in row.documents:
        loss = None
        if objective.aligned and "loss_weights" in whole:
            inside = np.zeros_like(whole["loss_weights"])
            inside[piece.first : piece.last] = whole["loss_weights"][piece.first : piece.last]
            loss = own_loss(whole | {"loss_weights": inside}) if inside.any() else None
        found.append(Part(piece, loss))
    return found


def robust(values: Sequence[float] | np.ndarray) -> np.ndarray:
    """Each value's distance above the median, in robust standard deviations; infinite of what is not finite.

    >>> robust([1.0, 2.0, 3.0, 4.0, 100.0]).round(2).tolist()
    [-1.35, -0.67, 0.0, 0.67, 65.43]
    """
    array = np.asarray(values, np.float64)
    finite = [float(x) for x in array if math.isfinite(x)]
    middle, sigma = spikes.spread(finite or [0.0], LEAST_SIGMA)
    return np.where(np.isfinite(array), (array - middle) / max(sigma, 1e-12), np.inf)


def skip_list(found: Sequence[Finding]) -> Skips:
    """The rows of these findings, as `train.skip_rows` takes them."""
    return skips.merged((f.row.number, f.row.number + 1) for f in found)
