"""Web archives: WARC (pages as they were fetched) and WET (their text), one document a record (ISO 28500:2017).

Of responses, HTML and plain text with status 200 become documents; what else an archive holds is passed over, and counted where it is
a response. A record's id is its own, `url` and `date` go to the metadata.
"""

import gzip
import re
import zlib
from collections.abc import Iterator
from functools import partial
from pathlib import Path
from typing import IO

from pretrainx.curate import readers, streams
from pretrainx.curate.documents import Document
from pretrainx.curate.formats import html
from pretrainx.curate.readers import Counts, Format
from pretrainx.curate.streams import BadRecord, OnBad

_MOST_HEADERS = 65_536  # bytes of one record's header lines
_KINDS = ("response", "resource", "conversion")
_CHARSET = re.compile(r"charset=[\"']?([\w.:-]{1,40})", re.IGNORECASE)
_BLOCK = 1 << 20


def read(path: Path, name: str, form: Format, extractor: str, counts: Counts, on_bad: OnBad) -> Iterator[Document]:
    """The documents of an archive, in its order; damage ends the reading of the file."""
    number = 0
    try:
        with streams.open_bytes(path) as stream:
            while headers := _headers(stream, path, number):
                number += 1
                body = _body(stream, headers, path, number, form, on_bad)
                if body is None or headers.get("warc-type", "") not in _KINDS:
                    continue
                try:
                    text, title = _text(headers, body, path, number, extractor)
                except BadRecord as error:
                    on_bad(error)
                    continue
                known = (("url", headers.get("warc-target-uri", "")), ("date", headers.get("warc-date", "")), ("title", title))
                own = headers.get("warc-record-id", "").removeprefix("<urn:uuid:").rstrip(">")
                rest = {key: value for key, value in known if value}
                yield from readers.document(own or None, text, path, number, form, counts, on_bad, rest=rest)
    except BadRecord as error:
        on_bad(error)


def _headers(stream: IO[bytes], path: Path, done: int) -> dict[str, str]:
    """The header lines of the next record, names in small letters; {} at the end of the file."""
    line = b"\r\n"
    while line in (b"\r\n", b"\n"):  # what stands between records
        line = streams.guarded(lambda: stream.readline(_MOST_HEADERS), path, done)
    if not line:
        return {}
    if not line.startswith(b"WARC/"):
        raise BadRecord(f"{path}, after record {done}: no WARC record begins here, but {line[:40]!r}", streams.DAMAGED, done)
    found = {"": ""}
    size = 0
    while True:
        line = streams.guarded(lambda: stream.readline(_MOST_HEADERS), path, done)
        size += len(line)
        if not line or size > _MOST_HEADERS:
            raise BadRecord(f"{path}, after record {done}: a record's header lines do not end", streams.DAMAGED, done)
        if not line.strip():
            return found
        key, _, value = line.decode("utf-8", "replace").partition(":")
        found[key.strip().lower()] = value.strip()


def _body(stream: IO[bytes], headers: dict[str, str], path: Path, number: int, form: Format, on_bad: OnBad) -> bytes | None:
    """The record's content; None where it is too long or not asked for, after which the stream stands behind it all the same."""
    said = headers.get("content-length", "")
    if not said.isascii() or not said.isdigit() or len(said) > 15:
        raise BadRecord(f"{path}, record {number}: its Content-Length is {said[:40]!r}, no number", streams.DAMAGED, number - 1)
    size = int(said)
    wanted = headers.get("warc-type", "") in _KINDS
    if wanted and size > form.max_document_bytes:
        on_bad(streams.too_long(path, number, form.max_document_bytes, readers.limit(form)))
        wanted = False
    parts = []
    while size:
        block = streams.guarded(partial(stream.read, min(size, _BLOCK)), path, number - 1)
        if not block:
            raise BadRecord(f"{path}: cut off within record {number}", streams.DAMAGED, number - 1)
        size -= len(block)
        if wanted:
            parts.append(block)
    return b"".join(parts) if wanted else None


def _text(headers: dict[str, str], body: bytes, path: Path, number: int, extractor: str) -> tuple[str, str]:
    """(text, title) of a record."""
    kind = headers.get("content-type", "")
    if headers["warc-type"] == "response":
        if not kind.lower().startswith("application/http"):
            raise _passed(path, number, f"a response of type {kind[:60]!r}", "not_a_page")
        fields, body = _http(body, path, number)
        kind = fields.get("content-type", "")
        if fields[""] != "200":
            raise _passed(path, number, f"its HTTP status is {fields[''][:20]!r}", "http_status")
        body = _decoded(body, fields, path, number)
    charset = _CHARSET.search(kind)
    page = html.decode(body, charset[1] if charset else "")
    if kind.lower().startswith(("text/html", "application/xhtml")):
        text, title = html.extract(page, extractor)
    elif kind.lower().startswith("text/plain"):
        text, title = page, ""
    else:
        raise _passed(path, number, f"its type is {kind[:60]!r}", "not_a_page")
    if not text.strip():
        raise _passed(path, number, "no text is left of this page", "no_text_in_page")
    return text, title


def _passed(path: Path, number: int, why: str, reason: str) -> BadRecord:
    return BadRecord(f"{path}, record {number}: {why}", reason, number, fault=False)


def _http(data: bytes, path: Path, number: int) -> tuple[dict[str, str], bytes]:
    """(fields with the status under "", content) of an HTTP response."""
    head, _, body = data.partition(b"\r\n\r\n")
    first, *lines = head[:_MOST_HEADERS].decode("latin-1").split("\r\n")
    words = first.split(None, 2)
    if len(words) < 2 or not words[0].startswith("HTTP/"):
        raise BadRecord(f"{path}, record {number}: its HTTP response begins with {first[:40]!r}", "bad_http", number)
    fields = {"": words[1]}
    for line in lines:
        key, _, value = line.partition(":")
        fields[key.strip().lower()] = value.strip()
    return fields, body


def _decoded(body: bytes, fields: dict[str, str], path: Path, number: int) -> bytes:
    """The content without the forms it was sent in; as it is where an archive has undone them and kept the fields."""
    if fields.get("transfer-encoding", "").lower() == "chunked":
        body = _unchunked(body)
    encoding = fields.get("content-encoding", "").lower()
    if encoding in ("gzip", "x-gzip") and body.startswith(b"\x1f\x8b"):
        wbits = 31
    elif encoding == "deflate" and body[:1] == b"\x78":
        wbits = 15
    else:
        return body
    inflate = zlib.decompressobj(wbits)
    try:
        text = inflate.decompress(body, 50 * len(body) + _BLOCK)  # a page that grows more than fiftyfold is none
    except (zlib.error, gzip.BadGzipFile) as error:
        raise BadRecord(f"{path}, record {number}: its content is damaged: {error}", "bad_http", number) from None
    if inflate.unconsumed_tail:
        raise BadRecord(f"{path}, record {number}: its content grows more than fiftyfold when unpacked", "bad_http", number)
    return text


def _unchunked(body: bytes) -> bytes:
    parts: list[bytes] = []
    at = 0
    while (end := body.find(b"\r\n", at, at + 20)) > 0:
        size = body[at:end].split(b";")[0].strip()
        if not re.fullmatch(rb"[0-9a-fA-F]{1,8}", size):
            return body if not parts else b"".join(parts)
        length = int(size, 16)
        if not length:
            break
        parts.append(body[end + 2 : end + 2 + length])
        at = end + 2 + length + 2
    return b"".join(parts) if parts else body
