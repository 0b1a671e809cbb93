"""How a process finds the others of its run: from its command line, or from what SLURM, Kubernetes or a TPU pod tells it."""

import os
import re
from collections.abc import Mapping
from dataclasses import dataclass

from pretrainx.core.errors import InputError

JOBSET_PORT = 8476
_ADDRESS = re.compile(r".+:\d+")
_FIRST_HOST = re.compile(r"([^,\[]+)(?:\[([^\],-]+)[^\]]*\]([^,]*))?")


@dataclass(frozen=True)
class Place:
    """This process among those of the run; `devices` are its own among the host's (None: all of them)."""

    coordinator: str  # address:port of process 0
    num_processes: int
    process_id: int
    devices: tuple[int, ...] | None = None


def from_flags(coordinator: str | None, num_processes: int | None, process_id: int | None) -> Place | None:
    """The place that the command line gives; None: it gives none, and the process is alone.

    Raises:
      InputError: half a command, or an address without a port.
    """
    if coordinator is None:
        if num_processes is not None or process_id is not None:
            raise InputError("--num_processes and --process_id need --coordinator=ADDRESS:PORT, the address of process 0")
        return None
    if not (num_processes and process_id is not None and 0 <= process_id < num_processes):
        raise InputError(
            f"--coordinator={coordinator} needs --num_processes=N and --process_id from 0 to N - 1; found {num_processes} and {process_id}"
        )
    if not _ADDRESS.fullmatch(coordinator):
        raise InputError(f"--coordinator={coordinator}: expected ADDRESS:PORT, such as 10.0.0.5:8476, or auto")
    return Place(coordinator, num_processes, process_id)


def from_environment(environ: Mapping[str, str] = os.environ) -> Place | None:
    """The place that a SLURM step or a JobSet of Kubernetes gives; None: neither (a TPU pod is found by JAX itself)."""
    return from_slurm(environ) or from_jobset(environ)


def from_slurm(environ: Mapping[str, str]) -> Place | None:
    """Of a task started by `srun`. A task that is alone on its node has all the node's devices, else the one of its number there.

    JAX's own detection gives each task one device in both cases, and would leave seven of eight GPUs idle in the first.
    """
    names = ("SLURM_JOB_ID", "SLURM_STEP_NODELIST", "SLURM_NTASKS", "SLURM_PROCID", "SLURM_LOCALID", "SLURM_STEP_NUM_NODES")
    if any(name not in environ for name in names):
        return None
    job, nodes = environ["SLURM_JOB_ID"], environ["SLURM_STEP_NODELIST"]
    tasks, task, local, num_nodes = (int(environ[name]) for name in names[2:])
    port = 61_440 + int(job) % 4096  # jobs that share a node do not meet
    return Place(f"{first_host(nodes)}:{port}", tasks, task, None if tasks == num_nodes else (local,))


def first_host(nodes: str) -> str:
    """Of a list of nodes as SLURM writes it.

    >>> first_host("gpu[007-010,012],login"), first_host("a1,a2"), first_host("rack3-n[01,05]-ib")
    ('gpu007', 'a1', 'rack3-n01-ib')
    """
    match = _FIRST_HOST.match(nodes)
    if match is None:
        raise InputError(f"SLURM_STEP_NODELIST={nodes!r}: expected names of nodes")
    return "".join(part or "" for part in match.groups())


def from_jobset(environ: Mapping[str, str]) -> Place | None:
    """Of a pod of an Indexed Job in a JobSet whose manifest hands these on (tools/launch/gke_jobset.yaml). TPU pods need it not."""
    names = ("JOBSET_NAME", "REPLICATED_JOB_NAME", "JOB_INDEX", "JOB_COMPLETION_INDEX", "PODS_PER_JOB", "NUM_PROCESSES")
    if any(name not in environ for name in names) or "TPU_WORKER_ID" in environ:
        return None
    jobset, job = environ["JOBSET_NAME"], environ["REPLICATED_JOB_NAME"]
    index, pod, pods, total = (int(environ[name]) for name in names[2:])
    return Place(f"{jobset}-{job}-0-0.{jobset}:{JOBSET_PORT}", total, index * pods + pod)
