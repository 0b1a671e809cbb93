"""Beam search: the likeliest continuation that keeping a few at a time finds.

Legend: B rows, K beams, N tokens to make, V vocab.
"""

from dataclasses import dataclass, replace

import jax
import jax.numpy as jnp

from pretrainx.core.errors import InputError
from pretrainx.evaluate.decoding import Batch, Decoder, Found
from pretrainx.models.skeleton import Params
from pretrainx.models.stack import Cache


@dataclass(frozen=True)
class Beam:
    """`num_beams` continuations are kept at a time; texts are compared by log-probability over ((5 + n) / 6)^length_penalty,
    n being their tokens with the one that stops them (Wu 2016, equation 14, without coverage). 0 compares probabilities.
    A text ends where its stop is among the `num_beams` best ways to go on, as in fairseq and transformers."""

    num_beams: int = 4
    length_penalty: float = 0.6

    def __post_init__(self) -> None:
        if self.num_beams < 1:
            raise InputError(f"--num_beams {self.num_beams}: accepted are 1 and more")
        if self.length_penalty < 0:
            raise InputError(f"--length_penalty {self.length_penalty}: accepted are 0 (none) and above")


@jax.tree_util.register_dataclass
@dataclass(frozen=True)
class State:
    """After `count` tokens. Live beams go on: `tokens` [B, K, N], `nats` [B, K], best first. Ended ones have stopped, and are
    kept by `scores` [B, K], best first, -inf where there are not so many yet. `closed` [B]: no live beam can still win."""

    cache: Cache  # of B * K rows
    count: jax.Array
    lengths: jax.Array
    tokens: jax.Array
    nats: jax.Array
    ended_tokens: jax.Array
    ended_nats: jax.Array
    scores: jax.Array
    closed: jax.Array


class BeamSearch:
    """The way `Beam` says, by a decoder."""

    def __init__(self, decoder: Decoder, beam: Beam):
        self.decoder, self.beam = decoder, beam

    def score(self, nats: jax.Array, count: jax.Array) -> jax.Array:
        return nats / ((5.0 + count) / 6.0) ** self.beam.length_penalty

    def begin(self, params: Params, batch: Batch) -> State:
        """Reads the prompts, and chooses the first tokens of each row's beams."""
        decoder, K, B = self.decoder, self.beam.num_beams, len(batch["lengths"])
        logits, cache = decoder.read_prompts(params, batch)
        none = jnp.full((B, K), -jnp.inf)
        tokens = jnp.full((B, K, decoder.num_tokens), decoder.pad, jnp.int32)
        state = State(
            cache.rows(jnp.repeat(jnp.arange(B), K)), jnp.int32(0), jnp.repeat(batch["lengths"], K), tokens, none.at[:, 0].set(0.0),
            tokens, none, none, batch["idle"],
        )  # fmt: skip
        return self.choose(state, jnp.repeat(logits, K, axis=0))

    def choose(self, state: State, logits: jax.Array) -> State:
        """One more token of each live beam, from float32 [B * K, V]."""
        B, K, N = state.tokens.shape
        V, count = logits.shape[-1], state.count + 1
        nats = (state.nats[:, :, None] + jax.nn.log_softmax(logits).reshape(B, K, V)).reshape(B, K * V)
        # A beam may spend each way to stop and still needs a live successor: so many candidates leave K of them live.
        nats, place = jax.lax.top_k(nats, min(K * (1 + len(self.decoder.stop_ids)), K * V))
        parent, token = place // V, place % V
        tokens = jnp.take_along_axis(state.tokens, parent[:, :, None], axis=1)
        tokens = jnp.where(jnp.arange(N) == state.count, token[:, :, None], tokens).astype(jnp.int32)
        stops = jnp.isin(token, self.decoder.stop)

        counts = stops & (jnp.arange(stops.shape[1]) < K) & ~state.closed[:, None]
        scores = jnp.where(counts, self.score(nats, count), -jnp.inf)
        scores, best = jax.lax.top_k(jnp.concatenate([state.scores, scores], axis=1), K)
        ended_tokens = jnp.take_along_axis(jnp.concatenate([state.ended_tokens, tokens], axis=1), best[:, :, None], axis=1)
        ended_nats = jnp.take_along_axis(jnp.concatenate([state.ended_nats, nats], axis=1), best, axis=1)

        live_nats, live = jax.lax.top_k(jnp.where(stops, -jnp.inf, nats), K)
        live_tokens = jnp.take_along_axis(tokens, live[:, :, None], axis=1)
        rows = (jnp.take_along_axis(parent, live, axis=1) + K * jnp.arange(B)[:, None]).reshape(-1)
        # Log-probabilities only fall, and the longest text divides them by most.
        hope = self.score(live_nats[:, 0], jnp.float32(N))
        closed = state.closed | (scores[:, -1] >= hope)
        return State(state.cache.rows(rows), count, state.lengths, live_tokens, live_nats, ended_tokens, ended_nats, scores, closed)

    def advance(self, params: Params, state: State, until: jax.Array, ended: jax.Array) -> State:
        """Goes on until there are so many tokens, or nothing is left to do; rows that `ended` [B] marks say no more."""

        def step(state: State) -> State:
            last = jax.lax.dynamic_index_in_dim(state.tokens, state.count - 1, axis=2, keepdims=False)
            logits, cache = self.decoder.read(params, last.reshape(-1, 1), state.lengths + state.count - 1, state.cache)
            return self.choose(replace(state, cache=cache), logits)

        unfinished = lambda state: (state.count < until) & ~jnp.all(state.closed)  # noqa: E731
        return jax.lax.while_loop(unfinished, step, replace(state, closed=state.closed | ended))

    def found(self, state: State) -> Found:
        """The best of each row: of the ended ones, and of the live ones as they are where the tokens ran out."""
        ran_out = (state.count >= self.decoder.num_tokens) & ~state.closed
        live = jnp.where(ran_out, self.score(state.nats[:, 0], state.count), -jnp.inf)
        stopped = state.scores[:, 0] >= live
        tokens = jnp.where(stopped[:, None], state.ended_tokens[:, 0], state.tokens[:, 0])
        return Found(tokens, jnp.where(stopped, state.ended_nats[:, 0], state.nats[:, 0]), stopped)
