"""What an example looks like, and what its loss is, against counting, NumPy in float64, and Optax."""

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from hypothesis import given
from hypothesis import settings as hypothesis_settings
from hypothesis import strategies as st
from objective_support import window_of, within
from support import BYTES

from pretrainx.data.cache import TokenCache
from pretrainx.data.windows import Windows
from pretrainx.models.transformer import Outputs
from pretrainx.objectives import causal, masked
from pretrainx.objectives.examples import choose_elsewhere
from pretrainx.objectives.losses import (
    PredictsTargets,
    binary_cross_entropy,
    by_term,
    class_cross_entropy,
    cross_entropy,
    predicted,
    predicted_cross_entropy,
    rows_of,
    take,
    term_names,
    token_losses,
)

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


# ---- losses


def outputs(hidden: jax.Array, head: jax.Array, chunks: int = 1, own_rows: bool = False) -> Any:
    return Outputs(hidden, lambda h: (h @ head).astype(jnp.float32), chunks=chunks, own_rows=own_rows)


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
    assert float(loss.correct) == ((logits.argmax(-1) == targets) * weights).sum()
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


@pytest.mark.parametrize(("chunks", "own_rows"), [(2, False), (4, False), (8, True), (3, True)])
def test_chunks_change_nothing(problem: tuple[np.ndarray, ...], chunks: int, own_rows: bool) -> None:
    hidden, head, targets, weights = map(jnp.asarray, problem)

    def total(hidden: jax.Array, head: jax.Array, chunks: int) -> jax.Array:
        return cross_entropy(outputs(hidden, head, chunks, own_rows), targets, weights).total

    whole, parts = (jax.value_and_grad(total, argnums=(0, 1))(hidden, head, n) for n in (1, chunks))
    # The same float32 numbers added in another order.
    for a, b in zip(jax.tree.leaves(whole), jax.tree.leaves(parts), strict=True):
        np.testing.assert_allclose(a, b, rtol=1e-5, atol=1e-5)


def test_rows_of_keeps_its_own_rows() -> None:
    batch = {"objective": jnp.asarray([0, 1, 0]), "loss_weights": jnp.ones((3, 2))}
    assert rows_of(batch, 1, 2)["loss_weights"].tolist() == [[0, 0], [1, 1], [0, 0]]
    assert rows_of(batch, 0, 1) is batch


def test_the_head_runs_on_predicted_positions_alone(problem: tuple[np.ndarray, ...]) -> None:
    hidden, head, targets, weights = map(jnp.asarray, problem)
    weights = weights.at[1].set(0)  # a row that predicts nothing
    seen = []

    def counting(part: jax.Array) -> jax.Array:
        seen.append(part.shape)
        return part @ head

    few = predicted_cross_entropy(Outputs(hidden, counting), targets, weights, 7)
    assert seen == [(3, 7, 16)] and weights.sum(1).max() <= 7
    every = cross_entropy(outputs(hidden, head), targets, weights)
    assert float(few.total) == pytest.approx(float(every.total), rel=1e-6)
    assert (float(few.weight), float(few.correct)) == (float(every.weight), float(every.correct))
    longer = predicted_cross_entropy(outputs(hidden, head), targets, weights, 100)  # more than there are
    assert float(longer.total) == pytest.approx(float(every.total), rel=1e-6)


def test_predicted_and_take() -> None:
    weights = jnp.asarray([[0, 1, 0, 1], [0, 0, 0, 0]], jnp.float32)
    places, kept = predicted(weights, 3)
    assert places.tolist() == [[1, 3, 0], [0, 1, 2]] and kept.tolist() == [[1, 1, 0], [0, 0, 0]]
    x = jnp.arange(8).reshape(2, 4)
    assert take(x, places).tolist() == [[1, 3, 0], [4, 5, 6]]
    assert take(jnp.stack([x, -x], -1), places)[0].tolist() == [[1, -1], [3, -3], [0, 0]]


