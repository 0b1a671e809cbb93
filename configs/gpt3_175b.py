"""A decoder of GPT-3's shape and run (Brown 2020, table 2.1): 174,604,259,328 weights, 96 layers of 12,288, 300e9 tokens.

Text: jsonl files in data/text/, a vocabulary from tools/train_vocabulary.py, then tools/cache_tasks.py --config=configs/gpt3_175b.py
Train: python tools/train.py --config=configs/gpt3_175b.py --coordinator=auto
Tiny:  python tools/train.py --config=configs/gpt3_175b.py:tiny     two CPU cores, under 3 minutes
Plan:  python tools/plan.py --config=configs/gpt3_175b.py --topology=v5p-1024 --analytic
FLOPs a token: 1.08e12.
Published: 3.14e23 FLOPs for the run (table D.1, which leaves out attention's scores). Its layers alternate dense and banded sparse
attention; here all are dense. The batch is the paper's 3.2e6 tokens, without its ramp.
"""

from ml_collections import ConfigDict

from configs import base


def get_config(variant: str = "") -> ConfigDict:
    config = {
        "data": base.text({"causal": 1.0}, 2048, "data/text/vocabulary-50k.model"),
        "model": {
            "name": "gpt2",
            "vocab_size": 50257,
            "d_model": 12288,
            "num_layers": 96,
            "num_heads": 96,
            "mlp_dim": 49152,
            "max_length": 2048,
            "loss_chunks": 8,
        },
        "optim": {"name": "adamw", "peak_lr": 0.6e-4, "warmup": "375e6 tokens", "end_lr_ratio": 0.1, "weight_decay": 0.1, "b2": 0.95},
        "train": {"steps": "300e9 tokens", "batch_size": 1536, "remat": "full", "dtype": "bfloat16"},
        "mesh": {"data": 1, "fsdp": -1},
        "layout": "fsdp_manual",
        "checkpoint": {"every": 500, "keep": 3},
        "eval": {"every": 2000, "max_rows": 1024},
    }
    return base.finish(config, variant, **base.QUICK_POSITIONS, tied_head=False)
