"""How many words of which kind each document has."""

import numpy as np
from numba import njit, uint64

from pretrainx.curate.columns.classes import SPACE, WORD, table
from pretrainx.curate.columns.tables import mixed, size_for
from pretrainx.curate.columns.words import HAS_ALPHA, HAS_MORE, words
from pretrainx.curate.documents import Batch


def word_counts(batch: Batch, listed: np.ndarray) -> np.ndarray:
    """int64[documents, 5]: words; those that are not symbols alone, and their characters; those with a letter; different
    ones among the words with the hashes `listed`."""
    found = words(batch)
    out = np.zeros((len(batch), 5), np.int64)
    _count(found.bounds, found.lengths, found.hashes, found.flags, np.unique(listed), out)
    return out


@njit(cache=True)
def _count(bounds, lengths, hashes, flags, listed, out):
    size = size_for(8 * len(listed) + 8)  # sparse, so that most words are told by one look
    mask = uint64(size - 1)
    rows, last_seen = np.full(size, -1, np.int64), np.full(len(listed), -1, np.int64)
    for row in range(len(listed)):
        slot = mixed(listed[row]) & mask
        while rows[slot] >= 0:
            slot = (slot + uint64(1)) & mask
        rows[slot] = row
    for document in range(len(bounds) - 1):
        solid, characters, letters, different = 0, 0, 0, 0
        for word in range(bounds[document], bounds[document + 1]):
            flag = flags[word]
            if flag & HAS_MORE:
                solid += 1
                characters += lengths[word]
            letters += flag & HAS_ALPHA
            slot = mixed(hashes[word]) & mask
            while rows[slot] >= 0:
                row = rows[slot]
                if listed[row] == hashes[word]:
                    if last_seen[row] != document:
                        last_seen[row] = document
                        different += 1
                    break
                slot = (slot + uint64(1)) & mask
        out[document, 0], out[document, 1], out[document, 2] = bounds[document + 1] - bounds[document], solid, characters
        out[document, 3], out[document, 4] = letters, different


def alphanumeric_counts(batch: Batch) -> np.ndarray:
    """int64[documents, 2]: letters and digits of any script; characters that are not white space."""
    out = np.zeros((len(batch), 2), np.int64)
    _count_alphanumeric(batch.characters, batch.bounds, table(), out)
    return out


@njit(cache=True)
def _count_alphanumeric(characters, bounds, bits, out):
    for document in range(len(bounds) - 1):
        alphanumeric, solid = 0, 0
        for position in range(bounds[document], bounds[document + 1]):
            kind = bits[characters[position]]
            alphanumeric += (kind & WORD) != 0 and characters[position] != 95
            solid += (kind & SPACE) == 0
        out[document, 0], out[document, 1] = alphanumeric, solid
