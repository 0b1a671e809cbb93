"""A decoder of Llama 2's 70B shape (Touvron 2023b, section 2): 68,976,648,192 weights, grouped-query heads, an untied head.

Text: jsonl files in data/text/, a vocabulary from tools/train_vocabulary.py, then tools/cache_tasks.py --config=configs/llama2_70b.py
Train: python tools/train.py --config=configs/llama2_70b.py --coordinator=auto
Tiny:  python tools/train.py --config=configs/llama2_70b.py:tiny     two CPU cores, under 3 minutes
Plan:  python tools/plan.py --config=configs/llama2_70b.py --topology=v6e-256
FLOPs a token: 4.44e11.
Published: MMLU 68.9 (5-shot, the paper's table 3), after 2e12 tokens.
"""

from ml_collections import ConfigDict

from configs import base


def get_config(variant: str = "") -> ConfigDict:
    config = {
        "data": base.text({"causal": 1.0}, 4096, "data/text/vocabulary-32k.model"),
        "model": {
            "name": "llama",
            "vocab_size": 32000,
            "d_model": 8192,
            "num_layers": 80,
            "num_heads": 64,
            "num_kv_heads": 8,
            "mlp_dim": 28672,
            "rope_theta": 10_000.0,
            "loss_chunks": 8,
        },
        "optim": {"name": "adamw", "peak_lr": 0.00015, "warmup": 2000, "end_lr_ratio": 0.1, "weight_decay": 0.1, "b2": 0.95},
        "train": {"steps": "2e12 tokens", "batch_size": 1024, "remat": "full", "dtype": "bfloat16"},
        "mesh": {"data": 1, "fsdp": -1},
        "layout": "fsdp_manual",
        "checkpoint": {"every": 500, "keep": 3},
        "eval": {"every": 2000, "max_rows": 1024},
    }
    return base.finish(config, variant, num_kv_heads=2, embed_scale=50.0)
