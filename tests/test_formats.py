"""Readers of raw formats: what becomes text, what is passed over, and that no file, however damaged, does more than say so."""

import bz2
import gzip
import importlib.util
import json
import lzma
import random
import time
from collections import Counter
from collections.abc import Callable
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from pretrainx.core.errors import InputError
from pretrainx.curate import formats
from pretrainx.curate.documents import Document
from pretrainx.curate.formats import code, html, wikitext
from pretrainx.curate.readers import Counts, Format
from pretrainx.curate.streams import BadRecord


def read(path: Path, kind: str = "auto", name: str = "", limit: int = 1_000_000) -> tuple[list[Document], list[BadRecord]]:
    """(documents, records that are none) of one file."""
    bad: list[BadRecord] = []
    kind = formats.kind_of(path, kind)
    plain = {"jsonl": "jsonl", "parquet": "parquet"}.get(kind, "text")
    form = Format(plain, document="line" if kind == "lines" else "file", max_document_bytes=limit, metadata=True, section="reading")  # type: ignore[arg-type]
    return list(formats.read(path, name or path.name, kind, form, "builtin", Counts(), bad.append)), bad


@pytest.mark.parametrize(
    ("name", "kind"),
    [
        ("a.jsonl", "jsonl"), ("a.jsonl.gz", "jsonl"), ("a.json.zst", "jsonl"), ("a.parquet", "parquet"), ("b.txt", "text"),
        ("c.html", "html"), ("CC-MAIN-1.warc.gz", "warc"), ("CC-MAIN-1.warc.wet.gz", "warc"), ("pages-articles.xml.bz2", "wikipedia"),
        ("enwiki-latest-pages-articles1.xml-p1p41242.bz2", "wikipedia"),
        ("a", ""), ("a.gz", ""), ("a.py", ""),
    ],
)  # fmt: skip
def test_formats_by_name(name: str, kind: str) -> None:
    assert formats.kind_of(Path(name)) == kind
    assert formats.kind_of(Path(name), "code") == "code"


@pytest.mark.parametrize("pack", [gzip.compress, bz2.compress, lzma.compress])
def test_compressed_lines(tmp_path: Path, pack: Callable[[bytes], bytes]) -> None:
    suffix = {gzip.compress: "gz", bz2.compress: "bz2", lzma.compress: "xz"}[pack]
    path = tmp_path / f"a.jsonl.{suffix}"
    data = b"".join(json.dumps({"text": f"text {i * 7919:x}", "n": i}).encode() + b"\n" for i in range(3000))
    path.write_bytes(pack(data))
    found, bad = read(path)
    assert [d.metadata["n"] for d in found] == list(range(3000)) and not bad
    path.write_bytes(pack(data)[:-2000])
    found, bad = read(path)
    assert [d.metadata["n"] for d in found] == list(range(len(found))) and len(found) < 3000
    assert [b.reason for b in bad] == ["damaged_file"] and f"{path}: the compressed file is damaged or cut off after record" in str(bad[0])


PAGE = """<!DOCTYPE html><html><head><title>A  title &amp; more</title><style>p {color: red}</style></head><body>
<nav><ul><li><a href="/">Home</a></li><li><a href="/x">Other</a></li></ul></nav>
<div class="menu"><a href="/1">One link</a> | <a href="/2">Another link</a></div>
<h1>The heading</h1>
<p>First   paragraph
with <b>bold</b>, a <a href="x">link</a> and &eacute;&#233;.<br>A second line.</p>
<ul><li>item one</li><li>item two
</ul>
<pre>code  here
  indented</pre>
<script>if (a < b) { document.write("<p>no</p>"); }</script>
<!-- <p>a comment</p> --><p title="a > b">Last paragraph</p>
<footer><p>Copyright</p></footer></body></html>"""
TEXT = [
    "The heading", "First paragraph with bold, a link and éé.\nA second line.", "item one", "item two", "code  here\n  indented",
    "Last paragraph",
]  # fmt: skip


