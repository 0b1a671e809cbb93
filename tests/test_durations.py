from fractions import Fraction

import pytest
from hypothesis import given
from hypothesis import strategies as st

from pretrainx.core import durations
from pretrainx.core.errors import InputError

SIZES = {"batch_size": 8, "tokens_per_step": 8 * 256}


@pytest.mark.parametrize(
    ("duration", "steps"),
    [
        (500, 500),
        (0, 0),
        ("500", 500),
        ("1_000", 1000),
        ("1e3 steps", 1000),
        ("1 step", 1),
        ("10%", 20),
        ("10 %", 20),
        ("0.5%", 1),
        ("0.01%", 1),  # never 0, which would mean "not at all"
        ("0%", 0),
        ("100%", 200),
        ("2048 tokens", 1),
        ("2049 tokens", 2),
        ("1 token", 1),
        ("2e9 tokens", 976563),
        ("1e6 examples", 125000),
        ("9Examples", 2),
        ("3 epochs", 38),
        (".5 epochs", 7),
    ],
)
def test_by_hand(duration: int | str, steps: int) -> None:
    assert durations.resolve(duration, "train.steps", total_steps=200, rows_per_epoch=100, **SIZES) == steps


@pytest.mark.parametrize(
    ("duration", "words"),
    [
        ("fast", "expected steps"),
        ("", "expected steps"),
        ("-5", "at least 0"),
        (-5, "at least 0"),
        ("5 tokns", "did you mean 'tokens'"),
        ("101%", "at most 100%"),
        ("2.5", "whole number of steps"),
        ("nan", "expected steps"),
        ("1e999 tokens", "64 bits"),
        ("٣", "expected steps"),
        ("10%", "the run's length"),
        ("3 epochs", "size of the data"),
    ],
)
def test_refused(duration: int | str, words: str) -> None:
    with pytest.raises(InputError, match="^train.steps: ") as caught:
        durations.resolve(duration, "train.steps", **SIZES)
    assert words in str(caught.value)
    assert "\n" not in str(caught.value)


@given(st.text(max_size=20) | st.from_regex(r"[0-9_.e+-]{1,8} ?(steps|tokens|examples|epochs|%)?", fullmatch=True) | st.integers())
def test_any_text_is_a_duration_or_one_clear_sentence(duration: int | str) -> None:
    try:
        steps = durations.resolve(duration, "train.steps", total_steps=1000, rows_per_epoch=77, **SIZES)
    except InputError as error:
        assert str(error).startswith("train.steps: ") and "\n" not in str(error)
    else:
        assert steps >= 0


@given(st.integers(1, 10**15), st.integers(1, 10**4), st.integers(1, 10**4))
def test_enough_steps_and_no_more(tokens: int, batch_size: int, length: int) -> None:
    """Integers only: a float would lose exactness beyond 2**53 tokens."""
    steps = durations.resolve(f"{tokens} tokens", "train.steps", batch_size=batch_size, tokens_per_step=batch_size * length)
    assert (steps - 1) * batch_size * length < tokens <= steps * batch_size * length


def test_parse_is_exact() -> None:
    assert durations.parse("33.3%", "x") == durations.Duration(Fraction(333, 10), "%")
