"""Layers as a pipeline over `stage`: the same numbers as one device, in as many iterations as the arithmetic says, by permutes alone."""

import importlib.util
import json
import math
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.extend.random import threefry2x32_p
from jax.sharding import PartitionSpec
from support import ROOT, environment, experiment, quick_first, write_config
from test_parallel import OPTIM, start, two_steps

from pretrainx.core.errors import InputError
from pretrainx.core.sections import Mesh
from pretrainx.data.loader import open_mixture
from pretrainx.models.layers import bits_of_rows, dropout
from pretrainx.models.skeleton import flatten
from pretrainx.parallel import mesh as meshes
from pretrainx.parallel import pipeline
from pretrainx.parallel.pipeline import Schedule
from pretrainx.plan import estimate, hlo, search, topology, walk
from pretrainx.train import build, loop
from pretrainx.train import state as states
from pretrainx.train.build import Program
from pretrainx.train.state import State

BATCH = 8


def program_on(cache_dir: Path, **sections: Any) -> tuple[Program, Any]:
    """Of eight layers; rows of `short` hold several documents each."""
    given: dict[str, Any] = {"data": {"mixture": {"short": 1.0}}, "model": {"num_layers": 8}, "optim": OPTIM, "layout": "dp"}
    given |= {k: {**given.get(k, {}), **v} if isinstance(v, dict) else v for k, v in sections.items()}
    checked = experiment(cache_dir, **given)
    on = checked.mesh
    return build.from_mixture(checked, open_mixture(checked.data, "train"), jax.devices()[: on.data * on.fsdp * on.tensor * on.stage])


def staged(stage: int, microbatches: int, repeats: int = 1, **sections: Any) -> dict[str, Any]:
    """Sections of a config with so many stages."""
    train = {"pipeline_microbatches": microbatches, "pipeline_repeats": repeats, **sections.pop("train", {})}
    return {**sections, "mesh": {"data": 1, "stage": stage, **sections.pop("mesh", {})}, "train": train}


# ---- against one device

CASES: dict[str, dict[str, Any]] = {
    "stage2": staged(2, 8),
    "stage2_twice": staged(2, 2, 2, mesh={"fsdp": 2, "data": 2}, layout="fsdp", train={"remat": "full"}),
    "stage4": staged(4, 4, mesh={"data": 2}, layout="zero1", model={"scan_layers": False}),
    "stage4_twice": staged(4, 4, 2, mesh={"fsdp": 2}, layout="fsdp", train={"remat": "minimal"}),
    "stage4_waits": staged(4, 8, 2, layout="fsdp"),
    "stage2_tensor": staged(2, 4, 2, mesh={"fsdp": 2, "tensor": 2}, layout="fsdp_tp", train={"remat": "save:attention_out"}),
    "sequence_tp": staged(2, 4, mesh={"tensor": 4}, layout="fsdp_tp_sequence", train={"remat": "full"}),
    "accumulating": staged(2, 2, 2, mesh={"fsdp": 2}, layout="fsdp", train={"grad_accum": 2}),
    "default": staged(2, 0, layout="fsdp"),
}
QUICK = ("stage2_twice", "stage4_twice", "stage2_tensor")


@pytest.fixture(scope="module")
def alone(cache_dir: Path) -> tuple[State, list[dict[str, float]]]:
    return two_steps(*program_on(cache_dir))


def same(found: tuple[State, list[dict[str, float]]], wanted: tuple[State, list[dict[str, float]]]) -> None:
    """Loss, norm of the gradient, weights and moments: float32 sums in another order, as in test_parallel."""
    for ours, theirs in zip(found[1], wanted[1], strict=True):
        assert ours["loss"] == pytest.approx(theirs["loss"], rel=2e-6)
        assert ours["grad_norm"] == pytest.approx(theirs["grad_norm"], rel=1e-5)
        assert ours["targets"] == theirs["targets"] and ours["skipped"] == 0
    for (path, a), (_, b) in zip(flatten(found[0].params), flatten(wanted[0].params), strict=True):
        np.testing.assert_allclose(a, b, rtol=0, atol=4e-6, err_msg=path)
    for a, b in zip(jax.tree.leaves(found[0].opt_state), jax.tree.leaves(wanted[0].opt_state), strict=True):
        np.testing.assert_allclose(a, b, rtol=1e-4, atol=1e-6)


