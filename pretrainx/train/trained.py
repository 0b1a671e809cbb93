"""A trained model from its run folder or checkpoint: what `evaluate`, `sample` and later steps start from."""

from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import jax

from pretrainx.core import files, sections
from pretrainx.core.config import Config
from pretrainx.core.errors import InputError, nearest
from pretrainx.core.vocabulary import Vocabulary
from pretrainx.data.mixture_spec import parse_mixture
from pretrainx.evaluate.generate import prompter
from pretrainx.models import skeleton as skeletons
from pretrainx.models.skeleton import Params, Skeleton
from pretrainx.objectives.examples import make_objectives
from pretrainx.objectives.interface import Objective, Prompt
from pretrainx.parallel.shard import Partitioner
from pretrainx.train import build, resume
from pretrainx.train import experiment as experiments
from pretrainx.train.checkpoint import Checkpoints
from pretrainx.train.experiment import Experiment


@dataclass(frozen=True)
class Trained:
    """Weights on the mesh, and what is needed to use them."""

    experiment: Experiment
    vocabulary: Vocabulary
    skeleton: Skeleton
    params: Params
    step: int


def saved_config(folder: Path) -> Config:
    """The resolved config that a run left in its folder."""
    values = files.read_json(folder / "config.json", f"config of the run (is {folder} a run's folder?)")
    if not isinstance(values, dict) or not isinstance(values.get("model"), dict):
        raise InputError(f"{folder / 'config.json'}: no config of a run: it has no section 'model'")
    for derived in ("dtype", "param_dtype", "remat"):  # filled from `train` when the experiment is loaded
        values["model"].pop(derived, None)
    return Config(folder.name, str(folder / "config.json"), values, values)


def load(folder: Path, step: int | None = None, config: Config | None = None, partitioner: Partitioner | None = None) -> Trained:
    """The weights of a run at a step (default: its last), laid out as `config` says, or on the mesh of `partitioner` (default: the
    run's own config, on one device).

    Raises:
      InputError: no such run or step, or the config describes another model than the checkpoint holds.
    """
    experiment = experiments.load(config or saved_config(folder))
    checkpoints = Checkpoints(folder / "checkpoints", read_only=True)
    chosen = checkpoints.latest() if step is None else step
    if chosen is None:
        raise InputError(f"{folder}: no checkpoint there; train first, or name another --workdir")
    facts = resume.facts(checkpoints, chosen)
    vocabulary = Vocabulary.load(folder, facts["vocabulary"])
    experiment = experiments.with_vocabulary(experiment, vocabulary)
    if config is not None:  # a run's own says which heads it has
        experiment = build.with_heads(experiment, _objectives(experiment.data, vocabulary))
    if partitioner is not None:
        skeleton = skeletons.build(experiment.model_module, experiment.model, partitioner)
    else:
        if config is None:  # whatever mesh the run had, one device is here for sure
            experiment = replace(experiment, mesh=sections.Mesh(), layout="dp")
        skeleton = build.make_skeleton(experiment, jax.devices()[:1] if config is None else None)
    if config is not None:
        build.require_fit(skeleton, experiment)
    resume.require_same(folder, facts["identity"], {"model": skeleton.shapes()}, "model")
    shardings: Any = skeletons.map_with_dims(skeleton.partitioner.weight, skeleton.dims)
    params = checkpoints.restore_params(chosen, skeleton.abstract, shardings)
    return Trained(experiment, vocabulary, skeleton, params, chosen)


def objectives_of(model: Trained) -> dict[str, Objective]:
    """What the run was trained on: {name: objective}."""
    return _objectives(model.experiment.data, model.vocabulary)


def _objectives(data: sections.Data, vocabulary: Vocabulary) -> dict[str, Objective]:
    return make_objectives(dict.fromkeys(objective for _, objective in parse_mixture(data)), data, vocabulary)


def prompter_of(model: Trained, name: str | None = None) -> Callable[[list[int]], Prompt]:
    """How the run's model wants to be prompted: as its objective `name` taught it (default: its most natural one).

    Raises:
      InputError: it was not trained on that objective, or on none that goes on from a text.
    """
    objectives = objectives_of(model)
    if name is not None and name not in objectives:
        raise InputError(f"--objective={name}: the run was not trained on it; {nearest(name, objectives)}")
    return prompter(model.skeleton.config, [objectives[name]] if name else list(objectives.values()))
