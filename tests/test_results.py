"""What evaluations leave behind: intervals against closed forms and SciPy, paired comparisons where the truth is known."""

import importlib.util
import json
import math
from collections.abc import Callable, Sequence
from pathlib import Path
from types import ModuleType
from typing import Any

import jax
import numpy as np
import pytest
import support
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import stats

from pretrainx.core import config as configs
from pretrainx.core.errors import InputError
from pretrainx.data.loader import open_mixture
from pretrainx.evaluate import bootstrap, results
from pretrainx.evaluate.perplexity import Evaluator
from pretrainx.evaluate.results import Items, Result
from pretrainx.train import build, loop
from pretrainx.train import experiment as experiments


def names(count: int) -> list[str]:
    return [f"item-{i}" for i in range(count)]


def mean_items(values: np.ndarray | list[float], groups: list[str] | None = None) -> Items:
    return Items("mean", names(len(values)), [float(x) for x in values], groups=groups or [])


def ratio_items(values: np.ndarray, weights: np.ndarray) -> Items:
    return Items("ratio", names(len(values)), values.tolist(), weights.tolist())


# ---- intervals


@pytest.mark.parametrize("p", [0.03, 0.5, 0.9])
def test_interval_of_a_share_is_the_binomials(p: float) -> None:
    values = (np.random.default_rng(5).random(4000) < p).astype(float)
    found = results.interval(mean_items(values), seed=1)
    se = math.sqrt(values.var() / 4000)
    assert found.value == values.mean()
    # An end of a percentile interval over 1,000 draws scatters by 0.085 standard errors: four and a half of these.
    assert found.low == pytest.approx(values.mean() - 1.96 * se, abs=0.4 * se)
    assert found.high == pytest.approx(values.mean() + 1.96 * se, abs=0.4 * se)


def test_intervals_agree_with_scipy() -> None:
    """Of a mean and of a ratio of sums, on skewed data; SciPy draws 20,000 times, and is the better known one."""
    rng = np.random.default_rng(0)
    weights = rng.lognormal(6, 1, 300).round()
    bits = weights * rng.normal(1.2, 0.3, 300)
    cases = [
        (mean_items(bits), (bits,), lambda x, axis: x.mean(axis)),
        (ratio_items(bits, weights), (bits, weights), lambda x, y, axis: x.sum(axis) / y.sum(axis)),
    ]
    for items, data, statistic in cases:
        theirs = stats.bootstrap(data, statistic, n_resamples=20_000, method="percentile", paired=True, rng=1, vectorized=True)
        found = results.interval(items, seed=2)
        spread = theirs.standard_error
        assert found.low == pytest.approx(theirs.confidence_interval.low, abs=0.4 * spread)
        assert found.high == pytest.approx(theirs.confidence_interval.high, abs=0.4 * spread)


def test_a_ratio_is_of_sums_and_not_a_mean_of_ratios() -> None:
    found = results.interval(ratio_items(np.asarray([8.0, 100.0]), np.asarray([1.0, 99.0])))
    assert found.value == 108 / 100


def test_interval_covers_the_truth_19_times_in_20() -> None:
    """Of 400 samples whose ratio is known; a binomial of 0.95 over 400 stays within 0.91 and 0.98 in all but one in a thousand."""
    inside = 0
    for seed in range(400):
        rng = np.random.default_rng(seed)
        weights = rng.integers(1, 50, 120).astype(float)
        found = results.interval(ratio_items(weights * 1.5 + rng.normal(0, 3, 120), weights), seed)
        inside += found.low <= 1.5 <= found.high
    assert 0.91 <= inside / 400 <= 0.98


def test_groups_count_alike_and_are_resampled_by_themselves() -> None:
    items = mean_items([1.0] * 30 + [0.0] * 2, ["a"] * 30 + ["b"] * 2)
    assert results.interval(items) == results.Interval(0.5, 0.5, 0.5)
    by_group = results.of_groups(items)
    assert by_group == {"a": results.Interval(1, 1, 1), "b": results.Interval(0, 0, 0)}
    assert results.of_groups(mean_items([1.0, 0.0])) == {}


def test_of_a_group_of_one_nothing_is_known() -> None:
    found = results.interval(mean_items([1.0, 0.0, 1.0], ["a", "a", "b"]))
    assert found.value == 0.75 and math.isnan(found.low) and math.isnan(found.high)


