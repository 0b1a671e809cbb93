"""One config file is one experiment: `load` runs it, applies the command line, and checks the result by type.

A config file is Python, and `load` runs it: load only files that you would run. It defines `get_config()`, or
`get_config(arg)` for `configs/x.py:arg`, and returns a mapping (an ml_collections ConfigDict) that says only what
differs from the defaults, whose home is `core/sections.py` and the `Config` of the model and optimizer plug-ins.
"""

import inspect
import os
import re
import sys
import traceback
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from types import ModuleType
from typing import Any, TypeVar, cast

from pretrainx.core import inherit, plugins, schema, sections
from pretrainx.core.errors import InputError, nearest
from pretrainx.core.schema import Override

T = TypeVar("T")

# Sections whose type is the same in every experiment.
TYPED: dict[str, type] = {
    "data": sections.Data,
    "mesh": sections.Mesh,
    "train": sections.Train,
    "checkpoint": sections.Checkpoint,
    "eval": sections.Eval,
    "log": sections.Log,
}
# Sections whose type is the `Config` of the plug-in that `<section>.name` names: (package, name when none is given).
PLUGIN = {"model": ("pretrainx.models", "decoder"), "optim": ("pretrainx.optim", "adamw")}
# Single values at the top level: (type, default).
SINGLE: dict[str, tuple[Any, Any]] = {"layout": (str | dict[str, Any], "dp"), "init_from": (str, "")}
SECTIONS = ("data", "model", "optim", "mesh", "layout", "train", "checkpoint", "eval", "log", "init_from")

MAX_DEPTH = 40  # of nested dicts; only a dict that holds itself is deeper


@dataclass(frozen=True)
class Config:
    """What a config file and the command line say; `section` and `plugin_section` give it back typed."""

    name: str  # file stem, with "_arg" where the file got an argument: the name of the run's folder
    file: str  # as it was given
    from_file: dict[str, Any] = field(repr=False)
    raw: dict[str, Any] = field(repr=False)  # from_file with an Override wherever the command line spoke
    overrides: tuple[str, ...] = ()  # "train.steps=5", in the order given
    inherited: dict[str, Any] = field(default_factory=dict, repr=False)  # from the run that `init_from` names

    @property
    def values(self) -> dict[str, Any]:
        """What was said, without defaults, as a nested plain dict; text from the command line is read by its looks."""
        return cast(dict[str, Any], _guess(self.raw))

    def section(self, name: str, cls: type[T]) -> T:
        """The section as an instance of the dataclass `cls`, with defaults for what was not said."""
        return schema.parse(cls, self.raw.get(name, {}), name)

    def plugin_section(self, name: str, package: str, attribute: str = "Config", default_name: str | None = None) -> tuple[ModuleType, Any]:
        """The module that `<name>.name` names, and the section as an instance of its `Config`."""
        said = self.raw.get(name, {})
        given: Any = schema.coerce(dict, said, name) if isinstance(said, Override) else said
        if not isinstance(given, Mapping):
            raise InputError(f"{name}: expected a dict, found {schema.found(given)}")
        if given.get("name") is None and default_name is None:
            raise InputError(f"{name}.name is missing; {nearest('', plugins.names(package, attribute))}")
        chosen = schema.coerce(str, given.get("name") or default_name, f"{name}.name")
        module = plugins.find(package, attribute, chosen, f"{name}.name")
        return module, schema.parse(getattr(module, attribute), {**given, "name": chosen}, name)

    @property
    def layout(self) -> str | dict[str, Any]:
        """The name of a layout, or its rules as a dict."""
        return cast(str | dict[str, Any], self._single("layout"))

    @property
    def init_from(self) -> str:
        """Where the first parameters come from; "" for a fresh start."""
        return str(self._single("init_from"))

    def _single(self, name: str) -> Any:
        kind, default = SINGLE[name]
        return schema.coerce(kind, self.raw.get(name, default), name)

    def origin(self, path: str) -> str:
        """Where the value at a dotted path was said last: "default", the config file or "command line"."""
        for override in self.overrides:
            key = override.partition("=")[0]
            if path == key or path.startswith(key + ".") or key.startswith(path + "."):
                return "command line"
        if _said(self.from_file, path.split(".")):
            return self.file
        return f"init_from {self.init_from}" if _said(self.inherited, path.split(".")) else "default"

    def resolved(self, **parsed: Any) -> dict[str, Any]:
        """Every leaf with its value, defaults filled in, as plain JSON in the order of SECTIONS.

        Sections that the caller has parsed may be handed in (`model=..., optim=...`), which saves importing their
        plug-ins again.
        """
        result: dict[str, Any] = {}
        for name in SECTIONS:
            if name in parsed:
                value = parsed[name]
            elif name in TYPED:
                value = self.section(name, TYPED[name])
            elif name in SINGLE:
                value = self._single(name)
            else:
                package, default_name = PLUGIN[name]
                value = self.plugin_section(name, package, default_name=default_name)[1]
            result[name] = schema.to_dict(value)
        return result