@pytest.mark.parametrize("name", quick_first(CASES, QUICK))
def test_a_pipeline_equals_one_device(name: str, cache_dir: Path, alone: tuple[State, list[dict[str, float]]]) -> None:
    program, builder = program_on(cache_dir, **CASES[name])
    assert program.partitioner.pipelines(BATCH) and program.partitioner.mesh.shape["stage"] == CASES[name]["mesh"]["stage"]
    found = two_steps(program, builder)
    same(found, alone)
    for leaf, sharding in zip(jax.tree.leaves(found[0]), jax.tree.leaves(program.state_shardings), strict=True):
        assert leaf.sharding.is_equivalent_to(sharding, leaf.ndim)


FAMILIES: dict[str, dict[str, Any]] = {
    "relative": {"model": {"positions": "relative"}},
    "post_norm_learned": {"model": {"positions": "learned", "post_norm": True, "norm": "layer", "use_bias": True}},
    "prefix": {"model": {"name": "prefix_decoder"}, "data": {"mixture": {"short:prefix": 1.0}}},
    "bert": {"model": {"name": "bert"}, "data": {"mixture": {"short:masked": 1.0}}},
    "electra": {"model": {"name": "electra", "generator_size": 0.5}, "data": {"mixture": {"short:replaced_token": 1.0}}},
    "lora": {"model": {"lora_rank": 2}},
    "dropout": {"model": {"dropout": 0.25}},
}


@pytest.mark.slow
@pytest.mark.parametrize("name", FAMILIES)
def test_what_a_family_adds_goes_through_the_pipeline(name: str, cache_dir: Path) -> None:
    change = FAMILIES[name]
    found = two_steps(*program_on(cache_dir, **staged(2, 4, 2, mesh={"fsdp": 2}, layout="fsdp", train={"remat": "full"}), **change))
    same(found, two_steps(*program_on(cache_dir, **change)))


def test_rows_that_make_no_microbatches_run_layer_by_layer(cache_dir: Path) -> None:
    """As those of a generation: the same hidden states, also with weights that lie on stages."""
    hidden = []
    for sections in ({}, staged(2, 4, 2, layout="fsdp", mesh={"fsdp": 2})):
        program, _ = program_on(cache_dir, **sections)
        rows = {name: np.zeros((3, *shape[1:]), dtype) for name, (shape, dtype) in program.batch_spec.items()}
        rows["tokens"] = np.random.default_rng(0).integers(3, 200, rows["tokens"].shape, np.int32)
        assert not program.partitioner.pipelines(3)
        hidden.append(jax.jit(lambda p, b, model=program.skeleton: model.merge(p)(b).hidden)(start(program).params, rows))
    np.testing.assert_allclose(hidden[0], hidden[1], rtol=1e-5, atol=1e-5)  # float32 sums in another order


# ---- what dropout drops


def test_bits_of_some_rows_are_those_of_the_whole() -> None:
    key, rows = jax.random.key(3), jnp.asarray([5, 0, 7])
    whole = jax.random.bits(key, (8, 4, 6), jnp.uint16)
    np.testing.assert_array_equal(bits_of_rows(key, rows, (3, 4, 6)), whole[rows])
    x = jnp.ones((8, 4, 6))
    np.testing.assert_array_equal(dropout(x[rows], 0.5, key, rows), dropout(x, 0.5, key)[rows])
    assert dropout(x, 0.0, key, jnp.arange(8)) is x


def test_the_number_of_an_element_has_64_bits() -> None:
    """Row 65,535 of rows of 70,001 elements: beyond 2^32, where a whole array would not fit."""
    key, size = jax.random.key(0), 70_001
    number = np.uint64(65_535) * np.uint64(size) + np.arange(size, dtype=np.uint64)
    halves = [(number >> np.uint64(32)).astype(np.uint32), (number & np.uint64(0xFFFFFFFF)).astype(np.uint32)]
    assert set(halves[0].tolist()) == {1}
    words = [jnp.full(size, k, jnp.uint32) for k in jax.random.key_data(key)]
    one, other = threefry2x32_p.bind(*words, *map(jnp.asarray, halves))
    np.testing.assert_array_equal(bits_of_rows(key, jnp.asarray([65_535]), (1, size))[0], (one ^ other).astype(jnp.uint16))


