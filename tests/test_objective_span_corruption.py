"""Span corruption against T5's counts, enumeration, reconstruction, and bounds that hold for every window."""

from dataclasses import replace
from itertools import product
from typing import Any

import numpy as np
import pytest
from hypothesis import example, given, settings
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
from pretrainx.objectives import spans
from pretrainx.objectives.interface import Features, Window
from pretrainx.objectives.span_corruption import Objective

FORMS = ("encoder_decoder", "decoder")


def objective(length: int = 64, **options: Any) -> Objective:
    return Objective(SENTINELS, length, **options)


def sides(features: Features, number: int) -> tuple[list[int], list[int], bool]:
    """(source, target, whether it is predicted) of a document, of either form."""
    decoded = strings(features, number)
    predicted = any(decoded["loss_weights"])
    if "encoder_tokens" in features:
        return strings(features, number, "encoder_")["encoder_tokens"], decoded["targets"], predicted
    weights = decoded["loss_weights"]
    cut = weights.index(1) if predicted else len(weights)
    assert weights == [0] * cut + [1] * (len(weights) - cut)
    assert decoded["bidirectional"] == [int(i <= cut) for i in range(len(weights))]
    return decoded["targets"][:cut], decoded["targets"][cut:], predicted


def rebuilt(source: list[int], target: list[int], predicted: bool, mode: int | None = None) -> tuple[list[int], list[list[int]]]:
    """(the document, its spans): each sentinel of the source gives way to what follows it in the target."""
    if not predicted:
        return source + target, []
    if mode is not None:
        assert source[0] == mode
        source = source[1:]
    assert target[-1] == EOS
    noise: list[list[int]] = []
    for token in target[:-1]:
        if token >= BYTES.size:
            assert token == SENTINELS.sentinels(len(noise) + 1)[-1]  # each in its order
            noise.append([])
        else:
            noise[-1].append(token)
    left = iter(noise)
    document = [t for token in source for t in (next(left) if token >= BYTES.size else [token])]
    assert next(left, None) is None and all(noise)
    return document, noise


def all_spans(features: Features, window: Window, mode: int | None = None) -> list[list[list[int]]]:
    """The spans of each document, after checking that nothing of the window is lost."""
    found = []
    for number, document in enumerate(documents_of(window), 1):
        again, noise = rebuilt(*sides(features, number), mode)
        assert again == document
        found.append(noise)
    return found


# ---- one document: T5's rule


@pytest.mark.parametrize(("density", "mean"), [(0.15, 3.0), (0.15, 8.0), (0.5, 3.0), (0.5, 8.0), (0.15, 64.0), (0.5, 64.0), (0.3, 1.0)])
@pytest.mark.parametrize("form", FORMS)
def test_one_document_has_t5s_counts(density: float, mean: float, form: str) -> None:
    made = objective(300, noise_density=density, mean_span_length=mean, form=form)
    length = made.window_length
    (noise,) = all_spans(make(made, window := random_window([length], length)), window)
    assert sum(map(len, noise)) == round(length * density)
    assert len(noise) == round(round(length * density) / mean) or (mean == 64 and len(noise) == 1)


def test_lengths_are_t5s() -> None:
    """568 tokens for 512 in T5, whose source ends in one more token; 114 out."""
    made = objective(512)
    assert (made.window_length, made.rule.counts(569)) == (569, (85, 28))
    features = make(made, random_window([569], 569))
    assert np.count_nonzero(features["encoder_segment_ids"]) == 512
    assert np.count_nonzero(features["segment_ids"]) == 114 == features["loss_weights"].sum()
    assert made.target_length == 85 + 2 * 28
    assert objective(512, form="decoder").window_length == 446  # 446 + 3 * 22


def test_a_small_case_by_hand() -> None:
    made = objective(16, noise_density=0.34, mean_span_length=2.0)
    first, second = SENTINELS.sentinels(2).tolist()
    window = window_of([10, 11, 12, 13, 14, EOS])
    found = set()
    for address in range(40):
        features = make(made, window, address)
        decoded = strings(features, 1)
        assert decoded["tokens"] == [START, *decoded["targets"][:-1]] and decoded["loss_weights"] == [1.0] * len(decoded["targets"])
        found.add((tuple(strings(features, 1, "encoder_")["encoder_tokens"]), tuple(decoded["targets"])))
    assert found == {((10, 11, 12, 13, first), (first, 14, EOS, EOS))}  # two tokens in one span, which is the last
    assert second == first - 1


