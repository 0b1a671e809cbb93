"""Keeps a training command going: restarts it after a crash, gives up where it gets no further, and tells where the time went."""

import argparse
import sys
from pathlib import Path

from pretrainx.core import cli
from pretrainx.core.errors import InputError

EPILOG = """Exit codes 0 (done), 2 (bad input) and 3 (the guard) of the command are final; 75 (interrupted and saved) is started again at
once, every other code and signal after a pause that doubles while nothing moves. SIGTERM and SIGINT are passed on, and end it.
The journal is supervision.jsonl in the run's folder. With several hosts, run one on each.

example: python tools/supervise.py -- python tools/train.py --config=configs/quickstart.py --workdir=runs/quickstart
"""


def main(argv: list[str] | None = None) -> int:
    words = sys.argv[1:] if argv is None else list(argv)
    split = words.index("--") if "--" in words else len(words)
    own, command = words[:split], words[split + 1 :]
    parser = argparse.ArgumentParser(
        description=__doc__, epilog=EPILOG, formatter_class=argparse.RawDescriptionHelpFormatter, allow_abbrev=False
    )
    parser.add_argument("--max_restarts", type=int, default=100, help="starts after the first (default: %(default)s)")
    parser.add_argument(
        "--max_stuck", type=int, default=3, help="give up after so many starts that got no further than those before (default: %(default)s)"
    )
    parser.add_argument("--backoff", type=float, default=1.0, help="seconds before the first restart (default: %(default)s)")
    parser.add_argument("--max_backoff", type=float, default=300.0, help="and at most (default: %(default)s)")
    parser.add_argument("--folder", type=Path, help="the run's folder (default: the command's --workdir)")
    parser.add_argument("--json", action="store_true", help="print the account as one JSON object on stdout, after the command's own lines")
    args = cli.parse_args(parser, own)

    from pretrainx.train import supervise

    for name, least in (("max_restarts", 0), ("max_stuck", 1), ("backoff", 0), ("max_backoff", 0)):
        if not getattr(args, name) >= least:
            raise InputError(f"--{name} {getattr(args, name)}: accepted are {least} and above")
    if not command:
        raise InputError("no command: write it after --, such as: supervise.py -- python tools/train.py --config=... --workdir=...")
    if any(word.startswith("--rewind_to") for word in command):
        raise InputError("--rewind_to in a supervised command would go back at every start; run it once by itself")
    folder = args.folder or supervise.workdir_of(command)
    if folder is None:
        raise InputError("the command has no --workdir, so its progress cannot be followed; give it one, or name --folder=DIR")
    policy = supervise.Policy(args.max_restarts, args.max_stuck, args.backoff, args.max_backoff)
    supervisor = supervise.Supervisor(command, folder, policy)
    try:
        code = supervisor.run()
    except (FileNotFoundError, PermissionError) as error:
        raise InputError(f"the command cannot be started: {error.strerror}: {command[0]}") from None
    if args.json:
        spent = supervise.goodput(supervisor.attempts, finished=code in (0, 75))
        cli.print_json({
            "code": code, "starts": len(supervisor.attempts), "steps": supervisor.attempts[-1].step, "seconds": spent,
            "goodput": supervise.shares(spent)["forward"],
        })  # fmt: skip
    return code


if __name__ == "__main__":
    cli.run(main)
