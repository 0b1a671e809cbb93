"""What the compiled 1.2B step of configs/decoder_1b.py holds and sends per chip, ours beside bare JAX: the table of docs/benchmarks.md.

    python benchmarks/scale.py                       # every row, some twenty compiles of one to three minutes
    python benchmarks/scale.py --only v5e-16-fsdp    # one row
    python benchmarks/scale.py --list

Compiles ahead of time for TPUs and GPUs that are not there; each compile is a process of its own, and nothing is kept. Bytes on the
wire are those that a chip sends in a step, with loops multiplied out (pretrainx/plan/walk.py); peaks are the compiler's, on GPU with
cuDNN's workspace. Compare peaks and wire bytes, not temporaries: they differ between versions of the compiler while the others did not.
"""

import argparse
import json
import os
import subprocess
import sys
import time
from collections import defaultdict
from pathlib import Path

ROOT = Path(__file__).parents[1]
CONFIG = ROOT / "configs" / "decoder_1b.py"
MANUAL = ["--config.layout=fsdp_manual"]
PARTS = ["--config.model.mlp_chunks=2"]
ROWS_256 = ["--config.train.batch_size=1024"]
ROWS_8 = ["--config.train.batch_size=32"]
TP = ["--config.mesh.fsdp=4", "--config.mesh.tensor=4"]
LARGE_VOCABULARY = ["--config.model.vocab_size=262144"]

# What a row is to reach, and the row of bare JAX beside it. CPU-seconds are of a machine where bare JAX takes 37 to 57.
GOALS = {
    "v5e-16-fsdp-manual": ({"peak_bytes": 3.0e9, "wire_bytes": 6.7e9}, "bare-v5e-16"),
    "v5e-16-fsdp-manual-fused": ({"peak_bytes": 3.0e9, "wire_bytes": 6.7e9, "compile_cpu_seconds": 40}, "bare-v5e-16"),
    "v5e-16-minimal-named": ({"peak_bytes": 9.0e9}, "bare-v5e-16-minimal"),
    "v5e-256-fsdp-manual": ({"peak_bytes": 1.5e9, "wire_bytes": 7.4e9}, "bare-v5e-256"),
    "v5e-16-ulysses-once": ({"wire_bytes": 9.0e9}, "bare-v5e-16-tp"),
    "h100-8-fsdp": ({"temp_bytes": 3.4 * 2**30}, "bare-h100-8"),
}
UNITS = {"peak_bytes": (1e9, "GB at peak"), "wire_bytes": (1e6, "MB on the wire"), "temp_bytes": (2**30, "GiB of temporaries"),
         "compile_cpu_seconds": (1, "CPU-s to compile")}  # fmt: skip

