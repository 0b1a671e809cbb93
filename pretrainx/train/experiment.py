"""A checked experiment: every section of the config typed, and what belongs together checked together."""

from dataclasses import dataclass, replace
from types import ModuleType
from typing import Any

from pretrainx.core import durations, schema, sections
from pretrainx.core.config import Config
from pretrainx.core.errors import InputError
from pretrainx.core.vocabulary import Vocabulary


@dataclass(frozen=True)
class Experiment:
    """The config as typed sections; modules are the plug-ins that the names stand for."""

    config: Config
    data: sections.Data
    model_module: ModuleType
    model: Any  # the model plug-in's Config
    optim_module: ModuleType
    optim: Any  # the optimizer plug-in's Config
    mesh: sections.Mesh
    layout: str | dict[str, Any]
    train: sections.Train
    checkpoint: sections.Checkpoint
    eval: sections.Eval
    log: sections.Log

    @property
    def name(self) -> str:
        return self.config.name

    @property
    def eval_batch_size(self) -> int:
        """Rows of an evaluation batch: the section's own, or as in training."""
        return self.eval.batch_size or self.train.batch_size

    def defaults(self) -> dict[str, Any]:
        """What every leaf is where a config does not name it."""
        typed = {name: getattr(self, name) for name in ("data", "model", "optim", "mesh", "train", "checkpoint", "eval", "log")}
        return {name: schema.to_dict(type(section)()) for name, section in typed.items()}

    def resolved(self) -> dict[str, Any]:
        """Every leaf with its value: what is written beside the run."""
        return self.config.resolved(model=self.model, optim=self.optim)


def load(config: Config) -> Experiment:
    """Types and ranges of every section; touches neither data nor devices."""
    model_module, model = config.plugin_section("model", "pretrainx.models", default_name="decoder")
    optim_module, optim = config.plugin_section("optim", "pretrainx.optim", default_name="adamw")
    train = config.section("train", sections.Train)
    model = replace(model, remat=train.remat, dtype=train.dtype, param_dtype=train.param_dtype)
    data = config.section("data", sections.Data)
    model = replace(
        model, mlp_dim=model.mlp_dim or model.derived_mlp_dim, max_length=model.max_length or data.sequence_length,
    )  # fmt: skip
    model.check()
    if model.positions == "learned" and data.sequence_length > model.max_length:
        raise InputError(f"data.sequence_length {data.sequence_length} is more than model.max_length {model.max_length} learned positions")
    if data.sequence_length % model.loss_chunks:
        raise InputError(f"model.loss_chunks {model.loss_chunks} does not divide data.sequence_length {data.sequence_length}")
    evaluation = config.section("eval", sections.Eval)
    if evaluation.stride > data.sequence_length:
        raise InputError(
            f"eval.stride {evaluation.stride} is more than data.sequence_length {data.sequence_length}: tokens would be left out"
        )
    return Experiment(
        config, data, model_module, model, optim_module, optim, config.section("mesh", sections.Mesh), config.layout, train,
        config.section("checkpoint", sections.Checkpoint), evaluation, config.section("log", sections.Log),
    )  # fmt: skip


def with_vocabulary(experiment: Experiment, vocabulary: Vocabulary) -> Experiment:
    """The experiment with `model.vocab_size` settled (as given, if it holds the vocabulary, else the vocabulary's), and `unknown_id`."""
    model = experiment.model
    size, unknown = model.vocab_size, model.unknown_id or vocabulary.special.unk
    if size and size < vocabulary.size:
        raise InputError(
            f"model.vocab_size {size} is smaller than the data's vocabulary ({vocabulary.kind}, {vocabulary.size} ids): "
            f"token ids would lie outside the embedding; set it to {vocabulary.size} or more, or to 0 to take the data's"
        )
    if model.word_dropout and not 0 <= unknown < (size or vocabulary.size):
        raise InputError(
            f"model.word_dropout {model.word_dropout}: the data's vocabulary ({vocabulary.kind}) has no unknown token to read instead of "
            "those dropped; set model.unknown_id to one of its ids, or word_dropout to 0"
        )
    return replace(experiment, model=replace(model, vocab_size=size or vocabulary.size, unknown_id=max(unknown, 0)))


@dataclass(frozen=True)
class Lengths:
    """The run's durations in steps."""

    steps: int
    stop_at: int
    warmup: int
    decay: int
    checkpoint_every: int
    keep_every: int
    eval_every: int
    log_every: int


def lengths(experiment: Experiment, rows_per_epoch: int | None) -> Lengths:
    """All durations of the config resolved to steps."""
    train, batch = experiment.train, experiment.train.batch_size
    tokens = batch * experiment.data.sequence_length

    def steps(duration: sections.Duration, where: str, total: int | None) -> int:
        return durations.resolve(
            duration, where, total_steps=total, batch_size=batch, tokens_per_step=tokens, rows_per_epoch=rows_per_epoch
        )

    total = steps(train.steps, "train.steps", None)
    if total < 1:
        raise InputError(f"train.steps {train.steps!r} is no step at all; give 1 or more")
    if train.stop_at > total:
        raise InputError(f"train.stop_at {train.stop_at} is beyond train.steps {total}")
    return Lengths(
        steps=total,
        stop_at=train.stop_at or total,
        warmup=steps(experiment.optim.warmup, "optim.warmup", total),
        decay=steps(experiment.optim.decay, "optim.decay", total),
        checkpoint_every=steps(experiment.checkpoint.every, "checkpoint.every", total),
        keep_every=steps(experiment.checkpoint.keep_every, "checkpoint.keep_every", total),
        eval_every=steps(experiment.eval.every, "eval.every", total),
        log_every=max(1, steps(experiment.log.every, "log.every", total)),
    )
