"""What a fine-tuned model says of labelled texts: predictions for every example of a split, and the task's own metrics of them.

Examples are read from their files here, so that neither a token cache nor labels are needed: a leaderboard's test split has none.
"""

import math
from collections.abc import Iterator, Sequence
from functools import partial
from typing import Any

import jax
import numpy as np

from pretrainx.core.errors import InputError
from pretrainx.core.logs import progress
from pretrainx.core.vocabulary import Vocabulary
from pretrainx.evaluate.generate import Generator
from pretrainx.evaluate.results import Items, unique
from pretrainx.evaluate.sampling import Sampling
from pretrainx.models.skeleton import Params, Skeleton
from pretrainx.objectives.interface import Features
from pretrainx.parallel import multihost
from pretrainx.parallel.shard import Partitioner
from pretrainx.tasks.encoding import text_encoder
from pretrainx.tasks.labelled.scoring import Prediction, said
from pretrainx.tasks.labelled.task import FEATURES, Example, Form, Task

SPARE_TOKENS = 2  # beyond the longest answer, before a text that does not end is cut


def records_of(task: Task, form: Form, examples: Sequence[Example], vocabulary: Vocabulary) -> list[dict[str, np.ndarray]]:
    """The examples as records of token ids, as the token cache keeps them."""
    encode = text_encoder(vocabulary)

    def feature(example: Example, name: str) -> np.ndarray:
        text = example.feature(name, task.measure)
        if name == "label":
            return np.asarray([int(digit) for digit in text], np.int32)
        end = [vocabulary.special.eos] if form == "words" else []
        return np.asarray([*encode(text), *end] if text or form == "words" else [], np.int32)

    return [{name: feature(example, name) for name in FEATURES[form]} for example in examples]


def device_batches(
    partitioner: Partitioner, objective: Any, records: Sequence[dict[str, np.ndarray]], batch_size: int, show: str = ""
) -> Iterator[tuple[dict[str, jax.Array], Features, int]]:
    """(batch on the mesh, the same on the host, its rows that count) of records in order; rows beyond them repeat the last.

    `batch_size` is rounded up to what the mesh's batch shards divide.
    """
    size = partitioner.round_up(batch_size)
    starts: Any = range(0, len(records), size)
    for start in progress(starts, len(starts), show, "batches") if show else starts:
        rows = [objective.example(record, np.random.default_rng(0)) for record in records[start : start + size]]
        count = len(rows)
        rows += [rows[-1]] * (size - count)
        batch = {name: np.stack([row[name] for row in rows]) for name in rows[0]}
        shardings = {name: partitioner.batch(array.ndim) for name, array in batch.items()}
        yield multihost.to_global(batch, np.arange(size), size, shardings), batch, count


class Classifier:
    """`classifier(params, records) -> float64 [N, C]`: the head's outputs. The result does not depend on batch size or mesh."""

    def __init__(self, skeleton: Skeleton, objective: Any, batch_size: int, show: str = ""):
        partitioner = skeleton.partitioner
        self.batches = partial(device_batches, partitioner, objective, batch_size=batch_size, show=show)
        self.run = jax.jit(
            lambda params, batch: skeleton.merge(params)(batch).heads["classes"](), out_shardings=partitioner.replicated
        )  # fmt: skip

    def __call__(self, params: Params, records: Sequence[dict[str, np.ndarray]]) -> np.ndarray:
        found = [np.asarray(self.run(params, batch), np.float64)[:count] for batch, _, count in self.batches(records=records)]
        return np.concatenate(found)


def predict(
    skeleton: Skeleton, params: Params, vocabulary: Vocabulary, objective: Any, task: Task, form: Form,
    examples: Sequence[Example], batch_size: int, show: str = "",
) -> list[Prediction]:  # fmt: skip
    """What a model says of the examples: by its head, or in words, greedily."""
    if not examples:
        raise InputError("there is no example to predict; look at the split and at --limit")
    if form == "classes":
        outputs = Classifier(skeleton, objective, batch_size, show)(params, records_of(task, form, examples, vocabulary))
        return [Prediction(outputs=row) for row in outputs]
    encode = text_encoder(vocabulary)
    answers = list(task.labels) or [answer for example in examples for answer in (example.targets, *example.answers)]
    longest = max((len(encode(answer)) for answer in answers), default=0)
    num_tokens = min(objective.target_length, max(longest, 8) + SPARE_TOKENS)
    generator = Generator(skeleton, vocabulary, objective.prompt, Sampling(0.0), num_tokens, batch_size=batch_size, show=bool(show))
    return [Prediction(text=made.text.strip()) for made in generator(params, [example.inputs for example in examples])]


def credits(task: Task, form: Form, examples: Sequence[Example], predictions: Sequence[Prediction]) -> Items | None:
    """1 for each example that is answered rightly, 0 for the others: what intervals are made of. None where accuracy is no metric."""
    if task.measure != "classes" or "accuracy" not in task.metrics:
        return None
    known = [(e, p) for e, p in zip(examples, predictions, strict=True) if not math.isnan(e.label)]
    right = [float(said(task, form, p) == e.label) for e, p in known]
    return Items("mean", unique(e.id for e, _ in known), right) if known else None
