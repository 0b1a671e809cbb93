"""The text of web pages: an own extractor in linear time, or a well-kept library by choice.

`builtin` keeps blocks of running text: it leaves out scripts, forms, navigation, page headers and footers by their tags, and blocks
that are mostly links (Kohlschütter et al. 2010, "Boilerplate detection using shallow text features", section 3.2: link density).
`resiliparse` and `trafilatura` find the main content by rules made from many sites: `pip install resiliparse` or `trafilatura`.
"""

import html
import re
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path

from pretrainx.core.errors import InputError
from pretrainx.curate import readers, streams
from pretrainx.curate.documents import Document
from pretrainx.curate.formats._words import words
from pretrainx.curate.readers import Counts, Format
from pretrainx.curate.streams import BadRecord, OnBad

MOST_LINKS = 0.5  # share of a block's characters that are links' texts, from which on it is navigation
_LEFT_OUT = words(
    """
    script style noscript template svg math head nav footer aside button select textarea iframe object canvas audio
    video menu dialog figure
    """
)
_RAW = words(
    """
    script style textarea title xmp iframe noembed noframes
    """
)  # their content is no markup
_BLOCKS = words(
    """
    address article blockquote body center dd details div dl dt fieldset figcaption h1 h2 h3 h4 h5 h6 hr html li main ol p pre
    section summary table tbody td tfoot th thead tr ul
    """
)
_TAG = re.compile(r"</?([a-zA-Z][^\s/>]{0,40})")
_CHARSET = re.compile(rb"""<meta[^>]{0,200}?charset\s*=\s*["']?\s*([a-zA-Z0-9_:.-]{1,40})""", re.IGNORECASE)
_SPACE = re.compile(r"[ \t\r\f\v\n\u00a0]+")
_DEEPEST = 5000  # nested elements that are left out


def read(path: Path, name: str, form: Format, extractor: str, counts: Counts, on_bad: OnBad) -> Iterator[Document]:
    """One document: the page's text, with its title in the metadata."""
    try:
        data = streams.whole(path, form.max_document_bytes, readers.limit(form))
        text, title = extract(decode(data), extractor)
        if not text:
            raise BadRecord(f"{path}, record 1: no text is left of this page", "no_text_in_page", 1, fault=False)
    except BadRecord as error:
        on_bad(error)
        return
    yield from readers.document(None, text, path, 1, form, counts, on_bad, rest={"title": title} if title else {})


def decode(data: bytes, said: str = "") -> str:
    """The page as text: by its byte order mark, by what the server said, by what the page says of itself, as UTF-8, as Windows-1252."""
    for mark, encoding in ((b"\xef\xbb\xbf", "utf-8"), (b"\xff\xfe", "utf-16-le"), (b"\xfe\xff", "utf-16-be")):
        if data.startswith(mark):
            return data[len(mark) :].decode(encoding, "replace")
    own = _CHARSET.search(data[:4096])
    for encoding in (said, own[1].decode("ascii") if own else ""):
        # What pages call Latin-1 is Windows-1252 (WHATWG, Encoding, section 4.2).
        encoding = "cp1252" if encoding.lower() in ("iso-8859-1", "latin-1", "latin1", "ascii", "us-ascii") else encoding.lower()
        if encoding in _ENCODINGS:
            return data.decode(encoding, "replace")
    try:
        return data.decode("utf-8")
    except UnicodeDecodeError:
        return data.decode("cp1252", "replace")


# Encodings of texts only: Python's own list also has codecs that are no encodings (zlib, idna).
_ENCODINGS = words(
    """
    utf-8 utf8 cp1252 windows-1250 windows-1251 windows-1252 windows-1253 windows-1254 windows-1255 windows-1256 windows-1257
    windows-1258 iso-8859-2 iso-8859-3 iso-8859-4 iso-8859-5 iso-8859-6 iso-8859-7 iso-8859-8 iso-8859-9 iso-8859-10 iso-8859-13
    iso-8859-14 iso-8859-15 iso-8859-16 koi8-r koi8-u gb2312 gbk gb18030 big5 euc-jp shift_jis shift-jis euc-kr utf-16 utf-16le
    utf-16be tis-620
    """
)


def extract(page: str, extractor: str) -> tuple[str, str]:
    """(text, title) of a page."""
    return _EXTRACTORS[extractor](page)


def _resiliparse(page: str) -> tuple[str, str]:
    try:
        from resiliparse.extract.html2text import extract_plain_text
        from resiliparse.parse.html import HTMLTree
    except ImportError:
        raise InputError("reading.html='resiliparse' needs one more package: pip install resiliparse") from None
    tree = HTMLTree.parse(page)
    return extract_plain_text(tree, main_content=True, alt_texts=False).strip(), _one_line(tree.title or "")


def _trafilatura(page: str) -> tuple[str, str]:
    try:
        import trafilatura
    except ImportError:
        raise InputError("reading.html='trafilatura' needs one more package: pip install trafilatura") from None
    text = trafilatura.extract(page, include_comments=False, include_tables=True) or ""
    return text.strip(), builtin(page[:20_000])[1]


def builtin(page: str) -> tuple[str, str]:
    """(text, title): blocks of text with an empty line between; a list's items and a table's rows a line each."""
    found = _Blocks()
    for kind, value in _tokens(page):
        if kind == "text":
            found.text(value)
        elif kind == "open":
            found.open(value)
        elif kind == "close":
            found.close(value)
        elif kind == "title" and not found.title:
            found.title = _one_line(_unescape(value))
    return found.finish(), found.title


