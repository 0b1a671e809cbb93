"""Named lists of cleaning steps and filters, and how a list is applied to a batch. Presets are per source: what is fit for
web pages drops most books and all code.

A list is data: each entry names a plug-in of `curate/clean` or `curate/filters` (or a module of one's own, with a dot) and
its options: {"filter": "length", "max_characters": 50_000}.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np

from pretrainx.core import plugins, schema
from pretrainx.core.errors import InputError, nearest
from pretrainx.curate import columns
from pretrainx.curate.documents import Batch

Entry = Mapping[str, Any]

_ANY_END = {"lines_need_end": False}  # FineWeb's use of C4's rules
PRESETS: dict[str, list[Entry]] = {
    # Published rule sets with their published numbers.
    "gopher": [{"filter": "gopher_repetition"}, {"filter": "gopher_quality"}],
    "c4": [{"filter": "c4"}, {"clean": "c4"}],
    "fineweb": [
        {"filter": "gopher_repetition"}, {"filter": "gopher_quality"}, {"filter": "c4", **_ANY_END}, {"clean": "c4", **_ANY_END},
        {"filter": "fineweb"},
    ],
    # Repairs that suit any source.
    "clean": [{"clean": "mojibake"}, {"clean": "unicode"}, {"clean": "whitespace"}],
    # By source; whether a language is wanted is for the config to say. Marks count as words, so that books with much dialogue
    # and dictionary entries full of brackets fall below the published share of words with letters: theirs is lower.
    "web": [
        {"clean": "mojibake"}, {"clean": "unicode"}, {"clean": "whitespace"}, {"filter": "length"},
        {"filter": "gopher_repetition"}, {"filter": "gopher_quality"}, {"filter": "c4", **_ANY_END}, {"clean": "c4", **_ANY_END},
        {"filter": "fineweb"},
    ],
    "books": [
        {"clean": "mojibake"}, {"clean": "unicode"}, {"clean": "whitespace"}, {"filter": "length", "max_characters": 10_000_000},
        {"filter": "gopher_repetition"}, {"filter": "gopher_quality", "max_words": 0, "min_words_with_letters": 0.6},
    ],
    "encyclopedia": [
        {"clean": "mojibake"}, {"clean": "unicode"}, {"clean": "whitespace"}, {"filter": "length"}, {"filter": "gopher_repetition"},
        {"filter": "gopher_quality", "min_words": 20, "min_words_with_letters": 0.5},
    ],
    "code": [{"clean": "unicode"}, {"filter": "length", "max_characters": 1_000_000}, {"filter": "code"}],
}  # fmt: skip

# datatrove's names of the same rules, for those who compare.
DATATROVE_REASONS = {
    "dup_para_frac": "gopher_repetition/duplicate_paragraphs",
    "dup_para_char_frac": "gopher_repetition/duplicate_paragraph_characters",
    "dup_line_frac": "gopher_repetition/duplicate_lines",
    "dup_line_char_frac": "gopher_repetition/duplicate_line_characters",
    **{f"top_{n}_gram": f"gopher_repetition/top_{n}_words" for n in range(2, 5)},
    **{f"duplicated_{n}_n_grams": f"gopher_repetition/duplicate_{n}_words" for n in range(5, 11)},
    "gopher_short_doc": "gopher_quality/too_few_words",
    "gopher_long_doc": "gopher_quality/too_many_words",
    "gopher_below_avg_threshold": "gopher_quality/words_too_short",
    "gopher_above_avg_threshold": "gopher_quality/words_too_long",
    "gopher_too_many_hashes": "gopher_quality/too_many_number_signs",
    "gopher_too_many_ellipsis": "gopher_quality/too_many_ellipses",
    "gopher_too_many_bullets": "gopher_quality/too_many_bullets",
    "gopher_too_many_end_ellipsis": "gopher_quality/too_many_ellipsis_lines",
    "gopher_below_alpha_threshold": "gopher_quality/too_few_words_with_letters",
    "gopher_enough_stop_words": "gopher_quality/too_few_stop_words",
    "lorem_ipsum": "c4/lorem_ipsum",
    "curly_bracket": "c4/curly_bracket",
    "too_few_sentences": "c4/too_few_sentences",
    "line_punct_ratio": "fineweb/too_few_lines_with_end",
    "short_line_ratio": "fineweb/too_many_short_lines",
    "char_dup_ratio": "fineweb/repeated_lines",
    "list_ratio": "fineweb/list",
}


@dataclass(frozen=True)
class Stage:
    """One entry of a list, ready to be applied."""

    kind: Literal["clean", "filter"]
    name: str
    part: Any  # a Step or a Filter


def stages(entries: str | Sequence[Entry], where: str) -> list[Stage]:
    """The stages of a preset or of a list; `where` is the config key that holds it.

    Raises:
      InputError: no such preset, plug-in or option, or a value out of its range.
    """
    if isinstance(entries, str):
        if entries not in PRESETS:
            raise InputError(f"{where}: unknown preset {entries!r}; {nearest(entries, PRESETS)}")
        entries = PRESETS[entries]
    columns.require_compiler(where)
    return [_stage(entry, f"{where}[{index}]") for index, entry in enumerate(entries)]


def _stage(entry: Entry, where: str) -> Stage:
    if not isinstance(entry, Mapping):
        raise InputError(f"{where}: expected a dict such as {{'filter': 'length'}}, found {schema.found(entry)}")
    kinds = [kind for kind in ("clean", "filter") if kind in entry]
    if len(kinds) != 1:
        raise InputError(f"{where}: an entry has one of the keys 'clean' and 'filter', found {', '.join(map(str, entry)) or 'none'}")
    kind = kinds[0]
    name, options = entry[kind], {key: value for key, value in entry.items() if key != kind}
    if not isinstance(name, str):
        raise InputError(f"{where}.{kind}: expected the name of a plug-in, found {schema.found(name)}")
    package, attribute = ("pretrainx.curate.clean", "Step") if kind == "clean" else ("pretrainx.curate.filters", "Filter")
    module = plugins.find(package, attribute, name, f"{where}.{kind}")
    return Stage("clean" if kind == "clean" else "filter", name, schema.parse(getattr(module, attribute), options, f"{where}.{name}"))


def apply(batch: Batch, chain: Sequence[Stage], notes: dict[str, np.ndarray] | None = None) -> tuple[Batch, list[str], dict[str, int]]:
    """The documents that stay, cleaned; for each document of the batch given "" or the first reason to drop it; counts of repairs.

    `notes` takes up what filters that have a method `notes` know of the documents, by name (object[documents], None where no such
    filter saw one).

    Filters in a row look at the same batch, so that its words and lines are found once; a document that one of them drops is
    still seen by the next, which changes nothing but time.
    """
    reasons = np.full(len(batch), "", object)
    held = np.arange(len(batch))  # where the documents of the current batch stand in the one given
    counts: dict[str, int] = {}
    for index, stage in enumerate(chain):
        if stage.kind == "clean":
            batch, mended = stage.part.apply(batch)
            for name, count in mended.items():
                counts[f"{stage.name}/{name}"] = counts.get(f"{stage.name}/{name}", 0) + count
            continue
        found = np.array(stage.part.reasons(batch), object)
        new = (found != "") & (reasons[held] == "") if len(batch) else np.zeros(0, bool)
        reasons[held[new]] = found[new]
        if notes is not None and hasattr(stage.part, "notes"):
            for name, values in stage.part.notes(batch).items():
                notes.setdefault(name, np.full(len(reasons), None, object))[held] = values
        if index + 1 == len(chain) or chain[index + 1].kind == "clean":
            keep = reasons[held] == ""
            if not keep.all():
                batch, held = batch.take(keep), held[keep]
    return batch, list(reasons), counts
