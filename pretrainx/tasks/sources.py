"""SeqIO sources built on our readers: files of any format that `curate.readers` knows, and Python functions.

Their examples are {"text", "id", "origin"}. What the reader has to say against the input (an InputError) would reach
a caller of tf.data only as the text of a TensorFlow error: it is kept in `failure`, to be raised as itself.
"""

import functools
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import seqio
import tensorflow as tf

from pretrainx.core.errors import InputError, nearest
from pretrainx.core.sections import Corpus, Data
from pretrainx.curate.documents import Document
from pretrainx.curate.readers import Counts
from pretrainx.tasks import corpora
from pretrainx.tasks.labelled import scoring, tables
from pretrainx.tasks.labelled.task import FEATURES
from pretrainx.tasks.tfds_records import tfds_records

Read = Callable[[str, str, tuple[int, int], Counts], Iterable[Any]]  # split, shard, (i, n) of its records, counts -> Documents, or dicts
TEXT = ("text", "id", "origin")
CROSSING, CROSSING_BYTES = 64, 1 << 20  # most examples that are handed to TensorFlow at once, and about how many bytes


class DocumentSource(seqio.DataSource):
    """A source over shards (files, say), each of which `read` turns into documents, whole or every n-th record.

    `keys` are what its examples hold, all strings.
    """

    def __init__(self, shards: Mapping[str, Sequence[str]], read: Read, keys: Sequence[str] = TEXT):
        super().__init__(splits=tuple(shards))
        self.keys, self._signature = tuple(keys), {key: tf.TensorSpec((), tf.string) for key in keys}
        self._shards, self._read = {split: list(names) for split, names in shards.items()}, read
        self.counts = Counts()
        self.failure: InputError | None = None

    @property
    def supports_arbitrary_sharding(self) -> bool:
        return True

    def list_shards(self, split: str) -> list[str]:
        if split not in self._shards:
            raise InputError(f"unknown split {split!r}; {nearest(split, self._shards)}")
        return self._shards[split]

    def get_dataset(
        self,
        split: str = "train",
        shuffle: bool = True,
        seed: int | None = None,
        shard_info: seqio.ShardInfo | None = None,
        **unused: Any,
    ) -> tf.data.Dataset:
        """Shard i of n: every n-th file where there are as many files, else every n-th record of each file."""
        names, part = self._shard(split, shard_info)
        order = tf.data.Dataset.from_tensor_slices(names)
        if shuffle and len(names) > 1:
            order = order.shuffle(len(names), seed=seed)

        def of_one(name: tf.Tensor) -> tf.data.Dataset:
            return tf.data.Dataset.from_generator(
                lambda n: self._examples(split, [n.decode()], part), args=(name,), output_signature=self._signature
            )

        return order.flat_map(of_one)

    def select(self, split: str, shard_info: seqio.ShardInfo) -> None:
        """Chooses what iterating over `selected` gives next."""
        self._selected = (split, *self._shard(split, shard_info))
        self.counts, self.failure = Counts(), None

    @functools.cached_property
    def selected(self) -> tf.data.Dataset:
        """One data set for every shard in turn: what is mapped over it is traced once, not once a shard.

        Examples cross from Python to TensorFlow many at a time.
        """
        many = {key: tf.TensorSpec((None,), tf.string) for key in self.keys}
        return tf.data.Dataset.from_generator(self._batches, output_signature=many).unbatch()

    def _batches(self) -> Iterator[dict[str, list[bytes]]]:
        def by_key() -> dict[str, list[bytes]]:
            return {key: [one[key] for one in batch] for key in self.keys}

        batch: list[dict[str, bytes]] = []
        size = 0
        for example in self._examples(*self._selected):
            batch.append(example)
            size += sum(map(len, example.values()))
            if len(batch) == CROSSING or size > CROSSING_BYTES:
                yield by_key()
                batch, size = [], 0
        if batch:
            yield by_key()

    def _shard(self, split: str, info: seqio.ShardInfo | None) -> tuple[list[str], tuple[int, int]]:
        names = self.list_shards(split)
        if info is None or info.num_shards <= 1:
            return names, (0, 1)
        if len(names) >= info.num_shards:
            return names[info.index :: info.num_shards], (0, 1)
        return names, (info.index, info.num_shards)

    def _examples(self, split: str, names: list[str], part: tuple[int, int]) -> Iterator[dict[str, bytes]]:
        try:
            for name in names:
                for document in self._read(split, name, part, self.counts):
                    values = document if isinstance(document, Mapping) else vars(document)
                    yield {key: values[key].encode("utf-8", "replace") for key in self.keys}
        except InputError as error:
            self.failure = error
            raise


