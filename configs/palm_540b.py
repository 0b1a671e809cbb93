"""A decoder of PaLM's 540B shape (Chowdhery 2022, table 1): 540,358,649,856 weights, one key head for 48, heads of 256.

Text: jsonl files in data/text/, a vocabulary from tools/train_vocabulary.py, then tools/cache_tasks.py --config=configs/palm_540b.py
Train: python tools/train.py --config=configs/palm_540b.py --coordinator=auto
Tiny:  python tools/train.py --config=configs/palm_540b.py:tiny     two CPU cores, under 3 minutes
Plan:  python tools/plan.py --config=configs/palm_540b.py --topology=v4-4096x2 --analytic
FLOPs a token: 3.28e12.
Published: 46.2 % MFU on 6,144 chips of v4; MMLU 69.3 (5-shot), after 780e9 tokens. Its layers run attention and MLP side by side; here
they come one after the other, with as many weights. The batch is its last and largest, of 2,048 rows.
"""

from ml_collections import ConfigDict

from configs import base


def get_config(variant: str = "") -> ConfigDict:
    config = {
        "data": base.text({"causal": 1.0}, 2048, "data/text/vocabulary-256k.model"),
        "model": {
            "name": "llama",
            "vocab_size": 256000,
            "d_model": 18432,
            "num_layers": 118,
            "num_heads": 48,
            "num_kv_heads": 1,
            "head_dim": 256,
            "mlp_dim": 73728,
            "tied_head": True,
            "loss_chunks": 16,
        },
        "optim": {"name": "adamw", "peak_lr": 1e-4, "warmup": 10000, "end_lr_ratio": 0.1, "weight_decay": 0.1, "b2": 0.99},
        "train": {"steps": "780e9 tokens", "batch_size": 2048, "remat": "full", "dtype": "bfloat16"},
        "mesh": {"data": 1, "fsdp": -1, "tensor": 8},
        # As fsdp_tp, but the one key head is on every device of the tensor axis.
        "layout": {
            "weights": {"embed": "fsdp", "heads": "tensor", "mlp": "tensor", "vocab": "tensor"},
            "activations": {"heads": "tensor", "mlp": "tensor", "vocab": "tensor"},
        },
        "checkpoint": {"every": 500, "keep": 3},
        "eval": {"every": 2000, "max_rows": 1024},
    }
    return base.finish(config, variant, num_kv_heads=1, head_dim=0, tied_head=False, embed_scale=50.0)
