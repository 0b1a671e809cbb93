"""Small encoders to fine-tune on sentence polarity: `configs/polarity.py:masked`, replaced_token or skip_gram.

A word is one token, and a rare one unknown: for so small a model and so few labelled sentences, pieces of rare words only mislead.
`skip_gram` learns vectors of words alone, and is what helps most (docs/benchmarks.md).

Text:     data/polarity/{reviews,prose,sentences}.jsonl (`text`, `id`); benchmarks/quality.py makes them
Words:    python tools/train_vocabulary.py --config=configs/polarity.py:skip_gram --model_type words --size 16384 --sample_mb 1.5 \
            --config.data.mixture="{'reviews': 0.6, 'sentences': 0.4}"
Cache:    python tools/cache_tasks.py --config=configs/polarity.py:skip_gram
Train:    python tools/train.py --config=configs/polarity.py:skip_gram
Then:     python tools/finetune.py --config=configs/finetune.py:runs/polarity_skip_gram --seeds 5 --lrs 3e-4 1e-3
Hardware: 2 CPU cores, a few minutes
"""

from typing import Any

from ml_collections import ConfigDict

STACK: dict[str, Any] = {  # what trains a whole stack
    "optim": {"name": "muon", "peak_lr": 4e-3, "muon_lr": 0.02},
    "rates": {"reviews": 0.75, "prose": 0.1, "sentences": 0.15},
    "train": {"steps": 1000, "batch_size": 32},
}
RECIPES: dict[str, dict[str, Any]] = {
    "masked": STACK | {"model": {"name": "bert"}},
    "replaced_token": STACK | {"model": {"name": "electra"}},
    "skip_gram": {
        "model": {"name": "bert", "embed_init_std": 0.002},
        "optim": {"name": "adamw", "peak_lr": 1e-3, "weight_decay": 0.0},
        "rates": {"reviews": 0.6, "prose": 0.38, "sentences": 0.02},  # near their sizes: all is read several times
        "train": {"steps": 4000, "batch_size": 64},
    },
}


def get_config(objective: str = "masked") -> ConfigDict:
    if objective not in RECIPES:
        raise ValueError(f"unknown objective {objective!r}; accepted are {', '.join(RECIPES)}")
    recipe = RECIPES[objective]
    config = {
        "data": {
            "corpora": {
                "reviews": {"source": "jsonl", "files": "data/polarity/reviews.jsonl", "holdout": 0.02},
                "prose": {"source": "jsonl", "files": "data/polarity/prose.jsonl", "holdout": 0.02},
                "sentences": {"source": "jsonl", "files": "data/polarity/sentences.jsonl", "holdout": 0.05},
            },
            "mixture": {f"{corpus}:{objective}": rate for corpus, rate in recipe["rates"].items()},
            "vocabulary": "wordpiece:data/polarity/words-16384.txt",
            "sequence_length": 128,
            "cache_dir": "data/cache-polarity",
        },
        "model": {"d_model": 128, "num_layers": 2, "num_heads": 4, "positions": "rotary", "qk_norm": True, **recipe["model"]},
        "optim": {**recipe["optim"], "warmup": "3%", "end_lr_ratio": 0.0},
        "train": {**recipe["train"], "dtype": "float32"},
        "checkpoint": {"every": "25%", "keep": 1},
        "eval": {"every": "25%"},
        "log": {"every": 20},
    }
    return ConfigDict(config).lock()
