"""ELECTRA small (Clark 2020): 14,196,219 weights, the generator's among them.

A discriminator of 12 layers of 256, a generator a quarter as wide, shared embeddings of 128.

Text: jsonl files in data/text/, a vocabulary from tools/train_vocabulary.py, then tools/cache_tasks.py --config=configs/electra_small.py
Train: python tools/train.py --config=configs/electra_small.py          on a pod: --coordinator=auto
Tiny:  python tools/train.py --config=configs/electra_small.py:tiny     two CPU cores, under 3 minutes
Hardware: one device. FLOPs a token: 7.02e7 (generator and discriminator).
Published: GLUE 79.9 (dev; Clark 2020, table 1).
"""

from ml_collections import ConfigDict

from configs import base


def get_config(variant: str = "") -> ConfigDict:
    config = {
        "data": base.text({"replaced_token": 1.0}, 128, "data/text/vocabulary-30k.model"),
        "model": {
            "name": "electra",
            "vocab_size": 30522,
            "d_model": 256,
            "num_layers": 12,
            "num_heads": 4,
            "embedding_size": 128,
            "generator_size": 0.25,
            "max_length": 512,
        },
        "optim": {
            "name": "adamw",
            "peak_lr": 5e-4,
            "warmup": 10_000,
            "schedule": "linear",
            "end_lr_ratio": 0.0,
            "weight_decay": 0.01,
            "b2": 0.999,
            "eps": 1e-6,
        },
        "train": {"steps": 1_000_000, "batch_size": 128, "dtype": "bfloat16"},
        "mesh": {"data": -1},
        "layout": "dp",
        "checkpoint": {"every": 5000, "keep": 3},
        "eval": {"every": 10_000, "max_rows": 2048},
    }
    return base.finish(config, variant, embedding_size=64, **base.QUICK_POSITIONS)
