"""Fine-tunes a pretrained run on sentence polarity, or on any labelled corpus: `configs/finetune.py:runs/<pretrained run>`.

Text:  jsonl files data/polarity/{train,validation,test}.jsonl with `text` and `label` (neg, pos); for GLUE, SuperGLUE and the fields of
       your own files see docs/finetuning.md
Cache: python tools/cache_tasks.py --config=configs/finetune.py:runs/bert_base_tiny
Train: python tools/train.py --config=configs/finetune.py:runs/bert_base_tiny                                    full
Grid:  python tools/finetune.py --config=configs/finetune.py:runs/bert_base_tiny --seeds 5 --lrs 1e-4 3e-4 1e-3 --report=test
       frozen trunk:  --config.optim.trainable="('class_head/*',)" --config.model.pooling=attention --config.model.class_hidden=False
       adapters:      --config.model.lora_rank=8
       lower layers slower: --config.optim.layer_decay=0.8
Hardware: any; a tiny encoder takes a few minutes on two CPU cores.
"""

from ml_collections import ConfigDict


def get_config(init_from: str = "") -> ConfigDict:
    config = {
        "init_from": init_from,  # "": the same network from scratch, for comparison; give `model` its sizes then
        "data": {
            "corpora": {
                "polarity": {
                    "task": "classes",
                    "files": "data/polarity/{split}.jsonl",
                    "fields": {"first": "text"},
                    "labels": ("neg", "pos"),
                }
            },
            "mixture": {"polarity:classify": 1.0},
            "sequence_length": 256,
            "cache_dir": "data/cache-finetune",
        },
        "model": {"pooling": "mean"},
        "optim": {
            "name": "adamw",
            "peak_lr": 3e-4,
            "warmup": "10%",
            "schedule": "linear",
            "end_lr_ratio": 0.0,
            "weight_decay": 0.01,
            "b2": 0.999,
        },
        "train": {"steps": "3 epochs", "batch_size": 32, "dtype": "float32"},
        "checkpoint": {"every": "50%", "keep": 1},
        "eval": {"every": "33%"},
    }
    return ConfigDict(config).lock()
