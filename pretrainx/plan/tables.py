"""The tables of docs/plans.md, made anew by a command (tools/plan_tables.py), so that they say what the code says."""

from collections.abc import Callable
from pathlib import Path

from pretrainx.core import config as configs
from pretrainx.core.errors import InputError
from pretrainx.plan import calibration, estimate, topology
from pretrainx.train import experiment

# Each large config on the topologies that its plan is shown for.
LARGE = (
    ("llama3_8b", "v5p-256"), ("llama3_8b", "h100x128"), ("llama2_70b", "v6e-256"), ("llama3_70b", "v5p-1024"), ("llama3_70b", "h100x512"),
    ("gpt3_175b", "v5p-1024"), ("palm_540b", "v4-4096x2"),
)  # fmt: skip


def large(root: Path) -> str:
    rows = [
        "| config | topology | chips | GB a chip | step, s | MFU | tokens/s | days | FLOPs of the run |",
        "|---|---|--:|--:|---|--:|--:|--:|--:|",
    ]
    for name, place in LARGE:
        found = estimate.plan(experiment.load(configs.load(f"{root}/configs/{name}.py")), topology.parse(place))
        fits = f"{found['peak_bytes'] / 1e9:.1f} of {found['hbm_limit_bytes'] / 1e9:.0f}" + ("" if found["fits"] else " (does not fit)")
        seconds = f"{found['step_seconds']:.3g} ({found['step_seconds_low']:.3g} to {found['step_seconds_high']:.3g})"
        rows.append(
            f"| {name} | {place} | {found['chips']:,} | {fits} | {seconds} | {found['mfu']:.1%} | {found['tokens_per_second']:,.0f} | "
            f"{found['days']:,.0f} | {found['run_flops']:.3g} |"
        )
    return "\n".join(rows)


def published(root: Path) -> str:
    found, unseen = calibration.compare(), calibration.left_out()
    low, high = calibration.ASSUMED.interval
    held = sum(low * c.predicted <= c.published <= high * c.predicted for c in found)
    all_in, left_out = calibration.median_error(found), calibration.median_error(unseen)
    rows = [
        f"{len(found)} points: the median error of the step time is {all_in:.1%}, and {left_out:.1%} where a point has no say in its",
        "chip's efficiency;",
        f"the interval ({low:.2f} to {high:.2f} of the estimate) holds {held}.",
        "",
        "| model | chips | rows x length a chip | published, s | predicted, s | error | source |",
        "|---|---|---|--:|--:|--:|---|",
    ]
    for c in found:
        run = c.point.run
        rows.append(
            f"| {c.point.model} | {run.chips:,} {run.chip.name} | {run.rows:g} x {run.length:,} | {c.published:.3f} | {c.predicted:.3f} | "
            f"{c.error:+.1%} | {c.point.source} |"
        )
    return "\n".join(rows)


TABLES: dict[str, Callable[[Path], str]] = {"large configs": large, "published runs": published}


def filled(document: str, root: Path) -> str:
    """The document with each table between its two comments, `<!-- table: NAME -->` and `<!-- end -->`, made anew.

    Raises:
      InputError: the document lacks one of the tables' places.
    """
    for name, make in TABLES.items():
        begin, end = f"<!-- table: {name} -->\n", "\n<!-- end -->"
        head, found, rest = document.partition(begin)
        _, closed, tail = rest.partition(end)
        if not found or not closed:
            raise InputError(f"docs/plans.md: no place for the table {name!r}; expected {begin.strip()!r} and below it {end.strip()!r}")
        document = head + begin + make(root) + end + tail
    return document
