"""Counted byte n-grams: the bits per byte that counting alone reaches, to hold beside a trained model.

Interpolated Witten-Bell smoothing (Witten and Bell 1991; Chen and Goodman 1998, section 2.5), where c counts in the
training text and T(h) is the number of different symbols seen after h:

    p_n(w | h) = (c(h w) + T(h) p_{n-1}(w | h')) / (c(h) + T(h)),   p_n = p_{n-1} where h was never seen,   p_0 = 1/256

A document is followed by the symbol 0, which stands for its end and is predicted like any other: its bits count, and no
byte is counted for it. A NUL byte inside a document is therefore read as the end of one document and the start of another.
A context reaches back to the separator before its document and no further: near a start it is shorter, and p_n there is
the p of the highest order that fits.
"""

from collections.abc import Iterable, Iterator
from dataclasses import dataclass

import numpy as np

from pretrainx.core.errors import InputError

MAX_ORDER = 8  # symbols in a uint64
END = 0  # the separator


@dataclass(frozen=True)
class Model:
    """The counts of all orders: every 8 symbols of the training text in a row, as big-endian numbers, sorted.

    The occurrences of a string of up to 8 symbols are then one range, found by bisection.
    """

    windows: np.ndarray  # uint64


def join(documents: Iterable[bytes]) -> np.ndarray:
    """The documents as one stream of symbols (uint8), each followed by the separator."""
    return np.frombuffer(b"".join(part for document in documents for part in (document, b"\0")), np.uint8)


def train(stream: np.ndarray) -> Model:
    """The counts of a stream of symbols; a missing separator at its end is added."""
    stream = _bracketed(stream)
    # The last separator starts no window: it would be followed by nothing, and it makes up for the one added in front.
    return Model(np.sort(_packed(np.concatenate([stream, np.zeros(MAX_ORDER - 1, np.uint8)]), len(stream) - 1)))


def bits_per_byte(model: Model, stream: np.ndarray, orders: Iterable[int]) -> dict[int, float]:
    """{order: bits per byte of the stream}: the bits of every symbol, separators too, over the number of bytes."""
    wanted = sorted(set(orders))
    if any(not 1 <= order <= MAX_ORDER for order in wanted):
        raise InputError(f"eval.ngram_orders: expected orders from 1 to {MAX_ORDER}, found {wanted}")
    stream = _bracketed(stream)
    num_bytes = int(np.count_nonzero(stream))
    if num_bytes == 0:
        raise InputError("n-gram baseline: the held-out text is empty")
    position = np.arange(len(stream))
    last_end = np.maximum.accumulate(np.where(stream == END, position, 0))
    tails = _packed(np.concatenate([np.zeros(MAX_ORDER - 1, np.uint8), stream]), len(stream))
    reach = position[1:] - last_end[:-1]
    found = {}
    for order, p in _by_order(model, tails[1:], reach, max(wanted, default=0)):
        if order in wanted:
            found[order] = float(-np.log2(p).sum() / num_bytes)
    return found


def baselines(training: Iterable[bytes], held_out: Iterable[bytes], orders: Iterable[int]) -> dict[int, float]:
    """{order: bits per byte} of held-out documents under n-grams counted in the training documents."""
    return bits_per_byte(train(join(training)), join(held_out), orders)


def probabilities(model: Model, context: bytes, order: int) -> np.ndarray:
    """p(symbol | context) of all 256 symbols, float64[256]; `context` begins with NUL where a document begins."""
    context = context[max(context.rfind(b"\0"), len(context) - MAX_ORDER + 1, 0) :]
    tails = np.uint64(int.from_bytes(context, "big") << 8) | np.arange(256, dtype=np.uint64)
    p = np.full(256, 1 / 256)
    for _, p in _by_order(model, tails, np.full(256, len(context)), order):  # noqa: B007 - the last one is wanted
        pass
    return p


def _by_order(model: Model, tails: np.ndarray, reach: np.ndarray, highest: int) -> Iterator[tuple[int, np.ndarray]]:
    """(order, probabilities) for orders 1 to `highest` of the last symbol in each of `tails`.

    `tails` are 8 symbols in a row, the predicted one last; `reach` says how many of those before it are its context.
    """
    windows = model.windows
    p = np.full(len(tails), 1 / 256)
    for order in range(1, highest + 1):
        fits = np.flatnonzero(reach >= order - 1)
        # Each different n-gram is looked up once and in order, which is several times faster than bisecting at random.
        grams, which = np.unique(tails[fits] << np.uint64(64 - 8 * order), return_inverse=True)
        first, after = _range(windows, grams, order)
        first_h, after_h = _range(windows, grams, order - 1)
        different = _different(windows, order, first_h, after_h)[which]
        count, count_h = (after - first)[which], (after_h - first_h)[which]
        backed_off = p[fits]
        p = p.copy()
        p[fits] = np.where(count_h > 0, (count + different * backed_off) / np.maximum(count_h + different, 1), backed_off)
        yield order, p


def _range(windows: np.ndarray, grams: np.ndarray, length: int) -> tuple[np.ndarray, np.ndarray]:
    """Where the windows that begin with the first `length` symbols of each gram begin and end."""
    rest = np.uint64(2 ** (64 - 8 * length) - 1)
    return np.searchsorted(windows, grams & ~rest, "left"), np.searchsorted(windows, grams | rest, "right")


def _different(windows: np.ndarray, length: int, first: np.ndarray, after: np.ndarray) -> np.ndarray:
    """How many different strings of `length` symbols begin the windows of each range."""
    prefix = windows >> np.uint64(64 - 8 * length)
    # One more entry than windows, so that an empty range at the end has both its places.
    changes = np.zeros(len(windows) + 1, np.int64)
    np.cumsum(prefix[1:] != prefix[:-1], out=changes[1:-1])
    return np.where(after > first, changes[after - 1] - changes[first] + 1, 0)


def _bracketed(stream: np.ndarray) -> np.ndarray:
    """The stream with a separator before its first symbol, and one after its last."""
    end = [END] if len(stream) and stream[-1] != END else []
    return np.concatenate([[END], np.asarray(stream, np.uint8), end]).astype(np.uint8)


def _packed(symbols: np.ndarray, count: int) -> np.ndarray:
    """The first `count` windows of 8 symbols as big-endian numbers: sorting these sorts the strings."""
    packed = np.zeros(count, np.uint64)
    for offset in range(MAX_ORDER):
        packed <<= np.uint64(8)
        packed |= symbols[offset : offset + count]
    return packed
