"""Which kind of device JAX should look for, and how this process keeps memory: settled before JAX is imported."""

import ctypes
import glob
import importlib.util
import os

M_TRIM_THRESHOLD, M_MMAP_MAX, M_ARENA_MAX = -1, -4, -8  # of <malloc.h>; a threshold of -1: never


def settle() -> None:
    """Tells JAX to use the CPU where only the TPU compiler is installed and no accelerator is, and the C library what suits a CPU.

    Left alone, JAX would try to start a TPU, fail after some seconds and print a page of warnings. What the user has
    set in JAX_PLATFORMS stands.
    """
    tpu = importlib.util.find_spec("libtpu") is not None
    compiler_only = tpu and not glob.glob("/dev/accel*") and not glob.glob("/dev/vfio/[0-9]*")
    gpu = any(importlib.util.find_spec(f"jax_cuda{version}_plugin") is not None for version in (12, 13))
    if compiler_only and not gpu and "TPU_NAME" not in os.environ:
        os.environ.setdefault("JAX_PLATFORMS", "cpu")
    if os.environ.get("JAX_PLATFORMS", "" if tpu or gpu else "cpu") == "cpu":
        keep_freed_memory()


def keep_freed_memory() -> None:
    """Tells the C library (glibc) to keep what is freed, and all in one heap.

    Left alone, it gives a large array back to the system when it is freed, and the next one's pages are cleared anew as they are first
    written: an eighth to a fifth of a training step. A process then holds what it once needed, until it ends. It comes first, since
    a thread that has begun keeps its own heap. What the user has set in GLIBC_TUNABLES stands.
    """
    mallopt = getattr(ctypes.CDLL(None), "mallopt", None)  # not on macOS or musl
    if mallopt is None or "glibc.malloc" in os.environ.get("GLIBC_TUNABLES", ""):
        return
    for parameter, value in ((M_MMAP_MAX, 0), (M_TRIM_THRESHOLD, -1), (M_ARENA_MAX, 1)):
        mallopt(parameter, value)


def usable_cores() -> int:
    """CPU cores that this process may run on, which can be fewer than the machine has (taskset, a batch system's share)."""
    if hasattr(os, "sched_getaffinity"):  # not on macOS
        return len(os.sched_getaffinity(0))
    return os.cpu_count() or 1
