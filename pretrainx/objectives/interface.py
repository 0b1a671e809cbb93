"""What an objective gets, what it gives, and what it must define (as the class `Objective` of its file)."""

from dataclasses import dataclass
from typing import Any, ClassVar, Protocol

import jax
import numpy as np

from pretrainx.core.vocabulary import Vocabulary

Features = dict[str, np.ndarray]


@dataclass(frozen=True)
class Window:
    """A stretch of a corpus's token stream, with the documents it crosses marked.

    tokens       int32[W], padded with the pad id
    segment_ids  int32[W], 1, 2, ... for the documents in order; 0 is padding
    positions    int32[W], from 0 in each segment
    first_input  what a left-to-right model has seen before tokens[0]: the token before it, or the start id where
                 the document begins here
    """

    tokens: np.ndarray
    segment_ids: np.ndarray
    positions: np.ndarray
    first_input: int


@dataclass(frozen=True)
class Loss:
    """Summed loss and summed weight, float32 scalars: a batch divides one by the other over all devices, once."""

    total: jax.Array
    weight: jax.Array


class Objective(Protocol):
    """One instance serves one run: `Objective(vocabulary, sequence_length, **options)`.

    `causal` says which sight the model must have; `window_length` how much of the stream an example takes.
    """

    causal: ClassVar[bool]
    window_length: int

    def __init__(self, vocabulary: Vocabulary, sequence_length: int, **options: Any): ...

    def example(self, window: Window, rng: np.random.Generator) -> Features:
        """Features of fixed shapes; depends on the window and on what `rng` gives, on nothing else."""
        ...

    def weight(self, batch: dict[str, Any]) -> jax.Array:
        """The summed weight that `loss` will report, known without running the model."""
        ...

    def loss(self, outputs: Any, batch: dict[str, jax.Array]) -> Loss:
        """Of the rows whose loss_weights are not zero."""
        ...