# ---- the schedule


@pytest.mark.parametrize(("stages", "repeats"), [(2, 1), (2, 2), (2, 3), (3, 2), (4, 2), (4, 4), (4, 6), (6, 4), (8, 3)])
def test_each_round_of_the_exchange_is_a_permutation_and_all_runs_arrive(stages: int, repeats: int) -> None:
    arrived = {}
    for sent, put in pipeline.exchanges(stages, repeats):
        runs = [d * repeats + int(sent[d]) for d in range(stages)]
        assert sorted(run % stages for run in runs) == list(range(stages))
        arrived |= {(run % stages, int(put[run % stages])): run for run in runs}
    assert arrived == {(s, r): r * stages + s for s in range(stages) for r in range(repeats)}


def mesh_of(stages: int) -> jax.sharding.Mesh:
    return meshes.make(Mesh(data=1, stage=stages), jax.devices()[:stages])


@pytest.mark.parametrize(("stages", "repeats"), [(2, 1), (2, 3), (4, 2), (4, 4)])
def test_weights_come_to_the_stages_that_visit_them(stages: int, repeats: int) -> None:
    layers = np.arange(stages * repeats * 2 * 3, dtype=np.float32).reshape(-1, 3)
    schedule = Schedule(stages, stages, repeats)
    moved = jax.jit(lambda w: pipeline.by_stage(w, schedule, mesh_of(stages)))(layers)
    np.testing.assert_array_equal(moved, layers.reshape(repeats, stages, 2, 3).swapaxes(0, 1))


@pytest.mark.parametrize(("stages", "microbatches", "repeats"), [(2, 2, 1), (2, 6, 3), (3, 6, 2), (4, 4, 2), (4, 8, 1), (8, 8, 1)])
def test_every_row_passes_all_layers_in_order(stages: int, microbatches: int, repeats: int) -> None:
    """Layers that do not commute, and that read something of each row; forward, and the gradients of x and of the weights."""
    layers, rows = 2 * stages * repeats, 2 * microbatches
    rng = np.random.default_rng(0)
    x, own, w = rng.normal(size=(rows, 3)), rng.normal(size=(rows, 1)), rng.normal(size=(layers, 3))
    schedule, mesh = Schedule(stages, microbatches, repeats), mesh_of(stages)

    def one(x: jax.Array, w: jax.Array, own: jax.Array, number: Any) -> jax.Array:
        return jnp.sin(x * w + own) + number / 10

    def stage(x: jax.Array, weights: jax.Array, numbers: jax.Array, own: jax.Array) -> jax.Array:
        for k in range(2):
            x = one(x, weights[k], own, numbers[k])
        return x

    def place(x: jax.Array, *dims: str | None) -> jax.Array:
        at = PartitionSpec(*("stage" if dim == "stage" else None for dim in dims))
        return jax.lax.with_sharding_constraint(x, jax.sharding.NamedSharding(mesh, at))

    def piped(x: jax.Array, w: jax.Array) -> jax.Array:
        weights = pipeline.by_stage(w, schedule, mesh)
        kept = jax.checkpoint_policies.dots_saveable
        return pipeline.run(stage, x, weights, jnp.asarray(own), schedule, mesh, place, ("batch", None), kept)

    def plain(x: jax.Array, w: jax.Array) -> jax.Array:
        for number in range(layers):
            x = one(x, w[number], jnp.asarray(own), number)
        return x

    def both(function: Any) -> Any:
        weights = np.linspace(1, 2, rows * 3).reshape(rows, 3)
        return jax.jit(jax.value_and_grad(lambda x, w: (function(x, w) * weights).sum(), (0, 1)))(jnp.asarray(x), jnp.asarray(w))

    np.testing.assert_allclose(jax.jit(piped)(x, w), plain(jnp.asarray(x), jnp.asarray(w)), rtol=1e-5, atol=1e-5)
    for ours, theirs in zip(jax.tree.leaves(both(piped)), jax.tree.leaves(both(plain)), strict=True):
        np.testing.assert_allclose(ours, theirs, rtol=2e-4, atol=2e-4)  # a dozen float32 sines in a row


