"""Compiling for TPUs that are not here: the real compiler, in processes of its own."""

import importlib.util
import json
import subprocess
import sys
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from support import ROOT, environment

from pretrainx.core.chips import CHIPS
from pretrainx.core.errors import InputError
from pretrainx.plan import cost, estimate, topology
from pretrainx.plan.analytic import Run
from pretrainx.plan.compile import refused_buffers, required_bytes

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


@pytest.mark.parametrize("name", ["v5e", "v5e:4by4", "v9:4x4", "v5e:4x4x4x4", "h100-8", "v5ex8", "h100:2x4", ""])
def test_a_topology_that_cannot_be_read_is_refused(name: str) -> None:
    with pytest.raises(InputError, match="--topology=.*expected FAMILY:SHAPE"):
        topology.check(name)


@pytest.mark.parametrize(
    ("name", "said"),
    [
        ("v5e-200", "power of two"),
        ("v5e-512", "from 4 to 256"),
        ("v5p-4", "counts TensorCores"),
        ("h100x12", "nodes of 8"),
        ("h100x0", "nodes of 8"),
        ("v5p:4x4", "3 dimensions"),
        ("v5e-16x0", "power of two"),
    ],
)
def test_a_size_that_no_slice_has_is_refused(name: str, said: str) -> None:
    with pytest.raises(InputError, match=said):
        topology.parse(name)


@pytest.mark.parametrize(
    ("name", "chips", "slices", "devices", "shape"),
    [
        ("v5e:4x4", 16, 1, 16, "4x4"),
        ("v5e-256", 256, 1, 256, "16x16"),
        ("v5e-256x4", 1024, 4, 1024, "16x16"),
        ("v6e-8", 8, 1, 8, "2x4"),
        ("v5p-128", 64, 1, 64, "4x4x4"),
        ("v4-4096x2", 4096, 2, 8192, "8x16x16"),
        ("tpu7x-128", 64, 1, 128, "4x4x4"),
        ("v5e:4x8@2", 64, 2, 64, "4x8"),
        ("h100x8", 8, 1, 8, "1x8"),
        ("a100x64", 64, 1, 64, "8x8"),
    ],
)
def test_names_of_topologies(name: str, chips: int, slices: int, devices: int, shape: str) -> None:
    found = topology.parse(name)
    assert (found.chips, found.slices, found.num_devices, found.shape) == (chips, slices, devices, shape)
    assert found.compiles or not found.chip.is_tpu


def test_what_all_stands_for_is_readable() -> None:
    assert len({topology.parse(name).name for name in topology.ALL}) == len(topology.ALL)


def analytic(config: str, *flags: str) -> subprocess.CompletedProcess[str]:
    words = [sys.executable, str(ROOT / "tools" / "plan.py"), f"--config={ROOT}/configs/{config}.py", "--analytic", "--json", *flags]
    return subprocess.run(words, env=environment(), cwd=ROOT, capture_output=True, text=True, timeout=120, check=False)


def test_gpt3_takes_the_flops_that_its_paper_states() -> None:
    """3.14e23 (Brown 2020, table D.1), and the days, hours and money that follow from the step."""
    found = result(analytic("gpt3_175b", "--topology=v5p-1024", "--price=2", "--watts=500"))
    assert found["run_flops"] == pytest.approx(3.14e23, rel=0.02) and found["fits"] is True
    assert found["run_model_flops"] == pytest.approx(found["model_flops_per_step"] / found["tokens_per_step"] * 300e9, rel=1e-5)
    seconds = 300e9 / found["tokens_per_step"] * found["step_seconds"]
    assert found["days"] == pytest.approx(seconds / 86400, rel=1e-4)
    assert found["dollars"] == pytest.approx(2 * 512 * seconds / 3600, rel=1e-4)
    assert found["energy_kwh"] == pytest.approx(0.5 * 512 * seconds / 3600, rel=1e-4)
    assert found["tokens_per_second"] * found["step_seconds"] == pytest.approx(found["tokens_per_step"])


def test_chinchillas_optimum_is_its_own_model() -> None:
    """Gopher's budget, 5.76e23 FLOPs, trains 67e9 parameters on 1.5e12 tokens best (Hoffmann 2022, table 3)."""
    found = cost.optimum(5.76e23)
    assert found["chinchilla_parameters"] == pytest.approx(67e9, rel=0.05)
    assert found["chinchilla_tokens"] == pytest.approx(1.5e12, rel=0.1)


