"""Tasks as data: which fields a record has, what of it the model is asked, and which normalisation is the headline.

Questions come without examples before them, and an answer is read out in full, as models of any size can. Headlines are
OLMES's where it has the task (Gu 2024): per byte, but PMI for commonsense_qa, and the plain sum where answers are alike in length.
"""

import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Literal

import numpy as np

from pretrainx.core import files
from pretrainx.core.errors import InputError, nearest
from pretrainx.curate.records import Record, read_records
from pretrainx.evaluate.choices import accuracy
from pretrainx.evaluate.choices.accuracy import Normalisation
from pretrainx.evaluate.choices.questions import Question, after
from pretrainx.evaluate.results import Items, unique

if TYPE_CHECKING:  # what is JAX's is not needed to show --help
    from pretrainx.evaluate.likelihood import Item, Likelihood


@dataclass(frozen=True)
class Task:
    """One entry: `fields` maps the roles that `question` asks for to the keys of the published files.

    measure  choice     the right answer must be the most likely
             last_word  the one continuation must be the model's first guess, token by token
    """

    about: str
    fields: Mapping[str, str]
    question: Callable[[Record], Question]
    headline: Normalisation = "sum"
    measure: Literal["choice", "last_word"] = "choice"


def pair(record: Record) -> Question:
    """Two texts, the first of which must be more likely (Warstadt 2020, section 3: of whole sentences, without context).

    A context is put before both as it is: the space between them is the file's.
    """
    context = record.text("context") if record.has("context") else ""
    group = str(record.value("group")) if record.has("group") else ""
    return Question(after(context, [record.text("good"), record.text("bad")]), group=group)


def paradigm_pair(record: Record) -> Question:
    """A pair that belongs to a group for sure, since the mean is one of groups."""
    return replace(pair(record), group=record.text("group"))


def multiple_choice(record: Record) -> Question:
    """The right one is given by its label, by its place from 0, or by its text."""
    answers, labels, given = record.texts("choices"), record.labels("choices"), record.value("answer")
    if str(given) in labels:
        right = labels.index(str(given))
    elif isinstance(given, str) and not labels and given in answers:
        right = answers.index(given)
    elif labels:
        raise record.wrong("answer", f"one of the labels {', '.join(labels)}")
    else:
        right = record.number("answer", 0, len(answers) - 1)
    return asked(record.text("question"), answers, right)


def asked(question: str, answers: list[str], right: int) -> Question:
    return Question(after(f"Question: {question}\nAnswer:", [f" {answer}" for answer in answers]), right)


def copa(record: Record) -> Question:
    """Premise, "because" or "so", alternative (Roemmele 2011; the connectives are also the neutral context, Holtzman 2021)."""
    kind = record.text("kind")
    if kind not in ("cause", "effect"):
        raise record.wrong("kind", "'cause' or 'effect'")
    connective = "because" if kind == "cause" else "so"
    context = f"{record.text('premise').strip().rstrip('.')} {connective}"
    alternatives = [record.text(role).strip() for role in ("first", "second")]
    continuations = [f" {text[0].lower()}{text[1:]}" for text in alternatives]
    return Question(after(context, continuations), record.number("answer", 0, 1), connective)


def last_word(record: Record) -> Question:
    """The last word of a passage (Paperno 2016)."""
    passage, _, word = record.text("text").rstrip().rpartition(" ")
    if not passage.strip():
        raise record.wrong("text", "a passage of two words or more")
    return Question(after(passage, [f" {word}"]))


def hellaswag(record: Record) -> Question:
    """The ending of a scene, behind the name of the activity (Zellers 2019), without the marks that wikiHow's texts have."""

    def clean(text: str) -> str:
        return re.sub(r" {2,}", " ", re.sub(r"\[.*?\]", "", text.strip().replace(" [title]", "."))).strip()

    second = record.text("second").strip() if record.has("second") else ""
    scene = f"{record.text('topic')}: {record.text('first')} {second[:1].upper()}{second[1:]}"
    endings = [f" {clean(ending)}" for ending in record.texts("endings")]
    return Question(after(clean(scene), endings), record.number("answer", 0, len(endings) - 1))


def piqa(record: Record) -> Question:
    """Two ways to a goal (Bisk 2020)."""
    return asked(record.text("goal"), [record.text("first"), record.text("second")], record.number("answer", 0, 1))


def boolq(record: Record) -> Question:
    """Yes or no, of a passage (Clark 2019)."""
    context = f"{record.text('passage')}\nQuestion: {record.text('question').strip().rstrip('?')}?\nAnswer:"
    return Question(after(context, [" no", " yes"]), record.number("answer", 0, 1))


