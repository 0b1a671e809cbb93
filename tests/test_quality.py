"""The language, quality, perplexity, content and code filters, and the tool that trains two of them."""

import functools
import json
import math
from collections import Counter
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

pytest.importorskip("numba", reason="filters need pretrainx[curate]")

from pretrainx.core.errors import InputError
from pretrainx.curate import presets, quality
from pretrainx.curate.documents import Batch, Document
from pretrainx.curate.filters import code, content, language, perplexity
from pretrainx.curate.filters import quality as quality_filter
from tools import train_quality

SENTENCES = {
    "en": "The weather was fine and they went for a long walk along the river.",
    "de": "Das Wetter war schön und sie machten einen langen Spaziergang am Fluss.",
    "fr": "Le temps était beau et ils firent une longue promenade le long de la rivière.",
    "es": "El tiempo era bueno y dieron un largo paseo por la orilla del río.",
    "it": "Il tempo era bello e fecero una lunga passeggiata lungo il fiume.",
    "pl": "Pogoda była ładna, więc poszli na długi spacer wzdłuż rzeki.",
    "ru": "Погода была хорошая, и они отправились на долгую прогулку вдоль реки.",
    "uk": "Погода була гарна, і вони вирушили на довгу прогулянку вздовж річки.",
    "ja": "天気が良かったので、彼らは川沿いを長い時間散歩した。",
    "zh": "天气很好，他们沿着河边散步了很长时间。",
    "tr": "Hava güzeldi ve nehir boyunca uzun bir yürüyüşe çıktılar.",
    "fi": "Sää oli kaunis, ja he lähtivät pitkälle kävelylle joen vartta pitkin.",
}


def batch_of(*texts: str, **metadata: Any) -> Batch:
    return Batch([Document(str(number), text, f"here#{number + 1}", "", metadata) for number, text in enumerate(texts)])


def test_languages_by_hand() -> None:
    pytest.importorskip("py3langid", reason="identification needs pretrainx[curate]")
    from pretrainx.curate.columns.languages import identify

    found, sure = identify(batch_of(*SENTENCES.values()), language.COMMON)
    assert found == list(SENTENCES) and (sure > 0.5).all()
    assert language.Filter(("en", "fr")).reasons(batch_of(SENTENCES["en"], SENTENCES["de"], SENTENCES["fr"], "", "12345")) == [
        "", "language/de", "", "language/unsure", "language/unsure",
    ]  # fmt: skip


@given(st.lists(st.one_of(st.sampled_from(list(SENTENCES.values())), st.text(max_size=60)), min_size=1, max_size=4), st.booleans())
@settings(max_examples=100)
def test_languages_are_those_of_the_library(parts: list[str], upper: bool) -> None:
    candidates = tuple(SENTENCES)
    library = _library(candidates)
    from pretrainx.curate.columns.languages import identify

    text = " ".join(parts).upper() if upper else " ".join(parts)
    found, sure = identify(batch_of("x", text), candidates)
    scores = dict(library.rank(text))
    assert math.isclose(scores[found[1]], sure[1], abs_tol=1e-3)
    assert math.isclose(max(scores.values()), sure[1], abs_tol=1e-3)


@functools.cache
def _library(candidates: tuple[str, ...]) -> Any:
    langid = pytest.importorskip("py3langid.langid", reason="identification needs pretrainx[curate]")
    library = langid.LanguageIdentifier.from_model_file(langid.MODEL_FILE, norm_probs=True)
    library.set_languages(candidates)
    return library


def test_language_errors() -> None:
    pytest.importorskip("py3langid", reason="identification needs pretrainx[curate]")
    with pytest.raises(InputError, match="unknown language 'eng'; did you mean 'en'"):
        language.Filter(("eng",)).reasons(batch_of("x"))
    with pytest.raises(InputError, match=r"filters\[0\].language: languages is empty"):
        presets.stages([{"filter": "language", "languages": []}], "filters")


GOOD = [
    f"The {a} went to the {b} and found that it was {c}."
    for a in ("king", "child", "cat")
    for b in ("sea", "hill")
    for c in ("old", "far", "cold")
]
BAD = [f"{a} {b} now! {c} $$$ click" for a in ("buy", "win", "get") for b in ("cheap", "free") for c in ("offer", "deal", "bonus")]


def trained(**options: Any) -> quality.Classifier:
    labels = np.array([True] * len(GOOD) + [False] * len(BAD))
    return quality.train_classifier([(batch_of(*GOOD, *BAD), labels)], buckets=2**14, **options)


