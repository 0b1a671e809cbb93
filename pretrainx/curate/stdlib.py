"""The default corpus, which needs no download: Python's own standard library as three sources.

`stdlib_prose` is the language reference that `help()` shows, `stdlib_docstrings` the docstrings of each file,
`stdlib_code` the files themselves, tests left out. Whole files are held out by a hash of their name, and the same
name decides for a file's docstrings and its code: nothing held out is ever trained on through the other source.
"""

import ast
import gzip
import importlib
import inspect
import io
import json
import platform
import sysconfig
import warnings
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from pretrainx.core import files
from pretrainx.core.errors import InputError
from pretrainx.curate.holdout import held_out

VERSION = 1  # of what this file makes: another number, another corpus
HOLDOUT = 0.05  # share of names: about 0.4 MB of code
SHARDS = {"stdlib_prose": 1, "stdlib_docstrings": 2, "stdlib_code": 4}  # of the train split; validation is one file
SKIPPED_FOLDERS = {"test", "tests", "idle_test", "site-packages", "dist-packages", "lib-dynload", "__pycache__"}
SKIPPED_FILES = ("pydoc_data/topics.py", "_sysconfigdata")  # the prose itself; what one machine's build wrote


def code_files(root: Path) -> Iterator[tuple[str, str]]:
    """(name, text) of the library's source files in the order of their names; what is not UTF-8 is left out."""
    for path in sorted(root.rglob("*.py")):
        name = path.relative_to(root).as_posix()
        if SKIPPED_FOLDERS.isdisjoint(name.split("/")[:-1]) and not name.startswith(SKIPPED_FILES):
            try:
                text = path.read_bytes().decode("utf-8")
            except UnicodeDecodeError:
                continue
            if text.strip():
                yield name, text


def docstrings(text: str) -> str:
    """The docstrings of a module, its classes and functions in the order of the file, with a blank line between."""
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # invalid escapes in old modules
            tree = ast.parse(text)
    except SyntaxError:
        return ""
    holders = [n for n in ast.walk(tree) if isinstance(n, ast.Module | ast.ClassDef | ast.FunctionDef | ast.AsyncFunctionDef)]
    holders.sort(key=lambda n: getattr(n, "lineno", 0))  # `walk` goes breadth first
    found = [inspect.cleandoc(d) for n in holders if (d := ast.get_docstring(n, clean=False))]
    return "\n\n".join(d for d in found if d)


def prose() -> list[tuple[str, str]]:
    """(topic, text) of the language reference."""
    try:
        topics = importlib.import_module("pydoc_data.topics").topics
    except ImportError:
        raise InputError("this Python has no pydoc_data (the reference that help() shows); install its whole standard library") from None
    return [(name, topics[name]) for name in sorted(topics)]


def code(root: Path) -> list[tuple[str, str]]:
    """(name, text) of the source files; of files with equal text the first is kept."""
    named: dict[str, str] = {}
    for name, text in code_files(root):
        named.setdefault(text, name)
    if not named:
        raise InputError(f"no source files of the standard library under {root}; install a Python that has them")
    return [(name, text) for text, name in named.items()]


def build(out: Path, root: Path | None = None) -> tuple[dict[str, Any], bool]:
    """Writes OUT/<source>/<split>-0000i.jsonl.gz and OUT/manifest.json.

    `root` is the library's folder, by default this Python's own.
    Returns the manifest and whether anything was written: an unchanged corpus is left as it is.
    """
    topics, named = prose(), code(root or Path(sysconfig.get_paths()["stdlib"]))
    made_from = files.sha256_json([VERSION, HOLDOUT, SHARDS, platform.python_version(), topics, named])
    with files.locked(out):
        if (found := _finished(out, made_from)) is not None:
            return found, False
        sources = {
            "stdlib_prose": topics,
            "stdlib_docstrings": [(name, joined) for name, text in named if (joined := docstrings(text))],
            "stdlib_code": named,
        }
        manifest: dict[str, Any] = {
            "python": platform.python_version(), "version": VERSION, "holdout": HOLDOUT, "made_from": made_from, "sources": {},
        }  # fmt: skip
        for source, pairs in sources.items():
            splits: dict[str, list[tuple[str, str]]] = {"train": [], "validation": []}
            for name, text in pairs:
                splits["validation" if held_out(name, HOLDOUT) else "train"].append((name, text))
            manifest["sources"][source] = {
                split: [_write(out, f"{source}/{split}-{i:05d}.jsonl.gz", some) for i in range(count) if (some := chosen[i::count])]
                for split, chosen in splits.items()
                for count in [SHARDS[source] if split == "train" else 1]
            }
        files.write_json(out / "manifest.json", manifest)
    return manifest, True


def totals(manifest: dict[str, Any]) -> dict[str, dict[str, dict[str, int]]]:
    """{source: {split: {documents, bytes}}} of a manifest."""
    return {
        source: {split: {key: sum(f[key] for f in some) for key in ("documents", "bytes")} for split, some in splits.items()}
        for source, splits in manifest["sources"].items()
    }


def _write(out: Path, name: str, pairs: list[tuple[str, str]]) -> dict[str, Any]:
    lines = b"".join(json.dumps({"id": i, "text": t}, ensure_ascii=False).encode() + b"\n" for i, t in pairs)
    buffer = io.BytesIO()
    with gzip.GzipFile(filename="", mode="wb", fileobj=buffer, mtime=0) as stream:  # no name, no time: equal bytes every time
        stream.write(lines)
    files.write_bytes(out / name, buffer.getvalue())
    return {
        "file": name, "documents": len(pairs), "bytes": sum(len(t.encode()) for _, t in pairs),
        "sha256": files.sha256_bytes(buffer.getvalue()), "content_sha256": files.sha256_bytes(lines),
    }  # fmt: skip


def _finished(out: Path, made_from: str) -> dict[str, Any] | None:
    """The manifest of a corpus that is there, whole, and made from these inputs."""
    if not (out / "manifest.json").exists():
        return None
    manifest = files.read_json(out / "manifest.json", "corpus manifest")
    if manifest.get("made_from") != made_from:
        return None
    for splits in manifest["sources"].values():
        for entry in (e for some in splits.values() for e in some):
            path = out / entry["file"]
            if not path.exists() or files.sha256_file(path) != entry["sha256"]:
                return None
    return manifest
