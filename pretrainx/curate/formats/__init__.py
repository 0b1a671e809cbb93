"""Readers of raw formats. Which one reads a file is said by the config, or by the end of the file's name."""

import importlib
from collections.abc import Iterator
from pathlib import Path

from pretrainx.curate import readers, streams
from pretrainx.curate.documents import Document
from pretrainx.curate.readers import Counts, Format
from pretrainx.curate.streams import OnBad

KINDS_BY_SUFFIX = {
    ".jsonl": "jsonl", ".ndjson": "jsonl", ".json": "jsonl", ".parquet": "parquet",
    ".txt": "text", ".text": "text", ".md": "text", ".rst": "text",
    ".html": "html", ".htm": "html", ".xhtml": "html",
    ".warc": "warc", ".wet": "warc", ".xml": "wikipedia",
}  # fmt: skip
OWN_FILE = ("html", "warc", "wikipedia", "code")  # kinds whose reader is curate/formats/<kind>.py


def kind_of(path: Path, said: str = "auto") -> str:
    """The format of a file, "" where neither the config nor the name says it."""
    if said != "auto":
        return said
    if ".xml-p" in path.name:  # a part of a Wikipedia dump: "enwiki-latest-pages-articles1.xml-p1p41242.bz2"
        return "wikipedia"
    suffixes = [suffix for suffix in path.suffixes if suffix not in streams.COMPRESSED]
    return KINDS_BY_SUFFIX.get(suffixes[-1].lower(), "") if suffixes else ""


def read(path: Path, name: str, kind: str, form: Format, extractor: str, counts: Counts, on_bad: OnBad) -> Iterator[Document]:
    """The documents of one file; `name` is what it is called in its tree, `extractor` who finds the text of web pages."""
    if kind in OWN_FILE:
        module = importlib.import_module(f"pretrainx.curate.formats.{kind}")
        yield from module.read(path, name, form, extractor, counts, on_bad)
    else:
        yield from readers.stream(path, form, counts, on_bad)
