import datetime
import functools
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Annotated, Any, Literal

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from pretrainx.core import schema
from pretrainx.core.errors import InputError
from pretrainx.core.schema import Override, Range


@dataclass(frozen=True)
class Inner:
    size: Annotated[int, Range(ge=1, lt=100)] = 4
    needed: str = ""


@dataclass(frozen=True)
class Outer:
    count: int = 0
    rate: Annotated[float, Range(gt=0, le=1)] = 0.5
    flag: bool = False
    label: str = "x"
    kind: Literal["red", "green"] = "red"
    duration: Annotated[int, Range(ge=0)] | str = 10
    maybe: int | None = None
    orders: tuple[int, ...] = ()
    words: tuple[str, ...] = ()
    weights: dict[str, float] = field(default_factory=dict)
    mixture: str | dict[str, float] = ""
    free: dict[str, dict[str, Any]] = field(default_factory=dict)
    inner: Inner = field(default_factory=Inner)
    inners: dict[str, Inner] = field(default_factory=dict)


@dataclass(frozen=True)
class Checked:
    low: int
    high: int = 5

    def __post_init__(self) -> None:
        if self.low > self.high:
            raise ValueError(f"low ({self.low}) is above high ({self.high})")


@pytest.mark.parametrize(
    ("key", "value", "wanted"),
    [
        ("count", 3, 3),
        ("count", np.int64(3), 3),
        ("rate", 1, 1.0),
        ("rate", np.float32(0.5), 0.5),
        ("flag", True, True),
        ("kind", "green", "green"),
        ("duration", "10%", "10%"),
        ("maybe", None, None),
        ("orders", [1, 2], (1, 2)),
        ("weights", {"a": 1}, {"a": 1.0}),
        ("mixture", {"a": 1}, {"a": 1.0}),
        ("free", {"mlm": {"rate": 0.15, "spans": [1, (2, 3)], "x": None}}, {"mlm": {"rate": 0.15, "spans": [1, (2, 3)], "x": None}}),
        ("inner", {"size": 7}, Inner(size=7)),
        ("inners", {"a": {"size": 7}}, {"a": Inner(size=7)}),
        ("count", Override("1_000"), 1000),
        ("count", Override("1e3"), 1000),
        ("rate", Override("3e-4"), 3e-4),
        ("flag", Override("True"), True),
        ("flag", Override("false"), False),
        ("label", Override("true"), "true"),
        ("label", Override("5"), "5"),
        ("label", Override(""), ""),
        ("kind", Override("green"), "green"),
        ("duration", Override("500"), 500),
        ("duration", Override("2e9 tokens"), "2e9 tokens"),
        ("maybe", Override("none"), None),
        ("maybe", Override("7"), 7),
        ("orders", Override("(1, 2)"), (1, 2)),
        ("orders", Override("1,2"), (1, 2)),
        ("orders", Override("3"), (3,)),
        ("orders", Override(""), ()),
        ("words", Override("1,b"), ("1", "b")),
        ("words", Override("['a', 'b']"), ("a", "b")),
        ("weights", Override("{'a': 1}"), {"a": 1.0}),
        ("weights", {"a": Override("2")}, {"a": 2.0}),
        ("mixture", Override("{'a': 1}"), {"a": 1.0}),
        ("mixture", Override("stdlib"), "stdlib"),
        ("free", {"mlm": {"rate": Override("0.1"), "on": Override("true")}}, {"mlm": {"rate": 0.1, "on": True}}),
        ("free", {"mlm": {"no": Override("none"), "list": Override("[1, None]")}}, {"mlm": {"no": None, "list": [1, None]}}),
        ("inner", Override("{'size': 9}"), Inner(size=9)),
    ],
)  # fmt: skip
def test_accepted(key: str, value: Any, wanted: Any) -> None:
    result = getattr(schema.parse(Outer, {key: value}, "here"), key)
    assert result == wanted
    assert type(result) is type(wanted)


