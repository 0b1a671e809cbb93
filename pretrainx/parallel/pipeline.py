"""Layers as a pipeline over the mesh axis `stage`: each of its devices holds a part of them, and microbatches pass from one to the next.

GSPMD's form (Xu 2021, section 3.3): one program, whose state [stage, rows, ...] is cut over `stage`. An iteration runs all stages at
once (`vmap`), each on its own microbatch, and then the state moves on by one stage (`shift`). With `repeats` a stage holds several runs
of neighbouring layers, and microbatches go round so often: the interleaved placement of Narayanan 2021 (section 2.2), whose bubble is
that much shorter. The backward pass is the scan's own, in reverse; all microbatches are in flight.

Legend: S stages, M microbatches, R repeats, K layers of one visit (layers = R S K), B rows of the batch, b = B / M.
"""

import math
from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax.sharding import Mesh, PartitionSpec

STAGE = "stage"  # the mesh axis, and the dim of arrays that have a part for each stage
PER_STAGE = 4  # microbatches of a stage where the config names none: with so many the bubble is small (Huang 2019, section 2.3)


@dataclass(frozen=True)
class Schedule:
    """Who works on what when. Microbatch m in its r-th turn is at stage s in iteration r M + m + s.

    >>> Schedule(4, 8).iterations, Schedule(4, 8, 2).iterations, round(Schedule(4, 8, 2).bubble, 3)
    (11, 19, 0.158)
    """

    stages: int
    microbatches: int
    repeats: int = 1

    @property
    def iterations(self) -> int:
        return self.microbatches * self.repeats + self.stages - 1

    @property
    def bubble(self) -> float:
        """The share of the iterations in which a stage has nothing to do."""
        return (self.stages - 1) / self.iterations

    @property
    def facts(self) -> dict[str, float]:
        """As logs and plans tell them."""
        return asdict(self) | {"iterations": self.iterations, "bubble": self.bubble}


def line(facts: Mapping[str, float]) -> str:
    """A schedule's facts in one line."""
    return (
        f"pipeline of {facts['stages']} stages, {facts['microbatches']} microbatches x {facts['repeats']}: {facts['iterations']} "
        f"iterations, {facts['bubble']:.1%} of them bubble"
    )


