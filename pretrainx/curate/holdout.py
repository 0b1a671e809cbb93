"""Which documents are held out: a function of their name alone, so it never changes as a corpus grows."""

import hashlib


def held_out(name: str, share: float, salt: str = "") -> bool:
    """Whether this document is among the `share` (0 to 1) that is kept for validation."""
    digest = hashlib.blake2b(f"{salt}\0{name}".encode("utf-8", "replace"), digest_size=8).digest()
    return int.from_bytes(digest, "little") < share * 2**64
