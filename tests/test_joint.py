"""Objectives on real models: mixtures add up, and documents that share a row do not know of each other."""

from collections.abc import Iterable, Iterator
from dataclasses import replace
from itertools import pairwise
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from support import BYTES, documents, experiment, numpy_params, write_split

from pretrainx.core.errors import InputError
from pretrainx.data.loader import Mixture, RowBuilder, open_mixture
from pretrainx.data.order import Rows
from pretrainx.objectives.examples import from_pieces, randomness
from pretrainx.objectives.losses import by_term
from pretrainx.train import build, loop
from pretrainx.train.build import Program
from pretrainx.train.step import term_scales

VOCABULARY = replace(BYTES, size=BYTES.size + 100, num_sentinels=100)
# objective -> (model that suits it, options)
FAMILIES: dict[str, tuple[dict[str, Any], dict[str, Any]]] = {
    "causal": ({"name": "llama"}, {}),
    "masked": ({"name": "bert"}, {}),
    "span_boundary": ({"name": "bert"}, {}),
    "skip_gram": ({"name": "bert"}, {"subsample": 0.0, "stretch": 1}),
    "replaced_token": ({"name": "electra", "embedding_size": 16}, {}),
    "prefix": ({"name": "prefix_decoder"}, {}),
    "span_corruption": ({"name": "t5"}, {}),
    "ul2": ({"name": "prefix_decoder"}, {"form": "decoder"}),
    "blank_infilling": ({"name": "glm"}, {}),
    "denoising": ({"name": "bart"}, {}),
    "fill_in_middle": ({"name": "gpt2"}, {}),
}


