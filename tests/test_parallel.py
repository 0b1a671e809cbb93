"""Eight devices against one: the same run on every layout, each device holding what the layout says."""

import math
import re
from pathlib import Path
from typing import Any

import jax
import numpy as np
import pytest
from support import experiment, numpy_params, quick_first

from pretrainx.core.errors import InputError
from pretrainx.core.sections import Mesh
from pretrainx.data.loader import batches, open_mixture
from pretrainx.models.skeleton import flatten
from pretrainx.parallel import layouts, mesh, multihost
from pretrainx.parallel.shard import Partitioner, spec
from pretrainx.train import build
from pretrainx.train.build import Program
from pretrainx.train.state import State

# Gradients of a mesh are sums of the same float32 numbers in another order, and Adam's first steps divide them by
# their own size: where a gradient is near 0 an update of size lr may turn. eps = 1e-3 keeps that quotient smooth, so
# that a difference of 1e-7 in a gradient stays below lr * 1e-7 / eps = 1e-6.
OPTIM = {"eps": 1e-3, "peak_lr": 1e-2}


def program_on(cache_dir: Path, **sections: Any) -> tuple[Program, Any]:
    checked = experiment(cache_dir, **sections | {"optim": OPTIM | sections.get("optim", {})})
    mixture = open_mixture(checked.data, "train")
    size = int(np.prod([s for s in (checked.mesh.data, checked.mesh.fsdp, checked.mesh.tensor, checked.mesh.sequence) if s > 0]))
    return build.from_mixture(checked, mixture, jax.devices()[:size])


def start(program: Program) -> State:
    """A state made by NumPy and put on the mesh: the same numbers everywhere, and no time for random bits."""
    params = numpy_params(program.skeleton)
    state = jax.tree.map(lambda x: np.zeros(x.shape, x.dtype), program.abstract_state)
    state = State(state.step, params, state.opt_state, state.skipped, state.skipped_in_a_row)
    return jax.device_put(state, program.state_shardings)


def two_steps(program: Program, builder: Any) -> tuple[State, list[dict[str, float]]]:
    state, step, seen = start(program), program.compile_train(), []
    rows = multihost.local_rows(program.partitioner.batch(), 8)
    for batch in batches(builder, batch_size=8, local_rows=rows, start=0, stop=2, prefetch=1, workers=0):
        state, metrics = step(state, multihost.to_global(batch.features, rows, 8, program.batch_shardings))
        seen.append({k: float(v) for k, v in metrics.items()})
    return state, seen


@pytest.fixture(scope="module")
def alone(cache_dir: Path) -> tuple[State, list[dict[str, float]]]:
    return two_steps(*program_on(cache_dir))


LAYOUTS: dict[str, dict[str, Any]] = {
    "dp8": {"layout": "dp", "mesh": {"data": 8}},
    "zero1": {"layout": "zero1", "mesh": {"data": 2, "fsdp": 4}},
    "fsdp8": {"layout": "fsdp", "mesh": {"data": 1, "fsdp": 8}},
    "fsdp2x4": {"layout": "fsdp", "mesh": {"data": 2, "fsdp": 4}},
    "fsdp_tp": {"layout": "fsdp_tp", "mesh": {"data": 2, "fsdp": 2, "tensor": 2}},
    "sequence_tp": {"layout": "fsdp_tp_sequence", "mesh": {"data": 2, "fsdp": 1, "tensor": 4}},
    "tp4": {"layout": "fsdp_tp", "mesh": {"data": 1, "fsdp": 2, "tensor": 4}},
    "fsdp_cp": {"layout": "fsdp_cp", "mesh": {"data": 1, "fsdp": 2, "sequence": 4}},
    "cp8": {"layout": "fsdp_cp", "mesh": {"data": 1, "sequence": 8}, "model": {"mlp_chunks": 2}},
    "dict": {
        "layout": {"weights": {"mlp": "tensor", "embed": ["fsdp", "data"]}, "activations": {"mlp": "tensor", "length": "sequence"}},
        "mesh": {"data": 2, "fsdp": 1, "tensor": 2, "sequence": 2},
    },
    "manual8": {"layout": "fsdp_manual", "mesh": {"data": 1, "fsdp": 8}},
    "manual2x4": {"layout": "fsdp_manual", "mesh": {"data": 2, "fsdp": 4}},
    "manual_accumulating": {"layout": "fsdp_manual", "mesh": {"data": 2, "fsdp": 2}, "train": {"grad_accum": 2, "remat": "full"}},
    "manual_chunks": {
        "layout": "fsdp_manual",
        "mesh": {"data": 1, "fsdp": 4},
        "model": {"loss_chunks": 4, "mlp_chunks": 2, "scan_layers": False},
    },
    "manual_fused": {"layout": "fsdp_manual", "mesh": {"data": 2, "fsdp": 4}, "model": {"fused_qkv": True}},
    "fused_and_cut": {"layout": "fsdp_tp", "mesh": {"data": 2, "fsdp": 2, "tensor": 2}, "model": {"fused_qkv": True}},
    "ulysses2x4": {"layout": "fsdp_ulysses", "mesh": {"data": 1, "fsdp": 2, "tensor": 4}},
    "ulysses_sequence": {
        "layout": "fsdp_ulysses",
        "mesh": {"data": 2, "fsdp": 1, "tensor": 2, "sequence": 2},
        "model": {"loss_chunks": 2, "mlp_chunks": 2},
        "train": {"grad_accum": 2, "remat": "save:query,key,value,attention_out,weights"},
    },
    "accumulating": {"layout": "fsdp", "mesh": {"data": 1, "fsdp": 4}, "train": {"grad_accum": 2}},
}


