"""A model without its arrays: shapes and dims by name, and the way back to a model from a plain dict of arrays.

Flax ends here: the trainer, sharding, checkpoints and optimizers see nested dicts of arrays.
"""

import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import jax
from flax import nnx

from pretrainx.models import lora
from pretrainx.parallel.shard import Dims, Partitioner

Params = dict[str, Any]


@dataclass(frozen=True)
class Skeleton:
    """What is known of a model before any array exists."""

    config: Any
    partitioner: Partitioner
    graph: Any
    abstract: Params  # ShapeDtypeStruct leaves
    dims: Params  # the same tree with tuples of logical dim names
    init: Callable[[jax.Array], Params]  # key -> params; pure

    def merge(self, params: Params) -> Any:
        """The model with these weights; cheap, for use inside a jitted function."""
        return nnx.merge(self.graph, lora.fold(params, self.config.lora_alpha) if lora.KEY in params else params)

    def whole(self, params: Params) -> Params:
        """The weights as products want them, so that a step moves each once; but layers see to their own (`Stack.run`), and so does
        the head over tokens (`TokenHead.reader`).
        """
        own = "token_head/kernel"
        dtype = getattr(self.config, "dtype", "float32")

        def one(path: Any, leaf: jax.Array, dims: Dims) -> jax.Array:
            later = "layers" in dims or own in "/".join(key.key for key in path)  # also with an adapter's "lora/" before it
            return leaf if later else self.partitioner.whole(leaf, dims, dtype)

        return jax.tree_util.tree_map_with_path(one, params, self.dims) if self.partitioner.inside else params

    @property
    def num_params(self) -> int:
        return sum(math.prod(leaf.shape) for leaf in jax.tree.leaves(self.abstract))

    def table(self) -> dict[str, tuple[Dims, tuple[int, ...]]]:
        """path -> (dims, shape), for reports and for the check against the mesh."""
        dims = dict(flatten(self.dims))
        return {path: (dims[path], leaf.shape) for path, leaf in flatten(self.abstract)}

    def shapes(self) -> dict[str, list[int]]:
        """path -> shape as JSON: what makes a checkpoint one of this model."""
        return {path: list(shape) for path, (_, shape) in self.table().items()}


def build(module: Any, config: Any, partitioner: Partitioner) -> Skeleton:
    """The skeleton of `module.Model(config)`. Computes shapes only."""

    def make(key: jax.Array) -> Any:
        return module.Model(config, partitioner, rngs=nnx.Rngs(key))

    def init(key: jax.Array) -> Params:
        return nnx.to_pure_dict(nnx.state(make(key)))

    graph, state = nnx.split(nnx.eval_shape(lambda: make(jax.random.key(0))))
    dims: Params = {}
    for path, variable in nnx.to_flat_state(state):
        node = dims
        for part in path[:-1]:
            node = node.setdefault(part, {})
        node[path[-1]] = variable.get_metadata("dims")
    abstract = jax.eval_shape(init, jax.random.key(0))
    if not config.lora_rank:
        return Skeleton(config, partitioner, graph, abstract, dims, init)
    shapes, names = lora.add(abstract, dims, config.lora_rank, config.lora_targets)

    def init_with_adapters(key: jax.Array) -> Params:
        return init(key) | {lora.KEY: lora.init(key, shapes, names)}

    return Skeleton(config, partitioner, graph, abstract | {lora.KEY: shapes}, dims | {lora.KEY: names}, init_with_adapters)


def flatten(tree: Params, prefix: str = "") -> list[tuple[str, Any]]:
    """[("blocks/mlp/up", leaf), ...] in key order; a tuple is a leaf."""
    found: list[tuple[str, Any]] = []
    for key in sorted(tree):
        value = tree[key]
        found += flatten(value, f"{prefix}{key}/") if isinstance(value, dict) else [(prefix + key, value)]
    return found


def map_with_dims(function: Callable[..., Any], dims: Params, *trees: Params) -> Params:
    """function(dims, leaf, ...) over trees of equal structure."""
    return jax.tree.map(function, dims, *trees, is_leaf=lambda x: isinstance(x, tuple))
