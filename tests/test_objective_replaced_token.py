"""Replaced tokens: what is masked, what is sampled and from what, who gets a gradient, and both losses against NumPy."""

import dataclasses
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import given
from hypothesis import settings as hypothesis_settings
from hypothesis import strategies as st
from objective_support import StandIn, alone, batch_of, encoded, log_softmax, run, totals, weights_of, window_of, windows, within
from support import BYTES

from pretrainx.core.errors import InputError
from pretrainx.core.rng import generator
from pretrainx.objectives import replaced_token
from pretrainx.objectives.examples import feature_spec
from pretrainx.objectives.interface import Features, Window
from pretrainx.objectives.replaced_token import sample

MASK = BYTES.special.mask


def make(window: Window, address: int = 0, **options: Any) -> Features:
    return replaced_token.Objective(BYTES, len(window.tokens), **options).example(window, generator(0, "test", address))


def judged(objective: replaced_token.Objective, outputs: StandIn, batch: dict[str, Any]) -> tuple[dict[str, Any], np.ndarray]:
    """The losses, and the tokens that the discriminator was given."""
    seen: list[np.ndarray] = []

    def replaced(tokens: jax.Array) -> jax.Array:
        seen.append(np.asarray(tokens))
        return outputs.heads["replaced"](tokens)

    found = objective.loss(dataclasses.replace(outputs, heads={"replaced": replaced}), batch)
    (tokens,) = seen  # it runs once
    return found, tokens


# ---- examples


@given(
    lengths=st.lists(st.integers(1, 40), min_size=1, max_size=6), pad=st.integers(0, 9), rate=st.floats(0.01, 1.0), seed=st.integers(0, 99)
)  # fmt: skip
@hypothesis_settings(max_examples=100)
def test_every_chosen_token_is_masked(lengths: list[int], pad: int, rate: float, seed: int) -> None:
    rng = np.random.default_rng(seed)
    window = window_of(*([*rng.integers(3, 259, n - 1).tolist(), 1] for n in lengths), pad=pad)
    features = make(window, seed, mask_rate=rate)
    chosen, ordinary = features["loss_weights"] > 0, sum(lengths) - len(lengths)
    assert chosen.sum() == (max(1, round(ordinary * rate)) if ordinary else 0)
    assert (features["tokens"][chosen] == MASK).all() and np.array_equal(features["tokens"][~chosen], window.tokens[~chosen])
    assert np.array_equal(features["targets"], window.tokens)
    assert np.array_equal(features["token_weights"], window.segment_ids > 0) and features["token_weights"].dtype == np.float32
    assert features["sample_seed"].shape == () and features["sample_seed"].dtype == np.uint32


def test_seeds_are_even_over_32_bits_and_depend_on_the_address() -> None:
    window = window_of([7, 8, 1])
    seeds = np.asarray([make(window, address)["sample_seed"] for address in range(4000)])
    assert len(np.unique(seeds)) >= 3998  # two collisions at most: 4,000² / 2^33 = 0.002 are expected
    assert all(within(int(np.sum(seeds >> bit & 1)), 4000, 0.5) for bit in range(32))
    assert all(np.array_equal(make(window, 3)[name], array) for name, array in make(window, 3).items())


def test_the_released_share_of_masks() -> None:
    window = windows("bytes", 512)[0]
    kept = [make(window, i, mask_share=0.85) for i in range(100)]
    masked = sum(int((f["tokens"] == MASK).sum()) for f in kept)
    assert within(masked, 100 * int(kept[0]["loss_weights"].sum()), 0.85)
    assert all(np.isin(f["tokens"] - window.tokens, [0, *(MASK - window.tokens)]).all() for f in kept)  # else it stays


# ---- sampling


