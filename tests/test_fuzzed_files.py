"""Files of a run in any state: read, or refused in one sentence; never another exception, and no path that leads out of the folder."""

import json
import shutil
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from hypothesis import HealthCheck, given
from hypothesis import settings as hypothesis_settings
from hypothesis import strategies as st
from support import BYTES, experiment, settings

from pretrainx.core import files, logs
from pretrainx.core.errors import InputError
from pretrainx.core.vocabulary import Vocabulary
from pretrainx.train import experiment as experiments
from pretrainx.train import resume, runs, trained
from pretrainx.train.report import Reporter

PLAIN = experiment().resolved()
CONFIG = json.loads(json.dumps(PLAIN))
MANIFEST = {"parameters": 5, "identity": {"data": "0"}, "vocabulary": BYTES.describe(), "sources": {}, "packages": {"jax": "1"}}
IDENTITY = {"model": {"embed": [264, 32]}, "vocabulary": "bytes", "data": "0" * 64}
FACTS = {
    "identity": IDENTITY, "config": CONFIG, "vocabulary": BYTES.describe(), "pending": [{"loss": 1.0, "grad_norm": 1.0}],
    "rows_sha256": "0" * 64, "loss": 1.5,
}  # fmt: skip

values: st.SearchStrategy[Any] = st.recursive(
    st.one_of(
        st.none(), st.booleans(), st.integers(), st.floats(), st.text(max_size=8), st.sampled_from(["../../etc/passwd", "\0", 2**70])
    ),
    lambda inner: st.one_of(st.lists(inner, max_size=2), st.dictionaries(st.text(max_size=5), inner, max_size=2)),
    max_leaves=4,
)


@st.composite
def mutated(draw: st.DrawFn, value: Any) -> Any:
    """The value with something anywhere in it replaced, lost or added."""
    if isinstance(value, dict) and value and draw(st.integers(0, 5)):
        key = draw(st.sampled_from(sorted(value)))
        how = draw(st.sampled_from(("inside", "inside", "lost", "added")))
        if how == "lost":
            return {name: inner for name, inner in value.items() if name != key}
        if how == "added":
            return value | {draw(st.text(max_size=6)): draw(values)}
        return value | {key: draw(mutated(value[key]))}
    if isinstance(value, list) and value and draw(st.booleans()):
        return [draw(mutated(value[0])), *value[1:]]
    return draw(values)


def damaged(value: Any) -> st.SearchStrategy[bytes]:
    """A JSON file that is mutated, torn, or another thing altogether."""
    whole = json.dumps(value).encode()
    return st.one_of(
        mutated(value).map(lambda v: json.dumps(v).encode()),
        st.integers(0, len(whole)).map(lambda n: whole[:n]),
        st.tuples(st.integers(0, 8 * len(whole) - 1)).map(lambda n: _flipped(whole, n[0])),
        st.binary(max_size=30),
        st.just(b"[" * 100_000),
    )


def _flipped(content: bytes, bit: int) -> bytes:
    changed = bytearray(content)
    changed[bit // 8] ^= 1 << bit % 8
    return bytes(changed)


def fine_or_refused(read: Callable[[], Any]) -> None:
    try:
        read()
    except InputError as error:
        assert "\n" not in str(error) and len(str(error)) < 2000


many = hypothesis_settings(max_examples=250, suppress_health_check=[HealthCheck.too_slow, HealthCheck.data_too_large])


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("run")


@many
@given(damaged(CONFIG), damaged(MANIFEST), st.sampled_from(("config.json", "manifest.json")))
def test_a_run_for_reports(folder: Path, config: bytes, manifest: bytes, which: str) -> None:
    (folder / "config.json").write_bytes(config if which == "config.json" else json.dumps(CONFIG).encode())
    (folder / "manifest.json").write_bytes(manifest if which == "manifest.json" else json.dumps(MANIFEST).encode())
    fine_or_refused(lambda: runs.read(folder))


@many
@given(damaged(CONFIG))
def test_the_config_of_a_run(folder: Path, content: bytes) -> None:
    (folder / "config.json").write_bytes(content)
    fine_or_refused(lambda: experiments.load(trained.saved_config(folder)))


@many
@given(mutated(BYTES.describe()))
def test_a_vocabulary(folder: Path, described: Any) -> None:
    fine_or_refused(lambda: Vocabulary.load(folder, described).special.ids)


@many
@given(mutated(FACTS))
def test_the_facts_of_a_checkpoint(facts: Any) -> None:
    facts = json.loads(json.dumps(facts))
    there: Any = SimpleNamespace(folder=Path("run/checkpoints"), facts=lambda step: facts)

    def read() -> None:
        found = resume.facts(there, 4)
        resume.check(Path("run"), found, CONFIG, IDENTITY, ())
        assert int(found["rows_sha256"], 16) >= 0
        assert all(float(row["loss"]) is not None for row in found["pending"])

    fine_or_refused(read)


def test_what_was_written_is_read(folder: Path) -> None:
    """The fuzzed values themselves are valid: their mutations are what is refused."""
    files.write_json(folder / "config.json", CONFIG)
    files.write_json(folder / "manifest.json", MANIFEST)
    assert runs.read(folder).config["train.batch_size"] == 8
    assert experiments.load(trained.saved_config(folder)).train.batch_size == settings()["train"]["batch_size"]
    assert Vocabulary.load(folder, BYTES.describe()) == BYTES
    there: Any = SimpleNamespace(folder=folder, facts=lambda step: FACTS)
    found = resume.facts(there, 4)  # with what older checkpoints lack filled in
    assert {name: found[name] for name in FACTS} == FACTS and resume.check(folder, FACTS, CONFIG, IDENTITY, ()) == []


def test_no_path_in_a_description_leads_out_of_its_folder(tmp_path: Path) -> None:
    secret = tmp_path / "secret"
    secret.write_text("secret")
    (tmp_path / "run").mkdir()
    for file in ("../secret", str(secret), "..", "a/../../secret"):
        described = BYTES.describe() | {"kind": "wordpiece", "file": file, "sha256": files.sha256_file(secret)}
        with pytest.raises(InputError, match="expected the name of a file in that folder"):
            Vocabulary.load(tmp_path / "run", described)


def test_sizes_are_bounded_before_they_are_read(tmp_path: Path) -> None:
    with open(tmp_path / "huge.json", "wb") as stream:
        stream.truncate(files.MAX_JSON_BYTES + 1)  # a hole: it takes no disk, and would take memory
    with pytest.raises(InputError, match=r"manifest .*huge\.json has 1,073,741,825 bytes; accepted are up to 1,073,741,824"):
        files.read_json(tmp_path / "huge.json", "manifest")


def test_a_full_disk_for_logs_ends_nothing(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """/dev/full refuses every byte, also those that are tried again on closing."""
    if not Path("/dev/full").exists():
        pytest.skip("no /dev/full on this system")
    reporter = Reporter(tmp_path, every=1, total=2, tokens_per_step=1, flops_per_step=1.0, peak=None, tensorboard=False)
    assert reporter._jsonl is not None
    reporter._jsonl.close()
    reporter._jsonl = open("/dev/full", "a", buffering=1)  # noqa: SIM115 - the reporter closes it
    with logs.tee("/dev/full"):
        logs.log("a line")
        for step in (1, 2):
            reporter.write(step, {"train/loss": 1.0})
        reporter.close()
    assert capsys.readouterr().err.count("warning: metrics cannot be written") == 1
    shutil.rmtree(tmp_path)
