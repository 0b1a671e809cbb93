"""Shows every value of an experiment with where it came from, and the sizes that follow: parameters, FLOPs, batch by mesh."""

import argparse
import math
import sys
from dataclasses import astuple
from typing import Any

from pretrainx.core import cli
from pretrainx.core.config import Config, leaves
from pretrainx.core.errors import InputError
from pretrainx.core.logs import log

COLOURS = {"default": "dim", "command line": "bold yellow", "derived": "green"}  # of origins; the config file's is cyan


def main(argv: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(
        description=__doc__,
        epilog="example: python tools/explain_config.py --config=configs/decoder_1b.py --config.mesh.fsdp=16 --config.train.steps=1000",
    )
    cli.add_config_flags(parser)
    parser.add_argument("--devices", type=int, help="derive the sizes for this many devices (default: what the mesh's sizes multiply to)")
    parser.add_argument("--json", action="store_true", help="print values, origins and derived sizes as one JSON object on stdout")
    args, config = cli.parse_config_args(parser, argv)
    if args.devices is not None and args.devices < 1:
        raise InputError(f"--devices: expected at least 1, found {args.devices}")

    from pretrainx.train import experiment as experiments  # JAX is imported only when the command line is right

    experiment = experiments.load(config)
    values, derived = experiment.resolved(), None
    # A misfit of mesh, model and batch is shown below the values that it comes from.
    misfit: InputError | None = None
    try:
        program = _program(experiment, args.devices)
        if program is not None:
            from pretrainx.train.describe import derived as sizes_of

            values, derived = program.experiment.resolved(), sizes_of(program)
    except InputError as error:
        misfit = error
    rows = explain(config, values)
    if args.json and misfit is None:
        described = {path: {"value": value, "origin": origin} for path, value, origin in rows}
        cli.print_json({"name": config.name, "values": described, "derived": derived})
    elif not args.json:
        _show(config, rows, derived)
    if misfit is not None:
        raise misfit
    return 0


def explain(config: Config, values: dict[str, Any]) -> list[tuple[str, Any, str]]:
    """(path, value, origin) of every leaf; "derived" where the library has filled in what the config left open."""
    said = leaves(config.resolved())
    return [(path, value, config.origin(path) if said.get(path) == value else "derived") for path, value in leaves(values).items()]


def _program(experiment: Any, num_devices: int | None) -> Any:
    """The program that would be trained, without any array; None where the size of the vocabulary is not known yet."""
    from pretrainx.data.loader import open_mixture
    from pretrainx.train import build

    devices = _devices(num_devices or math.prod(size for size in astuple(experiment.mesh) if size > 0))
    try:
        mixture = open_mixture(experiment.data, "train")
    except InputError as error:
        if not experiment.model.vocab_size:
            log(f"derived sizes are not known yet: {error}; cache the data or give model.vocab_size")
            return None
        log(f"sizes follow from the config alone: {error}")
        return build.without_data(experiment, devices)
    return build.from_mixture(experiment, mixture, devices)[0]


def _devices(count: int) -> list[Any]:
    """That many devices to lay a mesh over: no work is done on them, so the CPU stands for any hardware."""
    import jax

    try:
        jax.config.update("jax_platforms", "cpu")
        jax.config.update("jax_num_cpu_devices", count)
    except RuntimeError:  # JAX has started already, with as many devices as it has
        pass
    devices = jax.devices("cpu")
    if len(devices) < count:
        raise InputError(f"mesh: {count} devices are needed, and JAX has started with {len(devices)}")
    return devices[:count]


def _show(config: Config, rows: list[tuple[str, Any, str]], derived: dict[str, Any] | None) -> None:
    from rich import box
    from rich.console import Console
    from rich.table import Table
    from rich.text import Text

    # Piped, nothing tells the width: wide enough that values are not broken.
    console = Console(file=sys.stdout, width=None if sys.stdout.isatty() else 160)
    table = Table(title=f"{config.name} ({config.file})", box=box.SIMPLE_HEAD, title_justify="left")
    for column in ("key", "value", "from"):
        table.add_column(column, overflow="fold")
    section = rows[0][0].partition(".")[0]
    for path, value, origin in rows:
        if path.partition(".")[0] != section:
            section = path.partition(".")[0]
            table.add_section()
        colour = COLOURS.get(origin, "cyan")
        table.add_row(Text(path), Text(_text(value), style="dim" if origin == "default" else ""), Text(origin, style=colour))
    console.print(table)
    if derived is not None:
        sizes = Table(title="derived", box=box.SIMPLE_HEAD, title_justify="left", show_header=False)
        for name, value in derived.items():
            sizes.add_row(Text(name.replace("_", " ")), Text(_size(value)))
        console.print(sizes)


def _text(value: Any) -> str:
    """A value as it may be typed behind `--config.PATH=`."""
    if isinstance(value, bool) or value is None:
        return str(value).lower()
    return str(value) if value != "" else '""'


def _size(value: Any) -> str:
    if isinstance(value, dict):
        return ", ".join(f"{key} {_size(inner)}" for key, inner in value.items())
    return f"{value:,}" if isinstance(value, int) else f"{value:.4g}" if isinstance(value, float) else str(value)


if __name__ == "__main__":
    cli.run(main)
