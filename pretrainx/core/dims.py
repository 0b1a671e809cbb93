"""What the logical dims of a weight say of it as a matrix. No JAX."""


def matrix_dims(dims: tuple[str | None, ...]) -> tuple[tuple[int, ...], tuple[int, ...]]:
    """(places that are summed over, places that come out) of a weight that maps vectors to vectors; `layers` is neither.

    A weight that writes to the residual stream ends in `embed`; the others read one dim and give the rest.
    """
    own = [i for i, d in enumerate(dims) if d not in ("layers", "expert")]
    cut = len(own) - 1 if dims[-1] == "embed" else 1
    return tuple(own[:cut]), tuple(own[cut:])
