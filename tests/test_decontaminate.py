"""Leaks of evaluation items: which are found, where they stand, what is cut, and what the manifest vouches for."""

import dataclasses
import gzip
import json
import random
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

pytest.importorskip("numba")

from pretrainx.core import files
from pretrainx.core.errors import InputError
from pretrainx.core.sections import Corpus, Data
from pretrainx.curate import decontaminate, decontaminated
from pretrainx.curate.decontaminate import EvaluationSet, Settings
from pretrainx.curate.deduplicate import shingles
from pretrainx.curate.documents import Batch, Document
from pretrainx.tasks import corpora

ITEM = "The quick brown fox jumps over the lazy dog, while seven other animals look on."
SHORT = "Which planet is the largest of them all?"


def batch(texts: Sequence[str]) -> Batch:
    return Batch([Document(f"d{i}", text, f"f#{i + 1}", "web") for i, text in enumerate(texts)])


def write(path: Path, records: Sequence[Mapping[str, Any]]) -> str:
    path.write_text("".join(json.dumps(record) + "\n" for record in records))
    return str(path)


def index_of(folder: Path, items: Sequence[str], setting: Settings | None = None) -> decontaminate.Index:
    name = write(folder / "items.jsonl", [{"id": f"q{i}", "text": text} for i, text in enumerate(items)])
    return decontaminate.build({"quiz": EvaluationSet(name)}, setting or Settings())


def filler(seed: int, count: int = 30) -> str:
    rng = random.Random(seed)
    return " ".join(f"w{rng.randrange(10**6)}" for _ in range(count))


def test_a_leak_is_found_whatever_its_case_and_spacing(tmp_path: Path) -> None:
    index = index_of(tmp_path, [ITEM, SHORT])
    leaked = "THE QUICK brown\n fox jumps over the “lazy” dog — while seven other animals look on"
    texts = [f"{filler(1)} {leaked} {filler(2)}", filler(3), f"{filler(4)}. {SHORT}", ITEM.replace("lazy", "idle")]
    hits = decontaminate.search(batch(texts), index)
    assert [(hit.document, hit.items, hit.words) for hit in hits] == [(0, (("quiz", "q0"),), 15), (2, (("quiz", "q1"),), 8)]
    assert texts[0][hits[0].start : hits[0].end] == leaked
    row = hits[1].row(batch(texts).documents[2], Settings(context=4))
    assert row["text"] == SHORT[:-1] and row["after"] == "?" and row["before"] == texts[2][hits[1].start - 4 : hits[1].start]
    assert (row["id"], row["origin"], row["source"], row["items"]) == ("d2", "f#3", "web", [{"set": "quiz", "item": "q1"}])
    json.dumps(row)


def test_thirteen_words_are_a_leak_and_twelve_are_none(tmp_path: Path) -> None:
    words = filler(0, 40).split()
    index = index_of(tmp_path, [" ".join(words)])
    for count in (12, 13, 14):
        (*hits,) = decontaminate.search(batch([f"{filler(1)} {' '.join(words[5 : 5 + count])} {filler(2)}"]), index)
        assert [hit.words for hit in hits] == ([count] if count >= 13 else [])


def test_an_item_too_short_is_not_looked_for_and_a_short_one_only_whole(tmp_path: Path) -> None:
    index = index_of(tmp_path, ["Yes, of course it is.", SHORT])
    assert index.sets["quiz"]["items"] == 2 and index.sets["quiz"]["looked_for"] == 1 and index.widths == (8,)
    texts = ["Yes, of course it is.", SHORT.removesuffix(" all?"), SHORT, f"So: {SHORT}"]
    assert [hit.document for hit in decontaminate.search(batch(texts), index)] == [2, 3]


def test_overlapping_runs_are_one_stretch_and_its_items_are_named_by_weight(tmp_path: Path) -> None:
    words = filler(0, 60).split()
    index = index_of(tmp_path, [" ".join(words[:30]), " ".join(words[10:60]), " ".join(words[:30])])
    (hit,) = decontaminate.search(batch([" ".join(words)]), index)
    assert (hit.start, hit.end, hit.words) == (0, len(" ".join(words)), 60)
    assert hit.items == (("quiz", "q1"), ("quiz", "q0"), ("quiz", "q2"))


