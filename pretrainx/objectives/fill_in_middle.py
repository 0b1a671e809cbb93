"""Fill in the middle (Bavarian 2022, section 3): a causal decoder that also learns to write what belongs between two texts."""

import numpy as np

from pretrainx.core.errors import InputError
from pretrainx.core.vocabulary import Vocabulary
from pretrainx.objectives import packing, spans
from pretrainx.objectives.interface import Features, Prompt, Window
from pretrainx.objectives.losses import PredictsTargets

WHERE = "data.objectives.fill_in_middle"
TOKENS_PER_CHANGE = 128


class Objective(PredictsTargets):
    """Features as for `causal`; some documents are cut at two random places, and their parts told in another order.

    PSM  <PRE> prefix <SUF> suffix <MID> middle
    SPM  <PRE> <SUF> suffix <MID> prefix middle   (the paper's second variant, which it trains jointly with PSM)

    and the end token after them, where the document ends in the window. Every token is predicted, <PRE> too. The other
    documents are as in `causal`. Cutting is done within the window (the paper's "context level"), and the places are
    even over tokens, where the paper's are even over characters; so a word that the vocabulary keeps whole is not cut.
    <PRE>, <SUF> and <MID> are the sentinels -4, -5 and -6 from the end.

    rate        of the documents with at least `min_length` tokens in the window are changed, each independently
    spm_rate    of these are SPM
    room        at most so many documents of a window are changed, since each gets three tokens longer; by default one
                in 128 tokens. A window is 3 * room tokens shorter than sequence_length.
    """

    def __init__(
        self,
        vocabulary: Vocabulary,
        sequence_length: int,
        rate: float = 0.5,
        spm_rate: float = 0.5,
        min_length: int = 8,
        room: int | None = None,
    ):
        spans.check_share(rate, f"{WHERE}.rate", 1.0, inclusive=True)
        if not 0 <= spm_rate <= 1:
            raise InputError(f"{WHERE}.spm_rate {spm_rate}: accepted are numbers from 0 to 1")
        if min_length < 1:
            raise InputError(f"{WHERE}.min_length {min_length}: accepted are numbers from 1")
        self.room = max(1, sequence_length // TOKENS_PER_CHANGE) if room is None else room
        if self.room < 1 or 3 * self.room >= sequence_length:
            raise InputError(
                f"{WHERE}.room {self.room}: accepted are numbers from 1, three times of which are less than "
                f"data.sequence_length {sequence_length}"
            )
        spans.need_sentinels(vocabulary, 6, WHERE, "the last of which mark prefix, suffix and middle")
        self.prefix, self.suffix, self.middle = (
            np.asarray([spans.sentinel(vocabulary, spans.FILL_IN_MIDDLE[name])], np.int32) for name in ("prefix", "suffix", "middle")
        )
        self.special, self.rate, self.spm_rate, self.min_length = vocabulary.special, rate, spm_rate, min_length
        self.sequence_length, self.window_length = sequence_length, sequence_length - 3 * self.room

    def prompt(self, text: list[int]) -> Prompt:
        return Prompt([self.special.start, *text])

    def choose(self, lengths: np.ndarray, rng: np.random.Generator) -> np.ndarray:
        """The documents to change, of those with these lengths."""
        chosen = np.flatnonzero((rng.random(len(lengths)) < self.rate) & (lengths >= self.min_length))
        return chosen if len(chosen) <= self.room else rng.choice(chosen, self.room, replace=False)

    def reorder(self, piece: np.ndarray, rng: np.random.Generator) -> np.ndarray:
        """A document of three tokens more."""
        body, end = (piece[:-1], piece[-1:]) if piece[-1] == self.special.eos else (piece, piece[:0])
        prefix, middle, suffix = np.split(body, np.sort(rng.integers(len(body) + 1, size=2)))
        if rng.random() < self.spm_rate:
            return np.concatenate([self.prefix, self.suffix, suffix, self.middle, prefix, middle, end])
        return np.concatenate([self.prefix, prefix, self.suffix, suffix, self.middle, middle, end])

    def example(self, window: Window, rng: np.random.Generator) -> Features:
        pieces = spans.pieces_of(window)
        chosen = set(self.choose(np.asarray([len(piece) for piece in pieces], np.int64), rng).tolist())
        texts = []
        for index, piece in enumerate(pieces):
            string = self.reorder(piece, rng) if index in chosen else piece
            first = window.first_input if index == 0 and index not in chosen else self.special.start
            texts.append(packing.Text(index + 1, string, packing.ones(len(string)), first))
        return packing.decoder(texts, self.sequence_length, self.special.pad)
