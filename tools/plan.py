"""Compiles a config's training step for TPUs that are not here, and tells the memory a chip would need."""

import argparse
import json
import os
import subprocess
import sys
from typing import Any

from pretrainx.core import cli
from pretrainx.core.errors import InputError
from pretrainx.core.logs import log


def main(argv: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(
        description=__doc__, epilog="example: python tools/plan.py --config=configs/decoder_1b.py --topology=v5e:4x4 --json"
    )
    cli.add_config_flags(parser)
    parser.add_argument("--topology", default="v5e:4x4", help="FAMILY:SHAPE, such as v5e:4x4, v5p:4x4x4")
    parser.add_argument("--json", action="store_true", help="print the numbers as one JSON object on stdout")
    parser.add_argument("--child", action="store_true", help=argparse.SUPPRESS)
    args, config = cli.parse_config_args(parser, argv)

    from pretrainx.plan import topology

    topology.check(args.topology)
    if args.child:
        from pretrainx.plan.compile import plan
        from pretrainx.train import experiment

        cli.print_json(plan(experiment.load(config), args.topology))
        return 0
    result = in_a_process_of_its_own(sys.argv[1:] if argv is None else argv, args.topology)
    if args.json:
        cli.print_json(result)
    else:
        show(result)
    return 0


def in_a_process_of_its_own(argv: list[str], topology: str) -> dict[str, Any]:
    """The plan from a child: the TPU compiler aborts the whole process on a shape that no slice has."""
    log(f"compiling for {topology} ...")
    environment = os.environ | {"JAX_PLATFORMS": "cpu", "TF_CPP_MIN_LOG_LEVEL": "3"}
    done = subprocess.run(
        [sys.executable, os.path.abspath(__file__), *argv, "--child"], capture_output=True, text=True, env=environment, check=False
    )
    if done.returncode == 0:
        return json.loads(done.stdout.splitlines()[-1])
    said = [line for line in done.stderr.splitlines() if line.startswith("error: ")]
    if said:
        raise InputError(said[-1].removeprefix("error: "))
    if done.returncode < 0:
        raise InputError(f"--topology={topology}: the TPU compiler knows no slice of this shape (it aborted); try v5e:4x4 or v5p:4x4x4")
    raise RuntimeError(f"the compile failed:\n{done.stderr}")


def show(result: dict[str, Any]) -> None:
    print(f"{result['topology']}: {result['devices']} devices, mesh {result['mesh']}, {result['parameters']:,} parameters")
    print(f"  {result['tokens_per_step']:,} tokens and {result['model_flops_per_step'] / 1e12:,.0f} model TFLOP a step")
    if not result["fits"]:
        print(f"  does not fit: {result['refusal']}")
        return
    for kind in ("argument", "temp", "peak"):
        print(f"  {kind:<9} {result[f'{kind}_bytes'] / 1e9:7.2f} GB a device")
    print(f"  {result['kernel_calls']} kernel calls; compiled in {result['compile_seconds']:.0f} s")


if __name__ == "__main__":
    cli.run(main)
