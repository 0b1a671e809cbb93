"""The picture of a run: loss, bits per byte, learning rate, gradient norm and speed against the step, as one PNG."""

import io
import json
import math
import re
import warnings
from pathlib import Path
from typing import Any

from pretrainx.core.files import write_bytes

Series = dict[int, float]  # value by step

INK, GRID = "#22252a", "#e3e5e8"
COLOURS = ("#3b6fb6", "#d1732a", "#3a8f5c", "#a4508b", "#8a6d3b", "#4aa3a3", "#b23a48", "#6b6f76")
# Counted n-grams that an evaluation wrote beside the model: eval/<source>/ngram_5/bits_per_byte.
NGRAM = re.compile(r"eval/(?P<source>.+)/ngram_?(?P<order>\d+)[/_]bits_per_byte")
MODEL = re.compile(r"eval/(?P<source>.+)/bits_per_byte")
LOSS = re.compile(r"eval/(?P<source>.+)/loss")


def draw(metrics_jsonl: Path, out_png: Path) -> None:
    """Writes the curves of a run's metrics.jsonl; a torn line or a value that is no number is passed over."""
    series = read(metrics_jsonl)
    with warnings.catch_warnings():
        # A source may be named in letters that the font lacks; the picture then has a box there and is still useful.
        warnings.simplefilter("ignore")
        write_bytes(out_png, _render(series, metrics_jsonl.resolve().parent.name))


def read(metrics_jsonl: Path) -> dict[str, Series]:
    """{metric: {step: value}} in the order of steps; where a step was lived twice (after a restart) the later row counts."""
    series: dict[str, Series] = {}
    for line in metrics_jsonl.read_text(encoding="utf-8", errors="replace").splitlines():
        try:
            row = json.loads(line)
        except (ValueError, RecursionError):
            continue
        step = row.get("step") if isinstance(row, dict) else None
        if not isinstance(step, int):
            continue
        for name, value in row.items():
            if isinstance(value, (int, float)) and not isinstance(value, bool) and name != "step" and math.isfinite(value):
                series.setdefault(name, {})[step] = float(value)
    return {name: dict(sorted(values.items())) for name, values in series.items()}


def baselines(series: dict[str, Series]) -> dict[str, tuple[int, float]]:
    """The best counted n-gram of each source: {source: (order, bits per byte)}."""
    best: dict[str, tuple[int, float]] = {}
    for name, values in series.items():
        if match := NGRAM.fullmatch(name):
            bits = list(values.values())[-1]
            if match["source"] not in best or bits < best[match["source"]][1]:
                best[match["source"]] = (int(match["order"]), bits)
    return best


def _render(series: dict[str, Series], title: str) -> bytes:
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    # Figure, not pyplot: no global state and no choice of a backend in the training process.
    figure = Figure(figsize=(12.5, 7.2), dpi=130, layout="constrained", facecolor="white")
    FigureCanvasAgg(figure)
    grid = figure.add_gridspec(2, 6)
    _loss(figure.add_subplot(grid[0, :3]), series)
    _held_out(figure.add_subplot(grid[0, 3:]), series)
    _learning_rate(figure.add_subplot(grid[1, :2]), series)
    _grad_norm(figure.add_subplot(grid[1, 2:4]), series)
    _speed(figure.add_subplot(grid[1, 4:]), series)
    figure.suptitle(_plain(title), fontsize=13, fontweight="bold", color=INK)
    out = io.BytesIO()
    figure.savefig(out, format="png", metadata={"Software": None})
    return out.getvalue()


def _loss(axes: Any, series: dict[str, Series]) -> None:
    values = series.get("train/loss", {})
    _style(axes, "training loss (nats per predicted token)", values)
    if values:
        axes.plot(*_xy(values), color=COLOURS[0], linewidth=0.8, alpha=0.4)
        smooth = smoothed(values)
        axes.plot(*_xy(smooth), color=COLOURS[0], linewidth=2)
        _limit(axes, values)
        _end(axes, smooth, COLOURS[0], f"{list(smooth.values())[-1]:.3f}")


def _held_out(axes: Any, series: dict[str, Series]) -> None:
    """Bits per byte by source; of objectives that predict no text, the loss of each term."""
    found = {match["source"]: values for name, values in series.items() if (match := MODEL.fullmatch(name)) and not NGRAM.fullmatch(name)}
    title = "held-out bits per byte"
    if not found:
        found = {match["source"]: values for name, values in series.items() if (match := LOSS.fullmatch(name))}
        title = "held-out loss (nats per prediction)" if found else title
    best = baselines(series)
    sources = sorted(found | best, key=lambda source: (source == "all", source))
    _style(axes, title, {step: value for values in found.values() for step, value in values.items()})
    for number, source in enumerate(sources):
        colour = INK if source == "all" else COLOURS[number % len(COLOURS)]
        label = _plain(source)
        if source in found:
            axes.plot(*_xy(found[source]), color=colour, linewidth=2, marker="o", markersize=3.5, label=label)
            label = ""
            _end(axes, found[source], colour, f"{list(found[source].values())[-1]:.3f}")
        if source in best:
            order, bits = best[source]
            axes.axhline(
                bits,
                color=colour,
                linewidth=1.2,
                linestyle=(0, (5, 3)),
                alpha=0.8,
                label=f"{label or _plain(source)}, {order}-gram {bits:.2f}",
            )
    if sources:
        axes.legend(fontsize=8, frameon=False, ncols=1 + (len(axes.get_lines()) > 6), labelcolor=INK)


