"""Plans for GPUs that are not here: names, the compiled text read back, and the compiler itself where its wheels are installed."""

import gzip
import json
import subprocess
import sys
from collections import Counter
from functools import cache
from pathlib import Path
from typing import Any

import pytest
from support import ROOT, environment, experiment

from pretrainx.core.chips import CHIPS
from pretrainx.core.errors import InputError
from pretrainx.plan import cudnn, gpus, hlo, topology, walk
from pretrainx.plan.compile import collectives, fit, kernel_calls, largest_arrays, notes

needs_compiler = pytest.mark.skipif(bool(gpus.missing()), reason=f"the [plan-gpu] extra is not installed ({gpus.missing()} is missing)")

# 4 layers, 8 GPUs with 2 rows of 256 tokens each; what the numbers below are made of.
D, HEADS, MLP, LAYERS, VOCAB, LENGTH, ROWS, GPUS = 256, 2, 512, 4, 1024, 256, 2, 8
CONFIG = f"""
def get_config():
    return {{
        "data": {{"sequence_length": {LENGTH}}},
        "model": {{"vocab_size": {VOCAB}, "d_model": {D}, "num_layers": {LAYERS}, "num_heads": {HEADS}, "mlp_dim": {MLP}}},
        "train": {{"steps": 10, "batch_size": {ROWS * GPUS}, "remat": "full", "dtype": "bfloat16"}},
        "mesh": {{"data": 1, "fsdp": -1}},
        "layout": "fsdp_manual",
    }}
"""
LAYER, OUTSIDE, TOKENS = 4 * D * D + 3 * D * MLP, 2 * VOCAB * D, ROWS * LENGTH
SCORES = ROWS * HEADS * LENGTH * LENGTH


@cache
def text() -> str:
    """`CONFIG` compiled for h100x8 by JAX 0.10.2's CUDA plugin. Source lines and settings that say nothing are cut out."""
    return gzip.decompress((ROOT / "tests" / "data" / "train_step_h100x8.hlo.gz").read_bytes()).decode()


@cache
def stored() -> walk.Loop:
    return walk.walk(hlo.parse(text()), 0.5)


def by_kind(rows: list[dict[str, Any]]) -> dict[str, float]:
    total: Counter[str] = Counter()
    for row in rows:
        total[row["kind"]] += row["wire_bytes"]
    return dict(total)


def sent() -> tuple[float, float]:
    """Bytes that a manual step gathers and scatters: layers twice and the rest once, all of it once, in bfloat16."""
    share = (GPUS - 1) / GPUS * 2
    return share * (2 * LAYERS * LAYER + OUTSIDE), share * (LAYERS * LAYER + OUTSIDE)


@pytest.mark.parametrize(
    ("name", "nodes", "each", "joined"), [("h100x8", 1, 8, 8), ("h100x2", 1, 2, 2), ("a100x64", 8, 8, 8), ("b200x16", 2, 8, 8)]
)
def test_a_name_of_gpus_is_so_many_nodes(name: str, nodes: int, each: int, joined: int) -> None:
    found = topology.parse(name)
    assert found.shape == f"{nodes}x{each}" and found.chips == nodes * each and found.joined_chips == joined
    assert found.compiles is (not gpus.missing())


def test_every_gpu_of_the_chips_has_a_description_near_its_data_sheet() -> None:
    assert set(gpus.TARGETS) == set(topology.GPUS)
    for name, target in gpus.TARGETS.items():
        assert target.bandwidth == pytest.approx(CHIPS[name].hbm_bandwidth, rel=0.01)
        assert target.memory == pytest.approx(CHIPS[name].hbm_bytes, rel=0.08)  # vendors' GB are fewer bytes than the card has
        assert f"core_count: {target.cores}" in gpus.target_config(name)


