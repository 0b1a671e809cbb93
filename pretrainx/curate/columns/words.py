"""The words of a batch, split as spaCy's rule-based English tokenizer splits them, with their hashes.

A chunk between white space loses marks at its front and end until nothing can be taken off, then it is a special word,
an address, or is split at inner marks; at last neighbouring pieces that make a special word are joined again. White space
is never a word. Departures: where a match of special words would span white space, and emoji younger than Unicode 11.
"""

import functools
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np
from numba import njit, uint64

from pretrainx.core.errors import InputError
from pretrainx.curate.columns import english
from pretrainx.curate.columns.classes import (
    ALPHA,
    BEFORE_DOT,
    CURRENCY,
    DIGIT,
    HOST,
    ICON,
    INFIX,
    LETTER,
    LOWER,
    PLAIN,
    PREFIX,
    QUOTE,
    SPACE,
    SUFFIX,
    SYMBOL,
    UPPER,
    WORD,
    table,
)
from pretrainx.curate.columns.tables import BASE, mixed
from pretrainx.curate.documents import Batch

HAS_ALPHA, HAS_MORE = 1, 2  # flags of a word: a letter; a character that is not SYMBOL
_MASK = 2**64 - 1
_REMEMBERED = 2**15  # chunks


class Rules(NamedTuple):
    """What the compiled loops look up."""

    bits: np.ndarray  # uint32[0x110000]
    slots: np.ndarray  # int32[2^k]: rows of special words by mixed hash, -1 where empty
    keys: np.ndarray  # uint64[rows]: their hashes
    pieces: np.ndarray  # int32[rows, most]: lengths of the pieces that a special word is split into, then 0
    joins: np.ndarray  # int32[rows, most]: lengths of the pieces that other rules make of it, then 0; all 0: it needs no join
    begins: np.ndarray  # bool[4096]: whether a join may begin with a piece of this mixed hash
    units: np.ndarray  # uint64[n]: hashes of units of measure
    longest: int  # characters of the longest special word


@dataclass(frozen=True)
class Words:
    """The words of a batch, document after document."""

    bounds: np.ndarray  # int64[documents + 1]
    starts: np.ndarray  # int32[words]: position in the batch's characters
    lengths: np.ndarray  # int32[words]
    hashes: np.ndarray  # uint64[words]: polynomial, so that the hash of two words in a row follows from theirs
    powers: np.ndarray  # uint64[words]: BASE to the length: hash(ab) = hash(a) * power(b) + hash(b)
    flags: np.ndarray  # uint8[words]

    @property
    def counts(self) -> np.ndarray:
        """int64[documents]: how many words each has."""
        return np.diff(self.bounds)


def words(batch: Batch) -> Words:
    """The words of the batch, found at the first call."""
    kept = batch.__dict__.get("_words")
    if kept is None:
        kept = batch.__dict__["_words"] = _find(batch)
    return kept


def hash_of(text: str) -> int:
    """The hash that a word of these characters has."""
    value = 0
    for character in text:
        value = (value * BASE + ord(character) + 1) & _MASK
    return value


def split(text: str) -> list[str]:
    """The words of one text, as strings: for tests and explanations."""
    from pretrainx.curate.documents import Document

    found = words(Batch([Document("", text, "")]))
    return [text[start : start + length] for start, length in zip(found.starts, found.lengths, strict=True)]


def _find(batch: Batch) -> Words:
    characters, bounds = batch.characters, batch.bounds
    if len(characters) >= 2**31:
        raise InputError(f"a batch of {len(characters):,} characters is too large to index; make batches of fewer documents")
    capacity = len(characters) + 1  # memory is taken as it is written, not as it is reserved
    starts, lengths = np.empty(capacity, np.int32), np.empty(capacity, np.int32)
    hashes, powers, flags = np.empty(capacity, np.uint64), np.empty(capacity, np.uint64), np.empty(capacity, np.uint8)
    ends = np.zeros(len(batch) + 1, np.int64)
    longest = int(np.diff(bounds).max(initial=0)) + 2
    scratch = np.empty((3, longest), np.int32)
    count = _tokenize(characters, bounds, rules(), starts, lengths, hashes, powers, flags, ends, scratch)
    return Words(ends, starts[:count], lengths[:count], hashes[:count], powers[:count], flags[:count])


