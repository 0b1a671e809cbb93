"""Labelled records out of TensorFlow Datasets, which is imported when the first is read."""

from collections.abc import Iterator, Mapping
from typing import Any

from pretrainx.core.errors import InputError
from pretrainx.core.sections import Corpus


def tfds_records(corpus: Corpus, split: str) -> Iterator[tuple[dict[str, Any], str]]:
    """(record, its place) of a labelled data set "name/config:1.0.0" of TFDS, as plain Python values."""
    try:
        import tensorflow_datasets as tfds
    except ImportError:
        raise InputError(f"TFDS data set {corpus.files!r}: TensorFlow Datasets is missing: pip install 'pretrainx[tasks]'") from None

    name, _, folder = corpus.files.partition("@")
    builder = tfds.builder(name, data_dir=folder or None)
    own = next((s for s in (split, f"{split}_matched") if s in builder.info.splits), split)  # MNLI has two of each
    try:
        dataset = builder.as_dataset(split=own, shuffle_files=False)
    except (AssertionError, ValueError) as error:
        raise InputError(f"TFDS data set {name!r}, split {split!r}: {str(error).splitlines()[0]}") from None
    for number, example in enumerate(tfds.as_numpy(dataset), 1):
        yield _plain(example), f"{name}[{own}], record {number}"


def _plain(value: Any) -> Any:
    if isinstance(value, Mapping):
        return {key: _plain(inner) for key, inner in value.items()}
    if isinstance(value, bytes):
        return value.decode("utf-8", "replace")
    found = value.tolist() if hasattr(value, "tolist") else value
    return [_plain(inner) for inner in found] if isinstance(found, list) else found.decode() if isinstance(found, bytes) else found