def exchanges(stages: int, repeats: int) -> list[tuple[np.ndarray, np.ndarray]]:
    """R rounds that bring runs of layers from the order of the layers to the stages that visit them.

    Stage d stores the runs d R to d R + R - 1 (a stack cut over `stage`), and visits d, d + S, ... In each round every stage
    sends one run and gets one: (place among its own that each stage sends, place that each stage puts what it gets). Which stage
    stage d sends to is (d R + place) mod S: within a round all different, by the shift for those d whose d R is the same mod S.
    """
    together, d = math.gcd(stages, repeats), np.arange(stages)
    rounds = []
    for i in range(repeats):
        sent = together * (i // together) + (i % together + d // (stages // together)) % together
        run = d * repeats + sent
        put = np.empty(stages, int)
        put[run % stages] = run // stages
        rounds.append((sent, put))
    return rounds


def by_stage(weights: Any, schedule: Schedule, mesh: Mesh) -> Any:
    """Stacked weights [layers, ...], cut over `stage` in order, to [S, R, K, ...], each stage with what it visits.

    Without repeats that is where they lie. With them, each stage exchanges all but 1 / S of its weights once, and the gradients go
    the same way back: the price of a state whose layers lie in order, whatever the schedule.
    """
    S, R = schedule.stages, schedule.repeats
    if R == 1:
        return jax.tree.map(lambda w: w.reshape(S, 1, -1, *w.shape[1:]), weights)
    rounds = exchanges(S, R)
    # [S, R]: each stage gets its own places, since not every program with axes that are the compiler's lets it ask for its index.
    sends, puts = (jnp.stack([jnp.asarray(turn[i]) for turn in rounds], 1) for i in (0, 1))

    def moved(w: jax.Array, sends: jax.Array, puts: jax.Array) -> jax.Array:
        runs = w.reshape(R, -1, *w.shape[1:])
        out = jnp.zeros_like(runs)
        for i, (sent, _) in enumerate(rounds):
            pairs = [(d, int((d * R + sent[d]) % S)) for d in range(S)]
            run = jax.lax.dynamic_index_in_dim(runs, sends[0, i], keepdims=False)
            out = jax.lax.dynamic_update_index_in_dim(out, jax.lax.ppermute(run, STAGE, pairs), puts[0, i], 0)
        return out[None]

    return jax.tree.map(lambda w: on_stages(moved, mesh)(w, sends, puts), weights)


def deal(x: jax.Array, schedule: Schedule) -> jax.Array:
    """[B, ...] to [S, M / S, b, ...]: microbatch q S + s is [s, q]. Rows are dealt in turn, so that each device splits its own."""
    S, turns = schedule.stages, schedule.microbatches // schedule.stages
    return x.reshape(S, -1, turns, *x.shape[1:]).swapaxes(1, 2)


def collect(x: jax.Array) -> jax.Array:
    """The inverse of `deal`."""
    x = x.swapaxes(1, 2)
    return x.reshape(-1, *x.shape[3:])


def shift(x: jax.Array, by: int, mesh: Mesh) -> jax.Array:
    """[stage, ...]: what each stage has to the stage so many further on, round the end, `jnp.roll(x, by, 0)`.

    In so many words it is one collective-permute, forward and backward; of a roll the TPU's compiler makes two in places.
    """
    pairs = [(at, (at + by) % len(x)) for at in range(len(x))]
    return on_stages(lambda own: jax.lax.ppermute(own, STAGE, pairs), mesh)(x)


def on_stages(function: Callable[..., jax.Array], mesh: Mesh) -> Callable[..., jax.Array]:
    """`function` of each stage's part of arrays whose first dim lies on `stage`; the other axes stay the compiler's."""
    at = PartitionSpec(STAGE)
    return jax.shard_map(function, mesh=mesh, in_specs=at, out_specs=at, axis_names={STAGE}, check_vma=False)


def run(
    stage: Callable[[jax.Array, Any, jax.Array, Any], jax.Array],
    x: jax.Array,
    weights: Any,
    by_row: Any,
    schedule: Schedule,
    mesh: Mesh,
    place: Callable[..., jax.Array],
    dims: tuple[str | None, ...],
    keep: Callable[..., Any],
) -> jax.Array:
    """x [B, ...] after all layers. `stage(x [b, ...], weights [K, ...], numbers of the layers int[K], by_row [b, ...])` runs one visit.

    `weights` are as `by_stage` gives them, `by_row` [B, ...] is what of each row the layers read beside x, and `place(array, *dims)`
    says how arrays lie (a batch within a stage; x has these `dims`). `keep` is the policy of what a visit keeps for the backward pass.

    Microbatches wait where the rows of the batch lie, M / S with each stage. A turn of S of them moves towards the first stage by one
    place an iteration, and what the last stage gives moves into the places that they left.
    """
    S, M, R = schedule.stages, schedule.microbatches, schedule.repeats
    turns, here = M // S, jnp.arange(S)
    waiting = place(deal(x, schedule), STAGE, None, *dims)
    first, last = (jnp.reshape(here == at, (S, *(1 for _ in x.shape))) for at in (0, S - 1))

    def table(rows: jax.Array) -> jax.Array:  # [M, b, ...], for any stage to look up
        dealt = deal(rows, schedule).swapaxes(0, 1)
        return place(dealt.reshape(M, *dealt.shape[2:]), None, dims[0], *(None for _ in rows.shape[1:]))

    tables = jax.tree.map(table, by_row)

    def visit(at: jax.Array, iteration: jax.Array, x: jax.Array, weights: Any) -> jax.Array:
        done = jnp.clip(iteration - at, 0, M * R - 1)  # outside of it is the bubble: what is computed there goes nowhere
        microbatch, repeat = done % M, done // M
        own = jax.tree.map(lambda a: jax.lax.dynamic_index_in_dim(a, microbatch, keepdims=False), tables)
        visited = jax.tree.map(lambda w: jax.lax.dynamic_index_in_dim(w, repeat, keepdims=False) if R > 1 else w[0], weights)
        K = jax.tree.leaves(visited)[0].shape[0]
        return stage(x, visited, (repeat * S + at) * K + jnp.arange(K), own)

    # All of a visit is within one checkpoint, so that no iteration keeps a copy of the weights that it read.
    all_stages = jax.vmap(jax.checkpoint(visit, policy=keep, prevent_cse=False), in_axes=(0, None, 0, 0), spmd_axis_name=STAGE)

    def iterate(carry: tuple[jax.Array, jax.Array], t: jax.Array) -> tuple[tuple[jax.Array, jax.Array], None]:
        waiting, given = carry
        leaving, entering = (t // S) % turns, (jnp.maximum(t - S + 1, 0) // S) % turns
        source, target = (jax.lax.dynamic_index_in_dim(waiting, i, 1, keepdims=False) for i in (leaving, entering))
        handed = shift(given, 1, mesh)
        # With as many microbatches as stages, the last stage hands on to the first; else they wait in between.
        fresh = jnp.where(t < M, source, handed) if turns == 1 else source
        fresh = jnp.where(t < M * R, fresh, 0)  # numbers that are finite in any case: 0 * NaN would be a gradient
        given = place(all_stages(here, t, place(jnp.where(first, fresh, handed), STAGE, *dims), weights), STAGE, *dims)
        source = jnp.where(t < M * R, shift(source, -1, mesh), source)  # at the end it holds results
        target = shift(target, -1, mesh)
        target = jnp.where(last, jnp.where(t >= S - 1, given, target), target)  # one mask for all iterations to share
        for i, new in ((leaving, source), (entering, target)):  # where both are one, the second holds
            waiting = jax.lax.dynamic_update_index_in_dim(waiting, new, i, 1)
        return (place(waiting, STAGE, None, *dims), given), None

    nothing = place(jnp.zeros_like(waiting[:, 0]), STAGE, *dims)
    (waiting, _), _ = jax.lax.scan(iterate, (waiting, nothing), jnp.arange(schedule.iterations))
    return collect(waiting)
