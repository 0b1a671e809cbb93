"""A text for a text (Raffel 2020, section 2.4): fine-tuning where every answer is words."""

from typing import Any, ClassVar, Literal

import numpy as np

from pretrainx.core.errors import InputError
from pretrainx.core.vocabulary import Vocabulary
from pretrainx.objectives.interface import Features, Prompt, Sight
from pretrainx.objectives.losses import PredictsTargets

Form = Literal["encoder_decoder", "prefix", "causal"]
SIGHTS: dict[str, Sight] = {"encoder_decoder": "encoder_decoder", "prefix": "prefix", "causal": "causal"}


class Objective(PredictsTargets):
    """Reads records of `inputs` and `targets`, both with their end token; the targets are predicted, the inputs never.

    encoder_decoder  inputs have encoder_* [sequence_length], targets the other features, [target_length]
    prefix, causal   inputs and targets stand in one row of [sequence_length]; prefix: inputs see themselves both ways

    Inputs that are too long lose tokens before their end token; targets of more than target_length lose theirs at the end. A
    record without targets counts in no loss.
    target_length  0: as long as the inputs may be (encoder_decoder), or a quarter of the row
    """

    reads: ClassVar[tuple[str, ...]] = ("inputs", "targets")

    def __init__(self, vocabulary: Vocabulary, sequence_length: int, form: Form = "encoder_decoder", target_length: int = 0):
        if form not in SIGHTS:
            raise InputError(f"data.objectives.text_to_text.form {form!r}: accepted are {', '.join(SIGHTS)}")
        if target_length < 0 or (form != "encoder_decoder" and target_length > sequence_length - 2):
            raise InputError(f"data.objectives.text_to_text.target_length {target_length}: accepted are 0 to {sequence_length - 2}")
        if sequence_length < 4:
            raise InputError(f"data.sequence_length {sequence_length}: text_to_text needs 4 or more")
        self.special, self.form, self.sight = vocabulary.special, form, SIGHTS[form]
        self.has_encoder = form == "encoder_decoder"
        self.target_length = target_length or (sequence_length if self.has_encoder else max(1, sequence_length // 4))
        self.sequence_length = self.window_length = sequence_length

    def prompt(self, text: list[int]) -> Prompt:
        special = self.special
        room = self.sequence_length if self.has_encoder else self.sequence_length - self.target_length - 1
        source = [*text[: room - 1], special.eos]
        if self.has_encoder:
            return Prompt([special.start], source=source)
        tokens = [special.start, *source]
        return Prompt(tokens, seen=len(tokens) if self.form == "prefix" else 0)

    def example(self, record: Any, rng: np.random.Generator) -> Features:
        del rng
        prompt = self.prompt(without_end(record["inputs"], self.special.eos).tolist())
        targets = record["targets"][: self.target_length].astype(np.int32)
        told = len(without_end(targets, self.special.eos)) > 0
        read = np.concatenate([np.asarray(prompt.tokens, np.int32), targets])[:-1] if len(targets) else np.asarray(prompt.tokens, np.int32)
        length, before = self.target_length if self.has_encoder else self.sequence_length, len(prompt.tokens) - 1
        made = {name: np.zeros(length, np.int32) for name in ("tokens", "targets", "positions", "segment_ids")}
        made["tokens"][:] = made["targets"][:] = self.special.pad
        made["tokens"][: len(read)], made["positions"][: len(read)], made["segment_ids"][: len(read)] = read, np.arange(len(read)), 1
        made["targets"][before : before + len(targets)] = targets
        made["loss_weights"] = np.zeros(length, np.float32)
        made["loss_weights"][before : before + len(targets)] = told
        if self.has_encoder:
            source = np.asarray(prompt.source, np.int32)
            for name in ("encoder_tokens", "encoder_positions", "encoder_segment_ids"):
                made[name] = np.zeros(self.sequence_length, np.int32)
            made["encoder_tokens"][:] = self.special.pad
            made["encoder_tokens"][: len(source)], made["encoder_segment_ids"][: len(source)] = source, 1
            made["encoder_positions"][: len(source)] = np.arange(len(source))
        if self.form == "prefix":
            made["bidirectional"] = (np.arange(length) < prompt.seen).astype(np.int32)
        return made


def without_end(tokens: np.ndarray, eos: int) -> np.ndarray:
    """The tokens without an end token at their end."""
    return tokens[:-1] if len(tokens) and tokens[-1] == eos else tokens
