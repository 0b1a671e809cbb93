"""SpanBERT base (Joshi 2020): 110,301,480 weights with both heads.

BERT base on single stretches of text, spans masked, and predicted again from their boundaries.

Text: jsonl files in data/text/, a vocabulary from tools/train_vocabulary.py, then tools/cache_tasks.py --config=configs/spanbert_base.py
Train: python tools/train.py --config=configs/spanbert_base.py          on a pod: --coordinator=auto
Tiny:  python tools/train.py --config=configs/spanbert_base.py:tiny     two CPU cores, under 3 minutes
Hardware: 8 devices of 16 GB. FLOPs a token: 6.09e8.
Published: SQuAD 1.1 F1 92.4 (dev; the authors' released base model).
"""

from ml_collections import ConfigDict

from configs import base


def get_config(variant: str = "") -> ConfigDict:
    config = {
        "data": base.text({"span_boundary": 1.0}, 512, "data/text/vocabulary-30k.model"),
        "model": {"name": "bert", "vocab_size": 28996, "d_model": 768, "num_layers": 12, "num_heads": 12},
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
        "train": {"steps": 2_400_000, "batch_size": 256, "dtype": "bfloat16"},
        "mesh": {"data": -1},
        "layout": "dp",
        "checkpoint": {"every": 5000, "keep": 3},
        "eval": {"every": 10_000, "max_rows": 2048},
    }
    return base.finish(config, variant, **base.QUICK_POSITIONS)
