"""Labelled records out of a token cache: each document's features, read one document at a time."""

from collections.abc import Sequence

import numpy as np

from pretrainx.core.errors import InputError
from pretrainx.data.cache import Document, TokenCache


class Records:
    """Record r is document r of the split, with all of the features that an objective reads; what data/windows.py is to a stream."""

    def __init__(self, cache: TokenCache, features: Sequence[str]):
        there = cache.manifest["features"]
        if missing := [name for name in features if name not in there]:
            form = "words" if "inputs" in features else "classes"
            raise InputError(
                f"token cache {cache.folder} has no feature {missing[0]!r} (it has {', '.join(there)}); the objective reads labelled "
                f"records: give the corpus a task and form {form!r}, then run tools/cache_tasks.py"
            )
        self.cache, self.features, self.feature = cache, tuple(features), features[0]
        self.num_tokens = sum(cache.num_tokens(name) for name in features)
        self.length = 0  # of no use here: a record is no stretch of a stream

    def __len__(self) -> int:
        return self.cache.num_documents

    def span(self, index: int) -> tuple[int, int]:
        """Where the record's first feature lies in the stream of that feature."""
        return self.cache.document_span(index, self.feature)

    def read(self, indices: Sequence[int], elsewhere: object = None) -> list[dict[str, np.ndarray]]:
        """{feature: int32[n]} of several records."""
        del elsewhere
        columns = {name: self.cache.read_many([self.cache.document_span(int(i), name) for i in indices], name) for name in self.features}
        return [{name: column[place] for name, column in columns.items()} for place in range(len(indices))]

    def touching(self, document: Document) -> range:
        return range(document.index, document.index + 1)
