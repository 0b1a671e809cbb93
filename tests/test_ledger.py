"""The trail of every row, checked against the texts it came from, and its inverse against looking at every step."""

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from support import BYTES, ROOT, documents, encode, environment, settings, write_config, write_split

from pretrainx.core import cli, schema
from pretrainx.core.errors import InputError
from pretrainx.core.sections import Data
from pretrainx.data import ledger
from pretrainx.data.cache import TokenCache
from pretrainx.data.loader import DIGEST_BITS, Mixture, RowBuilder, batches, open_mixture
from tools import inspect_data

BATCH = 8
# `short` is small: twelve steps read it more than twice.
MIXTURE = {"mixture": {"topics:causal": 0.5, "short:masked": 0.25, "short:causal": 0.25}, "sequence_length": 64}


def texts_of(corpus: str) -> dict[str, str]:
    """{id: text} as conftest.py wrote them."""
    texts = documents()
    texts = texts[:60] if corpus == "topics" else [text[:n] for text in texts for n in (1, 3, 17)]
    return {f"doc-{i}": text for i, text in enumerate(texts)}


@pytest.fixture(scope="module")
def mixture(cache_dir: Path) -> Mixture:
    return open_mixture(schema.parse(Data, settings(cache_dir, data=MIXTURE)["data"], "data"), "train")


@pytest.mark.parametrize("number", [0, 11, 10**6])
def test_every_row_leads_back_to_its_text(mixture: Mixture, number: int) -> None:
    step = ledger.describe_step(mixture, number, BATCH)
    assert [row.number for row in step.rows] == list(range(number * BATCH, (number + 1) * BATCH))
    for row in step.rows:
        texts, end = texts_of(row.source.partition(":")[0]), 0
        for piece in row.documents:
            tokens = encode(texts[piece.id])
            assert piece.first == end and piece.last - piece.first == piece.end - piece.start > 0
            assert piece.document_tokens == len(tokens) and piece.origin == piece.id.replace("doc-", "test#")
            assert np.array_equal(row.features["targets"][piece.first : piece.last], tokens[piece.start : piece.end])
            assert piece.text == BYTES.decode(tokens[piece.start : piece.end])
            assert set(row.features["segment_ids"][piece.first : piece.last]) == {row.documents.index(piece) + 1}
            end = piece.last
        assert not row.features["segment_ids"][end:].any()


def test_the_ledger_shows_what_is_fed(mixture: Mixture) -> None:
    read = batches(RowBuilder(mixture), batch_size=BATCH, local_rows=np.arange(BATCH), start=3, stop=6, prefetch=1, workers=0)
    for batch in read:
        step = ledger.describe_step(mixture, batch.step, BATCH)
        assert int(step.batch_sha256, 16) == batch.digest
        for place, row in enumerate(step.rows):
            for name, array in row.features.items():
                assert np.array_equal(array, batch.features[name][place])


@pytest.mark.parametrize("processes", [2, 4, 8])
def test_the_rows_of_processes_unite_to_the_batch(mixture: Mixture, processes: int) -> None:
    whole = ledger.describe_step(mixture, 7, BATCH)
    shares = [ledger.describe_step(mixture, 7, BATCH, np.arange(BATCH).reshape(processes, -1)[i]) for i in range(processes)]
    assert [row.to_json() for share in shares for row in share.rows] == [row.to_json() for row in whole.rows]
    total = sum(int(share.batch_sha256, 16) for share in shares) % (1 << DIGEST_BITS)
    assert f"{total:064x}" == whole.batch_sha256 not in {share.batch_sha256 for share in shares}


@pytest.mark.parametrize("identity", ["doc-0", "doc-17", "doc-59", "doc-200"])
def test_the_steps_of_a_document_are_all_its_steps(mixture: Mixture, identity: str) -> None:
    """Brute force: every row of every step is described, and those that name the document are kept."""
    steps = 40
    wanted = []
    for number in range(steps):
        for row in ledger.describe_step(mixture, number, BATCH).rows:
            wanted += [(number, row.row, row.source, row.epoch, row.window, p.start, p.end) for p in row.documents if p.id == identity]
    found = ledger.sightings(mixture, ledger.require_documents(mixture, identity), BATCH, steps)
    assert [(s.step, s.row, s.source, s.epoch, s.window, s.start, s.end) for s in found] == wanted
    assert len(wanted) >= 2 and max(s.epoch for s in found if s.source == "short:masked") >= 1


def test_an_id_may_stand_in_several_corpora_and_twice(tmp_path: Path, mixture: Mixture) -> None:
    assert [corpus for corpus, _ in ledger.find_documents(mixture, "doc-3")] == ["short", "topics"]
    assert [corpus for corpus, _ in ledger.find_documents(mixture, "doc-60")] == ["short"]
    cache = TokenCache(write_split(tmp_path, "c", "train", ["x"] * 23, num_shards=3))
    ids = [cache.document(i).id for i in range(23)]
    assert list(cache.document_ids()) == ids
    for identity in {*ids, "doc-", "oc-1", "test#1", "", "doc-1\ttest#1"}:
        assert cache.find_document(identity) == [i for i, name in enumerate(ids) if name == identity], identity


