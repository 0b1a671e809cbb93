"""Trains a BERT word list (WordPiece) on sampled text, always the same: the merges of a SentencePiece model as beginnings and "##" rests.

Text is split as BERT does it: at white space and around every punctuation mark, lower-cased and without accents where `lower`
(Devlin 2018, its released BasicTokenizer). The list has the special words, each common character both as a beginning and as a rest,
then the merges in their order; a reader takes the longest piece that fits (Wu 2016, section 4.1).
"""

import io
import unicodedata
from collections import Counter
from collections.abc import Iterable

import sentencepiece

from pretrainx.core.errors import InputError

SPECIAL = ("[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]")
LETTERS = 1000  # characters that have entries of their own, the commonest: a word with another one is unknown
_SPACE = "▁"


def split_words(text: str, lower: bool) -> str:
    """The words and punctuation marks of a text, one space between.

    >>> split_words("Don't stop!", lower=True)
    "don ' t stop !"
    """
    if lower:
        text = "".join(c for c in unicodedata.normalize("NFD", text.lower()) if unicodedata.category(c) != "Mn")
    spaced = (f" {c} " if _is_mark(c) else " " if c.isspace() else c for c in text if c.isspace() or unicodedata.category(c)[0] != "C")
    return " ".join("".join(spaced).split())


def _is_mark(c: str) -> bool:
    """Punctuation, among it all of ASCII that is no letter, digit or space; and ideographs, which are words of their own."""
    return (c.isascii() and not c.isalnum() and not c.isspace()) or unicodedata.category(c)[0] == "P" or "一" <= c <= "鿿"


def whole_words(sampled: Iterable[str], size: int, lower: bool) -> bytes:
    """The bytes of a list of the commonest words, without rests: every other word is read as [UNK], one token.

    For small models of classification: a rare word's pieces would say what other words mean that hold them.

    Raises:
      InputError: the text has too few different words.
    """
    counted = Counter(word for text in sampled for word in split_words(text, lower).split())
    words = [*SPECIAL, *sorted(counted, key=lambda word: (-counted[word], word))][:size]
    if len(words) < size:
        raise InputError(f"--size {size} is too large for this text, which gives a list of {len(words)}")
    return "".join(f"{word}\n" for word in words).encode()


def train(sampled: Iterable[str], size: int, lower: bool) -> bytes:
    """The bytes of the word list, a word a line, `size` lines; equal input gives equal bytes.

    Raises:
      InputError: the size is too small for the text's characters, or too large for this little text.
    """
    out = io.BytesIO()
    lines = [line for text in sampled if (line := split_words(text, lower).replace(_SPACE, ""))]
    try:
        sentencepiece.SentencePieceTrainer.train(
            sentence_iterator=iter(lines), model_writer=out, vocab_size=size, model_type="bpe", hard_vocab_limit=False,
            normalization_rule_name="identity", split_by_unicode_script=False, split_by_number=False, bos_id=-1, eos_id=-1,
            character_coverage=0.9995, max_sentence_length=1 << 24, num_threads=1, minloglevel=2,
        )  # fmt: skip
    except RuntimeError as error:
        raise InputError(f"no word list of {size} can be trained on this text: {str(error).split('] ')[-1]}") from None
    model = sentencepiece.SentencePieceProcessor(model_proto=out.getvalue())
    pieces = [model.id_to_piece(i) for i in range(1, model.get_piece_size())]
    counted = Counter(c for line in lines for c in line if c != " ")
    letters = sorted(sorted(counted, key=lambda c: (-counted[c], c))[:LETTERS])
    words = dict.fromkeys([*SPECIAL, *letters, *(f"##{letter}" for letter in letters)])
    if size <= len(words):
        raise InputError(f"--size {size} is too small: special words and the text's characters need {len(words)}")
    for piece in pieces:
        if len(piece) > 1 and len(words) < size:
            words.setdefault(piece[1:] if piece[0] == _SPACE else f"##{piece}")
    if len(words) < size:
        raise InputError(f"--size {size} is too large for this text, which gives a list of {len(words)}")
    return "".join(f"{word}\n" for word in words).encode()
