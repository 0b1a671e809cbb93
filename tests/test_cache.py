"""Building the token cache: whole, resumed after a kill, left alone when nothing changed, rebuilt where something did."""

import gzip
import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from concurrent.futures import Future
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from pretrainx.core import files
from pretrainx.core.errors import InputError
from pretrainx.core.sections import Corpus, Data
from pretrainx.core.vocabulary import SpecialIds, Vocabulary
from pretrainx.data import build, cache
from pretrainx.data.cache import CachedDocument, TokenCache
from tools import cache_tasks

ROOT = Path(__file__).parents[1]
BYTES = Vocabulary("bytes", 264, SpecialIds(bos=259, mask=260, cls=261, sep=262))


class InProcess(build.Workers):
    """Runs what worker processes would run, here: TensorFlow is imported once for all tests."""

    calls: list[str] = []  # noqa: RUF012 - one log for all

    def _submit(self, function: Callable[..., Any], *arguments: Any) -> Future:
        if getattr(build, "_data", None) != self.data:
            build._data = self.data
            build._tasks.clear()
        InProcess.calls.append(function.__name__)
        future: Future = Future()
        try:
            future.set_result(function(*arguments))
        except Exception as error:
            future.set_exception(error)
        return future


@pytest.fixture
def here(monkeypatch: pytest.MonkeyPatch) -> Iterator[list[str]]:
    """The log of what workers were asked to do."""
    pytest.importorskip("pretrainx.tasks.registry", reason="needs pretrainx[tasks]")
    monkeypatch.setattr(build, "Workers", InProcess)
    InProcess.calls.clear()
    yield InProcess.calls


def text_of(split: str, number: int, i: int) -> str:
    return f"{split} file {number} line {i}\n" * (i % 7 + 1)


def corpus(folder: Path, num_files: int = 3, each: int = 5) -> Data:
    """A corpus "mine" of a few jsonl.gz files for train and one for validation, and its data section."""
    (folder / "in").mkdir(exist_ok=True)
    for split, count in (("train", num_files), ("validation", 1)):
        for number in range(count):
            lines = "".join(json.dumps({"id": f"{split}{number}-{i}", "text": text_of(split, number, i)}) + "\n" for i in range(each))
            (folder / "in" / f"{split}-{number}.jsonl.gz").write_bytes(gzip.compress(lines.encode(), mtime=0))
    mine = Corpus(files=f"{folder}/in/{{split}}-*.jsonl.gz")
    return Data(mixture={"mine": 1.0}, corpora={"mine": mine}, cache_dir=f"{folder}/cache")


def texts(folder: Path) -> list[str]:
    found = TokenCache(folder)
    return [found.vocabulary.decode(found.read(*found.document_span(i))) for i in range(found.num_documents)]


def snapshot(folder: Path) -> dict[str, int]:
    return {str(p.relative_to(folder)): p.stat().st_mtime_ns for p in sorted(folder.rglob("*")) if p.is_file()}


# ---- building


def test_the_cache_holds_every_document_with_its_name(tmp_path: Path, here: list[str]) -> None:
    data = corpus(tmp_path)
    result = build.build(data)
    train = TokenCache(tmp_path / "cache/mine/train")
    assert texts(train.folder) == [text_of("train", n, i) for n in range(3) for i in range(5)]
    assert [d.id for d in map(train.document, range(15))] == [f"train{n}-{i}" for n in range(3) for i in range(5)]
    assert train.document(7).origin == f"{tmp_path}/in/train-1.jsonl.gz#3"
    assert train.document(7).num_bytes == len("train file 1 line 2\n" * 3)
    assert all(train.read(end - 1, end) == [1] for end in (train.document_span(i)[1] for i in range(15)))
    assert len(train.manifest["shards"]) == 3 and result["built"] == result["shards"] == 4
    assert result["corpora"]["mine"]["validation"]["num_documents"] == 5
    assert train.num_bytes == sum(train.document(i).num_bytes for i in range(15))


def test_unchanged_is_a_no_op_that_asks_no_worker(tmp_path: Path, here: list[str]) -> None:
    data = corpus(tmp_path)
    build.build(data)
    before = snapshot(tmp_path / "cache/mine")
    here.clear()
    result = build.build(data)
    before.pop(".lock"), (after := snapshot(tmp_path / "cache/mine")).pop(".lock")
    assert result["built"] == 0 and here == [] and before == after