@functools.cache
def rules() -> Rules:
    """The English rules as arrays."""
    special = english.special_words()
    names = sorted(special)
    most = max(max(len(pieces) for pieces in special.values()), 16)
    size = 8192
    slots = np.full(size, -1, np.int32)
    keys = np.array([hash_of(name) for name in names], np.uint64)
    pieces, joins = np.zeros((len(names), most), np.int32), np.zeros((len(names), most), np.int32)
    for row, name in enumerate(names):
        slot = int(mixed(keys[row])) & (size - 1)
        while slots[slot] >= 0:
            slot = (slot + 1) & (size - 1)
        slots[slot] = row
        pieces[row, : len(special[name])] = [len(piece) for piece in special[name]]
    begins = np.zeros(4096, np.bool_)
    units = np.array([hash_of(unit) for unit in english.UNITS], np.uint64)
    found = Rules(table(), slots, keys, pieces, joins, begins, units, max(map(len, names)))
    scratch = np.empty((3, 64), np.int32)
    for row, name in enumerate(names):
        characters = np.array([ord(c) for c in name], np.uint32)
        characters.setflags(write=False)
        count = int(_split(characters, 0, len(name), found, False, scratch))
        if count > 1 and count <= most:
            ends = scratch[0, :count]
            joins[row, :count] = np.diff(ends, prepend=0)
            begins[int(mixed(np.uint64(hash_of(name[: ends[0]])))) & 4095] = True
    return found


@njit(cache=True)
def _hash(characters, start, end):
    value = uint64(0)
    for position in range(start, end):
        value = value * uint64(BASE) + uint64(characters[position]) + uint64(1)
    return value


@njit(cache=True)
def _row(slots, keys, key):
    """The row of the special word with this hash, or -1."""
    mask = uint64(len(slots) - 1)
    slot = mixed(key) & mask
    while slots[slot] >= 0:
        if keys[slots[slot]] == key:
            return slots[slot]
        slot = (slot + uint64(1)) & mask
    return -1


@njit(cache=True)
def _special(characters, start, end, slots, keys, longest):
    if end - start > longest or end <= start:
        return -1
    return _row(slots, keys, _hash(characters, start, end))


@njit(cache=True)
def _is_digit(code):
    return 48 <= code <= 57


@njit(cache=True)
def _prefix(characters, start, end, bits):
    """How many characters are split off the front."""
    code = characters[start]
    if bits[code] & PREFIX:
        return 1
    if code == 43:  # +
        return 0 if start + 1 < end and _is_digit(characters[start + 1]) else 1
    if code == 46:  # .
        run = start
        while run < end and characters[run] == 46:
            run += 1
        return run - start if run - start > 1 else 0
    if code == 85 and start + 2 < end and characters[start + 1] == 83 and characters[start + 2] == 36:  # US$
        return 3
    if (code == 67 or code == 65) and start + 1 < end and characters[start + 1] == 36:  # C$ A$
        return 2
    return 0


@njit(cache=True)
def _suffix(characters, start, end, bits, units):
    """How many characters are split off the end: the most that any rule allows."""
    if end <= start:
        return 0
    code = characters[end - 1]
    before = characters[end - 2] if end - 2 >= start else 0
    if code == 46:
        run = end
        while run > start and characters[run - 1] == 46:
            run -= 1
        if end - run > 1:
            return end - run
        if end - 2 < start:
            return 0
        if bits[before] & BEFORE_DOT:
            return 1
        if end - 3 >= start:
            third = characters[end - 3]
            if bits[before] & UPPER and bits[third] & UPPER:
                return 1
            if third == 0xB0 and (before == 67 or before == 70 or before == 75):  # °C. °F. °K.; lower case is above
                return 1
        return 0
    if code == 0x2026:  # …
        return 2 if before == 0x2026 else 1
    if (code == 115 or code == 83) and (before == 39 or before == 0x2019):  # 's
        return 2
    if bits[code] & SUFFIX:
        return 1
    if bits[code] & CURRENCY and code == 36:
        if end - 4 >= start and before == 83 and characters[end - 3] == 85 and _is_digit(characters[end - 4]):
            return 3
        if end - 3 >= start and (before == 67 or before == 65) and _is_digit(characters[end - 3]):
            return 2
    if _is_digit(before) and (code == 43 or bits[code] & CURRENCY):
        return 1
    # A unit of measure right after a digit.
    position = end - 1
    while position >= start and position >= end - 6 and not _is_digit(characters[position]):
        position -= 1
    if position >= start and position >= end - 6 and position < end - 1:
        key = _hash(characters, position + 1, end)
        for unit in units:
            if unit == key:
                return end - 1 - position
    return 0


