"""Scores a trained model on multiple choice, minimal pairs and last words, by how likely it finds each answer."""

import argparse
import sys
import time
from functools import partial
from pathlib import Path
from typing import Any

from pretrainx.core import cli
from pretrainx.core import config as configs
from pretrainx.core.errors import InputError, nearest

EPILOG = """tasks:
{tasks}

FILE is JSON lines or, for lambada, plain lines (.gz and .zst too), or a glob in quotes. NAME:TASK=FILE gives a task's metrics another name.

Accuracies are by sum of log-likelihoods, per token, per byte, and pmi: less the log-likelihood after a neutral context. k answers
that share the first place count 1/k. Intervals are 95 % of a bootstrap; the task's headline is in bold. Each task's numbers, with the
credit of each question, stay in the run's evaluations/, from where tools/report.py compares runs.

example: python tools/score_choices.py --workdir=runs/quickstart --tasks blimp=blimp.jsonl.gz mine:pairs=my.jsonl --fields mine.good=right
"""


def main(argv: list[str] | None = None) -> int:
    from pretrainx.evaluate.choices.tasks import TASKS, read_task

    lines = [f"  {name:<15} {task.about} ({', '.join(f'{r}: {key}' for r, key in task.fields.items())})" for name, task in TASKS.items()]
    parser = argparse.ArgumentParser(
        description=__doc__, epilog=EPILOG.format(tasks="\n".join(lines)),
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )  # fmt: skip
    cli.add_config_flags(parser)
    parser.add_argument("--workdir", type=Path, required=True, help="folder of the run; with a --config the model is put on its mesh")
    parser.add_argument("--tasks", nargs="+", required=True, metavar="[NAME:]TASK=FILE", help="what to score on, see below")
    parser.add_argument("--fields", nargs="+", default=[], metavar="NAME.ROLE=KEY", help="keys of your own files, by the roles below")
    parser.add_argument("--step", type=int, help="which checkpoint (default: the last)")
    parser.add_argument("--limit", type=int, default=0, help="this many items of each task, evenly over its files; 0: all (default)")
    parser.add_argument(
        "--way",
        help="causal, prefix (the context sees itself both ways), encoder_decoder (the context in the encoder), masked or masked_words "
        "(pseudo-log-likelihood); default: as trained",
    )
    parser.add_argument("--seed", type=int, default=0, help="of the bootstrap (default: %(default)s)")
    parser.add_argument("--by_group", action="store_true", help="show groups one by one, where a task has them (blimp: its paradigms)")
    parser.add_argument("--json", action="store_true", help="print the numbers as one JSON object on stdout")
    words = sys.argv[1:] if argv is None else argv
    rest, overrides = cli.split_overrides(words)
    args = cli.parse_args(parser, rest)
    if args.limit < 0:
        raise InputError(f"--limit {args.limit}: accepted are 0 (all) and above")
    if overrides and not args.config:
        raise InputError("--config.PATH=VALUE needs a --config=FILE that it changes")
    config = configs.load(args.config, overrides) if args.config else None
    fields = split_fields(args.fields, named := split_tasks(args.tasks))
    tasks = [read_task(name, kind, pattern, fields[name], args.limit) for name, (kind, pattern) in named.items()]

    from pretrainx.evaluate import results
    from pretrainx.evaluate.likelihood import Scorer, natural_way
    from pretrainx.train import trained

    model = trained.load(args.workdir, args.step, config)
    way = args.way or natural_way(model.skeleton.config, lambda: list(trained.objectives_of(model).values()))
    section = model.experiment
    batch_size = section.eval_batch_size
    scorer = Scorer(model.skeleton, model.vocabulary, batch_size, way, section.data.sequence_length, show=True)
    found: dict[str, float] = {}
    for task in tasks:
        start = time.monotonic()
        own, items = task.judge(partial(scorer, model.params, what=task.name), args.seed)
        own[f"eval/{task.name}/seconds"] = time.monotonic() - start
        settings = {
            "way": way, "sequence_length": section.data.sequence_length, "dtype": section.train.dtype, "limit": args.limit,
            "files": named[task.name][1], "headline": task.task.headline, "parameters": model.skeleton.num_params,
        }  # fmt: skip
        line = results.command_line("score_choices", words)
        results.keep(
            args.workdir,
            results.Result("score_choices", f"choices-{task.name}", model.step, line, own, {task.name: items}, settings),
        )
        found |= own
    if args.json:
        cli.print_json({"step": model.step, "way": way, **found})
    else:
        show(f"{args.workdir}, step {model.step}, read {way}", tasks, found, args.by_group)
    return 0


