"""Sums over every token of a split: no batch size, mesh or padding may show in them."""

import math
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import jax
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from support import BYTES, documents, encode, experiment, numpy_params, write_split
from test_likelihood import decoder_logits, log_softmax

from pretrainx.core.errors import InputError
from pretrainx.data.loader import open_mixture
from pretrainx.data.windows import Windows
from pretrainx.evaluate import perplexity
from pretrainx.train import build

TEXTS = documents()[60:66]


def scores(cache_dir: Path, batch_size: int, devices: int = 1, max_rows: int = 0, stride: int = 0, **sections: Any) -> dict[str, float]:
    checked = experiment(cache_dir, **({"mesh": {"data": devices}} | sections))
    program, _ = build.from_mixture(checked, open_mixture(checked.data, "train"), jax.devices()[:devices])
    held_out = open_mixture(checked.data, "validation")
    params = jax.device_put(numpy_params(program.skeleton), program.state_shardings.params)
    return perplexity.Evaluator(program.skeleton, held_out, batch_size, max_rows, stride=stride)(params)


@pytest.fixture(scope="module")
def whole(cache_dir: Path) -> dict[str, float]:
    return scores(cache_dir, 8)


def test_tokens_and_bytes_are_those_of_the_text(whole: dict[str, float]) -> None:
    num_bytes = sum(len(text.encode()) for text in TEXTS)
    assert whole["eval/topics/bytes"] == num_bytes
    assert whole["eval/topics/tokens"] == num_bytes + len(TEXTS)  # an end token each
    assert whole["eval/topics/tokens"] % 32 != 0  # the last row is ragged
    nats = whole["eval/topics/loss"] * whole["eval/topics/tokens"]
    assert whole["eval/topics/bits_per_byte"] == pytest.approx(nats / np.log(2) / num_bytes, rel=1e-12)
    assert whole["eval/topics/perplexity"] == pytest.approx(np.exp(whole["eval/topics/loss"]), rel=1e-12)


@pytest.mark.parametrize(("batch_size", "devices"), [(1, 1), (7, 1), (512, 1), (8, 8)])
def test_batch_size_and_mesh_do_not_matter(cache_dir: Path, whole: dict[str, float], batch_size: int, devices: int) -> None:
    found = scores(cache_dir, batch_size, devices)
    assert found.keys() == whole.keys()
    for name in ("tokens", "bytes"):
        assert found[f"eval/topics/{name}"] == whole[f"eval/topics/{name}"]
    # Each batch is summed in float32, and the batches in float64.
    assert found["eval/topics/loss"] == pytest.approx(whole["eval/topics/loss"], rel=2e-6)


def test_max_rows_counts_the_first_rows(cache_dir: Path) -> None:
    found = [scores(cache_dir, size, max_rows=5) for size in (2, 8)]
    assert found[0]["eval/topics/tokens"] == found[1]["eval/topics/tokens"] == 5 * 32
    assert found[0]["eval/topics/loss"] == pytest.approx(found[1]["eval/topics/loss"], rel=2e-6)


def test_sources_are_apart_and_together(cache_dir: Path, whole: dict[str, float]) -> None:
    found = scores(cache_dir, 8, data={"mixture": {"topics": 1.0, "short": 3.0}})
    assert found["eval/topics/loss"] == pytest.approx(whole["eval/topics/loss"], rel=1e-6)
    for name in ("tokens", "bytes"):
        assert found[f"eval/all/{name}"] == found[f"eval/topics/{name}"] + found[f"eval/short/{name}"]
    nats = sum(found[f"eval/{s}/loss"] * found[f"eval/{s}/tokens"] for s in ("topics", "short"))
    assert found["eval/all/loss"] == pytest.approx(nats / found["eval/all/tokens"], rel=1e-9)


def test_masked_evaluations_predict_the_same_positions_each_time(cache_dir: Path) -> None:
    sections: dict[str, Any] = {"data": {"objective": "masked"}, "model": {"name": "encoder"}}
    first, again = (scores(cache_dir, size, **sections) for size in (8, 16))
    assert first["eval/topics:masked/tokens"] == again["eval/topics:masked/tokens"]
    assert first["eval/topics:masked/loss"] == pytest.approx(again["eval/topics:masked/loss"], rel=2e-6)
    assert not any("bits_per_byte" in name for name in first)  # of a masked model it would mean nothing


def test_a_hopeless_model_has_a_finite_perplexity() -> None:
    found = perplexity.summary("eval/x", [1e9, 10, 0], num_bytes=10)
    assert np.isfinite(found["eval/x/perplexity"])
    assert perplexity.summary("eval/x", [0, 0, 0], 0)["eval/x/loss"] == 0


# ---- windows that overlap


