"""The optimizer of a config: the plug-in's chain, for the weights that are trained, with steps that may shrink with depth."""

from collections.abc import Sequence
from fnmatch import fnmatchcase
from typing import Any

import jax
import jax.numpy as jnp
import optax

from pretrainx.core.errors import InputError
from pretrainx.optim.common import OptimConfig, Params, Schedule, map_paths


def trainable(dims: Params, patterns: Sequence[str]) -> Params:
    """A tree of truth values: whether each weight is trained. No patterns: all are.

    Raises:
      InputError: a pattern matches no weight.
    """
    paths = paths_of(dims)
    for pattern in patterns:
        if not any(fnmatchcase(path, pattern) for path in paths):
            raise InputError(f"optim.trainable: no weight matches {pattern!r}; weights are {', '.join(sorted(paths))}")
    return map_paths(lambda path, _: not patterns or any(fnmatchcase(path, pattern) for pattern in patterns), dims)


def build(module: Any, config: OptimConfig, dims: Params, abstract: Params, schedule: Schedule) -> optax.GradientTransformation:
    """The transformation over all parameters; frozen ones have no moments, and updates of zero."""
    trained = trainable(dims, config.trainable)
    own = jax.tree.map(lambda keep, d: d if keep else optax.MaskedNode(), trained, dims, is_leaf=lambda x: isinstance(x, bool))
    tx = module.build(config, own, schedule)
    if config.layer_decay != 1:
        tx = optax.chain(tx, scale_by_depth(config.layer_decay, dims, abstract))
    if not all(jax.tree.leaves(trained)):
        labels = jax.tree.map(lambda keep: "trained" if keep else "frozen", trained)
        tx = optax.partition({"trained": tx, "frozen": optax.set_to_zero()}, labels)
    return tx


def scale_by_depth(decay: float, dims: Params, abstract: Params) -> optax.GradientTransformation:
    """Updates times decay^(layers above): a head's whole, the last layer's once `decay`, embeddings' least (Howard 2018; Clark 2020).

    Layers of a stack lie along the first dim of its weights, so their factors are a vector.
    """
    shapes = dict(zip(paths_of(dims), jax.tree.leaves(abstract), strict=True))
    depths: list[int] = []
    map_paths(lambda path, own: depths.append(shapes[path].shape[0]) if "layers" in own else None, dims)
    most = max(depths, default=0)

    def factor(path: str, own: tuple[str | None, ...], leaf: Any) -> Any:
        if "layers" in own:
            count = leaf.shape[0]
            return jnp.asarray([decay ** (count - i) for i in range(count)], jnp.float32).reshape(-1, *[1] * (leaf.ndim - 1))
        return decay ** (most + 1) if "embed" in path.rpartition("/")[0].split("/")[0] or path.endswith("embedding") else 1.0

    factors = map_paths(lambda path, own: factor(path, own, shapes[path]), dims)

    def update(updates: Params, state: Any, params: Params | None = None) -> tuple[Params, Any]:
        del params
        masked = lambda x: isinstance(x, optax.MaskedNode)  # noqa: E731
        scaled = jax.tree.map(lambda u, f: u if masked(u) else (u * f).astype(u.dtype), updates, factors, is_leaf=masked)
        return scaled, state

    return optax.GradientTransformation(lambda params: optax.EmptyState(), update)


def paths_of(dims: Params) -> list[str]:
    found: list[str] = []
    map_paths(lambda path, _: found.append(path), dims)
    return found
