"""Writes datatrove_decisions.jsonl.gz: datatrove's word counts and decisions on texts made from Python's help topics.

    python tests/data/make_datatrove_decisions.py    # needs datatrove==0.10.1, spacy==3.8.*; Python 3.11

Every line is {"text", "words": [lengths of words], "gopher_repetition": reason or "", ..., "c4_text": text after C4's line rules}.
The first line says the versions. Texts are topics and deliberate damage of them, so that every rule decides something.
"""

import gzip
import importlib.metadata
import json
import random
import sys
from pathlib import Path
from pydoc_data.topics import topics

from datatrove.data import Document
from datatrove.pipeline.filters import C4QualityFilter, FineWebQualityFilter, GopherQualityFilter, GopherRepetitionFilter
from datatrove.utils.text import split_into_words


def damaged(text: str, rng: random.Random) -> str:
    lines = text.split("\n")
    kind = rng.randrange(16)
    if kind == 0:
        return "\n".join(line for line in lines for _ in range(rng.randint(1, 3)))
    if kind == 1:
        return "\n".join(("- " if rng.random() < 0.95 else "") + line for line in lines if line.strip())
    if kind == 2:
        return "\n".join(line + ("..." if rng.random() < 0.5 else "…  ") for line in lines)
    if kind == 3:
        return text.replace(" ", " # ", rng.randint(5, 80))
    if kind == 4:
        return "\r\n".join(line + "." for line in lines)
    if kind == 5:
        words = text.split()
        return " ".join(rng.choice(words[:20]) for _ in range(200))
    if kind == 6:
        return " ".join(text.split()[:60]) * rng.randint(1, 4)
    if kind == 7:
        return "\n\n".join(rng.choice(lines[:6]) for _ in range(30))
    if kind == 8:
        return text.replace(". ", '.[1] He said "so". [citation needed] ').replace("\n", " \n", 5)
    if kind == 9:
        return text.replace("the", "Javascript {").replace("{", "", rng.randint(0, 20)) + "\nWe use cookies. Read our Privacy Policy.\n"
    if kind == 10:
        return "".join(rng.choice("ab.,:;!?()[]<>_#*-–—~=/'’\"$%°…é中 \t\n\u2028\x1c") for _ in range(400))
    if kind == 11:
        return "".join(text.split(" "))[:1200]
    if kind == 12:
        return "\n".join(text.split()[:150])
    if kind == 13:
        return text.upper() + " LOREM IPSUM dolor sit amet.\nLorem ipsum dolor sit amet."
    if kind == 14:
        return ".  ".join(text.split(". ")).replace("\n\n", "\n \n")
    return " ".join(f"{word}{rng.choice(['', ',', '.', 'km', '!)', ':)', chr(39) + 's'])}" for word in text.split()[:200])


def main() -> None:
    rng = random.Random(0)
    filters = {
        "gopher_repetition": GopherRepetitionFilter(), "gopher_quality": GopherQualityFilter(), "fineweb": FineWebQualityFilter(),
        "c4": C4QualityFilter(), "c4_any_end": C4QualityFilter(filter_no_terminal_punct=False),
    }  # fmt: skip
    texts = [topics[name][: rng.randint(200, 1800)] for name in sorted(topics)]
    texts = texts[:40] + [damaged(rng.choice(texts), rng)[:1800] for _ in range(220)] + ["", " ", "\n\n", "\n", "Word."]
    versions = {name: importlib.metadata.version(name) for name in ("datatrove", "spacy")}
    records = [{"versions": versions | {"python": sys.version.split()[0]}}]
    for text in texts:
        record = {"text": text, "words": [len(word) for word in split_into_words(text)]}
        for name, rule in filters.items():
            document = Document(text=text, id="")
            answer = rule.filter(document)
            record[name] = "" if answer is True else answer[1]
            if name == "c4" and answer is True:
                record["c4_text"] = document.text
        records.append(record)
    path = Path(__file__).with_name("datatrove_decisions.jsonl.gz")
    path.write_bytes(gzip.compress("".join(json.dumps(record) + "\n" for record in records).encode(), mtime=0))
    print(path, path.stat().st_size, {name: len({r[name] for r in records[1:]}) for name in filters})


main()