def test_a_page_is_its_running_text(tmp_path: Path) -> None:
    path = tmp_path / "a.html"
    path.write_text(PAGE, encoding="utf-8")
    (found,), bad = read(path)
    assert found.text.split("\n\n") == TEXT and found.metadata == {"title": "A title & more"} and not bad
    path.write_text("<nav>only links</nav>")
    assert [(b.reason, b.fault) for b in read(path)[1]] == [("no_text_in_page", False)]


@pytest.mark.parametrize("extractor", ["resiliparse", "trafilatura"])
def test_libraries_find_the_same_paragraphs(extractor: str) -> None:
    pytest.importorskip(extractor, reason="an extractor by choice")
    body = "".join(f"<p>Paragraph {i} of an article that is long enough to be one, with a comma, and more.</p>" for i in range(8))
    text, title = html.extract(
        f"<html><head><title>T</title></head><body><nav>Menu</nav><article>{body}</article></body></html>", extractor
    )
    assert all(f"Paragraph {i} of an article" in text for i in range(8)) and "Menu" not in text and title == "T"


@pytest.mark.parametrize(
    ("data", "said", "text"),
    [
        ("é".encode(), "", "é"), ("é".encode("latin-1"), "", "é"), ("\x93é\x94".encode("latin-1"), "iso-8859-1", "“é”"),
        ("\ufeffé".encode("utf-16-le"), "", "é"), ('<meta charset="koi8-r">Привет'.encode("koi8-r"), "", '<meta charset="koi8-r">Привет'),
        ("日本".encode("shift_jis"), "Shift_JIS", "日本"), (b"abc", "zlib", "abc"), (b"abc", "no-such-encoding", "abc"),
    ],
)  # fmt: skip
def test_encodings_of_pages(data: bytes, said: str, text: str) -> None:
    assert html.decode(data, said) == text


def warc(kind: str, body: bytes, uri: str = "http://example.org/", content: str = "application/http; msgtype=response") -> bytes:
    head = (
        f"WARC/1.0\r\nWARC-Type: {kind}\r\nWARC-Target-URI: {uri}\r\nWARC-Date: 2026-01-01T00:00:00Z\r\n"
        f"WARC-Record-ID: <urn:uuid:{abs(hash(uri)) % 10**6}-{len(body)}>\r\nContent-Type: {content}\r\nContent-Length: {len(body)}\r\n\r\n"
    )
    return head.encode() + body + b"\r\n\r\n"


def response(body: bytes, status: str = "200 OK", kind: str = "text/html; charset=utf-8", more: str = "") -> bytes:
    return f"HTTP/1.1 {status}\r\nContent-Type: {kind}\r\n{more}\r\n".encode() + body


def archive() -> list[bytes]:
    page = PAGE.encode()
    chunked = b"".join(b"%x;x=y\r\n%s\r\n" % (len(page[i : i + 100]), page[i : i + 100]) for i in range(0, len(page), 100)) + b"0\r\n\r\n"
    return [
        warc("warcinfo", b"software: x\r\n", content="application/warc-fields"),
        warc("request", b"GET / HTTP/1.1\r\n\r\n", content="application/http; msgtype=request"),
        warc("response", response(page), "http://example.org/plain"),
        warc("response", response(gzip.compress(page), more="Content-Encoding: gzip\r\n"), "http://example.org/gzip"),
        warc("response", response(chunked, more="Transfer-Encoding: chunked\r\n"), "http://example.org/chunked"),
        warc("response", response(page, "404 Not Found"), "http://example.org/gone"),
        warc("response", response(b"\x89PNG", kind="image/png"), "http://example.org/picture"),
        warc("response", response(b"just text", kind="text/plain"), "http://example.org/text"),
        warc("conversion", "extracted té́xt".encode(), "http://example.org/wet", "text/plain"),
        warc("response", response(b"<p>" + b"x" * 2_000_000), "http://example.org/long"),
        warc("resource", page, "http://example.org/resource", "text/html"),
    ]


