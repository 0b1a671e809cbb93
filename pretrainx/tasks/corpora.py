"""Corpora by name: where their files lie, which documents a split has, and how to read them. No TensorFlow.

To add a corpus that ships with the project: an entry in BUILTIN. One's own corpora stand in the config's `data.corpora`.
"""

import glob
import re
from collections.abc import Iterable, Iterator
from pathlib import Path

from pretrainx.core.errors import InputError, nearest
from pretrainx.core.sections import Corpus, Data
from pretrainx.curate import decontaminated, readers
from pretrainx.curate.documents import Document
from pretrainx.curate.holdout import held_out
from pretrainx.curate.readers import SPLIT_MARK, Counts, Format
from pretrainx.tasks.labelled import tables
from pretrainx.tasks.labelled.task import FORMS, Example, Task
from pretrainx.tasks.tfds_records import tfds_records

SPLITS = ("train", "validation")
PREPROCESS_VERSION = 1  # of what the pre-cache steps in `preprocess` put out: another number rebuilds the caches
BUILTIN: dict[str, Corpus] = {
    name: Corpus(source="jsonl", files=f"data/stdlib/{name}/{SPLIT_MARK}-*.jsonl.gz")
    for name in ("stdlib_prose", "stdlib_docstrings", "stdlib_code")
}
# GLUE and SuperGLUE as TFDS has them, in both forms: "glue_rte" for a head, "glue_rte_words" as text for text.
LABELLED: dict[str, Corpus] = {
    name + ("_words" if form == "words" else ""): Corpus(source="tfds", files=task.tfds, task=name, form=form)
    for name, task in tables.TASKS.items()
    if task.tfds
    for form in FORMS
}
SPLIT_NAMES = {"validation": ("validation", "dev", "val")}  # what published files call a split
_BUILT_BY = {name: "tools/build_corpus.py" for name in BUILTIN}


def known(data: Data) -> dict[str, Corpus]:
    """All corpora that need no Python module: the built-in ones and those of the config, which win."""
    return {**BUILTIN, **LABELLED, **data.corpora}


def get(name: str, data: Data) -> Corpus:
    """The description of a corpus, checked.

    Raises:
      InputError: no corpus of this name, or its description contradicts itself.
    """
    corpora = known(data)
    if name not in corpora:
        raise InputError(f"data.mixture: unknown corpus {name!r}; {nearest(name, corpora)}")
    corpus, where = corpora[name], f"data.corpora.{name}"
    if not re.fullmatch(r"[A-Za-z0-9_.]+", name) or name.startswith("."):
        raise InputError(f"{where}: a corpus name has letters, digits, '_' and '.' only, since it names a Task and a folder")
    if not corpus.files:
        raise InputError(f"{where}.files is empty; give a glob such as 'mine/{SPLIT_MARK}-*.jsonl.gz'")
    if corpus.holdout and SPLIT_MARK in corpus.files:
        raise InputError(f"{where}: holdout = {corpus.holdout} and {SPLIT_MARK} in files: keep one way to split")
    if corpus.task:
        tables.find(corpus.task, where, corpus.fields, corpus.labels)
    elif corpus.fields or corpus.labels:
        raise InputError(f"{where}: fields and labels are of labelled texts; name their task, such as task='classes'")
    return corpus


def splits(name: str, corpus: Corpus) -> tuple[str, ...]:
    """The splits that a corpus of files has: train, and validation where it is held out or has files."""
    if SPLIT_MARK not in corpus.files:
        return SPLITS if corpus.holdout else SPLITS[:1]
    if not _matches(corpus, "train"):
        split_files(name, corpus, "train")  # raises the sentence
    return tuple(split for split in SPLITS if _matches(corpus, split))


def split_files(name: str, corpus: Corpus, split: str) -> list[Path]:
    """The files that a split is read from, sorted; a held-out split shares the files of train.

    Raises:
      InputError: no file matches, or one is empty.
    """
    built_by = f" (run {_BUILT_BY[name]} first)" if corpus == BUILTIN.get(name) and not _matches(corpus, split) else ""
    return readers.list_files(corpus.files, _name_of(corpus, split), f"data.corpora.{name}.files{built_by}")


