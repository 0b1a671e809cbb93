"""What a run says: a line for a person, the same numbers as JSONL and TensorBoard."""

import contextlib
import json
import math
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import jax

from pretrainx.core import files
from pretrainx.core.logs import duration, live, log
from pretrainx.train.tensorboard import EventWriter


def keep_until(path: Path, step: int) -> None:
    """Cuts metrics.jsonl back to the rows of steps up to `step`: those after it will be lived again. A torn line goes."""
    if not path.exists():
        return
    kept = []
    for line in path.read_text(encoding="utf-8", errors="replace").splitlines():
        try:
            row = json.loads(line)
        except ValueError:
            continue
        if row.get("step", 0) <= step:
            kept.append(line + "\n")
    files.write_bytes(path, "".join(kept).encode())  # at once: a run may be killed here too


def evaluated(path: Path, step: int) -> bool:
    """Whether metrics.jsonl holds an evaluation of this step."""
    lines = path.read_text(encoding="utf-8", errors="replace").splitlines() if path.exists() else []
    return any(f'"step": {step},' in line and '"eval/' in line for line in lines)


class Reporter:
    """Collects each step's metrics as device arrays and reads them a step late, so that no step waits for the host.

    `pending` (values since the last report) belongs into the checkpoint: a resumed run then logs the same means.
    `watch(step, loss)` sees every step's loss once, and says whether it is a spike.
    """

    def __init__(
        self,
        folder: Path | None,
        *,
        every: int,
        total: int,
        tokens_per_step: int,
        flops_per_step: float,
        peak: float | None,
        tensorboard: bool,
        watch: Callable[[int, float], bool] = lambda step, loss: False,
    ):
        self.every, self.total, self.tokens_per_step = every, total, tokens_per_step
        self.flops_per_step, self.peak, self.watch = flops_per_step, peak, watch
        self.pending: list[dict[str, float]] = []
        self.last: dict[str, float] = {}
        self._unread: list[tuple[int, dict[str, jax.Array]]] = []
        self._since = time.perf_counter()
        self._waited = 0.0
        self._steps_since = 0
        self._jsonl = open(folder / "metrics.jsonl", "a", encoding="utf-8", buffering=1) if folder else None  # noqa: SIM115 - lives with the run
        self._events = EventWriter(folder / "tensorboard") if folder and tensorboard else None
        self._failed = False

    def step(self, step: int, metrics: dict[str, jax.Array], waited_s: float) -> None:
        """Takes the metrics of a step just dispatched; reads those of the step before."""
        self._unread.append((step, metrics))
        self._waited += waited_s
        self._read(keep=1)

    def flush(self) -> None:
        """Reads all that was dispatched: before a save, an evaluation, or the end."""
        self._read(keep=0)

    def _read(self, keep: int) -> None:
        while len(self._unread) > keep:
            step, metrics = self._unread.pop(0)
            self.last = {name: float(value) for name, value in jax.device_get(metrics).items()}
            if self.watch(step, self.last["loss"]):  # in the order of the steps, however late they are read
                self.write(step, {"train/spike_loss": self.last["loss"]})
            self.pending.append(self.last)
            self._steps_since += 1
            if step % self.every == 0 or step == self.total:
                self._report(step)
            else:
                live(self._line(step, self.last, *self._speed()))

    def _speed(self) -> tuple[float, float]:
        """Seconds a step since the last report, and the share of them spent waiting for data."""
        elapsed = max(time.perf_counter() - self._since, 1e-9)
        return elapsed / max(self._steps_since, 1), self._waited / elapsed

    def _line(self, step: int, values: dict[str, float], seconds: float, waiting: float) -> str:
        flops = self.flops_per_step / seconds
        mfu = f" ({flops / self.peak:.1%} MFU)" if self.peak else ""
        skipped = f" | {values['skipped']:.0f} skipped" if values.get("skipped") else ""
        return (
            f"step {step:>{len(str(self.total))}} {step / self.total:4.0%} | loss {values['loss']:.4f} | lr {values['lr']:.2e} | "
            f"grad {values['grad_norm']:.2f} | {1000 * seconds:.0f} ms | {self.tokens_per_step / seconds:,.0f} tok/s | "
            f"{flops / 1e12:.3g} TFLOP/s{mfu} | data {waiting:.1%}{skipped} | {duration((self.total - step) * seconds)} left"
        )

    def _report(self, step: int) -> None:
        seconds, waiting = self._speed()
        names = self.pending[-1].keys()
        # Of the steps that counted: a refused one has no finite loss, and must not blank out the others.
        good = [p for p in self.pending if math.isfinite(p["loss"]) and math.isfinite(p["grad_norm"])] or self.pending
        means = {n: sum(p.get(n, 0.0) for p in good) / len(good) for n in names}
        means |= {n: self.pending[-1][n] for n in ("lr", "skipped", "skipped_in_a_row")}
        log(self._line(step, means, seconds, waiting))
        speed = {
            "train/step_seconds": seconds,
            "train/tokens_per_second": self.tokens_per_step / seconds,
            "train/tflops": self.flops_per_step / seconds / 1e12,
            "train/data_wait_share": waiting,
        }
        if self.peak:
            speed["train/mfu"] = self.flops_per_step / seconds / self.peak
        self.write(step, {f"train/{n}": v for n, v in means.items()} | speed | {"train/tokens": float(step * self.tokens_per_step)})
        self.pending = []
        self.restart_clock()

    def restart_clock(self) -> None:
        """Time from here on counts for the next report (an evaluation or a compile does not)."""
        self._since, self._waited, self._steps_since = time.perf_counter(), 0.0, 0

    def write(self, step: int, values: dict[str, Any]) -> None:
        """A row for machines. A log that cannot be written is said once and never stops the training."""
        row = {k: v if v == v and abs(v) != float("inf") else None for k, v in values.items()}  # JSON has no NaN
        for put in self._sinks():
            try:
                put(step, row)
            except OSError as error:
                if not self._failed:
                    log(f"warning: metrics cannot be written ({error}); training goes on")
                self._failed = True

    def _sinks(self) -> list[Callable[[int, dict[str, Any]], None]]:
        sinks: list[Callable[[int, dict[str, Any]], None]] = []
        if self._jsonl:
            sinks.append(self._write_jsonl)
        if self._events:
            sinks.append(self._write_events)
        return sinks

    def _write_jsonl(self, step: int, row: dict[str, Any]) -> None:
        assert self._jsonl is not None
        self._jsonl.write(json.dumps({"step": step} | row) + "\n")

    def _write_events(self, step: int, row: dict[str, Any]) -> None:
        assert self._events is not None
        self._events.write(step, {k: v for k, v in row.items() if v is not None})

    def close(self) -> None:
        for sink in (self._jsonl, self._events):
            if sink:
                with contextlib.suppress(OSError):  # what a full disk did not take is tried once more on closing
                    sink.close()
