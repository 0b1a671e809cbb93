"""The lines of a batch with their hashes, and what repeats among lines, paragraphs and runs of words."""

from dataclasses import dataclass

import numpy as np
from numba import njit, uint64

from pretrainx.curate.columns.classes import BREAK, SPACE, TERMINAL, table
from pretrainx.curate.columns.tables import BASE, mixed, seen, size_for
from pretrainx.curate.columns.words import words
from pretrainx.curate.documents import Batch


@dataclass(frozen=True)
class Lines:
    """What lies between line feeds, document after document; an empty document has one empty line."""

    bounds: np.ndarray  # int64[documents + 1]
    starts: np.ndarray  # int32[lines]: position in the batch's characters
    lengths: np.ndarray  # int32[lines], without the line feed
    hashes: np.ndarray  # uint64[lines], mixed
    blank: np.ndarray  # bool[lines]: nothing but white space
    terminal: np.ndarray  # bool[lines]: the last character ends sentences


def lines(batch: Batch) -> Lines:
    """The lines of the batch, found at the first call."""
    kept = batch.__dict__.get("_lines")
    if kept is None:
        kept = batch.__dict__["_lines"] = _find(batch)
    return kept


def _find(batch: Batch) -> Lines:
    characters, bounds = batch.characters, batch.bounds
    capacity = int(np.count_nonzero(characters == 10)) + len(batch)
    starts, lengths, hashes = np.empty(capacity, np.int32), np.empty(capacity, np.int32), np.empty(capacity, np.uint64)
    blank, terminal = np.empty(capacity, np.bool_), np.empty(capacity, np.bool_)
    ends = np.zeros(len(batch) + 1, np.int64)
    _split_lines(characters, bounds, table(), starts, lengths, hashes, blank, terminal, ends)
    return Lines(ends, starts, lengths, hashes, blank, terminal)


def line_repeats(batch: Batch) -> np.ndarray:
    """int64[documents, 6]: of paragraphs, then of lines without empty ones: how many, how many repeat one before, their characters.

    A paragraph ends with two line feeds or more. As in datatrove, line feeds at a text's start or end count as one empty line there.
    """
    found = lines(batch)
    out = np.zeros((len(batch), 6), np.int64)
    _count_repeats(batch.characters, batch.bounds, table(), found.bounds, found.lengths, found.hashes, out)
    return out


def non_blank_lines(batch: Batch, short: int) -> np.ndarray:
    """int64[documents, 5]: of lines with more than white space: how many, terminal, of at most `short` characters,
    characters of those that repeat one before; and line feeds of the document."""
    found = lines(batch)
    out = np.zeros((len(batch), 5), np.int64)
    _count_non_blank(found.bounds, found.lengths, found.hashes, found.blank, found.terminal, short, out)
    return out


def marked_lines(batch: Batch) -> np.ndarray:
    """int64[documents, 6]: lines as str.splitlines, those that begin with a bullet, those that end with an ellipsis;
    number signs, runs of three dots, ellipsis characters."""
    out = np.zeros((len(batch), 6), np.int64)
    _count_marks(batch.characters, batch.bounds, table(), out)
    return out


def top_run_characters(batch: Batch, sizes: tuple[int, ...]) -> np.ndarray:
    """int64[documents, sizes]: characters of the commonest run of n words times how often it occurs, single spaces between words."""
    found = words(batch)
    out = np.zeros((len(batch), len(sizes)), np.int64)
    if sizes:
        _count_top(found.bounds, found.lengths, found.hashes, found.powers, np.array(sizes, np.int64), out)
    return out


def repeated_run_characters(batch: Batch, sizes: tuple[int, ...]) -> np.ndarray:
    """int64[documents, sizes]: characters of runs of n words that occurred before, each word counted once; read from the left."""
    found = words(batch)
    out = np.zeros((len(batch), len(sizes)), np.int64)
    if sizes:
        _count_repeated(found.bounds, found.lengths, found.hashes, found.powers, np.array(sizes, np.int64), out)
    return out


