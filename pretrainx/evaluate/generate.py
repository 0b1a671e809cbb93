"""Texts that a model goes on from: prompts in batches, on its mesh, by sampling or beam search, until a stop.

A model is prompted as its objective taught it (objectives/interface.py: Prompt). Neither batch size, nor mesh, nor the other
prompts matter to what a prompt gets, up to the rounding of float32.
"""

import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import jax
import numpy as np

from pretrainx.core.errors import InputError
from pretrainx.core.logs import progress
from pretrainx.core.vocabulary import Vocabulary
from pretrainx.evaluate.beam import Beam, BeamSearch
from pretrainx.evaluate.decoding import Decoder, Found
from pretrainx.evaluate.sampling import Sampler, Sampling
from pretrainx.models.skeleton import Params, Skeleton
from pretrainx.objectives.interface import Features, Objective, Prompt
from pretrainx.parallel import multihost
from pretrainx.tasks.encoding import text_encoder

SHORTEST = 32  # prompts are padded to this, its doubles, ...: at most twice their size, and one compile each
LOOK_EVERY = 16  # tokens, after which the host looks for stop texts


@dataclass(frozen=True)
class Generation:
    """What was made of one prompt.

    text     without what stopped it
    tokens   int32[n], with the token that stopped it; before a stop text is noticed, up to 15 more are made
    nats     their log-probability under the model, whatever the temperature
    stopped  whether it ended by itself; otherwise the tokens ran out
    """

    text: str
    tokens: np.ndarray
    nats: float
    stopped: bool


@dataclass
class Speed:
    """What the device has done, compiling aside; tokens of padding rows are not counted."""

    prompt_tokens: int = 0
    prompt_seconds: float = 0.0
    tokens: int = 0
    seconds: float = 0.0

    def __str__(self) -> str:
        made, read = self.tokens / max(self.seconds, 1e-9), self.prompt_tokens / max(self.prompt_seconds, 1e-9)
        return f"{self.tokens:,} tokens made at {made:,.0f}/s, {self.prompt_tokens:,} of prompts read at {read:,.0f}/s"


def prompter(model: Any, objectives: Sequence[Objective]) -> Callable[[list[int]], Prompt]:
    """How to prompt a model that was trained on these objectives: by a left-to-right one where there is one, else by the first.

    Raises:
      InputError: none of them taught it to go on from a text.
    """
    for objective in sorted(objectives, key=lambda o: (o.sight != "causal", not o.codes_text)):
        if objective.sight in model.sights and objective.prompt([]) is not None:
            return objective.prompt  # type: ignore[return-value]
    raise InputError(f"model.name {model.name!r}: cannot generate, since nothing it was trained on taught it to go on from a text")