@pytest.mark.parametrize(
    ("key", "value", "sentence"),
    [
        ("count", "fast", "here.count: expected a whole number, found str 'fast'"),
        ("count", True, "here.count: expected a whole number, found bool True"),
        ("count", 1.0, "here.count: expected a whole number, found float 1.0"),
        ("count", Override("2.5"), "here.count: expected a whole number, found '2.5'"),
        ("count", Override("inf"), "here.count: expected a whole number, found 'inf'"),
        ("count", 2**63, "here.count: expected a whole number of at most 64 bits, found int 9223372036854775808"),
        ("rate", "fast", "here.rate: expected a number, found str 'fast'"),
        ("rate", False, "here.rate: expected a number, found bool False"),
        ("rate", float("nan"), "here.rate: expected a finite number, found float nan"),
        ("rate", Override("-inf"), "here.rate: expected a finite number, found '-inf'"),
        ("rate", 0, "here.rate: expected a number above 0 and at most 1, found 0.0"),
        ("flag", 1, "here.flag: expected true or false, found int 1"),
        ("flag", Override("yes"), "here.flag: expected true or false, found 'yes'"),
        ("label", None, "here.label: expected text, found None"),
        ("label", "a\0b", "here.label: expected text without NUL characters, found str 'a\\x00b'"),
        ("label", "\ud800", "here.label: expected text that UTF-8 can hold, found str '\\ud800'"),
        ("kind", "gren", "here.kind: unknown value 'gren'; did you mean 'green' or 'red'? accepted: green, red"),
        ("kind", 5, "here.kind: expected 'red' or 'green', found int 5"),
        ("duration", -1, "here.duration: expected a whole number at least 0, found -1"),
        ("duration", 1.5, "here.duration: expected a whole number or text, found float 1.5"),
        ("maybe", "x", "here.maybe: expected a whole number or none, found str 'x'"),
        ("orders", 5, "here.orders: expected a list (each a whole number), found int 5"),
        ("orders", [1, "a"], "here.orders[1]: expected a whole number, found str 'a'"),
        ("orders", Override("(1, 2"), "here.orders: expected a list (each a whole number) written as in Python, such as [1, 2],"
                                      " found '(1, 2'"),
        ("weights", {"a": "b"}, "here.weights.a: expected a number, found str 'b'"),
        ("weights", {1: 2.0}, "here.weights: expected a dict whose keys are text, found the key int 1"),
        ("mixture", {"a": "b"}, "here.mixture.a: expected a number, found str 'b'"),
        ("mixture", Override("{'a': 'b'}"), "here.mixture.a: expected a number, found str 'b'"),
        ("mixture", 3, "here.mixture: expected text or a dict (each a number), found int 3"),
        ("free", {"a": {"b": {1, 2}}}, "here.free.a.b: expected a number, text, true, false, none, a list or a dict, found set {1, 2}"),
        ("inner", {"size": 100}, "here.inner.size: expected a whole number at least 1 and below 100, found 100"),
        ("inners", {"a": {"sise": 1}}, "unknown config key 'here.inners.a.sise'; did you mean 'size'? accepted: needed, size"),
        ("inner", [1], "here.inner: expected a dict, found list [1]"),
        ("cuont", 1, "unknown config key 'here.cuont'; did you mean 'count'? accepted: count, duration, flag, free, inner, inners,"
                     " kind, label, maybe, mixture, orders, rate, ... (14 in all)"),
    ],
)  # fmt: skip
def test_refused(key: str, value: Any, sentence: str) -> None:
    with pytest.raises(InputError) as caught:
        schema.parse(Outer, {key: value}, "here")
    assert str(caught.value) == sentence


NO_LAG = datetime.timedelta()


class Free:
    """A class of a user's own, some of whose annotations are none of a schema's."""

    def __init__(self, first: int, second: int, rate: float = 0.5, kinds: Sequence[str] = (), lag: datetime.timedelta = NO_LAG, bare=1):
        self.options = rate, kinds, lag, bare


class Open(Free):
    def __init__(self, first: int, second: int, **options: Any):
        super().__init__(first, second, **options)


def plainly(size: int, share: float = 0.5) -> float:
    return size * share


