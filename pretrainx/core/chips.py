"""Accelerators as their vendors describe them: arithmetic, memory, links. The one table that MFU and plans read.

Peaks are dense (no sparsity). Bandwidths of links are one way, of one chip; a vendor's "bidirectional" figure is twice that.

Sources: Google's TPU pages (cloud.google.com/tpu/docs: v4, v5e, v5p, v6e, tpu7x) for peaks, HBM and inter-chip bandwidth;
"How to Scale Your Model" (Austin 2025, jax-ml.github.io/scaling-book/tpus) for tori and data-center bandwidth; NVIDIA's data sheets of
A100, H100, H200 and HGX B200, and the DGX ones for the network adapter of each GPU.
"""

from dataclasses import dataclass, field

from pretrainx.core.errors import InputError, nearest

GB, GIB = 1e9, 2**30


@dataclass(frozen=True)
class Chip:
    """One chip (of GPUs one package), whatever number of devices JAX shows it as.

    peak         FLOP/s by element type of the factors; `flops` falls back to bfloat16 where a type has no unit of its own
    link_bytes   bytes a second that leave the chip over all its fast links (ICI, NVLink)
    torus        dimensions of the torus the fast links form (0: a switch joins the chips of a domain)
    torus_side   the least length of a torus dimension whose ends are joined, which doubles a ring's bandwidth
    domain       chips that the fast links can join: of TPUs the largest slice, of GPUs a node
    network_bytes  bytes a second a chip sends beyond its domain (data-center network, InfiniBand)
    devices      JAX devices that a chip is in ahead-of-time topologies
    kinds        how JAX names the device; `family` is the compiler's name of the topology
    """

    name: str
    family: str
    peak: dict[str, float]
    hbm_bytes: float
    hbm_bandwidth: float
    link_bytes: float
    network_bytes: float
    domain: int
    torus: int = 0
    torus_side: int = 0
    devices: int = 1
    kinds: tuple[str, ...] = field(default=())

    def flops(self, dtype: str) -> float:
        """FLOP/s of products of this type.

        float32 of default precision runs in bfloat16 on TPU and in TF32 on GPU; of precision "high" and "highest" (f32x3, f32x6) a TPU
        passes over its units three and six times, and a GPU's "highest" leaves the tensor cores.
        """
        name = "f8" if dtype.startswith("f8") else dtype
        if name in self.peak:
            return self.peak[name]
        base = self.peak["f32"] if "f32" in self.peak and dtype == "f32x3" else self.peak["bf16"]
        return base / {"f32x3": 3.0, "f32x6": 6.0}.get(dtype, 1.0)

    @property
    def is_tpu(self) -> bool:
        return self.torus > 0


def _tpu(name: str, tflops: float, hbm: float, bandwidth: float, links: float, network: float, domain: int, torus: int, side: int,
         kinds: tuple[str, ...], devices: int = 1, **peak: float) -> Chip:  # fmt: skip
    peaks = {"bf16": tflops * 1e12, "f16": tflops * 1e12} | {k: v * 1e12 for k, v in peak.items()}
    return Chip(name, name, peaks, hbm * GIB, bandwidth * GB, links * GB, network * GB, domain, torus, side, devices, kinds)


def _gpu(name: str, tflops: float, hbm: float, bandwidth: float, links: float, network: float, kinds: tuple[str, ...],
         **peak: float) -> Chip:  # fmt: skip
    peaks = {"bf16": tflops * 1e12, "f16": tflops * 1e12, "f32": tflops * 1e12 / 2} | {k: v * 1e12 for k, v in peak.items()}
    return Chip(name, name, peaks, hbm * GB, bandwidth * GB, links * GB, network * GB, 8, kinds=kinds)


# HBM of TPUs is in GiB, of GPUs in GB, as the vendors give it. Torus sides: rings close at 16 on v5e and v6e, at 4 on 3-D tori.
CHIPS = {
    chip.name: chip
    for chip in (
        _tpu("v4", 275, 32, 1228, 300, 6.25, 4096, 3, 4, ("TPU v4",), devices=2, s8=275),
        _tpu("v5e", 197, 16, 819, 200, 3.125, 256, 2, 16, ("TPU v5 lite", "TPU v5e"), s8=394),
        _tpu("v5p", 459, 95, 2765, 600, 6.25, 8960, 3, 4, ("TPU v5", "TPU v5p"), s8=918),
        _tpu("v6e", 918, 32, 1640, 400, 12.5, 256, 2, 16, ("TPU v6 lite", "TPU v6e"), s8=1836),
        _tpu("tpu7x", 2307, 192, 7380, 600, 12.5, 9216, 3, 4, ("TPU7x", "TPU v7x"), devices=2, f8=4614),
        _gpu("a100", 312, 80, 2039, 300, 25, ("NVIDIA A100",), s8=624, f32x6=19.5),
        _gpu("h100", 989.4, 80, 3350, 450, 50, ("NVIDIA H100",), s8=1979, f8=1979, f32x6=67),
        _gpu("h200", 989.4, 141, 4800, 450, 50, ("NVIDIA H200",), s8=1979, f8=1979, f32x6=67),
        _gpu("b200", 2250, 180, 7700, 900, 50, ("NVIDIA B200",), s8=4500, f8=4500, f32x6=75),
    )
}


def chip(name: str) -> Chip:
    """The chip of this name, such as "v5e" or "h100".

    Raises:
      InputError: no such chip.
    """
    if name not in CHIPS:
        raise InputError(f"unknown chip {name!r}; {nearest(name, CHIPS)}")
    return CHIPS[name]


def of_kind(device_kind: str) -> Chip | None:
    """The chip of a device as JAX names it, or None for one that is not in the table (a CPU, say). The longest name that fits counts."""
    fitting = [(kind, chip) for chip in CHIPS.values() for kind in chip.kinds if device_kind.startswith(kind)]
    return max(fitting, key=lambda pair: len(pair[0]))[1] if fitting else None


def devices_running(found: Chip) -> int:
    """JAX devices of a chip where programs run: of tpu7x each half is one, of v4 both halves are."""
    return found.devices if found.name == "tpu7x" else 1


def peak_flops(device_kind: str) -> float | None:
    """Dense bfloat16 FLOP/s of one device, or None for a device that is not in the table."""
    found = of_kind(device_kind)
    return found.peak["bf16"] / devices_running(found) if found else None
