"""A grid of fine-tuning runs: seeds by learning rates, each scored by its task's own metrics; means and intervals.

The learning rate is chosen on one split and reported on another, where there is one.
"""

import json
import math
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import scipy.stats

from pretrainx.core import files
from pretrainx.core.config import Config
from pretrainx.core.errors import InputError, nearest
from pretrainx.core.logs import log
from pretrainx.core.sections import Corpus
from pretrainx.data.mixture_spec import parse_mixture
from pretrainx.evaluate import labelled
from pretrainx.tasks import corpora
from pretrainx.tasks.labelled import scoring
from pretrainx.tasks.labelled.task import Example, Task
from pretrainx.train import experiment as experiments
from pretrainx.train import loop, probe
from pretrainx.train.loop import Run

Metrics = dict[str, float]


@dataclass(frozen=True)
class Target:
    """The labelled corpus that a grid scores on, and trains on, with others beside it or not."""

    name: str
    objective: str
    corpus: Corpus
    task: Task

    def examples(self, split: str) -> list[Example]:
        return corpora.read_examples(self.name, self.corpus, split)


@dataclass(frozen=True)
class Cell:
    """One run of the grid: {split: metrics}."""

    peak_lr: float
    seed: int
    scores: dict[str, Metrics]


def target_of(config: Config, name: str = "") -> Target:
    """The labelled corpus of this name in a config's mixture; without a name, the only one.

    Raises:
      InputError: there is none, or several and no name, or none of the name.
    """
    data = experiments.load(config).data
    known = corpora.known(data)
    named = {corpus: objective for corpus, objective in parse_mixture(data) if corpus in known and known[corpus].task}
    if not named:
        raise InputError("data.mixture: a grid is of a labelled corpus, and there is none; add one")
    if name and name not in named:
        raise InputError(f"--corpus {name}: no labelled corpus of data.mixture; {nearest(name, named)}")
    if not name and len(named) > 1:
        raise InputError(f"data.mixture has {len(named)} labelled corpora, {', '.join(named)}; say with --corpus which one is scored")
    name = name or next(iter(named))
    corpus = corpora.get(name, data)
    return Target(name, named[name], corpus, corpora.task_of(name, corpus))


def with_values(config: Config, peak_lr: float, seed: int) -> Config:
    """The config of one run; the seed is the head's, the order's and the objective's."""
    values = {name: dict(section) if isinstance(section, dict) else section for name, section in config.values.items()}
    values.setdefault("optim", {})["peak_lr"] = peak_lr
    values.setdefault("train", {})["seed"] = seed
    values["data"]["seed"] = seed
    return Config(f"{config.name}-lr{peak_lr:g}-seed{seed}", config.file, values, values, inherited=config.inherited)


def grid(
    config: Config, folder: Path, seeds: Sequence[int], peak_lrs: Sequence[float], splits: Sequence[str], target: Target
) -> list[Cell]:
    """All runs, scored on the target's splits. What is finished already is not run again, if its config is the same.

    A trunk that is frozen (optim.trainable = ("class_head/*",)) runs once, and all heads are fitted on its features.
    """
    if experiments.load(config).optim.trainable == probe.TRAINABLE:
        return probes(config, folder, seeds, peak_lrs, splits, target)
    return [Cell(lr, seed, one(with_values(config, lr, seed), folder, splits, target)) for lr in peak_lrs for seed in seeds]


def one(config: Config, folder: Path, splits: Sequence[str], target: Target) -> dict[str, Metrics]:
    """{split: metrics} of one run, which is trained if it has not been."""
    own = folder / config.name
    done, wanted = own / "scores.json", {"config": config.resolved(), "splits": list(splits), "corpus": target.name}
    if done.exists():
        found = json.loads(done.read_text())
        if found["made_from"] == json.loads(json.dumps(wanted)):
            scores: dict[str, Metrics] = found["scores"]
            return scores
    run = loop.prepare(experiments.load(config), own)
    loop.train(run)
    scores = scored(run, splits, target)
    files.write_json(done, {"made_from": wanted, "scores": scores})
    return scores


