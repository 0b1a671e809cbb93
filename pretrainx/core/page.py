"""Pages for people: one HTML file with its style inside, that needs no network and no script, in light and dark, on any screen.

Text is escaped unless it is `Html`, and only `tag` and what is built on it make `Html`: a name from a file cannot become markup.
"""

import html
import re
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Literal

# The browser itself refuses scripts, and whatever is not in the file.
POLICY = "default-src 'none'; style-src 'unsafe-inline'; img-src data:; base-uri 'none'; form-action 'none'"
NUM_COLOURS = 8
VOID = {"meta", "br", "hr", "img", "link", "wbr"}


class Html(str):
    """Markup that is safe to put into a page as it is."""

    __slots__ = ()


Content = Html | str | int | float | None | Iterable["Content"]
Attribute = str | int | float | bool | None


def text(content: Content) -> Html:
    """Markup of anything: Html as it is, other text escaped, None as nothing, lists one after another."""
    if content is None:
        return Html()
    if isinstance(content, Html):
        return content
    if isinstance(content, (str, int, float)):
        # What no parser may read (a NUL, half a surrogate pair) is shown as a replacement sign.
        plain = str(content).encode("utf-8", "replace").decode().translate(_CONTROLS)
        return Html(html.escape(plain, quote=True))
    return Html("".join(map(text, content)))


_CONTROLS = {code: "\N{REPLACEMENT CHARACTER}" for code in range(32) if code not in (9, 10, 13)}


def tag(element: str, *content: Content, **attributes: Attribute) -> Html:
    """<element attribute="...">content</element>. In attributes `_` is `-`, a last `_` goes (class_); None and False leave it out.

    >>> tag("p", "a < b", tag("b", "!"), class_="note", data_x=1)
    '<p class="note" data-x="1">a &lt; b<b>!</b></p>'
    """
    parts = [element]
    for name, value in attributes.items():
        if value is not None and value is not False:
            name = name.rstrip("_").replace("_", "-")
            parts.append(name if value is True else f'{name}="{text(value)}"')
    opened = f"<{' '.join(parts)}>"
    return Html(opened) if element in VOID else Html(f"{opened}{text(content)}</{element}>")


def breakable(name: str) -> Html:
    """A long name that may go on in the next line after each _ / . or -."""
    return text([[part, tag("wbr") if i % 2 else None] for i, part in enumerate(re.split(r"([_/.-]+)", name))])


def page(title: str, *body: Content, description: str = "") -> str:
    """The whole file."""
    head = tag(
        "head",
        tag("meta", charset="utf-8"),
        tag("meta", http_equiv="Content-Security-Policy", content=POLICY),
        tag("meta", name="viewport", content="width=device-width, initial-scale=1"),
        tag("meta", name="color-scheme", content="light dark"),
        tag("meta", name="description", content=description or title),
        tag("title", title),
        tag("style", Html(STYLE)),
    )
    return f"<!doctype html>\n{tag('html', head, tag('body', tag('main', *body)), lang='en')}\n"


@dataclass(frozen=True)
class Section:
    """A part of a page that the contents link to."""

    id: str
    title: str
    body: Content
    note: Content = None

    def html(self) -> Html:
        heading = tag("h2", tag("a", self.title, href=f"#{self.id}", class_="anchor"), id=f"{self.id}-title")
        note = tag("p", self.note, class_="note") if self.note else None
        return tag("section", heading, note, self.body, id=self.id, aria_labelledby=f"{self.id}-title")


def contents(sections: Sequence[Section]) -> Html:
    """Links to the sections."""
    return tag("nav", [tag("a", section.title, href=f"#{section.id}") for section in sections], aria_label="Contents")


def facts(pairs: Iterable[tuple[str, Content]]) -> Html:
    """Small labelled values, side by side."""
    return tag("dl", [tag("div", tag("dt", name), tag("dd", value)) for name, value in pairs], class_="facts")


@dataclass(frozen=True)
class Cell:
    """A cell of a table: what it shows, and the number behind it where it is one."""

    content: Content
    value: float | None = None
    small: Content = None  # a second line, muted
    strong: bool = False
    style: str = ""

    def html(self, element: str = "td", number: bool = False) -> Html:
        content = text(self.content)
        if self.value is not None:
            content = tag("data", content, value=repr(float(self.value)))
        if self.strong:
            content = tag("strong", content)
        small = tag("small", self.small) if self.small else None
        return tag(element, content, small, class_="number" if number else None, style=self.style or None)


