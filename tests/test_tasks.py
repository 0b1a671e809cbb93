"""Corpora as SeqIO Tasks: every kind of source gives its documents, names are found, and bad input is said at once."""

import json
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from pretrainx.core.errors import InputError
from pretrainx.core.sections import Corpus, Data
from pretrainx.data.mixture_spec import parse_mixture, rates_file
from pretrainx.tasks import corpora, mixtures

TEXTS = [f"Document {i}.\n  It holds {'many ' * (i % 5)}words.\n" for i in range(23)]
MODULE = """
import seqio
from pretrainx.tasks import sources

def texts(split):
    for i in range(6):
        yield f"{split}-{i}", f"text {i} of {split}"

FEATURES = {"targets": seqio.Feature(seqio.ByteVocabulary())}
STEPS = [lambda ds, output_features: seqio.preprocessors.tokenize(ds.map(lambda x: {"targets": x["text"]}), output_features),
         seqio.CacheDatasetPlaceholder(), seqio.preprocessors.append_eos_after_trim]
BOTH = sources.from_function(texts, ("train", "validation"))
seqio.TaskRegistry.add("their_task", source=BOTH, preprocessors=STEPS, output_features=FEATURES)
seqio.TaskRegistry.add("uncached", source=sources.from_function(texts), preprocessors=STEPS[:1], output_features=FEATURES)
seqio.MixtureRegistry.add("their_mixture", [("their_task", 3.0), ("uncached", 1.0)])
"""


@pytest.fixture(scope="module")
def registry() -> Any:
    return pytest.importorskip("pretrainx.tasks.registry", reason="needs pretrainx[tasks]")


@pytest.fixture
def module(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, registry: Any) -> Iterator[str]:
    import seqio

    (tmp_path / "their_module.py").write_text(MODULE)
    monkeypatch.syspath_prepend(tmp_path)
    yield "their_module"
    sys.modules.pop("their_module", None)
    for name in ("their_task", "uncached"):
        if name in seqio.TaskRegistry.names():
            seqio.TaskRegistry.remove(name)
    if "their_mixture" in seqio.MixtureRegistry.names():
        seqio.MixtureRegistry.remove("their_mixture")


def write(folder: Path, kind: str, files: int = 1) -> Corpus:
    """TEXTS as a corpus of this kind, in so many files."""
    folder.mkdir(exist_ok=True)
    for number in range(files):
        mine = [(i, t) for i, t in enumerate(TEXTS) if i % files == number]
        if kind == "jsonl":
            (folder / f"{number}.jsonl").write_text("".join(json.dumps({"id": f"d{i}", "text": t}) + "\n" for i, t in mine))
        elif kind == "parquet":
            pa = pytest.importorskip("pyarrow")
            import pyarrow.parquet as pq

            pq.write_table(pa.table({"id": [f"d{i}" for i, _ in mine], "text": [t for _, t in mine]}), folder / f"{number}.parquet")
        else:
            for i, text in mine:
                (folder / f"{i:02}.txt").write_text(text)
    suffix = {"jsonl": "jsonl", "parquet": "parquet", "text": "txt"}[kind]
    return Corpus(source=kind, files=f"{folder}/*.{suffix}")  # type: ignore[arg-type]


def examples(task: Any, split: str = "train", info: Any = None) -> list[dict[str, Any]]:
    dataset = task.preprocess_precache(task.source.get_dataset(split, shuffle=False, shard_info=info))
    return list(dataset.as_numpy_iterator())


def texts_of(found: list[dict[str, Any]]) -> list[str]:
    assert all(e["targets"][-1] == 1 for e in found)  # eos
    return [bytes((e["targets"][:-1] - 3).tolist()).decode() for e in found]


@pytest.mark.parametrize("kind", ["jsonl", "parquet", "text"])
def test_every_kind_of_file_gives_its_documents(tmp_path: Path, registry: Any, kind: str) -> None:
    corpus = write(tmp_path / "in", kind)
    found = examples(registry.make_task("mine", Data(corpora={"mine": corpus})))
    assert texts_of(found) == TEXTS
    assert [int(e["num_bytes"]) for e in found] == [len(t.encode()) for t in TEXTS]
    assert set(found[0]) == {"targets", "num_bytes", "id", "origin"}
    paths = sorted(str(p) for p in (tmp_path / "in").iterdir())
    if kind == "text":
        assert [e["id"].decode() for e in found] == paths and found[3]["origin"].decode() == f"{paths[3]}#1"
    else:
        assert [e["id"].decode() for e in found] == [f"d{i}" for i in range(23)] and found[3]["origin"].decode() == f"{paths[0]}#4"