def test_a_classifier_learns_and_explains() -> None:
    model = trained()
    scores = model.scores(batch_of("The child found the sea.", "win free bonus now! $$$", ""))
    assert scores[0] > 0.8 and scores[1] < 0.2 and scores[2] == pytest.approx(1 / (1 + math.exp(-model.bias)))
    assert model.header["losses"] == sorted(model.header["losses"], reverse=True)
    text = "The cat will buy $$$"
    parts = model.explain(text, most=1000)
    assert sum(added for _, added in parts) + model.bias == pytest.approx(
        math.log(model.scores(batch_of(text))[0] / (1 - model.scores(batch_of(text))[0])), rel=1e-4
    )
    weights = dict(parts)
    assert weights["The"] > 0 > weights["$ $"]
    assert np.array_equal(trained().weights, model.weights) and not np.array_equal(trained(seed=1).weights, model.weights)


def test_a_classifier_against_gradient_descent_by_hand() -> None:
    """One document, one pass: AdaGrad's first step is rate * sign of the gradient, on each weight and the bias."""
    model = quality.train_classifier(
        [(batch_of("good"), np.array([True])), (batch_of("bad"), np.array([False]))], buckets=2**10, orders=1, epochs=1, rate=0.5
    )
    assert sorted(model.weights[model.weights != 0].tolist()) == pytest.approx([-0.5, 0.5], rel=1e-4)


@pytest.mark.parametrize("orders", [1, 2, 3])
def test_perplexity_against_a_slow_count(orders: int) -> None:
    corpus = ["a", "b", "a", "b", "c", "a", "b", "d", ".", "a", "a", "b"]
    text = ["a", "b", "c", "x", "a", "b"]
    model = quality.train_perplexity([batch_of(" ".join(corpus))], buckets=2**16, orders=orders)
    runs = Counter(tuple(corpus[i : i + n]) for n in range(1, orders + 1) for i in range(len(corpus) - n + 1))
    words, vocabulary = len(corpus), len(set(corpus))
    assert (model.words, model.vocabulary) == (words, vocabulary)
    total = 0.0
    for i, word in enumerate(text):
        chance = (runs[(word,)] + 0.5) / (words + vocabulary)
        for n in range(2, min(orders, i + 1) + 1):
            context = tuple(text[i - n + 1 : i])
            if not runs[context]:
                break
            new = len({run for run in runs if len(run) == n and run[:-1] == context})
            chance = (runs[(*context, word)] + new * chance) / (runs[context] + new)
        total -= math.log(chance)
    assert model.perplexities(batch_of(" ".join(text), ""))[:2] == pytest.approx([math.exp(total / len(text)), 1.0])