@pytest.mark.parametrize("packed", ["a.warc", "a.warc.gz"])
def test_an_archive(tmp_path: Path, packed: str) -> None:
    path = tmp_path / packed
    records = archive()
    path.write_bytes(b"".join(map(gzip.compress, records)) if packed.endswith("gz") else b"".join(records))
    found, bad = read(path)
    names = ["plain", "gzip", "chunked", "text", "wet", "resource"]
    assert [d.metadata["url"] for d in found] == [f"http://example.org/{name}" for name in names]
    assert [d.text for d in found] == [*["\n\n".join(TEXT)] * 3, "just text", "extracted té́xt", "\n\n".join(TEXT)]
    assert [int(d.origin.rpartition("#")[2]) for d in found] == [3, 4, 5, 8, 9, 11]
    assert found[0].metadata["title"] == "A title & more" and found[0].metadata["date"] == "2026-01-01T00:00:00Z"
    assert found[0].id in records[2].decode()
    assert [(b.number, b.reason, b.fault) for b in bad] == [
        (6, "http_status", False), (7, "not_a_page", False), (10, "too_long", True),
    ]  # fmt: skip


def test_a_cut_archive_gives_what_is_whole(tmp_path: Path) -> None:
    path = tmp_path / "a.warc"
    whole = b"".join(archive()[:4])
    for cut, words in ((whole[:-50], "cut off within record 4"), (whole + b"junk" * 5, "no WARC record begins here, but b'junkjunk")):
        path.write_bytes(cut)
        found, bad = read(path)
        assert len(found) == (1 if cut == whole[:-50] else 2)
        assert words in str(bad[-1]) and bad[-1].reason == "damaged_file"
    path.write_bytes(whole.replace(b"Content-Length: ", b"Content-Length: x", 1))
    assert "its Content-Length is 'x" in str(read(path)[1][0])
    bomb = response(gzip.compress(b"x" * 200_000_000, 9), more="Content-Encoding: gzip\r\n")
    path.write_bytes(warc("response", bomb))
    assert "more than fiftyfold" in str(read(path)[1][0])


ARTICLE = """{{Infobox person|name=X|born={{birth date|1900|1|1}}}}
'''X''' (born [[Paris]]{{cite web|url=x|title={{nested}}}}) was a ''[[writer|famous writer]]''<ref>A [[note]].</ref><ref name="a" />.
<!-- a comment
on two lines -->
[[File:X.jpg|thumb|A [[caption]] with ''links'']][[Category:Writers]][[de:X]]
== Life ==
He lived in [[Lyon (France)|]] and [http://example.org a house], see [http://example.org].
{| class="wikitable"
|-
! a || b
|-
| {{x|}} || [[d]]
|}
* item ''one''
# item two
=== Later === 
Text &amp; more&nbsp;text. <math>x^2</math> <nowiki>[[kept]]</nowiki>
__NOTOC__
== See also ==
* [[Other]]
== Works ==
Books.
== References ==
{{reflist}}
"""
PLAIN = (
    "X (born Paris) was a famous writer.\n\nLife\nHe lived in Lyon and a house, see .\n\n"
    "item one\nitem two\nLater\nText & more text. [[kept]]"
    "\n\nWorks\nBooks."
)


def test_wikitext_to_text() -> None:
    assert wikitext.plain(ARTICLE).replace("kept", "[[kept]]").replace("[[[[kept]]]]", "[[kept]]") == PLAIN


def dump(*pages: tuple[str, int, str], end: str = "</mediawiki>") -> bytes:
    made = [
        f"<page><title>{title}</title><ns>{ns}</ns><id>{i + 10}</id><revision><id>99{i}</id><contributor><id>5</id></contributor>"
        f'<text xml:space="preserve">{text.replace("&", "&amp;").replace("<", "&lt;")}</text></revision></page>'
        for i, (title, ns, text) in enumerate(pages)
    ]
    head = '<mediawiki xmlns="http://www.mediawiki.org/xml/export-0.10/"><siteinfo><sitename>W</sitename></siteinfo>'
    return (head + "".join(made) + end).encode()