@pytest.mark.parametrize("roll", [False, True])
def test_every_arrangement_is_equally_likely(roll: bool) -> None:
    """8 tokens, 3 of them in 2 spans: all masks are written down by brute force."""
    made = objective(32, noise_density=3 / 8, mean_span_length=1.5, roll=roll)
    window = window_of(range(10, 18))
    wanted = []
    for mask in product((0, 1), repeat=8):
        runs = sum(1 for i in range(8) if mask[i] and (i == 0 or not mask[i - 1]))
        if sum(mask) == 3 and runs == 2 and (roll or (mask[-1] and not mask[0])):
            wanted.append(mask)
    assert len(wanted) == (30 if roll else 8)
    counts = dict.fromkeys(wanted, 0)
    draws = 3000
    for address in range(draws):
        (noise,) = all_spans(make_quickly(made, window, address), window)
        taken = {token for span in noise for token in span}
        counts[tuple(int(token in taken) for token in range(10, 18))] += 1
    assert all(within(count, draws, 1 / len(wanted)) for count in counts.values())


def make_quickly(made: Objective, window: Window, address: int) -> Features:
    return made.example(window, np.random.default_rng([7, address]))


def test_t5_keeps_the_first_token_and_ends_in_a_span() -> None:
    window = random_window([40], 40)
    for roll, expected in ((False, {(False, True)}), (True, {(False, False), (False, True), (True, False), (True, True)})):
        made = objective(96, noise_density=0.5, roll=roll)
        ends = set()
        for address in range(100):
            source, _, _ = sides(make_quickly(made, window, address), 1)
            ends.add((source[0] >= BYTES.size, source[-1] >= BYTES.size))
        assert ends == expected


# ---- many documents


@given(lengths=many_documents, density=st.sampled_from([0.02, 0.15, 0.5, 0.8]), mean=st.sampled_from([1.0, 3.0, 8.0, 64.0]),
       length=st.integers(1, 130), form=st.sampled_from(FORMS), mode=st.booleans(), roll=st.booleans(), seed=st.integers(0, 9))  # fmt: skip
@example(lengths=[12, 13, 23], density=0.5, mean=1.0, length=48, form="encoder_decoder", mode=False, roll=False, seed=0)
@settings(max_examples=250)
def test_nothing_is_lost_and_all_fits(
    lengths: list[int], density: float, mean: float, length: int, form: str, mode: bool, roll: bool, seed: int
) -> None:
    made = objective(length, noise_density=density, mean_span_length=mean, form=form, roll=roll, mode_token=-1 if mode else None)
    window = random_window(lengths, made.window_length, seed)
    features = make(made, window, seed)
    in_source = made.mode if form == "encoder_decoder" else None
    found = all_spans(features, window, in_source)
    sizes, documents = [sum(map(len, noise)) for noise in found], documents_of(window)
    assert all(size < len(document) for size, document in zip(sizes, documents, strict=True))
    total = sum(map(len, documents))
    if total >= 2 and max(map(len, documents)) >= 2:
        assert sum(sizes) >= 1
    if documents and min(map(len, documents)) >= 12 and mean <= 3 and density <= 0.5 and total == made.window_length:
        extra = made.rule.extra * max(0, sum(map(bool, sizes)) - 1)  # each source has its mode token, and they must fit
        assert made.rule.counts(total)[0] <= sum(sizes) <= made.rule.counts(total)[0] + extra
        apart = sum(min(size, len(document) - size) for size, document in zip(sizes, documents, strict=True))  # a kept token between
        assert sum(map(len, found)) == min(made.rule.counts(total)[1], apart)
    first = made.mode if mode and form == "decoder" else START
    for number in range(1, len(documents) + 1):
        decoded = strings(features, number)
        assert decoded["tokens"] == ([first, *decoded["targets"][:-1]] if decoded["targets"] else [])