def test_models_in_files(tmp_path: Path) -> None:
    model, counted = trained(), quality.train_perplexity([batch_of(*GOOD)], buckets=2**12)
    for value, name in ((model, "c.npz"), (counted, "p.npz")):
        quality.save(value, tmp_path / name)
        quality.save(value, tmp_path / f"again_{name}")
        assert (tmp_path / name).read_bytes() == (tmp_path / f"again_{name}").read_bytes()
    keep = quality_filter.Filter(str(tmp_path / "c.npz"))
    assert keep.reasons(batch_of(GOOD[0], BAD[0])) == ["", "quality/low_score"]
    limits = perplexity.Filter(str(tmp_path / "p.npz"), max_perplexity=50, min_perplexity=1.001)
    assert limits.reasons(batch_of(GOOD[0], "quite other words are here", "")) == ["", "perplexity/too_high", "perplexity/too_low"]
    with pytest.raises(InputError, match="kind 'perplexity', and format 1, kind 'classifier' is wanted"):
        quality_filter.Filter(str(tmp_path / "p.npz"))
    with pytest.raises(InputError, match="model not found"):
        presets.stages([{"filter": "quality", "model": "none.npz"}], "filters")
    whole = (tmp_path / "c.npz").read_bytes()
    for number, damaged in enumerate((b"", b"text", whole[: len(whole) // 2], whole[:-1], whole.replace(b"weights", b"wEights"))):
        (tmp_path / f"bad{number}.npz").write_bytes(damaged)
        with pytest.raises(InputError, match="not a model that"):
            quality_filter.Filter(str(tmp_path / f"bad{number}.npz"))


@pytest.mark.parametrize("scores", [[0.1, 0.4, 0.35, 0.8], [0.5, 0.5, 0.5, 0.5], [0.2, 0.2, 0.9, 0.1]])
def test_area_under_curve(scores: list[float]) -> None:
    from sklearn.metrics import roc_auc_score

    labels = np.array([False, False, True, True])
    assert quality.area_under_curve(np.array(scores), labels) == pytest.approx(roc_auc_score(labels, scores))


def test_the_tool_trains_from_folders_and_records(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    for number, text in enumerate(GOOD):
        (tmp_path / "good" / str(number % 3)).mkdir(parents=True, exist_ok=True)
        (tmp_path / "good" / str(number % 3) / f"{number}.txt").write_text(text)
    (tmp_path / "bad.jsonl").write_text("".join(json.dumps({"text": text, "id": text}) + "\n" for text in BAD))
    common = [f"--good={tmp_path / 'good'}", "--held_out=0.3", "--json"]
    assert train_quality.main([*common, f"--bad={tmp_path / 'bad.jsonl'}", f"--out={tmp_path / 'c.npz'}", "--buckets=16384"]) == 0
    result = json.loads(capsys.readouterr().out.splitlines()[-1])
    assert result["held_out_accuracy"] == 1.0 and result["held_out_auc"] == 1.0
    assert result["documents"] + result["held_out_documents"] == len(GOOD) + len(BAD)
    assert train_quality.main([*common, "--kind=perplexity", f"--out={tmp_path / 'p.npz'}", "--buckets=16384"]) == 0
    result = json.loads(capsys.readouterr().out.splitlines()[-1])
    assert 1 < result["held_out_perplexity"]["50%"] < 100
    assert quality_filter.Filter(str(tmp_path / "c.npz")).reasons(batch_of(BAD[0])) == ["quality/low_score"]


@pytest.mark.parametrize(
    ("arguments", "words_of_error"),
    [
        (["--good=x", "--out=y"], ["--bad is missing"]),
        (["--good=x", "--bad=z", "--out=y"], ["--good: file not found"]),
        (["--good=x", "--bad=z", "--out=y", "--kind=perplexity"], ["--bad has no meaning"]),
        (["--good=x", "--bad=z", "--out=y", "--held_out=1"], ["--held_out", "below 1"]),
        (["--good=x", "--bad=z", "--out=y", "--orders=0"], ["--orders", "1 to 8"]),
        (["--good=x", "--bad=z", "--out=y", "--epoch=0"], ["--epoch", "--epochs"]),
    ],
)
def test_the_tool_says_what_is_wrong(arguments: list[str], words_of_error: list[str]) -> None:
    with pytest.raises(InputError) as error:
        train_quality.main(arguments)
    assert all(word in str(error.value) for word in words_of_error), error.value


def test_content_by_words_and_addresses(tmp_path: Path) -> None:
    words, urls = tmp_path / "words.txt", tmp_path / "urls.txt"
    words.write_text("# a comment\nbad word\nWorse # and why\nÄrger\n")
    urls.write_text("example.com\nhttps://other.org/spam/\n")
    rule = content.Filter(words={"en": str(words), "ja": str(words)}, urls=str(urls), use_default_words=False, max_words=20)
    texts = ["A bad  word and worse.", "bad wordy, worsen", "bad word only, bad word", "Worse, ärger", "worse bad word " + "fine " * 200]
    assert rule.reasons(batch_of(*texts)) == ["content/words", "", "", "content/words", ""]
    assert content.Filter(min_matches=1).reasons(batch_of("free spins and more", "free spirits")) == ["content/words", ""]
    assert rule.reasons(batch_of("全bad wordの中worse", language="ja")) == ["content/words"]
    assert rule.reasons(batch_of(texts[0], language="de")) == [""]
    for url, reason in (
        ("https://www.Example.com/x", "content/url"), ("http://notexample.com", ""), ("other.org/spam/1?q", "content/url"),
        ("https://other.org/spammer", ""), ("http://[broken", ""),
    ):  # fmt: skip
        assert rule.reasons(batch_of("fine", url=url)) == [reason], url
    with pytest.raises(InputError, match="list file not found: 'none.txt'"):
        presets.stages([{"filter": "content", "urls": "none.txt"}], "filters")


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("def f(x):\n    return x + 1\n", ""),
        ("x = 1\n" + "y" * 1001 + "\n" * 20, "long_line"),
        (("z" * 150 + "\n") * 5, "long_lines"),
        ("{}();[]++--;;\n=>><<!!&&||a", "few_letters_and_digits"),
        ("# This file was automatically generated.\nx = 1\n", "generated"),
        ("// Code generated by protoc-gen-go. DO NOT EDIT.\npackage x\n", "generated"),
        ("a = 1\nb = 2\nc = 3\nd = 4\ne = 5\n# generated automatically\n", ""),
        ("# a generator of files\nx = 1\n", ""),
    ],
)
def test_code_by_hand(text: str, expected: str) -> None:
    assert code.Filter().reasons(batch_of("a = 1", text))[1].removeprefix("code/") == expected
    assert code.Filter().reasons(batch_of()) == []
