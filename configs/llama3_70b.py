"""A decoder of Llama 3's 70B shape (Grattafiori 2024, table 3): 70,553,706,496 weights, grouped-query heads, an untied head.

Text: jsonl files in data/text/, a vocabulary from tools/train_vocabulary.py, then tools/cache_tasks.py --config=configs/llama3_70b.py
Train: python tools/train.py --config=configs/llama3_70b.py --coordinator=auto
Tiny:  python tools/train.py --config=configs/llama3_70b.py:tiny     two CPU cores, under 3 minutes
Plan:  python tools/plan.py --config=configs/llama3_70b.py --topology=v5p-1024
FLOPs a token: 4.81e11.
Published: MMLU 79.3 (5-shot, the paper's table 9), after 15e12 tokens.
"""

from ml_collections import ConfigDict

from configs import base


def get_config(variant: str = "") -> ConfigDict:
    config = {
        "data": base.text({"causal": 1.0}, 8192, "data/text/vocabulary-128k.model"),
        "model": {
            "name": "llama",
            "vocab_size": 128256,
            "d_model": 8192,
            "num_layers": 80,
            "num_heads": 64,
            "num_kv_heads": 8,
            "mlp_dim": 28672,
            "rope_theta": 500_000.0,
            "loss_chunks": 16,
        },
        "optim": {"name": "adamw", "peak_lr": 0.00015, "warmup": 2000, "end_lr_ratio": 0.1, "weight_decay": 0.1, "b2": 0.95},
        "train": {"steps": "15e12 tokens", "batch_size": 1024, "remat": "full", "dtype": "bfloat16"},
        "mesh": {"data": 1, "fsdp": -1},
        "layout": "fsdp_manual",
        "checkpoint": {"every": 500, "keep": 3},
        "eval": {"every": 2000, "max_rows": 1024},
    }
    return base.finish(config, variant, num_kv_heads=2, embed_scale=50.0)
