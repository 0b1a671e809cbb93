"""The report as a page: comparison, intervals, curves, groups, samples and what the runs are, from evaluate/report.py's numbers."""

import json
import math
from collections.abc import Callable, Sequence
from functools import partial
from typing import Any

from pretrainx.core import svg
from pretrainx.core.page import (
    Cell,
    Content,
    Html,
    Section,
    breakable,
    contents,
    details,
    facts,
    figure,
    figures,
    legend,
    page,
    swatch,
    table,
    tag,
)
from pretrainx.core.svg import Curve, Dot, Level
from pretrainx.evaluate import report as reports
from pretrainx.evaluate.report import Report, Row, Run, shown, signed
from pretrainx.evaluate.results import Interval

# What a config is known by; all else is under "Runs".
CONFIG_FACTS = {
    "model.name": "Model", "model.num_layers": "Layers", "model.d_model": "Width", "data.sequence_length": "Window",
    "train.batch_size": "Batch", "train.steps": "Steps planned", "optim.name": "Optimizer", "optim.peak_lr": "Peak learning rate",
    "train.dtype": "Precision",
}  # fmt: skip
MOST_SAMPLES = 6


def html(report: Report) -> str:
    """The whole file. Equal reports give equal bytes: no clock is read."""
    sections = [section for section in (make(report) for make in SECTIONS) if section]
    columns, names = report.columns, [_called(report, run) for run in report.runs]
    title = " · ".join(names) if len(names) <= 4 else f"{len(names)} runs"
    title += f", {len(columns)} checkpoints" if len(columns) > len(names) else ""
    created = sorted(result.created for column in columns for result in column.results)
    when = f", evaluated {created[-1][:10]}" if created else ""
    head = tag("header", tag("p", f"pretrainx · evaluation report{when}", class_="eyebrow"), tag("h1", title), _facts(report))
    foot = tag(
        "footer",
        "Intervals are 95 % of a bootstrap over items (1,000 resamples, each group by itself); differences are paired: both models "
        "on the same resample. Each comparison stands for itself: of twenty that are nothing, about one will look sure.",
    )
    return page(
        f"{title}: evaluation report",
        head,
        contents(sections),
        [s.html() for s in sections],
        foot,
        description="Evaluations with intervals, compared",
    )


def _facts(report: Report) -> Html | None:
    if len(report.columns) > 1:
        return None  # they stand in a table, column by column
    column = report.columns[0]
    run = column.run
    pairs: list[tuple[str, Content]] = [("Step", f"{column.step:,}")]
    if run.parameters:
        pairs.append(("Parameters", svg.short(run.parameters)))
    if column.tokens is not None:
        pairs.append(("Tokens", svg.short(column.tokens)))
    pairs += [(label, _value(run.config[name])) for name, label in CONFIG_FACTS.items() if name in run.config]
    if (corpora := _mixture(run)) is not None:
        pairs.append(("Data", corpora))
    return facts(pairs)


def _mixture(run: Run) -> str | None:
    mixture = run.config.get("data.mixture")
    if isinstance(mixture, str):
        return mixture
    prefix = "data.mixture."
    corpora = [name.removeprefix(prefix) for name in run.config if name.startswith(prefix)]
    return ", ".join(corpora) or None


def _value(value: Any) -> str:
    if isinstance(value, bool) or value is None or isinstance(value, (list, dict)):
        return json.dumps(value, ensure_ascii=False)
    if isinstance(value, int):
        return f"{value:,}"
    return f"{value:g}" if isinstance(value, float) else str(value)


def _heads(report: Report) -> list[Content]:
    """Headings of columns: colour, name, step."""
    made: list[Content] = []
    for i, column in enumerate(report.columns):
        step = None if column.name.endswith(f"@ {column.step:,}") else tag("small", f"step {column.step:,}")
        made.append(tag("span", swatch(i), breakable(column.name), step))
    return made


def _label(row: Row) -> Html:
    return tag("span", breakable(row.task), tag("small", row.metric.replace("_", " ")))


def _ends(metric: str, found: Interval) -> str | None:
    return f"{shown(metric, found.low)} to {shown(metric, found.high)}" if math.isfinite(found.low) else None


