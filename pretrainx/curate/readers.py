"""Documents out of files: text, JSON lines (plain, .gz, .zst) and Parquet, read in a fixed order and bounded memory.

Every reader is a generator of `Document`. What is wrong with the input ends it with one sentence that names the
file and the record, counted from 1, unless the caller has another policy (`on_bad`, see streams.py). Strings that
come out are valid Unicode: bytes that are not UTF-8 and lone surrogates are replaced by U+FFFD and counted, or
refused, as the policy says. NUL characters pass unchanged.
"""

import glob
import json
import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

from pretrainx.core.errors import InputError, nearest
from pretrainx.curate import streams
from pretrainx.curate.documents import Document
from pretrainx.curate.streams import BadRecord, OnBad, refuse

SPLIT_MARK = "{split}"  # stands for train or validation in a glob
PARQUET_ROWS = 64  # rows decoded at once: bounds memory at this many of the longest documents
_SURROGATES = re.compile("[\ud800-\udfff]")


@dataclass
class Counts:
    """What the reader met, added up while it reads."""

    documents: int = 0
    documents_replaced: int = 0  # documents in which something had to be replaced
    characters_replaced: int = 0
    blank: int = 0  # empty lines and empty texts, which are no documents


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
    piece: tuple[int, int, int] = field(default=(0, 0, 1))  # of plain files of lines: (first byte, end or 0, number of its first line)
    metadata: bool = False  # whether a document keeps what else its record says
    source_key: str = ""  # the key of the record's own source
    keep_empty: bool = False  # whether an empty text is a document too
    section: str = "data"  # of the config that these values are from, for errors


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


def read(path: Path, form: Format, counts: Counts | None = None, on_bad: OnBad = refuse) -> Iterator[Document]:
    """The documents of one file, in the file's order; `on_bad` is told of each record that is none.

    Raises:
      InputError: the file or a record is bad; the sentence names both.
    """
    counts = Counts() if counts is None else counts
    yield from stream(path, form, counts, on_bad)
    if form.part == (0, 1) and not counts.documents:
        raise InputError(f"corpus file {path} holds no document (only empty lines or empty texts)")


def stream(path: Path, form: Format, counts: Counts, on_bad: OnBad) -> Iterator[Document]:
    """As `read`, for a caller to whom a file without a document is no error."""
    reader = {"text": _read_text, "jsonl": _read_jsonl, "parquet": _read_parquet}[form.kind]
    try:
        yield from reader(Path(path), form, counts, on_bad)
    except FileNotFoundError:
        raise InputError(f"corpus file not found: {path}") from None
    except OSError as error:
        raise InputError(f"corpus file {path} cannot be read: {error}") from None


def _mine(form: Format, number: int) -> bool:
    return (number - 1) % form.part[1] == form.part[0]


def _read_text(path: Path, form: Format, counts: Counts, on_bad: OnBad) -> Iterator[Document]:
    if form.document == "line":
        for number, line in _lines(path, form, on_bad):
            if _mine(form, number):
                text = line.rstrip(b"\r\n")
                yield from document(f"{path}#{number}", text, path, number, form, counts, on_bad)
    elif _mine(form, 1):
        try:
            data = streams.whole(path, form.max_document_bytes, limit(form))
        except BadRecord as error:
            on_bad(error)
            return
        yield from document(str(path), data, path, 1, form, counts, on_bad)


def _read_jsonl(path: Path, form: Format, counts: Counts, on_bad: OnBad) -> Iterator[Document]:
    for number, line in _lines(path, form, on_bad):
        if not _mine(form, number):
            continue
        if not line.strip():
            counts.blank += 1
            continue
        try:
            text_line, replaced = decode(line, path, number, form)
            record = _parse(text_line, path, number, form)
        except BadRecord as error:
            on_bad(error)
            continue
        name, source = record.get(form.id_key), record.get(form.source_key)
        rest = {k: v for k, v in record.items() if k not in (form.text_key, form.id_key, form.source_key)} if form.metadata else {}
        yield from document(name, record[form.text_key], path, number, form, counts, on_bad, replaced, source, rest)


def _parse(line: str, path: Path, number: int, form: Format) -> Mapping[str, Any]:
    try:
        record = json.loads(line)
    except (ValueError, RecursionError) as error:
        raise BadRecord(f"{path}, record {number}: not valid JSON: {error}", "not_json", number) from None
    if not isinstance(record, dict):
        said = f"a {type(record).__name__} where a JSON object with {form.text_key!r} is wanted"
        raise BadRecord(f"{path}, record {number}: {said}", "no_object", number)
    if form.text_key not in record:
        said = f"no key {form.text_key!r}; {nearest(form.text_key, map(str, record))}"
        raise BadRecord(f"{path}, record {number}: {said}", "no_text", number)
    return record