def load(spec: str, overrides: Iterable[str] = ()) -> Config:
    """The config of "configs/x.py" or "configs/x.py:arg" with overrides such as "train.steps=5" applied.

    The file is Python and is run. Everything but `model` and `optim`, whose types belong to plug-ins, is checked here.
    """
    overrides = tuple(overrides)
    file, argument, from_file, raw = read(spec, overrides, SECTIONS)
    stem = Path(file).stem + (f"_{argument}" if argument else "")
    inherited = inherit.values(start) if (start := schema.coerce(str, raw.get("init_from", ""), "init_from")) else {}
    raw = inherit.fill(raw, inherited)
    config = Config(re.sub(r"[^A-Za-z0-9._-]+", "-", stem), file, from_file, raw, overrides, inherited)
    for name, cls in TYPED.items():
        config.section(name, cls)
    for name in SINGLE:
        config._single(name)
    return config


def read(spec: str, overrides: Iterable[str], sections: Iterable[str]) -> tuple[str, str | None, dict[str, Any], dict[str, Any]]:
    """(file, its argument, what it says, the same with an Override wherever the command line spoke); only the top keys are checked."""
    match = re.fullmatch(r"(.+?\.py)(?::(.*))?", spec, re.DOTALL)
    file, argument = (match[1], match[2]) if match else (spec, None)
    from_file = _execute(file, argument)
    accepted = tuple(sections)
    _check_top(from_file, accepted)
    raw = cast(dict[str, Any], _copy(from_file))
    for override in overrides:
        _apply(raw, override, file, accepted)
    return file, argument, from_file, raw


def leaves(resolved: Mapping[str, Any], path: str = "") -> dict[str, Any]:
    """A nested dict flattened to {dotted path: value}; lists and empty dicts are leaves.

    >>> leaves({"train": {"steps": 5}, "data": {"corpora": {}}})
    {'train.steps': 5, 'data.corpora': {}}
    """
    flat: dict[str, Any] = {}
    for key, value in resolved.items():
        here = schema.join(path, key)
        flat.update(leaves(value, here) if isinstance(value, Mapping) and value else {here: value})
    return flat


def _execute(file: str, argument: str | None) -> dict[str, Any]:
    """Runs the file and calls its get_config."""
    code = _compile(file)
    # The config may import `configs.base`, and it may name the user's own modules, which lie beside it or in the
    # working directory. At the end, so that nothing there can hide an installed package.
    folder = Path(file).resolve().parent
    for place in (os.getcwd(), str(folder.parent), str(folder)):
        if place not in sys.path:
            sys.path.append(place)
    names: dict[str, Any] = {"__name__": "__config__", "__file__": file}
    try:
        exec(code, names)
        get_config = names.get("get_config")
        if not callable(get_config):
            raise InputError(f"config file {file} defines no get_config() function")
        arguments = () if argument is None else (argument,)
        _check_call(get_config, arguments, file)
        return cast(dict[str, Any], _to_plain(get_config(*arguments), file))
    except InputError:
        raise
    except (Exception, SystemExit) as error:
        lines = [frame.lineno for frame in traceback.extract_tb(error.__traceback__) if frame.filename == file]
        where = f", line {lines[-1]}" if lines else ""
        raise InputError(f"config file {file}{where}: {type(error).__name__}: {_one_line(error)}") from None


