"""Why did the loss spike? Replays a step of a run row by row, names the documents behind it, and writes the list of rows to leave out."""

import argparse
from pathlib import Path

from pretrainx.core import cli
from pretrainx.core.errors import InputError

EPILOG = """The step is replayed from the newest checkpoint before it, in one process. Each row's loss and gradient norm are its own;
rows that lie more than --deviations robust standard deviations above the median row go on the skip list (where none does, all
rows of the step). To go on without them, begin before the step: --rewind_to puts newer checkpoints aside.

example: python tools/autopsy.py --workdir=runs/quickstart --step=1200
"""


def main(argv: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(
        description=__doc__, epilog=EPILOG, formatter_class=argparse.RawDescriptionHelpFormatter, allow_abbrev=False
    )
    parser.add_argument("--workdir", type=Path, required=True, help="folder of the run")
    parser.add_argument("--step", type=int, help="step to examine, from 1 (default: the spike that the run recorded last)")
    parser.add_argument("--deviations", type=float, default=8.0, help="that put a row on the skip list (default: %(default)s)")
    parser.add_argument("--out", type=Path, help="folder of page.html and skip_rows.json (default: WORKDIR/autopsy/step_STEP)")
    parser.add_argument("--json", action="store_true", help="print what was found as one JSON object on stdout")
    args = cli.parse_args(parser, argv)
    if not args.deviations >= 0:
        raise InputError(f"--deviations {args.deviations}: accepted are 0 and above")
    if not args.workdir.is_dir():
        raise InputError(f"--workdir {args.workdir}: no such folder")

    from pretrainx.core import files
    from pretrainx.core.logs import log
    from pretrainx.data import skips
    from pretrainx.train import autopsy, autopsy_page

    step = args.step
    if step is None:
        recorded = autopsy.recorded_spikes(args.workdir)
        if not recorded:
            raise InputError(f"{args.workdir}: the run recorded no spike; name a step with --step")
        step = list(recorded)[-1]
    if step < 1:
        raise InputError(f"--step {step}: steps are counted from 1")
    found = autopsy.examine(args.workdir, step)
    chosen = found.standing_out(args.deviations)
    rows = autopsy.skip_list(chosen or found.findings)
    out = args.out or args.workdir / "autopsy" / f"step_{step}"
    skip_file = out / "skip_rows.json"
    skips.write(skip_file, rows, step=step, workdir=str(args.workdir), documents=sorted({p.piece.id for f in chosen for p in f.parts}))
    command = (
        f"python tools/train.py --config=... --workdir={args.workdir} --rewind_to={found.base} --config.train.skip_rows={skip_file} "
        "--allow_change=train.skip_rows"
    )
    files.write_bytes(out / "page.html", autopsy_page.render(found, chosen, command).encode("utf-8"))
    log(f"step {step}: loss {found.loss:.4f}, gradient {found.gradient:.3g}, replayed from step {found.base}")
    for finding in (chosen or found.findings)[:5]:
        names = ", ".join(part.piece.id for part in finding.parts)
        place = f"row {finding.row.row} (number {finding.row.number})"
        log(f"  {place}: loss {finding.loss:.3f}, gradient {finding.gradient:.3g}, {finding.deviations:.1f} deviations: {names}")
    if not chosen:
        log("  no row stands out: the skip list has all rows of the step")
    log(f"page: {out / 'page.html'}\nto go on without them: {command}")
    if args.json:
        cli.print_json({
            "step": step, "base": found.base, "loss": found.loss, "recorded_loss": found.recorded, "grad_norm": found.gradient,
            "limit": found.limit, "rows": [finding.to_json() for finding in found.findings], "standing_out": len(chosen),
            "skip_rows": rows.to_json(), "skip_list": str(skip_file), "page": str(out / "page.html"),
        })  # fmt: skip
    return 0


if __name__ == "__main__":
    cli.run(main)
