"""Scores a run's checkpoint on its held-out split: bits per byte and perplexity by source, beside counted n-grams."""

import argparse
import sys
from pathlib import Path

from pretrainx.core import cli


def main(argv: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(
        description=__doc__, epilog="example: python tools/evaluate.py --config=configs/quickstart.py --workdir=runs/quickstart --json"
    )
    cli.add_config_flags(parser)
    parser.add_argument("--workdir", type=Path, help="folder of the run (default: runs/<config name>)")
    parser.add_argument("--step", type=int, help="which checkpoint (default: the last)")
    parser.add_argument("--json", action="store_true", help="print the numbers as one JSON object on stdout")
    cli.add_process_flags(parser)
    args, config = cli.parse_config_args(parser, argv)

    from pretrainx.data.loader import open_mixture
    from pretrainx.evaluate import baselines, results
    from pretrainx.parallel import multihost
    from pretrainx.train import scoring, trained

    multihost.start(args.coordinator, args.num_processes, args.process_id)
    folder = args.workdir or Path("runs") / config.name
    model = trained.load(folder, args.step, config)
    held_out = open_mixture(model.experiment.data, model.experiment.eval.split)
    found, items = scoring.score(model, held_out)
    if not multihost.is_first():
        return 0  # all have the same numbers
    orders = model.experiment.eval.ngram_orders
    counted = baselines.bits_per_byte(open_mixture(model.experiment.data, "train"), held_out, orders) if orders else {}
    scoring.keep(folder, model.step, found | counted)
    kept = results.Result(
        "evaluate", f"evaluate-{model.experiment.eval.split}", model.step,
        results.command_line("evaluate", sys.argv[1:] if argv is None else argv), found | counted, items,
        {
            "split": model.experiment.eval.split,
            "sequence_length": model.experiment.data.sequence_length,
            "stride": model.experiment.eval.stride,
            "dtype": model.experiment.train.dtype,
            "data": {source.name: source.windows.cache.manifest["data_sha256"] for source in held_out.sources},
            "parameters": model.skeleton.num_params,
        },
    )  # fmt: skip
    results.keep(folder, kept)
    if args.json:
        cli.print_json({"step": model.step, **found, **counted})
    else:
        scoring.show(folder, model.step, found, counted)
    return 0


if __name__ == "__main__":
    cli.run(main)
