"""What do small models learn on real text? Five questions with a figure to beat each, by the project's own commands.

    python benchmarks/quality.py --data=../shared/data --out=runs/quality [--only=shakespeare ...] [--seeds=5] [--jobs=2] [--json]

Needs pretrainx[tasks], 2 CPU cores and an hour and a half (docs/benchmarks.md has what it found). Parts:
  shakespeare  nats a character on the whole validation set (the last tenth): nanoGPT's recipe, and ours at the same FLOPs
  novels       bits per byte on a novel that was set aside (Treasure Island), after training on the other nine
  blimp        minimal pairs of English grammar, scored by a decoder trained on sentences of novels, speeches, articles and reviews
  polarity     critics' sentences told apart as praise or blame: fine-tuned from a model pretrained here (vectors of words from prose and
               viewers' reviews of another site, then what those viewers thought), and the same network from scratch
  rtd          masked and replaced-token pretraining for equal FLOPs, both fine-tuned on the same sentences

What is scored is never tuned on: recipes of `shakespeare` were chosen on the last twentieth of its training text, those of
`polarity` on five tenths of its sentences that are never scored (trained on four of them, tested on the fifth, in turn). Tenths go by a
hash of the sentence's text, so that equal sentences fall together; the five others are scored, one by each seed, after training on the
other nine. What --out has already is not run again. Writes results.json and table.md there.
"""

import argparse
import json
import math
import os
import queue
import random
import subprocess
import sys
import threading
import time
from collections import Counter
from collections.abc import Callable, Iterable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import prose

from pretrainx.core import cli, files
from pretrainx.core import config as configs
from pretrainx.core.errors import InputError
from pretrainx.core.logs import log
from pretrainx.curate.holdout import held_out
from pretrainx.train import finetune

ROOT = Path(__file__).parents[1]
HELD_OUT = "robert-louis-stevenson_treasure-island"
SCORED = (0, 1, 3, 4, 5)  # tenths of the polarity sentences; of fine-tuning, all was chosen on the others
BATCH = 64
FINETUNE = (
    "--config.data.sequence_length=48", "--config.model.dropout=0.3", "--config.model.word_dropout=0.15",
    f"--config.train.batch_size={BATCH}", "--config.eval.every=0",
)  # fmt: skip
LABELLED = (
    "--config.data.sequence_length=64", "--config.model.dropout=0.1", "--config.model.word_dropout=0.1", "--config.train.steps=1 epochs",
    f"--config.train.batch_size={BATCH}", "--config.optim.peak_lr=3e-4", "--config.eval.every=0",
)  # fmt: skip
PASSAGE = 56  # words of a passage of a review
EPOCHS = 3  # of the sentences
PAIRS = f"--config.model.bigram_rows={2**20}"  # vectors of pairs of words, for what is told apart
TFLOP = 8.0  # of pretraining, for each trunk
Row = dict[str, Any]

here = threading.local()  # of the part that a thread runs: `log`, where its commands write
alone = threading.Lock()  # while data of two parts are made
cached: set[Path] = set()  # folds whose tokens are


