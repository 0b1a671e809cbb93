"""Takes out the lines that C4's rules reject (Raffel et al. 2020, section 2.2); documents that the filter `c4` drops become empty."""

import re
from dataclasses import dataclass

from pretrainx.curate.clean import with_texts
from pretrainx.curate.documents import Batch
from pretrainx.curate.filters import c4

_CITATION = re.compile(r"\[\d*\]|\[edit\]|\[citation needed\]")
_FATES = ("", "long_word", "no_end", "few_words", "javascript", "policy")


@dataclass(frozen=True)
class Step(c4.Filter):
    """The filter's fields; kept lines are stripped and joined by line feeds."""

    def apply(self, batch: Batch) -> tuple[Batch, dict[str, int]]:
        from pretrainx.curate.columns import c4_lines

        found = c4_lines.judge(batch, c4.limits(self))
        texts = []
        starts, ends, cited = found.starts.tolist(), found.ends.tolist(), found.cited.tolist()
        for index, document in enumerate(batch.documents):
            text, offset = document.text, int(batch.bounds[index])
            kept = []
            for line in range(found.bounds[index], found.bounds[index + 1]):
                piece = text[starts[line] - offset : ends[line] - offset]
                kept.append(_CITATION.sub("", piece) if cited[line] else piece)
            texts.append("\n".join(kept).strip())
        totals = found.dropped.sum(axis=0)
        counts = {f"lines_dropped/{fate}": int(totals[number]) for number, fate in enumerate(_FATES) if fate and totals[number]}
        return with_texts(batch, texts), counts