def comparison(report: Report) -> Section | None:
    if not report.rows:
        return None
    several = len(report.columns) > 1
    referenced = any(row.reference for row in report.rows)
    rows = []
    for row in report.rows:
        cells: list[Cell | Content] = [_label(row)]
        if referenced:
            cells.append(Cell(shown(row.metric, row.reference[1]), row.reference[1], row.reference[0]) if row.reference else "")
        for cell in row.cells:
            if cell is None:
                cells.append(Cell(tag("span", "–", aria_label="not evaluated")))
                continue
            small: list[Content] = [_ends(row.metric, cell.interval) or ("" if cell.items else "from the log")]
            if (against := cell.against_best) and against.sure:
                sign = "▲" if against.difference > 0 else "▼"
                mark = f"surely {'higher' if against.difference > 0 else 'lower'} than the best, by the paired interval"
                small.append(tag("span", f" {sign}", role="img", aria_label=mark, title=mark))
            cells.append(Cell(shown(row.metric, cell.interval.value), cell.interval.value, small, cell.best))
        rows.append(cells)
    heads: list[Content] = ["Task", *(["Reference"] if referenced else []), *_heads(report)]
    notes = tag("ul", [tag("li", f"{row.task}: {row.note}") for row in report.rows if row.note], class_="note") if several else None
    note = "Below each value is its 95 % interval."
    if several:
        note += " The best of a row is bold; ▼ and ▲ mark what is lower or higher than the best with a paired interval that excludes zero."
        note += " Without a mark, a value may as well be the best."
    return Section("comparison", "Comparison" if several else "Results", [table("Results by task", heads, rows), notes], note)


def forest(report: Report) -> Section | None:
    """One figure a task with a dot for each column; of a single column, one figure a metric with a dot for each task."""
    note = "Dot: the value; line: its 95 % interval."
    if len(report.columns) == 1:
        made = []
        for metric in dict.fromkeys(row.metric for row in report.rows):
            rows = [row for row in report.rows if row.metric == metric]
            cells = [(row, row.cells[0]) for row in rows]
            dots = [_dot(row.task, cell.interval, 0) for row, cell in cells if cell and cell.items and math.isfinite(cell.interval.value)]
            if dots:
                title = metric.replace("_", " ").capitalize()
                made.append(figure(title, svg.intervals(title, dots, partial(shown, metric), partial(_brief, metric)), _direction(rows[0])))
        return Section("intervals", "Intervals", figures(made, "wide"), note) if made else None
    made = []
    for row in report.rows:
        dots = [
            _dot(column.name, cell.interval, i)
            for i, (column, cell) in enumerate(zip(report.columns, row.cells, strict=True))
            if cell and cell.items and math.isfinite(cell.interval.value)
        ]
        if dots:
            levels = _near(row, dots)
            said = ", ".join([_direction(row), *(f"dashed: {level.name} {shown(row.metric, level.y)}" for level in levels)])
            picture = svg.intervals(_title(row), dots, partial(shown, row.metric), partial(_brief, row.metric), levels)
            made.append(figure(_title(row), picture, said))
    return Section("intervals", "Intervals", figures(made), note) if made else None


def _dot(name: str, found: Interval, colour: int) -> Dot:
    return Dot(name, found.value, found.low, found.high, colour)


def _title(row: Row) -> str:
    return f"{row.task}, {row.metric.replace('_', ' ')}"


def _near(row: Row, dots: Sequence[Dot]) -> list[Level]:
    """The reference, where it does not squeeze the dots together."""
    if row.reference is None:
        return []
    ends = [x for dot in dots for x in (dot.value, dot.low, dot.high) if math.isfinite(x)]
    span, reach = max(ends) - min(ends), max(abs(row.reference[1] - x) for x in ends)
    return [Level(*row.reference)] if reach <= 6 * span else []


def _direction(row: Row) -> str:
    return "higher is better" if row.better == "high" else "lower is better"


def differences(report: Report) -> Section | None:
    made: list[Html] = []
    rows: list[Sequence[Cell | Content]] = []
    for row in report.rows:
        compared = [(report.columns[i], i, cell.against_best) for i, cell in enumerate(row.cells) if cell and cell.against_best]
        if not compared:
            continue
        best = next(column.name for column, cell in zip(report.columns, row.cells, strict=True) if cell and cell.best)
        dots = [Dot(column.name, own.difference, own.low, own.high, i) for column, i, own in compared]
        unit = "percentage points, " if row.metric.startswith("accuracy") else ""
        difference = partial(signed, row.metric)
        ticks = partial(_signed_brief, row.metric)
        picture = svg.intervals(f"{_title(row)}, less {best}", dots, difference, ticks, [Level("no difference", 0.0)])
        made.append(figure(_title(row), picture, f"less {best}; {unit}{_direction(row)}"))
        for column, _, own in compared:
            ends = f"{difference(own.low)} to {difference(own.high)}" if math.isfinite(own.low) else "–"
            better = Cell(f"{own.better:.1%}", own.better) if math.isfinite(own.better) else Cell("–")
            shown_items = Cell(f"{own.items:,}", own.items)
            pair = tag("span", _title(row), tag("small", f"{column.name} less {best}"))
            rows.append([pair, Cell(difference(own.difference), own.difference), ends, better, shown_items])
    if not made:
        return None
    heads = ["Difference", "Value", "95 % interval", "Better in", "Items"]
    note = "Both models on the same items, paired. An interval without zero (dashed) is a difference that other items would show too."
    body = [figures(made), details("As a table", table("Differences to the best", heads, rows))]
    return Section("differences", "Distance to the best", body, note)


