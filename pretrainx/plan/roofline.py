"""Step time from a walked program and a chip: each op takes what its dearest resource takes, and starts run on beside what follows.

All that is assumed, and is not in the program or the chip's data sheet, stands in `Assumptions`.
"""

from collections import defaultdict
from collections.abc import Mapping
from dataclasses import dataclass, field

from pretrainx.core.chips import Chip
from pretrainx.plan.collectives import BETWEEN_SLICES, Collective
from pretrainx.plan.walk import Loop, Step, flat

RESOURCES = ("compute", "hbm", "ici", "network")
TPU_CLOCK_HZ = {"v4": 1.05e9, "v5e": 1.5e9, "v5p": 1.75e9, "v6e": 1.75e9}  # peak / (FLOPs a cycle of its matrix units)


@dataclass(frozen=True)
class Assumptions:
    """Shares of a peak that long runs reach, by chip where published runs tell (plan/calibration.py); 1 would be the data sheet.

    products   large products; kernels: attention; memory: HBM streams; links: rings over fast links; network: beyond a node or slice
    hop_seconds  that a ring loses at each hop, in the analytic form
    hidden     shares of a collective that run beside arithmetic in the analytic form (a walked program shows its own schedule): of those
               that move weights, and of those that a tensor axis needs between two products
    interval   the step time's interval is these factors around the estimate: nine in ten of the calibration's points lie within

    Fitted are the products of v5e, v5p, v6e and h100, and by a coarse grid over all points the kernels and the two hidden shares.
    H100's stand for PyTorch's FSDP, the only published runs used here, and hold what that loses elsewhere too. Links and network are
    customary values, and `products_elsewhere` is a guess.
    """

    products: Mapping[str, float] = field(default_factory=lambda: {"v5e": 0.86, "v5p": 0.80, "v6e": 0.72, "h100": 0.46, "h200": 0.46})
    products_elsewhere: float = 0.60
    kernels: float = 0.35
    memory: float = 0.80
    links: float = 0.80
    network: float = 0.70
    hop_seconds: float = 2e-6
    hidden: float = 0.70
    hidden_tensor: float = 0.5
    interval: tuple[float, float] = (0.82, 1.20)

    def of_products(self, chip: Chip) -> float:
        return self.products.get(chip.name, self.products_elsewhere)


ASSUMED = Assumptions()


@dataclass(frozen=True)
class Prediction:
    """Seconds of one training step.

    low, high     the interval
    binds         the resource that the step would still need were all others free
    busy          seconds by resource, were it alone; `exposed`: seconds in which nothing but a collective ran
    by_kind, by_part  where the time goes (waiting for a collective counts as "collective")
    """

    seconds: float
    low: float
    high: float
    binds: str
    busy: dict[str, float]
    exposed: float
    by_kind: dict[str, float]
    by_part: dict[str, float]
    compiler_seconds: float | None = None


def ring_bandwidth(chip: Chip, group_size: int, slice_size: int | None = None) -> tuple[str, float]:
    """The resource that a ring over so many chips runs on, and bytes a second that a chip sends on it.

    On a torus a group uses as many dimensions as it needs, both ways where the ends are joined; a switch gives all links to any pair.
    A group beyond the fast links' domain (or a slice) goes over the network, where all of a domain's adapters carry one ring's bytes.
    """
    size = min(slice_size or chip.domain, chip.domain)
    if group_size > size:
        shared = chip.network_bytes * size
        return ("network", shared) if shared < chip.link_bytes else ("ici", chip.link_bytes)
    if not chip.torus:
        return "ici", chip.link_bytes
    one_way = chip.link_bytes / (2 * chip.torus)
    side = max(2, round(size ** (1 / chip.torus)))
    dims = next((d for d in range(1, chip.torus) if group_size <= side**d), chip.torus)
    return "ici", one_way * dims * (2 if side >= chip.torus_side else 1)


