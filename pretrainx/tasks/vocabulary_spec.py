"""The vocabulary that `data.vocabulary` names, without TensorFlow.

    bytes              the 256 bytes at ids 3 to 258, as ByT5 and SeqIO number them; bos, mask, cls, sep at 259 to 262
    FILE.model         a SentencePiece model
    wordpiece:FILE     a BERT word list, one word a line; lower-cases if the list holds no capital letters

Each may end in "+N": N sentinels at the end, the first of which has the highest id (T5's extra ids).
"""

import re
from pathlib import Path

from pretrainx.core import files
from pretrainx.core.errors import InputError, nearest
from pretrainx.core.vocabulary import SpecialIds, Vocabulary

BYTE_SPECIALS = 5  # bos, mask, cls, sep and one spare: 264 ids in all, which 8 devices share evenly
WHERE = "data.vocabulary"
_PIECES = {"mask": ("<mask>", "[MASK]"), "cls": ("<cls>", "[CLS]"), "sep": ("<sep>", "[SEP]")}


def load(spec: str) -> Vocabulary:
    """The vocabulary of a spec string.

    Raises:
      InputError: the spec is not one of those above, or its file is missing or no vocabulary.
    """
    base, sentinels = _split_sentinels(spec)
    if base == "bytes":
        special = SpecialIds(bos=259, mask=260, cls=261, sep=262)
        return Vocabulary("bytes", 259 + BYTE_SPECIALS + sentinels, special, sentinels, sha256=files.sha256_bytes(b"bytes"))
    if base.startswith("wordpiece:"):
        return _wordpiece(_existing(base.removeprefix("wordpiece:")), sentinels)
    if base.endswith(".model"):
        return _sentencepiece(_existing(base), sentinels)
    raise InputError(f"{WHERE}: {spec!r} is no vocabulary; {nearest(base, ['bytes', 'FILE.model', 'wordpiece:FILE'])}")


def lower_cases(words: list[str]) -> bool:
    """Whether a word list is of the uncased kind: no ordinary word in it has a capital letter."""
    return not any(w != w.lower() for w in words if not (w.startswith("[") and w.endswith("]")))


def read_words(path: Path) -> list[str]:
    """The words of a BERT vocabulary file in the order of their ids."""
    try:
        words = path.read_text(encoding="utf-8").split("\n")
    except UnicodeDecodeError as error:
        raise InputError(f"{WHERE}: word list {path} is not UTF-8: {error}") from None
    return words[:-1] if words[-1] == "" else words


def _split_sentinels(spec: str) -> tuple[str, int]:
    match = re.fullmatch(r"(.+)\+(\d{1,6})", spec)
    return (match[1], int(match[2])) if match and not Path(spec).exists() else (spec, 0)


def _existing(name: str) -> Path:
    path = Path(name)
    if not path.is_file():
        beside = [str(p) for p in path.parent.glob("*" + path.suffix)] if path.parent.is_dir() else []
        raise InputError(
            f"{WHERE}: vocabulary file not found: {name}; make one with tools/train_vocabulary.py, or {nearest(name, [*beside, 'bytes'])}"
        )
    return path


def _sentencepiece(path: Path, sentinels: int) -> Vocabulary:
    import sentencepiece

    try:
        model = sentencepiece.SentencePieceProcessor(model_file=str(path))
    except Exception as error:  # RuntimeError or OSError, by version
        raise InputError(f"{WHERE}: {path} is not a SentencePiece model: {str(error).splitlines()[0]}") from None
    pieces = {model.id_to_piece(i): i for i in range(model.get_piece_size())}
    if model.eos_id() < 0:
        raise InputError(f"{WHERE}: {path} has no end-of-document piece (eos), which must stand between documents")
    found = {role: next((pieces[n] for n in names if n in pieces), -1) for role, names in _PIECES.items()}
    special = SpecialIds(max(model.pad_id(), 0), model.eos_id(), model.unk_id(), model.bos_id(), **found)
    return Vocabulary(
        "sentencepiece", model.get_piece_size() + sentinels, special, sentinels, _round_trips(model), files.sha256_file(path), path
    )


def _round_trips(model: object) -> bool:
    """Whether a model gives back every text (but for U+2581, which SentencePiece itself uses for the space)."""
    probe = (
        " a  b\n\tc\r\n  \u00e9 \ufb01 \u2126 \u212b \x00\U0001f600 \uff21 "  # what normalisation or a missing byte fallback would change
    )
    return model.decode(model.encode(probe)) == probe  # type: ignore[attr-defined]


def _wordpiece(path: Path, sentinels: int) -> Vocabulary:
    if sentinels:
        raise InputError(f"{WHERE}: a word list has no sentinels; drop '+{sentinels}'")
    ids = {word: i for i, word in enumerate(read_words(path))}
    for word in ("[PAD]", "[UNK]", "[CLS]", "[SEP]"):
        if word not in ids:
            raise InputError(f"{WHERE}: {path} is not a BERT word list: it has no {word}")
    special = SpecialIds(ids["[PAD]"], ids["[SEP]"], ids["[UNK]"], ids["[CLS]"], ids.get("[MASK]", -1), ids["[CLS]"], ids["[SEP]"])
    return Vocabulary("wordpiece", len(read_words(path)), special, 0, False, files.sha256_file(path), path)