# name: (topology, flags of ours, or arguments of the bare step; what it is)
OURS = {
    "v5e-16-fsdp": ("v5e:4x4", [], "fsdp, full remat"),
    "v5e-16-fsdp-manual": ("v5e:4x4", MANUAL, "fsdp_manual, full remat"),
    "v5e-16-fsdp-manual-fused": (
        "v5e:4x4", [*MANUAL, "--config.model.fused_qkv=True"], "the same, queries, keys and values by one product",
    ),
    "v5e-16-minimal": ("v5e:4x4", [*MANUAL, "--config.train.remat=minimal"], "fsdp_manual, minimal remat"),
    "v5e-16-minimal-named": (
        "v5e:4x4", [*MANUAL, "--config.train.remat=save:query,key,value,mlp_up,mlp_gate"],
        "the same but for the product after attention, which is done again",
    ),
    "v5e-256-fsdp": ("v5e:16x16", ROWS_256, "fsdp, full remat"),
    "v5e-256-fsdp-manual": ("v5e:16x16", [*ROWS_256, *MANUAL, *PARTS], "fsdp_manual, full remat, MLP in two parts"),
    "v5e-16-tp": ("v5e:4x4", [*TP, "--config.layout=fsdp_tp"], "fsdp 4 x tensor 4"),
    "v5e-16-tp-sequence": ("v5e:4x4", [*TP, "--config.layout=fsdp_tp_sequence"], "the same, sequence-sharded"),
    "v5e-16-ulysses": ("v5e:4x4", [*TP, "--config.layout=fsdp_ulysses"], "rows cut over tensor, in attention by heads, full remat"),
    "v5e-16-ulysses-once": (
        "v5e:4x4", [*TP, "--config.layout=fsdp_ulysses", "--config.train.remat=save:query,key,value,attention_out,weights"],
        "the same, and what was exchanged and gathered is kept",
    ),
    "v5e-2x16-hybrid": ("v5e:4x4@2", [*MANUAL, "--config.mesh.data=2", "--config.train.batch_size=128"], "two slices, data between"),
    "v5p-64": ("v5p:4x4x4", ["--config.train.batch_size=256"], "fsdp"),
    "v5p-64-manual": ("v5p:4x4x4", ["--config.train.batch_size=256", *MANUAL], "fsdp_manual"),
    "tpu7x-64": ("tpu7x:4x4x4", ["--config.train.batch_size=512"], "fsdp"),
    "tpu7x-64-manual": ("tpu7x:4x4x4", ["--config.train.batch_size=512", *MANUAL], "fsdp_manual"),
    "vocabulary-whole": ("v5e:4x4", [*MANUAL, *LARGE_VOCABULARY, "--config.model.loss_chunks=1"], "262,144 ids, the loss in one part"),
    "vocabulary-chunks": ("v5e:4x4", [*MANUAL, *LARGE_VOCABULARY, "--config.model.loss_chunks=32"], "262,144 ids, in 32 parts"),
    "h100-8-fsdp": ("h100x8", ROWS_8, "fsdp, cuDNN attention, full remat"),
    "h100-8-fsdp-manual": ("h100x8", [*ROWS_8, *MANUAL], "fsdp_manual, the same"),
    "h100-8-xla": ("h100x8", [*ROWS_8, "--config.model.attention_kernel=xla"], "fsdp, XLA's attention"),
}  # fmt: skip
BARE = {
    "bare-v5e-16": ("v5e:4x4", {}, "fsdp, full remat"),
    "bare-v5e-16-minimal": ("v5e:4x4", {"remat": "minimal"}, "fsdp, minimal remat"),
    "bare-v5e-256": ("v5e:16x16", {}, "fsdp, full remat"),
    "bare-v5e-16-tp": ("v5e:4x4", {"tensor": 4}, "fsdp 4 x tensor 4"),
    "bare-v5p-64": ("v5p:4x4x4", {}, "fsdp, full remat"),
    "bare-tpu7x-64": ("tpu7x:4x4x4", {}, "fsdp, full remat"),
    "bare-h100-8": ("h100x8", {"attention": "cudnn"}, "fsdp, cuDNN attention, full remat"),
    "bare-h100-8-xla": ("h100x8", {"attention": "xla"}, "fsdp, XLA's attention, full remat"),
}


def compile_ours(name: str):
    """(compiled, sizes of its mesh)"""
    from pretrainx.core import cli
    from pretrainx.plan import topology
    from pretrainx.train import build, experiment

    place, flags, _ = OURS[name]
    parser = argparse.ArgumentParser()
    cli.add_config_flags(parser)
    _, config = cli.parse_config_args(parser, [f"--config={CONFIG}", *flags])
    program = build.without_data(experiment.load(config), topology.devices(place))
    return program.compile_train(), dict(program.partitioner.mesh.shape)