def test_several_topologies_each_have_a_plan_or_a_reason(tmp_path: Path) -> None:
    page = tmp_path / "plan.html"
    found = result(analytic("llama3_8b", "--topology=h100x64,v5e-256,a100x8,v5e-256x8", f"--html={page}"))["plans"]
    assert [plan["fits"] for plan in found] == [True, True, False, None]
    assert "grad_accum" in found[2]["advice"] and "does not spread" in found[3]["error"]
    text = page.read_text()
    assert all(name in text for name in ("h100x64", "a100x8", "does not spread", "Scaling", "Memory of a chip")) and "<script" not in text


def test_a_search_ranks_what_fits_and_its_flags_are_a_plan() -> None:
    """The best layout's flags, pasted, plan to the step time that the search says."""
    found = result(analytic("llama3_8b", "--topology=v5e-256", "--search"))
    assert found["tried"] >= found["fit"] >= len(found["ranked"]) >= 2
    times = [row["step_seconds"] for row in found["ranked"]]
    assert times == pytest.approx(sorted(times), rel=1e-3) and all(row["peak_bytes"] < 16 * 2**30 for row in found["ranked"])
    for row in found["ranked"][:2]:
        again = result(analytic("llama3_8b", "--topology=v5e-256", *row["flags"]))
        assert again["step_seconds"] == pytest.approx(row["step_seconds"]) and again["peak_bytes"] == pytest.approx(row["peak_bytes"])


def test_calibration_is_printed_with_its_error() -> None:
    done = subprocess.run(
        [sys.executable, str(ROOT / "tools" / "plan.py"), "--calibration", "--json"],
        env=environment(), cwd=ROOT, capture_output=True, text=True, timeout=60, check=False,
    )  # fmt: skip
    found = result(done)
    assert len(found["points"]) == 28 and 0 < found["median_error"] < found["median_error_left_out"] < 0.1


@pytest.mark.parametrize(
    ("flags", "said"),
    [
        (["--topology=h100x64", "--tokens=-1"], "--tokens"),
        (["--topology=h100x64", "--config.train.batch_size=100"], "train.batch_size 100 does not spread over 64"),
        (["--topology=h100"], "--topology=h100: expected"),
    ],
)
def test_wrong_flags_are_one_sentence(flags: list[str], said: str) -> None:
    done = analytic("llama3_8b", *flags)
    assert done.returncode == 2 and said in done.stderr.splitlines()[-1]


def test_advice_names_what_fills_most() -> None:
    run = Run(CHIPS["v5e"], 8, 128, 1.0, "none")
    kinds = ("weights", "moments", "gradients", "activations", "gathered weights", "logits")
    sizes = {kind: dict.fromkeys(kinds, 1.0) | {kind: 9.0} for kind in kinds}
    assert "loss_chunks=2" in estimate.advice(sizes["logits"], run)
    assert "remat=minimal" in estimate.advice(sizes["activations"], run)
    assert "grad_accum=2" in estimate.advice(sizes["activations"], replace(run, remat="full"))
    assert "more chips" in estimate.advice(sizes["moments"], run) and "layout=fsdp" in estimate.advice(
        sizes["moments"], replace(run, fsdp=2)
    )


REFUSAL = """RESOURCE_EXHAUSTED: CompileTimeHbmOom: XLA:TPU compile permanent error.
  Largest program allocations in hbm:

  1. Size: 1.50G
     Operator: op_name="jit(train_step)/jvp()/while/body/dot_general" source_file="x.py"
     Shape: bf16[16,4,2048,8192]{3,2,1,0:T(8,128)(2,1)}
     Unpadded size: 1.50G
     ==========================

  2. Size: 512.0M
     Shape: f32[4,2048,16384]{2,1,0}
"""


def test_a_refusals_buffers_are_read() -> None:
    first, second = refused_buffers(REFUSAL)
    assert first == {"bytes": 1.5 * 2**30, "array": "bf16[16,4,2048,8192]", "op": "jit(train_step)/jvp()/while/body/dot_general"}
    assert required_bytes("the total memory required for HLO temporaries (2.50G) exceeds available HBM (1.75G).") == 2.5 * 2**30
    assert required_bytes("Ran out of memory in memory space hbm. Used 20.10G of 15.75G hbm.") == 20.1 * 2**30
    assert second == {"bytes": 512 * 2**20, "array": "f32[4,2048,16384]", "op": ""}


