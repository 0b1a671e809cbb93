"""Curates any files: JSON lines with `text` and optional `id` and `source`, Parquet, text, web pages, WARC, Wikipedia dumps, code.

Run:    python tools/curate.py --config=configs/curate_files.py --config.inputs='data/*.jsonl.gz' --workdir=clean
Several sources: --config.inputs="{'web': 'crawl/*.warc.gz', 'books': {'files': 'novels', 'format': 'text'}}"
Rules:  repairs, length, repetition and copies for every source; sources of these names get the preset that suits them (curate/presets.py).
        One option: --config.filters.length.min_characters=200; one off: --config.filters.gopher_repetition=none;
        another preset for all: --config.preset=fineweb --config.sources="{}"
Tongue: --config.filters.language.languages="['en','de']" keeps these, and says of each document its metadata.language
Model:  --config.filters.quality.model=quality.npz drops what a classifier takes for bad text (tools/train_quality.py trains one)
Crawls: --config.deduplicate.write_index=True leaves WORKDIR/index of what is kept; the next crawl takes it as
        --config.deduplicate.against="['march/index']", and what repeats a document of it is dropped
Leaks:  --config.decontaminate="{'sets': {'arc': 'eval/arc*.jsonl'}}"
"""

from typing import Any


def get_config() -> dict[str, Any]:
    # A dict keeps its order, which a ConfigDict does not: filters run, and sources are written, as they stand here.
    return {
        "inputs": "",
        "preset": "clean",
        # What holds for text of any kind; published rule sets for web pages drop most books and all code.
        "filters": {"length": {}, "gopher_repetition": {}},
        "sources": {
            "web": {"preset": "web"},
            "books": {"preset": "books"},
            "encyclopedia": {"preset": "encyclopedia"},
            "code": {"preset": "code", "filters": {"gopher_repetition": None}},
        },
        "deduplicate": {"exact": {}, "near": {}},
    }
