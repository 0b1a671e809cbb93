"""Compiled hash tables that are filled anew for every document: who was seen before, and how often.

Hashes are 64-bit; two unequal texts of one document share one with a chance of about n²/2⁶⁵ for n texts.
"""

from numba import njit, uint64

MULTIPLIER = 0x9E3779B97F4A7C15  # odd; the fractional part of the golden ratio
BASE = 0xD1342543DE82EF95  # of the polynomial hash: hash(text + c) = hash(text) * BASE + c + 1


@njit(cache=True)
def mixed(value):
    """uint64 whose high and low bits all depend on all bits of `value`; never 0, which stands for an empty slot."""
    value = uint64(value)
    value ^= value >> uint64(32)
    value *= uint64(MULTIPLIER)
    value ^= value >> uint64(29)
    value *= uint64(BASE)
    value ^= value >> uint64(32)
    return value if value != uint64(0) else uint64(1)


@njit(cache=True)
def size_for(count):
    """The power of two that keeps a table of so many entries at most half full."""
    size = 16
    while size < 2 * count:
        size *= 2
    return size


@njit(cache=True)
def seen(table, mask, key):
    """Whether the mixed `key` is in the table already; afterwards it is."""
    slot = key & mask
    while table[slot] != uint64(0):
        if table[slot] == key:
            return True
        slot = (slot + uint64(1)) & mask
    table[slot] = key
    return False
