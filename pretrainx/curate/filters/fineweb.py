"""FineWeb's additions: lines without an end, short lines, repeated lines, lists (Penedo et al. 2024, arXiv:2406.17557, section 3.5)."""

from dataclasses import dataclass
from typing import Annotated

import numpy as np

from pretrainx.core.schema import Range
from pretrainx.curate.documents import Batch
from pretrainx.curate.filters._first import first_reason

Share = Annotated[float, Range(ge=0)]


@dataclass(frozen=True)
class Filter:
    """Limits outside which a document is dropped, over lines that are not blank. Paper's numbers; datatrove's order and counting."""

    min_lines_with_end: Share = 0.12  # lines whose last character ends a sentence in some script
    exempt_without_ends: bool = False  # a document of which no line has such an end may stay
    max_short_lines: Share = 0.67
    short_line_characters: Annotated[int, Range(ge=0)] = 30
    max_repeated_characters: Share = 0.01
    max_line_feeds_per_word: Share = 0.3

    def reasons(self, batch: Batch) -> list[str]:
        return first_reason("fineweb", self.broken(batch), len(batch))

    def broken(self, batch: Batch) -> dict[str, np.ndarray]:
        """For each rule, in order, bool[documents]: whether it speaks against the document."""
        from pretrainx.curate.columns import lines, words

        number, ended, short, repeated, feeds = lines.non_blank_lines(batch, self.short_line_characters).T
        share = ended / np.maximum(number, 1)
        characters = np.maximum(np.diff(batch.bounds) - feeds, 1)
        return {
            "empty": number == 0,
            "too_few_lines_with_end": (share < self.min_lines_with_end) & ~((ended == 0) & self.exempt_without_ends),
            "too_many_short_lines": short / np.maximum(number, 1) > self.max_short_lines,
            "repeated_lines": repeated / characters > self.max_repeated_characters,
            "list": feeds / np.maximum(words.words(batch).counts, 1) > self.max_line_feeds_per_word,
        }
