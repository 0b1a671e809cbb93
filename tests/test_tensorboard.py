"""Event files, as TensorFlow itself reads them, and the checksum against its published values."""

import json
import subprocess
import sys
from importlib.util import find_spec
from pathlib import Path

import pytest

from pretrainx.train.report import evaluated, keep_until
from pretrainx.train.tensorboard import EventWriter, masked_crc32c

READ = """
import glob, json, sys
import tensorflow as tf
rows = []
for path in sorted(glob.glob(sys.argv[1] + "/*tfevents*")):
    for event in tf.compat.v1.train.summary_iterator(path):
        rows.append([event.step, event.file_version, {v.tag: repr(v.simple_value) for v in event.summary.value}])
print(json.dumps(rows))
"""


@pytest.mark.parametrize(
    ("data", "crc"), [(b"", 0), (b"\x00" * 32, 0x8A9136AA), (bytes(range(32)), 0x46DD794E), (b"123456789", 0xE3069283)]
)
def test_crc32c_has_the_values_of_rfc_3720(data: bytes, crc: int) -> None:
    assert masked_crc32c(data) == (((crc >> 15) | (crc << 17)) + 0xA282EAD8) & 0xFFFFFFFF


@pytest.mark.slow
@pytest.mark.skipif(find_spec("tensorflow") is None, reason="TensorFlow is not installed")
def test_tensorflow_reads_what_we_write(tmp_path: Path) -> None:
    writer = EventWriter(tmp_path)
    writer.write(0, {"train/loss": 2.5})
    writer.write(300, {"train/loss": -1.25, "eval/ü/x": 1e-30, "huge": 1e300, "none": float("nan")})
    writer.write(1 << 40, {})
    writer.close()
    done = subprocess.run([sys.executable, "-c", READ, str(tmp_path)], capture_output=True, text=True, timeout=240, check=True)
    rows = json.loads(done.stdout.splitlines()[-1])
    assert rows[0][:2] == [0, "brain.Event:2"]
    assert rows[1] == [0, "", {"train/loss": "2.5"}]
    assert rows[2][0] == 300
    values = {tag: float(value) for tag, value in rows[2][2].items()}
    assert values["train/loss"] == -1.25 and values["eval/ü/x"] == pytest.approx(1e-30) and values["huge"] == float("inf")
    assert values["none"] != values["none"]
    assert rows[3][0] == 1 << 40


def test_metrics_are_cut_back_to_a_step(tmp_path: Path) -> None:
    path = tmp_path / "metrics.jsonl"
    keep_until(path, 5)
    assert not path.exists()
    path.write_text(
        '{"step": 4, "train/loss": 1}\n{"step": 4, "eval/a/loss": 1}\n{"step": 5, "train/loss": 1}\n{"step": 6, "x": 1}\n{"step": 7, "tr'
    )
    keep_until(path, 5)
    assert [json.loads(line)["step"] for line in path.read_text().splitlines()] == [4, 4, 5]
    assert evaluated(path, 4) and not evaluated(path, 5) and not evaluated(tmp_path / "absent", 4)
