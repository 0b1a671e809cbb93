"""Vocabularies: ours, SeqIO's and the libraries' own agree, code comes back as it was, and training repeats itself."""

import inspect
import json
import re
import string
import sysconfig
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from pretrainx.core import files
from pretrainx.core.errors import InputError
from pretrainx.core.vocabulary import Vocabulary
from pretrainx.curate.stdlib import prose
from pretrainx.tasks import encoding, vocabulary_spec, wordpiece_training
from pretrainx.tasks import vocabulary_training as training
from tools import train_vocabulary

LIBRARY = Path(sysconfig.get_paths()["stdlib"])
CODE = [(LIBRARY / name).read_text(encoding="utf-8") for name in ("json/decoder.py", "textwrap.py", "ast.py", "bisect.py", "tabnanny.py")]
TRICKY = [
    "", " ", "  two  spaces ", "\n", "\n\n    x\n\t\ty\r\n", "\x00\x01", "caf\u00e9 \ufb01 \u2126 \uff21", 
    "\U0001f600\U0001f468\u200d\U0001f469",
    "\u65e5\u672c\u8a9e", "<mask> <cls> </s> <pad> <0x41>", "\u2047 \u2585 \ufffd \ufeff", "a\u0301",
]  # fmt: skip
TEXT = st.text(st.characters(exclude_categories=["Cs"], exclude_characters="\u2581"), max_size=60)


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("vocabulary") / "small.model"
    path.write_bytes(training.train(training.sample(CODE + [t for _, t in prose()[:10]], 200_000), 700))
    return path


@pytest.fixture(scope="module")
def words(tmp_path_factory: pytest.TempPathFactory) -> Path:
    found = sorted({w for text in CODE for w in text.lower().split() if w.isalpha() and len(w) < 9})[:300]
    pieces = [*string.ascii_lowercase, *string.digits, *string.punctuation]
    path = tmp_path_factory.mktemp("words") / "vocab.txt"
    path.write_text(
        "\n".join(["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]", *dict.fromkeys([*pieces, *found]), *(f"##{p}" for p in pieces)]) + "\n"
    )
    return path


@pytest.fixture(scope="module")
def seqio_side() -> Any:
    return pytest.importorskip("pretrainx.tasks.vocabularies", reason="needs pretrainx[tasks]")


# ---- training


def measured(path: Path, texts: list[str]) -> training.Fit:
    vocabulary = vocabulary_spec.load(str(path))
    return training.fit(vocabulary, vocabulary.encode, texts)


def test_fit_counts_what_it_says() -> None:
    vocabulary = vocabulary_spec.load("bytes")
    assert training.fit(vocabulary, vocabulary.encode, ["ab cd\n", "\u00e9"]) == training.Fit(1.0, 8 / 3, 0.0, 0)


def test_a_word_list_is_berts_and_repeats_itself(tmp_path: Path, seqio_side: Any) -> None:
    """Every word of the text comes back from its pieces, none unknown, as BERT's own tokenizer splits it; fewer pieces than letters."""
    texts = [*CODE[:2], "Caf\u00e9s can't close, they said. NA\u00cfVE!"]
    sampled = training.sample(texts, 500_000)
    made = wordpiece_training.train(sampled, 600, lower=True)
    assert made == wordpiece_training.train(sampled, 600, lower=True)
    listed = made.decode().splitlines()
    assert len(listed) == len(set(listed)) == 600 and tuple(listed[:5]) == wordpiece_training.SPECIAL
    path = tmp_path / "words.txt"
    path.write_bytes(made)
    vocabulary = vocabulary_spec.load(f"wordpiece:{path}")
    encode = encoding.text_encoder(vocabulary)
    found = training.fit(vocabulary, encode, texts)
    assert found.unknown == 0 and found.bytes_per_token > 1.5
    tokens = encode(texts[2])
    assert vocabulary.decode(tokens) == "cafes can ' t close , they said . naive !"
    assert wordpiece_training.split_words(texts[2], lower=True) == vocabulary.decode(tokens)


