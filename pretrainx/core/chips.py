"""Peak arithmetic of accelerators, for MFU: dense bfloat16 FLOP/s of one device, from the vendors' data sheets."""

PEAK_BF16_FLOPS = {
    "TPU v4": 275e12,
    "TPU v5 lite": 197e12,
    "TPU v5e": 197e12,
    "TPU v5": 459e12,
    "TPU v5p": 459e12,
    "TPU v6 lite": 918e12,
    "TPU v6e": 918e12,
    "NVIDIA A100": 312e12,
    "NVIDIA H100": 989e12,
    "NVIDIA H200": 989e12,
}


def peak_flops(device_kind: str) -> float | None:
    """FLOP/s, or None for a device that is not in the table (a CPU, say). The longest name that fits counts."""
    fitting = [name for name in PEAK_BF16_FLOPS if device_kind.startswith(name)]
    return PEAK_BF16_FLOPS[max(fitting, key=len)] if fitting else None
