"""Our cleaning and filters against datatrove's and ftfy, document by document: speed per core and whether they agree.

    python benchmarks/curate_filters.py --corpus='DIR/part-*.jsonl' [--peer_python=ENV/bin/python] [--mb=10] [--rounds=3] [--json]

The corpus is jsonl with `id` and `text`; with `truth.jsonl` (id, kind) and `langid.jsonl` (text, lang) beside it, repairs of wrongly
decoded text and identified languages are judged too. The other environment needs datatrove[processing]==0.10.1, spacy and ftfy;
without --peer_python only our speed is measured. Both sides hold the same texts in memory and work in one process; rounds
alternate, and the figure is of the least CPU seconds. Ours begin from strings each time: making columns is part of the time.
"""

import argparse
import json
import subprocess
import tempfile
import time
from collections import Counter
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from pretrainx.core import cli, files
from pretrainx.core.errors import InputError
from pretrainx.core.logs import log
from pretrainx.curate import presets
from pretrainx.curate.clean import c4 as clean_c4
from pretrainx.curate.clean import mojibake, personal_data, unicode, whitespace
from pretrainx.curate.documents import Batch, Document
from pretrainx.curate.filters import c4, fineweb, gopher_quality, gopher_repetition, language
from pretrainx.curate.readers import list_files

RULES: dict[str, Any] = {
    "gopher_repetition": gopher_repetition.Filter(), "gopher_quality": gopher_quality.Filter(), "c4": c4.Filter(),
    "fineweb": fineweb.Filter(),
}  # fmt: skip
GOALS = {**dict.fromkeys(RULES, 10.0), "chain": 5.0, "mojibake": 20.0, "language": 5.0}  # MB/s per core
BATCH = 4_000_000  # characters


def main(argv: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--corpus", required=True, help="glob of jsonl files")
    parser.add_argument("--peer_python", help="interpreter of an environment with datatrove")
    parser.add_argument("--mb", type=float, default=10.0, help="so much of the corpus's text; 0: all (default: %(default)s)")
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--show", type=int, default=20, help="disagreements shown a rule (default: %(default)s)")
    parser.add_argument("--json", action="store_true")
    arguments = cli.parse_args(parser, argv)
    if arguments.rounds < 1:
        raise InputError(f"--rounds: expected at least 1, found {arguments.rounds}")
    paths = list_files(arguments.corpus, where="--corpus")
    documents = read(paths, arguments.mb)
    size = sum(len(document.text.encode("utf-8", "surrogatepass")) for document in documents) / 1e6
    log(f"{len(documents):,} documents, {size:.1f} MB of text")
    jobs = our_jobs()
    with tempfile.TemporaryDirectory() as folder:
        peer = start_peer(arguments.peer_python, documents, Path(folder)) if arguments.peer_python else None
        try:
            result = measure(jobs, peer, documents, size, arguments.rounds, arguments.show)
        finally:
            if peer:
                peer.process.communicate()  # the end of its input is the end of its work
    result |= judge_mojibake(paths[0].parent / "truth.jsonl", documents)
    result |= judge_languages(paths[0].parent / "langid.jsonl")
    show(result)
    if arguments.json:
        cli.print_json(result)
    return 0


def read(paths: Sequence[Path], megabytes: float) -> list[Document]:
    documents, left = [], megabytes * 1e6 or float("inf")
    for path in paths:
        with open(path, encoding="utf-8") as stream:
            for number, line in enumerate(stream, 1):
                record = json.loads(line)
                documents.append(Document(str(record["id"]), record["text"], f"{path}#{number}", record.get("source", "")))
                left -= len(record["text"].encode("utf-8", "surrogatepass"))
                if left <= 0:
                    return documents
    return documents


def our_jobs() -> dict[str, Callable[[Batch], Any]]:
    """What is timed: from a batch whose columns are not made yet to an answer."""
    chain = presets.stages("fineweb", "preset")
    jobs: dict[str, Callable[[Batch], Any]] = {name: rule.reasons for name, rule in RULES.items()}
    jobs["chain"] = lambda batch: presets.apply(batch, chain)[1]
    for name, step in (
        ("mojibake", mojibake.Step()), ("unicode", unicode.Step()), ("whitespace", whitespace.Step()),
        ("personal_data", personal_data.Step()), ("c4_lines", clean_c4.Step()),
    ):  # fmt: skip
        jobs[name] = lambda batch, step=step: step.apply(batch)[0].texts
    jobs["language"] = language.Filter().reasons
    return jobs


class Peer:
    """The other process: one job at a time."""

    def __init__(self, process: "subprocess.Popen[str]"):
        self.process = process

    def run(self, job: str) -> tuple[float, list[Any]]:
        assert self.process.stdin and self.process.stdout
        self.process.stdin.write(job + "\n")
        self.process.stdin.flush()
        line = self.process.stdout.readline()
        if not line:
            raise InputError(f"--peer_python: the other process ended at job {job!r}; its own words are above")
        answer = json.loads(line)
        return answer["seconds"], answer["answers"]


def start_peer(python: str, documents: Sequence[Document], folder: Path) -> Peer:
    path = folder / "texts.jsonl"
    path.write_text("".join(json.dumps({"text": document.text}) + "\n" for document in documents))
    command = [python, str(Path(__file__).with_name("datatrove_peer.py")), str(path)]
    try:
        process = subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)
    except OSError as error:
        raise InputError(f"--peer_python: cannot start {python!r}: {error.strerror}") from None
    assert process.stdout
    while line := process.stdout.readline():  # libraries may print
        if line.strip() == "ready":
            return Peer(process)
    raise InputError(f"--peer_python: {python!r} cannot run benchmarks/datatrove_peer.py; its own words are above")


