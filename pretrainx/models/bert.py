"""BERT's arrangement (Devlin 2018): norms after the residual sums, learned positions, token types, biases, GELU, deviation 0.02.

`dropout` is 0 as everywhere here, since one pass over much data does not ask for it; the paper's is 0.1, and attention's own
shares, which it drops too, are never dropped here.
"""

from dataclasses import dataclass
from typing import Literal

from pretrainx.models import encoder
from pretrainx.models.transformer import OptionalSize


@dataclass(frozen=True)
class Config(encoder.Config):
    name: str = "bert"
    norm: Literal["rms", "layer"] = "layer"
    norm_eps: float = 1e-12
    post_norm: bool = True
    positions: Literal["rotary", "learned", "relative", "none"] = "learned"
    num_token_types: OptionalSize = 2
    use_bias: bool = True
    gated_mlp: bool = False
    init_std: float | None = 0.02
    depth_scaled_init: bool = False


class Model(encoder.Model):
    """The shared transformer, so arranged."""
