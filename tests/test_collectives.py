"""What each layout's compiled step sends: a golden count by kind and axis, so that a change of the program shows in review.

The CPU's compiler partitions as the TPU's does, and then fuses less. After a change that is meant:
python tests/test_collectives.py
"""

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
from support import ROOT, quick_first
from test_parallel import LAYOUTS, QUICK, program_on

from pretrainx.plan import hlo, walk
from pretrainx.plan.compile import collectives

GOLDEN = ROOT / "tests" / "data" / "collectives.json"
NAMES = ("dp8", "zero1", "fsdp8", "fsdp2x4", "fsdp_tp", "sequence_tp", "fsdp_cp", "manual8", "manual2x4", "ulysses2x4")


def sent(cache_dir: Path, name: str) -> dict[str, list[float]]:
    """{kind over axes in dtype: [calls, bytes that a device sends]} of one step, loops multiplied out."""
    program, _ = program_on(cache_dir, **LAYOUTS[name])
    loop = walk.walk(hlo.parse(program.compile_train().as_text()), 1.0)
    assert not walk.unknown_loops(loop)
    found: dict[str, list[float]] = {}
    for row in collectives(loop, dict(program.partitioner.mesh.shape)):
        own = found.setdefault(f"{row['kind']} over {'+'.join(row['axes'])} in {row['dtype']}", [0, 0.0])
        own[0] += row["calls"]
        own[1] += row["wire_bytes"]
    return found


@pytest.mark.parametrize("name", quick_first(NAMES, QUICK))
def test_a_step_sends_what_it_did(name: str, cache_dir: Path) -> None:
    wanted: dict[str, Any] = json.loads(GOLDEN.read_text())[name]
    found = sent(cache_dir, name)
    assert found == {key: pytest.approx(value) for key, value in wanted.items()}


def test_what_is_golden_is_what_the_layouts_are_for(cache_dir: Path) -> None:
    """By hand: dp sums all gradients, fsdp gathers weights, the manual layout gathers them twice and scatters gradients once."""
    golden: dict[str, dict[str, list[float]]] = json.loads(GOLDEN.read_text())

    def of(name: str, kind: str) -> float:
        return sum(size for key, (_, size) in golden[name].items() if key.startswith(kind))

    weights = 4 * program_on(cache_dir)[0].skeleton.num_params
    assert of("dp8", "all-reduce") == pytest.approx(2 * 7 / 8 * weights, rel=0.01)
    assert of("zero1", "all-gather") > 0
    scattered, gathered = of("manual8", "reduce-scatter"), of("manual8", "all-gather")
    assert scattered == pytest.approx(7 / 8 * weights, rel=0.02) and scattered < gathered < 2.1 * scattered
    assert of("manual8", "all-reduce") < 0.02 * gathered
    for name in ("fsdp8", "fsdp2x4", "fsdp_tp", "sequence_tp", "fsdp_cp"):
        assert of(name, "all-gather") > 0, name
    assert any("tensor" in key for key in golden["fsdp_tp"]) and any("sequence" in key for key in golden["fsdp_cp"])


def write() -> None:
    """Writes the golden file, in a session of its own so that the devices and flags are the tests'."""
    code = "import conftest, json, tempfile; from pathlib import Path; import test_collectives as t; from support import *\n"
    code += "folder = Path(tempfile.mkdtemp()); write_topics(folder, documents())\n"
    code += "t.GOLDEN.write_text(json.dumps({n: t.sent(folder, n) for n in t.NAMES}, indent=1, sort_keys=True) + '\\n')"
    environment = os.environ | {"PYTHONPATH": f"{ROOT}:{ROOT / 'tests'}"}
    subprocess.run([sys.executable, "-c", code], check=True, env=environment)


if __name__ == "__main__":
    write()
