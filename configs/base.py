"""What the configs of the published models share: where the text is, and how a model is made tiny.

Every such config takes `:tiny`, which trains the same family on the same objectives in under three minutes on two CPU
cores, on the quickstart's corpus, as bytes. All of them share one token cache; make it once, with any of them:

    bash tools/quickstart.sh
    python tools/cache_tasks.py --config=configs/small.py:causal
"""

from typing import Any

from ml_collections import ConfigDict

# Bytes, and a hundred sentinels. The tenth of a million predictions that masking 15 % leaves in minutes do not suffice for
# the pairs of thousands of pieces (held-out loss stays at what frequency gives); for those of bytes they do.
VOCABULARY = "bytes+100"
# For tiny encoders published with learned positions: a hundred of those find their neighbours in hours, not in minutes.
QUICK_POSITIONS = {"positions": "rotary"}
STDLIB = {"stdlib_prose": 0.1, "stdlib_docstrings": 0.5, "stdlib_code": 0.4}


def text(objectives: dict[str, float], sequence_length: int, vocabulary: str, **options: dict[str, Any]) -> dict[str, Any]:
    """The `data` section for text of one's own under these objectives: put jsonl files into data/text/."""
    return {
        "mixture": {f"text:{name}": rate for name, rate in objectives.items()},
        "corpora": {"text": {"source": "jsonl", "files": "data/text/*.jsonl.gz", "holdout": 0.002}},
        "objectives": options,
        "vocabulary": vocabulary,
        "sequence_length": sequence_length,
    }


def tiny(config: ConfigDict, **model: Any) -> ConfigDict:
    """The config with a model of about a million weights, the standard library as text, and a schedule of minutes."""
    objectives = {name.partition(":")[2]: rate for name, rate in config.data.mixture.items()}
    data = {f"{corpus}:{name}": share * rate for corpus, share in STDLIB.items() for name, rate in objectives.items()}
    small = {"d_model": 128, "num_layers": 2, "num_heads": 4, "mlp_dim": 0, "vocab_size": 0, "max_length": 0, "loss_chunks": 1}
    with config.unlocked():
        config.data.mixture = ConfigDict(data)
        config.data.vocabulary, config.data.sequence_length = VOCABULARY, 128
        config.data.cache_dir = "data/cache-small"  # the sentinels make it another cache than the quickstart's
        del config.data["corpora"]
        config.model = ConfigDict(config.model.to_dict() | small | model)
        # Muon, whatever the model was published with: minutes are few, and it needs a third of the steps.
        config.optim = ConfigDict({"name": "muon", "peak_lr": 4e-3, "muon_lr": 0.02, "warmup": "5%", "end_lr_ratio": 0.0})
        config.train = ConfigDict({"steps": 400, "batch_size": 16, "dtype": "float32"})
        if "layout" in config:
            del config["layout"]  # where it is a dict of rules, no name may take its place
        config.mesh, config.layout = ConfigDict({"data": -1}), "dp"
        config.checkpoint = ConfigDict({"every": "50%"})
        config.eval = ConfigDict({"every": "50%", "max_rows": 64})
        config.log = ConfigDict({"every": 20})
    return config


def finish(config: dict[str, Any], variant: str, **model: Any) -> ConfigDict:
    """The config of a variant: "" as published, "tiny" as above with these changes to the model."""
    if variant not in ("", "tiny"):
        raise ValueError(f"unknown variant {variant!r}; accepted is 'tiny'")
    made = ConfigDict(config)
    return (tiny(made, **model) if variant else made).lock()
