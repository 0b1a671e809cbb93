"""Sharding by logical dim names: what a weight or an activation called ("embed", "mlp") looks like on the mesh."""

from collections.abc import Callable
from dataclasses import dataclass, replace
from functools import cached_property
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax.sharding import Mesh, NamedSharding, PartitionSpec

from pretrainx.core.errors import InputError
from pretrainx.parallel.layouts import Layout, Rules, axes_of, within_stage
from pretrainx.parallel.mesh import divisors, finer
from pretrainx.parallel.pipeline import Schedule

Dims = tuple[str | None, ...]


def spec(dims: Dims, rules: Rules) -> PartitionSpec:
    """The partition of an array with these dims. An axis is used once; later dims that want it again are replicated."""
    used: set[str] = set()
    parts: list[Any] = []
    for dim in dims:
        axes = tuple(a for a in axes_of(rules.get(dim or "")) if a not in used)
        used.update(axes)
        parts.append(axes if len(axes) > 1 else axes[0] if axes else None)
    return PartitionSpec(*parts)


def _gather(rows: jax.Array, parts: tuple[str, ...]) -> jax.Array:
    """[n, ...] of each device to [parts * n, ...] of all.

    Stacked along a dim of its own: the gradient is scattered along that, of which the TPU's compiler makes a reduce-scatter. Of one
    along a dim that is tiled it makes an all-reduce or pads it. One dimension of the torus after the other, for the same reason.
    As a matrix, which is how products read it: laid out otherwise on the way, the whole one would have to be laid out again.
    """
    shape = rows.shape[1:]
    if rows.ndim > 2:
        rows = rows.reshape(len(rows), -1)
    for part in reversed(parts):  # so that the innermost lies innermost
        rows = jax.lax.all_gather(rows, part)
    return rows.reshape(-1, *shape)


@jax.custom_vjp
def _together(x: jax.Array, weight: jax.Array) -> tuple[jax.Array, jax.Array]:
    """Both as they are; backward, neither gradient goes on before the other is there."""
    return x, weight


_together.defvjp(lambda x, weight: ((x, weight), None), lambda _, grads: jax.lax.optimization_barrier(grads))