def batches(documents: Sequence[Document]) -> list[Batch]:
    """Fresh batches: nothing is known of them."""
    from pretrainx.curate.documents import batches as grouped

    return list(grouped(iter(documents), BATCH))


def measure(
    jobs: dict[str, Callable[[Batch], Any]], peer: Peer | None, documents: Sequence[Document], size: float, rounds: int, most: int
) -> dict[str, Any]:
    for job in jobs.values():  # compiles, loads models
        job(Batch(documents[:50]))
    least: dict[str, dict[str, float]] = {name: {} for name in jobs}
    ours: dict[str, list[Any]] = {}
    theirs: dict[str, list[Any]] = {}
    shared = [*RULES, "chain", "mojibake"]
    for number in range(rounds):
        for name, job in jobs.items():
            fresh = batches(documents)
            before = time.process_time()
            answers = [answer for batch in fresh for answer in job(batch)]
            note(least[name], "ours", time.process_time() - before)
            ours[name] = answers
            if peer and name in shared:
                seconds, theirs[name] = peer.run(name)
                note(least[name], "theirs", seconds)
        log(f"round {number + 1} of {rounds}")
    result: dict[str, Any] = {"documents": len(documents), "megabytes": size, "speed": {}, "agreement": {}}
    for name, seconds in least.items():
        result["speed"][name] = {side: size / used for side, used in seconds.items()} | {"goal": GOALS.get(name)}
    if peer:
        for name in shared:
            result["agreement"][name] = compare(name, ours, theirs, documents, most)
    return result


def note(least: dict[str, float], side: str, seconds: float) -> None:
    least[side] = min(least.get(side, float("inf")), seconds)


