"""What an evaluation leaves in a run's folder: its numbers, and each item's share in them, for intervals and paired comparisons.

`<run>/evaluations/<step>-<name>.json` holds one evaluation; a later one of the same step and name takes its place.
"""

import math
import re
import shlex
import time
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal, get_args

import numpy as np

from pretrainx.core import files, versions
from pretrainx.core.errors import InputError, nearest
from pretrainx.evaluate.bootstrap import by_group, ends, resampled_sums, sizes

FORMAT = 1
FOLDER = "evaluations"
Kind = Literal["mean", "ratio"]
Better = Literal["high", "low"]
# What items are of, where they do not say: credits of questions, bits of documents.
METRIC: dict[Kind, str] = {"mean": "accuracy", "ratio": "bits_per_byte"}
BETTER: dict[Kind, Better] = {"mean": "high", "ratio": "low"}


@dataclass(frozen=True)
class Items:
    """Each item's share in one metric of a task.

    kind     mean   the mean of `values`, by group first where there are several: groups count alike
             ratio  the sum of `values` by the sum of `weights`: bits by bytes
    ids      one for each item; equal ids in two evaluations are the same item
    weights  of a ratio, above 0 for at least one item; of a mean, empty
    groups   what each item belongs to; empty: all to one
    metric   its name behind "eval/<task>/" ("": as METRIC says)
    better   whether high or low is good ("": as BETTER says)

    Raises:
      InputError: lists of unequal length, an id twice, a value that is not finite, a negative weight.
    """

    kind: Kind
    ids: Sequence[str]
    values: Sequence[float]
    weights: Sequence[float] = ()
    groups: Sequence[str] = ()
    metric: str = ""
    better: Better | Literal[""] = ""

    def __post_init__(self) -> None:
        if self.kind not in get_args(Kind):
            raise InputError(f"items of kind {self.kind!r}; {nearest(str(self.kind), get_args(Kind))}")
        object.__setattr__(self, "metric", self.metric or METRIC[self.kind])
        object.__setattr__(self, "better", self.better or BETTER[self.kind])
        object.__setattr__(self, "groups", self.groups or [""] * len(self.ids))
        if self.better not in get_args(Better):
            raise InputError(f"items that are better {self.better!r}; {nearest(str(self.better), get_args(Better))}")
        if not self.ids:
            raise InputError("items: there are none")
        for name in ("values", "groups", *(("weights",) if self.kind == "ratio" else ())):
            if len(getattr(self, name)) != len(self.ids):
                raise InputError(f"items: {len(self.ids)} ids and {len(getattr(self, name))} {name}, where each item has one of both")
        if len(set(self.ids)) < len(self.ids):
            twice = Counter(self.ids).most_common(1)[0][0]
            raise InputError(f"items: the id {twice!r} stands twice, so items could not be paired")
        for name in ("values", "weights"):
            if bad := [x for x in getattr(self, name) if not math.isfinite(x)]:
                raise InputError(f"items: {bad[0]} among the {name}, which are finite numbers")
        if self.kind == "ratio" and (min(self.weights) < 0 or not sum(self.weights)):
            raise InputError("items of kind 'ratio': weights are 0 or more, and not all 0")

    def columns(self) -> np.ndarray:
        """float64 [K, N]: what is summed over items to know the metric."""
        return np.asarray([self.values, self.weights] if self.kind == "ratio" else [self.values], np.float64)

    def metric_of(self, sums: np.ndarray) -> np.ndarray:
        """[...] metric from sums [groups, ..., K] of columns, over each group's items."""
        if self.kind == "mean":
            counts = sizes(self.groups).reshape(-1, *[1] * (sums.ndim - 2))
            return np.asarray((sums[..., 0] / counts).mean(axis=0))
        total = sums.sum(axis=0)
        # All of a resample's documents may be empty ones: nothing is said of it, rather than infinity.
        return np.divide(total[..., 0], total[..., 1], out=np.full(total.shape[:-1], math.nan), where=total[..., 1] > 0)

    def to_json(self) -> dict[str, Any]:
        lists = {name: list(getattr(self, name)) for name in ("ids", "values", "weights", "groups")}
        return {"kind": self.kind, "metric": self.metric, "better": self.better} | lists


