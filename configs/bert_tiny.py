"""BERT tiny (Turc 2019): 4,433,468 weights with both heads, two layers of 128.

Text: jsonl files in data/text/, a vocabulary from tools/train_vocabulary.py, then tools/cache_tasks.py --config=configs/bert_tiny.py
Train: python tools/train.py --config=configs/bert_tiny.py          on a pod: --coordinator=auto
Tiny:  python tools/train.py --config=configs/bert_tiny.py:tiny     two CPU cores, under 3 minutes
Hardware: any. FLOPs a token: 6.25e6.
Published: GLUE 64.2 (test; Turc 2019, distilled from larger ones).
"""

from ml_collections import ConfigDict

from configs import base


def get_config(variant: str = "") -> ConfigDict:
    config = {
        "data": base.text({"next_sentence": 1.0}, 128, "data/text/vocabulary-30k.model"),
        "model": {"name": "bert", "vocab_size": 30522, "d_model": 128, "num_layers": 2, "num_heads": 2, "max_length": 512},
        "optim": {
            "name": "adamw",
            "peak_lr": 1e-4,
            "warmup": 10_000,
            "schedule": "linear",
            "end_lr_ratio": 0.0,
            "weight_decay": 0.01,
            "b2": 0.999,
            "eps": 1e-6,
        },
        "train": {"steps": 125_000, "batch_size": 256, "dtype": "bfloat16"},
        "mesh": {"data": -1},
        "layout": "dp",
        "checkpoint": {"every": 5000, "keep": 3},
        "eval": {"every": 10_000, "max_rows": 2048},
    }
    return base.finish(config, variant, **base.QUICK_POSITIONS)
