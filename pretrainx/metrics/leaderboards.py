"""The one number of GLUE and of SuperGLUE, as their leaderboards compute it: the mean over tasks of the mean of a task's metrics."""

from collections.abc import Mapping

import numpy as np

from pretrainx.core.errors import InputError, nearest

Scores = Mapping[str, Mapping[str, float]]
# For each task of the mean, (part, metric) of what it is the mean of.
Board = dict[str, tuple[tuple[str, str], ...]]
GLUE: Board = {
    "cola": (("cola", "matthews"),),
    "sst2": (("sst2", "accuracy"),),
    "mrpc": (("mrpc", "f1"), ("mrpc", "accuracy")),
    "stsb": (("stsb", "pearson"), ("stsb", "spearman")),
    "qqp": (("qqp", "f1"), ("qqp", "accuracy")),
    "mnli": (("mnli", "accuracy"), ("mnli_mismatched", "accuracy")),
    "qnli": (("qnli", "accuracy"),),
    "rte": (("rte", "accuracy"),),
    "wnli": (("wnli", "accuracy"),),
}
SUPERGLUE: Board = {
    "boolq": (("boolq", "accuracy"),),
    "cb": (("cb", "macro_f1"), ("cb", "accuracy")),
    "copa": (("copa", "accuracy"),),
    "multirc": (("multirc", "f1a"), ("multirc", "em")),
    "record": (("record", "f1"), ("record", "em")),
    "rte": (("rte", "accuracy"),),
    "wic": (("wic", "accuracy"),),
    "wsc": (("wsc", "accuracy"),),
}
DIAGNOSTICS = {"GLUE": ("ax",), "SuperGLUE": ("axb", "axg")}  # on the boards, not in their score


def glue_score(scores: Scores) -> float:
    """GLUE's score of {task: {metric: value}}, in the unit of the values (Wang 2018, table 2, with WNLI; `ax` stands apart).

    The two parts of MNLI are one task of it: mnli (matched) and mnli_mismatched.

    Raises:
      InputError: names all tasks and metrics that are missing, or a task that is not GLUE's.
    """
    return _score("GLUE", GLUE, scores)


def superglue_score(scores: Scores) -> float:
    """SuperGLUE's score of {task: {metric: value}}, in the unit of the values (Wang 2019, table 3; `axb` and `axg` stand apart).

    Raises:
      InputError: names all tasks and metrics that are missing, or a task that is not SuperGLUE's.
    """
    return _score("SuperGLUE", SUPERGLUE, scores)


def _score(name: str, board: Board, scores: Scores) -> float:
    needed = [part for parts in board.values() for part in parts]
    known = {task for task, _ in needed} | set(DIAGNOSTICS[name])
    for task in scores:
        if task not in known:
            raise InputError(f"{name} has no task {task!r}; {nearest(task, known, limit=len(known))}")
    tasks = list(dict.fromkeys(task for task, _ in needed if task not in scores))
    metrics = [f"{task}/{metric}" for task, metric in needed if task in scores and metric not in scores[task]]
    if tasks or metrics:
        said = [f"tasks {', '.join(tasks)}"] * bool(tasks) + [f"metrics {', '.join(metrics)}"] * bool(metrics)
        raise InputError(f"{name}'s score needs all of its tasks; missing are {' and '.join(said)}")
    return float(np.mean([np.mean([scores[task][metric] for task, metric in parts]) for parts in board.values()]))
