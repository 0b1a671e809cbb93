"""C4's line rules, compiled: which lines of a document stay, and whether it has enough sentences (Raffel et al. 2020, section 2.2)."""

from dataclasses import dataclass
from typing import NamedTuple

import numpy as np
from numba import njit, uint64

from pretrainx.curate.columns.classes import BREAK, DIGIT, PUNCTUATION, SENTENCE, SPACE, table
from pretrainx.curate.columns.words import _split, rules
from pretrainx.curate.documents import Batch

KEPT, LONG_WORD, NO_END, FEW_WORDS, SCRIPT, POLICY = range(6)  # what becomes of a line
LOREM_IPSUM, CURLY_BRACKET, FEW_SENTENCES = 1, 2, 3  # why a document goes, in the order in which they are found
_PHRASES = (
    "lorem ipsum", "javascript", "terms of use", "privacy policy", "cookie policy", "uses cookies", "use of cookies", "use cookies",
)  # fmt: skip
_CITATIONS = ("[edit]", "[citation needed]")


class Limits(NamedTuple):
    """The rules' switches and numbers; -1 switches a number off."""

    citations: bool
    ends: bool
    sentences: int
    words: int
    word_length: int
    lorem_ipsum: bool
    script: bool
    bracket: bool
    policy: bool


@dataclass(frozen=True)
class Lines:
    """What the rules made of the lines of a batch (lines as str.splitlines has them, stripped)."""

    verdicts: np.ndarray  # uint8[documents]: 0, or why the document goes
    bounds: np.ndarray  # int64[documents + 1]: of the kept lines
    starts: np.ndarray  # int32[kept lines]: position in the batch's characters
    ends: np.ndarray  # int32[kept lines]
    cited: np.ndarray  # bool[kept lines]: marks of citations are to be taken out
    dropped: np.ndarray  # int64[documents, 6]: lines by what became of them, of documents that stay


def judge(batch: Batch, limits: Limits) -> Lines:
    """The lines that stay and the documents that go."""
    characters, bounds = batch.characters, batch.bounds
    bits = table()
    capacity = int(np.count_nonzero(characters < 32)) + int(np.count_nonzero((characters >= 0x85) & (bits[characters] & BREAK > 0)))
    capacity += len(batch)
    starts, ends, cited = np.empty(capacity, np.int32), np.empty(capacity, np.int32), np.empty(capacity, np.bool_)
    longest = int(np.diff(bounds).max(initial=0)) + 2
    out = Lines(
        np.zeros(len(batch), np.uint8), np.zeros(len(batch) + 1, np.int64), starts, ends, cited, np.zeros((len(batch), 6), np.int64)
    )
    phrases, phrase_ends = _packed(_PHRASES)
    citations, citation_ends = _packed(_CITATIONS)
    buffers = np.empty(longest, np.uint32), np.empty((3, longest), np.int32)
    count = _judge(
        characters, bounds, rules(), limits, phrases, phrase_ends, citations, citation_ends, *buffers,
        out.verdicts, out.bounds, starts, ends, cited, out.dropped,
    )  # fmt: skip
    return Lines(out.verdicts, out.bounds, starts[:count], ends[:count], cited[:count], out.dropped)


def _packed(texts: tuple[str, ...]) -> tuple[np.ndarray, np.ndarray]:
    return np.array([ord(c) for c in "".join(texts)], np.uint32), np.cumsum([len(text) for text in texts])


@njit(cache=True)
def _citation(characters, start, end, bits, marks, mark_ends):
    """The length of a citation's mark at `start`, or 0: [], [12], [edit], [citation needed]."""
    position = start + 1
    while position < end and bits[characters[position]] & DIGIT:
        position += 1
    if position < end and characters[position] == 93:
        return position + 1 - start
    begin = 0
    for stop in mark_ends:
        length = stop - begin
        if start + length <= end:
            same = True
            for index in range(length):
                if characters[start + index] != marks[begin + index]:
                    same = False
                    break
            if same:
                return length
        begin = stop
    return 0


@njit(cache=True)
def _lower(code):
    """Lower case as far as ASCII phrases can tell."""
    if 65 <= code <= 90:
        return code + 32
    return 107 if code == 0x212A else code  # the Kelvin sign is a k


