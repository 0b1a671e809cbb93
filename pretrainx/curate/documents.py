"""What curation handles: a document, and a batch of them as one array of characters."""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from typing import Any

import numpy as np


@dataclass(frozen=True)
class Document:
    """One text with a name; `origin` is "<file path>#<record number>", `source` the collection that it is from."""

    id: str
    text: str
    origin: str
    source: str = ""
    metadata: Mapping[str, Any] = field(default_factory=dict)  # what else the record says (url, title, ...), JSON values


@dataclass(frozen=True)
class Batch:
    """Some documents, and their characters as columns that are made once, when the first filter asks for them."""

    documents: Sequence[Document]

    def __len__(self) -> int:
        return len(self.documents)

    @property
    def texts(self) -> list[str]:
        return [document.text for document in self.documents]

    @cached_property
    def characters(self) -> np.ndarray:
        """uint32[all characters]: the code points of all texts, one after the other."""
        return np.frombuffer("".join(self.texts).encode("utf-32-le"), np.uint32)

    @cached_property
    def bounds(self) -> np.ndarray:
        """int64[documents + 1]: document i has the characters bounds[i] to bounds[i + 1]."""
        return np.cumsum([0, *map(len, self.texts)], dtype=np.int64)

    def take(self, keep: Sequence[bool] | np.ndarray) -> "Batch":
        """The documents where `keep` is true."""
        return Batch([document for document, kept in zip(self.documents, keep, strict=True) if kept])


def batches(documents: Iterator[Document], characters: int = 4_000_000) -> Iterator[Batch]:
    """Batches of consecutive documents with about so many characters each: what bounds memory and amortises array calls."""
    held: list[Document] = []
    size = 0
    for document in documents:
        held.append(document)
        size += len(document.text)
        if size >= characters:
            yield Batch(held)
            held, size = [], 0
    if held:
        yield Batch(held)
