"""What a config with `init_from` takes from the run that it begins from: the model's sizes and the vocabulary, unless it says others."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from pretrainx.core import files
from pretrainx.core.errors import InputError

# Of the model section: what `train` fills in, and what a new objective settles anew.
OWN = ("dtype", "param_dtype", "remat", "heads", "num_classes", "lora_rank", "loss_chunks")


def split(spec: str) -> tuple[str, int | None]:
    """("runs/x", step) of "runs/x" or "runs/x@500".

    >>> split("runs/x@500"), split("runs/x")
    (('runs/x', 500), ('runs/x', None))
    """
    folder, at, step = spec.rpartition("@")
    if not at or not step.isdecimal():
        return spec, None
    return folder, int(step)


def values(spec: str) -> dict[str, Any]:
    """{"model": {...}, "data": {"vocabulary": ...}} of the run.

    Raises:
      InputError: there is no such run.
    """
    folder = split(spec)[0]
    config = files.read_json(Path(folder) / "config.json", f"init_from {spec}: config of the run")
    model = {name: value for name, value in config["model"].items() if name not in OWN}
    if config["model"].get("lora_rank"):
        raise InputError(f"init_from {spec}: that run trained adapters; begin from the run that it began from, {config['init_from']}")
    return {"model": model, "data": {"vocabulary": vocabulary(folder, config["data"]["vocabulary"])}}


def vocabulary(folder: str, spec: str) -> str:
    """The run's vocabulary in the form of data.vocabulary: its own copy, where it is a file."""
    base, plus, sentinels = spec.rpartition("+")
    base, tail = (base, plus + sentinels) if plus and sentinels.isdecimal() else (spec, "")
    if base == "bytes":
        return spec
    return f"wordpiece:{folder}/vocabulary.txt{tail}" if base.startswith("wordpiece:") else f"{folder}/vocabulary.model{tail}"


def fill(said: Mapping[str, Any], inherited: Mapping[str, Any]) -> dict[str, Any]:
    """What was said, with what is inherited where nothing was."""
    made = dict(said)
    for name, value in inherited.items():
        if isinstance(value, Mapping):
            inner = made.get(name, {})
            made[name] = fill(inner, value) if isinstance(inner, Mapping) else inner
        else:
            made.setdefault(name, value)
    return made