def scored(run: Run, splits: Sequence[str], target: Target) -> dict[str, Metrics]:
    assert run.state is not None
    program = run.program
    objective, found = program.objectives[target.objective], {}
    for split in splits:
        examples = target.examples(split)
        made = labelled.predict(
            program.skeleton, run.state.params, program.vocabulary, objective, target.task, target.corpus.form, examples,
            program.experiment.eval_batch_size,
        )  # fmt: skip
        found[split] = scoring.score(target.task, target.corpus.form, examples, made)
    return found


def probes(
    config: Config, folder: Path, seeds: Sequence[int], peak_lrs: Sequence[float], splits: Sequence[str], target: Target
) -> list[Cell]:
    """As `grid` for a frozen trunk: its features once, then all heads side by side."""
    loaded = experiments.load(config)
    if len(parse_mixture(loaded.data)) > 1:
        raise InputError(
            f"data.mixture: heads on a frozen trunk (optim.trainable) are fitted on one corpus; leave {target.name!r} alone there"
        )
    run = loop.prepare(loaded, folder / config.name)
    program, experiment = run.program, run.program.experiment
    objective = program.objectives[target.objective]
    params = loop.first_state(program).params
    log(f"{target.name}: the trunk is frozen, so its features are computed once for {len(seeds) * len(peak_lrs)} heads")
    batch_size = experiment.eval_batch_size

    def features(split: str) -> tuple[list[Example], probe.Features]:
        examples = target.examples(split)
        records = labelled.records_of(target.task, target.corpus.form, examples, program.vocabulary)
        return examples, probe.features(program.skeleton, params, objective, records, batch_size, f"{target.name} {split}")

    runs = [(lr, seed) for lr in peak_lrs for seed in seeds]
    recipe = probe.Recipe(
        tuple(seed for _, seed in runs), tuple(lr for lr, _ in runs), program.lengths.steps, experiment.train.batch_size,
        program.lengths.warmup, experiment.optim,
    )  # fmt: skip
    head = probe.Head(program.skeleton.config)
    fitted = head.fit(features("train")[1], recipe)
    scores: list[dict[str, Metrics]] = [{} for _ in runs]
    for split in splits:
        examples, data = features(split)
        for own, outputs in zip(scores, head.predict(fitted, data), strict=True):
            made = [scoring.Prediction(outputs=row) for row in outputs]
            own[split] = scoring.score(target.task, target.corpus.form, examples, made)
    return [Cell(lr, seed, own) for (lr, seed), own in zip(runs, scores, strict=True)]


def headline(metrics: Metrics) -> float:
    """What a leaderboard counts of a task: the mean of its metrics (of pearson, spearman and their mean that is their mean)."""
    return float(np.mean([value for name, value in metrics.items() if name != "items"]))


def mean_interval(values: Sequence[float]) -> tuple[float, float]:
    """(mean, half of the 95 % interval of the mean by Student's t); nan for the half of one value."""
    if len(values) < 2:
        return float(values[0]), math.nan
    spread = float(np.std(values, ddof=1)) / len(values) ** 0.5
    return float(np.mean(values)), float(scipy.stats.t.ppf(0.975, len(values) - 1)) * spread


def summary(cells: Sequence[Cell], choose: str, report: str) -> dict[str, Any]:
    """Means by learning rate, the rate that does best on `choose`, and what it has on `report`."""
    rates = list(dict.fromkeys(cell.peak_lr for cell in cells))
    rows = []
    for rate in rates:
        own = [cell for cell in cells if cell.peak_lr == rate]
        row: dict[str, Any] = {"peak_lr": rate, "seeds": [cell.seed for cell in own]}
        for split in dict.fromkeys((choose, report)):
            for metric in own[0].scores[split]:
                values = [cell.scores[split][metric] for cell in own]
                mean, half = mean_interval(values)
                row[f"{split}/{metric}"] = {"mean": mean, "half_interval": half, "values": values}
        row["chosen_by"] = float(np.mean([headline(cell.scores[choose]) for cell in own]))
        rows.append(row)
    best = max(rows, key=lambda row: row["chosen_by"])
    return {"choose": choose, "report": report, "rows": rows, "best_lr": best["peak_lr"], "best": best}