@dataclass(frozen=True)
class Result:
    """One evaluation of one checkpoint.

    tool      the command's name: evaluate, score_choices, ...
    name      of the evaluation, for people and for its file
    command   the line that made it
    settings  what of it decided the numbers
    metrics   {"eval/<task>/<metric>": value}
    items     {task: Items}, where each item's share is known
    created   when, as 2026-01-31T23:59:59Z
    """

    tool: str
    name: str
    step: int
    command: str
    metrics: Mapping[str, float]
    items: Mapping[str, Items] = field(default_factory=dict)
    settings: Mapping[str, Any] = field(default_factory=dict)
    versions: Mapping[str, str] = field(default_factory=versions.installed)
    created: str = field(default_factory=lambda: time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime()))

    def to_json(self) -> dict[str, Any]:
        plain = {name: getattr(self, name) for name in ("tool", "name", "step", "command", "settings", "versions", "created")}
        metrics = {name: float(value) if math.isfinite(value) else None for name, value in self.metrics.items()}  # JSON has no NaN
        return {"format": FORMAT, **plain, "metrics": metrics, "items": {task: own.to_json() for task, own in self.items.items()}}


def command_line(tool: str, argv: Sequence[str]) -> str:
    """The command as one would type it."""
    return shlex.join(["python", f"tools/{tool}.py", *argv])


def unique(names: Iterable[str]) -> list[str]:
    """The names, with "#2", "#3" behind those that came before.

    >>> unique(["a", "b", "a"])
    ['a', 'b', 'a#2']
    """
    found: list[str] = []
    seen: set[str] = set()
    times: Counter[str] = Counter()
    for name in names:
        chosen = name
        while chosen in seen:  # "a#2" may itself be a name
            times[name] += 1
            chosen = f"{name}#{times[name] + 1}"
        seen.add(chosen)
        found.append(chosen)
    return found


def keep(folder: Path | str, result: Result) -> Path:
    """Writes the result beside its run, whole or not at all, and gives the file."""
    path = Path(folder) / FOLDER / f"{result.step}-{_file_name(result.name)}.json"
    files.write_json(path, result.to_json())
    return path


def _file_name(name: str) -> str:
    """The name itself where it can be one; else with a hash, so that two names never share a file."""
    plain = re.sub(r"[^\w.-]", "_", name)[:80]
    return plain if plain == name else f"{plain}-{files.sha256_bytes(name.encode('utf-8', 'replace'))[:8]}"


def load(folder: Path | str) -> list[Result]:
    """All results of a run by step and name; none where nothing was evaluated.

    Raises:
      InputError: a file is damaged, or not of this format: the sentence names it.
    """
    found = [_read(path) for path in sorted((Path(folder) / FOLDER).glob("*.json")) if not path.name.startswith(".")]
    return sorted(found, key=lambda result: (result.step, result.name))


def _read(path: Path) -> Result:
    value = files.read_json(path, "evaluation")
    if not isinstance(value, dict) or value.get("format") != FORMAT:
        there = value.get("format") if isinstance(value, dict) else type(value).__name__
        raise InputError(f"evaluation {path}: format {there!r}, this version reads {FORMAT}; evaluate again")
    try:
        metrics = {str(name): math.nan if x is None else float(x) for name, x in value["metrics"].items()}
        items = {str(task): Items(**own) for task, own in value["items"].items()}
        plain = {name: str(value[name]) for name in ("tool", "name", "command", "created")}
        known = {str(package): str(version) for package, version in value["versions"].items()}
        return Result(**plain, step=int(value["step"]), settings=dict(value["settings"]), versions=known, metrics=metrics, items=items)
    except (KeyError, TypeError, ValueError, AttributeError, InputError) as error:
        raise InputError(f"evaluation {path}: not as an evaluation writes it ({type(error).__name__}: {error}); evaluate again") from None