def test_without_the_wheels_gpus_are_estimated_with_a_note(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(gpus, "_there", lambda package, module: False)
    assert not topology.parse("h100x8").compiles and topology.check("h100x8").chips == 8
    with pytest.raises(InputError, match="JAX's CUDA plugin.*plan-gpu.*--analytic"):
        topology.devices("h100x8")
    monkeypatch.setattr(gpus, "_there", lambda package, module: package == "jax_plugins")
    with pytest.raises(InputError, match="needs cuDNN"):
        gpus.require()


def test_collectives_of_a_stored_step_are_arithmetic() -> None:
    found = by_kind(collectives(stored(), {"data": 1, "fsdp": GPUS}))
    gathered, scattered = sent()
    assert found.pop("all-gather") == gathered and found.pop("reduce-scatter") == scattered
    assert sum(found.values()) < 0.01 * scattered  # norms and scalars
    assert walk.unknown_loops(stored()) == []
    assert {axis for row in collectives(stored(), {"data": 1, "fsdp": GPUS}) for axis in row["axes"]} == {"fsdp"}


def test_products_of_a_stored_step_are_the_models_and_attentions() -> None:
    """As on TPU (test_hlo.py): the last product of a layer need not be redone. Attention: 2 products forward, twice, and 5 backward."""
    found: Counter[str] = Counter()
    for step, times in walk.flat(stored()):
        found[step.kind] += times * sum(step.flops.values())
    assert found["matmul"] == TOKENS * LAYERS * (8 * LAYER - 2 * MLP * D) + TOKENS * 6 * VOCAB * D
    assert found["kernel"] == LAYERS * (2 + 2 + 5) * 2 * SCORES * (D // HEADS) * 0.5
    calls = Counter({step.kernel: 0 for step, _ in walk.flat(stored()) if step.kernel})
    for step, times in walk.flat(stored()):
        if step.kernel:
            calls[step.kernel] += times
    assert calls == {"__cudnn$fmhaScaleBiasSoftmax": 2 * LAYERS, "__cudnn$fmhaScaleBiasSoftmaxBackward": LAYERS}
    assert kernel_calls(text()) == text().count('custom_call_target="__cudnn$fmha') > 0


def test_what_waits_and_what_runs_beside_is_told_apart() -> None:
    """The compiler writes each collective as a start and a done; a sum of one number is marked as one that nothing runs beside."""
    moves = [step for step, _ in walk.flat(stored()) if step.collective]
    assert {bool(step.begins) for step in moves if step.collective and step.collective.kind == "all-gather"} == {True}
    waiting = [step.collective for step in moves if not step.begins]
    assert waiting and all(moved and not moved.asynchronous and moved.wire_bytes < 100 for moved in waiting)


def test_the_largest_array_of_a_stored_step_is_the_layers_gradient_of_gate_and_up() -> None:
    largest = largest_arrays(hlo.parse(text()))
    assert largest[0]["bytes"] == LAYERS * D * 2 * MLP * 4


CALL = """HloModule m
ENTRY %main (q: bf16[{b},{t},{n},{h}], k: bf16[{b},{s},{k},{h}]) -> bf16[{b},{n},{t},{h}] {{
  %q = bf16[{b},{t},{n},{h}]{{3,2,1,0}} parameter(0)
  %k = bf16[{b},{s},{k},{h}]{{3,2,1,0}} parameter(1)
  %c = (bf16[{b},{n},{t},{h}], bf16[{b},{k},{s},{h}], bf16[{b},{k},{s},{h}]{extra}, u8[0]) custom-call(%q, %k, %k), \
custom_call_target="__cudnn$fmhaScaleBiasSoftmaxBackward", backend_config={{"cudnn_fmha_backend_config": {{"intermediate_tensor_shape": \
{{"dimensions": ["{b}", "{n}", "{t}", "{s}"]}}, "mask_type": "{mask}", "sliding_window_length": {window}}}}}
  ROOT %out = bf16[{b},{n},{t},{h}] get-tuple-element(%c), index=0
}}
"""
PLAIN = {"b": 4, "t": 2048, "s": 2048, "n": 16, "k": 16, "h": 128, "extra": "", "mask": "CAUSAL", "window": 0}


@pytest.mark.parametrize(
    ("changed", "wanted"),
    [
        ({}, 67_633_408),
        ({"generation": 8}, 134_742_144),
        ({"generation": 8, "n": 32, "k": 8}, 403_701_888),
        ({"generation": 10, "n": 32, "k": 8}, 269_484_160),
        ({"extra": ", bf16[4,1,2048,2048]"}, 537_395_456),
        ({"n": 32, "k": 8}, 269_484_288),
        ({"b": 1, "t": 32768, "s": 32768}, 270_532_864),
        ({"b": 1, "t": 32768, "s": 32768, "extra": ", bf16[1,1,32768,32768]"}, 34_361_835_776),
        ({"t": 512}, 16_908_544),
        ({"t": 66, "s": 66}, 2_179_584),
        ({"h": 8}, 4_718_848),
    ],
)
def test_workspaces_are_those_that_cudnn_asks_for(changed: dict[str, Any], wanted: int) -> None:
    """As cuDNN 9.28 plans these cases for an H100 (an A100, a B200); to some it adds an alignment of 128 or 256 bytes."""
    found = cudnn.workspace_bytes(hlo.parse(CALL.format(**PLAIN | changed)), changed.get("generation", 9))
    assert 0 <= wanted - found <= 256


@pytest.mark.parametrize(("mask", "window", "share"), [("CAUSAL", 0, 0.55), ("NO_MASK", 0, 1.0), ("CAUSAL", 256, 256 / 2048)])
def test_flops_of_a_call_are_what_its_own_mask_leaves(mask: str, window: int, share: float) -> None:
    (step,) = walk.walk(hlo.parse(CALL.format(**PLAIN | {"mask": mask, "window": window})), 0.55).steps
    assert isinstance(step, walk.Step) and step.kind == "kernel"
    assert step.flops == {"bf16": pytest.approx(5 * 2.0 * 4 * 16 * 2048**2 * 128 * share)}


def test_a_gpus_step_that_is_too_large_compiles_and_does_not_fit() -> None:
    """The compiler refuses nothing there, so its numbers decide."""
    place, checked = topology.parse("h100x8"), experiment()
    limit = place.chip.hbm_bytes
    assert fit({"peak_bytes": 0.9 * limit, "hbm_limit_bytes": limit}, checked, place) == {"fits": True}
    beyond = fit({"peak_bytes": 1.1 * limit, "hbm_limit_bytes": limit}, checked, place)
    assert beyond["fits"] is False and "88.0 GB" in beyond["refusal"]


def test_what_a_gpus_compile_did_or_a_run_must_do_for_memory_is_said() -> None:
    place = topology.parse("h100x8")
    sized = lambda share: {"fits": share <= 1, "peak_bytes": share * 80e9, "hbm_limit_bytes": 80e9}  # noqa: E731
    again = "  %fusion.7.remat = f32[2] fusion(%x)\n  %fusion.7.remat2 = f32[2] fusion(%x)\n  %y = f32[2] add(%fusion.7.remat, %x)\n"
    assert notes(sized(0.5), text(), place) == []
    assert "2 ops again" in notes(sized(0.5), again, place)[0] and len(notes(sized(1.1), again, place)) == 1
    assert "XLA_PYTHON_CLIENT_MEM_FRACTION" in notes(sized(0.8), text(), place)[0]
    assert notes(sized(0.8), again, topology.parse("v5e:2x2")) == []  # a TPU's compiler says by itself


def planned(folder: Path, *flags: str) -> dict[str, Any]:
    file = folder / "small.py"
    file.write_text(CONFIG)
    done = subprocess.run(
        [sys.executable, str(ROOT / "tools" / "plan.py"), f"--config={file}", "--json", *flags],
        env=environment(), cwd=ROOT, capture_output=True, text=True, timeout=600, check=False,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr[-3000:]
    return json.loads(done.stdout.splitlines()[-1])


@needs_compiler
@pytest.mark.slow
def test_a_step_compiled_for_gpus_holds_and_sends_what_arithmetic_says(tmp_path: Path) -> None:
    found = planned(tmp_path, "--topology=h100x8")
    assert found["source"] == "compiled" and found["fits"] is True and found["unknown_loops"] == []
    gathered, scattered = sent()
    wire = by_kind(found["collectives"])
    assert wire["all-gather"] == pytest.approx(gathered, rel=0.01) and wire["reduce-scatter"] == pytest.approx(scattered, rel=0.01)
    # Parameters and two moments in float32, an eighth on each GPU.
    share = 3 * 4 * found["parameters"] / GPUS
    assert share < found["argument_bytes"] < 1.05 * share + 1e5 < found["peak_bytes"]
    assert found["kernel_calls"] >= 3 and found["kernel_workspace_bytes"] == 4 * ROWS * HEADS * LENGTH * (D // HEADS + 1)
    assert found["step_seconds"] > found["model_flops_per_step"] / GPUS / CHIPS["h100"].flops("bf16") and 0 < found["mfu"] < 1


@needs_compiler
@pytest.mark.slow
@pytest.mark.parametrize(
    "flags",
    [
        ["--topology=h100x8", "--config.model.attention_window=64"],
        ["--topology=h100x8", "--config.model.num_heads=4", "--config.model.num_kv_heads=2"],
        ["--topology=h100x8", "--config.model.name=encoder", "--config.data.objective=masked"],
        ["--topology=h100x16", "--config.layout=fsdp", "--config.mesh.data=2"],
        ["--topology=a100x8"],
        ["--topology=b200x8"],
    ],
    ids=["window", "grouped heads", "both ways", "two nodes", "a100", "b200"],
)
def test_cudnns_attention_compiles_in_every_form(tmp_path: Path, flags: list[str]) -> None:
    assert planned(tmp_path, *flags)["kernel_calls"] >= 3
