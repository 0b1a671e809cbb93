"""Compiled plans, kept: the same experiment for the same topology, by the same code and compilers, is compiled once on a machine."""

import hashlib
import json
import os
from pathlib import Path
from typing import Any

from pretrainx.core import files, versions

COMPILERS = ("jax", "jaxlib", "libtpu", "jax-cuda13-plugin", "nvidia-cudnn-cu13", "flax", "optax", "qwix")
PACKAGE = Path(__file__).parents[1]


def folder() -> Path:
    """Where plans are kept: $XDG_CACHE_HOME/pretrainx/plans, or ~/.cache in its place."""
    return Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "pretrainx" / "plans"


def path_of(made_from: dict[str, Any]) -> Path:
    """The file of a plan, by all that it is made from: the caller's part, this package's code, and the libraries' versions."""
    code = hashlib.sha256()
    for path in sorted(PACKAGE.rglob("*.py")):
        code.update(path.relative_to(PACKAGE).as_posix().encode() + b"\0" + path.read_bytes())
    whole = json.dumps([made_from, code.hexdigest(), versions.installed(COMPILERS)], sort_keys=True, default=str)
    return folder() / f"{hashlib.sha256(whole.encode()).hexdigest()[:32]}.json"


def read(path: Path) -> dict[str, Any] | None:
    """The plan that is kept there; None where there is none, or none that can be read."""
    try:
        found: dict[str, Any] = json.loads(path.read_text())
    except (OSError, ValueError):
        return None
    return found | {"kept": True}


def write(path: Path, plan: dict[str, Any]) -> None:
    """Keeps a plan; a folder that cannot be written to is no reason to fail."""
    try:
        files.write_json(path, plan)
    except OSError:
        return
