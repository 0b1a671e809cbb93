"""Writes the tables of docs/plans.md anew: the large configs' plans, and published runs beside their predictions."""

import argparse
from pathlib import Path

from pretrainx.core import cli, files
from pretrainx.core.logs import log

ROOT = Path(__file__).resolve().parents[1]
EPILOG = "example: python tools/plan_tables.py"


def main(argv: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(description=__doc__, epilog=EPILOG, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--json", action="store_true", help="print what was written as one JSON object on the last line of stdout")
    args = cli.parse_args(parser, argv)

    from pretrainx.plan import tables

    path = ROOT / "docs" / "plans.md"
    before = path.read_text(encoding="utf-8")
    after = tables.filled(before, ROOT)
    files.write_bytes(path, after.encode())
    log(f"{path}: {'written anew' if after != before else 'as it was'}")
    if args.json:
        cli.print_json({"path": str(path), "changed": after != before})
    return 0


if __name__ == "__main__":
    cli.run(main)
