"""One objective, two engines: SeqIO's own pipeline and our cache with its loader give the same bytes."""

import json
from collections.abc import Iterator
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from support import BYTES, documents, encode, write_split

from pretrainx.core.errors import InputError
from pretrainx.core.sections import Corpus, Data
from pretrainx.data import cache, loader
from pretrainx.data.cache import TokenCache
from pretrainx.data.order import Rows
from pretrainx.data.windows import Windows

seqio = pytest.importorskip("seqio", reason="needs pretrainx[tasks]")

LENGTH = 48
SPLITS = ("train", "validation")


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Data]:
    """Two files of documents that are empty, blank, of one byte, of exactly a window, and long; cached, and registered."""
    from pretrainx.tasks import cacheable, registry

    folder = tmp_path_factory.mktemp("contract")
    long = documents()[0]
    texts = {
        "train-0": ["", "x", "a" * (LENGTH - 1), long[:1000], "  \n", "é\U0001f600"],
        "train-1": ["b", "", long[1000:1700], "c" * LENGTH, "end"],
        "validation-0": ["held out", ""],
    }
    for name, lines in texts.items():
        (folder / f"{name}.jsonl").write_text("".join(json.dumps({"id": f"{name}.{i}", "text": t}) + "\n" for i, t in enumerate(lines)))
    mixture = {"mine:causal": 1.0, "mine:masked": 1.0}
    section = Data(
        mixture=mixture,
        corpora={"mine": Corpus(files=f"{folder}/{{split}}-*.jsonl")},
        sequence_length=LENGTH,
        seed=11,
        cache_dir=str(folder),
    )
    task = registry.make_task("mine", section)
    for split in SPLITS:
        place = cache.locate(folder, "mine", split)
        shards = task.source.list_shards(split)
        for shard in range(len(shards)):
            found = cacheable.examples(task, split, shard, len(shards), BYTES, {})
            made = (cache.CachedDocument(d["id"], d["origin"], d["num_bytes"], {"targets": d["targets"]}) for d in found)
            cache.write_shard(place, shard, made, ["targets"], BYTES.size)
        cache.write_manifest(place, corpus="mine", split=split, task_sha256="", vocabulary=BYTES, num_shards=len(shards), source={})
    mixed = registry.register(section, "contract_mixture")
    yield section
    seqio.MixtureRegistry.remove(mixed.name)
    for name in ("mine", *mixture):
        seqio.TaskRegistry.remove(name)


def rows(mixture: loader.Mixture, name: str) -> list[dict[str, np.ndarray]]:
    """Every row of a source as the loader puts it into a batch of the mixture."""
    index = [source.name for source in mixture.sources].index(name)
    windows = np.arange(len(mixture.sources[index].windows))
    batch = loader.RowBuilder(mixture).build(Rows(windows, np.full_like(windows, index), np.zeros_like(windows), windows))
    return [{feature: array[i] for feature, array in batch.items() if feature != "objective"} for i in windows]


def same(theirs: list[dict[str, Any]], ours: list[dict[str, np.ndarray]]) -> None:
    assert len(theirs) == len(ours)
    for number, (a, b) in enumerate(zip(theirs, ours, strict=True)):
        assert a.keys() == b.keys()
        for name in a:
            assert (a[name].dtype, a[name].shape) == (b[name].dtype, b[name].shape)
            assert a[name].tobytes() == b[name].tobytes(), f"row {number}, {name}"


@pytest.mark.parametrize("split", SPLITS)
@pytest.mark.parametrize("objective", ["causal", "masked"])
def test_seqio_and_the_loader_give_the_same_bytes(data: Data, objective: str, split: str) -> None:
    mixture = loader.open_mixture(data, split)
    source = mixture.source(f"mine:{objective}")
    ours = rows(mixture, source.name)
    task = seqio.get_mixture_or_task(source.name)
    same(list(task.get_dataset(split=split, shuffle=False).as_numpy_iterator()), ours)
    assert len(ours) >= (25 if split == "train" else 1)
    predicted = sum(int(row["loss_weights"].sum()) for row in ours)
    assert predicted == source.windows.num_tokens if objective == "causal" else 0 < predicted < source.windows.num_tokens / 5


def test_a_feature_converter_hands_them_on(data: Data) -> None:
    """The way in of SeqIO's own trainers, by the name of the Task alone."""
    mixture = loader.open_mixture(data, "train")
    source = mixture.source("mine:masked")
    lengths = dict.fromkeys(seqio.get_mixture_or_task(source.name).output_features, LENGTH)
    found = seqio.get_dataset(
        source.name, lengths, dataset_split="train", shuffle=False, num_epochs=1, feature_converter=seqio.PassThroughFeatureConverter()
    )
    same(list(found.as_numpy_iterator()), rows(mixture, source.name))


def test_the_mixture_mixes_objectives(data: Data) -> None:
    mixture = seqio.get_mixture_or_task("contract_mixture")
    found = list(mixture.get_dataset(None, "train", shuffle=False, seed=0, num_epochs=1).as_numpy_iterator())
    shares = {float(row["loss_weights"].mean()) > 0.5 for row in found[:20]}
    assert shares == {True, False}


def test_another_length_is_refused(data: Data) -> None:
    with pytest.raises(InputError, match=r"sequence_length of 'targets' is 32, but data.sequence_length makes it 48"):
        seqio.get_mixture_or_task("mine:causal").get_dataset({"targets": 32}, shuffle=False)


def test_a_task_without_objective_stays_a_token_stream(data: Data) -> None:
    found = list(seqio.get_mixture_or_task("mine").get_dataset(None, "validation", shuffle=False).as_numpy_iterator())
    assert found[0]["targets"].tolist() == encode("held out").tolist()


@given(lengths=st.lists(st.integers(0, 9), min_size=1, max_size=20), width=st.integers(1, 12), add_eos=st.booleans())
@settings(max_examples=40)
def test_windows_cut_from_documents_are_those_read_from_the_cache(
    tmp_path_factory: pytest.TempPathFactory, lengths: list[int], width: int, add_eos: bool
) -> None:
    from pretrainx.tasks.objective_step import ended, windows

    texts = [chr(97 + i % 26) * n for i, n in enumerate(lengths)]
    kept = [text for text in texts if text]
    streamed = [encode(text)[:-1] if add_eos and i % 2 else encode(text) for i, text in enumerate(texts)]
    cut = list(windows(ended(streamed, BYTES.special, add_eos), width, BYTES.special))
    if not kept:
        assert not cut
        return
    read = Windows(TokenCache(write_split(tmp_path_factory.mktemp("cut"), "c", "train", kept, num_shards=1)), width)
    for ours, theirs in zip(read.read(range(len(read))), cut, strict=True):
        for name in ("tokens", "segment_ids", "positions"):
            assert np.array_equal(getattr(ours, name), getattr(theirs, name)), name
        assert ours.first_input == theirs.first_input
