"""A run's own step time beside its plan, and where there is none to be had."""

import json
from pathlib import Path
from typing import Any

import pytest
from support import experiment

from pretrainx.core.chips import CHIPS, of_kind, peak_flops
from pretrainx.core.errors import InputError
from pretrainx.plan import estimate, measured, topology
from tools import plan

MODEL = {"d_model": 512, "num_layers": 4, "num_heads": 8, "vocab_size": 8192}


def run_of(folder: Path, times: list[float], first: int = 0) -> Path:
    """A run's folder with reports of these step times, ten steps apart, after `first`."""
    rows: list[dict[str, Any]] = [{"step": first, "train/step_seconds": 99.0}, {"step": first + 5, "eval/a/loss": 1.0}]
    rows += [{"step": first + 10 * (i + 1), "train/step_seconds": t} for i, t in enumerate(times)]
    folder.mkdir(exist_ok=True)
    (folder / "metrics.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    return folder


def test_the_median_after_the_first_report(tmp_path: Path) -> None:
    assert measured.step_seconds(run_of(tmp_path, [9.0, 1.0, 3.0, 2.0], first=20) / "metrics.jsonl", 20) == 2.0
    assert measured.step_seconds(run_of(tmp_path, [9.0]) / "metrics.jsonl", 0) is None
    assert measured.step_seconds(tmp_path / "none.jsonl", 0) is None


def test_measured_and_planned_agree_on_what_they_are_of(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """The plan is that of the same chips by name; a step twice as long has half the MFU."""
    checked = experiment(model=MODEL, mesh={"data": 1, "fsdp": 8}, layout="fsdp", train={"batch_size": 64, "dtype": "bfloat16"})
    wanted = estimate.plan(checked, topology.parse("h100x8"))
    folder = run_of(tmp_path / "run", [5.0, 2 * wanted["step_seconds"]])
    found = measured.beside_plan(checked, folder, "NVIDIA H100 80GB HBM3", 8, 0)
    assert found and found["planned_step_seconds"] == wanted["step_seconds"]
    assert found["error"] == pytest.approx(-0.5) and found["measured_mfu"] == pytest.approx(wanted["mfu"] / 2)
    assert plan.main(["--calibration", "--runs", str(folder), "--json"]) == 0
    assert json.loads(capsys.readouterr().out.splitlines()[-1])["runs"][str(folder)] == found


@pytest.mark.parametrize(("kind", "count"), [("cpu", 8), ("TPU v4", 8), ("TPU7x", 7)])
def test_where_no_plan_is_to_be_had(tmp_path: Path, kind: str, count: int) -> None:
    folder = run_of(tmp_path / "run", [5.0, 2.0])
    assert measured.beside_plan(experiment(model=MODEL, mesh={"data": -1}), folder, kind, count, 0) is None
    assert not (folder / measured.FILE).exists()


def test_what_is_no_measured_run_is_refused(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="not found"):
        measured.read([tmp_path])
    (tmp_path / measured.FILE).write_text("{}")
    with pytest.raises(InputError, match="no file that training kept"):
        measured.read([tmp_path])


def test_every_kind_of_device_is_its_own_chip() -> None:
    for chip in CHIPS.values():
        for kind in chip.kinds:
            assert of_kind(kind) is chip
    assert of_kind("cpu") is None and peak_flops("cpu") is None
