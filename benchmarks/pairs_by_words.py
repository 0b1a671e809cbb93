"""How well counted words tell whether a text follows another: what next_sentence has to learn from, by the length of its texts.

    python benchmarks/pairs_by_words.py --corpus=books.jsonl.gz [--json]

Draws pairs as the objective does: half are neighbours in a document, half have a stretch of another document for the second. A pair is
called neighbours where the cosine of their words, weighted by rarity (tf-idf), exceeds the threshold that does best on these very pairs: so
the figures are a little too good, and still low where texts are short.
"""

import argparse
import math
import re
from collections import Counter
from collections.abc import Iterable

import numpy as np

from pretrainx.core import cli
from pretrainx.core.rng import generator
from pretrainx.curate.records import read_records

LENGTHS = (60, 200, 500, 1000)  # characters of each text; rows of 128 bytes have the first
PAIRS = 1500


def main(argv: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--corpus", required=True, help="jsonl files (a glob) with `text`")
    parser.add_argument("--json", action="store_true", help="print the result as one JSON object on the last line of stdout")
    args = cli.parse_args(parser, argv)
    documents = [record.text("text") for record in read_records(args.corpus, {"text": "text"}, "--corpus")]
    rarity = Counter(word for text in documents for word in set(words(text)))
    found = {length: best_share(documents, rarity, length) for length in LENGTHS}
    for length, share in found.items():
        print(f"{length:>5} characters each: {100 * share:.1f} % right")
    if args.json:
        cli.print_json({"right": found})
    return 0


def words(text: str) -> list[str]:
    return re.findall(r"[^\W\d_]+", text.lower())


def best_share(documents: list[str], rarity: Counter[str], length: int) -> float:
    """The share of pairs that the best threshold calls rightly."""
    rng = generator(0, "pairs", length)
    long = [text for text in documents if len(text) >= 2 * length + 10]
    near, far = [], []
    for _ in range(PAIRS):
        text, other = long[rng.integers(len(long))], documents[rng.integers(len(documents))]
        start, elsewhere = int(rng.integers(len(text) - 2 * length)), int(rng.integers(max(1, len(other) - length)))
        first = weights(text[start : start + length], rarity, len(documents))
        near.append(cosine(first, weights(text[start + length : start + 2 * length], rarity, len(documents))))
        far.append(cosine(first, weights(other[elsewhere : elsewhere + length], rarity, len(documents))))
    return max(correct(near, far, threshold) for threshold in sorted(near)[::10])


def correct(near: Iterable[float], far: Iterable[float], threshold: float) -> float:
    return float(np.mean([x > threshold for x in near] + [x <= threshold for x in far]))


def weights(text: str, rarity: Counter[str], total: int) -> dict[str, float]:
    """tf-idf, of length 1."""
    made = {word: (1 + math.log(n)) * max(0.0, math.log(total / (1 + rarity[word]))) for word, n in Counter(words(text)).items()}
    norm = math.sqrt(sum(x * x for x in made.values())) or 1.0
    return {word: x / norm for word, x in made.items()}


def cosine(a: dict[str, float], b: dict[str, float]) -> float:
    return sum(x * b.get(word, 0.0) for word, x in a.items())


if __name__ == "__main__":
    cli.run(main)
