"""How likely a trained model finds texts: a continuation after its context, in nats, with whether it is the first guess.

A left-to-right model sums the log-probabilities of the continuation's tokens; where it has an encoder, that reads the context.
A masked one has pseudo-log-likelihoods (Salazar 2020): each of those tokens is masked in turn and predicted from all others.

Where the continuation begins. Spaces at the end of the context go to the continuation, since tokens begin with spaces more
often than they end with them. Then both are spelled as one text, as in training, and what counts is every token from the
place on where this spelling departs from that of the context alone. That is the continuation's tokens (as in
lm-evaluation-harness); where a piece crosses the seam it is that piece and what comes after it, so that every character of the
continuation is paid for.

Legend: B batch, L length, S encoder length, P positions scored at once, V vocab.
"""

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from pretrainx.core.errors import InputError, nearest
from pretrainx.core.logs import progress
from pretrainx.core.vocabulary import Vocabulary
from pretrainx.models.skeleton import Params, Skeleton
from pretrainx.objectives import packing
from pretrainx.objectives.interface import Features, Objective, Prompt
from pretrainx.objectives.losses import take, token_losses
from pretrainx.parallel import multihost
from pretrainx.tasks.encoding import text_encoder

Item = tuple[str, str]  # a context, which may be empty, and the text after it
# What each way of reading needs of a model: see Scorer.
SIGHT_OF = {
    "causal": "causal",
    "prefix": "prefix",
    "encoder_decoder": "encoder_decoder",
    "masked": "bidirectional",
    "masked_words": "bidirectional",
}
SHORTEST = 32  # rows are padded to this, its doubles, or the window: at most twice their size, and one compile each
POSITIONS_AT_ONCE = 16  # what the head is run on: [B, 16, V] logits exist instead of [B, L, V]


@dataclass(frozen=True)
class Likelihood:
    """What the model says of an item.

    nats        log-likelihood of the continuation (pseudo-log-likelihood of a masked model), 0 or less
    greedy      whether each of its tokens is the model's first guess, given the true ones before it (or around it)
    num_tokens  tokens that were summed over
    num_bytes   UTF-8 bytes of the continuation, with the spaces that came from the context
    cut         whether text is out of sight that the window had no room for
    crossed     whether a piece crosses the seam of context and continuation
    """

    nats: float
    greedy: bool
    num_tokens: int
    num_bytes: int
    cut: bool
    crossed: bool


@dataclass(frozen=True)
class Spelling:
    """tokens int32[n] of context and continuation; those from `first` on are scored."""

    tokens: np.ndarray
    first: int
    num_bytes: int
    crossed: bool


@dataclass(frozen=True)
class Row:
    """tokens int32[n] that are read, targets int32[n]; predicted are positions first to stop - 1; all may see the first `seen`.

    `source` int32[m] is what an encoder reads; none where the model has none.
    """

    tokens: np.ndarray
    targets: np.ndarray
    first: int
    stop: int
    seen: int
    source: np.ndarray = field(default_factory=lambda: np.zeros(0, np.int32))

    @property
    def key(self) -> tuple[int, int, bytes, bytes, int, bytes]:
        """Equal for rows with the same result; orders rows so that batches depend on what is asked, not in which order."""
        count, targets = self.stop - self.first, self.targets[self.first : self.stop]
        return count, self.first, self.tokens.tobytes(), targets.tobytes(), self.seen, self.source.tobytes()


def way_for(model: Any, objectives: Sequence[Objective]) -> str:
    """How a model that was trained on these objectives wants to be read.

    Raises:
      InputError: none of them taught it how likely a text is.
    """
    sights = {o.sight for o in objectives if o.sight not in ("prefix", "encoder_decoder") or o.codes_text}
    for way in ("causal", "prefix", "encoder_decoder", "masked"):
        if SIGHT_OF[way] in sights & set(model.sights):
            return way
    said = f"; with --way it is scored all the same, accepted are: {', '.join(ways)}" if (ways := ways_of(model)) else ""
    raise InputError(f"model.name {model.name!r}: it was trained on nothing that tells how likely a text is{said}")


def natural_way(model: Any, objectives: Callable[[], Sequence[Objective]]) -> str:
    """What a model was trained for. Where it can be read one way only, `objectives` are not asked for: their data need not be here."""
    ways = ways_of(model)
    if not {"prefix", "encoder_decoder"} & set(ways):
        return ways[0] if ways else "causal"
    return way_for(model, objectives())


def ways_of(model: Any) -> list[str]:
    """Those that its attention allows."""
    return [way for way, sight in SIGHT_OF.items() if sight in model.sights]


