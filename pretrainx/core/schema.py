"""Typed validation of configs: frozen dataclasses are the schema, `parse` checks a mapping against one.

A field is an int, float (ints are taken too), bool, str, Literal, a union of these with dicts and None, tuple[X, ...],
Sequence[X], dict[str, X], dict[str, Any] or another dataclass; `Annotated[int, Range(ge=1)]` adds a range. Every error is one
`InputError` sentence that begins with the dotted path of the value. The numbers nan and inf are never accepted.
`arguments` checks the options of a class by the annotations of its constructor.
"""

import ast
import dataclasses
import functools
import inspect
import math
import numbers
import types
import typing
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Annotated, Any, Literal, TypeVar, Union

from pretrainx.core.errors import InputError, nearest

T = TypeVar("T")
Number = int | float

# Beyond 64 bits an int would fail late, inside NumPy or JAX, without the name of the key that held it.
INT_LIMIT = 2**63


@dataclass(frozen=True)
class Range:
    """What a number may be: `Annotated[int, Range(ge=1)]`."""

    ge: Number | None = None
    gt: Number | None = None
    le: Number | None = None
    lt: Number | None = None

    def __contains__(self, value: Number) -> bool:
        return (
            (self.ge is None or value >= self.ge)
            and (self.gt is None or value > self.gt)
            and (self.le is None or value <= self.le)
            and (self.lt is None or value < self.lt)
        )

    def __str__(self) -> str:
        words = (("at least", self.ge), ("above", self.gt), ("at most", self.le), ("below", self.lt))
        return " and ".join(f"{word} {bound}" for word, bound in words if bound is not None)


@dataclass(frozen=True)
class Override:
    """Text from the command line, whose meaning depends on the type of the field it is for."""

    raw: str


class _Mismatch(InputError):
    """The value at `path` is not of this type at all, so that another member of a union may still take it."""

    def __init__(self, path: str, message: str):
        super().__init__(f"{path}: {message}" if path else message)
        self.path = path


def parse(cls: type[T], mapping: Any, path: str) -> T:
    """An instance of the frozen dataclass `cls` with what `mapping` says and defaults for the rest.

    `path` is the dotted name of the mapping in the config ("train"), for errors; "" for the top level.

    >>> @dataclass(frozen=True)
    ... class Point:
    ...     x: float = 0.0
    >>> parse(Point, {"x": 1}, "here"), parse(Point, {"x": Override("3e-4")}, "here")
    (Point(x=1.0), Point(x=0.0003))
    """
    return typing.cast(T, coerce(cls, mapping, path))


def coerce(kind: Any, value: Any, path: str) -> Any:
    """`value` as the type `kind` (an annotation), or an InputError that names `path`."""
    if typing.get_origin(kind) is Annotated:
        inner, *notes = typing.get_args(kind)
        result = coerce(inner, value, path)
        for note in notes:
            if isinstance(note, Range) and isinstance(result, Number) and not isinstance(result, bool) and result not in note:
                raise InputError(f"{path}: expected {describe(inner)} {note}, found {result}")
        return result
    if kind is Any:
        return _plain(value, path)
    origin = typing.get_origin(kind)
    if origin in (Union, types.UnionType):
        return _union(kind, value, path)
    if origin is Literal:
        return _literal(kind, value, path)
    if origin in (tuple, Sequence):
        return _tuple(kind, value, path)
    if origin is dict or kind is dict:
        return _dict(kind, value, path)
    if dataclasses.is_dataclass(kind):
        return _dataclass(kind, value, path)
    if kind in _SCALARS:
        return _SCALARS[kind](value, path)
    raise TypeError(f"{path}: schema type {kind!r} is not supported")


def typed(
    known: Mapping[str, Any], given: Mapping[str, Any], path: str, more: Iterable[str] = (), required: Iterable[str] = ()
) -> dict[str, Any]:
    """What is `given`, each value as the annotation that its name has in `known` wants it.

    `more` are names accepted besides, for the message that another is unknown; `required` are those of `known` that must be given.
    """
    for key in given:
        if key not in known:
            raise InputError(f"unknown config key {join(path, key)!r}; {nearest(key, [*known, *more])}")
    for key in required:
        if key not in given:
            raise InputError(f"{join(path, key)} is missing: expected {describe(known[key])}")
    return {key: coerce(known[key], value, join(path, key)) for key, value in given.items()}


def arguments(make: Callable[..., Any], first: int, given: Mapping[str, Any], path: str) -> dict[str, Any]:
    """What is `given` for the parameters of a class or function after its `first` ones, each as its annotation wants it.

    An option whose annotation is missing, or none of a schema's, may be any data: the class may be a user's own.

    Raises:
      InputError: an option is unknown, of another type, or missing.
    """
    parameters = list(inspect.signature(make).parameters.values())[first:]
    try:
        annotations = typing.get_type_hints(make.__init__ if isinstance(make, type) else make, include_extras=True)  # type: ignore[misc]
    except (NameError, TypeError):  # one that is only there for a type checker; of a callable that is neither class nor function
        annotations = {}
    kinds = {name: kind if _is_supported(kind) else Any for name, kind in annotations.items()}
    known = {item.name: kinds.get(item.name, Any) for item in parameters if item.kind in (item.POSITIONAL_OR_KEYWORD, item.KEYWORD_ONLY)}
    if any(item.kind is item.VAR_KEYWORD for item in parameters):
        known = dict.fromkeys(given, Any) | known
    required = [item.name for item in parameters if item.name in known and item.default is item.empty]
    return typed(known, given, path, required=required)


