"""From likelihoods to accuracies: normalisations, ties, standard errors and bootstrap intervals."""

import math
from collections.abc import Sequence
from typing import TYPE_CHECKING, Literal, get_args

import numpy as np

from pretrainx.evaluate.bootstrap import by_group, ends, resampled_sums, sizes
from pretrainx.evaluate.choices.questions import Question

if TYPE_CHECKING:  # what is JAX's is not needed to show --help
    from pretrainx.evaluate.likelihood import Likelihood

Normalisation = Literal["sum", "per_token", "per_byte", "pmi"]
NORMALISATIONS: tuple[Normalisation, ...] = get_args(Normalisation)


def credit(scores: Sequence[float] | np.ndarray, right: int) -> float:
    """1 where the right choice has the highest score, 1/k where k choices share it, else 0: a model that knows nothing has chance.

    >>> credit([-1.0, -2.0], 0), credit([-1.0, -1.0], 0), credit([-1.0, -2.0], 1)
    (1.0, 0.5, 0.0)
    """
    best = np.asarray(scores) == np.max(scores)
    return float(best[right] / best.sum())


def normalised(found: Sequence["Likelihood"], neutral: Sequence["Likelihood"]) -> dict[Normalisation, np.ndarray]:
    """The scores of a question's choices, [choices] each.

    sum        log-likelihood
    per_token  by the tokens that were scored
    per_byte   by the answer's UTF-8 bytes, whatever the vocabulary
    pmi        less the log-likelihood after a neutral context (Holtzman 2021): how much the question speaks for the answer
    """
    nats = np.asarray([x.nats for x in found])
    return {
        "sum": nats,
        "per_token": nats / np.maximum([x.num_tokens for x in found], 1),
        "per_byte": nats / np.maximum([x.num_bytes for x in found], 1),
        "pmi": nats - np.asarray([x.nats for x in neutral]),
    }


def summary(name: str, values: np.ndarray, groups: Sequence[str], seed: int) -> dict[str, float]:
    """Mean of [N] values, its standard error `_se`, and the 95 % interval `_low`, `_high` of a bootstrap (Efron 1979, percentiles).

    Groups count alike, and each is resampled by itself: what is left to chance is which items a paradigm has, not which
    paradigms there are. Of the spread of a group of one item nothing is known: then all but the mean are NaN.
    """
    members = by_group(values, groups)
    if min(map(len, members.values())) == 1:
        return {name: mean_of_groups(values, groups)} | {f"{name}_{end}": math.nan for end in ("se", "low", "high")}
    means = resampled_sums(values[None], groups, seed)[..., 0] / sizes(groups)[:, None]
    low, high = ends(means.mean(axis=0))
    variances = [own.var(ddof=1) / len(own) for own in members.values()]
    return {
        name: mean_of_groups(values, groups), f"{name}_se": math.sqrt(sum(variances)) / len(members),
        f"{name}_low": low, f"{name}_high": high,
    }  # fmt: skip


def mean_of_groups(values: np.ndarray, groups: Sequence[str]) -> float:
    return float(np.mean([own.mean() for own in by_group(values, groups).values()]))


def credits_of(
    questions: Sequence[Question], found: Sequence["Likelihood"], neutral: Sequence["Likelihood"]
) -> dict[Normalisation, np.ndarray]:
    """{normalisation: the credit of each question}. `found` and `neutral` are of all choices of all questions in turn."""
    counts = [len(question.choices) for question in questions]
    ends_of = np.cumsum(counts)
    scores = [normalised(found[end - n : end], neutral[end - n : end]) for end, n in zip(ends_of, counts, strict=True)]
    return {
        name: np.asarray([credit(own[name], question.right) for own, question in zip(scores, questions, strict=True)])
        for name in NORMALISATIONS
    }


def of_choices(
    questions: Sequence[Question], credits: dict[Normalisation, np.ndarray], headline: Normalisation, seed: int
) -> dict[str, float]:
    """accuracy (of the headline) and accuracy_<normalisation>, each with `_se, _low, _high`; chance; <group>/accuracy. All are shares."""
    groups = [question.group for question in questions]
    metrics = summary("accuracy", credits[headline], groups, seed)
    for name in NORMALISATIONS:
        metrics |= summary(f"accuracy_{name}", credits[name], groups, seed)
    metrics["chance"] = mean_of_groups(1 / np.asarray([len(question.choices) for question in questions]), groups)
    for group, own in by_group(credits[headline], groups).items():
        if group:
            metrics[f"{group}/accuracy"] = float(own.mean())
    return metrics


def of_last_words(found: Sequence["Likelihood"], seed: int) -> dict[str, float]:
    """accuracy (the share of words that are the first guess), with `_se, _low, _high`; perplexity of a whole word."""
    values = np.asarray([x.greedy for x in found], np.float64)
    perplexity = math.exp(min(-float(np.mean([x.nats for x in found])), 700.0))
    return summary("accuracy", values, [""] * len(found), seed) | {"perplexity": perplexity}
