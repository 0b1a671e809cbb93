"""Documents out of files: text, JSON lines (plain, .gz, .zst) and Parquet, read in a fixed order and bounded memory.

Every reader is a generator of `Document`. What is wrong with the input ends it with one sentence that names the
file and the record, counted from 1. Strings that come out are valid Unicode: bytes that are not UTF-8 and lone
surrogates are replaced by U+FFFD and counted, or refused, as the policy says. NUL characters pass unchanged.
"""

import glob
import gzip
import io
import json
import re
import zlib
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import IO, Any, Literal

from pretrainx.core.errors import InputError, nearest
from pretrainx.curate.documents import Document

SPLIT_MARK = "{split}"  # stands for train or validation in a glob
PARQUET_ROWS = 64  # rows decoded at once: bounds memory at this many of the longest documents
_BYTE_ORDER_MARK = b"\xef\xbb\xbf"
_SURROGATES = re.compile("[\ud800-\udfff]")


@dataclass
class Counts:
    """What the reader met, added up while it reads."""

    documents: int = 0
    documents_replaced: int = 0  # documents in which something had to be replaced
    characters_replaced: int = 0
    blank: int = 0  # empty lines and empty texts, which are no documents

    def as_dict(self) -> dict[str, int]:
        return dict(self.__dict__)


@dataclass(frozen=True)
class Format:
    """How files are to be read: the part of a corpus's description that readers need."""

    kind: Literal["text", "jsonl", "parquet"] = "jsonl"
    text_key: str = "text"
    id_key: str = "id"
    document: Literal["file", "line"] = "file"  # of kind text
    encoding_errors: Literal["replace", "refuse"] = "replace"
    max_document_bytes: int = 10_000_000  # a longer record ends the reading with its name
    part: tuple[int, int] = field(default=(0, 1))  # (i, n): only records whose number - 1 is i modulo n


def list_files(pattern: str, split: str = "", where: str = "data.corpora") -> list[Path]:
    """The files of a glob in sorted order, `{split}` filled in; never an empty list.

    Raises:
      InputError: nothing matches, or a file is empty.
    """
    filled = pattern.replace(SPLIT_MARK, split)
    found = sorted(p for p in map(Path, glob.glob(filled, recursive=True)) if p.is_file())
    if not found:
        kind = "glob without a match" if glob.has_magic(filled) else "file not found"
        raise InputError(f"{where}: {kind}: {filled!r} (looked from {Path.cwd()})")
    for path in found:
        if path.stat().st_size == 0:
            raise InputError(f"{where}: corpus file {path} is empty; remove it or leave it out of {pattern!r}")
    return found


def read(path: Path, form: Format, counts: Counts | None = None) -> Iterator[Document]:
    """The documents of one file, in the file's order.

    Raises:
      InputError: the file or a record is bad; the sentence names both.
    """
    reader = {"text": _read_text, "jsonl": _read_jsonl, "parquet": _read_parquet}[form.kind]
    counts = Counts() if counts is None else counts
    try:
        yield from reader(Path(path), form, counts)
    except FileNotFoundError:
        raise InputError(f"corpus file not found: {path}") from None
    except OSError as error:
        raise InputError(f"corpus file {path} cannot be read: {error}") from None
    if form.part == (0, 1) and not counts.documents:
        raise InputError(f"corpus file {path} holds no document (only empty lines or empty texts)")


def _mine(form: Format, number: int) -> bool:
    return (number - 1) % form.part[1] == form.part[0]


def _read_text(path: Path, form: Format, counts: Counts) -> Iterator[Document]:
    if form.document == "line":
        for number, line in _lines(path, form):
            if _mine(form, number):
                text = line.rstrip(b"\r\n")
                yield from _document(f"{path}#{number}", text, path, number, form, counts)
    elif _mine(form, 1):
        with _open(path) as stream:
            data = _guarded(lambda: stream.read(form.max_document_bytes + 1), path, 0)
        _check_size(len(data), path, 1, form)
        yield from _document(str(path), data.removeprefix(_BYTE_ORDER_MARK), path, 1, form, counts)


def _read_jsonl(path: Path, form: Format, counts: Counts) -> Iterator[Document]:
    for number, line in _lines(path, form):
        if not _mine(form, number):
            continue
        if not line.strip():
            counts.blank += 1
            continue
        text_line, replaced = _decode(line, path, number, form)
        try:
            record = json.loads(text_line)
        except (ValueError, RecursionError) as error:
            raise InputError(f"{path}, record {number}: not valid JSON: {error}") from None
        if not isinstance(record, dict):
            raise InputError(f"{path}, record {number}: a {type(record).__name__} where a JSON object with {form.text_key!r} is wanted")
        if form.text_key not in record:
            raise InputError(f"{path}, record {number}: no key {form.text_key!r}; {nearest(form.text_key, map(str, record))}")
        yield from _document(record.get(form.id_key), record[form.text_key], path, number, form, counts, replaced)


