"""The ledger: what a row of any step is made of, and which steps see a document. Neither needs the model.

Rows come from the loader's own code, so what is shown is what is fed; the inverse is computed from the order, by no
search through steps.
"""

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import asdict, dataclass
from itertools import groupby, islice
from typing import Any

import numpy as np

from pretrainx.core.errors import InputError, nearest
from pretrainx.core.vocabulary import Vocabulary
from pretrainx.data.cache import Document
from pretrainx.data.loader import Mixture, RowBuilder, Source, rows_digest
from pretrainx.data.order import Order, Rows
from pretrainx.data.windows import Windows
from pretrainx.objectives.interface import Features

NAMES_COMPARED = 50_000  # when an unknown id's neighbours are looked for: about a second


@dataclass(frozen=True)
class Piece:
    """A document's tokens [start, end) in a row: they are tokens [first, last) of the row's window."""

    id: str
    origin: str  # file and record, e.g. "train-00.jsonl.gz#17"
    start: int
    end: int
    document_tokens: int
    first: int
    last: int
    text: str


@dataclass(frozen=True)
class Row:
    """One row of a batch with its trail."""

    row: int  # its place in the global batch
    number: int  # its number in the run
    source: str  # "corpus:objective"
    epoch: int
    window: int
    documents: tuple[Piece, ...]
    features: Features

    def to_json(self) -> dict[str, Any]:
        """Features stand beside the trail, each under its name."""
        trail = {name: getattr(self, name) for name in ("row", "number", "source", "epoch", "window")}
        return trail | {"documents": [asdict(piece) for piece in self.documents]} | {name: a.tolist() for name, a in self.features.items()}


@dataclass(frozen=True)
class Step:
    """The rows of a step that one process builds (all of them by default)."""

    step: int
    rows: tuple[Row, ...]
    batch_sha256: str

    def to_json(self, limit: int | None = None) -> dict[str, Any]:
        return {"step": self.step, "rows": [row.to_json() for row in self.rows[:limit]], "batch_sha256": self.batch_sha256}


@dataclass(frozen=True)
class Sighting:
    """A row that sees tokens [start, end) of a document."""

    step: int
    row: int
    source: str
    epoch: int
    window: int
    document: int  # index into the list of documents that was asked for
    start: int
    end: int


def describe_step(mixture: Mixture, step: int, batch_size: int, local_rows: Sequence[int] | None = None) -> Step:
    """The batch of a step, counted from 0, or the given rows of it.

    `batch_sha256` is a sum over rows, modulo 2^256: of all rows it does not depend on how they are shared out, and the
    sums of the processes' parts add up to it, as those of steps add up to the `rows_sha256` of `train --json`.
    """
    places = np.arange(batch_size) if local_rows is None else np.asarray(local_rows, np.int64)
    every = mixture.skips.rows(mixture.order(), step * batch_size, (step + 1) * batch_size)
    mine = Rows(*(getattr(every, field)[places] for field in ("number", "source", "epoch", "window")))
    features = RowBuilder(mixture).build(mine)
    rows = []
    for i, place in enumerate(places.tolist()):
        source, window = mixture.sources[mine.source[i]], int(mine.window[i])
        own = {name: array[i] for name, array in features.items() if name != "objective"}
        pieces = tuple(pieces_of(source, window, mixture.vocabulary))
        if source.objective.needs_elsewhere:
            assert isinstance(source.windows, Windows)
            address = (mixture.seed, source.name, int(mine.epoch[i]), window)
            start, stop = source.windows.elsewhere(window, address)
            pieces += tuple(pieces_between(source, start, stop, mixture.vocabulary))
        rows.append(Row(place, int(mine.number[i]), source.name, int(mine.epoch[i]), window, pieces, own))
    return Step(step, tuple(rows), f"{rows_digest(mine.number, features):064x}")


def pieces_of(source: Source, window: int, vocabulary: Vocabulary) -> Iterator[Piece]:
    """The documents of a window, in the order of its segments."""
    start, stop = source.windows.span(window)
    return pieces_between(source, start, stop, vocabulary)


def pieces_between(source: Source, start: int, stop: int, vocabulary: Vocabulary) -> Iterator[Piece]:
    """The documents of a stretch of the stream; places are counted from its start."""
    cache, feature = source.windows.cache, source.windows.feature
    tokens = cache.read(start, stop, feature)
    for index, first, last in cache.documents_in(start, stop, feature):
        document = cache.document(index, feature)
        yield Piece(
            document.id, document.origin, first - document.start, last - document.start, document.end - document.start,
            first - start, last - start, vocabulary.decode(tokens[first - start : last - start]),
        )  # fmt: skip


