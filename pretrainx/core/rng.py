"""Randomness with an address: the same (seed, address) gives the same stream on every host, for ever."""

import hashlib

import numpy as np


def key_of(seed: int, *address: int | str) -> int:
    """A 128-bit key from a seed and an address such as ("shuffle", source, epoch).

    Every part is length-prefixed before hashing, so ("ab", "c") and ("a", "bc") differ.
    """
    digest = hashlib.blake2b(digest_size=16)
    for part in (seed, *address):
        encoded = f"{type(part).__name__}:{part}".encode()
        digest.update(len(encoded).to_bytes(4, "little") + encoded)
    return int.from_bytes(digest.digest(), "little")


def generator(seed: int, *address: int | str) -> np.random.Generator:
    """A NumPy generator for this address. Philox is counter-based: streams do not overlap."""
    return np.random.Generator(np.random.Philox(key=key_of(seed, *address)))
