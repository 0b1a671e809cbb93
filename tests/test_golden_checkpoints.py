"""Checkpoints of every released format load, as they were written."""

import importlib.util
import json
import shutil
from pathlib import Path
from types import ModuleType

import jax
import pytest

from pretrainx.train import digests, resume
from pretrainx.train import state as states
from pretrainx.train.checkpoint import Checkpoints

DATA = Path(__file__).parent / "data"
GOLDEN = sorted(DATA.glob("golden_checkpoint_*"))
MAX_BYTES = 200_000


def maker() -> ModuleType:
    spec = importlib.util.spec_from_file_location("make_golden_checkpoint", DATA / "make_golden_checkpoint.py")
    assert spec and spec.loader
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


@pytest.mark.parametrize("folder", GOLDEN, ids=lambda folder: folder.name)
def test_it_loads_as_it_was_written(folder: Path, tmp_path: Path) -> None:
    """From a copy, as a run would go on from it; another process wrote it, perhaps years ago."""
    expected = json.loads((folder / "expected.json").read_text())
    shutil.copytree(folder / "checkpoints", tmp_path / "checkpoints")
    checkpoints = Checkpoints(tmp_path / "checkpoints")
    assert checkpoints.latest() == expected["step"]
    assert digests.problem(tmp_path / "checkpoints" / str(expected["step"])) == ""
    like = maker().golden_state()
    found = checkpoints.restore(expected["step"], like, jax.tree.map(lambda x: x.sharding, like))
    assert states.sha256(found) == expected["state_sha256"] and int(found.step) == expected["step"] and int(found.skipped) == 1
    facts = resume.facts(checkpoints, expected["step"])
    wanted = expected["facts"]
    assert facts["skip_rows"].to_json() == wanted["skip_rows"]
    assert {name: value for name, value in facts.items() if name != "skip_rows"} == {n: v for n, v in wanted.items() if n != "skip_rows"}
    checkpoints.save(found, expected["step"] + 1, {})  # and the folder is one to go on in
    checkpoints.close()


def test_there_are_some_and_they_are_small() -> None:
    assert GOLDEN
    for folder in GOLDEN:
        assert sum(path.stat().st_size for path in folder.rglob("*") if path.is_file()) < MAX_BYTES


def test_the_maker_makes_what_is_there(tmp_path: Path) -> None:
    """So that the next format's is made the same way; the newest is of today's."""
    module = maker()
    module.main(tmp_path / "made")
    assert json.loads((tmp_path / "made" / "expected.json").read_text()) == json.loads((GOLDEN[-1] / "expected.json").read_text())
