"""Several processes as one run: start-up, which rows are whose, and arrays that span processes."""

from collections.abc import Mapping
from typing import Any

import jax
import numpy as np
from jax.experimental import multihost_utils
from jax.sharding import NamedSharding

from pretrainx.core.errors import InputError

HEARTBEAT_TIMEOUT_S = 30  # how long a lost process goes unnoticed; jax's default is 100


def start(coordinator: str | None, num_processes: int | None, process_id: int | None) -> None:
    """Joins this process to the run. Without a coordinator it is alone, or finds its pod by JAX's own detection when
    the address is "auto" (TPU pods, SLURM, Kubernetes)."""
    if coordinator is None:
        if num_processes is not None or process_id is not None:
            raise InputError("--num_processes and --process_id need --coordinator=ADDRESS:PORT, the address of process 0")
        return
    if coordinator != "auto" and not (num_processes and process_id is not None and 0 <= process_id < num_processes):
        raise InputError(
            f"--coordinator={coordinator} needs --num_processes=N and --process_id from 0 to N - 1; found {num_processes} and {process_id}"
        )
    if jax.config.jax_platforms in (None, "", "cpu"):
        jax.config.update("jax_cpu_collectives_implementation", "gloo")
    if coordinator == "auto":
        jax.distributed.initialize(heartbeat_timeout_seconds=HEARTBEAT_TIMEOUT_S)
    else:
        jax.distributed.initialize(coordinator, num_processes, process_id, heartbeat_timeout_seconds=HEARTBEAT_TIMEOUT_S)


def local_rows(sharding: NamedSharding, batch_size: int) -> np.ndarray:
    """The rows of a global batch that this process's devices hold, in order; several processes may hold one row."""
    rows: set[int] = set()
    for rows_slice, *_ in sharding.addressable_devices_indices_map((batch_size, 1)).values():
        rows.update(range(*rows_slice.indices(batch_size)))
    return np.asarray(sorted(rows), np.int64)


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
