"""Masked language modelling (Devlin 2018, section 3.1 and appendix A.1), with masks drawn anew at each pass (RoBERTa)."""

from dataclasses import dataclass
from functools import cached_property
from typing import Literal, get_args

import numpy as np

from pretrainx.core.errors import InputError
from pretrainx.core.vocabulary import Vocabulary
from pretrainx.objectives import spans
from pretrainx.objectives.interface import Batch, Features, Loss, Sight, Window
from pretrainx.objectives.losses import PredictsTargets, predicted_cross_entropy

Unit = Literal["token", "word", "span", "ngram"]


@dataclass(frozen=True)
class Masking:
    """What the objectives that mask have in common: how much, in which units, and what is put there.

    `rate` of the ordinary tokens are predicted, rounded to a whole number and never none. The units are
      token  one by one
      word   whole words
      span   runs of whole words; their number is geometric with `span_p`, up to `span_max` (SpanBERT, section 3.1)
      ngram  runs of whole words; n of them with a chance in proportion to 1/n, up to `ngram_max` (ALBERT, section 4.1)
    Tokens reach the count exactly. Words that would exceed it are passed over, as in BERT's whole-word masking. A run lies
    evenly among the places of one document that hold it, has fewer words if no place does, and the last one if the count
    holds no more: so words and runs reach the count from below. Where the count holds no word at all, tokens are the words.
    Of the predicted tokens `mask_share` become the mask token, `random_share` a random ordinary token, the others stay;
    a span meets one fate as a whole (SpanBERT, section 3.1), the others token by token.
    With `inner`, a run leaves an unmasked token of its document on either side, and documents of two tokens have none.
    """

    vocabulary: Vocabulary
    rate: float
    mask_share: float = 0.8
    random_share: float = 0.1
    unit: Unit = "token"
    span_p: float = 0.2
    span_max: int = 10
    ngram_max: int = 3
    inner: bool = False

    def check(self, where: str) -> None:
        """Raises InputError for values that make no sense; `where` is the config key."""
        vocabulary = self.vocabulary
        if vocabulary.special.mask < 0:
            raise InputError(
                f"{where}: the vocabulary ({vocabulary.kind}, {vocabulary.size} ids) has no mask token; "
                "train one with tools/train_vocabulary.py, which adds <mask>"
            )
        spans.check_share(self.rate, f"{where}.mask_rate", 1.0, inclusive=True)
        if not (self.mask_share >= 0 and self.random_share >= 0 and self.mask_share + self.random_share <= 1):
            raise InputError(
                f"{where}: mask_share {self.mask_share} and random_share {self.random_share} must be at least 0 and sum to at most 1"
            )
        if self.unit not in get_args(Unit):
            raise InputError(f"{where}.unit {self.unit!r}: accepted are {', '.join(map(repr, get_args(Unit)))}")
        spans.check_share(self.span_p, f"{where}.span_p")
        for name, most in (("span_max", self.span_max), ("ngram_max", self.ngram_max)):
            spans.check_count(most, f"{where}.{name}")

    def most(self, length: int) -> int:
        """The most tokens that are predicted in `length`."""
        return max(1, round(length * self.rate))

    @cached_property
    def length_shares(self) -> np.ndarray:
        """float64[most words of a run]: how likely a run is drawn with 1, 2, ... words."""
        geometric = [(1 - self.span_p) ** n for n in range(self.span_max)]
        shares = [1 / n for n in range(1, self.ngram_max + 1)] if self.unit == "ngram" else geometric
        return np.asarray(shares) / sum(shares)

    def choose(self, tokens: np.ndarray, segment_ids: np.ndarray, rng: np.random.Generator) -> list[np.ndarray]:
        """Groups of positions that are predicted, each group with one fate. Padding (segment 0) and special tokens never are."""
        allowed = (segment_ids > 0) & self.vocabulary.is_ordinary[tokens]
        candidates = np.flatnonzero(allowed)
        if not len(candidates):
            return []
        budget = self.most(len(candidates))
        if self.unit == "token":
            return list(rng.permutation(candidates)[:budget, None])
        words, single = self._words(tokens, segment_ids, allowed), (candidates, candidates + 1)
        if self.unit == "word":
            places = _whole_words(*words, budget, rng) or _whole_words(*single, budget, rng)
            return list(np.concatenate(places)[:, None])
        runs = self._runs(*words, segment_ids, budget, rng) or self._runs(*single, segment_ids, budget, rng)
        return runs if self.unit == "span" or not runs else list(np.concatenate(runs)[:, None])

    def _words(self, tokens: np.ndarray, segment_ids: np.ndarray, allowed: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """The first place of each word, and the place after its last; both int[words]."""
        starts = self.vocabulary.starts_word(tokens)
        starts[1:] |= ~allowed[:-1] | (segment_ids[1:] != segment_ids[:-1])
        is_last = np.append(starts[1:] | ~allowed[1:], True)
        return np.flatnonzero(starts & allowed), np.flatnonzero(is_last & allowed) + 1

    def _runs(
        self, begins: np.ndarray, ends: np.ndarray, segment_ids: np.ndarray, budget: int, rng: np.random.Generator
    ) -> list[np.ndarray]:
        """The places of runs of words, in the order drawn, that together have `budget` places at most."""
        sizes, count = ends - begins, len(begins)
        joined = (begins[1:] == ends[:-1]) & (segment_ids[begins[1:]] == segment_ids[begins[:-1]])
        stretch = np.append(0, np.cumsum(~joined))  # the same for words that follow each other without a gap
        may_begin, may_end, free = np.ones(count, bool), np.ones(count, bool), np.ones(count, bool)
        if self.inner:
            beyond = np.concatenate([[0], segment_ids, [0]])  # segments shifted by one, so that both sides exist
            may_begin, may_end = beyond[begins] == segment_ids[begins], beyond[ends + 1] == segment_ids[begins]
        chances = np.cumsum(self.length_shares)
        runs: list[np.ndarray] = []
        while budget > 0:
            length = min(int(np.searchsorted(chances, rng.random(), "right")) + 1, len(chances), count)
            used = np.append(0, np.cumsum(~free))
            places = np.zeros(0, np.int64)
            while length and not len(places):
                first, last = slice(0, count - length + 1), slice(length - 1, count)
                fits = (stretch[first] == stretch[last]) & (used[length:] == used[: count - length + 1]) & (sizes[first] <= budget)
                places = np.flatnonzero(fits & may_begin[first] & may_end[last])
                length -= not len(places)
            if not length:
                break
            start = int(places[rng.integers(len(places))])
            stop = min(start + length, int(np.searchsorted(ends, begins[start] + budget, "right")))
            free[start:stop] = False
            if self.inner:
                may_end[max(start - 1, 0)] &= start == 0 or stretch[start - 1] != stretch[start]
                may_begin[min(stop, count - 1)] &= stop == count or stretch[stop] != stretch[stop - 1]
            runs.append(np.arange(begins[start], ends[stop - 1]))
            budget -= len(runs[-1])
        return runs

    def replace(self, tokens: np.ndarray, groups: list[np.ndarray], rng: np.random.Generator) -> np.ndarray:
        """The tokens as the model reads them."""
        changed = tokens.copy()
        if not groups:
            return changed
        places = np.concatenate(groups)
        fates = np.repeat(rng.random(len(groups)), [len(group) for group in groups])
        ordinary = np.flatnonzero(self.vocabulary.is_ordinary)
        at_random = ordinary[rng.integers(len(ordinary), size=len(places))]
        others = np.where(fates < self.mask_share + self.random_share, at_random, tokens[places])
        changed[places] = np.where(fates < self.mask_share, self.vocabulary.special.mask, others)
        return changed


def _whole_words(begins: np.ndarray, ends: np.ndarray, budget: int, rng: np.random.Generator) -> list[np.ndarray]:
    """The places of words in random order, without those that exceed what is left of `budget`."""
    words: list[np.ndarray] = []
    for i in rng.permutation(len(begins)):
        size = ends[i] - begins[i]
        if size <= budget:
            words.append(np.arange(begins[i], ends[i]))
            budget -= size
    return words


class Objective(PredictsTargets):
    """Features as for `causal`, and `bidirectional`; loss_weights is 1 on the predicted positions alone. Options: see Masking."""

    sight: Sight = "bidirectional"
    num_predicted: int
    aligned = True

    def __init__(
        self,
        vocabulary: Vocabulary,
        sequence_length: int,
        mask_rate: float = 0.15,
        mask_share: float = 0.8,
        random_share: float = 0.1,
        unit: Unit = "token",
        span_p: float = 0.2,
        span_max: int = 10,
        ngram_max: int = 3,
    ):
        self.masking = Masking(vocabulary, mask_rate, mask_share, random_share, unit, span_p, span_max, ngram_max)
        self.masking.check("data.objectives.masked")
        self.window_length = sequence_length
        self.num_predicted = self.masking.most(sequence_length)

    def example(self, window: Window, rng: np.random.Generator) -> Features:
        groups = self.masking.choose(window.tokens, window.segment_ids, rng)
        return masked_features(window, self.masking.replace(window.tokens, groups, rng), groups)

    def loss(self, outputs: object, batch: Batch) -> dict[str, Loss]:
        return {"tokens": predicted_cross_entropy(outputs, batch["targets"], batch["loss_weights"], self.num_predicted)}


def masked_features(window: Window, tokens: np.ndarray, groups: list[np.ndarray]) -> Features:
    """Features of a window that is read as `tokens`, with the original predicted at the places in `groups`."""
    weights = np.zeros(len(tokens), np.float32)
    if groups:
        weights[np.concatenate(groups)] = 1
    return {
        "tokens": tokens,
        "targets": window.tokens,
        "loss_weights": weights,
        "positions": window.positions,
        "segment_ids": window.segment_ids,
        "bidirectional": (window.segment_ids > 0).astype(np.int32),
    }
