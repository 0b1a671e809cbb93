"""The global batch of a step is one thing, however it is shared out and read."""

import dataclasses
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from support import BYTES, documents, settings, write_split

from pretrainx.core import schema
from pretrainx.core.errors import InputError
from pretrainx.core.sections import Data
from pretrainx.data import loader
from pretrainx.data.loader import Mixture, RowBuilder, batches, open_mixture, rows_digest

BATCH = 8


def data_section(cache_dir: Path, **change: Any) -> Data:
    return schema.parse(Data, settings(cache_dir, data=change)["data"], "data")


@pytest.fixture(scope="module")
def mixture(cache_dir: Path) -> Mixture:
    return open_mixture(data_section(cache_dir, mixture={"topics": 0.75, "short": 0.25}, objective="masked"), "train")


def read(mixture: Mixture, rows: np.ndarray, start: int, stop: int, workers: int = 0) -> list[loader.Batch]:
    return list(batches(RowBuilder(mixture), batch_size=BATCH, local_rows=rows, start=start, stop=stop, prefetch=2, workers=workers))


@pytest.fixture(scope="module")
def whole(mixture: Mixture) -> list[loader.Batch]:
    return read(mixture, np.arange(BATCH), 0, 12)


def same(a: dict[str, np.ndarray], b: dict[str, np.ndarray]) -> None:
    assert a.keys() == b.keys()
    for name in a:
        assert a[name].dtype == b[name].dtype and np.array_equal(a[name], b[name]), name


@pytest.mark.parametrize("processes", [1, 2, 4, 8])
def test_processes_share_out_one_global_batch(mixture: Mixture, whole: list[loader.Batch], processes: int) -> None:
    shares = [read(mixture, np.arange(BATCH).reshape(processes, -1)[p], 0, 12) for p in range(processes)]
    for step, batch in enumerate(whole):
        mine = [share[step] for share in shares]
        same({n: np.concatenate([m.features[n] for m in mine]) for n in batch.features}, batch.features)
        assert sum(m.digest for m in mine) % (1 << loader.DIGEST_BITS) == batch.digest
        assert batch.step == step and np.array_equal(batch.rows.number, step * BATCH + np.arange(BATCH))


@pytest.mark.parametrize("start", [1, 5, 11])
def test_reading_may_start_anywhere(mixture: Mixture, whole: list[loader.Batch], start: int) -> None:
    later = read(mixture, np.arange(BATCH), start, 12)
    assert [b.step for b in later] == list(range(start, 12))
    for batch, wanted in zip(later, whole[start:], strict=True):
        same(batch.features, wanted.features)
        assert batch.digest == wanted.digest


def test_reader_processes_give_the_same(mixture: Mixture, whole: list[loader.Batch]) -> None:
    later = read(mixture, np.arange(BATCH), 3, 10, workers=2)
    assert [b.digest for b in later] == [b.digest for b in whole[3:10]]
    for batch, wanted in zip(later, whole[3:], strict=False):
        same(batch.features, wanted.features)


def test_rows_out_of_order_give_the_same_rows(mixture: Mixture, whole: list[loader.Batch]) -> None:
    rows = np.asarray([6, 1, 4])
    (batch,) = read(mixture, rows, 2, 3)
    same(batch.features, {n: a[rows] for n, a in whole[2].features.items()})


def test_a_mixture_shows_its_corpora_at_their_rates(mixture: Mixture) -> None:
    rows = mixture.order().rows(0, 4096)
    shares = {source.corpus: float(np.mean(rows.source == k)) for k, source in enumerate(mixture.sources)}
    assert shares == pytest.approx({"topics": 0.75, "short": 0.25}, abs=1e-3)


def test_rates_of_documents_weigh_a_corpus_by_their_length(cache_dir: Path) -> None:
    """As often each document: tokens go by rate times tokens a document."""
    mixture = open_mixture(data_section(cache_dir, mixture={"topics": 1.0, "short": 2.0}, rates="documents"), "train")
    caches = {source.corpus: source.windows.cache for source in mixture.sources}
    weights = {name: {"topics": 1.0, "short": 2.0}[name] * cache.num_tokens() / cache.num_documents for name, cache in caches.items()}
    rows = mixture.order().rows(0, 4096)
    shares = {source.corpus: float(np.mean(rows.source == k)) for k, source in enumerate(mixture.sources)}
    assert shares == pytest.approx({name: weight / sum(weights.values()) for name, weight in weights.items()}, abs=1e-3)
    assert abs(shares["topics"] - 1 / 3) > 0.05


def test_rows_hold_the_windows_they_name(mixture: Mixture, whole: list[loader.Batch]) -> None:
    for batch in whole:
        for place in range(BATCH):
            source = mixture.sources[batch.rows.source[place]]
            (window,) = source.windows.read([int(batch.rows.window[place])])
            assert np.array_equal(batch.features["targets"][place], window.tokens)
            assert np.array_equal(batch.features["segment_ids"][place], window.segment_ids)


def test_the_digest_sees_every_feature_and_row_number(whole: list[loader.Batch]) -> None:
    batch = whole[0]
    seen = {batch.digest}
    for name, array in batch.features.items():
        changed = array.copy()
        changed.flat[0] += 1
        seen.add(rows_digest(batch.rows.number, batch.features | {name: changed}))
    seen.add(rows_digest(batch.rows.number + 1, batch.features))
    assert len(seen) == len(batch.features) + 2


