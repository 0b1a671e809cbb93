"""The digests of a checkpoint's files: written before it is committed, compared before anything is read from it."""

import hashlib
import json
from collections.abc import Iterable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

from pretrainx.core import files

NAME = "digests.json"
STEP_METADATA = "_CHECKPOINT_METADATA"  # the checkpoint library adds the time of the commit to it after we have read it
COMMIT_MARK = "commit_success.txt"  # and writes this one; it holds nothing that is ever read
MAX_LIST_BYTES = 1 << 26  # of digests.json: half a million files; more is no list of ours
MARK = {"digests": 1}  # in the step's metadata: a checkpoint that must have a digests.json
THREADS = 4  # hashing releases the interpreter; storage seldom feeds more


def write(folder: Path) -> None:
    """Lists size and SHA-256 of every file of a checkpoint in its digests.json."""
    found = _digests(folder, _files(folder))
    files.write_json(folder / NAME, {name: list(pair) for name, pair in found.items()})


def problem(folder: Path) -> str:
    """What is wrong with a committed checkpoint, naming one file; "" if every file is as it was written.

    A checkpoint of before there were digests has nothing to compare with and passes: `has_digests` tells.
    """
    if not (folder / NAME).is_file():
        return f"{NAME} is missing" if _should_have(folder) else ""
    listed = _read_list(folder / NAME)
    if isinstance(listed, str):
        return listed
    there = _files(folder)
    for name in sorted(listed.keys() - there.keys()):
        return f"{name} is missing"
    for name in sorted(there.keys() - listed.keys()):
        if not there[name].name.startswith("."):  # a file manager's own
            return f"{name} is no file that was written with it"
    wrong_size = [n for n, (size, _) in sorted(listed.items()) if n != STEP_METADATA and there[n].stat().st_size != size]
    for name in wrong_size:  # before hashing: a truncated file need not be read
        return f"{name} has {there[name].stat().st_size:,} bytes and had {listed[name][0]:,}"
    found = _digests(folder, {name: there[name] for name in listed})
    for name in sorted(listed):
        if found[name] != listed[name]:
            return f"{name} does not have the digest it was written with"
    return ""


def has_digests(folder: Path) -> bool:
    """Whether a checkpoint can be checked at all."""
    return (folder / NAME).is_file()


def _files(folder: Path) -> dict[str, Path]:
    """{name relative to the folder: file}, without the list itself and the library's mark."""
    found = {str(path.relative_to(folder)): path for path in sorted(folder.rglob("*")) if path.is_file()}
    return {name: path for name, path in found.items() if name not in (NAME, COMMIT_MARK)}


def _digests(folder: Path, paths: dict[str, Path]) -> dict[str, tuple[int, str]]:
    with ThreadPoolExecutor(THREADS) as pool:
        return dict(zip(paths, pool.map(lambda item: _digest(item[0], item[1]), paths.items()), strict=True))


def _digest(name: str, path: Path) -> tuple[int, str]:
    """(bytes, SHA-256), or (0, "") of a file that cannot be read. The step's metadata count without the time of the commit."""
    try:
        if name != STEP_METADATA:
            return path.stat().st_size, files.sha256_file(path)
        values = json.loads(path.read_bytes())
        values.pop("commit_timestamp_nsecs", None)
        return 0, files.sha256_json(values)
    except (OSError, ValueError, AttributeError, TypeError, RecursionError):
        return 0, ""


def _read_list(path: Path) -> dict[str, tuple[int, str]] | str:
    """{name: (bytes, SHA-256)}, or what is wrong with the list."""
    try:
        if path.stat().st_size > MAX_LIST_BYTES:
            return f"{NAME} has {path.stat().st_size:,} bytes, more than a list of digests can have"
        values: Any = json.loads(path.read_bytes())
        return {str(name): (_size(pair), _hex(pair)) for name, pair in values.items()}
    except (OSError, ValueError, TypeError, AttributeError, RecursionError):
        return f"{NAME} is not a list of digests"


def _size(pair: Any) -> int:
    size, _ = pair
    if type(size) is not int or size < 0:
        raise ValueError(size)
    return size


def _hex(pair: Any) -> str:
    _, digest = pair
    if len(digest) != 2 * hashlib.sha256().digest_size or int(digest, 16) < 0:
        raise ValueError(digest)
    return str(digest)


def _should_have(folder: Path) -> bool:
    """Whether the step's metadata say that digests were written; damaged metadata count as yes, absent ones too if there is any file."""
    try:
        values = json.loads((folder / STEP_METADATA).read_bytes())
        return bool(MARK.items() <= (values.get("custom_metadata") or {}).items())
    except (OSError, ValueError, AttributeError, TypeError, RecursionError):
        return True


def first_whole(folder: Path, steps: Iterable[int]) -> tuple[int | None, dict[int, str]]:
    """(the first of the steps that is whole, {step: what is wrong} of those before it)."""
    wrong: dict[int, str] = {}
    for step in steps:
        found = problem(folder / str(step))
        if not found:
            return step, wrong
        if (folder / str(step)).exists():  # else a live run has just removed it
            wrong[step] = found
    return None, wrong
