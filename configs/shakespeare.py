"""Tiny Shakespeare, character by character: `configs/shakespeare.py` is our recipe, `configs/shakespeare.py:nanogpt` nanoGPT's for a CPU.

Both have 4 layers, 4 heads, width 128, blocks of 64, batches of 12, 2,000 steps, and the same FLOPs; the text is ASCII, so a
byte is a character.

Text:     data/shakespeare/train.txt (the first nine tenths) and data/shakespeare/validation.txt
Cache:    python tools/cache_tasks.py --config=configs/shakespeare.py
Train:    python tools/train.py --config=configs/shakespeare.py
Hardware: 2 CPU cores, two minutes
Expect:   1.56 nats a character on the whole validation set; nanogpt 1.88 (published: 1.88, on 20 batches); a counted 5-gram 1.67
"""

from ml_collections import ConfigDict

SIZES = {"d_model": 128, "num_layers": 4, "num_heads": 4}
RECIPES = {
    "": {
        "model": {"name": "decoder", "qk_norm": True, "embed_scale": 50.0, "gated_mlp": False, "activation": "gelu"},
        "optim": {"name": "muon", "peak_lr": 4e-3, "muon_lr": 0.02, "warmup": "3%", "end_lr_ratio": 0.0},
    },
    "nanogpt": {
        "model": {"name": "gpt2", "use_bias": False},
        "optim": {"name": "adamw", "peak_lr": 1e-3, "warmup": 100, "end_lr_ratio": 0.1, "weight_decay": 0.1, "b2": 0.99},
    },
    # The same network with the optimizer's values tuned on the last twentieth of the training text.
    "adamw": {
        "model": {"name": "gpt2", "use_bias": False},
        "optim": {"name": "adamw", "peak_lr": 4e-3, "warmup": 100, "end_lr_ratio": 0.0, "weight_decay": 0.1, "b2": 0.99},
    },
}


def get_config(recipe: str = "") -> ConfigDict:
    if recipe not in RECIPES:
        raise ValueError(f"unknown recipe {recipe!r}; accepted are {', '.join(map(repr, RECIPES))}")
    own = RECIPES[recipe]
    config = {
        "data": {
            "corpora": {"shakespeare": {"source": "text", "files": "data/shakespeare/{split}.txt"}},
            "mixture": {"shakespeare": 1.0},
            "sequence_length": 64,
            "cache_dir": "data/cache-shakespeare",
            "cache_shards": 1,
        },
        "model": SIZES | own["model"],
        "optim": own["optim"],
        "train": {"steps": 2000, "batch_size": 12, "dtype": "float32"},
        "checkpoint": {"every": "50%", "keep": 1},
        "eval": {"every": "50%", "batch_size": 64, "ngram_orders": (5,)},
        "log": {"every": 100},
    }
    return ConfigDict(config).lock()
