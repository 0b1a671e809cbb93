"""The manual layout: each device gathers its weights and scatters its gradients itself, as much as it must and no more."""

import math
from collections import defaultdict
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import jax
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from jax.sharding import Mesh
from support import experiment
from test_parallel import OPTIM, program_on, start, two_steps

from pretrainx.core import sections
from pretrainx.core.errors import InputError
from pretrainx.data.loader import open_mixture
from pretrainx.models.skeleton import flatten
from pretrainx.parallel import layouts, mesh
from pretrainx.plan import hlo, walk
from pretrainx.train import build
from pretrainx.train import state as states

SCALARS = 200  # bytes: losses, weights and squares of each array are summed too
MANUAL: dict[str, Any] = {"layout": "fsdp_manual", "mesh": {"data": 2, "fsdp": 4}}
ULYSSES: dict[str, Any] = {"layout": "fsdp_ulysses", "mesh": {"data": 1, "fsdp": 2, "tensor": 4}}


@dataclass(frozen=True)
class Chip:
    """As much of a TPU device as a mesh asks."""

    coords: tuple[int, ...]
    core_on_chip: int = 0
    platform: str = "tpu"


def along(places: list[tuple[int, ...]], cores: int = 1) -> tuple[int, ...]:
    """What an axis of devices at these places, in turn, is made of."""
    devices = np.array([Chip(place, core) for place in places for core in range(cores)], dtype=object)
    found = object.__new__(Mesh)  # a real one wants real devices
    object.__setattr__(found, "axis_names", ("fsdp",))
    object.__setattr__(found, "devices", devices)
    return mesh.by_torus(found, "fsdp")


def grid(*sides: int) -> list[tuple[int, ...]]:
    return [tuple(map(int, place)) for place in np.ndindex(*sides)]


@settings(max_examples=50)
@given(st.lists(st.integers(1, 5), min_size=1, max_size=3), st.integers(1, 2), st.randoms())
def test_an_axis_row_by_row_is_made_of_the_dimensions_of_the_torus(sides: list[int], cores: int, random: Any) -> None:
    order = list(range(len(sides)))
    random.shuffle(order)  # which coordinate is which says nothing
    places = [tuple(place[i] + 3 for i in order) for place in grid(*sides)]
    wanted = tuple(side for side in (*sides, cores) if side > 1) or (1,)
    assert along(places, cores) == wanted
    assert math.prod(along(places, cores)) == len(places) * cores


def test_an_axis_in_another_order_is_one_ring() -> None:
    """As `jax.make_mesh` lays 16 devices over 4 x 4: in a snake."""
    snake = [(x, y if x % 2 == 0 else 3 - y) for x in range(4) for y in range(4)]
    assert along(snake) == (16,)
    assert along([(0, 0), (1, 1), (2, 2), (3, 3)]) == (4,)
    assert along(grid(4, 4)[:6]) == (6,)  # no whole rows


def test_a_finer_mesh_has_the_same_devices_in_the_same_order() -> None:
    plain = mesh.make(sections.Mesh(data=1, fsdp=8))
    fine, names = mesh.finer(plain, ["fsdp"])
    assert fine.devices.ravel().tolist() == plain.devices.ravel().tolist()
    assert names["fsdp"] == ("fsdp_0", "fsdp_1") and names["data"] == ("data",)
    assert (fine.shape["fsdp_0"], fine.shape["fsdp_1"]) == (2, 4) and fine.shape["data"] == 1


def wire(program: build.Program) -> dict[str, float]:
    """Bytes that a device sends in a step, by kind of collective, of the program as this CPU's compiler made it."""
    found: dict[str, float] = defaultdict(float)
    loop = walk.walk(hlo.parse(program.compile_train().as_text()))
    assert not walk.unknown_loops(loop)
    for step, times in walk.flat(loop):
        if step.collective:
            found[step.collective.kind] += times * step.collective.wire_bytes
    return found


