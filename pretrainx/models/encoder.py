"""Bidirectional encoder. Defaults are the decoder's layers without the causal mask; `BERT` holds BERT's own arrangement."""

from dataclasses import dataclass

from pretrainx.models.transformer import Transformer, TransformerConfig


@dataclass(frozen=True)
class Config(TransformerConfig):
    name: str = "encoder"
    causal: bool = False
    tied_head: bool = True
    head_transform: bool = True
    activation: str = "gelu"


# Devlin 2018: post-norm, learned positions, token types, biases, GELU. For `config.model.update(...)` and tests.
BERT = {
    "norm": "layer", "norm_eps": 1e-12, "post_norm": True, "positions": "learned", "num_token_types": 2,
    "use_bias": True, "gated_mlp": False, "activation": "gelu", "init_std": 0.02,
}  # fmt: skip


class Model(Transformer):
    """The shared transformer, seeing both ways."""
