"""White space without accidents: no spaces at line ends, no long gaps, no line of blanks after another."""

import re
from dataclasses import dataclass
from typing import Annotated

from pretrainx.core.schema import Range
from pretrainx.curate.clean import with_texts
from pretrainx.curate.documents import Batch


@dataclass(frozen=True)
class Step:
    """What is done, in this order. Indentation stays: code and poems need it."""

    odd_spaces: bool = True  # no-break, en, em, thin, ideographic ... spaces become plain ones, line and paragraph separators \n
    line_ends: bool = True  # spaces and tabs before a line's end are taken out
    max_blank_lines: Annotated[int, Range(ge=0)] = 2  # in a row
    strip: bool = True  # blank lines at the start and white space at the end of the text are taken out

    def apply(self, batch: Batch) -> tuple[Batch, dict[str, int]]:
        counts = dict.fromkeys(("odd_spaces", "line_ends", "blank_lines"), 0)
        texts = [self._mend(text, counts) for text in batch.texts]
        return with_texts(batch, texts), {name: count for name, count in counts.items() if count}

    def _mend(self, text: str, counts: dict[str, int]) -> str:
        if self.odd_spaces and not text.isascii():
            text, found = _ODD.subn(" ", text)
            counts["odd_spaces"] += found
            text, found = _SEPARATORS.subn("\n", text)
            counts["odd_spaces"] += found
        if self.line_ends and (" \n" in text or "\t\n" in text):
            text, found = _BEFORE_END.subn(r"\1", text)
            counts["line_ends"] += found
        if "\n" * (self.max_blank_lines + 2) in text:
            text, found = re.subn(f"\n{{{self.max_blank_lines + 2},}}", "\n" * (self.max_blank_lines + 1), text)
            counts["blank_lines"] += found
        if self.strip:
            text = text.rstrip()
            if text[:1].isspace():
                text = text[len(text) - len(_LEADING.sub("", text, count=1)) :]
        return text


_ODD = re.compile("[\u00a0\u1680\u2000-\u200a\u202f\u205f\u3000]")
_SEPARATORS = re.compile("[\u0085\u2028\u2029]")
_BEFORE_END = re.compile("([^ \t\n])[ \t]+(?=\n)|(?<=\n)[ \t]+(?=\n)")
_LEADING = re.compile("^(?:[ \t]*\n)+")
