"""Languages in a curation: what the filter finds is in the documents' metadata, and in the report before and after."""

import json
from pathlib import Path
from typing import Any

import pytest

pytest.importorskip("zstandard", reason="curation needs pip install 'pretrainx[curate]'")
pytest.importorskip("numba", reason="the filter of languages needs pip install 'pretrainx[curate]'")
pytest.importorskip("py3langid", reason="the filter of languages needs pip install 'pretrainx[curate]'")

from tests.curate_support import NAME as OWN
from tests.test_curate import check_counts, curate, output, rows
from tests.test_quality import SENTENCES

RECORDS: list[dict[str, Any]] = [
    {"id": "a", "text": SENTENCES["en"], "language": "en-GB"},
    {"id": "b", "text": SENTENCES["de"]},
    {"id": "c", "text": SENTENCES["fr"], "language": "fr"},
    {"id": "d", "text": "12345 67890 12345"},
    {"id": "e", "text": SENTENCES["de"] + " " + SENTENCES["de"], "language": "de"},
    {"id": "f", "text": "short"},
    {"id": "g", "text": SENTENCES["en"] + " word bad", "language": 7},
]
WANTED = {"language": {"languages": ["en", "de"]}}


def write(folder: Path, records: list[dict[str, Any]] = RECORDS) -> str:
    folder.mkdir()
    for i, record in enumerate(records):  # a file each, so that they can be shards of their own
        (folder / f"{i}.jsonl").write_text(json.dumps(record) + "\n")
    return f"{folder}/*.jsonl"


@pytest.mark.parametrize("piece_bytes", [1, 10**6])
def test_documents_carry_the_language_that_was_found(tmp_path: Path, piece_bytes: int) -> None:
    stages: dict[str, Any] = {"exact": {}, "near": {}, "passages": {"unit": "line", "min_characters": 1}}
    raw: dict[str, Any] = {
        "inputs": write(tmp_path / "in"), "filters": {OWN: {"min_characters": 10, "word": "bad"}, **WANTED}, "deduplicate": stages,
        "reading": {"piece_bytes": piece_bytes},
    }  # fmt: skip
    manifest, _ = curate(tmp_path / "out", raw)
    check_counts(manifest)
    kept = {row["id"]: row["metadata"] for row in rows(tmp_path / "out", "documents")}
    assert kept == {"a": {"language": "en", "language_of_record": "en-GB"}, "b": {"language": "de"}}
    dropped = {row["id"]: row["reason"] for row in rows(tmp_path / "out", "dropped")}
    assert dropped == {"c": "language/fr", "d": "language/unsure", "e": "near_copy", "f": "too_short", "g": "has_word"}
    # Filters in a row all see a document, also one that another drops.
    assert manifest["languages_before"] == {"de": 2, "en": 2, "fr": 1, "unsure": 2}
    assert manifest["languages"] == {"de": 1, "en": 1}
    page = (tmp_path / "out" / "report.html").read_text()
    assert 'id="languages"' in page and "Documents by language" in page and ">fr<" in page
    if piece_bytes == 1:
        curate(tmp_path / "again", {**raw, "reading": {"piece_bytes": 10**6}})
        assert output(tmp_path / "again") == output(tmp_path / "out")


def test_a_source_without_the_filter_says_what_its_records_say(tmp_path: Path) -> None:
    inputs = {
        "web": write(tmp_path / "web"),
        "code": write(tmp_path / "code", [{"id": "x", "text": "def f(): pass", "language": "python"}]),
    }
    raw: dict[str, Any] = {
        "inputs": inputs, "filters": WANTED, "sources": {"code": {"filters": {"language": None}}},
        "deduplicate": {"exact": None, "near": None},
    }  # fmt: skip
    manifest, _ = curate(tmp_path / "out", raw)
    assert manifest["languages_before"] == {"de": 2, "en": 2, "fr": 1, "unsure": 2, "python": 1}
    assert manifest["languages"] == {"de": 2, "en": 2, "python": 1}
    kept = {row["source"] + row["id"]: row["metadata"] for row in rows(tmp_path / "out", "documents")}
    assert kept["codex"] == {"language": "python"} and kept["webg"] == {"language": "en", "language_of_record": 7}


def test_without_the_filter_records_are_believed_and_nothing_is_shown_where_none_says(tmp_path: Path) -> None:
    stages: dict[str, Any] = {"exact": None, "near": None}
    manifest, _ = curate(tmp_path / "a", {"inputs": write(tmp_path / "in"), "deduplicate": stages})
    assert manifest["languages_before"] == manifest["languages"] == {"de": 1, "en-GB": 1, "fr": 1, "not said": 4}
    silent = write(tmp_path / "silent", [{"text": SENTENCES["en"]}])
    manifest, _ = curate(tmp_path / "b", {"inputs": silent, "deduplicate": stages})
    assert manifest["languages"] == {"not said": 1}
    assert 'id="languages"' not in (tmp_path / "b" / "report.html").read_text()


def test_documents_that_no_filter_of_languages_saw_are_counted_by_their_records(tmp_path: Path) -> None:
    """A cleaning step between two filters: what the first drops, the second never sees."""
    found = [
        {"id": "a", "text": "Drop me: lorem ipsum dolor sit amet.", "language": "la"},
        {"id": "b", "text": (SENTENCES["en"] + "\n") * 9},
    ]
    raw: dict[str, Any] = {
        "inputs": write(tmp_path / "in", found), "preset": "c4", "filters": WANTED, "deduplicate": {"exact": None, "near": None},
    }  # fmt: skip
    manifest, _ = curate(tmp_path / "out", raw)
    assert manifest["languages_before"] == {"la": 1, "en": 1} and manifest["languages"] == {"en": 1}
    assert rows(tmp_path / "out", "documents")[0]["metadata"] == {"language": "en"}