def python_spans(text: str, items: Sequence[str], n: int, least: int) -> list[tuple[int, int]]:
    """Word spans that are leaks, with lists of strings."""
    words = shingles.WORD.findall(shingles.fold(text))
    inside: list[tuple[int, int]] = []
    for item in items:
        other = shingles.WORD.findall(shingles.fold(item))
        if len(other) < least:
            continue
        width = min(n, len(other))
        runs = {tuple(other[i : i + width]) for i in range(len(other) - width + 1)}
        inside += [(i, i + width) for i in range(len(words) - width + 1) if tuple(words[i : i + width]) in runs]
    spans: list[list[int]] = []
    for start, end in sorted(inside):
        if spans and start < spans[-1][1]:
            spans[-1][1] = max(spans[-1][1], end)
        else:
            spans.append([start, end])
    return [(start, end) for start, end in spans]


WORDS = st.lists(st.sampled_from(["a", "b", "É", "ﬁn", "漢", "e\u0301"]), max_size=12).map(" ".join)


@settings(max_examples=200)
@given(st.lists(WORDS, max_size=5), st.lists(WORDS, min_size=1, max_size=3))
def test_stretches_are_those_that_lists_of_strings_give(
    tmp_path_factory: pytest.TempPathFactory, texts: list[str], items: list[str]
) -> None:
    setting = Settings(ngram=4, min_words=2)
    if not any(len(item.split()) >= 2 for item in items):
        items = [*items, "a b"]
    index = index_of(tmp_path_factory.mktemp("items"), items, setting)
    hits = decontaminate.search(batch(texts), index)
    for d, text in enumerate(texts):
        _, starts, ends = shingles.positions(text)
        expected = [(starts[a], ends[b - 1]) for a, b in python_spans(text, items, 4, 2)]
        assert [(hit.start, hit.end) for hit in hits if hit.document == d] == expected
    alone = [hit for d, text in enumerate(texts) for hit in decontaminate.search(batch([text]), index)]
    assert [(hit.start, hit.end, hit.items) for hit in alone] == [(hit.start, hit.end, hit.items) for hit in hits]


def test_what_becomes_of_the_document(tmp_path: Path) -> None:
    index = index_of(tmp_path, [ITEM])
    some = batch([f"Before it. {ITEM} After it.", "Clean text.", ITEM.removesuffix(".")])
    hits = decontaminate.search(some, index)
    kept, drop = decontaminate.clean(some, hits, Settings())
    assert kept.texts == ["Clean text."] and drop.tolist() == [True, False, True]
    kept, drop = decontaminate.clean(some, hits, Settings(action="cut"))
    assert kept.texts == ["Before it. . After it.", "Clean text."] and drop.tolist() == [False, False, True]
    assert kept.documents[0].id == "d0" and kept.documents[0].origin == "f#1"
    kept, _ = decontaminate.clean(some, hits, Settings(action="cut", margin=3))
    assert kept.texts == ["Before  it.", "Clean text."]  # whole words go: "it." before, ". After" behind
    kept, drop = decontaminate.clean(some, hits, Settings(action="report"))
    assert kept is some and not drop.any()
    assert not decontaminate.search(decontaminate.clean(some, hits, Settings(action="cut"))[0], index)


def test_every_string_of_a_record_or_the_fields_that_are_named(tmp_path: Path) -> None:
    text, answer, secret = filler(1), filler(2), filler(3)
    name = write(tmp_path / "a.jsonl", [{"question": text, "choices": {"text": [answer, "no"]}, "n": 3, "source": secret}])
    documents = batch([text, answer, secret])
    whole = decontaminate.build({"a": EvaluationSet(name)}, Settings())
    assert [hit.document for hit in decontaminate.search(documents, whole)] == [0, 1, 2]
    named = decontaminate.build({"a": EvaluationSet(name, ("question", "choices"))}, Settings())
    assert [hit.document for hit in decontaminate.search(documents, named)] == [0, 1]
    assert named.names == (("a", "1"),)


def test_tables_and_plain_lines_and_files_of_one_set(tmp_path: Path) -> None:
    lines = [filler(i) for i in range(4)]
    (tmp_path / "a.tsv").write_text(f"idx\tsentence\n7\t{lines[0]}\n8\t{lines[1]}\n")
    with gzip.open(tmp_path / "b.txt.gz", "wt") as out:
        out.write(f"{lines[2]}\n\n{lines[3]}\n")
    index = decontaminate.build({"s": EvaluationSet(str(tmp_path / "*"))}, Settings())
    hits = decontaminate.search(batch(lines), index)
    assert [hit.items[0][1] for hit in hits] == ["a.tsv#1", "a.tsv#2", "b.txt.gz#1", "b.txt.gz#2"]
    named = decontaminate.build({"s": EvaluationSet(str(tmp_path / "a.tsv"), ("sentence",), "idx")}, Settings())
    assert [item for _, item in named.names] == ["7", "8"]


