"""Reports across runs: what is best and what is surely not, and a page that shows the same numbers, whole and safe, in a real browser."""

import html
import importlib.util
import json
import math
import re
import shutil
import subprocess
import sys
from collections.abc import Mapping
from html.parser import HTMLParser
from pathlib import Path
from types import ModuleType
from typing import Any

import numpy as np
import pytest
import support
from hypothesis import given
from hypothesis import strategies as st

from pretrainx.core import config as configs
from pretrainx.core import page, svg
from pretrainx.core.errors import InputError
from pretrainx.evaluate import report as reports
from pretrainx.evaluate import report_page, results
from pretrainx.evaluate.report import Column, Run
from pretrainx.evaluate.results import Items, Result
from pretrainx.train import experiment as experiments
from pretrainx.train import loop, runs

EVIL = "<script>alert('x')</script>\"&amp;\x00\ud800"
CONFIG = {
    "model": {"name": "decoder", "num_layers": 2, "d_model": 64},
    "data": {"mixture": {"code": 0.5, "prose": 0.5}, "sequence_length": 128},
    "train": {"steps": 400, "batch_size": 4},
    "optim": {"name": "adamw", "peak_lr": 0.003},
}


def tool() -> ModuleType:
    spec = importlib.util.spec_from_file_location("tool_report", support.ROOT / "tools" / "report.py")
    assert spec and spec.loader
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def write_run(folder: Path, skill: float, steps: tuple[int, ...] = (200, 400), **model: Any) -> Path:
    """A run's folder as training, evaluate and score_choices leave it; more skill is fewer bits and more right answers."""
    rng = np.random.default_rng(11)
    folder.mkdir(parents=True)
    (folder / "config.json").write_text(json.dumps({**CONFIG, "model": {**CONFIG["model"], **model}}))
    (folder / "manifest.json").write_text(json.dumps({"parameters": 123_456, "packages": {"jax": "9.9"}}))
    rows: list[dict[str, float]] = []
    for step in range(10, 401, 10):
        loss = 6 * math.exp(-step / 100) + 2 - skill
        rows.append({"step": step, "train/loss": loss, "train/lr": 1e-3, "train/grad_norm": 1.0, "train/tokens": step * 512.0})
        if step % 100 == 0:
            rows.append({"step": step, "eval/code/bits_per_byte": loss / 2, "eval/code/loss": loss, "eval/logged/accuracy": 0.25})
    (folder / "metrics.jsonl").write_text("\n".join(map(json.dumps, rows)))
    weights = rng.integers(100, 2000, 60).astype(float)
    hard, questions = rng.normal(1.5, 0.4, 60), rng.random(90)
    for step in steps:
        late = (400 - step) / 400
        bits = weights * (hard - skill + late + np.random.default_rng(step).normal(0, 0.02, 60))
        code = Items("ratio", [f"doc-{i}" for i in range(60)], bits.tolist(), weights.tolist())
        metrics = {"eval/code/bits_per_byte": bits.sum() / weights.sum(), "eval/code/ngram_3/bits_per_byte": 1.9, "eval/code/tokens": 9e3}
        results.keep(folder, Result("evaluate", "evaluate-validation", step, "python tools/evaluate.py", metrics, {"code": code}))
        credits = (questions < 0.5 + skill / 4 - late / 10).astype(float).tolist()
        pairs = Items("mean", [f"q{i}" for i in range(90)], credits, groups=[f"g{i % 3}" for i in range(90)])
        metrics = {"eval/pairs/accuracy": float(np.mean(credits)), "eval/pairs/accuracy_low": 0.1, "eval/pairs/chance": 0.5}
        results.keep(folder, Result("score_choices", "choices-pairs", step, "python tools/score_choices.py", metrics, {"pairs": pairs}))
    return folder


@pytest.fixture(scope="module")
def folders(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Path]:
    root = tmp_path_factory.mktemp("runs")
    return write_run(root / "plain", 0.0), write_run(root / "better", 0.3, d_model=96)


@pytest.fixture(scope="module")
def both(folders: tuple[Path, Path]) -> reports.Report:
    return reports.build(runs.columns(list(map(str, folders))))


# ---- what is compared


