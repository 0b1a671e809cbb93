"""A decoder of Llama 3.2's 1B shape (Grattafiori 2024): 1,235,814,400 weights, grouped-query heads, a tied head.

Text: jsonl files in data/text/, a vocabulary from tools/train_vocabulary.py, then tools/cache_tasks.py --config=configs/llama_1b.py
Train: python tools/train.py --config=configs/llama_1b.py          on a pod: --coordinator=auto
Tiny:  python tools/train.py --config=configs/llama_1b.py:tiny     two CPU cores, under 3 minutes
Plan:  python tools/plan.py --config=configs/llama_1b.py --topology=v5e:4x4
Hardware: 16 chips of 16 GB or more. FLOPs a token: 9.03e9.
Published: MMLU 32.2 (5-shot), after 9e12 tokens and distillation; from scratch at 25e9 tokens expect less.
"""

from ml_collections import ConfigDict

from configs import base


def get_config(variant: str = "") -> ConfigDict:
    config = {
        "data": base.text({"causal": 1.0}, 4096, "data/text/vocabulary-128k.model"),
        "model": {
            "name": "llama",
            "vocab_size": 128256,
            "d_model": 2048,
            "num_layers": 16,
            "num_heads": 32,
            "num_kv_heads": 8,
            "mlp_dim": 8192,
            "rope_theta": 500_000.0,
            "tied_head": True,
            "loss_chunks": 16,
        },
        "optim": {"name": "adamw", "peak_lr": 3e-4, "warmup": 2000, "weight_decay": 0.1, "b2": 0.95},
        "train": {"steps": "25e9 tokens", "batch_size": 256, "remat": "full", "dtype": "bfloat16"},
        "mesh": {"data": 1, "fsdp": -1},
        "layout": "fsdp_manual",
        "checkpoint": {"every": 1000, "keep": 3},
        "eval": {"every": 5000, "max_rows": 1024},
    }
    return base.finish(config, variant, num_kv_heads=2, tied_head=False, embed_scale=50.0)
