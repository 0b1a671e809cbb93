"""Filters: the same decisions as datatrove's, whatever the batches; each rule by hand; a chain drops and says why."""

import gzip
import json
import random
import sys
from collections import Counter
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

pytest.importorskip("numba", reason="filters need pretrainx[curate]")

from pretrainx.core.errors import InputError
from pretrainx.curate import presets
from pretrainx.curate.clean import c4 as clean_c4
from pretrainx.curate.columns import lines, words
from pretrainx.curate.documents import Batch, Document
from pretrainx.curate.filters import c4, fineweb, gopher_quality, gopher_repetition, length

FILTERS: dict[str, Any] = {
    "gopher_repetition": gopher_repetition.Filter(), "gopher_quality": gopher_quality.Filter(), "fineweb": fineweb.Filter(),
    "c4": c4.Filter(), "c4_any_end": c4.Filter(lines_need_end=False), "length": length.Filter(),
}  # fmt: skip
TROUBLE = "aB1.,:;!?()[]<>_#*-–—~+='’\"$%°…é中 \t\n\r\x1c\u2028\x85"


def batch_of(*texts: str) -> Batch:
    return Batch([Document(str(number), text, f"here#{number + 1}") for number, text in enumerate(texts)])


def reason(rule: Any, text: str) -> str:
    return str(rule.reasons(batch_of(text))[0]).partition("/")[2]


@pytest.fixture(scope="module")
def datatrove() -> list[dict[str, Any]]:
    """What datatrove 0.10.1 said of some hundred texts (tests/data/make_datatrove_decisions.py)."""
    with gzip.open(Path(__file__).with_name("data") / "datatrove_decisions.jsonl.gz", "rt", encoding="utf-8") as stream:
        return [json.loads(line) for line in stream][1:]


def test_words_are_those_of_datatrove(datatrove: list[dict[str, Any]]) -> None:
    found = words.words(batch_of(*(record["text"] for record in datatrove)))
    for number, record in enumerate(datatrove):
        assert found.lengths[found.bounds[number] : found.bounds[number + 1]].tolist() == record["words"], record["text"]


@pytest.mark.parametrize("name", ["gopher_repetition", "gopher_quality", "fineweb", "c4", "c4_any_end"])
def test_decisions_are_those_of_datatrove(name: str, datatrove: list[dict[str, Any]]) -> None:
    expected = []
    for record in datatrove:
        theirs = record[name]
        plain = f"{name.removesuffix('_any_end')}/{theirs}" if theirs else ""  # "empty" has the same name
        expected.append(presets.DATATROVE_REASONS.get(theirs, plain))
    assert len(set(expected)) >= 4
    assert FILTERS[name].reasons(batch_of(*(record["text"] for record in datatrove))) == expected


def test_c4_leaves_the_lines_that_datatrove_leaves(datatrove: list[dict[str, Any]]) -> None:
    kept = [record for record in datatrove if "c4_text" in record]
    assert len(kept) > 20
    mended, counts = clean_c4.Step().apply(batch_of(*(record["text"] for record in kept)))
    assert mended.texts == [record["c4_text"] for record in kept]
    assert counts["lines_dropped/no_end"] > 0


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("Don't say (e.g. foo-bar, 5km) Mr. Smith's.", "Do n't say ( e.g. foo - bar , 5 km ) Mr. Smith 's ."),
        ("see http://a.bc/d?x=1, a.b@c.de or 8.8.8.8:80.", "see http://a.bc/d?x=1 , a.b@c.de or 8.8.8.8:80 ."),
        ("x:) cannot US$5 well...", "x :) can not US$ 5 well ..."),
        ("I'd've and/or 3,000% 中文,字", "I 'd 've and/or 3,000 % 中文 , 字"),
        (" \t\n", ""),
    ],
)
def test_words_by_hand(text: str, expected: str) -> None:
    assert " ".join(words.split(text)) == expected


@given(st.text(alphabet=TROUBLE, max_size=60))
@settings(max_examples=300)
def test_words_tile_the_text(text: str) -> None:
    assert "".join(words.split(text)) == "".join(text.split())


@given(st.lists(st.text(alphabet=TROUBLE, max_size=80), max_size=8), st.integers(0, 8))
@settings(max_examples=100)
def test_a_decision_depends_on_the_document_alone(texts: list[str], cut: int) -> None:
    for rule in FILTERS.values():
        whole = rule.reasons(batch_of(*texts))
        assert whole == rule.reasons(batch_of(*texts[:cut])) + rule.reasons(batch_of(*texts[cut:]))
        assert whole == [answer for text in texts for answer in rule.reasons(batch_of(text))]