def _is_supported(kind: Any) -> bool:
    """Whether `coerce` takes this annotation, of an option that is plain data."""
    origin, args = typing.get_origin(kind), typing.get_args(kind)
    if origin in (Annotated, Union, types.UnionType, tuple, Sequence, dict):
        inner = args[:1] if origin in (Annotated, tuple) else args
        return all(map(_is_supported, inner))
    return origin is Literal or any(kind is known for known in (Any, dict, *_SCALARS))


def describe(kind: Any) -> str:
    """A type in words: "a whole number", "'a' or 'b'", "a dict of numbers"."""
    origin, args = typing.get_origin(kind), typing.get_args(kind)
    if origin is Annotated:
        return describe(args[0])
    if origin in (Union, types.UnionType):
        return " or ".join(describe(member) for member in args)
    if origin is Literal:
        return " or ".join(repr(choice) for choice in args)
    if origin in (tuple, Sequence):
        return f"a list (each {describe(args[0])})"
    if origin is dict and args[1] is not Any:
        return f"a dict (each {describe(args[1])})"
    if origin is dict or kind is dict or dataclasses.is_dataclass(kind):
        return "a dict"
    return {int: "a whole number", float: "a number", bool: "true or false", str: "text", type(None): "none"}.get(kind, "a value")


def found(value: Any) -> str:
    """A wrong value for an error: its type and its start, on one line.

    >>> found("fast"), found(None), found(Override("fast"))
    ("str 'fast'", 'None', "'fast'")
    """
    try:
        text = repr(value.raw if isinstance(value, Override) else value)
    except Exception:  # a config file may hold any object, also one whose repr fails
        text = "?"
    text = " ".join(text.split())
    text = text if len(text) <= 60 else text[:57] + "..."
    return text if value is None or isinstance(value, Override) else f"{type(value).__name__} {text}"


def to_dict(value: Any) -> Any:
    """A parsed value as plain JSON: dataclasses become dicts, tuples become lists."""
    if dataclasses.is_dataclass(value) and not isinstance(value, type):
        return {item.name: to_dict(getattr(value, item.name)) for item in dataclasses.fields(value)}
    if isinstance(value, Mapping):
        return {key: to_dict(inner) for key, inner in value.items()}
    if isinstance(value, (list, tuple)):
        return [to_dict(inner) for inner in value]
    return value


def join(path: str, key: str) -> str:
    return f"{path}.{key}" if path else key


@functools.cache
def hints(cls: type) -> dict[str, Any]:
    """The annotations of a dataclass by field name."""
    all_hints = typing.get_type_hints(cls, include_extras=True)
    return {item.name: all_hints[item.name] for item in dataclasses.fields(cls) if item.init}


def _wrong(kind: Any, value: Any, path: str) -> _Mismatch:
    return _Mismatch(path, f"expected {describe(kind)}, found {found(value)}")


def _dataclass(cls: Any, value: Any, path: str) -> Any:
    known, given = hints(cls), _mapping(cls, value, path)
    defaults = {item.name: (item.default, item.default_factory) for item in dataclasses.fields(cls)}
    required = [name for name in known if defaults[name] == (dataclasses.MISSING, dataclasses.MISSING)]
    arguments = typed(known, given, path, required=required)
    try:
        return cls(**arguments)
    except ValueError as error:  # from a __post_init__ that checks what belongs together
        raise InputError(f"{path}: {error}") from None


def _mapping(kind: Any, value: Any, path: str) -> dict[str, Any]:
    if isinstance(value, Override):
        value = _python_literal(kind, value, path)
    if not isinstance(value, Mapping):
        raise _wrong(kind, value, path)
    for key in value:
        if not isinstance(key, str):
            raise InputError(f"{path}: expected a dict whose keys are text, found the key {found(key)}")
        _str(key, path)
    return dict(value)


def _python_literal(kind: Any, value: Override, path: str) -> Any:
    if not value.raw.lstrip().startswith(("{", "[", "(")):
        raise _wrong(kind, value, path)
    try:
        return ast.literal_eval(value.raw.strip())
    except (ValueError, SyntaxError, TypeError, MemoryError, RecursionError):
        example = "{'name': 1.0}" if value.raw.lstrip().startswith("{") else "[1, 2]"
        raise InputError(f"{path}: expected {describe(kind)} written as in Python, such as {example}, found {found(value)}") from None


def _dict(kind: Any, value: Any, path: str) -> dict[str, Any]:
    _, inner = typing.get_args(kind) or (str, Any)
    return {key: coerce(inner, item, join(path, key)) for key, item in _mapping(kind, value, path).items()}