@njit(cache=True)
def _split_lines(characters, bounds, bits, starts, lengths, hashes, blank, terminal, ends):
    count = 0
    for document in range(len(bounds) - 1):
        position, stop = bounds[document], bounds[document + 1]
        while True:
            begin = position
            key, spaces = uint64(0), uint64(SPACE)
            while position < stop and characters[position] != 10:
                code = characters[position]
                spaces &= uint64(bits[code])
                key = key * uint64(BASE) + uint64(code) + uint64(1)
                position += 1
            starts[count], lengths[count], hashes[count] = begin, position - begin, mixed(key)
            blank[count] = spaces != 0
            terminal[count] = position > begin and bits[characters[position - 1]] & TERMINAL
            count += 1
            if position >= stop:
                break
            position += 1
        ends[document + 1] = count


@njit(cache=True)
def _count_repeats(characters, bounds, bits, line_bounds, lengths, hashes, out):
    most = 1
    for document in range(len(bounds) - 1):
        most = max(most, line_bounds[document + 1] - line_bounds[document])
    space = np.zeros(size_for(most + 1), np.uint64)
    for document in range(len(bounds) - 1):
        first, last = line_bounds[document], line_bounds[document + 1]
        size = size_for(last - first + 1)
        mask = uint64(size - 1)
        # Paragraphs of the stripped text.
        left, right = bounds[document], bounds[document + 1]
        while left < right and bits[characters[left]] & SPACE:
            left += 1
        while right > left and bits[characters[right - 1]] & SPACE:
            right -= 1
        seen_before = space[:size]
        seen_before[:] = uint64(0)
        position = left
        while True:
            begin, key = position, uint64(0)
            while position < right:
                code = characters[position]
                if code == 10 and position + 1 < right and characters[position + 1] == 10:
                    break
                key = key * uint64(BASE) + uint64(code) + uint64(1)
                position += 1
            out[document, 0] += 1
            if seen(seen_before, mask, mixed(key)):
                out[document, 1] += 1
                out[document, 2] += position - begin
            if position >= right:
                break
            while position < right and characters[position] == 10:
                position += 1
        # Lines: runs of line feeds are one, and one at either end of the text makes an empty line there.
        seen_before[:] = uint64(0)
        empties = 0
        for line in range(first, last):
            if lengths[line] == 0:
                continue
            out[document, 3] += 1
            if seen(seen_before, mask, hashes[line]):
                out[document, 4] += 1
                out[document, 5] += lengths[line]
        if last - first > 1 or lengths[first] == 0:
            empties = (1 if lengths[first] == 0 else 0) + (1 if last - first > 1 and lengths[last - 1] == 0 else 0)
        out[document, 3] += empties
        out[document, 4] += 1 if empties == 2 else 0


@njit(cache=True)
def _count_non_blank(line_bounds, lengths, hashes, blank, terminal, short, out):
    most = 1
    for document in range(len(line_bounds) - 1):
        most = max(most, line_bounds[document + 1] - line_bounds[document])
    space = np.zeros(size_for(most), np.uint64)
    for document in range(len(line_bounds) - 1):
        first, last = line_bounds[document], line_bounds[document + 1]
        size = size_for(last - first)
        seen_before = space[:size]
        seen_before[:] = uint64(0)
        for line in range(first, last):
            if blank[line]:
                continue
            out[document, 0] += 1
            out[document, 1] += terminal[line]
            out[document, 2] += lengths[line] <= short
            if seen(seen_before, uint64(size - 1), hashes[line]):
                out[document, 3] += lengths[line]
        out[document, 4] = last - first - 1


