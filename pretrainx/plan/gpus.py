"""NVIDIA GPUs as XLA's compiler wants them described, so that it compiles for nodes of them that are not there.

JAX's CUDA plugin compiles without a GPU when it is told what the GPU is (a GpuTargetConfigProto as text). Sources of the numbers:
OpenXLA, xla/backends/gpu/target_config/specs/a100_sxm_80.txtpb, h100_sxm.txtpb, h200.txtpb and b200.txtpb, which XLA's developers
read from the cards; its limits of threads, blocks and registers, which are the same for all four, stand in `_TEXT`.
"""

import importlib.util
import os
from dataclasses import dataclass
from typing import Any

from pretrainx.core.errors import InputError

EXTRA = "pip install 'pretrainx[plan-gpu]' -c constraints.txt"
PLUGINS = ("xla_cuda13", "xla_cuda12")  # in the namespace jax_plugins; either has the compiler in it


@dataclass(frozen=True)
class Target:
    """What of a card the compiler looks at: sizes in bytes, bandwidth in bytes a second.

    shared, shared_optin  shared memory of a multiprocessor, and the most that one block can ask for
    accelerated           the instructions that only this generation has (wgmma on 9.0a, tcgen05 on 10.0a)
    """

    name: str
    capability: tuple[int, int]
    cores: int
    fpus: int
    shared: int
    shared_optin: int
    l2: int
    clock_ghz: float
    bandwidth: int
    memory: int
    accelerated: bool = True


TARGETS = {
    "a100": Target("NVIDIA A100-SXM4-80GB", (8, 0), 108, 64, 167936, 166912, 41943040, 1.41, 2039040000000, 85100068864, False),
    "h100": Target("NVIDIA H100 80GB HBM3", (9, 0), 132, 128, 233472, 232448, 52428800, 1.98, 3352320000000, 84942979072),
    "h200": Target("NVIDIA H200 141GB HBM3e", (9, 0), 132, 128, 233472, 232448, 52428800, 1.98, 4800000000000, 151397597184),
    "b200": Target("NVIDIA B200", (10, 0), 148, 128, 233472, 232448, 132644864, 1.965, 7672320000000, 191514411008),
}
_TEXT = """
gpu_device_info {{
  cuda_compute_capability {{ major: {major} minor: {minor} feature_extension: {extension} }}
  threads_per_warp: 32 threads_per_block_limit: 1024 threads_per_core_limit: 2048
  thread_dim_limit_x: 1024 thread_dim_limit_y: 1024 thread_dim_limit_z: 64
  block_dim_limit_x: 2147483647 block_dim_limit_y: 65535 block_dim_limit_z: 65535
  registers_per_core_limit: 65536 registers_per_block_limit: 65536
  core_count: {t.cores} fpus_per_core: {t.fpus} clock_rate_ghz: {t.clock_ghz}
  shared_memory_per_block: 49152 shared_memory_per_core: {t.shared} shared_memory_per_block_optin: {t.shared_optin}
  l2_cache_size: {t.l2} memory_bandwidth: {t.bandwidth} device_memory_size: {t.memory}
}}
platform_name: "CUDA"
dnn_version_info {{ major: 9 minor: 10 patch: 0 }}
device_description_str: "{t.name}"
"""


def target_config(name: str) -> str:
    """The text that `jax.experimental.topologies.get_topology_desc` takes as target_config."""
    target = TARGETS[name]
    extension = "ACCELERATED_FEATURES" if target.accelerated else "NONE"
    return _TEXT.format(t=target, major=target.capability[0], minor=target.capability[1], extension=extension)


def missing() -> str:
    """What of the `plan-gpu` extra is not installed, in words; "" where GPUs can be compiled for. Loads nothing heavy."""
    if not any(_there("jax_plugins", plugin) for plugin in PLUGINS):
        return "JAX's CUDA plugin"
    # Only its version is asked for, when attention is traced: the compiler leaves planning the kernel to the GPU's own run.
    return "" if _there("nvidia", "cudnn") else "cuDNN"


def _there(package: str, module: str) -> bool:
    return importlib.util.find_spec(package) is not None and importlib.util.find_spec(f"{package}.{module}") is not None


def require() -> None:
    """Raises InputError where GPUs cannot be compiled for."""
    if lacking := missing():
        raise InputError(f"compiling for GPUs needs {lacking}; install it with: {EXTRA}, or estimate without it: --analytic")


def devices(name: str, nodes: int, gpus: int) -> list[Any]:
    """The devices of so many nodes with so many GPUs each, in their order.

    Raises:
      InputError: the CUDA plugin or cuDNN is not installed.
    """
    require()
    # Set before the plugin is loaded: its look at the installed CUDA libraries wants a GPU's driver.
    os.environ.setdefault("JAX_SKIP_CUDA_CONSTRAINTS_CHECK", "1")
    from jax.experimental import topologies

    described = topologies.get_topology_desc(
        topology_name=name, platform="cuda", topology=f"1x{nodes}x{gpus}", target_config=target_config(name)
    )
    return list(described.devices)
