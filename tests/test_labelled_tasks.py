"""Labelled tasks: records as published become the examples that BERT's and T5's papers feed, in either form, whatever the file."""

import gzip
import json
import math
from pathlib import Path
from typing import Any

import pytest

from pretrainx.core.errors import InputError
from pretrainx.core.sections import Corpus, Data
from pretrainx.curate.records import read_file
from pretrainx.tasks import corpora
from pretrainx.tasks.labelled import glue, superglue, tables
from pretrainx.tasks.labelled.task import Example, Form

SHARED = Path(__file__).parents[2] / "shared" / "data" / "tasks"


def made(name: str, form: Form, *records: dict[str, Any]) -> list[Example]:
    task = tables.find(name, "data.corpora.x")
    return [example for example, _ in tables.examples(task, form, [(record, "file, record 1") for record in records])]


# From T5's paper (Raffel 2020, appendix D): record as TFDS has it, text that is read, text that is to be written.
WORDS: dict[str, tuple[dict[str, Any], str, str]] = {
    "glue_cola": (
        {"sentence": "John made Bill master of himself.", "label": 1, "idx": 0},
        "cola sentence: John made Bill master of himself.", "acceptable",
    ),
    "glue_sst2": (
        {"sentence": "it confirms fincher 's status", "label": 1, "idx": 0}, "sst2 sentence: it confirms fincher 's status", "positive",
    ),
    "glue_mrpc": (
        {"sentence1": "We acted.", "sentence2": "We did.", "label": 1, "idx": 0},
        "mrpc sentence1: We acted. sentence2: We did.", "equivalent",
    ),
    "glue_stsb": (
        {"sentence1": "A", "sentence2": "B", "label": 3.25, "idx": 0}, "stsb sentence1: A sentence2: B", "3.2",
    ),
    "glue_qqp": (
        {"question1": "Why?", "question2": "How?", "label": 0, "idx": 0}, "qqp question1: Why? question2: How?", "not_duplicate",
    ),
    "glue_mnli": (
        {"premise": "yeah well", "hypothesis": "They won.", "label": 2, "idx": 0},
        "mnli hypothesis: They won. premise: yeah well", "contradiction",
    ),
    "glue_mnli_mismatched": (
        {"premise": "a", "hypothesis": "b", "label": 0, "idx": 0}, "mnli hypothesis: b premise: a", "entailment",
    ),
    "glue_qnli": (
        {"question": "Where?", "sentence": "There.", "label": 0, "idx": 0}, "qnli question: Where? sentence: There.", "entailment",
    ),
    "glue_rte": (
        {"sentence1": "a", "sentence2": "b", "label": 1, "idx": 0}, "rte sentence1: a sentence2: b", "not_entailment",
    ),
    "glue_wnli": ({"sentence1": "a", "sentence2": "b", "label": 1, "idx": 0}, "wnli sentence1: a sentence2: b", "entailment"),
    "glue_ax": ({"premise": "a", "hypothesis": "b", "label": -1, "idx": 0}, "mnli hypothesis: b premise: a", ""),
    "superglue_boolq": (
        {"question": "is it", "passage": "It is.", "label": 1, "idx": 0}, "boolq passage: It is. question: is it", "True",
    ),
    "superglue_cb": (
        {"premise": "Valence", "hypothesis": "It helped", "label": 1, "idx": 0},
        "cb hypothesis: It helped premise: Valence", "contradiction",
    ),
    "superglue_copa": (
        {"premise": "Violence broke out.", "choice1": "They left.", "choice2": "They voted.", "question": "effect", "label": 0, "idx": 0},
        "copa choice1: They left. choice2: They voted. premise: Violence broke out. question: effect", "choice1",
    ),
    "superglue_multirc": (
        {"paragraph": "<b>Sent 1: </b>Joey woke.<br>He ate.", "question": "Why?", "answer": "pie", "label": 0,
         "idx": {"paragraph": 3, "question": 4, "answer": 5}},
        "multirc question: Why? answer: pie paragraph: Sent 1: Joey woke. He ate.", "False",
    ),
    "superglue_record": (
        {"passage": "Penguins swim.\n@highlight\nThey do", "query": "A @placeholder is a bird.", "entities": ["penguin", "potato"],
         "answers": ["penguin"], "idx": {"passage": 1, "query": 2}},
        "record query: A @placeholder is a bird. entities: penguin, potato passage: Penguins swim. They do", "penguin",
    ),
    "superglue_rte": ({"premise": "a", "hypothesis": "b", "label": 0, "idx": 0}, "rte hypothesis: b premise: a", "entailment"),
    "superglue_wic": (
        {"sentence1": "a place", "sentence2": "to place", "word": "place", "label": 0, "idx": 0, "start1": 2, "end1": 7},
        "wic sentence1: a place sentence2: to place word: place", "False",
    ),
    "superglue_wsc": (
        {"text": "This is a test sentence .", "span1_text": "test", "span1_index": 3, "span2_text": "This", "span2_index": 0, "label": 0},
        "wsc text: # This # is a * test * sentence .", "False",
    ),
    "superglue_axb": ({"sentence1": "a", "sentence2": "b", "label": -1, "idx": 0}, "rte hypothesis: b premise: a", ""),
    "superglue_axg": ({"premise": "a", "hypothesis": "b", "label": -1, "idx": 0}, "rte hypothesis: b premise: a", ""),
}  # fmt: skip


