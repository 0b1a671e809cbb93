"""Crawl after crawl: what an earlier run kept is known to a later one by its index, as if both had been curated together."""

import json
import random
import shutil
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest

pytest.importorskip("zstandard", reason="curation needs pip install 'pretrainx[curate]'")
pytest.importorskip("numba", reason="deduplication needs pip install 'pretrainx[curate]'")

from pretrainx.core.errors import InputError
from tests.test_curate import check_counts, curate, done, output, rows


def prose(seed: int, words: int = 80) -> list[str]:
    """Words such that no two of these texts share a run of five."""
    drawn = random.Random(seed)
    return [f"w{drawn.randrange(5000)}" for _ in range(words)]


def edited(text: str, share: float, seed: int) -> str:
    drawn = random.Random(seed)
    return " ".join(f"x{drawn.randrange(10**6)}" if drawn.random() < share else word for word in text.split())


def write(path: Path, texts: Sequence[tuple[str, str]]) -> str:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text("".join(json.dumps({"id": name, "text": text}) + "\n" for name, text in texts))
    return str(path)


def crawls(folder: Path, seed: int, number: int = 2) -> list[str]:
    """Some crawls of 40 documents each: new ones, and copies of all kinds of earlier ones, chains of copies among them."""
    drawn = random.Random(seed)
    texts: list[str] = []
    made = []
    for crawl in range(number):
        mine = []
        for i in range(40):
            text = " ".join(prose(1000 * seed + 100 * crawl + i))
            if texts and drawn.random() < 0.5:
                old = drawn.choice(texts)
                text = drawn.choice([old, old.upper(), old + " and more", edited(old, 0.05, i), edited(old, 0.15, i), edited(old, 0.5, i)])
            texts.append(text)
            mine.append((f"{crawl}-{i}", text))
        made.append(write(folder / f"crawl{crawl}.jsonl", mine))
    return made


def names(workdir: Path) -> set[str]:
    return {row["id"] for row in rows(workdir, "documents")}


@pytest.mark.parametrize("seed", range(4))
def test_two_runs_keep_what_one_of_both_keeps(tmp_path: Path, seed: int) -> None:
    first, second = crawls(tmp_path, seed)
    stages: dict[str, Any] = {"exact": {"folded": bool(seed % 2)}}
    curate(tmp_path / "together", {"inputs": {"a": first, "b": second}, "deduplicate": stages})
    curate(tmp_path / "a", {"inputs": first, "deduplicate": {**stages, "write_index": True}})
    after, _ = curate(tmp_path / "b", {"inputs": second, "deduplicate": {**stages, "against": [str(tmp_path / "a" / "index")]}})
    check_counts(after)
    assert names(tmp_path / "a") | names(tmp_path / "b") == names(tmp_path / "together")
    dropped = rows(tmp_path / "b", "dropped")
    old = [row for row in dropped if row["reason"].endswith("_as_before")]
    assert {row["stage"] for row in old} == {"exact", "near"} and len(old) > 5
    assert all((row["duplicate_of"] in names(tmp_path / "a")) == row["reason"].endswith("_as_before") for row in dropped)
    told = {row["id"]: (row["duplicate_of"], row["similarity"]) for row in rows(tmp_path / "together", "dropped")}
    same = [told[row["id"]] == (row["duplicate_of"], row["similarity"]) for row in dropped]
    # Together, a document can be told to be a copy of one that later turns out to be a near copy itself.
    assert sum(same) >= 0.8 * len(same)
    assert sum(drop["documents"] for drop in after["flow"]["near"]["documents"]["dropped"].values()) == len(
        [row for row in dropped if row["stage"] == "near"]
    )


def test_a_third_crawl_against_two_indexes(tmp_path: Path) -> None:
    found = crawls(tmp_path, 9, 3)
    curate(tmp_path / "together", {"inputs": dict(zip("abc", found, strict=True))})
    old: list[str] = []
    kept: set[str] = set()
    for crawl, path in enumerate(found):
        out = tmp_path / str(crawl)
        curate(out, {"inputs": path, "deduplicate": {"write_index": True, "against": old}})
        old.append(str(out / "index"))
        kept |= names(out)
    assert kept == names(tmp_path / "together")
    assert {row["duplicate_of"][0] for row in rows(tmp_path / "2", "dropped")} == {"0", "1", "2"}


