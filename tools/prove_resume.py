"""Proves that a config's run, killed at any instant, goes on as if it had not been: runs it in short form, kills it, compares."""

import argparse
import shutil
import tempfile
from pathlib import Path

from pretrainx.core import cli
from pretrainx.core.errors import InputError

EPILOG = """The run is the config's own, stopped after --steps, with frequent checkpoints, evaluations and reports; what the command
line sets itself stays so.
Exit code 0: proven; 1: not proven, and the first difference is named; 2: the config does not run.

example: python tools/prove_resume.py --config=configs/quickstart.py --kills=20 --meshes data=2 fsdp=2,layout=fsdp
"""


def main(argv: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(description=__doc__, epilog=EPILOG, formatter_class=argparse.RawDescriptionHelpFormatter)
    cli.add_config_flags(parser)
    parser.add_argument("--kills", type=int, default=20, help="how often to kill -9 (default: %(default)s)")
    parser.add_argument("--steps", type=int, default=40, help="steps of the short run (default: %(default)s)")
    parser.add_argument(
        "--meshes", nargs="+", default=[], metavar="MESH", help="also go on, half way, on these meshes of forced CPU devices: data=2 fsdp=2"
    )
    parser.add_argument("--tolerance", type=float, help="relative, of losses on another mesh (default: 2e-3)")
    parser.add_argument("--seed", type=int, default=0, help="of where it is killed (default: %(default)s)")
    parser.add_argument("--workdir", type=Path, help="keep the runs here (default: a temporary folder, kept where nothing is proven)")
    parser.add_argument("--json", action="store_true", help="print the verdict as one JSON object on stdout")
    args, config = cli.parse_config_args(parser, argv)
    for name, least in (("kills", 0), ("steps", 2)):
        if getattr(args, name) < least:
            raise InputError(f"--{name} {getattr(args, name)}: accepted are {least} and above")
    if args.workdir and args.workdir.exists() and any(args.workdir.iterdir()):
        raise InputError(f"--workdir {args.workdir}: holds files already; name a new folder")

    import time

    from pretrainx.core.logs import duration, log
    from pretrainx.train import prove

    workdir = args.workdir or Path(tempfile.mkdtemp(prefix=f"prove-{config.name}-"))
    train = Path(__file__).resolve().with_name("train.py")
    overrides = [f"--config.{override}" for override in config.overrides]
    words = (str(train), f"--config={args.config}", *overrides, *prove.short_form(config.overrides, args.steps))
    began = time.monotonic()
    verdict = prove.prove(
        prove.Command(words, prove.environment(workdir.resolve() / "compiled")), workdir.resolve(), kills=args.kills, seed=args.seed,
        meshes=args.meshes, tolerance=prove.TOLERANCE if args.tolerance is None else args.tolerance,
    )  # fmt: skip
    seconds = time.monotonic() - began
    places = ", ".join(f"{place} {count}" for place, count in sorted(verdict.kills.items()))
    kills = f"{verdict.kills.total()} kills ({places})"
    if verdict.proven:
        meshes = f" and on {len(verdict.meshes)} other meshes" if verdict.meshes else ""
        log(f"proven: {kills} in {verdict.rounds} runs of {verdict.steps} steps{meshes}, in {duration(seconds)}")
        if not args.workdir:
            shutil.rmtree(workdir, ignore_errors=True)
    else:
        log(f"NOT PROVEN after {verdict.kills.total()} kills: {verdict.difference}; the runs lie in {workdir}")
    if args.json:
        cli.print_json({
            "proven": verdict.proven, "difference": verdict.difference, "kills": verdict.kills.total(),
            "kills_by_place": dict(verdict.kills), "runs": verdict.rounds, "steps": verdict.steps, "meshes": verdict.meshes,
            "seconds": seconds, "seed": args.seed,
            **{name: verdict.reference[name] for name in ("loss", "state_sha256", "rows_sha256")},
        })  # fmt: skip
    return 0 if verdict.proven else 1


if __name__ == "__main__":
    cli.run(main)