def test_draws_do_not_depend_on_how_many_are_made_at_once(monkeypatch: pytest.MonkeyPatch) -> None:
    columns, groups = np.random.default_rng(0).normal(size=(2, 41)), [str(i % 2) for i in range(41)]
    whole = bootstrap.resampled_sums(columns, groups, 3)
    monkeypatch.setattr(bootstrap, "AT_ONCE", 77)
    np.testing.assert_array_equal(bootstrap.resampled_sums(columns, groups, 3), whole)


# ---- comparisons


def test_pairing_finds_what_two_intervals_hide() -> None:
    """b is 0.02 bits a byte worse in each document, where documents differ by far more."""
    rng = np.random.default_rng(3)
    weights = rng.integers(200, 3000, 150).astype(float)
    bits = weights * rng.normal(1.5, 0.5, 150)
    a, b = ratio_items(bits, weights), ratio_items(bits + 0.02 * weights + rng.normal(0, 1, 150), weights)
    first, second = results.interval(a), results.interval(b)
    assert first.high > second.low  # they overlap
    found = results.compare(a, b)
    assert found.difference == pytest.approx(-0.02, abs=1e-3) and found.sure and found.low < -0.02 < found.high < 0
    assert found.better == 1 and found.items == 150
    back = results.compare(b, a)
    assert (back.difference, back.low, back.high, back.better) == pytest.approx((-found.difference, -found.high, -found.low, 0))


def test_difference_of_credits_is_the_closed_form() -> None:
    """Right answers of two models that agree on most: the variance is that of the differences."""
    rng = np.random.default_rng(7)
    shared = rng.random(3000)
    a, b = ((shared < p).astype(float) for p in (0.62, 0.58))
    found = results.compare(mean_items(a), mean_items(b))
    se = np.std(a - b) / math.sqrt(3000)
    assert found.difference == pytest.approx((a - b).mean(), rel=1e-12)
    assert found.low == pytest.approx(found.difference - 1.96 * se, abs=0.4 * se)
    assert found.high == pytest.approx(found.difference + 1.96 * se, abs=0.4 * se)


def test_the_same_model_is_better_half_the_time() -> None:
    items = mean_items([1.0, 0.0, 0.5, 1.0])
    assert results.compare(items, items) == results.Comparison(0, 0, 0, 0.5, 4)
    assert not results.compare(items, items).sure


def test_two_models_that_are_alike_are_called_different_once_in_20() -> None:
    """Of 400 pairs of models with equal skill: 0.05 of them within what chance allows once in a thousand."""
    sure = 0
    for seed in range(400):
        a, b = (np.random.default_rng(seed).random((2, 200)) < 0.6).astype(float)
        sure += results.compare(mean_items(a), mean_items(b), seed).sure
    assert 0.02 <= sure / 400 <= 0.09


@given(st.permutations(range(12)), st.integers(0, 9))
@settings(max_examples=20)
def test_order_of_items_does_not_matter_to_the_difference(order: list[int], seed: int) -> None:
    rng = np.random.default_rng(seed)
    values, weights = rng.normal(5, 1, (2, 12)), rng.integers(1, 9, 12).astype(float)
    a = ratio_items(values[0], weights)
    b = ratio_items(values[1], weights)
    mixed = Items("ratio", [b.ids[i] for i in order], [b.values[i] for i in order], [b.weights[i] for i in order])
    assert results.compare(a, mixed) == results.compare(a, b)


A = Items("mean", ["x", "y", "z"], [1, 0, 1], groups=["g", "g", "h"])


@pytest.mark.parametrize(
    ("other", "said"),
    [
        (Items("mean", ["x", "y", "w"], [1, 0, 1], groups=["g", "g", "h"]), "2 are shared, of 3 and 3"),
        (Items("mean", ["x", "y"], [1, 0], groups=["g", "g"]), "2 are shared, of 3 and 2"),
        (Items("mean", ["x", "y", "z"], [1, 0, 1], groups=["g", "h", "h"]), "'y' is of group 'g' in one and 'h' in the other"),
        (Items("mean", ["x", "y", "z"], [1, 0, 1], groups=["g", "g", "h"], metric="f1"), "'accuracy' and mean 'f1'"),
        (Items("ratio", ["x", "y", "z"], [1, 0, 1], [1, 1, 1]), "two metrics"),
    ],
)
def test_other_items_are_refused(other: Items, said: str) -> None:
    with pytest.raises(InputError, match=said):
        results.compare(A, other)