def sizes(program: build.Program) -> tuple[float, float, float]:
    """Bytes of the weights that are cut: in the layers, outside of them; and bytes of those that are whole everywhere."""
    inside = outside = whole = 0.0
    for dims, shape in program.skeleton.table().values():
        size = 4.0 * math.prod(shape)
        if set(program.partitioner.weight(dims).spec) == {None}:
            whole += size
        elif "layers" in dims:
            inside += size
        else:
            outside += size
    return inside, outside, whole


@pytest.mark.parametrize("remat", ["full", "none"])
def test_what_is_sent_is_two_gathers_and_one_scatter(remat: str, cache_dir: Path) -> None:
    """Of the layers' weights two gathers, of the others one, of all gradients one scatter: closed forms, whatever the compiler.

    Also without remat: gathered weights are never kept for the backward pass. What is whole everywhere is summed (twice its bytes).
    """
    program, _ = program_on(cache_dir, layout="fsdp_manual", mesh={"data": 1, "fsdp": 8}, train={"remat": remat}, model={"loss_chunks": 4})
    inside, outside, whole = sizes(program)
    found, share = wire(program), 7 / 8
    assert found["all-gather"] == pytest.approx(share * (2 * inside + outside))
    assert found["reduce-scatter"] == pytest.approx(share * (inside + outside))
    assert found["all-reduce"] == pytest.approx(2 * share * whole, abs=SCALARS)
    assert set(found) == {"all-gather", "reduce-scatter", "all-reduce"}


@pytest.mark.parametrize(("remat", "exchanges", "gathers"), [("full", 12, 2), ("save:query,key,value,attention_out,weights", 9, 1)])
def test_what_rows_cut_by_length_exchange(remat: str, exchanges: int, gathers: int, cache_dir: Path) -> None:
    """On 2 x 4 devices, a layer's exchanges are of 4 rows' 8 tokens, three quarters of which leave a device: q, k, v and the result,
    forward, backward, and again where they are not kept. Weights go as over 8 devices, gathered once where they are kept.
    """
    program, _ = program_on(cache_dir, **(ULYSSES | {"train": {"remat": remat}}))
    inside, outside, whole = sizes(program)
    found, share, config = wire(program), 7 / 8, program.skeleton.config
    activation = 4.0 * 4 * 8 * config.d_model
    assert found["all-to-all"] == pytest.approx(config.num_layers * exchanges * 3 / 4 * activation)
    segments = 3 / 4 * 4 * 4 * 32
    assert found["all-gather"] == pytest.approx(share * (gathers * inside + outside), abs=2 * segments)
    assert found["reduce-scatter"] == pytest.approx(share * (inside + outside))
    assert found["all-reduce"] == pytest.approx(2 * share * whole, abs=SCALARS)


def test_between_copies_only_parts_are_summed(cache_dir: Path) -> None:
    """With two copies of the cut weights, each device adds up the part that it holds: an all-reduce of a fourth."""
    program, _ = program_on(cache_dir, **MANUAL)
    inside, outside, whole = sizes(program)
    found = wire(program)
    assert found["reduce-scatter"] == pytest.approx(3 / 4 * (inside + outside))
    assert found["all-reduce"] == pytest.approx(2 * 1 / 2 * (inside + outside) / 4 + 2 * 7 / 8 * whole, abs=SCALARS)


def test_the_state_is_that_of_fsdp(cache_dir: Path) -> None:
    """The same tree, so that a checkpoint of the one goes on in the other, and as small a part of it on each device."""
    manual, _ = program_on(cache_dir, **MANUAL)
    automatic, _ = program_on(cache_dir, **(MANUAL | {"layout": "fsdp"}))

    def described(program: build.Program) -> list[tuple[Any, ...]]:
        leaves = jax.tree_util.tree_leaves_with_path(program.abstract_state)
        lie = jax.tree.leaves(program.state_shardings)
        return [(path, x.shape, x.dtype, math.prod(s.shard_shape(x.shape))) for (path, x), s in zip(leaves, lie, strict=True)]

    assert described(manual) == described(automatic)