@given(st.text(alphabet="ab \n\r\x1c", max_size=40))
@settings(max_examples=300)
def test_lines_against_python(text: str) -> None:
    found = lines.lines(batch_of(text))
    pieces = text.split("\n")
    assert found.lengths.tolist() == [len(piece) for piece in pieces]
    assert found.blank.tolist() == [not piece.strip() for piece in pieces]
    same = found.hashes[:, None] == found.hashes[None, :]
    assert np.array_equal(same, np.array([[a == b for b in pieces] for a in pieces]))
    marked = lines.marked_lines(batch_of(text + "#...-…"))[0]
    assert marked[0] == len((text + "#...-…").splitlines()) and list(marked[3:]) == [1, 1, 1]


@given(st.lists(st.sampled_from(["a", "b", "ab", "ba", "c"]), max_size=40), st.integers(2, 5))
@settings(max_examples=300)
def test_repeated_runs_against_a_slow_count(tokens: list[str], size: int) -> None:
    text = " ".join(tokens)
    runs: dict[str, int] = {}
    for first in range(len(tokens) - size + 1):
        run = " ".join(tokens[first : first + size])
        runs[run] = runs.get(run, 0) + 1
    most = max(runs.values(), default=0)
    top = next((len(run) * count for run, count in runs.items() if count == most), 0)
    assert lines.top_run_characters(batch_of(text), (size,))[0, 0] == top
    seen: set[str] = set()
    repeated, first = 0, 0
    while first <= len(tokens) - size:
        run = "".join(tokens[first : first + size])
        repeated += len(run) * (run in seen)
        first += size if run in seen else 1
        seen.add(run)
    assert lines.repeated_run_characters(batch_of(text), (size,))[0, 0] == repeated


PROSE = "The people of the town have walked to the river with their dogs, and that is what we saw there today. "
SENTENCES = "".join(
    f"The {name} of the town have gone to work, and that took {name} {name}s. " for name in ("baker", "miller", "tailor", "smith")
)


@pytest.mark.parametrize(
    ("rule", "text", "expected"),
    [
        (gopher_quality.Filter(), SENTENCES * 2, ""),
        (gopher_quality.Filter(), "The cat and the dog.", "too_few_words"),
        (gopher_quality.Filter(max_words=60), SENTENCES * 2, "too_many_words"),
        (gopher_quality.Filter(), "a to of be " * 20, "words_too_short"),
        (gopher_quality.Filter(), "the and antidisestablishmentarianism incomprehensibilities " * 20, "words_too_long"),
        (gopher_quality.Filter(), SENTENCES.replace(" ", " # "), "too_many_number_signs"),
        (gopher_quality.Filter(), SENTENCES.replace(" ", "... "), "too_many_ellipses"),
        (gopher_quality.Filter(), SENTENCES.replace(". ", ".\n• ").replace("The baker", "- The baker") * 2, "too_many_bullets"),
        (gopher_quality.Filter(), SENTENCES.replace(". ", "...\n") * 2, "too_many_ellipsis_lines"),
        (gopher_quality.Filter(), "the and 2024 1999 1888 1777 " * 20, "too_few_words_with_letters"),
        (gopher_quality.Filter(), "some words without any listed ones here " * 10, "too_few_stop_words"),
        (gopher_quality.Filter(stop_words=("some", "any")), "some words without any listed ones here " * 10, ""),
        (gopher_repetition.Filter(), "", "empty"),
        (gopher_repetition.Filter(), "one\n\none\n\ntwo", "duplicate_paragraphs"),
        (gopher_repetition.Filter(), "one\none\ntwo", "duplicate_lines"),
        (gopher_repetition.Filter(duplicate_lines=0.4), "one\none\ntwo", "duplicate_line_characters"),
        (gopher_repetition.Filter(), "to be or " * 8 + "not", "top_2_words"),
        (gopher_repetition.Filter(top_2_words=0, top_3_words=0, top_4_words=0), PROSE * 2, "duplicate_5_words"),
        (fineweb.Filter(), "\n \n", "empty"),
        (fineweb.Filter(), "A line without an end\n" * 3, "too_few_lines_with_end"),
        (fineweb.Filter(), "Short.\nAlso short.\n", "too_many_short_lines"),
        (fineweb.Filter(max_short_lines=1.0), "Twice.\nTwice.\nA longer line that is here once.", "repeated_lines"),
        (fineweb.Filter(max_short_lines=1.0), "One.\nTwo.\nTen.\nFew.", "list"),
        (fineweb.Filter(exempt_without_ends=True), "A line that is long enough, but without an end", ""),
        (c4.Filter(), "It is so. Yes. No. It is. Why? Because.", ""),
        (c4.Filter(), "It is so. Yes. No. It is.", "too_few_sentences"),
        (c4.Filter(), "Lorem ipsum dolor sit amet.", "lorem_ipsum"),
        (c4.Filter(), "Here is a { bracket.", "curly_bracket"),
        (c4.Filter(min_sentences=1), "This text needs javascript to work.\nWe have a privacy policy here.", "too_few_sentences"),
        (c4.Filter(lines_need_end=False, min_words_per_line=0, min_sentences=3), "\n\n\n", ""),  # an empty line counts as one
        (length.Filter(), "x" * 49, "too_short"),
        (length.Filter(), "x" * 100_001, "too_long"),
        (length.Filter(), "x" * 50, ""),
    ],
)
def test_rules_by_hand(rule: Any, text: str, expected: str) -> None:
    assert reason(rule, text) == expected


