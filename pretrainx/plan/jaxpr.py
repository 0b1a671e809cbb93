"""FLOPs of a traced program, before any compiler has seen it: products times the loops around them, over all devices."""

import math
from collections.abc import Iterator
from typing import Any

from jax.extend import core


def count_flops(jaxpr: Any) -> float:
    """FLOPs of all products in a (closed) jaxpr, a multiply-add being two.

    Loops of known length multiply, a shard_map counts for all its devices, a kernel for its whole grid (masked blocks that it skips at
    run time included), of branches the dearest. A `while` of unknown length counts once.
    """
    return sum(_of(equation) for equation in getattr(jaxpr, "jaxpr", jaxpr).eqns)


def _of(equation: Any) -> float:
    params, name = equation.params, equation.primitive.name
    if name == "dot_general":
        (contracted, _), _ = params["dimension_numbers"]
        left = equation.invars[0].aval.shape
        return 2.0 * math.prod(equation.outvars[0].aval.shape) * math.prod(left[d] for d in contracted)
    if name in ("ragged_dot", "ragged_dot_general"):
        return 2.0 * math.prod(equation.outvars[0].aval.shape) * equation.invars[0].aval.shape[-1]
    if name == "cond":
        return max(map(count_flops, params["branches"]))
    inside = sum(map(count_flops, inner(params)))
    if not inside:
        return 0.0
    if name == "scan":
        return params["length"] * inside
    if name == "shard_map":
        sizes = dict(params["mesh"].shape)
        manual = params["newly_manual_axes"] if "newly_manual_axes" in params else params["manual_axes"]  # by version of JAX
        return inside * math.prod(sizes[axis] for axis in manual)
    if name == "pallas_call":
        return inside * math.prod(n for n in params["grid_mapping"].grid if isinstance(n, int))
    return inside


def inner(params: dict[str, Any]) -> Iterator[Any]:
    """The jaxprs among an equation's parameters."""
    for value in params.values():
        for one in value if isinstance(value, (tuple, list)) else (value,):
            if isinstance(one, (core.Jaxpr, core.ClosedJaxpr)):
                yield one
