"""Makes tests/data/golden_checkpoint_N, a tiny checkpoint of the current format, which every later version must load.

A format that was released stays: make another folder for a new one, and never this one anew.

    python tests/data/make_golden_checkpoint.py tests/data/golden_checkpoint_2
"""

import sys
from pathlib import Path
from typing import Any

import jax
import numpy as np

from pretrainx.core import files
from pretrainx.train import state as states
from pretrainx.train.checkpoint import Checkpoints
from pretrainx.train.state import State

STEP = 7


def golden_state() -> State:
    """Arrays of every type that a state has, with values that follow from their places."""
    count = lambda n: jax.numpy.asarray(n, np.int32)  # noqa: E731
    wave = lambda *shape: jax.numpy.asarray(np.sin(np.arange(np.prod(shape))).reshape(shape), np.float32)  # noqa: E731
    weights: dict[str, Any] = {
        "embedder": {"embedding": wave(12, 4)},
        "stack": {"blocks": {"kernel": wave(2, 4, 4)}},
        "norm": {"scale": wave(4)},
    }
    moments = {"mu": jax.tree.map(lambda x: 0.1 * x, weights), "nu": jax.tree.map(lambda x: x * x, weights), "count": count(STEP - 1)}
    return State(count(STEP), weights, moments, count(1), count(0))


def golden_facts() -> dict[str, Any]:
    """What a run keeps beside its arrays."""
    return {
        "identity": {"model": {"embedder/embedding": [12, 4]}, "vocabulary": "bytes", "data": "d" * 64},
        "config": {"train": {"steps": 10, "batch_size": 4}, "layout": "dp"},
        "vocabulary": {"kind": "bytes", "size": 264},
        "pending": [{"loss": 2.5, "grad_norm": 0.5, "lr": 1e-3, "skipped": 1.0, "skipped_in_a_row": 0.0}],
        "rows_sha256": "ab" * 32,
        "loss": 2.5,
        "losses": [3.0, 2.75, 2.5],
        "spikes": 1,
        "skip_rows": [[8, 12]],
    }


def main(folder: Path) -> None:
    checkpoints = Checkpoints(folder / "checkpoints")
    checkpoints.save(golden_state(), STEP, golden_facts())
    checkpoints.close()
    files.write_json(folder / "expected.json", {"step": STEP, "state_sha256": states.sha256(golden_state()), "facts": golden_facts()})


if __name__ == "__main__":
    main(Path(sys.argv[1]))
