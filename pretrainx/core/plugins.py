"""Plug-ins are files: the name `causal` in `objectives` is the module `pretrainx.objectives.causal`.

A name with a dot is the user's own module (`my_project.my_objective`), imported as it stands.
"""

import importlib
import importlib.util
import pkgutil
import re
from types import ModuleType

from pretrainx.core.errors import InputError, nearest


def names(package: str, attribute: str) -> list[str]:
    """The plug-ins of a package: its public modules whose source defines `attribute` at the top level, not as a Protocol."""
    home = importlib.import_module(package)
    found = []
    for info in pkgutil.iter_modules(home.__path__):
        spec = importlib.util.find_spec(f"{package}.{info.name}")
        if spec and spec.origin and not info.name.startswith("_"):
            with open(spec.origin, encoding="utf-8") as stream:
                text = stream.read()
            if re.search(rf"^(class|def) {attribute}\b(?!\(Protocol\))", text, re.MULTILINE):
                found.append(info.name)
    return sorted(found)


def find(package: str, attribute: str, name: str, where: str) -> ModuleType:
    """The module of a plug-in; `where` is the config key that named it, for the error."""
    known = names(package, attribute)
    module_name = f"{package}.{name}" if name in known else name
    dotted = name.split(".")
    if name not in known and not (len(dotted) > 1 and all(map(str.isidentifier, dotted))):  # a path, or an empty part
        raise InputError(f"{where}: unknown name {name!r}; {nearest(name, known)}, or your own module as 'package.module'")
    try:
        module = importlib.import_module(module_name)
    except ModuleNotFoundError as error:
        raise InputError(f"{where}: cannot import {module_name!r}: {error}; {nearest(name, known)}") from None
    if not hasattr(module, attribute):
        raise InputError(f"{where}: module {module_name!r} has no {attribute!r}, which a plug-in of {package} must define")
    return module
