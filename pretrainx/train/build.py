"""Where the parts meet: an experiment, a vocabulary, batch shapes and devices become one program, before any array exists.

`plan` calls this with a described topology, `run` with the devices that are there; the program is the same.
"""

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from typing import Any

import jax
import numpy as np
import optax
from jax.sharding import NamedSharding

from pretrainx.core.errors import InputError, nearest
from pretrainx.core.vocabulary import SpecialIds, Vocabulary
from pretrainx.data.loader import Mixture, RowBuilder
from pretrainx.data.mixture_spec import parse_mixture
from pretrainx.models import skeleton as skeletons
from pretrainx.models.flops import train_flops_per_row
from pretrainx.models.skeleton import Skeleton
from pretrainx.objectives.examples import feature_spec, make_objectives
from pretrainx.objectives.interface import Objective
from pretrainx.objectives.losses import term_names
from pretrainx.optim import build as optimizers
from pretrainx.optim import schedules
from pretrainx.parallel import layouts, mesh
from pretrainx.parallel.layouts import axes_of
from pretrainx.parallel.pipeline import PER_STAGE, Schedule
from pretrainx.parallel.shard import Dims, Partitioner
from pretrainx.train import offload
from pretrainx.train import state as states
from pretrainx.train.experiment import Experiment, Lengths, lengths, with_vocabulary
from pretrainx.train.guards import spikes
from pretrainx.train.loss_scale import behind_scale
from pretrainx.train.state import State
from pretrainx.train.step import make_train_step

BatchSpec = dict[str, tuple[tuple[int, ...], np.dtype]]


@dataclass(frozen=True)
class Program:
    """Everything that is compiled, and the shapes and shardings it is compiled for."""

    experiment: Experiment
    vocabulary: Vocabulary
    lengths: Lengths
    partitioner: Partitioner
    skeleton: Skeleton
    objectives: dict[str, Objective]
    tx: optax.GradientTransformation
    batch_spec: BatchSpec
    step: Callable[..., Any]

    @cached_property
    def abstract_state(self) -> State:
        return jax.eval_shape(self._init)

    def _init(self) -> State:
        return states.init(self.skeleton, self.tx, self.experiment.train.seed)

    @cached_property
    def state_shardings(self) -> State:
        found = states.shardings(self.skeleton, self.abstract_state)
        return offload.on_host(found, self.abstract_state) if self.experiment.train.offload_optimizer else found

    @cached_property
    def batch_shardings(self) -> dict[str, NamedSharding]:
        return {name: self.partitioner.batch(len(shape)) for name, (shape, _) in self.batch_spec.items()}

    @cached_property
    def flops_per_step(self) -> float:
        """Of the model, forward and backward: what the objectives ask for, with no account of what remat computes again."""
        features = {name: shape[1:] for name, (shape, _) in self.batch_spec.items()}
        counts = [objective.num_predicted for objective in self.objectives.values()]
        stacks = any(objective.runs_stacks for objective in self.objectives.values())
        num_predicted = None if None in counts else sum(count or 0 for count in counts)
        return self.experiment.train.batch_size * train_flops_per_row(self.experiment.model, features, num_predicted, stacks)

    @property
    def tokens_per_step(self) -> int:
        return self.experiment.train.batch_size * self.experiment.data.sequence_length

    def init_state(self) -> State:
        """A fresh state, each device making its own part."""
        return jax.jit(self._init, out_shardings=self.state_shardings)()

    def compile_train(self) -> Any:
        """The training step, compiled ahead of time for this mesh; the state is donated."""
        step = offload.bring_and_return(self.step, self.state_shardings) if self.experiment.train.offload_optimizer else self.step
        jitted = jax.jit(
            step,
            donate_argnums=0,
            in_shardings=(self.state_shardings, self.batch_shardings),
            out_shardings=(self.state_shardings, self.partitioner.replicated),
        )
        batch = {
            name: jax.ShapeDtypeStruct(shape, dtype, sharding=self.batch_shardings[name])
            for name, (shape, dtype) in self.batch_spec.items()
        }
        state = jax.tree.map(lambda x, s: jax.ShapeDtypeStruct(x.shape, x.dtype, sharding=s), self.abstract_state, self.state_shardings)
        return jitted.lower(state, batch).compile()


