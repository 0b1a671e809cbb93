"""A plan's page: bars that add up, what does not fit said, names escaped, and a browser that has nothing to complain of."""

import re
import shutil
import subprocess
from pathlib import Path
from typing import Any

import pytest

from pretrainx.core.chips import CHIPS
from pretrainx.plan import analytic, calibration, page
from pretrainx.plan.analytic import Run


def plan(**changes: Any) -> dict[str, Any]:
    made: dict[str, Any] = {
        "topology": "v5e:4x4", "source": "compiled", "chips": 16, "mesh": {"fsdp": 16}, "parameters": 10**9, "tokens_per_step": 2**17,
        "fits": True, "hbm_limit_bytes": 16e9, "peak_bytes": 9e9, "argument_bytes": 4e9, "temp_bytes": 5e9,
        "step_seconds": 2.0, "step_seconds_low": 1.5, "step_seconds_high": 2.5, "mfu": 0.4, "binds": "compute",
        "time_by_kind": {"matmul": 1.5, "collective": 0.5, "copy": 0.0}, "time_by_part": {"layers, forward": 2.0},
        "tokens_per_second": 65536.0, "days": 3.0, "dollars": 1000.0, "price_source": "given",
        "collectives": [{"kind": "all-gather", "axes": ["fsdp"], "dtype": "bf16", "calls": 32, "wire_bytes": 5e9}],
        "largest_buffers": [{"bytes": 1e9, "array": "bf16[4, <8>]", "op": "jit(step)/<dot>"}],
    }  # fmt: skip
    return made | changes


SCALING = analytic.scaling(calibration.LLAMA["Llama 2 7B"], Run(CHIPS["v5e"], 16, 4096, 1, "full"))


def test_a_page_shows_every_plan_and_why_one_is_not_there() -> None:
    lacking = plan(topology="v5e:2x2", fits=False, refusal="Ran out of memory", advice="--config.train.remat=full")
    for name in ("peak_bytes", "step_seconds", "time_by_kind", "time_by_part", "collectives", "argument_bytes", "temp_bytes"):
        del lacking[name]
    text = page.render("a <b>", [plan(), lacking, {"topology": "h100x12", "fits": None, "error": "no & such"}], SCALING)
    assert "a &lt;b&gt;" in text and "jit(step)/&lt;dot&gt;" in text and "no &amp; such" in text and "<script" not in text
    assert text.count('<section id="plan-') == 2 and "Ran out of memory" in text and "--config.train.remat=full" in text
    assert "4,096" in text and "MFU by chips" in text and "5,000.0" in text
    assert "MFU by chips" not in page.render("a", [plan()], {})


@pytest.mark.parametrize(("whole", "parts"), [(10.0, (1.0, 4.0)), (3.0, (2.0, 4.0)), (1.0, (1.0,))])
def test_a_bars_parts_lie_side_by_side_and_beyond_the_whole_where_they_are_more(whole: float, parts: tuple[float, ...]) -> None:
    drawn = page.stack({f"part {i}": value for i, value in enumerate(parts)}, whole, str)
    rects = re.findall(r'<rect (.*?class="(?:track|bar[^"]*)".*?)>', drawn)
    track, *bars = [{name: float(v) for name, v in re.findall(r'\b(x|width)="([\d.]+)%?"', rect)} for rect in rects]
    longest = max(whole, sum(parts))
    assert track["width"] == pytest.approx(100 * whole / longest, abs=0.01)
    ends = [bar["x"] + bar["width"] for bar in bars]
    assert [bar["x"] for bar in bars] == pytest.approx([0.0, *ends[:-1]], abs=0.02)
    assert ends[-1] == pytest.approx(100 * sum(parts) / longest, abs=0.02)


@pytest.mark.slow
def test_a_browser_draws_it_without_complaint(tmp_path: Path) -> None:
    names = ("chromium", "chromium-browser", "google-chrome", "google-chrome-stable")
    browser = next((path for name in names if (path := shutil.which(name))), None)
    if browser is None:
        pytest.skip("no Chromium here: apt-get install chromium")
    file, picture = tmp_path / "plan.html", tmp_path / "plan.png"
    file.write_text(page.render("plan", [plan()], SCALING), encoding="utf-8")
    done = subprocess.run(
        [
            browser, "--headless", "--no-sandbox", "--disable-gpu", "--no-first-run", "--disable-sync", "--disable-background-networking",
            "--disable-component-update", f"--user-data-dir={tmp_path / 'profile'}", "--enable-logging=stderr", "--v=0",
            "--window-size=390,3000", "--virtual-time-budget=3000", f"--screenshot={picture}", file.as_uri(),
        ],
        capture_output=True, text=True, timeout=120, check=False,
    )  # fmt: skip
    assert done.returncode == 0 and picture.stat().st_size > 20_000, done.stderr[-2000:]
    assert not [line for line in done.stderr.splitlines() if "CONSOLE" in line]