@pytest.mark.parametrize(("files", "shards"), [(1, 3), (4, 4), (4, 2), (2, 5)])
def test_shards_make_the_whole(tmp_path: Path, registry: Any, files: int, shards: int) -> None:
    import seqio

    task = registry.make_task("mine", Data(corpora={"mine": write(tmp_path / "in", "jsonl", files)}))
    parts = [texts_of(examples(task, info=seqio.ShardInfo(i, shards))) for i in range(shards)]
    assert sorted(t for part in parts for t in part) == sorted(TEXTS)
    assert all(parts)


def test_what_crosses_many_at_a_time_are_the_same_documents(monkeypatch: pytest.MonkeyPatch, registry: Any) -> None:
    import seqio

    from pretrainx.tasks import sources

    texts = [f"text {i} " + "x" * (5 * i % 70) for i in range(200)]
    monkeypatch.setattr(sources, "CROSSING_BYTES", 900)  # some batches end by their number, others by their bytes
    source = sources.from_function(lambda split: texts)
    sizes = set()
    for i in range(2):
        info = seqio.ShardInfo(i, 2)
        source.select("train", info)
        sizes |= {len(batch["id"]) for batch in source._batches()}
        alone = [e["text"] for e in source.get_dataset("train", shuffle=False, shard_info=info).as_numpy_iterator()]
        assert [e["text"] for e in source.selected.as_numpy_iterator()] == alone == [text.encode() for text in texts[i::2]]
    assert len(sizes) > 2 and max(sizes) < 64, sizes
    monkeypatch.setattr(sources, "CROSSING_BYTES", 1 << 20)
    assert [len(batch["id"]) for batch in source._batches()] == [64, 36]


def test_a_holdout_parts_the_documents(tmp_path: Path, registry: Any) -> None:
    corpus = replace(write(tmp_path / "in", "jsonl"), holdout=0.3)
    task = registry.make_task("mine", Data(corpora={"mine": corpus}))
    train, validation = texts_of(examples(task)), texts_of(examples(task, "validation"))
    assert sorted(train + validation) == sorted(TEXTS) and 1 <= len(validation) <= 14
    assert not {*task.splits} - {"train", "validation"}


def test_splits_by_name(tmp_path: Path, registry: Any) -> None:
    for split in ("train", "validation"):
        (tmp_path / f"{split}.txt").write_text(f"{split} text")
    task = registry.make_task("mine", Data(corpora={"mine": Corpus("text", f"{tmp_path}/{{split}}.txt")}))
    assert texts_of(examples(task)) == ["train text"] and texts_of(examples(task, "validation")) == ["validation text"]
    (tmp_path / "validation.txt").unlink()
    assert registry.make_task("mine", Data(corpora={"mine": Corpus("text", f"{tmp_path}/{{split}}.txt")})).splits == ("train",)


def test_a_python_function_is_a_source(registry: Any) -> None:
    import seqio

    from pretrainx.curate.documents import Document
    from pretrainx.tasks import sources

    def texts(split: str) -> Iterator[Any]:
        yield "plain"
        yield "b", "a pair"
        yield {"text": "a dict"}
        yield Document("d", "a document", "here#1")

    source = sources.from_function(texts)
    parts = [list(source.get_dataset("train", shuffle=False, shard_info=seqio.ShardInfo(i, 2)).as_numpy_iterator()) for i in (0, 1)]
    assert [[(e["id"].decode(), e["text"].decode()) for e in part] for part in parts] == [
        [("texts.train#1", "plain"), ("texts.train#3", "a dict")],
        [("b", "a pair"), ("d", "a document")],
    ]


