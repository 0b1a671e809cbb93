import argparse
import errno
import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from pretrainx.core import cli
from pretrainx.core.errors import GuardStop, InputError, Interrupted

ROOT = Path(__file__).parents[1]


@pytest.fixture
def parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser()
    cli.add_config_flags(parser)
    parser.add_argument("--json", action="store_true")
    parser.add_argument("--step", type=int, default=0)
    return parser


@pytest.fixture
def file(tmp_path: Path) -> str:
    path = tmp_path / "tiny.py"
    path.write_text("def get_config(size='s'): return {'train': {'steps': 7}, 'layout': size}")
    return str(path)


def raises(error: BaseException) -> Any:
    def main() -> int:
        raise error

    return main


@pytest.mark.parametrize(
    ("main", "code", "line"),
    [
        (lambda: 0, 0, ""),
        (lambda: None, 0, ""),
        (lambda: 4, 4, ""),
        (raises(InputError("a: wrong\n  place")), 2, "error: a: wrong place\n"),
        (raises(GuardStop("5 bad steps")), 3, "stopped: 5 bad steps\n"),
        (raises(Interrupted("saved at step 5")), 75, "interrupted: saved at step 5\n"),
        (raises(KeyboardInterrupt()), 130, "interrupted\n"),
        (raises(OSError(errno.ENOSPC, "No space left on device", "/x/y")), 2, "error: No space left on device: /x/y\n"),
        (raises(PermissionError(errno.EACCES, "Permission denied", "/x")), 2, "error: Permission denied: /x\n"),
    ],
)
def test_exit_codes_and_the_one_line(capsys: pytest.CaptureFixture[str], main: Any, code: int, line: str) -> None:
    assert cli.outcome(main) == code
    assert capsys.readouterr().err == line
    with pytest.raises(SystemExit) as caught:
        cli.run(main)
    assert caught.value.code == code


def test_our_own_mistakes_keep_their_traceback() -> None:
    for mistake in (ValueError("x"), AssertionError(), FileNotFoundError(errno.ENOENT, "No such file", "x")):
        with pytest.raises(type(mistake)):
            cli.outcome(raises(mistake))


def test_a_reader_that_goes_away_is_no_error() -> None:
    code = "from pretrainx.core import cli\ndef main():\n    for i in range(10**6): print(i)\ncli.run(main)"
    done = subprocess.run(
        ["bash", "-c", f"{sys.executable} -c '{code}' | head -n 1; echo ${{PIPESTATUS[0]}}"], cwd=ROOT, capture_output=True, text=True
    )
    assert done.stdout.split() == ["0", "141"]
    assert done.stderr == ""


def test_flags_config_and_overrides(parser: argparse.ArgumentParser, file: str) -> None:
    for config_flag in ([f"--config={file}"], ["--config", file]):
        args, config = cli.parse_config_args(
            parser, [*config_flag, "--config.train.seed=5", "--step", "3", "--config.train.steps", "10%", "--json"]
        )
        assert (args.json, args.step, args.config) == (True, 3, file)
        assert config.values == {"train": {"steps": "10%", "seed": 5}, "layout": "s"}
        assert not hasattr(args, "_override")


def test_argument_of_the_file_and_default_file(parser: argparse.ArgumentParser, file: str) -> None:
    assert cli.parse_config_args(parser, [f"--config={file}:large"])[1].layout == "large"
    other = argparse.ArgumentParser()
    cli.add_config_flags(other, default=file)
    assert cli.parse_config_args(other, [])[1].name == "tiny"


@pytest.mark.parametrize(
    ("words", "sentence"),
    [
        (["--jsn"], "unknown flag '--jsn'; did you mean '--json'"),
        (["--conf=x"], "unknown flag '--conf'; did you mean '--config'"),
        (["--js"], "unknown flag '--js'"),
        (["--step=x"], "argument --step: invalid int value: 'x'"),
        (["--step"], "argument --step: expected one argument"),
        (["extra"], "unexpected argument 'extra'"),
        (["--config.train.seed"], "--config.train.seed has no value"),
        (["--config.train.seed", "--json"], "--config.train.seed has no value"),
        (["--config.train.sed=1"], "unknown config key 'train.sed'; did you mean 'seed'"),
        (["--config.=1"], "expected --config.PATH=VALUE"),
    ],
)
def test_refused(parser: argparse.ArgumentParser, file: str, words: list[str], sentence: str) -> None:
    with pytest.raises(InputError) as caught:
        cli.parse_config_args(parser, [f"--config={file}", *words])
    assert sentence in str(caught.value)


def test_config_is_required(parser: argparse.ArgumentParser) -> None:
    with pytest.raises(InputError, match="^--config is missing"):
        cli.parse_config_args(parser, ["--json"])


def test_help_ends_with_0(parser: argparse.ArgumentParser, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as caught:
        cli.parse_config_args(parser, ["--help"])
    assert caught.value.code == 0
    assert "--config.train.steps=100" in capsys.readouterr().out


def test_json_is_one_strict_line(capsys: pytest.CaptureFixture[str]) -> None:
    cli.print_json(
        {
            "loss": np.float32(0.5),
            "bad": float("nan"),
            "inf": [np.inf],
            "n": np.int64(3),
            "list": np.arange(2),
            "path": Path("a"),
            "é": (1,),
        }
    )
    out = capsys.readouterr().out
    assert out.count("\n") == 1
    assert json.loads(out) == {"loss": 0.5, "bad": None, "inf": [None], "n": 3, "list": [0, 1], "path": "a", "é": [1]}
