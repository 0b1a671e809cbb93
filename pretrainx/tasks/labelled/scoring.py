"""How answers to labelled examples are scored: predictions of either form, the task's own metrics of them, and those as a SeqIO Task's.

A prediction is what a head puts out or what a model wrote; who made it does not matter here.
"""

import json
import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np

from pretrainx.core.errors import InputError
from pretrainx.metrics import labels as label_metrics
from pretrainx.metrics import text as text_metrics
from pretrainx.tasks.labelled.task import Example, Form, Task


@dataclass(frozen=True)
class Prediction:
    """What the model says of an example.

    outputs  float64[C], the head's (form "classes"): logits, or one score
    text     what it wrote (form "words")
    """

    outputs: np.ndarray | None = None
    text: str = ""


def said(task: Task, form: Form, prediction: Prediction) -> float:
    """The class that a prediction names (-1: none of the task's), or its score (nan: no number)."""
    if form == "classes":
        assert prediction.outputs is not None
        return float(prediction.outputs[0]) if task.measure == "score" else float(np.argmax(prediction.outputs))
    if task.measure == "score":
        try:
            return float(prediction.text)
        except ValueError:
            return math.nan
    return float(task.labels.index(prediction.text)) if prediction.text in task.labels else -1.0


def preference(prediction: Prediction) -> float:
    """By how much a candidate is rather right than not."""
    assert prediction.outputs is not None
    return float(prediction.outputs[1] - prediction.outputs[0])


def score(task: Task, form: Form, examples: Sequence[Example], predictions: Sequence[Prediction]) -> dict[str, float]:
    """The task's metrics over the examples whose answer is known, and their number `items`.

    Raises:
      InputError: none has one.
    """
    if task.measure == "spans":
        known = [i for i, example in enumerate(examples) if example.answers]
    else:
        known = [i for i, example in enumerate(examples) if not math.isnan(example.label)]
    if not known:
        raise InputError("the answers of this split are not known; ask for a submission instead of a score")
    own, made = [examples[i] for i in known], [predictions[i] for i in known]
    return _measure(task, form, own, made) | {"items": float(len({e.id for e in own} if task.measure == "spans" else own))}


def _measure(task: Task, form: Form, examples: Sequence[Example], predictions: Sequence[Prediction]) -> dict[str, float]:
    groups = [example.group for example in examples]
    if task.measure == "spans":
        if form == "classes":
            targets = [{"group": e.group, "value": list(e.answers), "candidate": e.answer} for e in examples]
            return label_metrics.record_candidates(targets, [preference(p) for p in predictions])
        if "record" in task.metrics:
            wanted = [{"group": e.id, "value": list(e.answers)} for e in examples]
            return label_metrics.record(wanted, [p.text for p in predictions])
        answers: list[Any] = [list(e.answers) for e in examples]
        return _all(task, answers, [p.text for p in predictions])
    if task.measure == "candidates" and form == "classes":
        right: list[Any] = [{"group": group, "value": e.label > 0} for group, e in zip(groups, examples, strict=True)]
        return label_metrics.grouped_argmax(right, [preference(p) for p in predictions])
    values = [said(task, form, p) for p in predictions]
    if task.measure == "score":
        return _all(task, [e.label for e in examples], values)
    labels, answered = [int(e.label) for e in examples], [int(v) for v in values]
    if task.measure == "answers":
        return label_metrics.multirc([{"group": g, "value": label} for g, label in zip(groups, labels, strict=True)], answered)
    return _all(task, labels, answered)


def _all(task: Task, targets: Sequence[Any], predictions: Sequence[Any]) -> dict[str, float]:
    """All metrics that the task names."""
    found: dict[str, float] = {}
    for name in task.metrics:
        if name == "gender_parity":  # pairs stand one after the other
            wanted = [{"group": i // 2, "value": target} for i, target in enumerate(targets)]
            found |= label_metrics.gender_parity(wanted, predictions) if len(targets) % 2 == 0 else {}
        else:
            found |= metric(name, task)(targets, predictions)
    return found


def metric(name: str, task: Task) -> Callable[[Sequence[Any], Sequence[Any]], dict[str, float]]:
    """A metric by its name; one over classes is told how many there are."""
    if name == "macro_f1":
        return label_metrics.macro_f1(len(task.labels))
    found: Any = getattr(label_metrics, name, None) or getattr(text_metrics, name)
    return found


def facts(example: Example) -> str:
    """What scoring a written answer needs to know of its example, as JSON: a feature of SeqIO Tasks of form "words"."""
    known = {name: value for name, value in asdict(example).items() if name in ("id", "label", "answers")}
    return json.dumps(known | {"label": None if math.isnan(example.label) else example.label})


def postprocess(output: str, example: Mapping[str, Any], is_target: bool = False) -> Any:
    """A SeqIO `postprocess_fn`: of a target its Example, for `metric_of`; of what was written the text without spaces around it."""
    if not is_target:
        return output.strip()
    known = json.loads(example["facts"])
    label = math.nan if known["label"] is None else float(known["label"])
    return Example(known["id"], label=label, targets=output, answers=tuple(known["answers"]))


def metric_of(task: Task) -> Callable[[Sequence[Any], Sequence[Any]], dict[str, float]]:
    """A SeqIO `metric_fn` of what `postprocess` gives: all metrics of a task in form "words", and the number of items."""

    def metrics(targets: Sequence[Any], predictions: Sequence[Any]) -> dict[str, float]:
        return score(task, "words", targets, [Prediction(text=text) for text in predictions])

    return metrics
