"""A 1.2B decoder: d_model 2048, 16 layers, 16 heads of 128, SwiGLU 8192, vocabulary 32768, sequences of 2048.

Plan it without the hardware:   python tools/plan.py --config=configs/decoder_1b.py --topology=v5e:4x4
Train it on a v5e-16 slice:     python tools/train.py --config=configs/decoder_1b.py --coordinator=auto \\
                                    --config.data.mixture="{'my_corpus': 1.0}" --config.data.vocabulary=my.model
4 sequences a chip: 64 on 16 chips, 131,072 tokens a step; 24e9 tokens (20 a parameter) are 183,000 steps.
No score is claimed: nobody has trained it to the end with this code.
"""

from ml_collections import ConfigDict


def get_config() -> ConfigDict:
    config = ConfigDict(
        {
            "data": {"sequence_length": 2048, "objective": "causal"},
            "model": {
                "name": "decoder",
                "vocab_size": 32768,
                "d_model": 2048,
                "num_layers": 16,
                "num_heads": 16,
                "mlp_dim": 8192,
                "loss_chunks": 4,  # the head over a quarter of the sequence at a time: 0.37 GB a chip less on v5e:4x4
            },
            "optim": {"name": "adamw", "peak_lr": 3e-4, "warmup": 2000},
            "train": {"steps": "24e9 tokens", "batch_size": 64, "remat": "full", "dtype": "bfloat16"},
            "mesh": {"data": 1, "fsdp": -1},
            "layout": "fsdp",
            "checkpoint": {"every": 1000, "keep": 3, "keep_every": 20000},
            "eval": {"every": 5000, "max_rows": 1024},
        }
    )
    return config.lock()
