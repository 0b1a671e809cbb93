"""Wikitext to plain text, in linear time: templates, tables, references and files go, links become their text.

Like every such extractor it does not expand templates: what a template would have shown is missing.
"""

import contextlib
import html
import re

from pretrainx.curate.formats._words import words

_COMMENT = re.compile(r"<!--.*?(?:-->|\Z)", re.DOTALL)
# Elements whose content is no running text. A self-closing one (<ref name="x"/>) has no content.
_GONE = ("ref", "math", "chem", "timeline", "gallery", "syntaxhighlight", "source", "score", "imagemap", "graph", "templatedata", "hiero")
_SELF_CLOSED = re.compile(rf"<(?:{'|'.join(_GONE)}|references|nowiki)\b[^<>]*/\s*>", re.IGNORECASE)
_BREAK = re.compile(r"<br\b[^<>]*>", re.IGNORECASE)
_OPENED = re.compile(rf"<({'|'.join(_GONE)})\b[^<>]*>", re.IGNORECASE)
_TAG = re.compile(r"</?[a-zA-Z][^<>\n]{0,2000}>")
_MARK = re.compile(r"\{\{|\}\}|\{\||\|\}(?!\})|\[\[|\]\]")
_EXTERNAL = re.compile(r"\[(?:https?:|ftp:|mailto:)?//?[^\s\[\]]*(?:[ \t]+([^\[\]\n]*))?\]|\[mailto:[^\s\[\]]*(?:[ \t]+([^\[\]\n]*))?\]")
_QUOTES = re.compile(r"'{2,}")
_MAGIC = re.compile(r"__[A-Z]{2,}__")
_HEADING = re.compile(r"^(={1,6})([^=\n]+)\1[ \t]*$", re.MULTILINE)
_ITEM = re.compile(r"^[*#:;]+[ \t]*", re.MULTILINE)
_RULE = re.compile(r"^-{4,}", re.MULTILINE)
_BLANKS = re.compile(r"\n[ \t]*(?:\n[ \t]*)+")
_EMPTY = re.compile(r"\( {0,3}[,;]? {0,3}\)")  # where a template stood in brackets
_COMMA_FIRST = re.compile(r"\( ?[,;] ?")
_SPACES = re.compile(r"  +")
_PREFIX = re.compile(r"\s*:?\s*([^\[\]|:\n]{1,40}):", re.UNICODE)
# Namespaces whose links show a picture or a category and no text, in the largest Wikipedias' languages.
_NO_TEXT = words(
    """
    file image media category datei bild kategorie fichier catégorie archivo imagen categoría файл изображение категория plik
    kategoria bestand afbeelding categorie immagine categoria ficheiro arquivo imagem ファイル 画像 カテゴリ 文件 图像 分类 картинка картина
    """
)
# Sections at the end of an article that are lists of links.
_LAST = frozenset(("references", "external links", "see also", "further reading", "notes", "bibliography", "sources", "footnotes"))


def plain(text: str) -> str:
    """The running text: paragraphs with an empty line between, headings and list items a line each."""
    text = _without_elements(_BREAK.sub(" ", _SELF_CLOSED.sub("", _COMMENT.sub("", text))))
    text = _without_nested(text)
    text = _EXTERNAL.sub(lambda found: found[1] or found[2] or "", text)
    text = _TAG.sub("", _QUOTES.sub("", text))
    text = _without_last_sections(text)
    text = _HEADING.sub(lambda found: found[2].strip(), _RULE.sub("", _MAGIC.sub("", text)))
    text = _ITEM.sub("", text)
    with contextlib.suppress(ValueError):  # a number of thousands of digits
        text = html.unescape(text)
    text = _COMMA_FIRST.sub("(", _EMPTY.sub("", _SPACES.sub(" ", text.replace("\u00a0", " "))))
    lines = (line.strip() for line in text.split("\n"))
    text = "\n".join(line for line in lines if line not in (".", ",", ";", "()"))
    return _BLANKS.sub("\n\n", text).strip()


def _without_elements(text: str) -> str:
    """Elements of _GONE with their content; one that never closes goes by itself."""
    parts, at = [], 0
    lower = ""
    absent: set[str] = set()
    while opened := _OPENED.search(text, at):
        name = opened[1].lower()
        parts.append(text[at : opened.start()])
        at = opened.end()
        if name in absent:
            continue
        lower = lower or text.translate(_ASCII_LOWER)
        end = lower.find(f"</{name}", at)
        if end < 0:
            absent.add(name)
            continue
        close = text.find(">", end)
        at = close + 1 if close >= 0 else len(text)
    return "".join([*parts, text[at:]])


_ASCII_LOWER = {code: code + 32 for code in range(ord("A"), ord("Z") + 1)}
_DEEPEST = 40  # nested marks, which is as many as MediaWiki itself expands; deeper ones are text
_PAIRS = {"}}": "{{", "|}": "{|", "]]": "[["}


def _without_nested(text: str) -> str:
    """Templates and tables gone, links as their text; nested ones from the inside out, by one pass with a stack."""
    stack: list[tuple[str, list[str]]] = []  # of what is open: its sign, and the text in it so far
    here: list[str] = []
    at = 0
    for mark in _MARK.finditer(text):
        here.append(text[at : mark.start()])
        at, sign = mark.end(), mark[0]
        if sign in ("{{", "{|", "[["):
            if len(stack) >= _DEEPEST:
                continue
            stack.append((sign, here))
            here = []
            continue
        opens = _PAIRS[sign]
        if not any(kind == opens for kind, _ in stack):
            here.append(sign if sign == "]]" else "")
            continue
        while stack[-1][0] != opens:  # what was never closed is text, without its sign
            _, outer = stack.pop()
            outer.extend(here)
            here = outer
        _, outer = stack.pop()
        if opens == "[[":
            outer.append(_link("".join(here)))
        here = outer
    here.append(text[at:])
    while stack:
        _, outer = stack.pop()
        outer.extend(here)
        here = outer
    return "".join(here)


def _link(inside: str) -> str:
    """What a link shows."""
    prefix = _PREFIX.match(inside[:100])
    if prefix and prefix[1].strip().lower() in _NO_TEXT and not inside.lstrip().startswith(":"):
        return ""
    if prefix and "|" not in inside and re.fullmatch(r"[a-z]{2,3}(-[a-z]+)*", prefix[1].strip()) and not inside.lstrip().startswith(":"):
        return ""  # the same article in another language
    target, bar, shown = inside.partition("|")
    if not bar:
        return target.lstrip(":")
    return shown.rpartition("|")[2] or target.partition(" (")[0]


def _without_last_sections(text: str) -> str:
    """The article up to the first of its sections that hold lists of links only, other sections behind it kept."""
    found = list(_HEADING.finditer(text))
    parts, at = [], 0
    for i, heading in enumerate(found):
        if heading[2].strip().lower() in _LAST:
            parts.append(text[at : heading.start()])
            behind = (later.start() for later in found[i + 1 :] if len(later[1]) <= len(heading[1]))
            at = max(at, next(behind, len(text)))
    return "".join([*parts, text[at:]])