def require_way(way: str, model: Any, vocabulary: Vocabulary) -> None:
    """Raises InputError where the model cannot be read so."""
    ways = ways_of(model)
    if way not in ways:
        raise InputError(f"--way={way}: not for model.name {model.name!r}; {nearest(way, ways)}")
    if way in ("masked", "masked_words") and vocabulary.special.mask < 0:
        raise InputError(f"--way={way}: the vocabulary ({vocabulary.kind}, {vocabulary.size} ids) has no mask token")


def spell(encode: Callable[[str], list[int]], item: Item) -> Spelling:
    """The item's tokens, and where the continuation's begin: see the head of this file."""
    context = item[0].rstrip()
    continuation = item[0][len(context) :] + item[1]
    whole, alone = encode(context + continuation), encode(context) if context else []
    shared = next((i for i, (a, b) in enumerate(zip(whole, alone, strict=False)) if a != b), min(len(whole), len(alone)))
    return Spelling(np.asarray(whole, np.int32), shared, len(continuation.encode("utf-8", "replace")), shared < len(alone))


def left_to_right_rows(spelling: Spelling, start: int, window: int, prefix: bool) -> list[Row]:
    """The row that scores a text: its last `window` tokens, each read one place after it is predicted.

    A continuation that is longer than the window goes on leftwards in further rows, none of its tokens twice. With `prefix`
    the context is seen both ways, as in objectives/prefix.py.
    """
    read = np.concatenate([[np.int32(start)], spelling.tokens])
    rows, stop = [], len(spelling.tokens)
    while stop > spelling.first:
        begin = max(0, stop - window)
        first = max(spelling.first, begin)
        seen = max(0, spelling.first + 1 - begin) if prefix else 0
        rows.append(Row(read[begin:stop], spelling.tokens[begin:stop], first - begin, stop - begin, seen))
        stop = first
    return rows


def encoded_rows(spelling: Spelling, start: int, window: int, eos: int) -> list[Row]:
    """The rows of a continuation whose context is read by an encoder: its last `window` tokens, or `eos` where there is none."""
    source = spelling.tokens[: spelling.first][-window:] if spelling.first else np.asarray([eos], np.int32)
    alone = replace(spelling, tokens=spelling.tokens[spelling.first :], first=0)
    return [replace(row, source=source) for row in left_to_right_rows(alone, start, window, prefix=False)]


def row_after(prompt: Prompt, targets: Sequence[int]) -> Row:
    """The row that scores tokens after what a model was prompted with."""
    read = np.asarray([*prompt.tokens, *targets], np.int32)
    return Row(read[:-1], read[1:], len(prompt.tokens) - 1, len(read) - 1, prompt.seen, np.asarray(prompt.source or [], np.int32))