def equal_one_device(cache_dir: Path, manual: dict[str, Any], **more: Any) -> None:
    """Two steps on one device and on a manual mesh; the tolerances are those of test_parallel."""
    (one, alone), (many, seen) = (two_steps(*program_on(cache_dir, **more, **on)) for on in ({}, manual))
    for found, wanted in zip(seen, alone, strict=True):
        assert found.keys() == wanted.keys()
        for key in found:
            assert found[key] == pytest.approx(wanted[key], rel=2e-5, abs=1e-7), key
    for (path, a), (_, b) in zip(flatten(many.params), flatten(one.params), strict=True):
        np.testing.assert_allclose(a, b, rtol=0, atol=1e-5, err_msg=path)


CASES: dict[str, dict[str, Any]] = {
    "two_objectives": {"data": {"mixture": {"topics": 1.0, "short:prefix": 1.0}}, "model": {"name": "prefix_decoder"}},
    "replaced_token": {"data": {"mixture": {"topics:replaced_token": 1.0}}, "model": {"name": "electra"}},
    "tied_and_learned": {"model": {"tied_head": True, "positions": "learned", "loss_chunks": 2}},
    "frozen": {"optim": {"trainable": ("stack/*",)}},
    "encoder_decoder": {"data": {"mixture": {"topics:denoising": 1.0}}, "model": {"name": "bart"}},
}


@pytest.mark.slow
@pytest.mark.parametrize("name", CASES)
def test_families_and_objectives_equal_one_device(name: str, cache_dir: Path) -> None:
    """As in test_parallel, for what has several terms, stacks, tables or frozen weights."""
    equal_one_device(cache_dir, MANUAL, **CASES[name])


BY_HEADS: dict[str, dict[str, Any]] = {
    "fewer_key_heads_than_devices": {"model": {"num_kv_heads": 2, "qk_norm": True, "attention_window": 9}},
    "prefixes_and_a_frozen_head": {**CASES["two_objectives"], "optim": {"trainable": ("stack/*",)}},
    "masked": {"data": {"mixture": {"topics:masked": 1.0}}, "model": {"name": "encoder", "positions": "learned"}},
}


@pytest.mark.parametrize("name", [name if name.startswith("fewer") else pytest.param(name, marks=pytest.mark.slow) for name in BY_HEADS])
def test_rows_cut_by_length_equal_one_device(name: str, cache_dir: Path) -> None:
    """Rows hold several texts, so that a part of a row sees segments that begin elsewhere."""
    equal_one_device(cache_dir, ULYSSES, **BY_HEADS[name])


@pytest.mark.slow
def test_rows_cut_by_length_are_scored_as_one_device_does(cache_dir: Path) -> None:
    """Evaluation is left to the compiler, which gathers keys where training exchanges heads."""
    totals = []
    for on in ({}, ULYSSES):
        program, builder = program_on(cache_dir, **on)
        batch = builder.build(open_mixture(program.experiment.data, "train").order().rows(0, 8))
        objective = next(iter(program.objectives.values()))
        score = jax.jit(lambda params, batch, o=objective, s=program.skeleton: o.loss(s.merge(params)(batch), batch)["tokens"].total)
        totals.append(float(score(start(program).params, jax.device_put(batch, program.batch_shardings))))
    assert totals[1] == pytest.approx(totals[0], rel=1e-6)


