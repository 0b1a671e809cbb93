"""FLOPs counted from the traced step against those counted from the config."""

from typing import Any

import jax
import jax.numpy as jnp
import pytest
from jax.sharding import PartitionSpec
from support import experiment

from pretrainx.models.flops import head_flops, stack_flops
from pretrainx.plan.jaxpr import count_flops
from pretrainx.train import build

SIZES = {"vocab_size": 96, "d_model": 32, "num_layers": 3, "num_heads": 4, "num_kv_heads": 2, "mlp_dim": 64}


def traced(**sections: Any) -> tuple[build.Program, float]:
    """A program and the FLOPs of its step as traced."""
    program = build.without_data(experiment(**{"model": SIZES, **sections}), jax.devices()[:1])
    batch = {name: jax.ShapeDtypeStruct(shape, dtype) for name, (shape, dtype) in program.batch_spec.items()}
    return program, count_flops(jax.make_jaxpr(program.step)(program.abstract_state, batch))


@pytest.mark.parametrize("scanned", [True, False], ids=["scanned", "unrolled"])
@pytest.mark.parametrize("remat", ["none", "full", "minimal", "dots"])
def test_traced_step_has_the_flops_of_its_config(scanned: bool, remat: str) -> None:
    """Within 1 %: what is counted beside is nothing, and what is rematerialised is one more forward pass of the layers."""
    program, found = traced(model=SIZES | {"scan_layers": scanned}, train={"remat": remat})
    config, batch, length = program.experiment.model, program.experiment.train.batch_size, program.experiment.data.sequence_length
    layers = batch * stack_flops(config, length)
    scores = batch * 2.0 * config.num_layers * 2 * length * length * config.num_heads * config.head_size
    # The last product of a layer need not be computed again: nobody asks for its result.
    last = batch * 2.0 * config.num_layers * length * config.mlp_dim * config.d_model
    again = {"none": 0.0, "dots": 0.0, "full": layers - last, "minimal": scores}[remat]
    assert found == pytest.approx(program.flops_per_step + again, rel=0.01)


def test_accumulated_and_chunked_steps_have_the_flops_of_a_whole_one() -> None:
    program, whole = traced()
    config = program.experiment.model
    assert traced(train={"grad_accum": 4})[1] == whole == pytest.approx(program.flops_per_step, rel=0.01)
    # A head that runs over chunks computes its logits again in the backward pass.
    chunked = traced(model=SIZES | {"loss_chunks": 4})[1]
    head = program.experiment.train.batch_size * head_flops(config, program.experiment.data.sequence_length)
    assert chunked == pytest.approx(whole + head, rel=0.01)


def test_loops_branches_and_devices_multiply() -> None:
    x = jax.ShapeDtypeStruct((8, 8), jnp.float32)
    once = 2 * 8**3

    def twice(x: jax.Array) -> jax.Array:
        y = jax.lax.scan(lambda c, _: (c @ x, None), x, None, length=5)[0]
        return jax.lax.cond(y[0, 0] > 0, lambda a: a @ a, lambda a: a @ a @ a, y)

    assert count_flops(jax.make_jaxpr(twice)(x)) == 7 * once
    mesh = jax.make_mesh((4, 2), ("a", "b"), axis_types=(jax.sharding.AxisType.Auto,) * 2)
    local = jax.shard_map(lambda a: a @ a.T, mesh=mesh, in_specs=PartitionSpec("a"), out_specs=PartitionSpec("a"), axis_names={"a"})
    assert count_flops(jax.make_jaxpr(local)(x)) == 4 * 2 * 2 * 8 * 2
