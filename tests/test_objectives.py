"""What an example looks like, and what its loss is, against counting, NumPy in float64, and Optax."""

from collections.abc import Iterable
from itertools import pairwise
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from hypothesis import given
from hypothesis import settings as hypothesis_settings
from hypothesis import strategies as st
from support import BYTES

from pretrainx.core.rng import generator
from pretrainx.data.cache import TokenCache
from pretrainx.data.windows import Windows
from pretrainx.models.transformer import Outputs
from pretrainx.objectives import causal, masked
from pretrainx.objectives.examples import from_pieces
from pretrainx.objectives.interface import Window
from pretrainx.objectives.losses import cross_entropy, rows_of, token_losses

SPECIAL = np.asarray(BYTES.special.ids)


def window_of(*documents: Iterable[int], pad: int = 0, first_input: int = BYTES.special.start) -> Window:
    parts = [list(d) for d in documents]
    ends = np.cumsum([0, *map(len, parts)])
    tokens = np.asarray([t for p in parts for t in p] + [0] * pad, np.int32)
    return from_pieces(tokens, [(int(a), int(b)) for a, b in pairwise(ends)], first_input)


# ---- causal


def test_causal_shifts_within_documents() -> None:
    features = causal.Objective(BYTES, 8).example(window_of([10, 11, 1], [20, 1], [30], pad=2, first_input=9), np.random.default_rng(0))
    bos = BYTES.special.bos
    assert features["tokens"][:6].tolist() == [9, 10, 11, bos, 20, bos]
    assert features["targets"].tolist() == [10, 11, 1, 20, 1, 30, 0, 0]
    assert features["loss_weights"].tolist() == [1, 1, 1, 1, 1, 1, 0, 0]
    assert features["segment_ids"].tolist() == [1, 1, 1, 2, 2, 3, 0, 0]
    assert features["positions"][:6].tolist() == [0, 1, 2, 0, 1, 0]


def test_causal_predicts_each_token_of_a_stream_once(topics: TokenCache) -> None:
    windows = Windows(topics, 100)
    objective = causal.Objective(BYTES, 100)
    made = [objective.example(window, np.random.default_rng(0)) for window in windows.read(range(len(windows)))]
    targets = np.concatenate([m["targets"][m["loss_weights"] > 0] for m in made])
    stream = topics.read(0, topics.num_tokens())
    assert np.array_equal(targets, stream)
    inputs = np.concatenate([m["tokens"][m["loss_weights"] > 0] for m in made])
    begins = np.concatenate([[True], stream[:-1] == BYTES.special.eos])
    assert np.array_equal(inputs, np.where(begins, BYTES.special.start, np.concatenate([[0], stream[:-1]])))


def test_causal_without_bos_starts_with_pad() -> None:
    import dataclasses

    plain = dataclasses.replace(BYTES, special=dataclasses.replace(BYTES.special, bos=-1))
    features = causal.Objective(plain, 4).example(window_of([5, 1], [6, 1], first_input=0), np.random.default_rng(0))
    assert features["tokens"].tolist() == [0, 5, 0, 6]


# ---- masked


def mask(window: Window, address: int = 0, **options: Any) -> dict[str, np.ndarray]:
    return masked.Objective(BYTES, len(window.tokens), **options).example(window, generator(0, "test", address))