def scans(jaxpr: Any) -> Iterator[Any]:
    """The outermost scans of a program."""
    for eqn in jaxpr.eqns:
        if eqn.primitive.name == "scan":
            yield eqn
        else:
            for value in eqn.params.values():
                for inner in value if isinstance(value, (list, tuple)) else [value]:
                    yield from scans(getattr(inner, "jaxpr", inner)) if hasattr(getattr(inner, "jaxpr", inner), "eqns") else ()


def traced(program: Program) -> list[Any]:
    batch = {name: jax.ShapeDtypeStruct(shape, dtype) for name, (shape, dtype) in program.batch_spec.items()}
    return list(scans(jax.make_jaxpr(program.step)(program.abstract_state, batch).jaxpr))


@pytest.mark.parametrize(("stages", "microbatches", "repeats"), [(2, 4, 1), (2, 4, 2), (4, 4, 2), (2, 8, 4)])
def test_the_bubble_is_what_the_arithmetic_says(stages: int, microbatches: int, repeats: int, cache_dir: Path) -> None:
    """Narayanan 2021, section 2.2: a microbatch's turns, and one iteration for each further stage; forward, and again backward."""
    program, _ = program_on(cache_dir, **staged(stages, microbatches, repeats, train={"remat": "full"}))
    lengths = [scan.params["length"] for scan in traced(program)]
    wanted = microbatches * repeats + stages - 1
    assert lengths.count(wanted) == 2
    schedule = Schedule(stages, microbatches, repeats)
    busy = sum(0 <= t - s < microbatches * repeats for t in range(wanted) for s in range(stages))
    assert schedule.iterations == wanted and schedule.bubble == pytest.approx(1 - busy / (wanted * stages))


@pytest.mark.parametrize(("remat", "kept"), [("full", 1), ("minimal", 7)])
def test_an_iteration_keeps_what_the_policy_says_and_no_weights(remat: str, kept: int, cache_dir: Path) -> None:
    """Of each layer that it runs its input, and the products that `minimal` keeps (all but the last). In bfloat16: sums over the
    iterations, which the weights' gradients are, stay in float32."""
    program, _ = program_on(cache_dir, **staged(2, 4, 2, train={"remat": remat, "dtype": "bfloat16"}, model={"mlp_dim": 96}))
    forward, backward = (scan for scan in traced(program) if scan.params["length"] == 9)
    stacked = [v.aval for v in forward.outvars[forward.params["num_carry"] :] if math.prod(v.aval.shape) > 1000]
    # [iterations, layers of a visit, stages, ...] of a microbatch of 2 rows of 32
    assert len(stacked) == kept and all(a.shape[:3] == (9, 2, 2) and a.dtype == jnp.bfloat16 for a in stacked)
    assert {math.prod(a.shape[3:]) for a in stacked} <= {2 * 32 * 32, 2 * 32 * 96}
    carried = [v.aval for v in backward.outvars[: backward.params["num_carry"]] if v.aval.shape[:3] == (2, 2, 2)]
    layers = [path for path, (dims, _) in program.skeleton.table().items() if "layers" in dims]
    assert sum(a.dtype == jnp.float32 for a in carried) == len(layers)


# ---- what lies where, and what is sent