@dataclass(frozen=True)
class Interval:
    """A metric with the 95 % interval of its bootstrap; the ends are NaN where nothing is known of the spread."""

    value: float
    low: float
    high: float


@dataclass(frozen=True)
class Comparison:
    """How two models differ on the same items.

    difference, low, high  of a less b, with the 95 % interval of the paired bootstrap
    better                 share of resamples in which a is better; where they are equal it counts one half
    items                  how many
    """

    difference: float
    low: float
    high: float
    better: float
    items: int

    @property
    def sure(self) -> bool:
        """Whether the interval excludes zero."""
        return self.low > 0 or self.high < 0


def interval(items: Items, seed: int = 0) -> Interval:
    """The metric of all items, and where it would lie had chance chosen others of each group (bootstrap.py)."""
    columns = items.columns()
    value = float(items.metric_of(_sums(columns, items.groups)))
    if sizes(items.groups).min() == 1:  # of the spread of a group of one item nothing is known
        return Interval(value, math.nan, math.nan)
    draws = items.metric_of(resampled_sums(columns, items.groups, seed))
    return Interval(value, *ends(draws[np.isfinite(draws)]))


def compare(a: Items, b: Items, seed: int = 0) -> Comparison:
    """a less b on the same items, each resample of which both see (paired bootstrap; Koehn 2004, section 3).

    Raises:
      InputError: the items differ, or are not of one metric: then a difference would not be of the models.
    """
    if (a.kind, a.metric, a.better) != (b.kind, b.metric, b.better):
        raise InputError(f"items of two metrics cannot be compared: {a.kind} {a.metric!r} and {b.kind} {b.metric!r}")
    shared = len(set(a.ids) & set(b.ids))
    if shared < len(a.ids) or shared < len(b.ids):
        raise InputError(f"not the same items: {shared:,} are shared, of {len(a.ids):,} and {len(b.ids):,}; evaluate both on the same")
    place = {name: i for i, name in enumerate(b.ids)}
    order = [place[name] for name in a.ids]
    other = b.columns()[:, order]
    for i, name in enumerate(a.ids):
        if a.groups[i] != b.groups[order[i]]:
            raise InputError(f"not the same items: {name!r} is of group {a.groups[i]!r} in one and {b.groups[order[i]]!r} in the other")
        if a.kind == "ratio" and a.weights[i] != other[1, i]:
            raise InputError(
                f"not the same items: {name!r} weighs {a.weights[i]:g} in one and {other[1, i]:g} in the other; are the texts the same?"
            )
    columns = np.concatenate([a.columns(), other])
    half = len(other)

    def difference(sums: np.ndarray) -> np.ndarray:
        return a.metric_of(sums[..., :half]) - a.metric_of(sums[..., half:])

    value = float(difference(_sums(columns, a.groups)))
    if sizes(a.groups).min() == 1:
        return Comparison(value, math.nan, math.nan, math.nan, shared)
    draws = difference(resampled_sums(columns, a.groups, seed))
    draws = draws[np.isfinite(draws)]
    gains = draws if a.better == "high" else -draws
    return Comparison(value, *ends(draws), float(np.mean(gains > 0) + np.mean(gains == 0) / 2), shared)


def of_groups(items: Items, seed: int = 0) -> dict[str, Interval]:
    """{group: its metric}, each with an interval of its own; empty where there is one group only."""
    names = sorted(set(items.groups))
    if len(names) < 2:
        return {}
    columns = by_group(items.columns(), items.groups)
    found = {}
    for name in names:
        own = columns[name]
        ids = [str(i) for i in range(own.shape[1])]
        if items.kind == "ratio" and not own[1].sum():
            continue
        found[name] = interval(Items(items.kind, ids, own[0].tolist(), own[1].tolist() if items.kind == "ratio" else ()), seed)
    return found


def _sums(columns: np.ndarray, groups: Sequence[str]) -> np.ndarray:
    """[groups, K]: sums over all items of each group."""
    return np.asarray([own.sum(axis=1) for own in by_group(columns, groups).values()])