def test_a_changed_file_rebuilds_its_shard_alone(tmp_path: Path, here: list[str]) -> None:
    data = corpus(tmp_path)
    build.build(data)
    before, sha = snapshot(tmp_path / "cache/mine"), TokenCache(tmp_path / "cache/mine/train").manifest["data_sha256"]
    (tmp_path / "in/train-1.jsonl.gz").write_bytes(gzip.compress(b'{"id": "new", "text": "new text"}\n'))
    here.clear()
    assert build.build(data)["built"] == 1 and here == ["_build_shard"]
    after = snapshot(tmp_path / "cache/mine")
    changed = {name for name in before if before[name] != after[name]} - {".lock"}
    assert changed and all(n.startswith("train/shard-00001") or n in ("train/manifest.json", "train/vocabulary.model") for n in changed)
    assert "new text" in texts(tmp_path / "cache/mine/train")
    assert TokenCache(tmp_path / "cache/mine/train").manifest["data_sha256"] != sha


def test_a_touched_file_is_not_a_changed_one(tmp_path: Path, here: list[str]) -> None:
    data = corpus(tmp_path)
    build.build(data)
    os.utime(tmp_path / "in/train-1.jsonl.gz", (1, 1))
    assert build.build(data)["built"] == 0


def test_a_damaged_or_missing_shard_is_built_again(tmp_path: Path, here: list[str]) -> None:
    data = corpus(tmp_path)
    build.build(data)
    folder = tmp_path / "cache/mine/train"
    sha = TokenCache(folder).manifest["data_sha256"]
    (folder / "shard-00000.targets.arrayrecord").write_bytes(b"cut")
    (folder / "shard-00001.ids").unlink()
    (folder / "shard-00002.json").write_text("{")
    assert build.build(data)["built"] == 3
    assert TokenCache(folder).manifest["data_sha256"] == sha and len(texts(folder)) == 15


def test_fewer_files_leave_no_old_shards(tmp_path: Path, here: list[str]) -> None:
    data = corpus(tmp_path)
    build.build(data)
    (tmp_path / "in/train-2.jsonl.gz").unlink()
    assert build.build(data)["built"] == 0  # the two that are left are as they were
    assert len(texts(tmp_path / "cache/mine/train")) == 10
    assert not list((tmp_path / "cache/mine/train").glob("shard-00002*"))


def test_what_the_tokens_depend_on_rebuilds_and_a_limit_does_not(tmp_path: Path, here: list[str]) -> None:
    data = corpus(tmp_path)
    build.build(data)
    assert build.build(replace(data, max_document_bytes=5_000_000, sequence_length=7, objective="masked"))["built"] == 0
    assert build.build(replace(data, vocabulary="bytes+3"))["built"] == 4
    assert TokenCache(tmp_path / "cache/mine/train").vocabulary.size == 267


def test_a_single_stream_goes_into_cache_shards(tmp_path: Path, here: list[str], monkeypatch: pytest.MonkeyPatch) -> None:
    data = replace(corpus(tmp_path, num_files=1, each=11), cache_shards=4)
    build.build(data)
    assert len(TokenCache(tmp_path / "cache/mine/train").manifest["shards"]) == 1  # too small a file to cut
    monkeypatch.setattr(build, "PART_BYTES", 1)
    build.build(data)
    found = TokenCache(tmp_path / "cache/mine/train")
    assert [s["num_documents"] for s in found.manifest["shards"]] == [3, 3, 3, 2]
    assert sorted(texts(found.folder)) == sorted(text_of("train", 0, i) for i in range(11))


def test_one_corpus_is_cached_once_for_all_its_objectives(tmp_path: Path, here: list[str]) -> None:
    data = replace(corpus(tmp_path), mixture={"mine:causal": 1.0, "mine:masked": 2.0})
    assert build.build(data)["built"] == 4


def test_empty_and_inexact_documents_are_counted(tmp_path: Path, here: list[str]) -> None:
    model = tmp_path / "v.model"
    from pretrainx.tasks import vocabulary_training as training

    model.write_bytes(training.train(["some text to learn from\n"] * 3, 280))
    records = [{"text": "plain"}, {"text": ""}, {"text": "a\u2581b"}, {"text": "\ud800"}, {"text": "nul \0 byte"}]
    (tmp_path / "a.jsonl").write_text("".join(json.dumps(r) + "\n" for r in records))
    data = Data({"mine": 1.0}, {"mine": Corpus(files=f"{tmp_path}/a.jsonl")}, vocabulary=str(model), cache_dir=f"{tmp_path}/cache")
    counts = build.build(data)["corpora"]["mine"]["train"]["counts"]
    assert counts == {"empty": 0, "blank": 1, "not_lossless": 1, "documents_replaced": 1, "characters_replaced": 1}
    assert texts(tmp_path / "cache/mine/train") == ["plain", "a b", "\ufffd", "nul \0 byte"]


