"""Loss spikes: found by a robust deviation, answered by each policy, exact over a resumption, and traced to the document behind them.

The corpus has one poisoned document: bytes that occur nowhere else, so the loss jumps where it is fed.
"""

import math
import random
import re
import statistics
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from support import command as start
from support import documents, experiment, finish, metrics, settings, write_config, write_split

from pretrainx.core.errors import GuardStop, InputError
from pretrainx.core.sections import Train
from pretrainx.data import ledger, skips
from pretrainx.data.loader import open_mixture
from pretrainx.train import autopsy, checkpoint, loop, resume
from pretrainx.train.checkpoint import Checkpoints
from pretrainx.train.guards import spikes
from pretrainx.train.guards.spikes import Rewind, Rewinds, Spikes
from pretrainx.train.state import State

POISONED, FIRST, BATCH = "doc-31", 48, 4  # the first step whose batch sees most of it, as a quarter of its rows
SAME = ("step", "loss", "state_sha256", "rows_sha256", "tokens", "skipped", "spikes", "rows_left_out")
TRAIN: dict[str, Any] = {"steps": 60, "batch_size": BATCH, "spike_window": 16, "spike_deviations": 12.0}
SECTIONS: dict[str, Any] = {"data": {"seed": 137, "sequence_length": 128}, "checkpoint": {"every": 10, "keep": 3}, "log": {"every": 1}}


pytestmark = pytest.mark.usefixtures("one_device")