@pytest.mark.parametrize(("stages", "hands"), [(4, 2), pytest.param(2, 3, marks=pytest.mark.slow)])
def test_stages_send_activations_and_gather_no_layer(stages: int, hands: int, cache_dir: Path) -> None:
    """In the loop over iterations a stage sends its activations on, by permutes; what else goes over `stage` are the batch's integers,
    embedding and head (which all stages use), and the exchange of weights by permutes, once for each weight and way. With more
    microbatches than stages some wait, and move too.
    """
    schedule = Schedule(stages, 4, 2)
    program, _ = program_on(cache_dir, **staged(stages, 4, 2, mesh={"fsdp": 2}, layout="fsdp", train={"remat": "full"}))
    module = hlo.parse(program.compile_train().as_text())
    found, sizes = walk.walk(module), dict(program.partitioner.mesh.shape)
    assert not walk.unknown_loops(found)
    moved = [(step, times, step.collective) for step, times in walk.flat(found) if step.collective]
    over = [(step, times, c) for step, times, c in moved if "stage" in c.axes(sizes)]
    looped = [c for _, times, c in over if times > 1]
    assert {c.kind for c in looped} == {"collective-permute"}
    activations = BATCH / 4 / 2 * 32 * 32 * 4  # a device's part of a microbatch
    assert {c.wire_bytes for c in looped} == {activations}
    assert sum(times for _, times, _ in over if times > 1) == 2 * hands * schedule.iterations
    lines = {op.name: op for computation in module.computations.values() for op in computation.ops}
    for step, _, c in over:
        if c.kind == "all-gather":
            dims = [array.dims for array in lines[step.name].result]
            assert c.dtype == "s32" or all(264 in d or d[:1] == (BATCH,) for d in dims), (step.name, dims)
    weights = sum(math.prod(shape) for dims, shape in program.skeleton.table().values() if "layers" in dims and len(shape) > 2)
    exchanged = sum(c.wire_bytes for _, times, c in moved if times == 1 and c.kind == "collective-permute" and c.dtype == "f32")
    assert exchanged >= 2 * 4 * weights / (2 * stages)  # each device its part, there and its gradient back


def test_a_device_holds_its_stages_share(cache_dir: Path) -> None:
    program, _ = program_on(cache_dir, **staged(4, 4, 2, mesh={"fsdp": 2}, layout="fsdp"))
    for path, (dims, shape) in program.skeleton.table().items():
        part = program.partitioner.weight(dims).shard_shape(shape)
        if "norm" in dims:
            assert math.prod(part) == math.prod(shape) / (4 if "layers" in dims else 1), path
        else:  # embedding and head too
            assert math.prod(part) == math.prod(shape) / 8, path


# ---- checkpoints


