"""What the backward pass keeps of each layer, by name; the rest is computed again (Chen 2016), or waits in the host's memory.

Parts of a layer have names (`jax.ad_checkpoint.checkpoint_name`), so that a config can choose among them:

  query, key, value   as attention reads them, with their rotation
  attention_out       what attention's kernel gives; the kernel's own sums go with it, so that it need not run again
  mlp_in              what the MLP reads
  mlp_up, mlp_gate    what its first matrices give, before the activation: the largest, each
  mlp_hidden          what its last matrix reads: as large, and little work to do again from mlp_up and mlp_gate
  weights             in a manual layout, a layer's weights as they were gathered: they are then gathered once a step
"""

from collections.abc import Callable
from typing import Any

import jax

from pretrainx.core.errors import InputError, nearest
from pretrainx.parallel.mesh import HOST_MEMORY

WEIGHTS = "weights"
NAMES = ("query", "key", "value", "attention_out", "mlp_in", "mlp_up", "mlp_gate", "mlp_hidden", WEIGHTS)
_PART = "save:NAMES, offload:NAMES, or both with + between, of " + ", ".join(NAMES)

Policy = Callable[..., Any]
_kept = jax.checkpoint_policies
POLICIES: dict[str, Policy | None] = {
    "none": None,  # no rematerialisation: everything is kept
    "full": _kept.nothing_saveable,
    "dots": _kept.dots_saveable,
    "minimal": _kept.dots_with_no_batch_dims_saveable,
    "attention_out": _kept.save_only_these_names("attention_out"),
    "minimal_attention_out": _kept.save_from_both_policies(
        _kept.dots_with_no_batch_dims_saveable, _kept.save_only_these_names("attention_out")
    ),
    "offload_attention_out": _kept.save_and_offload_only_these_names(
        names_which_can_be_saved=[], names_which_can_be_offloaded=["attention_out"], offload_src="device", offload_dst=HOST_MEMORY
    ),
    "offload_minimal": _kept.offload_dot_with_no_batch_dims("device", HOST_MEMORY),
}


def policy(name: str) -> Policy | None:
    """The policy of a name in POLICIES, or of names of parts: "save:attention_out,mlp_in+offload:mlp_hidden".

    Raises:
      InputError: no such policy, or no such part.
    """
    if ":" not in name:
        if name not in POLICIES:
            raise InputError(f"train.remat: unknown policy {name!r}; {nearest(name, POLICIES)}; or {_PART}")
        return POLICIES[name]
    chosen: dict[str, list[str]] = {"save": [], "offload": []}
    for part in name.split("+"):
        kind, _, names = part.partition(":")
        if kind.strip() not in chosen:
            raise InputError(f"train.remat: unknown kind {kind.strip()!r} in {name!r}; expected {_PART}")
        for one in (word.strip() for word in names.split(",")):
            if one not in NAMES:
                raise InputError(f"train.remat: {one!r} in {name!r} is no part of a layer; {nearest(one, NAMES)}")
            if one in chosen["save"] + chosen["offload"]:
                raise InputError(f"train.remat: {one!r} stands twice in {name!r}; a part is saved, or offloaded, once")
            chosen[kind.strip()].append(one)
    return _kept.save_and_offload_only_these_names(
        names_which_can_be_saved=chosen["save"],
        names_which_can_be_offloaded=chosen["offload"],
        offload_src="device",
        offload_dst=HOST_MEMORY,
    )


def within(name: str, function: Callable[..., Any]) -> Callable[..., Any]:
    """A part of a layer, in a loop inside it, that keeps what the layer's policy of this name does: else the loop would keep all."""
    kept = policy(name)
    return function if kept is None else jax.checkpoint(function, policy=kept, prevent_cse=False)
