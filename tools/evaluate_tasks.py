"""Evaluates a run's checkpoint on SeqIO Tasks and Mixtures as others wrote them, by what it writes and how likely it finds texts."""

import argparse
import json
import os
import sys
from dataclasses import replace
from pathlib import Path
from typing import Any

from pretrainx.core import cli
from pretrainx.core import config as configs
from pretrainx.core.errors import InputError
from pretrainx.core.logs import log

EPILOG = """A module registers the Tasks, as for t5 and t5x: features `inputs` and `targets`, a `postprocess_fn`, and `metric_fns` of
(targets, predictions), (targets, scores) or (targets, predictions, aux_values). Metrics that need no TensorFlow are in
pretrainx.metrics: text.bleu, text.rouge, text.squad, labels.accuracy, labels.multirc and others.

inputs go in unchanged: into the encoder, or, in a model without one, before what it writes. --objective prompts as one of the
run's objectives does instead (a model that was only ever trained on span corruption fills in a sentinel).

example: python tools/evaluate_tasks.py --workdir=runs/t5_small --module=my_tasks --tasks my_summaries my_answers --num_examples=500
"""


def main(argv: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(description=__doc__, epilog=EPILOG, formatter_class=argparse.RawDescriptionHelpFormatter)
    cli.add_config_flags(parser)
    parser.add_argument("--workdir", type=Path, required=True, help="folder of the run; with a --config the model is put on its mesh")
    parser.add_argument("--tasks", nargs="+", required=True, metavar="NAME", help="names of Tasks and Mixtures")
    parser.add_argument("--module", help="a Python module that registers them (default: data.module of the run's config)")
    parser.add_argument("--split", default="validation", help="(default: %(default)s)")
    parser.add_argument("--step", type=int, help="which checkpoint (default: the last)")
    parser.add_argument("--num_examples", type=int, default=0, help="the first so many of each Task; 0: all (default)")
    parser.add_argument("--objective", help="prompt the model as this one of its objectives taught it (default: inputs as they are)")
    parser.add_argument("--num_tokens", type=int, default=0, help="tokens to make; 0: as many as a Task's longest target (default)")
    parser.add_argument("--inputs_length", type=int, default=0, help="cut inputs to so many tokens; 0: nothing is cut (default)")
    parser.add_argument("--targets_length", type=int, default=0, help="cut targets to so many tokens; 0: nothing is cut (default)")
    parser.add_argument("--num_beams", type=int, help="search for the likeliest text with so many beams")
    parser.add_argument("--length_penalty", type=float, default=0.6, help="of beam search: 0 is none (default: %(default)s)")
    parser.add_argument("--temperature", type=float, default=0.0, help="of sampling; 0 is greedy (default: %(default)s)")
    parser.add_argument("--top_k", type=int, default=0, help="keep the k most likely tokens; 0: all (default: %(default)s)")
    parser.add_argument(
        "--top_p", type=float, default=1.0, help="keep the most likely tokens up to this probability (default: %(default)s)"
    )
    parser.add_argument("--seed", type=int, default=0, help="of the sampling (default: %(default)s)")
    parser.add_argument("--batch_size", type=int, default=16, help="examples at once (default: %(default)s)")
    parser.add_argument("--out", type=Path, help="a file for inputs, predictions and targets, one JSON object a line")
    parser.add_argument("--json", action="store_true", help="print the numbers as one JSON object on stdout")
    rest, overrides = cli.split_overrides(argv if argv is not None else sys.argv[1:])
    args = cli.parse_args(parser, rest)
    require_ranges(args)
    if overrides and not args.config:
        raise InputError("--config.PATH=VALUE needs a --config=FILE that it changes")
    config = configs.load(args.config, overrides) if args.config else None

    os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")  # TensorFlow's notes on start-up

    from pretrainx.evaluate import seqio_tasks
    from pretrainx.evaluate.beam import Beam
    from pretrainx.evaluate.sampling import Sampling
    from pretrainx.train import trained

    choice = Beam(args.num_beams, args.length_penalty) if args.num_beams is not None else Sampling(args.temperature, args.top_k, args.top_p)
    model = trained.load(args.workdir, args.step, config)
    data = model.experiment.data
    tasks = seqio_tasks.find_tasks(args.tasks, args.split, replace(data, module=args.module or data.module), model.vocabulary)
    answers = seqio_tasks.Answers(
        model.skeleton, model.params, model.vocabulary, prompter(model, args.objective), choice, args.num_tokens, args.batch_size,
        args.seed, show=True,
    )  # fmt: skip
    lengths = {name: size for name, size in (("inputs", args.inputs_length), ("targets", args.targets_length)) if size}
    found = {task.name: seqio_tasks.evaluate(task, answers, args.split, args.num_examples, lengths) for task in tasks}
    if args.out:
        write(args.out, [example for own in found.values() for example in own.examples])
    for name, own in found.items():
        for metric, said in own.signatures.items():
            log(f"{metric}: {said}")
        if own.left_out:
            log(f"Task {name!r}: metrics that are no number: {', '.join(own.left_out)}")
    if args.json:
        costs: dict[str, float] = {f"eval/{name}/examples": len(own.examples) for name, own in found.items()}
        costs |= {f"eval/{name}/seconds": own.seconds for name, own in found.items()}
        metrics = {name: value for own in found.values() for name, value in own.metrics.items()}
        signatures = {metric: said for own in found.values() for metric, said in own.signatures.items()}
        cli.print_json({"step": model.step, "split": args.split, **costs, **metrics, "signatures": signatures})
    else:
        show(f"{args.workdir}, step {model.step}, split {args.split}", found)
    return 0


def require_ranges(args: argparse.Namespace) -> None:
    for flag in ("num_examples", "num_tokens", "inputs_length", "targets_length"):
        if getattr(args, flag) < 0:
            raise InputError(f"--{flag} {getattr(args, flag)}: accepted are 0 and above")
    if args.batch_size < 1:
        raise InputError(f"--batch_size {args.batch_size}: accepted are 1 and more")
    if args.out and not args.out.parent.is_dir():
        raise InputError(f"--out {args.out}: no folder {args.out.parent}; make it first")


def prompter(model: Any, objective: str | None) -> Any:
    """How inputs become prompts: as the objective says, or as they are, seen whole by a model that was taught to see so."""
    from pretrainx.evaluate import seqio_tasks
    from pretrainx.train import trained

    if objective is not None:
        ask, eos = trained.prompter_of(model, objective), model.vocabulary.special.eos
        return lambda inputs: ask(inputs[:-1] if inputs[-1:] == [eos] else inputs)  # it adds what end token it was taught with
    prefix = "prefix" in model.skeleton.config.sights
    whole = prefix and any(own.sight == "prefix" for own in trained.objectives_of(model).values())
    return seqio_tasks.as_it_is(model.skeleton, model.vocabulary, whole)


def write(path: Path, examples: list[dict[str, Any]]) -> None:
    with open(path, "w", encoding="utf-8") as stream:
        for example in examples:
            stream.write(json.dumps(example, ensure_ascii=False, allow_nan=False) + "\n")
    log(f"{path}: {len(examples):,} examples written")


def show(title: str, found: dict[str, Any]) -> None:
    """The table on stdout."""
    from rich.console import Console
    from rich.table import Table

    table = Table(title=title, title_justify="left")
    for column in ("task", "metric"):
        table.add_column(column)
    for column in ("value", "examples", "s", "examples/s"):
        table.add_column(column, justify="right")
    for name, own in found.items():
        count, seconds = len(own.examples), own.seconds
        cost = (f"{count:,}", f"{seconds:.1f}", f"{count / max(seconds, 1e-9):,.1f}")
        for place, (metric, value) in enumerate(own.metrics.items()):
            named, paid = (name, cost) if place == 0 else ("", ("", "", ""))
            table.add_row(named, metric.removeprefix(f"eval/{name}/"), f"[bold]{value:.4g}[/]", *paid)
    console = Console(width=max(118, Console().width))  # a log is not a terminal of 80 columns
    console.print(table)


if __name__ == "__main__":
    cli.run(main)