QUICK = ("zero1", "fsdp_tp", "fsdp_cp", "sequence_tp", "manual2x4", "ulysses2x4")


@pytest.mark.parametrize("name", quick_first(LAYOUTS, QUICK))
def test_a_layout_equals_one_device(name: str, cache_dir: Path, alone: tuple[State, list[dict[str, float]]]) -> None:
    program, builder = program_on(cache_dir, **LAYOUTS[name])
    state, seen = two_steps(program, builder)
    for found, wanted in zip(seen, alone[1], strict=True):
        assert found["loss"] == pytest.approx(wanted["loss"], rel=2e-6)
        assert found["grad_norm"] == pytest.approx(wanted["grad_norm"], rel=1e-5)
        assert found["targets"] == wanted["targets"] and found["lr"] == wanted["lr"]
    for (path, a), (_, b) in zip(flatten(state.params), flatten(alone[0].params), strict=True):
        np.testing.assert_allclose(a, b, rtol=0, atol=4e-6, err_msg=path)
    for a, b in zip(jax.tree.leaves(state.opt_state), jax.tree.leaves(alone[0].opt_state), strict=True):
        np.testing.assert_allclose(a, b, rtol=1e-4, atol=1e-6)
    for leaf, sharding in zip(jax.tree.leaves(state), jax.tree.leaves(program.state_shardings), strict=True):
        assert leaf.sharding.is_equivalent_to(sharding, leaf.ndim)


