"""Charts as inline SVG in the colours of core/page.py: curves, intervals on a line, bars. Values in, markup out."""

import math
import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import partial

from pretrainx.core.page import NUM_COLOURS, Content, Html, breakable, tag

WIDTH, HEIGHT = 440, 240
LEFT, RIGHT, TOP, BOTTOM = 54, 50, 10, 24  # room for labels around the plot
MOST_POINTS = 240  # of one curve: half as many as there are pixels


def ticks(low: float, high: float, count: int = 5) -> list[float]:
    """Round numbers within [low, high], about so many: multiples of 1, 2 or 5 times a power of ten.

    >>> ticks(0, 1.1)
    [0.0, 0.2, 0.4, 0.6, 0.8, 1.0]
    """
    if not high > low:
        return [low]
    rough = (high - low) / count
    power = 10.0 ** math.floor(math.log10(rough))
    step = next(factor * power for factor in (1, 2, 5, 10) if factor * power >= 0.7 * rough)
    first, last = math.ceil(low / step - 1e-9), math.floor(high / step + 1e-9)
    return [round(i * step, 12) for i in range(first, last + 1)]


def short(value: float) -> str:
    """A tick's label.

    >>> short(12000), short(0.25), short(0.0003), short(2.5e6), short(0)
    ('12k', '0.25', '3e-4', '2.5M', '0')
    """
    size = abs(value)
    for least, unit in ((1e12, "T"), (1e9, "B"), (1e6, "M"), (1e4, "k")):
        if size >= least:
            return f"{value / (1e3 if unit == 'k' else least):.4g}{unit}"
    if 0 < size < 1e-3:
        mantissa, exponent = f"{value:.2e}".split("e")
        return f"{float(mantissa):g}e{int(exponent)}"
    return f"{value:.6g}"


def aligned(labels: Sequence[str]) -> list[str]:
    """Labels of one axis with as many decimals each.

    >>> aligned(["1.8", "2", "2.2"]), aligned(["10k", "0"])
    (['1.8', '2.0', '2.2'], ['10k', '0'])
    """
    parts = [re.fullmatch(r"([-+−]?\d+)(?:\.(\d+))?( %)?", label) for label in labels]
    if not all(parts):
        return list(labels)
    found = [(part[1], part[2] or "", part[3] or "") for part in parts if part]
    decimals = max(len(fraction) for _, fraction, _ in found)
    return [f"{whole}.{fraction:0<{decimals}}{unit}" if decimals else whole + unit for whole, fraction, unit in found]


@dataclass(frozen=True)
class Curve:
    """y by x. `colour` is a place in the page's palette; `spread` {x: (low, high)} draws whiskers, `marks` a dot at each point."""

    name: str
    points: Mapping[float, float]
    colour: int = 0
    faint: bool = False
    marks: bool = False
    spread: Mapping[float, tuple[float, float]] | None = None


@dataclass(frozen=True)
class Level:
    """A dashed line across: what a curve is measured against."""

    name: str
    y: float
    colour: int = 7


def thin(points: Mapping[float, float], most: int = MOST_POINTS) -> list[tuple[float, float]]:
    """Points in the order of x; of each stretch of a long curve its lowest and its highest, so that no spike is lost."""
    ordered = sorted(points.items())
    if len(ordered) <= most:
        return ordered
    size = math.ceil(2 * len(ordered) / (most - 2))
    kept = {ordered[0], ordered[-1]}
    for first in range(0, len(ordered), size):
        part = ordered[first : first + size]
        kept |= {min(part, key=lambda p: p[1]), max(part, key=lambda p: p[1])}
    return sorted(kept)


def limits(values: Sequence[float], spikes: bool = False) -> tuple[float, float]:
    """The ends of an axis, with a margin. With `spikes` the highest half percent may stand out of the picture."""
    ordered = sorted(values)
    top = ordered[min(len(ordered) - 1, int(0.995 * len(ordered)))] if spikes else ordered[-1]
    margin = 0.06 * (top - ordered[0]) or 0.06 * abs(top) or 1.0
    return ordered[0] - margin, top + margin