class ForCheckers:
    def __init__(self, first: int, second: int, odd: "NotThere" = None, size: int = 1):  # type: ignore[name-defined]  # noqa: F821
        self.options = odd, size


def test_arguments_of_a_class_are_checked_by_its_annotations() -> None:
    assert schema.arguments(Free, 2, {"rate": 1, "kinds": ["a"]}, "here") == {"rate": 1.0, "kinds": ("a",)}
    assert schema.arguments(Free, 2, {"lag": 3, "bare": "x"}, "here") == {"lag": 3, "bare": "x"}
    assert schema.arguments(Open, 2, {"rate": "any"}, "here") == {"rate": "any"}
    assert schema.arguments(ForCheckers, 2, {"size": "any"}, "here") == {"size": "any"}
    assert schema.arguments(plainly, 0, {"size": 2}, "here") == {"size": 2}
    assert schema.arguments(functools.partial(plainly, share=0.1), 0, {"size": 2}, "here") == {"size": 2}
    with pytest.raises(InputError, match="^here.size is missing: expected a whole number$"):
        schema.arguments(plainly, 0, {}, "here")
    for options, sentence in (
        ({"rate": "x"}, "here.rate: expected a number, found str 'x'"),
        ({"kinds": "ab"}, "here.kinds: expected a list (each text), found str 'ab'"),
        ({"second": 1}, "unknown config key 'here.second'; accepted: bare, kinds, lag, rate"),
    ):
        with pytest.raises(InputError) as caught:
            schema.arguments(Free, 2, options, "here")
        assert str(caught.value) == sentence


def test_defaults_and_missing() -> None:
    assert schema.parse(Outer, {}, "here") == Outer()
    assert schema.parse(Checked, {"low": 1}, "here") == Checked(1)
    with pytest.raises(InputError, match="^here.low is missing: expected a whole number$"):
        schema.parse(Checked, {}, "here")


def test_what_belongs_together_is_checked_together() -> None:
    with pytest.raises(InputError, match=r"^here: low \(9\) is above high \(5\)$"):
        schema.parse(Checked, {"low": 9}, "here")


def test_a_value_without_a_repr_is_still_reported() -> None:
    class Hostile:
        def __repr__(self) -> str:
            raise RuntimeError

    with pytest.raises(InputError, match=r"^here.count: expected a whole number, found Hostile \?$"):
        schema.parse(Outer, {"count": Hostile()}, "here")


def test_to_dict_is_plain_and_parses_back() -> None:
    value = Outer(orders=(1, 2), inners={"a": Inner(3)}, free={"mlm": {"spans": (1, 2)}})
    plain = schema.to_dict(value)
    assert plain["inners"] == {"a": {"size": 3, "needed": ""}} and plain["orders"] == [1, 2]
    assert schema.to_dict(schema.parse(Outer, plain, "here")) == plain


PLAIN = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=8) | st.binary(max_size=4),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=4) | st.integers(), inner, max_size=3),
    max_leaves=6,
)
RAW = st.text(max_size=12) | st.sampled_from(["{'a': 1}", "[1, 2", "{", "(1,)", "1_0", "1e400", "9" * 5000, "{[]: 1}", "[" * 300])
KEYS = st.sampled_from(list(schema.hints(Outer))) | st.text(max_size=5)


@given(st.dictionaries(KEYS, PLAIN | RAW.map(Override), max_size=3))
def test_any_mapping_is_parsed_or_refused_in_one_sentence(mapping: dict[str, Any]) -> None:
    try:
        result = schema.parse(Outer, mapping, "here")
    except InputError as error:
        assert "here" in str(error) and "\n" not in str(error)
    else:
        assert schema.parse(Outer, schema.to_dict(result), "here") is not None


@given(st.floats(allow_nan=False, allow_infinity=False), st.integers(-(2**63), 2**63 - 1))
def test_what_repr_writes_the_command_line_reads(real: float, whole: int) -> None:
    assert schema.coerce(float, Override(repr(real)), "x") == real
    assert schema.coerce(int, Override(repr(whole)), "x") == whole
