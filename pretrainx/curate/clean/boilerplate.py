"""Lines that are about the page and not of the text: navigation, sharing, cookies, copyright."""

import re
from dataclasses import dataclass
from typing import Annotated

from pretrainx.core.schema import Range
from pretrainx.curate.clean import with_texts
from pretrainx.curate.documents import Batch

# Whole lines, folded to lower case, once their marks are taken off the ends.
_WHOLE = frozenset(
    """
    home|menu|search|share|share this|share this page|share on facebook|share on twitter|tweet|pin it|print|print this page|email this
    log in|login|log out|sign in|sign up|register|subscribe|subscribe now|follow us|contact|contact us|about|about us|sitemap|site map
    next|previous|prev|next page|previous page|back to top|top|skip to content|skip to main content|jump to navigation|read more
    continue reading|show more|load more|learn more|click here|privacy policy|terms of use|terms of service|terms and conditions
    cookie policy|cookie settings|accept|accept all|accept cookies|accept all cookies|advertisement|sponsored|related articles
    related posts|leave a comment|leave a reply|post a comment|add to cart|newsletter|table of contents|all rights reserved
    """.replace("\n", "|")
    .strip("|")
    .split("|")
)
_WHOLE_LINES = frozenset(line.strip() for line in _WHOLE if line.strip())
_PARTS = re.compile(
    r"\b(?:all rights reserved|(?:uses?|use of) cookies|javascript (?:is |must be )?(?:disabled|enabled|required)|"
    r"(?:enable|activate) javascript|(?:©|\(c\)|copyright) ?\d{4})\b",
    re.IGNORECASE,
)
_MARKS = " \t.:;!|*•·»«>›<-–—[]()#"


@dataclass(frozen=True)
class Step:
    """Takes such lines out; a line that only holds a phrase of this kind goes if it is short."""

    max_line_characters: Annotated[int, Range(ge=0)] = 120
    phrases: tuple[str, ...] = ()  # more whole lines that are to go, in any case

    def apply(self, batch: Batch) -> tuple[Batch, dict[str, int]]:
        whole = _WHOLE_LINES | {phrase.casefold() for phrase in self.phrases}
        texts, dropped = [], 0
        for text in batch.texts:
            lines = text.split("\n")
            kept = [line for line in lines if len(line) > self.max_line_characters or not self._is_boilerplate(line, whole)]
            dropped += len(lines) - len(kept)
            texts.append(text if len(kept) == len(lines) else "\n".join(kept))
        return with_texts(batch, texts), {"lines_dropped": dropped} if dropped else {}

    def _is_boilerplate(self, line: str, whole: frozenset[str]) -> bool:
        return line.strip(_MARKS).casefold() in whole or bool(_PARTS.search(line))