def test_another_text_under_the_same_name_is_refused() -> None:
    weights = np.asarray([5.0, 6.0])
    with pytest.raises(InputError, match="'item-1' weighs 6 in one and 7 in the other"):
        results.compare(ratio_items(weights, weights), ratio_items(weights, np.asarray([5.0, 7.0])))


@pytest.mark.parametrize(
    ("values", "said"),
    [
        ({"kind": "median", "ids": ["a"], "values": [1]}, "kind 'median'"),
        ({"kind": "mean", "ids": [], "values": []}, "there are none"),
        ({"kind": "mean", "ids": ["a", "b"], "values": [1]}, "2 ids and 1 values"),
        ({"kind": "mean", "ids": ["a", "b"], "values": [1, 2], "groups": ["g"]}, "2 ids and 1 groups"),
        ({"kind": "ratio", "ids": ["a"], "values": [1]}, "1 ids and 0 weights"),
        ({"kind": "mean", "ids": ["a", "a"], "values": [1, 2]}, "the id 'a' stands twice"),
        ({"kind": "mean", "ids": ["a"], "values": [math.nan]}, "nan among the values"),
        ({"kind": "ratio", "ids": ["a"], "values": [1], "weights": [0]}, "not all 0"),
        ({"kind": "mean", "ids": ["a"], "values": [1], "better": "higher"}, "did you mean 'high'"),
    ],
)
def test_items_that_mean_nothing_are_refused(values: dict, said: str) -> None:
    with pytest.raises(InputError, match=said):
        Items(**values)


@given(st.lists(st.sampled_from(["a", "b", "a#2", "b#2"]), max_size=8))
def test_unique_names_are_unique_and_keep_first_ones(found: list[str]) -> None:
    made = results.unique(found)
    assert len(set(made)) == len(found) and all(new.startswith(old) for new, old in zip(made, found, strict=True))
    assert made[:1] == found[:1]


# ---- files


def test_a_result_comes_back_as_it_was_and_a_later_one_takes_its_place(tmp_path: Path) -> None:
    first = Result("evaluate", "held out", 7, "python tools/evaluate.py", {"eval/x/loss": 1.5}, {"x": A})
    path = results.keep(tmp_path, first)
    assert path.parent == tmp_path / "evaluations" and path.name.startswith("7-held_out")
    later = Result(
        "evaluate", "held out", 7, "again", {"eval/x/accuracy_low": math.nan, "eval/x/loss": 2}, {"x": A},
        {"split": "test"}, {"jax": "1"}, "2026-01-31T00:00:00Z",
    )  # fmt: skip
    assert results.keep(tmp_path, later) == path
    results.keep(tmp_path, Result("score_choices", "b", 12, "", {}))
    found, other = results.load(tmp_path)
    assert other.step == 12 and (found.command, found.settings, found.versions, found.created) == (
        "again", {"split": "test"}, {"jax": "1"}, "2026-01-31T00:00:00Z",
    )  # fmt: skip
    assert found.metrics["eval/x/loss"] == 2 and math.isnan(found.metrics["eval/x/accuracy_low"])
    assert results.compare(found.items["x"], A).difference == 0
    assert json.loads(path.read_text(), parse_constant=pytest.fail)["format"] == 1  # strict JSON: no NaN
    assert sorted(p.name for p in path.parent.iterdir()) == sorted([path.name, "12-b.json"])  # nothing half written


def test_names_that_are_no_file_names_stay_apart(tmp_path: Path) -> None:
    for name in ("a/b", "a_b", "../../b", "a b", "x" * 300):
        results.keep(tmp_path, Result("t", name, 1, "", {}))
    assert {r.name for r in results.load(tmp_path)} == {"a/b", "a_b", "../../b", "a b", "x" * 300}
    assert {p.parent for p in tmp_path.rglob("*.json")} == {tmp_path / "evaluations"}


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("{", "cannot be read"),
        ("[]", "format 'list'"),
        ('{"format": 2}', "format 2, this version reads 1"),
        ('{"format": 1, "tool": "x"}', "not as an evaluation writes it"),
        (
            '{"format": 1, "tool": "x", "name": "", "step": 1, "command": "", "created": "", "settings": {}, "versions": {}, '
            '"metrics": {}, "items": {"t": {"kind": "mean", "ids": ["a"], "values": []}}}',
            "1 ids and 0 values",
        ),
    ],
)
def test_a_damaged_file_is_named(tmp_path: Path, text: str, said: str) -> None:
    (tmp_path / "evaluations").mkdir()
    (tmp_path / "evaluations" / "3-x.json").write_text(text)
    with pytest.raises(InputError, match=said) as caught:
        results.load(tmp_path)
    assert "3-x.json" in str(caught.value)


