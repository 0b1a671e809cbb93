"""The training state: one pytree of plain arrays, and where each of its arrays lies."""

import hashlib
from dataclasses import dataclass
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax
from jax.experimental import multihost_utils

from pretrainx.core.rng import key_of
from pretrainx.models.skeleton import Params, Skeleton, flatten, map_with_dims


@jax.tree_util.register_dataclass
@dataclass(frozen=True)
class State:
    """`step` counts batches taken; `skipped` those whose update was refused, `skipped_in_a_row` the latest such run."""

    step: jax.Array
    params: Params
    opt_state: Any
    skipped: jax.Array
    skipped_in_a_row: jax.Array


def init(skeleton: Skeleton, tx: optax.GradientTransformation, seed: int) -> State:
    """A fresh state; pure. The same seed gives the same weights on every mesh (jax.random is partitionable)."""
    params = skeleton.init(jax.random.key(key_of(seed, "init") % (1 << 32)))
    # Three arrays, not one three times: the step donates its state, and a buffer is donated once.
    zero = lambda: jnp.zeros((), jnp.int32)  # noqa: E731
    return State(zero(), params, tx.init(params), zero(), zero())


def shapes_by_path(tree: Any) -> dict[str, tuple[int, ...]]:
    """{path: shape} of all arrays, where fields, places and keys are named alike, as on disk."""
    name = lambda key: str(getattr(key, "key", getattr(key, "name", getattr(key, "idx", key))))  # noqa: E731
    return {"/".join(map(name, path)): tuple(leaf.shape) for path, leaf in jax.tree_util.tree_leaves_with_path(tree)}


def shardings(skeleton: Skeleton, abstract: State) -> State:
    """A sharding for each array. The optimizer's moments are found by the path of the weight they belong to."""
    partitioner, table = skeleton.partitioner, skeleton.table()
    params = map_with_dims(partitioner.weight, skeleton.dims)

    def moment(path: tuple[Any, ...], leaf: jax.ShapeDtypeStruct) -> jax.sharding.Sharding:
        names = [str(k.key) for k in path if isinstance(k, jax.tree_util.DictKey)]
        for start in range(len(names)):
            dims, shape = table.get("/".join(names[start:]), (None, None))
            if shape == leaf.shape and dims is not None:
                return partitioner.moment(dims)
        return partitioner.replicated

    here = partitioner.replicated
    return State(here, params, jax.tree_util.tree_map_with_path(moment, abstract.opt_state), here, here)


def sha256(state: State) -> str:
    """The hash of parameters and optimizer state in a fixed order, whatever the mesh they lie on."""
    digest = hashlib.sha256()
    leaves = jax.tree_util.tree_leaves_with_path((state.params, state.opt_state))
    for path, leaf in sorted(leaves, key=lambda item: jax.tree_util.keystr(item[0])):
        whole = leaf if leaf.is_fully_addressable else multihost_utils.process_allgather(leaf, tiled=True)
        array = np.asarray(whole)
        digest.update(f"{jax.tree_util.keystr(path)} {array.dtype} {array.shape}".encode())
        digest.update(np.ascontiguousarray(array).tobytes())
    return digest.hexdigest()


def table_text(skeleton: Skeleton) -> str:
    """Parameters by path, for the start of a log."""
    rows = [(path, dims, leaf.shape) for (path, leaf), (_, dims) in zip(flatten(skeleton.abstract), flatten(skeleton.dims), strict=True)]
    return "\n".join(f"  {path:<32} {shape!s:<24} {'/'.join(d or '-' for d in dims)}" for path, dims, shape in rows)
