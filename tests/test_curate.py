"""The curation's pipeline: same bytes however it is run, nothing done twice, nothing lost, counts that add up, bad input named."""

import gzip
import json
import os
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Iterator, Mapping
from html.parser import HTMLParser
from pathlib import Path
from typing import Any

import pytest

from pretrainx.core.errors import InputError
from pretrainx.curate.pipeline import executor, run, settings, store
from tests import curate_support

pytest.importorskip("zstandard", reason="curation needs pip install 'pretrainx[curate]'")

ROOT = Path(__file__).parents[1]
OWN = curate_support.NAME


def corpus(folder: Path, files: int = 3, records: int = 40) -> str:
    """Some files of JSON lines, with short texts, a word to filter by, duplicate ids, records without id; returns their glob."""
    folder.mkdir(parents=True, exist_ok=True)
    for i in range(files):
        rows = []
        for j in range(records):
            row: dict[str, Any] = {"text": f"document {j} of file {i} " + "word " * (j % 11) + ("bad" if j % 7 == 3 else "é\u2028\0")}
            if j % 3:
                row["id"] = f"{i}-{j}" if j % 10 else f"same-{j}"
            row |= {"url": f"http://x/{j}", "n": j, "source": ("web", "books")[j % 2]}
            rows.append(json.dumps(row, ensure_ascii=j % 2 == 0))
        data = ("\n".join(rows) + "\n").encode()
        (folder / f"part-{i}.jsonl{'.gz' if i == 1 else ''}").write_bytes(gzip.compress(data) if i == 1 else data)
    return str(folder / "part-*")


def options(**more: Any) -> dict[str, Any]:
    return {"filters": {OWN: {"min_characters": 30, "word": "bad"}}, "clean": {OWN: {}}, "deduplicate": NO_COPIES, **more}


NO_COPIES: dict[str, None] = {"exact": None, "near": None, "semantic": None, "passages": None}


def curate(workdir: Path, raw: Mapping[str, Any], workers: int = 1) -> tuple[dict[str, Any], dict[str, dict[str, int]]]:
    with executor.local(workers) as who:
        return run.curate(settings.parse(raw), workdir, who)


def output(workdir: Path) -> dict[str, bytes]:
    return {str(p.relative_to(workdir)): p.read_bytes() for kind in ("documents", "dropped") for p in sorted((workdir / kind).iterdir())}


def rows(workdir: Path, kind: str) -> list[dict[str, Any]]:
    paths = sorted((workdir / kind).glob("*.jsonl.gz"))
    return [json.loads(line) for path in paths for line in gzip.decompress(path.read_bytes()).decode().split("\n") if line]


def check_counts(manifest: Mapping[str, Any]) -> None:
    """In = out + drops for each stage and source, one stage's out is the next one's in, and the files hold what the stages say."""
    before: dict[str, Any] | None = None
    for sources in manifest["flow"].values():
        for flow in sources.values():
            for unit, edited in (("documents", 0), ("bytes", flow["edited_bytes"])):
                assert flow["in"][unit] == flow["out"][unit] + sum(drop[unit] for drop in flow["dropped"].values()) + edited
        if before is not None:
            assert {source: flow["in"] for source, flow in sources.items()} == before
        before = {source: flow["out"] for source, flow in sources.items()}
    assert before is not None
    kept, size = (sum(flow[unit] for flow in before.values()) for unit in ("documents", "bytes"))
    assert sum(file["documents"] for file in manifest["documents"]) == kept == sum(manifest["lengths"]["after"])
    assert sum(file["text_bytes"] for file in manifest["documents"]) == size
    first = next(iter(manifest["flow"].values()))
    assert sum(file["documents"] for file in manifest["dropped"]) == sum(flow["in"]["documents"] for flow in first.values()) - kept


def test_what_is_kept_and_what_is_dropped(tmp_path: Path) -> None:
    manifest, _ = curate(tmp_path / "out", options(inputs=corpus(tmp_path / "in", 1, 6)))
    texts = ["document 0 of file 0 é\u2028\0", *(f"document {j} of file 0 " + "word " * j + "é\u2028\0" for j in (1, 2)), "document 3"]
    kept = rows(tmp_path / "out", "documents")
    assert [row["text"] for row in kept] == [f"document {j} of file 0 " + "word " * j + "é\u2028\0" for j in (2, 4, 5)]
    assert kept[0] == {
        "id": "0-2", "text": texts[2], "source": "web", "origin": "part-0.jsonl#3", "metadata": {"url": "http://x/2", "n": 2},
    }  # fmt: skip
    dropped = rows(tmp_path / "out", "dropped")
    assert [(row["origin"], row["stage"], row["reason"]) for row in dropped] == [
        ("part-0.jsonl#1", "filter", "too_short"),
        ("part-0.jsonl#2", "filter", "too_short"),
        ("part-0.jsonl#4", "filter", "has_word"),
    ]
    assert dropped[2]["text"].startswith("document 3 of file 0 word")
    check_counts(manifest)
    assert manifest["flow"]["filter"]["books"]["dropped"]["has_word"]["documents"] == 1