def from_corpus(name: str, data: Data) -> seqio.DataSource:
    """The source of a corpus that a config describes, or of a built-in one."""
    corpus = corpora.get(name, data)
    if corpus.task:
        return labelled(name, corpus)
    if corpus.source == "tfds":
        return from_tfds(corpus)
    files = {split: [str(p) for p in corpora.split_files(name, corpus, split)] for split in corpora.splits(name, corpus)}
    return DocumentSource(files, lambda split, path, part, counts: corpora.documents(corpus, split, Path(path), data, part, counts))


def labelled(name: str, corpus: Corpus) -> DocumentSource:
    """Labelled examples of a corpus's form, as strings by feature."""
    task = corpora.task_of(name, corpus)
    names = FEATURES[corpus.form]
    facts = ("facts",) if corpus.form == "words" else ()

    def read(split: str, shard: str, part: tuple[int, int], counts: Counts) -> Iterator[dict[str, str]]:
        if corpus.source == "tfds":
            found = tables.examples(task, corpus.form, tfds_records(corpus, split), part)
        else:
            found = corpora.examples(name, corpus, split, [Path(shard)], part)
        for example, place in found:
            counts.documents += 1
            features = {feature: example.feature(feature, task.measure) for feature in names}
            yield {
                "id": example.id,
                "origin": place.replace(", record ", "#"),
                **features,
                **{key: scoring.facts(example) for key in facts},
            }

    if corpus.source == "tfds":
        shards = {split: [split] for split in corpora.SPLITS}
    else:
        shards = {split: [str(p) for p in corpora.split_files(name, corpus, split)] for split in corpora.splits(name, corpus)}
    return DocumentSource(shards, read, ("id", "origin", *names, *facts))


def from_function(fn: Callable[[str], Iterable[Any]], splits: Sequence[str] = ("train",)) -> DocumentSource:
    """A source out of Python: `fn(split)` gives texts, (id, text) pairs, {"text", "id"} dicts or Documents.

    It is called anew for each shard, so it must give the same documents in the same order every time.
    """
    label = getattr(fn, "__name__", type(fn).__name__)

    def read(split: str, shard: str, part: tuple[int, int], counts: Counts) -> Iterator[Document]:
        for number, item in enumerate(fn(split), 1):
            if (number - 1) % part[1] == part[0]:
                counts.documents += 1
                yield _as_document(item, f"{label}.{split}#{number}")

    return DocumentSource({split: [split] for split in splits}, read)


def from_tfds(corpus: Corpus) -> seqio.DataSource:
    """A TFDS data set "name:1.0.0", "name/config:1.0.0" or "...@FOLDER"; a holdout is cut from the end of its train split."""
    name, _, folder = corpus.files.partition("@")
    if ":" not in name:
        raise InputError(f"data.corpora: TFDS data set {name!r} must name its version, such as '{name}:1.0.0'")
    splits = None
    if corpus.holdout:
        cut = f"{100 - 100 * corpus.holdout:g}%"
        splits = {"train": f"train[:{cut}]", "validation": f"train[{cut}:]"}
    return seqio.TfdsDataSource(tfds_name=name, tfds_data_dir=folder or None, splits=splits)


def _as_document(item: Any, origin: str) -> Document:
    if isinstance(item, Document):
        return item
    if isinstance(item, str):
        return Document(origin, item, origin)
    if isinstance(item, tuple) and len(item) == 2:
        return Document(str(item[0]), item[1], origin)
    if isinstance(item, Mapping) and "text" in item:
        return Document(str(item.get("id", origin)), item["text"], origin)
    raise InputError(f"{origin}: a source function gives texts, (id, text), {{'text', 'id'}} or Documents, found {type(item).__name__}")
