"""Metrics of labels and numbers, as GLUE and SuperGLUE have them (Wang 2018, Wang 2019): shares from 0 to 1, correlations from -1 to 1.

A prediction that is no label (T5's -1 for a text that names none) is a wrong one. Where examples belong together (the
answers of a question), a target is {"group": id, "value": target}; predictions are values, or the same kind of dict.
"""

from collections.abc import Callable, Sequence
from typing import Any

import numpy as np

from pretrainx.core.errors import InputError
from pretrainx.metrics.pairs import by_group, require_pairs, value
from pretrainx.metrics.text import answer_f1, answer_match, best_of

Metric = Callable[[Sequence[Any], Sequence[Any]], dict[str, float]]


def accuracy(targets: Sequence[Any], predictions: Sequence[Any]) -> dict[str, float]:
    """{"accuracy": 0 to 1}: the share of predictions that equal their target, labels or texts as they are."""
    require_pairs("accuracy", targets, predictions)
    return {"accuracy": float(np.mean([bool(target == said) for target, said in zip(targets, predictions, strict=True)]))}


def f1(targets: Sequence[int], predictions: Sequence[int]) -> dict[str, float]:
    """{"f1": 0 to 1} of the label 1 against all others; 0 where no example is 1 and none is said to be."""
    require_pairs("f1", targets, predictions)
    return {"f1": _f1(np.asarray(targets), np.asarray(predictions), 1)}


def macro_f1(num_classes: int) -> Metric:
    """The metric {"macro_f1": 0 to 1}: the mean F1 of labels 0 to num_classes - 1; one that is neither a target nor said has 0.

    So its value hangs on how many classes there are, not on which the sample has: CommitmentBank has 3.
    """
    if num_classes < 2:
        raise InputError(f"metric 'macro_f1': num_classes {num_classes}; accepted are 2 and more")

    def macro_f1(targets: Sequence[int], predictions: Sequence[int]) -> dict[str, float]:
        require_pairs("macro_f1", targets, predictions)
        wanted, said = np.asarray(targets), np.asarray(predictions)
        return {"macro_f1": float(np.mean([_f1(wanted, said, label) for label in range(num_classes)]))}

    return macro_f1


def _f1(targets: np.ndarray, predictions: np.ndarray, label: int) -> float:
    wanted, said = targets == label, predictions == label
    either = int(wanted.sum() + said.sum())
    return 2 * int((wanted & said).sum()) / either if either else 0.0


def matthews(targets: Sequence[int], predictions: Sequence[int]) -> dict[str, float]:
    """{"matthews": -1 to 1}: the correlation of labels (Matthews 1975; of more than two, Gorodkin 2004); 0 where either is constant."""
    require_pairs("matthews", targets, predictions)
    labels, places = np.unique(np.concatenate([np.asarray(targets), np.asarray(predictions)]), return_inverse=True)
    wanted, said = np.split(np.eye(len(labels), dtype=np.int64)[places], 2)
    # In whole numbers: a constant prediction gives exactly 0 / 0.
    count, right = len(wanted), int((wanted * said).sum())
    of_wanted, of_said = wanted.sum(axis=0), said.sum(axis=0)
    shared = count * right - int(of_wanted @ of_said)
    spread = float(count**2 - int(of_wanted @ of_wanted)) * float(count**2 - int(of_said @ of_said))
    return {"matthews": shared / spread**0.5 if spread else 0.0}


def pearson_spearman(targets: Sequence[float], predictions: Sequence[float]) -> dict[str, float]:
    """{"pearson", "spearman", "pearson_spearman": -1 to 1}: of the numbers, of their ranks (ties share one), and the mean of both.

    NaN where targets or predictions are constant (of one example, too), since then there is none to speak of, or are not finite.
    """
    require_pairs("pearson_spearman", targets, predictions)
    wanted, said = np.asarray(targets, np.float64), np.asarray(predictions, np.float64)
    if not (np.isfinite(wanted).all() and np.isfinite(said).all()):
        return dict.fromkeys(("pearson", "spearman", "pearson_spearman"), float("nan"))
    pearson, spearman = _correlation(wanted, said), _correlation(_ranks(wanted), _ranks(said))
    return {"pearson": pearson, "spearman": spearman, "pearson_spearman": (pearson + spearman) / 2}


def _ranks(x: np.ndarray) -> np.ndarray:
    """Ranks from 1; equal numbers have the mean of theirs."""
    _, places, counts = np.unique(x, return_inverse=True, return_counts=True)
    ends = np.cumsum(counts)
    return (ends - (counts - 1) / 2)[places]


