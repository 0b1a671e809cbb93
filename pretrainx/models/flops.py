"""Floating-point operations of training, counted from the config: a multiply-add is two.

Tested against the compiler's count of an unrolled model.
"""

from collections.abc import Mapping
from typing import Any

from pretrainx.models.heads import BOUNDARY_POSITION_SIZE

Features = Mapping[str, tuple[int, ...]]  # name -> shape of one example


def stack_flops(config: Any, length: int, memory: int = 0) -> float:
    """Of one row of `length` forward through a stack that looks into `memory` positions of another (0: it does not).

    Attention scores and mixing are counted in full, also where causal (a kernel that skips the masked half does less;
    MaxText counts half since July 2025); with a window, the places in it.
    """
    D, N, K, H = config.d_model, config.num_heads, config.kv_heads, config.head_size
    reads, writes = 2 * D * K * H, 2 * D * N * H  # weights of keys and values; of queries and outputs
    layer = length * (writes + reads + D * config.mlp_dim * (3 if config.gated_mlp else 2)) + 2 * length * seen(config, length) * N * H
    if memory:
        layer += length * writes + memory * reads + 2 * length * memory * N * H
    projection = length * config.embed_size * D if config.embed_size != D else 0
    return 2.0 * (config.num_layers * layer + projection)


def seen(config: Any, length: int) -> int:
    """Places that a query's window holds in a row of `length`: back, and ahead too where the model may look there."""
    window = config.attention_window
    return min(length, window if config.causal else 2 * window - 1) if window else length


def head_flops(config: Any, predicted: int) -> float:
    """Of the head over tokens at so many positions."""
    D, E, V = config.d_model, config.embed_size, config.vocab_size
    return 2.0 * predicted * (D * E + E * V if config.head_transform else D * V)


def forward_flops_per_row(config: Any, features: Features, num_predicted: int | None = None, stacks: bool = True) -> float:
    """Of one example forward through all stacks and heads. Without `num_predicted` the head over tokens runs everywhere; without
    `stacks`, what needs no hidden states runs alone.

    The head "boundary" runs on the predicted positions too; embeddings are looked up and cost nothing.
    """
    D, E, V = config.d_model, config.embed_size, config.vocab_size
    length = features["tokens"][0]
    predicted = length if num_predicted is None else num_predicted
    total = 0.0
    for tower in config.towers:
        memory = features[tower.memory][0] if tower.memory else 0
        total += stack_flops(tower.config, features[tower.tokens][0], memory) if stacks else 0
        total += head_flops(tower.config, predicted) if tower.predicts else 0
    heads = {
        "pair": 2.0 * (D * D + 2 * D),
        "boundary": 2.0 * predicted * ((2 * D + BOUNDARY_POSITION_SIZE) * D + D * E + E * V),
        "classes": 2.0 * (D * D + D * config.num_classes),
        "replaced": 2.0 * length * (D * D + D),
        "neighbours": 2.0 * length * (length + features.get("drawn", (0,))[0]) * E,
    }
    return total + sum(heads[name] for name in config.present_heads)


def train_flops_per_row(config: Any, features: Features, num_predicted: int | None = None, stacks: bool = True) -> float:
    """Forward once, backward twice that (Kaplan 2020, section 2.1); what remat computes again is not counted."""
    return 3 * forward_flops_per_row(config, features, num_predicted, stacks)


def train_flops_per_token(config: Any, length: int) -> float:
    """Of one token in a row of `length`, for models of one stack."""
    return train_flops_per_row(config, {"tokens": (length,)}) / length
