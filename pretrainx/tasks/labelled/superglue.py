"""SuperGLUE (Wang 2019b): its eight tasks and two diagnostic sets, from TFDS, Hugging Face or the official JSON lines.

The form of words is T5's (Raffel 2020, appendix D). In the form of classes what has several candidates is one example for each:
COPA's alternatives, MultiRC's answers, ReCoRD's entities; those of one question share the start of their id.
"""

import re
from collections.abc import Iterable, Mapping
from typing import Any

from pretrainx.curate.records import Fields, Record
from pretrainx.tasks.labelled.task import UNKNOWN, Example, Submission, Task, identity, plain

TRUTH = ("False", "True")
ENTAILMENT = ("entailment", "not_entailment")


def copa_classes(task: Task, record: Record, number: str) -> Iterable[Example]:
    """Premise and connective ("because", "so"), with each alternative."""
    right, own = task.label_of(record), identity(record, number)
    connective = {"cause": "because", "effect": "so"}.get(record.text("kind"))
    if connective is None:
        raise record.wrong("kind", "'cause' or 'effect'")
    first = f"{record.text('premise').strip().rstrip('.')} {connective}"
    for place, role in enumerate(("choice1", "choice2")):
        yield Example(f"{own}/{place}", first, record.text(role), UNKNOWN if right != right else float(right == place))


def multirc_parts(record: Record, number: str) -> Iterable[tuple[str, str, str, str, Record]]:
    """(id "paragraph/question/answer", paragraph, question, answer, record with the answer's label) of a flat or a nested record."""
    passage = record.values.get("passage")
    if isinstance(passage, Mapping):
        for question in part(record, passage, "questions"):
            for answer in part(record, question, "answers"):
                own = Record(answer, record.fields, record.where)
                name = f"{record.values.get('idx', number)}/{question.get('idx', 0)}/{answer.get('idx', 0)}"
                yield name, str(passage.get("text", "")), str(question.get("question", "")), str(answer.get("text", "")), own
        return
    places = record.values.get("idx")
    name = "/".join(str(places[key]) for key in ("paragraph", "question", "answer")) if isinstance(places, Mapping) else f"{number}/0/0"
    yield name, record.text("paragraph"), record.text("question"), record.text("answer"), record


def part(record: Record, values: Mapping[str, Any], key: str) -> list[Mapping[str, Any]]:
    found = values.get(key)
    if not isinstance(found, list) or not all(isinstance(item, Mapping) for item in found):
        raise record.wrong("passage", f"a passage with a list {key!r}")
    return found


def without_marks(paragraph: str) -> str:
    """MultiRC's paragraphs without the marks of their sentences, as T5 reads them."""
    return re.sub("</?b>", "", paragraph.replace("<br>", " "))


def multirc_classes(task: Task, record: Record, number: str) -> Iterable[Example]:
    for name, paragraph, question, answer, own in multirc_parts(record, number):
        yield Example(name, without_marks(paragraph), f"{question} {answer}", task.label_of(own))


def multirc_words(task: Task, record: Record, number: str) -> Iterable[Example]:
    for name, paragraph, question, answer, own in multirc_parts(record, number):
        label = task.label_of(own)
        inputs = without_marks(f"multirc question: {question} answer: {answer} paragraph: {paragraph}")
        yield Example(name, label=label, inputs=inputs, targets=task.word_for(label))


def record_parts(record: Record, number: str) -> Iterable[tuple[str, str, str, list[str], tuple[str, ...]]]:
    """(id "passage/query", passage, query, entities, answers) of a flat or a nested record."""
    passage = record.values.get("passage")
    if isinstance(passage, Mapping):
        text = str(passage.get("text", ""))
        entities = sorted({text[entity["start"] : entity["end"] + 1] for entity in part(record, passage, "entities")})
        for query in part(record, record.values, "qas"):
            answers = tuple(sorted({str(answer["text"]) for answer in query.get("answers", ())}))
            yield f"{record.values.get('idx', number)}/{query.get('idx', 0)}", text, str(query.get("query", "")), entities, answers
        return
    places = record.values.get("idx")
    name = f"{places['passage']}/{places['query']}" if isinstance(places, Mapping) else f"{number}/0"
    answers = tuple(map(str, record.values.get("answers") or ()))
    yield name, record.text("passage"), record.text("query"), sorted(map(str, record.value("entities"))), answers


def as_one_text(passage: str) -> str:
    """ReCoRD's passage with its highlights as sentences, as T5 reads it."""
    passage = re.sub(r"([.?!\"'])\n@highlight\n", r"\1 ", passage)
    return passage.replace("\n@highlight\n", ". ")


def record_classes(task: Task, record: Record, number: str) -> Iterable[Example]:
    """Each entity in the query's gap."""
    del task
    for name, passage, query, entities, answers in record_parts(record, number):
        for place, entity in enumerate(entities):
            label = float(entity in answers) if answers else UNKNOWN
            filled = query.replace("@placeholder", entity)
            yield Example(f"{name}/{place}", as_one_text(passage), filled, label, answer=entity, answers=answers)


def record_words(task: Task, record: Record, number: str) -> Iterable[Example]:
    """One example for each answer, as T5 trains on them; those of one query share their id, and are scored as one."""
    del task
    for name, passage, query, entities, answers in record_parts(record, number):
        inputs = f"record query: {query} entities: {', '.join(entities)} passage: {as_one_text(passage)}"
        for answer in answers or ("",):
            yield Example(name, inputs=inputs, targets=answer, answers=answers)


