"""A decoder on a few megabytes of novels, for bits per byte on a novel that it has not seen: several epochs, so the data are the limit.

Text:     jsonl files data/novels/{train,validation}.jsonl with `text` and `id`
Words:    python tools/train_vocabulary.py --config=configs/novels.py --size 4096
Cache:    python tools/cache_tasks.py --config=configs/novels.py
Train:    python tools/train.py --config=configs/novels.py
Hardware: 2 CPU cores, half an hour
Expect:   1.73 bits per byte on the tenth, held out (Treasure Island), after nine novels of 6.5 MB; a counted 6-gram has 1.995
"""

from ml_collections import ConfigDict


def get_config() -> ConfigDict:
    config = {
        "data": {
            "corpora": {"novels": {"source": "jsonl", "files": "data/novels/{split}.jsonl"}},
            "mixture": {"novels": 1.0},
            "vocabulary": "data/novels/vocabulary-4096.model",
            "sequence_length": 256,
            "cache_dir": "data/cache-novels",
        },
        "model": {"name": "decoder", "d_model": 256, "num_layers": 4, "num_heads": 4, "qk_norm": True, "embed_scale": 50.0},
        "optim": {"name": "muon", "peak_lr": 4e-3, "muon_lr": 0.02, "warmup": "3%", "end_lr_ratio": 0.0},
        "train": {"steps": 800, "batch_size": 16, "dtype": "float32"},
        "checkpoint": {"every": "10%", "keep": 1},
        "eval": {"every": "20%", "ngram_orders": (1, 2, 3, 4, 5, 6)},
        "log": {"every": 20},
    }
    return ConfigDict(config).lock()
