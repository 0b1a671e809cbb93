"""Texts that do not read like prose (Rae et al. 2021, arXiv:2112.11446, appendix A1.1)."""

from dataclasses import dataclass
from typing import Annotated

import numpy as np

from pretrainx.core.schema import Range
from pretrainx.curate.documents import Batch
from pretrainx.curate.filters._first import first_reason

Count = Annotated[int, Range(ge=0)]
Share = Annotated[float, Range(ge=0)]


@dataclass(frozen=True)
class Filter:
    """Limits outside which a document is dropped; 0 switches a rule off. Paper's numbers; datatrove's order and counting.

    Words of symbols alone count for the symbol and letter rules, not for the number and mean length of words.
    """

    min_words: Count = 50
    max_words: Count = 100_000
    min_mean_word_length: Share = 3.0
    max_mean_word_length: Share = 10.0
    max_symbols_per_word: Share = 0.1  # number signs; and ellipses
    max_bullet_lines: Share = 0.9
    max_ellipsis_lines: Share = 0.3
    min_words_with_letters: Share = 0.8
    min_stop_words: Count = 2  # how many different ones
    stop_words: tuple[str, ...] = ("the", "be", "to", "of", "and", "that", "have", "with")

    def reasons(self, batch: Batch) -> list[str]:
        return first_reason("gopher_quality", self.broken(batch), len(batch))

    def broken(self, batch: Batch) -> dict[str, np.ndarray]:
        """For each rule, in order, bool[documents]: whether it speaks against the document."""
        from pretrainx.curate.columns import counts, lines, words

        found = counts.word_counts(batch, np.array([words.hash_of(word) for word in self.stop_words], np.uint64))
        number, solid, solid_characters, with_letters, stops = found.T
        marks = lines.marked_lines(batch)
        mean = solid_characters / np.maximum(solid, 1)
        per_word, per_line = np.maximum(number, 1), np.maximum(marks[:, 0], 1)
        broken = {
            "too_few_words": solid < self.min_words,
            "too_many_words": (solid > self.max_words) & (self.max_words > 0),
            "words_too_short": mean < self.min_mean_word_length,
            "words_too_long": mean > self.max_mean_word_length if self.max_mean_word_length else np.zeros(len(batch), bool),
        }
        if self.max_symbols_per_word:
            broken["too_many_number_signs"] = marks[:, 3] / per_word > self.max_symbols_per_word
            broken["too_many_ellipses"] = (marks[:, 4] + marks[:, 5]) / per_word > self.max_symbols_per_word
        if self.max_bullet_lines:
            broken["too_many_bullets"] = marks[:, 1] / per_line > self.max_bullet_lines
        if self.max_ellipsis_lines:
            broken["too_many_ellipsis_lines"] = marks[:, 2] / per_line > self.max_ellipsis_lines
        broken["too_few_words_with_letters"] = with_letters / per_word < self.min_words_with_letters
        broken["too_few_stop_words"] = stops < self.min_stop_words
        return broken
