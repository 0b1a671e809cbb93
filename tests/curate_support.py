"""A filter and a cleaning step of a user's own, as the curation's tests name them: `tests.curate_support`."""

import os
import signal
import time
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Annotated

import numpy as np

from pretrainx.core.schema import Range
from pretrainx.curate.documents import Batch

NAME = "tests.curate_support"


@dataclass(frozen=True)
class Filter:
    """Drops short texts and those with a word; can be slow, and can kill its process."""

    min_characters: Annotated[int, Range(ge=0)] = 0
    word: str = ""
    pause_s: float = 0.0  # of each batch
    kill_unless: str = ""  # a file: while it is not there it is made, and the process killed; "always" is never there

    def reasons(self, batch: Batch) -> list[str]:
        time.sleep(self.pause_s)
        if self.kill_unless and not (path := Path(self.kill_unless)).exists():
            if self.kill_unless != "always":
                path.touch()
            os.kill(os.getpid(), signal.SIGKILL)
        return [self._reason(text) for text in batch.texts]

    def _reason(self, text: str) -> str:
        if len(text) < self.min_characters:
            return "too_short"
        return "has_word" if self.word and self.word in text.split() else ""


@dataclass(frozen=True)
class Step:
    """Strips white space, and takes a word out."""

    remove: str = ""

    def apply(self, batch: Batch) -> tuple[Batch, dict[str, int]]:
        texts = [" ".join(text.replace(self.remove, "").split()) if self.remove else text.strip() for text in batch.texts]
        changed = sum(new != old for new, old in zip(texts, batch.texts, strict=True))
        return Batch(_with_texts(batch, texts)), {"changed": changed}


class Embedding:
    """The share of each letter of a text."""

    def embed(self, texts: Sequence[str]) -> np.ndarray:
        return np.array([[text.count(letter) for letter in "abcdefghijklmnopqrstuvwxyz"] for text in texts], np.float32)


def _with_texts(batch: Batch, texts: Sequence[str]) -> list:  # type: ignore[type-arg]
    return [replace(document, text=text) for document, text in zip(batch.documents, texts, strict=True)]