def test_a_word_list_drops_what_has_no_token(tmp_path: Path, here: list[str]) -> None:
    (tmp_path / "vocab.txt").write_text("[PAD]\n[UNK]\n[CLS]\n[SEP]\n[MASK]\nword\n")
    (tmp_path / "a.txt").write_text("word word\n \t \nword\n")
    mine = Corpus("text", f"{tmp_path}/a.txt", document="line")
    data = Data({"mine": 1.0}, {"mine": mine}, vocabulary=f"wordpiece:{tmp_path}/vocab.txt", cache_dir=f"{tmp_path}/cache")
    result = build.build(data)["corpora"]["mine"]["train"]
    assert (result["num_documents"], result["counts"]["empty"], result["num_tokens"]) == (2, 1, {"targets": 5})


THEIRS = """
import seqio, tensorflow as tf

def pairs(split, shuffle_files, seed=None):
    rows = {"inputs": [f"{split} question {i}" for i in range(7)], "targets": [f"answer {i}" for i in range(7)]}
    return tf.data.Dataset.from_tensor_slices(rows)

FEATURES = {name: seqio.Feature(seqio.ByteVocabulary(), add_eos=True) for name in ("inputs", "targets")}
STEPS = [seqio.preprocessors.tokenize, seqio.CacheDatasetPlaceholder(), seqio.preprocessors.append_eos_after_trim]
SOURCE = seqio.FunctionDataSource(pairs, splits=("train", "validation", "test"))
WIDE = {"targets": seqio.Feature(seqio.PassThroughVocabulary(100), add_eos=False)}
def numbers(split, shuffle_files, seed=None):
    return tf.data.Dataset.from_tensors({"targets": tf.constant([5, 300, 7])})
for name, source, steps, features in (
    ("their_pairs", SOURCE, STEPS, FEATURES), ("no_placeholder", SOURCE, STEPS[:1], FEATURES),
    ("too_wide", seqio.FunctionDataSource(numbers, splits=("train",)), [seqio.CacheDatasetPlaceholder()], WIDE)):
    if name not in seqio.TaskRegistry.names():
        seqio.TaskRegistry.add(name, source=source, preprocessors=steps, output_features=features)
if "their_mix" not in seqio.MixtureRegistry.names():
    seqio.MixtureRegistry.add("their_mix", [("their_pairs", 2.0)])
"""


@pytest.fixture
def theirs(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Data:
    (tmp_path / "their_tasks.py").write_text(THEIRS)
    monkeypatch.syspath_prepend(tmp_path)
    monkeypatch.delitem(sys.modules, "their_tasks", raising=False)
    return Data("their_mix", module="their_tasks", cache_dir=f"{tmp_path}/cache", cache_shards=2)


def test_somebody_elses_task_is_cached_with_all_its_features(tmp_path: Path, here: list[str], theirs: Data) -> None:
    result = build.build(theirs)
    assert set(result["corpora"]["their_pairs"]) == {"train", "validation"}
    found = TokenCache(tmp_path / "cache/their_pairs/train")
    assert found.manifest["features"] == ["inputs", "targets"] and found.num_documents == 7
    inputs = [found.vocabulary.decode(found.read(*found.document_span(i, "inputs"), "inputs")) for i in range(7)]
    assert inputs == [f"train question {i}" for i in (0, 2, 4, 6, 1, 3, 5)]  # two shards, every other record each
    assert texts(found.folder) == [f"answer {i}" for i in (0, 2, 4, 6, 1, 3, 5)]
    assert [found.document(i).id for i in range(7)] == [*(f"train-00000-{i}" for i in range(4)), *(f"train-00001-{i}" for i in range(3))]
    assert found.document(0).num_bytes == len("train question 0answer 0")
    assert all(
        found.read(found.document_span(i, f)[1] - 1, found.document_span(i, f)[1], f) == [1]
        for i in range(7)
        for f in ("inputs", "targets")
    )
    here.clear()
    assert build.build(theirs)["built"] == 0 and set(here) == {"_resolve", "_describe"}


def test_tasks_that_cannot_be_cached_are_refused(here: list[str], theirs: Data) -> None:
    with pytest.raises(InputError, match="'no_placeholder' has no seqio.CacheDatasetPlaceholder"):
        build.build(replace(theirs, mixture={"no_placeholder": 1.0}))
    with pytest.raises(InputError, match=r"token id 300 of feature 'targets' is outside the vocabulary of 264"):
        build.build(replace(theirs, mixture={"too_wide": 1.0}))


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"mixture": {"gone": 1.0}}, "unknown corpus 'gone'"),
        ({"mixture": "gone"}, "unknown Task or Mixture 'gone'"),
        ({"vocabulary": "gone.model"}, "vocabulary file not found: gone.model"),
        ({"corpora": {"mine": Corpus(files="gone-*.txt")}}, "glob without a match"),
        ({"max_document_bytes": 50}, r"\d.jsonl.gz, record 1: longer than data.max_document_bytes = 50"),
    ],
)
def test_bad_input_is_one_sentence(tmp_path: Path, here: list[str], change: dict[str, Any], words: str) -> None:
    data = replace(corpus(tmp_path), **change)
    with pytest.raises(InputError, match=words) as caught:
        build.build(data)
    assert "\n" not in str(caught.value)


