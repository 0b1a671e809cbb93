"""Compares runs and checkpoints by what was evaluated: a table, an HTML page with pictures, and the numbers as JSON."""

import argparse
from pathlib import Path
from typing import Any

from pretrainx.core import cli
from pretrainx.core.errors import InputError

EPILOG = """RUN is a run's folder (its last evaluated step), FOLDER@STEP, or FOLDER@all for every step that was evaluated.

What is shown is what tools/evaluate.py and tools/score_choices.py left in the run's evaluations/, and its training log. The best of a
row is bold; < and > mark what is surely lower or higher than it: the 95 % interval of the paired bootstrap excludes zero. Texts appear on
the page if `python tools/sample.py --workdir=RUN --json > RUN/samples.json` was run before.

example: python tools/report.py --runs runs/small runs/large@2000 --names small large --out=report.html
"""


def main(argv: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(
        description=__doc__, epilog=EPILOG, formatter_class=argparse.RawDescriptionHelpFormatter, allow_abbrev=False
    )
    parser.add_argument("--runs", nargs="+", required=True, metavar="RUN", help="what to show, see below")
    parser.add_argument("--names", nargs="+", default=[], metavar="NAME", help="what to call them, in their order (default: their folders)")
    parser.add_argument("--out", type=Path, help="write the page here: one HTML file that needs nothing else")
    parser.add_argument("--all", action="store_true", help="every number in the table, not one for each task")
    parser.add_argument("--seed", type=int, default=0, help="of the bootstrap (default: %(default)s)")
    parser.add_argument("--json", action="store_true", help="print the numbers as one JSON object on stdout")
    args = cli.parse_args(parser, argv)
    if args.seed < 0:
        raise InputError(f"--seed {args.seed}: accepted are 0 and above")
    if args.out and args.out.is_dir():
        raise InputError(f"--out {args.out}: that is a folder; name a file, such as {args.out / 'report.html'}")

    from pretrainx.core import files
    from pretrainx.core.logs import log
    from pretrainx.evaluate import report as reports
    from pretrainx.evaluate import report_page
    from pretrainx.train import runs

    report = reports.build(runs.columns(args.runs, args.names), args.seed)
    if args.out:
        files.write_bytes(args.out, report_page.html(report).encode("utf-8"))
        log(f"report: {args.out}")
    if args.json:
        cli.print_json(reports.to_json(report))
    else:
        show(report, args.all)
    return 0


def show(report: Any, everything: bool) -> None:
    """The table on stdout, and why rows are not compared."""
    import math

    from rich.console import Console
    from rich.markup import escape
    from rich.table import Table

    from pretrainx.evaluate.report import shown

    def heading(column: Any) -> str:
        step = f"step {column.step:,}"
        return escape(column.name if column.name.endswith(f"@ {column.step:,}") else f"{column.name}\n{step}")

    def text(row: Any, cell: Any) -> str:
        if cell is None:
            return "-"
        value = shown(row.metric, cell.interval.value)
        value = f"[bold]{value}[/]" if cell.best else value
        if cell.against_best and cell.against_best.sure:
            value += " >" if cell.against_best.difference > 0 else " <"
        if math.isfinite(cell.interval.low):
            value += f"\n[dim]{shown(row.metric, cell.interval.low)} to {shown(row.metric, cell.interval.high)}[/]"
        return value

    def made(title: str, *first: str) -> Table:
        table = Table(title=title, title_justify="left")
        for name in first:
            table.add_column(name)
        for column in report.columns:
            table.add_column(heading(column), justify="right")
        return table

    console = Console(width=max(140, Console().width))  # a log is not a terminal of 80 columns
    table = made("evaluations, with 95 % intervals", "task", "metric", "to compare")
    for row in report.rows:
        compared = f"{row.reference[0]} {shown(row.metric, row.reference[1])}" if row.reference else ""
        table.add_row(escape(row.task), row.metric, compared, *(text(row, cell) for cell in row.cells))
    console.print(table)
    for row in report.rows:
        if row.note and len(report.columns) > 1:
            console.print(escape(f"{row.task}: {row.note}"))
    if everything:
        table = made("all numbers", "metric")
        for name, values in report.metrics.items():
            metric = name.rpartition("/")[2]
            table.add_row(escape(name), *("-" if value is None else shown(metric, value) for value in values))
        console.print(table)


if __name__ == "__main__":
    cli.run(main)
