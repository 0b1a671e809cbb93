"""Near duplicates by other people's tools, each run as its own documentation has it; started by deduplicate.py with their Python.

    PEER_PYTHON benchmarks/deduplicate_peers.py datatrove|text-dedup|rensa DOCUMENTS.jsonl

Prints one JSON object: the CPU-seconds without the imports, and the ids that the tool drops.
"""

import contextlib
import json
import os
import re
import resource
import subprocess
import sys
import tempfile
import time
from pathlib import Path


def read(path):
    with open(path, encoding="utf-8") as stream:
        return [json.loads(line) for line in stream]


def datatrove(path):
    """Version 0.10: signatures, buckets, clusters, filter, with its default 14 x 8 and its English word tokenizer."""
    from datatrove.executor import LocalPipelineExecutor
    from datatrove.pipeline.dedup.minhash import (
        MinhashConfig,
        MinhashDedupBuckets,
        MinhashDedupCluster,
        MinhashDedupFilter,
        MinhashDedupSignature,
    )  # fmt: skip
    from datatrove.pipeline.readers import JsonlReader
    from datatrove.pipeline.writers.jsonl import JsonlWriter

    config = MinhashConfig()
    with tempfile.TemporaryDirectory() as folder:
        reader = lambda: JsonlReader(str(path.parent), glob_pattern=path.name)  # noqa: E731
        steps = [
            [reader(), MinhashDedupSignature(f"{folder}/signatures", config)],
            [MinhashDedupBuckets(f"{folder}/signatures", f"{folder}/buckets", config=config)],
            [MinhashDedupCluster(f"{folder}/buckets", f"{folder}/remove", config=config)],
            [reader(), MinhashDedupFilter(f"{folder}/remove"), JsonlWriter(f"{folder}/kept", compression=None)],
        ]
        start = time.process_time()
        for i, step in enumerate(steps):
            tasks = config.num_buckets if i == 1 else 1
            LocalPipelineExecutor(step, tasks=tasks, workers=1, logging_dir=f"{folder}/logs{i}").run()
        seconds = time.process_time() - start
        kept = {record["id"] for file in Path(folder, "kept").glob("*.jsonl") for record in read(file)}
    return seconds, [record["id"] for record in read(path) if record["id"] not in kept]


def text_dedup(path):
    """Version 0.4: MinHash + LSH at its defaults (250 permutations, Jaccard 0.7), 5-grams, one process."""
    with tempfile.TemporaryDirectory() as folder:
        command = [sys.executable, "-m", "text_dedup.minhash"]
        options = [
            "--path", "json", "--data_files", str(path), "--split", "train", "--cache_dir", f"{folder}/cache", "--output", f"{folder}/out",
            "--column", "text", "--num_proc", "1",
        ]  # fmt: skip
        before = children()
        subprocess.run([*command, "--help"], check=True, stdout=subprocess.DEVNULL)
        between = children()
        subprocess.run([*command, *options], check=True, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
        seconds = (children() - between) - (between - before)
        import datasets

        kept = set(datasets.load_from_disk(f"{folder}/out")["id"])
    return seconds, [record["id"] for record in read(path) if record["id"] not in kept]


def rensa(path):
    """Version 0.5: 128 permutations in 16 bands, candidates checked by its own estimate at Jaccard 0.7, over shingles made in Python."""
    from rensa import RMinHash, RMinHashLSH

    records = read(path)
    start = time.process_time()
    lsh = RMinHashLSH(threshold=0.7, num_perm=128, num_bands=16)
    dropped, known = [], {}
    for i, record in enumerate(records):
        words = re.findall(r"\w+", record["text"].lower())
        sketch = RMinHash(num_perm=128, seed=42)
        sketch.update([" ".join(words[j : j + 5]) for j in range(max(len(words) - 4, 1))])
        if any(known[other].jaccard(sketch) >= 0.7 for other in lsh.query(sketch)):
            dropped.append(record["id"])
        else:
            known[i] = sketch
            lsh.insert(i, sketch)
    return time.process_time() - start, dropped


def children():
    used = resource.getrusage(resource.RUSAGE_CHILDREN)
    return used.ru_utime + used.ru_stime


if __name__ == "__main__":
    os.environ.update(HF_DATASETS_OFFLINE="1", TOKENIZERS_PARALLELISM="false", OMP_NUM_THREADS="1")
    with contextlib.redirect_stdout(sys.stderr):
        seconds, dropped = {"datatrove": datatrove, "text-dedup": text_dedup, "rensa": rensa}[sys.argv[1]](Path(sys.argv[2]).resolve())
    print(json.dumps({"seconds": seconds, "dropped": dropped}))
