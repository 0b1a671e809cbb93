"""What is settled before JAX is imported, each in a process of its own."""

import os
import platform
import subprocess
import sys

import pytest

ROUNDS, MEGABYTES = 8, 64
PROGRAM = f"""
import resource, sys
import numpy as np
from pretrainx.core import platforms

if "settle" in sys.argv:
    platforms.settle()
np.ones({MEGABYTES} << 20, np.uint8)
before = resource.getrusage(resource.RUSAGE_SELF).ru_minflt
for _ in range({ROUNDS}):
    np.ones({MEGABYTES} << 20, np.uint8)
print(resource.getrusage(resource.RUSAGE_SELF).ru_minflt - before)
"""


def faults(*words: str, **environment: str) -> int:
    """Pages that the system had to hand out for arrays after the first, of one size, each freed before the next."""
    kept = {key: value for key, value in os.environ.items() if key not in ("GLIBC_TUNABLES", "JAX_PLATFORMS")}
    done = subprocess.run([sys.executable, "-c", PROGRAM, *words], env=kept | environment, capture_output=True, text=True, check=True)
    return int(done.stdout)


@pytest.mark.skipif(platform.libc_ver()[0] != "glibc", reason="the C library is not glibc")
def test_a_process_on_the_cpu_keeps_the_memory_that_it_frees() -> None:
    hugepages = {"JAX_PLATFORMS": "cpu", "NUMPY_MADVISE_HUGEPAGE": "0"}  # in small pages, so that they can be counted
    assert faults("settle", **hugepages) < 100
    left_alone = faults(**hugepages)
    if left_alone < 1000:
        pytest.skip(f"this system hands out {MEGABYTES * ROUNDS} MB in {left_alone} pages: there is nothing to save")
    asked = faults("settle", GLIBC_TUNABLES="glibc.malloc.mmap_threshold=1048576", **hugepages)
    assert asked > 1000, "what the user sets stands"
    on_gpu = faults("settle", **hugepages | {"JAX_PLATFORMS": "cuda"})
    assert on_gpu > 1000, "a host of accelerators is left alone"


@pytest.mark.skipif(not hasattr(os, "sched_setaffinity"), reason="this system binds no process to cores")
def test_a_process_bound_to_a_core_counts_one() -> None:
    script = "import os; from pretrainx.core.platforms import usable_cores as n; all = n(); os.sched_setaffinity(0, {%d}); print(all, n())"
    core = min(os.sched_getaffinity(0))
    done = subprocess.run([sys.executable, "-c", script % core], capture_output=True, text=True, check=True)
    assert done.stdout.split() == [str(len(os.sched_getaffinity(0))), "1"]