def split_tasks(words: list[str]) -> dict[str, tuple[str, str]]:
    """{name: (task, files)} of "TASK=FILE" and "NAME:TASK=FILE"."""
    found: dict[str, tuple[str, str]] = {}
    for word in words:
        left, _, pattern = word.partition("=")
        name, _, kind = left.rpartition(":")
        name = name or kind
        if not (kind and pattern):
            raise InputError(f"--tasks {word!r}: expected TASK=FILE or NAME:TASK=FILE, such as blimp=blimp.jsonl.gz")
        if name in found:
            raise InputError(f"--tasks: two are called {name!r}; name one of them apart: OTHER:{kind}={pattern}")
        found[name] = (kind, pattern)
    return found


def split_fields(words: list[str], tasks: dict[str, Any]) -> dict[str, dict[str, str]]:
    """{name of a task: {role: key}} of "NAME.ROLE=KEY"."""
    found: dict[str, dict[str, str]] = {name: {} for name in tasks}
    for word in words:
        left, _, key = word.partition("=")
        name, _, role = left.rpartition(".")
        if not (name and role and key):
            raise InputError(f"--fields {word!r}: expected NAME.ROLE=KEY, such as pairs.good=chosen")
        if name not in found:
            raise InputError(f"--fields {word!r}: no task of that name; {nearest(name, found)}")
        found[name][role] = key
    return found


def show(title: str, tasks: list[Any], found: dict[str, float], by_group: bool) -> None:
    """The tables on stdout."""
    from rich.console import Console
    from rich.table import Table

    from pretrainx.evaluate.choices.accuracy import NORMALISATIONS

    def accuracy(prefix: str) -> str:
        value, low, high = (100 * found[prefix + end] for end in ("", "_low", "_high"))
        return f"{value:.1f} ({low:.1f} to {high:.1f})" if low <= high else f"{value:.1f}"  # unknown where a group has one item

    def table(heading: str, *columns: str) -> Table:
        made = Table(title=heading, title_justify="left")
        made.add_column("task")
        for column in columns:
            made.add_column(column, justify="right")
        return made

    def cost(name: str) -> tuple[str, str]:
        seconds, items = found[f"eval/{name}/seconds"], found[f"eval/{name}/items"]
        return f"{seconds:.1f}", f"{items / max(seconds, 1e-9):,.1f}"

    console = Console(width=max(140, Console().width))  # a log is not a terminal of 80 columns
    chosen = table(f"{title}: % right of choices", "items", "chance", *(n.replace("_", " ") for n in NORMALISATIONS), "s", "items/s")
    words = table(f"{title}: last words", "items", "% right", "perplexity", "s", "items/s")
    for task in tasks:
        prefix = f"eval/{task.name}"
        items = f"{found[f'{prefix}/items']:,.0f}"
        if task.task.measure == "last_word":
            words.add_row(task.name, items, accuracy(f"{prefix}/accuracy"), f"{found[f'{prefix}/perplexity']:,.1f}", *cost(task.name))
            continue
        cells = [(name, accuracy(f"{prefix}/accuracy_{name}")) for name in NORMALISATIONS]
        shown = (f"[bold]{text}[/]" if name == task.task.headline else text for name, text in cells)
        chosen.add_row(task.name, items, f"{100 * found[f'{prefix}/chance']:.1f}", *shown, *cost(task.name))
    for made in (chosen, words):
        if made.row_count:
            console.print(made)
    for task in tasks:
        groups = sorted({question.group for question in task.questions} - {""})
        if by_group and groups:
            own = table(f"{task.name}: % right by group", "% right")
            for group in groups:
                own.add_row(group, f"{100 * found[f'eval/{task.name}/{group}/accuracy']:.1f}")
            console.print(own)
        for what, said in (("cut", "longer than the model sees at once, and lost their beginning"), ("crossed", "spelled across the seam")):
            if count := found[f"eval/{task.name}/{what}"]:
                console.print(f"{task.name}: {count:,.0f} texts were {said}")


if __name__ == "__main__":
    cli.run(main)