@njit(cache=True)
def _infix(characters, start, position, end, bits):
    """How many characters at `position` are a word of their own between others."""
    code = characters[position]
    if bits[code] & ICON or code == 0x2026:
        return 1
    if code == 46:
        run = position
        while run < end and characters[run] == 46:
            run += 1
        if run - position > 1:
            return run - position
    if position == start or position + 1 >= end:
        return 0
    before, after = bits[characters[position - 1]], bits[characters[position + 1]]
    if code == 46:
        return 1 if before & (LOWER | QUOTE) and after & (UPPER | QUOTE) else 0
    if code == 44:  # ,
        return 1 if before & LETTER and after & LETTER else 0
    digit = _is_digit(characters[position - 1])
    if code == 43 or code == 45 or code == 42 or code == 94:  # + - * ^
        following = characters[position + 1]
        if digit and (_is_digit(following) or following == 45):
            return 1
    if not (before & LETTER or digit):
        return 0
    if code == 58 or code == 60 or code == 62 or code == 61 or code == 47:  # : < > = /
        return 1 if after & LETTER else 0
    if code == 45 or code == 0x2014:  # one to three hyphens, one or two dashes
        for length in range(1, 4 if code == 45 else 3):
            if position + length >= end:
                return 0
            if bits[characters[position + length]] & LETTER:
                return length
            if characters[position + length] != code:
                return 0
        return 0
    if code == 0x2013 or code == 126:  # – ~
        return 1 if after & LETTER else 0
    return 0


@njit(cache=True)
def _numbers(characters, position, end):
    """The four numbers of a dotted address at `position`, and where it ends; first number -1: there is none."""
    found = (-1, -1, -1, -1)
    count = 0
    first, second, third, fourth = -1, -1, -1, -1
    while count < 4:
        length, value = 0, 0
        while position < end and length < 3 and _is_digit(characters[position]):
            value = value * 10 + characters[position] - 48
            position += 1
            length += 1
        if length == 0:
            return found, position
        if count == 0:
            first = value
        elif count == 1:
            second = value
        elif count == 2:
            third = value
        else:
            fourth = value
        count += 1
        if count < 4:
            if position >= end or characters[position] != 46:
                return found, position
            position += 1
    return (first, second, third, fourth), position


@njit(cache=True)
def _port_and_path(characters, position, end, bits):
    """Whether the rest of an address is a port, a path, both or nothing."""
    if position < end and characters[position] == 58:
        digits = position + 1
        while digits < end and digits - position <= 5 and bits[characters[digits]] & DIGIT:
            digits += 1
        if digits - position - 1 < 2:
            return False
        position = digits
    return position == end or characters[position] == 47 or characters[position] == 63 or characters[position] == 35


@njit(cache=True)
def _host(characters, position, end, bits):
    """Whether host, port and path are all that lies between `position` and the end."""
    numbers, after = _numbers(characters, position, end)
    first, second, third, fourth = numbers
    if first > 0 and first < 224 and fourth > 0 and fourth < 255 and second < 256 and third < 256:
        private = first == 10 or first == 127 or (first == 169 and second == 254) or (first == 192 and second == 168)
        private = private or (first == 172 and 16 <= second <= 31)
        if not private and characters[position] != 48 and _port_and_path(characters, after, end, bits):
            return True
    labels, begin = 0, position
    while True:
        stop = begin
        while stop < end:
            code = characters[stop]
            if not (bits[code] & (HOST | LOWER) or code == 45 or code == 95):
                break
            stop += 1
        if stop < end and characters[stop] == 46:
            length = stop - begin
            ends_well = length > 0 and bits[characters[begin]] & HOST and bits[characters[stop - 1]] & HOST
            if not ends_well or length > 64:
                return False
            labels += 1
            begin = stop + 1
            continue
        if labels == 0 or stop - begin < 2 or stop - begin > 63:
            return False
        for index in range(begin, stop):
            if not bits[characters[index]] & LOWER:
                return False
        return _port_and_path(characters, stop, end, bits)


