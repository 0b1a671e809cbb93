"""Which kind of device JAX should look for: settled before JAX is imported."""

import glob
import importlib.util
import os


def settle() -> None:
    """Tells JAX to use the CPU where only the TPU compiler is installed and no accelerator is.

    Left alone, JAX would try to start a TPU, fail after some seconds and print a page of warnings. What the user has
    set in JAX_PLATFORMS stands.
    """
    compiler_only = importlib.util.find_spec("libtpu") is not None and not glob.glob("/dev/accel*") and not glob.glob("/dev/vfio/[0-9]*")
    gpu = any(importlib.util.find_spec(f"jax_cuda{version}_plugin") is not None for version in (12, 13))
    if compiler_only and not gpu and "TPU_NAME" not in os.environ:
        os.environ.setdefault("JAX_PLATFORMS", "cpu")
