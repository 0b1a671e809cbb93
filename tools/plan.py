"""Tells what a config's training will hold, take and cost on TPUs and GPUs that are not here: the real step compiled, or an estimate."""

import argparse
import itertools
import json
import os
import subprocess
import sys
from typing import Any

from pretrainx.core import cli
from pretrainx.core.errors import InputError
from pretrainx.core.logs import log

EPILOG = """examples:
  python tools/plan.py --config=configs/decoder_1b.py --topology=v5e:4x4 --json
  python tools/plan.py --config=configs/llama3_70b.py --topology=v5p-1024,h100x512 --analytic --html=plan.html
  python tools/plan.py --config=configs/llama3_8b.py --topology=v5e-256 --search
  python tools/plan.py --calibration [--runs runs/mine]

Names: v5e:4x4 (a slice's shape), v5e-256, v6e-256, v5e-256x4 (four slices), v5p-128 and tpu7x-128 (these count TensorCores: 64
chips), h100x8, a100x8, h200x64, b200x64. The step is compiled (a minute), for GPUs where the extra plan-gpu is installed; else, and
with --analytic, it is estimated."""


def main(argv: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(description=__doc__, epilog=EPILOG, formatter_class=argparse.RawDescriptionHelpFormatter)
    cli.add_config_flags(parser)
    parser.add_argument("--topology", default="v5e:4x4", help="a name, several with commas between, or 'all'")
    parser.add_argument("--analytic", action="store_true", help="estimate from the sizes; compile nothing")
    parser.add_argument("--tokens", type=float, help="tokens of the run, such as 15e12 (default: the config's own)")
    parser.add_argument("--price", type=float, help="dollars an hour and chip (default: pretrainx/core/prices.py, an example)")
    parser.add_argument("--watts", type=float, help="of one chip with its share of host and cooling, such as 1000: adds the run's energy")
    parser.add_argument("--search", action="store_true", help="rank mesh shapes, layouts, remat and microbatches; compile the best few")
    parser.add_argument("--compile", type=int, default=6, metavar="N", help="with --search: compile so many (default: %(default)s)")
    parser.add_argument("--fresh", action="store_true", help="compile again what was compiled before")
    parser.add_argument("--calibration", action="store_true", help="print published runs against their predictions, and stop")
    parser.add_argument("--runs", nargs="+", metavar="FOLDER", help="with --calibration: your own runs beside their plans")
    parser.add_argument("--html", metavar="FILE", help="also write a page with pictures")
    parser.add_argument("--json", action="store_true", help="print the numbers as one JSON object on stdout")
    parser.add_argument("--child", action="store_true", help=argparse.SUPPRESS)
    if "--calibration" in (sys.argv[1:] if argv is None else argv):
        own = cli.parse_args(parser, sys.argv[1:] if argv is None else argv)
        return calibrate(own.json, own.runs or [])
    args, config = cli.parse_config_args(parser, argv)
    if args.runs:
        raise InputError("--runs goes with --calibration")

    from pretrainx.plan import topology

    names = list(topology.ALL) if args.topology == "all" else [name.strip() for name in args.topology.split(",")]
    if args.compile < 0:
        raise InputError(f"--compile={args.compile}: expected 0 (estimates alone) or more")
    places = [topology.parse(name) if args.analytic or (args.search and not args.compile) else topology.check(name) for name in names]
    for name, value in (("tokens", args.tokens), ("price", args.price), ("watts", args.watts)):
        if value is not None and not 0 < value < float("inf"):
            raise InputError(f"--{name}={value}: expected a positive number")
    if args.child:
        cli.print_json(compiled(config, names[0], args))
        return 0
    words = sys.argv[1:] if argv is None else argv
    results = []
    for place in places:
        try:
            if args.search:
                results.append(searched(config, place, words, args))
            elif args.analytic or not place.compiles:
                results.append(estimated(config, place, args) | ({} if args.analytic else not_compiled()))
            else:
                results.append(in_a_process_of_its_own(words, place.name))
        except InputError as error:
            if len(places) == 1:
                raise
            results.append({"topology": place.name, "fits": None, "error": str(error)})
    for result in results:
        if args.watts and "chip_hours" in result:
            result["energy_kwh"] = result["chip_hours"] * args.watts / 1000
    if args.html:
        write_page(args.html, config, places, results)
    if args.json:
        cli.print_json(results[0] if len(results) == 1 else {"plans": results})
    else:
        for result in results:
            show_search(result) if "ranked" in result else show(result)
    return 0


def estimated(config: Any, place: Any, args: argparse.Namespace) -> dict[str, Any]:
    """The plan from the experiment's sizes."""
    from pretrainx.plan import estimate
    from pretrainx.train import experiment

    return estimate.plan(experiment.load(config), place, args.tokens, args.price)


def not_compiled() -> dict[str, Any]:
    """What to say beside an estimate that nobody asked for."""
    from pretrainx.plan import gpus

    return {"notes": [f"estimated, not compiled: {gpus.missing()} is not installed; to compile: {gpus.EXTRA}"]}


def compiled(config: Any, name: str, args: argparse.Namespace) -> dict[str, Any]:
    """The plan of the compiled step; of one that was compiled before by the same code, what was found then."""
    from pretrainx.plan import kept

    path = kept.path_of({"config": config.resolved(), "topology": name, "tokens": args.tokens, "price": args.price})
    found = None if args.fresh else kept.read(path)
    if found is None:
        from pretrainx.plan.compile import plan
        from pretrainx.train import experiment

        found = plan(experiment.load(config), name, args.tokens, args.price)
        kept.write(path, found)
    return found


def searched(config: Any, place: Any, words: list[str], args: argparse.Namespace) -> dict[str, Any]:
    """The layouts of the experiment on a topology, ranked; the best compiled, where there is a compiler for it."""
    from pretrainx.plan import estimate, search
    from pretrainx.train import experiment

    checked = experiment.load(config)
    shape, run = estimate.run_of(checked, place, any_batch=True)
    candidates, tried = search.search(shape, run, place, checked.train.batch_size)
    found = {"topology": place.name} | search.table(candidates, tried)
    if args.compile and place.compiles and not args.analytic:
        most, numbers = len(list(search.to_compile(candidates, args.compile))), itertools.count(1)

        def compile_with(flags: list[str]) -> dict[str, Any]:
            log(f"{next(numbers)} of {most}: {' '.join(flags)}")
            return in_a_process_of_its_own([*words, *flags], place.name)

        rows = search.compiled(candidates, args.compile, compile_with)
        found |= {"compiled": len(rows), "compiled_ranked": rows}
    return found


def calibrate(as_json: bool, runs: list[str]) -> int:
    """Prints every published point against what the analytic form says of it, or, where runs are given, these."""
    from pathlib import Path

    from pretrainx.plan import calibration, measured

    if runs:
        kept = measured.read(map(Path, runs))
        for name, row in kept.items():
            print(f"{name}: {row['chips']} x {row['chip']}, measured {row['measured_step_seconds']:.3g} s, planned "
                  f"{row['planned_step_seconds']:.3g} s  {row['error']:+6.1%}")  # fmt: skip
        if as_json:
            cli.print_json({"runs": kept})
        return 0
    found = calibration.compare()
    median, unseen = calibration.median_error(found), calibration.median_error(calibration.left_out())
    if as_json:
        rows = [
            {"model": c.point.model, "chip": c.point.run.chip.name, "chips": c.point.run.chips, "published_seconds": c.published,
             "predicted_seconds": c.predicted, "error": c.error, "source": c.point.source} for c in found
        ]  # fmt: skip
        cli.print_json({"points": rows, "median_error": median, "median_error_left_out": unseen})
        return 0
    for c in found:
        run = c.point.run
        print(f"{c.point.model:<14} {run.chips:>5} {run.chip.name:<5} {run.rows:>3g} x {run.length}  published {c.published:7.3f} s  "
              f"predicted {c.predicted:7.3f} s  {c.error:+6.1%}  {c.point.source}")  # fmt: skip
    print(f"median error {median:.1%}; {unseen:.1%} where a point has no say in its chip's efficiency ({len(found)} points)")
    return 0


def in_a_process_of_its_own(argv: list[str], topology: str) -> dict[str, Any]:
    """The plan from a child: the TPU compiler aborts the whole process on a shape that no slice has, and each compiler loads much."""
    log(f"compiling for {topology} ...")
    environment = os.environ | {"JAX_PLATFORMS": "cpu", "TF_CPP_MIN_LOG_LEVEL": "3"}
    words = [*argv, f"--topology={topology}", "--child"]  # of a flag that is given twice the last counts
    done = subprocess.run(
        [sys.executable, os.path.abspath(__file__), *words], capture_output=True, text=True, env=environment, check=False
    )  # fmt: skip
    if done.returncode == 0:
        return json.loads(done.stdout.splitlines()[-1])
    said = [line for line in done.stderr.splitlines() if line.startswith("error: ")]
    if said:
        raise InputError(said[-1].removeprefix("error: "))
    if done.returncode < 0:
        raise InputError(f"--topology={topology}: the TPU compiler knows no slice of this shape (it aborted); try v5e:4x4 or v5p:4x4x4")
    raise RuntimeError(f"the compile failed:\n{done.stderr}")


def write_page(path: str, config: Any, places: list[Any], results: list[dict[str, Any]]) -> None:
    """The page of these plans, with the scaling of the first."""
    from pretrainx.plan import analytic, estimate, page
    from pretrainx.train import experiment

    checked = experiment.load(config)
    try:
        scaling = analytic.scaling(*estimate.run_of(checked, places[0]))
    except InputError as error:
        log(f"no picture of the scaling: {error}")
        scaling = {}
    with open(path, "w", encoding="utf-8") as file:
        file.write(page.render(checked.name, results, scaling))
    log(f"wrote {path}")


def show(result: dict[str, Any]) -> None:
    if result.get("error"):
        print(f"{result['topology']}: {result['error']}")
        return
    print(f"{result['topology']}: {result['chips']} chips, mesh {result['mesh']}, {result['parameters']:,} parameters, {result['source']}")
    print(f"  {result['tokens_per_step']:,} tokens and {result['model_flops_per_step'] / 1e12:,.0f} model TFLOP a step")
    if "pipeline" in result:
        from pretrainx.parallel import pipeline

        print(f"  {pipeline.line(result['pipeline'])}")
    if not result["fits"]:
        print(f"  does not fit: {result.get('refusal') or 'the estimate is beyond the chip'}")
        if result.get("advice"):
            print(f"  first: {result['advice']}")
    for note in result.get("notes", []):
        print(f"  note: {note}")
    for kind in ("argument", "temp", "peak"):
        if f"{kind}_bytes" in result:
            print(f"  {kind:<9} {result[f'{kind}_bytes'] / 1e9:7.2f} GB of {result['hbm_limit_bytes'] / 1e9:.0f}")
    for kind, size in result.get("memory_by_kind", {}).items():
        print(f"    {kind:<17} {size / 1e9:7.2f} GB")
    for name, size in result.get("uncut_weights", {}).items():
        print(f"  note: every device holds all of {name} ({size / 1e6:,.0f} MB), though the layout cuts other weights")
    if "step_seconds" in result:
        show_time(result)
    for row in result.get("largest_buffers", [])[:5]:
        print(f"    {row['bytes'] / 1e9:6.2f} GB  {row['array']:<28} {row['op'][-70:]}")
    if "kernel_calls" in result:
        when = "earlier, in" if result.get("kept") else "in"
        print(f"  {result['kernel_calls']} kernel calls; compiled {when} {result['compile_seconds']:.0f} s")


def show_search(result: dict[str, Any]) -> None:
    print(f"{result['topology']}: {result['tried']} layouts tried by estimate, {result['fit']} fit, {result['compiled']} compiled")
    for row in result.get("compiled_ranked", []):
        if row["fits"]:
            seconds = f"{row['step_seconds']:.3g} s (estimate {row['estimated_seconds']:.3g})"
            sent = f"{row['peak_bytes'] / 1e9:.2f} GB, {row['wire_bytes'] / 1e6:,.0f} MB sent"
            print(f"  {seconds}, MFU {row['mfu']:.1%}, {sent}, bound by {row['binds']}")
        else:
            print(f"  refused: {row['refusal']}")
        print(f"    {' '.join(row['flags'])}")
    if result["compiled"]:
        print("by estimate alone:")
    for row in result["ranked"]:
        print(f"  {row['step_seconds']:.3g} s, MFU {row['mfu']:.1%}, {row['peak_bytes'] / 1e9:.1f} GB, bound by {row['binds']}")
        print(f"    {' '.join(row['flags'])}")


def show_time(result: dict[str, Any]) -> None:
    low, high = result["step_seconds_low"], result["step_seconds_high"]
    print(f"  step {result['step_seconds']:.3g} s ({low:.3g} to {high:.3g}), MFU {result['mfu']:.1%}, bound by {result['binds']}")
    parts = sorted(result["time_by_kind"].items(), key=lambda item: -item[1])
    print("    " + ", ".join(f"{name} {seconds / result['step_seconds']:.0%}" for name, seconds in parts if seconds > 0))
    for row in result.get("collectives", [])[:5]:
        print(f"    {row['kind']} over {'+'.join(row['axes']) or '?'} ({row['dtype']}): {row['wire_bytes'] / 1e6:,.0f} MB sent a step")
    print(f"  {result['tokens_per_second']:,.0f} tokens/s; {result['tokens']:.3g} tokens in {result['days']:,.1f} days")
    price = f"${result['dollars_per_chip_hour']:g} ({result['price_source']})"
    print(f"  {result['chip_hours']:,.0f} chip-hours, ${result['dollars']:,.0f} at {price}")
    if "energy_kwh" in result:
        print(f"  {result['energy_kwh']:,.0f} kWh")
    print(f"  {result['run_flops']:.3g} FLOPs in all (6 N D), {result['tokens_per_parameter']:.3g} tokens a parameter")
    best = f"{result['chinchilla_parameters']:.2g} parameters on {result['chinchilla_tokens']:.2g} tokens"
    print(f"  the same FLOPs train {best} best (Hoffmann 2022)")


if __name__ == "__main__":
    cli.run(main)
