"""The whole road of tools/curate.py: MB/s per core, peak memory, disk and time by stage at several sizes; and what it keeps and drops.

    python benchmarks/curate.py --corpus='DIR/part-*.jsonl' [--mb 100 1000 5000] [--workers=1] [--out=DIR] [--truth=none] [--json]

The corpus is jsonl with `id`, `text`, `source`. A size above the corpus's own is made of copies of it that are unlike each other: in
each copy the letters cgjklmpqrsxz, the digits but 0, and the letters of other scripts are permuted within their alphabet by the seed
(0, copy). Lengths, lines, repetitions, marks and the common words by which English is told (the, of, and, that, ...) stay as they were,
so that the rules decide as before, and hardly a run of five words is the same in two copies, so that none is a duplicate of another.

Every size is one run of the command as its users run it, in processes of its own, config configs/curate_files.py, with eval_items.jsonl
beside the corpus as the set that must not leak. CPU-seconds are of all its processes, imports included; a small run before lets compiled
loops be cached. Memory is the peak, over samples five times a second, of the proportional set sizes of the process tree: with `anonymous`
pages alone beside it, since the rest are pages of mapped files that the kernel may take back. Disk is the working folder when a run
has ended, its input not counted. `growth` is the exponent by which CPU-seconds grew since the size before: 1 is linear.

With truth.jsonl beside the corpus (id, kind; `of` of a planted copy, `rate` of edited words, `why` of junk), two more runs over all of
it tell where each kind of document went: one with deduplication and decontamination alone, one with the default config. `gone` of a
planted copy counts it where it or its original was dropped as a copy; `wrong` are base documents and planted copies that were dropped as
copies of a document that is neither their original, nor it, nor another copy of it.
"""

import argparse
import gzip
import json
import math
import os
import shutil
import subprocess
import sys
import tempfile
import threading
import time
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from pretrainx.core import cli, rng
from pretrainx.core.errors import InputError
from pretrainx.core.logs import log
from pretrainx.curate.readers import list_files

ROOT = Path(__file__).parents[1]
MADE_FILE = 64_000_000  # bytes of one file of a corpus that is made
SAMPLE_S = 0.2
ALPHABETS = (
    "cgjklmpqrsxz", "123456789", "бвгджзйклмнпрстфхцчшщ", "αβγδεζηθικλμνξοπρστυφχψω",
    "".join(map(chr, range(0x3042, 0x3094))), "".join(map(chr, range(0x30A2, 0x30F4))), "".join(map(chr, range(0x4E00, 0x9FA6))),
    "".join(map(chr, range(0xAC00, 0xD7A4))),
)  # fmt: skip
COPIES = ("exact", "normdup", "near", "nearblock", "shuffle", "embed")
NO_RULES = ("--config.preset=none", "--config.filters={}", "--config.sources={}")


@dataclass(frozen=True)
class Run:
    """What one run of the command took, and its manifest."""

    wall_s: float
    cpu_s: float
    peak: Mapping[str, int]  # bytes: "pss", "anonymous"
    disk: int  # bytes
    manifest: dict[str, Any]


