"""Tokens drawn one after another: greedy, by temperature, top-k and top-p.

Legend: B rows, P prompt length, N tokens to make, V vocab.
"""

from dataclasses import dataclass, replace

import jax
import jax.numpy as jnp

from pretrainx.core.errors import InputError
from pretrainx.evaluate.decoding import Batch, Decoder, Found
from pretrainx.models.skeleton import Params
from pretrainx.models.stack import Cache


@dataclass(frozen=True)
class Sampling:
    """How the next token is drawn. temperature 0 is greedy; top_k 0 and top_p 1 leave the distribution whole."""

    temperature: float = 1.0
    top_k: int = 0
    top_p: float = 1.0

    def __post_init__(self) -> None:
        if self.temperature < 0:
            raise InputError(f"--temperature {self.temperature}: accepted are 0 (greedy) and above")
        if self.top_k < 0:
            raise InputError(f"--top_k {self.top_k}: accepted are 0 (off) and above")
        if not 0 < self.top_p <= 1:
            raise InputError(f"--top_p {self.top_p}: accepted are numbers above 0 and up to 1 (off)")


def filter_logits(logits: jax.Array, sampling: Sampling) -> jax.Array:
    """float32 [..., V] scaled by temperature, with what top-k and top-p rule out at -inf.

    top-p keeps the smallest set of most likely tokens whose probability reaches p (Holtzman 2020), never none.
    """
    logits = logits / sampling.temperature
    if sampling.top_k:
        least = jax.lax.top_k(logits, min(sampling.top_k, logits.shape[-1]))[0][..., -1:]
        logits = jnp.where(logits < least, -jnp.inf, logits)
    if sampling.top_p < 1:
        ordered = jnp.sort(logits, axis=-1, descending=True)
        shares = jax.nn.softmax(ordered, axis=-1)
        kept = jnp.cumsum(shares, axis=-1) - shares < sampling.top_p
        least = jnp.min(jnp.where(kept, ordered, jnp.inf), axis=-1, keepdims=True)
        logits = jnp.where(logits < least, -jnp.inf, logits)
    return logits


def draw(keys: jax.Array, logits: jax.Array, sampling: Sampling) -> jax.Array:
    """int32 [B] from float32 [B, V], each row by its own key [B]."""
    if sampling.temperature == 0:
        return jnp.argmax(logits, axis=-1).astype(jnp.int32)
    return jax.vmap(jax.random.categorical)(keys, filter_logits(logits, sampling)).astype(jnp.int32)


@jax.tree_util.register_dataclass
@dataclass(frozen=True)
class State:
    """Of B rows after `count` tokens: `tokens` [B, N], padded; `done` [B]; `nats` float32 [B], the log-probability of what was
    made; `lengths` [B] of prompts; `keys` [B]."""

    cache: Cache
    tokens: jax.Array
    count: jax.Array
    done: jax.Array
    nats: jax.Array
    lengths: jax.Array
    keys: jax.Array


class Sampler:
    """The way `Sampling` says, by a decoder. What a row says depends on its prompt and key, not on the rows beside it."""

    def __init__(self, decoder: Decoder, sampling: Sampling):
        self.decoder, self.sampling = decoder, sampling

    def begin(self, params: Params, batch: Batch) -> State:
        """Reads the prompts, and chooses the first token of each row."""
        decoder = self.decoder
        logits, cache = decoder.read_prompts(params, batch)
        rows = len(batch["lengths"])
        tokens = jnp.full((rows, decoder.num_tokens), decoder.pad, jnp.int32)
        nothing = State(
            cache, tokens, jnp.int32(0), batch["idle"], jnp.zeros(rows), batch["lengths"], jax.random.wrap_key_data(batch["keys"])
        )
        return self.choose(nothing, logits)

    def choose(self, state: State, logits: jax.Array) -> State:
        """One more token of each row, from float32 [B, V]; of one that is done, padding."""
        keys = jax.vmap(jax.random.fold_in, (0, None))(state.keys, state.count)
        chosen = draw(keys, logits, self.sampling)
        nats = jnp.take_along_axis(jax.nn.log_softmax(logits), chosen[:, None], axis=1)[:, 0]
        tokens = jax.lax.dynamic_update_slice(state.tokens, jnp.where(state.done, self.decoder.pad, chosen)[:, None], (0, state.count))
        done = state.done | jnp.isin(chosen, self.decoder.stop)
        return replace(state, tokens=tokens, count=state.count + 1, done=done, nats=state.nats + jnp.where(state.done, 0, nats))

    def advance(self, params: Params, state: State, until: jax.Array, ended: jax.Array) -> State:
        """Goes on until there are so many tokens, or nothing is left to do; rows that `ended` [B] marks say no more."""

        def step(state: State) -> State:
            token = jax.lax.dynamic_slice_in_dim(state.tokens, state.count - 1, 1, axis=1)
            logits, cache = self.decoder.read(params, token, state.lengths + state.count - 1, state.cache)
            return self.choose(replace(state, cache=cache), logits)

        unfinished = lambda state: (state.count < until) & ~jnp.all(state.done)  # noqa: E731
        return jax.lax.while_loop(unfinished, step, replace(state, done=state.done | ended))

    def found(self, state: State) -> Found:
        return Found(state.tokens, state.nats, state.done)
