"""Compiling for TPUs that are not here: the real compiler, in processes of its own."""

import importlib.util
import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
from support import ROOT, environment

from pretrainx.core.errors import InputError
from pretrainx.plan import topology

needs_compiler = pytest.mark.skipif(importlib.util.find_spec("libtpu") is None, reason="the [plan] extra (libtpu) is not installed")

CONFIG = """
def get_config():
    return {
        "data": {"sequence_length": 256},
        "model": {"vocab_size": 1024, "d_model": 256, "num_layers": 3, "num_heads": 2, "mlp_dim": 512},
        "train": {"steps": 10, "batch_size": 8, "remat": "full"},
        "mesh": {"data": 1, "fsdp": -1},
        "layout": "fsdp",
    }
"""


def plan(folder: Path, *flags: str) -> subprocess.CompletedProcess[str]:
    file = folder / "small.py"
    file.write_text(CONFIG)
    return subprocess.run(
        [sys.executable, str(ROOT / "tools" / "plan.py"), f"--config={file}", "--json", *flags],
        env=environment(), cwd=ROOT, capture_output=True, text=True, timeout=300, check=False,
    )  # fmt: skip


def result(done: subprocess.CompletedProcess[str]) -> dict[str, Any]:
    assert done.returncode == 0, done.stderr[-3000:]
    return json.loads(done.stdout.splitlines()[-1])


@pytest.mark.parametrize("name", ["v5e", "v5e:4by4", "v9:4x4", "h100x8", "v5e:4x4x4x4"])
def test_a_topology_that_cannot_be_read_is_refused(name: str) -> None:
    with pytest.raises(InputError, match="--topology=.*expected FAMILY:SHAPE"):
        topology.check(name)


@needs_compiler
@pytest.mark.slow
def test_arguments_of_an_fsdp_step_are_the_states_share_of_a_chip(tmp_path: Path) -> None:
    found = result(plan(tmp_path, "--topology=v5e:2x2"))
    # Parameters and two moments in float32, a fourth on each chip; the batch, norms and padding are the rest.
    share = 3 * 4 * found["parameters"] / 4
    assert found["fits"] and share < found["argument_bytes"] < 1.05 * share + 1e5
    assert found["argument_bytes"] < found["peak_bytes"]
    assert found["kernel_calls"] >= 3  # forward, and the two of the backward pass
    assert result(plan(tmp_path, "--topology=v5e:2x2", "--config.model.attention_kernel=xla"))["kernel_calls"] == 0


@needs_compiler
@pytest.mark.slow
def test_what_the_compiler_refuses_for_memory_does_not_fit(tmp_path: Path) -> None:
    found = result(plan(tmp_path, "--topology=v5e:2x2", "--config.train.batch_size=65536", "--config.train.remat=none"))
    assert found["fits"] is False and "peak_bytes" not in found


@needs_compiler
@pytest.mark.slow
def test_a_slice_that_does_not_exist_and_a_mesh_that_does_not_fit_are_one_sentence(tmp_path: Path) -> None:
    large = ["--topology=v5e:16x32", "--config.train.batch_size=512", "--config.mesh.fsdp=1", "--config.mesh.data=-1"]
    for flags, said in ((large, "no slice of this shape"), (["--topology=v5e:2x2", "--config.mesh.fsdp=3"], "mesh:")):
        done = plan(tmp_path, *flags)
        assert done.returncode == 2 and said in done.stderr.splitlines()[-1] and done.stderr.splitlines()[-1].startswith("error: ")