def _read_parquet(path: Path, form: Format, counts: Counts) -> Iterator[Document]:
    try:
        import pyarrow as pa
        import pyarrow.parquet as pq
    except ImportError:
        raise InputError(f"{path}: Parquet files need pyarrow: pip install 'pretrainx[tasks]'") from None
    number = 0
    try:
        with pq.ParquetFile(path) as table:
            known = table.schema_arrow.names
            if form.text_key not in known:
                raise InputError(f"{path}: no column {form.text_key!r}; {nearest(form.text_key, known)}")
            kind = table.schema_arrow.field(form.text_key).type
            if pa.types.is_dictionary(kind):
                kind = kind.value_type
            if not (
                pa.types.is_string(kind) or pa.types.is_large_string(kind) or pa.types.is_binary(kind) or pa.types.is_large_binary(kind)
            ):
                raise InputError(f"{path}: column {form.text_key!r} is {kind}, and text (string or binary) is wanted")
            columns = [form.text_key] + [form.id_key] * (form.id_key in known and form.id_key != form.text_key)
            for batch in table.iter_batches(batch_size=PARQUET_ROWS, columns=columns):
                # as bytes, so that our own policy meets what is not UTF-8
                texts = batch.column(form.text_key).cast(kind).cast(pa.large_binary())
                names = batch.column(form.id_key).to_pylist() if form.id_key in columns else [None] * len(texts)
                for name, text in zip(names, texts, strict=True):
                    number += 1
                    if _mine(form, number):
                        yield from _document(name, text.as_py(), path, number, form, counts)
    except FileNotFoundError:
        raise
    except (pa.ArrowException, OSError) as error:  # damaged pages come as OSError
        raise InputError(f"{path}, after record {number}: not a whole Parquet file: {str(error).splitlines()[0]}") from None


def _open(path: Path) -> IO[bytes]:
    if path.suffix == ".gz":
        return gzip.open(path, "rb")  # type: ignore[return-value]
    if path.suffix == ".zst":
        try:
            import zstandard
        except ImportError:
            raise InputError(f"{path}: .zst files need one more package: pip install zstandard") from None
        return io.BufferedReader(_Zstandard(open(path, "rb"), zstandard.ZstdDecompressor()))
    return open(path, "rb")


class _Zstandard(io.RawIOBase):
    """A decompressed stream whose early end is an error: the package's own reader takes it for the end of the text."""

    def __init__(self, stream: IO[bytes], decompressor: Any):
        self._stream, self._new, self._ready = stream, decompressor.decompressobj, b""
        self._frame = self._new()
        self._whole = True  # no frame is begun

    def readable(self) -> bool:
        return True

    def readinto(self, buffer: Any) -> int:
        while not self._ready:
            data = self._frame.unused_data if self._frame.eof else b""
            data = data or self._stream.read(1 << 14)
            if not data:
                if not self._whole:
                    raise EOFError("it ends inside a compressed frame")
                return 0
            if self._frame.eof:
                self._frame = self._new()
            self._ready = self._frame.decompress(data)
            self._whole = self._frame.eof
        count = min(len(buffer), len(self._ready))
        buffer[:count], self._ready = self._ready[:count], self._ready[count:]
        return count

    def close(self) -> None:
        self._stream.close()
        super().close()


def _guarded(act: Callable[[], bytes], path: Path, done: int) -> bytes:
    """Runs one read of a maybe compressed stream; damage becomes a sentence with the last good record."""
    try:
        return act()
    except (EOFError, zlib.error, gzip.BadGzipFile) as error:
        raise InputError(f"{path}: the compressed file is damaged or cut off after record {done}: {error}") from None
    except Exception as error:
        if type(error).__name__ == "ZstdError":
            raise InputError(f"{path}: the compressed file is damaged or cut off after record {done}: {error}") from None
        raise


def _lines(path: Path, form: Format) -> Iterator[tuple[int, bytes]]:
    """(number from 1, line with its end) of a file; no line longer than the limit is ever held whole."""
    number = 0
    with _open(path) as stream:
        while line := _guarded(lambda: stream.readline(form.max_document_bytes + 2), path, number):
            number += 1
            if number == 1:
                line = line.removeprefix(_BYTE_ORDER_MARK)
            _check_size(len(line.rstrip(b"\r\n")), path, number, form)
            yield number, line


def _check_size(size: int, path: Path, number: int, form: Format) -> None:
    if size > form.max_document_bytes:
        raise InputError(
            f"{path}, record {number}: longer than data.max_document_bytes = {form.max_document_bytes:,} bytes; "
            "split the document or raise the limit"
        )


def _decode(data: bytes, path: Path, number: int, form: Format) -> tuple[str, int]:
    """The text and how many characters had to be replaced in it."""
    try:
        return data.decode("utf-8"), 0
    except UnicodeDecodeError as error:
        if form.encoding_errors == "refuse":
            raise InputError(
                f"{path}, record {number}: byte 0x{data[error.start]:02x} at {error.start:,} is not UTF-8; "
                "convert the file, or set data.encoding_errors='replace'"
            ) from None
    text = data.decode("utf-8", "replace")
    return text, text.count("\ufffd") - data.count("\ufffd".encode())


def _document(name: Any, text: Any, path: Path, number: int, form: Format, counts: Counts, replaced: int = 0) -> Iterator[Document]:
    """The document of one record (none where its text is empty), its text valid Unicode whatever came in."""
    if isinstance(text, bytes):
        _check_size(len(text), path, number, form)
        text, replaced = _decode(text, path, number, form)
    if not isinstance(text, str):
        raise InputError(f"{path}, record {number}: {form.text_key!r} is {_json_type(text)}, and a string is wanted")
    if surrogates := len(_SURROGATES.findall(text)):
        if form.encoding_errors == "refuse":
            raise InputError(
                f"{path}, record {number}: a lone surrogate (half of a character), which UTF-8 cannot hold; "
                "convert the file, or set data.encoding_errors='replace'"
            )
        text, replaced = _SURROGATES.sub("\ufffd", text), replaced + surrogates
    if not text:
        counts.blank += 1
        return
    counts.documents += 1
    counts.documents_replaced += replaced > 0
    counts.characters_replaced += replaced
    origin = f"{path}#{number}"
    yield Document(origin if name is None or name == "" else _SURROGATES.sub("\ufffd", str(name)), text, origin)


def _json_type(value: Any) -> str:
    return "null" if value is None else f"of type {type(value).__name__}"