def assemble(
    experiment: Experiment,
    vocabulary: Vocabulary,
    objectives: dict[str, Objective],
    batch_spec: BatchSpec,
    rows_per_epoch: int | None,
    devices: Sequence[Any] | None = None,
) -> Program:
    """The program, after every check that needs no array.

    Raises:
      InputError: the mesh does not fit the devices, the model or the batch; an objective needs another sight than the
        model's; a loss weight names no objective.
    """
    experiment = with_vocabulary(experiment, vocabulary)
    durations = lengths(experiment, rows_per_epoch)
    require_sights(objectives, experiment.model)
    require_positions(batch_spec, experiment.model)
    known = set(objectives).union(*(term_names(name, o).values() for name, o in objectives.items()))
    for name in experiment.train.loss_weights:
        if name not in known:
            raise InputError(f"train.loss_weights.{name}: no such objective in the mixture; {nearest(name, known)}")
    experiment = with_heads(experiment, objectives)
    skeleton = make_skeleton(experiment, devices)
    partitioner = skeleton.partitioner
    require_fit(skeleton, experiment, batch_spec)
    optim = experiment.optim
    schedule = schedules.build(
        optim.schedule, warmup_steps=durations.warmup, total_steps=durations.steps, decay_steps=durations.decay, end=optim.end_lr_ratio
    )
    tx = optimizers.build(experiment.optim_module, optim, skeleton.dims, skeleton.abstract, schedule)
    tx = behind_scale(tx, experiment.train.dtype)
    inner = skeletons.build(experiment.model_module, experiment.model, partitioner.within) if partitioner.runs_per_device else None
    step = make_train_step(
        skeleton, tx, objectives, experiment.train.loss_weights, experiment.train.grad_accum, lambda s: optim.peak_lr * schedule(s),
        optimizers.trainable(skeleton.dims, optim.trainable) if optim.trainable else None,
        experiment.train.seed,
        inner,
    )  # fmt: skip
    if experiment.train.spike_policy == "skip":
        step, batch_spec = spikes.refusing(step), batch_spec | {spikes.LIMIT: ((experiment.train.batch_size,), np.dtype(np.float32))}
    return Program(experiment, vocabulary, durations, partitioner, skeleton, objectives, tx, batch_spec, step)


def with_heads(experiment: Experiment, objectives: dict[str, Objective]) -> Experiment:
    """The experiment with the heads that its objectives need and as many classes as they have; adapters, if any, train alone."""
    needed = {head for o in objectives.values() for head in o.needs}
    counts = {name: o.num_classes for name, o in objectives.items() if hasattr(o, "num_classes")}
    if len(set(counts.values())) > 1:
        raise InputError(f"data.objectives: num_classes differ, {counts}; one head serves one set of classes, so train them one by one")
    model, optim = experiment.model, experiment.optim
    heads = tuple(sorted(needed.union(model.heads)))
    model = replace(model, heads=heads, num_classes=next(iter(counts.values()), model.num_classes))
    if model.lora_rank and not optim.trainable:
        optim = replace(optim, trainable=("lora/*", *(("class_head/*",) if "classes" in model.heads else ())))
    return replace(experiment, model=model, optim=optim)


def make_skeleton(experiment: Experiment, devices: Sequence[Any] | None = None) -> Skeleton:
    """The model on the config's mesh and layout, once `model.vocab_size` is settled."""
    layout = layouts.resolve(experiment.layout)
    made, model = mesh.make(experiment.mesh, devices, by_place=layout.manual), experiment.model
    # Sizes that a stack of another width has too must fit (ELECTRA's generator).
    widths = [tower.config.mlp_dim for tower in model.towers]
    layout = layouts.settle(layout, {"vocab": model.vocab_size, "mlp": math.gcd(*widths)}, made.shape)
    schedule = schedule_of(experiment, made.shape["stage"])
    partitioner = Partitioner(made, layout) if schedule is None else Partitioner(made, layouts.staged(layout), schedule=schedule)
    return skeletons.build(experiment.model_module, experiment.model, partitioner)


