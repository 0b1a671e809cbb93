"""Does each objective learn? Every published model's tiny variant, trained for the same FLOPs on the same text.

    python benchmarks/objectives.py --corpus='books.jsonl.gz' --out=runs/objectives [--tflop=5] [--only=t5_small ...] [--json]

Needs pretrainx[tasks]. Makes a token cache of the corpus, as bytes, then trains each small config for as
many steps as the FLOPs allow, and scores it on held-out documents by its own measure: nats per predicted token, or
per label. Beside it the same model untrained, and what counting gives: how often each token is predicted in the training text
under this objective (its unigrams), and the share of each label. Writes results.json, table.md and picture.png into --out; what
is there already is not trained again.

One entry has a setting of its own (LONGER): that a text follows another is hardly to be told from 60 characters of each, so it is
trained once more on word pieces, longer rows, and more FLOPs.
"""

import argparse
import json
import math
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np

from pretrainx.core import cli, files
from pretrainx.core import config as configs
from pretrainx.core.config import Config
from pretrainx.core.errors import InputError
from pretrainx.core.logs import log
from pretrainx.data.loader import Mixture, RowBuilder, open_mixture
from pretrainx.evaluate.perplexity import Evaluator, label, source_batches
from pretrainx.objectives.losses import term_names
from pretrainx.train import experiment as experiments
from pretrainx.train import loop
from pretrainx.train.loop import Run

NAMES = (
    "gpt2_124m:tiny", "llama_1b:tiny", "bert_base:tiny", "roberta_base:tiny", "electra_small:tiny", "spanbert_base:tiny",
    "t5_small:tiny", "bart_base:tiny", "glm_base:tiny", "ul2_small:tiny", "small:sentence_order", "small:prefix",
    "small:fill_in_middle", "joint_small", "small:next_sentence",
)  # fmt: skip
LONGER = "small:next_sentence"
LONGER_TFLOP = 80.0
LONGER_SETTING: dict[str, dict[str, Any]] = {
    "data": {"sequence_length": 256}, "model": {"init_std": None}, "train": {"batch_size": 32}, "eval": {"max_rows": 0},
}  # fmt: skip
PIECES = 8192  # of LONGER's vocabulary
COUNTED_ROWS = 4096  # of the training text, for the unigrams
ROOT = Path(__file__).parents[1]