def compare(
    name: str, ours: dict[str, list[Any]], theirs: dict[str, list[Any]], documents: Sequence[Document], most: int
) -> dict[str, Any]:
    """How many decisions are the same, and every one that is not, with both answers."""
    if name == "mojibake":
        pairs = [
            (files.sha256_bytes(text.encode("utf-8", "surrogatepass"))[:16], other)
            for text, other in zip(ours[name], theirs[name], strict=True)
        ]
    else:
        other = [answer[0] if isinstance(answer, list) else answer for answer in theirs[name]]
        pairs = [(mine, presets.DATATROVE_REASONS.get(reason, reason)) for mine, reason in zip(ours[name], other, strict=True)]
        pairs = [(mine, f"{mine.partition('/')[0]}/{reason}" if reason == "empty" else reason) for mine, reason in pairs]
    unlike = [index for index, (mine, reason) in enumerate(pairs) if mine != reason]
    found: dict[str, Any] = {"same": len(pairs) - len(unlike), "of": len(pairs), "unlike": []}
    for index in unlike[:most]:
        mine, reason = pairs[index]
        found["unlike"].append({"id": documents[index].id, "ours": mine, "theirs": reason, "values": values(name, documents[index])})
    found["ours_by_reason"] = dict(Counter(mine for mine, _ in pairs).most_common(20)) if name != "mojibake" else {}
    return found


def values(name: str, document: Document) -> dict[str, Any]:
    """What our rules saw in one document."""
    batch = Batch([document])
    if name == "gopher_repetition":
        return {rule: float(share[0]) for rule, share in RULES[name].shares(batch).items()}
    return {rule: bool(against[0]) for rule, against in RULES[name].broken(batch).items()} if name in RULES else {}


def judge_mojibake(path: Path, documents: Sequence[Document]) -> dict[str, Any]:
    """Of the wrongly decoded documents, how many the step changes; and of the sound ones."""
    if not path.exists():
        return {}
    kinds = {record["id"]: record["kind"] for record in map(json.loads, path.read_text(encoding="utf-8").splitlines())}
    texts = mojibake.Step().apply(Batch(documents))[0].texts
    changed = Counter(kinds.get(document.id) for document, text in zip(documents, texts, strict=True) if text != document.text)
    total = sum(kinds.get(document.id) == "mojibake" for document in documents)
    return {
        "mojibake": {"repaired": changed["mojibake"], "of": total, "sound_documents_changed": sum(changed.values()) - changed["mojibake"]}
    }


def judge_languages(path: Path) -> dict[str, Any]:
    if not path.exists():
        return {}
    from pretrainx.curate.columns.languages import identify

    records = [json.loads(line) for line in path.read_text(encoding="utf-8").splitlines()]
    batch = Batch([Document("", record["text"], "") for record in records])
    size, least = sum(len(record["text"].encode()) for record in records) / 1e6, float("inf")
    for _ in range(3):
        before = time.process_time()
        found, _sure = identify(batch, language.COMMON)
        least = min(least, time.process_time() - before)
    right = np.mean([guess == record["lang"] for guess, record in zip(found, records, strict=True)])
    languages = len({record["lang"] for record in records})
    return {"languages": {"accuracy": float(right), "snippets": len(records), "languages": languages, "megabytes_per_second": size / least}}


def show(result: dict[str, Any]) -> None:
    print(f"{'MB/s per core':>18} {'ours':>8} {'theirs':>8} {'goal':>6}   agreement")
    for name, speed in result["speed"].items():
        agreement = result["agreement"].get(name)
        share = f"{agreement['same'] / max(agreement['of'], 1):.3%} of {agreement['of']:,}" if agreement else ""
        cells = [f"{speed[side]:.2f}" if speed.get(side) else "" for side in ("ours", "theirs", "goal")]
        print(f"{name:>18} {cells[0]:>8} {cells[1]:>8} {cells[2]:>6}   {share}")
    for name, agreement in result["agreement"].items():
        for case in agreement["unlike"]:
            print(f"{name}: document {case['id']}: ours {case['ours'] or 'keep'}, theirs {case['theirs'] or 'keep'}; {case['values']}")
    for name in ("mojibake", "languages"):
        if name in result:
            print(f"{name}: {result[name]}")


if __name__ == "__main__":
    cli.run(main)
