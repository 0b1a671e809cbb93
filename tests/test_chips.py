"""The table of chips against figures that its sources state in another form."""

import pytest

from pretrainx.core import chips
from pretrainx.core.chips import CHIPS, GB, GIB, chip, peak_flops
from pretrainx.core.errors import InputError
from pretrainx.core.prices import DOLLARS_AN_HOUR


def test_pods_have_the_arithmetic_their_vendors_state() -> None:
    """Peaks of whole systems, published apart from those of a chip (two to three digits)."""
    assert 4096 * CHIPS["v4"].flops("bf16") == pytest.approx(1.1e18, rel=0.03)  # "1.1 exaflops" a v4 pod
    assert 256 * CHIPS["v5e"].flops("s8") == pytest.approx(100e15, rel=0.02)  # "100 PetaOps" a v5e pod
    assert 8960 * CHIPS["v5p"].flops("bf16") == pytest.approx(4.1e18, rel=0.02)
    assert 256 * CHIPS["v6e"].flops("bf16") == pytest.approx(234.9e15, rel=0.01)
    assert 9216 * CHIPS["tpu7x"].flops("f8") == pytest.approx(42.5e18, rel=0.01)
    assert 8 * CHIPS["h100"].flops("f8") == pytest.approx(32e15 / 2, rel=0.02)  # DGX: 32 petaFLOPS with sparsity
    assert 8 * CHIPS["b200"].flops("f8") == pytest.approx(72e15 / 2, rel=0.02)
    assert 8 * CHIPS["a100"].flops("bf16") == pytest.approx(5e15 / 2, rel=0.02)


def test_memories_and_links_are_those_of_the_data_sheets() -> None:
    assert {name: round(c.hbm_bytes / (GIB if c.is_tpu else GB)) for name, c in CHIPS.items()} == {
        "v4": 32, "v5e": 16, "v5p": 95, "v6e": 32, "tpu7x": 192, "a100": 80, "h100": 80, "h200": 141, "b200": 180,
    }  # fmt: skip
    # Inter-chip bandwidth of a TPU as its page states it, Gbit/s; NVLink as NVIDIA does, GB/s both ways.
    gbits = {"v4": 2400, "v5e": 1600, "v5p": 4800}
    assert all(CHIPS[name].link_bytes * 8 == value * 1e9 for name, value in gbits.items())
    both_ways = {"v6e": 800, "tpu7x": 1200, "a100": 600, "h100": 900, "h200": 900, "b200": 1800}
    assert all(CHIPS[name].link_bytes * 2 == value * GB for name, value in both_ways.items())
    # DGX H100: eight 400 Gbit/s adapters for eight GPUs; DGX A100: eight of 200.
    assert (CHIPS["h100"].network_bytes, CHIPS["a100"].network_bytes) == (400e9 / 8, 200e9 / 8)


@pytest.mark.parametrize("found", CHIPS.values(), ids=lambda c: c.name)
def test_every_chip_is_plausible(found: chips.Chip) -> None:
    """Mistyped powers of ten show: FLOPs a byte of memory, of links, of network lie where all accelerators lie."""
    assert 100 < found.flops("bf16") / found.hbm_bandwidth < 700
    assert 2 < found.hbm_bandwidth / found.link_bytes < 15
    assert 4 < found.link_bytes / found.network_bytes < 110
    assert found.flops("f32x6") * 6 <= found.flops("bf16") and found.flops("f32x3") * 3 == found.flops("f32")
    assert found.flops("f32") <= found.flops("bf16") <= found.flops("f8e4m3fn")
    assert found.name in DOLLARS_AN_HOUR and found.kinds


@pytest.mark.parametrize(
    ("kind", "peak"),
    [
        ("TPU v5 lite", 197e12),
        ("TPU v5", 459e12),
        ("TPU v5p", 459e12),
        ("TPU v6 lite", 918e12),
        ("TPU v4", 275e12),
        ("TPU7x", 2307e12 / 2),
        ("NVIDIA H100 80GB HBM3", 989.4e12),
        ("NVIDIA A100-SXM4-80GB", 312e12),
        ("cpu", None),
    ],
)
def test_a_device_is_found_by_the_name_jax_gives_it(kind: str, peak: float | None) -> None:
    assert peak_flops(kind) == peak


def test_an_unknown_chip_names_the_nearest() -> None:
    with pytest.raises(InputError, match="v5e"):
        chip("v5")