def test_binary_and_class_cross_entropy_equal_optax() -> None:
    rng = np.random.default_rng(5)
    logits, labels, weights = rng.normal(size=(4, 6)) * 4, rng.integers(0, 2, (4, 6)), rng.random((4, 6))
    x, y, w = jnp.asarray(logits, jnp.float32), jnp.asarray(labels, jnp.float32), jnp.asarray(weights, jnp.float32)
    loss = binary_cross_entropy(x, y, w)
    assert float(loss.total) == pytest.approx(float(jnp.sum(optax.sigmoid_binary_cross_entropy(x, y) * w)), rel=1e-6)
    assert float(loss.weight) == pytest.approx(weights.sum())
    assert float(loss.correct) == pytest.approx(weights[(logits > 0) == labels].sum())
    huge = binary_cross_entropy(jnp.asarray([1e4, -1e4, 1e4]), jnp.asarray([1.0, 0.0, 0.0]), jnp.ones(3))
    assert float(huge.total) == 1e4 and float(huge.correct) == 2

    classes, rows = jnp.asarray(labels[:, 0] + 2), w[:, 0]
    loss = class_cross_entropy(x, classes, rows)
    assert float(loss.total) == pytest.approx(float(jnp.sum(optax.softmax_cross_entropy_with_integer_labels(x, classes) * rows)), rel=1e-6)
    assert float(loss.weight) == pytest.approx(weights[:, 0].sum())
    assert float(loss.correct) == pytest.approx(((logits.argmax(1) == labels[:, 0] + 2) * weights[:, 0]).sum())


def test_terms_have_names_and_their_own_rows() -> None:
    class Several(PredictsTargets):
        terms = {"mlm": 1.0, "nsp": 2.0}  # noqa: RUF012

    both: Any = {"causal": causal.Objective(BYTES, 8), "pair": Several()}
    assert term_names("causal", both["causal"]) == {"tokens": "causal"}
    assert term_names("pair", both["pair"]) == {"mlm": "pair/mlm", "nsp": "pair/nsp"}
    batch = {
        "objective": jnp.asarray([0, 1, 1]),
        "loss_weights": jnp.ones((3, 2)),
        "pair_weights": jnp.ones(3),
        "targets": jnp.ones((3, 2)),
    }

    def sums(objective: Any, rows: dict[str, jax.Array]) -> dict[str, float]:
        return {term: float(rows["loss_weights"].sum() + 10 * rows["pair_weights"].sum()) for term in objective.terms}

    assert by_term(both, sums, batch) == {"causal": 2 + 10, "pair/mlm": 4 + 20, "pair/nsp": 4 + 20}


@pytest.mark.parametrize("objective", [causal.Objective(BYTES, 8), masked.Objective(BYTES, 8, mask_rate=1.0)])
def test_weight_is_what_loss_reports(objective: Any, problem: tuple[np.ndarray, ...]) -> None:
    hidden, head, targets, weights = map(jnp.asarray, problem)
    batch = {"targets": targets, "loss_weights": weights}
    found = objective.loss(outputs(hidden, head), batch)
    assert set(found) == set(objective.terms) == set(objective.weights(batch))
    assert float(objective.weights(batch)["tokens"]) == float(found["tokens"].weight) == weights.sum()


# ---- another document


@given(
    sizes=st.lists(st.integers(1, 60), min_size=1, max_size=8), first=st.integers(0, 7), count=st.integers(1, 3), length=st.integers(1, 50),
    address=st.integers(0, 999),
)  # fmt: skip
@hypothesis_settings(max_examples=200)
def test_elsewhere_lies_in_one_other_document(sizes: list[int], first: int, count: int, length: int, address: int) -> None:
    ends = np.cumsum(sizes)
    own = (min(first, len(sizes) - 1), min(first + count, len(sizes)))
    own = (own[0], max(own[1], own[0] + 1))
    start, stop = choose_elsewhere((0, "a", 0, address), len(sizes), own, lambda d: (int(ends[d] - sizes[d]), int(ends[d])), length)
    if own == (0, len(sizes)):
        assert (start, stop) == (0, 0)
        return
    document = int(np.searchsorted(ends, start, "right"))
    assert not own[0] <= document < own[1]
    assert ends[document] - sizes[document] <= start < stop <= ends[document]
    assert stop - start == min(length, ends[document] - start) >= min(sizes[document], max(1, length // 4))


def test_other_documents_are_drawn_evenly() -> None:
    span_of = lambda d: (100 * d, 100 * d + 100)  # noqa: E731
    places = [choose_elsewhere((0, "a", 0, i), 6, (2, 4), span_of, 40) for i in range(4000)]
    counts = np.bincount([start // 100 for start, _ in places], minlength=6)
    assert counts[2] == counts[3] == 0 and all(within(n, 4000, 1 / 4) for n in counts[[0, 1, 4, 5]])
    starts = np.bincount([start % 100 for start, _ in places], minlength=100)
    assert not starts[90:].any() and all(within(n, 4000, 1 / 90) for n in starts[:90])
    assert places[0] != choose_elsewhere((0, "a", 1, 0), 6, (2, 4), span_of, 40)