class Generator:
    """`generator(params, prompts) -> [Generation]`, in the prompts' order.

    `choice` is Sampling or Beam. A text ends with the end of document, with a token that the prompt says, before the first of
    the texts `stop` (beams look for these when all is done), or after `num_tokens`. `batch_size` prompts are worked on at once.

    Raises:
      InputError: an option is out of range.
    """

    def __init__(
        self,
        skeleton: Skeleton,
        vocabulary: Vocabulary,
        prompt: Callable[[list[int]], Prompt],
        choice: Sampling | Beam,
        num_tokens: int,
        stop: Sequence[str] = (),
        batch_size: int = 16,
        show: bool = False,
    ):
        if num_tokens < 1:
            raise InputError(f"--num_tokens {num_tokens}: accepted are 1 and more")
        if "" in stop:
            raise InputError("--stop '': an empty text stops everything; leave it out")
        self.skeleton, self.vocabulary, self.prompt, self.choice = skeleton, vocabulary, prompt, choice
        self.num_tokens, self.stop, self.show, self.speed = num_tokens, tuple(stop), show, Speed()
        shards = skeleton.partitioner.batch_shards
        self.batch_size = -(-batch_size // shards) * shards
        self.encode = text_encoder(vocabulary)
        self.compiled: dict[Any, Any] = {}

    def __call__(self, params: Params, prompts: Sequence[str | Sequence[int]], seed: int = 0) -> list[Generation]:
        """A prompt, a text or its token ids, stands at the start of a document. The same seed draws the same for the n-th prompt.

        Raises:
          InputError: a prompt leaves no room for the text in the model's learned positions.
        """
        asked = [self.prompt(self.encode(text) if isinstance(text, str) else list(text)) for text in prompts]
        for number, prompt in enumerate(asked, 1):
            self._require_room(prompt, number)
        keys = jax.vmap(jax.random.fold_in, (None, 0))(jax.random.key(seed), np.arange(max(1, len(asked))))
        key_data = np.asarray(jax.random.key_data(keys))
        groups: dict[tuple[int, int, tuple[int, ...]], list[int]] = {}
        for number, prompt in enumerate(asked):
            groups.setdefault((padded(len(prompt.tokens)), padded(len(prompt.source or [])), prompt.stop), []).append(number)
        plan: Any = [
            (shape, group[i : i + self.batch_size])
            for shape, group in sorted(groups.items())
            for i in range(0, len(group), self.batch_size)
        ]
        found: dict[int, Generation] = {}
        for shape, numbers in progress(plan, len(plan), "generate", "batches") if self.show else plan:
            features = self.features([asked[n] for n in numbers], key_data[numbers], shape)
            found |= dict(zip(numbers, self._run(params, features, shape, len(numbers)), strict=True))
        return [found[number] for number in range(len(asked))]

    def _require_room(self, prompt: Prompt, number: int) -> None:
        config = self.skeleton.config
        for taken, what in ((len(prompt.tokens) + self.num_tokens, "with its continuation"), (len(prompt.source or []), "in the encoder")):
            if config.positions == "learned" and taken > config.max_length:
                raise InputError(f"prompt {number} takes {taken} positions {what}, and the model has {config.max_length} learned ones")

    def features(self, prompts: Sequence[Prompt], keys: np.ndarray, shape: tuple[int, int, tuple[int, ...]]) -> Features:
        """What the device reads; rows beyond the prompts are idle."""
        rows, (length, source_length, _) = self.batch_size, shape
        made = {
            "tokens": np.full((rows, length), self.vocabulary.special.pad, np.int32),
            "lengths": np.ones(rows, np.int32),
            "seen": np.zeros(rows, np.int32),
            "idle": np.arange(rows) >= len(prompts),
            "keys": np.zeros((rows, *keys.shape[1:]), keys.dtype),
        }
        made["keys"][: len(prompts)] = keys
        if source_length:
            made["encoder_tokens"] = np.full((rows, source_length), self.vocabulary.special.pad, np.int32)
            made["encoder_positions"] = np.tile(np.arange(source_length, dtype=np.int32), (rows, 1))
            made["encoder_segment_ids"] = np.zeros((rows, source_length), np.int32)
        for row, prompt in enumerate(prompts):
            made["tokens"][row, : len(prompt.tokens)] = prompt.tokens
            made["lengths"][row], made["seen"][row] = len(prompt.tokens), prompt.seen
            if prompt.source:
                made["encoder_tokens"][row, : len(prompt.source)] = prompt.source
                made["encoder_segment_ids"][row, : len(prompt.source)] = 1
        return made

    def _run(self, params: Params, features: Features, shape: tuple[int, int, tuple[int, ...]], count: int) -> list[Generation]:
        """One batch, from prompts to texts."""
        partitioner = self.skeleton.partitioner
        shardings = {name: partitioner.batch(array.ndim) for name, array in features.items()}
        batch = multihost.to_global(features, np.arange(self.batch_size), self.batch_size, shardings)
        stop_ids = tuple(dict.fromkeys((self.vocabulary.special.eos, *shape[2])))
        begin, advance, read_out = self._programs(params, batch, shape, stop_ids)
        started = time.perf_counter()
        state = jax.block_until_ready(begin(params, batch))
        begun = time.perf_counter()
        ended, made = np.zeros(self.batch_size, bool), 1
        watches = bool(self.stop) and isinstance(self.choice, Sampling)
        while made < self.num_tokens:
            made = min(made + LOOK_EVERY, self.num_tokens) if watches else self.num_tokens
            state = advance(params, state, np.int32(made), ended)
            if watches:
                seen = jax.device_get(read_out(state))
                ended = np.asarray([self._cut(row) is not None for row in seen.tokens])
                if np.all(ended | seen.done):
                    break
        found = jax.device_get(read_out(state))
        results = [self._generation(found, row, stop_ids) for row in range(count)]
        self.speed.prompt_seconds += begun - started
        self.speed.prompt_tokens += int(features["lengths"][:count].sum() + features.get("encoder_segment_ids", np.zeros(0)).sum())
        self.speed.seconds += time.perf_counter() - begun
        self.speed.tokens += sum(len(result.tokens) for result in results)
        return results

    def _programs(self, params: Params, batch: Any, shape: Any, stop_ids: tuple[int, ...]) -> tuple[Any, Any, Any]:
        """begin, advance, read_out, compiled for batches of this shape."""
        if shape not in self.compiled:
            decoder = Decoder(self.skeleton, self.vocabulary, self.num_tokens, stop_ids)
            made = BeamSearch(decoder, self.choice) if isinstance(self.choice, Beam) else Sampler(decoder, self.choice)
            begin = jax.jit(made.begin).lower(params, batch).compile()
            state = jax.eval_shape(made.begin, params, batch)
            shardings = begin.output_shardings
            state = jax.tree.map(lambda x, s: jax.ShapeDtypeStruct(x.shape, x.dtype, sharding=s), state, shardings)
            ended = jax.ShapeDtypeStruct((self.batch_size,), np.bool_)
            advance = jax.jit(made.advance, donate_argnums=1, out_shardings=shardings)
            advance = advance.lower(params, state, jax.ShapeDtypeStruct((), np.int32), ended).compile()
            read_out = jax.jit(made.found, out_shardings=self.skeleton.partitioner.replicated).lower(state).compile()
            self.compiled[shape] = (begin, advance, read_out)
        return self.compiled[shape]

    def _cut(self, tokens: np.ndarray) -> int | None:
        """Where in a row's text the first stop text begins, in characters; None: nowhere."""
        text = self.vocabulary.decode(tokens)
        return min((place for place in (text.find(stop) for stop in self.stop) if place >= 0), default=None)

    def _generation(self, found: Found, row: int, stop_ids: tuple[int, ...]) -> Generation:
        tokens = np.asarray(found.tokens[row])
        stops = np.flatnonzero(np.isin(tokens, stop_ids))
        told = tokens[: stops[0]] if len(stops) else tokens
        text, cut = self.vocabulary.decode(told), self._cut(told)
        if len(stops):
            tokens = tokens[: stops[0] + 1]
        elif cut is not None:
            tokens = np.trim_zeros(tokens - self.vocabulary.special.pad, "b") + self.vocabulary.special.pad
        return Generation(text if cut is None else text[:cut], tokens, float(found.nats[row]), bool(len(stops)) or cut is not None)


def padded(length: int) -> int:
    """The length that prompts of so many tokens are padded to; 0 for none."""
    size = SHORTEST if length else 0
    while size < length:
        size *= 2
    return size