@pytest.mark.slow
def test_a_checkpoint_is_restored_with_stages_and_without(cache_dir: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The same bytes on either side, and the same losses and evaluations from there."""
    devices = jax.devices()
    run = {"model": {"num_layers": 4}, "checkpoint": {"every": 2}, "log": {"every": 1}, "eval": {"every": 2, "max_rows": 6}}
    pipe = staged(2, 4, 2, mesh={"fsdp": 2}, layout="fsdp")

    def train(folder: str, count: int, stop: int, sections: dict[str, Any]) -> dict[str, Any]:
        monkeypatch.setattr(jax, "devices", lambda *_: devices[:count])
        own = {**sections, "train": {**sections.get("train", {}), "steps": 4, "stop_at": stop}}
        return loop.train(loop.prepare(experiment(cache_dir, **run, optim=OPTIM, **own), tmp_path / folder))

    def restored(folder: str, count: int, sections: dict[str, Any]) -> str:
        monkeypatch.setattr(jax, "devices", lambda *_: devices[:count])
        own = {**sections, "train": {**sections.get("train", {}), "steps": 4}}
        prepared = loop.prepare(experiment(cache_dir, **run, optim=OPTIM, **own), tmp_path / folder)
        state = prepared.checkpoints.restore(2, prepared.program.abstract_state, prepared.program.state_shardings)
        prepared.checkpoints.close()
        return states.sha256(state)

    unbroken = train("alone", 1, 4, {})
    first = train("pipe", 4, 2, pipe)
    assert restored("pipe", 1, {}) == restored("pipe", 4, pipe) == first["state_sha256"]
    second = train("pipe", 1, 4, {})
    back = train("back", 1, 2, {})
    assert restored("back", 4, pipe) == back["state_sha256"]
    third = train("back", 4, 4, pipe)
    for found in (second, third):
        assert found["loss"] == pytest.approx(unbroken["loss"], rel=1e-5) and found["rows_sha256"] == unbroken["rows_sha256"]


def test_stages_lie_between_slices_where_copies_do_not() -> None:
    """Two slices of four devices: neighbours along `stage` are in different slices, all else is within one."""

    @dataclass(frozen=True)
    class Device:
        id: int
        slice_index: int
        process_index: int = 0
        platform: str = "cpu"
        device_kind: str = "cpu"

    devices = [Device(i, i // 4) for i in range(8)]

    def slices_of(**sizes: int) -> Any:
        shape = meshes.sizes(Mesh(**sizes), 8)
        found = meshes.across_slices(shape, 2, devices)
        return np.vectorize(lambda device: device.slice_index)(found).reshape([size for size in shape.values() if size > 1])

    assert slices_of(data=1, stage=2, fsdp=4).tolist() == [[0] * 4, [1] * 4]
    assert slices_of(data=1, stage=4, fsdp=2).tolist() == [[0, 0], [0, 0], [1, 1], [1, 1]]
    assert slices_of(data=2, stage=2, fsdp=2).tolist() == [[[0, 0], [1, 1]], [[0, 0], [1, 1]]]
    with pytest.raises(InputError, match=r"mesh.data=1: 2 slices .* give a multiple of 2 \(or to mesh.stage, which is 1\)"):
        slices_of(data=1, fsdp=8)


# ---- plans

DECODER: dict[str, Any] = {
    "data": {"sequence_length": 512},
    "model": {"vocab_size": 1024, "d_model": 512, "num_layers": 8, "num_heads": 4, "mlp_dim": 1024},
    "train": {"steps": 10, "batch_size": 64, "remat": "full", "pipeline_microbatches": 8, "pipeline_repeats": 2},
    "mesh": {"data": 1, "stage": 4, "fsdp": 4},
    "layout": "fsdp",
}


def estimated(**change: Any) -> dict[str, Any]:
    sections = {name: {**v, **change.get(name, {})} if isinstance(v, dict) else v for name, v in DECODER.items()}
    return estimate.plan(experiment("", **sections), topology.parse("v5e:4x4"))


def test_an_estimate_counts_stages_and_their_bubble() -> None:
    found, plain = estimated(), estimated(mesh={"stage": 1, "fsdp": 16})
    longer = estimated(train={"pipeline_repeats": 1})
    assert found["pipeline"] == {"stages": 4, "microbatches": 8, "repeats": 2, "iterations": 19, "bubble": 3 / 19}
    assert "pipeline" not in plain and longer["pipeline"]["bubble"] == 3 / 11
    for kind in ("weights", "moments", "logits"):
        assert found["memory_by_kind"][kind] == pytest.approx(plain["memory_by_kind"][kind]), kind
    kept = 4 * 512 * 512 * 8 * 19 / 16  # each chip's 4 rows, the inputs of 8 layers, and in the bubble
    at_work = 4 * 512 * 4 / 8 * (2 * 512 + 3 * 512 + 3 * 1024)  # of a microbatch: stream, heads, mlp
    assert found["memory_by_kind"]["activations"] == pytest.approx(2 * (kept + at_work))  # bfloat16
    # The head is outside of it: of the arithmetic all but that runs in the bubble too.
    assert plain["time_by_kind"]["products"] < found["time_by_kind"]["products"] < plain["time_by_kind"]["products"] * 19 / 16
    assert found["time_by_kind"]["products"] < longer["time_by_kind"]["products"]
    assert plain["time_by_kind"]["between stages"] == 0 < found["time_by_kind"]["between stages"]


def test_between_slices_only_activations_travel() -> None:
    """Stages over two slices: no gradients on the network, and a handful of activations in their place."""
    place = topology.parse("v5e:4x4@2")
    found = {}
    for name, mesh in (("stage", {"data": 1, "stage": 2, "fsdp": 16}), ("data", {"data": 2, "stage": 1, "fsdp": 16})):
        sections = {**DECODER, "mesh": mesh, "train": {**DECODER["train"], "batch_size": 256}}
        found[name] = estimate.plan(experiment("", **sections), place)["time_by_kind"]
    assert found["stage"]["gradients between slices"] == 0 < found["data"]["gradients between slices"]
    assert found["data"]["between stages"] == 0 < found["stage"]["between stages"]


def test_a_search_leaves_the_stages_as_they_are() -> None:
    checked, place = experiment("", **DECODER), topology.parse("v5e:4x4")
    shape, run = estimate.run_of(checked, place, any_batch=True)
    candidates, tried = search.search(shape, run, place, 64)
    assert candidates and tried and all(c.run.stages == 4 and "--config.mesh.stage=4" in c.flags for c in candidates)


@pytest.mark.skipif(importlib.util.find_spec("libtpu") is None, reason="the [plan] extra (libtpu) is not installed")
@pytest.mark.slow
def test_a_pipeline_compiles_for_a_slice(tmp_path: Path) -> None:
    """Its kernels within the stages, activations handed over `stage` as often as there are iterations, and no layer gathered over it."""
    file = write_config(tmp_path / "piped.py", DECODER)
    words = [sys.executable, str(ROOT / "tools" / "plan.py"), f"--config={file}", "--topology=v5e:4x4", "--json"]
    done = subprocess.run(words, env=environment(), cwd=ROOT, capture_output=True, text=True, timeout=900, check=False)
    assert done.returncode == 0, done.stderr[-3000:]
    found = json.loads(done.stdout.splitlines()[-1])
    assert found["fits"] and found["kernel_calls"] >= 3 and found["unknown_loops"] == [] and found["uncut_weights"] == {}
    assert found["pipeline"]["iterations"] == 19 and found["mesh"] == {"stage": 4, "fsdp": 4}
    handed = sum(
        c["calls"] for c in found["collectives"] if (c["kind"], c["axes"], c["dtype"]) == ("collective-permute", ["stage"], "bf16")
    )
    assert handed == 2 * 3 * 19  # state, what waits, what comes back; forward and backward
    gathered = sum(c["wire_bytes"] for c in found["collectives"] if c["kind"] == "all-gather" and "stage" in c["axes"])
    tables = 2 * 2 * 2 * 1024 * 512  # embedding and head in bfloat16, forward and backward; integers of the batch beside them
    assert gathered < 2 * tables < 2 * (found["parameters"] - 2 * 1024 * 512)


# ---- what cannot be


@pytest.mark.parametrize(
    ("sections", "message"),
    [
        (staged(4, 6), "train.pipeline_microbatches 6 is no multiple of mesh.stage 4: .*; give 4 or 8$"),
        (staged(4, 2), "train.pipeline_microbatches 2 is no multiple of mesh.stage 4: .*; give 4$"),
        (staged(4, 4, 4), "model.num_layers 8 is not divisible by mesh.stage 4 x train.pipeline_repeats 4; .* may be 1, 2, 4, 8$"),
        (staged(2, 4, mesh={"fsdp": 4}, layout="fsdp"), r"train.batch_size 8 .* by 4 batch shards \(data\*fsdp\) x 4 microbatches "
         r"\(train.pipeline_microbatches\) x grad_accum 1; the nearest that fit are 16 and 16"),
        (staged(2, 4, eval={"batch_size": 6}), r"eval.batch_size 6 is not divisible by 1 batch shards \(data\*fsdp\) x 4 microbatches"),
        (staged(2, 4, mesh={"fsdp": 2}, layout="fsdp_manual"), "mesh.stage=2: a manual layout has no pipeline; choose layout='fsdp'"),
        (staged(2, 4, model={"name": "bart"}, data={"mixture": {"short:denoising": 1.0}}),
         "mesh.stage=2: model.name 'bart' has a decoder"),
        (staged(4, 4, mesh={"fsdp": 2}, layout="fsdp", model={"d_model": 36, "head_dim": 8}),
         r"embed 36 .* not divisible by stage\*fsdp=8"),
        (staged(2, -2), "train.pipeline_microbatches"),
        (staged(2, 2, 0), "train.pipeline_repeats"),
    ],
)  # fmt: skip
def test_pipelines_that_cannot_be(sections: dict[str, Any], message: str, cache_dir: Path) -> None:
    with pytest.raises(InputError, match=message):
        program_on(cache_dir, **sections)
