"""The optimizer's moments in the host's memory between updates: two thirds of the training state leave the chip for it."""

from collections.abc import Callable
from dataclasses import replace
from typing import Any

import jax

from pretrainx.parallel.mesh import HOST_MEMORY
from pretrainx.train.state import State


def on_host(shardings: State, abstract: State) -> State:
    """The shardings with every array of the optimizer's state in the host's memory; single numbers stay."""

    def one(sharding: Any, leaf: Any) -> Any:
        return sharding.with_memory_kind(HOST_MEMORY) if leaf.ndim else sharding

    return replace(shardings, opt_state=jax.tree.map(one, shardings.opt_state, abstract.opt_state))


def bring_and_return(step: Callable[..., Any], shardings: State) -> Callable[..., Any]:
    """The step for a state that lies so: moments come onto the device for the update, and go back. The same numbers."""
    on_device = jax.tree.map(lambda s: s.with_memory_kind("device"), shardings.opt_state)

    def run(state: State, batch: Any) -> tuple[State, Any]:
        new, metrics = step(replace(state, opt_state=jax.device_put(state.opt_state, on_device)), batch)
        return replace(new, opt_state=jax.device_put(new.opt_state, shardings.opt_state)), metrics

    return run
