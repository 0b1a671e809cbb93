"""Runs tasks of EleutherAI's lm-evaluation-harness on a run's checkpoint. Needs the extra [harness]."""

import argparse
import json
import os
import sys
import time
from pathlib import Path
from typing import Any

from pretrainx.core import cli, files
from pretrainx.core import config as configs
from pretrainx.core.errors import InputError

EPILOG = """Tasks are the harness's own by name, glob or tag (their data is fetched), and YAML files in --include_path, which may read local
files: `dataset_path: json` with `dataset_kwargs: {data_files: {test: my.jsonl}}`, relative to the current folder.
HF_HUB_OFFLINE=1 keeps the data libraries from asking the network. Texts begin with the start id, as in training.

example: python tools/harness.py --workdir=runs/quickstart --tasks my_task --include_path=my_tasks --num_fewshot=2 --out=results.json
"""


def main(argv: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(description=__doc__, epilog=EPILOG, formatter_class=argparse.RawDescriptionHelpFormatter)
    cli.add_config_flags(parser)
    parser.add_argument("--workdir", type=Path, required=True, help="folder of the run; with a --config the model is put on its mesh")
    parser.add_argument("--tasks", nargs="+", required=True, metavar="NAME", help="tasks, groups, tags, globs, or YAML files")
    parser.add_argument("--include_path", type=Path, metavar="DIR", help="folder with YAML files of tasks of your own")
    parser.add_argument("--step", type=int, help="which checkpoint (default: the last)")
    parser.add_argument("--num_fewshot", type=int, help="solved examples before each question (default: as the task says, else none)")
    parser.add_argument("--limit", type=float, default=0, help="this many items of each task; below 1: this share; 0: all (default)")
    parser.add_argument("--batch_size", type=int, default=0, help="rows of a whole window at once; 0: as the run evaluates (default)")
    parser.add_argument("--way", help="causal, prefix, masked or masked_words (tools/score_choices.py); default: as trained")
    parser.add_argument(
        "--gen_kwargs", nargs="+", default=[], metavar="KEY=VALUE", help="instead of what generating tasks say: max_gen_toks=64"
    )
    parser.add_argument("--bootstrap_iters", type=int, default=1000, help="for errors that have no formula; 0: none (default: %(default)s)")
    parser.add_argument("--seed", type=int, default=1234, help="of few-shot examples and of sampling (default: the harness's %(default)s)")
    parser.add_argument("--confirm_run_unsafe_code", action="store_true", help="allow tasks that run code which the model writes")
    parser.add_argument("--out", type=Path, metavar="FILE", help="write the harness's whole results as JSON, with what each item got")
    parser.add_argument("--json", action="store_true", help="print the numbers as one JSON object on stdout")
    rest, overrides = cli.split_overrides(argv if argv is not None else sys.argv[1:])
    args = cli.parse_args(parser, rest)
    require_sizes(args)
    if overrides and not args.config:
        raise InputError("--config.PATH=VALUE needs a --config=FILE that it changes")
    config = configs.load(args.config, overrides) if args.config else None
    gen_kwargs = split_gen_kwargs(args.gen_kwargs)

    from pretrainx.evaluate import harness
    from pretrainx.train import trained

    harness.require_installed()
    model = trained.load(args.workdir, args.step, config)
    tasks = harness.load_tasks(args.tasks, str(args.include_path) if args.include_path else None)
    section = model.experiment
    answers = harness.Answers(
        model.skeleton, model.vocabulary, model.params, lambda: list(trained.objectives_of(model).values()), args.way,
        section.data.sequence_length, args.batch_size or section.eval_batch_size, args.seed, show=True,
    )  # fmt: skip
    start = time.monotonic()
    results = harness.evaluate(
        answers, tasks, num_fewshot=args.num_fewshot, limit=args.limit or None, gen_kwargs=gen_kwargs or None,
        bootstrap_iters=args.bootstrap_iters, log_samples=args.out is not None, fewshot_random_seed=args.seed,
        confirm_run_unsafe_code=args.confirm_run_unsafe_code,
    )  # fmt: skip
    found = {"step": model.step, **harness.metrics_of(results), "seconds": time.monotonic() - start}
    if args.out:
        keep(args.out, args.workdir, found, results)
    if args.json:
        cli.print_json(found)
    else:
        show(f"{args.workdir}, step {model.step}", results)
    return 0


def require_sizes(args: argparse.Namespace) -> None:
    for name in ("limit", "batch_size", "bootstrap_iters", "num_fewshot"):
        value = getattr(args, name)
        if value is not None and not value >= 0:
            raise InputError(f"--{name} {value}: accepted are 0 and above")
    if args.limit >= 1 and args.limit != int(args.limit):
        raise InputError(f"--limit {args.limit}: accepted are whole numbers, and shares below 1")
    if args.include_path and not args.include_path.is_dir():
        raise InputError(f"--include_path {args.include_path}: no such folder")
    if args.out and args.out.is_dir():
        raise InputError(f"--out {args.out}: is a folder; name a file")


def split_gen_kwargs(words: list[str]) -> dict[str, Any]:
    """{key: value} of "KEY=VALUE"; a value that is JSON is read as such: until=["\\n"] is a list, temperature=0.8 a number."""
    found: dict[str, Any] = {}
    for word in words:
        key, equals, value = word.partition("=")
        if not (key and equals):
            raise InputError(f"--gen_kwargs {word!r}: expected KEY=VALUE, such as max_gen_toks=64")
        try:
            found[key] = json.loads(value)
        except ValueError:
            found[key] = value
    return found


def keep(path: Path, workdir: Path, found: dict[str, Any], results: dict[str, Any]) -> None:
    """Writes {"workdir", "metrics", "harness": what simple_evaluate gave}."""
    from lm_eval.utils import handle_non_serializable

    plain = json.loads(json.dumps(results, default=handle_non_serializable))
    files.write_json(path, {"workdir": os.fspath(workdir), "metrics": found, "harness": plain})


def show(title: str, results: dict[str, Any]) -> None:
    """The harness's tables on stdout."""
    from lm_eval.utils import make_table

    print(title)
    print(make_table(results))
    if results.get("groups"):
        print(make_table(results, "groups"))


if __name__ == "__main__":
    cli.run(main)
