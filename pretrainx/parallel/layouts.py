"""Named layouts: which mesh axis each logical dim lies on. A new layout is one entry here, or a dict in the config.

Logical dims of weights: embed mlp heads kv head_dim vocab layers norm, positions and types (rows of small tables), embedding
(of a factorised token table), buckets (of relative positions); of activations: batch length embed mlp heads kv vocab.
A dim without a rule is replicated. `batch` always lies on data and fsdp together.
"""

from dataclasses import dataclass, field, fields
from typing import Any

from pretrainx.core.errors import InputError, nearest

Rules = dict[str, str | tuple[str, ...]]
AXES = ("data", "fsdp", "tensor", "sequence", "expert")
WEIGHT_DIMS = ("embed", "mlp", "heads", "kv", "head_dim", "vocab", "layers", "norm", "positions", "types", "embedding", "buckets")
ACTIVATION_DIMS = ("batch", "length", "embed", "mlp", "heads", "kv", "vocab")


@dataclass(frozen=True)
class Layout:
    """Rules from logical dims to mesh axes; `optimizer` is for the moments, and is `weights` where None."""

    weights: Rules = field(default_factory=dict)
    activations: Rules = field(default_factory=lambda: {"batch": ("data", "fsdp")})
    optimizer: Rules | None = None

    @property
    def moments(self) -> Rules:
        return self.weights if self.optimizer is None else self.optimizer


_BATCH: Rules = {"batch": ("data", "fsdp")}

LAYOUTS = {
    # Every device holds all weights; gradients are summed.
    "dp": Layout(),
    # As dp, but each device keeps and updates its part of the optimizer state (ZeRO stage 1).
    "zero1": Layout(optimizer={"embed": "fsdp", "embedding": "fsdp"}),
    # Weights, gradients and moments are cut along `embed` and gathered layer by layer (ZeRO stage 3).
    "fsdp": Layout(weights={"embed": "fsdp", "embedding": "fsdp"}),
    # As fsdp, and rows are cut along their length over `sequence` (context parallelism), for inputs of which one row is much.
    # Weights are cut over both axes, since the devices that share a row would otherwise hold the same ones.
    "fsdp_cp": Layout(
        weights={"embed": ("fsdp", "sequence"), "embedding": ("fsdp", "sequence")}, activations=_BATCH | {"length": "sequence"}
    ),
    # As fsdp, and heads, mlp and vocabulary are cut over `tensor` (Megatron-LM's column and row cuts).
    "fsdp_tp": Layout(
        weights={"embed": "fsdp", "embedding": "fsdp", "heads": "tensor", "kv": "tensor", "mlp": "tensor", "vocab": "tensor"},
        activations=_BATCH | {"heads": "tensor", "kv": "tensor", "mlp": "tensor", "vocab": "tensor"},
    ),
}


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
        if not isinstance(rules, dict):
            raise InputError(f"layout.{kind}: expected a dict of dim -> mesh axis, found {rules!r}")
        dims = ACTIVATION_DIMS if kind == "activations" else WEIGHT_DIMS
        for dim, axes in rules.items():
            if dim not in dims:
                raise InputError(f"layout.{kind}.{dim}: unknown dim; {nearest(dim, dims)}")
            if not isinstance(axes, (str, list, tuple)):
                raise InputError(f"layout.{kind}.{dim}: expected a mesh axis or a list of them, found {axes!r}")
            for axis in (axes,) if isinstance(axes, str) else axes:
                if axis not in AXES:
                    raise InputError(f"layout.{kind}.{dim}: unknown mesh axis {axis!r}; {nearest(str(axis), AXES)}")
    normal = {k: {d: a if isinstance(a, str) else tuple(a) for d, a in rules.items()} for k, rules in layout.items()}
    return Layout(**(normal | {"activations": _BATCH | normal.get("activations", {})}))
