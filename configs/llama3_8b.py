"""A decoder of Llama 3's 8B shape (Grattafiori 2024, table 3): 8,030,261,248 weights, grouped-query heads, an untied head.

Text: jsonl files in data/text/, a vocabulary from tools/train_vocabulary.py, then tools/cache_tasks.py --config=configs/llama3_8b.py
Train: python tools/train.py --config=configs/llama3_8b.py --coordinator=auto
Tiny:  python tools/train.py --config=configs/llama3_8b.py:tiny     two CPU cores, under 3 minutes
Plan:  python tools/plan.py --config=configs/llama3_8b.py --topology=v5p-256
FLOPs a token: 5.79e10.
Published: MMLU 66.7 (5-shot, the paper's table 9), after 15e12 tokens.
"""

from ml_collections import ConfigDict

from configs import base


def get_config(variant: str = "") -> ConfigDict:
    config = {
        "data": base.text({"causal": 1.0}, 8192, "data/text/vocabulary-128k.model"),
        "model": {
            "name": "llama",
            "vocab_size": 128256,
            "d_model": 4096,
            "num_layers": 32,
            "num_heads": 32,
            "num_kv_heads": 8,
            "mlp_dim": 14336,
            "rope_theta": 500_000.0,
            "loss_chunks": 16,
        },
        "optim": {"name": "adamw", "peak_lr": 0.0003, "warmup": 2000, "end_lr_ratio": 0.1, "weight_decay": 0.1, "b2": 0.95},
        "train": {"steps": "15e12 tokens", "batch_size": 512, "remat": "full", "dtype": "bfloat16"},
        "mesh": {"data": 1, "fsdp": -1},
        "layout": "fsdp_manual",
        "checkpoint": {"every": 500, "keep": 3},
        "eval": {"every": 2000, "max_rows": 1024},
    }
    return base.finish(config, variant, num_kv_heads=2, embed_scale=50.0)