def winogrande(record: Record) -> Question:
    """The end of a sentence after each of two names in its gap (Sakaguchi 2020, scored as in Trinh and Le 2018: the end alone)."""
    before, gap, end = record.text("sentence").partition("_")
    if not gap or not end.strip():
        raise record.wrong("sentence", "a sentence with a gap '_' before its end")
    choices = tuple((before + record.text(role), end) for role in ("first", "second"))
    return Question(choices, record.number("answer", 1, 2) - 1)


CHOICES = {"question": "question", "choices": "choices", "answer": "answerKey"}

TASKS: dict[str, Task] = {
    "blimp": Task(
        "minimal pairs of English grammar, mean of the paradigms",
        {"good": "good", "bad": "bad", "group": "UID"}, paradigm_pair,
    ),
    "arc_easy": Task("grade-school science questions", CHOICES, multiple_choice, "per_byte"),
    "commonsense_qa": Task("common-sense questions", CHOICES, multiple_choice, "pmi"),
    "copa": Task(
        "the more plausible cause or effect",
        {"premise": "premise", "first": "choice1", "second": "choice2", "kind": "question", "answer": "label"}, copa,
    ),
    "lambada": Task("the last word of a passage", {"text": "text"}, last_word, measure="last_word"),
    "hellaswag": Task(
        "the ending of a scene",
        {"topic": "activity_label", "first": "ctx_a", "second": "ctx_b", "endings": "endings", "answer": "label"}, hellaswag, "per_byte",
    ),
    "piqa": Task("how to reach a goal", {"goal": "goal", "first": "sol1", "second": "sol2", "answer": "label"}, piqa, "per_byte"),
    "boolq": Task("yes or no, of a passage", {"question": "question", "passage": "passage", "answer": "answer"}, boolq),
    "winogrande": Task(
        "whom a sentence means", {"sentence": "sentence", "first": "option1", "second": "option2", "answer": "answer"}, winogrande
    ),
    "pairs": Task(
        "pairs of your own, the good one more likely",
        {"good": "good", "bad": "bad", "context": "context", "group": "group"}, pair,
    ),
    "choices": Task("questions of your own", CHOICES | {"answer": "answer"}, multiple_choice),
}  # fmt: skip


@dataclass(frozen=True)
class Asked:
    """A task with the questions of its files; `name` is what its metrics are called."""

    name: str
    task: Task
    questions: list[Question]

    def score(self, likelihoods: "Callable[[list[Item]], list[Likelihood]]", seed: int = 0) -> dict[str, float]:
        """{"eval/<name>/<metric>": value}: accuracy.py's, items, and how many texts were cut or crossed their seam (likelihood.py)."""
        return self.judge(likelihoods, seed)[0]

    def judge(self, likelihoods: "Callable[[list[Item]], list[Likelihood]]", seed: int = 0) -> tuple[dict[str, float], Items]:
        """The numbers, and the credit of each question under the headline."""
        texts = [choice for question in self.questions for choice in question.choices]
        if self.task.measure == "last_word":
            found = likelihoods(texts)
            credits = np.asarray([x.greedy for x in found], np.float64)
            metrics = accuracy.of_last_words(found, seed)
        else:
            neutral = [(question.neutral, choice[1]) for question in self.questions for choice in question.choices]
            found = likelihoods(texts + neutral)
            by_name = accuracy.credits_of(self.questions, found[: len(texts)], found[len(texts) :])
            credits = by_name[self.task.headline]
            metrics = accuracy.of_choices(self.questions, by_name, self.task.headline, seed)
        counts = {
            "items": len(self.questions),
            "cut": sum(x.cut for x in found[: len(texts)]),
            "crossed": sum(x.crossed for x in found[: len(texts)]),
        }
        items = Items("mean", unique(map(identity, self.questions)), credits.tolist(), groups=[q.group for q in self.questions])
        return {f"eval/{self.name}/{metric}": float(value) for metric, value in (metrics | counts).items()}, items


def identity(question: Question) -> str:
    """A name for what is asked, wherever its file lies and whatever the limit: equal for equal choices with the same right one."""
    return files.sha256_json([question.choices, question.right])[:16]


def read_task(name: str, kind: str, pattern: str, fields: Mapping[str, str], limit: int = 0) -> Asked:
    """The questions of a task's files, at most `limit` of them if that is not 0. `fields` are keys of one's own, by role.

    Raises:
      InputError: unknown task, role, file; or a record that is not as the task wants it: the sentence names it.
    """
    if kind not in TASKS:
        raise InputError(f"--tasks: unknown task {kind!r}; {nearest(kind, TASKS)}")
    task = TASKS[kind]
    for role in fields:
        if role not in task.fields:
            raise InputError(f"--fields {name}.{role}: task {kind!r} has no such role; {nearest(role, task.fields)}")
    records = read_records(pattern, {**task.fields, **fields}, f"--tasks {name}", limit)
    for record in records:
        record.require(fields)  # also what a task can do without: a name that was given is not a mistake to pass over
    return Asked(name, task, [task.question(record) for record in records])
