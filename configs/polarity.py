"""Small models to fine-tune on sentence polarity: `configs/polarity.py:<objective>`, with causal (a decoder), masked or replaced_token.

Text:     data/polarity/prose.jsonl and data/polarity/sentences.jsonl (`text`, `id`); benchmarks/quality.py makes both
Words:    python tools/train_vocabulary.py --config=configs/polarity.py:causal --size 8192 --pieces words
Cache:    python tools/cache_tasks.py --config=configs/polarity.py:causal
Train:    python tools/train.py --config=configs/polarity.py:causal
Then:     python tools/finetune.py --config=configs/finetune.py:runs/polarity_causal --seeds 5 --lrs 3e-4 1e-3
Hardware: 2 CPU cores, a quarter of an hour
"""

from ml_collections import ConfigDict

MODELS = {
    "causal": {"name": "decoder", "d_model": 256, "embed_scale": 50.0},
    "masked": {"name": "bert", "d_model": 128, "positions": "rotary"},
    "replaced_token": {"name": "electra", "d_model": 128, "positions": "rotary"},
}


def get_config(objective: str = "causal") -> ConfigDict:
    if objective not in MODELS:
        raise ValueError(f"unknown objective {objective!r}; accepted are {', '.join(MODELS)}")
    config = {
        "data": {
            "corpora": {
                "prose": {"source": "jsonl", "files": "data/polarity/prose.jsonl", "holdout": 0.02},
                "sentences": {"source": "jsonl", "files": "data/polarity/sentences.jsonl", "holdout": 0.05},
            },
            "mixture": {f"prose:{objective}": 0.85, f"sentences:{objective}": 0.15},
            "vocabulary": "data/polarity/vocabulary-8192.model",
            "sequence_length": 128,
            "cache_dir": "data/cache-polarity",
        },
        "model": {"num_layers": 2, "num_heads": 4, "qk_norm": True, **MODELS[objective]},
        "optim": {"name": "muon", "peak_lr": 4e-3, "muon_lr": 0.02, "warmup": "3%", "end_lr_ratio": 0.0},
        "train": {"steps": 1000, "batch_size": 32, "dtype": "float32"},
        "checkpoint": {"every": "25%", "keep": 1},
        "eval": {"every": "25%"},
        "log": {"every": 20},
    }
    return ConfigDict(config).lock()
