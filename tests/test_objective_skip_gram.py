"""Skip-gram: which words stay, what its loss is, that vectors of like words come together, and that no stack runs."""

from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from objective_support import batch_of, vocabulary, window_of, windows, within
from support import BYTES, experiment, numpy_params, write_split

from pretrainx.core.errors import InputError
from pretrainx.core.rng import generator
from pretrainx.data.loader import open_mixture
from pretrainx.models.flops import stack_flops
from pretrainx.models.transformer import Outputs
from pretrainx.objectives import skip_gram
from pretrainx.objectives.interface import Features, Window
from pretrainx.train import build
from tests.test_manual import MANUAL, equal_one_device
from tests.test_step import batch_of as rows_of
from tests.test_step import program_of

WORDS = vocabulary("wordpiece")
FIRST = int(np.flatnonzero(WORDS.is_ordinary)[0])
SKIP: dict[str, Any] = {"data": {"mixture": {"topics:skip_gram": 1.0}}}


def example(text: Window, address: int = 0, **options: Any) -> Features:
    return skip_gram.Objective(WORDS, len(text.tokens), **{"stretch": 1, **options}).example(text, generator(0, "test", address))


def test_special_tokens_go_and_places_close_up() -> None:
    special = WORDS.special
    a, b, c, d = (FIRST + i for i in range(4))
    made = example(window_of([a, special.unk, b, c, special.eos], [d, a], pad=3), subsample=0)
    assert made["tokens"].tolist() == [a, b, c, d, a] + [special.pad] * 5
    assert made["segment_ids"].tolist() == [1, 1, 1, 2, 2] + [0] * 5
    assert made["positions"].tolist() == [0, 1, 2, 0, 1] + [0] * 5
    assert made["loss_weights"].tolist() == [1] * 5 + [0] * 5
    pairs = np.asarray(skip_gram.pair_weights({**batch_of([made]), "reach": jnp.full((1, 10), 2)}))[0]
    wanted = {(0, 1), (0, 2), (1, 0), (1, 2), (2, 0), (2, 1), (3, 4), (4, 3)}
    assert {(int(i), int(j)) for i, j in np.argwhere(pairs)} == wanted


def test_frequent_words_go_as_often_as_the_paper_says() -> None:
    """Ids by rank r make shares of 1 / (r + 2.7), up to a factor; a share f stays with a chance of sqrt(t / f) + t / f."""
    ranks = np.arange(int(WORDS.is_ordinary.sum()))
    shares = 1 / (ranks + 2.7)
    shares /= shares.sum()
    ids, t, turns = np.flatnonzero(WORDS.is_ordinary), 1e-3, 400
    window = window_of(ids[[0, 3, 50, 300]].repeat(50))
    found = np.zeros(WORDS.size)
    for address in range(turns):
        made = example(window, address, subsample=t)
        found += np.bincount(made["tokens"][made["segment_ids"] > 0], minlength=WORDS.size)
    for rank in (0, 3, 50, 300):
        chance = min(1.0, float(np.sqrt(t / shares[rank]) + t / shares[rank]))
        assert within(found[ids[rank]], 50 * turns, chance), rank
    assert found[ids[0]] < found[ids[50]] < found[ids[300]]


def test_words_are_drawn_by_the_three_quarter_power_and_reaches_evenly() -> None:
    window = windows("wordpiece", 64)[0]
    ids = np.flatnonzero(WORDS.is_ordinary)
    noise = (1 / (np.arange(len(ids)) + 2.7)) ** 0.75
    noise /= noise.sum()
    made = [example(window, address, num_drawn=200, window=4) for address in range(200)]
    drawn = np.concatenate([m["drawn"] for m in made])
    assert WORDS.is_ordinary[drawn].all()
    for rank in (0, 1, 10, 100, 300):
        assert within(float((drawn == ids[rank]).sum()), len(drawn), noise[rank]), rank
    reach = np.concatenate([m["reach"] for m in made])
    assert set(reach.tolist()) == {1, 2, 3, 4}
    for distance in (1, 2, 3, 4):
        assert within(float((reach == distance).sum()), len(reach), 0.25)


def test_a_row_takes_a_longer_stretch_and_is_filled_from_it() -> None:
    objective = skip_gram.Objective(WORDS, 32, stretch=4, subsample=0)
    assert objective.window_length == 128
    window = windows("wordpiece", 128)[0]
    made = objective.example(window, generator(0, "test", 0))
    kept = window.tokens[WORDS.is_ordinary[window.tokens]]
    assert made["tokens"].tolist() == kept[:32].tolist()


def by_hand(vectors: np.ndarray, beside: np.ndarray, features: Features, negatives: int) -> tuple[float, int]:
    """(loss, pairs) of equation 4 of the paper in float64, pair by pair."""
    sigmoid = lambda x: 1 / (1 + np.exp(-x))  # noqa: E731
    tokens, segments, total, pairs = features["tokens"], features["segment_ids"], 0.0, 0
    for i, token in enumerate(tokens):
        for j in range(max(0, i - features["reach"][i]), min(len(tokens), i + features["reach"][i] + 1)):
            if i == j or not segments[i] or segments[i] != segments[j]:
                continue
            far = [np.log(sigmoid(-100 * vectors[token] @ beside[k])) for k in features["drawn"]]
            total -= np.log(sigmoid(100 * vectors[token] @ beside[tokens[j]])) + negatives * np.mean(far)
            pairs += 1
    return total, pairs


