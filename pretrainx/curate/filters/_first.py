"""From rules to reasons: the first rule that speaks against a document."""

from collections.abc import Mapping

import numpy as np


def first_reason(name: str, broken: Mapping[str, np.ndarray], documents: int) -> list[str]:
    """For each document "" or "<name>/<first rule broken>".

    >>> first_reason("length", {"short": np.array([True, False]), "long": np.array([True, False])}, 2)
    ['length/short', '']
    """
    reasons = [""] * documents
    for rule, against in reversed(list(broken.items())):
        for index in np.flatnonzero(against):
            reasons[index] = f"{name}/{rule}"
    return reasons
