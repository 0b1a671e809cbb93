"""The roofline by hand: what binds, what hides behind what, and sums that add up."""

from dataclasses import replace

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from pretrainx.core.chips import CHIPS, Chip
from pretrainx.plan.collectives import Collective
from pretrainx.plan.roofline import Assumptions, Prediction, part_of, predict, ring_bandwidth
from pretrainx.plan.walk import Loop, Step

# A chip of round numbers, and nothing lost: one TFLOP/s, one GB/s of memory, a fully joined ring of 1 GB/s, four chips a domain.
CHIP = Chip("made", "made", {"bf16": 1e12}, 1e9, 1e9, 1e9, 1e8, domain=4)
EXACT = Assumptions(products={}, products_elsewhere=1.0, kernels=1.0, memory=1.0, links=1.0, network=1.0, interval=(1.0, 1.0))


def product(seconds: float) -> Step:
    return Step("dot", "matmul", "jit(step)/jvp(f)/dot", flops={"bf16": seconds * 1e12})


def stream(seconds: float) -> Step:
    return Step("add", "elementwise", "jit(step)/add", hbm_bytes=seconds * 1e9)


def gather(seconds: float, begins: str = "", members: tuple[int, ...] = (0, 1, 2, 3)) -> Step:
    moved = Collective("all-gather", "bf16", seconds * 1e9 * 4 / 3, seconds * 1e9, len(members), members, bool(begins))
    return Step("gather", "collective", "jit(step)/jvp(f)/dot", collective=moved, begins=begins)


def end(name: str) -> Step:
    return Step("done", "ends", "jit(step)/jvp(f)/dot", ends=name)


def run(*steps: Step | Loop, chip: Chip = CHIP, slice_size: int | None = None) -> Prediction:
    return predict(Loop("step", 1, steps), chip, slice_size, EXACT)


def test_an_op_takes_what_its_dearest_resource_takes() -> None:
    both = Step("dot", "matmul", flops={"bf16": 2e12}, hbm_bytes=3e9)
    found = run(both, product(1.0))
    assert found.seconds == 4.0 and found.busy["compute"] == found.busy["hbm"] == 3.0
    assert run(product(2.0), stream(1.0)).binds == "compute" and run(product(1.0), stream(2.0)).binds == "hbm"


def test_a_collective_that_encloses_work_hides_behind_it() -> None:
    assert run(gather(1.0, "a"), product(3.0), end("a")).exposed == 0.0
    half = run(gather(3.0, "a"), product(1.0), end("a"))
    assert (half.seconds, half.exposed) == (3.0, 2.0)
    alone = run(gather(3.0), product(1.0))
    assert (alone.seconds, alone.exposed, alone.binds) == (4.0, 3.0, "ici")


def test_collectives_share_their_wire() -> None:
    """Two that begin together take as long as one after the other."""
    found = run(gather(2.0, "a"), gather(2.0, "b"), product(3.0), end("a"), end("b"))
    assert (found.seconds, found.exposed, found.busy["ici"]) == (4.0, 1.0, 4.0)


def test_what_a_turn_leaves_under_way_ends_before_the_next() -> None:
    assert run(Loop("loop", 3, (gather(2.0, "a"), product(0.5)))).seconds == 6.0


def test_loops_multiply_and_nest() -> None:
    inner = Loop("inner", 3, (product(1.0),))
    found = run(Loop("outer", 4, (inner, stream(2.0))))
    assert found.seconds == 20.0 and found.busy["compute"] == 12.0 and found.busy["hbm"] == 8.0
    assert found.by_kind == {"matmul": 12.0, "elementwise": 8.0, "collective": 0.0}


def test_a_collective_across_slices_pays_for_the_network_with_its_share() -> None:
    """Four chips in two slices: a chip has half of the payload, and sends half of that to the other slice."""
    found = run(gather(0.75), slice_size=2)  # payload 1 GB
    assert found.busy["network"] == pytest.approx(1e9 / 2 * (1 / 2) / 1e8) and found.busy["ici"] == 0.0


def test_a_device_of_a_chip_with_two_has_half_of_it() -> None:
    assert run(product(1.0), chip=replace(CHIP, devices=2)).seconds == 2.0


def test_rings_use_the_links_that_their_place_on_the_torus_has() -> None:
    """v5e: four links of 50 GB/s. A slice of 256 is 16 x 16 with joined ends; one of 16 is 4 x 4 without."""
    v5e, v5p, h100 = CHIPS["v5e"], CHIPS["v5p"], CHIPS["h100"]
    assert ring_bandwidth(v5e, 16, 256) == ("ici", 100e9) and ring_bandwidth(v5e, 256, 256) == ("ici", 200e9)
    assert ring_bandwidth(v5e, 4, 16) == ("ici", 50e9) and ring_bandwidth(v5e, 16, 16) == ("ici", 100e9)
    assert ring_bandwidth(v5p, 64, 64) == ("ici", 600e9) and ring_bandwidth(v5p, 4, 64) == ("ici", 200e9)
    assert ring_bandwidth(h100, 8) == ("ici", 450e9) and ring_bandwidth(h100, 64) == ("network", 400e9)


@pytest.mark.parametrize(
    ("path", "part"),
    [
        ("jit(train_step)/jvp()/while/body/closed_call/dot_general", "layers, forward"),
        ("jit(train_step)/transpose(jvp())/while/body/closed_call/checkpoint/rematted_computation/mul", "layers, again"),
        ("jit(train_step)/transpose(jvp())/while/body/closed_call/checkpoint/dot_general", "layers, backward"),
        ("jit(train_step)/jvp()/reduce_sum", "head and embedding, forward"),
        ("jit(train_step)/add", "optimizer and rest"),
        ("", "compiler's own"),
    ],
)
def test_parts_are_told_by_the_path(path: str, part: str) -> None:
    assert part_of(path) == part


lengths = st.floats(0.0, 4.0).map(lambda x: round(x, 3))
programs = st.lists(st.tuples(st.sampled_from("psgab"), lengths), max_size=12)


def made(program: list[tuple[str, float]]) -> list[Step]:
    steps: list[Step] = []
    open_names: list[str] = []
    for i, (kind, seconds) in enumerate(program):
        if kind == "a":
            open_names.append(f"c{i}")
            steps.append(gather(seconds, f"c{i}"))
        elif kind == "b" and open_names:
            steps.append(end(open_names.pop(0)))
        else:
            steps.append({"p": product, "s": stream, "g": gather}.get(kind, product)(seconds))
    return steps


@given(programs, st.integers(1, 5))
@settings(max_examples=150)
def test_times_add_up_and_lie_between_their_bounds(program: list[tuple[str, float]], times: int) -> None:
    steps = tuple(made(program))
    found, looped = run(*steps), run(Loop("loop", times, steps))
    assert sum(found.by_kind.values()) == pytest.approx(found.seconds)
    assert looped.seconds == pytest.approx(times * found.seconds)
    # Never shorter than any one resource's work, nor longer than all of them in turn.
    assert max(found.busy.values()) - 1e-9 <= found.seconds <= sum(found.busy.values()) + 1e-9
    faster = predict(Loop("step", 1, steps), replace(CHIP, peak={"bf16": 2e12}, link_bytes=3e9), None, EXACT)
    assert faster.seconds <= found.seconds + 1e-9