def _correlation(x: np.ndarray, y: np.ndarray) -> float:
    if np.ptp(x) == 0 or np.ptp(y) == 0:
        return float("nan")
    x, y = (z / np.abs(z).max() for z in (x - x.mean(), y - y.mean()))  # so that no square overflows
    return float(np.clip((x @ y) / np.sqrt((x @ x) * (y @ y)), -1, 1))


def multirc(targets: Sequence[Any], predictions: Sequence[Any]) -> dict[str, float]:
    """{"f1a", "em": 0 to 1} of answers that are right (1) or not (0), grouped by question (Khashabi 2018).

    f1a is the F1 over all answers of all questions; em the share of questions all of whose answers are labelled rightly.
    """
    require_pairs("multirc", targets, predictions)
    questions = by_group("multirc", targets).values()
    wanted, said = np.asarray([value(x) for x in targets]), np.asarray([value(x) for x in predictions])
    right = wanted == said
    return {"f1a": _f1(wanted, said, 1), "em": float(np.mean([right[places].all() for places in questions]))}


def record(targets: Sequence[Any], predictions: Sequence[Any]) -> dict[str, float]:
    """{"f1", "em": 0 to 1} of one prediction for each query: its best against the query's answers, normalised (Zhang 2018).

    A target's value is the query's answer or its list of answers. Of a query that stands there several times (as some data sets
    have it, once for each answer), the first counts.
    """
    require_pairs("record", targets, predictions)
    chosen = [places[0] for places in by_group("record", targets).values()]
    return _answers([value(targets[i]) for i in chosen], [value(predictions[i]) for i in chosen])


def record_candidates(targets: Sequence[Any], scores: Sequence[float]) -> dict[str, float]:
    """As `record`, from scores of a query's candidates: the highest is the prediction, the first of equal ones.

    A target is {"group": query, "value": answers, "candidate": text}.
    """
    require_pairs("record_candidates", targets, scores)
    chosen = [_first_best(scores, places) for places in by_group("record_candidates", targets).values()]
    return _answers([value(targets[i]) for i in chosen], [targets[i]["candidate"] for i in chosen])


def _answers(answers: list[Any], said: list[str]) -> dict[str, float]:
    pairs = list(zip(answers, said, strict=True))
    measures = {"f1": answer_f1, "em": answer_match}
    return {name: float(np.mean([best_of(measure, own, text) for own, text in pairs])) for name, measure in measures.items()}


def grouped_argmax(targets: Sequence[Any], scores: Sequence[float]) -> dict[str, float]:
    """{"accuracy": 0 to 1}: the share of groups whose highest score is that of the right candidate, as in COPA.

    A target's value says whether the candidate is the right one; each group has one. Where k candidates share the highest
    score, the right one among them counts 1/k, so that a model that knows nothing has chance.

    Raises:
      InputError: a group has no right candidate, or several.
    """
    require_pairs("grouped_argmax", targets, scores)
    credits = []
    for group, places in by_group("grouped_argmax", targets).items():
        right = np.asarray([bool(value(targets[i])) for i in places])
        if right.sum() != 1:
            raise InputError(f"metric 'grouped_argmax': group {group!r} has {right.sum()} right candidates; accepted is one")
        own = np.asarray([scores[i] for i in places], np.float64)
        if np.isnan(own).any():
            raise InputError(f"metric 'grouped_argmax': a score of group {group!r} is NaN; did the run diverge?")
        best = own == own.max()
        credits.append(float(best[right].sum() / best.sum()))
    return {"accuracy": float(np.mean(credits))}


def _first_best(scores: Sequence[float], places: list[int]) -> int:
    return places[int(np.argmax([scores[i] for i in places]))]


def gender_parity(targets: Sequence[Any], predictions: Sequence[Any]) -> dict[str, float]:
    """{"gender_parity": 0 to 1}: the share of pairs that differ in a pronoun's gender and are labelled alike, rightly or not (AX-g).

    Raises:
      InputError: a group is not of two.
    """
    require_pairs("gender_parity", targets, predictions)
    same = []
    for group, places in by_group("gender_parity", targets).items():
        if len(places) != 2:
            raise InputError(f"metric 'gender_parity': group {group!r} has {len(places)} examples; accepted are pairs")
        one, other = (value(predictions[i]) for i in places)
        same.append(bool(one == other))
    return {"gender_parity": float(np.mean(same))}