@dataclass(frozen=True)
class Partitioner:
    """A mesh and a layout: the one object that modules and steps ask about placement.

    `inside`: what asks runs on each device by itself, on its own tokens and its own parts of the weights (`per_device`).
    `schedule`: of the pipeline over the mesh's stages; None: it has one alone.
    """

    mesh: Mesh
    layout: Layout
    inside: bool = False
    schedule: Schedule | None = None

    def __hash__(self) -> int:
        return hash((self.mesh, id(self.layout), self.inside))

    @property
    def runs_per_device(self) -> bool:
        """Whether training runs inside `per_device`."""
        return self.layout.manual and self.mesh.size > 1

    @property
    def within(self) -> "Partitioner":
        """The one that modules ask inside `per_device`."""
        return replace(self, inside=True)

    @cached_property
    def of_stage(self) -> "Partitioner":
        """The one that layers ask: with a pipeline, of a stage's own rows; else this."""
        return self if self.schedule is None else replace(self, layout=within_stage(self.layout), schedule=None)

    def pipelines(self, rows: int) -> bool:
        """Whether layers run as a pipeline on a batch of so many rows. Else, as when a text is written token by token, each layer's
        weights go to all stages in turn.
        """
        return self.schedule is not None and rows % self.batch_multiple == 0

    def constrain(self, x: jax.Array, *dims: str | None) -> jax.Array:
        """Tells the compiler how an activation with these dims lies. A no-op on one device, and where each runs by itself."""
        if self.mesh.size == 1 or self.inside:
            return x
        if "residual" in dims and not self._cuts(x.shape[dims.index("residual")]):
            dims = tuple("length" if dim == "residual" else dim for dim in dims)
        return jax.lax.with_sharding_constraint(x, NamedSharding(self.mesh, spec(dims, self.layout.activations)))

    @cached_property
    def _finer(self) -> tuple[Mesh, dict[str, tuple[str, ...]]]:
        """The mesh with an axis for each dimension of the torus that weights are gathered along, and the names of the parts."""
        axes = {axis for rule in self.layout.weights.values() for axis in axes_of(rule)}
        return finer(self.mesh, sorted(axes))

    def _parts(self, axes: Any) -> tuple[str, ...]:
        """Axes of the finer mesh, the outermost first, that an entry of a PartitionSpec stands for; those of size 1 cut nothing."""
        fine, names = self._finer
        return tuple(part for axis in axes_of(axes) for part in names[axis] if fine.shape[part] > 1)

    def fine(self, sharding: NamedSharding) -> PartitionSpec:
        """The same partition by axes of the finer mesh."""
        return PartitionSpec(*(self._parts(axes) or None for axes in sharding.spec))

    def tokens(self, ndim: int) -> NamedSharding:
        """How a batch's array goes into `per_device`: rows over the batch axes, and places over those of the length."""
        return NamedSharding(self.mesh, spec(("batch", "length", *(None,) * ndim)[:ndim], self.layout.activations))

    def per_device(self, function: Callable[..., Any], in_shardings: Any, out_shardings: Any) -> Callable[..., Any]:
        """`function` run by each device on its own parts of the arguments, giving its own parts of the results.

        Within it, `within` gathers and sums. Results that are replicated must have been summed (`over_tokens`).
        """
        specs = [jax.tree.map(self.fine, tree) for tree in (in_shardings, out_shardings)]
        return jax.shard_map(function, mesh=self._finer[0], in_specs=specs[0], out_specs=specs[1], check_vma=False)

    def over_tokens(self, tree: Any) -> Any:
        """Sums of the devices' own sums, inside `per_device`; elsewhere sums are global already."""
        if not self.inside:
            return tree
        return jax.lax.psum(tree, self._parts(self.token_axes))

    @property
    def own_rows(self) -> bool:
        """Whether the rows that modules see lie on one device."""
        return self.inside or self.mesh.size == 1

    @property
    def exchanges(self) -> int:
        """On so many devices the tokens of one row lie that exchange heads for places in attention; 1: they do not."""
        return self.axis_size(self.length_axes) if self.inside else 1

    @cached_property
    def of_heads(self) -> "Partitioner":
        """The one that attention's kernel asks: where devices `exchange`, rows are whole there, and each has its own heads."""
        if self.exchanges == 1:
            return self
        return replace(self, layout=replace(self.layout, activations={"batch": self.batch_axes}))

    def exchange(self, x: jax.Array, *, back: bool = False) -> jax.Array:
        """[B, L/n, N, H] of each device's tokens and all heads to [B, L, N/n, H] of all tokens and its heads, or back, by one
        all-to-all among the n that share rows (Jacobs 2023, DeepSpeed-Ulysses, section 3.1).
        """
        heads, length = 2, 1
        split, join = (length, heads) if back else (heads, length)
        return jax.lax.all_to_all(x, self._parts(self.length_axes), split, join, tiled=True)

    def of_row(self, x: jax.Array) -> jax.Array:
        """[B, L/n, ...] of each device's tokens to [B, L, ...] of the whole rows."""
        return jax.lax.all_gather(x, self._parts(self.length_axes), axis=1, tiled=True)

    def before(self, x: jax.Array) -> jax.Array:
        """[B, L] of what stands one place before in the row; 0 before the first."""
        last = x[:, -1:]
        if self.exchanges > 1:
            last = jax.lax.ppermute(last, self._parts(self.length_axes), [(i, i + 1) for i in range(self.exchanges - 1)])
        else:
            last = jnp.zeros_like(last)
        return jnp.concatenate([last, x[:, :-1]], axis=1)

    def whole(self, weight: jax.Array, dims: Dims, dtype: Any) -> jax.Array:
        """A weight as products want it: inside `per_device` whole along the axes of the batch, and then of type `dtype`.

        It is cast before it travels, and gradients are summed in that type; vectors are not. What lies whole already is returned as
        it is; and so is everything elsewhere, where the compiler gathers.
        """
        if not self.inside:
            return weight
        stored = [self._parts(axes) for axes in spec(dims, self.layout.weights)]
        for dim, parts in enumerate(stored):
            if parts:
                own = weight.astype(dtype) if weight.ndim > 1 else weight
                weight = jnp.moveaxis(_gather(jnp.moveaxis(own, dim, 0), parts), 0, dim)
        return weight

    def whole_at(self, x: jax.Array, weight: jax.Array, dims: Dims, dtype: Any) -> tuple[jax.Array, jax.Array]:
        """x, and `whole(weight)`, gathered where x is at hand. Backward, the weight's gradient is scattered before that of x goes on:
        the compiler would leave it for the end of the step, and keep it whole until then.
        """
        if not self.inside:
            return x, weight
        x, weight = _together(x, weight)
        return x, self.whole(weight, dims, dtype)

    def summed(self, gradient: jax.Array, dims: Dims) -> jax.Array:
        """Inside `per_device`, a gradient summed over those axes of the tokens that `whole` did not gather along."""
        if not self.inside:
            return gradient
        gathered = {part for axes in spec(dims, self.layout.weights) for part in self._parts(axes)}
        rest = tuple(part for part in self._parts(self.token_axes) if part not in gathered)
        return jax.lax.psum(gradient, rest) if rest else gradient

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
    def cuts_residual(self) -> bool:
        """Whether the residual stream lies otherwise than what branches compute on."""
        return "residual" in self.layout.activations

    def _cuts(self, length: int) -> bool:
        """Whether a residual stream of this length is cut: the one new token of a row that is being written cannot be."""
        return self.cuts_residual and length % self.axis_size(self.layout.activations["residual"]) == 0

    @property
    def batch_axes(self) -> tuple[str, ...]:
        return axes_of(self.layout.activations.get("batch"))

    @cached_property
    def length_axes(self) -> tuple[str, ...]:
        """Mesh axes above 1 over which activations are cut along their length."""
        axes = axes_of(spec(("length",), self.layout.activations)[0])
        return tuple(a for a in axes if self.mesh.shape[a] > 1)

    @property
    def token_axes(self) -> tuple[str, ...]:
        """Mesh axes over which a batch's tokens are dealt: its rows, and their length where that is cut."""
        return (*self.batch_axes, *(a for a in self.length_axes if a not in self.batch_axes))

    @property
    def batch_shards(self) -> int:
        return self.axis_size(self.batch_axes)

    @property
    def batch_multiple(self) -> int:
        """Rows of which a batch should be a multiple: the batch shards, or those of each of the pipeline's microbatches."""
        return self.batch_shards if self.schedule is None else self.of_stage.batch_shards * self.schedule.microbatches

    def round_up(self, rows: int) -> int:
        """The next multiple of `batch_multiple`."""
        return -(-rows // self.batch_multiple) * self.batch_multiple

    def axis_size(self, axes: str | tuple[str, ...]) -> int:
        return int(np.prod([self.mesh.shape[a] for a in axes_of(axes)], dtype=int))

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

    def uncut(self, arrays: dict[str, tuple[Dims, tuple[int, ...]]], item_bytes: int = 4, at_least: float = 1e6) -> dict[str, float]:
        """{name: bytes} of weights of at least so many bytes that every device holds whole, though the layout cuts others: likely by
        an oversight. Where it cuts none, that is what was asked for.
        """
        sizes = {name: (self.weight(dims).shard_shape(shape), shape) for name, (dims, shape) in arrays.items()}
        if all(part == shape for part, shape in sizes.values()):
            return {}
        whole = {name: float(item_bytes * np.prod(shape)) for name, (part, shape) in sizes.items() if part == shape}
        return {name: size for name, size in whole.items() if size >= at_least}

    def idle_axes(self) -> tuple[list[str], list[str]]:
        """Mesh axes of size 1 that the layout shards over, and axes above 1 that it does not use: likely mistakes."""
        kinds = (self.layout.weights, self.layout.moments, self.layout.activations)
        used = {axis for rules in kinds for axes in rules.values() for axis in axes_of(axes)}
        wanted = {a for rules in kinds[:2] for axes in rules.values() for a in axes_of(axes)}
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
        shards = f"{self.of_stage.batch_shards} batch shards ({'*'.join(self.of_stage.batch_axes)})"
        if self.schedule is not None:
            shards += f" x {self.schedule.microbatches} microbatches (train.pipeline_microbatches)"
        if eval_batch_size % self.batch_multiple:
            problems.insert(0, f"eval.batch_size {eval_batch_size} is not divisible by {shards}")
        if batch_size % (self.batch_multiple * grad_accum):
            problems.insert(
                0,
                f"train.batch_size {batch_size} is not divisible by {shards} x grad_accum {grad_accum}; the nearest that fit are "
                f"{max(batch_size // (n := self.batch_multiple * grad_accum), 1) * n} and {(batch_size // n + 1) * n}",
            )
        if problems:
            shape = {a: s for a, s in self.mesh.shape.items() if s > 1}
            raise InputError(f"the mesh {shape or '{one device}'} does not fit: " + "; ".join(problems))
