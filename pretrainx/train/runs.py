"""Runs as they lie on disk: config, manifest, curves, evaluations and samples, for reports. Touches neither JAX nor checkpoints."""

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from pretrainx.core import files
from pretrainx.core.errors import InputError
from pretrainx.evaluate import results
from pretrainx.evaluate.report import Column, Run
from pretrainx.train import curves

NOISY = ("train/loss", "train/grad_norm")


def read(folder: Path, name: str = "") -> Run:
    """What a run's folder says.

    Raises:
      InputError: there is no run, or a file of it is damaged.
    """
    if not (folder / "config.json").exists():
        raise InputError(f"{folder}: no config.json there; is it the folder of a run?")
    config = flat(_mapping(folder / "config.json", "config of the run"))
    manifest = _mapping(folder / "manifest.json", "manifest of the run") if (folder / "manifest.json").exists() else {}
    packages = manifest.get("packages", {})
    if not isinstance(packages, dict):
        raise InputError(f"manifest of the run {folder / 'manifest.json'}: 'packages' is {packages!r:.40}, expected versions by name")
    series = curves.read(folder / "metrics.jsonl") if (folder / "metrics.jsonl").exists() else {}
    kept = results.load(folder)
    counted = [manifest.get("parameters"), *(result.settings.get("parameters") for result in kept)]
    return Run(
        str(folder), name or folder.resolve().name, config, next((n for n in counted if isinstance(n, int)), None),
        packages, series, {n: curves.smoothed(dict(series[n])) for n in NOISY if n in series}, kept,
        _samples(folder / "samples.json"),
    )  # fmt: skip


def _mapping(path: Path, what: str) -> dict[str, Any]:
    values = files.read_json(path, what)
    if not isinstance(values, dict):
        raise InputError(f"{what} {path}: expected an object with keys, found {values!r:.40}")
    return values


def flat(values: Mapping[str, Any], prefix: str = "") -> dict[str, Any]:
    """{"model.d_model": 256} of nested sections.

    >>> flat({"a": {"b": 1, "c": {}}, "d": [2]})
    {'a.b': 1, 'a.c': {}, 'd': [2]}
    """
    found: dict[str, Any] = {}
    for name, value in values.items():
        if isinstance(value, dict) and value:
            found |= flat(value, f"{prefix}{name}.")
        else:
            found[prefix + name] = value
    return found


def _samples(path: Path) -> list[tuple[str, str]]:
    """What `tools/sample.py --json` printed, where somebody kept it; none where not."""
    if not path.exists():
        return []
    try:
        lines = path.read_text(encoding="utf-8").strip().splitlines()
        return [(str(sample["prompt"]), str(sample["text"])) for sample in json.loads(lines[-1] if lines else "")["samples"]]
    except (ValueError, KeyError, TypeError, OSError) as error:
        raise InputError(f"{path}: not what tools/sample.py --json prints ({type(error).__name__}: {error})") from None


def columns(words: Sequence[str], names: Sequence[str] = ()) -> list[Column]:
    """A column for each FOLDER (its last evaluated step), FOLDER@STEP, and one a step for FOLDER@all.

    Raises:
      InputError: no such run or step, or as many names are not given as runs.
    """
    if names and len(names) != len(words):
        raise InputError(f"--names: {len(names)} names for {len(words)} runs; give one for each, in their order")
    known: dict[Path, Run] = {}
    chosen: list[tuple[Run, int, str]] = []
    for number, word in enumerate(words):
        folder, wanted = split(word)
        name = names[number] if names else ""
        if folder not in known:
            known[folder] = read(folder, name)
        run = known[folder]
        for step in choose(run, wanted):
            if any(run is other and step == there for other, there, _ in chosen):
                raise InputError(f"--runs {word}: step {step} of it is there twice")
            chosen.append((run, step, name))
    titles: list[str] = []
    for run, step, name in chosen:
        several = sum(other is run and (not name or other_name == name) for other, _, other_name in chosen) > 1
        titles.append(f"{name or run.name} @ {step:,}" if several else name or run.name)
    # Two runs may have folders of one name: then it is the folders that tell them apart.
    titles = [run.folder if titles.count(t) > 1 and not name else t for t, (run, _, name) in zip(titles, chosen, strict=True)]
    return [Column(run, step, t) for (run, step, _), t in zip(chosen, results.unique(titles), strict=True)]


def split(word: str) -> tuple[Path, str]:
    """(folder, step, "all" or "") of FOLDER[@STEP]; a folder may have an @ in its name."""
    folder, mark, step = word.rpartition("@")
    if mark and folder and not Path(word).is_dir():
        if step != "all" and not step.isdecimal():
            raise InputError(f"--runs {word}: no such folder; accepted are FOLDER, FOLDER@STEP and FOLDER@all")
        return Path(folder), step
    return Path(word), ""


def choose(run: Run, wanted: str) -> list[int]:
    """Steps to show. The last is the last with kept items, where there are any: a training log alone has no intervals."""
    if not run.steps:
        raise InputError(f"{run.folder}: nothing was evaluated; run tools/evaluate.py or tools/score_choices.py")
    kept = sorted({result.step for result in run.results})
    if wanted == "all":
        return kept or run.steps
    if not wanted:
        return [(kept or run.steps)[-1]]
    if int(wanted) not in run.steps:
        there = ", ".join(map(str, run.steps[-12:]))
        raise InputError(f"--runs {run.folder}@{wanted}: nothing was evaluated at that step; accepted: {there}")
    return [int(wanted)]