def test_the_best_and_what_is_surely_not(both: reports.Report) -> None:
    assert [(row.task, row.metric, row.better) for row in both.rows] == [
        ("code", "bits_per_byte", "low"), ("logged", "accuracy", "high"), ("pairs", "accuracy", "high"),
    ]  # fmt: skip
    code, logged, pairs = both.rows
    worse, best = code.cells
    assert worse and best and best.best and not worse.best and best.against_best is None and worse.items == 60
    assert worse.against_best and worse.against_best.sure and worse.against_best.difference == pytest.approx(0.3, abs=0.01)
    assert code.reference == ("3-gram", 1.9) and pairs.reference == ("chance", 0.5)
    assert pairs.cells[1] and pairs.cells[1].best and set(pairs.groups) == {"g0", "g1", "g2"}
    mean = np.mean([own[1].value for own in pairs.groups.values() if own[1]])
    assert mean == pytest.approx(pairs.cells[1].interval.value)
    # The evaluation's own number, and not the one that was logged on the way.
    assert both.metrics["eval/code/bits_per_byte"][0] == pytest.approx(worse.interval.value, rel=1e-12)
    assert logged.note.startswith("from training logs") and all(c and c.items == 0 for c in logged.cells)
    assert "eval/pairs/accuracy" in both.metrics and "eval/pairs/accuracy_low" not in both.metrics


def column(name: str, items: Mapping[str, Items] | None = None, metrics: Mapping[str, float] | None = None) -> Column:
    result = Result("t", "n", 5, "", metrics or {}, items or {}, versions={}, created="")
    return Column(Run(name, name, results=[result]), 5, name)


def mean(values: list[float], ids: str = "abcdef") -> Items:
    return Items("mean", list(ids[: len(values)]), values)


def test_without_a_sure_difference_there_is_no_mark() -> None:
    row = reports.build([column("a", {"t": mean([1, 0, 1, 0, 1])}), column("b", {"t": mean([1, 0, 1, 1, 0])})]).rows[0]
    assert all(c and c.best for c in row.cells)  # a tie
    row = reports.build([column("a", {"t": mean([1, 0, 0, 0, 1])}), column("b", {"t": mean([1, 0, 1, 1, 0])})]).rows[0]
    first = row.cells[0]
    assert first and first.against_best and not first.against_best.sure and not first.best


def test_other_items_are_said_and_not_compared() -> None:
    row = reports.build([column("a", {"t": mean([1, 0, 1])}), column("b", {"t": mean([1, 0], "ax")})]).rows[0]
    assert "1 are shared, of 3 and 2" in row.note or "1 are shared, of 2 and 3" in row.note
    assert not any(c and (c.best or c.against_best) for c in row.cells)


def test_windows_of_unlike_strides_are_not_compared() -> None:
    bits = {"x": Items("ratio", ["a", "b", "c"], [3, 4, 5], [2, 2, 2])}
    columns = [column("a", bits), column("b", bits, {"eval/x/stride": 16.0})]
    row = reports.build(columns).rows[0]
    assert "unlike strides (0, 16" in row.note and not any(c and (c.best or c.against_best) for c in row.cells)
    assert reports.build([columns[1], column("c", bits, {"eval/x/stride": 16.0})]).rows[0].note == ""


def test_a_number_without_items_is_not_the_best_of_those_with() -> None:
    columns = [column("a", {"t": mean([1, 0, 1])}), column("b", {"t": mean([1, 0, 0])}), column("c", {}, {"eval/t/accuracy": 0.99})]
    row = reports.build(columns).rows[0]
    assert [bool(c and c.best) for c in row.cells] == [True, False, False]
    alone = reports.build([column("a", {"t": mean([1, 0, 1])}), column("c")]).rows[0]
    assert alone.cells[1] is None and not alone.cells[0].best  # type: ignore[union-attr]


def test_metrics_of_ones_own_are_rows_too() -> None:
    own = Items("mean", ["a", "b"], [0.25, 0.75], metric="rouge1")
    row = reports.build([column("a", {"sum": own}, {"eval/sum/rouge1": 0.5})]).rows[0]
    assert (row.task, row.metric, row.better) == ("sum", "rouge1", "high") and row.cells[0]
    assert "rouge1" in report_page.html(reports.build([column("a", {"sum": own})]))


