"""Compiled looks at every character: which documents hold something that a slower step must see."""

import numpy as np
from numba import njit


def any_marked(characters: np.ndarray, bounds: np.ndarray, classes: np.ndarray) -> np.ndarray:
    """bool[documents]: whether a document holds a character of class 4, one of 8 before a space, or one of 2 beside one of 1."""
    out = np.zeros(len(bounds) - 1, np.bool_)
    _look(characters, bounds, classes, out)
    return out


@njit(cache=True)
def _look(characters, bounds, classes, out):
    for document in range(len(bounds) - 1):
        before = 0
        for position in range(bounds[document], bounds[document + 1]):
            code = characters[position]
            here = classes[code]
            if here & 4 or (before & 8 and code == 32) or (here & 1 and before & 1 and (here | before) & 2):
                out[document] = True
                break
            before = here