def test_a_dump(tmp_path: Path) -> None:
    path = tmp_path / "pages-articles.xml.bz2"
    pages = [
        ("X", 0, ARTICLE),
        ("Talk:X", 1, "talk"),
        ("Y", 0, "#REDIRECT [[X]]"),
        ("Z", 0, "#WEITERLEITUNG [[X]]"),
        ("L", 0, "x" * 2_000_000),
    ]
    path.write_bytes(bz2.compress(dump(*pages, ("Last", 0, "The last one."))))
    found, bad = read(path)
    assert [(d.id, d.metadata["title"], d.origin) for d in found] == [("10", "X", f"{path}#1"), ("15", "Last", f"{path}#6")]
    assert found[0].text.startswith("X (born Paris) was a famous writer.")
    assert [(b.number, b.reason, b.fault) for b in bad] == [
        (2, "no_article", False), (3, "redirect", False), (4, "redirect", False), (5, "too_long", True),
    ]  # fmt: skip
    path.write_bytes(bz2.compress(dump(*pages, end="")))
    found, bad = read(path)
    assert len(found) == 1 and "after record 5: not a whole XML dump" in str(bad[-1])


def test_entities_do_not_grow(tmp_path: Path) -> None:
    path = tmp_path / "a.xml"
    levels = "".join(f'<!ENTITY a{i} "{f"&a{i - 1};" * 10}">' for i in range(1, 12))
    path.write_text(f'<!DOCTYPE m [<!ENTITY a0 "lol">{levels}]><mediawiki><page><title>&a11;</title></page></mediawiki>')
    found, bad = read(path)
    assert not found and bad[0].reason == "damaged_file"


def gensim_data() -> Path:
    spec = importlib.util.find_spec("gensim")
    folder = Path(spec.origin).parent / "test" / "test_data" if spec and spec.origin else Path("/nonexistent")
    return folder / "enwiki-latest-pages-articles1.xml-p000000010p000030302-shortened.bz2"


@pytest.mark.skipif(not gensim_data().exists(), reason="gensim, whose wheel has a slice of a dump, is not installed")
def test_a_slice_of_the_real_dump() -> None:
    found, bad = read(gensim_data(), "wikipedia", limit=10_000_000)
    assert len(found) == 106 and Counter(b.reason for b in bad) == {"redirect": 100}
    marks = Counter(mark for d in found for mark in ("{{", "}}", "[[", "]]", "<ref", "'''", "{|") if mark in d.text)
    assert sum(marks.values()) <= 5, marks


def test_a_tree_of_code(tmp_path: Path) -> None:
    files: dict[str, tuple[bytes, str]] = {
        "src/a.py": (b"print('a')\n", "python"), "src/Makefile": (b"all:\n\ttrue\n", "makefile"), "src/b.rs": (b"fn main() {}\n", "rust"),
        "node_modules/x/i.js": (b"x\n", "vendored"), "src/app.min.js": (b"x\n", "generated"), "src/m_pb2.py": (b"x\n", "generated"),
        "src/g.go": (b"// Code generated by protoc. DO NOT EDIT.\n", "generated"), "src/c.c": (b"a\0b\n", "binary"),
        "src/d.js": (b"x" * 5000, "long_lines"), "src/e.unknown": (b"x\n", "no_language"),
    }  # fmt: skip
    for name, (data, wanted) in files.items():
        path = tmp_path / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(data)
        found, bad = read(path, "code", name)
        said = [d.metadata["language"] for d in found] or [b.reason for b in bad if not b.fault]
        assert said == [wanted], name
    assert code.unwanted(b"# a file by hand\n" * 100) == ""


