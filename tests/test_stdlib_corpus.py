"""The default corpus: whole, deterministic, and with nothing held out in what is trained on."""

import gzip
import json
import sysconfig
from pathlib import Path

import pytest

from pretrainx.core import files
from pretrainx.curate import stdlib
from tools import build_corpus

TASKS = '''"""Tasks."""

class A:
    """Of A."""

    def f(self):
        """
        Of f.
          more
        """
'''
LIBRARY = {
    "asyncio/tasks.py": TASKS,
    "plain.py": "x = 1\n",
    "copy.py": "x = 1\n",  # the same text as plain.py
    "test/test_x.py": "y = 2\n",
    "pkg/tests/test_y.py": "y = 3\n",
    "site-packages/other.py": "z = 4\n",
    "pydoc_data/topics.py": "topics = {}\n",
    "broken.py": "def (:\n",
    "empty.py": "\n",
    **{f"m{i}.py": f'"""Module {i}."""\nx = {i}\n' for i in range(200)},
}


@pytest.fixture
def root(tmp_path: Path) -> Path:
    for name, text in LIBRARY.items():
        path = tmp_path / "lib" / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text)
    (tmp_path / "lib" / "latin.py").write_bytes(b"# caf\xe9\n")
    return tmp_path / "lib"


def read(out: Path, source: str, split: str) -> dict[str, str]:
    paths = sorted((out / source).glob(f"{split}-*.gz"))
    records = [json.loads(line) for path in paths for line in gzip.decompress(path.read_bytes()).splitlines()]
    assert len({r["id"] for r in records}) == len(records)
    return {r["id"]: r["text"] for r in records}


def test_what_is_in_and_what_is_out(tmp_path: Path, root: Path) -> None:
    manifest, written = stdlib.build(tmp_path / "out", root)
    assert written
    code = read(tmp_path / "out", "stdlib_code", "train") | read(tmp_path / "out", "stdlib_code", "validation")
    assert set(code) == {"asyncio/tasks.py", "copy.py", "broken.py", *(f"m{i}.py" for i in range(200))}
    notes = read(tmp_path / "out", "stdlib_docstrings", "train") | read(tmp_path / "out", "stdlib_docstrings", "validation")
    assert notes["asyncio/tasks.py"] == "Tasks.\n\nOf A.\n\nOf f.\n  more"
    assert set(notes) == {"asyncio/tasks.py", *(f"m{i}.py" for i in range(200))}
    totals = stdlib.totals(manifest)["stdlib_code"]
    assert sum(t["documents"] for t in totals.values()) == len(code)
    assert sum(t["bytes"] for t in totals.values()) == sum(len(t) for t in code.values())


def test_a_held_out_file_is_held_out_of_both_sources(tmp_path: Path, root: Path) -> None:
    stdlib.build(tmp_path / "out", root)
    held = set(read(tmp_path / "out", "stdlib_code", "validation"))
    assert 1 <= len(held) <= 25  # of 203 files, one in twenty
    assert set(read(tmp_path / "out", "stdlib_docstrings", "validation")) == held - {"copy.py", "broken.py"}
    assert not held & set(read(tmp_path / "out", "stdlib_docstrings", "train"))


def test_equal_input_gives_equal_bytes_and_a_second_build_does_nothing(tmp_path: Path, root: Path) -> None:
    stdlib.build(tmp_path / "one", root)
    stdlib.build(tmp_path / "two", root)
    names = sorted(p.relative_to(tmp_path / "one") for p in (tmp_path / "one").rglob("*") if p.is_file() and p.name != ".lock")
    assert len(names) == 11
    for name in names:
        assert (tmp_path / "one" / name).read_bytes() == (tmp_path / "two" / name).read_bytes(), name
    times = {name: (tmp_path / "one" / name).stat().st_mtime_ns for name in names}
    manifest, written = stdlib.build(tmp_path / "one", root)
    assert not written
    assert times == {name: (tmp_path / "one" / name).stat().st_mtime_ns for name in names}
    for some in manifest["sources"]["stdlib_code"].values():
        for entry in some:
            assert entry["sha256"] == files.sha256_file(tmp_path / "one" / entry["file"])


def test_damage_or_change_is_built_again(tmp_path: Path, root: Path) -> None:
    out = tmp_path / "out"
    stdlib.build(out, root)
    path = out / "stdlib_code" / "train-00000.jsonl.gz"
    good = path.read_bytes()
    path.write_bytes(good[:-1])
    assert stdlib.build(out, root)[1] and path.read_bytes() == good
    (root / "plain.py").write_text("x = 2\n")
    assert stdlib.build(out, root)[1]


def test_the_real_library_has_the_expected_size(tmp_path: Path) -> None:
    code = stdlib.code(Path(sysconfig.get_paths()["stdlib"]))
    held = sum(len(text.encode()) for name, text in code if stdlib.held_out(name, stdlib.HOLDOUT))
    assert sum(len(text.encode()) for _, text in code) > 8_000_000
    assert 250_000 < held < 700_000  # what evaluation is counted on
    assert not [name for name, _ in code if "/test/" in f"/{name}" or "site-packages" in name]
    topics = stdlib.prose()
    assert sum(stdlib.held_out(name, stdlib.HOLDOUT) for name, _ in topics) >= 3


def test_the_tool_says_what_it_did(tmp_path: Path, root: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    monkeypatch.setattr(stdlib.sysconfig, "get_paths", lambda: {"stdlib": str(root)})
    for written, words in ((True, "written to"), (False, "unchanged")):
        assert build_corpus.main(["--out", str(tmp_path / "out"), "--json"]) == 0
        captured = capsys.readouterr()
        assert json.loads(captured.out.splitlines()[-1])["written"] is written
        assert words in captured.err
