"""Small encoders to fine-tune on sentence polarity: `configs/polarity.py:masked`, or replaced_token.

A word is one token, and a rare one unknown: for so small a model and so few labelled sentences, pieces of rare words only mislead.

Text:     data/polarity/{reviews,prose,sentences}.jsonl (`text`, `id`); benchmarks/quality.py makes them
Words:    python tools/train_vocabulary.py --config=configs/polarity.py:masked --model_type words --size 16384 --sample_mb 1.5 \
            --config.data.mixture="{'reviews': 0.6, 'sentences': 0.4}"
Cache:    python tools/cache_tasks.py --config=configs/polarity.py:masked
Train:    python tools/train.py --config=configs/polarity.py:masked
Then:     python tools/finetune.py --config=configs/finetune.py:runs/polarity_masked --seeds 5 --lrs 5e-4 1e-3
Hardware: 2 CPU cores, a few minutes
"""

from ml_collections import ConfigDict

MODELS = {
    "masked": {"name": "bert"},
    "replaced_token": {"name": "electra"},
}


def get_config(objective: str = "masked") -> ConfigDict:
    if objective not in MODELS:
        raise ValueError(f"unknown objective {objective!r}; accepted are {', '.join(MODELS)}")
    config = {
        "data": {
            "corpora": {
                "reviews": {"source": "jsonl", "files": "data/polarity/reviews.jsonl", "holdout": 0.02},
                "prose": {"source": "jsonl", "files": "data/polarity/prose.jsonl", "holdout": 0.02},
                "sentences": {"source": "jsonl", "files": "data/polarity/sentences.jsonl", "holdout": 0.05},
            },
            "mixture": {f"reviews:{objective}": 0.75, f"prose:{objective}": 0.1, f"sentences:{objective}": 0.15},
            "vocabulary": "wordpiece:data/polarity/words-16384.txt",
            "sequence_length": 128,
            "cache_dir": "data/cache-polarity",
        },
        "model": {"d_model": 128, "num_layers": 2, "num_heads": 4, "positions": "rotary", "qk_norm": True, **MODELS[objective]},
        "optim": {"name": "muon", "peak_lr": 4e-3, "muon_lr": 0.02, "warmup": "3%", "end_lr_ratio": 0.0},
        "train": {"steps": 1000, "batch_size": 32, "dtype": "float32"},
        "checkpoint": {"every": "25%", "keep": 1},
        "eval": {"every": "25%"},
        "log": {"every": 20},
    }
    return ConfigDict(config).lock()