def test_every_task_of_both_boards_is_here() -> None:
    assert WORDS.keys() == {*glue.TASKS, *superglue.TASKS}


@pytest.mark.parametrize("name", WORDS)
def test_words_are_those_of_t5(name: str) -> None:
    record, inputs, targets = WORDS[name]
    (example,) = made(name, "words", record)
    assert (example.inputs, example.targets) == (inputs, targets)


def test_classes_by_hand() -> None:
    (one,) = made("glue_cola", "classes", WORDS["glue_cola"][0])
    assert (one.first, one.second, one.label) == ("John made Bill master of himself.", "", 1.0)
    (two,) = made("glue_mnli", "classes", WORDS["glue_mnli"][0])
    assert (two.first, two.second, two.label, two.id) == ("yeah well", "They won.", 2.0, "0")
    (score,) = made("glue_stsb", "classes", WORDS["glue_stsb"][0])
    assert score.label == 3.25
    left, voted = made("superglue_copa", "classes", WORDS["superglue_copa"][0])
    assert (left.first, left.second, left.label) == ("Violence broke out so", "They left.", 1.0)
    assert (voted.label, left.group, voted.group) == (0.0, "0", "0")
    (answer,) = made("superglue_multirc", "classes", WORDS["superglue_multirc"][0])
    assert (answer.first, answer.second, answer.id, answer.group) == ("Sent 1: Joey woke. He ate.", "Why? pie", "3/4/5", "3/4")
    penguin, potato = made("superglue_record", "classes", WORDS["superglue_record"][0])
    assert (penguin.second, penguin.label, potato.second, potato.label) == ("A penguin is a bird.", 1.0, "A potato is a bird.", 0.0)
    assert (penguin.group, penguin.answer, penguin.answers) == ("1/2", "penguin", ("penguin",))