@dataclass
class _Blocks:
    """Text collected by block; `deep` counts the open elements that are left out, `links` the open links."""

    title: str = ""
    made: list[str] = field(default_factory=list)
    parts: list[str] = field(default_factory=list)
    linked: int = 0
    out: list[str] = field(default_factory=list)
    links: int = 0
    pre: int = 0

    def text(self, value: str) -> None:
        if not self.out:
            value = _unescape(value)
            if not self.pre:
                value = _SPACE.sub(" ", value)
                if value.startswith(" ") and (not self.parts or self.parts[-1].endswith((" ", "\n"))):
                    value = value[1:]
            if value:
                self.parts.append(value)
                self.linked += len(value.strip()) if self.links else 0

    def open(self, name: str) -> None:
        if name == "body" and self.out[:1] == ["head"]:  # whose end may be left out
            self.out = []
        if self.out:
            if name == self.out[-1] and len(self.out) < _DEEPEST:  # only the same name can close what is left out too early
                self.out.append(name)
        elif name in _LEFT_OUT:
            self.end_block()
            self.out.append(name)
        elif name == "br":
            self.parts.append("\n")
        elif name == "a":
            self.links += 1
        elif name in _BLOCKS:
            self.end_block()
            self.pre += name == "pre"

    def close(self, name: str) -> None:
        if self.out:
            if name == self.out[-1]:
                self.out.pop()
        elif name == "a":
            self.links = max(0, self.links - 1)
        elif name in _BLOCKS:
            self.end_block()
            self.pre = max(0, self.pre - (name == "pre"))

    def end_block(self) -> None:
        text = "".join(self.parts)
        plain = text.strip("\n").rstrip() if self.pre else "\n".join(line.strip() for line in text.split("\n") if line.strip())
        if plain and self.linked <= MOST_LINKS * len(plain):
            self.made.append(plain)
        self.parts, self.linked = [], 0

    def finish(self) -> str:
        self.end_block()
        return "\n\n".join(self.made)


def _tokens(page: str) -> Iterator[tuple[str, str]]:
    """("text" | "open" | "close" | "title", value), in time linear in the page: what has no end is text."""
    at, size = 0, len(page)
    ends = _Ends(page)
    while at < size:
        start = page.find("<", at)
        if start < 0:
            yield "text", page[at:]
            return
        if start > at:
            yield "text", page[at:start]
        if page.startswith("<!--", start):
            end = ends.after("-->", start + 4)
            at = end if end > 0 else size
            continue
        if page.startswith(("<!", "<?"), start):
            end = ends.after(">", start)
            at = end if end > 0 else size
            continue
        tag = _TAG.match(page, start)
        if not tag:
            yield "text", "<"
            at = start + 1
            continue
        end = _tag_end(page, tag.end(), ends)
        if end < 0:
            return
        name = tag[1].lower()
        closing = page[start + 1] == "/"
        yield ("close" if closing else "open"), name
        at = end
        if not closing and page[end - 2] == "/" and name not in _RAW:  # <svg/>, <div/>
            if name in _LEFT_OUT:
                yield "close", name
        elif not closing and name in _RAW:
            stop = ends.closing(name, end)
            if name == "title":
                yield "title", page[end : stop if stop >= 0 else size]
            if stop < 0:
                return
            at = stop


def _tag_end(page: str, at: int, ends: "_Ends") -> int:
    """Behind the ">" that ends a tag, quotes regarded where they are closed; -1 where the page ends inside it."""
    while True:
        end = ends.after(">", at)
        if end < 0:
            return -1
        quote = min((q for q in (page.find('"', at, end), page.find("'", at, end)) if q >= 0), default=-1)
        if quote < 0:
            return end
        closed = ends.after(page[quote], quote + 1)
        if closed < 0 or closed - quote > 100_000:  # a quote that is never closed is a sign like any other
            return end
        at = closed


class _Ends:
    """Where things end in a page; what was not found once is not looked for again, which keeps time linear."""

    def __init__(self, page: str):
        self._page = page
        self._absent: set[str] = set()
        self._lower = ""

    def after(self, what: str, at: int) -> int:
        """The place behind the next `what`, -1 where there is none."""
        if what in self._absent:
            return -1
        found = self._page.find(what, at)
        if found < 0:
            self._absent.add(what)
            return -1
        return found + len(what)

    def closing(self, name: str, at: int) -> int:
        """The place of the next "</name"."""
        what = f"</{name}"
        if what in self._absent:
            return -1
        if not self._lower:
            # Letter for letter, so that places stay: lower() makes two of some characters.
            self._lower = self._page.translate(_ASCII_LOWER)
        found = self._lower.find(what, at)
        if found < 0:
            self._absent.add(what)
        return found


_ASCII_LOWER = {code: code + 32 for code in range(ord("A"), ord("Z") + 1)}


def _unescape(text: str) -> str:
    if "&" not in text:
        return text
    try:
        return html.unescape(text)
    except ValueError:  # a number of thousands of digits
        return text


def _one_line(text: str) -> str:
    return " ".join(text.split())


_EXTRACTORS: dict[str, Callable[[str], tuple[str, str]]] = {
    "builtin": builtin, "resiliparse": _resiliparse, "trafilatura": _trafilatura,
}  # fmt: skip
