"""The named mesh, from axis sizes in the config and the devices that are there."""

import math
from collections.abc import Sequence
from typing import Any

import jax
import numpy as np
from jax.sharding import AxisType, Mesh

from pretrainx.core.errors import InputError
from pretrainx.core.sections import Mesh as MeshSection
from pretrainx.parallel.layouts import AXES


def sizes(section: MeshSection, num_devices: int) -> dict[str, int]:
    """Axis sizes with the -1 filled in.

    Raises:
      InputError: the axes do not multiply to the number of devices; says which sizes would.
    """
    asked = {axis: getattr(section, axis) for axis in AXES}
    free = [axis for axis, size in asked.items() if size == -1]
    bad = [f"mesh.{axis}={size}" for axis, size in asked.items() if size < 1 and size != -1]
    if bad:
        raise InputError(f"{', '.join(bad)}: an axis size is at least 1, or -1 once for what the devices leave")
    if len(free) > 1:
        raise InputError(f"mesh: only one axis may be -1, found {' and '.join(free)}")
    fixed = math.prod(size for size in asked.values() if size != -1)
    if free and num_devices % fixed == 0:
        return asked | {free[0]: num_devices // fixed}
    if not free and fixed == num_devices:
        return asked
    shown = " x ".join(f"{axis} {size}" for axis, size in asked.items() if size != 1)
    raise InputError(
        f"mesh: {shown or 'all axes 1'} does not fit {num_devices} devices; the sizes must multiply to {num_devices} "
        f"(its divisors: {divisors(num_devices)}), or set one axis to -1"
    )


def divisors(n: int) -> str:
    return ", ".join(str(d) for d in range(1, n + 1) if n % d == 0)


def make(section: MeshSection, devices: Sequence[Any] | None = None) -> Mesh:
    """The mesh over these devices (default: all). Axes are automatic: the compiler places what we do not name.

    `jax.make_mesh` orders TPU devices along the torus; elsewhere devices go in order, so that a process owns
    neighbouring rows of the batch.
    """
    devices = jax.devices() if devices is None else devices
    shape = sizes(section, len(devices))
    types = (AxisType.Auto,) * len(AXES)
    slices = len({getattr(device, "slice_index", 0) for device in devices})
    if devices[0].platform == "tpu" and slices > 1:
        return Mesh(across_slices(shape, slices, devices), AXES, axis_types=types)
    if devices[0].platform == "tpu":
        return jax.make_mesh(tuple(shape.values()), AXES, axis_types=types, devices=devices)
    return Mesh(np.asarray(devices, dtype=object).reshape(tuple(shape.values())), AXES, axis_types=types)


def across_slices(shape: dict[str, int], slices: int, devices: Sequence[Any]) -> np.ndarray:
    """Devices of several slices with the slices along `data`, the one axis whose collectives the network between them can bear.

    Raises:
      InputError: `data` is no multiple of the number of slices.
    """
    from jax.experimental.mesh_utils import create_hybrid_device_mesh

    if shape["data"] % slices:
        raise InputError(f"mesh.data={shape['data']}: {slices} slices are joined by the network alone; give a multiple of {slices}")
    within = [size // slices if axis == "data" else size for axis, size in shape.items()]
    between = [slices if axis == "data" else 1 for axis in shape]
    return create_hybrid_device_mesh(within, between, devices=devices)