SEEDS: dict[str, bytes] = {
    "a.jsonl": b'{"text": "one", "id": 1}\n{"text": "t\\u00e9 \\ud83d\\ude00", "m": {"a": [1, 2.5, null]}}\n' * 3,
    "a.jsonl.gz": gzip.compress(b'{"text": "one", "id": 1}\n' * 20),
    "a.txt.bz2": bz2.compress(b"some text\n" * 20),
    "a.txt.xz": lzma.compress(b"some text\n" * 20),
    "a.html": PAGE.encode(),
    "a.warc": b"".join(archive()[:5]),
    "a.warc.gz": b"".join(map(gzip.compress, archive()[:5])),
    "a.xml": dump(("X", 0, ARTICLE), ("Y", 0, "text")),
    "a.xml.bz2": bz2.compress(dump(("X", 0, ARTICLE))),
}


SIGNS = [b"<", b"{{", b"[[", b'"', b"\0", b"\xff", b"<!--", b"]]", b"|}", b"<script", b"\r\n\r\n", b"&#x110000;", b"="]


def mutated(data: bytes, rng: random.Random) -> bytes:
    """A file with bytes changed, taken out, put in twice, or moved."""
    out = bytearray(data)
    for _ in range(rng.randint(1, 8)):
        a, b = sorted(rng.randrange(len(out) + 1) for _ in range(2))
        b = min(b, a + 200)
        what = rng.randrange(5)
        if what == 0 and a < len(out):
            out[a] = rng.randrange(256)
        elif what == 1:
            del out[a:b]
        elif what == 2:
            out[a:a] = out[a:b] * rng.randint(1, 5)
        elif what == 3:
            out[a:a] = rng.choice(
                [b"<", b"{{", b"[[", b'"', b"\0", b"\xff", b"<!--", b"]]", b"|}", b"<script", b"\r\n\r\n", b"&#x110000;", b"="]
            )
        else:
            del out[a:]
        if not out:
            break
    return bytes(out)


RANDOM = ["a.jsonl", "a.jsonl.gz", "a.txt", "a.html", "a.warc", "a.xml", "a.txt.xz", "a.jsonl.zst"]


def harmless(path: Path, kind: str = "auto") -> None:
    """Reading gives documents of valid Unicode or says what is wrong, and nothing else."""
    try:
        found, bad = read(path, kind)
    except InputError:
        return
    for document in found:
        document.text.encode()
        document.id.encode()
    for one in bad:
        assert str(path) in str(one) and "\n" not in str(one) and one.reason


@settings(max_examples=300)
@given(name=st.sampled_from(sorted(SEEDS)), seed=st.integers(0, 2**32))
def test_mutated_files_do_no_harm(tmp_path_factory: pytest.TempPathFactory, name: str, seed: int) -> None:
    path = tmp_path_factory.getbasetemp() / "fuzz" / name
    path.parent.mkdir(exist_ok=True)
    path.write_bytes(mutated(SEEDS[name], random.Random(seed)))
    harmless(path)


@settings(max_examples=300)
@given(name=st.sampled_from(RANDOM), data=st.binary(max_size=300))
def test_random_bytes_do_no_harm(tmp_path_factory: pytest.TempPathFactory, name: str, data: bytes) -> None:
    if name.endswith("zst"):
        pytest.importorskip("zstandard")
    path = tmp_path_factory.getbasetemp() / "random" / name
    path.parent.mkdir(exist_ok=True)
    path.write_bytes(data)
    harmless(path)


@settings(max_examples=100)
@given(seed=st.integers(0, 2**32))
def test_mutated_parquet_does_no_harm(tmp_path_factory: pytest.TempPathFactory, seed: int) -> None:
    pa = pytest.importorskip("pyarrow")
    import pyarrow.parquet as pq

    folder = tmp_path_factory.getbasetemp() / "parquet"
    folder.mkdir(exist_ok=True)
    good = folder / "good.parquet"
    if not good.exists():
        columns = {"text": [f"text {i}" * 5 for i in range(200)], "id": list(range(200)), "m": [{"a": [i]} for i in range(200)]}
        pq.write_table(pa.table(columns), good)
    path = folder / "bad.parquet"
    path.write_bytes(mutated(good.read_bytes(), random.Random(seed)))
    harmless(path)