def test_a_train_split_without_any_document_is_refused(tmp_path: Path, here: list[str]) -> None:
    (tmp_path / "vocab.txt").write_text("[PAD]\n[UNK]\n[CLS]\n[SEP]\n")
    (tmp_path / "a.txt").write_text(" \n ")
    data = Data(
        {"mine": 1.0},
        {"mine": Corpus("text", f"{tmp_path}/a.txt")},
        vocabulary=f"wordpiece:{tmp_path}/vocab.txt",
        cache_dir=f"{tmp_path}/c",
    )
    with pytest.raises(InputError, match="'mine': its train split holds no document"):
        build.build(data)


def test_a_cache_in_the_making_is_locked(tmp_path: Path, here: list[str]) -> None:
    data = corpus(tmp_path)
    with files.locked(tmp_path / "cache/mine"), pytest.raises(InputError, match="in use by a live run"):
        build.build(data)


# ---- the tool, with its processes


def start(folder: Path, data: Data, *words: str) -> subprocess.Popen:
    values = {"mixture": data.mixture, "cache_dir": data.cache_dir, "corpora": {n: {"files": c.files} for n, c in data.corpora.items()}}
    (folder / "c.py").write_text(f"def get_config():\n    return {{'data': {values!r}}}\n")
    command = [sys.executable, str(ROOT / "tools/cache_tasks.py"), f"--config={folder}/c.py", *words]
    env = os.environ | {"PYTHONPATH": str(ROOT)}
    return subprocess.Popen(command, cwd=ROOT, env=env, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)


def children(pid: int) -> list[int]:
    found = subprocess.run(["ps", "-o", "pid=", "--ppid", str(pid)], capture_output=True, text=True, check=False).stdout
    return [int(p) for p in found.split()]


def alive(pid: int) -> bool:
    try:
        return Path(f"/proc/{pid}/stat").read_text().rsplit(")", 1)[1].split()[0] != "Z"
    except OSError:
        return False


@pytest.mark.skipif(not Path("/proc/self/stat").exists(), reason="reads /proc")
def test_killed_it_goes_on_from_the_finished_shards(tmp_path: Path, here: list[str], capsys: pytest.CaptureFixture[str]) -> None:
    data = corpus(tmp_path, num_files=12, each=250)
    process = start(tmp_path, data, "--processes=2")
    folder, deadline = tmp_path / "cache/mine/train", time.monotonic() + 120
    while len(list(folder.glob("shard-*.json"))) < 1 and time.monotonic() < deadline and process.poll() is None:
        time.sleep(0.01)
    workers = children(process.pid)
    process.send_signal(signal.SIGKILL)
    err = process.communicate()[1]
    assert "tensorflow" not in err.lower() and "LOG(INFO)" not in err  # the libraries' notes are kept away
    while any(map(alive, workers)) and time.monotonic() < deadline:
        time.sleep(0.05)
    assert len(workers) >= 2 and not any(map(alive, workers)), "a worker outlived its parent"
    finished = {p.name: p.stat().st_mtime_ns for p in folder.glob("shard-*.json")}
    assert 1 <= len(finished) < 12 and not (folder / "manifest.json").exists()

    assert cache_tasks.main([f"--config={tmp_path}/c.py", "--json"]) == 0
    result = json.loads(capsys.readouterr().out.splitlines()[-1])
    assert result["built"] == 13 - len(finished)
    assert finished == {name: (folder / name).stat().st_mtime_ns for name in finished}  # not one was built twice
    assert TokenCache(folder).num_documents == 12 * 250
    # the same as one that was never interrupted, and that one process made
    assert build.build(replace(data, cache_dir=f"{tmp_path}/uninterrupted"))["corpora"] == result["corpora"]