def test_rules_at_their_thresholds() -> None:
    """What is at a limit stays: 3 of 10 lines repeated is not above 0.3."""
    text = "\n".join(["same"] * 4 + [f"line {number} of this text" for number in range(6)])
    only_lines = gopher_repetition.Filter(duplicate_paragraphs=0, duplicate_line_characters=0)
    assert only_lines.shares(batch_of(text))["duplicate_lines"].tolist() == [0.3]
    assert not only_lines.broken(batch_of(text))["duplicate_lines"][0]
    assert gopher_repetition.Filter(duplicate_lines=0.29).broken(batch_of(text))["duplicate_lines"][0]


def test_a_chain_drops_and_says_why() -> None:
    chain = presets.stages("fineweb", "filters")
    good = "".join(
        f"It was in {year} that the people of town number {year} went to the sea with a new boat. " for year in range(1900, 1925)
    )
    texts = [good, "too short", good + "\nOn its own a line with { in it.", good + "\nread our privacy policy for more\n" + good[:200]]
    loose = presets.stages(
        [{"filter": "length"}, {"filter": "c4", "lines_need_end": False}, {"clean": "c4", "lines_need_end": False}], "filters"
    )
    kept, reasons, counts = presets.apply(batch_of(*texts), loose)
    assert reasons == ["", "length/too_short", "c4/curly_bracket", ""]
    assert [document.id for document in kept.documents] == ["0", "3"]
    assert "privacy" not in kept.texts[1] and counts == {"c4/lines_dropped/policy": 1}
    assert presets.apply(batch_of(*texts), chain)[1][1] == "gopher_repetition/top_2_words"
    assert presets.apply(batch_of(), chain) == (batch_of(), [], {})


def test_every_preset_is_complete() -> None:
    for name in presets.PRESETS:
        assert presets.stages(name, "filters")


@pytest.mark.parametrize(
    ("entries", "words_of_error"),
    [
        ("fineweeb", ["filters", "'fineweb'"]),
        ([{"filter": "gopher_qualty"}], ["filters[0].filter", "gopher_quality"]),
        ([{"filter": "length", "max_charcters": 5}], ["filters[0].length.max_charcters", "max_characters"]),
        ([{"filter": "length", "min_characters": -1}], ["min_characters", "at least 0"]),
        ([{"filter": "length", "min_characters": 9, "max_characters": 5}], ["filters[0].length", "below min_characters"]),
        ([{"filter": "length", "clean": "c4"}], ["filters[0]", "one of the keys"]),
        (["length"], ["filters[0]", "expected a dict"]),
    ],
)
def test_a_wrong_list_is_an_error(entries: Any, words_of_error: list[str]) -> None:
    with pytest.raises(InputError) as error:
        presets.stages(entries, "filters")
    assert all(word in str(error.value) for word in words_of_error), error.value


def test_long_chunks_take_linear_time() -> None:
    """Texts without a space, of marks that come off one by one or that could begin an address: no quadratic loop."""
    rng = random.Random(0)
    for alphabet in ("(", ".", "@", "-", "a.", "a@", ":)", "..-", "'", "".join(map(chr, range(33, 127)))):
        text = "".join(rng.choice(alphabet) for _ in range(300_000)) if len(alphabet) > 3 else alphabet * (300_000 // len(alphabet))
        assert sum(map(len, words.split(text))) == len(text)


@pytest.mark.parametrize("preset", ["fineweb", "web", "code"])
def test_a_chain_depends_on_the_document_alone(preset: str, datatrove: list[dict[str, Any]]) -> None:
    if preset == "web":
        pytest.importorskip("ftfy", reason="this preset repairs text, which needs pretrainx[curate]")
    chain = presets.stages(preset, "filters")
    documents = batch_of(*(record["text"] for record in datatrove)).documents
    found = []
    for size in (len(documents), 7):
        kept, reasons, counts = [], [], Counter[str]()
        for start in range(0, len(documents), size):
            part, part_reasons, part_counts = presets.apply(Batch(documents[start : start + size]), chain)
            kept += list(part.documents)
            reasons += part_reasons
            counts.update(part_counts)
        found.append((kept, reasons, counts))
    assert found[0] == found[1]
    assert 0 < len(found[0][0]) == found[0][1].count("") < len(documents)


def test_numba_missing_is_one_sentence(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "numba", None)
    with pytest.raises(InputError, match=r"filters: .* pip install 'pretrainx\[curate\]'"):
        presets.stages("fineweb", "filters")