@pytest.mark.slow
def test_a_row_that_is_not_finite_stops_the_update_on_every_device(cache_dir: Path) -> None:
    program, builder = program_on(cache_dir, **MANUAL)
    state, step = start(program), program.compile_train()
    batch = builder.build(open_mixture(program.experiment.data, "train").order().rows(0, 8))
    before = states.sha256(state)
    bad = batch | {"loss_weights": batch["loss_weights"].copy()}
    bad["loss_weights"][5, 3] = np.nan
    state, metrics = step(state, jax.device_put(bad, program.batch_shardings))
    assert states.sha256(state) == before and int(metrics["skipped"]) == 1
    state, metrics = step(state, jax.device_put(batch, program.batch_shardings))
    assert states.sha256(state) != before and math.isfinite(float(metrics["loss"]))


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"mesh": {"data": 2, "fsdp": 2, "tensor": 2}}, "mesh.tensor=2: this manual layout uses data, fsdp alone"),
        ({"model": {"dropout": 0.1}}, "model.dropout 0.1: in a manual layout"),
        (
            {"layout": {"manual": True, "weights": {"mlp": "tensor"}}, "mesh": {"data": 2, "fsdp": 1, "tensor": 4}},
            "layout.weights.mlp: .*axes of these alone .*'tensor'",
        ),
        (
            {"layout": {"manual": True, "activations": {"length": "tensor", "mlp": "tensor"}}, "mesh": {"data": 2, "tensor": 4}},
            "layout.activations.mlp: a manual layout cuts batch and length.*'tensor'",
        ),
        (ULYSSES | {"model": {"num_heads": 2}}, "model.num_heads 2: 4 devices that share a row"),
        (ULYSSES | {"model": {"loss_chunks": 16}}, "model.loss_chunks 16 does not divide the 8 tokens"),
        (ULYSSES | {"data": {"sequence_length": 30}}, "length 30 .*not divisible by tensor"),
        (ULYSSES | CASES["encoder_decoder"], "model.name 'bart': each device would have a part of a row"),
        (ULYSSES | {"data": {"mixture": {"topics:next_sentence": 1.0}}, "model": {"name": "bert"}}, r"model.heads \('pair',\)"),
        ({"model": {"lora_rank": 4}}, "model.lora_rank: .*choose layout='fsdp'"),
        ({"layout": {"manual": 1}}, "layout.manual: expected True or False, found 1"),
        ({"model": {"d_model": 36, "num_heads": 2}, "mesh": {"data": 1, "fsdp": 8}}, "embed 36 .*not divisible by fsdp=8"),
    ],
)
def test_what_a_manual_layout_cannot_do_is_refused(change: dict[str, Any], message: str, cache_dir: Path) -> None:
    checked = experiment(cache_dir, optim=OPTIM, **(MANUAL | change))
    with pytest.raises(InputError, match=message):
        build.from_mixture(checked, open_mixture(checked.data, "train"), jax.devices()[:8])


@pytest.mark.parametrize(("vocab", "mlp", "cut"), [(264, 64, ("vocab", "mlp")), (266, 64, ("mlp",)), (264, 68, ("vocab",)), (2, 2, ())])
def test_preferred_rules_hold_where_they_fit(vocab: int, mlp: int, cut: tuple[str, ...]) -> None:
    layout = layouts.settle(layouts.resolve("fsdp_manual"), {"vocab": vocab, "mlp": mlp}, {"data": 3, "fsdp": 8})
    assert layout.weights == dict.fromkeys((*cut, "embed", "embedding", "bigrams"), "fsdp") and not layout.preferred


def test_a_manual_layout_may_be_a_dict() -> None:
    found = layouts.resolve({"manual": True, "weights": {"embed": ["data", "fsdp"]}})
    assert found.manual and found.weights == {"embed": ("data", "fsdp")} and found.activations == {"batch": ("data", "fsdp")}
    assert not layouts.resolve({"weights": {"embed": "fsdp"}}).manual


def test_a_residual_stream_that_does_not_divide_is_refused(cache_dir: Path) -> None:
    with pytest.raises(InputError, match=r"residual 30 .*tensor=4"):
        program_on(cache_dir, layout="fsdp_tp_sequence", mesh={"data": 1, "fsdp": 2, "tensor": 4}, data={"sequence_length": 30})
