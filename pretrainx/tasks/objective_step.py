"""An objective under plain SeqIO: a Task's cached documents become the windows and features that our loader makes.

Read without shuffling and unsharded, row i holds the same bytes as window i of the loader's first epoch, as long as
the source gives documents in the order of the token cache (files in order; a single large file is cached in
interleaved parts, see data/build.py). Everything that differs between rows and runs of the loader stays with the
loader: order, rates, epochs, resumption.
"""

from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import replace
from typing import Any

import numpy as np
import seqio
import tensorflow as tf

from pretrainx.core.errors import InputError
from pretrainx.core.sections import Data
from pretrainx.core.vocabulary import SpecialIds, Vocabulary
from pretrainx.objectives.examples import Spec, choose_elsewhere, fill, from_pieces, joint_spec, make_objective, randomness
from pretrainx.objectives.interface import Features, Objective, Window
from pretrainx.tasks import vocabulary_spec

STREAM = "targets"  # the feature whose documents are the token stream


def with_objective(task: seqio.Task, name: str, objective_name: str, data: Data, beside: Iterable[str] = ()) -> seqio.Task:
    """The Task called `name`: the documents of `task` up to its cache placeholder, then examples of the objective.

    SeqIO's Mixtures want equal features of all their Tasks: those of the objectives named in `beside` are there too, as zeros.

    Its output features are what the model reads; `seqio.PassThroughFeatureConverter` hands them on as they are.
    """
    vocabulary = vocabulary_spec.load(data.vocabulary)
    objective = make_objective(objective_name, data, vocabulary)
    spec = joint_spec({other: make_objective(other, data, vocabulary) for other in {objective_name, *beside}}, vocabulary)
    text = task.output_features[objective.reads[0] if objective.reads else STREAM]
    return seqio.Task(
        name,
        source=task.source,
        # as one step, so that the steps of the task see its own output features and not those of the objective
        preprocessors=[
            _cached_steps(task),
            seqio.CacheDatasetPlaceholder(),
            _examples(name, objective, spec, vocabulary, data.seed, text.add_eos),
        ],
        output_features={feature: _feature(feature, shape, dtype, text.vocabulary) for feature, (shape, dtype) in spec.items()},
    )


def ended(documents: Iterable[np.ndarray], special: SpecialIds, add_eos: bool = True) -> Iterator[np.ndarray]:
    """Documents as the cache holds them: those without content left out, the others with their end-of-document token."""
    for document in documents:
        if not np.any(document != special.eos):
            continue
        yield np.append(document, special.eos) if add_eos and document[-1] != special.eos else document


def windows(documents: Iterable[np.ndarray], length: int, special: SpecialIds) -> Iterator[Window]:
    """The windows of the stream of these documents, as data/windows.py reads them from the cache of it."""
    tokens, pieces, filled, first_input = np.full(length, special.pad, np.int32), [], 0, special.start
    for document in documents:
        done = 0
        while done < len(document):
            if not filled:
                first_input = int(document[done - 1]) if done else special.start
            take = min(length - filled, len(document) - done)
            tokens[filled : filled + take] = document[done : done + take]
            pieces.append((filled, filled + take))
            filled, done = filled + take, done + take
            if filled == length:
                yield from_pieces(tokens, pieces, first_input)
                tokens, pieces, filled = np.full(length, special.pad, np.int32), [], 0
    if filled:
        yield from_pieces(tokens, pieces, first_input)


def elsewhere_in(documents: list[np.ndarray], length: int) -> Callable[[tuple[int, str, int, int]], np.ndarray]:
    """`(seed, source, epoch, window) -> the stretch of another document` that data/windows.py would read."""
    ends, stream = np.cumsum([len(document) for document in documents]), np.concatenate(documents).astype(np.int32)

    def elsewhere(address: tuple[int, str, int, int]) -> np.ndarray:
        start = address[3] * length
        last = min(start + length, len(stream)) - 1
        own = (int(np.searchsorted(ends, start, "right")), int(np.searchsorted(ends, last, "right")) + 1)
        first, stop = choose_elsewhere(address, len(ends), own, lambda d: (int(ends[d - 1]) if d else 0, int(ends[d])), length)
        return stream[first:stop]

    return elsewhere


