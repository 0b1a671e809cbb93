"""Speed of deduplication and decontamination, and what they find in a corpus whose duplicates are known.

    python benchmarks/deduplicate.py --corpus=DIR [--mb=100] [--presets=default,sensitive,fineweb] [--peer-python=PYTHON] [--json]

DIR holds part-*.jsonl (`id`, `text`, `source`) and truth.jsonl (`id`, `kind`, `of` for a planted copy, `rate` of edited words), and
eval_items.jsonl for decontamination. Speeds are MB of UTF-8 text per CPU-second of one process, texts in memory at the start; the runs of
all rows are interleaved, and the best of --repeats counts. Peers run with their own Python, once.

How it is judged: a base document and its copies are one group. A planted copy is found where it or its original is dropped. A drop
counts against precision where the document is of such a group and the one kept for it is of another; `base` counts those whose document
is a base document, which the corpus promises to be like no other; `lost` are groups of which nothing stays. Tools that do not say what
is kept are judged by `base` and `lost` alone: a drop of a base document is wrong where no copy of it stays.
"""

import argparse
import json
import subprocess
import tempfile
import time
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from pretrainx.core import cli
from pretrainx.core.errors import InputError
from pretrainx.core.logs import log
from pretrainx.curate import decontaminate
from pretrainx.curate.deduplicate import clusters, exact, near
from pretrainx.curate.documents import Batch, Document, batches

COPIES = ("exact", "normdup", "near", "nearblock", "shuffle", "embed")
JUDGED = ("near", "exact")  # rows whose drops are duplicates
PEERS = ("rensa", "text-dedup", "datatrove")


