"""Three objectives on one set of weights: total = 1.0 LM + 0.5 MLM + 0.5 (MLM + NSP), each with its own count of predictions.

    bash tools/quickstart.sh                                          # once: the corpus
    python tools/cache_tasks.py --config=configs/joint_small.py       # once
    python tools/train.py --config=configs/joint_small.py             # under 3 minutes on 2 CPU cores

The model is a decoder that sees a marked prefix as a whole: leftwards for `causal` rows, both ways for the others.
"""

from ml_collections import ConfigDict

from configs import base


def get_config() -> ConfigDict:
    config = {
        "data": base.text({"causal": 0.5, "masked": 0.3, "next_sentence": 0.2}, 128, base.VOCABULARY),
        "model": {"name": "prefix_decoder", "num_token_types": 2, "embed_scale": 50.0},
        "optim": {},  # as in base.tiny
    }
    made = base.finish(config, "tiny")
    with made.unlocked():
        made.train.loss_weights = ConfigDict({"masked": 0.5, "next_sentence": 0.5})
    return made.lock()
