"""A file that a filter reads, such as a model or a list of words, is part of what a curation's results are made from."""

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest

pytest.importorskip("zstandard", reason="curation needs pip install 'pretrainx[curate]'")
pytest.importorskip("numba", reason="these filters need pip install 'pretrainx[curate]'")

from pretrainx.curate import quality
from pretrainx.curate.documents import Batch, Document
from tests.test_curate import curate, done, rows

GOOD = ["a calm and well written sentence of some length", "another well written sentence that is calm"]
BAD = ["buy buy now cheap pills click click", "click now for cheap cheap offers buy"]


def kept(workdir: Path) -> list[str]:
    return [row["text"] for row in rows(workdir, "documents")]


def write(path: Path) -> str:
    path.write_text("".join(json.dumps({"text": text}) + "\n" for text in (*GOOD, *BAD)))
    return str(path)


def test_a_model_that_is_trained_anew_is_used(tmp_path: Path) -> None:
    model = tmp_path / "quality.npz"
    raw: dict[str, Any] = {
        "inputs": write(tmp_path / "a.jsonl"), "filters": {"quality": {"model": str(model)}}, "deduplicate": {"exact": None, "near": None},
    }  # fmt: skip
    for good, bad in ((GOOD, BAD), (BAD, GOOD)):
        batch = Batch([Document(str(i), text, "") for i, text in enumerate((*good, *bad))])
        labels = np.array([True] * len(good) + [False] * len(bad))
        quality.save(quality.train_classifier([(batch, labels)], buckets=2**12), model)
        _, tasks = curate(tmp_path / "out", raw)
        assert kept(tmp_path / "out") == good and done(tasks)["filter"] == 1
    assert curate(tmp_path / "out", raw)[1] == {}


def test_a_list_that_is_changed_is_used(tmp_path: Path) -> None:
    words = tmp_path / "words.txt"
    raw: dict[str, Any] = {
        "inputs": write(tmp_path / "a.jsonl"), "deduplicate": {"exact": None, "near": None},
        "filters": {"content": {"words": {"en": str(words)}, "use_default_words": False, "min_matches": 1}},
    }  # fmt: skip
    words.write_text("pills\n")
    curate(tmp_path / "out", raw)
    assert kept(tmp_path / "out") == [*GOOD, BAD[1]]
    words.write_text("calm\n")
    _, tasks = curate(tmp_path / "out", raw)
    assert kept(tmp_path / "out") == BAD and done(tasks) == {"filter": 1, "write": 2}
