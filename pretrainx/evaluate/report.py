"""Runs and checkpoints side by side: each task's metric with its interval, the best of them, and which are surely not as good."""

import math
import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from typing import Any

from pretrainx.core.errors import InputError
from pretrainx.evaluate import results
from pretrainx.evaluate.results import BETTER, Better, Comparison, Interval, Items, Result

Series = Mapping[int, float]  # value by step

# What a task is known by where no items say: the first of these that it has.
HEADLINES: dict[str, Better] = {"bits_per_byte": "low", "accuracy": "high", "loss": "low"}
NGRAM = re.compile(r"ngram_(\d+)/bits_per_byte")
ENDS = ("_se", "_low", "_high")


@dataclass(frozen=True)
class Run:
    """What a run's folder holds, read.

    config      its leaves by path: {"model.d_model": 256}
    parameters  how many; None: the folder does not say
    series      {metric: {step: value}} of its log, `smooth` the same of noisy ones, smoothed
    samples     (prompt, text that the model wrote on)
    """

    folder: str
    name: str
    config: Mapping[str, Any] = field(default_factory=dict)
    parameters: int | None = None
    versions: Mapping[str, str] = field(default_factory=dict)
    series: Mapping[str, Series] = field(default_factory=dict)
    smooth: Mapping[str, Series] = field(default_factory=dict)
    results: Sequence[Result] = ()
    samples: Sequence[tuple[str, str]] = ()

    @cached_property
    def steps(self) -> list[int]:
        """Steps of which any evaluation is known."""
        logged = {step for name, values in self.series.items() if name.startswith("eval/") for step in values}
        return sorted(logged | {result.step for result in self.results})


@dataclass(frozen=True)
class Column:
    """A run at one step."""

    run: Run
    step: int
    name: str

    @cached_property
    def results(self) -> list[Result]:
        """Those of the step, later ones last: where two have a number of one name, the later counts."""
        return sorted((r for r in self.run.results if r.step == self.step), key=lambda r: (r.created, r.name))

    @cached_property
    def items(self) -> dict[str, Items]:
        return {task: items for result in self.results for task, items in result.items.items()}

    @cached_property
    def metrics(self) -> dict[str, float]:
        """Those of the training log, over which results go."""
        found = {name: values[self.step] for name, values in self.run.series.items() if name.startswith("eval/") and self.step in values}
        for result in self.results:
            found |= result.metrics
        return found

    @cached_property
    def tokens(self) -> int | None:
        """Tokens trained on by this step, padding included."""
        if (logged := self.run.series.get("train/tokens", {}).get(self.step)) is not None:
            return int(logged)
        rows, length = (self.run.config.get(name) for name in ("train.batch_size", "data.sequence_length"))
        return self.step * rows * length if isinstance(rows, int) and isinstance(length, int) else None


@dataclass(frozen=True)
class Cell:
    """A task's metric in one column.

    interval      NaN ends where no items are kept
    items         how many; 0: the number is from the training log, or its evaluation kept none
    best          of its row; of one column none is
    against_best  this less the best, paired; None for the best itself, and where they cannot be compared
    """

    interval: Interval
    items: int
    best: bool = False
    against_best: Comparison | None = None


@dataclass(frozen=True)
class Row:
    """A task over all columns; None where a column has not this task. `note` says why values are not compared, if they are not."""

    task: str
    metric: str
    better: Better
    cells: list[Cell | None]
    note: str = ""
    reference: tuple[str, float] | None = None  # chance, or the best counted n-gram
    groups: Mapping[str, list[Interval | None]] = field(default_factory=dict)


@dataclass(frozen=True)
class Report:
    """All numbers of a report, as `--json` prints them and the page shows them."""

    columns: list[Column]
    rows: list[Row]

    @cached_property
    def runs(self) -> list[Run]:
        """Each once, in the columns' order."""
        return list({id(column.run): column.run for column in self.columns}.values())

    @cached_property
    def metrics(self) -> dict[str, list[float | None]]:
        """Every number of every column; the ends of intervals are beside their number, not here."""
        names = sorted({name for column in self.columns for name in column.metrics})
        plain = [n for n in names if not any(n.endswith(end) and n.removesuffix(end) in names for end in ENDS)]
        return {name: [column.metrics.get(name) for column in self.columns] for name in plain}