def main(argv: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", type=Path, required=True, help="folder with pretrain/ and tasks/")
    parser.add_argument("--out", type=Path, default=Path("runs/quality"), help="default: %(default)s")
    parser.add_argument("--only", nargs="+", choices=PARTS, default=list(PARTS), metavar="PART", help=f"of {', '.join(PARTS)}")
    parser.add_argument("--jobs", type=int, default=2, help="parts side by side, each on its own share of the cores (default: %(default)s)")
    parser.add_argument(
        "--seeds", type=int, default=5, choices=range(1, len(SCORED) + 1), help="of fine-tuning, 1 to 5 (default: %(default)s)"
    )
    parser.add_argument("--json", action="store_true", help="print the result as one JSON object on the last line of stdout")
    args = cli.parse_args(parser, argv)
    if not (args.data / "pretrain").is_dir() or not (args.data / "tasks").is_dir():
        raise InputError(f"--data {args.data}: expected folders 'pretrain' and 'tasks' in it")
    lanes: queue.SimpleQueue[set[int]] = queue.SimpleQueue()
    cores = sorted(os.sched_getaffinity(0))
    for i in range(jobs := min(args.jobs, len(cores))):
        lanes.put(set(cores[i::jobs]))
    # A thread's cores are those of the commands that it starts.
    with ThreadPoolExecutor(jobs, initializer=lambda: os.sched_setaffinity(0, lanes.get())) as pool:
        rows = [row for found in pool.map(lambda name: part(name, args), args.only) for row in found]
    table = as_table(rows)
    files.write_json(args.out / "results.json", rows)
    files.write_bytes(args.out / "table.md", table.encode())
    print(table)
    if args.json:
        cli.print_json({"rows": rows})
    return 0


def part(name: str, args: argparse.Namespace) -> list[Row]:
    """The rows of a part, which is run if it has not been."""
    path = args.out / f"{name}.json"
    if not path.exists():
        log(f"{name}: begun, log in {args.out / name}.log")
        here.log = args.out / f"{name}.log"
        here.log.parent.mkdir(parents=True, exist_ok=True)
        started = time.monotonic()
        rows = PARTS[name](args)
        files.write_json(path, {"seconds": time.monotonic() - started, "rows": rows})
    done: Row = json.loads(path.read_text())
    log(f"{name}: {done['seconds'] / 60:.1f} minutes\n{as_table(done['rows'])}")
    found: list[Row] = done["rows"]
    return found


def as_table(rows: Iterable[Row]) -> str:
    lines = ["| what | found | floor | to reach |", "|---|--:|---|---|"]
    lines += [f"| {row['what']} | {row['found']} | {row.get('floor', '')} | {row.get('to_reach', '')} |" for row in rows]
    return "\n".join(lines) + "\n"


def run(tool: str, *words: str | Path) -> Row:
    """The JSON that one of the project's tools ends with."""
    command = [sys.executable, f"{ROOT}/tools/{tool}.py", *map(str, words)]
    if tool not in ("cache_tasks",):
        command.append("--json")
    compiled = {"JAX_COMPILATION_CACHE_DIR": str(here.log.parent.absolute() / "compiled")}  # fine-tunings differ in little else than data
    with here.log.open("a") as told:
        done = subprocess.run(command, cwd=ROOT, env=os.environ | compiled, stdout=subprocess.PIPE, stderr=told, text=True, check=False)
    if done.returncode:
        sys.stderr.write(here.log.read_text()[-2000:])
        raise InputError(f"tools/{tool}.py ended with code {done.returncode}; the command was: {' '.join(command)}")
    made: Row = json.loads(done.stdout.splitlines()[-1]) if command[-1] == "--json" else {}
    return made


def write_jsonl(path: Path, rows: Iterable[Row]) -> None:
    files.write_bytes(path, "".join(json.dumps(row, ensure_ascii=False) + "\n" for row in rows).encode())


def shakespeare(args: argparse.Namespace) -> list[Row]:
    folder = (args.out / "shakespeare").absolute()
    text = prose.read_gz(args.data / "pretrain" / "tinyshakespeare.txt.gz")
    cut = int(len(text) * 0.9)  # as nanoGPT's prepare.py
    for split, part in (("train", text[:cut]), ("validation", text[cut:])):
        files.write_bytes(folder / f"{split}.txt", part.encode())
    where = [f"--config.data.corpora.shakespeare.files={folder}/{{split}}.txt", f"--config.data.cache_dir={folder}/cache"]
    run("cache_tasks", f"--config={ROOT}/configs/shakespeare.py", *where)
    rows, counted = [], ""
    for recipe, what, goal in (
        ("nanogpt", "nanoGPT's recipe", "1.898 ± 0.02 (parity)"), ("adamw", "the same network, AdamW tuned", ""), ("", "ours", "≤ 1.60"),
    ):  # fmt: skip
        words = [f"--config={ROOT}/configs/shakespeare.py{':' + recipe if recipe else ''}", *where, f"--workdir={folder}/run-{recipe}"]
        trained = run("train", *words)
        found = run("evaluate", *words)
        bits = found["eval/shakespeare/ngram_5/bits_per_byte"]
        counted = f"a counted 5-gram {bits * math.log(2):.3f}"
        flops = f"{trained['flops'] / 1e12:.1f} TFLOP" if "flops" in trained else ""
        rows.append(
            {"what": f"tinyshakespeare, {what}, nats a character {flops}".strip(), "found": f"{found['eval/shakespeare/loss']:.3f}",
             "floor": counted, "to_reach": goal}
        )  # fmt: skip
    return rows


def novels(args: argparse.Namespace) -> list[Row]:
    folder = (args.out / "novels").absolute()
    chapters = [row | {"id": str(row["id"])} for row in prose.read_jsonl(args.data / "pretrain" / "standardebooks.jsonl.gz")]
    held = [row for row in chapters if row["id"].startswith(HELD_OUT)]
    if not held:
        raise InputError(f"--data: standardebooks.jsonl.gz has no chapter of {HELD_OUT!r}")
    write_jsonl(folder / "validation.jsonl", held)
    write_jsonl(folder / "train.jsonl", [row for row in chapters if not row["id"].startswith(HELD_OUT)])
    words = [f"--config={ROOT}/configs/novels.py", f"--config.data.corpora.novels.files={folder}/{{split}}.jsonl"]
    words += [f"--config.data.vocabulary={folder}/vocabulary-4096.model", f"--config.data.cache_dir={folder}/cache"]
    if not (folder / "vocabulary-4096.model").exists():
        run("train_vocabulary", *words, "--size=4096")
    run("cache_tasks", *words)
    run("train", *words, f"--workdir={folder}/run")
    found = run("evaluate", *words, f"--workdir={folder}/run")
    counted = found["eval/novels/ngram_6/bits_per_byte"]
    floor = f"a counted 6-gram of the same text {counted:.3f}"
    return [{"what": "novels, bits per byte on Treasure Island", "found": f"{found['eval/novels/bits_per_byte']:.3f}", "floor": floor,
             "to_reach": "< 1.90"}]  # fmt: skip


def blimp(args: argparse.Namespace) -> list[Row]:
    folder = (args.out / "grammar").absolute()
    texts = [text for _, text in prose.prose(args.data, args.out / "wheels")]
    texts += [prose.like_print(row["text"]) for row in prose.read_jsonl(args.data / "tasks" / "movie_reviews.train.jsonl.gz")]
    found = [sentence for text in texts for sentence in prose.sentences(text)]
    write_jsonl(folder / "sentences.jsonl", [{"id": f"{i}", "text": text} for i, text in enumerate(found)])
    words = [f"--config={ROOT}/configs/grammar.py", f"--config.data.corpora.sentences.files={folder}/sentences.jsonl"]
    words += [f"--config.data.vocabulary={folder}/vocabulary-1024.model", f"--config.data.cache_dir={folder}/cache"]
    if not (folder / "vocabulary-1024.model").exists():
        run("train_vocabulary", *words, "--size=1024", "--pieces=words")
    run("cache_tasks", *words)
    run("train", *words, f"--workdir={folder}/run")
    scored = run("score_choices", f"--workdir={folder}/run", "--tasks", f"blimp={args.data / 'tasks' / 'blimp.dev.jsonl.gz'}")
    right = f"{100 * scored['eval/blimp/accuracy']:.1f}"
    return [{"what": "BLiMP pairs (6,700), % right", "found": right, "floor": "chance 50.0, 5-gram 61", "to_reach": "≥ 62"}]


def polarity_data(args: argparse.Namespace) -> tuple[Path, list[str]]:
    """(folder, words of a pretraining config): sentences in tenths, and text to pretrain on, written as they are: in lower case, with
    spaces around punctuation. The text is that of `prose.py` and the sentences of the tenths that are never scored, tokenised
    once for all objectives; `labelled/` has all passages of the reviews.

    Fold i of `fold-<i>/` is scored on the i-th of the scored tenths, and trained on all others.
    """
    folder = (args.out / "polarity").absolute()
    tenths: list[list[Row]] = [[] for _ in range(10)]
    scored_file = args.data / "tasks" / "sentence_polarity.train.jsonl.gz"
    for row in prose.read_jsonl(scored_file):
        tenths[next(i for i in range(10) if held_out(row["text"], (i + 1) / 10))].append(row)
    for fold, scored in enumerate(SCORED):
        write_jsonl(folder / f"fold-{fold}" / "test.jsonl", tenths[scored])
        write_jsonl(folder / f"fold-{fold}" / "train.jsonl", (row for i, own in enumerate(tenths) if i != scored for row in own))
        write_jsonl(folder / f"fold-{fold}" / "validation.jsonl", tenths[2])  # wanted, but nothing is chosen on it: one learning rate
    unscored = [row["text"] for i, own in enumerate(tenths) if i not in SCORED for row in own]
    if not (folder / "sentences.jsonl").exists():  # the other part may have made all
        reviews = [(prose.spaced(text), label) for _, text, label in prose.reviews(args.out / "wheels", scored_file)]
        labelled = [{"text": words, "label": label} for text, label in reviews for words in passages(text)]
        random.Random(0).shuffle(labelled)
        write_jsonl(folder / "labelled" / "validation.jsonl", labelled[:1000])
        write_jsonl(folder / "labelled" / "train.jsonl", labelled[1000:])
        texts = {
            "reviews": (text for text, _ in reviews),
            "prose": (prose.spaced(text) for _, text in prose.prose(args.data, args.out / "wheels")),
            "sentences": ("\n".join(unscored[i : i + 50]) for i in range(0, len(unscored), 50)),
        }
        for name, own in texts.items():
            write_jsonl(folder / f"{name}.jsonl", ({"id": f"{name}/{i}", "text": text} for i, text in enumerate(own)))
    words = [f"--config.data.corpora.{name}.files={folder}/{name}.jsonl" for name in ("reviews", "prose", "sentences")]
    words += [f"--config.data.vocabulary=wordpiece:{folder}/words-16384.txt", f"--config.data.cache_dir={folder}/cache"]
    if not (folder / "words-16384.txt").exists():
        mixture = "--config.data.mixture={'reviews': 0.6, 'sentences': 0.4}"
        listed = ("--model_type=words", "--size=16384", "--sample_mb=1.5")
        run("train_vocabulary", f"--config={ROOT}/configs/polarity.py", *words, mixture, *listed)
    run("cache_tasks", f"--config={ROOT}/configs/polarity.py", *words)  # one cache for all objectives
    return folder, words


def passages(text: str) -> list[str]:
    """A review cut into passages, a little longer than the scored sentences."""
    words = text.split()
    cut = [words[i : i + PASSAGE] for i in range(0, len(words), PASSAGE)]
    if len(cut) > 1 and len(cut[-1]) < PASSAGE // 3:
        cut.pop()
    return [" ".join(passage) for passage in cut]


def pretrained(objective: str, folder: Path, words: list[str], *more: str) -> Path:
    """The run of a trunk."""
    own = [f"--config={ROOT}/configs/polarity.py:{objective}", *words, "--config.eval.every=0", *more]
    run("train", *own, f"--workdir={folder / objective}")
    return folder / objective


def read_from(folder: Path, splits: Path) -> list[str]:
    """Words of a fine-tuning config: labelled text of the folder `splits`, read with the word list of `folder`."""
    found = [f"--config.data.corpora.polarity.files={splits}/{{split}}.jsonl", f"--config.data.cache_dir={splits}/cache"]
    return [*found, f"--config.data.vocabulary=wordpiece:{folder}/words-16384.txt"]


def taught(folder: Path, start: Path) -> Path:
    """The run of a network that learned to tell passages of reviews apart: an intermediate task (Phang et al. 2018)."""
    own = [f"--config={ROOT}/configs/finetune.py:{start}", *read_from(folder, folder / "labelled"), *LABELLED, PAIRS]
    run("cache_tasks", *own)
    run("train", *own, f"--workdir={folder}/taught")
    return folder / "taught"


def finetuned(folder: Path, start: Path | None, name: str, seed: int, lr: str, *words: str) -> float:
    """Accuracy on the scored part of the seed's fold of networks that begin as the run `start`, or from scratch."""
    fold = folder / f"fold-{seed}"
    where = read_from(folder, fold)
    with alone:
        if fold not in cached:  # every network of a fold reads the same tokens
            run("cache_tasks", f"--config={ROOT}/configs/finetune.py", *where)
            cached.add(fold)
    own = [f"--config={ROOT}/configs/finetune.py{f':{start}' if start else ''}", *where, *FINETUNE, *words, f"--workdir={fold}/{name}"]
    own += ["--seeds=1", f"--first_seed={seed}", "--report=test", f"--lrs={lr}"]
    value: float = run("finetune", *own)["best"]["test/accuracy"]["values"][0]
    return value


def mean_and_interval(values: list[float]) -> str:
    mean, half = finetune.mean_interval(values)
    return f"{100 * mean:.2f}" + ("" if math.isnan(half) else f" ± {100 * half:.2f}")


def naive_bayes(fold: Path) -> float:
    """Accuracy of word-presence naive Bayes on the scored part of a fold."""
    rows = {split: [json.loads(line) for line in (fold / f"{split}.jsonl").read_text().splitlines()] for split in ("train", "test")}
    counts = {label: Counter() for label in ("neg", "pos")}  # type: dict[str, Counter[str]]
    for row in rows["train"]:
        counts[row["label"]].update(set(row["text"].split()))
    totals, words = {label: sum(own.values()) for label, own in counts.items()}, set().union(*counts.values())

    def nats(row: Row, label: str) -> float:
        return sum(math.log((counts[label][word] + 1) / (totals[label] + len(words))) for word in set(row["text"].split()) & words)

    right = [(nats(row, "pos") > nats(row, "neg")) == (row["label"] == "pos") for row in rows["test"]]
    return sum(right) / len(right)


def polarity(args: argparse.Namespace) -> list[Row]:
    with alone:
        folder, words = polarity_data(args)
    start = taught(folder, pretrained("skip_gram", folder, words))
    network = configs.load(f"{ROOT}/configs/polarity.py:masked").values["model"]
    model = [*(f"--config.model.{key}={value}" for key, value in network.items()), PAIRS]
    found, scratch, counted = [], [], []
    for seed in range(args.seeds):
        epochs = f"--config.train.steps={EPOCHS} epochs"
        found.append(finetuned(folder, start, "from-taught", seed, "3e-4", epochs))
        scratch.append(finetuned(folder, None, "from-scratch", seed, "5e-4", *model, epochs))
        counted.append(naive_bayes(folder / f"fold-{seed}"))
    gains = [a - b for a, b in zip(found, scratch, strict=True)]
    return [
        {"what": f"polarity, after vectors of words and an epoch of another site's reviews, % right, {args.seeds} seeds and tenths",
         "found": mean_and_interval(found), "floor": f"naive Bayes on the same tenths {mean_and_interval(counted)}", "to_reach": "≥ 78"},
        {"what": "the same network from scratch", "found": mean_and_interval(scratch)},
        {"what": "gain, points", "found": mean_and_interval(gains), "to_reach": "≥ 2"},
    ]  # fmt: skip


def rtd(args: argparse.Namespace) -> list[Row]:
    with alone:
        folder, words = polarity_data(args)
    rows = []
    for objective in ("masked", "replaced_token"):
        explained = run("explain_config", f"--config={ROOT}/configs/polarity.py:{objective}", *words)
        steps = round(TFLOP * 1e12 / explained["derived"]["flops_per_step"])
        trunk = pretrained(objective, folder, words, f"--config.train.steps={steps}")
        epochs = "--config.train.steps=2 epochs"  # a third is of no use to them
        found = [finetuned(folder, trunk, f"from-{objective}", seed, "1e-3", epochs) for seed in range(args.seeds)]
        what = f"{objective}, {TFLOP:g} TFLOP ({steps:,} steps), fine-tuned, % right, {args.seeds} seeds and tenths"
        rows.append({"what": what, "found": mean_and_interval(found), "to_reach": "the table, whatever it says"})
    return rows


PARTS: dict[str, Callable[[argparse.Namespace], list[Row]]] = {
    "blimp": blimp, "polarity": polarity, "novels": novels, "rtd": rtd, "shakespeare": shakespeare,  # the longest first
}  # fmt: skip


if __name__ == "__main__":
    cli.run(main)
