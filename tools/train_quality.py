"""Trains what the filters `quality` and `perplexity` need: a classifier from good and bad texts, or an n-gram model of good ones."""

import argparse
from pathlib import Path
from typing import TYPE_CHECKING, Any

from pretrainx.core import cli
from pretrainx.core.errors import InputError
from pretrainx.core.logs import log

if TYPE_CHECKING:
    import numpy as np

    from pretrainx.curate.documents import Batch, Document

EXAMPLE = """examples:
  python tools/train_quality.py --good=data/good --bad=data/bad --out=quality.npz
  python tools/train_quality.py --kind=perplexity --good='data/wikipedia/*.jsonl.gz' --out=ngrams.npz

A folder stands for all files below it, each one text; other names are globs of .txt, .jsonl (also .gz, .zst) and .parquet files."""
FORMATS = {".jsonl": "jsonl", ".json": "jsonl", ".parquet": "parquet"}


def main(argv: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(description=__doc__, epilog=EXAMPLE, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--kind", choices=("classifier", "perplexity"), default="classifier", help="what is trained (default: %(default)s)")
    parser.add_argument("--good", required=True, metavar="FOLDER_OR_GLOB", help="texts to be like")
    parser.add_argument("--bad", metavar="FOLDER_OR_GLOB", help="texts not to be like (classifier only)")
    parser.add_argument("--out", required=True, type=Path, help="file to write (.npz)")
    parser.add_argument("--text_key", default="text", help="where the text is in records (default: %(default)s)")
    parser.add_argument("--orders", type=int, help="longest run of words (default: 2, for perplexity 3)")
    parser.add_argument("--buckets", type=int, help="hash buckets, a power of two (default: 2^20, for perplexity 2^22)")
    parser.add_argument("--epochs", type=int, default=5, help="passes over the texts (default: %(default)s)")
    parser.add_argument("--held_out", type=float, default=0.1, help="share of the texts that only measures (default: %(default)s)")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--json", action="store_true", help="print what was measured as one JSON object on the last line of stdout")
    arguments = cli.parse_args(parser, argv)
    _check(arguments)
    from pretrainx.curate import quality

    result = _train_classifier(arguments) if arguments.kind == "classifier" else _train_perplexity(arguments)
    quality.save(result.pop("model"), arguments.out)
    log(f"written to {arguments.out}: {', '.join(f'{key} {value}' for key, value in result.items() if not isinstance(value, list))}")
    if arguments.json:
        cli.print_json({"out": arguments.out, "kind": arguments.kind, **result})
    return 0


def _check(arguments: argparse.Namespace) -> None:
    if arguments.kind == "classifier" and not arguments.bad:
        raise InputError("--bad is missing: a classifier needs texts of both kinds; --kind=perplexity needs good ones alone")
    if arguments.kind == "perplexity" and arguments.bad:
        raise InputError("--bad has no meaning with --kind=perplexity, which counts good texts alone")
    if not 0 <= arguments.held_out < 1:
        raise InputError(f"--held_out: expected a number of at least 0 and below 1, found {arguments.held_out}")
    for name, most in (("orders", 8), ("epochs", 1000)):
        value = getattr(arguments, name)
        if value is not None and not 1 <= value <= most:
            raise InputError(f"--{name}: expected a whole number from 1 to {most}, found {value}")
    arguments.orders = arguments.orders or (2 if arguments.kind == "classifier" else 3)
    arguments.buckets = arguments.buckets or (2**20 if arguments.kind == "classifier" else 2**22)


def _train_classifier(arguments: argparse.Namespace) -> dict[str, Any]:
    import numpy as np

    from pretrainx.curate import quality

    train, test = (_mixed(arguments, part) for part in zip(_read(arguments, "good"), _read(arguments, "bad"), strict=True))
    options = {name: getattr(arguments, name) for name in ("buckets", "orders", "epochs", "seed")}
    model = quality.train_classifier(train, **options)
    result: dict[str, Any] = {
        "model": model,
        "documents": sum(len(batch) for batch, _ in train),
        "loss": round(model.header["losses"][-1], 4),
    }
    if test:
        scores, labels = np.concatenate([model.scores(batch) for batch, _ in test]), np.concatenate([labels for _, labels in test])
        result |= {
            "held_out_documents": len(labels), "held_out_accuracy": round(float(np.mean((scores >= 0.5) == labels)), 4),
            "held_out_auc": round(quality.area_under_curve(scores, labels), 4),
        }  # fmt: skip
        worst = int(np.argmin(np.where(labels, scores, 1 - scores)))
        texts = [text for batch, _ in test for text in batch.texts]
        for run, added in model.explain(texts[worst][:5000], 8):
            log(f"  in the held-out text that is judged worst: {added:+.4f} {run!r}")
    return result


def _mixed(arguments: argparse.Namespace, kinds: "tuple[list[Document], list[Document]]") -> "list[tuple[Batch, np.ndarray]]":
    """Batches with labels, good and bad texts mixed: a pass over one kind first would unlearn it with the other."""
    import numpy as np

    from pretrainx.core import rng
    from pretrainx.curate.documents import batches

    documents = [*kinds[0], *kinds[1]]
    order = rng.generator(arguments.seed, "quality", "mix").permutation(len(documents))
    mixed, start = [], 0
    for batch in batches((documents[index] for index in order), 1_000_000):
        mixed.append((batch, np.array(order[start : start + len(batch)] < len(kinds[0]))))
        start += len(batch)
    return mixed


def _train_perplexity(arguments: argparse.Namespace) -> dict[str, Any]:
    import numpy as np

    from pretrainx.curate import quality
    from pretrainx.curate.documents import batches

    train, test = (list(batches(iter(documents), 1_000_000)) for documents in _read(arguments, "good"))
    model = quality.train_perplexity(train, buckets=arguments.buckets, orders=arguments.orders)
    result: dict[str, Any] = {"model": model, **model.header, "words": model.words, "vocabulary": model.vocabulary}
    if test:
        found = np.concatenate([model.perplexities(batch) for batch in test])
        result["held_out_documents"] = len(found)
        result["held_out_perplexity"] = {
            f"{share:.0%}": round(float(np.quantile(found, share)), 1) for share in (0.05, 0.5, 0.9, 0.95, 0.99)
        }
    return result


def _read(arguments: argparse.Namespace, flag: str) -> "tuple[list[Document], list[Document]]":
    """Documents to learn from and documents to measure with."""
    from pretrainx.curate.holdout import held_out
    from pretrainx.curate.readers import Format, list_files, read

    where = getattr(arguments, flag)
    pattern = f"{where}/**/*" if Path(where).is_dir() else where
    documents = []
    for path in list_files(pattern, where=f"--{flag}"):
        suffix = next((suffix for suffix in path.suffixes[::-1] if suffix in FORMATS), "")
        kind = FORMATS.get(suffix, "text")
        documents += list(read(path, Format(kind=kind, text_key=arguments.text_key)))  # type: ignore[arg-type]
    marks = [held_out(document.id, arguments.held_out, salt="quality") for document in documents]
    learned = [document for document, mark in zip(documents, marks, strict=True) if not mark]
    measured = [document for document, mark in zip(documents, marks, strict=True) if mark]
    log(f"--{flag}: {len(learned):,} texts to learn from, {len(measured):,} to measure with")
    return learned, measured


if __name__ == "__main__":
    cli.run(main)
