"""Rows left out: the order without them, by brute force; the ledger agrees; what was fed cannot be left out any more."""

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import settings as hypothesis_settings
from hypothesis import strategies as st
from support import experiment

from pretrainx.core.errors import InputError
from pretrainx.data import ledger, skips
from pretrainx.data.loader import RowBuilder, batches, open_mixture
from pretrainx.data.order import Order
from pretrainx.data.skips import Skips, merged

stretches = st.lists(st.tuples(st.integers(0, 60), st.integers(0, 60)), max_size=6)
ORDER = Order(3, ["a", "b"], [2.0, 1.0], [17, 5])


@given(stretches, st.integers(0, 40), st.integers(0, 30))
def test_places_and_numbers_by_brute_force(found: list[tuple[int, int]], first: int, count: int) -> None:
    made = merged(found)
    out = {n for start, stop in found for n in range(start, stop)}
    fed = [n for n in range(300) if n not in out]
    assert [n in made for n in range(70)] == [n in out for n in range(70)] and len(made) == len(out)
    assert [made.number(place) for place in range(100)] == fed[:100]
    assert [made.place(n) for n in range(100)] == [None if n in out else fed.index(n) for n in range(100)]
    assert all(a[1] < b[0] for a, b in zip(made.stretches, made.stretches[1:], strict=False))
    wanted = fed[first : first + count]
    rows, every = made.rows(ORDER, first, first + count), ORDER.rows(0, 300)
    for field in ("number", "source", "epoch", "window"):
        assert np.array_equal(getattr(rows, field), getattr(every, field)[wanted])


@given(stretches, stretches, st.integers(0, 40))
def test_what_was_fed_stays_fed(old: list[tuple[int, int]], new: list[tuple[int, int]], fed: int) -> None:
    before, more = merged(old), merged(new)
    after = before.with_rows(more, fed)
    assert [after.number(place) for place in range(fed)] == [before.number(place) for place in range(fed)]
    border = before.number(fed)
    assert all((n in after) == (n in before or (n >= border and n in more)) for n in range(80))


@given(stretches)
def test_a_list_reads_back(tmp_path_factory: pytest.TempPathFactory, found: list[tuple[int, int]]) -> None:
    path = tmp_path_factory.getbasetemp() / "skip_rows.json"
    skips.write(path, merged(found), step=3)
    assert skips.read(path) == merged(found)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("[]", "is no skip list of this version"),
        ('{"skip_list": 2, "rows": []}', "is no skip list of this version"),
        ('{"skip_list": 1, "rows": {}}', "expected a list of .*found dict"),
        ('{"skip_list": 1, "rows": [[3, 3]]}', r"0 <= first < last, found \[3, 3\]"),
        ('{"skip_list": 1, "rows": [[-1, 3]]}', "0 <= first < last"),
        ('{"skip_list": 1, "rows": [[1, true]]}', "0 <= first < last"),
        ('{"skip_list": 1, "rows": [[0, 9223372036854775807]]}', "0 <= first < last"),
        ("{", "cannot be read"),
    ],
)
def test_what_is_no_list_is_refused(tmp_path: Path, text: str, message: str) -> None:
    (tmp_path / "list.json").write_text(text)
    with pytest.raises(InputError, match=message):
        skips.read(tmp_path / "list.json")
    with pytest.raises(InputError, match="not found"):
        skips.read(tmp_path / "nowhere.json")


@hypothesis_settings(max_examples=5)
@given(stretches)
def test_loader_and_ledger_feed_the_same(cache_dir: Path, found: list[tuple[int, int]]) -> None:
    """And the inverse: a document is seen where the steps show it."""
    mixture = replace(open_mixture(experiment(cache_dir).data, "train"), skips=merged(found))
    rows, size, steps = np.arange(4), 4, 12
    reader = batches(RowBuilder(mixture), batch_size=size, local_rows=rows, start=0, stop=steps, prefetch=1, workers=0)
    seen = set()
    for batch in reader:
        step = ledger.describe_step(mixture, batch.step, size)
        assert [row.number for row in step.rows] == batch.rows.number.tolist()
        assert f"{batch.digest:064x}" == step.batch_sha256 and not any(row.number in mixture.skips for row in step.rows)
        seen |= {(batch.step, row.row, piece.id) for row in step.rows for piece in row.documents}
    for identity in {name for _, _, name in seen}:
        sightings = ledger.sightings(mixture, ledger.require_documents(mixture, identity), size, steps)
        assert {(s.step, s.row) for s in sightings} == {(step, row) for step, row, name in seen if name == identity}
    assert Skips() == skips.NONE
