"""Documents out of files: what is read, in which order, and what is said about bad input."""

import gzip
import json
import tracemalloc
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from pretrainx.core.errors import InputError
from pretrainx.curate import readers
from pretrainx.curate.holdout import held_out
from pretrainx.curate.readers import Counts, Format

ANY_TEXT = st.text(st.characters(exclude_categories=()), min_size=1)  # lone surrogates and NUL included


def jsonl(path: Path, records: Sequence[object]) -> Path:
    data = "".join(json.dumps(r) + "\n" for r in records).encode()
    path.write_bytes(gzip.compress(data) if path.suffix == ".gz" else data)
    return path


def parquet(path: Path, columns: Mapping[str, Any]) -> Path:
    pa = pytest.importorskip("pyarrow")
    import pyarrow.parquet as pq

    pq.write_table(pa.table(columns), path)
    return path


@pytest.mark.parametrize("name", ["a.jsonl", "a.jsonl.gz", "a.parquet"])
def test_records_with_ids_keep_their_order_and_origin(tmp_path: Path, name: str) -> None:
    texts, path = ["one\n two", "\x00zwei\U0001f600", "trois"], tmp_path / name
    if path.suffix == ".parquet":
        parquet(path, {"id": [7, 8, 9], "text": texts})
    else:
        jsonl(path, [{"id": i, "text": t} for i, t in zip((7, 8, 9), texts, strict=True)])
    found = list(readers.read(path, Format("parquet" if path.suffix == ".parquet" else "jsonl")))
    assert [(d.id, d.text, d.origin) for d in found] == [(str(7 + i), t, f"{path}#{i + 1}") for i, t in enumerate(texts)]


def test_a_record_without_id_has_its_origin_as_id(tmp_path: Path) -> None:
    path = jsonl(tmp_path / "a.jsonl", [{"text": "x"}, {"id": None, "text": "y"}, {"id": "", "text": "z"}])
    assert [d.id for d in readers.read(path, Format())] == [f"{path}#{n}" for n in (1, 2, 3)]


def test_a_text_file_is_one_document_or_one_a_line(tmp_path: Path) -> None:
    path = tmp_path / "a.txt"
    path.write_bytes(b"\xef\xbb\xbfone\r\n\n  two\nlast")  # a byte order mark is no text
    (whole,) = readers.read(path, Format("text"))
    assert (whole.id, whole.text, whole.origin) == (str(path), "one\r\n\n  two\nlast", f"{path}#1")
    counts = Counts()
    lines = list(readers.read(path, Format("text", document="line"), counts))
    assert [(d.text, d.origin) for d in lines] == [("one", f"{path}#1"), ("  two", f"{path}#3"), ("last", f"{path}#4")]
    assert (counts.documents, counts.blank) == (3, 1)