def test_the_loss_is_the_papers(cache_dir: Path) -> None:
    program, _, _ = program_of(cache_dir, **SKIP, model={"name": "encoder"})
    params = numpy_params(program.skeleton)
    params["neighbour_head"]["embedding"] = np.random.default_rng(0).normal(0, 0.3, params["neighbour_head"]["embedding"].shape)
    objective = skip_gram.Objective(BYTES, 24, negatives=3, num_drawn=7, stretch=1)
    made = [objective.example(w, generator(0, "test", i)) for i, w in enumerate((window_of(range(50, 62), range(80, 88), pad=4),) * 3)]
    batch = batch_of(made)
    loss = objective.loss(program.skeleton.merge(params)(batch), batch)["tokens"]
    hand = [by_hand(params["embedder"]["embedding"].astype(np.float64), params["neighbour_head"]["embedding"], m, 3) for m in made]
    assert float(loss.weight) == float(objective.weights(batch)["tokens"]) == sum(pairs for _, pairs in hand) > 0
    assert float(loss.total) == pytest.approx(sum(total for total, _ in hand), rel=1e-5)


def test_no_stack_runs_and_nothing_of_it_learns(cache_dir: Path) -> None:
    program, builder, mixture = program_of(cache_dir, **SKIP, model={"name": "encoder", "d_model": 64, "num_layers": 4, "mlp_dim": 512})
    batch = {name: jnp.asarray(array) for name, array in rows_of(builder, mixture).items()}
    objective, params = program.objectives["skip_gram"], numpy_params(program.skeleton)

    def loss(params: Any) -> jax.Array:
        outputs: Outputs = program.skeleton.merge(params)(batch)
        return objective.loss(outputs, batch)["tokens"].total

    compiled = jax.jit(loss).lower(params).compile()
    rows, length = batch["tokens"].shape
    cost: Any = compiled.cost_analysis()
    pairs = 2.0 * rows * length * (length + 64) * 64
    assert pairs == program.flops_per_step / 3
    assert pairs < cost["flops"] < pairs + 20 * rows * length * (length + 64)  # and what each pair's logistic costs
    assert cost["flops"] < rows * stack_flops(program.experiment.model, length) / 2
    grads = jax.grad(loss)(params)
    assert not any(np.asarray(leaf).any() for leaf in jax.tree.leaves((grads["stack"], grads["token_head"])))
    assert np.asarray(grads["neighbour_head"]["embedding"]).any()


def test_words_of_like_company_come_together(tmp_path: Path) -> None:
    """Texts of four topics, each of six letters of its own: letters of a topic have the nearest vectors."""
    rng = np.random.default_rng(0)
    topics = ["abcdef", "ghijkl", "mnopqr", "stuvwx"]
    texts = ["".join(rng.choice(list(topics[n % 4]), 60)) for n in range(400)]
    for split in ("train", "validation"):
        write_split(tmp_path, "topics", split, texts)
    checked = experiment(
        tmp_path,
        data={"mixture": {"topics:skip_gram": 1.0}, "sequence_length": 32, "objectives": {"skip_gram": {"subsample": 0.0}}},
        model={"name": "encoder", "embed_init_std": 0.002},
        optim={"peak_lr": 3e-3},
        train={"batch_size": 32},
    )
    mixture = open_mixture(checked.data, "train")
    program, builder = build.from_mixture(checked, mixture, jax.devices()[:1])
    state, step = program.init_state(), program.compile_train()
    for number in range(150):
        state, _ = step(state, jax.device_put(rows_of(builder, mixture, number, 32), program.batch_shardings))
    vectors = np.asarray(state.params["embedder"]["embedding"])
    vectors = vectors / np.linalg.norm(vectors, axis=1, keepdims=True)
    letters = np.asarray([ord(c) + 3 for c in "".join(topics)])
    alike = vectors[letters] @ vectors[letters].T
    np.fill_diagonal(alike, -1)
    nearest = alike.argmax(1)
    assert (nearest // 6 == np.arange(24) // 6).all()


@pytest.mark.parametrize("mesh", ["cut_by_length", pytest.param("manual", marks=pytest.mark.slow)])
def test_on_a_mesh_as_on_one_device(mesh: str, cache_dir: Path) -> None:
    meshes = {"cut_by_length": {"layout": "fsdp_cp", "mesh": {"data": 1, "fsdp": 2, "sequence": 4}}, "manual": MANUAL}
    equal_one_device(cache_dir, meshes[mesh], **SKIP, model={"name": "encoder"})


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"window": 0}, r"skip_gram\.window 0: accepted are whole numbers, 1 or more"),
        ({"num_drawn": 2.5}, r"skip_gram\.num_drawn 2\.5: accepted"),
        ({"negatives": -1}, r"skip_gram\.negatives -1: accepted"),
        ({"subsample": 1.0}, r"skip_gram\.subsample 1\.0: accepted are numbers from 0 and below 1"),
    ],
)
def test_options_that_make_no_sense(options: dict[str, Any], message: str) -> None:
    with pytest.raises(InputError, match=message):
        skip_gram.Objective(WORDS, 32, **options)
