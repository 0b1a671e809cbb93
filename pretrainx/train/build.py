"""Where the parts meet: an experiment, a vocabulary, batch shapes and devices become one program, before any array exists.

`plan` calls this with a described topology, `run` with the devices that are there; the program is the same.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
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
from pretrainx.evaluate.perplexity import EvalStep, make_eval_step
from pretrainx.models import skeleton as skeletons
from pretrainx.models.skeleton import Skeleton
from pretrainx.objectives.examples import feature_spec, make_objective
from pretrainx.objectives.interface import Objective
from pretrainx.optim import schedules
from pretrainx.parallel import layouts, mesh
from pretrainx.parallel.shard import Dims, Partitioner
from pretrainx.train import state as states
from pretrainx.train.experiment import Experiment, Lengths, lengths, with_vocabulary
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
        return states.shardings(self.skeleton, self.abstract_state)

    @cached_property
    def batch_shardings(self) -> dict[str, NamedSharding]:
        return {name: self.partitioner.batch(len(shape)) for name, (shape, _) in self.batch_spec.items()}

    def init_state(self) -> State:
        """A fresh state, each device making its own part."""
        return jax.jit(self._init, out_shardings=self.state_shardings)()

    def compile_train(self) -> Any:
        """The training step, compiled ahead of time for this mesh; the state is donated."""
        jitted = jax.jit(
            self.step,
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

    def eval_step(self) -> EvalStep:
        return jax.jit(make_eval_step(self.skeleton, self.objectives), out_shardings=self.partitioner.replicated)


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
    partitioner = Partitioner(mesh.make(experiment.mesh, devices), layouts.resolve(experiment.layout))
    for name, objective in objectives.items():
        if objective.causal != experiment.model.causal:
            sight = "a causal model (model.name='decoder')" if objective.causal else "a bidirectional model (model.name='encoder')"
            raise InputError(f"data.mixture: objective {name!r} needs {sight}; model.name is {experiment.model.name!r}")
    for name in experiment.train.loss_weights:
        if name not in objectives:
            raise InputError(f"train.loss_weights.{name}: no such objective in the mixture; {nearest(name, objectives)}")
    skeleton = skeletons.build(experiment.model_module, experiment.model, partitioner)
    require_fit(skeleton, experiment)
    optim = experiment.optim
    schedule = schedules.build(
        optim.schedule, warmup_steps=durations.warmup, total_steps=durations.steps, decay_steps=durations.decay, end=optim.end_lr_ratio
    )
    tx = experiment.optim_module.build(optim, skeleton.dims, schedule)
    step = make_train_step(
        skeleton, tx, objectives, experiment.train.loss_weights, experiment.train.grad_accum, lambda s: optim.peak_lr * schedule(s)
    )
    return Program(experiment, vocabulary, durations, partitioner, skeleton, objectives, tx, batch_spec, step)


def require_fit(skeleton: Skeleton, experiment: Experiment) -> None:
    """Raises one InputError with every misfit of the model's weights, its activations and the batches with the mesh."""
    model, train, partitioner = experiment.model, experiment.train, skeleton.partitioner
    rows, length = partitioner.batch_shards, experiment.data.sequence_length
    activations: dict[str, tuple[Dims, tuple[int, ...]]] = {
        "hidden states": (("batch", "length", "embed"), (rows, length, model.d_model)),
        "queries": (("batch", "length", "heads"), (rows, length, model.num_heads)),
        "keys": (("batch", "length", "kv"), (rows, length, model.kv_heads)),
        "mlp": (("batch", "length", "mlp"), (rows, length, model.mlp_dim)),
        "logits": (("batch", "vocab"), (rows, model.vocab_size)),
    }
    partitioner.require_fit(skeleton.table(), activations, train.batch_size, train.grad_accum, experiment.eval.batch_size)


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
    vocabulary = Vocabulary("bytes", size, SpecialIds(bos=3, mask=4, cls=5, sep=6))
    named = {o for _, o in parse_mixture(data)} if isinstance(data.mixture, dict) and data.mixture else {data.objective}
    objectives = {name: make_objective(name, data, vocabulary) for name in sorted(named)}
    spec: BatchSpec = {"objective": ((experiment.train.batch_size,), np.dtype(np.int32))}
    for objective in objectives.values():
        for name, (shape, dtype) in feature_spec(objective, vocabulary).items():
            spec[name] = ((experiment.train.batch_size, *shape), dtype)
    return assemble(experiment, vocabulary, objectives, spec, None, devices)
