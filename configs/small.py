"""Any objective on a small model of a family that suits it, on the quickstart's corpus: `configs/small.py:<objective>`.

bash tools/quickstart.sh                                           # once: the corpus
python tools/cache_tasks.py --config=configs/small.py:prefix       # once: all objectives share the cache
python tools/train.py --config=configs/small.py:prefix             # under 3 minutes on 2 CPU cores
python tools/evaluate.py --config=configs/small.py:prefix
"""

from ml_collections import ConfigDict

from configs import base

MODELS = {
    "causal": {"name": "llama", "embed_scale": 50.0},
    "fill_in_middle": {"name": "llama", "embed_scale": 50.0},
    "prefix": {"name": "prefix_decoder", "embed_scale": 50.0},
    "ul2": {"name": "prefix_decoder", "embed_scale": 50.0},
    "blank_infilling": {"name": "glm"},
    "masked": {"name": "encoder"},
    "next_sentence": {"name": "bert", **base.QUICK_POSITIONS},
    "sentence_order": {"name": "bert", **base.QUICK_POSITIONS},
    "span_boundary": {"name": "bert", **base.QUICK_POSITIONS},
    "replaced_token": {"name": "electra", "embedding_size": 64, **base.QUICK_POSITIONS},
    "skip_gram": {"name": "encoder", "embed_init_std": 0.002},
    "span_corruption": {"name": "t5"},
    "denoising": {"name": "bart"},
}
OPTIONS = {"ul2": {"form": "decoder"}}


def get_config(objective: str = "causal") -> ConfigDict:
    if objective not in MODELS:
        raise ValueError(f"unknown objective {objective!r}; accepted are {', '.join(MODELS)}")
    options = {objective: OPTIONS[objective]} if objective in OPTIONS else {}
    config = {
        "data": base.text({objective: 1.0}, 128, base.VOCABULARY, **options),
        "model": MODELS[objective],
        "optim": {},  # as in base.tiny
    }
    return base.finish(config, "tiny")