def _tuple(kind: Any, value: Any, path: str) -> tuple[Any, ...]:
    inner = typing.get_args(kind)[0]
    if isinstance(value, Override):
        if value.raw.lstrip().startswith(("(", "[", "{")):
            value = _python_literal(kind, value, path)
        else:  # 1,2,3 without brackets
            value = [Override(part.strip()) for part in value.raw.split(",") if part.strip()]
    if not isinstance(value, (list, tuple)):
        raise _wrong(kind, value, path)
    return tuple(coerce(inner, item, f"{path}[{index}]") for index, item in enumerate(value))


def _literal(kind: Any, value: Any, path: str) -> Any:
    choices = typing.get_args(kind)
    for choice in choices:
        if str(choice) == value.raw if isinstance(value, Override) else type(choice) is type(value) and choice == value:
            return choice
    text = value.raw if isinstance(value, Override) else value
    if isinstance(text, str) and all(isinstance(choice, str) for choice in choices):
        raise _Mismatch(path, f"unknown value {found(Override(text))}; {nearest(text, choices)}")
    raise _wrong(kind, value, path)


def _rank(kind: Any) -> int:
    """Members of a union are tried from the narrowest to the widest, so that `int | str` reads "5" as a number."""
    while typing.get_origin(kind) is Annotated:
        kind = typing.get_args(kind)[0]
    order = {type(None): 0, bool: 1, int: 3, float: 4, str: 6, Any: 7}
    return 2 if typing.get_origin(kind) is Literal else order.get(kind, 5)


def _union(kind: Any, value: Any, path: str) -> Any:
    members = sorted(typing.get_args(kind), key=_rank)
    for member in members:
        try:
            return coerce(member, value, path)
        except _Mismatch as error:
            if error.path != path:  # the right kind of container with a wrong value inside: that is what to report
                raise
    raise _wrong(kind, value, path)


def _none(value: Any, path: str) -> None:
    if value is not None and not (isinstance(value, Override) and value.raw.lower() == "none"):
        raise _wrong(type(None), value, path)


def _bool(value: Any, path: str) -> bool:
    if isinstance(value, Override) and value.raw.lower() in ("true", "false"):
        return value.raw.lower() == "true"
    if not isinstance(value, bool):
        raise _wrong(bool, value, path)
    return value


def _int(value: Any, path: str) -> int:
    number: Any = value
    if isinstance(value, Override):
        try:
            number = int(value.raw)
        except ValueError:
            try:  # 1e6 on the command line is a whole number; a float in a config file is a mistake
                real = float(value.raw)
            except ValueError:
                raise _wrong(int, value, path) from None
            if not real.is_integer():
                raise _wrong(int, value, path) from None
            number = int(real)
    if isinstance(number, bool) or not isinstance(number, numbers.Integral):
        raise _wrong(int, value, path)
    whole = int(number)
    if not -INT_LIMIT <= whole < INT_LIMIT:
        raise InputError(f"{path}: expected a whole number of at most 64 bits, found {found(value)}")
    return whole


def _float(value: Any, path: str) -> float:
    try:
        number = float(value.raw) if isinstance(value, Override) else value
    except ValueError:
        raise _wrong(float, value, path) from None
    if isinstance(number, bool) or not isinstance(number, numbers.Real):
        raise _wrong(float, value, path)
    try:
        finite = math.isfinite(number)
    except OverflowError:
        finite = False
    if not finite:
        raise InputError(f"{path}: expected a finite number, found {found(value)}")
    return float(number)


def _str(value: Any, path: str) -> str:
    text = value.raw if isinstance(value, Override) else value
    if not isinstance(text, str):
        raise _wrong(str, value, path)
    try:
        text.encode("utf-8")
    except UnicodeEncodeError:
        raise InputError(f"{path}: expected text that UTF-8 can hold, found {found(value)}") from None
    if "\0" in text:  # no file name or key may hold one, and the system call would fail without naming the config key
        raise InputError(f"{path}: expected text without NUL characters, found {found(value)}")
    return str(text)


_SCALARS: dict[Any, Callable[[Any, str], Any]] = {int: _int, float: _float, bool: _bool, str: _str, type(None): _none}


def _plain(value: Any, path: str) -> Any:
    """A value of type Any: it must still be data (JSON), since it is hashed and written beside the run."""
    if isinstance(value, Override):
        if value.raw.lstrip().startswith(("{", "[", "(")):
            return _plain(_python_literal(Any, value, path), path)
        return _union(None | bool | int | float | str, value, path)
    if isinstance(value, Mapping):
        return {key: _plain(inner, join(path, key)) for key, inner in _mapping(dict, value, path).items()}
    if isinstance(value, (list, tuple)):
        items = [_plain(inner, f"{path}[{index}]") for index, inner in enumerate(value)]
        return items if isinstance(value, list) else tuple(items)
    try:
        return _union(None | bool | int | float | str, value, path)
    except _Mismatch:
        raise _Mismatch(path, f"expected a number, text, true, false, none, a list or a dict, found {found(value)}") from None