@pytest.fixture(scope="module")
def sentinels(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("joint")
    for split, texts in (("train", documents()[:30]), ("validation", documents()[30:34])):
        write_split(folder, "topics", split, texts, vocabulary=VOCABULARY)
    return folder


def program_of(
    cache: Path, mixture: dict[str, float], model: dict[str, Any], options: dict[str, Any], **sections: Any
) -> tuple[Program, Mixture]:
    data = {"mixture": mixture, "sequence_length": 96, "vocabulary": "bytes+100", "objectives": options}
    checked = experiment(cache, data=data, model=model, **sections)
    opened = open_mixture(checked.data, "train")
    return build.from_mixture(checked, opened, jax.devices()[:1])[0], opened


def losses(program: Program, params: Any, batch: dict[str, np.ndarray]) -> dict[str, tuple[float, float]]:
    """term -> (summed loss, weight) of a batch."""

    @jax.jit
    def compute(params: Any, batch: Any) -> Any:
        outputs = program.skeleton.merge(params)(batch)
        found = by_term(program.objectives, lambda objective, rows: objective.loss(outputs, rows), batch)
        return {term: (loss.total, loss.weight) for term, loss in found.items()}

    return {term: (float(total), float(weight)) for term, (total, weight) in compute(params, batch).items()}


def alone(features: dict[str, np.ndarray]) -> Iterator[dict[str, np.ndarray]]:
    """The row once for each of its segments, with that segment alone, moved to the front."""
    for number in range(1, int(features["segment_ids"].max()) + 1):
        row = {}
        starts = {}
        for side in ("", "encoder_"):
            if f"{side}segment_ids" in features:
                places = np.flatnonzero(features[f"{side}segment_ids"] == number)
                starts[side] = int(places[0]) if len(places) else 0
        for name, array in features.items():
            if array.ndim == 0 or name == "drawn":
                row[name] = array
                continue
            side = "encoder_" if name.startswith("encoder_") else ""
            places = np.flatnonzero(features[f"{side}segment_ids"] == number)
            moved = np.zeros_like(array)
            moved[: len(places)] = array[places]
            if name in ("span_left", "span_right"):  # these count from the row's start
                moved[: len(places)] = np.maximum(moved[: len(places)] - starts[side], 0)
            row[name] = moved
        yield row


def quick(names: Iterable[str], among: set[str]) -> list[Any]:
    """The names as parameters; those that are not `among` the quick ones are slow."""
    return [name if name in among else pytest.param(name, marks=pytest.mark.slow) for name in names]


@pytest.mark.parametrize("name", quick(FAMILIES, {"masked", "span_corruption", "blank_infilling"}))
def test_packed_loss_is_unpacked_loss(name: str, sentinels: Path) -> None:
    """Five documents in one row, and each in a row of its own: equal sums of loss, and equal counts."""
    model, options = FAMILIES[name]
    program, _ = program_of(sentinels, {f"topics:{name}": 1.0}, model, {name: options} if options else {})
    objective = program.objectives[name]
    rng = np.random.default_rng(0)
    length = objective.window_length
    ends = [0, *sorted(rng.choice(np.arange(8, length - 8), 4, replace=False).tolist()), length - 3]
    tokens = rng.integers(3, 259, length).astype(np.int32)
    tokens[[end - 1 for end in ends[1:]]] = VOCABULARY.special.eos
    tokens[ends[-1] :] = 0
    window = from_pieces(tokens, list(pairwise(ends)), VOCABULARY.special.start)
    features = objective.example(window, randomness(0, name, 0, 0))
    rows = list(alone(features))
    assert len(rows) == 5
    params = numpy_params(program.skeleton)
    stacked = {key: np.stack([row[key] for row in rows]) for key in features}
    packed = losses(program, params, {key: array[None] for key, array in features.items()})
    apart = losses(program, params, stacked)
    for term, (total, weight) in packed.items():
        if term.endswith("/rtd"):  # which tokens the generator draws depends on the row's seed and place: only the count is one
            assert weight == apart[term][1]
            continue
        assert weight == apart[term][1] > 0
        assert total == pytest.approx(apart[term][0], rel=2e-5), term


ROWS = 32  # so that every objective has some
MIXTURES: dict[str, tuple[dict[str, float], dict[str, Any], dict[str, Any], dict[str, float]]] = {
    "one_set_of_weights": (
        {"topics:causal": 0.4, "topics:masked": 0.3, "topics:next_sentence": 0.3},
        {"name": "prefix_decoder", "num_token_types": 2},
        {},
        {"masked": 0.5, "next_sentence": 2.0, "next_sentence/nsp": 0.3},
    ),
    "encoder": ({"topics:masked": 0.5, "topics:sentence_order": 0.2, "topics:span_boundary": 0.3}, {"name": "bert"}, {}, {}),
    "encoder_decoder": (
        {"topics:span_corruption": 0.4, "topics:denoising": 0.3, "topics:prefix": 0.3},
        {"name": "t5"},
        {"prefix": {"form": "encoder_decoder"}},
        {"denoising": 0.25},
    ),
    "decoder": (
        {"topics:causal": 0.4, "topics:fill_in_middle": 0.3, "topics:prefix": 0.2, "topics:span_corruption": 0.1},
        {"name": "prefix_decoder"},
        {"span_corruption": {"form": "decoder"}},
        {},
    ),
}


@pytest.mark.parametrize("name", quick(MIXTURES, {"one_set_of_weights"}))
def test_a_mixture_is_the_weighted_sum_of_separate_runs_on_the_same_rows(name: str, sentinels: Path) -> None:
    rates, model, options, weights = MIXTURES[name]
    train = {"loss_weights": weights, "batch_size": ROWS}
    program, mixture = program_of(sentinels, rates, model, options, train=train)
    batch = RowBuilder(mixture).build(mixture.order().rows(0, ROWS))
    params = numpy_params(program.skeleton)
    state = replace(program.init_state(), params=jax.tree.map(jnp.asarray, params))
    _, metrics = jax.jit(program.step)(state, batch)
    scales = term_scales(program.objectives, weights)
    expected, counted = 0.0, set()
    rows = mixture.order().rows(0, ROWS)
    for index, source in enumerate(mixture.sources):
        own = {source.objective_name: options[source.objective_name]} if source.objective_name in options else {}
        single, alone_mixture = program_of(sentinels, {source.name: 1.0}, model | {"heads": program.experiment.model.heads}, own)
        places = rows.source == index
        mine = Rows(rows.number[places], np.zeros(places.sum(), np.int32), rows.epoch[places], rows.window[places])
        for term, (total, weight) in losses(single, params, RowBuilder(alone_mixture).build(mine)).items():
            counted.add(term)
            assert float(metrics[f"loss/{term}"]) == pytest.approx(total / weight, rel=3e-5), term
            assert float(metrics[f"targets/{term}"]) == weight
            expected += scales[term] * total / weight
    assert counted == set(scales)
    assert float(metrics["loss"]) == pytest.approx(expected, rel=3e-5)


def test_term_weights_come_from_the_paper_and_the_config(sentinels: Path) -> None:
    program, _ = program_of(sentinels, {"topics:replaced_token": 1.0}, {"name": "electra", "embedding_size": 16}, {})
    assert term_scales(program.objectives, {}) == {"replaced_token/mlm": 1.0, "replaced_token/rtd": 50.0}
    assert term_scales(program.objectives, {"replaced_token": 0.5, "replaced_token/rtd": 10.0}) == {
        "replaced_token/mlm": 0.5,
        "replaced_token/rtd": 5.0,
    }


def test_one_objective_under_several_names(sentinels: Path) -> None:
    """UL2's denoisers written as entries of a mixture: each name has its own arguments, loss and count."""
    options = {
        "short_spans": {"objective": "span_corruption", "form": "decoder"},
        "long_spans": {"objective": "span_corruption", "form": "decoder", "mean_span_length": 16.0, "noise_density": 0.5},
        "prefix": {"target_share": 0.25},
    }
    rates = {"topics:short_spans": 0.4, "topics:long_spans": 0.3, "topics:prefix": 0.3}
    program, mixture = program_of(sentinels, rates, {"name": "prefix_decoder"}, options, train={"batch_size": ROWS})
    rows = mixture.order().rows(0, ROWS)
    params = jax.tree.map(jnp.asarray, numpy_params(program.skeleton))
    _, metrics = jax.jit(program.step)(replace(program.init_state(), params=params), RowBuilder(mixture).build(rows))
    shares = {}
    for index, source in enumerate(mixture.sources):
        read = (rows.source == index).sum() * source.windows.length
        shares[source.objective_name] = float(metrics[f"targets/{source.objective_name}"]) / read
    # a sentinel for each span, and an end for some, come on top of the noise
    assert 0.15 < shares["short_spans"] < 0.26 and 0.5 < shares["long_spans"] < 0.6 and 0.1 < shares["prefix"] < 0.4


def test_a_name_of_ones_own_must_stand_for_an_objective(sentinels: Path) -> None:
    with pytest.raises(
        InputError, match=r"data\.objectives\.mine\.objective: unknown name 'span_coruption'; did you mean 'span_corruption'"
    ):
        program_of(sentinels, {"topics:mine": 1.0}, {"name": "t5"}, {"mine": {"objective": "span_coruption"}})


@pytest.mark.slow
@pytest.mark.parametrize("name", ["next_sentence", "sentence_order"])
def test_how_two_texts_relate_is_learned_where_it_is_plain(name: str, tmp_path: Path) -> None:
    """Documents of one letter each, or of letters in their order: in 250 steps nearly every pair is told."""
    if name == "next_sentence":
        texts = [letter * 300 for letter in "abcdefghijklmnopqrstuvwxyz"]
    else:
        texts = [a * 10 + b * 10 + c * 9 for a, b, c in ("abc", "ade", "dbe", "dec") * 30]
    for split in ("train", "validation"):
        write_split(tmp_path, "plain", split, texts)
    checked = experiment(
        tmp_path,
        data={"mixture": {f"plain:{name}": 1.0}, "sequence_length": 32, "objectives": {name: {"short_rate": 0.0}}},
        model={"name": "bert", "d_model": 64, "mlp_dim": 128},
        optim={"name": "muon", "peak_lr": 4e-3, "warmup": 10},
        train={"steps": 250, "batch_size": 32},
        eval={"every": 250},
        mesh={"data": 8},
    )
    run = loop.prepare(checked, tmp_path / "run")
    loop.train(run)
    assert run.state is not None
    found = loop.evaluator(run)(run.state.params)
    term = {"next_sentence": "nsp", "sentence_order": "sop"}[name]
    assert found[f"eval/plain:{name}/{term}/accuracy"] > 0.85
