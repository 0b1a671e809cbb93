"""How examples of an objective are made: what the loader and SeqIO (tasks/objective_step.py) must do alike."""

from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any

import numpy as np

from pretrainx.core import plugins, schema
from pretrainx.core.errors import InputError
from pretrainx.core.rng import generator
from pretrainx.core.sections import Data
from pretrainx.core.vocabulary import Vocabulary
from pretrainx.objectives.interface import Features, Objective, Window

PACKAGE = "pretrainx.objectives"
NOTHING = np.zeros(0, np.int32)


def make_objective(name: str, data: Data, vocabulary: Vocabulary) -> Objective:
    """The objective of a file in `objectives/`, or of the user's own module, with its arguments from `data.objectives`.

    A name of one's own stands for an objective with other arguments, so that a mixture can hold several of a kind:
    {"long_spans": {"objective": "span_corruption", "mean_span_length": 32.0}} makes "corpus:long_spans" an entry.

    Raises:
      InputError: no such objective, or it refuses an argument.
    """
    options = dict(data.objectives.get(name, {}))
    own = "objective" in options
    module = plugins.find(
        PACKAGE, "Objective", options.pop("objective", name), f"data.objectives.{name}.objective" if own else "data.mixture"
    )
    options = schema.arguments(module.Objective, 2, options, f"data.objectives.{name}")
    return module.Objective(vocabulary, data.sequence_length, **options)


def make_objectives(names: Iterable[str], data: Data, vocabulary: Vocabulary) -> dict[str, Objective]:
    """{name: objective}, in the order of the names."""
    return {name: make_objective(name, data, vocabulary) for name in names}


def names_of_plain_text() -> list[str]:
    """The objectives that read windows of plain text: what a model is pretrained on."""
    names = plugins.names(PACKAGE, "Objective")
    return [name for name in names if not plugins.find(PACKAGE, "Objective", name, "").Objective.reads]


def randomness(seed: int, source: str, epoch: int, window: int) -> np.random.Generator:
    """What an example draws from; `source` is "corpus:objective"."""
    return generator(seed, "objective", source, epoch, window)


def from_pieces(tokens: np.ndarray, pieces: Sequence[tuple[int, int]], first_input: int, elsewhere: np.ndarray = NOTHING) -> Window:
    """A Window from its tokens and the stretches of its documents; what no stretch covers is padding."""
    segment_ids, positions = np.zeros(len(tokens), np.int32), np.zeros(len(tokens), np.int32)
    for number, (first, last) in enumerate(pieces, 1):
        segment_ids[first:last] = number
        positions[first:last] = np.arange(last - first, dtype=np.int32)
    return Window(tokens, segment_ids, positions, first_input, elsewhere)


def choose_elsewhere(
    address: tuple[int, str, int, int],
    num_documents: int,
    own: tuple[int, int],
    span_of: Callable[[int], tuple[int, int]],
    length: int,
) -> tuple[int, int]:
    """Where in the stream a window's `elsewhere` lies: [start, stop) inside another document; (0, 0) if there is none.

    The document is drawn evenly (as Devlin 2018 draws) from those that the window does not touch: all but own[0] to
    own[1] - 1; the start evenly inside it, where at least a quarter of `length` follows if the document is that long.
    `address` is (seed, source, epoch, window); `span_of` gives a document's place in the stream.
    """
    first, after = own
    if num_documents <= after - first:
        return 0, 0
    seed, source, epoch, window = address
    rng = generator(seed, "elsewhere", source, epoch, window)
    document = int(rng.integers(num_documents - (after - first)))
    begin, end = span_of(document + (after - first) * (document >= first))
    start = begin + int(rng.integers(max(1, end - begin - length // 4)))
    return start, min(start + length, end)


Spec = dict[str, tuple[tuple[int, ...], np.dtype]]


def feature_spec(objective: Objective, vocabulary: Vocabulary) -> Spec:
    """name -> (shape, dtype) of an example's features, which are the same for every window."""
    length = objective.window_length
    tokens = np.full(length, min(7, vocabulary.size - 1), np.int32)
    window: Any = from_pieces(tokens, [(0, length)], vocabulary.special.start, tokens)
    if objective.reads:
        window = {feature: tokens[:1] for feature in objective.reads}
    return {name: (array.shape, array.dtype) for name, array in objective.example(window, np.random.default_rng(0)).items()}


def joint_spec(objectives: Mapping[str, Objective], vocabulary: Vocabulary) -> Spec:
    """name -> (shape, dtype) in a batch that these objectives share: every feature of any, as long as the longest."""
    joint: Spec = {}
    for name, objective in objectives.items():
        for feature, made in feature_spec(objective, vocabulary).items():
            shape, dtype = joint.get(feature, made)
            if len(shape) != len(made[0]) or dtype != made[1]:
                raise InputError(
                    f"data.mixture: objectives disagree on feature {feature!r}: {(shape, dtype)} against {made} in {name}; "
                    "they cannot share a batch"
                )
            joint[feature] = tuple(map(max, shape, made[0])), dtype
    return joint


def fill(arrays: Features, features: Features, place: tuple[int, ...] = ()) -> None:
    """Writes an example into (rows of) arrays of a joint spec that hold zeros: what it lacks stays zero, and counts in no loss."""
    for name, array in features.items():
        index: tuple[Any, ...] = (*place, *(slice(size) for size in array.shape))
        arrays[name][index] = array