@pytest.mark.parametrize(("size", "said"), [(20, "20 vs "), (80, "size 80 is too small"), (50_000, "too large for this text")])
def test_a_word_list_of_no_size_that_can_be(size: int, said: str) -> None:
    with pytest.raises(InputError, match=said):
        wordpiece_training.train([CODE[3]], size, lower=True)


def test_a_list_of_whole_words_knows_the_commonest_and_no_other(tmp_path: Path, seqio_side: Any) -> None:
    made = wordpiece_training.whole_words(["b a a c", "A b d, a"], 8, lower=True)  # a 4, b 2, then "," before c and d
    assert made.decode().splitlines() == [*wordpiece_training.SPECIAL, "a", "b", ","]
    path = tmp_path / "words.txt"
    path.write_bytes(made)
    encode = encoding.text_encoder(vocabulary_spec.load(f"wordpiece:{path}"))
    assert list(encode("a, ab b")) == [5, 7, 1, 6]
    with pytest.raises(InputError, match="gives a list of 10"):
        wordpiece_training.whole_words(["b a a c", "A b d, a"], 11, lower=True)


def test_training_twice_gives_the_same_bytes(model: Path) -> None:
    texts = CODE + [t for _, t in prose()[:10]]
    assert training.train(training.sample(texts[::-1], 200_000), 700) == model.read_bytes()


@pytest.mark.parametrize(("model_type", "pieces"), [("bpe", "words"), ("unigram", "free")])
def test_other_kinds_come_back_too(tmp_path: Path, model_type: str, pieces: str) -> None:
    path = tmp_path / "x.model"
    path.write_bytes(training.train(training.sample(CODE[:2], 50_000), 350, model_type, pieces))
    assert measured(path, CODE).documents_changed == 0


def test_pieces_may_hold_a_newline_and_the_indent_after_it(model: Path) -> None:
    vocabulary = vocabulary_spec.load(str(model))
    assert [p for p in vocabulary._pieces if b"\n  " in p] and [p for p in vocabulary._pieces if p.endswith(b":\n")]
    assert measured(model, CODE).bytes_per_token > 2.0  # single bytes would give 1


def test_special_pieces_have_fixed_ids(model: Path) -> None:
    vocabulary = vocabulary_spec.load(str(model))
    assert vocabulary.special.__dict__ == {"pad": 0, "eos": 1, "unk": 2, "bos": 3, "mask": 4, "cls": 5, "sep": 6}
    assert (vocabulary.size, vocabulary.lossless, vocabulary.num_sentinels) == (700, True, 0)


@pytest.mark.parametrize(("size", "words"), [(263, "too small"), (100_000, "cannot train")])
def test_a_size_that_cannot_be(size: int, words: str) -> None:
    with pytest.raises(InputError, match=words) as caught:
        training.train(["some text\n"], size)
    assert "\n" not in str(caught.value)


@settings(max_examples=60)
@given(texts=st.lists(st.text("ab\n ", max_size=40), max_size=8), limit=st.integers(1, 120), data=st.data())
def test_the_sample_does_not_depend_on_the_order(texts: list[str], limit: int, data: st.DataObject) -> None:
    one = training.sample(texts, limit)
    assert training.sample(data.draw(st.permutations(texts)), limit) == one
    assert sum(len(c) for c in one) <= limit or len(one) == 1
    assert {c for text in texts for c in training.chunks(text)} >= set(one)


@given(st.text(max_size=200))
def test_chunks_join_to_the_text(text: str) -> None:
    assert "".join(training.chunks(text * 30)) == text * 30
    assert all(0 < len(c) <= training.CHUNK for c in training.chunks(text * 30))


# ---- ours against SeqIO's


