"""Trains the experiment of a config file; run again, it goes on where it was."""

import argparse
from pathlib import Path

from pretrainx.core import cli, files
from pretrainx.core.errors import InputError

LEAVE_S = 10.0  # a run that was stopped does not wait longer for storage that does not answer, or for processes that are gone


def main(argv: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(
        description=__doc__,
        epilog="example: python tools/train.py --config=configs/quickstart.py --config.train.steps=200 --workdir=runs/short",
    )
    cli.add_config_flags(parser)
    parser.add_argument("--workdir", type=Path, help="folder of the run (default: runs/<config name>)")
    parser.add_argument("--json", action="store_true", help="print the closing numbers as one JSON object on stdout")
    parser.add_argument("--allow_change", action="append", default=[], metavar="PATH", help="a config path that may differ on resume")
    parser.add_argument("--rewind_to", type=int, metavar="STEP", help="put checkpoints after this one aside, and go on from it (0: anew)")
    cli.add_process_flags(parser)
    args, config = cli.parse_config_args(parser, argv)

    from pretrainx.parallel import multihost  # JAX is imported only when the command line is right
    from pretrainx.train import checkpoint, experiment, loop

    checked = experiment.load(config)
    multihost.start(args.coordinator, args.num_processes, args.process_id)
    folder = args.workdir or Path("runs") / config.name
    lock = files.locked(folder) if multihost.is_first() else None
    if lock:
        lock.__enter__()  # held until the process ends, however it ends
    if args.rewind_to is not None and lock:
        checkpoint.rewind((folder / "checkpoints").resolve(), args.rewind_to)
    multihost.sum_over_processes(0, 8)  # no process looks at the checkpoints before the first has put them in order
    run = loop.prepare(checked, folder, args.allow_change)
    first = run.step
    try:
        result = loop.train(run)
    except RuntimeError as error:  # of JAX, at the compile or at a step
        from pretrainx.plan import out_of_memory

        if not out_of_memory.happened(error):
            raise
        raise InputError(out_of_memory.sentence(run.program, error)) from error
    if multihost.is_first():
        from pretrainx.plan import measured

        devices = run.program.partitioner.mesh.devices
        planned = measured.beside_plan(run.program.experiment, folder, devices.flat[0].device_kind, devices.size, first)
        if args.json:
            cli.print_json(result | ({"plan": planned} if planned else {}))
    return 0


if __name__ == "__main__":
    cli.run(main, LEAVE_S)
