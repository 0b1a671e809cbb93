"""Denoising (BART; Lewis 2020, section 2.2): the encoder reads a corrupted document, the decoder writes the original."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np

from pretrainx.core.errors import InputError, nearest
from pretrainx.core.vocabulary import Vocabulary
from pretrainx.objectives import packing, spans
from pretrainx.objectives.interface import Features, Prompt, Sight, Window
from pretrainx.objectives.losses import PredictsTargets

WHERE = "data.objectives.denoising"


@dataclass(frozen=True)
class Noise:
    """What the transforms need to know."""

    mask_rate: float
    poisson_lambda: float
    mask: int
    ends_sentence: np.ndarray  # bool[vocabulary size]

    def count(self, length: int, rng: np.random.Generator) -> int:
        """mask_rate of so many tokens, its fraction rounded up as often as it is large: right on average in short documents too."""
        return int(length * self.mask_rate + rng.random())


Transform = Callable[[np.ndarray, Noise, np.random.Generator], np.ndarray]


def token_masking(tokens: np.ndarray, noise: Noise, rng: np.random.Generator) -> np.ndarray:
    """mask_rate of the tokens become masks."""
    masked = tokens.copy()
    masked[rng.choice(len(tokens), noise.count(len(tokens), rng), replace=False)] = noise.mask
    return masked


def token_deletion(tokens: np.ndarray, noise: Noise, rng: np.random.Generator) -> np.ndarray:
    """mask_rate of the tokens are missing; one at least stays."""
    count = min(noise.count(len(tokens), rng), len(tokens) - 1)
    return np.delete(tokens, rng.choice(len(tokens), count, replace=False))


def text_infilling(tokens: np.ndarray, noise: Noise, rng: np.random.Generator) -> np.ndarray:
    """Spans of Poisson lengths, mask_rate of the tokens in all, become one mask each; a span of length 0 puts one in.

    Spans are drawn until the count is reached, and the last is cut to reach it. A kept token lies between two spans. As
    many masks are put in as tokens leave, at most, so that the document does not get longer.
    """
    count = noise.count(len(tokens), rng)
    drawn = spans.poisson_sizes(count, noise.poisson_lambda, rng)
    lengths = drawn[drawn > 0]
    most = len(tokens) - count + 1  # so that a kept token can lie between two spans
    if len(lengths) > most:
        lengths = np.append(lengths[: most - 1], lengths[most - 1 :].sum())
    if len(lengths):
        sizes = rng.permutation(lengths)
        tokens, _ = spans.replace_spans(tokens, spans.arrange(len(tokens) - count, sizes, rng), sizes, noise.mask)
    insertions = min(int(np.count_nonzero(drawn == 0)), count - len(lengths))
    return np.insert(tokens, rng.integers(len(tokens) + 1, size=insertions), noise.mask)


def sentence_permutation(tokens: np.ndarray, noise: Noise, rng: np.random.Generator) -> np.ndarray:
    """The sentences in random order. A sentence is over after a token that may end one, if the next may not."""
    ends = noise.ends_sentence[tokens]
    sentences = np.split(tokens, np.flatnonzero(ends[:-1] & ~ends[1:]) + 1)
    return np.concatenate([sentences[i] for i in rng.permutation(len(sentences))])


def document_rotation(tokens: np.ndarray, noise: Noise, rng: np.random.Generator) -> np.ndarray:
    """The document from a random token on, and then its beginning."""
    return np.roll(tokens, -int(rng.integers(len(tokens))))


TRANSFORMS: dict[str, Transform] = {
    function.__name__: function for function in (token_masking, token_deletion, text_infilling, sentence_permutation, document_rotation)
}


class Objective(PredictsTargets):
    """Features: encoder_* and those of a decoder, each [sequence_length]; every token of the window is predicted.

    `transforms` names those above, applied in this order to each document by itself; the default is the paper's final
    choice (section 5.1: 30% of the tokens, sentences permuted). Its spans have a mean length of 3 (section 2.2); the
    command that its authors published for the released models has 3.5. The end-of-document token stays where it is.
    """

    sight: Sight = "encoder_decoder"

    def __init__(
        self,
        vocabulary: Vocabulary,
        sequence_length: int,
        transforms: Sequence[str] = ("sentence_permutation", "text_infilling"),
        mask_rate: float = 0.3,
        poisson_lambda: float = 3.0,
    ):
        for name in transforms:
            if name not in TRANSFORMS:
                raise InputError(f"{WHERE}.transforms: unknown name {name!r}; {nearest(str(name), TRANSFORMS)}")
        if isinstance(transforms, str) or not transforms:
            raise InputError(f"{WHERE}.transforms {transforms!r}: accepted is a list of one or more of {', '.join(TRANSFORMS)}")
        spans.check_share(mask_rate, f"{WHERE}.mask_rate", 1.0, inclusive=True)
        if poisson_lambda <= 0:
            raise InputError(f"{WHERE}.poisson_lambda {poisson_lambda}: accepted are numbers above 0")
        masks = {"token_masking", "text_infilling"} & set(transforms)
        mask = spans.need_mask(vocabulary, WHERE) if masks else -1
        self.noise = Noise(mask_rate, poisson_lambda, mask, vocabulary.ends_sentence)
        self.transforms = [TRANSFORMS[name] for name in transforms]
        self.special, self.window_length = vocabulary.special, sequence_length

    def prompt(self, text: list[int]) -> Prompt:
        """The encoder reads the text and a mask; the decoder, which tells it all again, has told the text already."""
        mask = [] if self.noise.mask < 0 else [self.noise.mask]
        return Prompt([self.special.start, *text], source=[*text, *mask] or [self.special.eos])

    def corrupt(self, piece: np.ndarray, rng: np.random.Generator) -> np.ndarray:
        """What the encoder reads of a document: at least one token, and no more than the document has."""
        body, end = (piece[:-1], piece[-1:]) if piece[-1] == self.special.eos else (piece, piece[:0])
        for transform in self.transforms if len(body) else ():
            body = transform(body, self.noise, rng)
        return np.concatenate([body, end])

    def example(self, window: Window, rng: np.random.Generator) -> Features:
        pieces = list(enumerate(spans.pieces_of(window), 1))
        sources = [(number, self.corrupt(piece, rng)) for number, piece in pieces]
        texts = [packing.Text(number, piece, packing.ones(len(piece)), self.special.start) for number, piece in pieces]
        decoded = packing.decoder(texts, self.window_length, self.special.pad)
        return decoded | packing.encoder(sources, self.window_length, self.special.pad)
