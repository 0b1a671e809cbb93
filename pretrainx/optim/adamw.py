"""AdamW with clipping by global norm."""

from dataclasses import dataclass

import optax

from pretrainx.optim.common import OptimConfig, Params, Schedule, adamw, clip


@dataclass(frozen=True)
class Config(OptimConfig):
    name: str = "adamw"


def build(config: Config, dims: Params, schedule: Schedule) -> optax.GradientTransformation:
    """clip -> Adam -> decay -> learning rate. `schedule` gives a share of the peak; `dims` are the weights' logical dims."""
    return optax.chain(clip(config), adamw(config, dims, lambda step: config.peak_lr * schedule(step)))
