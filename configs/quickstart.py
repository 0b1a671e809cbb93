"""A small decoder on Python's own standard library: the first run on a fresh machine.

Everything:   bash tools/quickstart.sh
Only train:   python tools/train.py --config=configs/quickstart.py
Hardware:     2 CPU cores, 2 GB of memory; 10.5 minutes of training where a step takes 0.30 s
Expect:       1.26 bits per byte on the held-out files together (code 1.18); a counted 7-gram has 1.74 (Python 3.11.7)
"""

from ml_collections import ConfigDict


def get_config() -> ConfigDict:
    config = ConfigDict(
        {
            "data": {
                # Rates follow the sizes of the corpora, with the two smaller ones seen about twice as often.
                "mixture": {"stdlib_prose": 0.06, "stdlib_docstrings": 0.19, "stdlib_code": 0.75},
                "vocabulary": "data/stdlib/vocabulary-2048.model",
                "sequence_length": 256,
            },
            "model": {
                "name": "decoder",
                "d_model": 128,
                "num_layers": 4,
                "num_heads": 4,
                "qk_norm": True,
                # 50 * embed_init_std = 1: the residual stream starts at unit variance, where the blocks write.
                "embed_scale": 50.0,
            },
            "optim": {"name": "muon", "peak_lr": 4e-3, "muon_lr": 0.02, "warmup": "3%", "end_lr_ratio": 0.0},
            "train": {"steps": 2000, "batch_size": 8, "dtype": "float32"},
            "checkpoint": {"every": "10%", "keep": 2},
            "eval": {"every": "50%", "max_rows": 64, "ngram_orders": (1, 2, 3, 4, 5, 6, 7)},
            "log": {"every": 20},
        }
    )
    return config.lock()