def compile_bare(name: str):
    import bare_step

    from pretrainx.plan import topology

    place, options, _ = BARE[name]
    devices = topology.devices(place)
    step, arguments = bare_step.make(devices, **options)
    tensor = options.get("tensor", 1)
    return step.lower(*arguments).compile(), {"fsdp": len(devices) // tensor, "tensor": tensor}


def measure(name: str) -> dict:
    """Of one row, in this process."""
    from pretrainx.plan import hlo, topology, walk
    from pretrainx.plan.compile import collectives, kernel_calls, memory_of
    from pretrainx.plan.roofline import predict

    place = topology.parse((OURS | BARE)[name][0])
    begun = time.process_time()
    compiled, mesh = (compile_ours if name in OURS else compile_bare)(name)
    cpu_seconds = time.process_time() - begun
    text, wire = compiled.as_text(), defaultdict(float)
    module = hlo.parse(text)
    loop = walk.walk(module, 0.55)
    for row in collectives(loop, mesh):
        wire[row["kind"]] += row["wire_bytes"]
    return {
        "name": name, "what": (OURS | BARE)[name][2], "topology": place.name, "wire_bytes": sum(wire.values()), "wire_by_kind": dict(wire),
        "kernel_calls": kernel_calls(text), "compile_cpu_seconds": cpu_seconds, "unknown_loops": walk.unknown_loops(loop),
        "step_seconds": predict(loop, place.chip, place.joined_chips).seconds, **memory_of(compiled, module, place.chip),
    }  # fmt: skip


def in_a_process_of_its_own(name: str) -> dict:
    """What `measure` says, or {"name", "skipped"} or {"name", "error"} with a reason."""
    from pretrainx.core.errors import InputError
    from pretrainx.plan import topology

    try:
        topology.require_compiler(topology.parse((OURS | BARE)[name][0]))
    except InputError as error:
        return {"name": name, "skipped": str(error)}
    environment = os.environ | {"JAX_PLATFORMS": "cpu", "TF_CPP_MIN_LOG_LEVEL": "3", "PYTHONPATH": os.pathsep.join(
        [str(ROOT), str(ROOT / "benchmarks"), os.environ.get("PYTHONPATH", "")])}  # fmt: skip
    done = subprocess.run([sys.executable, __file__, "--child", name], capture_output=True, text=True, env=environment, check=False)
    if done.returncode:
        return {"name": name, "error": (done.stderr.strip().splitlines() or [f"ended with {done.returncode}"])[-1]}
    return json.loads(done.stdout.splitlines()[-1])


def show(row: dict, out) -> None:
    if "skipped" in row:
        print(f"| {row['name']} | skipped: {row['skipped']} |", file=out, flush=True)
        return
    if "error" in row:
        print(f"| {row['name']} | failed: {row['error'][:160]} |", file=out, flush=True)
        return
    kinds = ", ".join(
        f"{kind} {size / 1e6:,.0f}" for kind, size in sorted(row["wire_by_kind"].items(), key=lambda item: -item[1]) if size > 5e5
    )
    print(
        f"| {row['name']} | {row['topology']} | {row['what']} | {row['peak_bytes'] / 1e9:.2f} | {row['temp_bytes'] / 2**30:.2f} | "
        f"{row['wire_bytes'] / 1e6:,.0f} | {kinds} | "
        f"{row['step_seconds']:.3g} | {row['kernel_calls']} | {row['compile_cpu_seconds']:.0f} |",
        file=out, flush=True,
    )  # fmt: skip


def show_goals(rows: list[dict], out) -> None:
    """A line for each goal of these rows."""
    found = {row["name"]: row for row in rows if "peak_bytes" in row}
    for name, (goals, bare) in GOALS.items():
        if name not in found:
            continue
        for key, goal in goals.items():
            per, unit = UNITS[key]
            beside = f"; {bare} {found[bare][key] / per:,.4g}" if bare in found else ""
            reached = "reached" if found[name][key] <= goal else "MISSED"
            print(f"{reached}: {name} {found[name][key] / per:,.4g} {unit}, goal {goal / per:,.4g}{beside}", file=out)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--only", metavar="NAME", action="append", choices=[*OURS, *BARE], help="this row alone; may be given again")
    parser.add_argument("--list", action="store_true", help="name the rows, and stop")
    parser.add_argument("--json", action="store_true", help="print the rows as one JSON object")
    parser.add_argument("--child", choices=[*OURS, *BARE], help=argparse.SUPPRESS)
    args = parser.parse_args()
    if args.child:
        print(json.dumps(measure(args.child)))
        return
    if args.list:
        for name, (place, _, what) in (OURS | BARE).items():
            print(f"{name:<20} {place:<12} {what}")
        return
    out = sys.stderr if args.json else sys.stdout
    print(
        "| row | topology | layout | peak GB | temporaries GiB | wire MB | by kind | step s (predicted) | kernel calls | compile CPU-s |\n|"
        + "---|" * 10,
        file=out,
    )
    rows = []
    for name in args.only or [*OURS, *BARE]:
        rows.append(in_a_process_of_its_own(name))
        show(rows[-1], out)
    show_goals(rows, out)
    if args.json:
        print(json.dumps({"rows": rows}))


if __name__ == "__main__":
    main()
