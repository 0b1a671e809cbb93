"""Fine-tunes a run taught by labelled reviews on sentence polarity; half of a batch stays reviews: `configs/rehearsal.py:runs/<run>`.

An intermediate task (Phang et al. 2018) is soon forgotten on few sentences; rehearsal (Robins 1995) keeps it.
benchmarks/quality.py makes the data.

Text:     as configs/finetune.py, and data/reviews/{train,validation}.jsonl with `text` and `label` (neg, pos)
Cache:    python tools/cache_tasks.py --config=configs/rehearsal.py:runs/taught
Grid:     python tools/finetune.py --config=configs/rehearsal.py:runs/taught --corpus=polarity --seeds 5 --lrs 3e-4 1e-3 --report=test
Hardware: any; a tiny encoder takes a few minutes on two CPU cores.
"""

from ml_collections import ConfigDict

from configs import finetune


def get_config(init_from: str = "") -> ConfigDict:
    config = finetune.get_config(init_from).unlock()
    config.data.corpora.reviews = {**config.data.corpora.polarity.to_dict(), "files": "data/reviews/{split}.jsonl"}
    config.data.mixture = {"polarity:classify": 0.5, "reviews:classify": 0.5}
    return config.lock()
