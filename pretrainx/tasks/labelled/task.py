"""What a labelled task is: how a record becomes examples, what its answer is called, and how answers are scored and handed in.

A task has two forms. "classes": one text, or two that are related, and a class (or a score): what an encoder's head predicts.
"words": a text that says all, and the answer as a text: what a text-to-text model writes (Raffel 2020, appendix D).
"""

import math
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field
from typing import Any, Literal

from pretrainx.curate.records import Fields, Record

Form = Literal["classes", "words"]
FORMS: tuple[Form, ...] = ("classes", "words")
FEATURES = {"classes": ("first", "second", "label"), "words": ("inputs", "targets")}  # what the token cache keeps of each form
THOUSANDTHS = 1000  # a score is kept as a whole number of these
# How predictions become an answer: the likeliest class; a number; a class of each answer to a question, of which all must be right;
# the likeliest of the candidates of a group; and that candidate's text, against several accepted texts.
Measure = Literal["classes", "score", "answers", "candidates", "spans"]
UNKNOWN = math.nan


@dataclass(frozen=True)
class Example:
    """One example; what a form does not have is empty.

    id        names it in its split; examples that are answered together share all of it but what follows the last "/"
    first     the text, or the first of two (form "classes")
    second    the other, or ""
    label     the number of the class, or the score; nan where nobody has told
    inputs    what a text-to-text model reads, and `targets` what it is to write (form "words")
    answer    the text that choosing this candidate means (measure "spans"); `answers` are those that are accepted
    """

    id: str
    first: str = ""
    second: str = ""
    label: float = UNKNOWN
    inputs: str = ""
    targets: str = ""
    answer: str = ""
    answers: tuple[str, ...] = ()

    @property
    def group(self) -> str:
        return self.id.rpartition("/")[0]

    def feature(self, name: str, measure: Measure) -> str:
        """A feature as the token cache is given it; a label is its number in decimal digits, none where nobody has told."""
        if name != "label":
            return str(getattr(self, name))
        return "" if math.isnan(self.label) else str(round(self.label * THOUSANDTHS) if measure == "score" else int(self.label))


Expand = Callable[["Task", Record, str], Iterable[Example]]  # task, record, its number in the file -> examples


@dataclass(frozen=True)
class Submission:
    """A leaderboard's file of answers on the test split: its name, and what an answer looks like in it."""

    file: str
    answer: Literal["class", "number", "bool", "Bool", "score", "text", "nested"]


@dataclass(frozen=True)
class Task:
    """One entry. `fields` maps the roles that its functions ask for to keys, those of TFDS first.

    labels   names of the classes in order; () for a score
    columns  of files without a line of names: {split: names}; "" stands for every other split
    tfds     where TensorFlow Datasets has it
    """

    about: str
    fields: Fields
    labels: tuple[str, ...]
    classes: Expand
    words: Expand
    measure: Measure = "classes"
    metrics: tuple[str, ...] = ("accuracy",)
    tfds: str = ""
    submission: Submission | None = None
    columns: Mapping[str, tuple[str, ...]] = field(default_factory=dict)

    @property
    def num_classes(self) -> int:
        """Outputs of a head: one for a score; candidates and answers are right or not."""
        return 1 if self.measure == "score" else 2 if self.measure in ("answers", "candidates", "spans") else len(self.labels)

    def label_of(self, record: Record, role: str = "label") -> float:
        """The class of a record by number, by name, or as a truth value; nan where there is none, or -1.

        Raises:
          InputError: it is none of the task's.
        """
        if not record.has(role):
            return UNKNOWN
        value = record.value(role)
        if isinstance(value, str) and value in self.labels:
            return float(self.labels.index(value))
        number = as_number(value)
        if number is not None and int(number) == number:
            if number == -1:
                return UNKNOWN
            if 0 <= number < len(self.labels):
                return number
        named = {name.lower(): float(i) for i, name in enumerate(self.labels)}
        if str(value).lower() in named:
            return named[str(value).lower()]
        raise record.wrong(role, f"one of {', '.join(self.labels)}, or its number from 0")

    def score_of(self, record: Record, role: str = "label") -> float:
        """The score of a record; nan where there is none, or one below zero."""
        if not record.has(role):
            return UNKNOWN
        number = as_number(record.value(role))
        if number is None:
            raise record.wrong(role, "a number")
        return number if number >= 0 else UNKNOWN

    def word_for(self, label: float) -> str:
        return "" if math.isnan(label) else self.labels[int(label)]


def as_number(value: Any) -> float | None:
    """A finite number, also where it is text or a truth value; else None."""
    try:
        number = float(value)
    except (TypeError, ValueError):
        return None
    return number if math.isfinite(number) else None


def plain(name: str, *roles: str, word: str = "") -> tuple[Expand, Expand]:
    """(classes, words) of a task with a text or two. `roles` are those of the words' form in its order (their keys name them);
    the class form reads roles "first" and "second"."""

    def classes(task: Task, record: Record, number: str) -> Iterable[Example]:
        second = record.text("second") if "second" in task.fields else ""
        yield Example(identity(record, number), record.text("first"), second, task.label_of(record))

    def words(task: Task, record: Record, number: str) -> Iterable[Example]:
        label = task.label_of(record)
        parts = [part for role in roles for part in (f"{told(task, role)}:", record.text(role))]
        yield Example(identity(record, number), label=label, inputs=" ".join([word or name, *parts]), targets=task.word_for(label))

    return classes, words


def told(task: Task, role: str) -> str:
    """The name under which the text form tells a role: its first key, whatever key the file has."""
    keys = task.fields[role]
    return keys if isinstance(keys, str) else keys[0]


def identity(record: Record, number: str) -> str:
    """The record's own number where it has one, else its place in the file from 0."""
    found = (record.values.get(key) for key in ("idx", "index", "id"))
    return next((str(value) for value in found if isinstance(value, (int, str)) and str(value)), number)
