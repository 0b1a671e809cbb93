"""Trains a vocabulary on a config's train split or on files: SentencePiece, or a BERT word list. Equal input, equal bytes."""

import argparse
import sys
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

from pretrainx.core import cli, config, files
from pretrainx.core.errors import InputError
from pretrainx.core.logs import log
from pretrainx.core.sections import Corpus, Data
from pretrainx.data.mixture_spec import parse_mixture
from pretrainx.tasks import corpora, encoding, vocabulary_spec, wordpiece_training
from pretrainx.tasks import vocabulary_training as training

FIT = ("bytes_per_token", "fertility", "unknown", "documents_changed")
MEASURED = 1_000_000  # bytes of each corpus that bytes per token is measured on
LISTS = {"wordpiece": wordpiece_training.train, "words": wordpiece_training.whole_words}  # written as BERT's word lists
KINDS = {".txt": "text", ".md": "text", ".py": "text", ".parquet": "parquet"}


def main(argv: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(
        description=__doc__,
        epilog="examples:\n"
        "  python tools/train_vocabulary.py --config=configs/quickstart.py --out data/stdlib/vocabulary-2048.model --size 2048\n"
        "  python tools/train_vocabulary.py --input 'texts/*.jsonl.gz' --out mine.model --size 8192\n"
        "  python tools/train_vocabulary.py --input 'texts/*.jsonl.gz' --out words.txt --size 30522 --model_type wordpiece",
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    cli.add_config_flags(parser)
    parser.add_argument(
        "--input",
        nargs="+",
        metavar="GLOB",
        help="files instead of a config: .txt .md .py (a file is a document), .jsonl[.gz|.zst], .parquet",
    )
    parser.add_argument("--out", type=Path, help="file to write, the vocabulary of the config by default")
    parser.add_argument("--size", type=int, default=2048, help="number of pieces, special ones included (default: %(default)s)")
    parser.add_argument(
        "--model_type", choices=["bpe", "unigram", *LISTS], default="bpe",
        help="bpe and unigram are SentencePiece models, wordpiece is a BERT word list, words one of whole words alone, others unknown "
        "(default: %(default)s)",
    )  # fmt: skip
    parser.add_argument("--cased", action="store_true", help="of a word list: keep capital letters and accents")
    parser.add_argument(
        "--pieces", choices=["free", "words"], default="free", help="may pieces cross words and lines (default: %(default)s)"
    )
    parser.add_argument(
        "--sample_mb", type=float, default=8.0, help="text to train on, shared out by the mixture's rates (default: %(default)s)"
    )
    parser.add_argument("--json", action="store_true", help="print the result as one JSON object on the last line of stdout")
    arguments, data, rates = _parse(parser, argv)

    inputs = {
        name: [[str(p), files.sha256_file(p)] for p in corpora.split_files(name, corpora.get(name, data), "train")]
        for name in sorted(rates)
    }
    sample_bytes = int(arguments.sample_mb * 1e6)
    made_from = training.made_from(
        {"files": inputs, "rates": rates, "cased": arguments.cased,
         "read": [[repr(corpora.get(n, data)), data.encoding_errors] for n in sorted(rates)]},
        arguments.size, arguments.model_type, arguments.pieces, sample_bytes,
    )  # fmt: skip
    sidecar = arguments.out.with_name(arguments.out.name + ".json")
    result = _finished(arguments.out, sidecar, made_from)
    if written := result is None:
        total = sum(rates.values())
        sampled = [c for name in sorted(rates) for c in training.sample(_texts(name, data), int(sample_bytes * rates[name] / total))]
        if not sampled:
            raise InputError("no text to train on: every document of the train split is empty")
        log(f"training {arguments.size} {arguments.model_type} pieces on {sum(map(len, sampled)) / 1e6:.1f} M characters ...")
        files.write_bytes(arguments.out, _train(sampled, arguments))
        vocabulary = vocabulary_spec.load(("wordpiece:" if arguments.model_type in LISTS else "") + str(arguments.out))
        encode = encoding.text_encoder(vocabulary)
        measured = {name: training.fit(vocabulary, encode, _first(_texts(name, data), MEASURED)) for name in sorted(rates)}
        result = {
            "made_from": made_from, "sha256": files.sha256_file(arguments.out), "size": arguments.size,
            "model_type": arguments.model_type, "pieces": arguments.pieces,
            **{field: {name: round(getattr(own, field), 4) for name, own in measured.items()} for field in FIT},
        }  # fmt: skip
        files.write_json(sidecar, result)
    assert result is not None
    for name, value in result["bytes_per_token"].items():
        changed, unknown = result["documents_changed"][name], result["unknown"][name]
        log(
            f"{name:<20} {value:.3f} bytes per token, {result['fertility'][name]:.3f} tokens per word"
            + (f", {100 * unknown:.2f} % of tokens unknown" if unknown else "")
            + (f", {changed} documents do not come back equal (they hold U+2581)" if changed else "")
        )
    log(f"vocabulary {'written to' if written else 'is there and unchanged:'} {arguments.out} (sha256 {result['sha256'][:12]})")
    if arguments.json:
        cli.print_json({"written": written, "file": str(arguments.out), **result})
    return 0


def _parse(parser: argparse.ArgumentParser, argv: list[str] | None) -> tuple[argparse.Namespace, Data, dict[str, float]]:
    """The arguments, the data section, and the rate of each corpus to read."""
    words, overrides = cli.split_overrides(sys.argv[1:] if argv is None else argv)
    arguments = cli.parse_args(parser, words)
    if bool(arguments.input) == bool(arguments.config):
        raise InputError("give either --config=FILE or --input GLOB ..., one of the two")
    if arguments.config:
        data = config.load(arguments.config, overrides).section("data", Data)
        wanted = data.vocabulary.removeprefix("wordpiece:").partition("+")[0]
        if arguments.out is None and data.vocabulary.startswith("wordpiece:") == (arguments.model_type in LISTS):
            arguments.out = Path(wanted) if wanted != "bytes" else None
        rates: dict[str, float] = {}
        for (name, _), rate in parse_mixture(data).items():
            rates[name] = rates.get(name, 0.0) + rate
    else:
        if overrides:
            raise InputError(f"--config.{overrides[0]} needs --config=FILE")
        named = {f"input_{i}": Corpus(_kind(glob), glob) for i, glob in enumerate(arguments.input)}  # type: ignore[arg-type]
        data = replace(Data(), corpora=named)
        rates = dict.fromkeys(named, 1.0)
    if arguments.out is None:
        raise InputError("--out is missing: name the model file to write, such as --out data/vocabulary.model")
    return arguments, data, rates


def _train(sampled: list[str], arguments: argparse.Namespace) -> bytes:
    if arguments.model_type in LISTS:
        return LISTS[arguments.model_type](sampled, arguments.size, not arguments.cased)
    return training.train(sampled, arguments.size, arguments.model_type, arguments.pieces)


def _kind(pattern: str) -> str:
    suffixes = [s for s in Path(pattern).suffixes if s not in (".gz", ".zst")]
    return KINDS.get(suffixes[-1] if suffixes else ".txt", "jsonl")


def _texts(name: str, data: Data) -> Iterator[str]:
    corpus = corpora.get(name, data)
    for path in corpora.split_files(name, corpus, "train"):
        yield from (document.text for document in corpora.documents(corpus, "train", path, data))


def _first(texts: Iterator[str], limit: int) -> Iterator[str]:
    for text in texts:
        yield text
        limit -= len(text)
        if limit <= 0:
            return


def _finished(out: Path, sidecar: Path, made_from: str) -> dict[str, Any] | None:
    """The sidecar of a model that is there and was made from these inputs."""
    if not (out.exists() and sidecar.exists()):
        return None
    found = files.read_json(sidecar, "vocabulary sidecar")
    return found if found.get("made_from") == made_from and found.get("sha256") == files.sha256_file(out) else None


if __name__ == "__main__":
    cli.run(main)
