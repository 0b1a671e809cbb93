"""Metrics of generated texts against one reference or several: BLEU, chrF, ROUGE, and the answers' exact match and token F1.

A target is a text or a list of texts, each of which is right.
"""

import re
import string
from collections import Counter
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np

from pretrainx.core.errors import InputError
from pretrainx.metrics.pairs import require_pairs

References = str | Sequence[str]
ROUGE_TYPES = ("rouge1", "rouge2", "rougeLsum")
_NEEDED = "pip install 'pretrainx[eval]'"
_ARTICLES = re.compile(r"\b(a|an|the)\b")
_PUNCTUATION = str.maketrans("", "", string.punctuation)


def references(target: References) -> list[str]:
    """The texts of a target.

    Raises:
      InputError: it is no text and no list of texts, or an empty list.
    """
    found = [target] if isinstance(target, str) else list(target) if isinstance(target, list | tuple | np.ndarray) else []
    if not found or not all(isinstance(text, str) for text in found):
        raise InputError(f"a target of a text metric is {target!r:.60}; accepted are a text and a list of one text or more")
    return found


def bleu(targets: Sequence[References], predictions: Sequence[str]) -> dict[str, float]:
    """{"bleu": 0 to 100} of the corpus (Papineni 2002), as sacrebleu's defaults have it: tokens 13a, case kept, exponential smoothing.

    Print `signature("bleu", targets)` beside it: a BLEU without it cannot be compared (Post 2018).
    """
    return {"bleu": _sacrebleu("bleu", targets, predictions)[0]}


def chrf(targets: Sequence[References], predictions: Sequence[str]) -> dict[str, float]:
    """{"chrf": 0 to 100}: chrF2, F of character 6-grams with recall counting twice (Popović 2015), by sacrebleu's defaults."""
    return {"chrf": _sacrebleu("chrf", targets, predictions)[0]}


def signature(metric: str, targets: Sequence[References]) -> str:
    """How sacrebleu measured `metric` ("bleu" or "chrf") on these targets: number of references, case, tokens, smoothing, version.

    >>> signature("bleu", ["a text"]).split("|")[:4]
    ['nrefs:1', 'case:mixed', 'eff:no', 'tok:13a']
    """
    return _sacrebleu(metric, targets, [""] * len(targets))[1]


def _sacrebleu(metric: str, targets: Sequence[References], predictions: Sequence[str]) -> tuple[float, str]:
    """(score, signature)."""
    try:
        from sacrebleu.metrics import BLEU, CHRF
    except ImportError:
        raise InputError(f"metric {metric!r} needs sacrebleu: {_NEEDED}") from None
    require_pairs(metric, targets, predictions)
    texts = [references(target) for target in targets]
    # Streams of references: the k-th of each target, None where a target has fewer.
    streams = [[own[k] if k < len(own) else None for own in texts] for k in range(max(map(len, texts)))]
    scorer: Any = BLEU() if metric == "bleu" else CHRF()
    score = scorer.corpus_score(list(predictions), streams).score
    return float(score), str(scorer.get_signature())


def rouge(targets: Sequence[References], predictions: Sequence[str], use_stemmer: bool = False) -> dict[str, float]:
    """{"rouge1", "rouge2", "rougeLsum": 0 to 100}: the mean F measure of the predictions (Lin 2004), by rouge_score.

    Of several references the best counts, for each of the three. Sentences are lines: rougeLsum of a text in one line is
    rougeL. It is the plain mean over predictions; a bootstrap's middle, which others report, differs from it by chance alone.
    """
    try:
        from rouge_score.rouge_scorer import RougeScorer
    except ImportError:
        raise InputError(f"metric 'rouge' needs rouge-score: {_NEEDED}") from None
    require_pairs("rouge", targets, predictions)
    scorer = RougeScorer(ROUGE_TYPES, use_stemmer=use_stemmer)
    scores = [scorer.score_multi(references(target), text) for target, text in zip(targets, predictions, strict=True)]
    return {kind: 100.0 * float(np.mean([score[kind].fmeasure for score in scores])) for kind in ROUGE_TYPES}


def normalise_answer(text: str) -> str:
    """Lower case, without punctuation, without articles, single spaces (Rajpurkar 2016, the released script).

    >>> normalise_answer("The  Cat's an (odd) pet.")
    'cats odd pet'
    """
    return " ".join(_ARTICLES.sub(" ", text.lower().translate(_PUNCTUATION)).split())


def answer_f1(reference: str, prediction: str) -> float:
    """F1 of the words that the normalised texts share, as often as both have them; 0 where they share none.

    Two texts of which nothing remains share none either, as in SQuAD 1.1's script.
    """
    wanted, said = normalise_answer(reference).split(), normalise_answer(prediction).split()
    shared = (Counter(wanted) & Counter(said)).total()
    return 2 * shared / (len(wanted) + len(said)) if shared else 0.0


def answer_match(reference: str, prediction: str) -> float:
    """1 where the normalised texts are equal, else 0."""
    return float(normalise_answer(reference) == normalise_answer(prediction))


def best_of(measure: Callable[[str, str], float], target: References, prediction: str) -> float:
    """The measure against the reference that it likes best."""
    return max(measure(reference, prediction) for reference in references(target))


def exact_match(targets: Sequence[References], predictions: Sequence[str]) -> dict[str, float]:
    """{"exact_match": 0 to 1}: the share of predictions that equal a reference, both normalised. For plain equality: labels.accuracy."""
    return {"exact_match": _mean("exact_match", answer_match, targets, predictions)}


def token_f1(targets: Sequence[References], predictions: Sequence[str]) -> dict[str, float]:
    """{"token_f1": 0 to 1}: the mean over predictions of the F1 of their words, against the best reference."""
    return {"token_f1": _mean("token_f1", answer_f1, targets, predictions)}


def squad(targets: Sequence[References], predictions: Sequence[str]) -> dict[str, float]:
    """{"exact_match", "token_f1": 0 to 1}, as SQuAD 1.1 and, with an answer's aliases as references, open-domain questions have them."""
    return exact_match(targets, predictions) | token_f1(targets, predictions)


def _mean(metric: str, measure: Callable[[str, str], float], targets: Sequence[References], predictions: Sequence[str]) -> float:
    require_pairs(metric, targets, predictions)
    return float(np.mean([best_of(measure, target, text) for target, text in zip(targets, predictions, strict=True)]))