def curves(
    title: str,
    found: Sequence[Curve],
    levels: Sequence[Level] = (),
    x_name: str = "step",
    y_text: Callable[[float], str] = short,
    zero: bool = False,
    spikes: bool = False,
    logarithmic: bool = False,
    ends: bool = True,
) -> Html:
    """A chart of curves, with the last value of each at its end if `ends`; `zero` begins the y axis there.

    `logarithmic` asks for a logarithmic y axis, and has one where all values are above 0 and span more than a factor of 20.
    """
    shown = [curve for curve in found if curve.points]
    if not shown:
        return tag("p", "nothing logged yet", class_="note")
    values = [y for curve in shown for y in curve.points.values()] + [level.y for level in levels]
    values += [y for curve in shown for pair in (curve.spread or {}).values() for y in pair]
    logarithmic = logarithmic and min(values) > 0 and max(values) > 20 * min(values)
    scale: Callable[[float], float] = math.log10 if logarithmic else float
    low, high = limits([scale(v) for v in values], spikes)
    if zero and not logarithmic:
        low = 0.0 if low < high else low
    xs = [x for curve in shown for x in curve.points]
    first, last = min(0.0, *xs), max(xs)
    last = last if last > first else first + 1
    width, height = WIDTH - LEFT - RIGHT, HEIGHT - TOP - BOTTOM

    def place(x: float, y: float) -> tuple[float, float]:
        return round((x - first) / (last - first) * width, 1), round((high - scale(y)) / (high - low) * height, 1)

    def beside(by: float, x: float, y: float) -> tuple[float, float]:
        at, up = place(x, y)
        return round(at + by, 1), up

    if logarithmic:
        decades = range(math.floor(low), math.floor(high) + 1)
        marks = [m * 10.0**n for n in decades for m in ((1, 2, 5) if high - low < 3 else (1,)) if low <= math.log10(m) + n <= high]
    else:
        marks = ticks(low, high)
    frame: list[Content] = []
    for y, label in zip(marks, aligned([y_text(y) for y in marks]), strict=True):
        at = round(TOP + place(first, y)[1], 1)
        frame.append(tag("line", x1=LEFT, x2=WIDTH - RIGHT, y1=at, y2=at, class_="rule"))
        frame.append(tag("text", label, x=LEFT - 8, y=round(at + 4, 1), text_anchor="end"))
    for x in ticks(first, last, 4):
        frame.append(tag("text", short(x), x=round(LEFT + place(x, marks[0])[0], 1), y=HEIGHT - BOTTOM + 17, text_anchor="middle"))
    frame.append(tag("text", x_name, x=LEFT - 14, y=HEIGHT - BOTTOM + 17, text_anchor="end"))
    frame.append(tag("line", x1=LEFT, x2=WIDTH - RIGHT, y1=HEIGHT - BOTTOM, y2=HEIGHT - BOTTOM, class_="base"))
    drawn: list[Content] = []
    for level in levels:
        _, at = place(first, level.y)
        line = tag("line", tag("title", f"{level.name}: {y_text(level.y)}"), x1=0, x2=width, y1=at, y2=at, class_="line dashed")
        drawn.append(tag("g", line, class_=f"c{level.colour % NUM_COLOURS}"))
    crowd = [curve for curve in shown if curve.spread]
    for curve in shown:
        # Whiskers at one step would hide each other: each curve stands a little aside.
        aside = (crowd.index(curve) - (len(crowd) - 1) / 2) * 4 if curve.spread else 0.0
        drawn.append(_curve(curve, partial(beside, aside), x_name, y_text))
    plot = tag("svg", drawn, x=LEFT, y=TOP, width=width, height=height, style="overflow:hidden" if spikes else None)
    labels = _ends([c for c in shown if not c.faint], place, y_text, height) if ends else []
    said = "; ".join(f"{c.name} ends at {y_text(c.points[max(c.points)])}" for c in shown if not c.faint)
    return tag("svg", tag("title", title), frame, plot, labels, viewBox=f"0 0 {WIDTH} {HEIGHT}", role="img", aria_label=f"{title}: {said}")


def _curve(curve: Curve, place: Callable[[float, float], tuple[float, float]], x_name: str, y_text: Callable[[float], str]) -> Html:
    points = [place(*point) for point in thin(curve.points)]
    path = "M" + "L".join(f"{x:g} {y:g}" for x, y in points)
    made: list[Content] = [tag("path", tag("title", curve.name), d=path, class_="line faint" if curve.faint else "line")]
    for x, (low, high) in (curve.spread or {}).items():
        (at, bottom), (_, top) = place(x, low), place(x, high)
        made.append(tag("line", x1=at, x2=at, y1=bottom, y2=top, class_="whisker"))
    if curve.marks or len(points) == 1:
        for x, y in thin(curve.points):
            at, up = place(x, y)
            made.append(tag("circle", tag("title", f"{curve.name}, {x_name} {x:,.0f}: {y_text(y)}"), cx=at, cy=up, r=3.5, class_="dot"))
    return tag("g", made, class_=f"c{curve.colour % NUM_COLOURS}")


