"""Replaced-token detection against masked language modelling at equal FLOPs: which encoder knows more of a sentence's tone?

    python benchmarks/rtd_against_mlm.py --corpus='books.jsonl.gz' --probe=sentence_polarity.jsonl.gz [--tflop=6] [--seeds=5] [--json]

Needs pretrainx[tasks], and the token cache of benchmarks/objectives.py (made here if it is not there). For each seed both
train the same trunk (BERT's arrangement; ELECTRA adds a generator a quarter as wide) on the corpus for so many FLOPs. Then the
trunk is frozen: a logistic regression on the mean of its last hidden states predicts the label (`text`, `label` in the probe's file),
trained on four fifths of the sentences, scored on the rest, split by seed. Beside them the trunk untrained.
"""

import argparse
import gzip
import json
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import scipy.optimize
from objectives import config_of, prepare

from pretrainx.core import cli, files
from pretrainx.core.config import Config
from pretrainx.core.errors import InputError
from pretrainx.core.logs import log
from pretrainx.core.vocabulary import Vocabulary
from pretrainx.models.skeleton import Params, Skeleton
from pretrainx.train import experiment as experiments
from pretrainx.train import finetune, loop

LENGTH, BATCH, L2 = 192, 128, 1e-3
TRUNKS = {"masked": "small:masked", "replaced_token": "small:replaced_token"}


def main(argv: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--corpus", required=True, help="jsonl files (a glob) with `text` and `id`")
    parser.add_argument("--probe", type=Path, required=True, help="jsonl.gz with `text` and `label` (two kinds)")
    parser.add_argument("--out", type=Path, default=Path("runs/objectives"), help="default: %(default)s")
    parser.add_argument("--tflop", type=float, default=6.0, help="training FLOPs of each run, in 1e12 (default: %(default)s)")
    parser.add_argument("--seeds", type=int, default=5)
    parser.add_argument("--json", action="store_true")
    args = cli.parse_args(parser, argv)
    texts, labels = read(args.probe)
    prepare(args.corpus, args.out)
    found: dict[str, list[float]] = {}
    for seed in range(args.seeds):
        for name, spec in TRUNKS.items():
            path = args.out / f"probe-{name}-{seed}" / "accuracy.json"
            if not path.exists():
                files.write_json(path, one(name, spec, seed, args, texts, labels))
            for kind, accuracy in json.loads(path.read_text()).items():
                found.setdefault(kind, []).append(accuracy)
                log(f"seed {seed}: {kind} {accuracy:.4f}")
    result: dict[str, Any] = {"accuracy": found}
    for kind, values in found.items():
        mean, half = finetune.mean_interval(values)
        print(f"{kind:<28} {100 * mean:5.2f} % +- {100 * half:.2f}  ({', '.join(f'{100 * v:.2f}' for v in values)})")
    if args.json:
        cli.print_json(result)
    return 0


def read(path: Path) -> tuple[list[str], np.ndarray]:
    with gzip.open(path, "rt", encoding="utf-8") as stream:
        rows = [json.loads(line) for line in stream]
    kinds = sorted({row["label"] for row in rows})
    if len(kinds) != 2:
        raise InputError(f"--probe {path}: expected two kinds of `label`, found {len(kinds)}")
    return [row["text"] for row in rows], np.asarray([kinds.index(row["label"]) for row in rows])


def one(name: str, spec: str, seed: int, args: argparse.Namespace, texts: list[str], labels: np.ndarray) -> dict[str, float]:
    """Trains one trunk; its accuracy, and that of the same trunk untrained."""
    config = config_of(spec, args.corpus, args.out)
    model = {"name": "bert" if name == "masked" else "electra", "d_model": 128, "num_layers": 4, "num_heads": 4, "positions": "rotary"}

    def changed(steps: int) -> Config:
        train = dict(config.values["train"]) | {"seed": seed, "steps": steps}
        data = dict(config.values["data"]) | {"seed": seed}
        values = dict(config.values) | {"model": model, "train": train, "data": data, "eval": {"every": 0}}
        return Config(f"{name}-{seed}", config.file, values, values)

    folder = args.out / f"probe-{name}-{seed}"
    flops = loop.prepare(experiments.load(changed(1)), folder).program.flops_per_step
    steps = round(args.tflop * 1e12 / flops)
    log(f"{name}, seed {seed}: {steps} steps of {flops / 1e9:.1f} GFLOP")
    run = loop.prepare(experiments.load(changed(steps)), folder)
    skeleton, vocabulary = run.program.skeleton, run.mixture.vocabulary
    untrained = probe(embed(skeleton, run.program.init_state().params, vocabulary, texts), labels, seed)
    loop.train(run)
    assert run.state is not None
    return {f"{name}": probe(embed(skeleton, run.state.params, vocabulary, texts), labels, seed), f"{name}, untrained": untrained}


def embed(skeleton: Skeleton, params: Params, vocabulary: Vocabulary, texts: list[str]) -> np.ndarray:
    """[texts, D]: the mean of the trunk's last hidden states over each text's tokens."""

    @jax.jit
    def encode(params: Params, tokens: jax.Array) -> jax.Array:
        real = (tokens != vocabulary.special.pad).astype(jnp.int32)
        positions = jnp.broadcast_to(jnp.arange(LENGTH), tokens.shape)
        hidden = skeleton.merge(params).encode({"tokens": tokens, "positions": positions, "segment_ids": real})
        return jnp.sum(hidden * real[..., None], axis=1) / jnp.maximum(jnp.sum(real, axis=1, keepdims=True), 1)

    rows = np.full((-(-len(texts) // BATCH) * BATCH, LENGTH), vocabulary.special.pad, np.int32)
    for row, text in zip(rows, texts, strict=False):
        tokens = vocabulary.encode(text)[:LENGTH]
        row[: len(tokens)] = tokens
    parts = [np.asarray(encode(params, rows[i : i + BATCH])) for i in range(0, len(rows), BATCH)]
    return np.concatenate(parts)[: len(texts)].astype(np.float64)


def probe(x: np.ndarray, y: np.ndarray, seed: int) -> float:
    """Accuracy of a logistic regression on held-out rows."""
    order = np.random.default_rng(seed).permutation(len(x))
    train, test = order[: len(x) * 4 // 5], order[len(x) * 4 // 5 :]
    mean, deviation = x[train].mean(axis=0), x[train].std(axis=0) + 1e-9
    x = np.concatenate([(x - mean) / deviation, np.ones((len(x), 1))], axis=1)
    sign = 2.0 * y - 1

    def loss(w: np.ndarray) -> tuple[float, np.ndarray]:
        margin = sign[train] * (x[train] @ w)
        slope = -sign[train] / (1 + np.exp(np.clip(margin, -50, 50)))
        return float(np.logaddexp(0, -margin).mean() + L2 * w @ w), x[train].T @ slope / len(train) + 2 * L2 * w

    w = scipy.optimize.minimize(loss, np.zeros(x.shape[1]), jac=True, method="L-BFGS-B").x
    return float(((x[test] @ w > 0) == (y[test] > 0)).mean())


if __name__ == "__main__":
    cli.run(main)
