"""Answers on a test split in the files that GLUE's and SuperGLUE's leaderboards take."""

import json
import math
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from pretrainx.core import files
from pretrainx.core.errors import InputError
from pretrainx.tasks.labelled.scoring import Prediction, preference, said
from pretrainx.tasks.labelled.task import Example, Form, Task


def write(folder: Path, name: str, task: Task, form: Form, examples: Sequence[Example], predictions: Sequence[Prediction]) -> Path:
    """Writes the task's file into the folder; returns its path.

    GLUE's are tables of `index` and `prediction`, SuperGLUE's JSON lines of `idx` and `label`.

    Raises:
      InputError: the task has no leaderboard.
    """
    if task.submission is None:
        raise InputError(f"--submission: {name!r} is on no leaderboard; leave it out")
    rows = answers(task, form, examples, predictions)
    if task.submission.file.endswith(".tsv"):
        text = "index\tprediction\n" + "".join(f"{number}\t{answer}\n" for number, answer in rows)
    elif task.submission.answer == "nested":
        text = "".join(json.dumps(row) + "\n" for row in nested(rows))
    else:
        text = "".join(json.dumps({"idx": int(number), "label": answer}) + "\n" for number, answer in rows)
    path = folder / task.submission.file
    files.write_bytes(path, text.encode())
    return path


def answers(task: Task, form: Form, examples: Sequence[Example], predictions: Sequence[Prediction]) -> list[tuple[str, Any]]:
    """(id of the question, answer) in the order of the examples, one for each question."""
    if task.measure == "spans" or (task.measure == "candidates" and form == "classes"):
        return of_groups(task, form, examples, predictions)
    return [(example.id, answer_of(task, said(task, form, p))) for example, p in zip(examples, predictions, strict=True)]


def of_groups(task: Task, form: Form, examples: Sequence[Example], predictions: Sequence[Prediction]) -> list[tuple[str, Any]]:
    """The best candidate of each group: its text, or its place. In words, what was written first of a query."""
    if form == "words":
        first: dict[str, str] = {}
        for example, prediction in zip(examples, predictions, strict=True):
            first.setdefault(example.id, prediction.text)
        return [(number.rpartition("/")[2], text) for number, text in first.items()]
    best: dict[str, tuple[float, int, Example]] = {}
    for example, prediction in zip(examples, predictions, strict=True):
        candidate = (preference(prediction), int(example.id.rpartition("/")[2]), example)
        if example.group not in best or candidate[0] > best[example.group][0]:
            best[example.group] = candidate
    return [(g.rpartition("/")[2], e.answer if task.measure == "spans" else place) for g, (_, place, e) in best.items()]


def answer_of(task: Task, value: float) -> Any:
    """An answer as the leaderboard's file has it. What is no answer is the first class, or the middle of the scale."""
    assert task.submission is not None
    kind = task.submission.answer
    if kind == "score":
        return f"{min(max(2.5 if math.isnan(value) else value, 0.0), 5.0):.3f}"
    label = max(int(value), 0)
    return {"class": lambda: task.labels[label], "bool": lambda: ("false", "true")[label], "Bool": lambda: ("False", "True")[label]}.get(
        kind, lambda: label
    )()


def nested(rows: Sequence[tuple[str, int]]) -> list[dict[str, Any]]:
    """MultiRC's lines: paragraphs of questions of answers, from ids "paragraph/question/answer"."""
    paragraphs: dict[int, dict[int, list[dict[str, int]]]] = {}
    for name, label in rows:
        paragraph, question, answer = map(int, name.split("/"))
        paragraphs.setdefault(paragraph, {}).setdefault(question, []).append({"idx": answer, "label": int(label)})
    return [
        {"idx": p, "passage": {"questions": [{"idx": q, "answers": found} for q, found in questions.items()]}}
        for p, questions in paragraphs.items()
    ]