def test_masks_are_drawn_anew_each_epoch(cache_dir: Path) -> None:
    mixture = open_mixture(data_section(cache_dir, mixture={"short": 1.0}, objective="masked"), "validation")
    source = mixture.sources[0]
    first, again, later, other_seed = (
        loader.example(source, [2], [epoch], seed)[0] for epoch, seed in ((0, 0), (0, 0), (1, 0), (0, 1))
    )  # fmt: skip
    same(first, again)
    assert not np.array_equal(first["loss_weights"], later["loss_weights"])
    assert not np.array_equal(first["loss_weights"], other_seed["loss_weights"])


def test_one_corpus_under_two_objectives_is_two_sources(cache_dir: Path) -> None:
    mixture = open_mixture(data_section(cache_dir, mixture={"topics:causal": 1.0, "topics:masked": 1.0}), "train")
    assert list(mixture.objectives) == ["causal", "masked"]
    seen = set()
    for batch in read(mixture, np.arange(BATCH), 0, 4):
        names = [mixture.sources[k].objective_name for k in batch.rows.source]
        assert batch.features["objective"].tolist() == [list(mixture.objectives).index(n) for n in names]
        seen.update(names)
    assert seen == {"causal", "masked"}


def test_what_decides_a_row_changes_the_data_hash(cache_dir: Path) -> None:
    sections = [
        {}, {"mixture": {"short": 1.0}}, {"seed": 1}, {"sequence_length": 33}, {"objective": "masked"},
        {"objective": "masked", "objectives": {"masked": {"mask_rate": 0.3}}}, {"mixture": {"topics": 1.0, "short": 1.0}},
        {"mixture": {"topics": 1.0, "short": 2.0}},
    ]  # fmt: skip
    hashes = [open_mixture(data_section(cache_dir, **change), "train").data_sha256 for change in sections]
    assert len(set(hashes)) == len(hashes)
    assert open_mixture(data_section(cache_dir), "train").data_sha256 == hashes[0]


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"mixture": {"topic": 1.0}}, "unknown corpus 'topic'; did you mean 'topics'"),
        ({"objective": "cusal"}, "did you mean 'causal'"),
        ({"objective": "masked", "objectives": {"masked": {"mask_rat": 0.1}}}, "masked.mask_rat'; did you mean 'mask_rate'"),
        ({"objective": "masked", "objectives": {"masked": {"mask_rate": "x"}}}, "masked.mask_rate: expected a number, found str 'x'"),
        ({"objective": "masked", "objectives": {"masked": {"sequence_length": 8}}}, "unknown config key 'data.objectives.masked.seq"),
        ({"objective": "masked", "objectives": {"masked": {"unit": "spam"}}}, "unknown value 'spam'; did you mean 'span'"),
        ({"objective": "skip_gram", "objectives": {"skip_gram": {"window": 2.5}}}, "skip_gram.window: expected a whole number"),
        ({"objective": "ul2", "objectives": {"ul2": {"denoisers": [5]}}}, r"ul2.denoisers\[0\]: expected a list"),
        ({"objective": "masked", "objectives": {"masked": {"mask_rate": 1.5}}}, "mask_rate 1.5: accepted are numbers above 0"),
        ({"objective": "masked", "objectives": {"masked": {"mask_share": 0.9, "random_share": 0.2}}}, "sum to at most 1"),
        ({"objectives": {"masked": {}}}, "data.objectives.masked: no entry"),
        ({"mixture": {"topics": 0.0}}, "rate 0.0 must be above zero"),
        ({"mixture": {"../topics": 1.0}}, "cannot be a folder name"),
    ],
)
def test_one_sentence_for_what_is_wrong(cache_dir: Path, change: dict[str, Any], message: str) -> None:
    with pytest.raises(InputError, match=message):
        open_mixture(data_section(cache_dir, **change), "train")


def test_a_missing_split_names_the_command(cache_dir: Path) -> None:
    with pytest.raises(InputError, match="'topics' has no split 'test' .*those there: train, validation; run tools/cache_tasks.py"):
        open_mixture(data_section(cache_dir), "test")


def test_different_vocabularies_cannot_mix(tmp_path: Path) -> None:
    write_split(tmp_path, "a", "train", ["one"])
    write_split(tmp_path, "b", "train", ["two"], vocabulary=dataclasses.replace(BYTES, size=300))
    with pytest.raises(InputError, match="different vocabularies"):
        open_mixture(data_section(tmp_path, mixture={"a": 1.0, "b": 1.0}), "train")


def test_an_empty_corpus_is_refused_by_name(tmp_path: Path) -> None:
    write_split(tmp_path, "void", "train", [], num_shards=1)
    with pytest.raises(InputError, match="void.* no tokens"):
        open_mixture(data_section(tmp_path, mixture={"void": 1.0}), "train")


def test_a_vocabulary_without_a_mask_token_cannot_be_masked(tmp_path: Path) -> None:
    write_split(tmp_path, "a", "train", ["one"], vocabulary=dataclasses.replace(BYTES, special=dataclasses.replace(BYTES.special, mask=-1)))
    with pytest.raises(InputError, match="has no mask token"):
        open_mixture(data_section(tmp_path, mixture={"a": 1.0}, objective="masked"), "train")


def test_a_damaged_shard_is_an_error_and_not_other_tokens(tmp_path: Path) -> None:
    folder = write_split(tmp_path, "a", "train", documents()[:30], num_shards=1)
    path = folder / "shard-00000.targets.arrayrecord"
    raw = bytearray(path.read_bytes())
    for place in range(len(raw) // 4, len(raw) // 2, 50):  # in the records, not in the index at the end
        raw[place] ^= 0xFF
    path.write_bytes(bytes(raw))
    mixture = open_mixture(data_section(tmp_path, mixture={"a": 1.0}), "train")
    with pytest.raises(InputError, match="is damaged or missing"):
        for batch in read(mixture, np.arange(BATCH), 0, mixture.rows_per_epoch // BATCH):
            del batch
