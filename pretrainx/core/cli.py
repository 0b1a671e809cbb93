"""The seam between a command line and a tool: flags, errors, exit codes, and the JSON line at the end."""

import argparse
import errno
import json
import logging
import math
import os
import sys
import threading
from collections.abc import Callable, Mapping, Sequence
from typing import Any, NoReturn

from pretrainx.core import config as configs
from pretrainx.core import platforms
from pretrainx.core.config import Config
from pretrainx.core.errors import (
    EXIT_BAD_INPUT,
    EXIT_GUARD,
    EXIT_INTERRUPTED,
    EXIT_SAVE_FAILED,
    GuardStop,
    InputError,
    Interrupted,
    SaveFailed,
    nearest,
)
from pretrainx.core.logs import log

EXIT_KEYBOARD = 130  # as a shell reports a process that Ctrl-C ended
EXIT_BROKEN_PIPE = 141  # and one whose reader went away (`tool | head`)
# What the machine refuses and the user can mend; other system errors keep their traceback.
_MENDABLE = {errno.ENOSPC, errno.EDQUOT, errno.EROFS, errno.EACCES, errno.EPERM}


def run(main: Callable[[], int | None], leave_s: float = 0.0) -> NoReturn:
    """Runs a tool and exits: 0, or one line on stderr and the exit code of what stopped it. Ends every tool's file.

    Our own mistakes are not caught: their traceback is what a bug report needs.
    `leave_s`, if not 0, is how long a failed tool waits at its exit for threads that may hang (in a read, or for another process).
    """
    code = 1
    try:
        code = outcome(main)
    finally:
        if code and leave_s:
            timer = threading.Timer(leave_s, os._exit, (code,))
            timer.daemon = True
            timer.start()
    sys.exit(code)


def outcome(main: Callable[[], int | None]) -> int:
    """The exit code of a tool, its error printed."""
    platforms.settle()
    logging.getLogger("absl").setLevel(logging.ERROR)  # the checkpoint library tells every small step as a warning
    try:
        code = main() or 0
        sys.stdout.flush()  # here, where a reader that went away is still ours to handle
        return code
    except InputError as error:
        return _end(f"error: {error}", EXIT_BAD_INPUT)
    except GuardStop as error:
        return _end(f"stopped: {error}", EXIT_GUARD)
    except SaveFailed as error:
        return _end(f"not saved: {error}", EXIT_SAVE_FAILED)
    except Interrupted as error:
        return _end(f"interrupted: {error}", EXIT_INTERRUPTED)
    except KeyboardInterrupt:
        return _end("interrupted", EXIT_KEYBOARD)
    except BrokenPipeError:
        # Python flushes stdout once more at exit, which would print a second error.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return EXIT_BROKEN_PIPE
    except OSError as error:
        if error.errno not in _MENDABLE:
            raise
        return _end(f"error: {error.strerror}: {error.filename or 'no file name known'}", EXIT_BAD_INPUT)


def _end(message: str, code: int) -> int:
    log(" ".join(message.split()))
    return code


def add_config_flags(parser: argparse.ArgumentParser, default: str | None = None) -> None:
    """Adds --config=FILE and --config.path=value; without a default file the flag is required."""
    parser.allow_abbrev = False  # --conf must not stand for --config, nor hide a misspelt flag
    parser.add_argument("--config", metavar="FILE.py[:ARG]", default=default, help="the experiment, a Python file; it is run")
    parser.add_argument("--config.PATH", metavar="VALUE", dest="_override", help="override one value: --config.train.steps=100")


def add_process_flags(parser: argparse.ArgumentParser) -> None:
    """Adds what `multihost.start` needs to make several processes one run."""
    parser.add_argument("--coordinator", help="address:port of process 0 of a multi-process run, or 'auto' on a pod")
    parser.add_argument("--num_processes", type=int, help="processes of a multi-process run")
    parser.add_argument("--process_id", type=int, help="which of them this is, from 0")


def parse_config_args(parser: argparse.ArgumentParser, argv: Sequence[str] | None = None) -> tuple[argparse.Namespace, Config]:
    """The tool's own arguments and the loaded config."""
    args, overrides = parse_with_overrides(parser, argv)
    return args, configs.load(args.config, overrides)


def parse_with_overrides(parser: argparse.ArgumentParser, argv: Sequence[str] | None = None) -> tuple[argparse.Namespace, list[str]]:
    """The tool's own arguments, `config` among them, and the overrides, for a tool whose config is not an experiment's."""
    rest, overrides = split_overrides(sys.argv[1:] if argv is None else argv)
    args = parse_args(parser, rest)
    del args._override
    if not args.config:
        raise InputError("--config is missing: name an experiment, such as --config=configs/quickstart.py")
    return args, overrides


def parse_args(parser: argparse.ArgumentParser, argv: Sequence[str] | None = None) -> argparse.Namespace:
    """What `parser.parse_args` gives, with every error as an InputError that names the nearest flag."""

    def refuse(message: str) -> NoReturn:
        raise InputError(message)

    parser.error = refuse  # type: ignore[method-assign]
    args, unknown = parser.parse_known_args(argv)
    for word in unknown:
        flag = word.partition("=")[0]
        if flag.startswith("-"):
            raise InputError(f"unknown flag {flag!r}; {nearest(flag, _flags(parser))}")
        raise InputError(f"unexpected argument {word!r}; flags are: {', '.join(_flags(parser))}")
    return args


def split_overrides(argv: Sequence[str]) -> tuple[list[str], list[str]]:
    """The command line without its --config.path=value words, and these as "path=value".

    >>> split_overrides(["--json", "--config.train.steps=5", "--config.train.seed", "7"])
    (['--json'], ['train.steps=5', 'train.seed=7'])
    """
    rest: list[str] = []
    overrides: list[str] = []
    words = iter(argv)
    for word in words:
        if not word.startswith("--config."):
            rest.append(word)
            continue
        text = word.removeprefix("--config.")
        if "=" not in text:
            value = next(words, None)
            if value is None or value.startswith("--"):
                raise InputError(f"{word} has no value: write {word}=VALUE")
            text = f"{text}={value}"
        overrides.append(text)
    return rest, overrides


def print_json(value: Mapping[str, Any]) -> None:
    """Prints the result as one line of strict JSON on stdout; nan and inf, which JSON lacks, become null."""
    sys.stdout.write(json.dumps(_strict(value), ensure_ascii=False, allow_nan=False) + "\n")
    sys.stdout.flush()


def _strict(value: Any) -> Any:
    if isinstance(value, Mapping):
        return {str(key): _strict(inner) for key, inner in value.items()}
    if isinstance(value, (list, tuple)):
        return [_strict(inner) for inner in value]
    if hasattr(value, "tolist"):  # NumPy and JAX scalars and arrays, without importing either
        return _strict(value.tolist())
    if isinstance(value, os.PathLike):
        return os.fspath(value)
    return None if isinstance(value, float) and not math.isfinite(value) else value


def _flags(parser: argparse.ArgumentParser) -> list[str]:
    return [option for action in parser._actions for option in action.option_strings if option.startswith("--")]