def test_an_index_read_back_finds_the_same(tmp_path: Path) -> None:
    index = index_of(tmp_path, [ITEM, SHORT, filler(8)])
    back = decontaminate.read_index(decontaminate.write_index(tmp_path / "index", index))
    texts = batch([ITEM + SHORT, filler(8), filler(9)])
    assert decontaminate.search(texts, back) == decontaminate.search(texts, index) != []
    assert back.sets == index.sets


def test_no_run_is_missed_by_the_bits(tmp_path: Path) -> None:
    keys = np.unique(np.random.default_rng(0).integers(0, 2**64, 5000, np.uint64))
    bits = decontaminate._bits(keys)
    assert decontaminate._maybe(keys, bits).tolist() == list(range(len(keys)))
    others = np.random.default_rng(1).integers(0, 2**64, 100_000, np.uint64)
    assert len(decontaminate._maybe(others, bits)) < 0.08 * len(others)  # one bit in 16 to 32 is set


def vouched(folder: Path, setting: Settings | None = None) -> Path:
    setting = setting or Settings()
    sets = {
        "quiz": EvaluationSet(write(folder / "quiz.jsonl", [{"text": ITEM}, {"text": SHORT}])),
        "other": EvaluationSet(write(folder / "other.jsonl", [{"text": filler(5)}])),
    }
    index = decontaminate.build(sets, setting)
    some = batch([ITEM, f"{ITEM} {filler(1)} {ITEM}", filler(2)])
    rows = [hit.row(some.documents[hit.document], setting) for hit in decontaminate.search(some, index)]
    files.write_json(folder / "decontamination.json", decontaminate.manifest(index, setting, rows, len(some)))
    return folder / "decontamination.json"


def test_the_manifest_counts_and_vouches(tmp_path: Path) -> None:
    path = vouched(tmp_path)
    told = files.read_json(path, "manifest")
    assert (told["documents"], told["documents_with_leaks"], told["spans"]) == (3, 2, 3)
    assert told["settings"]["ngram"] == 13
    assert {name: (s["items"], s["looked_for"], s["found"]) for name, s in told["sets"].items()} == {"quiz": (2, 2, 1), "other": (1, 1, 0)}
    assert told["sets"]["quiz"]["files"] == [{"file": "quiz.jsonl", "sha256": files.sha256_file(tmp_path / "quiz.jsonl")}]
    decontaminated.require(path, ["quiz", "other"])
    decontaminated.require(path, {"quiz": str(tmp_path / "quiz.jsonl"), "other": EvaluationSet(str(tmp_path / "oth*.jsonl"))})


def test_training_without_the_manifest_it_requires_is_refused(tmp_path: Path) -> None:
    path = vouched(tmp_path)
    (tmp_path / "changed.jsonl").write_text((tmp_path / "quiz.jsonl").read_text() + "\n")
    reported = tmp_path / "reported"
    reported.mkdir()
    broken = tmp_path / "broken.json"
    broken.write_text("[]")
    cases: list[tuple[Callable[[], None], list[str]]] = [
        (lambda: decontaminated.require(tmp_path / "gone.json", ["quiz"]), ["manifest not found", "gone.json"]),
        (lambda: decontaminated.require(path, ["quizz"]), ["not searched for 'quizz'", "did you mean 'quiz'"]),
        (lambda: decontaminated.require(path, {"quiz": str(tmp_path / "changed.jsonl")}), ["other files", "changed.jsonl", "quiz.jsonl"]),
        (lambda: decontaminated.require(path, {"quiz": str(tmp_path / "gone*")}), ["decontamination set quiz", "without a match"]),
        (lambda: decontaminated.require(vouched(reported, Settings(action="report")), ["quiz"]), ["left in", "drop or cut"]),
        (lambda: decontaminated.require(broken, ["quiz"]), ["not of format 1"]),
    ]
    for act, words in cases:
        with pytest.raises(InputError) as caught:
            act()
        assert not [word for word in words if word not in str(caught.value)], str(caught.value)


