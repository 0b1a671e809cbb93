"""C4's rules for documents, after its rules for lines (Raffel et al. 2020, arXiv:1910.10683, section 2.2)."""

from dataclasses import dataclass
from typing import Annotated, Any

import numpy as np

from pretrainx.core.schema import Range
from pretrainx.curate.documents import Batch
from pretrainx.curate.filters._first import first_reason

Count = Annotated[int, Range(ge=-1)]


@dataclass(frozen=True)
class Filter:
    """Which rules hold; -1 switches a number off. datatrove's order and counting; the text stays as it is.

    The rules speak of the lines that would stay: the step `clean/c4.py`, with the same fields, takes the others out.
    """

    remove_citations: bool = True
    lines_need_end: bool = True  # . ? ! " or ', and no ellipsis
    min_sentences: Count = 5
    min_words_per_line: Count = 3
    max_word_characters: Count = 1000
    lorem_ipsum: bool = True
    javascript: bool = True
    curly_bracket: bool = True
    policy: bool = True  # lines that speak of cookies and terms of use

    def reasons(self, batch: Batch) -> list[str]:
        return first_reason("c4", self.broken(batch), len(batch))

    def broken(self, batch: Batch) -> dict[str, np.ndarray]:
        """For each rule, bool[documents]: whether it is the one that speaks against the document."""
        from pretrainx.curate.columns import c4_lines

        verdicts = c4_lines.judge(batch, limits(self)).verdicts
        return {
            "lorem_ipsum": verdicts == c4_lines.LOREM_IPSUM,
            "curly_bracket": verdicts == c4_lines.CURLY_BRACKET,
            "too_few_sentences": verdicts == c4_lines.FEW_SENTENCES,
        }


def limits(rules: Filter) -> Any:
    """The fields as the compiled loops take them; of anything that has them."""
    from pretrainx.curate.columns.c4_lines import Limits

    return Limits(
        rules.remove_citations, rules.lines_need_end, rules.min_sentences, rules.min_words_per_line, rules.max_word_characters,
        rules.lorem_ipsum, rules.javascript, rules.curly_bracket, rules.policy,
    )  # fmt: skip