@given(
    lengths=st.lists(st.integers(1, 40), min_size=1, max_size=6), pad=st.integers(0, 9), rate=st.floats(0.01, 1.0), seed=st.integers(0, 99)
)  # fmt: skip
@hypothesis_settings(max_examples=80, deadline=None)
def test_masked_counts_are_exact(lengths: list[int], pad: int, rate: float, seed: int) -> None:
    rng = np.random.default_rng(seed)
    window = window_of(*([*rng.integers(3, 259, n - 1).tolist(), 1] for n in lengths), pad=pad)
    before = window.tokens.copy()
    features = mask(window, seed, mask_rate=rate)
    ordinary = sum(lengths) - len(lengths)  # each document ends with an end token
    chosen = features["loss_weights"] > 0
    assert chosen.sum() == (max(1, round(ordinary * rate)) if ordinary else 0)
    assert set(np.unique(features["loss_weights"]).tolist()) <= {0.0, 1.0}
    assert np.array_equal(features["targets"], before) and np.array_equal(window.tokens, before)
    assert not np.isin(before[chosen], SPECIAL).any()
    assert np.array_equal(features["tokens"][~chosen], before[~chosen])
    put_in = features["tokens"][chosen & (features["tokens"] != before)]
    assert not np.isin(put_in[put_in != BYTES.special.mask], SPECIAL).any()
    assert np.array_equal(features["segment_ids"], window.segment_ids) and np.array_equal(features["positions"], window.positions)


def test_masked_eighty_ten_ten() -> None:
    """Shares over 60,000 choices; the bound is five standard deviations of a binomial."""
    window = window_of(np.random.default_rng(1).integers(3, 259, 1000).tolist())
    fates, replacements = np.zeros(3), []
    for address in range(400):
        features = mask(window, address)
        chosen = features["loss_weights"] > 0
        tokens, targets = features["tokens"][chosen], features["targets"][chosen]
        is_mask, stays = tokens == BYTES.special.mask, tokens == targets
        fates += [is_mask.sum(), (~is_mask & ~stays).sum(), stays.sum()]
        replacements.append(tokens[~is_mask & ~stays])
    total = fates.sum()
    assert total == 400 * 150
    ordinary = masked.Objective(BYTES, 8).ordinary_ids
    lucky = 0.1 / len(ordinary)  # a random token that is the right one
    for count, share in zip(fates, (0.8, 0.1 - lucky, 0.1 + lucky), strict=True):
        assert abs(count - total * share) < 5 * np.sqrt(total * share * (1 - share))
    assert np.isin(np.concatenate(replacements), ordinary).all()
    assert len(np.unique(np.concatenate(replacements))) > 0.99 * len(ordinary)


def test_masked_positions_are_uniform() -> None:
    window = window_of(range(3, 43))
    counts = sum(mask(window, address)["loss_weights"] for address in range(2000))
    assert abs(counts - 300).max() < 5 * np.sqrt(2000 * 0.15 * 0.85)


def test_masked_depends_on_its_address_alone() -> None:
    window = window_of(range(3, 99))
    one, again, other = mask(window, 5), mask(window, 5), mask(window, 6)
    assert all(np.array_equal(one[n], again[n]) for n in one)
    assert not np.array_equal(one["tokens"], other["tokens"])


def test_masked_of_nothing_predicts_nothing() -> None:
    for window in (window_of(pad=5), window_of([1], [1], [1])):
        features = mask(window)
        assert features["loss_weights"].sum() == 0 and np.array_equal(features["tokens"], window.tokens)


def test_masked_takes_one_of_one() -> None:
    assert mask(window_of([7, 1], pad=2))["loss_weights"].tolist() == [1, 0, 0, 0]


# ---- losses


def outputs(hidden: jax.Array, head: jax.Array, chunks: int = 1) -> Any:
    return Outputs(hidden, lambda h: (h @ head).astype(jnp.float32), chunks=chunks)


@pytest.fixture
def problem() -> tuple[np.ndarray, np.ndarray, np.ndarray, np.ndarray]:
    rng = np.random.default_rng(0)
    hidden, head = rng.normal(size=(3, 8, 16)).astype(np.float32), rng.normal(size=(16, 50)).astype(np.float32) * 3
    return hidden, head, rng.integers(0, 50, (3, 8)).astype(np.int32), rng.integers(0, 2, (3, 8)).astype(np.float32)


