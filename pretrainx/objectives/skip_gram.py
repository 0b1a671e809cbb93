"""Skip-gram with negative sampling: each word tells those around it from words drawn at random (Mikolov 2013b, sections 2.2 and 2.3).

Only the table of tokens learns, and no stack runs: vectors for a model to begin with (`init_from`), for a sixtieth of the
operations a word that a small masked model takes. Vocabularies of whole words suit it.

Legend: B batch, L length, K words drawn for a row, E the embedding's own size.
"""

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from pretrainx.core.errors import InputError
from pretrainx.core.vocabulary import Vocabulary
from pretrainx.objectives import spans
from pretrainx.objectives.interface import Batch, Defaults, Features, Loss, Sight, Window
from pretrainx.objectives.packing import counting, row

NOISE_POWER = 0.75  # of frequencies, for words drawn at random (Mikolov 2013b, section 2.2)
MANDELBROT = 2.7  # a word's share of a text goes with 1 / (rank + 2.7) (Mandelbrot 1953)


class Objective(Defaults):
    """Features [sequence_length]: tokens, targets (the same), loss_weights, positions, segment_ids, bidirectional, and `reach`: how
    far a word's neighbours lie at most, drawn evenly from 1 to `window`, so that near ones count more. `drawn` int32 [num_drawn]: the
    row's words drawn at random, which all of its words are told from; their loss is scaled as if each pair had `negatives` of its own.

    A row is a stretch of `stretch` times its length, of which special tokens and most of the frequent words are left out
    before neighbours are counted: a word that makes a share f of the text stays with a chance of sqrt(t / f) + t / f, where t is
    `subsample` (0: all stay), as in the authors' code. Shares are taken from ids, which vocabularies of words and pieces have in
    order of frequency.
    """

    sight: Sight = "any"
    needs: tuple[str, ...] = ("neighbours",)
    num_predicted = 0  # neither the head over tokens is run
    runs_stacks = False  # nor a stack

    def __init__(
        self,
        vocabulary: Vocabulary,
        sequence_length: int,
        window: int = 5,
        negatives: int = 8,
        num_drawn: int = 64,
        subsample: float = 1e-4,
        stretch: int = 2,
    ):
        where = "data.objectives.skip_gram"
        whole = {"window": window, "negatives": negatives, "num_drawn": num_drawn, "stretch": stretch}
        for name, value in whole.items():
            spans.check_count(value, f"{where}.{name}")
        if not 0 <= subsample < 1:
            raise InputError(f"{where}.subsample {subsample}: accepted are numbers from 0 and below 1; 0 keeps all words")
        self.window, self.negatives, self.num_drawn = window, negatives, num_drawn
        self.sequence_length, self.window_length = sequence_length, stretch * sequence_length
        self.pad = vocabulary.special.pad
        shares = shares_of(vocabulary)
        ratio = subsample / np.where(shares > 0, shares, 1)
        self.kept = np.where(shares > 0, np.sqrt(ratio) + ratio if subsample else 1.0, 0.0)
        noise = shares**NOISE_POWER
        self.noise = np.cumsum(noise / noise.sum())

    def example(self, window: Window, rng: np.random.Generator) -> Features:
        length = self.sequence_length
        stays = (window.segment_ids > 0) & (rng.random(len(window.tokens)) < self.kept[window.tokens])
        places = np.flatnonzero(stays)[:length]
        segments = window.segment_ids[places]
        documents = np.split(window.tokens[places], np.flatnonzero(np.diff(segments)) + 1)
        tokens, segment_ids = row(documents, length, self.pad), row([segments], length, 0)
        reach = rng.integers(1, self.window + 1, length)
        drawn = np.minimum(np.searchsorted(self.noise, rng.random(self.num_drawn), "right"), len(self.noise) - 1)
        return {
            "tokens": tokens,
            "targets": tokens,
            "loss_weights": (segment_ids > 0).astype(np.float32),
            "positions": row(counting(documents), length, 0),
            "segment_ids": segment_ids,
            "bidirectional": (segment_ids > 0).astype(np.int32),
            "reach": reach.astype(np.int32),
            "drawn": drawn.astype(np.int32),
        }

    def weights(self, batch: Batch) -> dict[str, jax.Array]:
        return {"tokens": jnp.sum(pair_weights(batch))}

    def loss(self, outputs: Any, batch: Batch) -> dict[str, Loss]:
        near, far = outputs.heads["neighbours"](batch["tokens"], batch["drawn"])
        pairs_BLL = pair_weights(batch)
        neighbours_BL = jnp.sum(pairs_BLL, axis=-1)
        apart = jnp.sum(jax.nn.softplus(far), axis=-1) * (self.negatives / self.num_drawn)
        total = jnp.sum(jax.nn.softplus(-near) * pairs_BLL) + jnp.sum(apart * neighbours_BL)
        return {"tokens": Loss(total, jnp.sum(neighbours_BL), jnp.sum((near > 0) * pairs_BLL))}


def pair_weights(batch: Batch) -> jax.Array:
    """float32 [B, L, L]: whether the second token is a neighbour of the first."""
    segments, places = batch["segment_ids"], jnp.arange(batch["tokens"].shape[1])
    distance = jnp.abs(places[:, None] - places[None])
    near = (distance > 0) & (distance <= batch["reach"][:, :, None]) & (segments[:, :, None] == segments[:, None])
    return near * batch["loss_weights"][:, :, None] * (segments > 0)[:, None]


def shares_of(vocabulary: Vocabulary) -> np.ndarray:
    """float64[size]: the share of a text that each id makes, by its rank among those that stand for text; 0 for all others."""
    ordinary = vocabulary.is_ordinary
    shares = np.where(ordinary, 1 / (np.cumsum(ordinary) - 1 + MANDELBROT), 0.0)
    return shares / shares.sum()
