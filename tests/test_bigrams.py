"""Vectors of pairs of tokens: which places have which, on any mesh, and what a hash does to them."""

from pathlib import Path
from typing import Any

import jax.numpy as jnp
import numpy as np
import pytest
from support import numpy_params

from pretrainx.core.errors import InputError
from pretrainx.interop import hf
from pretrainx.models.embedder import bigram_rows
from tests.test_manual import MANUAL, equal_one_device
from tests.test_step import program_of

MASKED: dict[str, Any] = {"data": {"mixture": {"topics:masked": 1.0}}}
PAIRS: dict[str, Any] = {"name": "encoder", "bigram_rows": 512, "bigram_dim": 4}


def hashed(before: int, token: int, rows: int) -> int:
    """As `bigram_rows`, in Python's whole numbers."""
    mixed = (before * 0x9E3779B1 + token * 0x85EBCA77) % 2**32
    for factor in (0x85EBCA6B, 0xC2B2AE35):
        mixed = (mixed ^ mixed >> 15) * factor % 2**32
    return (mixed ^ mixed >> 16) % rows


def test_each_token_has_the_vector_of_itself_and_the_one_before_in_its_segment(cache_dir: Path) -> None:
    program, _, _ = program_of(cache_dir, **MASKED, model=PAIRS)
    params = numpy_params(program.skeleton)
    tokens = np.asarray([[9, 7, 8, 7, 8, 9, 7, 0], [7, 9, 5, 5, 5, 7, 8, 6]], np.int32)
    segments = np.asarray([[1, 1, 1, 2, 2, 2, 2, 0], [1, 1, 1, 1, 1, 1, 1, 1]], np.int32)
    batch = {"tokens": jnp.asarray(tokens), "segment_ids": jnp.asarray(segments)}
    found = np.asarray(program.skeleton.merge(params).embedder(batch))
    words, pairs = params["embedder"]["embedding"], params["embedder"]["bigram_embedding"]
    for b in range(2):
        for t in range(8):
            wanted = np.array(words[tokens[b, t]], np.float32)
            if t and segments[b, t] and segments[b, t] == segments[b, t - 1]:
                wanted[:4] += pairs[hashed(int(tokens[b, t - 1]), int(tokens[b, t]), 512)]
            np.testing.assert_allclose(found[b, t], wanted, atol=1e-6, err_msg=f"{b} {t}")
    assert np.array_equal(found[0, 4], found[1, 6]) and not np.allclose(found[0, 1], found[0, 3])  # 7 8, and 9 7 against a first 7


def test_fresh_pairs_say_nothing(cache_dir: Path) -> None:
    program, _, _ = program_of(cache_dir, **MASKED, model=PAIRS)
    assert not np.asarray(program.init_state().params["embedder"]["bigram_embedding"]).any()


def test_pairs_fall_on_rows_as_by_chance() -> None:
    """Of n pairs thrown on as many rows a share of 1/e hits none; and the order of a pair counts."""
    first, second = np.divmod(np.arange(2**16), 256)
    rows = np.asarray(bigram_rows(jnp.asarray(first), jnp.asarray(second), 2**16))
    assert rows.min() >= 0 and rows.max() < 2**16
    assert abs(len(np.unique(rows)) / 2**16 - (1 - np.exp(-1))) < 0.01
    turned = np.asarray(bigram_rows(jnp.asarray(second), jnp.asarray(first), 2**16))
    assert (rows == turned).mean() < 0.01  # 256 of them are a token twice


MESHES: dict[str, dict[str, Any]] = {
    "cut_by_length": {"layout": "fsdp_cp", "mesh": {"data": 1, "fsdp": 2, "sequence": 4}},
    "manual": MANUAL,
    "exchanged": {"layout": "fsdp_ulysses", "mesh": {"data": 1, "fsdp": 2, "tensor": 2, "sequence": 2}},
}


@pytest.mark.parametrize("mesh", [name if name == "exchanged" else pytest.param(name, marks=pytest.mark.slow) for name in MESHES])
def test_on_a_mesh_as_on_one_device(mesh: str, cache_dir: Path) -> None:
    """A part of a row begins with a pair whose first token another device has."""
    equal_one_device(cache_dir, MESHES[mesh], **MASKED, model=PAIRS)


@pytest.mark.slow
def test_a_generator_and_its_discriminator_share_them(cache_dir: Path) -> None:
    equal_one_device(cache_dir, MANUAL, data={"mixture": {"topics:replaced_token": 1.0}}, model=PAIRS | {"name": "electra"})


@pytest.mark.parametrize(
    ("model", "message"),
    [
        ({"name": "llama", "bigram_rows": 512}, "model.bigram_rows: only encoders have vectors of pairs, and model.name 'llama' is none"),
        (PAIRS | {"bigram_dim": 4096}, "model.bigram_dim 4096 is more than"),
    ],
)
def test_what_cannot_have_them_is_refused(model: dict[str, Any], message: str, cache_dir: Path) -> None:
    with pytest.raises(InputError, match=message):
        program_of(cache_dir, **({} if model["name"] == "llama" else MASKED), model=model)


def test_they_have_no_place_in_another_library(cache_dir: Path) -> None:
    program, _, _ = program_of(cache_dir, **MASKED, model=PAIRS | {"name": "bert"})
    with pytest.raises(InputError, match="bert has no embedder/bigram_embedding, which this model has"):
        hf.to_hf("bert", numpy_params(program.skeleton))
