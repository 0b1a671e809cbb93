"""Builds the default corpus out of Python's own standard library: prose, docstrings and code, with files held out."""

import argparse
from pathlib import Path

from pretrainx.core import cli
from pretrainx.core.logs import log
from pretrainx.curate import stdlib


def main(argv: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(
        description=__doc__,
        epilog="example: python tools/build_corpus.py --out data/stdlib",
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("--out", type=Path, default=Path("data/stdlib"), help="folder to write to (default: %(default)s)")
    parser.add_argument("--json", action="store_true", help="print the manifest as one JSON object on the last line of stdout")
    arguments = cli.parse_args(parser, argv)
    manifest, written = stdlib.build(arguments.out)
    totals = stdlib.totals(manifest)
    for source, splits in totals.items():
        counts = ", ".join(f"{split} {t['documents']:,} documents, {t['bytes'] / 1e6:.2f} MB" for split, t in splits.items())
        log(f"{source:<18} {counts}")
    log(f"default corpus of Python {manifest['python']} {'written to' if written else 'is there and unchanged:'} {arguments.out}")
    if arguments.json:
        cli.print_json({"written": written, "totals": totals, **manifest})
    return 0


if __name__ == "__main__":
    cli.run(main)
