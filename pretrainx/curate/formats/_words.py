"""Lists of words in source code, readable as text."""


def words(text: str) -> frozenset[str]:
    return frozenset(text.split())
