"""Who may see whom: the one statement of it that every kernel honours, or refuses.

Legend: B batch, T query length, S key length.
"""

from dataclasses import dataclass

import jax
import jax.numpy as jnp
import numpy as np


@dataclass(frozen=True, eq=False)
class Visibility:
    """The same segment, no later place if causal, no place further away than the window. Places are those in the row."""

    segment_ids: jax.Array | None = None  # [B, T]; None: one segment
    causal: bool = True
    key_slots: jax.Array | None = None  # [B, T]: reading from a cache; query t sees its slots <= key_slots[b, t]
    bidirectional: jax.Array | None = None  # [B, S], int or bool: marked keys are seen by all of their segment, also if causal
    key_segment_ids: jax.Array | None = None  # [B, S], where the keys are another sequence's; None: as segment_ids
    window: int = 0  # a query sees keys less than so many places away, itself among them, marked ones too; 0: any distance
    own_slots: jax.Array | None = None  # [B, T]: the queries' own places in a cache, from which a window reaches; None: key_slots
    order: np.ndarray | None = None  # int[T]: the place of what lies t-th, for queries and keys; None: in order

    def mask(self, length: int, key_length: int) -> jax.Array | None:
        """bool [B or 1, T, S], True where seen; None: everything is."""
        if self.key_slots is not None:
            slots = jnp.arange(key_length)[None, None, :]
            seen = slots <= self.key_slots[:, :, None]
            own = self.key_slots if self.own_slots is None else self.own_slots
            return seen & (jnp.abs(own[:, :, None] - slots) < self.window) if self.window else seen
        places, key_places = (jnp.arange(n) if self.order is None else jnp.asarray(self.order) for n in (length, key_length))
        back = places[:, None] - key_places[None, :]
        seen = (back >= 0)[None] if self.causal else None
        if seen is not None and self.bidirectional is not None:
            seen = seen | self.bidirectional.astype(bool)[:, None, :]
        if self.window:
            near = (jnp.abs(back) < self.window)[None]
            seen = near if seen is None else seen & near
        if self.segment_ids is not None:
            keys = self.segment_ids if self.key_segment_ids is None else self.key_segment_ids
            same = self.segment_ids[:, :, None] == keys[:, None, :]
            seen = same if seen is None else seen & same
        return seen
