"""Masked language modelling (Devlin 2018, section 3.1 and appendix A.1), with masks drawn anew at each pass (RoBERTa)."""

from typing import ClassVar

import numpy as np

from pretrainx.core.errors import InputError
from pretrainx.core.vocabulary import Vocabulary
from pretrainx.objectives.interface import Features, Window
from pretrainx.objectives.losses import PredictsTargets


class Objective(PredictsTargets):
    """Features as for `causal`; loss_weights is 1 on the predicted positions alone.

    `mask_rate` of the ordinary tokens of a window are predicted, rounded to a whole number and never none; of those
    each becomes the mask token with `mask_share`, a random ordinary token with `random_share`, and else stays.
    Special tokens are neither predicted nor put in by chance.
    """

    causal: ClassVar[bool] = False

    def __init__(
        self, vocabulary: Vocabulary, sequence_length: int, mask_rate: float = 0.15, mask_share: float = 0.8, random_share: float = 0.1
    ):
        where = "data.objectives.masked"
        if vocabulary.special.mask < 0:
            raise InputError(
                f"{where}: the vocabulary ({vocabulary.kind}, {vocabulary.size} ids) has no mask token; "
                "train one with tools/train_vocabulary.py, which adds <mask>"
            )
        if not 0 < mask_rate <= 1:
            raise InputError(f"{where}.mask_rate {mask_rate}: accepted are numbers above 0 and up to 1")
        if mask_share < 0 or random_share < 0 or mask_share + random_share > 1:
            raise InputError(f"{where}: mask_share {mask_share} and random_share {random_share} must be at least 0 and sum to at most 1")
        self.window_length = sequence_length
        self.mask_rate, self.mask_share, self.random_share = mask_rate, mask_share, random_share
        self.mask_id = vocabulary.special.mask
        ordinary = np.ones(vocabulary.size, bool)
        ordinary[list(vocabulary.special.ids)] = False
        ordinary[vocabulary.size - vocabulary.num_sentinels :] = False
        self.is_ordinary, self.ordinary_ids = ordinary, np.flatnonzero(ordinary).astype(np.int32)

    def example(self, window: Window, rng: np.random.Generator) -> Features:
        candidates = np.flatnonzero((window.segment_ids > 0) & self.is_ordinary[window.tokens])
        count = min(len(candidates), max(1, round(len(candidates) * self.mask_rate))) if len(candidates) else 0
        chosen = rng.permutation(candidates)[:count]
        fate = rng.random(count)
        replacement = self.ordinary_ids[rng.integers(len(self.ordinary_ids), size=count)]
        tokens = window.tokens.copy()
        tokens[chosen] = np.where(
            fate < self.mask_share, self.mask_id, np.where(fate < self.mask_share + self.random_share, replacement, tokens[chosen])
        )
        weights = np.zeros(len(tokens), np.float32)
        weights[chosen] = 1
        return {
            "tokens": tokens,
            "targets": window.tokens,
            "loss_weights": weights,
            "positions": window.positions,
            "segment_ids": window.segment_ids,
        }
