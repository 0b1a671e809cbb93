"""Named layouts: which mesh axis each logical dim lies on. A new layout is one entry here, or a dict in the config.

Logical dims of weights: embed mlp heads kv head_dim vocab layers norm, positions and types (rows of small tables), embedding
(of a factorised token table), bigrams (rows of a table of pairs), buckets (of relative positions); of activations: batch length residual
embed mlp heads kv vocab.
`residual` is the length of what branches of a layer add to, between them; without a rule it lies as `length` does.
A dim without a rule is replicated. `batch` always lies on data and fsdp together. On a mesh with stages, `staged` adds these to any layout.
"""

import math
from collections.abc import Mapping
from dataclasses import dataclass, field, fields, replace
from typing import Any

from pretrainx.core.errors import InputError, nearest

Rules = dict[str, str | tuple[str, ...]]
AXES = ("stage", "data", "fsdp", "tensor", "sequence", "expert")
WEIGHT_DIMS = (
    "embed",
    "mlp",
    "heads",
    "kv",
    "head_dim",
    "vocab",
    "layers",
    "norm",
    "positions",
    "types",
    "embedding",
    "bigrams",
    "buckets",
)
ACTIVATION_DIMS = ("batch", "length", "residual", "embed", "mlp", "heads", "kv", "vocab")


def axes_of(rule: str | list[str] | tuple[str, ...] | None) -> tuple[str, ...]:
    """The mesh axes of a rule, or of an entry of a PartitionSpec."""
    return (rule,) if isinstance(rule, str) else tuple(rule or ())


@dataclass(frozen=True)
class Layout:
    """Rules from logical dims to mesh axes; `optimizer` is for the moments, and is `weights` where None.

    `manual`: loss and gradients run as one program per device, which gathers its weights and scatters its gradients by its own
    commands, where otherwise the compiler chooses. Weights may then lie on the axes of `batch` and `length` alone.
    `preferred`: rules for weights that hold where the mesh divides the dim's size, and are dropped where it does not.
    """

    weights: Rules = field(default_factory=dict)
    activations: Rules = field(default_factory=lambda: {"batch": ("data", "fsdp")})
    optimizer: Rules | None = None
    manual: bool = False
    preferred: Rules = field(default_factory=dict)

    @property
    def moments(self) -> Rules:
        return self.weights if self.optimizer is None else self.optimizer


_BATCH: Rules = {"batch": ("data", "fsdp")}
_TENSOR: Rules = {"heads": "tensor", "kv": "tensor", "mlp": "tensor", "vocab": "tensor"}  # Megatron-LM's column and row cuts
_TOKENS = ("fsdp", "tensor", "sequence")  # all that rows and their length lie on, but copies


def _cut(axes: str | tuple[str, ...]) -> Rules:
    """One dim of each weight over these axes."""
    return {"embed": axes, "embedding": axes, "bigrams": axes}


LAYOUTS = {
    # Every device holds all weights; gradients are summed.
    "dp": Layout(),
    # As dp, but each device keeps and updates its part of the optimizer state (ZeRO stage 1).
    "zero1": Layout(optimizer=_cut("fsdp")),
    # Weights, gradients and moments are cut along `embed` and gathered layer by layer (ZeRO stage 3).
    "fsdp": Layout(weights=_cut("fsdp")),
    # As fsdp, and rows are cut along their length over `sequence` (context parallelism), for inputs of which one row is much.
    # Weights are cut over both axes, since the devices that share a row would otherwise hold the same ones.
    "fsdp_cp": Layout(weights=_cut(("fsdp", "sequence")), activations=_BATCH | {"length": "sequence"}),
    # As fsdp, each layer's weights gathered and its gradients reduce-scattered in so many words, along one dimension of the
    # torus after the other: a compiler that is left to choose sends twice as much for gradients on a large slice.
    # Cut along its first dim, a weight need not be transposed before it is scattered.
    "fsdp_manual": Layout(weights=_cut("fsdp"), manual=True, preferred={"vocab": "fsdp", "mlp": "fsdp"}),
    # As fsdp_manual, and rows are cut along their length over `tensor` (or `sequence`), in attention by heads (Jacobs 2023, Ulysses):
    # what the devices of a row exchange is a fraction of what tensor parallelism sends.
    "fsdp_ulysses": Layout(
        weights=_cut(_TOKENS),
        activations=_BATCH | {"length": ("tensor", "sequence")},
        manual=True,
        preferred={"vocab": _TOKENS, "mlp": _TOKENS},
    ),
    # As fsdp, and heads, mlp and vocabulary are cut over `tensor`.
    "fsdp_tp": Layout(
        weights=_cut("fsdp") | _TENSOR,
        activations=_BATCH | _TENSOR,
    ),
    # As fsdp_tp, and what each layer keeps between its branches is cut over `tensor` too (Korthikanti 2022): a share of the memory.
    "fsdp_tp_sequence": Layout(
        weights=_cut("fsdp") | _TENSOR,
        activations=_BATCH | _TENSOR | {"residual": "tensor"},
    ),
}


