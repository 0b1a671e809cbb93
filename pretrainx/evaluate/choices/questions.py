"""Questions: what of a record a model is asked."""

from collections.abc import Sequence
from dataclasses import dataclass

Choices = tuple[tuple[str, str], ...]


@dataclass(frozen=True)
class Question:
    """What is asked of the model.

    choices  (context, continuation) of each answer; the contexts may differ (WinoGrande), and are most often one
    right    which of them is right
    neutral  the context in which an answer's likelihood says nothing of the question, for PMI
    group    the paradigm that it belongs to, where a task has those: each group counts alike
    """

    choices: Choices
    right: int = 0
    neutral: str = "Answer:"
    group: str = ""


def after(context: str, continuations: Sequence[str]) -> Choices:
    """Choices that share their context."""
    return tuple((context, continuation) for continuation in continuations)