def test_same_bytes_whatever_the_workers_and_pieces(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from pretrainx.curate.pipeline import duplicates

    first, second = crawls(tmp_path, 3)
    more = write(tmp_path / "more.jsonl", [(f"m{i}", " ".join(prose(10**6 + i))) for i in range(5)])
    wanted = None
    for name, piece_bytes, rows_at_once in (("one", 10**8, 8_000_000), ("cut", 1, 500)):
        monkeypatch.setattr(duplicates, "ROWS_AT_ONCE", rows_at_once)
        old = tmp_path / name / "a"
        small = {"piece_bytes": piece_bytes}
        curate(old, {"inputs": {"a": first, "more": more}, "reading": small, "deduplicate": {"write_index": True}})
        assert len(list((old / "index").glob("0*"))) == 2  # a source is a shard
        curate(
            tmp_path / name / "b",
            {"inputs": {"b": second, "again": more}, "reading": small, "deduplicate": {"against": [str(old / "index")]}},
        )
        found = output(tmp_path / name / "b")
        assert wanted in (None, found)
        wanted = found
    assert {row["duplicate_of"] for row in rows(tmp_path / "cut" / "b", "dropped") if row["source"] == "again"} == {
        f"m{i}" for i in range(5)
    }


def test_the_index_knows_documents_by_the_ids_they_got(tmp_path: Path) -> None:
    texts = [" ".join(prose(i)) for i in range(3)]
    first = write(tmp_path / "a.jsonl", [("same", texts[0]), ("same", texts[1]), ("gone", texts[0])])
    second = write(tmp_path / "b.jsonl", [("new", texts[1].upper()), ("other", texts[2]), ("copy", texts[0])])
    manifest, _ = curate(tmp_path / "a", {"inputs": first, "deduplicate": {"write_index": True}})
    assert manifest["index"]["documents"] == 2
    curate(tmp_path / "b", {"inputs": second, "deduplicate": {"against": [str(tmp_path / "a" / "index")]}})
    _, renamed = [row["id"] for row in rows(tmp_path / "a", "documents")]
    found = {row["id"]: (row["stage"], row["reason"], row["duplicate_of"], row["similarity"]) for row in rows(tmp_path / "b", "dropped")}
    assert renamed.startswith("same~")
    assert found == {"new": ("near", "near_copy_as_before", renamed, 1.0), "copy": ("exact", "same_text_as_before", "same", 1.0)}


def test_what_was_cut_out_of_a_document_is_still_known(tmp_path: Path) -> None:
    """An index holds texts as they were compared: a later copy of a document whose lines were cut is a copy all the same."""
    line, own = " ".join(prose(1, 60)), " ".join(prose(2, 12))
    first = write(tmp_path / "a.jsonl", [("whole", line), ("both", f"{line}\n{own}")])
    stages: dict[str, Any] = {"near": None, "passages": {"unit": "line"}}
    curate(tmp_path / "a", {"inputs": first, "deduplicate": {**stages, "write_index": True}})
    assert [row["text"] for row in rows(tmp_path / "a", "documents")] == [line, own]
    second = write(tmp_path / "b.jsonl", [("again", f"{line}\n{own}"), ("new", " ".join(prose(3)))])
    curate(tmp_path / "b", {"inputs": second, "deduplicate": {**stages, "against": [str(tmp_path / "a" / "index")]}})
    assert [row["duplicate_of"] for row in rows(tmp_path / "b", "dropped")] == ["both"]


def test_an_index_goes_with_its_run_and_is_made_once(tmp_path: Path) -> None:
    first, second = crawls(tmp_path, 5)
    out, raw = tmp_path / "a", {"inputs": first, "deduplicate": {"write_index": True}}
    manifest, _ = curate(out, raw)
    size = sum(path.stat().st_size for path in (out / "index").rglob("*.npy"))
    assert manifest["index"] == {"documents": len(names(out)), "bytes": size}
    assert curate(out, raw) == (manifest, {})
    shutil.rmtree(out / "index")
    again, tasks = curate(out, raw)
    assert done(tasks) == {} and (out / "index" / "settings.json").exists() and again["index"] == manifest["index"]
    # Another index redoes the comparisons, and nothing before them.
    later = {"inputs": second, "deduplicate": {"against": [str(out / "index")]}}
    curate(tmp_path / "b", later)
    before = output(tmp_path / "b")
    curate(out, {**raw, "filters": {"length": {"min_characters": 500}}})
    _, tasks = curate(tmp_path / "b", later)
    assert {"exact_find", "near_pairs"} <= set(done(tasks)) and not {"read", "ids", "exact_hash"} & set(done(tasks))
    assert output(tmp_path / "b") != before
    curate(out, {"inputs": first})
    assert not (out / "index").exists()


def test_indexes_that_do_not_fit_are_refused_before_any_work(tmp_path: Path) -> None:
    first, second = crawls(tmp_path, 6)
    curate(tmp_path / "a", {"inputs": first, "deduplicate": {"write_index": True}})
    old, new = str(tmp_path / "a" / "index"), tmp_path / "b"
    cases: list[tuple[dict[str, Any], str]] = [
        ({"near": {"ngram": 3, "bands": 7}}, "made with other settings: ngram = 5 there, 3 here, bands = 64 there, 7 here; use these"),
        ({"exact": {"folded": True}}, "folded = False there, True here"),
        ({"against": [str(tmp_path / "none")]}, "deduplicate.against: no folder .*none"),
        ({"against": [str(tmp_path)]}, "deduplication index not found"),
        ({"against": [str(new / "index")]}, "is the index that this run writes"),
        ({"exact": None, "near": None}, "deduplicate.against names indexes, but both"),
    ]
    for more, words in cases:
        with pytest.raises(InputError, match=words) as told:
            curate(new, {"inputs": second, "deduplicate": {"against": [old], **more}})
        assert "\n" not in str(told.value) and not new.exists()
    # A stage that is off, and what its tables do not depend on, are no reason.
    curate(new, {"inputs": second, "deduplicate": {"against": [old], "exact": None, "near": {"min_jaccard": 0.8, "keep": "longest"}}})
    curate(new, {"inputs": second, "deduplicate": {"against": [old], "near": None}})
    assert {row["stage"] for row in rows(new, "dropped")} == {"exact"}
