"""A small bidirectional encoder with BERT's objective, on the quickstart's corpus and cache.

    bash tools/quickstart.sh                                    # once: corpus, vocabulary, cache
    python tools/train.py --config=configs/masked_small.py      # about 3 minutes on 2 CPU cores
    python tools/evaluate.py --config=configs/masked_small.py   # loss of the masked positions, by source

BERT's own arrangement (norms after the sums, learned positions, biases): --config=configs/masked_small.py:bert
"""

from ml_collections import ConfigDict


def get_config(model: str = "encoder") -> ConfigDict:
    config = ConfigDict(
        {
            "data": {
                "mixture": {"stdlib_docstrings:masked": 0.2, "stdlib_code:masked": 0.8},
                "objectives": {"masked": {"mask_rate": 0.15}},
                "vocabulary": "data/stdlib/vocabulary-2048.model",
                "sequence_length": 128,
            },
            "model": {"name": model, "d_model": 128, "num_layers": 4, "num_heads": 4},
            "optim": {"name": "adamw", "peak_lr": 2e-3, "warmup": "5%"},
            "train": {"steps": 1000, "batch_size": 16, "dtype": "float32"},
            "eval": {"every": "50%", "max_rows": 128},
            "log": {"every": 20},
        }
    )
    return config.lock()
