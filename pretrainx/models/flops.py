"""Floating-point operations of a training step, counted from the config: a multiply-add is two.

Tested against the compiler's count of an unrolled model.
"""

from typing import Any


def matmul_params(config: Any) -> int:
    """Weights that each token is multiplied by once: layers and head, without the embedding's look-up."""
    D, N, K, H = config.d_model, config.num_heads, config.kv_heads, config.head_size
    attention = D * H * (2 * N + 2 * K)
    mlp = D * config.mlp_dim * (3 if config.gated_mlp else 2)
    head = D * config.vocab_size + (D * D if config.head_transform else 0)
    return config.num_layers * (attention + mlp) + head


def forward_flops_per_token(config: Any, length: int) -> float:
    """Of one token in a sequence of `length`. Attention scores and mixing are counted in full, also where causal
    (a kernel that skips the masked half does less; MaxText counts half since July 2025)."""
    attention = 2 * 2 * length * config.num_heads * config.head_size * config.num_layers
    return 2 * matmul_params(config) + attention


def train_flops_per_token(config: Any, length: int) -> float:
    """Forward once, backward twice that (Kaplan 2020, section 2.1); what remat computes again is not counted."""
    return 3 * forward_flops_per_token(config, length)
