"""Text that was decoded with the wrong codec ("dÃ©jÃ " for "déjà"), repaired as ftfy's `fix_encoding` repairs it.

Nearly all documents are told apart without it: text of ASCII alone is sound, and so is text without a neighbourhood of
characters that wrong decoding leaves. Which characters these are is asked of ftfy, so that what it would repair is seen.
"""

import functools
from dataclasses import dataclass
from typing import Any

import numpy as np

from pretrainx.core.errors import InputError
from pretrainx.curate.clean import with_texts
from pretrainx.curate.documents import Batch

# Characters of ftfy's groups that need a neighbour to be suspicious: letters and signs of ordinary text.
_ORDINARY = ("common", "lower_accented", "upper_common", "lower_common", "kaomoji")


@dataclass(frozen=True)
class Step:
    """Repairs; no options."""

    def apply(self, batch: Batch) -> tuple[Batch, dict[str, int]]:
        repair = _library().fix_encoding
        texts = batch.texts
        mended = 0
        for index in suspicious(batch).tolist():
            fixed = repair(texts[index])
            mended += fixed != texts[index]
            texts[index] = fixed
        return with_texts(batch, texts), {"documents_repaired": mended} if mended else {}


def suspicious(batch: Batch) -> np.ndarray:
    """int64[n]: the documents that ftfy has to look at, in order."""
    from pretrainx.curate.clean._marks import any_marked

    beyond = [index for index, document in enumerate(batch.documents) if not document.text.isascii()]
    part = Batch([batch.documents[index] for index in beyond])
    return np.array(beyond, np.int64)[any_marked(part.characters, part.bounds, _classes())]


def _library() -> Any:
    try:
        import ftfy
    except ImportError:
        raise InputError("clean mojibake: repairing text needs ftfy: pip install 'pretrainx[curate]'") from None
    return ftfy


@functools.cache
def _classes() -> np.ndarray:
    """uint8[0x110000]: bit 0: occurs in wrongly decoded text; bit 1: such a neighbour makes it suspicious; bit 2: it is so alone;
    bit 3: it is so before a space."""
    import re

    _library()
    from ftfy.badness import MOJIBAKE_CATEGORIES

    classes = np.zeros(0x110000, np.uint8)
    for name, members in MOJIBAKE_CATEGORIES.items():
        group = re.compile(f"[{members}]")  # written for the inside of a character class
        codes = [code for code in range(0x80, 0x10000) if group.match(chr(code))]
        classes[codes] |= 1 if name in _ORDINARY else 3
    classes[[ord(c) for c in "ЂÙ"]] |= 3
    classes[0x80:0xA0] |= 4
    classes[[ord(c) for c in "Œœ"]] |= 4
    classes[[ord(c) for c in "ÃÂ"]] |= 8
    return classes