def table(caption: str, columns: Sequence[Content], rows: Iterable[Sequence[Cell | Content]], numbers: bool = True) -> Html:
    """A table in a box that scrolls by itself. The first column names the rows; with `numbers` the others are right-aligned."""
    head = tag("tr", [tag("th", name, scope="col", class_="number" if numbers and i else None) for i, name in enumerate(columns)])
    body = []
    for first, *others in rows:
        name = tag("th", first.html("span") if isinstance(first, Cell) else first, scope="row")
        made = [(cell if isinstance(cell, Cell) else Cell(cell)).html(number=numbers) for cell in others]
        body.append(tag("tr", name, made))
    whole = tag("table", tag("caption", caption, class_="unseen"), tag("thead", head), tag("tbody", body))
    return tag("div", whole, class_="scroll", role="region", aria_label=caption, tabindex=0)


def figure(title: Content, picture: Content, note: Content = None) -> Html:
    """A picture with its title above."""
    return tag("figure", tag("figcaption", title, tag("small", note) if note else None), picture)


def figures(items: Iterable[Html], size: Literal["small", "wide"] = "small") -> Html:
    """Figures side by side, as many as the screen has room for."""
    return tag("div", list(items), class_=f"figures {size}")


def legend(names: Iterable[tuple[int, str]]) -> Html:
    """Which colour is whose: (place in the palette, name)."""
    return tag("ul", [tag("li", swatch(colour), name) for colour, name in names], class_="legend", aria_label="Colours")


def swatch(number: int) -> Html:
    return tag("i", class_=f"swatch c{number % NUM_COLOURS}", aria_hidden="true")


def details(summary: Content, *body: Content, open_: bool = False) -> Html:
    """What is folded away until asked for."""
    return tag("details", tag("summary", summary), *body, open=open_)


