"""Denoising: what each transform does, how much of it, and that the decoder writes the original."""

from collections import Counter
from dataclasses import replace
from itertools import pairwise
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from objective_checks import (
    EOS,
    MASK,
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
from pretrainx.objectives.denoising import TRANSFORMS, Objective

FULL_STOP, A, B, C = (3 + ord(letter) for letter in ".abc")


def objective(*transforms: str, length: int = 64, **options: Any) -> Objective:
    return Objective(BYTES, length, transforms, **options) if transforms else Objective(BYTES, length, **options)


def corrupted(name: str, tokens: list[int], address: int = 0, **options: Any) -> list[int]:
    found = objective(name, **options).corrupt(np.asarray(tokens, np.int32), np.random.default_rng([9, address]))
    assert found.dtype == np.int32
    return list(found.tolist())


def is_subsequence(short: list[int], long: list[int]) -> bool:
    rest = iter(long)
    return all(token in rest for token in short)


documents_st = st.lists(st.sampled_from([A, B, C, FULL_STOP]), min_size=1, max_size=40)
rates = st.sampled_from([0.01, 0.3, 0.8, 1.0])


@given(lengths=many_documents, length=st.integers(1, 120), transforms=st.lists(st.sampled_from(sorted(TRANSFORMS)), min_size=1, max_size=4),
       rate=rates, mean=st.sampled_from([0.3, 3.0, 20.0]), seed=st.integers(0, 99))  # fmt: skip
@settings(max_examples=200)
def test_the_original_is_what_is_written(
    lengths: list[int], length: int, transforms: list[str], rate: float, mean: float, seed: int
) -> None:
    made = objective(*transforms, length=length, mask_rate=rate, poisson_lambda=mean)
    window = random_window(lengths, length, seed)
    features = make(made, window, seed)
    for number, document in enumerate(documents_of(window), 1):
        decoded, read = strings(features, number), strings(features, number, "encoder_")["encoder_tokens"]
        assert decoded["targets"] == document and decoded["tokens"] == [START, *document[:-1]]
        assert decoded["loss_weights"] == [1.0] * len(document)
        assert 1 <= len(read) <= len(document)
        assert (read[-1] == EOS) == (document[-1] == EOS) and EOS not in read[:-1]
        assert set(read) <= {*document, MASK}


@given(tokens=documents_st, rate=rates, address=st.integers(0, 99))
@settings(max_examples=100)
def test_masking_masks_in_place(tokens: list[int], rate: float, address: int) -> None:
    found = corrupted("token_masking", tokens, address, mask_rate=rate)
    assert all(a in (b, MASK) for a, b in zip(found, tokens, strict=True))
    assert int(len(tokens) * rate) <= found.count(MASK) <= int(len(tokens) * rate) + 1


@given(tokens=documents_st, rate=rates, address=st.integers(0, 99))
@settings(max_examples=100)
def test_deletion_leaves_a_subsequence(tokens: list[int], rate: float, address: int) -> None:
    found = corrupted("token_deletion", tokens, address, mask_rate=rate)
    assert is_subsequence(found, tokens)
    wanted = int(len(tokens) * rate)
    assert min(wanted, len(tokens) - 1) <= len(tokens) - len(found) <= min(wanted + 1, len(tokens) - 1)


@given(tokens=documents_st, rate=rates, mean=st.sampled_from([0.3, 3.0, 20.0]), address=st.integers(0, 99))
@settings(max_examples=150)
def test_infilling_keeps_a_subsequence_with_masks_between(tokens: list[int], rate: float, mean: float, address: int) -> None:
    found = corrupted("text_infilling", tokens, address, mask_rate=rate, poisson_lambda=mean)
    kept = [token for token in found if token != MASK]
    assert is_subsequence(kept, tokens) and len(found) <= len(tokens)
    wanted = int(len(tokens) * rate)
    assert wanted <= len(tokens) - len(kept) <= wanted + 1
    assert (MASK in found) == (len(kept) < len(tokens))


@given(tokens=documents_st, address=st.integers(0, 99))
@settings(max_examples=100)
def test_permutation_moves_whole_sentences(tokens: list[int], address: int) -> None:
    found = corrupted("sentence_permutation", [*tokens, EOS], address)
    assert found[-1] == EOS

    def sentences(row: list[int]) -> Counter[tuple[int, ...]]:
        cut, begun = Counter[tuple[int, ...]](), list[int]()
        for i, token in enumerate(row):
            begun.append(token)
            if i + 1 == len(row) or (token == FULL_STOP and row[i + 1] != FULL_STOP):
                cut[tuple(begun)] += 1
                begun = []
        return cut

    assert Counter(found[:-1]) == Counter(tokens)
    for sentence in sentences(tokens):
        text = ",".join(map(str, sentence))
        assert f",{text}," in f",{','.join(map(str, found))},"


@given(tokens=documents_st, address=st.integers(0, 99))
@settings(max_examples=60)
def test_rotation_rotates(tokens: list[int], address: int) -> None:
    found = corrupted("document_rotation", [*tokens, EOS], address)
    assert found[-1] == EOS
    assert any(found[:-1] == tokens[i:] + tokens[:i] for i in range(len(tokens)))


def test_every_start_and_order_is_equally_likely() -> None:
    draws = 3000
    starts = Counter(corrupted("document_rotation", list(range(10, 16)), i)[0] for i in range(draws))
    assert len(starts) == 6 and all(within(count, draws, 1 / 6) for count in starts.values())
    sentences = [A, FULL_STOP, A, B, FULL_STOP, FULL_STOP, C]
    orders = Counter(tuple(corrupted("sentence_permutation", sentences, i)) for i in range(draws))
    assert len(orders) == 6 and all(within(count, draws, 1 / 6) for count in orders.values())


@pytest.mark.parametrize("name", ["token_masking", "token_deletion", "text_infilling"])
def test_thirty_percent_also_of_short_documents(name: str) -> None:
    """Of 7 tokens 2.1 on average: 2 or 3, by the fraction."""
    draws = 3000
    lost = [7 - sum(token != MASK for token in corrupted(name, list(range(10, 17)), i)) for i in range(draws)]
    assert set(lost) == {2, 3} and within(lost.count(3), draws, 0.1)


def test_infilled_spans_are_poisson() -> None:
    """Against drawing them simply: lengths, also 0, until 300 of 1,000 tokens are reached; 300 documents each way."""
    tokens, draws = list(range(1000, 2000)), 300
    made = Objective(replace(BYTES, size=3000), 1000, ("text_infilling",))
    rng, ours, inserted = np.random.default_rng(0), Counter[int](), 0
    theirs, empty = Counter[int](), 0
    for i in range(draws):
        found = made.corrupt(np.asarray(tokens, np.int32), np.random.default_rng([5, i])).tolist()
        # Gaps between neighbours that stayed are spans; all other masks were put in.
        kept = [999, *(t for t in found if t != MASK), 2000]
        gaps = [b - a - 1 for a, b in pairwise(kept) if b - a > 1]
        ours.update(gaps)
        inserted += found.count(MASK) - len(gaps)
        left = 300
        while left:
            length = min(int(rng.poisson(3.0)), left)
            theirs[length] += 1
            left -= length
        empty = theirs[0]
    assert sum(n * c for n, c in ours.items()) == 300 * draws
    total = sum(theirs.values())
    for length in range(1, 9):
        share = theirs[length] / total
        assert abs(ours[length] - theirs[length]) < 5 * np.sqrt(2 * total * share * (1 - share)), length
    assert abs(inserted - empty) < 5 * np.sqrt(2 * empty)


def test_transforms_are_applied_in_order() -> None:
    """Rotation after masking moves masks; masking after deletion has fewer tokens to mask."""
    tokens = list(range(10, 110))
    for transforms, masks in ((("token_masking", "token_deletion"), None), (("token_deletion", "token_masking"), 21)):
        found = objective(*transforms, length=100).corrupt(np.asarray(tokens, np.int32), np.random.default_rng(0))
        assert len(found) == 70 and (masks is None or np.count_nonzero(found == MASK) in (masks, masks - 1, masks + 1))
    made = objective("document_rotation", "sentence_permutation", length=100)
    assert [t.__name__ for t in made.transforms] == ["document_rotation", "sentence_permutation"]


def test_the_default_is_the_papers() -> None:
    made = objective()
    assert [t.__name__ for t in made.transforms] == ["sentence_permutation", "text_infilling"]
    assert (made.noise.mask_rate, made.noise.poisson_lambda, made.window_length, made.sight) == (0.3, 3.0, 64, "encoder_decoder")


def test_real_text_packed_equals_unpacked() -> None:
    made = objective(length=90)
    windows = real_windows(90, 6)
    assert sum(assert_packed_is_unpacked(make(made, window, i)) for i, window in enumerate(windows)) >= 6


def test_windows_of_nothing_predict_nothing() -> None:
    features = make(objective(length=5), window_of(length=5))
    assert features["loss_weights"].sum() == 0 and not features["encoder_segment_ids"].any()
    features = make(objective(length=5), window_of([EOS], [7], length=5))  # what is left of documents at a window's ends
    assert features["encoder_segment_ids"].tolist() == [1, 2, 0, 0, 0] and features["targets"].tolist() == [EOS, 7, 0, 0, 0]


def test_it_depends_on_its_address_alone() -> None:
    made, window = objective(), random_window([64], 64)
    one, again, other = (make(made, window, address) for address in (5, 5, 6))
    assert all(np.array_equal(one[name], again[name]) for name in one)
    assert not np.array_equal(one["encoder_tokens"], other["encoder_tokens"])


@pytest.mark.parametrize(("options", "message"), [
    ({"transforms": ["text_infiling"]}, r"denoising\.transforms: unknown name 'text_infiling'; did you mean 'text_infilling'\?"),
    ({"transforms": []}, r"data\.objectives\.denoising\.transforms \[\]: accepted is a list of one or more of token_masking, "),
    ({"mask_rate": 1.1}, r"mask_rate 1\.1: accepted are numbers above 0 and up to 1"),
    ({"poisson_lambda": -1.0}, r"poisson_lambda -1\.0"),
])  # fmt: skip
def test_wrong_options_are_refused(options: dict[str, Any], message: str) -> None:
    with pytest.raises(InputError, match=message):
        Objective(BYTES, 64, **options)


def test_only_transforms_that_mask_need_a_mask() -> None:
    plain = replace(SENTINELS, special=replace(BYTES.special, mask=-1))
    Objective(plain, 64, ("token_deletion", "document_rotation", "sentence_permutation"))
    with pytest.raises(InputError, match=r"denoising: the vocabulary .* has no mask token"):
        Objective(plain, 64)
