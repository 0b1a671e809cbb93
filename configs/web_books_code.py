"""Llama-style decoder on a mixture of five sources by weight: web 45, books 25, code 15, encyclopedia 10, news 5.

Text:     curated jsonl files data/mixture/<source>/*.jsonl.gz (tools/curate.py writes such), with `text` and `id`
Words:    python tools/train_vocabulary.py --config=configs/web_books_code.py --size 32768
Cache:    python tools/cache_tasks.py --config=configs/web_books_code.py
Train:    python tools/train.py --config=configs/web_books_code.py
          The log says how often each source will be repeated, and warns above data.max_epochs; with --config.data.rates=documents
          the weights are of documents instead of tokens.
Hardware: 8 H100 or a TPU v5e-16 for 124M weights and 2.6B tokens, about an hour (not measured)
"""

from ml_collections import ConfigDict

from configs import base

WEIGHTS = {"web": 45.0, "books": 25.0, "code": 15.0, "encyclopedia": 10.0, "news": 5.0}


def get_config() -> ConfigDict:
    data = base.text({"causal": 1.0}, 1024, "data/mixture/vocabulary-32768.model")
    data["mixture"] = {f"{source}:causal": weight for source, weight in WEIGHTS.items()}
    data["corpora"] = {source: {"source": "jsonl", "files": f"data/mixture/{source}/*.jsonl.gz", "holdout": 0.002} for source in WEIGHTS}
    config = {
        "data": data,
        "model": {"name": "llama", "d_model": 768, "num_layers": 12, "num_heads": 12},
        "optim": {"name": "adamw", "peak_lr": 6e-4, "warmup": "2%", "weight_decay": 0.1, "b2": 0.95, "clip_norm": 1.0},
        "train": {"steps": 5000, "batch_size": 512},
        "mesh": {"fsdp": -1},
        "layout": "fsdp",
        "eval": {"every": "10%", "max_rows": 512},
    }
    return ConfigDict(config).lock()