def _read_parquet(path: Path, form: Format, counts: Counts, on_bad: OnBad) -> Iterator[Document]:
    try:
        import pyarrow as pa
        import pyarrow.parquet as pq
    except ImportError:
        raise InputError(f"{path}: Parquet files need pyarrow: pip install 'pretrainx[tasks]'") from None
    number = 0
    try:
        with pq.ParquetFile(path) as table:
            known = table.schema_arrow.names
            kind = _text_column(path, form, table.schema_arrow, pa)
            one_each = [form.text_key, *(key for key in (form.id_key, form.source_key) if key in known and key != form.text_key)]
            columns = [*dict.fromkeys(one_each), *(key for key in known if form.metadata and key not in one_each)]
            for batch in table.iter_batches(batch_size=PARQUET_ROWS, columns=columns):
                # as bytes, so that our own policy meets what is not UTF-8
                texts = batch.column(form.text_key).cast(kind).cast(pa.large_binary())
                others = _plain_rows(batch, [key for key in columns if key != form.text_key], path, number, pa)
                for text, row in zip(texts, others, strict=True):
                    number += 1
                    if _mine(form, number):
                        name, source = row.pop(form.id_key, None), row.pop(form.source_key, None)
                        yield from document(name, text.as_py(), path, number, form, counts, on_bad, 0, source, row)
    except FileNotFoundError:
        raise
    except BadRecord as error:
        on_bad(error)
    except (pa.ArrowException, OSError) as error:  # damaged pages come as OSError
        said = str(error).splitlines()[0] if str(error) else type(error).__name__
        on_bad(BadRecord(f"{path}, after record {number}: not a whole Parquet file: {said}", streams.DAMAGED, number))


def _text_column(path: Path, form: Format, schema: Any, pa: Any) -> Any:
    """The Arrow type of the texts."""
    if form.text_key not in schema.names:
        raise BadRecord(f"{path}: no column {form.text_key!r}; {nearest(form.text_key, schema.names)}", "no_text", 0)
    kind = schema.field(form.text_key).type
    if pa.types.is_dictionary(kind):
        kind = kind.value_type
    if not (pa.types.is_string(kind) or pa.types.is_large_string(kind) or pa.types.is_binary(kind) or pa.types.is_large_binary(kind)):
        raise BadRecord(f"{path}: column {form.text_key!r} is {kind}, and text (string or binary) is wanted", "no_text", 0)
    return kind


def _plain_rows(batch: Any, columns: list[str], path: Path, number: int, pa: Any) -> list[dict[str, Any]]:
    """The other columns, row by row. What no Python value can hold (a string that is not UTF-8, a date beyond year 9999) is a fault."""
    try:
        made = {key: batch.column(key).to_pylist() for key in columns}
    except (ValueError, OverflowError) as error:
        if isinstance(error, pa.ArrowException):
            raise
        raise BadRecord(f"{path}, after record {number}: a value that cannot be read: {error}", streams.DAMAGED, number) from None
    return [{key: made[key][i] for key in columns} for i in range(batch.num_rows)]


def limit(form: Format) -> str:
    """The end of the sentence about a record that is too long."""
    return f"{form.section}.max_document_bytes = {form.max_document_bytes:,} bytes; split the document or raise the limit"


def _lines(path: Path, form: Format, on_bad: OnBad) -> Iterator[tuple[int, bytes]]:
    return streams.lines(path, form.max_document_bytes, on_bad, form.piece, limit(form))


def decode(data: bytes, path: Path, number: int, form: Format) -> tuple[str, int]:
    """The text and how many characters had to be replaced in it."""
    try:
        return data.decode("utf-8"), 0
    except UnicodeDecodeError as error:
        if form.encoding_errors == "refuse":
            raise BadRecord(
                f"{path}, record {number}: byte 0x{data[error.start]:02x} at {error.start:,} is not UTF-8; "
                f"convert the file, or set {form.section}.encoding_errors='replace'",
                "not_utf8",
                number,
            ) from None
    text = data.decode("utf-8", "replace")
    return text, text.count("\ufffd") - data.count("\ufffd".encode())


def document(
    name: Any,
    text: Any,
    path: Path,
    number: int,
    form: Format,
    counts: Counts,
    on_bad: OnBad = refuse,
    replaced: int = 0,
    source: Any = None,
    rest: Mapping[str, Any] | None = None,
) -> Iterator[Document]:
    """The document of one record (none where its text is empty), its text valid Unicode whatever came in.

    `name`, `source` and `rest` are what the record says of its id, its source and anything else.
    """
    try:
        made = _document(name, text, path, number, form, counts, replaced, source, rest or {})
    except BadRecord as error:
        on_bad(error)
        return
    if made:
        yield made


def _document(
    name: Any, text: Any, path: Path, number: int, form: Format, counts: Counts, replaced: int, source: Any, rest: Mapping[str, Any]
) -> Document | None:
    if isinstance(text, bytes):
        if len(text) > form.max_document_bytes:
            raise streams.too_long(path, number, form.max_document_bytes, limit(form))
        text, replaced = decode(text, path, number, form)
    if not isinstance(text, str):
        raise BadRecord(f"{path}, record {number}: {form.text_key!r} is {_json_type(text)}, and a string is wanted", "no_text", number)
    if surrogates := len(_SURROGATES.findall(text)):
        if form.encoding_errors == "refuse":
            raise BadRecord(
                f"{path}, record {number}: a lone surrogate (half of a character), which UTF-8 cannot hold; "
                f"convert the file, or set {form.section}.encoding_errors='replace'",
                "surrogate",
                number,
            )
        text, replaced = _SURROGATES.sub("\ufffd", text), replaced + surrogates
    if not text:
        counts.blank += 1
        if not form.keep_empty:
            return None
    counts.documents += 1
    counts.documents_replaced += replaced > 0
    counts.characters_replaced += replaced
    origin = f"{path}#{number}"
    return Document(_plain(name) or origin, text, origin, _plain(source), rest)


def _plain(value: Any) -> str:
    """An id or a source as text that UTF-8 can hold; "" for none."""
    return "" if value is None else _SURROGATES.sub("\ufffd", str(value))


def _json_type(value: Any) -> str:
    return "null" if value is None else f"of type {type(value).__name__}"
