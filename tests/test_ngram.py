import math
from collections import defaultdict

import numpy as np
import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from pretrainx.core.errors import InputError
from pretrainx.evaluate import ngram

ORDERS = range(1, 8)


class Dictionary:
    """The same model written down with dictionaries, straight from the formula."""

    def __init__(self, documents: list[bytes]):
        self.counts: dict[bytes, dict[int, int]] = defaultdict(lambda: defaultdict(int))
        for document in documents:
            for context, symbol in pairs(document):
                for length in range(min(len(context), 7) + 1):
                    self.counts[context[len(context) - length :]][symbol] += 1

    def p(self, symbol: int, context: bytes, order: int) -> float:
        if order == 0:
            return 1 / 256
        if order - 1 > len(context):
            return self.p(symbol, context, order - 1)
        lower = self.p(symbol, context, order - 1)
        after = self.counts.get(context[len(context) - order + 1 :], {})
        total, kinds = sum(after.values()), len(after)
        return (after.get(symbol, 0) + kinds * lower) / (total + kinds) if total else lower

    def bits_per_byte(self, documents: list[bytes], order: int) -> float:
        bits = -sum(math.log2(self.p(symbol, context, order)) for document in documents for context, symbol in pairs(document))
        return bits / sum(map(len, documents))


def pairs(document: bytes) -> list[tuple[bytes, int]]:
    """(separator and what the document says so far, next symbol), up to the separator at its end."""
    text = b"\0" + document + b"\0"
    return [(text[:end], text[end]) for end in range(1, len(text))]


# Few letters, so that contexts repeat; the highest byte, for the ends of ranges. No NUL: it ends a document.
LETTERS = st.sampled_from([1, 97, 98, 255])
DOCUMENTS = st.lists(st.lists(LETTERS, max_size=12).map(bytes), max_size=4)


@given(DOCUMENTS, DOCUMENTS.filter(any))
@example([b"\xff" * 20], [b"\xff" * 9])
@example([], [b"ab"])
@example([b"", b""], [b"", b"a"])
def test_equals_the_formula_with_dictionaries(training: list[bytes], held_out: list[bytes]) -> None:
    reference = Dictionary(training)
    found = ngram.baselines(training, held_out, ORDERS)
    for order in ORDERS:
        assert found[order] == pytest.approx(reference.bits_per_byte(held_out, order), rel=1e-12)


@given(DOCUMENTS, st.lists(LETTERS, max_size=9).map(bytes), st.integers(1, 8), st.booleans())
def test_probabilities_sum_to_one(training: list[bytes], context: bytes, order: int, at_start: bool) -> None:
    context = (b"\0" if at_start else b"") + context
    p = ngram.probabilities(ngram.train(ngram.join(training)), context, order)
    reference = Dictionary(training)
    assert p.sum() == pytest.approx(1, abs=1e-12)
    assert p == pytest.approx([reference.p(symbol, context, order) for symbol in range(256)], rel=1e-12)


def test_by_hand() -> None:
    """Training "ab": symbols a, b and the end, each once."""
    model = ngram.train(ngram.join([b"ab"]))
    unigram = (1 + 3 / 256) / 6
    assert ngram.probabilities(model, b"", 1)[ord("a")] == pytest.approx(unigram, rel=1e-15)
    assert ngram.probabilities(model, b"a", 2)[ord("b")] == pytest.approx((1 + unigram) / 2, rel=1e-15)
    assert ngram.probabilities(model, b"\0", 2)[ord("a")] == pytest.approx((1 + unigram) / 2, rel=1e-15)
    assert ngram.bits_per_byte(model, ngram.join([b"a"]), [1])[1] == pytest.approx(-2 * math.log2(unigram), rel=1e-15)


def test_untrained_is_eight_bits_a_symbol() -> None:
    assert ngram.baselines([], [b"abc"], [1, 7]) == {1: 8 * 4 / 3, 7: 8 * 4 / 3}


def test_documents_do_not_see_each_other() -> None:
    training = [b"hello world", b"word by word", b"held over"]
    assert ngram.baselines(training, [b"hello", b"word"], [5])[5] == pytest.approx(
        ngram.baselines(training, [b"word", b"hello"], [5])[5], rel=1e-14
    )


def test_a_nul_byte_ends_a_document() -> None:
    training = [b"hello world"]
    assert ngram.baselines(training, [b"hello\0world"], ORDERS) == ngram.baselines(training, [b"hello", b"world"], ORDERS)


def test_a_missing_last_separator_is_added() -> None:
    whole = ngram.join([b"some text"])
    assert np.array_equal(ngram.train(whole[:-1]).windows, ngram.train(whole).windows)
    assert ngram.train(whole[:0]).windows.size == 0


def test_more_context_helps_on_text_that_repeats() -> None:
    text = b"the quick brown fox jumps over the lazy dog; " * 40
    found = ngram.baselines([text], [text[:200]], ORDERS)
    assert list(found) == list(ORDERS)
    assert found[1] > 3 > found[2] > 0.3 > found[7]


@pytest.mark.parametrize("orders", [[0], [9], [3, -1]])
def test_orders_that_do_not_fit(orders: list[int]) -> None:
    with pytest.raises(InputError, match=r"^eval.ngram_orders: expected orders from 1 to 8"):
        ngram.baselines([b"a"], [b"a"], orders)


def test_nothing_held_out() -> None:
    with pytest.raises(InputError, match="held-out text is empty"):
        ngram.baselines([b"a"], [b""], [1])
