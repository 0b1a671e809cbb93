"""Several processes as one run: start-up, which rows are whose, and arrays that span processes."""

from collections.abc import Mapping
from typing import Any

import jax
import numpy as np
from jax.experimental import multihost_utils
from jax.sharding import NamedSharding

from pretrainx.core.errors import InputError
from pretrainx.parallel import startup

HEARTBEAT_TIMEOUT_S = 30  # how long a lost process goes unnoticed; jax's default is 100


def start(coordinator: str | None, num_processes: int | None, process_id: int | None) -> None:
    """Joins this process to the run. Without a coordinator it is alone. With "auto" it finds its place in a SLURM step, a JobSet
    of Kubernetes, or a TPU pod (one slice or several).

    Raises:
      InputError: half a command; "auto" where there is nothing to find; process 0 did not answer.
    """
    place = startup.from_environment() if coordinator == "auto" else startup.from_flags(coordinator, num_processes, process_id)
    if place is None and coordinator != "auto":
        return
    if jax.config.jax_platforms in (None, "", "cpu"):
        jax.config.update("jax_cpu_collectives_implementation", "gloo")
    try:
        if place is None:
            jax.distributed.initialize(heartbeat_timeout_seconds=HEARTBEAT_TIMEOUT_S)
        else:
            jax.distributed.initialize(
                place.coordinator, place.num_processes, place.process_id, place.devices,
                cluster_detection_method="deactivate", heartbeat_timeout_seconds=HEARTBEAT_TIMEOUT_S,
            )  # fmt: skip
    except ValueError as error:
        raise InputError(
            f"--coordinator=auto: found no TPU pod, SLURM step or JobSet here ({error}); give --coordinator=ADDRESS:PORT of process 0, "
            "--num_processes=N and --process_id"
        ) from None
    except jax.errors.JaxRuntimeError as error:
        where = place.coordinator if place else "process 0"
        raise InputError(
            f"--coordinator={coordinator}: no run came together at {where} ({str(error).splitlines()[0]}); all processes must be started, "
            "with the same number, and reach that port"
        ) from None


def local_rows(sharding: NamedSharding, batch_size: int) -> np.ndarray:
    """The rows of a global batch that this process's devices hold, in order; several processes may hold one row."""
    rows: set[int] = set()
    for rows_slice, *_ in sharding.addressable_devices_indices_map((batch_size, 1)).values():
        rows.update(range(*rows_slice.indices(batch_size)))
    return np.asarray(sorted(rows), np.int64)


def counted_rows(sharding: NamedSharding, batch_size: int) -> np.ndarray:
    """The rows of `local_rows` that this process counts where all processes' counts are added: of those that hold a row, one does."""
    first: dict[int, int] = {}
    for device, (rows_slice, *_) in sharding.devices_indices_map((batch_size, 1)).items():
        for row in range(*rows_slice.indices(batch_size)):
            first[row] = min(first.get(row, device.process_index), device.process_index)
    return np.asarray(sorted(row for row, process in first.items() if process == jax.process_index()), np.int64)


def to_global(
    local: Mapping[str, np.ndarray], rows: np.ndarray, batch_size: int, shardings: Mapping[str, NamedSharding]
) -> dict[str, jax.Array]:
    """Global arrays from this process's rows (`rows[i]` is the global number of local row i)."""
    if len(rows) == batch_size and jax.process_count() == 1:
        return jax.device_put(dict(local), dict(shardings))
    place = np.full(batch_size, -1, np.int64)
    place[rows] = np.arange(len(rows))

    def one(array: np.ndarray, sharding: NamedSharding) -> jax.Array:
        shape = (batch_size, *array.shape[1:])
        return jax.make_array_from_callback(shape, sharding, lambda index: array[place[index[0]]][(slice(None), *index[1:])])

    return {name: one(array, shardings[name]) for name, array in local.items()}


def sum_over_processes(value: int, bits: int) -> int:
    """The sum modulo 2^bits of an int of each process."""
    if jax.process_count() == 1:
        return value % (1 << bits)
    raw = np.frombuffer((value % (1 << bits)).to_bytes(bits // 8, "little"), np.uint8)
    gathered: Any = multihost_utils.process_allgather(raw)
    return sum(int.from_bytes(row.tobytes(), "little") for row in np.asarray(gathered)) % (1 << bits)


def is_first() -> bool:
    return jax.process_index() == 0
