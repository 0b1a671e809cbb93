"""Each in a new process, because the tool sets the number of devices before JAX starts."""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
CONFIG = """
def get_config():
    return {
        "data": {"sequence_length": 64},
        "model": {"vocab_size": 512, "d_model": 32, "num_layers": 2, "num_heads": 4, "mlp_dim": 64},
        "optim": {"warmup": "10%"},
        "train": {"steps": "12800 tokens", "batch_size": 4, "dtype": "float32"},
        "mesh": {"data": 1, "fsdp": 2},
        "layout": "fsdp",
    }
"""


@pytest.fixture
def file(tmp_path: Path) -> str:
    (tmp_path / "tiny.py").write_text(CONFIG)
    return str(tmp_path / "tiny.py")


def explain(*flags: str) -> subprocess.CompletedProcess[str]:
    environment = {**os.environ, "PYTHONPATH": str(ROOT)}
    command = [sys.executable, "tools/explain_config.py", *flags]
    return subprocess.run(command, cwd=ROOT, env=environment, capture_output=True, text=True, check=False)


def test_json_has_values_origins_and_sizes(file: str) -> None:
    done = explain(f"--config={file}", "--config.train.batch_size=8", "--json")
    assert done.returncode == 0, done.stderr
    found = json.loads(done.stdout)
    assert found["name"] == "tiny"
    assert found["values"]["train.batch_size"] == {"value": 8, "origin": "command line"}
    assert found["values"]["data.sequence_length"] == {"value": 64, "origin": file}
    assert found["values"]["train.seed"] == {"value": 0, "origin": "default"}
    assert found["values"]["model.max_length"] == {"value": 64, "origin": "derived"}
    sizes = found["derived"]
    assert (sizes["tokens_per_step"], sizes["steps"], sizes["batch_per_shard"], sizes["mesh"]) == (512, 25, 4, {"fsdp": 2})
    assert sizes["warmup_steps"] == 3
    # Two embeddings, and in each layer four square projections, three of the MLP and two norms; one norm at the end.
    assert sizes["parameters"] == 2 * 512 * 32 + 2 * (4 * 32 * 32 + 3 * 32 * 64 + 2 * 32) + 32


def test_a_misfit_ends_with_2_below_the_values(file: str) -> None:
    done = explain(f"--config={file}", "--config.mesh.fsdp=3")
    assert done.returncode == 2
    assert "train.batch_size" in done.stdout and "command line" in done.stdout
    assert [line for line in done.stderr.splitlines() if line.startswith("error: ") and "train.batch_size 4 is not divisible" in line]
    assert "Traceback" not in done.stderr


def test_without_data_or_vocabulary_the_values_are_shown(file: str) -> None:
    done = explain(f"--config={file}", "--config.model.vocab_size=0", "--json")
    assert done.returncode == 0, done.stderr
    assert json.loads(done.stdout)["derived"] is None
    assert "derived sizes are not known yet" in done.stderr
