"""Documents that are too short or too long."""

from dataclasses import dataclass
from typing import Annotated

import numpy as np

from pretrainx.core.schema import Range
from pretrainx.curate.documents import Batch
from pretrainx.curate.filters._first import first_reason


@dataclass(frozen=True)
class Filter:
    """How many characters a document may have, both ends included."""

    min_characters: Annotated[int, Range(ge=0)] = 50
    max_characters: Annotated[int, Range(ge=1)] = 100_000

    def __post_init__(self) -> None:
        if self.max_characters < self.min_characters:
            raise ValueError(f"max_characters is {self.max_characters} and below min_characters, {self.min_characters}")

    def reasons(self, batch: Batch) -> list[str]:
        length = np.diff(batch.bounds)
        return first_reason("length", {"too_short": length < self.min_characters, "too_long": length > self.max_characters}, len(batch))
