"""A class of a text, or of two that it relates (Devlin 2018, section 4.1), or a score: fine-tuning with a head over classes."""

from typing import Any, ClassVar

import jax
import jax.numpy as jnp
import numpy as np

from pretrainx.core.errors import InputError
from pretrainx.core.vocabulary import Vocabulary
from pretrainx.objectives.interface import Batch, Defaults, Features, Loss, Sight
from pretrainx.objectives.losses import class_cross_entropy, squared_error

Record = dict[str, np.ndarray]
THOUSANDTHS = 1000.0


class Objective(Defaults):
    """[CLS] A [SEP], or [CLS] A [SEP] B [SEP], as one segment, and the class of a labelled record.

    Reads records of `first`, `second` (may be empty) and `label` (decimal digits of a class, or of a score's thousandths; none
    where nobody has told: then the row counts in no loss). Where a vocabulary has no [CLS] or [SEP], the token that starts
    documents and the one that ends them stand for them.
    Two texts that are too long lose tokens at their ends, the longer one first (as BERT's released code).

    Features [sequence_length]: tokens, positions, segment_ids, token_types (1 for B [SEP]). Of no dims: class_label float32
    and class_weights float32.

    num_classes  outputs of the head; 1 means a score, fitted by squared error
    """

    sight: Sight = "any"
    needs: tuple[str, ...] = ("classes",)
    num_predicted = 0  # the head over tokens is not run
    reads: ClassVar[tuple[str, ...]] = ("first", "second", "label")

    def __init__(self, vocabulary: Vocabulary, sequence_length: int, num_classes: int = 2):
        if num_classes < 1:
            raise InputError(f"data.objectives.classify.num_classes {num_classes}: accepted are 2 and more, or 1 for a score")
        if sequence_length < 5:
            raise InputError(f"data.sequence_length {sequence_length}: classify needs 5 or more, for two texts and three tokens")
        special = vocabulary.special
        self.pad = special.pad
        self.cls = special.cls if special.cls >= 0 else special.start
        self.sep = special.sep if special.sep >= 0 else special.eos
        self.sequence_length = self.window_length = sequence_length
        self.num_classes = num_classes
        self.terms = {"classes" if num_classes > 1 else "score": 1.0}

    def example(self, record: Any, rng: np.random.Generator) -> Features:
        del rng
        first, second = cut_pair(record["first"], record["second"], self.sequence_length - 2 - bool(len(record["second"])))
        parts = [np.asarray([self.cls]), first, np.asarray([self.sep])]
        if len(second):
            parts += [second, np.asarray([self.sep])]
        text = np.concatenate(parts).astype(np.int32)
        made = {name: np.zeros(self.sequence_length, np.int32) for name in ("tokens", "positions", "segment_ids", "token_types")}
        made["tokens"][:] = self.pad
        made["tokens"][: len(text)], made["positions"][: len(text)] = text, np.arange(len(text))
        made["segment_ids"][: len(text)], made["token_types"][len(first) + 2 : len(text)] = 1, 1
        label = digits_to_number(record["label"])
        made["class_label"] = np.asarray(0 if label is None else label / (1 if self.num_classes > 1 else THOUSANDTHS), np.float32)
        made["class_weights"] = np.asarray(label is not None, np.float32)
        return made

    def weights(self, batch: Batch) -> dict[str, jax.Array]:
        return {term: jnp.sum(batch["class_weights"]) for term in self.terms}

    def loss(self, outputs: Any, batch: Batch) -> dict[str, Loss]:
        made = outputs.heads["classes"]()
        if self.num_classes == 1:
            return {"score": squared_error(made[:, 0], batch["class_label"], batch["class_weights"])}
        return {"classes": class_cross_entropy(made, batch["class_label"].astype(jnp.int32), batch["class_weights"])}


def cut_pair(first: np.ndarray, second: np.ndarray, room: int) -> tuple[np.ndarray, np.ndarray]:
    """Both texts cut to `room` tokens together, the longer one first.

    >>> [len(part) for part in cut_pair(np.zeros(10), np.zeros(3), 8)]
    [5, 3]
    """
    excess = max(0, len(first) + len(second) - room)
    longer = min(excess, abs(len(first) - len(second)))
    both = excess - longer
    keep_first = len(first) - (longer if len(first) > len(second) else 0) - (both + 1) // 2
    keep_second = len(second) - (longer if len(first) <= len(second) else 0) - both // 2
    return first[:keep_first], second[:keep_second]


def digits_to_number(digits: np.ndarray) -> int | None:
    """
    >>> digits_to_number(np.asarray([1, 0])), digits_to_number(np.asarray([]))
    (10, None)
    """
    return int("".join(str(int(digit)) for digit in digits)) if len(digits) else None
