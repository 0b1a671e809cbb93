"""A run's own step time beside its plan: on a chip that the table knows, training ends with both, and `plan --calibration` reads them."""

import statistics
from collections.abc import Iterable
from pathlib import Path
from typing import Any

from pretrainx.core import files
from pretrainx.core.chips import devices_running, of_kind
from pretrainx.core.errors import InputError
from pretrainx.core.logs import log
from pretrainx.plan import estimate
from pretrainx.plan.topology import Topology
from pretrainx.train import curves
from pretrainx.train.experiment import Experiment

FILE = "planned.json"


def step_seconds(metrics: Path, first: int) -> float | None:
    """The median step time of the reports after step `first`; None where there is none. Its first report still warms up."""
    reports = curves.read(metrics).get("train/step_seconds", {}) if metrics.exists() else {}
    times = [seconds for step, seconds in reports.items() if step > first]
    return statistics.median(times[1:]) if len(times) > 1 else None


def beside_plan(experiment: Experiment, folder: Path, device_kind: str, num_devices: int, first: int) -> dict[str, Any] | None:
    """Measured and planned seconds a step of a run that has ended, logged and kept in its folder.

    None, and nothing is written, where nothing was measured, or no plan is to be had: a chip that no table has (a CPU), a model of
    two stacks, half a chip, v4 (whose programs see other devices than its plans).
    """
    chip = of_kind(device_kind)
    if chip is None or devices_running(chip) != chip.devices or num_devices % chip.devices:
        return None
    measured = step_seconds(folder / "metrics.jsonl", first)
    if measured is None:
        return None
    chips = num_devices // chip.devices
    slice_chips = min(chips, chip.domain)
    topology = Topology(f"{chip.name} x {chips}", chip, slice_chips, chips // slice_chips)
    try:
        plan = estimate.plan(experiment, topology)
    except InputError:
        return None
    found = {
        "chip": chip.name, "chips": chips, "measured_step_seconds": measured, "planned_step_seconds": plan["step_seconds"],
        "planned_step_seconds_low": plan["step_seconds_low"], "planned_step_seconds_high": plan["step_seconds_high"],
        "error": plan["step_seconds"] / measured - 1, "planned_mfu": plan["mfu"],
        "measured_mfu": plan["mfu"] * plan["step_seconds"] / measured,
    }  # fmt: skip
    files.write_json(folder / FILE, found)
    log(
        f"a step took {measured:.3g} s ({found['measured_mfu']:.1%} MFU); the plan says {plan['step_seconds']:.3g} s "
        f"({plan['step_seconds_low']:.3g} to {plan['step_seconds_high']:.3g}, {plan['mfu']:.1%}): {found['error']:+.1%}"
    )
    return found


def read(paths: Iterable[Path]) -> dict[str, dict[str, Any]]:
    """{run: what `beside_plan` kept} of run folders or their files.

    Raises:
      InputError: a folder without that file, or a file of another kind.
    """
    found = {}
    for path in paths:
        file = path / FILE if path.is_dir() else path
        kept = files.read_json(file, f"{FILE} of a run (written where training ends on a chip that plans know)")
        if not isinstance(kept, dict) or not {"chip", "chips", "measured_step_seconds", "planned_step_seconds", "error"} <= set(kept):
            raise InputError(f"{file}: no file that training kept of its step time")
        found[str(path)] = kept
    return found