def test_errors_of_settings_and_sets(tmp_path: Path) -> None:
    short = write(tmp_path / "short.jsonl", [{"text": "Too short."}])
    bad = tmp_path / "bad.jsonl"
    bad.write_text('{"text": "x"}\n{"text": \n')
    cases: list[tuple[Callable[[], Any], list[str]]] = [
        (lambda: Settings(action="remove"), ["decontaminate.action = 'remove'", "drop"]),
        (lambda: Settings(ngram=5), ["min_words = 8 and ngram = 5"]),
        (lambda: decontaminate.build({}, Settings()), ["decontaminate.sets is empty"]),
        (lambda: decontaminate.build({"a": EvaluationSet("nowhere/*")}, Settings()), ["decontaminate.sets.a", "without a match"]),
        (lambda: decontaminate.build({"a": EvaluationSet(short)}, Settings()), ["sets.a", "none of 1 items", "8 words"]),
        (lambda: decontaminate.build({"a": EvaluationSet(short, ("txt",))}, Settings()), ["record 1", "did you mean 'text'"]),
        (lambda: decontaminate.build({"a": EvaluationSet(short, id_key="txt")}, Settings()), ["record 1", "no field 'txt'"]),
        (lambda: decontaminate.build({"a": EvaluationSet(str(bad))}, Settings()), ["bad.jsonl, record 2", "not valid JSON"]),
    ]
    for act, words in cases:
        with pytest.raises(InputError) as caught:
            act()
        assert not [word for word in words if word not in str(caught.value)], str(caught.value)


def test_real_evaluation_sets_in_real_chapters() -> None:
    """Questions planted in novels are found, and the novels themselves share no 13 words with them."""
    data = Path(__file__).parents[1].parent / "shared" / "data"
    if not data.exists():
        pytest.skip(f"real text is not here: {data}")
    with gzip.open(data / "pretrain/standardebooks.jsonl.gz", "rt", encoding="utf-8") as stream:
        chapters = [json.loads(line)["text"] for line in stream][:100]
    sets = {"arc": EvaluationSet(str(data / "tasks/arc_easy.validation.jsonl.gz"))}
    index = decontaminate.build(sets, Settings())
    with gzip.open(data / "tasks/arc_easy.validation.jsonl.gz", "rt", encoding="utf-8") as stream:
        questions = [json.loads(line)["question"] for line in stream]
    long = [question for question in questions if len(question.split()) >= 16][:50]
    planted = [text[:1000] + "\n" + question + "\n" + text[1000:] for text, question in zip(chapters, long, strict=False)]
    assert {hit.document for hit in decontaminate.search(batch(planted), index)} == set(range(50))
    assert decontaminate.search(batch(chapters), index) == []


def test_training_refuses_a_corpus_that_was_not_searched(tmp_path: Path) -> None:
    """The manifest lies beside the folder of curated files, or where the corpus says; sets are compared by their files."""
    write(tmp_path / "eval.jsonl", [{"id": "q1", "text": ITEM}])
    index = decontaminate.build({"quiz": EvaluationSet(str(tmp_path / "eval.jsonl"))}, Settings())
    told = decontaminate.manifest(index, Settings(), [], 10)
    clean = tmp_path / "clean"
    (clean / "documents").mkdir(parents=True)
    corpus = Corpus(files=str(clean / "documents" / "*.jsonl.gz"))

    def require(sets: dict[str, str], corpus: Corpus = corpus) -> None:
        corpora.require_decontaminated(Data(corpora={"web": corpus}, decontaminated=sets), ["web"])

    require({})
    with pytest.raises(InputError, match="asks for quiz, and corpus 'web' has no decontamination manifest at .*tools/curate.py"):
        require({"quiz": ""})
    files.write_json(clean / "decontamination.json", told)
    require({"quiz": str(tmp_path / "eval.jsonl")})
    with pytest.raises(InputError, match="not searched for 'arc'"):
        require({"quiz": "", "arc": ""})
    files.write_json(tmp_path / "elsewhere.json", told)
    (clean / "decontamination.json").unlink()
    require({"quiz": ""}, dataclasses.replace(corpus, decontamination=str(tmp_path / "elsewhere.json")))
    with pytest.raises(InputError, match="corpus 'stdlib_code' has no decontamination manifest"):
        corpora.require_decontaminated(Data(decontaminated={"quiz": ""}), ["stdlib_code"])