def test_over_steps_joins_the_log_and_the_evaluations(folders: tuple[Path, Path]) -> None:
    run = runs.read(folders[0])
    points, spread = reports.over_steps(run, "code", "bits_per_byte")
    assert list(points) == [100, 200, 300, 400] and list(spread) == [200, 400]
    assert spread[400][0] < points[400] < spread[400][1]
    assert points[100] == run.series["eval/code/bits_per_byte"][100] and points[400] != run.series["eval/code/bits_per_byte"][400]


# ---- which runs and steps


def test_columns_of_runs_steps_and_names(folders: tuple[Path, Path]) -> None:
    a, b = map(str, folders)
    said = lambda *words, **how: [(c.name, c.step) for c in runs.columns(words, **how)]  # noqa: E731
    assert said(a, b) == [("plain", 400), ("better", 400)]
    assert said(f"{a}@200", b) == [("plain", 200), ("better", 400)]
    assert said(f"{a}@all") == [("plain @ 200", 200), ("plain @ 400", 400)]
    assert said(f"{a}@100") == [("plain", 100)]  # logged only
    assert said(a, b, names=["x", "y"]) == [("x", 400), ("y", 400)]
    assert said(f"{a}@200", f"{a}@400", names=["early", "late"]) == [("early", 200), ("late", 400)]
    first, second = runs.columns([f"{a}@200", f"{a}@400"])
    assert first.run is second.run and first.tokens == 200 * 512


def test_folders_of_one_name_are_told_apart(folders: tuple[Path, Path], tmp_path: Path) -> None:
    other = write_run(tmp_path / "plain", 0)
    assert [c.name for c in runs.columns([str(folders[0]), str(other)])] == [str(folders[0]), str(other)]


def test_a_folder_may_have_an_at(tmp_path: Path) -> None:
    folder = write_run(tmp_path / "lr@3", 0)
    assert [c.step for c in runs.columns([str(folder)])] == [400]
    assert [c.step for c in runs.columns([f"{folder}@200"])] == [200]


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (["--runs", "nowhere"], "nowhere: no config.json there"),
        (["--runs", "{a}@7"], "nothing was evaluated at that step; accepted: 100, 200, 300, 400"),
        (["--runs", "{a}@all", "{a}"], "step 400 of it is there twice"),
        (["--runs", "{a}@last"], "accepted are FOLDER, FOLDER@STEP and FOLDER@all"),
        (["--runs", "{a}", "{b}", "--names", "x"], "--names: 1 names for 2 runs"),
        (["--runs", "{a}", "--out", "{b}"], "that is a folder"),
        (["--runs", "{a}", "--seed=-1"], "--seed -1"),
        (["--run", "{a}"], "--runs"),
    ],
)
def test_command_refuses_in_one_sentence(folders: tuple[Path, Path], words: list[str], said: str) -> None:
    with pytest.raises(InputError, match=re.escape(said)) as caught:
        tool().main([word.format(a=folders[0], b=folders[1]) for word in words])
    assert "\n" not in str(caught.value)


def test_a_run_without_evaluations_and_damaged_samples_are_named(tmp_path: Path) -> None:
    folder = write_run(tmp_path / "run", 0)
    (folder / "samples.json").write_text('{"samples": [{"prompt": 1}]}')
    with pytest.raises(InputError, match=r"samples\.json: not what tools/sample\.py --json prints"):
        runs.read(folder)
    shutil.rmtree(folder / "evaluations")
    (folder / "samples.json").unlink()
    (folder / "metrics.jsonl").write_text('{"step": 3, "train/loss": 2}')
    with pytest.raises(InputError, match="nothing was evaluated; run tools/evaluate.py"):
        runs.columns([str(folder)])


# ---- the page


