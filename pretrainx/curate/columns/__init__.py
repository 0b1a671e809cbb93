"""Words, lines and paragraphs of a batch as arrays of positions and hashes, made once and shared by all filters.

The modules of this package hold compiled loops and import numba; what uses them imports them inside functions.
numba keeps compiled code until the file of the function itself changes: after an edit of what others inline (`classes`,
`tables`, `words`), touch the package's files or remove its __pycache__.
"""

from pretrainx.core.errors import InputError


def require_compiler(where: str) -> None:
    """Returns if the compiled loops can run; `where` is the config key that asks for them."""
    try:
        import numba  # noqa: F401
    except ImportError:
        raise InputError(f"{where}: cleaning and filters need numba: pip install 'pretrainx[curate]'") from None
