"""A mixture of denoisers (UL2; Tay 2022, sections 3.1.2 and 3.1.3): each window by one of several, which a mode token names."""

from collections.abc import Sequence
from functools import partial
from typing import ClassVar, Literal

import numpy as np

from pretrainx.core.errors import InputError, nearest
from pretrainx.core.vocabulary import Vocabulary
from pretrainx.objectives import prefix, span_corruption, spans
from pretrainx.objectives.interface import Features, Prompt, Sight, Window
from pretrainx.objectives.losses import PredictsTargets

Form = Literal["encoder_decoder", "decoder"]
WHERE = "data.objectives.ul2"

# Table 1 of the paper: mode, mean span length, share of tokens to predict.
PAPER = (
    ("R", 3.0, 0.15),
    ("R", 8.0, 0.15),
    ("S", 0.0, 0.25),
    ("X", 3.0, 0.5),
    ("X", 8.0, 0.5),
    ("X", 64.0, 0.15),
    ("X", 64.0, 0.5),
)


class _Spans(span_corruption.Objective):
    where: ClassVar[str] = WHERE


class _Prefix(prefix.Objective):
    where: ClassVar[str] = WHERE


class Objective(PredictsTargets):
    """Features of `span_corruption` or `prefix`, by a denoiser drawn for the window as a whole.

    denoisers  rows (mode, mean span length, share to predict); default Table 1 of the paper, whose long spans have 64
               tokens (the later U-PaLM, Tay 2022b, has 32). Mode R is regular and X extreme span corruption; S is a prefix, of
               which the rest is predicted, with the share as its mean (25%, where T5's prefix objective has 50%) and
               the mean span length not used.
    rates      one for each denoiser; default all equal, as the code in the paper's appendix has it
    mode_tokens whether the mode is told: by the last three sentinels, -1 for R ([NLU] in the paper), -2 for S ([S2S]),
               -3 for X ([NLG]). They stand where `span_corruption` says.

    Span lengths are T5's: counts exact, every way of cutting equally likely; section 3.1.2 speaks of a normal
    distribution, the code in the appendix calls T5's function.

    All denoisers get windows of one length, the shortest that any of them needs: the features have one shape. Where
    the longer windows of span corruption matter, mix `span_corruption` and `prefix` in data.mixture, by their own
    `mode_token` and as objectives of their own.
    """

    def __init__(
        self,
        vocabulary: Vocabulary,
        sequence_length: int,
        form: Form = "encoder_decoder",
        denoisers: Sequence[Sequence[str | float]] = PAPER,
        rates: Sequence[float] | None = None,
        mode_tokens: bool = True,
    ):
        spans.check_form(form, WHERE)
        _check(denoisers, rates)
        make_rule = partial(span_corruption.make_rule, sequence_length=sequence_length, form=form, has_mode_token=mode_tokens, where=WHERE)
        rules = [make_rule(float(share), float(mean)) for mode, mean, share in denoisers if mode != "S"]
        lengths = [rule.largest() for rule in rules] + [sequence_length] * (len(rules) < len(denoisers))
        self.window_length = min(lengths)
        if mode_tokens:
            most = max([rule.counts(self.window_length)[1] for rule in rules], default=0)
            spans.need_sentinels(vocabulary, most + len(spans.MODES), WHERE, "one for each span of a window and one for each mode")
        self.denoisers = [self._make(vocabulary, sequence_length, row, form, mode_tokens) for row in denoisers]
        self.target_length = max(denoiser.target_length for denoiser in self.denoisers)
        for denoiser in self.denoisers:
            denoiser.target_length = self.target_length  # so that features have one shape
        self.sight: Sight = self.denoisers[0].sight
        shares = np.ones(len(denoisers)) if rates is None else np.asarray(rates, np.float64)
        self.rates = shares / shares.sum()

    def _make(
        self, vocabulary: Vocabulary, sequence_length: int, row: Sequence[str | float], form: Form, mode_tokens: bool
    ) -> _Spans | _Prefix:
        mode, mean, share = str(row[0]), float(row[1]), float(row[2])
        token = spans.MODES[mode] if mode_tokens else None
        if mode == "S":
            return _Prefix(vocabulary, sequence_length, form, share, mode_token=token, window_length=self.window_length)
        return _Spans(vocabulary, sequence_length, share, mean, form, mode_token=token, window_length=self.window_length)

    def prompt(self, text: list[int]) -> Prompt | None:
        """By the denoiser whose business it is, S; else by the first."""
        return next((d for d in self.denoisers if isinstance(d, _Prefix)), self.denoisers[0]).prompt(text)

    def draw(self, rng: np.random.Generator) -> int:
        """The number of the denoiser of a window: the first thing that `example` draws."""
        return int(rng.choice(len(self.denoisers), p=self.rates))

    def example(self, window: Window, rng: np.random.Generator) -> Features:
        return self.denoisers[self.draw(rng)].example(window, rng)


def _check(denoisers: Sequence[Sequence[str | float]], rates: Sequence[float] | None) -> None:
    if not denoisers:
        raise InputError(f"{WHERE}.denoisers is empty: accepted are rows (mode, mean span length, share to predict)")
    for row in denoisers:
        if len(row) != 3 or isinstance(row[1], str) or isinstance(row[2], str):
            raise InputError(f"{WHERE}.denoisers: {row!r} is no row (mode, mean span length, share to predict), as ('X', 64, 0.5)")
        if row[0] not in spans.MODES:
            raise InputError(f"{WHERE}.denoisers: unknown mode {row[0]!r}; {nearest(str(row[0]), spans.MODES)}")
    if rates is not None and (len(rates) != len(denoisers) or min(rates) < 0 or sum(rates) <= 0):
        raise InputError(
            f"{WHERE}.rates {list(rates)}: accepted are {len(denoisers)} numbers, one for each denoiser, none below 0, not all 0"
        )
