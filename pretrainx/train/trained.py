"""A trained model from its run folder or checkpoint: what `evaluate`, `sample` and later steps start from."""

from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import jax

from pretrainx.core import files, sections
from pretrainx.core.config import Config
from pretrainx.core.errors import InputError
from pretrainx.core.vocabulary import Vocabulary
from pretrainx.models import skeleton as skeletons
from pretrainx.models.skeleton import Params, Skeleton
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
    facts = checkpoints.facts(chosen)
    vocabulary = Vocabulary.load(folder, facts["vocabulary"])
    experiment = experiments.with_vocabulary(experiment, vocabulary)
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