def find_documents(mixture: Mixture, identity: str) -> list[tuple[str, Document]]:
    """(corpus, document) of every document with this id: an id may stand in several corpora."""
    return [
        (corpus, cache.document(index, cache.main_feature))
        for corpus, cache in _caches(mixture).items()
        for index in cache.find_document(identity)
    ]


def require_documents(mixture: Mixture, identity: str) -> list[tuple[str, Document]]:
    """As `find_documents`.

    Raises:
      InputError: no document has this id; the sentence names the nearest ids.
    """
    found = find_documents(mixture, identity)
    if found:
        return found
    names = islice((name for cache in _caches(mixture).values() for name in cache.document_ids()), NAMES_COMPARED)
    raise InputError(f"--document: no document has the id {identity!r}; {nearest(identity, set(names), limit=6)}")


def sightings(mixture: Mixture, documents: Iterable[tuple[str, Document]], batch_size: int, steps: int) -> list[Sighting]:
    """The rows of the first `steps` steps that see these documents, in the order of the run."""
    order = mixture.order()
    found: list[Sighting] = []
    for number, (corpus, document) in enumerate(documents):
        for index, source in enumerate(mixture.sources):
            if source.corpus == corpus:
                found += _sightings(mixture, order, index, number, document, batch_size, steps)
    return sorted(found, key=lambda s: (s.step, s.row, s.start))


def _sightings(
    mixture: Mixture, order: Order, index: int, number: int, document: Document, batch_size: int, steps: int
) -> Iterator[Sighting]:
    source = mixture.sources[index]
    document = source.windows.cache.document(document.index, source.windows.feature)
    for window in source.windows.touching(document):
        start, stop = source.windows.span(window)
        first, last = max(start, document.start) - document.start, min(stop, document.end) - document.start
        for epoch, row in enumerate(order.find(index, window, mixture.skips.number(steps * batch_size))):
            if (place := mixture.skips.place(row)) is not None:
                yield Sighting(place // batch_size, place % batch_size, source.name, epoch, window, number, first, last)


def _caches(mixture: Mixture) -> dict[str, Any]:
    return {source.corpus: source.windows.cache for source in mixture.sources}


# What the objective made of a window, token by token. "target" and "context" are told apart by the loss weight;
# the kinds in between only occur where the model's input is the window itself, altered.
KINDS = ("target", "context", "masked", "replaced", "kept", "special")


@dataclass(frozen=True)
class Mark:
    """A stretch of a row's text of one kind; `was` is the target where the input shows another token."""

    kind: str
    text: str
    was: str = ""


def marks(features: Features, causal: bool, first: int, last: int, vocabulary: Vocabulary) -> list[Mark]:
    """Tokens [first, last) of a row of an `aligned` objective as the objective sees them.

    A left-to-right objective is shown by its targets: "target" where the loss counts, else "context". Any other by
    its inputs: "masked", "replaced" and "kept" tokens are predicted, each a mark of its own; "context" is only seen.
    """
    targets, weights = features["targets"][first:last].tolist(), features["loss_weights"][first:last].tolist()
    inputs = targets if causal else features["tokens"][first:last].tolist()
    kinds = [_kind(*token, causal, vocabulary) for token in zip(inputs, targets, weights, strict=True)]
    found: list[Mark] = []
    for kind, group in groupby(range(last - first), key=kinds.__getitem__):
        places = list(group)
        if kind in ("context", "target"):  # together, since a character may have several tokens
            found.append(Mark(kind, vocabulary.decode_bytes([inputs[i] for i in places]).decode("utf-8", "backslashreplace")))
        else:
            found += [Mark(kind, vocabulary.piece(inputs[i]), "" if kind == "special" else vocabulary.piece(targets[i])) for i in places]
    return found


def _kind(token: int, target: int, weight: float, causal: bool, vocabulary: Vocabulary) -> str:
    if not causal and weight > 0:
        return "masked" if token == vocabulary.special.mask else "replaced" if token != target else "kept"
    if token in vocabulary.special.ids:
        return "special"
    return "target" if causal and weight > 0 else "context"
