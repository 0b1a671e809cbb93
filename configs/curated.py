"""A small decoder on what tools/curate.py left of three sources: encyclopedia, code and books, by weight.

Text:     python tools/curate.py --config=configs/curate_files.py --workdir=data/clean --config.inputs="{'encyclopedia': ..., ...}"
Words:    python tools/train_vocabulary.py --config=configs/curated.py --size 4096
Cache:    python tools/cache_tasks.py --config=configs/curated.py
Train:    python tools/train.py --config=configs/curated.py
Leaks:    --config.data.decontaminated="{'arc_easy': 'eval/arc_easy.jsonl.gz'}" refuses to start where curation did not look for that set
Hardware: 2 CPU cores, 3 minutes
The whole road, with files to try it on: docs/curation.md
"""

from ml_collections import ConfigDict

WEIGHTS = {"encyclopedia": 0.25, "code": 0.25, "books": 0.5}


def get_config() -> ConfigDict:
    config = {
        "data": {
            "corpora": {
                source: {"source": "jsonl", "files": f"data/clean/documents/{source}-*.jsonl.gz", "holdout": 0.05} for source in WEIGHTS
            },
            "mixture": WEIGHTS,
            "vocabulary": "data/clean/vocabulary-4096.model",
            "sequence_length": 256,
            "cache_dir": "data/cache-clean",
        },
        "model": {"name": "decoder", "d_model": 128, "num_layers": 4, "num_heads": 4, "qk_norm": True, "embed_scale": 50.0},
        "optim": {"name": "muon", "peak_lr": 4e-3, "muon_lr": 0.02, "warmup": "3%", "end_lr_ratio": 0.0},
        "train": {"steps": 400, "batch_size": 8, "dtype": "float32"},
        "checkpoint": {"every": "25%", "keep": 2},
        "eval": {"every": "50%", "max_rows": 64, "ngram_orders": (1, 2, 3, 4, 5, 6)},
        "log": {"every": 20},
    }
    return ConfigDict(config).lock()