@pytest.fixture(scope="module")
def reference(tmp_path_factory: pytest.TempPathFactory) -> tuple[str, dict[str, bytes], dict[str, Any]]:
    """(glob, output bytes, manifest) of one worker and whole files."""
    folder = tmp_path_factory.mktemp("reference")
    pattern = corpus(folder / "in")
    manifest, _ = curate(folder / "out", options(inputs=pattern, output={"shard_bytes": 2000}))
    return pattern, output(folder / "out"), manifest


@pytest.mark.parametrize(("workers", "piece_bytes"), [(1, 1), (2, 10**8), (3, 1)])
def test_same_bytes_whatever_the_workers_and_pieces(
    tmp_path: Path, reference: Any, workers: int, piece_bytes: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    pattern, wanted, manifest = reference
    from pretrainx.curate.pipeline import inputs

    monkeypatch.setattr(inputs, "_BLOCK", 1000)  # so that a piece can end within a small file
    chosen = options(inputs=pattern, output={"shard_bytes": 2000}, reading={"piece_bytes": piece_bytes})
    found, tasks = curate(tmp_path, chosen, workers)
    assert output(tmp_path) == wanted and len([name for name in wanted if name.startswith("documents/")]) > 2
    # The two plain files are cut at line ends, by blocks of 1,000 bytes; other processes have the block of the library.
    assert tasks["read"]["done"] == {(1, 1): 13, (2, 10**8): 1, (3, 1): 3}[workers, piece_bytes]
    for key in ("flow", "lengths", "documents", "dropped", "examples", "cleaned"):
        assert found[key] == manifest[key]
    check_counts(found)


@pytest.mark.slow
@pytest.mark.parametrize("workers", [1, 2])
def test_beam_gives_the_same_bytes(tmp_path: Path, reference: Any, workers: int) -> None:
    pytest.importorskip("apache_beam", reason="Beam is an extra: pip install 'pretrainx[beam]'")
    pattern, wanted, manifest = reference
    values = options(inputs=pattern, output={"shard_bytes": 2000}, reading={"piece_bytes": 1})
    process = command(tmp_path / "out", write_config(tmp_path / "c.py", values), "--beam", f"--workers={workers}")
    text, errors = process.communicate(timeout=300)
    assert process.returncode == 0, errors
    found = json.loads(text.rstrip("\n").split("\n")[-1])
    assert output(tmp_path / "out") == wanted and found["flow"] == manifest["flow"]
    assert not list((tmp_path / "out").glob(".beam*"))


def test_output_names_no_folder_and_no_time(tmp_path: Path, reference: Any) -> None:
    pattern, wanted, _ = reference
    shutil.copytree(Path(pattern).parent, tmp_path / "moved")
    curate(tmp_path / "out", options(inputs=str(tmp_path / "moved" / "part-*"), output={"shard_bytes": 2000}))
    assert output(tmp_path / "out") == wanted
    for data in wanted.values():
        assert data[:10] == b"\x1f\x8b\x08\x00\x00\x00\x00\x00" + data[8:10]  # no name flag, time zero


class Page(HTMLParser):
    """What a page's structure holds: ids, table captions, text; and whether its tags are balanced."""

    def __init__(self) -> None:
        super().__init__()
        self.open: list[str] = []
        self.ids: list[str] = []
        self.said: list[str] = []
        self.tags: set[str] = set()

    def handle_starttag(self, tag: str, attributes: Any) -> None:
        self.tags.add(tag)
        self.ids += [value for key, value in attributes if key == "id"]
        if tag not in ("meta", "wbr", "br"):
            self.open.append(tag)

    def handle_endtag(self, tag: str) -> None:
        assert self.open.pop() == tag

    def handle_data(self, data: str) -> None:
        self.said.append(data)


def test_the_report_is_one_page_with_its_parts(tmp_path: Path) -> None:
    path = tmp_path / "a.jsonl"
    texts = ["<script>alert(1)</script> bad & long enough to be shown", "long enough to be kept, and of no harm", "short \ud800\0"]
    path.write_text("".join(json.dumps({"text": text, "source": "<b>web</b>"}) + "\n" for text in texts) + "no json\n")
    manifest, _ = curate(tmp_path / "out", options(inputs=str(path)))
    text = (tmp_path / "out" / "report.html").read_text()
    found = Page()
    found.feed(text)
    found.close()
    assert found.open == [] and "script" not in found.tags and "b" in found.tags
    for part in ("funnel", "sources", "reasons", "lengths", "bad", "examples", "inputs", "settings"):
        assert part in found.ids
    said = "".join(found.said)
    assert "1 of 4 records kept" in said and "<script>alert(1)</script> bad & long" in said and "<b>web</b>" in said
    assert "has_word" in said and "too_short" in said and "record 4: not valid JSON" in said
    assert manifest["inputs"][0]["sha256"][:16] in said
    assert "http" not in text.replace("http-equiv", "")  # nothing from elsewhere


def test_a_finished_run_does_nothing_again(tmp_path: Path) -> None:
    chosen = options(inputs=corpus(tmp_path / "in"))
    first, _ = curate(tmp_path / "out", chosen)
    stamps = {path: path.stat().st_mtime_ns for path in (tmp_path / "out").rglob("*") if path.is_file() and path.name != ".lock"}
    second, tasks = curate(tmp_path / "out", chosen)
    assert (second, tasks) == (first, {})
    assert {path: path.stat().st_mtime_ns for path in stamps} == stamps
    name = first["documents"][0]["file"]
    (tmp_path / "out" / "documents" / name).unlink()
    third, tasks = curate(tmp_path / "out", chosen)  # what was removed is put back, of what is there
    assert sum(tally["done"] for tally in tasks.values()) == 0 and third["documents"] == first["documents"]
    assert (tmp_path / "out" / "documents" / name).exists()


def done(tasks: Mapping[str, Mapping[str, int]]) -> dict[str, int]:
    return {stage: tally["done"] for stage, tally in tasks.items() if tally["done"]}


def test_other_settings_redo_only_what_they_touch(tmp_path: Path) -> None:
    pattern, out = corpus(tmp_path / "in"), tmp_path / "out"
    small: dict[str, Any] = {"piece_bytes": 1}  # one shard a file
    base = options(inputs=pattern, reading=small)
    assert done(curate(out, base)[1]) == {"read": 3, "ids": 1, "filter": 3, "write": 2}
    stricter = options(inputs=pattern, reading=small, filters={OWN: {"min_characters": 40, "word": "bad"}})
    assert done(curate(out, stricter)[1]) == {"filter": 3, "write": 2}
    shorter = {**stricter, "output": {"dropped_characters": 10}}
    assert done(curate(out, shorter)[1]) == {"write": 1}
    assert done(curate(out, {**shorter, "reading": small | {"max_bad_records": 5}})[1]) == {}
    assert done(curate(out, {**shorter, "clean": {OWN: {"remove": "document"}}})[1]) == {"read": 3, "ids": 1, "filter": 3, "write": 2}
    # The chain of one source: shards without documents of it keep their results.
    one = tmp_path / "one"
    (tmp_path / "in2").mkdir()
    for name, source in (("a", "web"), ("b", "books")):
        (tmp_path / "in2" / f"{name}.jsonl").write_text(json.dumps({"text": f"a text of {source} " * 5}) + "\n")
    inputs = {"web": str(tmp_path / "in2" / "a.jsonl"), "books": str(tmp_path / "in2" / "b.jsonl")}
    assert done(curate(one, options(inputs=inputs))[1]) == {"read": 2, "ids": 1, "filter": 2, "write": 2}
    stricter = options(inputs=inputs, sources={"books": {"filters": {OWN: {"min_characters": 1000}}}})
    assert done(curate(one, stricter)[1]) == {"filter": 1, "write": 1}
    assert sorted(p.name for p in (one / "documents").iterdir()) == ["web-00000.jsonl.gz"]
    # One changed file redoes its own shard; what nothing refers to is gone.
    time.sleep(0.01)
    (tmp_path / "in2" / "a.jsonl").write_text(json.dumps({"text": "another text of web " * 5}) + "\n")
    assert done(curate(one, stricter)[1]) == {"read": 1, "ids": 1, "filter": 1, "write": 2}
    assert len(list((one / "work" / "read").iterdir())) == 2


def command(workdir: Path, config: Path, *words: str) -> subprocess.Popen[str]:
    return subprocess.Popen(
        [sys.executable, str(ROOT / "tools" / "curate.py"), f"--config={config}", f"--workdir={workdir}", "--json", *words],
        cwd=ROOT, env=os.environ | {"PYTHONPATH": str(ROOT)}, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True,
    )  # fmt: skip


def write_config(path: Path, values: Mapping[str, Any]) -> Path:
    path.write_text(f"def get_config():\n    return {values!r}\n")
    return path


@pytest.mark.slow
@pytest.mark.parametrize("workers", [1, 2])
def test_killed_and_run_again_is_as_if_never_killed(tmp_path: Path, workers: int) -> None:
    chosen = options(
        inputs=corpus(tmp_path / "in", 8), reading={"piece_bytes": 1}, output={"shard_bytes": 2000},
        filters={OWN: {"min_characters": 30, "word": "bad", "pause_s": 0.1}},
    )  # fmt: skip
    config, out = write_config(tmp_path / "c.py", chosen), tmp_path / "out"
    curate(tmp_path / "whole", chosen)
    wanted = output(tmp_path / "whole")
    kills = 0
    for stage, least in (("read", 2), ("filter", 2), ("filter", 5), ("write", 1)):
        process = command(out, config, f"--workers={workers}")
        while process.poll() is None and len([p for p in out.glob(f"work/{stage}/*") if p.name[0] != "."]) < least:
            time.sleep(0.005)
        kills += process.poll() is None
        process.send_signal(signal.SIGKILL)
        process.communicate()
        time.sleep(0.1)  # workers see that their parent is gone
    before = len(list(out.glob("work/filter/[!.]*")))
    process = command(out, config, f"--workers={workers}")
    text, errors = process.communicate(timeout=120)
    assert process.returncode == 0, errors
    assert kills >= 3 and before >= 5
    result = json.loads(text.rstrip("\n").split("\n")[-1])
    assert output(out) == wanted
    assert result["tasks_done"].get("filter", {"done": 0})["done"] == 8 - before  # what was finished is not done again
    assert not list(out.glob("work/*/.*"))
    check_counts(result)


@pytest.mark.slow
def test_a_worker_that_dies_is_named_and_its_task_done_again(tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    pattern = corpus(tmp_path / "in")
    own = {"min_characters": 30, "word": "bad", "kill_unless": str(tmp_path / "mark")}
    manifest, _ = curate(tmp_path / "a", options(inputs=pattern, reading={"piece_bytes": 1}, filters={OWN: own}), workers=2)
    check_counts(manifest)
    said = capfd.readouterr().err
    assert "ended by signal 9 (SIGKILL) while it did filtering of shard" in said and "(1 of 2)" in said
    with pytest.raises(InputError, match=r"while it did filtering of shard \d.* 3 times now, so the run stops"):
        curate(
            tmp_path / "a", options(inputs=pattern, reading={"piece_bytes": 1}, filters={OWN: own | {"kill_unless": "always"}}), workers=2
        )
    after, tasks = curate(tmp_path / "a", options(inputs=pattern, reading={"piece_bytes": 1}, filters={OWN: own}), workers=2)
    assert sum(tally["done"] for tally in tasks.values()) == 0 and after["documents"] == manifest["documents"]


def test_a_full_disk_loses_nothing_that_was_written(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    chosen, out = options(inputs=corpus(tmp_path / "in"), reading={"piece_bytes": 1}), tmp_path / "out"
    real, calls = store._sync, [0]

    def full(path: Path) -> None:
        calls[0] += 1
        if calls[0] > 20:
            raise OSError(28, "No space left on device", str(path))
        real(path)

    monkeypatch.setattr(store, "_sync", full)
    with pytest.raises(OSError, match="No space left"):
        curate(out, chosen)
    monkeypatch.undo()
    left = [p for p in out.glob("work/read/*") if p.is_dir()]
    assert len(left) == 2 and not [p for p in left if p.name.startswith(".")]
    assert not (out / "manifest.json").exists()
    manifest, tasks = curate(out, chosen)
    assert tasks["read"] == {"done": 1, "found": 2}
    check_counts(manifest)


def test_two_runs_do_not_share_a_folder(tmp_path: Path) -> None:
    from pretrainx.core import files

    with files.locked(tmp_path / "out"), pytest.raises(InputError, match="in use by a live run"):
        curate(tmp_path / "out", options(inputs=corpus(tmp_path / "in", 1, 3)))


def test_duplicate_ids_by_policy(tmp_path: Path) -> None:
    texts = [f"the text number {i} is long enough" for i in range(5)]
    path = tmp_path / "a.jsonl"
    path.write_text("".join(json.dumps({"id": name, "text": text}) + "\n" for name, text in zip("abaca", texts, strict=True)))
    chosen = options(inputs=str(path))
    curate(tmp_path / "rename", chosen)
    names = [row["id"] for row in rows(tmp_path / "rename", "documents")]
    assert [name[:2] for name in names] == ["a", "b", "a~", "c", "a~"] and len(set(names)) == 5
    manifest, _ = curate(tmp_path / "drop", {**chosen, "reading": {"duplicate_ids": "drop"}})
    assert [row["id"] for row in rows(tmp_path / "drop", "documents")] == ["a", "b", "c"]
    dropped = rows(tmp_path / "drop", "dropped")
    assert [(row["stage"], row["reason"], row["duplicate_of"]) for row in dropped] == [("ids_drop", "duplicate_id", "a")] * 2
    assert manifest["clusters"] == {"3": 1}
    check_counts(manifest)
    with pytest.raises(InputError, match=r"2 documents bear the id of one before them.*'a'"):
        curate(tmp_path / "stop", {**chosen, "reading": {"duplicate_ids": "stop"}})


def test_ids_in_several_partitions_are_the_same(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, reference: Any) -> None:
    from pretrainx.curate.pipeline import ids

    monkeypatch.setattr(ids, "PARTITION", 7)
    pattern, wanted, _ = reference
    _, tasks = curate(tmp_path, options(inputs=pattern, output={"shard_bytes": 2000}))
    assert output(tmp_path) == wanted and tasks["ids"]["done"] > 10
    assert sum("~" in row["id"] for row in rows(tmp_path, "documents")) > 0


def test_copies_are_dropped_with_the_one_that_stays(tmp_path: Path) -> None:
    pytest.importorskip("numba", reason="deduplication needs pip install 'pretrainx[curate]'")
    base = [" ".join(f"w{(i * 37 + j * j) % 997}" for j in range(120)) for i in range(30)]
    edited = base[3].replace("w111", "changed") + " and something more"
    texts = [*base, base[5], edited, base[7].upper(), base[5]]
    folder = tmp_path / "in"
    folder.mkdir()
    for i in range(2):  # the copies are in other files than what they are copies of
        some = list(enumerate(texts))[i * 17 : (i + 1) * 17]
        (folder / f"{i}.jsonl").write_text("".join(json.dumps({"id": f"d{j}", "text": text}) + "\n" for j, text in some))
    chosen: dict[str, Any] = {"inputs": f"{folder}/*.jsonl"}
    manifest, _ = curate(tmp_path / "a", chosen)
    found = {row["id"]: (row["stage"], row["duplicate_of"]) for row in rows(tmp_path / "a", "dropped")}
    assert found == {"d30": ("exact", "d5"), "d33": ("exact", "d5"), "d31": ("near", "d3"), "d32": ("near", "d7")}
    check_counts(manifest)
    assert manifest["clusters"] == {"2": 2, "3": 1}
    again, tasks = curate(tmp_path / "b", {**chosen, "reading": {"piece_bytes": 1}})
    assert output(tmp_path / "b") == output(tmp_path / "a") and tasks["near_sketch"]["done"] == 2
    check_counts(again)
    # A setting of the near stage touches neither the exact one nor what is before it.
    looser = {**chosen, "reading": {"piece_bytes": 1}, "deduplicate": {"near": {"min_jaccard": 1.01}}}
    manifest, tasks = curate(tmp_path / "b", looser)
    assert manifest["flow"]["near"]["documents"]["dropped"] == {}
    assert not any(tasks[stage]["done"] for stage in ("read", "ids", "exact_hash", "exact_find", "exact"))
    for section, option in (("exact", "fold"), ("near", "min_jacard"), ("near", "preset")):
        with pytest.raises(InputError, match=f"deduplicate.{section}.*did you mean|accepted"):
            curate(tmp_path / "c", {**chosen, "deduplicate": {section: {option: "x"}}})


def test_repeated_lines_are_cut(tmp_path: Path) -> None:
    pytest.importorskip("numba", reason="deduplication needs pip install 'pretrainx[curate]'")
    line = "a line that is long enough to be compared with others"
    texts = [f"First.\n{line}\nEnd.", f"Second.\n{line}\nIts end.", line, "nothing of that"]
    for i in range(2):
        some = list(enumerate(texts))[2 * i : 2 * i + 2]
        (tmp_path / f"{i}.jsonl").write_text("".join(json.dumps({"id": f"d{j}", "text": text}) + "\n" for j, text in some))
    for name, piece_bytes in (("one", 10**6), ("two", 1)):
        stages = {"exact": None, "near": None, "passages": {"unit": "line"}}
        chosen = {"inputs": f"{tmp_path}/*.jsonl", "deduplicate": stages, "reading": {"piece_bytes": piece_bytes}}
        manifest, _ = curate(tmp_path / name, chosen)
        kept = {row["id"]: row["text"] for row in rows(tmp_path / name, "documents")}
        assert kept == {"d0": texts[0], "d1": "Second.\nIts end.", "d3": texts[3]}
        (row,) = rows(tmp_path / name, "dropped")
        assert (row["id"], row["stage"], row["reason"], row["text"]) == ("d2", "passages", "nothing_new", line)
        check_counts(manifest)
        assert manifest["flow"]["passages"]["documents"]["edited_bytes"] == len(line) + 1
    assert output(tmp_path / "one") == output(tmp_path / "two")
    with pytest.raises(InputError, match="deduplicate.passages.unit.*did you mean"):
        curate(tmp_path / "x", {**chosen, "deduplicate": {"passages": {"unit": "lines"}}})


def test_copies_in_meaning_are_dropped(tmp_path: Path) -> None:
    pytest.importorskip("numba", reason="deduplication needs pip install 'pretrainx[curate]'")
    texts = ["abba abba cd", "zz yy xx ww", "cd abba abba", "what is this"]  # the first and the third have the same letters
    (tmp_path / "a.jsonl").write_text("".join(json.dumps({"id": f"d{i}", "text": text}) + "\n" for i, text in enumerate(texts)))
    stages = {"exact": None, "near": None, "semantic": {"embedding": OWN, "clusters": 1}}
    manifest, _ = curate(tmp_path / "out", {"inputs": str(tmp_path / "a.jsonl"), "deduplicate": stages})
    (row,) = rows(tmp_path / "out", "dropped")
    assert (row["id"], row["stage"], row["duplicate_of"], row["similarity"]) == ("d2", "semantic", "d0", 1.0)
    check_counts(manifest)


ITEM = "which of these many planets is the one that has the longest day of all in the system"


@pytest.mark.parametrize("action", ["drop", "cut"])
def test_leaks_are_dropped_or_cut_and_told(tmp_path: Path, action: str) -> None:
    pytest.importorskip("numba", reason="decontamination needs pip install 'pretrainx[curate]'")
    (tmp_path / "eval.jsonl").write_text(json.dumps({"id": "q7", "question": ITEM}) + "\n")
    texts = ["a clean text of some length", f"Before it. {ITEM.upper()}? After it.", "another clean one"]
    (tmp_path / "a.jsonl").write_text("".join(json.dumps({"id": f"d{i}", "text": text}) + "\n" for i, text in enumerate(texts)))
    chosen: dict[str, Any] = {
        "inputs": str(tmp_path / "a.jsonl"), "decontaminate": {"sets": {"planets": str(tmp_path / "eval.jsonl")}, "action": action},
    }  # fmt: skip
    out = tmp_path / "out"
    manifest, _ = curate(out, chosen)
    check_counts(manifest)
    kept = {row["id"]: row["text"] for row in rows(out, "documents")}
    assert kept == {"d0": texts[0], "d2": texts[2]} | ({} if action == "drop" else {"d1": "Before it. ? After it."})
    dropped = [(row["id"], row["stage"], row["reason"]) for row in rows(out, "dropped")]
    assert dropped == ([("d1", "decontaminate", "leak/planets")] if action == "drop" else [])
    (leak,) = [json.loads(line) for line in gzip.decompress((out / "leaks.jsonl.gz").read_bytes()).splitlines()]
    assert leak["items"] == [{"set": "planets", "item": "q7"}] and leak["text"] == ITEM.upper() and leak["before"] == "Before it. "
    from pretrainx.curate import decontaminated

    decontaminated.require(out / "decontamination.json", {"planets": str(tmp_path / "eval.jsonl")})
    assert manifest["decontamination"]["sets"]["planets"]["found"] == 1
    (tmp_path / "eval.jsonl").write_text(json.dumps({"id": "q7", "question": "other words " * 9}) + "\n")
    _, tasks = curate(out, chosen)  # other items of the same name and file redo this stage
    assert done(tasks)["decontaminate"] == 1 and "read" not in done(tasks)
    assert len(rows(out, "documents")) == 3
    curate(out, {**chosen, "decontaminate": None})
    assert not (out / "decontamination.json").exists() and not (out / "leaks.jsonl.gz").exists()
    with pytest.raises(InputError, match="decontaminate.sets is empty"):
        curate(out, {**chosen, "decontaminate": {"sets": {}}})


GOOD = '{"id": "good", "text": "a good record that is long enough to stay, also where fifty characters are asked for"}\n'


def bad_lines() -> dict[str, tuple[bytes, str, int]]:
    """name -> (file, reason, record)."""
    return {
        "not json": (b'{"text": \n', "not_json", 2),
        "deep": (b"[" * 100_000 + b"\n", "not_json", 2),
        "no object": (b"[1]\n", "no_object", 2),
        "no text": (b'{"txt": "x"}\n', "no_text", 2),
        "null": (b'{"text": null}\n', "no_text", 2),
        "empty": (b'{"id": "mine", "text": ""}\n', "empty_text", 2),
        "white": (b'{"text": " \\n "}\n', "empty_after_cleaning", 2),
        "long": (b'{"text": "' + b"x" * 3_000_000 + b'"}\n', "too_long", 2),
    }


@pytest.mark.parametrize("case", bad_lines())
def test_bad_records_are_named_counted_and_dropped(tmp_path: Path, case: str) -> None:
    line, reason, number = bad_lines()[case]
    path = tmp_path / "a.jsonl"
    path.write_bytes(GOOD.encode() + line + GOOD.replace("good", "next", 1).encode())
    chosen = options(inputs=str(path), reading={"max_document_bytes": 1_000_000})
    manifest, _ = curate(tmp_path / "out", chosen)
    assert [row["id"] for row in rows(tmp_path / "out", "documents")] == ["good", "next"]
    (row,) = rows(tmp_path / "out", "dropped")
    assert (row["stage"], row["reason"], row["origin"]) == ("read", reason, f"a.jsonl#{number}")
    check_counts(manifest)
    fault = not reason.startswith("empty")
    assert manifest["bad_records"]["faults"] == fault
    if fault:
        assert f"{path}, record {number}" in row["sentence"] and "\n" not in row["sentence"]
        for more in ({"bad_records": "stop"}, {"max_bad_records": 0}):
            for out in ("out", "new"):  # also where the shard was read before
                with pytest.raises(InputError, match="record 2"):
                    curate(tmp_path / out, {**chosen, "reading": {"max_document_bytes": 1_000_000, **more}})


def test_what_can_be_mended_is_mended_and_counted(tmp_path: Path) -> None:
    path = tmp_path / "a.jsonl"
    text = b"long enough to be kept by the filter"
    path.write_bytes(b'{"text": "a\xff ' + text + b'"}\n{"text": "b\\ud800 \\u0000 ' + text + b'", "m": ["\\udfff", NaN]}\n')
    manifest, _ = curate(tmp_path / "out", options(inputs=str(path)))
    one, two = rows(tmp_path / "out", "documents")
    assert one["text"] == "a\ufffd " + text.decode() and two["text"] == "b\ufffd \0 " + text.decode()
    assert two["metadata"] == {"m": ["?", None]}
    assert manifest["bad_records"]["documents_with_replaced_characters"] == 2


def damaged_files(folder: Path) -> Iterator[tuple[str, Path]]:
    data = b"".join(json.dumps({"text": f"{i * 7919:x} " * 20}).encode() + b"\n" for i in range(2000))
    whole = gzip.compress(data)
    flipped = bytearray(whole)
    flipped[len(flipped) // 2] ^= 0xFF
    for name, content in (("cut.jsonl.gz", whole[:-2000]), ("flipped.jsonl.gz", bytes(flipped)), ("none.jsonl.gz", b"no gzip")):
        (folder / name).write_bytes(content)
        yield name, folder / name
    (folder / "cut.parquet").write_bytes(b"PAR1 and no more")
    yield "cut.parquet", folder / "cut.parquet"
    (folder / "empty.jsonl").touch()
    yield "empty.jsonl", folder / "empty.jsonl"


@pytest.mark.parametrize("case", ["cut.jsonl.gz", "flipped.jsonl.gz", "none.jsonl.gz", "cut.parquet", "empty.jsonl"])
def test_damaged_files_give_what_is_whole(tmp_path: Path, case: str) -> None:
    bad = dict(damaged_files(tmp_path))[case]
    (tmp_path / "z.jsonl").write_text(GOOD)
    manifest, _ = curate(tmp_path / "out", options(inputs={"bad": str(bad), "good": str(tmp_path / "z.jsonl")}))
    check_counts(manifest)
    kept = rows(tmp_path / "out", "documents")
    assert kept[-1]["id"] == "good"
    whole = {f"{i * 7919:x} " * 20 for i in range(2000)}
    found = [row["text"] + " " for row in kept[:-1]]
    faults = [row for row in rows(tmp_path / "out", "dropped") if row["stage"] == "read"]
    if case == "empty.jsonl":
        assert not faults and len(kept) == 1
    else:
        assert str(bad) in faults[-1]["sentence"]
        assert faults[-1]["reason"] == "damaged_file" or case == "flipped.jsonl.gz"  # there the line after may be the first to be wrong
    if case == "cut.jsonl.gz":
        assert len(found) > 1000 and set(found) < whole


def test_without_a_compiler_the_rest_still_runs(tmp_path: Path) -> None:
    (tmp_path / "a.jsonl").write_text(GOOD)
    code = (
        "import sys; sys.modules['numba'] = None\n"
        "from pathlib import Path\nfrom pretrainx.core.errors import InputError\n"
        "from pretrainx.curate.pipeline import executor, run, settings\n"
        f"raw = {options(inputs=str(tmp_path / 'a.jsonl'))!r}\n"
        f"manifest, _ = run.curate(settings.parse(raw), Path({str(tmp_path / 'out')!r}), executor.InProcess())\n"
        "assert manifest['documents'][0]['documents'] == 1\n"
        "try: run.curate(settings.parse({**raw, 'deduplicate': {}}), Path('x'), executor.InProcess())\n"
        "except InputError as error: print(error)\n"
    )
    finished = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, check=False)
    assert finished.returncode == 0, finished.stderr
    assert "need numba: pip install 'pretrainx[curate]'" in finished.stdout


def test_nothing_to_read_is_an_error(tmp_path: Path) -> None:
    (tmp_path / "a.jsonl").write_text('{"content": "x"}\n')
    with pytest.raises(InputError, match=r"no document could be read.*record 1: no key 'text'"):
        curate(tmp_path / "out", options(inputs=str(tmp_path / "a.jsonl")))


@pytest.mark.parametrize("path", sorted((ROOT / "configs").glob("curate_*.py")), ids=lambda path: path.stem)
def test_shipped_configs_load_and_say_how_to_run_them(path: Path) -> None:
    pytest.importorskip("numba", reason="their rules need pip install 'pretrainx[curate]'")
    chosen = settings.parse({**settings.load(str(path), ()), "inputs": "x"})
    assert settings.chains(chosen).default and f"--config=configs/{path.name}" in path.read_text()


CONFIG_ERRORS: dict[str, tuple[dict[str, Any], str]] = {
    "no inputs": ({}, "inputs is missing"),
    "section": ({"input": "x"}, r"unknown config key 'input'; did you mean 'inputs'"),
    "leaf": ({"inputs": "x", "reading": {"text_kye": "t"}}, r"'reading.text_kye'; did you mean 'text_key'"),
    "value": ({"inputs": "x", "reading": {"bad_records": "ignore"}}, r"reading.bad_records: unknown value 'ignore'"),
    "range": ({"inputs": "x", "output": {"shard_bytes": 0}}, "output.shard_bytes: expected a whole number at least 1"),
    "format": ({"inputs": {"a": {"files": "x", "format": "jsnol"}}}, "did you mean 'jsonl'"),
    "filter": ({"inputs": "x", "filters": {"no_such_filter": {}}}, "filters.no_such_filter: unknown name"),
    "option": ({"inputs": "x", "filters": {OWN: {"min_chars": 3}}}, "did you mean 'min_characters'"),
    "of a source": ({"inputs": "x", "sources": {"web": {"filters": {OWN: {"min_characters": -1}}}}}, "sources.web.filters.*at least 0"),
    "no match": ({"inputs": "/no/such/*.jsonl"}, "glob without a match: '/no/such/"),
    "suffix": ({"inputs": str(ROOT / "setup.cfg")}, "no reader is known for .*setup.cfg"),
}


@pytest.mark.parametrize("case", CONFIG_ERRORS)
def test_config_errors_come_before_any_work(tmp_path: Path, case: str) -> None:
    raw, words = CONFIG_ERRORS[case]
    with pytest.raises(InputError, match=words):
        curate(tmp_path / "out", raw)
    assert not (tmp_path / "out").exists()


@pytest.mark.slow
def test_the_command(tmp_path: Path) -> None:
    from pydoc_data.topics import topics

    pytest.importorskip("numba", reason="the default rules need pip install 'pretrainx[curate]'")
    texts = [topics["numbers"] * 2, topics["execmodel"], topics["execmodel"], "short"]
    (tmp_path / "a.jsonl").write_text("".join(json.dumps({"id": i, "text": text}) + "\n" for i, text in enumerate(texts)))
    files, example = f"--config.inputs={tmp_path}/*.jsonl", ROOT / "configs" / "curate_files.py"
    process = command(tmp_path / "out", example, files, "--workers=1")
    text, errors = process.communicate(timeout=240)
    assert process.returncode == 0, errors
    result = json.loads(text.rstrip("\n").split("\n")[-1])
    assert [row["id"] for row in rows(tmp_path / "out", "documents")] == ["1"]
    found = {row["id"]: (row["stage"], row["reason"], row.get("duplicate_of")) for row in rows(tmp_path / "out", "dropped")}
    assert found["2"] == ("exact", "same_text", "1") and found["3"][:2] == ("filter", "length/too_short")
    assert found["0"][1].startswith("gopher_repetition/")
    assert result["settings"]["filters"]["default"][0][1] == "length" and "written" not in result
    process = command(tmp_path / "out", example, files, "--workers=1", "--config.filters.length.min_characters=3")
    text, errors = process.communicate(timeout=240)
    assert process.returncode == 0, errors
    assert json.loads(text.rstrip("\n").split("\n")[-1])["tasks_done"]["read"] == {"done": 0, "found": 1}
    for wrong, words in (("output.shardbytes=3", "did you mean 'shard_bytes'"), ("filters.lenght.min=3", "did you mean 'length'")):
        process = command(tmp_path / "out", example, files, f"--config.{wrong}")
        _, errors = process.communicate(timeout=120)
        assert process.returncode == 2 and words in errors
