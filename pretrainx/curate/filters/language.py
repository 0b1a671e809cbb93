"""Documents in the languages that are wanted, identified offline (py3langid, whose model lies in its wheel).

What stays carries its language as `metadata.language`.
"""

from dataclasses import dataclass
from typing import Annotated

from pretrainx.core.schema import Range
from pretrainx.curate.documents import Batch

# The languages of nearly all of the web. Each more makes the others a little less sure: with all 140 that the model knows,
# 1.4 % more of short snippets in 19 languages are taken for a neighbour.
COMMON = (
    "en", "de", "fr", "es", "pt", "it", "nl", "sv", "da", "no", "fi", "pl", "cs", "sk", "hu", "ro", "bg", "el", "ru", "uk", "tr", "vi",
    "id", "ja", "zh", "ko", "ar", "he", "fa", "hi", "bn", "th", "ta", "ur", "ca", "hr", "sr", "lt", "lv", "et",
)  # fmt: skip
UNSURE = "unsure"


@dataclass(frozen=True)
class Filter:
    """Drops what is in another language ("language/de") and what is not surely in any ("language/unsure")."""

    languages: tuple[str, ...] = ("en",)  # ISO 639-1 codes
    min_confidence: Annotated[float, Range(ge=0, le=1)] = 0.5  # probability among `candidates`
    candidates: tuple[str, ...] = COMMON  # what else a text may be in; wanted languages are always candidates
    max_characters: Annotated[int, Range(ge=1)] = 20_000  # read from the beginning of each document

    def __post_init__(self) -> None:
        if not self.languages:
            raise ValueError("languages is empty: name at least one, such as 'en'")

    def reasons(self, batch: Batch) -> list[str]:
        return ["" if found in self.languages else f"language/{found}" for found in self._found(batch)]

    def notes(self, batch: Batch) -> dict[str, list[str]]:
        return {"language": self._found(batch)}

    def _found(self, batch: Batch) -> list[str]:
        """The language of each document, or "unsure"."""
        from pretrainx.curate.columns.languages import identify

        candidates = tuple(dict.fromkeys((*self.languages, *self.candidates)))
        found, confidence = identify(batch, candidates, self.max_characters)
        sure = confidence >= self.min_confidence
        return [language if is_sure else UNSURE for language, is_sure in zip(found, sure.tolist(), strict=True)]