def test_zstandard_where_its_package_is_there(tmp_path: Path) -> None:
    zstandard = pytest.importorskip("zstandard", reason="the zstandard package is optional")
    path = tmp_path / "a.jsonl.zst"
    texts = [f"{i * 7919:x}" * 50 for i in range(1000)]
    lines = [json.dumps({"text": t}).encode() + b"\n" for t in texts]
    whole = zstandard.compress(b"".join(lines[:500])) + zstandard.compress(b"".join(lines[500:]))  # two frames
    path.write_bytes(whole)
    assert [d.text for d in readers.read(path, Format())] == texts
    for damaged in (whole[:-100], whole[: len(whole) // 2] + b"junk" + whole[len(whole) // 2 :], b'{"text": "x"}\n'):
        path.write_bytes(damaged)
        with pytest.raises(InputError, match="damaged or cut off after record"):
            list(readers.read(path, Format()))


def test_files_come_sorted_and_split_by_name(tmp_path: Path) -> None:
    for name in ("train-2.txt", "train-10.txt", "validation-0.txt"):
        (tmp_path / name).write_text("x")
    assert [p.name for p in readers.list_files(f"{tmp_path}/{{split}}-*.txt", "train")] == ["train-10.txt", "train-2.txt"]


def make_truncated_gzip(path: Path) -> Path:
    lines = b"".join(json.dumps({"text": f"{i * 7919:x}" * 50}).encode() + b"\n" for i in range(2000))
    path.write_bytes(gzip.compress(lines)[:-3000])
    return path


def make_flipped_gzip(path: Path) -> Path:
    data = bytearray(gzip.compress(b"".join(json.dumps({"text": f"{i * 7919:x}" * 50}).encode() + b"\n" for i in range(2000))))
    data[len(data) // 2] ^= 0xFF
    path.write_bytes(bytes(data))
    return path


def make_truncated_parquet(path: Path) -> Path:
    parquet(path, {"text": ["x" * 100] * 100})
    path.write_bytes(path.read_bytes()[:-20])
    return path


def make_damaged_parquet(path: Path) -> Path:
    parquet(path, {"text": [f"{i * 7919:x}" * 9 for i in range(5000)]})
    data = bytearray(path.read_bytes())
    data[100:3000] = b"\xff" * 2900
    path.write_bytes(bytes(data))
    return path


def make(data: bytes) -> Callable[[Path], Path]:
    def write(path: Path) -> Path:
        path.write_bytes(data)
        return path

    return write


REFUSE = Format(encoding_errors="refuse")
BAD: dict[str, tuple[str, Callable[[Path], Path], Format, list[str]]] = {
    "not json": ("a.jsonl", make(b'{"text": "x"}\n{"text": \n'), Format(), ["record 2", "not valid JSON"]),
    "deep json": ("a.jsonl", make(b"[" * 100_000), Format(), ["record 1", "not valid JSON"]),
    "no object": ("a.jsonl", make(b'["text"]\n'), Format(), ["record 1", "list", "JSON object"]),
    "no key": ("a.jsonl", make(b'{"txt": "x"}\n'), Format(), ["record 1", "no key 'text'", "did you mean 'txt'"]),
    "null": ("a.jsonl", make(b'{"text": null}\n'), Format(), ["record 1", "null", "string"]),
    "number": ("a.jsonl", make(b'{"text": 3}\n'), Format(), ["record 1", "int", "string"]),
    "only blanks": ("a.jsonl", make(b'\n\n{"text": ""}\n'), Format(), ["no document"]),
    "bytes refused": ("a.jsonl", make(b'{"text": "x"}\n{"text": "a\xffb"}\n'), REFUSE, ["record 2", "0xff", "not UTF-8", "replace"]),
    "surrogate refused": ("a.jsonl", make(b'{"text": "\\ud800"}\n'), REFUSE, ["record 1", "surrogate"]),
    "cut gzip": ("a.jsonl.gz", make_truncated_gzip, Format(), ["damaged or cut off after record"]),
    "flipped gzip": ("a.jsonl.gz", make_flipped_gzip, Format(encoding_errors="refuse"), ["record"]),
    "no gzip": ("a.jsonl.gz", make(b'{"text": "x"}\n'), Format(), ["damaged or cut off after record 0"]),
    "cut parquet": ("a.parquet", make_truncated_parquet, Format("parquet"), ["after record 0", "Parquet"]),
    "damaged parquet": ("a.parquet", make_damaged_parquet, Format("parquet"), ["after record", "Parquet"]),
    "no parquet": ("a.parquet", make(b"PAR1"), Format("parquet"), ["after record 0", "Parquet"]),
    "long text": ("a.txt", make(b"x" * 101), Format("text", max_document_bytes=100), ["record 1", "max_document_bytes = 100"]),
    "long line": ("a.txt", make(b"x\n" + b"y" * 101), Format("text", document="line", max_document_bytes=100), ["record 2", "100"]),
    "long record": ("a.jsonl", make(b'{"text": "' + b"x" * 100 + b'"}'), Format(max_document_bytes=100), ["record 1", "100"]),
}


@pytest.mark.parametrize("case", BAD)
def test_bad_input_is_one_sentence_with_file_and_record(tmp_path: Path, case: str) -> None:
    name, write, form, words = BAD[case]
    path = write(tmp_path / name)
    with pytest.raises(InputError) as caught:
        list(readers.read(path, form))
    message = str(caught.value)
    assert "\n" not in message and str(path) in message
    assert not [word for word in words if word not in message], message


def test_parquet_without_the_column_names_the_nearest(tmp_path: Path) -> None:
    path = parquet(tmp_path / "a.parquet", {"texts": ["x"], "n": [1]})
    with pytest.raises(InputError, match=r"no column 'text'; did you mean 'texts'"):
        list(readers.read(path, Format("parquet")))
    with pytest.raises(InputError, match="column 'n' is int64"):
        list(readers.read(path, Format("parquet", text_key="n")))


def test_files_that_are_not_there_or_empty(tmp_path: Path) -> None:
    (tmp_path / "empty.txt").touch()
    for name, words in (("*.jsonl", "glob without a match"), ("a.txt", "file not found"), ("*.txt", "is empty")):
        with pytest.raises(InputError, match=words):
            readers.list_files(f"{tmp_path}/{name}")
    with pytest.raises(InputError, match="not found"):
        list(readers.read(tmp_path / "gone.txt", Format("text")))


@pytest.mark.parametrize("kind", ["jsonl", "parquet"])
def test_what_is_not_utf8_is_replaced_and_counted(tmp_path: Path, kind: str) -> None:
    bad = b"a\xff\xfeb \xef\xbf\xbd"  # two bad bytes, and a U+FFFD that was there before
    if kind == "parquet":
        pa = pytest.importorskip("pyarrow")
        path = parquet(tmp_path / "a.parquet", {"text": pa.array([b"good", bad], pa.binary())})
    else:
        path = make(b'{"text": "good"}\n{"text": "' + bad + b'"}\n')(tmp_path / "a.jsonl")
    counts = Counts()
    found = [d.text for d in readers.read(path, Format("parquet" if kind == "parquet" else "jsonl"), counts)]
    assert found == ["good", "a\ufffd\ufffdb \ufffd"]
    assert (counts.documents, counts.documents_replaced, counts.characters_replaced) == (2, 1, 2)


def test_a_long_line_never_lies_in_memory_whole(tmp_path: Path) -> None:
    path = tmp_path / "a.jsonl.gz"
    path.write_bytes(gzip.compress(b'{"text": "' + b"x" * 50_000_000 + b'"}\n', 1))
    tracemalloc.start()
    try:
        with pytest.raises(InputError, match="record 1: longer than"):
            list(readers.read(path, Format(max_document_bytes=1_000_000)))
        assert tracemalloc.get_traced_memory()[1] < 8_000_000
    finally:
        tracemalloc.stop()


@settings(max_examples=50)
@given(texts=st.lists(ANY_TEXT, min_size=1, max_size=12), n=st.integers(1, 5))
def test_any_text_survives_and_parts_make_the_whole(tmp_path_factory: pytest.TempPathFactory, texts: list[str], n: int) -> None:
    path = jsonl(tmp_path_factory.mktemp("part") / "a.jsonl", [{"id": str(i), "text": t} for i, t in enumerate(texts)])
    whole = list(readers.read(path, Format()))
    for document, text in zip(whole, texts, strict=True):
        document.text.encode("utf-8")  # no lone surrogate is left
        assert len(document.text) == len(text.encode("utf-16", "surrogatepass").decode("utf-16", "replace")) or "\ufffd" in document.text
        assert document.text == text or any(0xD800 <= ord(c) < 0xE000 for c in text)
    parts = [list(readers.read(path, Format(part=(i, n)))) for i in range(n)]
    assert sorted((d for part in parts for d in part), key=lambda d: int(d.id)) == whole


@given(st.text(), st.floats(0, 1), st.floats(0, 1))
def test_a_larger_share_holds_out_more_and_never_less(name: str, one: float, other: float) -> None:
    low, high = sorted((one, other))
    assert held_out(name, high) or not held_out(name, low)
    assert not held_out(name, 0.0) and held_out(name, 1.0)


def test_the_share_is_met() -> None:
    found = sum(held_out(f"document {i}", 0.1) for i in range(10_000))
    assert 880 < found < 1120  # four standard deviations of a binomial with p = 0.1