def build(columns: Sequence[Column], seed: int = 0) -> Report:
    """The comparison of these columns; `seed` is of the bootstrap, the same for all."""
    return Report(list(columns), [_row(task, columns, seed) for task in tasks_of(columns)])


def tasks_of(columns: Iterable[Column]) -> list[str]:
    """Names of all tasks, bits per byte first; terms of a loss are tasks too, groups and n-grams are not."""
    kept = {task: items for column in columns for task, items in column.items.items()}
    logged = set()
    for column in columns:
        for name in column.metrics:
            task, _, metric = name.removeprefix("eval/").rpartition("/")
            inside = any(task.startswith(f"{known}/") for known in kept)
            if metric in HEADLINES and task and not inside and not NGRAM.search(name):
                logged.add(task)

    def place(task: str) -> tuple[bool, bool, str]:
        ratio = kept[task].kind == "ratio" if task in kept else any(f"eval/{task}/bits_per_byte" in c.metrics for c in columns)
        return not ratio, task != "all", task

    return sorted(kept.keys() | logged, key=place)


def _row(task: str, columns: Sequence[Column], seed: int) -> Row:
    kept = [column.items.get(task) for column in columns]
    known = [items for items in kept if items]
    names = known[0].metric if known else next(n for n in HEADLINES if any(f"eval/{task}/{n}" in c.metrics for c in columns))
    better: Better = (known[0].better or BETTER[known[0].kind]) if known else HEADLINES[names]
    metric = f"eval/{task}/{names}"
    cells: list[Cell | None] = []
    for items, column in zip(kept, columns, strict=True):
        if items and items.metric == names:
            cells.append(Cell(results.interval(items, seed), len(items.ids)))
        elif metric in column.metrics:
            cells.append(Cell(Interval(column.metrics[metric], math.nan, math.nan), 0))
        else:
            cells.append(None)
    strides = {_stride(column, task) for column, cell in zip(columns, cells, strict=True) if cell}
    if len(strides) > 1:
        note = f"windows of unlike strides ({', '.join(f'{x:g}' for x in sorted(strides))}; 0: none): values are not of one context"
    else:
        cells, note = _judged(cells, kept, better, seed)
    groups: dict[str, list[Interval | None]] = {}
    own = [results.of_groups(items, seed) if items and items.metric == names else {} for items in kept]
    for group in sorted({group for found in own for group in found}):
        groups[group] = [found.get(group) for found in own]
    return Row(task, names, better, cells, note, _reference(task, names, columns), groups)


def _judged(cells: Sequence[Cell | None], kept: Sequence[Items | None], better: Better, seed: int) -> tuple[list[Cell | None], str]:
    """The cells with the best marked and the others compared with it, and why not where they are not.

    Numbers without items are compared with none: what they were measured on is not known to be the same.
    """
    there = [i for i, cell in enumerate(cells) if cell and math.isfinite(cell.interval.value)]
    sure = [i for i in there if (own := cells[i]) and own.items]
    places = sure or there
    if len(there) < 2 or len(places) < 2:
        return list(cells), ""
    sign = 1 if better == "high" else -1
    value = {i: cell.interval.value for i in places if (cell := cells[i])}
    best = max(places, key=lambda i: sign * value[i])
    found: dict[int, Comparison] = {}
    try:
        for i in sure:
            mine, theirs = kept[i], kept[best]
            if i != best and mine and theirs:
                found[i] = results.compare(mine, theirs, seed)
    except InputError as error:
        return list(cells), str(error)
    note = "" if sure else "from training logs: no items are kept, so nothing is known of the spread"
    judged = [
        cell and Cell(cell.interval, cell.items, i in value and value[i] == value[best], found.get(i)) for i, cell in enumerate(cells)
    ]
    return judged, note


def _stride(column: Column, task: str) -> float:
    """How far apart the windows were that a text was scored in (perplexity.py); 0: they did not overlap."""
    if task == "all":
        return max((value for name, value in column.metrics.items() if name.endswith("/stride")), default=0.0)
    return column.metrics.get(f"eval/{task}/stride", 0.0)


def _reference(task: str, metric: str, columns: Sequence[Column]) -> tuple[str, float] | None:
    """What a metric is measured against: chance for accuracies, the best counted n-gram for bits per byte."""
    for column in columns:
        if metric == "accuracy" and (chance := column.metrics.get(f"eval/{task}/chance")) is not None:
            return "chance", chance
        if metric == "bits_per_byte" and (best := ngram(column.metrics, task)):
            return best
    return None