def test_official_nested_records_are_those_of_tfds() -> None:
    nested = {
        "idx": 3,
        "passage": {"text": "P", "questions": [
            {"idx": 4, "question": "Q", "answers": [{"idx": 5, "text": "a", "label": 1}, {"idx": 6, "text": "b", "label": 0}]},
        ]},
    }  # fmt: skip
    flat = [
        {"paragraph": "P", "question": "Q", "answer": text, "label": label, "idx": {"paragraph": 3, "question": 4, "answer": number}}
        for text, label, number in (("a", 1, 5), ("b", 0, 6))
    ]
    for form in ("classes", "words"):
        assert made("superglue_multirc", form, nested) == made("superglue_multirc", form, *flat)
    text = "Ann met Bo."
    own = {
        "idx": 1, "passage": {"text": text, "entities": [{"start": 8, "end": 9}, {"start": 0, "end": 2}]},
        "qas": [{"idx": 2, "query": "@placeholder met Bo.", "answers": [{"start": 0, "end": 2, "text": "Ann"}]}],
    }  # fmt: skip
    same = {
        "passage": text,
        "query": "@placeholder met Bo.",
        "entities": ["Ann", "Bo"],
        "answers": ["Ann"],
        "idx": {"passage": 1, "query": 2},
    }
    for form in ("classes", "words"):
        assert made("superglue_record", form, own) == made("superglue_record", form, same)
    target = {
        "text": "Ann saw her .",
        "target": {"span1_text": "Ann", "span1_index": 0, "span2_text": "her", "span2_index": 2},
        "label": True,
    }
    (example,) = made("superglue_wsc", "words", target)
    assert (example.inputs, example.targets) == ("wsc text: * Ann * saw # her # .", "True")


def test_labels_in_every_guise() -> None:
    for given, wanted in ((1, 1.0), ("1", 1.0), ("not_entailment", 1.0), ("entailment", 0.0), (0, 0.0)):
        assert made("glue_rte", "classes", {"sentence1": "a", "sentence2": "b", "label": given})[0].label == wanted
    for given in (-1, None, ""):
        assert math.isnan(made("glue_rte", "classes", {"sentence1": "a", "sentence2": "b", "label": given})[0].label)
    for given, wanted in ((True, 1.0), ("false", 0.0), ("True", 1.0)):
        assert made("superglue_boolq", "classes", {"question": "q", "passage": "p", "label": given})[0].label == wanted
    with pytest.raises(InputError, match=r"record 1: field 'label' is 7, and one of entailment, not_entailment"):
        made("glue_rte", "classes", {"sentence1": "a", "sentence2": "b", "label": 7})
    with pytest.raises(InputError, match=r"field 'label' is \"maybe\""):
        made("glue_rte", "classes", {"sentence1": "a", "sentence2": "b", "label": "maybe"})
    with pytest.raises(InputError, match=r"record 1: no field 'sentence2'; did you mean 'sentence'"):
        made("glue_rte", "classes", {"sentence1": "a", "sentence": "b", "label": 0})


def test_official_tables(tmp_path: Path) -> None:
    """GLUE's own files: CoLA has no line of names, MNLI and QQP have names of their own, quotes mean nothing."""
    (tmp_path / "train.tsv").write_text("gj04\t1\t\tOur \"friends won't.\ngj04\t0\t*\tHim.\n")
    (tmp_path / "test.tsv").write_text("index\tsentence\n0\tBill whistled past the house.\n")
    corpus = Corpus(task="glue_cola", files=f"{tmp_path}/{{split}}.tsv")
    assert [(e.first, e.label) for e in corpora.read_examples("cola", corpus, "train")] == [("Our \"friends won't.", 1.0), ("Him.", 0.0)]
    (test,) = corpora.read_examples("cola", corpus, "test")
    assert (test.first, test.id) == ("Bill whistled past the house.", "0")
    assert math.isnan(test.label)
    (tmp_path / "dev.tsv").write_text("index\tgenre\tsentence1\tsentence2\tgold_label\n3\tx\tpremise\tclaim\tneutral\n")
    mnli = Corpus(task="glue_mnli", files=f"{tmp_path}/{{split}}.tsv")
    (one,) = corpora.read_examples("mnli", mnli, "validation")  # "validation" is called dev there
    assert (one.first, one.second, one.label, one.id) == ("premise", "claim", 1.0, "3")
    with pytest.raises(InputError, match="no split 'test'"):
        corpora.read_examples("mnli", Corpus(task="glue_mnli", files=f"{tmp_path}/dev.tsv"), "test")
    (tmp_path / "dev.tsv").write_text("index\tgenre\tsentence1\tsentence2\tgold_label\n3\tx\n")
    with pytest.raises(InputError, match=r"dev\.tsv, record 2: 2 columns where 5 are wanted"):
        corpora.read_examples("mnli", mnli, "validation")


