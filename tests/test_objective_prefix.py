"""Prefix language modelling: what is seen, what is predicted, and where documents are cut."""

from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from objective_checks import (
    EOS,
    SENTINELS,
    START,
    assert_packed_is_unpacked,
    documents_of,
    make,
    many_documents,
    random_window,
    real_windows,
    strings,
    window_of,
    within,
)
from support import BYTES

from pretrainx.core.errors import InputError
from pretrainx.objectives.interface import Features, Window
from pretrainx.objectives.prefix import Objective

FORMS = ("encoder_decoder", "decoder")


def objective(length: int = 64, **options: Any) -> Objective:
    return Objective(SENTINELS, length, **options)


def parts(features: Features, number: int) -> tuple[list[int], list[int]]:
    """(prefix, rest) of a document, of either form, without its mode token."""
    decoded = strings(features, number)
    if "encoder_tokens" in features:
        assert all(decoded["loss_weights"])
        return strings(features, number, "encoder_")["encoder_tokens"], decoded["targets"]
    cut = int(len(decoded["loss_weights"]) - sum(decoded["loss_weights"]))
    assert decoded["loss_weights"] == [0.0] * cut + [1.0] * (len(decoded["targets"]) - cut)
    assert decoded["bidirectional"] == [int(i <= cut) for i in range(len(decoded["targets"]))]
    return decoded["targets"][:cut], decoded["targets"][cut:]


@given(lengths=many_documents, length=st.integers(1, 200), form=st.sampled_from(FORMS), share=st.sampled_from([0.02, 0.25, 0.3, 0.5]),
       least=st.integers(1, 4), mode=st.booleans(), seed=st.integers(0, 9))  # fmt: skip
@settings(max_examples=200)
def test_nothing_is_lost(lengths: list[int], length: int, form: str, share: float, least: int, mode: bool, seed: int) -> None:
    made = objective(length, form=form, target_share=share, min_prefix=least, mode_token=-1 if mode else None)
    window = random_window(lengths, length, seed)
    features = make(made, window, seed)
    for number, document in enumerate(documents_of(window), 1):
        prefix, rest = parts(features, number)
        if mode and form == "encoder_decoder" and rest:
            assert prefix[0] == made.mode
            prefix = prefix[1:]
        assert prefix + rest == document
        assert len(prefix) >= min(least, len(document)) and bool(rest) == (len(document) > least)
        read = strings(features, number)["tokens"]
        first = made.mode if mode and form == "decoder" else START
        spelled = rest if form == "encoder_decoder" else document
        assert read == ([first, *spelled[:-1]] if spelled else [])


def test_a_case_by_hand() -> None:
    window = window_of([11, 12, 13], [20, EOS], [30], length=8, first_input=10)
    made = objective(8, target_share=0.25)  # the last token of short documents
    features = make(made, window)
    assert features["tokens"].tolist() == [10, 11, 12, START, 20, START, 0, 0]  # the true token before the window, then starts
    assert features["targets"].tolist() == [11, 12, 13, 20, EOS, 30, 0, 0]
    assert features["loss_weights"].tolist() == [0, 0, 1, 0, 1, 0, 0, 0]
    assert features["bidirectional"].tolist() == [1, 1, 1, 1, 1, 1, 0, 0]
    features = make(objective(8, target_share=0.25, form="encoder_decoder"), window)
    assert features["encoder_tokens"].tolist() == [11, 12, 20, 30, 0, 0, 0, 0]
    assert features["encoder_segment_ids"].tolist() == [1, 1, 2, 3, 0, 0, 0, 0]
    assert features["targets"].tolist() == [13, EOS, 0, 0] and features["segment_ids"].tolist() == [1, 2, 0, 0]
    assert features["tokens"].tolist() == [START, START, 0, 0]


@pytest.mark.parametrize(("share", "most"), [(0.5, 19), (0.25, 9)])
def test_the_place_of_the_cut_is_uniform(share: float, most: int) -> None:
    """Of 20 tokens, 1 to 2 * share * 20 - 1 are predicted, each number equally often, so `share` on average."""
    made, window, draws = objective(20, target_share=share), random_window([20], 20), 4000
    counts = np.zeros(21)
    for address in range(draws):
        counts[int(made.example(window, np.random.default_rng([3, address]))["loss_weights"].sum())] += 1
    assert np.flatnonzero(counts).tolist() == list(range(1, most + 1))
    assert all(within(count, draws, 1 / most) for count in counts[1 : most + 1])
    assert np.arange(1, most + 1).mean() == 20 * share


def test_no_position_of_the_prefix_knows_what_it_must_not() -> None:
    """Another last token changes no loss but its own: nothing that predicts sees what comes after it."""
    from objective_checks import TinyModel

    model = TinyModel()
    made, window = objective(40), random_window([40], 40)
    changed = Window(np.append(window.tokens[:-1], 5).astype(np.int32), window.segment_ids, window.positions, START, window.elsewhere)
    losses = [model.losses(made.example(w, np.random.default_rng(1))) for w in (window, changed)]
    assert np.array_equal(losses[0][:-1], losses[1][:-1]) and losses[0][-1] != losses[1][-1]
    assert np.count_nonzero(losses[0]) > 5


def test_real_text_packed_equals_unpacked() -> None:
    for form in FORMS:
        made = objective(90, form=form, mode_token=-2)
        assert sum(assert_packed_is_unpacked(make(made, window, i)) for i, window in enumerate(real_windows(90, 6))) >= 6


@pytest.mark.parametrize("form", FORMS)
def test_windows_of_nothing_predict_nothing(form: str) -> None:
    for window in (window_of(length=5), window_of([EOS], [EOS], length=5)):
        assert make(objective(5, form=form), window)["loss_weights"].sum() == 0


def test_it_depends_on_its_address_alone() -> None:
    made, window = objective(64), random_window([64], 64)
    one, again, other = (make(made, window, address) for address in (5, 5, 6))
    assert all(np.array_equal(one[name], again[name]) for name in one)
    assert not np.array_equal(one["loss_weights"], other["loss_weights"])


def test_it_codes_text() -> None:
    assert Objective.codes_text and objective().sight == "prefix" and objective(form="encoder_decoder").sight == "encoder_decoder"


@pytest.mark.parametrize(("options", "message"), [
    ({"target_share": 0.6}, r"data\.objectives\.prefix\.target_share 0\.6: accepted are numbers above 0 and up to 0\.5"),
    ({"min_prefix": 0}, r"min_prefix 0: accepted are numbers from 1; for none at all name causal"),
    ({"form": "both"}, r"form 'both'"),
    ({"mode_token": -201}, r"mode_token -201: accepted are 0 to 199, or -1 to -200"),
    ({"window_length": 65}, r"window_length 65: accepted are 1 to 64"),
])  # fmt: skip
def test_wrong_options_are_refused(options: dict[str, Any], message: str) -> None:
    with pytest.raises(InputError, match=message):
        objective(64, **options)


def test_a_mode_token_needs_a_sentinel() -> None:
    Objective(BYTES, 64)
    with pytest.raises(InputError, match=r"prefix: needs 1 sentinels \(a mode token\), .*data\.vocabulary in '\+1'"):
        Objective(BYTES, 64, mode_token=-1)
