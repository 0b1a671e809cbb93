"""The mixture of denoisers: each window is what one of the objectives it is made of gives, as often as its rate says."""

from dataclasses import replace
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from objective_checks import (
    SENTINELS,
    assert_packed_is_unpacked,
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
from pretrainx.core.rng import generator
from pretrainx.objectives import prefix, span_corruption
from pretrainx.objectives.ul2 import PAPER, Objective

FORMS = ("encoder_decoder", "decoder")
R, S, X = -1, -2, -3


def objective(length: int = 128, **options: Any) -> Objective:
    return Objective(SENTINELS, length, **options)


# The mixture as somebody would write it as entries of their own: (objective, arguments).
ENTRIES: list[tuple[Any, dict[str, Any]]] = [
    (span_corruption.Objective, {"noise_density": 0.15, "mean_span_length": 3.0, "mode_token": R}),
    (span_corruption.Objective, {"noise_density": 0.15, "mean_span_length": 8.0, "mode_token": R}),
    (prefix.Objective, {"target_share": 0.25, "mode_token": S}),
    (span_corruption.Objective, {"noise_density": 0.5, "mean_span_length": 3.0, "mode_token": X}),
    (span_corruption.Objective, {"noise_density": 0.5, "mean_span_length": 8.0, "mode_token": X}),
    (span_corruption.Objective, {"noise_density": 0.15, "mean_span_length": 64.0, "mode_token": X}),
    (span_corruption.Objective, {"noise_density": 0.5, "mean_span_length": 64.0, "mode_token": X}),
]


@given(lengths=many_documents, form=st.sampled_from(FORMS), length=st.integers(4, 200), address=st.integers(0, 999))
@settings(max_examples=150)
def test_each_draw_is_what_the_objective_by_itself_makes(lengths: list[int], form: str, length: int, address: int) -> None:
    """On the same randomness, after the draw. So reconstruction and bounds are those of the objectives drawn."""
    made = objective(length, form=form)
    window = random_window(lengths, made.window_length, address)
    features = make(made, window, address)
    rng = generator(0, "test", address)
    kind, options = ENTRIES[made.draw(rng)]
    alone = kind(SENTINELS, length, form=form, window_length=made.window_length, **options).example(window, rng)
    assert alone.keys() == features.keys()
    for name, array in alone.items():
        assert np.array_equal(features[name][: len(array)], array) and not features[name][len(array) :].any(), name


@pytest.mark.parametrize("rates", [None, [0.25, 0.0, 0.5, 0.0, 0.0, 0.25, 0.0]])
def test_denoisers_are_drawn_at_their_rates(rates: list[float] | None) -> None:
    made, draws = objective(rates=rates), 7000
    counts = np.bincount([made.draw(generator(0, "ul2", i)) for i in range(draws)], minlength=7)
    for count, rate in zip(counts, rates or [1 / 7] * 7, strict=True):
        assert within(count, draws, rate)


def test_the_mode_is_told() -> None:
    made = objective()
    window = random_window([60, 60], made.window_length)
    seen = set()
    for address in range(40):
        features, number = make(made, window, address), made.draw(generator(0, "test", address))
        token = SENTINELS.sentinels(200)[{"R": R, "S": S, "X": X}[str(PAPER[number][0])]]
        predicted = [n for n in (1, 2) if any(strings(features, n)["loss_weights"])]
        assert predicted and all(strings(features, n, "encoder_")["encoder_tokens"][0] == token for n in predicted)
        seen.add(number)
    assert seen == set(range(7))
    decoded = make(objective(form="decoder"), window_of(range(10, 40), length=objective(form="decoder").window_length))
    assert decoded["tokens"][0] in SENTINELS.sentinels(200)[[R, S, X]]
    plain = make(objective(mode_tokens=False), window)
    assert not np.isin(plain["encoder_tokens"], SENTINELS.sentinels(200)[[R, S, X]]).any()


def test_other_mixtures_can_be_named() -> None:
    """That of U-PaLM: half prefix, a quarter regular, a quarter extreme with spans of 32."""
    rows = [["S", 0, 0.25], ["R", 3, 0.15], ["X", 32, 0.15], ["X", 3, 0.5]]
    made = objective(256, denoisers=rows, rates=[0.5, 0.25, 0.125, 0.125], form="decoder")
    assert [type(d).__bases__[0] for d in made.denoisers] == [prefix.Objective] + [span_corruption.Objective] * 3
    assert made.denoisers[2].rule.counts(256)[1] == round(256 * 0.15 / 32)  # type: ignore[union-attr]


def test_real_text_packed_equals_unpacked() -> None:
    for form in FORMS:
        made = objective(100, form=form)
        assert sum(assert_packed_is_unpacked(make(made, window, i)) for i, window in enumerate(real_windows(made.window_length, 8))) >= 8


def test_lengths() -> None:
    made = objective(512)
    assert (made.window_length, made.target_length, made.sight) == (512, 426, "encoder_decoder")
    assert all(d.window_length == 512 for d in made.denoisers)
    assert objective(512, form="decoder").sight == "prefix"


@pytest.mark.parametrize("form", FORMS)
def test_windows_of_nothing_predict_nothing(form: str) -> None:
    made = objective(32, form=form)
    for window in (window_of(length=made.window_length), window_of([7], length=made.window_length)):
        assert make(made, window)["loss_weights"].sum() == 0


def test_it_depends_on_its_address_alone() -> None:
    made, window = objective(), random_window([64, 60], 128)
    one, again, other = (make(made, window, address) for address in (5, 5, 6))
    assert all(np.array_equal(one[name], again[name]) for name in one)
    assert not np.array_equal(one["encoder_tokens"], other["encoder_tokens"])


@pytest.mark.parametrize(("options", "message"), [
    ({"denoisers": []}, r"data\.objectives\.ul2\.denoisers is empty"),
    ({"denoisers": [["R", 3]]}, r"denoisers: \['R', 3\] is no row"),
    ({"denoisers": [["R", "3", 0.15]]}, r"is no row"),
    ({"denoisers": [["Y", 3, 0.15]]}, r"unknown mode 'Y'; .*accepted: R, S, X"),
    ({"denoisers": [["S", 0, 0.9]]}, r"data\.objectives\.ul2\.target_share 0\.9"),
    ({"denoisers": [["X", 3, 1.5]]}, r"data\.objectives\.ul2\.noise_density 1\.5"),
    ({"denoisers": [["X", 0, 0.5]]}, r"data\.objectives\.ul2\.mean_span_length 0\.0: accepted are numbers from 1"),
    ({"rates": [1.0]}, r"rates \[1\.0\]: accepted are 7 numbers"),
    ({"form": "x"}, r"data\.objectives\.ul2\.form 'x'"),
])  # fmt: skip
def test_wrong_options_are_refused(options: dict[str, Any], message: str) -> None:
    with pytest.raises(InputError, match=message):
        objective(**options)


def test_spans_and_modes_share_no_sentinel() -> None:
    spans = len(max((d.sentinels for d in objective().denoisers if isinstance(d, span_corruption.Objective)), key=len))
    enough = replace(BYTES, size=BYTES.size + spans + 3, num_sentinels=spans + 3)
    Objective(enough, 128)
    with pytest.raises(InputError, match=rf"ul2: needs {spans + 3} sentinels \(one for each span of a window and one for each mode\)"):
        Objective(replace(enough, num_sentinels=spans + 2), 128)
    Objective(BYTES, 128, denoisers=[["S", 0, 0.5]], mode_tokens=False)