def test_samples_follow_the_softmax_over_ordinary_ids() -> None:
    """20,000 draws of one distribution: each id within five deviations of its share; others never, however likely the model finds them."""
    rng = np.random.default_rng(0)
    logits = rng.normal(size=300).astype(np.float32) * 1.5
    logits[[0, 1, MASK, 263, 264, 299]] = 50  # special, spare, and rows beyond the vocabulary of 264
    seeds, places = jnp.arange(200, dtype=jnp.uint32), jnp.tile(jnp.arange(100), (200, 1))
    drawn = np.asarray(sample(jnp.broadcast_to(logits, (200, 100, 300)), BYTES.is_ordinary, seeds, places))
    assert drawn.dtype == np.int32
    shares = np.where(np.arange(300) < 264, np.append(BYTES.is_ordinary, np.zeros(36)), 0) * np.exp(logits.astype(np.float64))
    shares /= shares.sum()
    counts = np.bincount(drawn.ravel(), minlength=300)
    assert not counts[shares == 0].any() and all(within(n, 20_000, p) for n, p in zip(counts, shares, strict=True))


def test_a_sample_depends_on_its_row_and_place_alone() -> None:
    """Not on the batch's size or order, nor on how many positions are predicted, nor on the mesh."""
    rng = np.random.default_rng(1)
    logits = jnp.asarray(rng.normal(size=(8, 6, 264)), jnp.float32)
    seeds, places = (
        jnp.asarray(rng.integers(0, 1 << 32, 8), jnp.uint32),
        jnp.asarray(rng.permuted(np.tile(np.arange(50), (8, 1)), axis=1)[:, :6]),
    )
    whole = np.asarray(sample(logits, BYTES.is_ordinary, seeds, places))
    one = [np.asarray(sample(logits[i : i + 1, ::-1], BYTES.is_ordinary, seeds[i : i + 1], places[i : i + 1, ::-1])) for i in range(8)]
    assert np.array_equal(whole, np.concatenate(one)[:, ::-1])
    few = np.asarray(sample(logits[:, 2:4], BYTES.is_ordinary, seeds, places[:, 2:4]))
    assert np.array_equal(whole[:, 2:4], few)
    mesh = jax.make_mesh((4, 2), ("data", "tensor"), axis_types=(jax.sharding.AxisType.Auto,) * 2)
    sharded = jax.device_put(logits, jax.NamedSharding(mesh, jax.P("data", None, "tensor")))
    assert np.array_equal(whole, jax.jit(lambda x: sample(x, BYTES.is_ordinary, seeds, places))(sharded))
    assert len(np.unique(whole)) > 20


# ---- losses


def test_losses_equal_numpy_and_a_lucky_sample_is_original() -> None:
    objective = replaced_token.Objective(BYTES, 96)
    window = window_of(encoded("bytes")[0][-40:], encoded("bytes")[1][-30:], pad=26)
    examples = [objective.example(window, generator(0, "loss", i)) for i in range(6)]
    weights = weights_of(264, 96)
    weights |= {"embed": np.abs(weights["embed"]), "place": np.abs(weights["place"]), "head": np.zeros_like(weights["head"])}
    weights["head"][:, [35, 104, 108]] = 0.3  # the generator says " ", "e" or "i", so many guesses are right
    batch = batch_of(examples)
    outputs = run(weights, batch)
    found, corrupted = judged(objective, outputs, batch)
    chosen, text = np.asarray(batch["loss_weights"]) > 0, np.asarray(batch["targets"])
    assert np.array_equal(corrupted[~chosen], text[~chosen])  # no mask token is left, and nothing else is touched
    assert BYTES.is_ordinary[corrupted[chosen]].all()
    lucky = chosen & (corrupted == text)
    assert 0 < lucky.sum() < chosen.sum()

    hidden = np.asarray(outputs.hidden, np.float64)
    scores = log_softmax(hidden @ weights["head"])
    mlm = -np.take_along_axis(scores, text[..., None], -1)[..., 0][chosen].sum()
    assert float(found["mlm"].total) == pytest.approx(mlm, rel=1e-5) and float(found["mlm"].weight) == chosen.sum()
    logits = np.asarray(outputs.heads["replaced"](jnp.asarray(corrupted)), np.float64)
    label, inside = chosen & ~lucky, np.asarray(batch["segment_ids"]) > 0
    rtd = np.where(label, np.logaddexp(0, -logits), np.logaddexp(0, logits))
    assert float(found["rtd"].total) == pytest.approx(rtd[inside].sum(), rel=1e-5) and float(found["rtd"].weight) == inside.sum() == 6 * 70
    assert float(found["rtd"].correct) == ((logits > 0) == label)[inside].sum()


