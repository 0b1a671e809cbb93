"""MinHash signatures and their bands (Broder 1997; Indyk and Motwani 1998; Leskovec et al., Mining of Massive Datasets, 3.4).

The chance that two documents agree in one minimum is the Jaccard similarity s of their sets; with `rows` minima in each of `bands`
they share a band with the chance 1 - (1 - s^rows)^bands (`chance`).
"""

import functools

import numpy as np
from numba import njit

from pretrainx.curate.deduplicate.shingles import Hashes, mix

_BLOCK = 512  # permutations worked on at once: their 3 arrays stay in the first-level cache


def chance(similarity: float | np.ndarray, bands: int, rows: int) -> float | np.ndarray:
    """The chance that two sets of this Jaccard similarity meet in a band."""
    return 1 - (1 - similarity**rows) ** bands


@functools.cache
def permutations(count: int, seed: int) -> tuple[np.ndarray, np.ndarray]:
    """(a, b), uint32[count] each: x -> a * x + b modulo 2^32 with odd a, a permutation."""
    drawn = np.random.Generator(np.random.PCG64(seed)).integers(0, 2**32, (2, count), np.uint32)
    return drawn[0] | np.uint32(1), drawn[1]


def signatures(found: Hashes, count: int, seed: int) -> np.ndarray:
    """uint32[documents, count]: each document's least value under each permutation; 2^32 - 1 for a document without hashes."""
    a, b = permutations(count, seed)
    if count <= _BLOCK:
        return _block(found, a, b)
    out = np.empty((len(found), count), np.uint32)
    for start in range(0, count, _BLOCK):  # rows of a part alone lie close together, which compiles to vector instructions
        out[:, start : start + _BLOCK] = _block(found, a[start : start + _BLOCK], b[start : start + _BLOCK])
    return out


def _block(found: Hashes, a: np.ndarray, b: np.ndarray) -> np.ndarray:
    out = np.full((len(found), len(a)), 0xFFFFFFFF, np.uint32)
    _minima(found.values, found.bounds, a, b, out)
    return out


def band_keys(minima: np.ndarray, bands: int, rows: int) -> np.ndarray:
    """uint64[documents, bands]: equal where two documents agree in all rows of the same band."""
    out = np.empty((len(minima), bands), np.uint64)
    _join(minima, rows, out)
    return out


@njit(cache=True, nogil=True)
def _minima(values, bounds, a, b, out):
    count = len(a)
    for d in range(len(bounds) - 1):
        least = out[d]
        i = bounds[d]
        last = bounds[d + 1]
        while i + 4 <= last:  # four at once: the minima are read and written a quarter as often
            x0, x1, x2, x3 = np.uint32(values[i]), np.uint32(values[i + 1]), np.uint32(values[i + 2]), np.uint32(values[i + 3])
            for j in range(count):
                y0, y1 = np.uint32(a[j] * x0 + b[j]), np.uint32(a[j] * x1 + b[j])
                y2, y3 = np.uint32(a[j] * x2 + b[j]), np.uint32(a[j] * x3 + b[j])
                least[j] = min(least[j], min(min(y0, y1), min(y2, y3)))
            i += 4
        while i < last:
            x = np.uint32(values[i])
            for j in range(count):
                least[j] = min(least[j], np.uint32(a[j] * x + b[j]))
            i += 1


@njit(cache=True, nogil=True)
def _join(minima, rows, out):
    for d in range(len(out)):
        for band in range(out.shape[1]):
            h = np.uint64(band + 1) * np.uint64(0x9E3779B97F4A7C15)
            for row in range(rows):
                h = mix(h ^ np.uint64(minima[d, band * rows + row]))
            out[d, band] = h
