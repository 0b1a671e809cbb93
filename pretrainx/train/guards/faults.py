"""Faults that tests and tools/prove_resume.py ask for. Off unless an environment variable names one."""

import os
import signal
from typing import Any

VARIABLE = "PRETRAINX_KILL_AT"  # "PHASE" or "PHASE:COUNT": kill -9 of this process when it comes there for the COUNT-th time
PHASES = ("before_save", "copied", "item_written", "before_digests", "before_commit", "committed", "removing", "removed")
FLIP = "PRETRAINX_FLIP_BIT"  # "STEP:DEVICE": one bit of a step's second computation, on the DEVICE-th device of its arrays

_seen: dict[str, int] = {}


def reached(phase: str) -> None:
    """Ends this process as kill -9 does if the environment says so for this phase; else nothing."""
    wanted = os.environ.get(VARIABLE)
    if not wanted:
        return
    name, _, count = wanted.partition(":")
    _seen[phase] = _seen.get(phase, 0) + 1
    if name == phase and _seen[phase] == int(count or 1):
        os.kill(os.getpid(), signal.SIGKILL)


def flipped(step: int, state: Any) -> Any:
    """The state; with the lowest bit of one weight on one device flipped, where the environment says so for this step."""
    wanted = os.environ.get(FLIP)
    if not wanted or int(wanted.partition(":")[0]) != step:
        return state
    import jax  # here, since commands that only watch a run read this file too
    import numpy as np

    leaves, tree = jax.tree.flatten(state)
    place = next(i for i, leaf in enumerate(leaves) if leaf.ndim > 1)
    victim = leaves[place]
    device = sorted(victim.sharding.device_set, key=lambda d: d.id)[int(wanted.partition(":")[2])]
    parts = []
    for shard in victim.addressable_shards:
        values = np.array(shard.data)
        if shard.device == device:
            values.view(np.uint8).reshape(-1)[0] ^= 1
        parts.append(jax.device_put(values, shard.device))
    leaves[place] = jax.make_array_from_single_device_arrays(victim.shape, victim.sharding, parts)
    return tree.unflatten(leaves)
