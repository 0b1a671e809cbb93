"""Eight devices on any machine, small token caches, and programs on any mesh; must run before jax is imported."""

import os
import tempfile

# The flags are read once, when jax starts its backend. Subprocesses of tests inherit them, or set their own.
os.environ["JAX_PLATFORMS"] = "cpu"
# Tests compile much and compute little: the code generator's own optimisation is off, which halves their time, and fusions are written by
# its older emitters, which compile a training step in a third of the time of the newer ones.
os.environ["XLA_FLAGS"] = (
    "--xla_force_host_platform_device_count=8 --xla_backend_optimization_level=0 --xla_llvm_disable_expensive_passes=true "
    "--xla_cpu_use_fusion_emitters=false"
)

# Many tests, workers and commands compile one program: the first leaves it to the others. Gone with the session.
if "JAX_COMPILATION_CACHE_DIR" not in os.environ:
    _compiled = tempfile.TemporaryDirectory(prefix="pretrainx-compiled-")  # removed when this process ends
    os.environ["JAX_COMPILATION_CACHE_DIR"] = _compiled.name
    os.environ["JAX_PERSISTENT_COMPILATION_CACHE_MIN_COMPILE_TIME_SECS"] = "0.1"

from collections.abc import Iterator
from pathlib import Path

import hypothesis
import jax
import pytest
from support import BYTES, documents, write_split, write_topics

from pretrainx.data.cache import TokenCache

hypothesis.settings.register_profile("untimed", deadline=None)  # a busy machine is no failure
hypothesis.settings.load_profile("untimed")


@pytest.fixture(scope="session")
def cache_dir(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Two corpora of Python's own help texts: `topics` (two shards, ragged end) and `short` (documents of few bytes)."""
    folder = tmp_path_factory.mktemp("cache")
    texts = documents()
    write_topics(folder, texts)
    short = [text[:n] for text in texts for n in (1, 3, 17)]
    write_split(folder, "short", "train", short, num_shards=3)
    write_split(folder, "short", "validation", short[:40], num_shards=1)
    return folder


@pytest.fixture(scope="session")
def topics(cache_dir: Path) -> TokenCache:
    cache = TokenCache(cache_dir / "topics" / "train")
    assert cache.vocabulary == BYTES
    return cache


@pytest.fixture(scope="module")
def one_device() -> Iterator[None]:
    """The loop takes the devices that are there; here one, so that a config with data=1 fits."""
    patch, devices = pytest.MonkeyPatch(), jax.devices()
    patch.setattr(jax, "devices", lambda *_: devices[:1])
    yield
    patch.undo()