def schedule_of(experiment: Experiment, stages: int) -> Schedule | None:
    """How batches pass through a pipeline of so many stages; None: there is one.

    Raises:
      InputError: a model, layout or number of microbatches that a pipeline cannot have.
    """
    if stages == 1:
        return None
    model, train = experiment.model, experiment.train
    schedule = Schedule(stages, train.pipeline_microbatches or PER_STAGE * stages, train.pipeline_repeats)
    if layouts.resolve(experiment.layout).manual:
        raise InputError(f"mesh.stage={stages}: a manual layout has no pipeline; choose layout='fsdp', or mesh.stage=1")
    if any(tower.memory for tower in model.towers):
        raise InputError(
            f"mesh.stage={stages}: model.name {model.name!r} has a decoder whose layers all look into an encoder, and a pipeline takes "
            "models of one kind of stack (decoders and encoders); set mesh.stage=1, and cut it by layout='fsdp' or 'fsdp_tp'"
        )
    if schedule.microbatches % stages:
        turns = schedule.microbatches // stages
        raise InputError(
            f"train.pipeline_microbatches {schedule.microbatches} is no multiple of mesh.stage {stages}: microbatches pass in turns of one "
            f"for each stage; give {' or '.join(str(n * stages) for n in (turns, turns + 1) if n)}"
        )
    visits = stages * schedule.repeats
    if model.num_layers % visits:
        raise InputError(
            f"model.num_layers {model.num_layers} is not divisible by mesh.stage {stages} x train.pipeline_repeats {schedule.repeats}; "
            f"stages have equally many layers, so stage x repeats may be {mesh.divisors(model.num_layers)}"
        )
    return schedule


MODELS = {
    "causal": "a causal model (model.name='decoder')",
    "prefix": "a causal model that can see a prefix as a whole (model.name='prefix_decoder')",
    "bidirectional": "a bidirectional model (model.name='encoder')",
    "encoder_decoder": "an encoder and a decoder (model.name='t5')",
}


def require_sights(objectives: dict[str, Objective], model: Any) -> None:
    """Raises InputError where an objective needs another sight than the model's."""
    for name, objective in objectives.items():
        if objective.sight not in (*model.sights, "any"):
            options = f", or give data.objectives.{name}.form" if hasattr(objective, "form") else ""
            raise InputError(f"data.mixture: objective {name!r} needs {MODELS[objective.sight]}; model.name is {model.name!r}{options}")


def require_positions(batch_spec: BatchSpec, model: Any) -> None:
    """Raises InputError where rows are longer than the model has learned positions: an index beyond a table is no error in JAX."""
    longest = max(shape[1] for name, (shape, _) in batch_spec.items() if name in ("tokens", "encoder_tokens"))
    if model.positions == "learned" and longest > model.max_length:
        raise InputError(f"model.max_length {model.max_length}: the objective's rows have {longest} positions; give that or more")
    if "block_positions" in batch_spec and 0 < model.max_block_positions <= longest:
        raise InputError(
            f"model.max_block_positions {model.max_block_positions}: a row of {longest} may need {longest + 1}; give that or more"
        )


def require_fit(skeleton: Skeleton, experiment: Experiment, batch_spec: BatchSpec | None = None) -> None:
    """Raises one InputError with every misfit of the model's weights, its activations and the batches with the mesh."""
    model, train, partitioner = experiment.model, experiment.train, skeleton.partitioner
    rows, length = partitioner.batch_shards, experiment.data.sequence_length
    activations: dict[str, tuple[Dims, tuple[int, ...]]] = {
        "hidden states": (("batch", "length", "embed"), (rows, length, model.d_model)),
        "queries": (("batch", "length", "heads"), (rows, length, model.num_heads)),
        "keys": (("batch", "length", "kv"), (rows, length, model.kv_heads)),
        "mlp": (("batch", "length", "mlp"), (rows, length, model.mlp_dim)),
        "residual stream": (("batch", "residual"), (rows, length)),
        "logits": (("batch", "vocab"), (rows, model.vocab_size)),
    }
    for name, (shape, _) in (batch_spec or {}).items():
        if name in ("tokens", "encoder_tokens"):  # an objective's rows may be shorter or longer than its windows
            activations[f"{name} in the residual stream"] = (("batch", "residual"), (rows, shape[1]))
    if partitioner.runs_per_device:
        require_manual(partitioner, model, {shape[1] for name, (shape, _) in (batch_spec or {}).items() if name == "tokens"} or {length})
    partitioner.require_fit(skeleton.table(), activations, train.batch_size, train.grad_accum, experiment.eval.batch_size)


