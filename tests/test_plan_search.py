"""The search over layouts: what is compiled, in which order, what it prints; and that a compiled plan is kept."""

import json
from pathlib import Path
from typing import Any

import pytest

from pretrainx.core.chips import CHIPS
from pretrainx.core.errors import InputError
from pretrainx.plan import analytic, kept, search, topology
from pretrainx.plan.analytic import Run, Shape

SHAPE = Shape(2048, 16, 16, 16, 128, 8192, 32768)


@pytest.fixture(scope="module")
def candidates() -> list[search.Candidate]:
    found, tried = search.search(SHAPE, Run(CHIPS["v5e"], 16, 2048, 4.0), topology.parse("v5e-16"), 64)
    assert tried > len(found) > 10
    return found


def test_each_candidate_spreads_over_all_devices(candidates: list[search.Candidate]) -> None:
    """data x fsdp x tensor are the slice's chips, and the batch is cut evenly; both sequence cuts and copies are among them."""
    for candidate in candidates:
        sizes = {word.split("=")[0].removeprefix("--config."): word.split("=")[1] for word in candidate.words()}
        data, fsdp, tensor = (int(sizes[f"mesh.{axis}"]) for axis in ("data", "fsdp", "tensor"))
        assert data * fsdp * tensor == 16 and 64 % (data * fsdp * int(sizes["train.grad_accum"])) == 0
        assert (candidate.layout == "fsdp") == (tensor == 1)
    assert {c.layout for c in candidates} == {"fsdp", "fsdp_tp", "fsdp_tp_sequence"}
    assert {c.run.cut for c in candidates if c.run.tensor == 1} == {16, 4}


def test_copies_of_the_weights_take_their_room_and_a_sum(candidates: list[search.Candidate]) -> None:
    """Four copies over 16 chips hold four times the state, by hand 16 bytes less 2 of gradients a weight, and sum gradients at the end."""
    plain = [c for c in candidates if (c.run.tensor, c.run.remat, c.run.grad_accum) == (1, "full", 1)]
    whole, copies = (next(c for c in plain if c.run.cut == cut) for cut in (16, 4))
    state = lambda cut: 14 * SHAPE.weights / cut  # noqa: E731
    assert copies.memory_bytes - whole.memory_bytes == pytest.approx(state(4) - state(16), rel=1e-6)
    moved = [analytic.weights_seconds(SHAPE, c.run, analytic.ASSUMED)[0] for c in (whole, copies)]
    assert moved[0] != moved[1]


def test_the_best_are_compiled_in_both_layouts_and_ranked_by_the_compiler(candidates: list[search.Candidate]) -> None:
    asked: list[list[str]] = []

    def compile_with(flags: list[str]) -> dict[str, Any]:
        asked.append(flags)
        if len(asked) == 1:
            raise InputError("no such mesh")
        seconds = 1.0 / len(asked)  # later ones are faster: the estimate's order must not survive
        wire = [{"wire_bytes": 3.0}, {"wire_bytes": 4.0}]
        return {"fits": len(asked) != 3, "step_seconds": seconds, "peak_bytes": 1.0, "mfu": 0.5, "binds": "ici", "collectives": wire}

    rows = search.compiled(candidates, 5, compile_with)
    assert len(rows) == len(asked) == 5 == len({tuple(flags) for flags in asked})
    assert [row["fits"] for row in rows] == [True, True, True, False, False]
    fit = [row["step_seconds"] for row in rows if row["fits"]]
    assert fit == sorted(fit) and rows[0]["flags"] == asked[-1] and rows[0]["wire_bytes"] == 7.0
    assert any(row.get("refusal") == "no such mesh" for row in rows)
    alone = [c for c in candidates if c.layout == "fsdp"][:1]
    assert [layout for _, layout in search.to_compile(alone, 9)] == ["fsdp_manual", "fsdp"]


def test_a_compiled_plan_is_kept_for_equal_experiments(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Another value, another library version or another line of code is another plan; a damaged file is none."""
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    one = {"config": {"model": {"d_model": 64}}, "topology": "v5e-16"}
    path = kept.path_of(one)
    assert kept.read(path) is None and path.is_relative_to(tmp_path)
    kept.write(path, {"step_seconds": 0.5})
    assert kept.read(kept.path_of(json.loads(json.dumps(one)))) == {"step_seconds": 0.5, "kept": True}
    assert kept.path_of(one | {"topology": "v5e-256"}) != path
    with monkeypatch.context() as patched:
        patched.setattr(kept.versions, "installed", lambda names: dict.fromkeys(names, "0"))
        assert kept.path_of(one) != path
    with monkeypatch.context() as patched:
        (tmp_path / "code").mkdir()
        (tmp_path / "code" / "a.py").write_text("x = 1\n")
        patched.setattr(kept, "PACKAGE", tmp_path / "code")
        before = kept.path_of(one)
        (tmp_path / "code" / "a.py").write_text("x = 2\n")
        assert before != path and kept.path_of(one) != before
    path.write_text("{")
    assert kept.read(path) is None