def test_tfds_is_a_source(tmp_path: Path, registry: Any) -> None:
    tfds = pytest.importorskip("tensorflow_datasets")
    import tensorflow as tf

    from pretrainx.tasks import cacheable, vocabulary_spec

    # a data set as TFDS leaves it on disk
    folder = tmp_path / "tiny" / "1.0.0"
    folder.mkdir(parents=True)
    features = tfds.features.FeaturesDict({"body": tfds.features.Text(), "label": tf.int64})
    with tf.io.TFRecordWriter(str(folder / "tiny-train.tfrecord-00000-of-00001")) as out:
        for i, text in enumerate(TEXTS):
            out.write(features.serialize_example({"body": text, "label": i}))
    split = tfds.core.SplitInfo(name="train", shard_lengths=[len(TEXTS)], num_bytes=0)
    tfds.folder_dataset.write_metadata(
        data_dir=str(folder), features=features, split_infos=[split], filename_template="{DATASET}-{SPLIT}.{FILEFORMAT}-{SHARD_X_OF_Y}"
    )
    corpus = Corpus("tfds", f"tiny:1.0.0@{tmp_path}", text_key="body")
    assert texts_of(examples(registry.make_task("mine", Data(corpora={"mine": corpus})))) == TEXTS
    task = registry.make_task("mine", Data(corpora={"mine": replace(corpus, holdout=0.2)}))
    assert [len(examples(task, split)) for split in ("train", "validation")] == [18, 5]
    assert cacheable.shard_names(task) == {split: [f"{folder}/tiny-train.tfrecord-00000-of-00001"] for split in task.splits}
    (first, *_) = cacheable.examples(task, "train", 1, 3, vocabulary_spec.load("bytes"), {})  # every third, from the second
    assert (first["id"], first["num_bytes"]) == ("train-00001-0", len(TEXTS[1].encode())) and texts_of([first]) == TEXTS[1:2]
    with pytest.raises(InputError, match="Task 'mine': its source cannot be listed"):
        cacheable.shard_names(registry.make_task("mine", Data(corpora={"mine": replace(corpus, files=f"other:1.0.0@{tmp_path}")})))
    with pytest.raises(InputError, match="must name its version"):
        registry.make_task("mine", Data(corpora={"mine": replace(corpus, files="tiny")}))


def test_seqio_finds_the_tasks_and_their_mixture_by_name(tmp_path: Path, registry: Any) -> None:
    import seqio

    data = Data({"one": 1.0, "two": 3.0}, {"one": write(tmp_path / "a", "jsonl"), "two": write(tmp_path / "b", "text")})
    try:
        registry.register(data, "ours")
        mixture = registry.register(data, "ours")  # again, with nothing in the way
        assert seqio.get_mixture_or_task("ours") is mixture
        assert {t.name: mixture.get_rate(t) for t in mixture.tasks} == {"one:causal": 1.0, "two:causal": 3.0}
        assert texts_of(list(seqio.TaskRegistry.get("one").get_dataset(None, "train", shuffle=False).as_numpy_iterator())) == TEXTS
    finally:
        for name in ("one", "one:causal", "two", "two:causal"):
            seqio.TaskRegistry.remove(name)
        seqio.MixtureRegistry.remove("ours")


def test_tasks_and_mixtures_of_the_users_module(tmp_path: Path, registry: Any, module: str) -> None:
    data = Data("their_mixture", module=module, cache_dir=str(tmp_path))
    assert registry.resolve(data) == {"their_task:causal": 3.0, "uncached:causal": 1.0}
    assert registry.resolve(replace(data, mixture="their_task")) == {"their_task:causal": 1.0}
    assert registry.resolve(replace(data, mixture="their_task:masked")) == {"their_task:masked": 1.0}
    assert registry.find_task("their_task", data).source.list_shards("train") == ["train"]
    with pytest.raises(InputError, match=r"unknown Task or Mixture 'their_mixtur'; did you mean 'their_mixture'"):
        registry.resolve(replace(data, mixture="their_mixtur"))
    with pytest.raises(InputError, match=r"unknown corpus or Task 'their_tas'; did you mean 'their_task'"):
        registry.find_task("their_tas", data)
    with pytest.raises(InputError, match=r"run tools/cache_tasks.py first"):  # the training process, before the cache is made
        parse_mixture(data)
    rates_file(data, "their_mixture").parent.mkdir()
    rates_file(data, "their_mixture").write_text(json.dumps(registry.resolve(data)))
    assert parse_mixture(data) == {("their_task", "causal"): 3.0, ("uncached", "causal"): 1.0}


