"""RoBERTa base (Liu 2019): 124,697,433 weights; masked tokens drawn anew at each pass, full windows, no sentence task.

Text: jsonl files in data/text/, a vocabulary from tools/train_vocabulary.py, then tools/cache_tasks.py --config=configs/roberta_base.py
Train: python tools/train.py --config=configs/roberta_base.py          on a pod: --coordinator=auto
Tiny:  python tools/train.py --config=configs/roberta_base.py:tiny     two CPU cores, under 3 minutes
Hardware: 64 devices of 16 GB (4 M tokens a step). FLOPs a token: 6.02e8.
Published: MNLI 87.6, SST-2 94.8 (dev; the authors' released base model).
"""

from ml_collections import ConfigDict

from configs import base


def get_config(variant: str = "") -> ConfigDict:
    config = {
        "data": base.text({"masked": 1.0}, 512, "data/text/vocabulary-50k.model"),
        "model": {"name": "roberta", "vocab_size": 50265, "d_model": 768, "num_layers": 12, "num_heads": 12},
        "optim": {
            "name": "adamw",
            "peak_lr": 6e-4,
            "warmup": 24_000,
            "schedule": "linear",
            "end_lr_ratio": 0.0,
            "weight_decay": 0.01,
            "b2": 0.98,
            "eps": 1e-6,
        },
        "train": {"steps": 500_000, "batch_size": 8192, "grad_accum": 2, "dtype": "bfloat16"},
        "mesh": {"data": -1},
        "layout": "dp",
        "checkpoint": {"every": 2000, "keep": 3},
        "eval": {"every": 5000, "max_rows": 2048},
    }
    return base.finish(config, variant, **base.QUICK_POSITIONS)
