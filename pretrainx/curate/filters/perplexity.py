"""Texts that an n-gram model of good text finds too surprising, or not at all (Wenzek et al. 2020, arXiv:1911.00359)."""

import functools
import os
from dataclasses import dataclass
from typing import Annotated, Any

import numpy as np

from pretrainx.core import files
from pretrainx.core.schema import Range
from pretrainx.curate import quality
from pretrainx.curate.documents import Batch
from pretrainx.curate.filters._first import first_reason


@dataclass(frozen=True)
class Filter:
    """Limits of the perplexity per word; they depend on the model: tools/train_quality.py prints its quantiles on held-out text."""

    model: str  # file
    max_perplexity: Annotated[float, Range(gt=0)]
    min_perplexity: Annotated[float, Range(ge=0)] = 0.0  # repeated and boilerplate text has a low one

    def __post_init__(self) -> None:
        load(self.model)

    def files(self) -> tuple[str, ...]:
        return (self.model,)

    def reasons(self, batch: Batch) -> list[str]:
        found = load(self.model).perplexities(batch)
        broken: dict[str, np.ndarray] = {"too_high": found > self.max_perplexity, "too_low": found < self.min_perplexity}
        return first_reason("perplexity", broken, len(batch))


def load(path: str) -> Any:
    """The model of a file; one that was written since is read again."""
    return _load(path, files.stamp(path) if os.path.exists(path) else ())


@functools.lru_cache(maxsize=4)
def _load(path: str, _: tuple[int, ...]) -> Any:
    return quality.load(path, "perplexity", "perplexity filter")