def test_cross_entropy_equals_numpy_and_optax(problem: tuple[np.ndarray, ...]) -> None:
    hidden, head, targets, weights = problem
    logits = hidden.astype(np.float64) @ head.astype(np.float64)
    log_sum = np.log(np.exp(logits - logits.max(-1, keepdims=True)).sum(-1)) + logits.max(-1)
    wanted = np.sum((log_sum - np.take_along_axis(logits, targets[..., None], -1)[..., 0]) * weights)
    loss = cross_entropy(outputs(jnp.asarray(hidden), jnp.asarray(head)), jnp.asarray(targets), jnp.asarray(weights))
    # float32 logits of size 10 over 16 products: relative 1e-6.
    assert float(loss.total) == pytest.approx(wanted, rel=2e-6)
    assert float(loss.weight) == weights.sum()
    theirs = optax.softmax_cross_entropy_with_integer_labels(jnp.asarray(logits, jnp.float32), jnp.asarray(targets))
    assert float(loss.total) == pytest.approx(float(jnp.sum(theirs * weights)), rel=2e-6)


def test_token_losses_survive_huge_logits() -> None:
    logits = jnp.asarray([[1e4, 0.0, -1e4], [-1e38, 1e38, 0.0]], jnp.float32)
    for gather in (False, True):
        assert token_losses(logits, jnp.asarray([1, 1]), gather).tolist() == [1e4, 0.0]
        assert np.isfinite(jax.grad(lambda x: jnp.sum(token_losses(x, jnp.asarray([1, 1]), gather)))(logits)).all()  # noqa: B023


@pytest.mark.parametrize("gather", [False, True])
def test_token_losses_and_their_gradient_equal_optax(gather: bool) -> None:
    rng = np.random.default_rng(3)
    logits = jnp.asarray(rng.normal(size=(2, 5, 30)) * 5, jnp.float32)
    targets, weights = jnp.asarray(rng.integers(0, 30, (2, 5))), jnp.asarray(rng.random((2, 5)), jnp.float32)
    targets = targets.at[0, 0].set(0).at[1, 4].set(29)  # the ends of the vocabulary
    ours = jax.value_and_grad(lambda x: jnp.sum(token_losses(x, targets, gather) * weights))(logits)
    theirs = jax.value_and_grad(lambda x: jnp.sum(optax.softmax_cross_entropy_with_integer_labels(x, targets) * weights))(logits)
    assert float(ours[0]) == pytest.approx(float(theirs[0]), rel=2e-6)
    np.testing.assert_allclose(ours[1], theirs[1], rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize("chunks", [2, 4, 8])
def test_chunks_change_nothing(problem: tuple[np.ndarray, ...], chunks: int) -> None:
    hidden, head, targets, weights = map(jnp.asarray, problem)

    def total(hidden: jax.Array, head: jax.Array, chunks: int) -> jax.Array:
        return cross_entropy(outputs(hidden, head, chunks), targets, weights).total

    whole, parts = (jax.value_and_grad(total, argnums=(0, 1))(hidden, head, n) for n in (1, chunks))
    # The same float32 numbers added in another order.
    for a, b in zip(jax.tree.leaves(whole), jax.tree.leaves(parts), strict=True):
        np.testing.assert_allclose(a, b, rtol=1e-5, atol=1e-5)


def test_rows_of_keeps_its_own_rows() -> None:
    batch = {"objective": jnp.asarray([0, 1, 0]), "loss_weights": jnp.ones((3, 2))}
    assert rows_of(batch, 1, 2)["loss_weights"].tolist() == [[0, 0], [1, 1], [0, 0]]
    assert rows_of(batch, 0, 1) is batch


@pytest.mark.parametrize("objective", [causal.Objective(BYTES, 8), masked.Objective(BYTES, 8)])
def test_weight_is_what_loss_reports(objective: Any, problem: tuple[np.ndarray, ...]) -> None:
    hidden, head, targets, weights = map(jnp.asarray, problem)
    batch = {"targets": targets, "loss_weights": weights}
    assert float(objective.weight(batch)) == float(objective.loss(outputs(hidden, head), batch).weight)