@njit(cache=True)
def _count_marks(characters, bounds, bits, out):
    for document in range(len(bounds) - 1):
        position, stop = bounds[document], bounds[document + 1]
        dots, line_count, bullets, endings, numbers, runs, ellipses = 0, 0, 0, 0, 0, 0, 0
        first, last, before_last, third_last = 0, 0, 0, 0  # of the line: first and last three characters that are not white space
        since = 0  # characters of the line so far, 3 or more: enough for three dots in a row
        begun, near = False, False
        while position < stop:
            code = characters[position]
            kind = bits[code]
            if kind & BREAK:
                if code == 13 and position + 1 < stop and characters[position + 1] == 10:
                    position += 1
                line_count += 1
                bullets += first == 45 or first == 0x2022
                endings += last == 0x2026 or (near and last == 46 and before_last == 46 and third_last == 46)
                first, last, before_last, third_last, since = 0, 0, 0, 0, 0
                begun, near = False, False
                dots = 0
                position += 1
                continue
            begun = True
            if code == 46:
                dots += 1
                if dots == 3:
                    runs += 1
                    dots = 0
            else:
                dots = 0
                if code == 35:
                    numbers += 1
                elif code == 0x2026:
                    ellipses += 1
            if kind & SPACE:
                since = 0
            else:
                if first == 0:
                    first = code
                since += 1
                third_last, before_last, last = before_last, last, code
                near = since >= 3
            position += 1
        if begun:
            line_count += 1
            bullets += first == 45 or first == 0x2022
            endings += last == 0x2026 or (near and last == 46 and before_last == 46 and third_last == 46)
        out[document, 0], out[document, 1], out[document, 2] = line_count, bullets, endings
        out[document, 3], out[document, 4], out[document, 5] = numbers, runs, ellipses


@njit(cache=True)
def _most_words(bounds):
    most = 1
    for document in range(len(bounds) - 1):
        most = max(most, bounds[document + 1] - bounds[document])
    return most


@njit(cache=True)
def _spaced(hashes, powers, first, count):
    """The mixed hash of so many words with single spaces between, which tells "ab c" from "a bc"."""
    key = hashes[first]
    for word in range(first + 1, first + count):
        key = (key * uint64(BASE) + uint64(33)) * powers[word] + hashes[word]
    return mixed(key)


@njit(cache=True)
def _find_slot(keys, mask, key):
    """Where this key is, or would be put."""
    slot = key & mask
    while keys[slot] != uint64(0) and keys[slot] != key:
        slot = (slot + uint64(1)) & mask
    return slot


@njit(cache=True)
def _count_top(bounds, lengths, hashes, powers, sizes, out):
    most = size_for(_most_words(bounds))
    keys, counts = np.zeros(most, np.uint64), np.zeros(most, np.int32)
    for document in range(len(bounds) - 1):
        begin, stop = bounds[document], bounds[document + 1]
        size = size_for(stop - begin)
        mask = uint64(size - 1)
        for column in range(len(sizes)):
            n = sizes[column]
            if stop - begin < n:
                continue
            keys[:size] = uint64(0)
            best, where = 0, begin
            for first in range(begin, stop - n + 1):
                key = _spaced(hashes, powers, first, n)
                slot = _find_slot(keys, mask, key)
                if keys[slot] == uint64(0):
                    keys[slot] = key
                    counts[slot] = 0
                counts[slot] += 1
                best = max(best, counts[slot])
            # Of several that are equally common, the one that came first counts, as datatrove's counter has it.
            for first in range(begin, stop - n + 1):
                if counts[_find_slot(keys, mask, _spaced(hashes, powers, first, n))] == best:
                    where = first
                    break
            total = n - 1
            for word in range(where, where + n):
                total += lengths[word]
            out[document, column] = total * best


@njit(cache=True)
def _count_repeated(bounds, lengths, hashes, powers, sizes, out):
    most = _most_words(bounds)
    table = np.zeros(size_for(most), np.uint64)
    runs, spans = np.empty(most, np.uint64), np.empty(most, np.int64)
    for document in range(len(bounds) - 1):
        begin, count = bounds[document], bounds[document + 1] - bounds[document]
        size = size_for(count)
        mask = uint64(size - 1)
        for index in range(count):
            runs[index], spans[index] = hashes[begin + index], lengths[begin + index]
        grown = 1  # runs[i] is of the words i to i + grown
        for column in range(len(sizes)):
            n = sizes[column]
            if count < n:
                continue
            if n < grown:
                for index in range(count):
                    runs[index], spans[index] = hashes[begin + index], lengths[begin + index]
                grown = 1
            while grown < n:
                for index in range(count - grown):
                    word = begin + index + grown
                    runs[index] = runs[index] * powers[word] + hashes[word]
                    spans[index] += lengths[word]
                grown += 1
            seen_before = table[:size]
            seen_before[:] = uint64(0)
            total, index = 0, 0
            while index < count - n + 1:
                if seen(seen_before, mask, mixed(runs[index])):
                    total += spans[index]
                    index += n
                else:
                    index += 1
            out[document, column] = total
