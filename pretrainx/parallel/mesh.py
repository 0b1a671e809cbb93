"""The named mesh, from axis sizes in the config and the devices that are there."""

import math
from collections.abc import Mapping, Sequence
from typing import Any

import jax
import numpy as np
from jax.sharding import AxisType, Mesh

from pretrainx.core.errors import InputError
from pretrainx.core.sections import Mesh as MeshSection
from pretrainx.parallel.layouts import AXES

HOST_MEMORY = "pinned_host"  # the host's memory that devices copy to and from by themselves
_MISJOINED = "mesh.data={0}: {1} slices are joined by the network alone; give a multiple of {1}"


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


def make(section: MeshSection, devices: Sequence[Any] | None = None, by_place: bool = False) -> Mesh:
    """The mesh over these devices (default: all). Axes are automatic: the compiler places what we do not name.

    `jax.make_mesh` orders TPU devices along the torus, an axis over several of its dimensions perhaps as one ring; with `by_place`
    they go row by row, so that such an axis can be cut into those dimensions (`finer`). Elsewhere devices go in order, so that a
    process owns neighbouring rows of the batch.
    """
    devices = jax.devices() if devices is None else devices
    shape = sizes(section, len(devices))
    types = (AxisType.Auto,) * len(AXES)
    slices = len({getattr(device, "slice_index", 0) for device in devices})
    if devices[0].platform == "tpu" and by_place:
        if shape["data"] % slices:
            raise InputError(_MISJOINED.format(shape["data"], slices))
        devices = sorted(devices, key=lambda d: (getattr(d, "slice_index", 0), *_place(d)))
    elif devices[0].platform == "tpu" and slices > 1:
        return Mesh(across_slices(shape, slices, devices), AXES, axis_types=types)
    elif devices[0].platform == "tpu":
        return jax.make_mesh(tuple(shape.values()), AXES, axis_types=types, devices=devices)
    return Mesh(np.asarray(devices, dtype=object).reshape(tuple(shape.values())), AXES, axis_types=types)


def by_torus(mesh: Mesh, axis: str) -> tuple[int, ...]:
    """Sizes that an axis of the mesh is made of, the outermost first: on TPU one for each dimension of the torus that it runs along.

    Without coordinates the devices of a CPU count as a torus of two dimensions, so that tests run what a slice runs; those of a GPU
    as a ring.
    """
    place = tuple(slice(None) if name == axis else 0 for name in mesh.axis_names)
    along = list(mesh.devices[place])
    if along[0].platform == "cpu":
        small = max(d for d in range(1, math.isqrt(len(along)) + 1) if len(along) % d == 0)
        return (small, len(along) // small) if small > 1 else (len(along),)
    if not hasattr(along[0], "coords"):
        return (len(along),)
    return _torus_sizes(np.array([_place(device) for device in along]))


def _place(device: Any) -> tuple[int, ...]:
    """Coordinates of a TPU device in its slice, the core last."""
    return (*device.coords, getattr(device, "core_on_chip", 0))


def _torus_sizes(places: np.ndarray) -> tuple[int, ...]:
    """Of devices at these coordinates [n, d] in turn: how long each runs of one coordinate are, innermost last; (n,) if irregular.

    >>> _torus_sizes(np.array([(x, y) for x in range(2) for y in range(4)]))
    (2, 4)
    """
    sizes: list[int] = []
    rest = places
    while len(rest) > 1:
        moved = (rest != rest[0]).sum(axis=1)
        changed = (rest[1] != rest[0]).argmax()
        run = 1
        while run < len(rest) and moved[run] == 1 and rest[run][changed] != rest[0][changed]:
            run += 1
        if len(rest) % run or run == 1:
            return (len(places),)
        steps = rest.reshape(-1, run, rest.shape[1])
        if ((steps - steps[:, :1]) != (steps[:1] - steps[:1, :1])).any():
            return (len(places),)
        sizes.insert(0, run)
        rest = rest[::run]
    return tuple(sizes) or (1,)


def finer(mesh: Mesh, axes: Sequence[str]) -> tuple[Mesh, dict[str, tuple[str, ...]]]:
    """The same devices in the same order with each of these axes cut as `by_torus` says; and the names that each axis became."""
    names: dict[str, tuple[str, ...]] = {}
    sizes: list[int] = []
    for name in mesh.axis_names:
        parts = by_torus(mesh, name) if name in axes else (mesh.shape[name],)
        names[name] = tuple(f"{name}_{i}" for i in range(len(parts))) if len(parts) > 1 else (name,)
        sizes += parts
    flat = tuple(part for name in mesh.axis_names for part in names[name])
    return Mesh(mesh.devices.reshape(sizes), flat, axis_types=(AxisType.Auto,) * len(flat)), names


def between_slices(shape: Mapping[str, int], slices: int) -> str | None:
    """The axis that slices lie along: `data`, else `stage`, whose collectives the network between slices can bear; None: neither fits."""
    return next((axis for axis in ("data", "stage") if shape[axis] % slices == 0), None)


def across_slices(shape: dict[str, int], slices: int, devices: Sequence[Any]) -> np.ndarray:
    """Devices of several slices with the slices along `between_slices`.

    Raises:
      InputError: no axis for that is a multiple of the number of slices.
    """
    from jax.experimental.mesh_utils import create_hybrid_device_mesh

    joined = between_slices(shape, slices)
    if joined is None:
        raise InputError(_MISJOINED.format(shape["data"], slices) + f" (or to mesh.stage, which is {shape['stage']})")
    within = [size // slices if axis == joined else size for axis, size in shape.items()]
    between = [slices if axis == joined else 1 for axis in shape]
    return create_hybrid_device_mesh(within, between, devices=devices)
