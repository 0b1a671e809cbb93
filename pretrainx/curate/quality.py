"""What good text looks like, learned from examples: a linear classifier and an n-gram model, both small, inspectable, in one file.

The classifier is a logistic regression on hashed runs of one and two words, as fastText's classifiers are (Joulin et al.
2017), without hidden layers: each run's weight can be read. The n-gram model gives a text's perplexity (Wenzek et al. 2020,
CCNet), by Witten and Bell's interpolation over hashed counts. Files are .npz without pickled objects, with a JSON header.
"""

import io
import json
import zipfile
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from pretrainx.core import files, rng
from pretrainx.core.errors import InputError
from pretrainx.curate.documents import Batch

_FORMAT = 1
_ARRAYS = {"classifier": ("weights",), "perplexity": ("counts", "followers")}


@dataclass(frozen=True)
class Classifier:
    """Weights by hashed run of words; positive ones speak for good text."""

    weights: np.ndarray  # float32[2^k]
    bias: float
    orders: int  # runs of 1 to so many words
    header: dict[str, Any]  # how it was made

    def scores(self, batch: Batch) -> np.ndarray:
        """float64[documents]: the probability (0 to 1) that a text is good."""
        from pretrainx.curate.columns.scores import linear_scores
        from pretrainx.curate.columns.words import words

        found, out = words(batch), np.zeros(len(batch))
        linear_scores(found.bounds, found.hashes, found.powers, self.orders, self.weights, self.bias, out)
        return 1 / (1 + np.exp(-out))

    def explain(self, text: str, most: int = 10) -> list[tuple[str, float]]:
        """The runs of words that weigh most in a text, with what each adds to the logit; the strongest first."""
        from pretrainx.curate.columns.scores import run_key
        from pretrainx.curate.columns.words import words
        from pretrainx.curate.documents import Document

        found = words(Batch([Document("", text, "")]))
        number, mask = len(found.starts), len(self.weights) - 1
        added: dict[str, float] = {}
        runs = [(first, count) for first in range(number) for count in range(1, min(self.orders, number - first) + 1)]
        for first, count in runs:
            pieces = range(first, first + count)
            name = " ".join(text[found.starts[word] : found.starts[word] + found.lengths[word]] for word in pieces)
            weight = float(self.weights[int(run_key(found.hashes, found.powers, first, count)) & mask])
            added[name] = added.get(name, 0.0) + weight / len(runs)
        return sorted(added.items(), key=lambda item: (-abs(item[1]), item[0]))[:most]


@dataclass(frozen=True)
class NgramModel:
    """Counts of hashed runs of words."""

    counts: np.ndarray  # uint32[2^k]
    followers: np.ndarray  # uint32[2^k]: how many different words follow a run
    orders: int
    words: int
    vocabulary: int
    header: dict[str, Any]

    def perplexities(self, batch: Batch) -> np.ndarray:
        """float64[documents]: the exponential of the mean surprise of a word; 1 for a text without words."""
        from pretrainx.curate.columns.scores import surprise
        from pretrainx.curate.columns.words import words

        found, out = words(batch), np.zeros(len(batch))
        surprise(
            found.bounds, found.hashes, found.powers, self.orders, self.counts, self.followers, self.words, self.vocabulary, out
        )  # fmt: skip
        return np.exp(out)


def train_classifier(
    batches: Sequence[tuple[Batch, np.ndarray]],
    *,
    buckets: int = 2**20,
    orders: int = 2,
    epochs: int = 5,
    rate: float = 0.5,
    decay: float = 0.0,
    seed: int = 0,
) -> Classifier:
    """A classifier from batches with bool[documents], true for good text; both kinds weigh the same in all.

    Raises:
      InputError: one of the kinds has no document, or `buckets` is not a power of two.
    """
    from pretrainx.curate.columns.scores import train_linear
    from pretrainx.curate.columns.words import words

    _check_buckets(buckets)
    good = sum(int(labels.sum()) for _, labels in batches)
    bad = sum(len(labels) for _, labels in batches) - good
    for kind, number in (("good", good), ("bad", bad)):
        if not number:
            raise InputError(f"training a quality classifier: there is no {kind} document; both kinds are needed")
    weights, squares, bias = np.zeros(buckets, np.float32), np.zeros(buckets, np.float32), np.zeros(2)
    losses = []
    for epoch in range(epochs):
        generator = rng.generator(seed, "quality", epoch)
        total = 0.0
        for index in generator.permutation(len(batches)):
            batch, labels = batches[index]
            found = words(batch)
            importance = np.where(labels, (good + bad) / (2 * good), (good + bad) / (2 * bad))
            order = generator.permutation(len(batch))
            pace = rate * (1 - epoch / epochs)
            total += len(batch) * train_linear(
                found.bounds, found.hashes, found.powers, orders, labels, importance, order, pace, decay, weights, squares, bias
            )
        losses.append(total / (good + bad))
    header = {"good": good, "bad": bad, "epochs": epochs, "rate": rate, "decay": decay, "seed": seed, "losses": losses}
    return Classifier(weights, float(bias[0]), orders, header)


