"""Compiled scores of documents by hashed runs of words: a linear classifier's, and an n-gram model's."""

import numpy as np
from numba import njit, uint64

from pretrainx.curate.columns.tables import BASE, mixed


@njit(cache=True)
def run_key(hashes, powers, first, count):
    """The mixed hash of so many words from `first` on, single spaces between; runs of unlike lengths differ."""
    key = hashes[first]
    for word in range(first + 1, first + count):
        key = (key * uint64(BASE) + uint64(33)) * powers[word] + hashes[word]
    return mixed(key + uint64(count))


@njit(cache=True)
def linear_scores(bounds, hashes, powers, orders, weights, bias, out):
    """Fills out[documents] with bias + the mean weight of all runs of 1 to `orders` words."""
    mask = uint64(len(weights) - 1)
    for document in range(len(bounds) - 1):
        total, number = 0.0, 0
        stop = bounds[document + 1]
        for first in range(bounds[document], stop):
            for count in range(1, min(orders, stop - first) + 1):
                total += weights[run_key(hashes, powers, first, count) & mask]
                number += 1
        out[document] = bias + total / max(number, 1)


@njit(cache=True)
def train_linear(bounds, hashes, powers, orders, labels, importance, order, rate, decay, weights, squares, bias):
    """One pass of AdaGrad (Duchi et al. 2011) on the logistic loss, documents in the given order; bias is float64[2]:
    the bias and its sum of squares. Returns the mean loss before each update."""
    mask = uint64(len(weights) - 1)
    loss = 0.0
    for document in order:
        start, stop = bounds[document], bounds[document + 1]
        total, number = 0.0, 0
        for first in range(start, stop):
            for count in range(1, min(orders, stop - first) + 1):
                total += weights[run_key(hashes, powers, first, count) & mask]
                number += 1
        score = bias[0] + total / max(number, 1)
        target = 1.0 if labels[document] else 0.0
        chance = 1.0 / (1.0 + np.exp(-score))
        loss += importance[document] * (np.log1p(np.exp(-abs(score))) + max(score, 0.0) - target * score)
        slope = importance[document] * (chance - target)
        bias[1] += slope * slope
        bias[0] -= rate * slope / (np.sqrt(bias[1]) + 1e-8)
        if number == 0:
            continue
        step = slope / number
        for first in range(start, stop):
            for count in range(1, min(orders, stop - first) + 1):
                bucket = run_key(hashes, powers, first, count) & mask
                gradient = step + decay * weights[bucket] / number
                squares[bucket] += gradient * gradient
                weights[bucket] -= rate * gradient / (np.sqrt(squares[bucket]) + 1e-8)
    return loss / max(len(order), 1)


@njit(cache=True)
def count_runs(bounds, hashes, powers, orders, counts, followers, totals):
    """Adds the runs of 1 to `orders` words to uint32 counts[buckets]; followers[bucket]: how many different words follow a run;
    totals int64[2]: words, and different ones."""
    mask = uint64(len(counts) - 1)
    for document in range(len(bounds) - 1):
        start, stop = bounds[document], bounds[document + 1]
        for first in range(start, stop):
            totals[0] += 1
            for count in range(1, min(orders, stop - first) + 1):
                bucket = run_key(hashes, powers, first, count) & mask
                if counts[bucket] == 0:
                    if count == 1:
                        totals[1] += 1
                    else:
                        followers[run_key(hashes, powers, first, count - 1) & mask] += 1
                counts[bucket] += 1


@njit(cache=True)
def surprise(bounds, hashes, powers, orders, counts, followers, words, vocabulary, out):
    """Fills out[documents] with the mean negative log probability (nats) of its words under Witten and Bell's interpolation."""
    mask = uint64(len(counts) - 1)
    for document in range(len(bounds) - 1):
        start, stop = bounds[document], bounds[document + 1]
        total = 0.0
        for word in range(start, stop):
            # An unseen word gets the share that new words had, spread over as many again as are known.
            chance = (counts[run_key(hashes, powers, word, 1) & mask] + 0.5) / (words + vocabulary)
            for count in range(2, min(orders, word - start + 1) + 1):
                first = word - count + 1
                context = run_key(hashes, powers, first, count - 1) & mask
                new = followers[context]
                if counts[context] == 0:
                    break
                chance = (counts[run_key(hashes, powers, first, count) & mask] + new * chance) / (counts[context] + new)
            total -= np.log(max(chance, 1e-30))
        out[document] = total / max(stop - start, 1)