def _colour(report: Report, run: Run) -> int:
    return next(i for i, column in enumerate(report.columns) if column.run is run)


def _called(report: Report, run: Run) -> str:
    """What a run is called in charts and headings: its column's name, where it has one column."""
    own = [column.name for column in report.columns if column.run is run]
    return own[0] if len(own) == 1 else run.name


def _key(report: Report) -> Html | None:
    """The legend of runs, where there are several."""
    return legend((_colour(report, run), _called(report, run)) for run in report.runs) if len(report.runs) > 1 else None


def training(report: Report) -> Section | None:
    if not any(name.startswith("train/") for run in report.runs for name in run.series):
        return None
    by_tokens = len(report.runs) > 1 and all("train/tokens" in run.series for run in report.runs)

    x_name = "tokens" if by_tokens else "step"

    def curves_of(metric: str, raw: bool = False) -> list[Curve]:
        made = []
        for run in report.runs:
            if metric not in run.series:
                continue
            tokens = run.series.get("train/tokens", {})

            def at(points: reports.Series, tokens: reports.Series = tokens) -> dict[float, float]:
                return {float(tokens[s]) if by_tokens else float(s): y for s, y in points.items() if not by_tokens or s in tokens}

            colour = _colour(report, run)
            if raw and len(report.runs) == 1:
                made.append(Curve(f"{_called(report, run)}, each report", at(run.series[metric]), colour, faint=True))
            made.append(Curve(_called(report, run), at(run.smooth.get(metric, run.series[metric])), colour))
        return made

    def chart(title: str, found: list[Curve], note: str = "", **how: Any) -> Html:
        return figure(title, svg.curves(title, found, x_name=x_name, **how), note)

    charts = [
        chart("Training loss", curves_of("train/loss", True), "nats per predicted token, smoothed", y_text=_three, spikes=True),
        chart("Learning rate", curves_of("train/lr"), zero=True, ends=False),
        chart("Gradient norm", curves_of("train/grad_norm", True), "smoothed", y_text=_three, spikes=True, logarithmic=True),
        chart("Tokens per second", curves_of("train/tokens_per_second"), zero=True),
    ]
    return Section("training", "Training", [_key(report), figures(charts, "wide")])


def _three(value: float) -> str:
    return f"{value:.3g}" if abs(value) < 100 else svg.short(value)


def evolution(report: Report) -> Section | None:
    """Each task over steps, of tasks that were evaluated at two steps or more of a run."""
    made = []
    for row in report.rows:
        found = []
        for run in report.runs:
            points, spread = reports.over_steps(run, row.task, row.metric)
            if points:
                whiskers = {float(step): own for step, own in spread.items()}
                found.append(
                    Curve(_called(report, run), {float(s): y for s, y in points.items()}, _colour(report, run), marks=True, spread=whiskers)
                )
        if not any(len(curve.points) > 1 for curve in found):
            continue
        title = _title(row)
        levels = [Level(*row.reference)] if row.reference else []
        note = ", ".join([_direction(row), *(f"dashed: {level.name} {shown(row.metric, level.y)}" for level in levels)])
        made.append(figure(title, svg.curves(title, found, levels, y_text=partial(_brief, row.metric)), note))
    note = "Points with a line through them have a 95 % interval; the others were logged while training."
    return Section("steps", "Over steps", [_key(report), figures(made, "wide")], note) if made else None


def _signed_brief(metric: str, value: float) -> str:
    return (f"{100 * value:.3g}" if metric.startswith("accuracy") else _three(value)).replace("-", "−")


def _brief(metric: str, value: float) -> str:
    return f"{100 * value:.3g} %" if metric.startswith("accuracy") else _three(value)


