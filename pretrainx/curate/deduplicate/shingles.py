"""Words and word n-grams of documents as 64-bit hashes; strings are never built.

Text is folded (NFKC, casefold, NFKC again, since folding can take a character apart). A word is a run of letters, digits and
underscores, as `\\w+` finds it; of scripts written without spaces each character is a word, since a run there would be a whole clause.
"""

import functools
import re
import unicodedata
from dataclasses import dataclass

import numpy as np

from pretrainx.core.errors import InputError
from pretrainx.curate.documents import Batch

try:
    from numba import njit
except ImportError:
    raise InputError("deduplication needs numba: pip install 'pretrainx[curate]'") from None

# Thai, Lao, Burmese, Khmer; Han and kana.
_ALONE = (
    "\u0e00-\u0eff\u1000-\u109f\u1780-\u17ff"
    "\u3005-\u3007\u3040-\u30ff\u31f0-\u31ff\u3400-\u4dbf\u4e00-\u9fff\uf900-\ufaff\U00020000-\U000323af"
)
WORD = re.compile(rf"[^\W{_ALONE}]+|(?=\w)[{_ALONE}]")  # what the kernels do, on folded text

_CODES = 0x323B0  # no character above is a letter or a digit, in Unicode 16
_EXACT = np.uint32(0xFFFFFFFF)  # in a table: only `fold` knows
_SINGLE = np.uint32(0x80000000)  # in a table: a word by itself
_SEED = np.uint64(0xCBF29CE484222325)
_STEP = np.uint64(0x9FB21C651E98DF25)  # odd, bits well mixed
_BASE = np.uint64(0xD6E8FEB86659FD93)


@dataclass(frozen=True)
class Hashes:
    """Some hashes for each document: document i has values[bounds[i]:bounds[i + 1]]."""

    values: np.ndarray  # uint64
    bounds: np.ndarray  # int64[documents + 1]

    def __len__(self) -> int:
        return len(self.bounds) - 1

    def of(self, i: int) -> np.ndarray:
        return self.values[self.bounds[i] : self.bounds[i + 1]]


def fold(text: str) -> str:
    """The text as it is compared: compatible characters made one, case gone."""
    return unicodedata.normalize("NFKC", unicodedata.normalize("NFKC", text).casefold())


def words(batch: Batch) -> Hashes:
    """The hash of each word of each document."""
    values, bounds, exact = _words(batch.characters, batch.bounds, _quick_table())
    if not exact.any():
        return Hashes(values, bounds)
    texts = [fold(batch.documents[i].text) for i in np.flatnonzero(exact).tolist()]
    characters = np.frombuffer("".join(texts).encode("utf-32-le"), np.uint32)
    more, more_bounds, _ = _words(characters, np.cumsum([0, *map(len, texts)], dtype=np.int64), _folded_table())
    return _interleave(Hashes(values, bounds), Hashes(more, more_bounds), exact)


def shingles(found: Hashes, n: int) -> Hashes:
    """The hash of each run of n words, in the order of the text, repeated ones too; a document of fewer words has one, of all of them."""
    counts = np.diff(found.bounds)
    bounds = np.concatenate([[0], np.cumsum(np.where(counts >= n, counts - n + 1, np.minimum(counts, 1)))]).astype(np.int64)
    values = np.empty(bounds[-1], np.uint64)
    _ngrams(found.values, found.bounds, bounds, n, values)
    return Hashes(values, bounds)


def sets(found: Hashes) -> Hashes:
    """The different hashes of each document, in ascending order."""
    values = found.values.copy()
    bounds = np.zeros_like(found.bounds)
    _sort_each(values, found.bounds, bounds)
    return Hashes(values[: bounds[-1]].copy(), bounds)