def _ends(
    found: Sequence[Curve], place: Callable[[float, float], tuple[float, float]], y_text: Callable[[float], str], height: float
) -> list[Content]:
    """The last values, at the right; moved apart where they would lie upon each other, and left out where there is no room."""
    if len(found) > height // 14:
        return []
    last = [max(curve.points) for curve in found]
    right = max(place(x, found[0].points[last[0]])[0] for x in last)
    wanted = sorted((min(max(place(x, c.points[x])[1], 0.0), height), i) for i, (c, x) in enumerate(zip(found, last, strict=True)))
    made: list[Content] = []
    lowest = -math.inf
    places: list[tuple[float, int]] = []
    for y, i in wanted:
        lowest = max(y, lowest + 14)
        places.append((lowest, i))
    limit = height
    for k in reversed(range(len(places))):  # what was pushed out at the bottom goes up again
        places[k] = (min(places[k][0], limit), places[k][1])
        limit = places[k][0] - 14
    for y, i in places:
        curve = found[i]
        label = tag("text", y_text(curve.points[last[i]]), x=round(LEFT + right + 7, 1), y=round(TOP + y + 4, 1), class_="end")
        made.append(tag("g", label, class_=f"c{curve.colour % NUM_COLOURS}"))
    return made


@dataclass(frozen=True)
class Dot:
    """A value with its interval (NaN ends: not known)."""

    name: str
    value: float
    low: float
    high: float
    colour: int = 0


def intervals(
    title: str,
    dots: Sequence[Dot],
    value_text: Callable[[float], str],
    tick_text: Callable[[float], str],
    levels: Sequence[Level] = (),
) -> Html:
    """A forest plot: one line a dot, on a common axis that has room for the levels, its name at the left, its value at the right."""
    ends = [x for dot in dots for x in (dot.value, dot.low, dot.high) if math.isfinite(x)] + [level.y for level in levels]
    low, high = limits(ends)

    def share(x: float) -> str:
        return f"{100 * (x - low) / (high - low):.2f}%"

    shown = few if len(few := ticks(low, high, 2)) > 1 else ticks(low, high, 4)  # two to three labels have room on a phone
    rules: list[Content] = [tag("line", x1=share(x), x2=share(x), y1=0, y2="100%", class_="rule") for x in shown]
    for level in levels:
        rules.append(tag("line", tag("title", level.name), x1=share(level.y), x2=share(level.y), y1=0, y2="100%", class_="reference"))
    rows: list[Content] = []
    for dot in dots:
        drawn: list[Content] = list(rules)
        said = f"{dot.name}: {value_text(dot.value)}"
        if math.isfinite(dot.low) and math.isfinite(dot.high):
            said += f", 95 % from {value_text(dot.low)} to {value_text(dot.high)}"
            drawn.append(tag("line", x1=share(dot.low), x2=share(dot.high), y1="50%", y2="50%", class_="whisker"))
        drawn.append(tag("circle", cx=share(dot.value), cy="50%", r=5, class_="dot"))
        rows.append(tag("span", breakable(dot.name), class_="name"))
        rows.append(tag("svg", tag("title", said), drawn, height=30, class_=f"c{dot.colour % NUM_COLOURS}", role="img", aria_label=said))
        rows.append(tag("data", value_text(dot.value), value=repr(float(dot.value)), class_="value"))
    texts = zip(shown, aligned([tick_text(x) for x in shown]), strict=True)
    labels = [tag("text", text, x=share(x), y=13, text_anchor="middle") for x, text in texts]
    rows += [tag("span"), tag("svg", labels, height=16, aria_hidden="true"), tag("span")]
    return tag("div", rows, class_="strip", role="group", aria_label=title)


def meter(share: float, tick: float | None = None, colour: str = "c0") -> Html:
    """A bar of a share of 1, with a mark at another: a picture beside a number, hidden from screen readers."""
    full = f"{100 * min(max(share, 0.0), 1.0):.2f}%"
    mark = None if tick is None else tag("line", x1=f"{100 * tick:.2f}%", x2=f"{100 * tick:.2f}%", y1=-2, y2=8, class_="reference")
    parts = [tag("rect", width="100%", height=6, rx=3, class_="track"), tag("rect", width=full, height=6, rx=3, class_="bar"), mark]
    return tag("svg", parts, height=6, class_=f"meter {colour}", aria_hidden="true")
