"""Makes clean, deduplicated, documented shards out of raw text: read, clean, filter, deduplicate, decontaminate, write, report.

Kept documents go to WORKDIR/documents/*.jsonl.gz, dropped ones with stage and reason to WORKDIR/dropped/*.jsonl.gz; beside them lie
WORKDIR/manifest.json and WORKDIR/report.html. Run the same command again after an interruption, or with other settings: only what is
not there yet is done.
"""

import argparse
import shlex
from pathlib import Path

from pretrainx.core import cli, platforms
from pretrainx.core.errors import InputError
from pretrainx.core.logs import log


def main(argv: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(
        description=__doc__,
        epilog="example: python tools/curate.py --config=configs/curate_files.py --config.inputs='data/*.jsonl.gz' --workdir=clean",
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    cli.add_config_flags(parser)
    parser.add_argument("--workdir", type=Path, required=True, help="folder to write to; a run that was interrupted goes on there")
    parser.add_argument("--workers", type=int, default=platforms.usable_cores(), help="processes (default: one a core, here %(default)s)")
    parser.add_argument("--beam", action="store_true", help="run the tasks on Apache Beam (pip install 'pretrainx[beam]')")
    parser.add_argument("--beam-options", default="", help="Beam's pipeline options, such as '--runner=FlinkRunner --parallelism=64'")
    parser.add_argument("--json", action="store_true", help="print the manifest as one JSON object on the last line of stdout")

    arguments, overrides = cli.parse_with_overrides(parser, argv)

    from pretrainx.curate.pipeline import beam, executor, run, settings

    if arguments.workers < 1:
        raise InputError(f"--workers is {arguments.workers}, and at least 1 is wanted")
    chosen = settings.parse(settings.load(arguments.config, overrides))
    on_beam = arguments.beam or bool(arguments.beam_options)
    with (
        beam.executor(arguments.workdir, arguments.workers, shlex.split(arguments.beam_options))
        if on_beam
        else executor.local(arguments.workers)
    ) as who:
        manifest, tasks = run.curate(chosen, arguments.workdir, who)
    for stage, sources in manifest["flow"].items():
        documents = [sum(flow[side]["documents"] for flow in sources.values()) for side in ("in", "out")]
        log(f"{stage:<14} {documents[0]:>12,} -> {documents[1]:>12,} documents")
    done = sum(tally["done"] for tally in tasks.values())
    log(f"{'nothing to do: it is all there' if not tasks else f'{done:,} tasks done'}; see {arguments.workdir / run.REPORT}")
    if arguments.json:
        cli.print_json({"tasks_done": tasks, **manifest})
    return 0


if __name__ == "__main__":
    cli.run(main)