@pytest.fixture(scope="module")
def corpus(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder, draw = tmp_path_factory.mktemp("poisoned"), random.Random(3)
    texts = documents()[:60]
    texts.insert(31, "".join(chr(draw.randrange(0x80, 0x800)) for _ in range(100)))
    write_split(folder, "topics", "train", texts)
    return folder


def run(corpus: Path, folder: Path, allowed: tuple[str, ...] = (), **train: Any) -> dict[str, Any]:
    return loop.train(loop.prepare(experiment(corpus, **SECTIONS, train=TRAIN | train), folder, allowed))


@pytest.fixture(scope="module")
def unbroken(corpus: Path, tmp_path_factory: pytest.TempPathFactory) -> dict[str, tuple[dict[str, Any], Path]]:
    found = {}
    for policy in ("log", "skip", "rewind"):
        folder = tmp_path_factory.mktemp(policy)
        found[policy] = run(corpus, folder, spike_policy=policy), folder
    return found


losses = st.lists(st.floats(0.5, 20.0), min_size=4, max_size=8)


@given(losses, st.floats(0.1, 20.0))
def test_the_limit_by_its_definition(past: list[float], deviations: float) -> None:
    middle = statistics.median(past)
    sigma = max(1.4826 * float(np.median(np.abs(np.asarray(past) - middle))), 0.005 * middle)
    limit = spikes.limit_of(past, 8, deviations)
    assert limit == pytest.approx(middle + deviations * sigma, rel=1e-6) and limit == np.float32(limit)
    assert spikes.limit_of([2 * x for x in past], 8, deviations) == pytest.approx(2 * limit, rel=1e-6)
    assert spikes.limit_of(past[:3], 8, deviations) == math.inf


def test_a_minority_of_outliers_does_not_hide_the_next() -> None:
    calm = [3.0, 3.1, 2.9, 3.05, 2.95, 3.02]
    assert spikes.limit_of([*calm, 50.0, 80.0], 8, 10.0) < 5.0


def test_a_level_that_lasts_becomes_the_level() -> None:
    watch = Spikes(Train(spike_window=8))
    assert not any(watch.observe(step, 3.0 + 0.01 * (step % 3)) for step in range(8))
    found = [watch.observe(8 + step, 6.0 + 0.01 * (step % 3)) for step in range(10)]
    assert found[:4] == [True] * 4 and not any(found[5:]) and watch.count == sum(found)
    assert not watch.observe(30, math.nan) and not watch.observe(31, 0.1)  # refused elsewhere; and a fall is no spike


def test_a_rewind_comes_before_the_window_changes() -> None:
    watch = Spikes(Train(spike_window=8, spike_policy="rewind"), losses=[3.0] * 8)
    with pytest.raises(Rewind) as caught:
        watch.observe(12, 9.0)
    assert caught.value.step == 12 and watch.losses == [3.0] * 8


def test_rewinds_to_one_checkpoint_are_bounded() -> None:
    rewinds = Rewinds(Train(max_rewinds=2))
    for step, base in ((12, 10), (13, 10), (25, 20), (26, 20)):
        rewinds.require(step, base)
    with pytest.raises(GuardStop, match="spikes again at step 27, after 2 rewinds to step 20"):
        rewinds.require(27, 20)


@pytest.mark.parametrize(("loss", "limit", "kept"), [(3.0, 4.0, True), (5.0, 4.0, False), (4.0, 4.0, True), (math.nan, 4.0, None)])
def test_a_refused_update_changes_no_bit(loss: float, limit: float, kept: bool | None) -> None:
    """The inner step is one that refuses NaN itself, as train/step.py does: its own refusal is not counted twice."""

    def step(state: State, batch: dict[str, jax.Array]) -> tuple[State, dict[str, jax.Array]]:
        good = jnp.isfinite(batch["loss"][0])
        bad = (~good).astype(jnp.int32)
        params = jax.tree.map(lambda x: jnp.where(good, x + 1, x), state.params)
        new = State(state.step + 1, params, state.opt_state, state.skipped + bad, (state.skipped_in_a_row + bad) * bad)
        return new, {"loss": batch["loss"][0], "skipped": new.skipped, "skipped_in_a_row": new.skipped_in_a_row}

    count = lambda n: jnp.asarray(n, jnp.int32)  # noqa: E731
    before = State(count(7), {"a": jnp.asarray([0.1, -0.0])}, {"m": jnp.ones(2)}, count(3), count(2))
    batch = {"loss": jnp.full(4, loss), spikes.LIMIT: jnp.full(4, limit)}
    after, found = jax.jit(spikes.refusing(step))(before, batch)
    assert int(after.step) == 8
    assert np.array_equal(after.params["a"], before.params["a"] + 1 if kept else before.params["a"])
    assert (int(after.skipped), int(after.skipped_in_a_row)) == ((3, 0) if kept else (4, 3))
    assert (int(found["skipped"]), int(found["skipped_in_a_row"])) == (int(after.skipped), int(after.skipped_in_a_row))


def test_the_ledger_knows_when_the_poison_is_fed(corpus: Path) -> None:
    mixture = open_mixture(experiment(corpus, **SECTIONS).data, "train")
    found = ledger.sightings(mixture, ledger.require_documents(mixture, POISONED), BATCH, 60)
    assert [(s.step + 1, s.end - s.start > 100) for s in found] == [(FIRST, True)]


@pytest.mark.slow
def test_policies(corpus: Path, unbroken: dict[str, tuple[dict[str, Any], Path]], tmp_path: Path) -> None:
    """Log changes nothing; skip leaves the state of the step before, bit for bit; rewind is the run that never saw those rows."""
    logged, folder = unbroken["log"]
    assert logged["spikes"] == 1 and logged["skipped"] == logged["rows_left_out"] == 0
    assert [row["step"] for row in metrics(folder) if "train/spike_loss" in row] == [FIRST]
    assert list(autopsy.recorded_spikes(folder)) == [FIRST]
    assert run(corpus, tmp_path / "deaf", spike_deviations=1e9)["state_sha256"] == logged["state_sha256"]

    skipped, _ = unbroken["skip"]
    assert skipped["skipped"] == 1 and skipped["rows_sha256"] == logged["rows_sha256"]
    before = run(corpus, tmp_path / "skip", spike_policy="skip", stop_at=FIRST - 1)
    after = run(corpus, tmp_path / "skip", spike_policy="skip", stop_at=FIRST)
    assert before["state_sha256"] == after["state_sha256"] and (before["skipped"], after["skipped"]) == (0, 1)

    rewound, folder = unbroken["rewind"]
    assert rewound["rows_left_out"] == BATCH and rewound["step"] == 60 and list(autopsy.recorded_spikes(folder)) == [FIRST]
    assert [row["step"] for row in metrics(folder) if "train/loss" in row] == list(range(1, 61))
    skips.write(tmp_path / "skip_rows.json", skips.merged([((FIRST - 1) * BATCH, FIRST * BATCH)]))
    other = run(corpus, tmp_path / "other", skip_rows=str(tmp_path / "skip_rows.json"))
    assert (other["state_sha256"], other["rows_sha256"]) == (rewound["state_sha256"], rewound["rows_sha256"])
    assert rewound["rows_sha256"] != logged["rows_sha256"]


@pytest.mark.slow
@pytest.mark.parametrize(("policy", "stops"), [("log", [44]), ("skip", [44, FIRST]), ("rewind", [44, 52])])
def test_a_resumption_inside_the_window_is_exact(
    corpus: Path, unbroken: dict[str, tuple[dict[str, Any], Path]], tmp_path: Path, policy: str, stops: list[int]
) -> None:
    """Half of the losses that decide lie before the stop; and a rewind goes back to another checkpoint than the unbroken run's."""
    for stop in stops:
        run(corpus, tmp_path, spike_policy=policy, stop_at=stop)
    result, (wanted, folder) = run(corpus, tmp_path, spike_policy=policy), unbroken[policy]
    assert {k: result[k] for k in SAME} == {k: wanted[k] for k in SAME}
    assert metrics(tmp_path) == metrics(folder)


@pytest.mark.slow
def test_killed_after_a_rewind_it_comes_to_the_same(
    corpus: Path, unbroken: dict[str, tuple[dict[str, Any], Path]], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """As by kill -9 between the rewind and the next save: what was left out is in no checkpoint yet, and is found again."""

    class Killed(Exception):
        pass

    with monkeypatch.context() as patch:
        save = loop.save
        patch.setattr(loop, "save", lambda run, reporter: save(run, reporter) if run.step < FIRST else (_ for _ in ()).throw(Killed))
        with pytest.raises(Killed):
            run(corpus, tmp_path, spike_policy="rewind")
    assert Checkpoints(tmp_path / "checkpoints", read_only=True).latest() == 40
    result, (wanted, folder) = run(corpus, tmp_path, spike_policy="rewind"), unbroken["rewind"]
    assert {k: result[k] for k in SAME} == {k: wanted[k] for k in SAME} and metrics(tmp_path) == metrics(folder)


@pytest.mark.slow
def test_endless_rewinds_stop_the_run(corpus: Path, tmp_path: Path) -> None:
    """Where every other loss is a spike, going back is no cure."""
    with pytest.raises(GuardStop, match=r"spikes again at step \d+, after 2 rewinds to step"):
        run(corpus, tmp_path, spike_policy="rewind", spike_deviations=0.3, spike_window=8, max_rewinds=2)


def test_past_losses_are_checked(tmp_path: Path) -> None:
    """Facts of earlier versions have none; those of nobody are refused."""

    class Saved:
        folder = tmp_path
        found: Any = None

        def facts(self, step: int) -> Any:
            return self.found

    saved: Any = Saved()
    whole = {
        "identity": {"model": {}, "vocabulary": "", "data": ""}, "config": {}, "vocabulary": {}, "pending": [], "rows_sha256": "0" * 64,
    }  # fmt: skip
    saved.found = whole
    found = resume.facts(saved, 3)
    assert found["losses"] == [] and found["spikes"] == 0 and found["skip_rows"] == skips.NONE
    saved.found = whole | {"losses": [1.5], "spikes": 2, "skip_rows": [[1, 3]]}
    found = resume.facts(saved, 3)
    assert spikes.restored(Train(), found, None) == Spikes(Train(), None, [1.5], 2) and found["skip_rows"].stretches == ((1, 3),)
    for wrong in ({"losses": ["x"]}, {"losses": 3}, {"spikes": 1.5}, {"skip_rows": [[3, 1]]}, {"skip_rows": "all"}):
        saved.found = whole | wrong
        with pytest.raises(InputError):
            resume.facts(saved, 3)


@pytest.mark.slow
def test_the_autopsy_names_the_poisoned_document(corpus: Path, unbroken: dict[str, tuple[dict[str, Any], Path]], tmp_path: Path) -> None:
    """And its skip list is one that the run goes on with, from before the spike."""
    result, folder = unbroken["log"]
    found = finish(start(f"--workdir={folder}", f"--out={tmp_path}", "--json", tool="autopsy"))
    assert (found["step"], found["base"]) == (FIRST, 40) and found["loss"] == pytest.approx(found["recorded_loss"], rel=1e-5)
    assert found["loss"] > found["limit"]
    worst = found["rows"][0]
    assert POISONED in {d["id"] for d in worst["documents"]}
    assert worst["deviations"] > 3 * found["rows"][1]["deviations"]
    losses = {d["id"]: d["loss"] for d in worst["documents"]}
    assert losses[POISONED] == max(losses.values())
    # The rows' parts are the step's: their losses add up, and no gradient is longer than the sum of its parts.
    assert sum(row["share"] for row in found["rows"]) == pytest.approx(found["loss"], rel=1e-5)
    assert sum(row["gradient"] for row in found["rows"]) >= found["grad_norm"]
    assert found["standing_out"] == 1 and found["skip_rows"] == [[worst["number"], worst["number"] + 1]]
    page = (tmp_path / "page.html").read_text()
    assert POISONED in page and "<script" not in page and f"--rewind_to={found['base']}" in page

    config = write_config(tmp_path / "tiny.py", settings(corpus, **SECTIONS, train=TRAIN | {"spike_deviations": 12.0}))
    words = [f"--config={config}", f"--workdir={folder}", f"--config.train.skip_rows={tmp_path / 'skip_rows.json'}", "--json"]
    said = finish(start(*words), code=2)["stderr"]
    assert "--allow_change=train.skip_rows" in said
    again = finish(start(*words, "--rewind_to=40", "--allow_change=train.skip_rows"))
    assert again["rows_left_out"] == 1 and again["spikes"] == 0 and again["rows_sha256"] != result["rows_sha256"]
    assert {path.name for path in (folder / checkpoint.ASIDE).iterdir()} == {"50", "60"}


def test_what_cannot_be_examined_is_one_sentence(tmp_path: Path) -> None:
    for words, message in (
        ([f"--workdir={tmp_path / 'nowhere'}"], "no such folder"),
        ([f"--workdir={tmp_path}"], "recorded no spike"),
        ([f"--workdir={tmp_path}", "--step=0"], "counted from 1"),
        ([f"--workdir={tmp_path}", "--step=3"], "is .* a run's folder"),
    ):
        said = finish(start(*words, tool="autopsy"), code=2)["stderr"]
        assert re.search(message, said) and said.startswith("error: ") and len(said.splitlines()) == 1, said


def test_each_rows_gradient_is_its_part_of_the_batchs(corpus: Path) -> None:
    """Against the gradient of the whole batch, taken apart by linearity: summed over rows it is the step's, to float32."""
    program, builder = loop.build.from_mixture(experiment(corpus, **SECTIONS), open_mixture(experiment(corpus, **SECTIONS).data, "train"))
    state = program.init_state()
    features = builder.build(builder.mixture.order().rows(0, BATCH))
    measured = autopsy.measure(program, state, features)
    _, found = jax.jit(program.step)(state, features)
    assert measured["share"].sum() == pytest.approx(float(found["loss"]), rel=1e-5)
    only = {name: np.repeat(array[3:4], BATCH, axis=0) for name, array in features.items()}
    _, alone = jax.jit(program.step)(state, only)  # a batch of one row four times: its own loss and gradient
    weight = features["loss_weights"][3].sum() / features["loss_weights"].sum()
    assert measured["loss"][3] == pytest.approx(float(alone["loss"]), rel=1e-5)
    assert measured["gradient"][3] == pytest.approx(float(alone["grad_norm"]) * weight, rel=1e-4)