@needs_compiler
@pytest.mark.slow
def test_arguments_of_an_fsdp_step_are_the_states_share_of_a_chip(tmp_path: Path) -> None:
    found = result(plan(tmp_path, "--topology=v5e:2x2"))
    # Parameters and two moments in float32, a fourth on each chip; the batch, norms and padding are the rest.
    share = 3 * 4 * found["parameters"] / 4
    assert found["fits"] and share < found["argument_bytes"] < 1.05 * share + 1e5
    assert found["argument_bytes"] < found["peak_bytes"]
    assert found["kernel_calls"] >= 3  # forward, and the two of the backward pass
    # Full remat repeats the forward pass of the layers; the roofline says more than the data sheet's peak allows for. On top, of 3 layers,
    # come rotations of 2 heads' queries and keys by products with [128, 128], forward, again and back, and the gradient of the embedding.
    rotations, looked_up = 3 * 3 * (2 + 2) * 2 * 128 * 128, 2 * 1024 * 256
    flops = found["flops_per_step"] - found["tokens_per_step"] * (rotations + looked_up)
    assert 1.2 * found["model_flops_per_step"] < flops < 1.35 * found["model_flops_per_step"]
    assert found["step_seconds"] > found["model_flops_per_step"] / 4 / CHIPS["v5e"].flops("bf16") and 0 < found["mfu"] < 1
    assert sum(found["time_by_kind"].values()) == pytest.approx(found["step_seconds"]) and found["unknown_loops"] == []
    assert {axis for row in found["collectives"] for axis in row["axes"]} == {"fsdp"}
    assert found["largest_buffers"] and found["tokens_per_second"] > 0
    assert result(plan(tmp_path, "--topology=v5e:2x2", "--config.model.attention_kernel=xla"))["kernel_calls"] == 0


@needs_compiler
@pytest.mark.slow
def test_what_the_compiler_refuses_for_memory_does_not_fit(tmp_path: Path) -> None:
    found = result(plan(tmp_path, "--topology=v5e:2x2", "--config.train.batch_size=65536", "--config.train.remat=none"))
    assert found["fits"] is False and "peak_bytes" not in found
    assert found["required_bytes"] > found["hbm_limit_bytes"] and "--config." in found["advice"]


@needs_compiler
@pytest.mark.slow
def test_a_slice_that_does_not_exist_and_a_mesh_that_does_not_fit_are_one_sentence(tmp_path: Path) -> None:
    large = ["--topology=v5e:16x32", "--config.train.batch_size=512", "--config.mesh.fsdp=1", "--config.mesh.data=-1"]
    for flags, said in ((large, "no slice of this shape"), (["--topology=v5e:2x2", "--config.mesh.fsdp=3"], "mesh:")):
        done = plan(tmp_path, *flags)
        assert done.returncode == 2 and said in done.stderr.splitlines()[-1] and done.stderr.splitlines()[-1].startswith("error: ")


@needs_compiler
@pytest.mark.slow
def test_a_manual_layout_sends_what_arithmetic_says_on_a_slice(tmp_path: Path) -> None:
    """Golden: on 4 x 4 chips, in bfloat16, two gathers of the layers, one of embedding and head, one reduce-scatter of all, and no
    all-reduce beyond norms and scalars. By annotation the same model sends more."""
    flags = ["--topology=v5e:4x4", "--config.train.batch_size=64", "--config.model.vocab_size=8192", "--config.model.d_model=1024",
             "--config.model.num_heads=8", "--config.model.mlp_dim=4096", "--config.model.loss_chunks=2"]  # fmt: skip
    found = result(plan(tmp_path, *flags, "--config.layout=fsdp_manual"))
    assert found["kernel_calls"] >= 3 and found["unknown_loops"] == [] and found["uncut_weights"] == {}
    by_kind: dict[str, float] = {}
    for row in found["collectives"]:
        by_kind[row["kind"]] = by_kind.get(row["kind"], 0) + row["wire_bytes"]
    inside, outside = 3 * (4 * 1024**2 + 3 * 1024 * 4096), 2 * 8192 * 1024
    share = 15 / 16 * 2
    assert by_kind.pop("all-gather") == pytest.approx(share * (2 * inside + outside), rel=0.01)
    assert by_kind.pop("reduce-scatter") == pytest.approx(share * (inside + outside), rel=0.01)
    assert sum(by_kind.values()) < 1e6
    annotated = result(plan(tmp_path, *flags))
    assert found["notes"] == [] and "2 parts" in annotated["notes"][0] and "fsdp_manual" in annotated["notes"][0]
    assert sum(row["wire_bytes"] for row in annotated["collectives"]) > 1.1 * sum(row["wire_bytes"] for row in found["collectives"])
