"""Scores fine-tuned runs on labelled texts: GLUE, SuperGLUE and your own, by each task's own metrics; writes files for leaderboards."""

import argparse
from pathlib import Path
from typing import Any

from pretrainx.core import cli
from pretrainx.core.errors import InputError, nearest

EPILOG = """A run is scored on the labelled corpora of its own mixture, or on those that --corpora names, of its config's data.corpora or
built in (glue_rte, superglue_boolq, ...: read through TFDS). Of several runs together that have all tasks of GLUE or SuperGLUE the
leaderboard's score is shown too.

example: python tools/score_tasks.py --workdir runs/rte runs/mrpc --split=validation --json
         python tools/score_tasks.py --workdir runs/rte --split=test --submission=submissions
"""


def main(argv: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(description=__doc__, epilog=EPILOG, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--workdir", type=Path, nargs="+", required=True, help="folders of fine-tuned runs")
    parser.add_argument("--corpora", nargs="+", default=[], metavar="NAME", help="labelled corpora (default: those of each run's mixture)")
    parser.add_argument("--split", default="validation", help="train, validation or test (default: %(default)s)")
    parser.add_argument("--step", type=int, help="which checkpoint (default: the last)")
    parser.add_argument("--limit", type=int, default=0, help="this many records, from the start; 0: all (default)")
    parser.add_argument("--batch_size", type=int, default=0, help="examples at once; 0: the run's (default)")
    parser.add_argument("--submission", type=Path, metavar="DIR", help="write the leaderboard's file of each task into this folder")
    parser.add_argument("--json", action="store_true", help="print the numbers as one JSON object on the last line of stdout")
    args = cli.parse_args(parser, argv)
    if args.split not in ("train", "validation", "test"):
        raise InputError(f"--split={args.split}: {nearest(args.split, ('train', 'validation', 'test'))}")

    from pretrainx.train import trained

    found: dict[str, dict[str, float]] = {}
    for folder in args.workdir:
        model = trained.load(folder, args.step)
        for name, metrics in score_run(model, folder, args).items():
            if name in found:
                raise InputError(f"--workdir: corpus {name!r} belongs to two of the runs; score them one by one")
            found[name] = metrics
    boards = leaderboards(found)
    if args.json:
        flat = {f"eval/{name}/{metric}": value for name, own in found.items() for metric, value in own.items()}
        cli.print_json({"split": args.split, **flat, **{f"eval/{board}/score": value for board, value in boards.items()}})
    else:
        show(args.split, found, boards)
    return 0


def score_run(model: Any, folder: Path, args: argparse.Namespace) -> dict[str, dict[str, float]]:
    """{corpus: metrics} of one run."""
    from pretrainx.core.logs import log
    from pretrainx.data.mixture_spec import parse_mixture
    from pretrainx.evaluate import labelled, submission
    from pretrainx.objectives.examples import make_objective
    from pretrainx.tasks import corpora
    from pretrainx.tasks.labelled import scoring

    data, found = model.experiment.data, {}
    objectives = {corpus: objective for corpus, objective in parse_mixture(data)}
    known = corpora.known(data)
    names = args.corpora or [name for name in objectives if name in known and known[name].task]
    if not names:
        raise InputError(f"--workdir {folder}: nothing in its mixture is labelled; name --corpora")
    for name in names:
        corpus = corpora.get(name, data)
        if not corpus.task:
            raise InputError(f"--corpora {name}: it is plain text, scored by tools/evaluate.py")
        task = corpora.task_of(name, corpus)
        wanted = "classify" if corpus.form == "classes" else "text_to_text"
        chosen = objectives.get(name) or next(iter(objectives.values()))
        objective: Any = make_objective(chosen, data, model.vocabulary)
        if not objective.reads or (corpus.form == "classes") != hasattr(objective, "num_classes"):
            raise InputError(f"--corpora {name}: the run was trained on {chosen!r}, and form {corpus.form!r} needs {wanted!r}")
        if corpus.form == "classes" and objective.num_classes != task.num_classes:
            raise InputError(f"--corpora {name}: it has {task.num_classes} classes, and the run's head has {objective.num_classes}")
        examples = corpora.read_examples(name, corpus, args.split, args.limit)
        batch_size = args.batch_size or model.experiment.eval_batch_size
        made = labelled.predict(
            model.skeleton, model.params, model.vocabulary, objective, task, corpus.form, examples, batch_size, f"{name} {args.split}"
        )
        if args.submission:
            path = submission.write(args.submission, name, task, corpus.form, examples, made)
            log(f"{name}: {len(made):,} answers in {path}")
        if not args.submission or args.split != "test":
            found[name] = scoring.score(task, corpus.form, examples, made)
            keep(model, folder, name, args, found[name], labelled.credits(task, corpus.form, examples, made))
    return found


def keep(model: Any, folder: Path, name: str, args: argparse.Namespace, metrics: dict[str, float], credits: Any) -> None:
    """Leaves the numbers in the run's folder, for tools/report.py."""
    from pretrainx.evaluate import results

    where = name if args.split == "validation" else f"{name}_{args.split}"
    line = results.command_line("score_tasks", ["--workdir", str(folder), "--corpora", name, "--split", args.split])
    own = {f"eval/{where}/{metric}": value for metric, value in metrics.items()}
    settings = {"split": args.split, "limit": args.limit, "parameters": model.skeleton.num_params}
    items = {where: credits} if credits else {}
    results.keep(folder, results.Result("score_tasks", f"tasks-{where}", model.step, line, own, items, settings))


def leaderboards(found: dict[str, dict[str, float]]) -> dict[str, float]:
    """{"glue" or "superglue": score} of the boards all of whose tasks are there."""
    from pretrainx.metrics.leaderboards import glue_score, superglue_score

    boards = {}
    for prefix, score in (("glue", glue_score), ("superglue", superglue_score)):
        own = {name.removeprefix(f"{prefix}_").removesuffix("_words"): m for name, m in found.items() if name.startswith(f"{prefix}_")}
        try:
            boards[prefix] = score(own)
        except InputError:
            continue  # some of its tasks are not there
    return boards


def show(split: str, found: dict[str, dict[str, float]], boards: dict[str, float]) -> None:
    from rich.console import Console
    from rich.table import Table

    table = Table(title=f"labelled texts, split {split}", title_justify="left")
    table.add_column("corpus")
    for heading in ("examples", "metrics"):
        table.add_column(heading, justify="right")
    for name, metrics in found.items():
        shown = ", ".join(f"{metric} {100 * value:.2f}" for metric, value in metrics.items() if metric != "items")
        table.add_row(name, f"{metrics['items']:,.0f}", shown)
    for board, value in boards.items():
        table.add_row(f"[bold]{board}[/]", "", f"[bold]score {100 * value:.2f}[/]")
    Console(width=max(100, Console().width)).print(table)


if __name__ == "__main__":
    cli.run(main)