@given(num_tokens=st.integers(0, 300), length=st.integers(1, 40), share=st.floats(0, 1))
@settings(max_examples=200)
def test_every_token_is_new_in_one_window_and_sees_enough(num_tokens: int, length: int, share: float) -> None:
    stride = max(1, round(share * length))
    cache: Any = SimpleNamespace(num_tokens=lambda feature: num_tokens, vocabulary=BYTES)
    windows = Windows(cache, length, stride=stride)
    scored: list[int] = []
    for index in range(len(windows)):
        start, stop = windows.span(index)
        first = start + (windows.overlap if index else 0)
        assert stop - start <= length and first < stop  # no window without something new
        assert all(p - start >= length - stride or start == 0 for p in range(first, stop))
        scored += range(first, stop)
    assert scored == list(range(num_tokens))
    if stride == length:
        assert len(windows) == math.ceil(num_tokens / length)


LENGTH, RAGGED = 32, [text[:n] for text, n in zip(documents(), (150, 3, 70, 1, 40), strict=False)]


@pytest.fixture(scope="module")
def ragged(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A split of a long document, tiny ones, and one that ends in the middle of a window."""
    folder = tmp_path_factory.mktemp("ragged")
    write_split(folder, "topics", "train", documents()[:20])
    write_split(folder, "topics", "validation", RAGGED, num_shards=1)
    return folder


def bit_by_bit(cache_dir: Path, stride: int) -> tuple[float, list[int]]:
    """(nats of the split, how many tokens each was read after): a float64 decoder in NumPy, one token of the split at a time."""
    checked = experiment(cache_dir, mesh={"data": 1})
    program, _ = build.from_mixture(checked, open_mixture(checked.data, "train"), jax.devices()[:1])
    params, nats, seen, at = numpy_params(program.skeleton), 0.0, [], 0
    stream = np.concatenate([encode(text) for text in RAGGED])
    for text in RAGGED:
        begin, end = at, at + len(encode(text))
        while at < end:
            window = 0 if at < LENGTH else 1 + (at - LENGTH) // stride
            start = max(begin, window * stride)
            before = BYTES.special.start if start == begin else stream[start - 1]
            nats -= float(log_softmax(decoder_logits(params, [int(before), *stream[start:at]])[-1])[stream[at]])
            seen.append(at - start if start == begin else at - start + 1)
            assert start == begin or window == 0 or at - start >= LENGTH - stride
            at += 1
    return nats, seen


@pytest.mark.parametrize("stride", [1, 8, 13])
def test_overlapping_windows_equal_a_loop_over_single_tokens(ragged: Path, stride: int) -> None:
    nats, seen = bit_by_bit(ragged, stride)
    found = scores(ragged, 3, stride=stride)
    num_bytes = sum(len(text.encode()) for text in RAGGED)
    assert found["eval/topics/tokens"] == len(seen) == num_bytes + len(RAGGED) and found["eval/topics/bytes"] == num_bytes
    assert found["eval/topics/loss"] == pytest.approx(nats / len(seen), rel=2e-6)  # float32 through two layers
    assert found["eval/topics/bits_per_byte"] == pytest.approx(nats / math.log(2) / num_bytes, rel=2e-6)
    assert found["eval/topics/stride"] == stride
    assert sum(seen) > sum(bit_by_bit(ragged, LENGTH)[1])  # and it is another number for a reason


def test_a_stride_of_a_whole_window_is_plain_evaluation(cache_dir: Path, whole: dict[str, float]) -> None:
    found = scores(cache_dir, 8, stride=32)
    assert found.pop("eval/topics/stride") == 32 and found == whole  # bit for bit


@pytest.mark.parametrize(("batch_size", "devices"), [(1, 1), (3, 1), (8, 8)])
def test_neither_batch_nor_mesh_matters_with_a_stride(ragged: Path, batch_size: int, devices: int) -> None:
    wanted, found = scores(ragged, 8, stride=5), scores(ragged, batch_size, devices, stride=5)
    assert found.keys() == wanted.keys() and found["eval/topics/tokens"] == wanted["eval/topics/tokens"]
    assert found["eval/topics/loss"] == pytest.approx(wanted["eval/topics/loss"], rel=2e-6)


def test_a_stride_is_for_causal_text(cache_dir: Path, whole: dict[str, float]) -> None:
    model = {"name": "prefix_decoder"}
    both = {"mixture": {"short:causal": 1.0, "short:prefix": 1.0}}
    plain, found = scores(cache_dir, 8, data=both, model=model), scores(cache_dir, 8, stride=4, data=both, model=model)
    assert {name: x for name, x in found.items() if ":prefix" in name} == {name: x for name, x in plain.items() if ":prefix" in name}
    assert found["eval/short/tokens"] == plain["eval/short/tokens"] and found["eval/short/stride"] == 4
    with pytest.raises(InputError, match="eval.stride 4: windows may overlap for the objective causal alone; the mixture has: masked"):
        scores(cache_dir, 8, stride=4, data={"objective": "masked"}, model={"name": "encoder"})
    with pytest.raises(InputError, match="eval.stride 33 is more than data.sequence_length 32: tokens would be left out"):
        scores(cache_dir, 8, stride=33)
    with pytest.raises(InputError, match="eval.stride 33 is more than data.sequence_length 32"):
        experiment(cache_dir, eval={"stride": 33})