def test_a_folder_without_evaluations_has_none(tmp_path: Path) -> None:
    assert results.load(tmp_path) == []


# ---- bits of documents

CORPORA = {"mixture": {"topics": 1.0, "short": 3.0}}


@pytest.fixture(scope="module")
def evaluated(cache_dir: Path) -> Callable[..., tuple[dict[str, float], dict[str, Items]]]:
    """Scores of one set of weights: `evaluated(batch size, devices, words of Evaluator, sections)`."""

    def score(
        batch_size: int, devices: int = 1, max_rows: int = 0, stride: int = 0, **sections: Any
    ) -> tuple[dict[str, float], dict[str, Items]]:
        checked = support.experiment(cache_dir, **({"mesh": {"data": devices}, "data": CORPORA} | sections))
        program, _ = build.from_mixture(checked, open_mixture(checked.data, "train"), jax.devices()[:devices])
        params = jax.device_put(support.numpy_params(program.skeleton), program.state_shardings.params)
        held_out = open_mixture(checked.data, "validation")
        return Evaluator(program.skeleton, held_out, batch_size, max_rows, stride=stride, by_document=True).score(params)

    return score


@pytest.mark.parametrize("stride", [0, 12])
def test_documents_add_up_to_the_whole(evaluated: Callable[..., Any], stride: int) -> None:
    numbers, items = evaluated(8, stride=stride)
    assert set(items) == {"topics", "short", "all"}
    for name, own in items.items():
        assert sum(own.weights) == numbers[f"eval/{name}/bytes"]
        # Sums of float32 losses by document and by batch.
        assert results.interval(own).value == pytest.approx(numbers[f"eval/{name}/bits_per_byte"], rel=2e-6)
    assert items["topics"].ids == [f"doc-{i}" for i in (0, 2, 4, 1, 3, 5)]  # as the two shards have them
    assert items["topics"].weights == [len(support.documents()[60 + i].encode()) for i in (0, 2, 4, 1, 3, 5)]
    assert len(items["all"].ids) == 46 and set(items["all"].groups) == {"topics", "short"}


def test_a_document_costs_what_it_costs_alone(evaluated: Callable[..., Any], cache_dir: Path) -> None:
    """Document by document through a model that is told nothing of windows: short ones fit into a row of the window."""
    _, items = evaluated(8, data={"mixture": {"short": 1.0}, "sequence_length": 64})
    checked = support.experiment(cache_dir, data={"mixture": {"short": 1.0}, "sequence_length": 64})
    program, _ = build.from_mixture(checked, open_mixture(checked.data, "train"), jax.devices()[:1])
    params = support.numpy_params(program.skeleton)
    whole = 0
    at = 0  # where the document begins in the stream
    for i, size in enumerate(items["short"].weights):
        text = [text[:n] for text in support.documents() for n in (1, 3, 17)][int(items["short"].ids[i].split("-")[1])]
        tokens = support.encode(text)
        inside = at // 64 == (at + len(tokens) - 1) // 64  # else the window cuts it, and its second half sees less
        at += len(tokens)
        if not inside or whole == 12:
            continue
        whole += 1
        batch = {
            "tokens": np.asarray([[support.BYTES.special.start, *tokens[:-1]]], np.int32),
            "positions": np.arange(len(tokens), dtype=np.int32)[None],
            "segment_ids": np.ones((1, len(tokens)), np.int32),
        }
        outputs = program.skeleton.merge(params)(batch)
        logits = np.asarray(outputs.logits(outputs.hidden), np.float64)[0]
        nats = (np.log(np.exp(logits).sum(-1)) - logits[np.arange(len(tokens)), tokens]).sum()
        assert size == len(text.encode())
        assert items["short"].values[i] == pytest.approx(nats / math.log(2), rel=1e-5)
    assert whole == 12


