"""What a character is, as bits: one table over all code points, looked up by the compiled loops.

The letters, quotes and punctuation marks that decide where an English word ends are those of spaCy's rule-based
English tokenizer, found by its behaviour; the rest is Unicode's own classification, as Python's `str` methods give it.
"""

import functools
import unicodedata

import numpy as np

from pretrainx.curate.columns import english

SPACE = 1 << 0  # str.isspace
ALPHA = 1 << 1  # str.isalpha
DIGIT = 1 << 2  # decimal digits of any script
WORD = 1 << 3  # letters, digits, underscore
BREAK = 1 << 4  # where str.splitlines ends a line
TERMINAL = 1 << 5  # ends a sentence in some script (what FineWeb's rules look for at a line's end)
SYMBOL = 1 << 6  # what a word of Gopher's rules may not wholly consist of
PUNCTUATION = 1 << 7  # Unicode category P
SENTENCE = 1 << 8  # after which the rule-based splitter begins a sentence
LETTER = 1 << 9  # letters that words are split between
LOWER = 1 << 10
UPPER = 1 << 11
QUOTE = 1 << 12
PREFIX = 1 << 13  # one character that is split off the front of a word
SUFFIX = 1 << 14  # and off its end
ICON = 1 << 15  # symbols that are words of their own
CURRENCY = 1 << 16
BEFORE_DOT = 1 << 17  # after which a final full stop is split off
HOST = 1 << 18  # may stand in a host name
PLAIN = 1 << 19  # ASCII letters: a word of these alone needs no rule but the list of special words
INFIX = 1 << 20  # may be a word of its own between others


@functools.cache
def table() -> np.ndarray:
    """uint32[0x110000]: the bits of each code point."""
    bits = np.zeros(0x110000, np.uint32)
    letters = english.letters()
    for code in range(0x110000):
        character = chr(code)
        category = unicodedata.category(character)
        if category in ("Cn", "Co"):
            continue
        value = SPACE * character.isspace() | ALPHA * character.isalpha() | WORD * (character.isalnum() or character == "_")
        value |= DIGIT * (category == "Nd") | PUNCTUATION * (category[0] == "P") | ICON * (category == "So")
        bits[code] = value
    bits[[ord(c) for c in "\n\v\f\r\x1c\x1d\x1e\x85\u2028\u2029"]] |= BREAK
    for marks, bit in (
        (english.TERMINAL, TERMINAL), (english.SYMBOLS + english.TERMINAL, SYMBOL), (english.SENTENCE_ENDS, SENTENCE),
        (english.QUOTES, QUOTE), (english.PREFIXES, PREFIX), (english.SUFFIXES, SUFFIX), (english.CURRENCY, CURRENCY),
        (english.BEFORE_DOT, BEFORE_DOT), (english.INFIXES, INFIX),
    ):  # fmt: skip
        bits[[ord(c) for c in set(marks)]] |= bit
    for codes, bit in zip(letters, (LETTER, LOWER, UPPER), strict=True):
        bits[codes] |= bit
    bits[letters[1]] |= BEFORE_DOT
    bits[(bits & ICON) > 0] |= PREFIX | SUFFIX | INFIX
    bits[0xA1:0x10000] |= HOST
    for first, last in ("09", "AZ", "az"):
        bits[ord(first) : ord(last) + 1] |= HOST | (PLAIN if first != "0" else BEFORE_DOT)
    bits.setflags(write=False)
    return bits
