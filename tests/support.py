"""What the tests share: text that needs no download, token caches made without SeqIO, experiments from a few words."""

import copy
import json
import math
import os
import subprocess
import sys
from collections.abc import Collection, Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

import jax
import numpy as np
import pytest

from pretrainx.core.config import Config
from pretrainx.core.vocabulary import SpecialIds, Vocabulary
from pretrainx.data.cache import CachedDocument, write_manifest, write_shard
from pretrainx.models.skeleton import Skeleton
from pretrainx.train import experiment as experiments
from pretrainx.train.experiment import Experiment

ROOT = Path(__file__).parents[1]
BYTES = Vocabulary("bytes", 264, SpecialIds(bos=259, mask=260, cls=261, sep=262))


def quick_first(names: Iterable[str], quick: Collection[str]) -> list[Any]:
    """For `pytest.mark.parametrize`: all names, those that are not `quick` marked slow."""
    return [name if name in quick else pytest.param(name, marks=pytest.mark.slow) for name in names]


def documents() -> list[str]:
    """Python's help topics, cut to a few kilobytes each so that tests stay quick; sorted by name."""
    from pydoc_data.topics import topics

    return [topics[name][:3000] for name in sorted(topics)]


def encode(text: str, vocabulary: Vocabulary = BYTES) -> np.ndarray:
    """Token ids of a document, end-of-document token included."""
    return np.asarray([*vocabulary.encode(text), vocabulary.special.eos], np.int32)


def write_split(
    cache_dir: Path, corpus: str, split: str, texts: Sequence[str], *, num_shards: int = 2, vocabulary: Vocabulary = BYTES
) -> Path:
    """A token cache of these texts; document i lies in shard i % num_shards."""
    folder = cache_dir / corpus / split
    for shard in range(num_shards):
        mine = (
            CachedDocument(f"doc-{i}", f"test#{i}", len(text.encode()), {"targets": encode(text, vocabulary)})
            for i, text in enumerate(texts)
            if i % num_shards == shard
        )
        write_shard(folder, shard, mine, ["targets"], vocabulary.size)
    write_manifest(
        folder, corpus=corpus, split=split, task_sha256="test", vocabulary=vocabulary, num_shards=num_shards, source={"made": "by a test"}
    )
    return folder


def write_topics(cache_dir: Path, texts: Sequence[str]) -> None:
    """The corpus `topics` of most tests: two shards to train on, and six documents held out."""
    write_split(cache_dir, "topics", "train", texts[:60])
    write_split(cache_dir, "topics", "validation", texts[60:66])


TINY: dict[str, dict[str, Any]] = {
    "data": {"mixture": {"topics": 1.0}, "sequence_length": 32},
    "model": {"name": "decoder", "d_model": 32, "num_layers": 2, "num_heads": 4, "mlp_dim": 64},
    "optim": {"name": "adamw", "peak_lr": 1e-2, "warmup": 2},
    "train": {"steps": 12, "batch_size": 8, "dtype": "float32"},
    "mesh": {"data": 1},
    "checkpoint": {"every": 4},
    "eval": {"every": 0},
    "log": {"every": 3, "tensorboard": False},
}


def settings(cache_dir: Path | str = "", **sections: Any) -> dict[str, Any]:
    """TINY with changes, section by section: settings(cache, train={"steps": 3}, layout="fsdp")."""
    values: dict[str, Any] = copy.deepcopy(TINY)
    values["data"]["cache_dir"] = str(cache_dir)
    for name, change in sections.items():
        values[name] = {**values.get(name, {}), **change} if isinstance(change, Mapping) and name != "layout" else change
    return values


def experiment(cache_dir: Path | str = "", **sections: Any) -> Experiment:
    values = settings(cache_dir, **sections)
    return experiments.load(Config("tiny", "tiny.py", values, values))


def numpy_params(skeleton: Skeleton, seed: int = 0) -> Any:
    """Weights drawn by NumPy: no compile, and no bias is zero and no scale one, so that leaving one out would show."""
    rng = np.random.default_rng(seed)

    def draw(path: Any, leaf: Any, dims: tuple[str | None, ...]) -> np.ndarray:
        x = rng.normal(size=leaf.shape)
        own = [size for dim, size in zip(dims, leaf.shape, strict=True) if dim != "layers"]
        if path[-1].key == "scale":
            x = 1 + 0.1 * x
        elif path[-1].key.endswith("bias"):
            x = 0.1 * x
        else:
            x = x / math.sqrt(math.prod(own[:-1]))
        return np.asarray(x, leaf.dtype)

    return jax.tree_util.tree_map_with_path(draw, skeleton.abstract, skeleton.dims)


def write_config(path: Path, values: dict[str, Any]) -> Path:
    """A config file that a command takes."""
    path.write_text(f"def get_config():\n    return {values!r}\n")
    return path


def environment(devices: int | None = 1) -> dict[str, str]:
    """For a command in a process of its own, with so many CPU devices; None: the command sets their number itself."""
    flags = [flag for flag in os.environ.get("XLA_FLAGS", "").split() if "device_count" not in flag]  # of conftest.py
    if devices is not None:
        flags.append(f"--xla_force_host_platform_device_count={devices}")
    return os.environ | {"JAX_PLATFORMS": "cpu", "XLA_FLAGS": " ".join(flags), "PYTHONPATH": str(ROOT)}


def command(*words: str | Path, devices: int = 1, tool: str = "train") -> subprocess.Popen[str]:
    """A tool with these words, started."""
    return subprocess.Popen(
        [sys.executable, str(ROOT / "tools" / f"{tool}.py"), *map(str, words)],
        env=environment(devices), cwd=ROOT, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True,
    )  # fmt: skip


def finish(process: subprocess.Popen[str], code: int = 0) -> dict[str, Any]:
    """The JSON that a command ended with ({} where the code is another than 0)."""
    out, err = process.communicate(timeout=240)
    assert process.returncode == code, f"exit code {process.returncode}, wanted {code}:\n{err[-4000:]}"
    result: dict[str, Any] = json.loads(out.splitlines()[-1]) if code == 0 else {"stderr": err}
    return result


def metrics(folder: Path) -> list[dict[str, Any]]:
    """metrics.jsonl without what the clock decides."""
    clock = ("train/step_seconds", "train/tokens_per_second", "train/tflops", "train/data_wait_share", "train/mfu")
    rows = [json.loads(line) for line in (folder / "metrics.jsonl").read_text().splitlines()]
    return [{k: v for k, v in row.items() if k not in clock} for row in rows]
