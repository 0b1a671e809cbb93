"""Devices that are described, not present: what a TPU slice looks like to the compiler."""

import importlib.util
import os
import re
from typing import Any

from pretrainx.core.errors import InputError

FAMILIES = ("v4", "v5e", "v5p", "v6e", "tpu7x")
FORM = re.compile(r"(?P<family>[a-z0-9]+):(?P<shape>\d+x\d+(?:x\d+)?)$")


def check(name: str) -> None:
    """Refuses a name that is not FAMILY:AxB or FAMILY:AxBxC, before anything heavy is loaded."""
    match = FORM.match(name)
    if not match or match["family"] not in FAMILIES:
        raise InputError(f"--topology={name}: expected FAMILY:SHAPE such as v5e:4x4 or v5p:4x4x4, with a family of {', '.join(FAMILIES)}")
    if importlib.util.find_spec("libtpu") is None:
        raise InputError("planning for TPUs needs the TPU compiler; install it with: pip install 'pretrainx[plan]' -c constraints.txt")


def devices(name: str) -> list[Any]:
    """The devices of a TPU topology such as "v5e:4x4".

    The compiler aborts the whole process on a shape that no slice has: call this in a process of its own.
    """
    # Set before libtpu is loaded: ask no metadata server, and let several compiles run side by side, since none of
    # them holds a device.
    os.environ.setdefault("TPU_SKIP_MDS_QUERY", "1")
    os.environ.setdefault("ALLOW_MULTIPLE_LIBTPU_LOAD", "1")
    from jax.experimental import topologies

    return list(topologies.get_topology_desc(topology_name=name, platform="tpu").devices)
