"""Labelled tasks by name, and the examples of their files. To add a task that ships with the project: an entry in a table beside this.

One's own are "classes" (one text or two, and a class), "score", and "text_to_text" (a text for a text), with keys by role and the
names of classes from the config.
"""

from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

from pretrainx.core.errors import InputError, nearest
from pretrainx.curate.records import Record, read_file
from pretrainx.tasks.labelled import glue, superglue
from pretrainx.tasks.labelled.task import Example, Form, Task, identity


def own_classes(task: Task, record: Record, number: str) -> Iterable[Example]:
    second = record.text("second") if record.has("second") else ""
    label = task.score_of(record) if task.measure == "score" else task.label_of(record)
    yield Example(identity(record, number), record.text("first"), second, label)


def own_words(task: Task, record: Record, number: str) -> Iterable[Example]:
    second = f" second: {record.text('second')}" if record.has("second") else ""
    label = task.score_of(record) if task.measure == "score" else task.label_of(record)
    targets = "" if label != label else f"{label:g}" if task.measure == "score" else task.word_for(label)
    yield Example(identity(record, number), label=label, inputs=f"first: {record.text('first')}{second}", targets=targets)


def text_to_text(task: Task, record: Record, number: str) -> Iterable[Example]:
    del task
    targets = str(record.value("targets")) if record.has("targets") else ""
    yield Example(identity(record, number), inputs=record.text("inputs"), targets=targets, answers=(targets,) if targets else ())


def refuse_classes(task: Task, record: Record, number: str) -> Iterable[Example]:
    del task, number
    raise InputError(f"{record.where}: a task of texts for texts has no classes; take the form 'words'")


_ROLES = {"first": "first", "second": "second", "label": "label"}
OWN: dict[str, Task] = {
    "classes": Task("one text or two, and a class", _ROLES, (), own_classes, own_words),
    "score": Task("one text or two, and a number", _ROLES, (), own_classes, own_words, "score", ("pearson_spearman",)),
    "text_to_text": Task(
        "a text for a text", {"inputs": "inputs", "targets": "targets"}, (), refuse_classes, text_to_text, "spans", ("exact_match",),
    ),
}  # fmt: skip
TASKS: dict[str, Task] = {**glue.TASKS, **superglue.TASKS, **OWN}


def find(name: str, where: str, fields: Mapping[str, str] | None = None, labels: Sequence[str] = ()) -> Task:
    """The task of a name, with keys (by role) and names of classes of one's own.

    Raises:
      InputError: no such task or role; or classes without names.
    """
    if name not in TASKS:
        raise InputError(f"{where}.task: unknown task {name!r}; {nearest(name, TASKS)}")
    task = TASKS[name]
    for role in fields or {}:
        if role not in task.fields:
            raise InputError(f"{where}.fields: task {name!r} has no role {role!r}; {nearest(role, task.fields)}")
    if labels and name != "classes":
        raise InputError(f"{where}.labels: task {name!r} has its own; only 'classes' takes names")
    if name == "classes" and len(labels) < 2:
        raise InputError(f"{where}.labels: give the names of two classes or more, in order, such as ('negative', 'positive')")
    return replace(task, fields={**task.fields, **(fields or {})}, labels=tuple(labels) or task.labels)


def examples(
    task: Task, form: Form, records: Iterable[tuple[Mapping[str, Any], str]], part: tuple[int, int] = (0, 1)
) -> Iterator[tuple[Example, str]]:
    """(example, place of its record) of records, in their order; `part` (i, n) keeps records i, i + n, ... only."""
    expand = task.classes if form == "classes" else task.words
    for number, (values, place) in enumerate(records):
        if number % part[1] == part[0]:
            for example in expand(task, Record(values, task.fields, place), str(number)):
                yield example, place


def read(task: Task, form: Form, paths: Iterable[Path], split: str, part: tuple[int, int] = (0, 1)) -> Iterator[tuple[Example, str]]:
    """The same of files; numbers go on from file to file."""
    columns = task.columns.get(split, ())
    return examples(task, form, (item for path in paths for item in read_file(path, columns)), part)
