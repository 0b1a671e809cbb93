"""Texts that repeat themselves (Rae et al. 2021, arXiv:2112.11446, table A1)."""

from dataclasses import dataclass
from typing import Annotated

import numpy as np

from pretrainx.core.schema import Range
from pretrainx.curate.documents import Batch
from pretrainx.curate.filters._first import first_reason

Share = Annotated[float, Range(ge=0)]


@dataclass(frozen=True)
class Filter:
    """Shares above which a document is dropped; 0 switches a rule off. Paper's numbers; datatrove's order and counting.

    Shares of characters are of the whole text, white space included, although words are counted without it: so does datatrove.
    """

    duplicate_paragraphs: Share = 0.3
    duplicate_paragraph_characters: Share = 0.2
    duplicate_lines: Share = 0.3
    duplicate_line_characters: Share = 0.2
    top_2_words: Share = 0.2
    top_3_words: Share = 0.18
    top_4_words: Share = 0.16
    duplicate_5_words: Share = 0.15
    duplicate_6_words: Share = 0.14
    duplicate_7_words: Share = 0.13
    duplicate_8_words: Share = 0.12
    duplicate_9_words: Share = 0.11
    duplicate_10_words: Share = 0.1

    def reasons(self, batch: Batch) -> list[str]:
        return first_reason("gopher_repetition", self.broken(batch), len(batch))

    def broken(self, batch: Batch) -> dict[str, np.ndarray]:
        """For each rule, in order, bool[documents]: whether it speaks against the document."""
        shares = self.shares(batch)
        broken = {"empty": np.diff(batch.bounds) == 0}
        for rule, values in shares.items():
            limit = getattr(self, rule)
            broken[rule] = (values > limit) & (limit > 0)
        return broken

    def shares(self, batch: Batch) -> dict[str, np.ndarray]:
        """For each rule that is on, float64[documents]: the share that it looks at."""
        from pretrainx.curate.columns import lines

        length = np.maximum(np.diff(batch.bounds), 1)
        found = lines.line_repeats(batch)
        shares = {
            "duplicate_paragraphs": found[:, 1] / np.maximum(found[:, 0], 1),
            "duplicate_paragraph_characters": found[:, 2] / length,
            "duplicate_lines": found[:, 4] / np.maximum(found[:, 3], 1),
            "duplicate_line_characters": found[:, 5] / length,
        }
        for kind, count, sizes in (
            ("top", lines.top_run_characters, range(2, 5)),
            ("duplicate", lines.repeated_run_characters, range(5, 11)),
        ):
            used = tuple(size for size in sizes if getattr(self, f"{kind}_{size}_words") > 0)
            runs = count(batch, used)
            shares |= {f"{kind}_{size}_words": runs[:, column] / length for column, size in enumerate(used)}
        return shares