def wsc_texts(record: Record) -> tuple[str, str, str]:
    """(text with * around the name and # around the pronoun, as T5 marks them; name; pronoun)."""
    target = record.values.get("target")
    own = Record({**record.values, **target}, record.fields, record.where) if isinstance(target, Mapping) else record
    name, pronoun = own.text("span1_text"), own.text("span2_text")
    first, second = own.number("span1_index", 0, 10_000), own.number("span2_index", 0, 10_000)
    text = mark_span(record.text("text"), name, first, "*")
    return mark_span(text, pronoun, second + 2 * (first < second), "#"), name, pronoun


def mark_span(text: str, span: str, index: int, mark: str) -> str:
    """The text with a mark on both sides of a span that begins at this word; unchanged where it does not stand there."""
    return re.sub(rf"^((?:\S+\s){{{index}}})({re.escape(span)})", lambda m: f"{m[1]}{mark} {m[2]} {mark}", text)


def wsc_classes(task: Task, record: Record, number: str) -> Iterable[Example]:
    text, name, pronoun = wsc_texts(record)
    yield Example(identity(record, number), text, f"{pronoun}: {name}", task.label_of(record))


def wsc_words(task: Task, record: Record, number: str) -> Iterable[Example]:
    label = task.label_of(record)
    yield Example(identity(record, number), label=label, inputs=f"wsc text: {wsc_texts(record)[0]}", targets=task.word_for(label))


def wic_classes(task: Task, record: Record, number: str) -> Iterable[Example]:
    """The word before its first sentence: where it stands is not marked, as in T5's form."""
    first = f"{record.text('word')}: {record.text('first')}"
    yield Example(identity(record, number), first, record.text("second"), task.label_of(record))


_BOOLQ = plain("boolq", "second", "first")
_CB, _RTE = plain("cb", "second", "first"), plain("rte", "second", "first")  # the diagnostic sets are asked as RTE is
_COPA_WORDS = plain("copa", "choice1", "choice2", "premise", "kind")[1]
_WIC_WORDS = plain("wic", "first", "second", "word")[1]
_NLI: Fields = {"first": ("premise", "sentence1"), "second": ("hypothesis", "sentence2"), "label": "label"}


def tfds(name: str) -> str:
    return f"super_glue/{name}:1.0.2"


TASKS: dict[str, Task] = {
    "superglue_boolq": Task(
        "yes or no, of a passage", {"first": "question", "second": "passage", "label": ("label", "answer")}, TRUTH, *_BOOLQ,
        tfds=tfds("boolq"), submission=Submission("BoolQ.jsonl", "bool"),
    ),
    "superglue_cb": Task(
        "what a text says of a claim", _NLI, ("entailment", "contradiction", "neutral"), *_CB,
        metrics=("macro_f1", "accuracy"), tfds=tfds("cb"), submission=Submission("CB.jsonl", "class"),
    ),
    "superglue_copa": Task(
        "the more plausible cause or effect",
        {"premise": "premise", "choice1": "choice1", "choice2": "choice2", "kind": "question", "label": "label"},
        ("choice1", "choice2"), copa_classes, _COPA_WORDS, "candidates", tfds=tfds("copa"), submission=Submission("COPA.jsonl", "number"),
    ),
    "superglue_multirc": Task(
        "which answers to a question are right, of a paragraph",
        {"paragraph": "paragraph", "question": "question", "answer": "answer", "passage": "passage", "label": "label"},
        TRUTH, multirc_classes, multirc_words, "answers", ("multirc",), tfds("multirc"), Submission("MultiRC.jsonl", "nested"),
    ),
    "superglue_record": Task(
        "which name belongs in the gap of a sentence", {"passage": "passage", "query": "query", "entities": "entities"},
        (), record_classes, record_words, "spans", ("record",), tfds("record"), Submission("ReCoRD.jsonl", "text"),
    ),
    "superglue_rte": Task(
        "whether a text says a claim", _NLI, ENTAILMENT, *_RTE, tfds=tfds("rte"), submission=Submission("RTE.jsonl", "class"),
    ),
    "superglue_wic": Task(
        "whether a word has one meaning in two sentences", {"first": "sentence1", "second": "sentence2", "word": "word", "label": "label"},
        TRUTH, wic_classes, _WIC_WORDS, tfds=tfds("wic"), submission=Submission("WiC.jsonl", "bool"),
    ),
    "superglue_wsc": Task(
        "whether a pronoun means a name",
        {role: role for role in ("text", "span1_text", "span2_text", "span1_index", "span2_index", "label")},
        TRUTH, wsc_classes, wsc_words, tfds=tfds("wsc.fixed"), submission=Submission("WSC.jsonl", "Bool"),
    ),
    "superglue_axb": Task(
        "RTE's question of sentences made to find faults; test only", _NLI, ENTAILMENT, *_RTE,
        metrics=("matthews",), tfds=tfds("axb"), submission=Submission("AX-b.jsonl", "class"),
    ),
    "superglue_axg": Task(
        "RTE's question of sentences that differ in a pronoun's gender; test only", _NLI, ENTAILMENT, *_RTE,
        metrics=("accuracy", "gender_parity"), tfds=tfds("axg"), submission=Submission("AX-g.jsonl", "class"),
    ),
}  # fmt: skip
