"""A run that begins from another run's weights: `init_from` in a config.

core/inherit.py has made the config's model that of the other run, so weights fit by name; what the other run lacks (a new head,
adapters) begins fresh, and what this model has no place for (heads of other objectives) is left behind.
"""

from pathlib import Path
from typing import Any

from pretrainx.core import inherit
from pretrainx.core.errors import InputError
from pretrainx.core.logs import log
from pretrainx.models.skeleton import Params, flatten
from pretrainx.train import trained
from pretrainx.train.build import Program

# What may begin fresh: heads, adapters, and vectors of pairs, which are zero at first.
NEW = ("class_head/", "pair_head/", "boundary_head/", "replaced_head/", "neighbour_head/", "lora/", "embedder/bigram_embedding")


def parameters(program: Program, fresh: Params, spec: str) -> Params:
    """The fresh parameters with every weight of the run `spec` ("runs/x", "runs/x@500") that has a place here, on this mesh.

    Raises:
      InputError: the other run has another vocabulary, or lacks a weight that is no head's.
    """
    folder, step = inherit.split(spec)
    other = trained.load(Path(folder), step, partitioner=program.partitioner)
    if other.vocabulary != program.vocabulary:
        raise InputError(
            f"init_from {spec}: its vocabulary is not this run's; leave data.vocabulary out to take its own, and run tools/cache_tasks.py"
        )
    there, here = dict(flatten(other.params)), dict(flatten(fresh))
    for path, leaf in here.items():
        if path.startswith(NEW) and path not in there:
            continue
        if path not in there or there[path].shape != leaf.shape:
            found = f"has shape {tuple(there[path].shape)}" if path in there else "is not there"
            raise InputError(f"init_from {spec}: weight {path} {found}, and this model needs {tuple(leaf.shape)}; leave `model` as it was")
    kept = [path for path in here if path in there and there[path].shape == here[path].shape]
    new, unused = sorted(here.keys() - set(kept)), sorted(there.keys() - here.keys())
    log(f"begins from {folder} at step {other.step}: {len(kept)} weights" + (f"; fresh: {', '.join(new)}" if new else ""))
    if unused:
        log(f"  left behind: {', '.join(unused)}")
    return graft(fresh, {path: there[path] for path in kept})


def graft(tree: Any, found: dict[str, Any], prefix: str = "") -> Any:
    """The tree with these leaves by path."""
    if not isinstance(tree, dict):
        return found.get(prefix.rstrip("/"), tree)
    return {name: graft(node, found, f"{prefix}{name}/") for name, node in tree.items()}
