"""datatrove's filters and ftfy behind a line protocol: curate_filters.py starts it with the interpreter of their environment.

    PEER_PYTHON benchmarks/datatrove_peer.py FILE.jsonl   # needs datatrove[processing]==0.10.1, spacy, ftfy

Reads the name of a job a line, answers one line of JSON: {"seconds": CPU seconds, "answers": [...]}.
"""

import hashlib
import json
import sys
import time

import ftfy
from datatrove.data import Document
from datatrove.pipeline.filters import C4QualityFilter, FineWebQualityFilter, GopherQualityFilter, GopherRepetitionFilter
from datatrove.utils.text import split_into_parts


def main() -> None:
    with open(sys.argv[1], encoding="utf-8") as stream:
        texts = [json.loads(line)["text"] for line in stream]
    rules = {
        "gopher_repetition": GopherRepetitionFilter(), "gopher_quality": GopherQualityFilter(), "c4": C4QualityFilter(),
        "fineweb": FineWebQualityFilter(),
    }  # fmt: skip
    chain = [rules["gopher_repetition"], rules["gopher_quality"], C4QualityFilter(filter_no_terminal_punct=False), rules["fineweb"]]
    for rule in rules.values():
        rule.filter(Document(text="Warm. Up.", id=""))
    print("ready", flush=True)
    for line in sys.stdin:
        job = line.strip()
        split_into_parts.cache_clear()  # words kept from the job before would be a gift
        before = time.process_time()
        if job == "mojibake":
            answers = [ftfy.fix_encoding(text) for text in texts]
        elif job == "chain":
            answers = [judge(chain, text)[0] for text in texts]
        else:
            answers = [judge([rules[job]], text) for text in texts]
        seconds = time.process_time() - before
        if job == "mojibake":
            answers = [digest(text) for text in answers]
        elif job != "chain":
            answers = [[reason, digest(text) if job == "c4" and not reason else ""] for reason, text in answers]
        print(json.dumps({"seconds": seconds, "answers": answers}), flush=True)


def judge(chain, text):
    document = Document(text=text, id="")
    for rule in chain:
        answer = rule.filter(document)
        if answer is not True:
            return answer[1], ""
    return "", document.text


def digest(text: str) -> str:
    return hashlib.sha256(text.encode("utf-8", "surrogatepass")).hexdigest()[:16]


if __name__ == "__main__":
    main()