def collective_seconds(chip: Chip, moved: Collective, slice_size: int | None, assumed: Assumptions) -> tuple[str, float]:
    """Resource and seconds of one collective. One that spans slices crosses the network with what its slice has reduced or gathered."""
    if moved.kind == BETWEEN_SLICES:
        return "network", moved.wire_bytes / (chip.network_bytes * assumed.network)
    size = slice_size or chip.domain
    members = moved.members
    across = bool(members) and len({m // size for m in members}) > 1
    within = sum(1 for m in members if m // size == members[0] // size) if members else moved.group_size
    if across:
        # Within the slice first, then between its equals: a chip sends its share of the payload.
        slices = max(2, moved.group_size // max(1, within))
        share = moved.payload_bytes / max(1, within) * (slices - 1) / slices * (2 if moved.kind == "all-reduce" else 1)
        return "network", share / (chip.network_bytes * assumed.network)
    _, speed = ring_bandwidth(chip, moved.group_size, size)
    return "ici", moved.wire_bytes / (speed * assumed.links)


def predict(loop: Loop, chip: Chip, slice_size: int | None = None, assumed: Assumptions = ASSUMED) -> Prediction:
    """The step time of a walked program on a chip; `slice_size` is chips that fast links join (default: the chip's domain).

    The program is one device's; of a chip with two devices each has half of its peak, memory and links.
    """
    device = _device(chip)
    clock = _Clock(device, (slice_size or chip.domain) * chip.devices, assumed)
    seconds = clock.run(loop)
    if not seconds:
        return Prediction(0.0, 0.0, 0.0, "compute", dict.fromkeys(RESOURCES, 0.0), 0.0, {}, {})
    busy = {name: clock.busy[name] for name in RESOURCES}
    low, high = assumed.interval
    hertz = TPU_CLOCK_HZ.get(chip.name)
    cycles = sum(step.cycles * times for step, times in flat(loop))
    estimate = cycles / hertz if hertz and cycles else None
    return Prediction(
        # The compiler's own estimate, where it is longer, is the pessimist's.
        seconds, seconds * low, max(seconds * high, estimate or 0.0), max(busy, key=lambda name: busy[name]), busy, clock.exposed,
        dict(clock.by_kind), dict(clock.by_part), estimate,
    )  # fmt: skip


def _device(chip: Chip) -> Chip:
    """One JAX device of a chip."""
    if chip.devices == 1:
        return chip
    n = chip.devices
    peak = {dtype: flops / n for dtype, flops in chip.peak.items()}
    return Chip(
        chip.name, chip.family, peak, chip.hbm_bytes / n, chip.hbm_bandwidth / n, chip.link_bytes / n, chip.network_bytes / n,
        chip.domain * n, chip.torus, chip.torus_side, 1, chip.kinds,
    )  # fmt: skip


def part_of(op_name: str) -> str:
    """The part of a training step that an op belongs to, by the path of its traced operation."""
    inside = "/while/body/" in op_name and "closed_call" in op_name
    if "rematted_computation" in op_name:
        return "layers, again" if inside else "head, again"
    if "transpose(" in op_name:
        return "layers, backward" if inside else "head and embedding, backward"
    if "jvp(" in op_name:
        return "layers, forward" if inside else "head and embedding, forward"
    return "optimizer and rest" if op_name else "compiler's own"


class _Clock:
    """Runs steps in their order; what has begun goes on beside them on its own resource, one after the other there."""

    def __init__(self, chip: Chip, slice_size: int, assumed: Assumptions):
        self.chip, self.slice_size, self.assumed = chip, slice_size, assumed
        self.busy: defaultdict[str, float] = defaultdict(float)
        self.by_kind: defaultdict[str, float] = defaultdict(float)
        self.by_part: defaultdict[str, float] = defaultdict(float)
        self.exposed = 0.0

    def run(self, loop: Loop, times: int = 1) -> float:
        """Seconds of one turn of the loop; `times` how often it runs in all, for the sums."""
        now = 0.0
        free: dict[str, float] = {}
        begun: dict[str, float] = {}
        for step in loop.steps:
            if isinstance(step, Loop):
                now += step.times * self.run(step, times * step.times)
                continue
            resource, seconds = self.cost(step)
            if step.begins:
                ready = max(now, free.get(resource, 0.0)) + seconds
                free[resource], begun[step.begins] = ready, ready
                self.busy[resource] += seconds * times
            elif step.ends:
                now = self.wait(step, now, begun.pop(step.ends, now), times)
            elif step.collective:
                self.busy[resource] += seconds * times
                now = self.wait(step, now, max(now, free.get(resource, 0.0)) + seconds, times)
            else:
                work = self.work(step)
                for name, needed in work.items():
                    self.busy[name] += needed * times
                self.note(step, seconds, times)
                now += seconds
        # What is still under way must end before the next turn can use its resource again.
        late = max([now, *begun.values()])
        self.exposed += (late - now) * times
        self.by_kind["collective"] += (late - now) * times
        return late

    def wait(self, step: Step, now: float, ready: float, times: int) -> float:
        waited = max(0.0, ready - now)
        self.exposed += waited * times
        self.by_kind["collective"] += waited * times
        self.by_part[part_of(step.op_name)] += waited * times
        return now + waited

    def note(self, step: Step, seconds: float, times: int) -> None:
        self.by_kind[step.kind] += seconds * times
        self.by_part[part_of(step.op_name)] += seconds * times

    def work(self, step: Step) -> dict[str, float]:
        reached = self.assumed.kernels if step.kind == "kernel" else self.assumed.of_products(self.chip)
        compute = sum(flops / (self.chip.flops(dtype) * reached) for dtype, flops in step.flops.items())
        return {"compute": compute, "hbm": step.hbm_bytes / (self.chip.hbm_bandwidth * self.assumed.memory)}

    def cost(self, step: Step) -> tuple[str, float]:
        """The resource that a step takes longest on, and the seconds."""
        if step.collective:
            return collective_seconds(self.chip, step.collective, self.slice_size, self.assumed)
        work = self.work(step)
        name = max(work, key=lambda resource: work[resource])
        return name, work[name]