def test_marks_give_back_the_text_and_count_the_predictions(mixture: Mixture) -> None:
    seen = set()
    rows = [row for number in range(30) for row in ledger.describe_step(mixture, number, BATCH).rows]
    for row in rows:
        causal = row.source.endswith("causal")
        for piece in row.documents:
            made = ledger.marks(row.features, causal, piece.first, piece.last, BYTES)
            weights = row.features["loss_weights"][piece.first : piece.last]
            if causal:
                assert {m.kind for m in made} <= {"target", "special"}
            else:
                assert sum(m.kind in ("masked", "replaced", "kept") for m in made) == int(weights.sum())
                assert all(m.text == "<mask>" for m in made if m.kind == "masked")
                assert all(m.text != m.was for m in made if m.kind == "replaced") and all(m.text == m.was for m in made if m.kind == "kept")
            text = "".join(m.was or ("" if m.kind == "special" else m.text) for m in made)
            if piece.text.isascii():
                assert text == piece.text
            seen |= {m.kind for m in made}
    assert seen == {"target", "special", "masked", "replaced", "kept", "context"}


def run(capsys: pytest.CaptureFixture[str], *words: str) -> tuple[int, str, str]:
    code = cli.outcome(lambda: inspect_data.main(list(words)))
    out, err = capsys.readouterr()
    return code, out, err


@pytest.fixture
def config(tmp_path: Path, cache_dir: Path) -> str:
    return f"--config={write_config(tmp_path / 'tiny.py', settings(cache_dir, data=MIXTURE, eval={'every': 4}))}"


def test_json_of_a_step_and_of_its_parts(config: str, capsys: pytest.CaptureFixture[str], mixture: Mixture) -> None:
    code, out, _ = run(capsys, config, "--step=5", "--json")
    whole = json.loads(out.splitlines()[-1])
    assert code == 0 and set(whole) == {"step", "rows", "batch_sha256"} and whole["step"] == 5
    assert whole["batch_sha256"] == ledger.describe_step(mixture, 5, BATCH).batch_sha256
    row = whole["rows"][2]
    assert {"row", "source", "documents", "tokens"} <= set(row) and {"id", "origin", "start", "end"} <= set(row["documents"][0])
    assert len(row["tokens"]) == 64 and row["row"] == 2
    rows: list[dict[str, Any]] = []
    for index in range(4):
        code, out, _ = run(capsys, config, "--step=5", "--json", "--process_count=4", f"--process_index={index}")
        assert code == 0
        rows += json.loads(out)["rows"]
    assert rows == whole["rows"]


def test_what_a_person_is_shown(config: str, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> None:
    _, plain, _ = run(capsys, config, "--step=0", "--rows=3")
    assert plain.count("\nrow ") == 3 and "\x1b" not in plain and "positions predicted" in plain and "[=word] kept" in plain
    monkeypatch.setenv("FORCE_COLOR", "1")
    _, coloured, _ = run(capsys, config, "--step=0", "--rows=3")
    assert "\x1b[" in coloured
    _, text, _ = run(capsys, config, "--document=doc-3")
    assert "seen " in text and "short:masked" in text and text.count("-- ") == 2


def test_a_document_cannot_steer_the_terminal(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    write_split(tmp_path, "evil", "train", ["\x1b[2Jgone [red]\x07\u202e"] * 40, num_shards=1)
    values = settings(tmp_path, data={"mixture": {"evil": 1.0}})
    code, out, _ = run(capsys, f"--config={write_config(tmp_path / 'c.py', values)}", "--step=0")
    assert code == 0 and "\\x1b[2Jgone [red]" in out and "\x1b" not in out and "\x07" not in out and "\u202e" not in out


def test_a_held_out_document_is_seen_by_no_step(tmp_path: Path, cache_dir: Path, capsys: pytest.CaptureFixture[str]) -> None:
    write_split(tmp_path, "c", "train", ["one", "two"])
    write_split(tmp_path, "c", "validation", ["held", "out", "text"])  # of the three ids, train has two
    values = settings(tmp_path, data={"mixture": {"c": 1.0}})
    code, out, err = run(capsys, f"--config={write_config(tmp_path / 'c.py', values)}", "--document=doc-2", "--json")
    assert code == 0 and json.loads(out)["seen"] == [] and "held out" in err


@pytest.mark.parametrize(
    ("words", "message"),
    [
        ([], "give --step=N"),
        (["--step=-1"], "--step=-1: expected 0 or more"),
        (["--step=1", "--rows=0"], "--rows=0: expected 1 or more"),
        (["--step=1", "--process_count=3", "--process_index=0"], "does not divide train.batch_size 8"),
        (["--step=1", "--process_count=2"], "belong together"),
        (["--step=1", "--process_count=2", "--process_index=2"], "expected 0 to 1"),
        (["--document=doc-77x"], "no document has the id 'doc-77x'; did you mean 'doc-77'"),
        (["--step=1", "--config.data.mixture={'topcs': 1.0}"], "topcs"),
    ],
)
def test_bad_input_is_one_sentence_and_exit_code_2(config: str, capsys: pytest.CaptureFixture[str], words: list[str], message: str) -> None:
    code, out, err = run(capsys, config, *words)
    assert code == 2 and not out and err.startswith("error: ") and err.count("\n") == 1 and message in err


def test_require_documents_names_what_is_near(mixture: Mixture) -> None:
    with pytest.raises(InputError, match="did you mean 'doc-13"):
        ledger.require_documents(mixture, "doc-13_")


def test_it_starts_without_tensorflow_and_without_a_model(config: str) -> None:
    code = (
        "import sys; from tools import inspect_data; inspect_data.main(sys.argv[1:]);"
        "print(*({'tensorflow', 'seqio', 'flax', 'optax'} & set(sys.modules)), file=sys.stderr)"
    )
    done = subprocess.run(
        [sys.executable, "-c", code, config, "--step=1", "--json"], cwd=ROOT, env=environment(), capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stderr
    assert done.stderr.split() == [] and json.loads(done.stdout)["step"] == 1