@pytest.mark.parametrize(
    ("source", "words"), [("import no_such_thing", "ModuleNotFoundError"), ("def (", "SyntaxError"), ("1/0", "ZeroDivision")]
)
def test_a_module_that_does_not_import(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, registry: Any, source: str, words: str) -> None:
    (tmp_path / "broken_module.py").write_text(source)
    monkeypatch.syspath_prepend(tmp_path)
    with pytest.raises(InputError, match=f"data.module: cannot import 'broken_module': {words}"):
        registry.import_module(Data(module="broken_module"))


def test_what_the_reader_says_is_what_is_raised(tmp_path: Path, registry: Any) -> None:
    from pretrainx.tasks import cacheable, vocabulary_spec

    (tmp_path / "a.jsonl").write_text('{"text": "x"}\n{"text": 3}\n')
    task = registry.make_task("mine", Data(corpora={"mine": Corpus(files=f"{tmp_path}/a.jsonl")}))
    with pytest.raises(InputError, match=r"a.jsonl, record 2: 'text' is of type int"):
        list(cacheable.examples(task, "train", 0, 1, vocabulary_spec.load("bytes"), {}))


# ---- without TensorFlow


def test_the_built_in_mixture_is_of_built_in_corpora() -> None:
    for rates in mixtures.BUILTIN.values():
        assert set(rates) <= set(corpora.BUILTIN)
    assert parse_mixture(Data("stdlib")) == {(name, "causal"): rate for name, rate in mixtures.BUILTIN["stdlib"].items()}


def test_what_an_entry_means() -> None:
    data = Data(
        {"a": 1.0, "a:masked": 2, "b:my_pkg.my_objective": 0.5, "c:d": 1.0},
        {"a": Corpus(files="x"), "c:d": Corpus(files="x")},
        objective="causal",
    )
    assert parse_mixture(data) == {("a", "causal"): 1.0, ("a", "masked"): 2.0, ("b", "my_pkg.my_objective"): 0.5, ("c:d", "causal"): 1.0}
    assert parse_mixture(Data("stdlib_code:masked")) == {("stdlib_code", "masked"): 1.0}
    assert parse_mixture(Data("stdlib_code:maskd")) == {("stdlib_code", "maskd"): 1.0}  # whoever makes objectives names the nearest


@pytest.mark.parametrize(
    ("mixture", "words"),
    [
        ("", "is empty; give a name"),
        ({}, "is empty; give a name"),
        ({"a": 0.0}, "above zero"),
        ({"a": -1.0}, "above zero"),
        ({"a": float("inf")}, "above zero"),
        ({"stdlib_code": 1.0, "stdlib_code:causal": 1.0}, "stands there twice"),
        ({"stdlib_code:": 1.0}, "must be 'corpus' or 'corpus:objective'"),
        ("stdlb", "did you mean 'stdlib'"),
    ],
)
def test_mixtures_that_are_refused(mixture: Any, words: str) -> None:
    with pytest.raises(InputError, match=words) as caught:
        parse_mixture(Data(mixture))
    assert "data.mixture" in str(caught.value)


@pytest.mark.parametrize(
    ("name", "corpus", "words"),
    [
        ("a b", Corpus(files="x"), "letters, digits"),
        ("..", Corpus(files="x"), "letters, digits"),
        ("a", Corpus(), "files is empty"),
        ("a", Corpus(files="{split}.txt", holdout=0.1), "keep one way to split"),
    ],
)
def test_corpora_that_are_refused(name: str, corpus: Corpus, words: str) -> None:
    with pytest.raises(InputError, match=words):
        corpora.get(name, Data(corpora={name: corpus}))


def test_unknown_and_absent_corpora(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(InputError, match="unknown corpus 'stdlib_cod'; did you mean 'stdlib_code'"):
        corpora.get("stdlib_cod", Data())
    monkeypatch.chdir(tmp_path)
    with pytest.raises(InputError, match="run tools/build_corpus.py first"):
        corpora.splits("stdlib_code", corpora.BUILTIN["stdlib_code"])


def test_the_training_process_imports_no_tensorflow() -> None:
    code = (
        "import sys, pretrainx.data.mixture_spec, pretrainx.data.build\n"
        "import pretrainx.tasks.vocabulary_spec, pretrainx.tasks.vocabulary_training\n"
        "print([m for m in sys.modules if m.split('.')[0] in ('tensorflow', 'seqio', 'jax', 'pyarrow')])"
    )
    root = Path(__file__).parents[1]
    assert subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, cwd=root, check=True).stdout == "[]\n"
