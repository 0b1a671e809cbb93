"""Fixed windows over a token stream, with document boundaries: what an objective is given."""

from collections.abc import Sequence

import numpy as np

from pretrainx.data.cache import Document, TokenCache
from pretrainx.objectives.examples import NOTHING, choose_elsewhere, from_pieces
from pretrainx.objectives.interface import Window


class Windows:
    """Window w holds the `length` tokens of the split's stream from w * stride on; the last one may be short.

    By default they lie side by side. With a shorter stride all but the first begin with `overlap` tokens of the one before.
    """

    def __init__(self, cache: TokenCache, length: int, feature: str = "targets", stride: int = 0):
        self.cache, self.length, self.feature, self.stride = cache, length, feature, stride or length
        self.overlap = length - self.stride
        self.num_tokens = cache.num_tokens(feature)
        self.pad, self.start_id = cache.vocabulary.special.pad, cache.vocabulary.special.start

    def __len__(self) -> int:
        return 1 + max(0, -(-(self.num_tokens - self.length) // self.stride)) if self.num_tokens else 0

    def span(self, index: int) -> tuple[int, int]:
        """Its first token and the one after its last, in the stream."""
        return index * self.stride, min(index * self.stride + self.length, self.num_tokens)

    def touching(self, document: Document) -> range:
        """The windows that hold tokens of a document."""
        return range(document.start // self.length, -(-document.end // self.length))

    def read(self, indices: Sequence[int], elsewhere: Sequence[tuple[int, int]] | None = None) -> list[Window]:
        """Several windows, with the stretches of the stream that come with them, by one read of the cache."""
        spans = [self.span(int(i)) for i in indices]
        streams = self.cache.read_many([(max(start - 1, 0), stop) for start, stop in spans] + list(elsewhere or ()), self.feature)
        others = streams[len(spans) :] if elsewhere else [NOTHING] * len(spans)
        return [self._window(*span, stream, other) for span, stream, other in zip(spans, streams[: len(spans)], others, strict=True)]

    def elsewhere(self, index: int, address: tuple[int, str, int, int]) -> tuple[int, int]:
        """Where in the stream the stretch of another document lies that comes with window `index`."""
        pieces = self.cache.documents_in(*self.span(index), self.feature)
        own = (pieces[0][0], pieces[-1][0] + 1)
        span_of = lambda document: self.cache.document_span(document, self.feature)  # noqa: E731
        return choose_elsewhere(address, self.cache.num_documents, own, span_of, self.length)

    def _window(self, start: int, stop: int, stream: np.ndarray, elsewhere: np.ndarray) -> Window:
        previous = int(stream[0]) if start else self.start_id
        tokens = np.full(self.length, self.pad, np.int32)
        tokens[: stop - start] = stream[1:] if start else stream
        pieces = self.cache.documents_in(start, stop, self.feature)
        return from_pieces(
            tokens, [(first - start, last - start) for _, first, last in pieces], self._first_input(pieces, previous), elsewhere
        )

    def _first_input(self, pieces: list[tuple[int, int, int]], previous: int) -> int:
        index, first, _ = pieces[0]
        return self.start_id if self.cache.document_span(index, self.feature)[0] == first else previous