@pytest.mark.parametrize("document", [1, 2, 3, 4, 5, 7, 20, 40, 90])
@pytest.mark.parametrize("options", [
    {}, {"noise_density": 0.5}, {"mean_span_length": 64.0}, {"noise_density": 0.5, "mean_span_length": 64.0}, {"mode_token": -1},
    {"noise_density": 0.5, "mode_token": -1}, {"mean_span_length": 1.0, "mode_token": -1}, {"form": "decoder", "noise_density": 0.5},
])  # fmt: skip
def test_full_windows_of_short_documents_fit(document: int, options: dict[str, Any]) -> None:
    """The windows for which the bounds are made: as full as can be, of documents of one length."""
    made = objective(256, **options)
    window = random_window([document] * made.window_length, made.window_length)
    features = make(made, window, document)
    found = all_spans(features, window, made.mode if made.has_encoder else None)
    noise, count = made.rule.counts(made.window_length)
    taken, given = sum(len(span) for spans in found for span in spans), sum(map(len, found))
    if document >= (20 if made.rule.mean_span_length > 8 else 5):
        assert taken >= noise and given >= count  # and with more spans, more tokens, so that the source fits
        assert taken - noise <= (1 + made.rule.extra) * (given - count) + made.rule.extra * sum(map(bool, found))
    for spans_of in found:
        # No document is swallowed: at most about half of it, or what the density says.
        assert document < 40 or sum(map(len, spans_of)) <= document * (1 + made.rule.noise_density) / 2


def test_documents_get_noise_in_proportion_to_their_length() -> None:
    """Of 21 spans 0.3, 6.45 and 14.25 on average: whole numbers of spans, and over many draws the same share, 15%, in noise."""
    made, lengths, draws = objective(400), np.asarray([6, 129, 285]), 600
    sizes, counts = np.zeros(3), np.zeros(3)
    for address in range(draws):
        taken, given, waiting = made.allot(lengths, np.random.default_rng(address))
        assert taken.sum() == round(420 * 0.15) and given.sum() == 21 and not waiting.any()
        sizes, counts = sizes + taken, counts + given
    # A document's share varies by less than one span (3 tokens) around its mean.
    assert np.abs(counts / draws - lengths / 20).max() < 5 * 0.5 / np.sqrt(draws)
    assert np.abs(sizes / draws - lengths * 0.15).max() < 5 * 3 / np.sqrt(draws)


def test_real_text_packed_equals_unpacked() -> None:
    for form in FORMS:
        made = objective(120, form=form, mode_token=-1)
        counted = [assert_packed_is_unpacked(make(made, window, i)) for i, window in enumerate(real_windows(made.window_length, 8))]
        assert sum(counted) > len(counted)


def test_waiting_tokens_are_not_predicted() -> None:
    """Documents of two tokens hold no more than one token of noise each, so that a full window would not fit its encoder."""
    made = objective(100)
    features = make(made, random_window([2] * 100, made.window_length))
    predicted = features["loss_weights"] > 0
    assert 0 < (features["segment_ids"] > 0).sum() - predicted.sum() < 20
    assert assert_packed_is_unpacked(features) == made.rule.counts(made.window_length)[1]


def test_the_loss_is_that_of_all_predicted_positions() -> None:
    """A batch shared with an objective of longer rows: the head runs on the positions that count alone."""
    import jax.numpy as jnp

    from pretrainx.models.transformer import Outputs
    from pretrainx.objectives.losses import cross_entropy

    made = objective(64, form="decoder")
    rows = [make(made, window, i) for i, window in enumerate(real_windows(made.window_length, 3))]
    batch = {name: jnp.stack([row[name] for row in rows]) for name in ("targets", "loss_weights")}
    rng = np.random.default_rng(0)
    hidden, head = (jnp.asarray(rng.normal(size=size), jnp.float32) for size in ((3, 64, 8), (8, SENTINELS.size)))
    outputs = Outputs(hidden, lambda h: (h @ head).astype(jnp.float32), chunks=1)
    ours, plain = made.loss(outputs, batch)["tokens"], cross_entropy(outputs, batch["targets"], batch["loss_weights"])
    assert float(ours.weight) == float(plain.weight) == float(made.weights(batch)["tokens"]) > 0
    assert float(ours.total) == pytest.approx(float(plain.total), rel=1e-6)  # the same numbers added in another order


