"""A vocabulary as training, evaluation and sampling need it: sizes, special ids, bytes per token; no TensorFlow.

The SeqIO vocabularies that tokenise live in `tasks/vocabularies.py`; `Vocabulary` is what the cache keeps of them.
"""

import shutil
from collections.abc import Sequence
from dataclasses import asdict, dataclass, field
from functools import cached_property
from pathlib import Path
from typing import Annotated, Any, Literal

import numpy as np

from pretrainx.core import files, schema
from pretrainx.core.errors import InputError
from pretrainx.core.schema import Range

SENTENCE_ENDS = (".", "!", "?", "\u3002", "\uff01", "\uff1f", "\u2026", '."', '!"', '?"', ".\u201d", "!\u201d", "?\u201d")


@dataclass(frozen=True)
class SpecialIds:
    """Ids of the special tokens; -1 where the vocabulary has none."""

    pad: int = 0
    eos: int = 1
    unk: int = 2
    bos: int = -1
    mask: int = -1
    cls: int = -1
    sep: int = -1

    @property
    def start(self) -> int:
        """What stands before a document's first token: bos, or pad where there is none (T5's habit)."""
        return self.bos if self.bos >= 0 else self.pad

    @property
    def ids(self) -> tuple[int, ...]:
        """Those that the vocabulary has."""
        return tuple(i for i in asdict(self).values() if i >= 0)


_FILES = {"bytes": "", "sentencepiece": "vocabulary.model", "wordpiece": "vocabulary.txt"}
_MAX_SIZE = 1 << 31  # ids are int32


@dataclass(frozen=True)
class _Described:
    """What `describe` gives, with its types and ranges."""

    kind: Literal["bytes", "sentencepiece", "wordpiece"]
    size: Annotated[int, Range(ge=1, le=_MAX_SIZE)]
    special: SpecialIds
    num_sentinels: Annotated[int, Range(ge=0, le=_MAX_SIZE)] = 0
    lossless: bool = True
    sha256: str = ""
    file: str = ""


