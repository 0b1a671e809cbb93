"""Autoregressive language modelling: each token from those before it in its document."""

from typing import ClassVar

import numpy as np

from pretrainx.core.vocabulary import Vocabulary
from pretrainx.objectives.interface import Features, Prompt, Window
from pretrainx.objectives.losses import PredictsTargets


class Objective(PredictsTargets):
    """Features: tokens, targets, loss_weights, positions, segment_ids, each [sequence_length].

    Every token of the stream is a target exactly once. The input at a position is the token before it; at the start
    of a document it is the vocabulary's start id, and at a cut inside a document the true token before the window.
    """

    codes_text: ClassVar[bool] = True
    aligned: bool = True

    def __init__(self, vocabulary: Vocabulary, sequence_length: int):
        self.start_id = vocabulary.special.start
        self.window_length = sequence_length

    def prompt(self, text: list[int]) -> Prompt:
        return Prompt([self.start_id, *text])

    def example(self, window: Window, rng: np.random.Generator) -> Features:
        del rng  # nothing is drawn
        tokens = np.empty_like(window.tokens)
        tokens[0] = window.first_input
        tokens[1:] = np.where(window.segment_ids[1:] == window.segment_ids[:-1], window.tokens[:-1], self.start_id)
        return {
            "tokens": tokens,
            "targets": window.tokens,
            "loss_weights": (window.segment_ids > 0).astype(np.float32),
            "positions": window.positions,
            "segment_ids": window.segment_ids,
        }
