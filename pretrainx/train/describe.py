"""What is said of a run before it starts: parameters, mesh, memory, operations; and the manifest of what it is made of."""

import math
import platform
import sys
import time
from typing import Any

from pretrainx.core import versions
from pretrainx.core.logs import log
from pretrainx.data.loader import Mixture
from pretrainx.parallel import pipeline
from pretrainx.train.build import Program
from pretrainx.train.state import table_text


def derived(program: Program) -> dict[str, Any]:
    """The sizes that follow from a config, as `explain_config` and the log show them."""
    experiment, lengths = program.experiment, program.lengths
    length, batch = experiment.data.sequence_length, experiment.train.batch_size
    shape = {axis: size for axis, size in program.partitioner.mesh.shape.items() if size > 1}
    per_token = program.flops_per_step / program.tokens_per_step
    return {
        "parameters": program.skeleton.num_params,
        "vocabulary": experiment.model.vocab_size,
        "train_flops_per_token": per_token,
        "tokens_per_step": program.tokens_per_step,
        "flops_per_step": program.flops_per_step,
        "steps": lengths.steps,
        "warmup_steps": lengths.warmup,
        "tokens": lengths.steps * batch * length,
        "mesh": shape or {"devices": 1},
        "batch_per_shard": batch // program.partitioner.batch_shards,
        "microbatch": batch // experiment.train.grad_accum,
        "checkpoint_every": lengths.checkpoint_every,
        "eval_every": lengths.eval_every,
    }


def compile_and_say(program: Program, mixture: Mixture) -> Any:
    """The compiled training step; its facts go to the log first, since a compile may take minutes."""
    facts = derived(program)
    log(f"{program.experiment.name}: {facts['parameters']:,} parameters, {facts['train_flops_per_token']:.3g} training FLOPs per token")
    log(table_text(program.skeleton))
    for source in mixture.sources:
        rows, share = len(source.windows), source.rate / sum(s.rate for s in mixture.sources)
        passes = facts["steps"] * program.experiment.train.batch_size * share / rows
        log(f"  data {source.name}: {source.windows.num_tokens:,} tokens, {rows:,} rows, {share:.1%} of the batch, {passes:.2f} epochs")
        if passes > program.experiment.data.max_epochs:
            log(
                f"  warning: {source.name} is repeated {passes:.1f} times, more than data.max_epochs "
                f"{program.experiment.data.max_epochs:g}: repeated text teaches less and less; lower its rate, or bring more of it"
            )
    mesh, rows = facts["mesh"], facts["batch_per_shard"]
    log(f"  mesh {mesh}, {rows} rows a shard, {facts['tokens_per_step']:,} tokens a step, {facts['steps']:,} steps")
    if (schedule := program.partitioner.schedule) is not None:
        log(f"  {pipeline.line(schedule.facts)}")
    single, unused = program.partitioner.idle_axes()
    if single and program.partitioner.mesh.size > 1:
        log(f"  note: the layout shards over {', '.join(single)}, whose size is 1 in this mesh: nothing is sharded there")
    if unused:
        log(f"  note: the layout does not use mesh axes {', '.join(unused)}: their devices repeat each other's work")
    start = time.perf_counter()
    compiled = program.compile_train()
    memory = compiled.memory_analysis()
    held = f", {memory_bytes(memory)['peak_bytes'] / 1e6:,.1f} MB a device at peak" if memory else ""
    log(f"compiled in {time.perf_counter() - start:.1f} s: {facts['flops_per_step'] / 1e12:.4g} TFLOP a step{held}")
    return compiled


def memory_bytes(memory: Any) -> dict[str, int]:
    """Bytes of one device, from the compiler's memory analysis."""
    arguments, outputs = memory.argument_size_in_bytes, memory.output_size_in_bytes
    temporaries, shared = memory.temp_size_in_bytes, memory.alias_size_in_bytes
    peak = getattr(memory, "peak_memory_in_bytes", 0) or arguments + outputs + temporaries - shared
    return {"argument_bytes": arguments, "output_bytes": outputs, "temp_bytes": temporaries, "alias_bytes": shared, "peak_bytes": peak}


def manifest(mixture: Mixture, facts: dict[str, Any]) -> dict[str, Any]:
    """What the run is made of: parameters, data and vocabulary hashes, versions."""
    return {
        "parameters": sum(map(math.prod, facts["identity"]["model"].values())),
        "identity": {k: v for k, v in facts["identity"].items() if k != "model"},
        "vocabulary": facts["vocabulary"],
        "sources": {
            s.name: {"rate": s.rate, "data_sha256": s.windows.cache.manifest["data_sha256"], "num_tokens": s.windows.num_tokens}
            for s in mixture.sources
        },
        "python": sys.version.split()[0],
        "platform": platform.platform(),
        "packages": versions.installed(),
    }