@pytest.mark.parametrize("text", [*CODE, *TRICKY], ids=lambda t: repr(t[:12]))
@pytest.mark.parametrize("kind", ["sentencepiece", "bytes"])
def test_ours_and_seqio_give_the_same_ids_and_the_text_back(model: Path, seqio_side: Any, kind: str, text: str) -> None:
    import tensorflow as tf

    vocabulary = vocabulary_spec.load(str(model) if kind == "sentencepiece" else "bytes")
    theirs = seqio_side.to_seqio(vocabulary)
    ids = vocabulary.encode(text)
    assert list(theirs.encode(text)) == ids
    assert theirs.encode_tf(tf.constant(text.encode())).numpy().tolist() == ids
    assert theirs.decode(ids) == vocabulary.decode(ids) == text
    assert int(vocabulary.token_bytes[np.asarray(ids, int)].sum()) == len(text.encode())


@settings(max_examples=150)
@given(TEXT)
def test_any_text_comes_back(model: Path, seqio_side: Any, text: str) -> None:
    vocabulary = vocabulary_spec.load(str(model))
    ids = vocabulary.encode(text)
    assert vocabulary.decode(ids) == text
    assert seqio_side.to_seqio(vocabulary).encode_tf(text.encode()).numpy().tolist() == ids


def test_the_one_known_exception_is_sentencepieces_own_space(model: Path) -> None:
    vocabulary = vocabulary_spec.load(str(model))
    assert vocabulary.decode(vocabulary.encode("a\u2581b")) == "a b"


@pytest.mark.parametrize(("spec", "size"), [("bytes", 264), ("bytes+100", 364), ("MODEL", 700), ("MODEL+7", 707)])
def test_sizes_and_sentinels_agree(model: Path, seqio_side: Any, spec: str, size: int) -> None:
    vocabulary = vocabulary_spec.load(spec.replace("MODEL", str(model)))
    theirs = seqio_side.to_seqio(vocabulary)
    assert vocabulary.size == theirs.vocab_size == size
    assert vocabulary.special.eos == theirs.eos_id == 1 and theirs.pad_id == vocabulary.special.pad == 0
    special = [i for name, i in vocabulary.special.__dict__.items() if i >= 0]
    sentinels = range(size - vocabulary.num_sentinels, size)
    assert len({*special, *sentinels}) == len(special) + len(sentinels)  # no id has two roles
    if vocabulary.num_sentinels and vocabulary.kind == "sentencepiece":
        assert theirs.tokenizer.id_to_piece(size - 1) == "\u2581<extra_id_0>"  # T5 counts down from the end
    for i in [*special, *sentinels]:
        assert vocabulary.token_bytes[i] == 0


def test_seqios_own_model_is_read_as_seqio_reads_it(seqio_side: Any) -> None:
    import seqio

    path = Path(inspect.getfile(seqio)).parent / "test_data" / "sentencepiece" / "sentencepiece.model"
    vocabulary = vocabulary_spec.load(str(path))
    theirs = seqio.SentencePieceVocabulary(str(path))
    assert vocabulary.size == theirs.vocab_size and not vocabulary.lossless
    for text in CODE[:2]:
        assert vocabulary.encode(text) == list(theirs.encode(text))


# ---- WordPiece


def reference_wordpiece(text: str, ids: dict[str, int]) -> list[int]:
    """Longest match first, on lower-case ASCII words and single punctuation marks: BERT's algorithm for plain text."""
    found = []
    for word in "".join(f" {c} " if c in string.punctuation else c for c in text.lower()).split():
        pieces, start = [], 0
        while start < len(word):
            end = next((e for e in range(len(word), start, -1) if ("##" * (start > 0) + word[start:e]) in ids), None)
            if end is None:
                pieces = ["[UNK]"]
                break
            pieces.append("##" * (start > 0) + word[start:end])
            start = end
        found += [ids[p] for p in pieces]
    return found