@dataclass(frozen=True)
class Vocabulary:
    """Sizes and ids; `file` is the model or word list, copied beside each cache so that a cache is whole."""

    kind: Literal["bytes", "sentencepiece", "wordpiece"]
    size: int  # rows the embedding needs, extra ids (sentinels) included
    special: SpecialIds
    num_sentinels: int = 0  # the last ids of the vocabulary, counted down from size - 1 (T5)
    lossless: bool = True  # decode(encode(text)) == text for every text
    sha256: str = ""
    file: Path | None = field(default=None, compare=False)

    def describe(self) -> dict[str, Any]:
        """The JSON form, without the path."""
        return {
            "kind": self.kind, "size": self.size, "special": asdict(self.special), "num_sentinels": self.num_sentinels,
            "lossless": self.lossless, "sha256": self.sha256, "file": self.file_name,
        }  # fmt: skip

    @property
    def file_name(self) -> str:
        return _FILES[self.kind]

    def save(self, folder: Path) -> None:
        """Puts the vocabulary's file beside a cache or a run."""
        if self.file is not None and Path(self.file).resolve() != (folder / self.file_name).resolve():
            folder.mkdir(parents=True, exist_ok=True)
            shutil.copyfile(self.file, folder / self.file_name)

    @classmethod
    def load(cls, folder: Path, described: dict[str, Any]) -> "Vocabulary":
        """The inverse of `save` and `describe`; the file must be the one described.

        Raises:
          InputError: the file is missing or is another one, or the description is none.
        """
        checked = schema.parse(_Described, described, f"{folder}: vocabulary")
        if checked.file in (".", "..") or Path(checked.file).name != checked.file:
            raise InputError(f"{folder}: vocabulary.file {checked.file!r}: expected the name of a file in that folder")
        file = None
        if checked.kind != "bytes":
            file = Path(folder) / (checked.file or _FILES[checked.kind])
            if not file.exists():
                raise InputError(f"vocabulary file missing: {file}; it was written beside the token cache or run")
            if (found := files.sha256_file(file)) != checked.sha256:
                raise InputError(f"vocabulary {file} is not the one described: sha256 {found[:12]}, wanted {checked.sha256[:12]}")
        return cls(checked.kind, checked.size, checked.special, checked.num_sentinels, checked.lossless, checked.sha256, file)

    @cached_property
    def _pieces(self) -> list[bytes]:
        """UTF-8 bytes that each id stands for; special tokens stand for none."""
        if self.kind == "bytes":
            return [b""] * 3 + [bytes([i]) for i in range(256)] + [b""] * (self.size - 259)
        assert self.file is not None
        if self.kind == "wordpiece":
            words = self.file.read_text(encoding="utf-8").split("\n")[: self.size]
            pieces = [b"" if w.startswith("[") and w.endswith("]") else w.encode() for w in words]
            return pieces + [b""] * (self.size - len(pieces))
        sp = self._sentencepiece
        pieces = []
        for i in range(sp.get_piece_size()):
            if sp.is_byte(i):
                pieces.append(bytes([int(sp.id_to_piece(i)[3:-1], 16)]))
            elif sp.is_control(i) or sp.is_unknown(i):
                pieces.append(b"")
            else:
                pieces.append(sp.id_to_piece(i).replace("\u2581", " ").encode())
        return pieces + [b""] * (self.size - len(pieces))

    @cached_property
    def _sentencepiece(self) -> Any:
        import sentencepiece

        return sentencepiece.SentencePieceProcessor(model_file=str(self.file))

    @cached_property
    def token_bytes(self) -> np.ndarray:
        """UTF-8 bytes per token, int64[size]; sums to a text's bytes where the vocabulary is lossless."""
        return np.asarray([len(piece) for piece in self._pieces], np.int64)

    @cached_property
    def is_ordinary(self) -> np.ndarray:
        """bool[size]: ids that stand for text; special tokens, sentinels and spare ids do not."""
        ordinary = np.zeros(self.size, bool)
        has_text = self.token_bytes[: self.size] > 0
        ordinary[: len(has_text)] = has_text
        ordinary[list(self.special.ids)] = False
        ordinary[self.size - self.num_sentinels :] = False
        return ordinary

    def sentinels(self, count: int) -> np.ndarray:
        """int32[count], the first sentinels in order: the first has the highest id (T5's extra ids)."""
        return np.arange(self.size - 1, self.size - 1 - count, -1, dtype=np.int32)

    @cached_property
    def ends_sentence(self) -> np.ndarray:
        """bool[size]: ids after which a sentence may be over: text that ends in . ! ? (or their kin), or a line's end."""
        texts = [piece.decode("utf-8", "replace") for piece in self._pieces]
        return np.asarray(["\n" in text or text.rstrip().endswith(SENTENCE_ENDS) for text in texts], bool)

    def starts_word(self, tokens: np.ndarray) -> np.ndarray:
        """bool like tokens[L]: whether a word begins there; False where a letter or digit follows one, or at a "##" piece."""
        inside, outside = self._word_edges
        starts = np.ones(len(tokens), bool)
        starts[1:] = ~(inside[tokens[1:]] & outside[tokens[:-1]])
        return starts

    @cached_property
    def _word_edges(self) -> tuple[np.ndarray, np.ndarray]:
        """For each id: whether it may go on a word that is before it, and whether a word may go on after it."""
        if self.kind == "wordpiece":
            goes_on = np.asarray([piece.startswith(b"##") for piece in self._pieces], bool)
            return goes_on, self.is_ordinary
        texts = [piece.decode("utf-8", "replace") for piece in self._pieces]
        # half a character (of a byte fallback) belongs to the word
        letter = lambda c: c.isalnum() or c in "_\ufffd"  # noqa: E731
        first = np.asarray([bool(text) and letter(text[0]) for text in texts], bool)
        last = np.asarray([bool(text) and letter(text[-1]) for text in texts], bool)
        return first, last

    def decode_bytes(self, tokens: Sequence[int] | np.ndarray) -> bytes:
        """The exact bytes of a token sequence (a window may start or end inside a character)."""
        if self.kind == "wordpiece":
            words = [self._pieces[t].decode() for t in tokens if self._pieces[t]]
            return " ".join(words).replace(" ##", "").encode()
        pieces = self._pieces
        return b"".join(pieces[t] for t in tokens)

    def decode(self, tokens: Sequence[int] | np.ndarray) -> str:
        return self.decode_bytes(tokens).decode("utf-8", "replace")

    def piece(self, token: int) -> str:
        """One token for a person: its text, or <name> for a special token."""
        names = {v: k for k, v in asdict(self.special).items() if v >= 0}
        if token in names:
            return f"<{names[token]}>"
        if token >= self.size - self.num_sentinels:
            return f"<extra_{self.size - 1 - token}>"
        return self._pieces[token].decode("utf-8", "backslashreplace") if token < len(self._pieces) else f"<{token}>"

    def encode(self, text: str) -> list[int]:
        """Token ids of a text, without special tokens; equal to what the Task's vocabulary gives."""
        if self.kind == "bytes":
            return [b + 3 for b in text.encode("utf-8", "replace")]
        if self.kind == "sentencepiece":
            return self._sentencepiece.encode(text)
        raise InputError("a WordPiece vocabulary encodes only through its Task (tensorflow-text); give token ids instead")
