"""BERT's own arrangement (Devlin 2018): norms after the residual sums, learned positions, token types, biases, GELU.

Dropout is left out: nothing else here has it, and one pass over much data does not ask for it.
"""

from dataclasses import dataclass
from typing import Literal

from pretrainx.models import encoder


@dataclass(frozen=True)
class Config(encoder.Config):
    name: str = "bert"
    norm: Literal["rms", "layer"] = "layer"
    norm_eps: float = 1e-12
    post_norm: bool = True
    positions: Literal["rotary", "learned", "none"] = "learned"
    num_token_types: int = 2
    use_bias: bool = True
    gated_mlp: bool = False
    init_std: float | None = 0.02


class Model(encoder.Model):
    """The shared transformer, so arranged."""