STYLE = """
:root{color-scheme:light dark;
--ground:#f7f7f5;--paper:#fff;--ink:#1b1d21;--soft:#5d626c;--hair:#e3e4e7;--grid:#ececee;--link:#2457a8;--mark:#eef3fb;
--c0:#2f67b5;--c1:#c9611d;--c2:#2c8556;--c3:#9a4488;--c4:#8a6a12;--c5:#16808c;--c6:#b5374a;--c7:#666c76;--low:#b5374a}
@media (prefers-color-scheme:dark){:root{
--ground:#111214;--paper:#191b1e;--ink:#e8e8ea;--soft:#9ea3ad;--hair:#2d3036;--grid:#26292e;--link:#8db8f5;--mark:#1e2836;
--c0:#74a7f0;--c1:#f0975a;--c2:#62c491;--c3:#d88bc9;--c4:#d4b255;--c5:#5fc4cf;--c6:#f07f8f;--c7:#a7adb8;--low:#f07f8f}}
*{box-sizing:border-box}
html{-webkit-text-size-adjust:100%;scroll-behavior:smooth}
body{margin:0;background:var(--ground);color:var(--ink);
font:16px/1.55 system-ui,-apple-system,"Segoe UI",Roboto,"Helvetica Neue",Arial,sans-serif;
font-variant-numeric:tabular-nums;text-rendering:optimizeLegibility}
main{max-width:70rem;margin:0 auto;padding:2.5rem 1.25rem 5rem}
a{color:var(--link);text-decoration:none}a:hover{text-decoration:underline}
:focus-visible{outline:2px solid var(--link);outline-offset:2px;border-radius:4px}
header .eyebrow{margin:0;color:var(--soft);font-size:.875rem}
h1{margin:.15rem 0 .5rem;font-size:clamp(1.5rem,1.1rem + 2vw,2.1rem);line-height:1.2;letter-spacing:-.02em;font-weight:650;
overflow-wrap:anywhere}
h2{margin:0 0 .7rem;font-size:1.2rem;line-height:1.3;letter-spacing:-.01em;font-weight:640}
h2 .anchor{color:inherit}
h3{margin:1.75rem 0 .5rem;font-size:1rem;font-weight:600;overflow-wrap:anywhere}
section{margin-top:3rem;scroll-margin-top:1rem}
.note{margin:-.35rem 0 1rem;max-width:46rem;color:var(--soft);font-size:.9rem}
nav{display:flex;flex-wrap:wrap;gap:.35rem 1.1rem;margin-top:1.5rem;padding:.65rem 0;
border-block:1px solid var(--hair);font-size:.9rem}
.facts{display:grid;grid-template-columns:repeat(auto-fill,minmax(8.5rem,1fr));gap:1rem 1.25rem;margin:1.25rem 0 0}
.facts dt{color:var(--soft);font-size:.8rem;line-height:1.3}
.facts dd{margin:.1rem 0 0;font-size:1.05rem;font-weight:550;overflow-wrap:anywhere}
.scroll{overflow-x:auto;background:var(--paper);border:1px solid var(--hair);border-radius:10px}
table{border-collapse:collapse;width:100%;font-size:.9rem;line-height:1.35}
th,td{padding:.55rem .9rem;text-align:left;vertical-align:top;border-top:1px solid var(--hair)}
thead th{border-top:0;color:var(--soft);font-weight:550;font-size:.825rem;vertical-align:bottom;overflow-wrap:break-word}
tbody th{font-weight:500;overflow-wrap:anywhere;min-width:8.75rem;max-width:22rem;position:sticky;left:0;background:var(--paper)}
.number{text-align:right;white-space:nowrap}thead .number{white-space:normal;min-width:6rem}
td small,th small{display:block;color:var(--soft);font-size:.8rem;font-weight:400}
strong{font-weight:680}
td.words{white-space:normal}
.figures{display:grid;gap:1rem;grid-template-columns:repeat(auto-fill,minmax(min(100%,20rem),1fr))}
.figures.wide{grid-template-columns:repeat(auto-fill,minmax(min(100%,29rem),1fr))}
figure{margin:0;padding:.85rem 1rem .8rem;background:var(--paper);border:1px solid var(--hair);border-radius:10px;min-width:0}
figcaption{margin-bottom:.5rem;font-size:.9rem;font-weight:580;line-height:1.35;overflow-wrap:anywhere}
figcaption small{display:block;color:var(--soft);font-weight:400;font-size:.8rem}
svg{display:block;width:100%;overflow:visible}
svg text{fill:var(--soft);font:12px system-ui,-apple-system,"Segoe UI",Roboto,Arial,sans-serif;font-variant-numeric:tabular-nums}
svg .end{font-weight:600;fill:var(--k)}
svg .rule{stroke:var(--grid)}svg .base{stroke:var(--hair)}
svg .line{fill:none;stroke:var(--k);stroke-width:2;stroke-linejoin:round;stroke-linecap:round}
svg .faint{stroke-width:1;opacity:.35}svg .dashed{stroke-dasharray:5 4;stroke-width:1.3}
svg .whisker{stroke:var(--k);stroke-width:2;stroke-linecap:round}
svg .dot{fill:var(--k);stroke:var(--paper);stroke-width:1.5}
svg .bar{fill:var(--k)}svg .track{fill:var(--grid)}
svg .reference{stroke:var(--soft);stroke-width:1.2;stroke-dasharray:3 3}
.c0{--k:var(--c0)}.c1{--k:var(--c1)}.c2{--k:var(--c2)}.c3{--k:var(--c3)}
.c4{--k:var(--c4)}.c5{--k:var(--c5)}.c6{--k:var(--c6)}.c7{--k:var(--c7)}.below{--k:var(--low)}
.legend{display:flex;flex-wrap:wrap;gap:.25rem 1.1rem;margin:0 0 .9rem;padding:0;list-style:none;font-size:.875rem}
.legend li{overflow-wrap:anywhere}
.swatch{display:inline-block;width:.7em;height:.7em;margin-right:.45em;border-radius:50%;background:var(--k)}
.strip{display:grid;grid-template-columns:fit-content(9.5rem) minmax(6rem,1fr) auto;align-items:center;
column-gap:1.1rem;font-size:.85rem;line-height:1.25}
.strip .name{overflow-wrap:anywhere;padding:.2rem 0}.strip>svg[role]{height:100%;min-height:30px}
.strip .value{text-align:right;white-space:nowrap}
.meter{min-width:4.5rem;margin-top:.25rem}
details{margin-top:.35rem}
.scroll+details,.figures+details{margin-top:.75rem}
summary{cursor:pointer;font-size:.9rem;color:var(--link);padding:.3rem 0}
details>.scroll{margin-top:.4rem}
pre{margin:0;padding:.85rem 1rem;background:var(--paper);border:1px solid var(--hair);border-radius:10px;overflow-x:auto;
white-space:pre-wrap;overflow-wrap:anywhere;font:.85rem/1.5 ui-monospace,SFMono-Regular,Menlo,Consolas,monospace}
pre+pre{margin-top:.6rem}pre b{font-weight:600;color:var(--link)}
code{font:.85em ui-monospace,SFMono-Regular,Menlo,Consolas,monospace;overflow-wrap:anywhere}
footer{margin-top:3.5rem;padding-top:1rem;border-top:1px solid var(--hair);color:var(--soft);font-size:.85rem}
.unseen{position:absolute;width:1px;height:1px;overflow:hidden;clip-path:inset(50%);white-space:nowrap}
@media (max-width:40rem){main{padding:1.5rem 1rem 3.5rem}section{margin-top:2.25rem}th,td{padding:.5rem .7rem}
.facts{grid-template-columns:repeat(auto-fill,minmax(7rem,1fr));gap:.8rem 1rem}}
@media print{body{background:#fff}.scroll,figure{break-inside:avoid}nav{display:none}}
@media (prefers-reduced-motion:reduce){html{scroll-behavior:auto}}
"""