def main(argv: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--corpus", type=Path, required=True, help="folder with part-*.jsonl and truth.jsonl")
    parser.add_argument("--mb", type=float, default=1e9, help="take so many MB of text of it (default: all)")
    parser.add_argument("--presets", default="default,sensitive,fineweb", help="of near duplicates, with commas (default: %(default)s)")
    parser.add_argument("--repeats", type=int, default=3, help="runs of each (default: %(default)s)")
    parser.add_argument("--peer-python", help="a Python in which datatrove, text-dedup or rensa are installed")
    parser.add_argument("--peers", default=",".join(PEERS), help="which of them (default: %(default)s)")
    parser.add_argument("--json", action="store_true", help="print the result as one JSON object on the last line of stdout")
    args = cli.parse_args(parser, argv)
    documents = read(args.corpus, args.mb)
    truth = {t["id"]: t for t in map(json.loads, (args.corpus / "truth.jsonl").read_text(encoding="utf-8").splitlines())}
    size = sum(len(document.text.encode()) for document in documents) / 1e6
    log(f"{len(documents):,} documents, {size:.1f} MB")
    rows: dict[str, Callable[[list[Batch]], dict[str, str]]] = {
        f"near, {name}": lambda parts, name=name: find_near(parts, near.preset(name))
        for name in args.presets.split(",")  # type: ignore[misc]
    }
    rows |= {
        "exact": lambda parts: find_exact(parts, False),
        "exact, folded": lambda parts: find_exact(parts, True),
        "lines seen before": lambda parts: cut(parts, exact.Passages("line")),
        "paragraphs seen before": lambda parts: cut(parts, exact.Passages("paragraph")),
    }
    if (args.corpus / "eval_items.jsonl").exists():
        sets = {"items": decontaminate.EvaluationSet(str(args.corpus / "eval_items.jsonl"), id_key="item")}
        index = decontaminate.build(sets, decontaminate.Settings())
        rows["decontaminate"] = lambda parts: search(parts, index)
    parts = [batch.documents for batch in batches(iter(documents))]
    best: dict[str, float] = {}
    dropped: dict[str, dict[str, str]] = {}
    for repeat in range(args.repeats + 1):  # the first compiles
        for name, act in rows.items():
            fresh = [Batch(part) for part in parts]  # a batch remembers its characters
            start = time.process_time()
            dropped[name] = act(fresh)
            if repeat:
                best[name] = min(best.get(name, 1e9), time.process_time() - start)
    result: dict[str, Any] = {"documents": len(documents), "mb": size, "rows": {}}
    for name in rows:
        told = judge(dropped[name], truth, documents) if name.startswith(JUDGED) else {"dropped": by_kind(dropped[name], truth)}
        result["rows"][name] = {"mb_per_s": size / best[name], **told}
        show(name, result["rows"][name])
    if args.peer_python:
        for peer in args.peers.split(","):
            result["rows"][peer] = run_peer(args.peer_python, peer, documents, size, truth)
            show(peer, result["rows"][peer])
    if args.json:
        cli.print_json(result)
    return 0


def read(folder: Path, mb: float) -> list[Document]:
    found: list[Document] = []
    left = mb * 1e6
    for path in sorted(folder.glob("part-*.jsonl")):
        with open(path, encoding="utf-8") as stream:
            for number, line in enumerate(stream, 1):
                record = json.loads(line)
                left -= len(record["text"].encode())
                if left < 0:
                    return found
                found.append(Document(record["id"], record["text"], f"{path.name}#{number}", record["source"]))
    if not found:
        raise InputError(f"--corpus: no part-*.jsonl in {folder}")
    return found


def find_near(parts: list[Batch], settings: near.Settings) -> dict[str, str]:
    """The whole pipeline, {dropped id: kept id}; each map makes its columns of characters itself, as it would from files."""
    sketches = [near.sketch(parts, settings)]
    pairs = [near.candidates(sketches, keys, settings) for keys in near.partitions(sketches)]
    wanted = near.members(pairs, 0)
    sets = [near.shingle_sets([Batch(part.documents) for part in parts], settings, wanted)]
    found = clusters.representatives([near.verify(pairs, sets, 0, settings)], sketches)
    return named(parts, found["place"], found["kept"])


def find_exact(parts: list[Batch], folded: bool) -> dict[str, str]:
    tables = [exact.documents(parts, folded)]
    found = [exact.duplicates(tables, keys) for keys in exact.partitions(tables)]
    return {a: b for part in found for a, b in named(parts, part["place"], part["kept"]).items()}


def cut(parts: list[Batch], form: exact.Passages) -> dict[str, str]:
    """Cuts passages seen before; {id of an emptied document: ""}."""
    tables = [exact.passages(parts, form)]
    found = [exact.repeated(tables, keys) for keys in exact.partitions(tables)]
    place, number = (np.concatenate([part[name] for part in found]) for name in ("place", "number"))
    start, emptied = 0, {}
    for part in parts:
        shorter, _ = exact.cut(part, form, start, place, number)
        emptied.update({document.id: "" for document in shorter.documents if not document.text})
        start += len(part)
    return emptied


def search(parts: list[Batch], index: decontaminate.Index) -> dict[str, str]:
    return {part.documents[hit.document].id: hit.items[0][1] for part in parts for hit in decontaminate.search(part, index)}


def named(parts: Sequence[Batch], places: np.ndarray, kept: np.ndarray) -> dict[str, str]:
    ids = [document.id for part in parts for document in part.documents]
    return {ids[a]: ids[b] for a, b in zip(places.tolist(), kept.tolist(), strict=True)}


def judge(dropped: Mapping[str, str | None], truth: Mapping[str, Mapping[str, Any]], documents: Sequence[Document]) -> dict[str, Any]:
    """Precision and recall, see the top."""
    here = {document.id for document in documents}
    group = {i: truth[i].get("of", i) for i in here}
    members: dict[str, list[str]] = {}
    for i in here:
        members.setdefault(group[i], []).append(i)
    planted, hits = Counter[str](), Counter[str]()
    for i in here:
        if truth[i]["kind"] in COPIES and truth[i]["of"] in here:
            name = truth[i]["kind"] + (f" {truth[i]['rate']:.0%}" if "rate" in truth[i] else "")
            planted[name] += 1
            hits[name] += i in dropped or truth[i]["of"] in dropped
    right, wrong, wrong_base = 0, 0, 0
    for i, kept in dropped.items():
        kind = truth[i]["kind"]
        if kind == "base" or kind in COPIES:
            own = any(other != i and other not in dropped for other in members[group[i]]) if kept is None else group.get(kept) == group[i]
            right, wrong = right + own, wrong + (not own)
            wrong_base += not own and kind == "base"
    lost = sum(all(i in dropped for i in some) for root, some in members.items() if truth.get(root, {}).get("kind") == "base")
    return {
        "precision": right / max(right + wrong, 1),
        "precision_base": right / max(right + wrong_base, 1),
        "base_dropped_wrongly": wrong_base,
        "lost": lost,
        "recall": {name: hits[name] / planted[name] for name in sorted(planted)},
        "dropped": by_kind(dropped, truth),
    }


def by_kind(dropped: Mapping[str, str | None], truth: Mapping[str, Mapping[str, Any]]) -> dict[str, int]:
    return dict(sorted(Counter(truth[i]["kind"] for i in dropped).items()))


def run_peer(python: str, peer: str, documents: Sequence[Document], size: float, truth: Mapping[str, Mapping[str, Any]]) -> dict[str, Any]:
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "documents.jsonl"
        path.write_text("".join(json.dumps({"id": d.id, "text": d.text}) + "\n" for d in documents), encoding="utf-8")
        script = Path(__file__).with_name("deduplicate_peers.py")
        done = subprocess.run([python, str(script), peer, str(path)], capture_output=True, text=True)
        if done.returncode:
            return {"error": (done.stderr.strip().splitlines() or ["no message"])[-1]}
        told = json.loads(done.stdout.splitlines()[-1])
    return {"mb_per_s": size / told["seconds"], **judge(dict.fromkeys(told["dropped"]), truth, documents)}


def show(name: str, row: Mapping[str, Any]) -> None:
    if "error" in row:
        print(f"{name:<24} did not run: {row['error']}")
        return
    if "recall" not in row:
        print(f"{name:<24} {row['mb_per_s']:>7.1f} MB/s\n    documents: {row['dropped']}")
        return
    recall = "  ".join(f"{kind} {share:.3f}" for kind, share in row["recall"].items())
    print(
        f"{name:<24} {row['mb_per_s']:>7.1f} MB/s  precision {row['precision']:.4f} (base documents {row['precision_base']:.4f}), "
        f"groups lost {row['lost']}\n    recall: {recall}\n    dropped: {row['dropped']}"
    )


if __name__ == "__main__":
    cli.run(main)
