"""What a kernel is asked for, before any array is there, and what a kernel is."""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Protocol

import jax
from jax.sharding import AxisType, PartitionSpec

from pretrainx.models.attention_kernels.sight import Visibility
from pretrainx.parallel.layouts import axes_of
from pretrainx.parallel.shard import Dims, Partitioner, spec

Attend = Callable[[jax.Array, jax.Array, jax.Array], jax.Array]  # (q, k, v) -> mixed
OUT = "attention_out"  # the name (jax.ad_checkpoint) under which every kernel's result can be kept for the backward pass


@dataclass(frozen=True, eq=False)
class Case:
    """One attention of a model: queries [B, length, num_heads, head_dim], keys and values [B, key_length, kv_heads, head_dim].

    Queries arrive scaled. `bias` is float32 [B or 1, N, T, S]. Scores are capped as cap * tanh(scores / cap) where `softcap`.
    """

    sight: Visibility
    length: int
    key_length: int
    num_heads: int
    kv_heads: int
    head_dim: int
    dtype: str
    softcap: float
    partitioner: Partitioner
    bias: jax.Array | None = None

    @property
    def length_axes(self) -> tuple[str, ...]:
        """Mesh axes over which queries are cut along their length: context parallelism, where there are any."""
        return self.partitioner.length_axes


class Kernel(Protocol):
    """A module of this folder."""

    def why_not(self, case: Case) -> str:
        """What of the case this kernel lacks, as it stands after "has no"; "" where it can do all."""

    def attender(self, case: Case) -> Attend:
        """`(q, k, v) -> mixed`, [B, T, N, H], named `OUT`."""


def on_each_device(
    partitioner: Partitioner, function: Callable[..., jax.Array], in_dims: list[Any], out_dims: Dims
) -> Callable[..., jax.Array]:
    """`function` run by each device on its own part of arrays with these dims (or, of a pytree, these partitions).

    Inside a region that is manual over some axes already, arrays are parts along those, and only the other axes are cut; where it
    is manual over all of them, each device runs by itself as it is.
    """
    rules, mesh = partitioner.layout.activations, partitioner.mesh
    context = jax.sharding.get_abstract_mesh()
    types = dict.fromkeys(mesh.axis_names) if context.empty else dict(zip(context.axis_names, context.axis_types, strict=True))
    free = {axis for axis, kind in types.items() if kind != AxisType.Manual}

    def partition(dims: Dims) -> PartitionSpec:
        def kept(axes: str | tuple[str, ...] | None) -> tuple[str, ...]:
            return tuple(a for a in axes_of(axes) if a in free)

        return PartitionSpec(*(kept(axes) or None for axes in spec(dims, rules)))

    if not free:
        return function
    return jax.shard_map(
        function,
        mesh=mesh if len(free) == len(mesh.axis_names) else None,
        in_specs=tuple(partition(dims) if isinstance(dims, tuple) else dims for dims in in_dims),
        out_specs=partition(out_dims),
        axis_names=free,
        check_vma=False,  # kernels do not say how their outputs vary over the mesh
    )