def test_sigterm_says_how_to_go_on(tmp_path: Path) -> None:
    process = start(tmp_path, corpus(tmp_path), "--processes=1")
    assert process.stderr is not None
    for line in process.stderr:
        if "caching" in line:
            break
    process.send_signal(signal.SIGTERM)
    _, err = process.communicate(timeout=60)
    assert process.returncode == 75 and "run the same command again" in err and "Traceback" not in err


def test_bad_input_ends_the_tool_with_one_line_and_code_2(tmp_path: Path) -> None:
    data = corpus(tmp_path)
    for path in (tmp_path / "in").glob("train-*"):
        path.unlink()
    process = start(tmp_path, data)
    out, err = process.communicate(timeout=60)
    assert process.returncode == 2 and out == ""
    assert err.startswith("error: data.corpora.mine.files: glob without a match") and err.count("\n") == 1


# ---- what reading finds


@settings(max_examples=40)
@given(
    texts=st.lists(st.tuples(st.text(max_size=20), st.binary(max_size=30)), min_size=1, max_size=8),
    spans=st.lists(st.tuples(st.integers(0, 10**6), st.integers(0, 10**6)), max_size=4),
)
def test_what_is_written_is_read(
    tmp_path_factory: pytest.TempPathFactory, texts: list[tuple[str, bytes]], spans: list[tuple[int, int]]
) -> None:
    folder = tmp_path_factory.mktemp("split")
    documents = [CachedDocument(i, f"o{n}", len(b), {"targets": np.asarray([*(x + 3 for x in b), 1])}) for n, (i, b) in enumerate(texts)]
    cache.write_shard(folder, 0, documents[: len(documents) // 2], ["targets"], 264)
    cache.write_shard(folder, 1, documents[len(documents) // 2 :], ["targets"], 264)
    cache.write_manifest(folder, corpus="c", split="train", task_sha256="", vocabulary=BYTES, num_shards=2, source={})
    found = TokenCache(folder)
    stream = np.concatenate([d.features["targets"] for d in documents])
    assert found.num_documents == len(documents) and found.num_tokens() == len(stream)
    wanted = [(min(a, b), max(a, b)) for a, b in ((a % (len(stream) + 1), b % (len(stream) + 1)) for a, b in spans)]
    for (a, b), tokens in zip(wanted, found.read_many(wanted), strict=True):
        assert tokens.tolist() == stream[a:b].tolist()
    for n, document in enumerate(documents):
        entry = found.document(n)
        assert entry.origin == f"o{n}" and entry.num_bytes == len(texts[n][1])
        assert "\t" not in entry.id and "\n" not in entry.id
        assert n in found.find_document(entry.id)
        assert found.read(entry.start, entry.end).tolist() == document.features["targets"].tolist()


def test_a_damaged_record_is_named(tmp_path: Path) -> None:
    tokens = np.arange(3 * cache.BLOCK) % 250
    cache.write_shard(tmp_path, 0, [CachedDocument("d", "o", 1, {"targets": tokens})], ["targets"], 264)
    cache.write_manifest(tmp_path, corpus="c", split="train", task_sha256="", vocabulary=BYTES, num_shards=1, source={})
    path = tmp_path / "shard-00000.targets.arrayrecord"
    data = bytearray(path.read_bytes())
    at = data.find(tokens[cache.BLOCK + 100 : cache.BLOCK + 120].astype("<u2").tobytes())
    assert at > 0
    data[at] ^= 1  # one bit
    path.write_bytes(bytes(data))
    with pytest.raises(InputError, match=r"shard-00000.targets.arrayrecord is damaged or missing .*run tools/cache_tasks.py again"):
        TokenCache(tmp_path).read(0, 3 * cache.BLOCK)