@njit(cache=True)
def _is_address(characters, start, end, bits):
    """Whether the whole chunk is a URL, a host name or a mail address."""
    dot = False
    for position in range(start, end):
        if characters[position] == 46:
            dot = True
            break
    if not dot:
        return False
    if _host(characters, start, end, bits):
        return True
    position = start
    while position < end:
        code = characters[position]
        if not (bits[code] & WORD or code == 43 or code == 45 or code == 46):
            break
        position += 1
    scheme = position - start >= 2 and position + 3 < end and characters[position] == 58
    scheme = scheme and characters[position + 1] == 47 and characters[position + 2] == 47
    if scheme and _host(characters, position + 3, end, bits):
        return True
    found = False
    for position in range(start + 1, end - 1):
        found = found or (characters[position] == 64 and _host(characters, position + 1, end, bits))  # @
    return found


@njit(cache=True)
def _split(characters, start, end, rules, with_special, scratch):
    """Splits a chunk without white space: the ends of its words in scratch[0], and how many there are.

    The words tile the chunk, so their ends say everything; scratch is int32[3, at least the chunk's length + 2].
    """
    # Called functions take the arrays they need: all the rules, passed at every character, would cost more than the work.
    ends, tail = scratch[0], scratch[1]
    bits, slots, keys, longest, units = rules.bits, rules.slots, rules.keys, rules.longest, rules.units
    count, tails = 0, 0
    left, right = start, end
    row = -1
    while left < right:
        if with_special:
            row = _special(characters, left, right, slots, keys, longest)
            if row >= 0:
                break
        prefix = _prefix(characters, left, right, bits)
        if prefix and with_special:
            row = _special(characters, left + prefix, right, slots, keys, longest)
            if row >= 0:
                left += prefix
                ends[count] = left
                count += 1
                break
        suffix = _suffix(characters, left + prefix, right, bits, units)
        if suffix and with_special:
            row = _special(characters, left, right - suffix, slots, keys, longest)
            if row >= 0:
                tail[tails] = right
                tails += 1
                right -= suffix
                break
        if prefix == 0 and suffix == 0:
            break
        if prefix:
            left += prefix
            ends[count] = left
            count += 1
        if suffix:
            tail[tails] = right
            tails += 1
            right -= suffix
    if left < right:
        if row >= 0:
            position = left
            for index in range(rules.pieces.shape[1]):
                if rules.pieces[row, index] == 0:
                    break
                position += rules.pieces[row, index]
                ends[count] = position
                count += 1
        elif _is_address(characters, left, right, bits):
            ends[count] = right
            count += 1
        else:
            position, begin = left, left
            while position < right:
                length = _infix(characters, left, position, right, bits) if bits[characters[position]] & INFIX else 0
                if length == 0:
                    position += 1
                    continue
                if position != left:
                    if position != begin:
                        ends[count] = position
                        count += 1
                    ends[count] = position + length
                    count += 1
                    begin = position + length
                position += length
            if begin < right:
                ends[count] = right
                count += 1
    for index in range(tails):
        ends[count] = tail[tails - 1 - index]
        count += 1
    if with_special and count > 1:
        count = _join(characters, start, count, rules.joins, rules.pieces, rules.begins, slots, keys, longest, scratch)
    return count


