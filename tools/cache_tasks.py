"""Tokenises the corpora of a config's mixture into the token cache. Interrupted, it goes on; unchanged, it does nothing."""

import argparse

from pretrainx.core import cli
from pretrainx.core.errors import InputError
from pretrainx.core.logs import log
from pretrainx.core.sections import Data
from pretrainx.data import build

NAMES = {
    "empty": "documents without any token, dropped",
    "not_lossless": "documents that do not decode to the same bytes",
    "documents_replaced": "documents with bytes that are not UTF-8",
    "characters_replaced": "characters replaced by U+FFFD",
    "blank": "empty records, skipped",
}


def main(argv: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(
        description=__doc__,
        epilog="example: python tools/cache_tasks.py --config=configs/quickstart.py --processes=4",
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    cli.add_config_flags(parser)
    parser.add_argument("--processes", type=int, default=0, help="tokenising processes (default: one a CPU core, at most 8)")
    parser.add_argument("--json", action="store_true", help="print the result as one JSON object on the last line of stdout")
    arguments, config = cli.parse_config_args(parser, argv)
    if arguments.processes < 0:
        raise InputError(f"--processes={arguments.processes} must be 1 or more, or 0 for one a CPU core")
    data = config.section("data", Data)
    result = build.build(data, arguments.processes)
    for name, splits in result["corpora"].items():
        for split, counts in splits.items():
            tokens = sum(counts["num_tokens"].values())
            log(
                f"{name:<20} {split:<10} {counts['num_documents']:>9,} documents {tokens:>13,} tokens {counts['num_bytes'] / 1e6:>10.2f} MB"
            )
            for key, count in counts["counts"].items():
                if count:
                    log(f"{'':<20} {'':<10} {count:>9,} {NAMES.get(key, key)}")
    if result["built"]:
        log(f"cached in {data.cache_dir}: {result['built']} of {result['shards']} shards built in {result['seconds']:.1f} s")
    else:
        log(f"unchanged: all {result['shards']} shards in {data.cache_dir} are there")
    if arguments.json:
        cli.print_json(result)
    return 0


if __name__ == "__main__":
    cli.run(main)
