"""Fixed windows over a token stream, with document boundaries: what an objective is given."""

from collections.abc import Sequence

import numpy as np

from pretrainx.data.cache import TokenCache
from pretrainx.objectives.examples import from_pieces
from pretrainx.objectives.interface import Window


class Windows:
    """Window w holds tokens [w * length, (w + 1) * length) of the split's stream; the last one may be short."""

    def __init__(self, cache: TokenCache, length: int, feature: str = "targets"):
        self.cache, self.length, self.feature = cache, length, feature
        self.num_tokens = cache.num_tokens(feature)
        self.pad, self.start_id = cache.vocabulary.special.pad, cache.vocabulary.special.start

    def __len__(self) -> int:
        return -(-self.num_tokens // self.length)

    def span(self, index: int) -> tuple[int, int]:
        """Its first token and the one after its last, in the stream."""
        return index * self.length, min((index + 1) * self.length, self.num_tokens)

    def read(self, indices: Sequence[int]) -> list[Window]:
        """Several windows with one read of the cache."""
        spans = [self.span(int(i)) for i in indices]
        streams = self.cache.read_many([(max(start - 1, 0), stop) for start, stop in spans], self.feature)
        return [self._window(start, stop, stream) for (start, stop), stream in zip(spans, streams, strict=True)]

    def _window(self, start: int, stop: int, stream: np.ndarray) -> Window:
        previous = int(stream[0]) if start else self.start_id
        tokens = np.full(self.length, self.pad, np.int32)
        tokens[: stop - start] = stream[1:] if start else stream
        pieces = self.cache.documents_in(start, stop, self.feature)
        return from_pieces(tokens, [(first - start, last - start) for _, first, last in pieces], self._first_input(pieces, previous))

    def _first_input(self, pieces: list[tuple[int, int, int]], previous: int) -> int:
        index, first, _ = pieces[0]
        return self.start_id if self.cache.document_span(index, self.feature)[0] == first else previous