class Parsed(HTMLParser):
    """Elements with their attributes, text, and tables as (text, value) cells; refuses what is not nested right."""

    def __init__(self, markup: str):
        super().__init__(convert_charrefs=True)
        self.open: list[str] = []
        self.elements: list[tuple[str, dict[str, str | None]]] = []
        self.texts: list[str] = []
        self.tables: dict[str, list[list[tuple[str, float | None]]]] = {}
        self.feed(markup)
        self.close()
        assert not self.open, f"never closed: {self.open}"

    def handle_starttag(self, name: str, attributes: list[tuple[str, str | None]]) -> None:
        self.elements.append((name, dict(attributes)))
        if name not in page.VOID:
            self.open.append(name)
        if name == "table":
            self.rows: list[list[tuple[str, float | None]]] = []
        if name == "tr":
            self.rows.append([])
        if name in ("td", "th"):
            self.rows[-1].append(("", None))
        if name == "data" and "table" in self.open:
            self.rows[-1][-1] = (self.rows[-1][-1][0], float(str(dict(attributes)["value"])))

    def handle_endtag(self, name: str) -> None:
        assert self.open and self.open[-1] == name, f"</{name}> closes {self.open[-1:]}"
        self.open.pop()
        if name == "table":
            self.tables[self.caption] = self.rows

    def handle_data(self, data: str) -> None:
        self.texts.append(data)
        if "caption" in self.open:
            self.caption = data
        elif "table" in self.open and ("td" in self.open or "th" in self.open):
            self.rows[-1][-1] = (self.rows[-1][-1][0] + data, self.rows[-1][-1][1])


def test_the_page_shows_the_numbers_of_the_json(both: reports.Report) -> None:
    said = json.loads(json.dumps(reports.to_json(both)))
    parsed = Parsed(report_page.html(both))
    rows = {row[0][0]: row[1:] for row in parsed.tables["Results by task"][1:]}
    assert len(rows) == len(said["tasks"]) == 3
    for task in said["tasks"]:
        reference, *cells = rows[task["task"] + task["metric"].replace("_", " ")]
        assert [value for _, value in cells] == [cell["value"] for cell in task["cells"]]
        assert reference[1] == (task["reference"] and task["reference"]["value"])
        for (text, _), cell in zip(cells, task["cells"], strict=True):
            sure = bool(cell["against_best"] and cell["against_best"]["sure"])
            assert ("▲" in text or "▼" in text) == sure
            if cell["items"]:
                ends = (reports.shown(task["metric"], cell[end]) for end in ("low", "high"))
                assert " to ".join(ends) in text
    groups = {row[0][0]: [value for _, value in row[1:]] for row in parsed.tables["pairs by group"][1:]}
    wanted = next(task for task in said["tasks"] if task["task"] == "pairs")["groups"]
    assert groups == {group: [own["value"] for own in found] for group, found in wanted.items()}
    everything = {f"eval/{task}/{row[0][0]}": [v for _, v in row[1:]] for task in ("code", "pairs", "logged")
                  for row in parsed.tables[f"All numbers of {task}"][1:]}  # fmt: skip
    assert everything == said["metrics"]
    differences = [value for row in parsed.tables["Differences to the best"][1:] for _, value in row[1:2]]
    assert differences == [c["against_best"]["difference"] for t in said["tasks"] for c in t["cells"] if c["against_best"]]


def test_the_page_needs_nothing_else_and_runs_nothing(both: reports.Report) -> None:
    markup = report_page.html(both)
    parsed = Parsed(markup)
    names = {name for name, _ in parsed.elements}
    assert not names & {"script", "img", "link", "iframe", "object", "embed", "form", "image", "use", "base"}
    for name, attributes in parsed.elements:
        for key, value in attributes.items():
            assert not key.startswith("on") and key not in ("src", "srcset", "action", "xlink:href"), (name, key)
            assert key != "href" or str(value).startswith("#")
    assert "url(" not in markup and "@import" not in markup and "http://" not in markup and "https://" not in markup
    policy = next(a["content"] for name, a in parsed.elements if a.get("http-equiv") == "Content-Security-Policy")
    assert policy and policy.startswith("default-src 'none'")
    ids = [a["id"] for _, a in parsed.elements if "id" in a]
    assert len(set(ids)) == len(ids)
    links = {str(a["href"])[1:] for name, a in parsed.elements if name == "a"}
    assert links <= set(ids) and {"comparison", "intervals", "differences", "training", "steps", "groups", "numbers", "runs"} <= links
    pictures = [a for name, a in parsed.elements if name == "svg" and a.get("role") == "img"]
    assert len(pictures) > 10 and all(a["aria-label"] for a in pictures)


def test_equal_runs_give_equal_bytes(folders: tuple[Path, Path]) -> None:
    first, again = (report_page.html(reports.build(runs.columns(list(map(str, folders))))) for _ in range(2))
    assert first == again