def require_manual(partitioner: Partitioner, model: Any, lengths: set[int]) -> None:
    """Raises InputError where a manual layout is asked for what only the compiler can cut, or for what would be drawn otherwise."""
    tokens, idle = partitioner.token_axes, {axis for axis, size in partitioner.mesh.shape.items() if size == 1}
    weights, activations = partitioner.layout.weights, partitioner.layout.activations
    wrong = [(f"weights.{dim}", axis) for dim, axes in weights.items() for axis in axes_of(axes) if axis not in tokens]
    wrong += [(f"activations.{dim}", axis) for dim in activations if dim not in ("batch", "length") for axis in axes_of(activations[dim])]
    for rule, axis in wrong:
        if axis not in idle:
            raise InputError(
                f"layout.{rule}: a manual layout cuts batch and length, and weights over the axes of these alone "
                f"({', '.join(tokens)}), found {axis!r}; choose an automatic one, such as layout='fsdp_tp'"
            )
    if unused := [axis for axis, size in partitioner.mesh.shape.items() if size > 1 and axis not in tokens]:
        raise InputError(
            f"mesh.{unused[0]}={partitioner.mesh.shape[unused[0]]}: this manual layout uses {', '.join(tokens)} alone; set it to 1, or "
            "choose layout='fsdp_tp', or 'fsdp_ulysses'"
        )
    if (parts := partitioner.within.exchanges) > 1:
        require_exchange(model, lengths, parts)
    if model.lora_rank:
        raise InputError("model.lora_rank: adapters and the weights under them are cut apart in a manual layout; choose layout='fsdp'")
    if model.drops:
        named = f"dropout {model.dropout}" if model.dropout else f"word_dropout {model.word_dropout}"
        raise InputError(
            f"model.{named}: in a manual layout each device would draw for its own rows, and a mesh would change what is "
            "dropped; choose layout='fsdp', or no dropout"
        )


def require_exchange(model: Any, lengths: set[int], parts: int) -> None:
    """Raises InputError where so many devices cannot exchange heads for places, or a part of a model wants a whole row."""
    if model.num_heads % parts:
        raise InputError(f"model.num_heads {model.num_heads}: {parts} devices that share a row exchange heads; give a multiple of {parts}")
    for each in (length // parts for length in lengths if length % parts == 0):
        if each % model.loss_chunks:
            raise InputError(
                f"model.loss_chunks {model.loss_chunks} does not divide the {each} tokens of a row that each of {parts} devices has"
            )
    whole = "positions 'relative'" if model.positions == "relative" else f"heads {model.heads}" if model.heads else ""
    if whole or len(model.towers) > 1:
        raise InputError(
            f"model.{whole or f'name {model.name!r}'}: each device would have a part of a row, where whole ones are needed; "
            "choose layout='fsdp_cp'"
        )


def from_mixture(experiment: Experiment, mixture: Mixture, devices: Sequence[Any] | None = None) -> tuple[Program, RowBuilder]:
    """The program for data that is there."""
    builder = RowBuilder(mixture)
    spec = builder.batch_spec(experiment.train.batch_size)
    return assemble(experiment, mixture.vocabulary, mixture.objectives, spec, mixture.rows_per_epoch, devices), builder


def without_data(experiment: Experiment, devices: Sequence[Any] | None = None) -> Program:
    """The program for data that is not there: shapes come from `model.vocab_size` and the objectives' own features."""
    data, size = experiment.data, experiment.model.vocab_size
    if not size:
        raise InputError("model.vocab_size is 0 (the data's), and no data is read here; give the number of ids")
    vocabulary = Vocabulary("bytes", size, SpecialIds(bos=3, mask=4, cls=5, sep=6), num_sentinels=min(300, size // 2))
    named = {o for _, o in parse_mixture(data)} if isinstance(data.mixture, dict) and data.mixture else {data.objective}
    objectives = make_objectives(sorted(named), data, vocabulary)
    spec: BatchSpec = {"objective": ((experiment.train.batch_size,), np.dtype(np.int32))}
    for objective in objectives.values():
        for name, (shape, dtype) in feature_spec(objective, vocabulary).items():
            spec[name] = ((experiment.train.batch_size, *shape), dtype)
    return assemble(experiment, vocabulary, objectives, spec, None, devices)
