"""Pre-cache steps of a Task over {"text", "id", "origin"}: what they put out is what the token cache keeps.

Whoever changes that raises `corpora.PREPROCESS_VERSION`.
"""

from collections.abc import Mapping, Sequence

import seqio
import tensorflow as tf


def keep_text(dataset: tf.data.Dataset, text_key: str) -> tf.data.Dataset:
    """Examples of somebody else's source as {"text"}: the one feature that is text."""
    return dataset.map(lambda example: {"text": example[text_key]})


def tokenize_text(dataset: tf.data.Dataset, output_features: Mapping[str, seqio.Feature]) -> tf.data.Dataset:
    """Adds `targets` (ids of `text`, no special tokens) and `num_bytes` (UTF-8 bytes of `text`), drops `text`."""
    encode = output_features["targets"].vocabulary.encode_tf

    def tokenize(example: dict[str, tf.Tensor]) -> dict[str, tf.Tensor]:
        rest = {key: value for key, value in example.items() if key != "text"}
        text = example["text"]
        return {**rest, "targets": encode(text), "num_bytes": tf.cast(tf.strings.length(text), tf.int64)}

    return dataset.map(tokenize)


def tokenize_features(dataset: tf.data.Dataset, output_features: Mapping[str, seqio.Feature], texts: Sequence[str]) -> tf.data.Dataset:
    """Labelled examples: the features `texts` as ids, a `label` as its decimal digits, and `num_bytes` of the texts."""

    def tokenize(example: dict[str, tf.Tensor]) -> dict[str, tf.Tensor]:
        made = {name: output_features[name].vocabulary.encode_tf(example[name]) for name in texts}
        if "label" in output_features:
            made["label"] = tf.strings.to_number(tf.strings.bytes_split(example["label"]), tf.int32)
        made["num_bytes"] = tf.add_n([tf.cast(tf.strings.length(example[name]), tf.int64) for name in texts])
        return {name: example[name] for name in ("id", "origin", "facts") if name in example} | made

    return dataset.map(tokenize)