def main(argv: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--corpus", required=True, help="glob of jsonl files")
    parser.add_argument("--mb", type=float, nargs="*", default=[100.0, 1000.0, 5000.0], help="sizes of text (default: 100 1000 5000)")
    parser.add_argument("--workers", type=int, default=1, help="processes of the command (default: %(default)s)")
    parser.add_argument("--out", type=Path, help="folder for corpora and working folders, which stay there (default: a temporary one)")
    parser.add_argument("--truth", choices=["auto", "none"], default="auto", help="tell where each kind went (default: where known)")
    parser.add_argument("--json", action="store_true", help="print the result as one JSON object on the last line of stdout")
    args = cli.parse_args(parser, argv)
    paths = list_files(args.corpus, where="--corpus")
    with tempfile.TemporaryDirectory() as temporary:
        out = args.out or Path(temporary)
        out.mkdir(parents=True, exist_ok=True)
        result: dict[str, Any] = {"workers": args.workers, "rows": [], "truth": {}}
        leaks = paths[0].parent / "eval_items.jsonl"
        sets = {"items": {"files": str(leaks), "id_key": "item"}}
        words = [f'--config.decontaminate={{"sets": {json.dumps(sets)}}}'] if leaks.exists() else []
        warm_up(paths[0], out, args.workers, words)
        for mb in sorted(args.mb):
            folder = out / f"{mb:g}mb"
            size = make(paths, folder / "in", mb)
            found = run(f"{folder}/in/*.jsonl", folder / "out", args.workers, words)
            result["rows"].append(row(found, size, result["rows"][-1] if result["rows"] else None))
            show(result["rows"][-1])
            if args.out is None:
                shutil.rmtree(folder)
        truth_file = paths[0].parent / "truth.jsonl"
        if args.truth == "auto" and truth_file.exists():
            truth = {one["id"]: one for one in map(json.loads, truth_file.read_text(encoding="utf-8").splitlines())}
            for name, more in (("deduplication alone", NO_RULES), ("default", ())):
                folder = out / f"truth_{name.partition(' ')[0]}"
                run(args.corpus, folder, args.workers, [*words, *more])
                result["truth"][name] = judge(folder, truth)
                show_truth(name, result["truth"][name])
    if args.json:
        cli.print_json(result)
    return 0


def warm_up(path: Path, out: Path, workers: int, words: Sequence[str]) -> None:
    """Runs over some hundred documents, so that every compiled loop is in numba's cache."""
    folder = out / "warm_up"
    folder.mkdir(parents=True, exist_ok=True)
    with open(path, "rb") as stream:
        some = [stream.readline() for _ in range(300)]
    (folder / "in.jsonl").write_bytes(b"".join(some + some[:20]))
    run(str(folder / "in.jsonl"), folder / "out", workers, words)
    shutil.rmtree(folder)


def make(paths: Sequence[Path], folder: Path, mb: float) -> int:
    """Writes copies of the corpus, each unlike the others, until there are `mb` megabytes of text; returns the bytes of text.

    A folder that holds a corpus of this size is left as it is.
    """
    done = folder.parent / "size.json"
    if done.exists():
        return int(json.loads(done.read_text())["bytes"])
    shutil.rmtree(folder, ignore_errors=True)
    folder.mkdir(parents=True)
    size, written, number = 0, 0, 0
    out = open(folder / "part-00000.jsonl", "w", encoding="utf-8")  # noqa: SIM115 - the next file takes its place
    try:
        for record in copies(paths):
            size += len(record["text"].encode())
            line = json.dumps(record, ensure_ascii=False) + "\n"
            if written + len(line) > MADE_FILE:
                out.close()
                number, written = number + 1, 0
                out = open(folder / f"part-{number:05d}.jsonl", "w", encoding="utf-8")  # noqa: SIM115
            out.write(line)
            written += len(line)
            if size >= mb * 1e6:
                break
    finally:
        out.close()
    done.write_text(json.dumps({"bytes": size}))
    return size


def copies(paths: Sequence[Path]) -> Iterator[dict[str, Any]]:
    """The corpus, then copies of it without end."""
    copy = 0
    while True:
        letters = substitution(copy)
        for path in paths:
            with open(path, encoding="utf-8") as stream:
                for line in stream:
                    record = json.loads(line)
                    yield record if not copy else {**record, "id": f"{copy}-{record['id']}", "text": record["text"].translate(letters)}
        copy += 1


def substitution(copy: int) -> dict[int, str]:
    """What str.translate wants: each letter's place in this copy."""
    found: dict[int, str] = {}
    generator = rng.generator(0, "copy", copy)
    for alphabet in ALPHABETS:
        permuted = [alphabet[i] for i in generator.permutation(len(alphabet)).tolist()]
        for old, new in zip(alphabet, permuted, strict=True):
            found[ord(old)] = new
            if old.upper() != old:
                found[ord(old.upper())] = new.upper()
    return found


def run(pattern: str, workdir: Path, workers: int, words: Sequence[str]) -> Run:
    """Runs the command over these files from the beginning."""
    shutil.rmtree(workdir, ignore_errors=True)
    command = [
        sys.executable, str(ROOT / "tools" / "curate.py"), f"--config={ROOT / 'configs' / 'curate_files.py'}", f"--config.inputs={pattern}",
        f"--workdir={workdir}", f"--workers={workers}", *words,
    ]  # fmt: skip
    workdir.mkdir(parents=True)
    log(" ".join(command[1:]))
    with open(workdir.parent / f"{workdir.name}.log", "w") as told:
        began = time.perf_counter()
        process = subprocess.Popen(command, stdout=told, stderr=told, env=os.environ | {"PYTHONPATH": str(ROOT)})
        peak = {"pss": 0, "anonymous": 0}
        stop = threading.Event()
        watcher = threading.Thread(target=watch, args=(process.pid, peak, stop))
        watcher.start()
        _, status, usage = os.wait4(process.pid, 0)  # its usage has that of all processes it waited for
        wall = time.perf_counter() - began
        process.returncode = os.waitstatus_to_exitcode(status)
        stop.set()
        watcher.join()
    if process.returncode:
        last = Path(told.name).read_text().strip().splitlines()[-1:]
        raise InputError(f"the command ended with exit code {process.returncode}: {''.join(last)} (see {told.name})")
    disk = sum(one.stat().st_size for one in {p.stat().st_ino: p for p in workdir.rglob("*") if p.is_file()}.values())  # a link counts once
    manifest = json.loads((workdir / "manifest.json").read_text())
    return Run(wall, usage.ru_utime + usage.ru_stime, peak, disk, manifest)


def watch(pid: int, peak: dict[str, int], stop: threading.Event) -> None:
    """Keeps the largest sums over the process tree, until told to stop."""
    while not stop.wait(SAMPLE_S):
        now = Counter[str]()
        for one in tree(pid):
            now.update(memory(one))
        for name, value in now.items():
            peak[name] = max(peak[name], value)


def tree(pid: int) -> Iterator[int]:
    """The process and all that descend from it."""
    yield pid
    try:
        for task in os.listdir(f"/proc/{pid}/task"):
            for child in Path(f"/proc/{pid}/task/{task}/children").read_text().split():
                yield from tree(int(child))
    except OSError:  # it has ended
        return


def memory(pid: int) -> dict[str, int]:
    """{"pss", "anonymous"} in bytes."""
    names = {"Pss:": "pss", "Pss_Anon:": "anonymous"}
    try:
        lines = Path(f"/proc/{pid}/smaps_rollup").read_text().splitlines()
    except OSError:
        return {}
    return {names[words[0]]: int(words[1]) * 1024 for words in map(str.split, lines) if words[0] in names}


def row(found: Run, size: int, before: Mapping[str, Any] | None) -> dict[str, Any]:
    flow = found.manifest["flow"]
    made = {
        "mb": size / 1e6,
        "documents": sum(one["in"]["documents"] for one in flow["read"].values()),
        "kept": sum(one["documents"] for one in found.manifest["documents"]),
        "kept_mb": sum(one["text_bytes"] for one in found.manifest["documents"]) / 1e6,
        "mb_per_cpu_s": size / 1e6 / found.cpu_s,
        "cpu_s": found.cpu_s,
        "wall_s": found.wall_s,
        "peak_mb": {name: value / 1e6 for name, value in found.peak.items()},
        "disk_mb": found.disk / 1e6,
        "stages_s": found.manifest["seconds"],
        "dropped": {stage: sum(one["in"]["documents"] - one["out"]["documents"] for one in some.values()) for stage, some in flow.items()},
    }
    made["growth"] = math.log(made["cpu_s"] / before["cpu_s"]) / math.log(made["mb"] / before["mb"]) if before else None
    return made


def judge(workdir: Path, truth: Mapping[str, Mapping[str, Any]]) -> dict[str, dict[str, Any]]:
    """{kind: {"documents", "kept", "dropped": {stage: documents}, and where copies are looked for "gone", "wrong"}}."""
    dropped = {one["id"]: (one["stage"], one.get("duplicate_of")) for one in rows(workdir / "dropped")}
    kept = {one["id"] for one in rows(workdir / "documents")}
    group = {name: told.get("of", name) for name, told in truth.items()}
    found: dict[str, dict[str, Any]] = {}
    for name, told in truth.items():
        if name not in dropped and name not in kept:
            continue
        entry = found.setdefault(label(told), {"documents": 0, "kept": 0, "dropped": Counter[str]()})
        entry["documents"] += 1
        entry["kept"] += name in kept
        stage, of = dropped.get(name, ("", None))
        if stage:
            entry["dropped"][stage] += 1
        if told["kind"] in COPIES:
            copied = any(dropped.get(one, ("", None))[1] for one in (name, told["of"]))
            entry["gone"] = entry.get("gone", 0) + copied
        if told["kind"] in (*COPIES, "base"):
            entry["wrong"] = entry.get("wrong", 0) + (of is not None and group[of] != group[name])
    return dict(sorted(found.items()))


def label(told: Mapping[str, Any]) -> str:
    more = f"{told['rate']:.0%}" if "rate" in told else told.get("why", "")
    return f"{told['kind']} {more}".strip()


def rows(folder: Path) -> Iterator[dict[str, Any]]:
    for path in sorted(folder.glob("*.jsonl.gz")):
        with gzip.open(path, "rt", encoding="utf-8", newline="\n") as stream:
            yield from map(json.loads, stream)


def show(made: Mapping[str, Any]) -> None:
    growth = "" if made["growth"] is None else f", grew by size^{made['growth']:.2f}"
    peak = made["peak_mb"]
    print(
        f"{made['mb']:,.0f} MB, {made['documents']:,} documents: {made['mb_per_cpu_s']:.2f} MB/s per core ({made['cpu_s']:.1f} CPU s, "
        f"{made['wall_s']:.1f} s{growth}), peak {peak['pss']:,.0f} MB ({peak['anonymous']:,.0f} anonymous), "
        f"disk {made['disk_mb']:,.0f} MB\n"
        f"    kept {made['kept']:,} ({made['kept_mb']:,.1f} MB); dropped {made['dropped']}\n    seconds {made['stages_s']}",
        flush=True,
    )


def show_truth(name: str, found: Mapping[str, Mapping[str, Any]]) -> None:
    print(f"{name}\n{'kind':<20}{'documents':>10}{'kept':>8}{'gone':>8}{'wrong':>7}  dropped by stage")
    for kind, told in found.items():
        gone = f"{told['gone'] / told['documents']:.1%}" if "gone" in told else ""
        wrong = f"{told['wrong']:,}" if "wrong" in told else ""
        dropped = ", ".join(f"{stage} {count}" for stage, count in sorted(told["dropped"].items()))
        print(f"{kind:<20}{told['documents']:>10,}{told['kept']:>8,}{gone:>8}{wrong:>7}  {dropped}")


if __name__ == "__main__":
    cli.run(main)