def test_wordpiece_is_a_flat_row_equal_to_the_algorithm(words: Path, seqio_side: Any) -> None:
    import tensorflow as tf

    vocabulary = vocabulary_spec.load(f"wordpiece:{words}")
    theirs = seqio_side.to_seqio(vocabulary)
    ids = {w: i for i, w in enumerate(vocabulary_spec.read_words(words))}
    assert vocabulary.size == theirs.vocab_size == len(ids)
    texts = ["return the Value of x_1, please!", "zzz q9 [sep]", "", *(t for t in CODE if t.isascii())]
    rows = list(tf.data.Dataset.from_tensor_slices(texts).map(theirs.encode_tf).as_numpy_iterator())
    for text, row in zip(texts, rows, strict=True):
        expected = reference_wordpiece(text, ids)
        assert row.dtype == np.int32 and row.tolist() == theirs.encode(text) == expected
        assert theirs.decode(expected) == vocabulary.decode(expected)
        assert theirs.decode_tf(tf.constant(expected, tf.int32)).numpy().decode() == vocabulary.decode(expected)
    assert theirs.decode(theirs.encode("return the value")) == "return the value"
    assert theirs.encode("") == [] and theirs.encode(" \n") == []
    assert vocabulary.special.__dict__ == {"pad": 0, "eos": 3, "unk": 1, "bos": 2, "mask": 4, "cls": 2, "sep": 3}


def test_a_list_with_capitals_keeps_case(tmp_path: Path, seqio_side: Any) -> None:
    path = tmp_path / "vocab.txt"
    path.write_text("[PAD]\n[UNK]\n[CLS]\n[SEP]\nThe\nthe\n")
    assert seqio_side.to_seqio(vocabulary_spec.load(f"wordpiece:{path}")).encode("the The THE") == [5, 4, 1]


# ---- what objectives ask of a vocabulary


def test_ordinary_ids_are_those_that_stand_for_text(model: Path, words: Path) -> None:
    for spec in ("bytes", "bytes+100", str(model), f"{model}+7", f"wordpiece:{words}"):
        vocabulary = vocabulary_spec.load(spec)
        ordinary = np.flatnonzero(vocabulary.is_ordinary)
        assert vocabulary.is_ordinary.shape == (vocabulary.size,)
        assert all(vocabulary.decode_bytes([i]) for i in ordinary) and not {*ordinary} & {*vocabulary.special.ids}
        ids = vocabulary.encode(CODE[0]) if vocabulary.kind != "wordpiece" else reference_wordpiece(CODE[0], ids_of(words))
        assert vocabulary.is_ordinary[[i for i in ids if i != vocabulary.special.unk]].all()
    assert np.array_equal(np.flatnonzero(vocabulary_spec.load("bytes+100").is_ordinary), np.arange(3, 259))
    assert vocabulary_spec.load(f"{model}+7").is_ordinary.sum() == 700 - 7
    assert vocabulary_spec.load(f"wordpiece:{words}").is_ordinary.sum() == len(ids_of(words)) - 5


def test_unused_words_of_a_list_are_not_ordinary(tmp_path: Path) -> None:
    path = tmp_path / "vocab.txt"
    path.write_text("[PAD]\n[unused0]\n[UNK]\n[CLS]\n[SEP]\n[\n]\nword\n")
    assert np.flatnonzero(vocabulary_spec.load(f"wordpiece:{path}").is_ordinary).tolist() == [5, 6, 7]


def test_sentinels_count_down_from_the_last_id(model: Path) -> None:
    vocabulary = vocabulary_spec.load(f"{model}+7")
    assert vocabulary.sentinels(3).tolist() == [706, 705, 704] and vocabulary.sentinels(3).dtype == np.int32
    assert sorted(vocabulary.sentinels(7)) == [*range(700, 707)] and not vocabulary.is_ordinary[vocabulary.sentinels(7)].any()
    assert not len(vocabulary.sentinels(0))


