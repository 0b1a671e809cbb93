"""The page of an autopsy: texts escaped, rows in their order, and a browser that has nothing to complain of."""

import math
import shutil
import subprocess
from pathlib import Path

import numpy as np
import pytest

from pretrainx.data.ledger import Piece, Row
from pretrainx.train import autopsy, autopsy_page
from pretrainx.train.autopsy import Autopsy, Finding, Part


def finding(row: int, loss: float, deviations: float, text: str) -> Finding:
    pieces = [Piece(f"web/{row}/<doc>-{n}", f"train-00.jsonl.gz#{n}", 0, 40, 90, 40 * n, 40 * n + 40, text) for n in range(5)]
    made = Row(row, 1000 + row, "web:causal", 0, 17 * row, tuple(pieces), {"tokens": np.zeros(4)})
    return Finding(made, loss, loss / 4, loss / 3, deviations, tuple(Part(piece, loss if n else None) for n, piece in enumerate(pieces)))


def example(limit: float = 3.6) -> Autopsy:
    found = (
        finding(2, 9.15, 52.9, "\x00<script>alert(1)</script> \ud800" + "ж" * 3000),
        finding(0, 3.2, 0.4, "plain"),
        finding(1, math.nan, math.inf, "x"),
    )
    history = {step: 3 + 2 / step for step in range(1, 48)}
    return Autopsy(Path("runs/a_<b>"), 48, 40, 4.67, 1.5, limit, None if limit == math.inf else 4.67, history, found)


def test_what_a_page_says() -> None:
    found = example()
    text = autopsy_page.render(found, found.findings[:1], "python tools/train.py --rewind_to=40")
    assert "<script" not in text and "alert(1)" in text and "&lt;doc&gt;-0" in text and "--rewind_to=40" in text and "and 2 more" in text
    assert text.index("row 2") < text.index("row 0") < text.index("row 1") and "1 of 3" in text
    assert text.count("ж") < 5 * 1600
    nothing = autopsy_page.render(example(math.inf), (), "")
    assert "too few losses to say" in nothing and "not recorded" in nothing and "plain" not in nothing  # the worst row's text alone


def test_rows_that_stand_out() -> None:
    found = example()
    assert [f.row.row for f in found.standing_out(8.0)] == [2, 1] and found.standing_out(100.0) == (found.findings[2],)
    assert autopsy.skip_list(found.findings).stretches == ((1000, 1003),) and autopsy.skip_list(found.findings[:1]).to_json() == [
        [1002, 1003]
    ]


@pytest.mark.slow
@pytest.mark.parametrize("width", [390, 1200])
def test_a_browser_draws_it_without_complaint(tmp_path: Path, width: int) -> None:
    names = ("chromium", "chromium-browser", "google-chrome", "google-chrome-stable")
    browser = next((path for name in names if (path := shutil.which(name))), None)
    if browser is None:
        pytest.skip("no Chromium here: apt-get install chromium")
    file, picture, found = tmp_path / "page.html", tmp_path / "page.png", example()
    file.write_text(autopsy_page.render(found, found.findings[:1], "python tools/train.py"), encoding="utf-8")
    done = subprocess.run(
        [
            browser, "--headless", "--no-sandbox", "--disable-gpu", "--no-first-run", "--disable-sync", "--disable-background-networking",
            "--disable-component-update", f"--user-data-dir={tmp_path / 'profile'}", "--enable-logging=stderr", "--v=0",
            f"--window-size={width},3000", "--virtual-time-budget=3000", f"--screenshot={picture}", file.as_uri(),
        ],
        capture_output=True, text=True, timeout=240, check=False,
    )  # fmt: skip
    assert done.returncode == 0 and picture.stat().st_size > 20_000, done.stderr[-2000:]
    assert not [line for line in done.stderr.splitlines() if "CONSOLE" in line]