def test_no_gradient_goes_from_the_judge_to_the_generator() -> None:
    objective = replaced_token.Objective(BYTES, 64)
    batch = batch_of([objective.example(windows("bytes", 64)[i], generator(0, "grad", i)) for i in range(2)])

    def total(weights: dict[str, Any]) -> dict[str, jax.Array]:
        return {term: loss.total for term, loss in objective.loss(run(weights, batch), batch).items()}

    grads = jax.jit(jax.jacrev(total))(weights_of(264, 64))
    size = {term: {name: float(jnp.abs(g).sum()) for name, g in grads[term].items()} for term in grads}
    assert size["rtd"]["head"] == size["rtd"]["embed"] == 0 and size["rtd"]["judge"] > 0 and size["rtd"]["judge_embed"] > 0
    assert size["mlm"]["head"] > 0 and size["mlm"]["embed"] > 0 and size["mlm"]["judge"] == size["mlm"]["judge_embed"] == 0


def test_packing_changes_nothing_where_samples_are_the_same() -> None:
    """A generator that is sure of one token: its samples do not depend on the place, which packing moves."""
    objective = replaced_token.Objective(BYTES, 128)
    text = [encoded("bytes")[i][-30 - i : None] for i in range(3)]
    packed = objective.example(window_of(*text, pad=128 - sum(map(len, text))), generator(0, "pack", 0))
    weights = weights_of(264, 128)
    weights["embed"], weights["place"] = np.abs(weights["embed"]), np.abs(weights["place"])
    weights["head"] = np.zeros_like(weights["head"])
    weights["head"][:, 104] = 30.0
    rows = [row | {"sample_seed": np.asarray(i, np.uint32)} for i, row in enumerate(alone(packed))]
    whole, parts = totals(objective, weights, [packed]), totals(objective, weights, rows)
    for term in whole:  # float32 sums in another order
        assert parts[term][1] == whole[term][1] > 0 and parts[term][0] == pytest.approx(whole[term][0], rel=1e-5)


def test_rows_of_other_objectives_count_nothing_and_change_nothing() -> None:
    objective = replaced_token.Objective(BYTES, 64)
    mine = [objective.example(windows("bytes", 64)[i], generator(0, "rows", i)) for i in range(2)]
    other = mine[0] | {name: np.zeros_like(mine[0][name]) for name in ("loss_weights", "token_weights", "sample_seed")}
    weights = weights_of(264, 64)
    alone_, among = totals(objective, weights, mine), totals(objective, weights, [other, *mine, other])
    for term in alone_:
        assert among[term][1] == alone_[term][1] and among[term][0] == pytest.approx(alone_[term][0], rel=1e-5)
    assert set(totals(objective, weights, [other, other]).values()) == {(0.0, 0.0)}
    batch = batch_of([other, other])
    assert np.array_equal(judged(objective, run(weights, batch), batch)[1], batch["targets"])


def test_what_it_says_of_itself() -> None:
    objective = replaced_token.Objective(BYTES, 64)
    assert (objective.window_length, objective.sight, objective.needs) == (64, "bidirectional", ("replaced",))
    assert objective.terms == {"mlm": 1, "rtd": 50} and objective.aligned and not (objective.codes_text or objective.needs_elsewhere)
    spec = feature_spec(objective, BYTES)
    assert spec["sample_seed"] == ((), np.uint32)
    for address, window in enumerate([window_of(pad=64), window_of([1], pad=63), windows("bytes", 64)[7]]):
        made = objective.example(window, generator(0, "spec", address))
        assert {name: (array.shape, array.dtype) for name, array in made.items()} == spec


@pytest.mark.parametrize(
    ("options", "message"), [({"mask_rate": 1.5}, "replaced_token.mask_rate 1.5"), ({"mask_share": -1}, "mask_share -1")]
)
def test_options_that_make_no_sense_are_refused(options: dict[str, Any], message: str) -> None:
    with pytest.raises(InputError, match=message):
        replaced_token.Objective(BYTES, 32, **options)
    with pytest.raises(InputError, match="no mask token"):
        replaced_token.Objective(dataclasses.replace(BYTES, special=dataclasses.replace(BYTES.special, mask=-1)), 32)
