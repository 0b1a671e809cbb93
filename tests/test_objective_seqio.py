"""Every objective, two engines: SeqIO's own pipeline and our cache with its loader give the same bytes from the same text."""

import json
from typing import Any

import numpy as np
import pytest
from support import documents

from pretrainx.core.sections import Corpus, Data
from pretrainx.data import cache, loader
from pretrainx.objectives.examples import names_of_plain_text
from pretrainx.tasks import vocabulary_spec

seqio = pytest.importorskip("seqio", reason="needs pretrainx[tasks]")

LENGTH = 64
VOCABULARY = "bytes+100"  # some objectives need sentinels
NAMES = names_of_plain_text()


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> Data:
    """Two files of real text in documents of nothing, a few bytes, about a window, and many windows; and their cache."""
    from pretrainx.tasks import cacheable, registry

    folder = tmp_path_factory.mktemp("objectives")
    texts = documents()
    files = {
        "train-0": [texts[0][:900], "", texts[1][: LENGTH - 1], texts[2][:5], "x", texts[3][:120]],
        "train-1": [texts[4][:30], " \n", texts[5][:700], "é\U0001f600", texts[6][:250]],
    }
    for name, lines in files.items():
        (folder / f"{name}.jsonl").write_text("".join(json.dumps({"id": f"{name}.{i}", "text": t}) + "\n" for i, t in enumerate(lines)))
    section = Data(
        mixture={f"mine:{name}": 1.0 for name in NAMES},
        corpora={"mine": Corpus(files=f"{folder}/{{split}}-*.jsonl")},
        sequence_length=LENGTH,
        seed=5,
        vocabulary=VOCABULARY,
        cache_dir=str(folder),
    )
    vocabulary = vocabulary_spec.load(VOCABULARY)
    task = registry.make_task("mine", section)
    place = cache.locate(folder, "mine", "train")
    count = len(task.source.list_shards("train"))
    for shard in range(count):
        found = cacheable.examples(task, "train", shard, count, vocabulary, {})
        made = (cache.CachedDocument(d["id"], d["origin"], d["num_bytes"], {"targets": d["targets"]}) for d in found)
        cache.write_shard(place, shard, made, ["targets"], vocabulary.size)
    cache.write_manifest(place, corpus="mine", split="train", task_sha256="", vocabulary=vocabulary, num_shards=count, source={})
    return section


def same(a: dict[str, Any], b: dict[str, Any]) -> None:
    assert a.keys() == b.keys()
    for name in a:
        assert (a[name].dtype, a[name].shape) == (b[name].dtype, b[name].shape), name
        assert a[name].tobytes() == b[name].tobytes(), name


@pytest.mark.parametrize("name", NAMES)
def test_seqio_and_the_loader_give_the_same_bytes(data: Data, name: str) -> None:
    from pretrainx.tasks import registry

    source = loader.open_mixture(data, "train").source(f"mine:{name}")
    indices = range(len(source.windows))
    ours = loader.example(source, indices, [0] * len(indices), data.seed)
    task = registry.make_task(source.name, data)
    theirs = list(task.get_dataset(split="train", shuffle=False).as_numpy_iterator())
    assert len(theirs) == len(ours) >= 30 // max(1, source.objective.window_length // LENGTH)  # skip_gram takes twice as much
    for a, b in zip(theirs, ours, strict=True):
        same(a, b)
    assert any(array.any() for row in ours for feature, array in row.items() if feature.endswith("weights"))
    again = loader.example(source, indices, [1] * len(indices), data.seed)  # another epoch: the same windows, changed anew
    is_same = [all(np.array_equal(a[feature], b[feature]) for feature in a) for a, b in zip(ours, again, strict=True)]
    assert all(is_same) if name == "causal" else not all(is_same)


def test_all_objectives_fit_into_one_batch(data: Data) -> None:
    """No two disagree on what a feature is: each keeps its bytes among those of all others."""
    mixture = loader.open_mixture(data, "train")
    spec = loader.RowBuilder(mixture).spec
    for source in mixture.sources:
        for feature, array in loader.example(source, [0], [0], data.seed)[0].items():
            shape, dtype = spec[feature]
            assert dtype == array.dtype and len(shape) == array.ndim and all(a <= b for a, b in zip(array.shape, shape, strict=True))
