"""Which versions of the packages that decide numbers are installed."""

from collections.abc import Iterable
from importlib import metadata

PACKAGES = ("pretrainx", "jax", "jaxlib", "flax", "optax", "orbax-checkpoint", "grain", "numpy")


def installed(names: Iterable[str] = PACKAGES) -> dict[str, str]:
    """{package: its version, or "not installed"}."""
    return {name: _version(name) for name in names}


def _version(name: str) -> str:
    try:
        return metadata.version(name)
    except metadata.PackageNotFoundError:
        return "not installed"