def masked_rows(spelling: Spelling, vocabulary: Vocabulary, window: int, frame: tuple[list[int], list[int]], words: bool) -> list[Row]:
    """A row for each token of the continuation, in which it is masked.

    With `words`, what follows it in its word is masked too: otherwise the rest of a long word gives it away (Kauf and
    Ivanova 2023). `frame` stands around the text. A longer text keeps its last tokens; a token before those has half a window
    on its left.
    """
    room = window - len(frame[0]) - len(frame[1])
    tokens, length = spelling.tokens, len(spelling.tokens)
    word = np.cumsum(vocabulary.starts_word(tokens)) if words else np.arange(length)
    before, after = (np.asarray(part, np.int32) for part in frame)
    rows = []
    for place in range(spelling.first, length):
        begin = max(0, length - room)
        if place < begin:
            begin = max(0, place - room // 2)
        shown = tokens[begin : begin + room]
        hidden = (np.arange(length) >= place) & (word == word[place])
        read = np.where(hidden[begin : begin + room], np.int32(vocabulary.special.mask), shown)
        first = len(before) + place - begin
        framed = [np.concatenate([before, text, after]) for text in (read, shown)]
        rows.append(Row(framed[0], framed[1], first, first + 1, len(framed[0])))
    return rows


def make_score_step(skeleton: Skeleton, positions_at_once: int) -> Callable[..., tuple[jax.Array, jax.Array]]:
    """`(params, batch, parts) -> (losses float32 [B, >= L], right bool [B])` of positions first to stop - 1 of each row.

    losses[b, k] is of position first[b] + k, zero beyond the last; right says whether all of them are first guesses. The
    head runs on `positions_at_once` of these at a time, `parts` times: as often as the batch's longest needs.
    """

    def step(params: Params, batch: dict[str, jax.Array], parts: jax.Array) -> tuple[jax.Array, jax.Array]:
        outputs = skeleton.merge(params)(batch)
        B, L = batch["tokens"].shape

        def score(part: jax.Array, found: tuple[jax.Array, jax.Array]) -> tuple[jax.Array, jax.Array]:
            places_BP = batch["first"][:, None] + (part * positions_at_once + jnp.arange(positions_at_once))
            counts_BP = places_BP < batch["stop"][:, None]
            places_BP = jnp.minimum(places_BP, L - 1)
            targets_BP = take(batch["targets"], places_BP)
            logits_BPV = outputs.logits(take(outputs.hidden, places_BP))
            losses_BP = jnp.where(counts_BP, token_losses(logits_BPV, targets_BP, outputs.gather_targets), 0.0)
            right_BP = (jnp.argmax(logits_BPV, axis=-1) == targets_BP) | ~counts_BP
            losses = jax.lax.dynamic_update_slice(found[0], losses_BP, (0, part * positions_at_once))
            return losses, found[1] & jnp.all(right_BP, axis=1)

        width = -(-L // positions_at_once) * positions_at_once
        return jax.lax.fori_loop(0, parts, score, (jnp.zeros((B, width), jnp.float32), jnp.ones(B, bool)))

    return step


class Scorer:
    """`scorer(params, items) -> [Likelihood]` in the items' order. What does not depend on the parameters is settled once.

    Neither batch size, nor mesh, nor order matters to the result, up to the rounding of float32; each row is scored once,
    however often it is asked for. `batch_size` rows of `window` tokens make a batch, and more where rows are shorter.

    way     causal           each token from those before it
            prefix           so too, and the context sees itself both ways: for models trained on the objective `prefix`
            encoder_decoder  so too, and an encoder reads the context
            masked           each token from all others, one row each
            masked_words     so too, with the rest of its word masked
    window  how many tokens the model sees at once (0: its max_length)

    Raises:
      InputError: the model cannot be read that way.
    """

    def __init__(
        self, skeleton: Skeleton, vocabulary: Vocabulary, batch_size: int, way: str = "causal", window: int = 0, show: bool = False
    ):
        model, partitioner = skeleton.config, skeleton.partitioner
        require_way(way, model, vocabulary)
        self.vocabulary, self.way, self.batch_size, self.show = vocabulary, way, batch_size, show
        self.window, self.shards = window or model.max_length, partitioner.batch_multiple
        self.masked = SIGHT_OF[way] == "bidirectional"
        self.encode = text_encoder(vocabulary)
        self.frame = self._frame("pair" in model.heads)
        if self.window <= len(self.frame[0]) + len(self.frame[1]):
            raise InputError(f"model.max_length {self.window} has no room for a token of text; give the window's length")
        self.marks = self.way != "causal" and "prefix" in model.sights
        self.shortest = 128 if model.attention_kernel == "splash" else SHORTEST  # that kernel wants whole blocks
        self.shardings = {ndim: partitioner.batch(ndim) for ndim in (1, 2)}
        self.positions_at_once = 1 if self.masked else POSITIONS_AT_ONCE
        self.step = jax.jit(make_score_step(skeleton, self.positions_at_once), out_shardings=partitioner.replicated)

    def _frame(self, pairs: bool) -> tuple[list[int], list[int]]:
        """What stands around a text, as in training: documents end in eos, and where pairs of texts were read, they have [CLS] A [SEP]."""
        special = self.vocabulary.special
        if not self.masked:
            return [], []
        return ([special.cls], [special.sep]) if pairs else ([], [special.eos])

    def __call__(self, params: Params, items: Sequence[Item], what: str = "score") -> list[Likelihood]:
        """`what` is the name of the progress bar.

        Raises:
          InputError: the model gives numbers that are not finite.
        """
        spellings = [spell(self.encode, item) for item in items]
        rows: dict[Any, Row] = {}
        keys: list[list[Any]] = []
        for spelling in spellings:
            own = self.rows(spelling)
            keys.append([row.key for row in own])
            rows.update(zip(keys[-1], own, strict=True))
        found = self._score(params, rows, what)
        return [
            Likelihood(
                -sum(found[key][0] for key in own), all(found[key][1] for key in own), len(spelling.tokens) - spelling.first,
                spelling.num_bytes, self._is_cut(spelling), spelling.crossed,
            )
            for spelling, own in zip(spellings, keys, strict=True)
        ]  # fmt: skip

    def _is_cut(self, spelling: Spelling) -> bool:
        if self.way == "encoder_decoder":
            return max(spelling.first, len(spelling.tokens) - spelling.first) > self.window
        return len(spelling.tokens) > self.window - sum(map(len, self.frame))

    def after(self, params: Params, asked: Sequence[tuple[Prompt, Sequence[int]]], what: str = "score") -> list[tuple[float, bool]]:
        """(nats, whether all are first guesses) of token ids after a prompt, as `Generator` would be prompted; nothing is cut.

        Raises:
          InputError: one is longer than the window, or the model's numbers are not finite.
        """
        assert not self.masked, "a masked model has no prompt"
        rows = [row_after(prompt, targets) for prompt, targets in asked]
        for number, row in enumerate(rows, 1):
            if (taken := max(len(row.tokens), len(row.source))) > self.window:
                raise InputError(f"example {number} takes {taken} positions, and the model sees {self.window} at once")
        found = self._score(params, {row.key: row for row in rows if row.stop > row.first}, what)
        nothing = (0.0, True)
        return [(-nats, right) for nats, right in (found.get(row.key, nothing) for row in rows)]

    def rows(self, spelling: Spelling) -> list[Row]:
        """What the model has to read for one text."""
        if self.masked:
            return masked_rows(spelling, self.vocabulary, self.window, self.frame, self.way == "masked_words")
        if self.way == "encoder_decoder":
            return encoded_rows(spelling, self.vocabulary.special.start, self.window, self.vocabulary.special.eos)
        return left_to_right_rows(spelling, self.vocabulary.special.start, self.window, self.way == "prefix")

    def padded(self, length: int) -> int:
        """The length of the rows that one of so many tokens is put with; 0 for none."""
        size = self.shortest if length else 0
        while size < length:
            size *= 2
        return min(size, self.window)

    def batches(self, keys: Sequence[Any], rows: dict[Any, Row]) -> Iterator[tuple[list[Any], tuple[int, int]]]:
        """(keys of the batch's rows, its lengths: L, and S or 0), short rows first, so that as little as may be is padding."""
        groups: dict[tuple[int, int], list[Any]] = {}
        for key in sorted(keys):
            groups.setdefault((self.padded(len(rows[key].tokens)), self.padded(len(rows[key].source))), []).append(key)
        for lengths, group in sorted(groups.items()):
            size = self.rows_of(max(lengths))
            yield from ((group[i : i + size], lengths) for i in range(0, len(group), size))

    def rows_of(self, length: int) -> int:
        """How many rows of this length make a batch: always about as many tokens, and what the mesh's batch shards divide."""
        return -(-self.batch_size * self.window // (length * self.shards)) * self.shards

    def features(self, rows: Sequence[Row], lengths: tuple[int, int]) -> Features:
        """The model's input; rows beyond the given ones are padding, and nothing of them is predicted."""
        (length, source_length), count = lengths, self.rows_of(max(lengths))
        tokens = np.full((count, length), self.vocabulary.special.pad, np.int32)
        targets, segment_ids, seen = (np.zeros((count, length), np.int32) for _ in range(3))
        first, stop = np.zeros(count, np.int32), np.zeros(count, np.int32)
        for i, row in enumerate(rows):
            size = len(row.tokens)
            tokens[i, :size], targets[i, :size], segment_ids[i, :size], seen[i, : row.seen] = row.tokens, row.targets, 1, 1
            first[i], stop[i] = row.first, row.stop
        positions = np.arange(length, dtype=np.int32) * segment_ids
        made = {"tokens": tokens, "targets": targets, "positions": positions, "segment_ids": segment_ids, "first": first, "stop": stop}
        if source_length:
            sources = [row.source for row in rows] + [np.zeros(0, np.int32)] * (count - len(rows))
            read = [packing.encoder([(1, source)], source_length, self.vocabulary.special.pad) for source in sources]
            made |= {name: np.stack([own[name] for own in read]) for name in packing.ENCODER}
        return made | {"bidirectional": seen} if self.marks else made

    def _score(self, params: Params, rows: dict[Any, Row], what: str) -> dict[Any, tuple[float, bool]]:
        """{key of a row: (summed loss in nats, whether all are first guesses)}."""
        found: dict[Any, tuple[float, bool]] = {}
        plan: Any = list(self.batches(list(rows), rows))
        pending: list[tuple[list[Any], tuple[jax.Array, jax.Array]]] = []

        def collect(keys: list[Any], scored: tuple[jax.Array, jax.Array]) -> None:
            # Summed in float64: what a model finds equally likely is then equal to the last bit.
            losses, right = np.asarray(scored[0], np.float64).sum(axis=1), np.asarray(scored[1])
            if not np.isfinite(losses).all():
                raise InputError("the model's likelihoods are not finite: did the run diverge? choose another --step")
            found.update({key: (float(losses[i]), bool(right[i])) for i, key in enumerate(keys)})

        for keys, lengths in progress(plan, len(plan), what, "batches") if self.show else plan:
            batch = [rows[key] for key in keys]
            features = self.features(batch, lengths)
            shardings = {name: self.shardings[array.ndim] for name, array in features.items()}
            count = len(features["tokens"])
            # Each process builds whole batches and reads whole results.
            arrays = multihost.to_global(features, np.arange(count), count, shardings)
            longest = max(row.stop - row.first for row in batch)
            pending.append((keys, self.step(params, arrays, np.int32(-(-longest // self.positions_at_once)))))
            if len(pending) > 2:  # the device works on while the host reads, and no queue grows
                collect(*pending.pop(0))
        for waiting in pending:
            collect(*waiting)
        return found
