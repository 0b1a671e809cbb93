"""What objectives that take documents apart share: how much of each document, which parts of it, and which sentinels.

Legend: K documents in a window, of `lengths` [K] tokens.
"""

import numpy as np

from pretrainx.core.errors import InputError
from pretrainx.core.vocabulary import Vocabulary
from pretrainx.objectives.interface import Window

# Sentinels that mean something by themselves are taken from the end (the lowest ids), spans from the beginning, so that
# objectives of one mixture do not share any as long as the vocabulary has enough of them.
MODES = {"R": -1, "S": -2, "X": -3}  # ul2
FILL_IN_MIDDLE = {"prefix": -4, "suffix": -5, "middle": -6}
BLANK_INFILLING = {"start": -7, "end": -8}


def pieces_of(window: Window) -> list[np.ndarray]:
    """The tokens of each document of the window, in order; padding is in none."""
    segment_ids = window.segment_ids
    count = int(np.count_nonzero(segment_ids))
    cuts = np.flatnonzero(segment_ids[1:count] != segment_ids[: max(count - 1, 0)]) + 1
    return np.split(window.tokens[:count], cuts) if count else []


def spread(total: int, weights: np.ndarray, most: np.ndarray, phase: float) -> np.ndarray:
    """int[K] that sum to `total`, in proportion to the weights but at most `most` each; what has no place there goes to others.

    Fractions are rounded so that, over a `phase` uniform in [0, 1), everyone gets their share on average (systematic
    sampling). The sum falls short of `total` only where all with a weight have their most.
    """
    given = np.zeros(len(weights), np.int64)
    while (left := total - int(given.sum())) > 0:
        open_weights = np.where(given < most, weights, 0).astype(np.int64)
        whole = int(open_weights.sum())
        if not whole:
            break
        edges = (np.cumsum(open_weights) * left + int(phase * whole)) // whole
        given = np.minimum(given + np.diff(edges, prepend=0), most)
    return given


def compose(total: int, parts: int, rng: np.random.Generator) -> np.ndarray:
    """int[parts] of 1 or more that sum to `total`; all such rows are equally likely."""
    if parts == 1:
        return np.asarray([total])
    cuts = np.sort(rng.choice(total - 1, parts - 1, replace=False, shuffle=False)) + 1
    return np.diff(cuts, prepend=0, append=total)


def arrange(kept: int, sizes: np.ndarray, rng: np.random.Generator, free_ends: bool = True) -> np.ndarray:
    """Where spans of these sizes, one or more, begin among `kept` other tokens, of which at least one lies between two spans.

    All places are equally likely; without `free_ends` among those where a kept token comes first and a span last.
    """
    if free_ends:
        gaps = compose(kept + 2, len(sizes) + 1, rng)[:-1]
        gaps[0] -= 1
    else:
        gaps = compose(kept, len(sizes), rng)
    return np.cumsum(gaps + sizes) - sizes


def inside(length: int, starts: np.ndarray, sizes: np.ndarray) -> np.ndarray:
    """bool[length]: whether a token is in a span."""
    edges = np.zeros(length + 1, np.int8)
    edges[starts] += 1
    edges[starts + sizes] -= 1
    return np.cumsum(edges[:-1], dtype=np.int8).astype(bool)


def replace_spans(tokens: np.ndarray, starts: np.ndarray, sizes: np.ndarray, marks: np.ndarray | int) -> tuple[np.ndarray, np.ndarray]:
    """(tokens with one mark in the place of each span, where these stand in the result). Spans do not touch."""
    kept = ~inside(len(tokens), starts, sizes)
    kept[starts] = True
    marked = tokens.copy()
    marked[starts] = marks
    return marked[kept], np.cumsum(kept)[starts] - 1


def poisson_sizes(total: int, mean: float, rng: np.random.Generator) -> np.ndarray:
    """int[any] of 0 or more, drawn one after another until they sum to `total`; the last is cut to reach it exactly."""
    drawn = np.zeros(0, np.int64)
    while drawn.sum() < total:  # a few more than are needed, mostly, and then those that were
        drawn = np.append(drawn, rng.poisson(mean, int(total / mean) + 4))
    ends = np.minimum(np.cumsum(drawn), total)
    return np.diff(ends[: np.searchsorted(ends, total) + 1], prepend=0) if total else drawn


def need_sentinels(vocabulary: Vocabulary, count: int, where: str, purpose: str) -> None:
    """Raises InputError if the vocabulary has fewer than `count`; `where` is the config key of the objective."""
    if vocabulary.num_sentinels < count:
        raise InputError(
            f"{where}: needs {count} sentinels ({purpose}), and the vocabulary ({vocabulary.kind}, {vocabulary.size} ids) has "
            f"{vocabulary.num_sentinels}; end data.vocabulary in '+{count}' or more, for example 'bytes+{max(100, count)}'"
        )


def need_mask(vocabulary: Vocabulary, where: str) -> int:
    """The mask token's id; raises InputError if there is none."""
    if vocabulary.special.mask < 0:
        raise InputError(
            f"{where}: the vocabulary ({vocabulary.kind}, {vocabulary.size} ids) has no mask token; "
            "train one with tools/train_vocabulary.py, which adds <mask>, or name 'bytes' in data.vocabulary"
        )
    return vocabulary.special.mask


def sentinel(vocabulary: Vocabulary, index: int) -> int:
    """The id of one sentinel: 0 is the first, -1 the last."""
    return int(vocabulary.sentinels(vocabulary.num_sentinels)[index])


def check_mode_token(vocabulary: Vocabulary, mode_token: int | None, spans: int, where: str) -> int | None:
    """The id of the sentinel with this index, if one is asked for; it must not be one of the first `spans`."""
    if mode_token is None:
        return None
    need_sentinels(vocabulary, spans + 1, where, "one for each span of a window and a mode token" if spans else "a mode token")
    count = vocabulary.num_sentinels
    index = mode_token if mode_token >= 0 else count + mode_token
    if not spans <= index < count:
        raise InputError(
            f"{where}.mode_token {mode_token}: accepted are {spans} to {count - 1}, or -1 to {spans - count} counted from the end; "
            f"the vocabulary has {count} sentinels, and spans use the first {spans}"
        )
    return sentinel(vocabulary, index)


def check_form(form: str, where: str) -> None:
    if form not in ("encoder_decoder", "decoder"):
        raise InputError(f"{where}.form {form!r}: accepted are 'encoder_decoder' and 'decoder'")


def check_share(value: float, where: str, most: float = 1.0, inclusive: bool = False) -> None:
    if not 0 < value < most and not (inclusive and value == most):
        raise InputError(f"{where} {value}: accepted are numbers above 0 and {'up to' if inclusive else 'below'} {most:g}")


def check_count(value: float, where: str) -> None:
    if value < 1 or value != int(value):
        raise InputError(f"{where} {value}: accepted are whole numbers, 1 or more")


def check_window_length(asked: int | None, largest: int, where: str) -> int:
    """The window length: the largest that always fits, or the shorter one asked for."""
    if asked is not None and not 1 <= asked <= largest:
        raise InputError(f"{where}.window_length {asked}: accepted are 1 to {largest}, which is what always fits data.sequence_length")
    return asked or largest
