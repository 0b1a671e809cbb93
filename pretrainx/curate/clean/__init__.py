"""Cleaning: each file has a `Step` whose fields are its options and which returns mended documents and counts of what it mended."""

from collections.abc import Sequence
from typing import Protocol

from pretrainx.curate.documents import Batch


class Step(Protocol):
    """What a cleaning step is: a frozen dataclass of options with this one method."""

    def apply(self, batch: Batch) -> tuple[Batch, dict[str, int]]:
        """The batch with every document in its place, and counts by what was done; each text depends on itself alone."""
        ...


def with_texts(batch: Batch, texts: Sequence[str]) -> Batch:
    """The batch with other texts; the very same batch (and its columns) where none differs."""
    from dataclasses import replace

    pairs = list(zip(batch.documents, texts, strict=True))
    if all(document.text is text or document.text == text for document, text in pairs):
        return batch
    return Batch([document if document.text == text else replace(document, text=text) for document, text in pairs])