def _cached_steps(task: seqio.Task) -> Callable[[tf.data.Dataset], tf.data.Dataset]:
    return lambda dataset: task.preprocess_precache(dataset, seed=0)  # the seed under which the token cache is written


def _examples(
    name: str, objective: Objective, spec: Spec, vocabulary: Vocabulary, seed: int, add_eos: bool
) -> Callable[..., tf.data.Dataset]:
    signature = {feature: tf.TensorSpec(shape, tf.as_dtype(dtype)) for feature, (shape, dtype) in spec.items()}

    def make_examples(dataset: tf.data.Dataset, sequence_length: Mapping[str, int | None] | None = None) -> tf.data.Dataset:
        _refuse_other_lengths(name, sequence_length, spec)

        def of_records() -> Iterator[Features]:
            special = vocabulary.special
            records = (example for example in dataset.as_numpy_iterator() if holds_anything(example, objective.reads, special))
            for index, example in enumerate(records):
                record = {feature: example[feature].astype(np.int32) for feature in objective.reads}
                if add_eos:
                    record = {feature: with_end(ids, special.eos) for feature, ids in record.items()}
                features = {feature: np.zeros(shape, dtype) for feature, (shape, dtype) in spec.items()}
                fill(features, objective.example(record, randomness(seed, name, 0, index)))
                yield features

        def of_windows() -> Iterator[Features]:
            documents: Iterable[np.ndarray] = (example[STREAM] for example in dataset.as_numpy_iterator())
            documents = ended(documents, vocabulary.special, add_eos)
            length, elsewhere = objective.window_length, None
            if objective.needs_elsewhere:
                documents = list(documents)  # another document may be any of them
                elsewhere = elsewhere_in(documents, length)
            for index, window in enumerate(windows(documents, length, vocabulary.special)):
                if elsewhere:
                    window = replace(window, elsewhere=elsewhere((seed, name, 0, index)))
                features = {feature: np.zeros(shape, dtype) for feature, (shape, dtype) in spec.items()}
                fill(features, objective.example(window, randomness(seed, name, 0, index)))
                yield features

        return tf.data.Dataset.from_generator(of_records if objective.reads else of_windows, output_signature=signature)

    return make_examples


def with_end(ids: np.ndarray, eos: int) -> np.ndarray:
    return ids if len(ids) and ids[-1] == eos else np.append(ids, np.int32(eos))


def holds_anything(example: Mapping[str, np.ndarray], features: Iterable[str], special: SpecialIds) -> bool:
    """Whether a record has a token beyond its ends: others are not in the token cache."""
    return any(np.any(example[feature] != special.eos) for feature in features)


def _refuse_other_lengths(name: str, asked: Mapping[str, int | None] | None, spec: Mapping[str, Any]) -> None:
    """SeqIO would trim features to the lengths asked for, and lose what the objective put behind them."""
    for feature, length in (asked or {}).items():
        if length is not None and feature in spec and spec[feature][0] and length != spec[feature][0][0]:
            raise InputError(
                f"Task {name!r}: sequence_length of {feature!r} is {length}, but data.sequence_length makes it {spec[feature][0][0]}; "
                "change data.sequence_length and register the Task anew"
            )


def _feature(name: str, shape: tuple[int, ...], dtype: np.dtype, vocabulary: seqio.Vocabulary) -> seqio.Feature:
    """A feature of tokens keeps the vocabulary, so that SeqIO's own tools can show it; others are passed through."""
    kind = tf.as_dtype(dtype)
    if kind.is_integer and name.endswith(("tokens", "targets")):
        return seqio.Feature(vocabulary, add_eos=False, dtype=kind, rank=len(shape))
    return seqio.ContinuousFeature(dtype=kind, rank=len(shape))