def test_arrow_and_parquet_and_lines_are_one(tmp_path: Path) -> None:
    pa = pytest.importorskip("pyarrow", reason="needs pretrainx[tasks]")
    import pyarrow.parquet as pq

    rows = [{"sentence1": f"text {i}", "sentence2": "é", "label": i % 2, "idx": i} for i in range(5)]
    table = pa.Table.from_pylist(rows)
    with pa.OSFile(str(tmp_path / "s.arrow"), "wb") as sink, pa.ipc.new_stream(sink, table.schema) as writer:
        writer.write_table(table, max_chunksize=2)
    with pa.OSFile(str(tmp_path / "f.arrow"), "wb") as sink, pa.ipc.new_file(sink, table.schema) as writer:
        writer.write_table(table, max_chunksize=2)
    pq.write_table(table, tmp_path / "t.parquet")
    with gzip.open(tmp_path / "l.jsonl.gz", "wt") as stream:
        stream.writelines(json.dumps(row) + "\n" for row in rows)
    for name in ("s.arrow", "f.arrow", "t.parquet", "l.jsonl.gz"):
        assert [dict(values) for values, _ in read_file(tmp_path / name)] == rows, name
    (tmp_path / "cut.arrow").write_bytes((tmp_path / "s.arrow").read_bytes()[:-200])
    with pytest.raises(InputError, match=r"cut\.arrow, after record \d: not a readable arrow file"):
        list(read_file(tmp_path / "cut.arrow"))


def test_own_tasks_and_what_is_wrong_with_them(tmp_path: Path) -> None:
    path = tmp_path / "mine.jsonl"
    path.write_text("".join(json.dumps({"id": f"d{i}", "body": f"b{i}", "kind": "xy"[i % 2]}) + "\n" for i in range(40)))
    corpus = Corpus(task="classes", files=str(path), fields={"first": "body", "label": "kind"}, labels=("x", "y"), holdout=0.3)
    train, held = (corpora.read_examples("mine", corpus, split) for split in ("train", "validation"))
    assert {e.id for e in train}.isdisjoint(e.id for e in held)
    assert sorted(e.id for e in [*train, *held]) == sorted(f"d{i}" for i in range(40))
    assert {(e.first, e.label) for e in held} <= {(f"b{i}", float(i % 2)) for i in range(40)}
    assert len(corpora.read_examples("mine", corpus, "train", limit=3)) == 3
    for wrong, sentence in (
        (Corpus(task="clases", files=str(path)), "unknown task 'clases'; did you mean 'classes'"),
        (Corpus(task="classes", files=str(path)), "give the names of two classes"),
        (Corpus(task="glue_rte", files=str(path), labels=("a", "b")), "only 'classes' takes names"),
        (Corpus(task="glue_rte", files=str(path), fields={"frist": "x"}), "no role 'frist'; did you mean 'first'"),
        (Corpus(files=str(path), labels=("a", "b")), "fields and labels are of labelled texts"),
    ):
        with pytest.raises(InputError, match=sentence):
            corpora.get("mine", Data(corpora={"mine": wrong}))


@pytest.mark.skipif(not SHARED.exists(), reason="needs the real data sets beside the repository: ../shared/data")
def test_real_copa() -> None:
    corpus = Corpus(task="superglue_copa", files=str(SHARED / "copa.validation.jsonl.gz"))
    examples = corpora.read_examples("copa", corpus, "train")
    assert len(examples) == 200
    assert all(sum(e.label for e in examples[i : i + 2]) == 1 for i in range(0, 200, 2))


