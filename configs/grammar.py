"""A decoder on single sentences of English prose, to be asked which of two sentences is English (BLiMP).

Each sentence is a document: so the model knows how sentences begin, and rows pack them side by side, none seeing another.

Text:     data/grammar/sentences.jsonl (`text`, `id`); benchmarks/quality.py makes it
Words:    python tools/train_vocabulary.py --config=configs/grammar.py --size 1024 --pieces words
Cache:    python tools/cache_tasks.py --config=configs/grammar.py
Train:    python tools/train.py --config=configs/grammar.py
Hardware: 2 CPU cores, about an hour
Expect:   62.4 and 62.9 % of BLiMP's pairs in two runs (a byte 5-gram has 61, chance 50), on 18.5 MB of sentences of 4 to 30 words
"""

from ml_collections import ConfigDict


def get_config() -> ConfigDict:
    config = {
        "data": {
            "corpora": {"sentences": {"source": "jsonl", "files": "data/grammar/sentences.jsonl", "holdout": 0.02}},
            "mixture": {"sentences": 1.0},
            "vocabulary": "data/grammar/vocabulary-1024.model",
            "sequence_length": 128,
            "cache_dir": "data/cache-grammar",
        },
        "model": {"name": "decoder", "d_model": 256, "num_layers": 4, "num_heads": 4, "qk_norm": True, "embed_scale": 50.0},
        "optim": {"name": "muon", "peak_lr": 4e-3, "muon_lr": 0.02, "warmup": "3%", "end_lr_ratio": 0.0},
        "train": {"steps": "1 epochs", "batch_size": 16, "dtype": "float32"},
        "checkpoint": {"every": "10%", "keep": 1},
        "eval": {"every": "20%"},
        "log": {"every": 20},
    }
    return ConfigDict(config).lock()
