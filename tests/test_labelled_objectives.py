"""classify and text_to_text: what a model is fed of a labelled record, alike through the cache, through SeqIO and without either."""

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from support import BYTES

from pretrainx.core.errors import InputError
from pretrainx.core.sections import Corpus, Data
from pretrainx.data import build, loader
from pretrainx.evaluate.labelled import records_of
from pretrainx.objectives.classify import Objective as Classify
from pretrainx.objectives.classify import cut_pair
from pretrainx.objectives.text_to_text import Objective as TextToText
from pretrainx.tasks import corpora

RNG = np.random.default_rng(0)


def record(**texts: str) -> dict[str, np.ndarray]:
    ends = [BYTES.special.eos] if "inputs" in texts else []
    found = {name: np.asarray(BYTES.encode(text) + ends, np.int32) for name, text in texts.items() if name != "label"}
    return found | ({"label": np.asarray([int(c) for c in texts["label"]], np.int32)} if "label" in texts else {})


def test_a_pair_by_hand() -> None:
    made = Classify(BYTES, 10, num_classes=3).example(record(first="ab", second="c", label="2"), RNG)
    special = BYTES.special
    a, b, c = BYTES.encode("abc")
    assert made["tokens"].tolist() == [special.cls, a, b, special.sep, c, special.sep, *[special.pad] * 4]
    assert made["token_types"].tolist() == [0, 0, 0, 0, 1, 1, 0, 0, 0, 0]
    assert made["segment_ids"].tolist() == [1] * 6 + [0] * 4
    assert made["positions"].tolist() == [0, 1, 2, 3, 4, 5, 0, 0, 0, 0]
    assert (made["class_label"], made["class_weights"]) == (2.0, 1.0)


def test_one_text_a_score_and_no_answer() -> None:
    one = Classify(BYTES, 8).example(record(first="ab", second="", label=""), RNG)
    assert one["tokens"].tolist()[:4] == [BYTES.special.cls, *BYTES.encode("ab"), BYTES.special.sep]
    assert (one["token_types"].sum(), one["class_weights"]) == (0, 0.0)
    assert Classify(BYTES, 8, num_classes=1).example(record(first="a", second="", label="3250"), RNG)["class_label"] == np.float32(3.25)


@given(st.integers(0, 40), st.integers(0, 40), st.integers(2, 50))
def test_the_longer_text_is_cut_first(first: int, second: int, room: int) -> None:
    a, b = cut_pair(np.arange(first), np.arange(second), room)
    assert len(a) + len(b) == min(room, first + second)
    lost = first - len(a), second - len(b)
    if all(lost):  # both lost some: they are of one length, but for one token
        assert abs(len(a) - len(b)) <= 1
    elif any(lost):
        assert first >= second if lost[0] else second >= first
    assert a.tolist() == list(range(len(a)))


def test_text_to_text_by_hand() -> None:
    special, (a, b, c) = BYTES.special, BYTES.encode("abc")
    own = record(inputs="ab", targets="c")
    encoded = TextToText(BYTES, 6, target_length=4).example(own, RNG)
    assert encoded["encoder_tokens"].tolist() == [a, b, special.eos, 0, 0, 0]
    assert encoded["tokens"].tolist()[:2] == [special.start, c]
    assert encoded["targets"].tolist() == [c, special.eos, 0, 0]
    assert encoded["loss_weights"].tolist() == [1, 1, 0, 0]
    row = TextToText(BYTES, 10, form="prefix").example(own, RNG)
    assert row["tokens"].tolist() == [special.start, a, b, special.eos, c, 0, 0, 0, 0, 0]
    assert row["targets"].tolist() == [0, 0, 0, c, special.eos, 0, 0, 0, 0, 0]
    assert row["loss_weights"].tolist() == [0, 0, 0, 1, 1, 0, 0, 0, 0, 0]
    assert row["bidirectional"].tolist() == [1, 1, 1, 1, 0, 0, 0, 0, 0, 0]
    assert "bidirectional" not in TextToText(BYTES, 10, form="causal").example(own, RNG)


@given(st.text(max_size=60), st.text(max_size=30), st.sampled_from(["encoder_decoder", "prefix", "causal"]), st.integers(4, 40))
def test_what_is_predicted_is_the_answer(inputs: str, targets: str, form: Any, length: int) -> None:
    objective = TextToText(BYTES, length, form=form)
    made = objective.example(record(inputs=inputs, targets=targets), RNG)
    wanted = [*BYTES.encode(targets), BYTES.special.eos][: objective.target_length]
    told = made["targets"][made["loss_weights"] > 0].tolist()
    assert told == (wanted if targets else [])
    places = np.flatnonzero(made["loss_weights"])
    if len(places):  # each answer token is read one place after it is predicted, and the prompt stands before the first
        assert made["tokens"][places[1:]].tolist() == told[:-1]
        prompt = objective.prompt(BYTES.encode(inputs))
        assert made["tokens"][: places[0] + 1].tolist() == prompt.tokens


