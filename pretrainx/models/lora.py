"""Low-rank updates of weights (Hu 2021): W + (alpha / rank) * A B, where A and B are trained in place of W.

An adapter is two arrays beside each chosen weight in the tree of parameters. `fold` gives the plain weights back, inside the compiled
step or for good, so models know nothing of adapters. B begins at zero: a fresh adapter changes nothing.
"""

import math
from collections.abc import Sequence
from fnmatch import fnmatchcase
from typing import Any

import jax
import jax.numpy as jnp

from pretrainx.core.dims import matrix_dims
from pretrainx.core.errors import InputError
from pretrainx.core.rng import key_of
from pretrainx.models.layers import normal
from pretrainx.parallel.shard import Dims

Params = dict[str, Any]
KEY = "lora"


def add(abstract: Params, dims: Params, rank: int, targets: Sequence[str]) -> tuple[Params, Params]:
    """Shapes and dims of the adapters [..., *in, rank] and [..., rank, *out] for the weights whose paths match `targets`.

    Raises:
      InputError: a pattern matches no weight, or one that is no matrix.
    """
    shapes, names, matched = {}, {}, set()
    for path, leaf, own in walk(abstract, dims):
        patterns = [pattern for pattern in targets if fnmatchcase(path, pattern)]
        matched.update(patterns)
        if not patterns:
            continue
        inputs, outputs = matrix_dims(own)
        if not inputs or not outputs:
            raise InputError(f"model.lora_targets: {path!r} is no matrix; choose weights such as '*attention/query'")
        lead = [i for i in range(len(own)) if i not in (*inputs, *outputs)]
        sizes = lambda places: tuple(leaf.shape[i] for i in places)  # noqa: B023, E731 - used at once
        kinds = lambda places: tuple(own[i] for i in places)  # noqa: B023, E731
        struct = lambda *parts: jax.ShapeDtypeStruct(sum(parts, ()), leaf.dtype)  # noqa: B023, E731
        shapes[path] = {"a": struct(sizes(lead), sizes(inputs), (rank,)), "b": struct(sizes(lead), (rank,), sizes(outputs))}
        names[path] = {"a": (*kinds(lead), *kinds(inputs), None), "b": (*kinds(lead), None, *kinds(outputs))}
    if missing := [pattern for pattern in targets if pattern not in matched]:
        paths = ", ".join(path for path, _, _ in walk(abstract, dims))
        raise InputError(f"model.lora_targets: no weight matches {missing[0]!r}; weights are {paths}")
    return nested(shapes), nested(names)


def init(key: jax.Array, abstract: Params, dims: Params) -> Params:
    """A with deviation 1/sqrt(fan in), B of zeros."""
    made = {}
    for path, leaf, own in walk(abstract, dims):
        lead = 1 if own[0] == "layers" else 0
        if path.endswith("/b"):
            made[path] = jnp.zeros(leaf.shape, leaf.dtype)
        else:
            std = 1 / math.sqrt(math.prod(leaf.shape[lead:-1]))
            made[path] = normal(std)(jax.random.fold_in(key, key_of(0, path) % (1 << 32)), leaf.shape, leaf.dtype)
    return nested(made)


def fold(params: Params, alpha: float) -> Params:
    """The plain parameters, with the adapters' updates in them."""
    adapters = params[KEY]

    def updated(tree: Params, low: Params) -> Params:
        return {name: node if name not in low else plus(node, low[name]) for name, node in tree.items()}

    def plus(node: Any, low: Params) -> Any:
        if isinstance(node, dict):
            return updated(node, low)
        a, b = low["a"], low["b"]
        rank = a.shape[-1]
        lead = b.ndim - 1 - (node.ndim - (a.ndim - 1))  # dims before A's inputs: `layers`, or none
        head = node.shape[:lead]
        product = jnp.matmul(a.reshape(*head, -1, rank), b.reshape(*head, rank, -1))
        return node + (alpha / rank) * product.reshape(node.shape).astype(node.dtype)

    return updated({name: node for name, node in params.items() if name != KEY}, adapters)


def walk(tree: Params, dims: Params, prefix: str = "") -> list[tuple[str, Any, Dims]]:
    """[(path, leaf, dims), ...] in key order."""
    found: list[tuple[str, Any, Dims]] = []
    for name in sorted(tree):
        node, path = tree[name], f"{prefix}{name}"
        found += walk(node, dims[name], f"{path}/") if isinstance(node, dict) else [(path, node, dims[name])]
    return found


def nested(flat: dict[str, Any]) -> Params:
    """{"a/b": x} as {"a": {"b": x}}."""
    made: Params = {}
    for path, value in flat.items():
        *above, last = path.split("/")
        node = made
        for part in above:
            node = node.setdefault(part, {})
        node[last] = value
    return made