def documents(
    corpus: Corpus, split: str, path: Path, data: Data, part: tuple[int, int] = (0, 1), counts: Counts | None = None
) -> Iterator[Document]:
    """The documents of one file that belong to a split; `part` (i, n) keeps record numbers i+1, i+1+n, ... only."""
    for document in readers.read(path, format_of(corpus, data, part), counts):
        if SPLIT_MARK in corpus.files or held_out(document.id, corpus.holdout) == (split == "validation"):
            yield document


def format_of(corpus: Corpus, data: Data, part: tuple[int, int] = (0, 1)) -> Format:
    """How the readers are to read a corpus's files."""
    assert corpus.source != "tfds", "TFDS is read by SeqIO"
    return Format(corpus.source, corpus.text_key, corpus.id_key, corpus.document, data.encoding_errors, data.max_document_bytes, part)


def task_of(name: str, corpus: Corpus) -> Task:
    """The labelled task of a corpus that names one."""
    return tables.find(corpus.task, f"data.corpora.{name}", corpus.fields, corpus.labels)


def examples(name: str, corpus: Corpus, split: str, paths: list[Path], part: tuple[int, int] = (0, 1)) -> Iterator[tuple[Example, str]]:
    """(example, place of its record) of a labelled corpus's files that belong to a split; `part` as in `documents`.

    Held out are whole records: what is answered together stays together.
    """
    for example, place in tables.read(task_of(name, corpus), corpus.form, paths, split, part):
        if SPLIT_MARK in corpus.files or held_out(example.id.partition("/")[0], corpus.holdout) == (split == "validation"):
            yield example, place


def read_examples(name: str, corpus: Corpus, split: str, limit: int = 0) -> list[Example]:
    """The examples of a labelled corpus's split, of its first `limit` records if that is not 0. TFDS is imported only where it is read.

    Raises:
      InputError: it has no such split.
    """
    if corpus.source == "tfds":
        found: Iterator[tuple[Example, str]] = tables.examples(task_of(name, corpus), corpus.form, tfds_records(corpus, split))
    else:
        has = (SPLIT_MARK in corpus.files and _matches(corpus, split)) or (SPLIT_MARK not in corpus.files and split in splits(name, corpus))
        if not has:
            raise InputError(f"data.corpora.{name}: its files have no split {split!r}; they are {corpus.files!r}")
        found = examples(name, corpus, split, split_files(name, corpus, split))
    made, records = [], set()
    for example, place in found:
        records.add(place)
        if limit and len(records) > limit:
            break
        made.append(example)
    return made


def require_decontaminated(data: Data, names: Iterable[str]) -> None:
    """Checks that each of these corpora has a manifest which says that it was searched for the sets of `data.decontaminated`.

    Raises:
      InputError: a corpus has none, or it lacks a set, had other files for it, or left in what was found.
    """
    if not data.decontaminated:
        return
    for name in names:
        corpus = known(data).get(name)
        path = Path(corpus.decontamination) if corpus and corpus.decontamination else None
        if path is None and corpus is not None:
            path = Path(corpus.files).parent.parent / decontaminated.MANIFEST
        if path is None or not path.exists():
            raise InputError(
                f"data.decontaminated asks for {', '.join(data.decontaminated)}, and corpus {name!r} has no decontamination manifest"
                + (f" at {path}" if path else "")
                + f"; curate it with tools/curate.py --config.decontaminate, or name one as data.corpora.{name}.decontamination"
            )
        decontaminated.require(path, data.decontaminated)


def _name_of(corpus: Corpus, split: str) -> str:
    """What the corpus's files call a split; the split's own name where none is there."""
    names = SPLIT_NAMES.get(split, (split,))
    return next((name for name in names if glob.glob(corpus.files.replace(SPLIT_MARK, name), recursive=True)), split)


def _matches(corpus: Corpus, split: str) -> bool:
    return bool(glob.glob(corpus.files.replace(SPLIT_MARK, _name_of(corpus, split)), recursive=True))
