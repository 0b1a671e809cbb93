"""Out of memory: one sentence that says what fills most and what to lower, by the analytic plan."""

import resource
from pathlib import Path
from typing import Any

import jax
import pytest
from support import command, experiment, finish, settings, write_config

from pretrainx.plan import out_of_memory
from pretrainx.train import build


def sentence(said: str, **sections: Any) -> str:
    model = {"vocab_size": 264} | sections.pop("model", {})
    return out_of_memory.sentence(build.without_data(experiment(model=model, **sections), jax.devices()[:1]), RuntimeError(said))


LONG = {"data": {"sequence_length": 512}}
FULL = {"batch_size": 4096, "remat": "full"}


@pytest.mark.parametrize(
    ("sections", "words"),
    [
        (LONG | {"train": {"batch_size": 512}}, "activations fill most: keep less of them (--config.train.remat="),
        (
            LONG | {"train": FULL, "model": {"vocab_size": 50000}},
            "logits fill most: compute the loss in chunks (--config.model.loss_chunks=2)",
        ),
        (LONG | {"train": FULL, "model": {"loss_chunks": 32, "num_layers": 8}}, "work on fewer rows at once (--config.train.grad_accum=2)"),
        ({"model": {"d_model": 1024, "mlp_dim": 65536}, "train": {"batch_size": 1}}, "take more chips"),
    ],
)
def test_what_fills_most_is_what_to_lower(sections: dict[str, Any], words: str) -> None:
    said = sentence("RESOURCE_EXHAUSTED: Attempting to allocate 12.50G. That was not possible.", **sections)
    assert said.startswith("out of memory on 1 x cpu (12.50G wanted): by the plan a device holds ") and words in said and "\n" not in said


def test_a_model_that_the_plan_does_not_know() -> None:
    said = sentence("RESOURCE_EXHAUSTED: Out of memory", model={"name": "t5"}, data={"objective": "span_corruption", "mixture": {}})
    assert said == "out of memory on 1 x cpu: lower train.batch_size, or raise train.grad_accum, or set --config.train.remat=full"


def test_other_errors_are_others() -> None:
    assert not out_of_memory.happened(RuntimeError("INVALID_ARGUMENT: shapes"))
    assert out_of_memory.happened(RuntimeError("INTERNAL: Error dispatching computation: Out of memory allocating 137438953472 bytes."))


@pytest.mark.slow
def test_a_real_run_that_does_not_fit(cache_dir: Path, tmp_path: Path) -> None:
    """Weights of 137 GB each, in a process that may have 30 GB of addresses."""
    config = write_config(tmp_path / "tiny.py", settings(cache_dir, model={"num_layers": 1, "mlp_dim": 2**30}))
    process = command(f"--config={config}", f"--workdir={tmp_path / 'run'}", "--json")
    resource.prlimit(process.pid, resource.RLIMIT_AS, (30 << 30, 30 << 30))
    last = finish(process, code=2)["stderr"].splitlines()[-1]
    assert last.startswith("error: out of memory on 1 x cpu") and "(137438953472 bytes wanted)" in last and "fill most: " in last