def test_names_from_files_cannot_become_markup() -> None:
    items = {f"t{EVIL}": Items("mean", [EVIL, "b", "c", "d"], [1, 0, 1, 1], groups=[f"g{EVIL}", f"g{EVIL}", "h", "h"])}
    result = Result(EVIL, EVIL, 5, EVIL, {f"eval/t{EVIL}/accuracy": 0.75, f"eval/t{EVIL}/chance": 0.5}, items, {EVIL: EVIL}, {}, EVIL)
    made = []
    for name in ("a", "b"):
        config = {f"model.{EVIL}": EVIL + name, "data.mixture." + EVIL: 1, "optim.name": EVIL}
        series = {"train/loss": {1: 2.0, 5: 1.0}, f"eval/t{EVIL}/accuracy": {1: 0.5, 5: 0.6}}
        run = Run(EVIL, EVIL + name, config, 3, {EVIL: EVIL}, series, {}, [result], [(EVIL, EVIL)])
        made.append(Column(run, 5, EVIL + name))
    markup = report_page.html(reports.build(made))
    markup.encode("utf-8")
    parsed = Parsed(markup)
    assert "script" not in {name for name, _ in parsed.elements}
    assert {key for _, a in parsed.elements for key in a if key.startswith("on")} == set()
    shown = "".join(parsed.texts)
    assert shown.count("<script>alert('x')</script>\"&amp;\N{REPLACEMENT CHARACTER}?") >= 10
    assert "\x00" not in markup
    assert "\x00" not in str(page.tag("p", "\x00\x1f"))


@given(st.text(max_size=20))
def test_any_text_comes_back_as_it_was(text: str) -> None:
    parsed = Parsed(page.tag("p", page.tag("b", text, title=text)))
    plain = "".join("\N{REPLACEMENT CHARACTER}" if ord(c) < 32 and c not in "\t\n\r" else c for c in text)
    plain = plain.encode("utf-8", "replace").decode()
    assert "".join(parsed.texts) == plain.replace("\r\n", "\n").replace("\r", "\n") or "".join(parsed.texts) == plain
    assert parsed.elements[1][1]["title"] == plain


# ---- charts


@given(st.floats(-1e6, 1e6), st.floats(1e-6, 1e6), st.integers(2, 8))
def test_ticks_are_round_and_inside(low: float, span: float, count: int) -> None:
    high = low + span
    if not high > low:
        return
    found = svg.ticks(low, high, count)
    assert len(found) <= 2 * count + 1
    slack = 1e-6 * span + 4 * math.ulp(max(abs(low), abs(high)))  # a multiple of the step is rounded, however small the span
    assert all(low - slack <= x <= high + slack for x in found)


@given(st.lists(st.floats(-100, 100), min_size=1, max_size=2000))
def test_thinned_curves_keep_their_ends_and_extremes(values: list[float]) -> None:
    points = {float(i): y for i, y in enumerate(values)}
    found = svg.thin(points)
    assert len(found) <= svg.MOST_POINTS + 2 and set(found) <= set(points.items()) and found == sorted(found)
    ys = [y for _, y in found]
    assert (found[0], found[-1]) == ((0.0, values[0]), (float(len(values) - 1), values[-1]))
    assert (min(ys), max(ys)) == (min(values), max(values))


def numbers(markup: str, element: str, attribute: str) -> list[str]:
    return [str(a[attribute]) for name, a in Parsed(markup).elements if name == element and attribute in a]


def test_a_curve_is_where_its_numbers_say() -> None:
    """0 to 10 in a straight line, zero at the bottom: the middle point lies in the middle of the plot."""
    chart = svg.curves("t", [svg.Curve("c", {0: 0, 5: 5, 10: 10}, marks=True)], zero=True)
    xs = [float(x) for x in numbers(chart, "circle", "cx")]
    ys = [float(y) for y in numbers(chart, "circle", "cy")]
    width, height = svg.WIDTH - svg.LEFT - svg.RIGHT, svg.HEIGHT - svg.TOP - svg.BOTTOM
    assert xs == pytest.approx([0, width / 2, width], abs=0.1)
    assert ys[0] == height and ys[0] - ys[1] == pytest.approx(ys[1] - ys[2], abs=0.11) and 0 < ys[2] < height / 10


