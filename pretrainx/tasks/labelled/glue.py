"""GLUE (Wang 2019): its ten tasks and the diagnostic set, as TFDS, Hugging Face and the official files have them.

The form of words is T5's (Raffel 2020, appendix D): "mnli hypothesis: ... premise: ..." to "entailment"; the score of STS-B is
rounded to fifths and written with one decimal.
"""

import math
from collections.abc import Iterable

from pretrainx.curate.records import Record
from pretrainx.tasks.labelled.task import Example, Submission, Task, identity, plain

ENTAILMENT = ("entailment", "not_entailment")
THREE_WAY = ("entailment", "neutral", "contradiction")
LABEL = "label"


def stsb_classes(task: Task, record: Record, number: str) -> Iterable[Example]:
    yield Example(identity(record, number), record.text("first"), record.text("second"), task.score_of(record))


def stsb_words(task: Task, record: Record, number: str) -> Iterable[Example]:
    score = task.score_of(record)
    inputs = f"stsb sentence1: {record.text('first')} sentence2: {record.text('second')}"
    yield Example(identity(record, number), label=score, inputs=inputs, targets="" if math.isnan(score) else f"{round(score * 5) / 5:.1f}")


def one(name: str, about: str, labels: tuple[str, ...], file: str, columns: dict[str, tuple[str, ...]], metrics: tuple[str, ...]) -> Task:
    classes, words = plain(name, "first")
    fields = {"first": "sentence", "label": LABEL}
    return Task(about, fields, labels, classes, words, "classes", metrics, f"glue/{name}:2.0.0", Submission(file, "number"), columns)


def two(
    name: str, about: str, first: tuple[str, ...], second: tuple[str, ...], labels: tuple[str, ...], file: str,
    *, label: tuple[str, ...] = (LABEL,), metrics: tuple[str, ...] = ("accuracy",), answer: str = "number", word: str = "",
) -> Task:  # fmt: skip
    """Two texts; the form of words tells them in the order of their names, as T5 does."""
    roles = ("first", "second") if first[0] < second[0] else ("second", "first")
    classes, words = plain(name, *roles, word=word)
    submission = Submission(file, answer)  # type: ignore[arg-type]
    fields = {"first": first, "second": second, "label": label}
    return Task(about, fields, labels, classes, words, "classes", metrics, f"glue/{name}:2.0.0", submission)


def mnli(name: str, about: str, file: str, **options: object) -> Task:
    return two(
        name, about, ("premise", "sentence1"), ("hypothesis", "sentence2"), THREE_WAY, file,
        label=(LABEL, "gold_label"), answer="class", word="mnli", **options,  # type: ignore[arg-type]
    )  # fmt: skip


_FIRST, _SECOND = ("sentence1", "#1 String"), ("sentence2", "#2 String")
TASKS: dict[str, Task] = {
    "glue_cola": one(
        "cola", "whether a sentence is acceptable English", ("unacceptable", "acceptable"), "CoLA.tsv",
        {"train": ("source", LABEL, "star", "sentence"), "validation": ("source", LABEL, "star", "sentence")}, ("matthews",),
    ),
    "glue_sst2": one("sst2", "the tone of a phrase of a film review", ("negative", "positive"), "SST-2.tsv", {}, ("accuracy",)),
    "glue_mrpc": two(
        "mrpc", "whether two sentences of the news say the same", _FIRST, _SECOND, ("not_equivalent", "equivalent"), "MRPC.tsv",
        label=(LABEL, "Quality"), metrics=("f1", "accuracy"),
    ),
    "glue_stsb": Task(
        "how alike two sentences are, 0 to 5",
        {"first": _FIRST, "second": _SECOND, "label": (LABEL, "score")},
        (), stsb_classes, stsb_words,
        "score", ("pearson_spearman",), "glue/stsb:2.0.0", Submission("STS-B.tsv", "score"),
    ),
    "glue_qqp": two(
        "qqp", "whether two questions ask the same", ("question1",), ("question2",), ("not_duplicate", "duplicate"), "QQP.tsv",
        label=(LABEL, "is_duplicate"), metrics=("f1", "accuracy"),
    ),
    "glue_mnli": mnli("mnli", "what a text says of a claim; validation and test are the matched ones", "MNLI-m.tsv"),
    "glue_mnli_mismatched": mnli("mnli_mismatched", "the same, of other kinds of text; not for training", "MNLI-mm.tsv"),
    "glue_qnli": two(
        "qnli", "whether a sentence answers a question", ("question",), ("sentence",), ENTAILMENT, "QNLI.tsv", answer="class",
    ),
    "glue_rte": two("rte", "whether a text says a claim", ("sentence1",), ("sentence2",), ENTAILMENT, "RTE.tsv", answer="class"),
    "glue_wnli": two(
        "wnli", "whether a pronoun means a name", ("sentence1",), ("sentence2",), ("not_entailment", "entailment"), "WNLI.tsv",
    ),
    "glue_ax": mnli("ax", "MNLI's question of sentences made to find faults; test only", "AX.tsv", metrics=("matthews",)),
}  # fmt: skip
