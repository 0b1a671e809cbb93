"""Text from a causal model, with a key-value cache: greedy, temperature, top-k and top-p."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from pretrainx.core.errors import InputError
from pretrainx.core.vocabulary import Vocabulary
from pretrainx.models.skeleton import Params, Skeleton


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


def draw(key: jax.Array, logits: jax.Array, sampling: Sampling) -> jax.Array:
    """int32 [...] from float32 [..., V]."""
    if sampling.temperature == 0:
        return jnp.argmax(logits, axis=-1).astype(jnp.int32)
    return jax.random.categorical(key, filter_logits(logits, sampling)).astype(jnp.int32)


def make_generate(skeleton: Skeleton, vocabulary: Vocabulary, sampling: Sampling, num_tokens: int) -> Callable[..., jax.Array]:
    """Jitted `(params, prompts [B, P], lengths [B], key) -> [B, num_tokens]`; after an end-of-document token, padding.

    Prompts are aligned left and padded; each row goes on from its own length. What padding wrote into the cache is
    overwritten before any query can see it.
    """
    special = vocabulary.special

    def choose(key: jax.Array, logits: jax.Array) -> jax.Array:
        # An embedding may have more rows than the vocabulary has ids; those stand for nothing.
        return draw(key, jnp.where(jnp.arange(logits.shape[-1]) < vocabulary.size, logits, -jnp.inf), sampling)

    def generate(params: Params, prompts: jax.Array, lengths: jax.Array, key: jax.Array) -> jax.Array:
        model = skeleton.merge(params)
        B, P = prompts.shape
        positions = jnp.broadcast_to(jnp.arange(P, dtype=jnp.int32), (B, P))
        hidden, cache = model.decode(prompts, positions, model.empty_cache(B, P + num_tokens))
        last = jnp.take_along_axis(hidden, (lengths - 1)[:, None, None], axis=1)[:, 0]
        first_key, rest_key = jax.random.split(key)
        first = choose(first_key, model.logits(last))

        def step(carry: Any, inputs: Any) -> tuple[Any, jax.Array]:
            token, position, done, cache = carry
            hidden, cache = skeleton.merge(params).decode(token[:, None], position[:, None], cache)
            following = choose(inputs, model.logits(hidden[:, 0]))
            done = done | (token == special.eos)
            following = jnp.where(done, special.pad, following)
            return (following, position + 1, done, cache), token

        start = (first, lengths, jnp.zeros(B, bool), cache)
        _, tokens = jax.lax.scan(step, start, jax.random.split(rest_key, num_tokens))
        return tokens.T

    return jax.jit(generate)


def sample_texts(
    skeleton: Skeleton, params: Params, vocabulary: Vocabulary, prompts: Sequence[str], sampling: Sampling, num_tokens: int, seed: int
) -> list[str]:
    """One continuation for each prompt. A prompt stands at the start of a document."""
    if not skeleton.config.causal:
        raise InputError("model: an encoder sees both ways and cannot generate; sample from a causal model")
    encoded = [[vocabulary.special.start, *vocabulary.encode(text)] for text in prompts]
    longest = max(map(len, encoded))
    limit = skeleton.config.max_length
    if skeleton.config.positions == "learned" and longest + num_tokens > limit:
        raise InputError(f"prompt and continuation take {longest + num_tokens} positions, and the model has {limit} learned ones")
    padded = np.asarray([ids + [vocabulary.special.pad] * (longest - len(ids)) for ids in encoded], np.int32)
    generate = make_generate(skeleton, vocabulary, sampling, num_tokens)
    made = np.asarray(generate(params, padded, np.asarray([len(ids) for ids in encoded], np.int32), jax.random.key(seed)))
    texts = []
    for row in made:
        ends = np.flatnonzero(row == vocabulary.special.eos)
        texts.append(vocabulary.decode(row[: ends[0]] if len(ends) else row))
    return texts