def test_curves_of_odd_data() -> None:
    assert "nothing logged yet" in svg.curves("t", [svg.Curve("c", {})])
    for points in ({5.0: 0.0}, {0.0: 0.0}, {1.0: -3.0, 2.0: -3.0}, {1.0: 1e-9, 2.0: 1e9}):
        for how in ({}, {"logarithmic": True}, {"zero": True}, {"spikes": True}):
            chart = svg.curves("t", [svg.Curve("c", points)], **how)  # type: ignore[arg-type]
            Parsed(chart)
            assert "nan" not in chart and "inf" not in chart


def test_a_spike_stays_outside_and_the_rest_keeps_its_height() -> None:
    points = {float(i): 2.0 + (i % 7) / 10 for i in range(400)} | {200.0: 1000.0}
    chart = svg.curves("t", [svg.Curve("c", points)], spikes=True)
    labels = re.findall(r"<text[^>]*text-anchor=\"end\">([\d.]+)<", chart)
    assert max(map(float, labels)) < 3


def test_intervals_lie_on_their_axis() -> None:
    dots = [svg.Dot("a", 0.5, 0.4, 0.6), svg.Dot("b", 0.7, math.nan, math.nan)]
    plot = svg.intervals("t", dots, "{:.2f}".format, "{:.1f}".format)
    share = [float(x.rstrip("%")) for x in numbers(plot, "circle", "cx")]
    whiskers = [(a["x1"], a["x2"]) for name, a in Parsed(plot).elements if name == "line" and a.get("class") == "whisker"]
    low, high = (float(str(x).rstrip("%")) for x in whiskers[0])
    assert len(whiskers) == 1 and (low + high) / 2 == pytest.approx(share[0], abs=0.02)
    assert (share[1] - share[0]) == pytest.approx(high - low, abs=0.02)  # both are 0.2
    assert numbers(plot, "data", "value") == ["0.5", "0.7"]


# ---- the command


