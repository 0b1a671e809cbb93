"""What a stage says of each record of a shard: keep (0), or which reason; and of which document it is a copy.

decisions.npz   code int32[records], kept int64[records] (the number of the document it is a copy of, -1: none)
notes.npz       int16[records] by name, what the stage found out of each record, such as its language
result.json     reasons by name: code c is reasons[c - 1]; notes, the values of each name by code likewise (0: none)
"""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from pretrainx.curate.pipeline import shards, store

FILE, NOTES = "decisions.npz", "notes.npz"


@dataclass(frozen=True)
class Decided:
    """A stage's folder for one shard; for the stage "read" the columns of the shard itself."""

    stage: str
    folder: Path
    texts: Path  # the folder with the documents as they are after it

    def codes(self) -> np.ndarray:
        if self.stage == "read":
            return shards.columns(self.folder)["code"]
        with np.load(self.folder / FILE, allow_pickle=False) as found:
            return np.asarray(found["code"])

    def kept(self) -> np.ndarray | None:
        """int64[records], or None where the stage knows no copies."""
        if self.stage == "read":
            return None
        with np.load(self.folder / FILE, allow_pickle=False) as found:
            return np.asarray(found["kept"]) if "kept" in found.files else None

    def similarity(self) -> np.ndarray | None:
        """float32[records], where the stage knows copies."""
        if self.stage == "read":
            return None
        with np.load(self.folder / FILE, allow_pickle=False) as found:
            return np.asarray(found["similarity"]) if "similarity" in found.files else None

    def reasons(self) -> list[str]:
        return list(store.result(self.folder)["reasons"])

    def notes(self) -> dict[str, tuple[np.ndarray, list[str]]]:
        """{name: (int16[records] codes, values: code c is values[c - 1], 0 none)}, for the documents' metadata."""
        if not (self.folder / NOTES).exists():
            return {}
        values = store.result(self.folder)["notes"]
        with np.load(self.folder / NOTES, allow_pickle=False) as found:
            return {name: (np.asarray(found[name]), list(values[name])) for name in found.files}


def write(folder: Path, code: np.ndarray, kept: np.ndarray | None = None, similarity: np.ndarray | None = None) -> None:
    if kept is None or similarity is None:
        np.savez(folder / FILE, code=code.astype(np.int32))
    else:
        np.savez(folder / FILE, code=code.astype(np.int32), kept=kept.astype(np.int64), similarity=similarity)


def alive(decided: Sequence[Decided]) -> np.ndarray:
    """bool[records]: those that all stages so far keep."""
    first, *others = decided
    found = first.codes() == 0
    for one in others:
        found &= one.codes() == 0
    return found


def count(code: np.ndarray, reasons: Sequence[str], columns: dict[str, np.ndarray], sources: Sequence[str]) -> dict[str, Any]:
    """{source: {reason: [documents, bytes]}} of what a stage drops."""
    found: dict[str, dict[str, list[int]]] = {}
    dropped = np.flatnonzero(code)
    pairs, where = np.unique(np.stack([columns["source"][dropped], code[dropped]]), axis=1, return_inverse=True)
    documents = np.bincount(where.reshape(-1), minlength=pairs.shape[1])
    size = np.bincount(where.reshape(-1), columns["bytes"][dropped].astype(np.float64), minlength=pairs.shape[1])
    for (source, reason), number, total in zip(pairs.T.tolist(), documents.tolist(), size.tolist(), strict=True):
        found.setdefault(sources[source], {})[reasons[reason - 1]] = [number, int(total)]
    return found