@pytest.mark.parametrize("chunks", [1, 2])
def test_a_device_has_logits_of_its_own_part_of_a_length_alone(chunks: int, cache_dir: Path) -> None:
    """Rows of 32 tokens over 4 devices: of 8 rows' logits each holds 8 tokens', in `chunks` parts."""
    program, _ = program_on(cache_dir, layout="fsdp_cp", mesh={"data": 1, "sequence": 4}, model={"loss_chunks": chunks, "d_model": 40})
    text = program.compile_train().as_text()
    sizes = {math.prod(map(int, shape.split(","))) for shape in re.findall(r"f32\[([\d,]*264[\d,]*)\]", text)}
    assert max(size for size in sizes if size % 264 == 0) == max(8 * 8 * 264 // chunks, 40 * 264)


def device_bytes(tree: Any) -> int:
    return sum(leaf.addressable_shards[0].data.nbytes for leaf in jax.tree.leaves(tree))


def test_each_device_holds_its_share(cache_dir: Path) -> None:
    """Bytes of parameters and moments on one device, of what one device alone would hold."""
    shares = {}
    for name in ("dp8", "zero1", "fsdp8", "fsdp_tp"):
        program, _ = program_on(cache_dir, **LAYOUTS[name])
        state = start(program)
        whole = sum(leaf.nbytes for leaf in jax.tree.leaves(state.params))
        shares[name] = (device_bytes(state.params) / whole, device_bytes(state.opt_state) / (2 * whole))
    assert shares["dp8"] == pytest.approx((1, 1), abs=0.001)
    assert shares["zero1"] == pytest.approx((1, 1 / 4), abs=0.02)  # the rest is norms, which are whole everywhere
    assert shares["fsdp8"] == pytest.approx((1 / 8, 1 / 8), abs=0.02)
    assert shares["fsdp_tp"] == pytest.approx((1 / 4, 1 / 4), abs=0.02)


@pytest.mark.slow
def test_fresh_weights_are_the_same_on_every_mesh(cache_dir: Path) -> None:
    states = [program_on(cache_dir, **change)[0].init_state() for change in ({}, LAYOUTS["fsdp_tp"])]
    for other in states[1:]:
        for (path, a), (_, b) in zip(flatten(states[0].params), flatten(other.params), strict=True):
            # The random bits are equal; erf_inv may be fused otherwise.
            np.testing.assert_allclose(a, b, rtol=1e-6, atol=1e-7, err_msg=path)


def test_all_misfits_are_in_one_sentence(cache_dir: Path) -> None:
    with pytest.raises(InputError) as caught:
        program_on(
            cache_dir, layout="fsdp_tp", mesh={"data": 1, "fsdp": 2, "tensor": 4}, train={"batch_size": 7}, eval={"batch_size": 5},
            model={"num_heads": 6, "head_dim": 4, "num_kv_heads": 3, "mlp_dim": 66, "d_model": 33},
        )  # fmt: skip
    message = str(caught.value)
    for part in (
        "train.batch_size 7 is not divisible by 2", "6 and 8", "eval.batch_size 5", "embed 33", "heads 6", "kv 3", "mlp 66",
        "tensor=4", "fsdp=2", "sizes that would work: 1, 2, 3, 6",
    ):  # fmt: skip
        assert part in message, part
    assert message.count("embed 33") == 1


def test_activations_must_fit_too(cache_dir: Path) -> None:
    layout = {"activations": {"length": "sequence", "batch": "data"}}
    with pytest.raises(InputError, match="length 33 .*sequence=2"):
        program_on(cache_dir, layout=layout, mesh={"data": 2, "sequence": 2}, data={"sequence_length": 33})
    with pytest.raises(InputError, match=r"train.batch_size 7 .* \(data\)"):
        program_on(cache_dir, layout=layout, mesh={"data": 2, "sequence": 2}, train={"batch_size": 7})


def test_mesh_sizes() -> None:
    assert mesh.sizes(Mesh(), 8)["data"] == 8
    assert mesh.sizes(Mesh(fsdp=4), 8) == {"stage": 1, "data": 2, "fsdp": 4, "tensor": 1, "sequence": 1, "expert": 1}
    assert mesh.sizes(Mesh(data=2, fsdp=-1, tensor=2), 8)["fsdp"] == 2


@pytest.mark.parametrize(
    ("section", "message"),
    [
        (Mesh(data=3), "data 3 does not fit 8 devices; .*divisors: 1, 2, 4, 8"),
        (Mesh(fsdp=3), "does not fit 8 devices"),
        (Mesh(data=-1, fsdp=-1), "only one axis may be -1, found data and fsdp"),
        (Mesh(data=0), "mesh.data=0"),
        (Mesh(data=1, tensor=-2), "mesh.tensor=-2"),
        (Mesh(data=16), "data 16 does not fit 8"),
    ],
)
def test_meshes_that_cannot_be(section: Mesh, message: str) -> None:
    with pytest.raises(InputError, match=message):
        mesh.sizes(section, 8)


@pytest.mark.parametrize(
    ("layout", "message"),
    [
        ("fspd", "unknown name 'fspd'; did you mean 'fsdp'"),
        ({"weight": {}}, "layout.weight: unknown key; did you mean 'weights'"),
        ({"weights": {"embd": "fsdp"}}, "layout.weights.embd: unknown dim; did you mean 'embed'"),
        ({"weights": {"embed": "fsd"}}, "unknown mesh axis 'fsd'; did you mean 'fsdp'"),
        ({"weights": {"embed": 3}}, "layout.weights.embed: .*3"),
        ({"weights": "embed"}, "expected a dict"),
    ],
)
def test_layouts_that_cannot_be(layout: Any, message: str) -> None:
    with pytest.raises(InputError, match=message):
        layouts.resolve(layout)


def test_an_axis_is_used_once_in_an_array() -> None:
    rules: layouts.Rules = {"embed": "fsdp", "mlp": ("fsdp", "tensor")}
    assert spec(("embed", "mlp"), rules) == jax.sharding.PartitionSpec("fsdp", "tensor")
    assert spec(("norm", None), rules) == jax.sharding.PartitionSpec(None, None)


@pytest.mark.parametrize(
    "change", [{"layout": "dp", "mesh": {"data": 8}}, {"layout": "fsdp_tp", "mesh": {"data": 2, "fsdp": 2, "tensor": 2}}]
)
def test_local_rows_of_one_process_are_all_rows(change: dict[str, Any], cache_dir: Path) -> None:
    program, _ = program_on(cache_dir, **change)
    assert multihost.local_rows(program.partitioner.batch(), 8).tolist() == list(range(8))


def test_sums_over_processes_wrap() -> None:
    assert multihost.sum_over_processes((1 << 256) + 5, 256) == 5


@pytest.mark.parametrize(
    "arguments", [("localhost:1", None, None), ("localhost:1", 2, None), ("localhost:1", 2, 2), ("localhost:1", 0, 0), (None, 2, None)]
)
def test_half_a_multi_process_command_is_refused(arguments: tuple[Any, ...]) -> None:
    with pytest.raises(InputError, match="--coordinator"):
        multihost.start(*arguments)


def test_a_weight_that_is_left_whole_is_named() -> None:
    """Above a megabyte, where the layout cuts others: here a dict of rules that forgets the head."""
    table: dict[str, Any] = {
        "embedding": (("vocab", "embed"), (1024, 256)), "head": (("heads", "kv"), (256, 1024)), "norm": (("norm",), (256,)),
    }  # fmt: skip
    on = mesh.make(Mesh(data=1, fsdp=8))
    assert Partitioner(on, layouts.resolve("fsdp")).uncut(table) == {"head": 4.0 * 256 * 1024}
    assert Partitioner(on, layouts.resolve("fsdp")).uncut(table, at_least=2e6) == {}
    assert set(Partitioner(on, layouts.resolve("fsdp")).uncut(table, at_least=0)) == {"head", "norm"}
    assert Partitioner(on, layouts.resolve("dp")).uncut(table) == {}


@pytest.mark.parametrize("layout", ["fsdp", "fsdp_manual", "fsdp_tp", "fsdp_tp_sequence"])
def test_named_layouts_leave_no_large_weight_whole(layout: str, cache_dir: Path) -> None:
    """Of every family with what it can have; a megabyte of the real thing is a kilobyte here."""
    families: dict[str, dict[str, Any]] = {
        "causal": {}, "masked": {"name": "bert"}, "denoising": {"name": "bart"},
        "replaced_token": {"name": "electra", "embedding_size": 16, "generator_size": 1.0},
    }  # fmt: skip
    where = {"data": 1, "fsdp": 2, "tensor": 4 if "tp" in layout else 1}
    for objective, model in families.items():
        program, _ = program_on(cache_dir, layout=layout, mesh=where, model=model, data={"mixture": {f"topics:{objective}": 1.0}})
        assert not program.partitioner.uncut(program.skeleton.table(), at_least=2000), objective


def test_axes_that_do_nothing_are_named() -> None:
    def partitioner(layout: str, **sizes: int) -> Partitioner:
        return Partitioner(mesh.make(Mesh(**sizes)), layouts.resolve(layout))

    fsdp = partitioner("fsdp", data=4, tensor=2)
    assert fsdp.idle_axes() == (["fsdp"], ["tensor"])
    assert partitioner("fsdp_tp", data=1, fsdp=4, tensor=2).idle_axes() == ([], [])
    assert partitioner("dp", data=8).idle_axes() == ([], [])