def groups(report: Report) -> Section | None:
    made: list[Content] = []
    for row in report.rows:
        if not row.groups or set(row.groups) <= {other.task for other in report.rows}:  # sources of "all" have rows of their own
            continue
        share = row.metric.startswith("accuracy")
        chance = row.reference[1] if row.reference and share else None
        top = max((own.value for found in row.groups.values() for own in found if own), default=1.0) or 1.0
        ordered = sorted(row.groups.items(), key=lambda item: next((own.value for own in item[1] if own), math.inf))
        if row.better == "low":
            ordered.reverse()
        rows = []
        for group, found in ordered:
            cells: list[Cell | Content] = [breakable(group or "(no group)")]
            for i, own in enumerate(found):
                if own is None:
                    cells.append(Cell("–"))
                    continue
                low = chance is not None and own.value < chance
                bar = svg.meter(own.value if share else own.value / top, chance, "below" if low else f"c{i % 8}")
                cells.append(Cell(shown(row.metric, own.value), own.value, [_ends(row.metric, own), bar]))
            rows.append(cells)
        heading = tag("h3", f"{row.task}, {row.metric.replace('_', ' ')} of {len(rows)} groups")
        name = f"{row.task} by group"
        shown_first = 12
        made.append(heading)
        if len(rows) <= shown_first + 4:
            made.append(table(name, ["Group", *_heads(report)], rows))
        else:
            made.append(table(f"{name}, the {shown_first} weakest", ["Group", *_heads(report)], rows[:shown_first]))
            made.append(
                details(
                    f"The other {len(rows) - shown_first} groups",
                    table(f"{name}, the others", ["Group", *_heads(report)], rows[shown_first:]),
                )
            )
    note = "Weakest of the first column first. The dashed mark is chance; bars below it are red."
    return Section("groups", "By group", made, note) if made else None


def samples(report: Report) -> Section | None:
    made: list[Content] = []
    for run in report.runs:
        if run.samples:
            made.append(tag("h3", _called(report, run)) if len(report.runs) > 1 else None)
            made += [tag("pre", tag("b", prompt), written) for prompt, written in run.samples[:MOST_SAMPLES]]
    return Section("samples", "Samples", made, "Prompts are in colour; what follows is the model's.") if made else None


def everything(report: Report) -> Section | None:
    """All numbers, folded by task."""
    made: list[Content] = []
    by_task: dict[str, list[str]] = {}
    tasks = sorted((row.task for row in report.rows), key=len, reverse=True)
    for name in report.metrics:
        inner = name.removeprefix("eval/")
        task = next((t for t in tasks if inner.startswith(f"{t}/")), inner.rpartition("/")[0])
        by_task.setdefault(task, []).append(name)
    for task, names in by_task.items():
        rows: list[Sequence[Cell | Content]] = []
        for name in names:
            short = name.removeprefix(f"eval/{task}/")
            metric = short.rpartition("/")[2]
            values = [None if v is None or not math.isfinite(v) else v for v in report.metrics[name]]
            rows.append([short, *(Cell("–") if v is None else Cell(shown(metric, v), v) for v in values)])
        made.append(details(f"{task} ({len(names)})", table(f"All numbers of {task}", ["Metric", *_heads(report)], rows)))
    return Section("numbers", "All numbers", made, "As the commands print them with --json.") if made else None


def runs(report: Report) -> Section:
    names = [_called(report, run) for run in report.runs]
    rows: list[Sequence[Cell | Content]] = [
        ["Folder", *(tag("code", breakable(column.run.folder)) for column in report.columns)],
        ["Step", *(f"{column.step:,}" for column in report.columns)],
        ["Parameters", *(f"{n:,}" if (n := column.run.parameters) else "–" for column in report.columns)],
        ["Tokens", *("–" if (n := column.tokens) is None else f"{n:,}" for column in report.columns)],
    ]
    for name, label in CONFIG_FACTS.items():
        if any(name in run.config for run in report.runs):
            rows.append([label, *(_value(column.run.config.get(name)) for column in report.columns)])
    rows.append(["Data", *(_mixture(column.run) or "–" for column in report.columns)])
    found = reports.differing(report.runs)
    packages = sorted({name for run in report.runs for name in run.versions})
    body: list[Content] = [
        table("What the columns are", ["", *_heads(report)], rows, numbers=False),
        _folded("What differs in the configs", ["Value", *names], [[_code(name), *map(_value, own)] for name, own in found.items()]),
    ]
    for run, name in zip(report.runs, names, strict=True):
        leaves = [[_code(leaf), _value(value)] for leaf, value in sorted(run.config.items())]
        body.append(_folded(f"Config of {name}", ["Name", "Value"], leaves))
    body.append(_folded("Versions", ["Package", *names], [[p, *(run.versions.get(p, "–") for run in report.runs)] for p in packages]))
    commands: list[Sequence[Content]] = [
        [tag("span", f"{column.name}, {result.name}", tag("small", result.created)), tag("code", result.command)]
        for column in report.columns
        for result in column.results
    ]
    return Section("runs", "Runs", [*body, _folded("Commands", ["Evaluation", "Command"], commands)])


def _code(name: str) -> Html:
    return tag("code", breakable(name))


def _folded(title: str, heads: Sequence[Content], rows: Sequence[Sequence[Cell | Content]]) -> Html | None:
    """A table of words behind its title; nothing where it has no rows."""
    return details(f"{title} ({len(rows)})", table(title, heads, rows, numbers=False)) if rows else None


SECTIONS: tuple[Callable[[Report], Section | None], ...] = (
    comparison, forest, differences, training, evolution, groups, samples, everything, runs,
)  # fmt: skip
