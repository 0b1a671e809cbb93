"""Span corruption (Raffel 2020, sections 3.1.4 and 3.3.4): spans leave the text, a sentinel each stays, and the spans are predicted."""

from dataclasses import dataclass
from typing import ClassVar, Literal

import numpy as np

from pretrainx.core.errors import InputError
from pretrainx.core.vocabulary import Vocabulary
from pretrainx.objectives import packing, spans
from pretrainx.objectives.interface import Batch, Features, Loss, Prompt, Sight, Window
from pretrainx.objectives.losses import PredictsTargets, predicted_cross_entropy

Form = Literal["encoder_decoder", "decoder"]
TOKENS_PER_SPAN = 32  # there is room for a span in so many tokens, also where the mean span is longer: many short documents


@dataclass(frozen=True)
class Rule:
    """How many tokens and spans a window gives, and what that makes of the lengths of rows."""

    noise_density: float
    mean_span_length: float
    sequence_length: int
    has_encoder: bool
    extra: int  # tokens before each source

    def counts(self, length: int) -> tuple[int, int]:
        """(noise tokens, spans) of so many tokens. One token alone is kept: T5's code would leave nothing of it."""
        if length < 2:
            return 0, 0
        noise = min(max(round(length * self.noise_density), 1), length - 1)
        return noise, min(max(round(noise / self.mean_span_length), 1), noise, length - noise)

    def most_spans(self, length: int) -> int:
        """In a window of so many tokens, over all its documents."""
        return max(self.counts(length)[1], length // TOKENS_PER_SPAN)

    def largest(self) -> int:
        """The most tokens of which every window fits."""
        length = 1
        while self._fits(length + 1):
            length += 1
        return length

    def _fits(self, length: int) -> bool:
        """Of so many tokens; if so, then of fewer too."""
        (noise, count), most = self.counts(length), self.most_spans(length)
        if not self.has_encoder:  # each span: a sentinel here, one there, and perhaps an end token
            return length + 3 * most <= self.sequence_length
        return max(length - noise + count + self.extra, (2 + self.extra) * most) <= self.sequence_length

    def excess(self, length: int, spans_given: int, sources: int) -> int:
        """How many tokens the encoder has no room for, with so many spans, in so many documents, if none were noise."""
        return length + spans_given + self.extra * sources - self.sequence_length if self.has_encoder else 0

    def most_predicted(self, length: int) -> int:
        """N tokens, or what must leave the source so that it fits; and a sentinel and an end token for each span."""
        noise, most = self.counts(length)[0], self.most_spans(length)
        return max(1, max(noise, most, self.excess(length, most, most)) + 2 * most)


class Objective(PredictsTargets):
    """Of W tokens, N = round(W * noise_density) are noise, in S = round(N / mean_span_length) spans: T5's released rule.

    Noise is cut into S parts, and the rest into S stretches before them, each way of cutting equally likely. So a text
    begins with what is kept and ends in a span (`random_spans_noise_mask` as published); with `roll` the spans may lie
    anywhere, with a kept token between two. The source is the text with a sentinel for each span; the target is each
    sentinel with its span, and the end token (figure 2 of the paper ends in one more sentinel, the released code does
    not). The source gets no end token of its own: the text has one where a document ends.

    Documents of a window are corrupted each by itself; sentinels start anew in each. W, N and S are those of the whole
    window, and documents get spans in proportion to their length; one too short to get any is read, and nothing of it
    predicted. Where the S spans would take more than about half of the documents they are in, more documents get one
    (up to one in 32 tokens). N is exceeded by what further sentinels and mode tokens need. It is missed only in windows
    of tiny documents (of 4 tokens with T5's values, of 16 with spans of 64 and a density of 0.5); the source would not
    fit there, so the last tokens of some documents without a span wait in the decoder's row, unpredicted.

    encoder_decoder  the source is encoder_* [sequence_length], the target the other features [target_length]. A window
                     has as many tokens as fit if they are one document: 569 for 512 (T5: 568 and an end token).
                     target_length is what fits whatever the documents are, in general N + 2 S, as each span may
                     be another document's and need an end token: 141, where one document makes N + S + 1 = 114.
    decoder          source and target in one row of sequence_length, the source as the prefix, only the target predicted

    mode_token       the index of a sentinel (-1 is the last) put before each source of which something is predicted, or,
                     in a decoder, read in the place of the start token by every document (ul2.py)
    window_length    a shorter window than would fit, so that several entries of a mixture have one length
    """

    where: ClassVar[str] = "data.objectives.span_corruption"
    num_predicted: int

    def __init__(
        self,
        vocabulary: Vocabulary,
        sequence_length: int,
        noise_density: float = 0.15,
        mean_span_length: float = 3.0,
        form: Form = "encoder_decoder",
        roll: bool = False,
        mode_token: int | None = None,
        window_length: int | None = None,
    ):
        spans.check_form(form, self.where)
        self.rule = make_rule(noise_density, mean_span_length, sequence_length, form, mode_token is not None, self.where)
        self.special, self.sequence_length, self.roll = vocabulary.special, sequence_length, roll
        self.has_encoder = self.rule.has_encoder
        self.sight: Sight = "encoder_decoder" if self.has_encoder else "prefix"
        self.window_length = spans.check_window_length(window_length, self.rule.largest(), self.where)
        count = self.rule.counts(self.window_length)[1]
        spans.need_sentinels(vocabulary, count, self.where, "one for each span of a window")
        self.sentinels = vocabulary.sentinels(count)
        self.mode = spans.check_mode_token(vocabulary, mode_token, count, self.where)
        self.num_predicted = self.rule.most_predicted(self.window_length)
        self.target_length = self.num_predicted if self.has_encoder else sequence_length

    def allot(self, lengths: np.ndarray, rng: np.random.Generator) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        """(noise tokens, spans, tokens that wait in the decoder's row) of each document: int[K] each."""
        length = int(lengths.sum())
        noise, count = self.rule.counts(length)
        if not count:
            return np.zeros_like(lengths), np.zeros_like(lengths), np.zeros_like(lengths)
        phase = rng.random()
        # Half way from the density to everything is what a document should give at most.
        wanted = np.minimum((lengths * (1 + self.rule.noise_density) / 2).astype(np.int64), lengths - 1)
        for number in range(count, self.rule.most_spans(length) + 1):
            given = spans.spread(number, lengths, np.minimum(lengths // 2, len(self.sentinels)), phase)
            excess = self.rule.excess(length, int(given.sum()), int(np.count_nonzero(given)))
            needed = max(noise, int(given.sum()), excess)
            if wanted[given > 0].sum() >= needed or given.sum() < number:
                break
        taken = given.copy()
        for most in (np.maximum(wanted, given), lengths):  # more than is wanted only where it must be
            most = np.minimum(most, lengths - given)
            taken += spans.spread(needed - int(taken.sum()), given, np.where(given > 0, most - taken, 0), phase)
        return taken, given, self._waiting(lengths, given, excess - int(taken.sum()))

    @staticmethod
    def _waiting(lengths: np.ndarray, given: np.ndarray, excess: int) -> np.ndarray:
        """The last tokens of documents without spans; all of a document only if leaving each one does not suffice."""
        waiting = np.zeros_like(lengths)
        for kept in (1, 0) if excess > 0 else ():
            for i in np.argsort(-lengths, kind="stable"):
                if excess > 0 and not given[i]:
                    more = min(excess, int(lengths[i] - waiting[i]) - kept)
                    waiting[i], excess = waiting[i] + more, excess - more
        return waiting

    def corrupt(self, piece: np.ndarray, noise: int, count: int, rng: np.random.Generator) -> tuple[np.ndarray, np.ndarray]:
        """(source, target) of one document."""
        sizes = spans.compose(noise, count, rng)
        starts = spans.arrange(len(piece) - noise, sizes, rng, free_ends=self.roll)
        source, _ = spans.replace_spans(piece, starts, sizes, self.sentinels[:count])
        target = np.full(noise + count + 1, self.special.eos, np.int32)
        told = np.ones(len(target), bool)
        marks = np.cumsum(sizes + 1) - sizes - 1
        told[marks], told[-1] = False, False
        target[marks], target[told] = self.sentinels[:count], piece[spans.inside(len(piece), starts, sizes)]
        return source, target

    def prompt(self, text: list[int]) -> Prompt:
        """The text, and the first sentinel for what comes after it."""
        mode, span = [] if self.mode is None else [self.mode], int(self.sentinels[0])
        stop = tuple(self.sentinels[1:2].tolist())
        if self.has_encoder:
            return Prompt([self.special.start, span], source=[*mode, *text, span], stop=stop)
        source = [*(mode or [self.special.start]), *text, span]
        return Prompt([*source, span], seen=len(source), stop=stop)

    def example(self, window: Window, rng: np.random.Generator) -> Features:
        pieces = spans.pieces_of(window)
        shares = self.allot(np.asarray([len(piece) for piece in pieces], np.int64), rng)
        sources, texts = [], []
        for number, (piece, noise, count, waiting) in enumerate(zip(pieces, *(share.tolist() for share in shares), strict=True), 1):
            kept = len(piece) - waiting
            source, target = self.corrupt(piece, noise, count, rng) if count else (piece[:kept], piece[kept:])
            weights = np.full(len(target), count > 0, np.float32)
            if self.has_encoder:
                sources.append((number, np.append(np.int32(self.mode), source) if self.mode is not None and count else source))
                if len(target):
                    texts.append(packing.Text(number, target, weights, self.special.start))
            else:
                first = self.special.start if self.mode is None else self.mode
                string, weights = np.concatenate([source, target]), np.concatenate([np.zeros(len(source), np.float32), weights])
                texts.append(packing.Text(number, string, weights, first, len(source)))
        if not self.has_encoder:
            return packing.with_prefix(texts, self.target_length, self.special.pad)
        decoded = packing.decoder(texts, self.target_length, self.special.pad)
        return decoded | packing.encoder(sources, self.sequence_length, self.special.pad)

    def loss(self, outputs: object, batch: Batch) -> dict[str, Loss]:
        if batch["targets"].shape[1] <= self.num_predicted:  # all of the row may be predicted
            return super().loss(outputs, batch)
        return {"tokens": predicted_cross_entropy(outputs, batch["targets"], batch["loss_weights"], self.num_predicted)}


def make_rule(noise_density: float, mean_span_length: float, sequence_length: int, form: Form, has_mode_token: bool, where: str) -> Rule:
    """The rule, after a look at its numbers; `where` is the config key for errors."""
    spans.check_share(noise_density, f"{where}.noise_density")
    if mean_span_length < 1:
        raise InputError(f"{where}.mean_span_length {mean_span_length}: accepted are numbers from 1")
    has_encoder = form == "encoder_decoder"
    return Rule(noise_density, mean_span_length, sequence_length, has_encoder, int(has_encoder and has_mode_token))
