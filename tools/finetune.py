"""Fine-tunes a pretrained run on a labelled corpus, over seeds and learning rates: one table with means and 95 % intervals.

One run is tools/train.py with the same config. Here the learning rate with the best mean on --choose is reported on --report.
"""

import argparse
from pathlib import Path
from typing import Any

from pretrainx.core import cli
from pretrainx.core.errors import InputError
from pretrainx.core.logs import log

EPILOG = """In the config: init_from names the run to begin from, data.mixture a labelled corpus with objective classify or text_to_text.
  rehearsal       other corpora beside it in data.mixture, such as those of an earlier task; --corpus names the one that is scored
  frozen trunk    optim.trainable=('class_head/*',); model.pooling first, last, mean or attention; model.class_hidden False is linear
  full            nothing more; optim.layer_decay below 1 makes lower layers learn slower
  adapters        model.lora_rank=8

example: python tools/finetune.py --config=configs/finetune.py:runs/bert --seeds 5 --lrs 1e-4 3e-4 1e-3 --json
"""


def main(argv: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(description=__doc__, epilog=EPILOG, formatter_class=argparse.RawDescriptionHelpFormatter)
    cli.add_config_flags(parser)
    parser.add_argument("--workdir", type=Path, help="folder of the grid (default: runs/<config name>)")
    parser.add_argument("--corpus", default="", help="labelled corpus that is scored (default: the only one of data.mixture)")
    parser.add_argument("--seeds", type=int, default=5, help="so many (default: %(default)s)")
    parser.add_argument("--first_seed", type=int, default=0, help="of them (default: %(default)s)")
    parser.add_argument("--lrs", type=float, nargs="+", default=[], help="peak learning rates (default: the config's)")
    parser.add_argument("--choose", default="validation", help="split that the learning rate is chosen on (default: %(default)s)")
    parser.add_argument("--report", default="", help="split that is reported (default: that of --choose)")
    parser.add_argument("--json", action="store_true", help="print the numbers as one JSON object on the last line of stdout")
    args, config = cli.parse_config_args(parser, argv)
    if args.seeds < 1:
        raise InputError(f"--seeds {args.seeds}: accepted are 1 and more")
    if args.first_seed < 0:
        raise InputError(f"--first_seed {args.first_seed}: accepted are 0 and more")
    if any(lr <= 0 for lr in args.lrs):
        raise InputError(f"--lrs {args.lrs}: accepted are numbers above 0")

    from pretrainx.core import files
    from pretrainx.train import experiment as experiments
    from pretrainx.train import finetune

    report = args.report or args.choose
    target = finetune.target_of(config, args.corpus)
    for split in dict.fromkeys((args.choose, report)):
        target.examples(split)  # a split that is not there is found before anything is trained
    if report == args.choose and len(args.lrs) > 1:
        log(f"note: the learning rate is chosen and reported on {report}, which flatters it; name another split with --report")
    folder = args.workdir or Path("runs") / config.name
    rates = args.lrs or [experiments.load(config).optim.peak_lr]
    seeds, splits = range(args.first_seed, args.first_seed + args.seeds), tuple(dict.fromkeys((args.choose, report)))
    cells = finetune.grid(config, folder, seeds, rates, splits, target)
    found = {"corpus": target.name, "init_from": config.init_from} | finetune.summary(cells, args.choose, report)
    files.write_json(folder / "grid.json", found)
    if args.json:
        cli.print_json(found)
    else:
        show(found)
    return 0


def show(found: dict[str, Any]) -> None:
    from rich.console import Console
    from rich.table import Table

    start = f"from {found['init_from']}" if found["init_from"] else "from scratch"
    table = Table(title=f"{found['corpus']}, {start}: % over {len(found['rows'][0]['seeds'])} seeds", title_justify="left")
    table.add_column("peak lr", justify="right")
    metrics = [name for name in found["rows"][0] if "/" in name and not name.endswith("/items")]
    for name in metrics:
        table.add_column(name, justify="right")
    for row in found["rows"]:
        cells = [f"{100 * row[name]['mean']:.2f} ± {100 * row[name]['half_interval']:.2f}" for name in metrics]
        mark = ("[bold]", "[/]") if row["peak_lr"] == found["best_lr"] else ("", "")
        table.add_row(*(f"{mark[0]}{cell}{mark[1]}" for cell in (f"{row['peak_lr']:g}", *cells)))
    Console(width=max(100, Console().width)).print(table)


if __name__ == "__main__":
    cli.run(main)