def train_perplexity(batches: Iterable[Batch], *, buckets: int = 2**22, orders: int = 3) -> NgramModel:
    """An n-gram model that has counted these batches."""
    from pretrainx.curate.columns.scores import count_runs
    from pretrainx.curate.columns.words import words

    _check_buckets(buckets)
    counts, followers, totals = np.zeros(buckets, np.uint32), np.zeros(buckets, np.uint32), np.zeros(2, np.int64)
    documents = 0
    for batch in batches:
        found = words(batch)
        count_runs(found.bounds, found.hashes, found.powers, orders, counts, followers, totals)
        documents += len(batch)
    if not totals[0]:
        raise InputError("training an n-gram model: the texts hold no word")
    filled = float(np.count_nonzero(counts) / buckets)  # above a half, runs begin to share buckets often
    return NgramModel(counts, followers, orders, int(totals[0]), int(totals[1]), {"documents": documents, "filled": filled})


def save(model: Classifier | NgramModel, path: Path | str) -> None:
    """Writes a model, atomically; equal models give equal bytes."""
    kind = "classifier" if isinstance(model, Classifier) else "perplexity"
    header: dict[str, Any] = {"format": _FORMAT, "kind": kind, "orders": model.orders, "made": model.header}
    if isinstance(model, Classifier):
        header["bias"] = model.bias
    else:
        header |= {"words": model.words, "vocabulary": model.vocabulary}
    arrays = {name: getattr(model, name) for name in _ARRAYS[kind]}
    text = json.dumps(header, sort_keys=True).encode()
    out = io.BytesIO()
    with zipfile.ZipFile(out, "w", zipfile.ZIP_DEFLATED) as archive:
        for name, array in {"header": np.frombuffer(text, np.uint8), **arrays}.items():
            member = io.BytesIO()
            np.lib.format.write_array(member, array, allow_pickle=False)
            archive.writestr(zipfile.ZipInfo(f"{name}.npy"), member.getvalue(), zipfile.ZIP_DEFLATED)  # without the time of day
    files.write_bytes(path, out.getvalue())


def load(path: Path | str, kind: str, where: str) -> Any:
    """The model of a file; `where` is the config key that names it.

    Raises:
      InputError: no such file, not a model of this kind, or damaged.
    """
    try:
        with open(path, "rb") as stream, np.load(stream, allow_pickle=False) as archive:
            header = json.loads(archive["header"].tobytes())
            if header.get("format") != _FORMAT or header.get("kind") != kind:
                found = f"format {header.get('format')}, kind {header.get('kind')!r}"
                raise InputError(f"{where}: {path} holds {found}, and format {_FORMAT}, kind {kind!r} is wanted")
            arrays = {name: archive[name] for name in _ARRAYS[kind]}
            size = len(arrays[_ARRAYS[kind][0]])
            if any(array.ndim != 1 or len(array) != size for array in arrays.values()) or size & (size - 1) or not size:
                raise InputError(f"{where}: {path} is damaged: its arrays do not fit each other")
            if kind == "classifier":
                return Classifier(arrays["weights"], float(header["bias"]), int(header["orders"]), header["made"])
            return NgramModel(
                arrays["counts"], arrays["followers"], int(header["orders"]), int(header["words"]), int(header["vocabulary"]),
                header["made"],
            )  # fmt: skip
    except FileNotFoundError:
        raise InputError(f"{where}: model not found: {path}; tools/train_quality.py makes one") from None
    except (OSError, ValueError, KeyError, EOFError, AttributeError, TypeError, zipfile.BadZipFile) as error:
        raise InputError(f"{where}: {path} is not a model that tools/train_quality.py made: {error}") from None


def area_under_curve(scores: np.ndarray, labels: np.ndarray) -> float:
    """The chance that a good text scores higher than a bad one, ties counted half (Mann and Whitney's U)."""
    order = np.argsort(scores, kind="stable")
    ordered = scores[order]
    _, first, counts = np.unique(ordered, return_index=True, return_counts=True)
    ranks = np.empty(len(scores))
    ranks[order] = np.repeat(first + (counts + 1) / 2, counts)
    good = int(labels.sum())
    bad = len(labels) - good
    return float((ranks[labels].sum() - good * (good + 1) / 2) / (good * bad)) if good and bad else float("nan")


def _check_buckets(buckets: int) -> None:
    if buckets < 2 or buckets & (buckets - 1):
        raise InputError(f"buckets: expected a power of two, found {buckets}; accepted: {2**16}, {2**20}, {2**24}, ...")