@njit(cache=True)
def _join(characters, start, count, joins, pieces_of, begins, slots, keys, longest, scratch):
    """Joins neighbouring words that are the pieces of a special word: the longest first, then from the left."""
    ends, rows = scratch[0], scratch[2]
    most = joins.shape[1]
    any_begins = False
    for index in range(count):
        begin = start if index == 0 else ends[index - 1]
        rows[index] = 0
        if ends[index] - begin <= longest and begins[mixed(_hash(characters, begin, ends[index])) & uint64(4095)]:
            rows[index] = 1
            any_begins = True
    if not any_begins:
        return count
    # rows: 1 may begin a join, 0 may not; taken words get 2 added; the first word of a join becomes 16 + 4 * row.
    for length in range(min(most, count), 1, -1):
        for first in range(count - length + 1):
            if rows[first] >= 16 or not rows[first] & 1:
                continue
            begin = start if first == 0 else ends[first - 1]
            last = first + length - 1
            if ends[last] - begin > longest:
                continue
            row = _row(slots, keys, _hash(characters, begin, ends[last]))
            if row < 0 or joins[row, length - 1] == 0 or (length < most and joins[row, length] != 0):
                continue
            same, position = True, begin
            for index in range(length):
                position += joins[row, index]
                if position != ends[first + index]:
                    same = False
                    break
            if not same:
                continue
            free = not (rows[first] & 2 or rows[last] & 2 or rows[last] >= 16)
            for index in range(first, last + 1):
                if rows[index] < 16:
                    rows[index] |= 2
            if free:
                rows[first] = 16 + 4 * row
    written, index = 0, 0
    tail = scratch[1]
    begin = start
    while index < count:
        if rows[index] >= 16:
            row = (rows[index] - 16) // 4
            pieces = 0
            while pieces < most and joins[row, pieces] != 0:
                pieces += 1
            position = begin
            for piece in range(most):
                if pieces_of[row, piece] == 0:
                    break
                position += pieces_of[row, piece]
                tail[written] = position
                written += 1
            index += pieces
        else:
            tail[written] = ends[index]
            written += 1
            index += 1
        begin = tail[written - 1]
    for index in range(written):
        ends[index] = tail[index]
    return written


@njit(cache=True)
def _tokenize(characters, bounds, rules, starts, lengths, hashes, powers, flags, ends, scratch):
    """Fills the columns of words, and ends[1:] with how many there are up to each document's end."""
    bits, slots, keys, longest = rules.bits, rules.slots, rules.keys, rules.longest
    base, one = uint64(BASE), uint64(1)
    count = 0
    # How chunks were split lately: their hash, length, number of pieces and lengths of pieces. A hit saves nine tenths of the work.
    known, known_sizes = np.zeros(_REMEMBERED, np.uint64), np.zeros((_REMEMBERED, 10), np.uint8)
    for document in range(len(bounds) - 1):
        position, stop = bounds[document], bounds[document + 1]
        while position < stop:
            if bits[characters[position]] & SPACE:
                position += 1
                continue
            begin = position
            key, power, plain = uint64(0), one, uint64(PLAIN)
            while position < stop:
                code = characters[position]
                kind = bits[code]
                if kind & SPACE:
                    break
                key = key * base + uint64(code) + one
                power *= base
                plain &= uint64(kind)
                position += 1
            if plain and (position - begin > longest or _row(slots, keys, key) < 0):
                starts[count], lengths[count] = begin, position - begin
                hashes[count], powers[count] = key, power
                flags[count] = HAS_ALPHA | HAS_MORE
                count += 1
                continue
            size = position - begin
            slot = mixed(key) & uint64(_REMEMBERED - 1)
            if known[slot] == key and known_sizes[slot, 0] == size:
                pieces = known_sizes[slot, 1]
                last = begin
                for piece in range(pieces):
                    last += known_sizes[slot, 2 + piece]
                    scratch[0, piece] = last
            else:
                pieces = _split(characters, begin, position, rules, True, scratch)
                if pieces <= known_sizes.shape[1] - 2 and size < 256:
                    known[slot], known_sizes[slot, 0], known_sizes[slot, 1] = key, size, pieces
                    last = begin
                    for piece in range(pieces):
                        known_sizes[slot, 2 + piece] = scratch[0, piece] - last
                        last = scratch[0, piece]
            for piece in range(pieces):
                last = scratch[0, piece]
                key, power, flag = uint64(0), one, 0
                for index in range(begin, last):
                    code = characters[index]
                    kind = bits[code]
                    key = key * base + uint64(code) + one
                    power *= base
                    flag |= (HAS_ALPHA if kind & ALPHA else 0) | (0 if kind & SYMBOL else HAS_MORE)
                starts[count], lengths[count] = begin, last - begin
                hashes[count], powers[count], flags[count] = key, power, flag
                count += 1
                begin = last
        ends[document + 1] = count
    return count