def test_wrong_options() -> None:
    for make, sentence in (
        (lambda: Classify(BYTES, 8, num_classes=0), "num_classes 0"),
        (lambda: Classify(BYTES, 4), "data.sequence_length 4"),
        (lambda: TextToText(BYTES, 8, form="encoder"), "form 'encoder'"),
        (lambda: TextToText(BYTES, 8, form="causal", target_length=7), "target_length 7"),
    ):
        with pytest.raises(InputError, match=sentence):
            make()  # type: ignore[no-untyped-call]


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> Data:
    """Two labelled corpora, cached by the project's own command's code, in several shards."""
    pytest.importorskip("seqio", reason="needs pretrainx[tasks]")
    folder = tmp_path_factory.mktemp("labelled")
    rows = [{"premise": f"é text {i}", "hypothesis": f"claim {i * 7}", "label": i % 3, "idx": i} for i in range(23)]
    (folder / "rows.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    found = Data(
        corpora={
            "cb": Corpus(task="superglue_cb", files=f"{folder}/rows.jsonl"),
            "cb_words": Corpus(task="superglue_cb", form="words", files=f"{folder}/rows.jsonl"),
        },
        mixture={"cb:classify": 1.0, "cb_words:text_to_text": 1.0},
        objectives={"classify": {"num_classes": 3}, "text_to_text": {"form": "causal"}},
        sequence_length=48, cache_dir=str(folder / "cache"),
    )  # fmt: skip
    build.build(found, 1)
    return found


@pytest.mark.slow
def test_cache_seqio_and_plain_reading_agree(data: Data) -> None:
    from pretrainx.tasks import registry

    mixture = loader.open_mixture(data, "train")
    for source in mixture.sources:
        corpus = corpora.get(source.corpus, data)
        examples = corpora.read_examples(source.corpus, corpus, "train")
        records = records_of(corpora.task_of(source.corpus, corpus), corpus.form, examples, mixture.vocabulary)
        cached = loader.example(source, list(range(len(source.windows))), [0] * len(source.windows), 0)
        task = registry.make_task(source.name, data)
        streamed = list(task.get_dataset(None, "train", shuffle=False).as_numpy_iterator())
        plain = [source.objective.example(own, RNG) for own in records]
        assert len(plain) == len(cached) == len(streamed) == 23
        key = lambda features: features["tokens"].tobytes()  # noqa: E731 - a single file is cached in interleaved parts
        for one, two, three in zip(sorted(plain, key=key), sorted(cached, key=key), sorted(streamed, key=key), strict=True):
            for name in one:
                assert one[name].tobytes() == two[name].tobytes() == np.asarray(three[name]).tobytes(), name


@pytest.mark.slow
def test_the_ledger_knows_records(data: Data) -> None:
    from pretrainx.data import ledger

    mixture = loader.open_mixture(data, "train")
    step = ledger.describe_step(mixture, 0, 8)
    for row in step.rows:
        (piece,) = row.documents
        assert piece.id in piece.text or f"text {piece.id}" in piece.text
    found = ledger.require_documents(mixture, "7")
    assert {corpus for corpus, _ in found} == {"cb", "cb_words"}
    seen = ledger.sightings(mixture, found, 8, 6)
    assert seen
    for sighting in seen:
        rows = ledger.describe_step(mixture, sighting.step, 8).rows
        assert "7" in {piece.id for piece in rows[sighting.row].documents}


@pytest.mark.slow
def test_classes_must_be_those_of_the_task(data: Data) -> None:
    from dataclasses import replace

    with pytest.raises(InputError, match=r"num_classes is 2, and task 'superglue_cb' of corpus 'cb' has 3; set it to 3"):
        loader.open_mixture(replace(data, mixture={"cb:classify": 1.0}, objectives={}), "train")
    with pytest.raises(InputError, match="the objective reads plain text; name the objective 'classify'"):
        loader.open_mixture(replace(data, mixture={"cb": 1.0}, objectives={}), "train")
    with pytest.raises(InputError, match="has no feature 'first'"):
        loader.open_mixture(replace(data, mixture={"cb_words:classify": 1.0}, objectives={}), "train")


def test_a_plain_corpus_has_no_labels(cache_dir: Path) -> None:
    section = Data(mixture={"topics:classify": 1.0}, cache_dir=str(cache_dir), sequence_length=32)
    with pytest.raises(InputError, match="has no feature 'first' .it has targets.; the objective reads labelled records"):
        loader.open_mixture(section, "train")