@njit(cache=True)
def _phrases_in(line, size, phrases, phrase_ends):
    """Bit i: the lower-cased line holds phrase i."""
    found = 0
    for position in range(size):
        code = _lower(line[position])
        if not (code == 108 or code == 106 or code == 116 or code == 112 or code == 99 or code == 117):  # l j t p c u
            continue
        begin = 0
        for index in range(len(phrase_ends)):
            length = phrase_ends[index] - begin
            if phrases[begin] == code and position + length <= size:
                same = True
                for offset in range(1, length):
                    if _lower(line[position + offset]) != phrases[begin + offset]:
                        same = False
                        break
                if same:
                    found |= 1 << index
            begin = phrase_ends[index]
    return found


@njit(cache=True)
def _sentences(line, size, rules, scratch):
    """How many sentences the rule-based splitter finds: one begins with the first word after an end mark that is not
    itself punctuation, and white space counts as such a word unless it is one space."""
    bits = rules.bits
    count, ended = 0, False
    position = 0
    while position < size:
        begin = position
        if bits[line[position]] & SPACE:
            while position < size and bits[line[position]] & SPACE:
                position += 1
            token = begin == 0 or position - begin > 1 or line[begin] != 32
            if token and (count == 0 or ended):
                count += 1
                ended = False
            continue
        while position < size and not bits[line[position]] & SPACE:
            position += 1
        pieces = _split(line, begin, position, rules, True, scratch)
        for piece in range(pieces):
            stop = scratch[0, piece]
            mark = stop - begin == 1 and bits[line[begin]] & SENTENCE
            punctuation = True
            for index in range(begin, stop):
                if not bits[line[index]] & PUNCTUATION:
                    punctuation = False
                    break
            if count == 0:
                count = 1
            if ended and not punctuation and not mark:
                count += 1
                ended = False
            elif mark:
                ended = True
            begin = stop
    return max(count, 1)  # datatrove counts one in an empty line, too


@njit(cache=True)
def _judge(
    characters, bounds, rules, limits, phrases, phrase_ends, marks, mark_ends, line, scratch, verdicts, kept, starts, ends, cited, fates
):
    bits = rules.bits
    count = 0
    for document in range(len(bounds) - 1):
        position, stop = bounds[document], bounds[document + 1]
        first_line, sentences, verdict = count, 0, 0
        while position < stop:
            begin = position
            while position < stop and not bits[characters[position]] & BREAK:
                position += 1
            end = position
            if position < stop:
                position += 2 if characters[position] == 13 and position + 1 < stop and characters[position + 1] == 10 else 1
            while begin < end and bits[characters[begin]] & SPACE:
                begin += 1
            while end > begin and bits[characters[end - 1]] & SPACE:
                end -= 1
            # One pass: words by white space, and a copy without the marks of citations.
            words, word_length, longest, size, has_citation, bracket = 0, 0, 0, 0, False, False
            skip_until = begin
            for index in range(begin, end):
                code = characters[index]
                if bits[code] & SPACE:
                    word_length = 0
                else:
                    if word_length == 0:
                        words += 1
                    word_length += 1
                    longest = max(longest, word_length)
                if index < skip_until:
                    continue
                if code == 91 and limits.citations:
                    length = _citation(characters, index, end, bits, marks, mark_ends)
                    if length:
                        has_citation = True
                        skip_until = index + length
                        continue
                bracket |= code == 123
                line[size] = code
                size += 1
            if limits.word_length >= 0 and longest > limits.word_length:
                fates[document, LONG_WORD] += 1
                continue
            if limits.ends:
                last = line[size - 1] if size else uint64(0)
                good = last == 46 or last == 63 or last == 33 or last == 34 or last == 39
                if last == 46 and size >= 3 and line[size - 2] == 46 and line[size - 3] == 46:
                    good = False
                if not good:
                    fates[document, NO_END] += 1
                    continue
            if words < limits.words:
                fates[document, FEW_WORDS] += 1
                continue
            held = _phrases_in(line, size, phrases, phrase_ends) if limits.lorem_ipsum or limits.script or limits.policy else 0
            if limits.lorem_ipsum and held & 1:
                verdict = LOREM_IPSUM
                break
            if limits.script and held & 2:
                fates[document, SCRIPT] += 1
                continue
            if limits.bracket and bracket:
                verdict = CURLY_BRACKET
                break
            if limits.policy and held >> 2:
                fates[document, POLICY] += 1
                continue
            if sentences < limits.sentences:
                sentences += _sentences(line, size, rules, scratch)
            starts[count], ends[count], cited[count] = begin, end, has_citation
            count += 1
            fates[document, KEPT] += 1
        if verdict == 0 and sentences < limits.sentences:
            verdict = FEW_SENTENCES
        if verdict:
            count = first_line
            fates[document] = 0
        verdicts[document] = verdict
        kept[document + 1] = count
    return count
