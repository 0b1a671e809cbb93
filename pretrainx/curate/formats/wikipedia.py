"""Articles of a Wikipedia dump (pages-articles.xml, .bz2 as published): title, text without markup. Redirects and talk are passed over."""

import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any
from xml.etree import ElementTree

from pretrainx.curate import readers, streams
from pretrainx.curate.documents import Document
from pretrainx.curate.formats import wikitext
from pretrainx.curate.readers import Counts, Format
from pretrainx.curate.streams import BadRecord, OnBad

_BLOCK = 1 << 18
_REDIRECT = re.compile(r"\s*#\s*\w+[\s:]*\[\[", re.UNICODE)  # "#REDIRECT [[", in any language


def read(path: Path, name: str, form: Format, extractor: str, counts: Counts, on_bad: OnBad) -> Iterator[Document]:
    """The articles, in the dump's order; a record is a page. Damage ends the reading of the file."""
    pages = _Pages(form.max_document_bytes)
    parser = ElementTree.XMLParser(target=pages)
    number = 0
    try:
        with streams.open_bytes(path) as stream:
            while True:
                block = streams.guarded(lambda: stream.read(_BLOCK), path, number)
                error = _feed(parser, block)
                for page in pages.take():
                    number += 1
                    try:
                        text, rest = _article(page, path, number, form)
                    except BadRecord as bad:
                        on_bad(bad)
                        continue
                    yield from readers.document(page["id"] or None, text, path, number, form, counts, on_bad, rest=rest)
                if error:
                    raise BadRecord(f"{path}, after record {number}: not a whole XML dump: {error}", streams.DAMAGED, number)
                if not block:
                    return
    except BadRecord as bad:
        on_bad(bad)


def _feed(parser: Any, block: bytes) -> str:
    """What is wrong with the XML, "" where nothing is."""
    try:
        if block:
            parser.feed(block)
        else:
            parser.close()
    except (ElementTree.ParseError, ValueError, LookupError) as error:  # LookupError: an encoding that nobody knows
        return str(error) or type(error).__name__
    return ""


def _article(page: dict[str, str], path: Path, number: int, form: Format) -> tuple[str, dict[str, str]]:
    if page["text"] is None:
        raise streams.too_long(path, number, form.max_document_bytes, readers.limit(form))
    if page["redirect"] or _REDIRECT.match(page["text"]):
        raise BadRecord(f"{path}, record {number}: {page['title']!r} is a redirect", "redirect", number, fault=False)
    if page["ns"] not in ("0", ""):
        raise BadRecord(f"{path}, record {number}: {page['title']!r} is of namespace {page['ns'][:20]}", "no_article", number, fault=False)
    return wikitext.plain(page["text"]), {"title": page["title"]}


class _Pages:
    """Builds pages out of XML events; keeps nothing else, and no text longer than the limit."""

    def __init__(self, limit: int):
        self._limit, self._path, self._ready = limit, [], []  # type: ignore[var-annotated]
        self._parts: list[str] = []
        self._size = 0
        self._page: dict[str, Any] = {}

    def take(self) -> list[dict[str, Any]]:
        ready, self._ready = self._ready, []
        return ready

    def start(self, tag: str, attributes: dict[str, str]) -> None:
        name = tag.rpartition("}")[2]
        self._path.append(name)
        if name == "page":
            self._page = {"title": "", "id": "", "ns": "", "text": "", "redirect": ""}
        elif name == "redirect" and self._page:
            self._page["redirect"] = "yes"
        self._parts, self._size = [], 0

    def data(self, data: str) -> None:
        if self._path and self._path[-1] in ("title", "id", "ns", "text"):
            self._size += len(data)
            if self._size <= self._limit:
                self._parts.append(data)

    def end(self, tag: str) -> None:
        name = self._path.pop()
        if name == "page" and self._page:
            self._ready.append(self._page)
            self._page = {}
        elif self._page and name in ("title", "id", "ns", "text") and not (name == "id" and self._path[-1:] != ["page"]):
            self._page[name] = None if self._size > self._limit and name == "text" else "".join(self._parts)
        self._parts, self._size = [], 0

    def close(self) -> None: ...