@pytest.mark.parametrize(("batch_size", "devices"), [(3, 1), (8, 8)])
def test_documents_do_not_depend_on_batch_or_mesh(evaluated: Callable[..., Any], batch_size: int, devices: int) -> None:
    (_, wanted), (_, found) = evaluated(16), evaluated(batch_size, devices)
    for name, own in wanted.items():
        assert (found[name].ids, found[name].weights) == (own.ids, own.weights)
        np.testing.assert_allclose(found[name].values, own.values, rtol=2e-5)


def test_windows_of_another_length_have_the_same_documents(evaluated: Callable[..., Any]) -> None:
    (_, a), (_, b) = evaluated(8), evaluated(8, data=CORPORA | {"sequence_length": 48})
    found = results.compare(a["all"], b["all"])
    assert found.items == 46 and found.difference != 0


def test_documents_that_were_not_read_to_their_end_are_left_out(evaluated: Callable[..., Any]) -> None:
    _, items = evaluated(8, max_rows=5)
    assert "topics" not in items  # its first document is longer than five rows
    assert sum(items["short"].weights) + len(items["short"].ids) <= 5 * 32 < sum(items["short"].weights) + len(items["short"].ids) + 18


def test_a_masked_model_has_no_documents(evaluated: Callable[..., Any]) -> None:
    numbers, items = evaluated(8, data={"mixture": {"short": 1.0}, "objective": "masked"}, model={"name": "encoder"})
    assert numbers and items == {}


# ---- the commands


def tool(name: str) -> ModuleType:
    spec = importlib.util.spec_from_file_location(f"tool_{name}", support.ROOT / "tools" / f"{name}.py")
    assert spec and spec.loader
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def closing_json(name: str, words: Sequence[str | Path], capsys: pytest.CaptureFixture[str]) -> dict[str, Any]:
    tool(name).main([*map(str, words), "--json"])
    found: dict[str, Any] = json.loads(capsys.readouterr().out.splitlines()[-1])
    return found


def test_commands_leave_their_items_and_two_checkpoints_can_be_compared(
    cache_dir: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    values = support.settings(
        cache_dir, data={"mixture": {"topics": 1.0, "short": 3.0}}, eval={"every": 0, "ngram_orders": (1,)}, mesh={"data": 8}
    )
    config, folder = support.write_config(tmp_path / "tiny.py", values), tmp_path / "run"
    loop.train(loop.prepare(experiments.load(configs.load(str(config))), folder))
    pairs = tmp_path / "pairs.jsonl"
    pairs.write_text("".join(json.dumps({"good": f"It is {i}.", "bad": f"It are {i}.", "group": f"p{i % 2}"}) + "\n" for i in range(9)))
    said = {
        step: closing_json("evaluate", [f"--config={config}", f"--workdir={folder}", f"--step={step}"], capsys)
        | closing_json("score_choices", [f"--workdir={folder}", f"--step={step}", "--tasks", f"my/pairs:pairs={pairs}"], capsys)
        for step in (8, 12)
    }
    kept = results.load(folder)
    assert [(r.step, r.tool, r.name) for r in kept] == [
        (8, "score_choices", "choices-my/pairs"), (8, "evaluate", "evaluate-validation"),
        (12, "score_choices", "choices-my/pairs"), (12, "evaluate", "evaluate-validation"),
    ]  # fmt: skip
    for result in kept:
        assert result.metrics.items() <= (said[result.step] | {n: v for n, v in result.metrics.items() if v != v}).items()
        assert result.settings["parameters"] > 1000 and result.versions["jax"] == jax.__version__
        assert f"--step={result.step}" in result.command
        for task, items in result.items.items():
            found = results.interval(items)
            assert found.value == pytest.approx(result.metrics[f"eval/{task}/{items.metric}"], rel=2e-6)
            if result.tool == "score_choices":  # the same draws
                assert (found.low, found.high) == tuple(result.metrics[f"eval/{task}/accuracy_{end}"] for end in ("low", "high"))
    first, last = kept[1].items["all"], kept[3].items["all"]
    assert results.compare(last, first).sure and results.compare(last, first).difference < 0  # it learned