# ---- empty, tiny, and refused


@pytest.mark.parametrize("form", FORMS)
def test_windows_of_nothing_predict_nothing(form: str) -> None:
    made = objective(32, form=form)
    for window in (window_of(length=made.window_length), window_of([7], length=made.window_length)):
        assert make(made, window)["loss_weights"].sum() == 0
    features = make(made, window_of([7, EOS], length=made.window_length))
    assert all_spans(features, window_of([7, EOS])) == [[[EOS]]]


def test_it_depends_on_its_address_alone() -> None:
    made, window = objective(64), random_window([30, 20], 64)
    one, again, other = (make(made, window, address) for address in (5, 5, 6))
    assert all(np.array_equal(one[name], again[name]) for name in one)
    assert not np.array_equal(one["encoder_tokens"], other["encoder_tokens"])


def test_a_shorter_window_can_be_asked_for() -> None:
    assert objective(64, window_length=40).window_length == 40
    with pytest.raises(InputError, match=r"window_length 90: accepted are 1 to 71"):
        objective(64, window_length=90)


@pytest.mark.parametrize(("options", "message"), [
    ({"noise_density": 0.0}, r"data\.objectives\.span_corruption\.noise_density 0\.0: accepted are numbers above 0 and below 1"),
    ({"noise_density": 1.0}, r"noise_density 1\.0"),
    ({"mean_span_length": 0.5}, r"mean_span_length 0\.5: accepted are numbers from 1"),
    ({"form": "encoder"}, r"form 'encoder': accepted are 'encoder_decoder' and 'decoder'"),
    ({"mode_token": 0}, r"mode_token 0: accepted are 3 to 199, or -1 to -197 counted from the end; .* spans use the first 3"),
    ({"mode_token": 200}, r"mode_token 200: accepted"),
])  # fmt: skip
def test_wrong_options_are_refused(options: dict[str, Any], message: str) -> None:
    with pytest.raises(InputError, match=message):
        objective(64, **options)


def test_too_few_sentinels_are_refused() -> None:
    with pytest.raises(
        InputError, match=r"span_corruption: needs 28 sentinels .*data\.vocabulary in '\+28' or more, for example 'bytes\+100'"
    ):
        Objective(BYTES, 512)
    Objective(replace(BYTES, size=BYTES.size + 28, num_sentinels=28), 512)


# ---- the parts


@given(
    weights=st.lists(st.integers(0, 30), min_size=1, max_size=12),
    total=st.integers(0, 80),
    phase=st.floats(0, 0.999),
    seed=st.integers(0, 9),
)
@settings(max_examples=150)
def test_spread_is_exact(weights: list[int], total: int, phase: float, seed: int) -> None:
    most = np.random.default_rng(seed).integers(0, 20, len(weights))
    given_out = spans.spread(total, np.asarray(weights), most, phase)
    possible = int(most[np.asarray(weights) > 0].sum())
    assert given_out.sum() == min(total, possible) and (given_out <= most).all() and (given_out >= 0).all()
    free = spans.spread(total, np.asarray(weights), np.full(len(weights), total), phase)
    if sum(weights):
        assert (np.abs(free - total * np.asarray(weights) / sum(weights)) < 1).all()  # without limits, each within one of its share


def test_compose_is_uniform() -> None:
    rng, draws = np.random.default_rng(0), 4000
    counts: dict[tuple[int, ...], int] = {}
    for _ in range(draws):
        parts = tuple(spans.compose(6, 3, rng).tolist())
        counts[parts] = counts.get(parts, 0) + 1
    assert len(counts) == 10 and all(sum(parts) == 6 and min(parts) >= 1 for parts in counts)
    assert all(within(count, draws, 0.1) for count in counts.values())
