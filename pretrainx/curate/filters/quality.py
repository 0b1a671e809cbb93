"""Texts that a trained classifier takes for bad ones (tools/train_quality.py makes it, from examples)."""

import functools
import os
from dataclasses import dataclass
from typing import Annotated, Any

from pretrainx.core import files
from pretrainx.core.schema import Range
from pretrainx.curate import quality
from pretrainx.curate.documents import Batch


@dataclass(frozen=True)
class Filter:
    """Drops what scores below `min_score`, a probability (0 to 1) when both kinds of text are as common."""

    model: str  # file
    min_score: Annotated[float, Range(ge=0, le=1)] = 0.5

    def __post_init__(self) -> None:
        load(self.model)

    def files(self) -> tuple[str, ...]:
        return (self.model,)

    def reasons(self, batch: Batch) -> list[str]:
        low = load(self.model).scores(batch) < self.min_score
        return ["quality/low_score" if is_low else "" for is_low in low.tolist()]


def load(path: str) -> Any:
    """The model of a file; one that was written since is read again."""
    return _load(path, files.stamp(path) if os.path.exists(path) else ())


@functools.lru_cache(maxsize=4)
def _load(path: str, _: tuple[int, ...]) -> Any:
    return quality.load(path, "classifier", "quality filter")
