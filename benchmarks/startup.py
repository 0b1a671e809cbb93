"""Start-up of a training run: import, first batch, first step; beside it what its largest libraries cost to import.

    python benchmarks/startup.py [--config=configs/quickstart.py] [--rounds=5] [--json]

Needs the config's token cache (tools/cache_tasks.py). Every figure is of a new process, from before it is started, so
the interpreter's own start counts; rounds go through all processes in turn, and figures are medians. The first step
includes the compilation. CPU seconds are those of the process and all its threads.
"""

import argparse
import json
import os
import resource
import statistics
import subprocess
import sys
import time
from pathlib import Path

from pretrainx.core import cli
from pretrainx.core.logs import log

ROOT = Path(__file__).parents[1]
RUN = """
import json, sys, time
marks = {"interpreter": time.time()}
from pretrainx.core import config
from pretrainx.train import loop
marks["import"] = time.time()
import jax, numpy as np
from pretrainx.data.loader import batches, open_mixture
from pretrainx.train import build, experiment
checked = experiment.load(config.load(sys.argv[1], sys.argv[2:]))
program, builder = build.from_mixture(checked, open_mixture(checked.data, "train"), jax.devices()[:1])
size = checked.train.batch_size
batch = next(batches(builder, batch_size=size, local_rows=np.arange(size), start=0, stop=1, prefetch=1, workers=0))
marks["first_batch"] = time.time()
compiled = program.compile_train()
marks["compiled"] = time.time()
jax.block_until_ready(compiled(program.init_state(), jax.device_put(batch.features, program.batch_shardings)))
marks["first_step"] = time.time()
print(json.dumps(marks))
"""
IMPORTS = ("pretrainx.data.loader", "jax", "seqio")  # what reading data needs; and two for scale


def main(argv: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    cli.add_config_flags(parser, default="configs/quickstart.py")
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--json", action="store_true")
    args, config = cli.parse_config_args(parser, argv)
    wall: dict[str, list[float]] = {}
    cpu: dict[str, list[float]] = {}
    for number in range(args.rounds):
        for name in IMPORTS:
            seconds, used, _ = timed("-c", f"import {name}")
            wall.setdefault(f"import {name}", []).append(seconds)
            cpu.setdefault(f"import {name}", []).append(used)
        began = time.time()
        _, used, out = timed("-c", RUN, config.file, *config.overrides)
        for name, when in json.loads(out.splitlines()[-1]).items():
            wall.setdefault(name, []).append(when - began)
        cpu.setdefault("first_step", []).append(used)
        log(f"round {number + 1} of {args.rounds}")
    result = {f"{name.replace(' ', '_')}_s": statistics.median(seconds) for name, seconds in wall.items()}
    result |= {f"{name.replace(' ', '_')}_cpu_s": statistics.median(seconds) for name, seconds in cpu.items()}
    if args.json:
        cli.print_json(result)
    else:
        for key, value in result.items():
            print(f"{key:>36} {value:6.2f}")
    return 0


def timed(*words: str) -> tuple[float, float, str]:
    """(wall seconds, CPU seconds, stdout) of a Python process."""
    before, used = time.perf_counter(), _children()
    environment = os.environ | {"PYTHONPATH": os.pathsep.join([str(ROOT), os.environ.get("PYTHONPATH", "")]), "TF_CPP_MIN_LOG_LEVEL": "3"}
    done = subprocess.run([sys.executable, *words], env=environment, capture_output=True, text=True, check=False)
    if done.returncode:
        raise RuntimeError(f"{words[:2]} ended with {done.returncode}:\n{done.stderr[-2000:]}")
    return time.perf_counter() - before, _children() - used, done.stdout


def _children() -> float:
    usage = resource.getrusage(resource.RUSAGE_CHILDREN)
    return usage.ru_utime + usage.ru_stime


if __name__ == "__main__":
    cli.run(main)
