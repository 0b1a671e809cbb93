"""One way to write each character: normal forms, no control characters, no invisible ones (Unicode annex 15)."""

import functools
import re
import unicodedata
from dataclasses import dataclass
from typing import Literal

from pretrainx.curate.clean import with_texts
from pretrainx.curate.documents import Batch


@dataclass(frozen=True)
class Step:
    """What is done, in this order; text of printable ASCII is left alone at once.

    NFKC also folds what only looks different (ligatures, full-width letters, superscripts): good for matching, lossy for text.
    Joiners that Indic and Arabic words and emoji need (U+200C, U+200D) stay between two characters that are not ASCII.
    """

    form: Literal["NFC", "NFKC", "none"] = "NFC"
    control_characters: bool = True  # taken out, but for tab and line ends; \r\n and \r become \n
    zero_width: bool = True  # byte-order marks, zero-width spaces, soft hyphens, directional marks: taken out
    surrogates: bool = True  # lone surrogates, which no file can hold, become U+FFFD

    def apply(self, batch: Batch) -> tuple[Batch, dict[str, int]]:
        counts = dict.fromkeys(("line_ends", "control_characters", "zero_width", "surrogates", "normalised"), 0)
        texts = [self._mend(text, counts) for text in batch.texts]
        return with_texts(batch, texts), {name: count for name, count in counts.items() if count}

    def _mend(self, text: str, counts: dict[str, int]) -> str:
        if self.control_characters and _control().search(text):
            text, found = re.subn("\r\n?", "\n", text)
            counts["line_ends"] += found
            text, found = _control().subn("", text)
            counts["control_characters"] += found
        if text.isascii():
            return text
        if self.surrogates:
            text, found = _SURROGATES.subn("\ufffd", text)
            counts["surrogates"] += found
        if self.zero_width:
            text, found = _ZERO_WIDTH.subn("", text)
            counts["zero_width"] += found
        if self.form != "none" and not unicodedata.is_normalized(self.form, text):
            text = unicodedata.normalize(self.form, text)
            counts["normalised"] += 1
        return text


@functools.cache
def _control() -> re.Pattern[str]:
    return re.compile("[\x00-\x08\x0b-\x1f\x7f-\x84\x86-\x9f]")


_SURROGATES = re.compile("[\ud800-\udfff]")
_ZERO_WIDTH = re.compile(
    "[\u00ad\u180e\u200b\u200e\u200f\u202a-\u202e\u2060-\u2064\u2066-\u206f\ufeff\ufff9-\ufffb]"
    "|(?<![^\x00-\x7f])[\u200c\u200d]|[\u200c\u200d](?![^\x00-\x7f])"
)
