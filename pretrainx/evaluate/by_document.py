"""Bits of each document from losses of windows: what bits per byte are made of, whatever the vocabulary or the window."""

import math
from collections.abc import Mapping

import numpy as np

from pretrainx.core.logs import log
from pretrainx.data.windows import Windows
from pretrainx.evaluate.results import Items, unique

MOST = 200_000  # documents that a result lists: beyond, its file would outgrow the checkpoint


class DocumentNats:
    """Sums losses of tokens by the document that they belong to. The end-of-document token belongs to the document it ends."""

    def __init__(self, windows: Windows):
        self.windows = windows
        self.nats = np.zeros(windows.cache.num_documents)
        self.seen = 0  # tokens of the stream, from its start

    def add(self, first: int, losses_BL: np.ndarray) -> None:
        """Of the windows from number `first` on, one a row. Windows are added in order."""
        for row, losses in enumerate(np.asarray(losses_BL, np.float64)):
            start, stop = self.windows.span(first + row)
            for document, begin, end in self.windows.cache.documents_in(start, stop, self.windows.feature):
                self.nats[document] += losses[begin - start : end - start].sum()
            self.seen = stop

    def items(self) -> Items | None:
        """Bits and UTF-8 bytes of each document that was scored to its end; None where there are none, or too many to list."""
        cache = self.windows.cache
        documents = [d for d in map(cache.document, range(min(cache.num_documents, MOST + 1))) if d.end <= self.seen]
        if len(documents) > MOST:
            log(f"{cache.manifest['corpus']}: {cache.num_documents:,} documents are too many to keep one by one; no interval will be known")
            return None
        if not any(d.num_bytes for d in documents):
            return None
        bits = self.nats[: len(documents)] / math.log(2)
        return Items("ratio", unique(d.id for d in documents), bits.tolist(), [float(d.num_bytes) for d in documents])


def together(items: Mapping[str, Items]) -> Items:
    """All sources as one, each a group: the bits of all by the bytes of all."""
    parts = [(name, own, i) for name, own in items.items() for i in range(len(own.ids))]
    ids = unique(f"{name}/{own.ids[i]}" for name, own, i in parts)
    values, weights = ([float(column(own)[i]) for _, own, i in parts] for column in (lambda x: x.values, lambda x: x.weights))
    return Items("ratio", ids, values, weights, [name for name, _, _ in parts])