def positions(text: str) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """(hashes, starts, ends) of the words of one text, in its own characters.

    Where folding changes a text's length, the characters of the folded text are led back to those they came from; a character that
    merges with the one before (a combining mark) belongs to it.
    """
    characters = np.frombuffer(text.encode("utf-32-le"), np.uint32)
    bounds = np.array([0, len(text)], np.int64)
    values, starts, ends, exact = _place_words(characters, bounds, _quick_table())
    if not exact:
        return values, starts, ends
    pieces = _CLUSTER.findall(text)
    folded = [fold(piece) for piece in pieces]
    whole = "".join(folded)
    if whole != fold(text):  # characters that merge across what we hold for their borders: then by words between spaces
        pieces = re.findall(r"\s+|\S+", text)
        folded = [fold(piece) for piece in pieces]
        whole = "".join(folded)
    origin = np.repeat(np.cumsum([0, *map(len, pieces)])[:-1], list(map(len, folded)))
    origin_end = np.repeat(np.cumsum(list(map(len, pieces))), list(map(len, folded)))
    characters = np.frombuffer(whole.encode("utf-32-le"), np.uint32)
    values, starts, ends, _ = _place_words(characters, np.array([0, len(whole)], np.int64), _folded_table())
    return values, origin[starts] if len(starts) else starts, origin_end[ends - 1] if len(ends) else ends


# One character and the marks, vowel signs and Hangul parts that may merge with it.
_CLUSTER = re.compile(
    r"(?s).[\u0300-\u036f\u0483-\u0489\u0591-\u05bd\u0610-\u061a\u064b-\u065f\u0900-\u0903\u093a-\u094f\u0980-\u0983\u09bc-\u09d7"
    r"\u0b3c-\u0b57\u0bbe-\u0bd7\u0c3e-\u0c56\u0cbc-\u0cd6\u0d3e-\u0d57\u0dca-\u0ddf\u102e\u1161-\u11ff\u1ab0-\u1aff\u1dc0-\u1dff\u20d0-\u20ff"
    r"\u3099\u309a\uff9e\uff9f\ufe20-\ufe2f]*"
)


@functools.cache
def _quick_table() -> np.ndarray:
    """uint32[0x2070]: what a character of Latin text folds to where that is one character whatever stands beside it; 0 is no word's.

    Below U+0300 and in the punctuation of U+2000 nothing merges with what stands before, so that folding is done character by character.
    """
    table = np.full(0x2070, _EXACT, np.uint32)
    for code in (*range(0x300), *range(0x2000, 0x2070)):
        folded = fold(chr(code))
        if not WORD.search(folded):
            table[code] = 0
        elif len(folded) == 1:
            table[code] = ord(folded)
    return table


@functools.cache
def _folded_table() -> np.ndarray:
    """uint32[0x323b0]: for folded text, each character of words as itself, the rest 0."""
    every = "".join(map(chr, range(_CODES)))
    table = np.zeros(_CODES, np.uint32)
    for found in re.finditer(r"\w+", every):
        table[found.start() : found.end()] = np.arange(found.start(), found.end())
    for found in re.finditer(rf"(?=\w)[{_ALONE}]", every):
        table[found.start()] |= _SINGLE
    return table