@pytest.mark.slow
@pytest.mark.parametrize(
    ("task", "records", "said", "metrics"),
    [
        (
            "superglue_rte",
            [{"premise": "a", "hypothesis": "b", "label": n % 2, "idx": n} for n in range(4)],
            ["entailment", " not_entailment ", "not_entailment", "what?"],  # 0 1 0 1: two right, a stray text is wrong
            {"accuracy": 0.5, "items": 4.0},
        ),
        (
            "glue_stsb",
            [{"sentence1": "a", "sentence2": "b", "label": x, "idx": 0} for x in (1.04, 2.5, 4.0)],
            ["1.0", "2.0", "3.0"],
            # of the scores as published, not of the fifths that are written: cov([-1.473, -0.013, 1.487], [-1, 0, 1])
            {"pearson": (1.4733333 + 1.4866667) / (2 * (1.4733333**2 + 0.0133333**2 + 1.4866667**2)) ** 0.5, "spearman": 1.0},
        ),
        (
            "superglue_multirc",
            [
                {"paragraph": "p", "question": "q", "answer": "a", "label": label, "idx": {"paragraph": 0, "question": q, "answer": a}}
                for q, a, label in ((0, 0, 1), (0, 1, 0), (1, 0, 1), (1, 1, 1))
            ],
            ["True", "False", "True", "False"],  # the first question right, the second half; 2 of 3 found, none too many
            {"em": 0.5, "f1a": 0.8},
        ),
        (
            "superglue_record",
            [{"passage": "p", "query": "@placeholder", "entities": ["Ann", "the Bob", "Cy"], "answers": ["Ann", "the Bob"],
              "idx": {"passage": 0, "query": 0}},
             {"passage": "p", "query": "@placeholder", "entities": ["Ann", "Cy"], "answers": ["Cy"], "idx": {"passage": 0, "query": 1}}],
            None,  # each example is answered "bob": of the first query accepted, articles aside, whichever target the example writes
            {"em": 0.5, "f1": 0.5},
        ),
    ],
)  # fmt: skip
def test_tasks_in_words_are_scored_by_seqios_own_evaluator(
    tmp_path: Path, task: str, records: list[dict[str, Any]], said: list[str] | None, metrics: dict[str, float]
) -> None:
    seqio = pytest.importorskip("seqio", reason="needs pretrainx[tasks]")
    from pretrainx.tasks import registry

    for split in ("train", "validation"):
        (tmp_path / f"{split}.jsonl").write_text("".join(json.dumps(record) + "\n" for record in records))
    corpus = Corpus(files=str(tmp_path / "{split}.jsonl"), task=task, form="words")
    data = Data(mixture={"mine": 1.0}, corpora={"mine": corpus}, vocabulary="bytes")
    made = registry.make_task("mine", data)
    vocabulary = made.output_features["targets"].vocabulary

    def predict(dataset: Any, _: Any = None) -> list[tuple[int, list[int]]]:
        numbers = [int(number) for number, _ in dataset.as_numpy_iterator()]
        rows = [vocabulary.encode("bob" if said is None else said[number]) for number in numbers]
        width = max(map(len, rows)) + 1
        return [(number, row + [1] + [0] * (width - len(row) - 1)) for number, row in zip(numbers, rows, strict=True)]

    seqio.TaskRegistry.add_provider("mine", made)
    try:
        converter = seqio.EncDecFeatureConverter(pack=False)
        evaluator = seqio.Evaluator("mine", converter, "validation", logger_cls=[], log_dir=str(tmp_path))
        found, _ = evaluator.evaluate(compute_metrics=True, predict_fn=predict, predict_with_aux_fn=predict, score_fn=predict)
        values = found.result()["mine"]
    finally:
        seqio.TaskRegistry.remove("mine")
    assert {name: float(getattr(values[name], "value", values[name])) for name in metrics} == pytest.approx(metrics, abs=1e-6)
