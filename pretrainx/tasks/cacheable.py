"""A SeqIO Task as the token cache needs it: what it is made of (as a hash), its shards, and its examples up to the
cache placeholder. Tasks written by others count as well: names, byte counts and ends of documents are added where
they have none."""

import functools
import importlib
import inspect
import os
import re
from collections.abc import Iterator
from typing import Any

import numpy as np
import seqio
import tensorflow as tf

from pretrainx.core import files
from pretrainx.core.errors import InputError
from pretrainx.core.sections import Data
from pretrainx.core.vocabulary import Vocabulary
from pretrainx.tasks.corpora import SPLITS
from pretrainx.tasks.sources import DocumentSource

COUNTED = ("documents_replaced", "characters_replaced", "blank")  # of the reader's counts


def identity(task: seqio.Task, data: Data) -> str:
    """A hash of a Task's steps, source and features, and of the user's module; addresses in memory do not count.

    Code that the module merely imports is not seen: delete the cache's folder after changing that.
    """
    module = importlib.import_module(data.module) if data.module else None
    path = getattr(module, "__file__", None)
    parts = [
        task.name,
        _source_text(task.source),
        [_step(step) for step in task.preprocessors],
        {name: [str(type(f.vocabulary).__name__), f.add_eos] for name, f in task.output_features.items()},
        files.sha256_file(path) if path else "",
    ]
    return files.sha256_json(parts)


def shard_names(task: seqio.Task) -> dict[str, list[str]]:
    """{split: shards of its source} for the splits we know.

    Raises:
      InputError: the Task cannot be cached, or it has no train split.
    """
    if not task.supports_caching:
        raise InputError(
            f"Task {task.name!r} has no seqio.CacheDatasetPlaceholder among its preprocessors; put one after the steps to be cached"
        )
    try:
        found = {split: [os.fspath(s) for s in task.source.list_shards(split)] for split in SPLITS if split in task.splits}
    except InputError:
        raise
    except Exception as error:
        raise InputError(f"Task {task.name!r}: its source cannot be listed: {_first_line(error)}") from None
    if "train" not in found:
        raise InputError(f"Task {task.name!r} has no split 'train'; it has: {', '.join(task.splits)}")
    return found


def examples(task: seqio.Task, split: str, index: int, of: int, vocabulary: Vocabulary, counts: dict[str, int]) -> Iterator[dict[str, Any]]:
    """The examples of one shard: the Task's features (int arrays that end with eos), "id", "origin", "num_bytes".

    `counts` is filled as they go by: empty (dropped), not_lossless (do not decode to their text), and the reader's.

    Raises:
      InputError: what the source says against its input, or features that are no token sequences.
    """
    source = task.source
    counts.update(empty=0, not_lossless=0)
    try:
        for number, example in enumerate(_dataset(task, split, index, of).as_numpy_iterator()):
            found = _example(task, example, f"{split}-{index:05d}-{number}", vocabulary)
            content = sum(int(np.sum(found[f] != vocabulary.special.eos)) for f in task.output_features)
            counts["empty"] += content == 0
            if content:
                counts["not_lossless"] += bool(found.pop("changed"))
                yield found
    except (tf.errors.OpError, ValueError) as error:
        failure = getattr(source, "failure", None)
        raise failure or InputError(f"Task {task.name!r}, split {split!r}: {_first_line(error)}") from None
    if isinstance(source, DocumentSource):
        counts.update({key: getattr(source.counts, key) for key in COUNTED})


def _dataset(task: seqio.Task, split: str, index: int, of: int) -> tf.data.Dataset:
    source, info = task.source, seqio.ShardInfo(index, of)
    if isinstance(source, DocumentSource):
        source.select(split, info)
        return _pipeline(task)
    if source.supports_arbitrary_sharding or len(source.list_shards(split)) >= of:
        dataset = source.get_dataset(split, shuffle=False, shard_info=info)
    else:
        dataset = source.get_dataset(split, shuffle=False).shard(of, index)
    return task.preprocess_precache(dataset, seed=0)


@functools.lru_cache(maxsize=8)
def _pipeline(task: seqio.Task) -> tf.data.Dataset:
    """The pre-cache steps over whatever the Task's source has selected.

    One thread does all, since handing each document to another costs more than it gains where processes are the parallelism.
    """
    options = tf.data.Options()
    options.autotune.enabled = False
    options.threading.private_threadpool_size = 1
    return task.preprocess_precache(task.source.selected, seed=0).with_options(options)


def _example(task: seqio.Task, example: dict[str, Any], name: str, vocabulary: Vocabulary) -> dict[str, Any]:
    found: dict[str, Any] = {"id": _text(example.get("id", name)), "origin": _text(example.get("origin", f"{task.name}#{name}"))}
    decoded = 0
    for feature, spec in task.output_features.items():
        if feature not in example:
            raise InputError(
                f"Task {task.name!r}: no feature {feature!r} before its cache placeholder; it has: {', '.join(sorted(example))}"
            )
        tokens = np.asarray(example[feature])
        if tokens.ndim != 1 or not np.issubdtype(tokens.dtype, np.integer):
            raise InputError(
                f"Task {task.name!r}: feature {feature!r} is {tokens.dtype} of rank {tokens.ndim}; the cache keeps token ids of rank 1"
            )
        if not isinstance(spec.vocabulary, seqio.PassThroughVocabulary):  # a label is no text
            decoded += int(vocabulary.token_bytes[tokens[(tokens >= 0) & (tokens < vocabulary.size)]].sum())
        if spec.add_eos and (not len(tokens) or tokens[-1] != vocabulary.special.eos):
            tokens = np.append(tokens, vocabulary.special.eos)
        found[feature] = tokens
    found["num_bytes"] = int(example.get("num_bytes", decoded))
    found["changed"] = vocabulary.lossless and decoded != found["num_bytes"]
    return found


def _text(value: Any) -> str:
    value = value.item() if hasattr(value, "item") else value
    return value.decode("utf-8", "replace") if isinstance(value, bytes) else str(value)


def _step(step: Any) -> Any:
    """A preprocessor as text: its name, its bound arguments and its source."""
    if isinstance(step, functools.partial):
        return [_step(step.func), _no_addresses(repr(step.args)), _no_addresses(repr(sorted(step.keywords.items())))]
    name = getattr(step, "__qualname__", type(step).__qualname__)
    try:
        return [name, inspect.getsource(step if inspect.isfunction(step) else type(step))]
    except (OSError, TypeError):
        return [name, _no_addresses(repr(step))]


def _source_text(source: Any) -> str:
    return f"{type(source).__qualname__} {_no_addresses(repr(source))}"


def _no_addresses(text: str) -> str:
    return re.sub(r" at 0x[0-9a-f]+|object at \S+|id=\d+", "", text)


def _first_line(error: BaseException) -> str:
    lines = [line for line in str(error).splitlines() if line.strip()]
    return " ".join(lines[0].split())[:300] if lines else type(error).__name__