def _words(characters: np.ndarray, bounds: np.ndarray, table: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    values = np.empty(len(characters), np.uint64)  # at most one word a character; what is not used is never touched
    word_bounds = np.zeros(len(bounds), np.int64)
    exact = np.zeros(len(bounds) - 1, np.bool_)
    _hash_words(characters, bounds, table, values, word_bounds, exact)
    return values[: word_bounds[-1]], word_bounds, exact


def _interleave(some: Hashes, others: Hashes, other: np.ndarray) -> Hashes:
    """Documents of two runs in their order; the first run holds nothing where `other` is true."""
    counts = np.diff(some.bounds)
    counts[other] = np.diff(others.bounds)
    bounds = np.concatenate([[0], np.cumsum(counts)]).astype(np.int64)
    mine = np.repeat(other, counts)
    values = np.empty(bounds[-1], np.uint64)
    values[mine] = others.values
    values[~mine] = some.values
    return Hashes(values, bounds)


@njit(cache=True, inline="always")
def mix(x):
    """The finaliser of SplitMix64 (Steele, Lea and Flood 2014): each bit of the result depends on all of x."""
    x = (x ^ (x >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
    x = (x ^ (x >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
    return x ^ (x >> np.uint64(31))


@njit(cache=True, nogil=True)
def _hash_words(characters, bounds, table, values, word_bounds, exact):
    size = len(table)
    full = size == _CODES
    count = 0
    for d in range(len(bounds) - 1):
        first = count
        h = _SEED
        inside = False
        for i in range(bounds[d], bounds[d + 1]):
            c = characters[i]
            t = table[c] if c < size else (np.uint32(0) if full else _EXACT)
            if t - np.uint32(1) < np.uint32(0x7FFFFFFF):  # a character of words: neither 0 nor marked
                h = (h ^ np.uint64(t)) * _STEP
                inside = True
                continue
            if inside:
                values[count] = mix(h)
                count += 1
                h = _SEED
                inside = False
            if t != 0:
                if t == _EXACT:
                    exact[d] = True
                    count = first
                    break
                values[count] = mix((_SEED ^ np.uint64(t & ~_SINGLE)) * _STEP)
                count += 1
        if inside:
            values[count] = mix(h)
            count += 1
        word_bounds[d + 1] = count


@njit(cache=True, nogil=True)
def _locate_words(characters, table, values, starts, ends):
    """The count of words of one text, or -1 where only `fold` knows."""
    size = len(table)
    full = size == _CODES
    count = 0
    h = _SEED
    inside = False
    for i in range(len(characters)):
        c = characters[i]
        t = table[c] if c < size else (np.uint32(0) if full else _EXACT)
        if t - np.uint32(1) < np.uint32(0x7FFFFFFF):
            if not inside:
                starts[count] = i
            h = (h ^ np.uint64(t)) * _STEP
            inside = True
            continue
        if inside:
            values[count] = mix(h)
            ends[count] = i
            count += 1
            h = _SEED
            inside = False
        if t != 0:
            if t == _EXACT:
                return -1
            values[count] = mix((_SEED ^ np.uint64(t & ~_SINGLE)) * _STEP)
            starts[count] = i
            ends[count] = i + 1
            count += 1
    if inside:
        values[count] = mix(h)
        ends[count] = len(characters)
        count += 1
    return count


def _place_words(characters: np.ndarray, bounds: np.ndarray, table: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray, bool]:
    values = np.empty(len(characters), np.uint64)
    starts, ends = np.empty(len(characters), np.int64), np.empty(len(characters), np.int64)
    count = _locate_words(characters, table, values, starts, ends)
    kept = max(count, 0)
    return values[:kept], starts[:kept], ends[:kept], count < 0


@njit(cache=True, nogil=True)
def _ngrams(values, word_bounds, bounds, n, out):
    highest = np.uint64(1)
    for _ in range(n - 1):
        highest *= _BASE
    for d in range(len(bounds) - 1):
        first, last = word_bounds[d], word_bounds[d + 1]
        if first == last:
            continue
        width = min(n, last - first)
        h = np.uint64(0)
        for i in range(first, first + width):
            h = h * _BASE + values[i]
        at = bounds[d]
        # A short document's run says how long it is, lest it equal another document's longer one by an unlucky sum.
        out[at] = mix(h ^ np.uint64(width))
        for i in range(first + width, last):
            h = (h - values[i - n] * highest) * _BASE + values[i]
            at += 1
            out[at] = mix(h ^ np.uint64(n))


@njit(cache=True, nogil=True)
def _sort_each(values, bounds, out_bounds):
    at = 0
    for d in range(len(bounds) - 1):
        part = np.sort(values[bounds[d] : bounds[d + 1]])
        for i in range(len(part)):
            if i == 0 or part[i] != part[i - 1]:
                values[at] = part[i]  # never ahead of what is read: `part` is a copy
                at += 1
        out_bounds[d + 1] = at