def ngram(metrics: Mapping[str, float], task: str) -> tuple[str, float] | None:
    """("5-gram", bits per byte) of the best counted n-gram that was evaluated on this text."""
    prefix = f"eval/{task}/"
    found = [
        (value, int(match[1])) for name, value in metrics.items()
        if name.startswith(prefix) and (match := NGRAM.fullmatch(name.removeprefix(prefix)))
    ]  # fmt: skip
    return (f"{min(found)[1]}-gram", min(found)[0]) if found else None


def over_steps(run: Run, task: str, metric: str, seed: int = 0) -> tuple[dict[int, float], dict[int, tuple[float, float]]]:
    """({step: value}, {step: (low, high)}) of a run: what it logged, and over it what its evaluations found."""
    points = dict(run.series.get(f"eval/{task}/{metric}", {}))
    spread: dict[int, tuple[float, float]] = {}
    for step in sorted({result.step for result in run.results}):
        column = Column(run, step, run.name)
        items = column.items.get(task)
        if items and items.metric == metric:
            found = results.interval(items, seed)
            points[step] = found.value
            if math.isfinite(found.low):
                spread[step] = (found.low, found.high)
        elif math.isfinite(value := column.metrics.get(f"eval/{task}/{metric}", math.nan)):
            points[step] = value
    return dict(sorted(points.items())), spread


def differing(runs: Sequence[Run]) -> dict[str, list[Any]]:
    """{path: its value in each run} of all config leaves that are not the same in all runs."""
    names = sorted({name for run in runs for name in run.config})
    values = {name: [run.config.get(name) for run in runs] for name in names}
    return {name: found for name, found in values.items() if any(value != found[0] for value in found)}


def to_json(report: Report) -> dict[str, Any]:
    """The report as one object: columns, tasks with intervals, comparisons and groups, and all metrics."""

    def interval(found: Interval | None) -> dict[str, float] | None:
        return None if found is None else {"value": found.value, "low": found.low, "high": found.high}

    def comparison(found: Comparison | None) -> dict[str, Any] | None:
        if found is None:
            return None
        return {
            "difference": found.difference, "low": found.low, "high": found.high, "better": found.better,
            "items": found.items, "sure": found.sure,
        }  # fmt: skip

    def cell(found: Cell | None) -> dict[str, Any] | None:
        if found is None:
            return None
        known = {"items": found.items, "best": found.best, "against_best": comparison(found.against_best)}
        return {**(interval(found.interval) or {}), **known}

    columns = [
        {
            "name": column.name, "folder": column.run.folder, "step": column.step, "parameters": column.run.parameters,
            "tokens": column.tokens, "evaluations": [r.name for r in column.results],
        }
        for column in report.columns
    ]  # fmt: skip
    tasks = [
        {
            "task": row.task, "metric": row.metric, "better": row.better, "cells": list(map(cell, row.cells)), "note": row.note,
            "reference": row.reference and {"name": row.reference[0], "value": row.reference[1]},
            "groups": {group: list(map(interval, own)) for group, own in row.groups.items()},
        }
        for row in report.rows
    ]  # fmt: skip
    return {"columns": columns, "tasks": tasks, "metrics": report.metrics}


def shown(metric: str, value: float) -> str:
    """A number as people read it: shares in percent, bits and losses to four places, counts whole.

    >>> shown("accuracy", 0.5), shown("bits_per_byte", 1.25), shown("tokens", 12000), shown("rouge1", 0.123456)
    ('50.0 %', '1.2500', '12,000', '0.1235')
    """
    if not math.isfinite(value):
        return "–"
    if metric == "chance" or metric.startswith("accuracy"):
        return f"{100 * value:.1f} %"
    if metric in ("bits_per_byte", "loss"):
        return f"{value:.4f}"
    if value == int(value) and abs(value) < 1e15:
        return f"{value:,.0f}"
    return f"{value:,.2f}" if abs(value) >= 10 else f"{value:.4g}"


def signed(metric: str, value: float) -> str:
    """A difference: percentage points for shares.

    >>> signed("accuracy", -0.012), signed("loss", 0.5)
    ('−1.2', '+0.5000')
    """
    if not math.isfinite(value):
        return "–"
    text = f"{100 * abs(value):.1f}" if metric.startswith("accuracy") else shown(metric, abs(value))
    return text if float(text.replace(",", "")) == 0 else ("−" if value < 0 else "+") + text
