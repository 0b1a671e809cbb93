"""SeqIO vocabularies that tokenise as `core.vocabulary.Vocabulary` says, and the check that two of them are one."""

from collections.abc import Sequence

import seqio
import tensorflow as tf
import tensorflow_text as tf_text

from pretrainx.core import files
from pretrainx.core.errors import InputError
from pretrainx.core.vocabulary import Vocabulary
from pretrainx.tasks import vocabulary_spec


class WordPieceVocabulary(seqio.Vocabulary):
    """BERT's tokenizer from tensorflow-text, one flat row of ids for a text.

    SeqIO's own BertWordPieceVocabulary gives a padded matrix, words by pieces, and takes its special ids as numbers.
    """

    def __init__(self, vocabulary: Vocabulary):
        super().__init__()
        assert vocabulary.kind == "wordpiece" and vocabulary.file is not None
        self.vocabulary = vocabulary
        words = vocabulary_spec.read_words(vocabulary.file)
        table = tf.lookup.StaticVocabularyTable(
            tf.lookup.KeyValueTensorInitializer(words, tf.range(len(words), dtype=tf.int64)), num_oov_buckets=1
        )
        self._tokenizer = tf_text.BertTokenizer(table, lower_case=vocabulary_spec.lower_cases(words), token_out_type=tf.int64)
        self._words = words
        self._encode_one = tf.function(self._encode_tf, input_signature=[tf.TensorSpec((), tf.string)])  # op by op it takes 7 ms

    @property
    def bos_id(self) -> int:
        return self.vocabulary.special.bos

    @property
    def eos_id(self) -> int:
        return self.vocabulary.special.eos

    @property
    def unk_id(self) -> int:
        return self.vocabulary.special.unk

    @property
    def pad_id(self) -> int:
        return self.vocabulary.special.pad

    @property
    def _base_vocab_size(self) -> int:
        return self.vocabulary.size

    def _encode(self, s: str) -> list[int]:
        return self._encode_one(s).numpy().tolist()

    def _encode_tf(self, s: tf.Tensor) -> tf.Tensor:
        ids = self._tokenizer.tokenize(tf.reshape(s, [1])).merge_dims(1, 2)  # [1, words, pieces] -> [1, pieces of all]
        return tf.cast(ids[0], tf.int32)

    def _decode(self, ids: Sequence[int]) -> str:
        return self.vocabulary.decode(ids)

    def _decode_tf(self, ids: tf.Tensor) -> tf.Tensor:
        words = tf.gather(tf.constant(self._words), ids)
        shown = tf.boolean_mask(words, ~tf.strings.regex_full_match(words, r"\[.*\]"))
        return tf.strings.regex_replace(tf.strings.reduce_join(shown, separator=" "), " ##", "")

    def __eq__(self, other: object) -> bool:
        return isinstance(other, WordPieceVocabulary) and self.vocabulary == other.vocabulary

    __hash__ = None  # type: ignore[assignment]


def to_seqio(vocabulary: Vocabulary) -> seqio.Vocabulary:
    """The SeqIO vocabulary that gives the same ids."""
    if vocabulary.kind == "bytes":
        return seqio.ByteVocabulary(extra_ids=vocabulary.size - 259)
    if vocabulary.kind == "sentencepiece":
        return seqio.SentencePieceVocabulary(str(vocabulary.file), extra_ids=vocabulary.num_sentinels)
    return WordPieceVocabulary(vocabulary)


def check_same(theirs: seqio.Vocabulary, ours: Vocabulary, task: str) -> None:
    """Refuses a Task whose vocabulary is not the config's; ids beyond the embedding are found when they are written."""
    name, same = type(theirs).__name__, True
    if isinstance(theirs, seqio.SentencePieceVocabulary):
        same = ours.kind == "sentencepiece" and files.sha256_file(theirs.sentencepiece_model_file) == ours.sha256
        name = f"SentencePiece model {theirs.sentencepiece_model_file}"
    elif isinstance(theirs, seqio.ByteVocabulary):
        same = ours.kind == "bytes"
    elif isinstance(theirs, WordPieceVocabulary):
        same = ours == theirs.vocabulary
    elif isinstance(theirs, seqio.BertWordPieceVocabulary):
        same = ours.kind == "wordpiece" and files.sha256_bytes(theirs._wp_model) == ours.sha256
    if not same or theirs.vocab_size > ours.size:
        raise InputError(
            f"Task {task!r} tokenises with {name} ({theirs.vocab_size} ids), but data.vocabulary is "
            f"{ours.kind} {ours.file or ''} ({ours.size} ids); set data.vocabulary to the Task's"
        )