def main(argv: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--corpus", required=True, help="jsonl files (a glob) with `text` and `id`")
    parser.add_argument("--out", type=Path, default=Path("runs/objectives"), help="default: %(default)s")
    parser.add_argument("--tflop", type=float, default=5.0, help="training FLOPs of each model, in 1e12 (default: %(default)s)")
    parser.add_argument("--only", nargs="+", default=NAMES, metavar="NAME", help="these configs alone")
    parser.add_argument("--json", action="store_true", help="print the result as one JSON object on the last line of stdout")
    args = cli.parse_args(parser, argv)
    prepare(args.corpus, args.out, LONGER in args.only)
    found: dict[str, Any] = {}
    for name in args.only:
        path = args.out / name.replace(":", "-") / "measured.json"
        if not path.exists():
            files.write_json(path, measure(name, args.corpus, args.out, (LONGER_TFLOP if name == LONGER else args.tflop) * 1e12))
        found[name] = json.loads(path.read_text())
        counted = count_all(config_of(name, args.corpus, args.out))
        for term in found[name]["terms"]:
            term["counted"], term["counted_accuracy"] = counted[term["term"]]
        shown = [f"{m['term']} {m['untrained']:.3f} -> {m['trained']:.3f} (counted {m['counted']:.3f})" for m in found[name]["terms"]]
        log(f"{name}: " + "; ".join(shown))
    files.write_json(args.out / "results.json", found)
    table = as_table(found)
    files.write_bytes(args.out / "table.md", table.encode())
    draw(found, args.out / "picture.png")
    print(table)
    if args.json:
        cli.print_json(found)
    return 0


def config_of(name: str, corpus: str, out: Path) -> Config:
    """A config on this corpus, its objectives at their rates."""
    file, _, variant = name.partition(":")
    loaded = configs.load(f"{ROOT}/configs/{file}.py" + (f":{variant}" if variant else ""))
    values = dict(loaded.values)
    rates: dict[str, float] = {}
    for entry, rate in values["data"]["mixture"].items():
        key = f"books:{entry.partition(':')[2]}"
        rates[key] = rates.get(key, 0.0) + rate
    values["data"] = values["data"] | {
        "mixture": rates,
        "corpora": {"books": {"source": "jsonl", "files": corpus, "holdout": 0.05}},
        "cache_dir": str(out / "cache"),
    }
    if name == LONGER:
        values |= {section: values.get(section, {}) | own for section, own in LONGER_SETTING.items()}
        values["data"] |= {"vocabulary": str(pieces_file(out)), "cache_dir": str(out / "cache-pieces")}
    return Config(name, loaded.file, values, values)


def pieces_file(out: Path) -> Path:
    return out / f"pieces-{PIECES}.model"


def prepare(corpus: str, out: Path, pieces: bool = False) -> None:
    """The token cache, by the project's own commands; with `pieces` also the vocabulary and the cache of LONGER."""
    text = [f"--config={ROOT}/configs/small.py:masked", "--config.data.mixture={'books': 1.0}", "--config.data.objectives={}"]
    text += [f"--config.data.corpora.books.{k}={v}" for k, v in (("source", "jsonl"), ("files", corpus), ("holdout", 0.05))]
    text += [f"--config.data.cache_dir={out / 'cache'}"]
    subprocess.run([sys.executable, f"{ROOT}/tools/cache_tasks.py", *text], check=True)
    if pieces:
        text[-1] = f"--config.data.cache_dir={out / 'cache-pieces'}"
        text.append(f"--config.data.vocabulary={pieces_file(out)}")
        if not pieces_file(out).exists():
            subprocess.run([sys.executable, f"{ROOT}/tools/train_vocabulary.py", *text, f"--size={PIECES}", "--pieces=words"], check=True)
        subprocess.run([sys.executable, f"{ROOT}/tools/cache_tasks.py", *text], check=True)


def measure(name: str, corpus: str, out: Path, flops: float) -> dict[str, Any]:
    """Trains one model and scores it before and after."""
    config = config_of(name, corpus, out)
    folder = out / name.replace(":", "-")
    run = loop.prepare(experiments.load(config), folder)
    per_step = run.program.flops_per_step
    steps = max(20, round(flops / per_step))
    values = dict(config.values) | {"train": dict(config.values["train"]) | {"steps": steps}}
    config = Config(config.name, config.file, values, values)
    log(f"{name}: {steps} steps of {per_step / 1e9:.1f} GFLOP")
    run = loop.prepare(experiments.load(config), folder)
    if run.held_out is None:
        raise InputError(f"{name}: its tiny variant evaluates nothing (eval.every 0)")
    untrained = score(run, run.program.init_state().params)
    result = loop.train(run)
    assert run.state is not None
    trained = score(run, run.state.params)
    terms = [
        {"term": key, "untrained": untrained[key][0], "trained": loss, "accuracy": right} for key, (loss, right) in sorted(trained.items())
    ]
    facts = {"steps": steps, "flops": steps * per_step, "params": run.program.skeleton.num_params, "seconds": result["seconds"]}
    return facts | {"family": run.program.experiment.model.name, "terms": terms}


def score(run: Run, params: Any) -> dict[str, tuple[float, float]]:
    """term -> (loss, accuracy) on the held-out documents."""
    assert run.held_out is not None
    found = Evaluator(run.program.skeleton, run.held_out, 16)(params)
    scores = {}
    for source in run.held_out.sources:
        for term in source.objective.terms:
            prefix = f"eval/{label(source)}" + (f"/{term}" if len(source.objective.terms) > 1 else "")
            key = term_names(source.objective_name, source.objective)[term]
            scores[key] = (found[f"{prefix}/loss"], found.get(f"{prefix}/accuracy", math.nan))
    return scores


def count_all(config: Config) -> dict[str, tuple[float, float]]:
    """term -> (loss, accuracy) of what needs no context, for every source of a config's mixture."""
    data = experiments.load(config).data
    train, held_out = open_mixture(data, "train"), open_mixture(data, "validation")
    return {key: value for index in range(len(train.sources)) for key, value in count(train, held_out, index).items()}


def count(train: Mixture, held_out: Mixture, index: int) -> dict[str, tuple[float, float]]:
    """Of one source: unigrams of the predicted tokens, and the shares of labels."""
    source = held_out.sources[index]
    counts = np.ones(train.vocabulary.size)
    for batch in source_batches(train, RowBuilder(train), index, 64, COUNTED_ROWS):
        counts += np.bincount(batch["targets"][batch["loss_weights"] > 0], minlength=len(counts))
    logs = np.log(counts / counts.sum())
    nats, right, weight, judged, labels = 0.0, 0.0, 0.0, 0, []
    for batch in source_batches(held_out, RowBuilder(held_out), index, 64, 0):
        targets = batch["targets"][batch["loss_weights"] > 0]
        nats, right, weight = nats - logs[targets].sum(), right + (targets == counts.argmax()).sum(), weight + len(targets)
        judged += int((batch["token_weights"] > 0).sum()) if "token_weights" in batch else 0
        labels += batch["pair_label"][batch["pair_weights"] > 0].tolist() if "pair_label" in batch else []
    found = {}
    for term, key in term_names(source.objective_name, source.objective).items():
        if term in ("nsp", "sop"):
            found[key] = entropy(float(np.mean(labels)))
        elif term == "rtd":  # at most this: a generator that guesses right leaves fewer to find
            found[key] = entropy(weight / max(1, judged))
        else:
            found[key] = (nats / max(weight, 1), right / max(weight, 1))
    return found


def entropy(share: float) -> tuple[float, float]:
    """(nats, accuracy) of a guess that knows the share of a label alone."""
    parts = [p for p in (share, 1 - share) if p > 0]
    return float(-sum(p * math.log(p) for p in parts)), float(max(share, 1 - share))


def as_table(found: dict[str, Any]) -> str:
    lines = ["| config | family | weights | steps | loss of | untrained | counted | trained | right guesses | counted |"]
    lines += ["|---|---|--:|--:|---|--:|--:|--:|--:|--:|"]
    for name, facts in found.items():
        for m in facts["terms"]:
            cells = [name, facts["family"], f"{facts['params'] / 1e6:.2f} M", f"{facts['steps']:,}", m["term"], f"{m['untrained']:.3f}"]
            cells += [
                f"{m['counted']:.3f}",
                f"**{m['trained']:.3f}**",
                f"{100 * m['accuracy']:.1f} %",
                f"{100 * m['counted_accuracy']:.1f} %",
            ]
            lines.append("| " + " | ".join(cells) + " |")
    return "\n".join(lines) + "\n"


def draw(found: dict[str, Any], path: Path) -> None:
    """Held-out loss of each term, as a share of its untrained loss."""
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    rows = [m | {"model": name} for name, facts in found.items() for m in facts["terms"]][::-1]
    figure = Figure(figsize=(10, 0.36 * len(rows) + 1.6), dpi=130, layout="constrained", facecolor="white")
    FigureCanvasAgg(figure)
    axes = figure.add_subplot()
    for place, m in enumerate(rows):
        axes.barh(place, m["trained"] / m["untrained"], color="#3b6fb6", height=0.62)
        axes.plot([m["counted"] / m["untrained"]] * 2, [place - 0.38, place + 0.38], color="#d1732a", linewidth=2.5)
        axes.text(m["trained"] / m["untrained"] + 0.008, place, f"{m['trained']:.2f}", va="center", fontsize=8)
    axes.set_yticks(range(len(rows)), [f"{m['model']}  {m['term']}" for m in rows], fontsize=8)
    axes.axvline(1, color="#22252a", linewidth=1)
    axes.set_xlabel("held-out loss as a share of the untrained model's (bar), and what counting gives (orange)", fontsize=9)
    axes.spines[["top", "right"]].set_visible(False)
    figure.savefig(path)


if __name__ == "__main__":
    cli.run(main)