def _learning_rate(axes: Any, series: dict[str, Series]) -> None:
    values = series.get("train/lr", {})
    _style(axes, "learning rate", values)
    if values:
        axes.plot(*_xy(values), color=COLOURS[2], linewidth=2)
        axes.set_ylim(bottom=0)
        axes.yaxis.set_major_formatter(lambda value, _: f"{value:.3g}")


def _grad_norm(axes: Any, series: dict[str, Series]) -> None:
    values = series.get("train/grad_norm", {})
    _style(axes, "gradient norm", values)
    if values:
        axes.plot(*_xy(values), color=COLOURS[3], linewidth=0.8, alpha=0.4)
        axes.plot(*_xy(smoothed(values)), color=COLOURS[3], linewidth=2)
        if min(values.values()) > 0 and max(values.values()) > 20 * min(values.values()):
            axes.set_yscale("log")


def _speed(axes: Any, series: dict[str, Series]) -> None:
    values = series.get("train/tokens_per_second", {})
    _style(axes, "tokens per second", values)
    if not values:
        return
    axes.plot(*_xy(values), color=COLOURS[5], linewidth=1.6)
    axes.set_ylim(bottom=0, top=1.15 * max(values.values()) or 1)
    axes.yaxis.set_major_formatter(lambda value, _: f"{value:,.0f}")
    if waits := list(series.get("train/data_wait_share", {}).values()):
        note = f"waiting for data: mean {sum(waits) / len(waits):.1%}, most {max(waits):.1%}"
        axes.text(0.02, 0.05, note, transform=axes.transAxes, fontsize=8, color=INK)


def _style(axes: Any, title: str, values: Series) -> None:
    axes.set_title(title, fontsize=10, color=INK, loc="left")
    axes.set_xlabel("step", fontsize=8, color=INK)
    axes.tick_params(labelsize=8, colors=INK, length=0)
    axes.grid(color=GRID, linewidth=0.8)
    axes.set_axisbelow(True)
    axes.xaxis.set_major_formatter(lambda value, _: f"{value:,.0f}")
    axes.locator_params(axis="x", nbins=6, integer=True)
    for side in ("top", "right", "left"):
        axes.spines[side].set_visible(False)
    axes.spines["bottom"].set_color("#b5b9bf")
    if values:
        axes.set_xlim(0, 1.1 * max(values) or 1)  # room at the right for the last value
    else:
        axes.text(0.5, 0.5, "nothing logged yet", transform=axes.transAxes, ha="center", va="center", fontsize=9, color="#8b9097")
        axes.set_xticks([])
        axes.set_yticks([])


def _limit(axes: Any, values: Series) -> None:
    """Leaves a single spike outside, so that the rest of the curve keeps its height."""
    ordered = sorted(values.values())
    top, bottom = ordered[min(len(ordered) - 1, int(0.995 * len(ordered)))], ordered[0]
    margin = 0.05 * (top - bottom) or 0.05 * abs(top) or 1
    axes.set_ylim(bottom - margin, top + margin)


def _end(axes: Any, values: Series, colour: str, text: str) -> None:
    last = (list(values)[-1], list(values.values())[-1])
    box = {"facecolor": "white", "edgecolor": "none", "pad": 0.6, "alpha": 0.85}
    axes.annotate(text, last, xytext=(6, 0), textcoords="offset points", fontsize=8, color=colour, va="center", bbox=box)


def smoothed(values: Series) -> Series:
    """An exponential mean over about a fiftieth of the points, corrected for its start."""
    keep = 1 - 1 / max(1, len(values) / 50)
    total = weight = 0.0
    smooth = {}
    for step, value in values.items():
        total, weight = keep * total + value, keep * weight + 1
        smooth[step] = total / weight
    return smooth


def _xy(values: Series) -> tuple[list[int], list[float]]:
    return list(values), list(values.values())


def _plain(name: str) -> str:
    """A name as it stands: `$` begins a formula in matplotlib, and a leading `_` hides a label."""
    text = name.replace("$", r"\$")
    return f" {text}" if text.startswith("_") else text