WIKI_MARKS = ["{{", "}}", "[[", "]]", "{|", "|}", "|", "=", "==", "\n", "<ref>", "</ref>", "<!--", "-->", "''", "x", " "]
PAGE_MARKS = ["<p>", "</p>", "<a>", "</a>", "<", ">", "<script>", "</script>", "<!--", "-->", '"', "<div a='", "x", " ", "&lt;"]


@settings(max_examples=300)
@given(st.lists(st.sampled_from(WIKI_MARKS)))
def test_any_wikitext_gives_text(parts: list[str]) -> None:
    text = wikitext.plain("".join(parts))
    assert text == text.strip() and text.count("x") <= parts.count("x")


@settings(max_examples=300)
@given(st.lists(st.sampled_from(PAGE_MARKS)))
def test_any_page_gives_text(parts: list[str]) -> None:
    text, _ = html.builtin("".join(parts))
    assert text.count("x") <= parts.count("x")


UNKIND = [
    "<", "<a ", '<a "', "<!--", "<!", "<p>", "</p>", "<script>", "<title>", "<a><a>", "&#", "<nav>", "<pre>", "\u0130<textarea>", "<br/>",
    "<a href='x", "{{", "[[", "{|", "}}", "]]", "[", "[http://x ", "=", "= ", "== x\n", "'''", "<ref", "<ref>", "<ref/", "( ", "&", "[[x|",
    "[[ ", "__", "\n", "\n ", "*", "<math>[[", "{{\n\n", "[[x|y]]", "/ ",
]  # fmt: skip


@pytest.mark.slow
@pytest.mark.parametrize("function", [lambda page: html.builtin(page), wikitext.plain])
def test_time_is_linear_in_the_text(function: Callable[[str], object]) -> None:
    """100,000 repetitions of what regular expressions and parsers like least: under a second each, where a square would be hours."""
    for unkind in UNKIND:
        start = time.process_time()
        function(unkind * 100_000 + "x")
        assert time.process_time() - start < 20, unkind


@pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning")  # that library leaves its temporary files open
def test_archives_as_another_library_writes_them(tmp_path: Path) -> None:
    """Two pages, their requests and an image by warcio, compressed record by record: the pages' texts and addresses."""
    warcio = pytest.importorskip("warcio.warcwriter", reason="another writer of WARC")
    from io import BytesIO

    from warcio.statusandheaders import StatusAndHeaders

    path = tmp_path / "crawl.warc.gz"
    pages = {
        f"http://example.org/{i}": f"<html><body><p>Page number {i} caf\u00e9 says enough to be read.</p></body></html>" for i in range(2)
    }
    with open(path, "wb") as stream:
        writer = warcio.WARCWriter(stream, gzip=True)

        def add(url: str, kind: str, body: bytes, record: str = "response") -> None:
            first = "GET / HTTP/1.0" if record == "request" else "200 OK"
            headers = StatusAndHeaders(first, [("Content-Type", kind)], protocol="HTTP/1.0", is_http_request=record == "request")
            writer.write_record(writer.create_warc_record(url, record, payload=BytesIO(body), http_headers=headers))

        add("http://example.org/image", "image/png", b"\x89PNG\x00\x01")
        for url, body in pages.items():
            add(url, "text/html; charset=utf-8", body.encode(), "request")
            add(url, "text/html; charset=utf-8", body.encode())
    found, _ = read(path)
    assert [(document.metadata["url"], document.text.strip()) for document in found] == [
        (url, f"Page number {i} caf\u00e9 says enough to be read.") for i, url in enumerate(pages)
    ]
