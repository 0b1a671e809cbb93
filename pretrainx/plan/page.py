"""A plan as a page for people: what fits, where memory and time go, and how the layout scales."""

from collections.abc import Mapping, Sequence
from typing import Any

from pretrainx.core import page, svg
from pretrainx.core.page import Cell, Html, Section, tag
from pretrainx.plan.analytic import Estimate

BAR_HEIGHT = 22


def render(title: str, results: Sequence[dict[str, Any]], scaling: Mapping[int, Estimate]) -> str:
    """The whole page: an overview of all plans, one section for each, and the scaling of the first (none where it is empty)."""
    prices = sorted({r["price_source"] for r in results if "price_source" in r})
    note = "Times are predictions with an interval, in which nine in ten of the published runs lie that were compared."
    note += f" Prices: {', '.join(prices)}." if prices else ""
    sections = [Section("plans", "Plans", overview(results), note)]
    sections += [Section(f"plan-{i}", str(r["topology"]), details(r)) for i, r in enumerate(results) if not r.get("error")]
    if scaling:
        note = "The same work a chip on more chips, from the analytic form: no compile, and no account of failures or stragglers."
        sections.append(Section("scaling", "Scaling", scale(scaling), note))
    head = tag("header", tag("p", "Training plan", class_="eyebrow"), tag("h1", title))
    return page.page(f"{title}: plan", head, page.contents(sections), [section.html() for section in sections])


def overview(results: Sequence[dict[str, Any]]) -> Html:
    """One row a topology."""
    columns = ("Topology", "Fits", "Peak GB a chip", "Step s", "MFU", "Bound by", "Tokens/s", "Days", "Dollars")
    rows: list[list[Cell | str]] = []
    for r in results:
        if r.get("error"):
            rows.append([r["topology"], Cell("no", small=r["error"], style="white-space:normal"), *[""] * 7])
            continue
        peak = (
            Cell(f"{r['peak_bytes'] / 1e9:.1f}", r["peak_bytes"], small=f"of {r['hbm_limit_bytes'] / 1e9:.0f}") if "peak_bytes" in r else ""
        )
        row: list[Cell | str] = [Cell(r["topology"], small=r["source"]), "yes" if r["fits"] else "no", peak]
        if "step_seconds" in r:
            interval = f"{r['step_seconds_low']:.3g} to {r['step_seconds_high']:.3g}"
            row += [Cell(f"{r['step_seconds']:.3g}", r["step_seconds"], small=interval), f"{r['mfu']:.1%}", r["binds"]]
            row += [f"{r['tokens_per_second']:,.0f}", f"{r['days']:,.1f}", f"{r['dollars']:,.0f}"]
        rows.append(row + [""] * (len(columns) - len(row)))
    return page.table("Plans", columns, rows)


def details(r: dict[str, Any]) -> list[Html]:
    """Memory, time and wires of one plan."""
    mesh = ", ".join(f"{axis} {size:,}" for axis, size in r["mesh"].items()) or "one device"
    named = [
        ("Chips", f"{r['chips']:,}"),
        ("Mesh", mesh),
        ("Parameters", f"{r['parameters']:,}"),
        ("Tokens a step", f"{r['tokens_per_step']:,}"),
    ]
    parts = [page.facts(named), tag("p")]
    bars: list[Html] = []
    if r.get("refusal") or r.get("advice"):
        parts.append(
            tag(
                "p",
                "Does not fit. ",
                r.get("refusal"),
                " First change: ",
                r.get("advice", "none known"),
                class_="note",
                style="margin-top:0",
            )
        )
    memory = r.get("memory_by_kind") or {kind: r[f"{kind}_bytes"] for kind in ("argument", "temp") if f"{kind}_bytes" in r}
    if memory:
        limit = r["hbm_limit_bytes"]
        bars.append(page.figure("Memory of a chip", stack(memory, limit, lambda v: f"{v / 1e9:.2f} GB"), f"{limit / 1e9:.0f} GB in all"))
    if "time_by_kind" in r:
        seconds = r["step_seconds"]
        bars.append(page.figure("A step's time by kind", stack(r["time_by_kind"], seconds, lambda v: f"{v:.3g} s"), f"{seconds:.3g} s"))
    if r.get("time_by_part"):
        bars.append(page.figure("A step's time by part", stack(r["time_by_part"], r["step_seconds"], lambda v: f"{v:.3g} s")))
    parts.append(page.figures(bars, "wide"))
    if r.get("collectives"):
        columns = ("Collective", "Axes", "Type", "Calls", "MB sent")
        rows = [[c["kind"], "+".join(c["axes"]), c["dtype"], f"{c['calls']:,}", f"{c['wire_bytes'] / 1e6:,.1f}"] for c in r["collectives"]]
        parts.append(page.table("Collectives of one device and step", columns, rows))
    if r.get("largest_buffers"):
        rows = [[b["array"], f"{b['bytes'] / 1e9:.2f}", Cell(b["op"][-90:], style="white-space:normal")] for b in r["largest_buffers"]]
        parts.append(page.table("Largest arrays", ("Array", "GB", "Made by"), rows))
    return parts


def stack(values: Mapping[str, float], whole: float, text: Any) -> Html:
    """One bar of parts of a whole, and a legend with their sizes; what is beyond the whole makes the bar longer than its track."""
    kept = {name: value for name, value in values.items() if value > 0}
    longest = max(whole, sum(kept.values())) or 1.0
    bars, at = [tag("rect", x=0, y=0, width=f"{100 * whole / longest:.2f}%", height=BAR_HEIGHT, class_="track")], 0.0
    for i, (name, value) in enumerate(kept.items()):
        place = {"x": f"{100 * at / longest:.2f}%", "width": f"{100 * value / longest:.2f}%"}
        bars.append(
            tag("rect", tag("title", f"{name}: {text(value)}"), y=0, height=BAR_HEIGHT, class_=f"bar c{i % page.NUM_COLOURS}", **place)
        )
        at += value
    picture = tag("svg", bars, role="img", aria_label=", ".join(f"{n} {text(v)}" for n, v in kept.items()), height=BAR_HEIGHT)
    return tag("div", picture, page.legend([(i, f"{name} {text(value)}") for i, (name, value) in enumerate(kept.items())]))


def scale(scaling: Mapping[int, Estimate]) -> Html:
    """MFU, and the seconds of computing and of waiting, by number of chips."""
    mfu = svg.Curve("MFU", {float(n): e.mfu for n, e in scaling.items()}, 0, marks=True)
    wires = ("weights and activations on the wire", "gradients between slices")
    waiting = {float(n): sum(e.parts[name] for name in wires) for n, e in scaling.items()}
    work = {float(n): e.seconds - waiting[float(n)] for n, e in scaling.items()}
    times = [svg.Curve("computing", work, 2, marks=True), svg.Curve("waiting", waiting, 1, marks=True)]
    pictures = [
        page.figure("MFU by chips", svg.curves("MFU by chips", [mfu], x_name="chips", zero=True, logarithmic=True)),
        page.figure("Seconds of a step", svg.curves("Seconds of a step", times, x_name="chips", zero=True, logarithmic=True)),
    ]
    rows = [[f"{n:,}", f"{e.seconds:.3g}", f"{e.mfu:.1%}", e.binds, f"{e.tokens_per_second:,.0f}"] for n, e in scaling.items()]
    table = page.table("Scaling", ("Chips", "Step s", "MFU", "Bound by", "Tokens/s"), rows)
    return page.text([page.figures(pictures, "wide"), table])
