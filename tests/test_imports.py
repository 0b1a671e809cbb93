"""Imports go one way, and the heavy libraries stay where they belong."""

import ast
import functools
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]

# A package may import what has a lower rank; packages of one rank do not know each other.
RANK = {
    "core": 0,
    "curate": 1,
    "objectives": 1,
    "parallel": 1,
    "optim": 1,
    "metrics": 1,
    "tasks": 2,
    "models": 2,
    "interop": 3,
    "data": 3,
    "evaluate": 4,
    "train": 5,
    "plan": 6,
}
UNSAFE_MODULES = {"pickle", "cloudpickle", "dill", "marshal", "shelve", "joblib"}
UNSAFE_CALLS = {"eval", "exec", "compile"}
MAY_EXECUTE = {"pretrainx/core/config.py"}  # a config file is Python


@functools.cache
def tree(path: Path) -> ast.Module:
    return ast.parse(path.read_text(encoding="utf-8"), str(path))


def module_of(path: Path) -> str:
    parts = path.relative_to(ROOT).with_suffix("").parts
    return ".".join(parts[:-1] if parts[-1] == "__init__" else parts)


def library() -> list[Path]:
    return sorted((ROOT / "pretrainx").rglob("*.py"))


def imports(path: Path) -> Iterator[tuple[str, int]]:
    """Every module that a file imports, also inside functions, as (absolute name, line)."""
    package = module_of(path) if path.name == "__init__.py" else module_of(path).rpartition(".")[0]
    for node in ast.walk(tree(path)):
        if isinstance(node, ast.Import):
            yield from ((alias.name, node.lineno) for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            base = node.module or ""
            if node.level:
                above = package.split(".")[: len(package.split(".")) - node.level + 1]
                base = ".".join([*above, base] if base else above)
            # `from pretrainx.core import files` names the module pretrainx.core.files.
            yield from ((f"{base}.{alias.name}", node.lineno) for alias in node.names)


def rank_of(module: str) -> int | None:
    parts = module.split(".")
    return RANK[parts[1]] if len(parts) > 1 and parts[1] in RANK else None


def test_every_package_has_a_rank() -> None:
    packages = {path.parent.name for path in (ROOT / "pretrainx").glob("*/__init__.py")}
    assert "core" in packages
    assert packages <= set(RANK), f"give these a rank: {sorted(packages - set(RANK))}"


def test_imports_go_one_way() -> None:
    wrong = []
    for path in library():
        mine = module_of(path)
        my_package = mine.split(".")[1] if "." in mine else ""
        for name, line in imports(path):
            parts = name.split(".")
            if parts[0] in ("tools", "tests", "configs"):
                wrong.append(f"{path.relative_to(ROOT)}:{line}: the library imports {name}")
            if parts[0] != "pretrainx" or len(parts) < 2 or parts[1] == my_package:
                continue
            theirs, ours = rank_of(name), rank_of(mine)
            if theirs is not None and ours is not None and theirs >= ours:
                wrong.append(f"{path.relative_to(ROOT)}:{line}: {my_package} imports {name}")
    assert not wrong, "\n".join(wrong)


def test_no_module_imports_itself_through_others() -> None:
    modules = {module_of(path): path for path in library()}
    edges: dict[str, set[str]] = {}
    for module, path in modules.items():
        found = {name if name in modules else name.rpartition(".")[0] for name, _ in imports(path)}
        edges[module] = {name for name in found if name in modules and name != module}
    done: set[str] = set()

    def visit(module: str, above: tuple[str, ...]) -> None:
        assert module not in above, f"import cycle: {' -> '.join((*above[above.index(module) :], module))}"
        if module not in done:
            for inner in sorted(edges[module]):
                visit(inner, (*above, module))
            done.add(module)

    for module in sorted(modules):
        visit(module, ())


@pytest.mark.parametrize(
    ("pattern", "forbidden"),
    [
        ("pretrainx/core/*.py", {"jax", "jaxlib", "flax", "tensorflow", "seqio", "matplotlib"}),
        ("pretrainx/curate/*.py", {"jax", "jaxlib", "flax", "tensorflow", "seqio"}),
        ("pretrainx/data/loader.py", {"tensorflow", "seqio", "tensorflow_datasets"}),
        ("pretrainx/train/*.py", {"tensorflow", "seqio", "tensorflow_datasets"}),
    ],
)
def test_heavy_libraries_stay_out(pattern: str, forbidden: set[str]) -> None:
    """Checked in a new process, since what counts is everything that an import drags in."""
    modules = [module_of(path) for path in sorted(ROOT.glob(pattern))]
    assert modules, f"no module matches {pattern}"
    code = (
        f"import importlib, sys\nfor name in {modules!r}: importlib.import_module(name)\nprint(*sorted({forbidden!r} & set(sys.modules)))"
    )
    done = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    assert done.stdout.split() == []


def test_nothing_unpickles_or_evaluates() -> None:
    wrong = []
    ours = [path for folder in ("pretrainx", "tools", "configs") for path in sorted((ROOT / folder).rglob("*.py"))]
    for path in ours:
        name = str(path.relative_to(ROOT))
        wrong += [f"{name}:{line}: imports {module}" for module, line in imports(path) if module.split(".")[0] in UNSAFE_MODULES]
        for node in ast.walk(tree(path)):
            if not isinstance(node, ast.Call):
                continue
            if isinstance(node.func, ast.Name) and node.func.id in UNSAFE_CALLS and name not in MAY_EXECUTE:
                wrong.append(f"{name}:{node.lineno}: calls {node.func.id}")
            if any(word.arg == "allow_pickle" and getattr(word.value, "value", None) is not False for word in node.keywords):
                wrong.append(f"{name}:{node.lineno}: allows pickles")
    assert not wrong, "\n".join(wrong)