def test_sentences_end_where_a_reader_sees_it(model: Path, words: Path) -> None:
    for spec in ("bytes", str(model)):
        vocabulary = vocabulary_spec.load(spec)
        for text in (CODE[1], 'She said "no." Then?\nAnd 3.14!'):
            ids = vocabulary.encode(text)
            ends = np.cumsum([len(vocabulary.decode_bytes([i])) for i in ids])
            pieces = [text.encode()[a:b] for a, b in zip([0, *ends[:-1].tolist()], ends.tolist(), strict=True)]
            wanted = [
                b"\n" in piece or piece.rstrip()[-1:] in (b".", b"!", b"?") or piece.rstrip()[-2:] in (b'."', b'!"', b'?"')
                for piece in pieces
            ]
            assert vocabulary.ends_sentence[ids].tolist() == wanted and any(wanted)
        assert not vocabulary.ends_sentence[list(vocabulary.special.ids)].any()
    vocabulary = vocabulary_spec.load(f"wordpiece:{words}")
    ids = reference_wordpiece("return the value. why? no", ids_of(words))
    assert "".join(".?"[vocabulary.piece(i) == "?"] for i in ids if vocabulary.ends_sentence[i]) == ".?"


@given(TEXT)
def test_words_of_bytes_are_runs_of_letters(text: str) -> None:
    vocabulary = vocabulary_spec.load("bytes")
    starts = np.flatnonzero(vocabulary.starts_word(np.asarray(vocabulary.encode(text), int)))
    found = [m.start() for m in re.finditer(rb"[0-9A-Za-z_\x80-\xff]+|[^0-9A-Za-z_\x80-\xff]", text.encode())]
    assert starts.tolist() == found


@pytest.mark.parametrize("text", [*CODE[:3], "snake_case x1 don't caf\u00e9s \u65e5\u672c"], ids=lambda t: repr(t[:12]))
def test_words_of_pieces_begin_where_letters_do(model: Path, text: str) -> None:
    vocabulary = vocabulary_spec.load(str(model))
    ids = np.asarray(vocabulary.encode(text))
    ends = np.cumsum(vocabulary.token_bytes[ids])
    raw, letter = text.encode(), re.compile(rb"[0-9A-Za-z_\x80-\xff]")
    inside = [bool(letter.match(raw[e - 1 : e]) and letter.match(raw[e : e + 1])) for e in ends[:-1]]
    assert vocabulary.starts_word(ids).tolist() == [True, *(not i for i in inside)]


def test_words_of_wordpiece_go_on_with_two_hashes(words: Path) -> None:
    vocabulary = vocabulary_spec.load(f"wordpiece:{words}")
    ids = reference_wordpiece("return zebras x_1!", ids_of(words))
    assert [vocabulary.piece(i) for i in np.asarray(ids)[vocabulary.starts_word(np.asarray(ids))]] == ["r", "z", "x", "_", "1", "!"]
    unknown = np.asarray([ids_of(words)["[UNK]"], ids_of(words)["##a"], ids_of(words)["##b"]])
    assert vocabulary.starts_word(unknown).tolist() == [True, True, False]  # what goes on an unknown word is a word of its own


def ids_of(words: Path) -> dict[str, int]:
    return {w: i for i, w in enumerate(vocabulary_spec.read_words(words))}


# ---- bad input


def test_what_is_no_vocabulary_is_said_in_one_sentence(tmp_path: Path, words: Path) -> None:
    (tmp_path / "a.model").write_bytes(b"no model")
    (tmp_path / "a.txt").write_text("[PAD]\nword\n")
    (tmp_path / "b.txt").write_bytes(b"[PAD]\n\xff\n")
    cases = {
        "byts": "did you mean 'bytes'",
        str(tmp_path / "gone.model"): "not found",
        f"wordpiece:{tmp_path}/gone.txt": "not found",
        str(tmp_path / "a.model"): "not a SentencePiece model",
        f"wordpiece:{tmp_path}/a.txt": r"has no \[UNK\]",
        f"wordpiece:{tmp_path}/b.txt": "not UTF-8",
        f"wordpiece:{words}+3": "no sentinels",
    }
    for spec, message in cases.items():
        with pytest.raises(InputError, match=message) as caught:
            vocabulary_spec.load(spec)
        assert "\n" not in str(caught.value) and "data.vocabulary" in str(caught.value)