def _compile(file: str) -> Any:
    try:
        return compile(Path(file).read_bytes(), file, "exec", dont_inherit=True)
    except FileNotFoundError:
        folder = Path(file).parent
        beside = [str(folder / path.name) for path in folder.glob("*.py")] if folder.is_dir() else []
        raise InputError(f"config file not found: {file!r}; {nearest(file, beside)}") from None
    except OSError as error:
        raise InputError(f"config file {file} cannot be read: {error.strerror}") from None
    except SyntaxError as error:
        raise InputError(f"config file {file}, line {error.lineno}: {type(error).__name__}: {_one_line(error.msg)}") from None
    except (ValueError, RecursionError, MemoryError) as error:  # NUL bytes, absurd nesting
        raise InputError(f"config file {file} is not a Python file: {_one_line(error)}") from None


def _check_call(get_config: Any, arguments: tuple[str, ...], file: str) -> None:
    try:
        inspect.signature(get_config).bind(*arguments)
    except TypeError:
        fix = f"takes no argument: write --config={file}" if arguments else f"needs an argument: write --config={file}:ARGUMENT"
        raise InputError(f"config file {file}: its get_config() {fix}") from None


def _to_plain(value: Any, file: str) -> Any:
    if callable(getattr(value, "to_dict", None)):  # ConfigDict is not a Mapping by registration, but can become a dict
        value = value.to_dict()
    if not isinstance(value, Mapping):
        raise InputError(f"config file {file}: get_config() must return a ConfigDict or dict, found {schema.found(value)}")
    return _copy(value)


def _copy(value: Any, depth: int = 0) -> Any:
    """Nested mappings as new plain dicts."""
    if not isinstance(value, Mapping):
        return value
    if depth > MAX_DEPTH:
        raise InputError(f"the config is nested more than {MAX_DEPTH} dicts deep")
    return {key: _copy(inner, depth + 1) for key, inner in value.items()}


def _guess(value: Any) -> Any:
    if isinstance(value, Mapping):
        return {key: _guess(inner) for key, inner in value.items()}
    return schema.coerce(Any, value, "config") if isinstance(value, Override) else value


def _check_top(values: Mapping[str, Any], sections: tuple[str, ...]) -> None:
    for key in values:
        if key not in sections:
            raise InputError(f"unknown config section {key!r}; {nearest(str(key), sections)}")


def _apply(raw: dict[str, Any], override: str, file: str, sections: tuple[str, ...]) -> None:
    """Puts one "path=value" into the nested dict."""
    path, equals, text = override.partition("=")
    keys = path.split(".")
    if not equals or not all(keys):
        raise InputError(f"--config.{_one_line(override)}: expected --config.PATH=VALUE, such as --config.train.steps=100")
    _check_top({keys[0]: None}, sections)
    here = raw
    for depth, key in enumerate(keys[:-1], 1):
        inner = here.setdefault(key, {})
        prefix = ".".join(keys[:depth])
        if isinstance(inner, Override):  # the same command line replaced the whole dict before
            inner = here[key] = schema.coerce(dict, inner, prefix)
        if not isinstance(inner, dict):
            raise InputError(
                f"--config.{_one_line(path)}: {_one_line(prefix)} is {schema.found(inner)} in {file}, not a dict; "
                f"give the whole value with --config.{_one_line(prefix)}=..."
            )
        here = inner
    here[keys[-1]] = Override(text)


def _said(values: Any, keys: list[str]) -> bool:
    """Whether a dotted path is in the nested dict; a key may itself hold dots."""
    if not keys:
        return True
    if not isinstance(values, Mapping):
        return False
    splits = ((".".join(keys[:count]), keys[count:]) for count in range(1, len(keys) + 1))
    return any(key in values and _said(values[key], rest) for key, rest in splits)


def _one_line(text: object) -> str:
    return " ".join(str(text).split())
