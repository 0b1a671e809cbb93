"""How examples of an objective are made: what the loader and SeqIO (tasks/objective_step.py) must do alike."""

from collections.abc import Sequence

import numpy as np

from pretrainx.core import plugins
from pretrainx.core.errors import InputError
from pretrainx.core.rng import generator
from pretrainx.core.sections import Data
from pretrainx.core.vocabulary import Vocabulary
from pretrainx.objectives.interface import Objective, Window


def make_objective(name: str, data: Data, vocabulary: Vocabulary) -> Objective:
    """The objective of a file in `objectives/`, or of the user's own module, with its arguments from `data.objectives`.

    Raises:
      InputError: no such objective, or it refuses an argument.
    """
    module = plugins.find("pretrainx.objectives", "Objective", name, "data.mixture")
    try:
        return module.Objective(vocabulary, data.sequence_length, **data.objectives.get(name, {}))
    except TypeError as error:
        raise InputError(f"data.objectives.{name}: {str(error).replace('Objective.__init__() ', '')}") from None


def randomness(seed: int, source: str, epoch: int, window: int) -> np.random.Generator:
    """What an example draws from; `source` is "corpus:objective"."""
    return generator(seed, "objective", source, epoch, window)


def from_pieces(tokens: np.ndarray, pieces: Sequence[tuple[int, int]], first_input: int) -> Window:
    """A Window from its tokens and the stretches of its documents; what no stretch covers is padding."""
    segment_ids, positions = np.zeros(len(tokens), np.int32), np.zeros(len(tokens), np.int32)
    for number, (first, last) in enumerate(pieces, 1):
        segment_ids[first:last] = number
        positions[first:last] = np.arange(last - first, dtype=np.int32)
    return Window(tokens, segment_ids, positions, first_input)


def feature_spec(objective: Objective, vocabulary: Vocabulary) -> dict[str, tuple[tuple[int, ...], np.dtype]]:
    """name -> (shape, dtype) of an example's features, which are the same for every window."""
    length = objective.window_length
    window = from_pieces(np.full(length, min(7, vocabulary.size - 1), np.int32), [(0, length)], vocabulary.special.start)
    return {name: (array.shape, array.dtype) for name, array in objective.example(window, np.random.default_rng(0)).items()}
