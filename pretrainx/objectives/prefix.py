"""Prefix language modelling (Raffel 2020, section 3.3.1): the rest of a text from its beginning, which is seen whole."""

from typing import ClassVar, Literal

import numpy as np

from pretrainx.core.errors import InputError
from pretrainx.core.vocabulary import Vocabulary
from pretrainx.objectives import packing, spans
from pretrainx.objectives.interface import Features, Prompt, Sight, Window
from pretrainx.objectives.losses import PredictsTargets

Form = Literal["encoder_decoder", "decoder"]


class Objective(PredictsTargets):
    """Each document of a window is cut at a random place; what comes after it is predicted.

    The number of predicted tokens is even over 1 to 2 * target_share * n - 1 of a document's n, so target_share of them
    on average; 0.5 makes every place for the cut equally likely (T5's released code). At least `min_prefix` tokens
    are prefix: a document of no more (so every document of one token) is read, and nothing of it predicted.

    decoder          features of [sequence_length]; the prefix is marked in `bidirectional`
    encoder_decoder  the prefix has encoder_* [sequence_length], the rest the other features, [target_length]

    mode_token       the index of a sentinel (-1 is the last) put before each prefix in the encoder, where something is
                     predicted; a decoder reads it in the place of the token before the document (ul2.py)
    window_length    a shorter window than would fit, so that several entries of a mixture have one length
    """

    where: ClassVar[str] = "data.objectives.prefix"
    codes_text: ClassVar[bool] = True

    def __init__(
        self,
        vocabulary: Vocabulary,
        sequence_length: int,
        form: Form = "decoder",
        target_share: float = 0.5,
        min_prefix: int = 1,
        mode_token: int | None = None,
        window_length: int | None = None,
    ):
        spans.check_form(form, self.where)
        spans.check_share(target_share, f"{self.where}.target_share", 0.5, inclusive=True)
        if min_prefix < 1:
            raise InputError(f"{self.where}.min_prefix {min_prefix}: accepted are numbers from 1; for none at all name causal")
        self.special, self.sequence_length, self.form = vocabulary.special, sequence_length, form
        self.target_share, self.min_prefix = target_share, min_prefix
        self.has_encoder = form == "encoder_decoder"
        self.sight: Sight = "encoder_decoder" if self.has_encoder else "prefix"
        self.mode = spans.check_mode_token(vocabulary, mode_token, 0, self.where)
        # A source is at least one token shorter than its document, so there is room for a mode token.
        self.window_length = spans.check_window_length(window_length, sequence_length, self.where)
        # Half of a document where that is one token of two; more only as far as the share says.
        most = min(self.window_length - min_prefix, int(self.window_length * max(0.5, 2 * target_share)))
        self.target_length = max(1, most) if self.has_encoder else sequence_length

    def most_predicted(self, length: int) -> int:
        """Of a document of so many tokens."""
        return max(0, min(length - self.min_prefix, max(1, int(2 * self.target_share * length) - 1)))

    def prompt(self, text: list[int]) -> Prompt:
        mode = [] if self.mode is None else [self.mode]
        if self.has_encoder:
            return Prompt([self.special.start], source=[*mode, *text] or [self.special.eos])
        tokens = [*(mode or [self.special.start]), *text]
        return Prompt(tokens, seen=len(tokens))

    def example(self, window: Window, rng: np.random.Generator) -> Features:
        sources, texts = [], []
        for number, piece in enumerate(spans.pieces_of(window), 1):
            most = self.most_predicted(len(piece))
            prefix = len(piece) - (int(rng.integers(1, most + 1)) if most else 0)
            if self.has_encoder:
                source = piece[:prefix]
                sources.append((number, np.append(np.int32(self.mode), source) if self.mode is not None and most else source))
                if most:
                    texts.append(packing.Text(number, piece[prefix:], packing.ones(len(piece) - prefix), self.special.start))
            else:
                first = window.first_input if number == 1 else self.special.start
                weights = (np.arange(len(piece)) >= prefix).astype(np.float32)
                texts.append(packing.Text(number, piece, weights, first if self.mode is None else self.mode, prefix))
        if not self.has_encoder:
            return packing.with_prefix(texts, self.target_length, self.special.pad)
        decoded = packing.decoder(texts, self.target_length, self.special.pad)
        return decoded | packing.encoder(sources, self.sequence_length, self.special.pad)