def settle(layout: Layout, dim_sizes: Mapping[str, int], mesh_shape: Mapping[str, int]) -> Layout:
    """The layout with those of its preferred rules among `weights` whose dims, of these sizes, the mesh divides."""
    fits = {
        dim: axes
        for dim, axes in layout.preferred.items()
        if dim_sizes.get(dim, 1) % math.prod(mesh_shape[axis] for axis in axes_of(axes)) == 0
    }
    return replace(layout, weights=fits | layout.weights, preferred={})


def staged(layout: Layout) -> Layout:
    """The layout for a mesh with stages: layers lie on them, and so do rows of the batch outside of the layers.

    Embeddings and head, which all stages use on their own rows, are cut over `stage` wherever they are over `fsdp`. (Of a layer's
    weight `stage` is taken by `layers`: an axis is used once.)
    """

    def also(rule: str | tuple[str, ...]) -> tuple[str, ...]:
        axes = axes_of(rule)
        return ("stage", *axes) if "stage" not in axes else axes

    def weights(rules: Rules) -> Rules:
        return {"layers": "stage"} | {dim: also(axes) if "fsdp" in axes_of(axes) else axes for dim, axes in rules.items()}

    optimizer = None if layout.optimizer is None else weights(layout.optimizer)
    activations = layout.activations | {"batch": also(layout.activations.get("batch", ()))}
    return replace(layout, weights=weights(layout.weights), activations=activations, optimizer=optimizer)


def within_stage(layout: Layout) -> Layout:
    """What `staged` makes, as the layers of a stage see it: its rows lie on the other axes, and arrays have a dim `stage`."""
    batch = tuple(axis for axis in axes_of(layout.activations["batch"]) if axis != "stage")
    return replace(layout, activations=layout.activations | {"batch": batch, "stage": "stage"})


def resolve(layout: str | dict[str, Any]) -> Layout:
    """A Layout from its name, or from a dict of rules given in the config.

    Raises:
      InputError: unknown layout, dim or axis.
    """
    if isinstance(layout, str):
        if layout not in LAYOUTS:
            raise InputError(f"layout: unknown name {layout!r}; {nearest(layout, LAYOUTS)}, or a dict of rules")
        return LAYOUTS[layout]
    accepted = [f.name for f in fields(Layout)]
    for kind, rules in layout.items():
        if kind not in accepted:
            raise InputError(f"layout.{kind}: unknown key; {nearest(kind, accepted)}")
        if kind == "manual":
            if not isinstance(rules, bool):
                raise InputError(f"layout.manual: expected True or False, found {rules!r}")
            continue
        if not isinstance(rules, dict):
            raise InputError(f"layout.{kind}: expected a dict of dim -> mesh axis, found {rules!r}")
        dims = ACTIVATION_DIMS if kind == "activations" else WEIGHT_DIMS
        for dim, axes in rules.items():
            if dim not in dims:
                raise InputError(f"layout.{kind}.{dim}: unknown dim; {nearest(dim, dims)}")
            if not isinstance(axes, (str, list, tuple)):
                raise InputError(f"layout.{kind}.{dim}: expected a mesh axis or a list of them, found {axes!r}")
            for axis in axes_of(axes):
                if axis not in AXES:
                    raise InputError(f"layout.{kind}.{dim}: unknown mesh axis {axis!r}; {nearest(str(axis), AXES)}")
    manual = layout.get("manual", False)
    tables = {k: rules for k, rules in layout.items() if k != "manual"}
    normal = {k: {d: a if isinstance(a, str) else tuple(a) for d, a in rules.items()} for k, rules in tables.items()}
    return Layout(**(normal | {"activations": _BATCH | normal.get("activations", {})}), manual=manual)
