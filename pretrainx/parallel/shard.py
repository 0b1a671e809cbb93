"""Sharding by logical dim names: what a weight or an activation called ("embed", "mlp") looks like on the mesh."""

from dataclasses import dataclass
from functools import cached_property
from typing import Any

import jax
import numpy as np
from jax.sharding import Mesh, NamedSharding, PartitionSpec

from pretrainx.core.errors import InputError
from pretrainx.parallel.layouts import Layout, Rules
from pretrainx.parallel.mesh import divisors

Dims = tuple[str | None, ...]


def spec(dims: Dims, rules: Rules) -> PartitionSpec:
    """The partition of an array with these dims. An axis is used once; later dims that want it again are replicated."""
    used: set[str] = set()
    parts: list[Any] = []
    for dim in dims:
        axes = rules.get(dim or "", ())
        axes = tuple(a for a in ((axes,) if isinstance(axes, str) else axes) if a not in used)
        used.update(axes)
        parts.append(axes if len(axes) > 1 else axes[0] if axes else None)
    return PartitionSpec(*parts)


@dataclass(frozen=True)
class Partitioner:
    """A mesh and a layout: the one object that modules and steps ask about placement."""

    mesh: Mesh
    layout: Layout

    def __hash__(self) -> int:
        return hash((self.mesh, id(self.layout)))

    def constrain(self, x: jax.Array, *dims: str | None) -> jax.Array:
        """Tells the compiler how an activation with these dims lies. A no-op on one device."""
        if self.mesh.size == 1:
            return x
        return jax.lax.with_sharding_constraint(x, NamedSharding(self.mesh, spec(dims, self.layout.activations)))

    def weight(self, dims: Dims) -> NamedSharding:
        return NamedSharding(self.mesh, spec(dims, self.layout.weights))

    def moment(self, dims: Dims) -> NamedSharding:
        return NamedSharding(self.mesh, spec(dims, self.layout.moments))

    @cached_property
    def replicated(self) -> NamedSharding:
        return NamedSharding(self.mesh, PartitionSpec())

    def batch(self, ndim: int = 2) -> NamedSharding:
        """Rows over the batch axes, the rest whole: how a batch arrives."""
        return NamedSharding(self.mesh, spec(("batch",) + (None,) * (ndim - 1), self.layout.activations))

    @property
    def platform(self) -> str:
        """Of the mesh's devices, which in a plan are not the ones that are here: "cpu", "gpu" or "tpu"."""
        return self.mesh.devices.flat[0].platform

    @property
    def batch_shards(self) -> int:
        return self.axis_size(self.layout.activations.get("batch", ()))

    def axis_size(self, axes: str | tuple[str, ...]) -> int:
        return int(np.prod([self.mesh.shape[a] for a in ((axes,) if isinstance(axes, str) else axes)], dtype=int))

    def misfits(self, arrays: dict[str, tuple[Dims, tuple[int, ...]]], among: str = "weights") -> list[str]:
        """One phrase for each (dim, size) of these named weights (or activations) that its mesh axes do not divide."""
        found: dict[tuple[str, int, str], str] = {}
        for name, (dims, shape) in arrays.items():
            for rules in (self.layout.weights, self.layout.moments) if among == "weights" else (self.layout.activations,):
                for dim, size, axes in zip(dims, shape, spec(dims, rules), strict=True):
                    parts = self.axis_size(axes or ())
                    if size % parts:
                        label = axes if isinstance(axes, str) else "*".join(axes)
                        found.setdefault(
                            (dim or "", size, label),
                            f"{dim} {size} (of {name}) is not divisible by {label}={parts} (sizes that would work: {divisors(size)})",
                        )
        return list(found.values())

    def idle_axes(self) -> tuple[list[str], list[str]]:
        """Mesh axes of size 1 that the layout shards over, and axes above 1 that it does not use: likely mistakes."""
        kinds = (self.layout.weights, self.layout.moments, self.layout.activations)
        used = {axis for rules in kinds for axes in rules.values() for axis in ((axes,) if isinstance(axes, str) else axes)}
        wanted = {a for rules in kinds[:2] for axes in rules.values() for a in ((axes,) if isinstance(axes, str) else axes)}
        shape = self.mesh.shape
        return sorted(a for a in wanted if shape[a] == 1), sorted(a for a in shape if shape[a] > 1 and a not in used)

    def require_fit(
        self,
        arrays: dict[str, tuple[Dims, tuple[int, ...]]],
        activations: dict[str, tuple[Dims, tuple[int, ...]]],
        batch_size: int,
        grad_accum: int,
        eval_batch_size: int,
    ) -> None:
        """Raises one InputError that lists every misfit of this model and batch with this mesh."""
        problems = self.misfits(arrays)
        problems += [p for p in self.misfits(activations, "activations") if p not in problems]
        axes = self.layout.activations.get("batch", ())
        label = axes if isinstance(axes, str) else "*".join(axes)
        if eval_batch_size % self.batch_shards:
            problems.insert(0, f"eval.batch_size {eval_batch_size} is not divisible by {self.batch_shards} batch shards ({label})")
        if batch_size % (self.batch_shards * grad_accum):
            problems.insert(
                0,
                f"train.batch_size {batch_size} is not divisible by {self.batch_shards} batch shards ({label})"
                f" x grad_accum {grad_accum}; the nearest that fit are "
                f"{max(batch_size // (n := self.batch_shards * grad_accum), 1) * n} and {(batch_size // n + 1) * n}",
            )
        if problems:
            shape = {a: s for a, s in self.mesh.shape.items() if s > 1}
            raise InputError(f"the mesh {shape or '{one device}'} does not fit: " + "; ".join(problems))
