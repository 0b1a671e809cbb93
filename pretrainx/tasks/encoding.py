"""Texts to token ids under any vocabulary; TensorFlow is imported for word lists alone."""

from collections.abc import Callable

from pretrainx.core.errors import InputError
from pretrainx.core.vocabulary import Vocabulary


def text_encoder(vocabulary: Vocabulary) -> Callable[[str], list[int]]:
    """Text -> token ids, also for a word list, whose tokenizer is TensorFlow's."""
    if vocabulary.kind != "wordpiece":
        return vocabulary.encode
    try:
        from pretrainx.tasks.vocabularies import to_seqio
    except ImportError:
        raise InputError("a WordPiece vocabulary needs TensorFlow to read text: pip install 'pretrainx[tasks]'") from None
    encode: Callable[[str], list[int]] = to_seqio(vocabulary).encode
    return encode
