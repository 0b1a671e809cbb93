"""Silent wrong arithmetic: now and then a step is computed twice from the same state, and its results are compared bit for bit.

The same program on the same devices gives the same bits; where it does not, a device computes wrongly (Hochschild 2021, Dixit 2021).
"""

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax.sharding import PartitionSpec

from pretrainx.core.errors import GuardStop
from pretrainx.train.build import Program
from pretrainx.train.guards import faults
from pretrainx.train.state import State

Step = Callable[[State, Any], tuple[State, Any]]
SHOWN = 3  # arrays that a message names


def checked(compiled: Step, program: Program, every: int) -> Callable[[int, State, Any], tuple[State, Any]]:
    """`(number of the step, state, batch) -> (state, metrics)`: the compiled step, computed twice at every `every`-th number.

    Such a step takes twice its time and holds two more copies of the state.

    Raises (from what it gives):
      GuardStop: the two results differ; it names the devices.
    """
    if not every:
        return lambda number, state, batch: compiled(state, batch)
    copy = jax.jit(lambda state: jax.tree.map(jnp.copy, state), out_shardings=program.state_shardings)
    compare = differences(program)

    def advance(number: int, state: State, batch: Any) -> tuple[State, Any]:
        if number % every:
            return compiled(state, batch)
        before = copy(state)  # the step uses its state up
        first, metrics = compiled(state, batch)
        second, _ = compiled(before, batch)
        require_equal(program, number, compare(first, faults.flipped(number, second)))
        return first, metrics

    return advance


def differences(program: Program) -> Callable[[State, State], np.ndarray]:
    """`(state, state) -> bool [devices of the mesh, arrays]`: whether a device's own part of an array differs in any bit.

    Each device compares what it holds itself, copies of replicated arrays too; no array leaves its device.
    """
    mesh = program.partitioner.mesh
    specs = jax.tree.map(lambda sharding: sharding.spec, program.state_shardings)

    def own(first: State, second: State) -> jax.Array:
        pairs = zip(jax.tree.leaves(first), jax.tree.leaves(second), strict=True)
        return jnp.stack([jnp.any(bits(a) != bits(b)) for a, b in pairs])[None]

    devices = PartitionSpec(mesh.axis_names)
    compare = jax.shard_map(own, mesh=mesh, in_specs=(specs, specs), out_specs=devices, check_vma=False)
    jitted = jax.jit(compare, out_shardings=program.partitioner.replicated)
    return lambda first, second: np.asarray(jitted(first, second))


def bits(array: jax.Array) -> jax.Array:
    """The array as unsigned integers: NaN equals NaN, and 0 is not -0."""
    if not jnp.issubdtype(array.dtype, jnp.floating):
        return array
    return jax.lax.bitcast_convert_type(array, jnp.dtype(f"uint{8 * array.dtype.itemsize}"))


def require_equal(program: Program, number: int, differ: np.ndarray) -> None:
    """Raises GuardStop with the devices whose parts differ.

    An error before a reduction reaches every device that takes part in it: then all of them are named.
    """
    wrong = np.flatnonzero(differ.any(axis=1))
    if not wrong.size:
        return
    devices = program.partitioner.mesh.devices.flatten()
    names = [f"{devices[i]} (process {devices[i].process_index})" for i in wrong]
    paths = [jax.tree_util.keystr(path) for path, _ in jax.tree_util.tree_leaves_with_path(program.abstract_state)]
    arrays = [paths[i] for i in np.flatnonzero(differ.any(axis=0))]
    where = "every device, so it happened before a reduction" if len(wrong) == differ.shape[0] > 1 else ", ".join(names)
    more = f" and {len(arrays) - SHOWN} more" if len(arrays) > SHOWN else ""
    raise GuardStop(
        f"wrong arithmetic: step {number}, computed twice from the same state, differs on {where}, in {', '.join(arrays[:SHOWN])}{more}; "
        "nothing of it is saved, so run the same command again without that hardware"
    )
