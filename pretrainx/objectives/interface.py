"""What an objective gets, what it gives, and what it must define (as the class `Objective` of its file)."""

from dataclasses import dataclass
from typing import Any, ClassVar, Literal, Protocol

import jax
import numpy as np

from pretrainx.core.vocabulary import Vocabulary

Features = dict[str, np.ndarray]
Batch = dict[str, jax.Array]
Sight = Literal["causal", "prefix", "bidirectional", "encoder_decoder", "any"]


@dataclass(frozen=True)
class Window:
    """A stretch of a corpus's token stream, with the documents it crosses marked.

    tokens       int32[W], padded with the pad id
    segment_ids  int32[W], 1, 2, ... for the documents in order; 0 is padding
    positions    int32[W], from 0 in each segment
    first_input  what a left-to-right model has seen before tokens[0]: the token before it, or the start id where
                 the document begins here
    elsewhere    int32[<= W], a stretch of another document of the corpus, for objectives that say `needs_elsewhere`;
                 empty for the others, and where the corpus has no other document
    """

    tokens: np.ndarray
    segment_ids: np.ndarray
    positions: np.ndarray
    first_input: int
    elsewhere: np.ndarray


@dataclass(frozen=True)
class Prompt:
    """What a model reads so as to go on from a text, as the objective taught it.

    tokens   ids that the decoder reads before the first one it makes; at least one
    seen     all of them may see so many of the first
    source   ids for the encoder; None: the model has none
    stop     ids, beyond the end of document, that end what is made
    """

    tokens: list[int]
    seen: int = 0
    source: list[int] | None = None
    stop: tuple[int, ...] = ()


@dataclass(frozen=True)
class Loss:
    """Sums over the positions (or rows) that count, float32 scalars: a batch divides by the weight once, over all devices.

    `correct` is the summed weight of right first guesses, where an objective says; it costs nothing where it is not read.
    """

    total: jax.Array
    weight: jax.Array
    correct: jax.Array | None = None


class Objective(Protocol):
    """One instance serves one run: `Objective(vocabulary, sequence_length, **options)`.

    sight            what the model must see: `causal` leftwards; `prefix` leftwards, and all of a marked prefix;
                     `bidirectional`; `encoder_decoder`; or `any`: what it reads off the model does not ask for one
    window_length    how much of the stream an example takes
    terms            the losses it is the weighted sum of, with the weights it was published with
    needs            heads of the model beyond the one over tokens: "pair", "boundary", "replaced", "neighbours"
    reads            features of labelled records that its examples are made of, one record each; none: it reads windows of the stream
    needs_elsewhere  whether windows must come with a stretch of another document
    codes_text       whether the predicted tokens are the text itself, so that bits per byte mean something
    num_predicted    the most positions of one example that have a weight in the loss over tokens; None: any number
    runs_stacks      whether its loss needs the hidden states of the model's stacks
    aligned          whether place i of the features is place i of the window, so that a row can be shown as marked text

    Features are arrays of fixed shapes: `tokens, targets, loss_weights, positions, segment_ids` of [length], and, where
    the sight is not causal, `bidirectional` [length]: 1 where every position of the segment may look, in a model that
    is causal otherwise. An encoder beside the decoder reads `encoder_tokens, encoder_positions, encoder_segment_ids`;
    a segment of the decoder looks at the encoder's segment of the same number. What is `..._weights` counts in a loss;
    rows of other objectives of the batch have zeros there.
    """

    sight: Sight
    window_length: int
    terms: dict[str, float]
    needs: tuple[str, ...]
    reads: ClassVar[tuple[str, ...]]
    needs_elsewhere: ClassVar[bool]
    codes_text: ClassVar[bool]
    num_predicted: int | None
    runs_stacks: bool
    aligned: bool

    def __init__(self, vocabulary: Vocabulary, sequence_length: int, **options: Any): ...

    def example(self, window: Any, rng: np.random.Generator) -> Features:
        """Of a Window, or of a record {feature: int32[n]} where it `reads` those; depends on that and on what `rng` gives alone."""
        ...

    def prompt(self, text: list[int]) -> Prompt | None:
        """How to have the model go on from a text (ids without special tokens); None: it was not taught to."""
        ...

    def weights(self, batch: Batch) -> dict[str, jax.Array]:
        """term -> the summed weight that `loss` will report, known without running the model."""
        ...

    def loss(self, outputs: Any, batch: Batch) -> dict[str, Loss]:
        """term -> loss, of what the batch's weights count. `outputs` is models/transformer.py: Outputs."""
        ...


class Defaults:
    """What most objectives are: one term over `targets`, no further head, no other document."""

    sight: Sight = "causal"
    window_length: int
    terms: dict[str, float] = {"tokens": 1.0}  # noqa: RUF012 - never written to
    needs: tuple[str, ...] = ()
    reads: ClassVar[tuple[str, ...]] = ()
    needs_elsewhere: ClassVar[bool] = False
    codes_text: ClassVar[bool] = False
    num_predicted: int | None = None
    runs_stacks: bool = True
    aligned: bool = False

    def prompt(self, text: list[int]) -> Prompt | None:
        del text
        return None