def test_command_on_a_real_run(cache_dir: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """Trained, evaluated at two steps, sampled: the report of it, as table, page and JSON."""
    values = support.settings(cache_dir, mesh={"data": 8}, eval={"every": 4, "ngram_orders": (1, 2)})
    config, folder = support.write_config(tmp_path / "tiny.py", values), tmp_path / "run"
    loop.train(loop.prepare(experiments.load(configs.load(str(config))), folder))
    for step in (8, 12):
        spec = importlib.util.spec_from_file_location("tool_evaluate", support.ROOT / "tools" / "evaluate.py")
        assert spec and spec.loader
        evaluate = importlib.util.module_from_spec(spec)
        spec.loader.exec_module(evaluate)
        evaluate.main([f"--config={config}", f"--workdir={folder}", f"--step={step}"])
    (folder / "samples.json").write_text(json.dumps({"step": 12, "samples": [{"prompt": "The ", "text": "end\n"}]}))
    capsys.readouterr()
    out = tmp_path / "deep" / "report.html"
    tool().main(["--runs", f"{folder}@8", f"{folder}@12", "--names", "[b]run", "late", f"--out={out}", "--json"])
    said = json.loads(capsys.readouterr().out.splitlines()[-1])
    assert [(c["step"], c["name"]) for c in said["columns"]] == [(8, "[b]run"), (12, "late")]
    parameters = json.loads((folder / "manifest.json").read_text())["parameters"]
    assert said["columns"][0]["parameters"] == parameters > 1000 and said["columns"][0]["tokens"] == 8 * 8 * 32
    (task,) = said["tasks"]
    assert task["task"] == "topics" and task["cells"][1]["best"] and task["cells"][0]["items"] == 6
    assert task["cells"][0]["against_best"]["difference"] > 0 and task["reference"]["name"] == "2-gram"
    parsed = Parsed(out.read_text(encoding="utf-8"))
    assert {"Results by task", "Versions", "Commands", "Config of [b]run"} <= set(parsed.tables)
    assert "end\n" in parsed.texts
    tool().main(["--runs", f"{folder}@all", "--all"])
    shown = capsys.readouterr().out
    assert "run @ 8" in shown and "2-gram" in shown and "eval/topics/perplexity" in shown
    assert f"{task['cells'][1]['value']:.4f}" in shown


def test_a_report_needs_no_jax(folders: tuple[Path, Path]) -> None:
    code = (
        "import sys; sys.argv = ['report']; from pathlib import Path; from pretrainx.evaluate import report, report_page;"
        f"from pretrainx.train import runs; report_page.html(report.build(runs.columns([{str(folders[0])!r}])));"
        "print(*sorted({'jax', 'tensorflow', 'matplotlib', 'orbax'} & set(sys.modules)))"
    )
    done = subprocess.run([sys.executable, "-c", code], cwd=support.ROOT, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    assert done.stdout.split() == []


# ---- a browser

MEASURE = """<!doctype html><meta charset="utf-8"><body style="margin:0"><iframe id="f" style="border:0" width="{width}" height="900"
srcdoc="{page}"></iframe><pre id="found"></pre><script>
document.getElementById('f').onload = function () {{
  const d = this.contentDocument, w = this.contentWindow;
  const size = e => {{ const r = e.getBoundingClientRect(); return [r.width, r.height]; }};
  const all = (s) => Array.from(d.querySelectorAll(s));
  const found = {{
    scroll: d.documentElement.scrollWidth, ground: w.getComputedStyle(d.body).backgroundColor, ink: w.getComputedStyle(d.body).color,
    pictures: all('figure svg[role=img]').map(size), tables: all('section > .scroll table').map(size),
    boxes: all('section > .scroll').map(size),
    curves: all('path.line').map(e => [e.getTotalLength(), w.getComputedStyle(e).stroke]),
    texts: all('svg text').map(e => e.getBoundingClientRect().height), sections: all('section').length,
    outside: all('figure svg[role=img] text').filter(e => e.getBoundingClientRect().right > w.innerWidth).length,
  }};
  document.getElementById('found').textContent = JSON.stringify(found);
  console.log('measured');
}};</script>"""


def chromium() -> str:
    names = ("chromium", "chromium-browser", "google-chrome", "google-chrome-stable")
    found = next((path for name in names if (path := shutil.which(name))), None)
    if found is None:
        pytest.skip("no Chromium here: apt-get install chromium")
    return found


@pytest.mark.slow
@pytest.mark.parametrize(("width", "dark"), [(390, False), (390, True), (1280, False), (1280, True)])
def test_a_browser_draws_it(both: reports.Report, tmp_path: Path, width: int, dark: bool) -> None:
    browser = chromium()
    wrapper = tmp_path / "page.html"
    wrapper.write_text(MEASURE.format(width=width, page=html.escape(report_page.html(both))), encoding="utf-8")
    done = subprocess.run(
        [
            browser, "--headless", "--no-sandbox", "--disable-gpu", "--disable-quic", "--no-first-run", "--disable-sync",
            "--disable-background-networking", "--disable-component-update", f"--user-data-dir={tmp_path / 'profile'}",
            "--enable-logging=stderr", "--v=0", "--window-size=1400,1000", "--hide-scrollbars", "--virtual-time-budget=5000",
            f"--blink-settings=preferredColorScheme={0 if dark else 1}", "--dump-dom", wrapper.as_uri(),
        ],
        capture_output=True, text=True, timeout=120, check=False,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr[-2000:]
    found = json.loads(html.unescape(re.search(r'<pre id="found">(.*?)</pre>', done.stdout, re.S)[1]))  # type: ignore[index]
    said = [line for line in done.stderr.splitlines() if "CONSOLE" in line]
    assert len(said) == 1 and "measured" in said[0]  # the wrapper's own line, which shows that errors would be seen
    assert found["scroll"] == width  # nothing sticks out; what is wide scrolls in its box
    assert found["sections"] == 8 and len(found["pictures"]) >= 12 and len(found["tables"]) >= 3
    assert all(w > 50 and h > 20 for w, h in found["pictures"] + found["tables"])
    assert all(w <= width for w, _ in found["boxes"]) and found["outside"] == 0
    assert len(found["curves"]) >= 8 and all(length > 20 for length, _ in found["curves"])
    assert len({colour for _, colour in found["curves"]}) == 2  # two runs, and no curve without a colour
    assert min(found["texts"]) > 8  # readable on a phone too
    light, ink = (sum(map(int, re.findall(r"\d+", found[name])[:3])) / 3 for name in ("ground", "ink"))
    assert (light < 50 and ink > 200) if dark else (light > 230 and ink < 50)