def test_a_task_with_another_vocabulary_is_refused(model: Path, tmp_path: Path, seqio_side: Any) -> None:
    import seqio

    ours = vocabulary_spec.load(str(model))
    seqio_side.check_same(seqio.SentencePieceVocabulary(str(model)), ours, "t")
    seqio_side.check_same(seqio.ByteVocabulary(), vocabulary_spec.load("bytes"), "t")
    seqio_side.check_same(seqio.PassThroughVocabulary(700), ours, "t")
    other = tmp_path / "other.model"
    other.write_bytes(training.train(training.sample(CODE[:2], 50_000), 400))
    for theirs in (seqio.SentencePieceVocabulary(str(other)), seqio.ByteVocabulary(), seqio.PassThroughVocabulary(701)):
        with pytest.raises(InputError, match="set data.vocabulary to the Task's"):
            seqio_side.check_same(theirs, ours, "t")


# ---- the tool


def test_the_tool_trains_once(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    for i, text in enumerate(CODE):
        (tmp_path / f"{i}.py").write_text(text)
    words = ["--input", f"{tmp_path}/*.py", "--size", "400", "--json"]

    def run(*more: str) -> dict[str, Any]:
        assert train_vocabulary.main([*words, *more]) == 0
        return json.loads(capsys.readouterr().out.splitlines()[-1])

    first = run("--out", f"{tmp_path}/a.model")
    assert first["written"] and first["bytes_per_token"]["input_0"] > 1.5 and first["documents_changed"] == {"input_0": 0}
    assert not run("--out", f"{tmp_path}/a.model")["written"]
    assert run("--out", f"{tmp_path}/b.model")["sha256"] == first["sha256"] == files.sha256_file(tmp_path / "a.model")
    (tmp_path / "0.py").write_text(CODE[0] + "\n# changed\n")
    assert run("--out", f"{tmp_path}/a.model")["written"]
    assert Vocabulary.load(tmp_path, vocabulary_spec.load(f"{tmp_path}/a.model").describe() | {"file": "a.model"}).size == 400


def test_the_tool_makes_a_word_list(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "a.txt").write_text(CODE[0])
    words = ["--input", f"{tmp_path}/*.txt", "--size", "400", "--model_type", "wordpiece", "--out", f"{tmp_path}/words.txt", "--json"]
    assert train_vocabulary.main(words) == 0
    found = json.loads(capsys.readouterr().out.splitlines()[-1])
    assert found["unknown"] == {"input_0": 0} and found["fertility"]["input_0"] > 1
    assert vocabulary_spec.load(f"wordpiece:{tmp_path}/words.txt").size == 400


def test_the_tool_reads_the_train_split_of_a_config(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    for split, text in (("train", CODE[0]), ("validation", "\u4e2d" * 5000)):
        (tmp_path / f"{split}.jsonl").write_text(json.dumps({"text": text}) + "\n")
    config = tmp_path / "c.py"
    data = {"mixture": {"mine": 1.0}, "corpora": {"mine": {"files": f"{tmp_path}/{{split}}.jsonl"}}, "vocabulary": f"{tmp_path}/v.model"}
    config.write_text(f"def get_config():\n    return {{'data': {data!r}}}\n")
    assert train_vocabulary.main([f"--config={config}", "--size=400"]) == 0
    assert "\u4e2d".encode() not in b"".join(vocabulary_spec.load(f"{tmp_path}/v.model")._pieces)


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["--size", "300"], "either --config"),
        (["--input", "a.txt"], "--out is missing"),
        (["--input", "gone*.txt", "--out", "x.model"], "glob without a match"),
    ],
)
def test_the_tool_refuses(words: list[str], message: str) -> None:
    with pytest.raises(InputError, match=message):
        train_vocabulary.main(words)
