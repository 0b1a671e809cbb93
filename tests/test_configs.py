"""The configs that are shipped: they load, their sizes are the published ones, and their small variants train."""

import ast
import re
from pathlib import Path
from typing import Any

import jax
import numpy as np
import pytest
from support import BYTES, ROOT, documents, write_split

from pretrainx.core import config as configs
from pretrainx.core.config import Config
from pretrainx.core.errors import InputError
from pretrainx.train import build, loop
from pretrainx.train import experiment as experiments
from pretrainx.train.build import Program

FILES = sorted(path for path in (ROOT / "configs").glob("*.py") if path.stem != "base" and not path.stem.startswith("curate_"))
PUBLISHED = [path for path in FILES if "base.finish(config, variant" in path.read_text()]
# Those that differ from gpt2_124m and llama_1b in their sizes alone, which `:tiny` replaces: one of them stands for all.
LARGE = {"gpt3_175b", "llama2_70b", "llama3_8b", "llama3_70b"}
SMALL = [f"{path}:tiny" for path in PUBLISHED if path.stem not in LARGE]
SMALL += [f"{ROOT}/configs/small.py:{name}" for name in ("sentence_order", "prefix", "fill_in_middle")] + [f"{ROOT}/configs/joint_small.py"]


def docstring(path: Path) -> str:
    return ast.get_docstring(ast.parse(path.read_text())) or ""


def planned(path: Path) -> Program:
    """The program on eight devices, without data."""
    checked = experiments.load(configs.load(str(path)))
    return build.without_data(checked, jax.devices())


@pytest.mark.parametrize("path", FILES, ids=lambda p: p.stem)
def test_loads_and_says_how_to_run_it(path: Path) -> None:
    experiments.load(configs.load(str(path)))
    assert f"configs/{path.name}" in docstring(path)


def test_there_is_one_for_each_published_model() -> None:
    large = "gpt3_175b llama2_70b llama3_8b llama3_70b palm_540b"
    wanted = f"{large} gpt2_124m llama_1b bert_base bert_tiny roberta_base electra_small spanbert_base"
    wanted += " t5_small t5_base bart_base glm_base ul2_small"
    assert {path.stem for path in PUBLISHED} == set(wanted.split())


@pytest.mark.parametrize("path", PUBLISHED, ids=lambda p: p.stem)
def test_sizes_in_the_docstring_are_those_of_the_model(path: Path) -> None:
    """Weights to the last one, FLOPs a token to two digits; and the batches fit eight devices."""
    program, text = planned(path), docstring(path)
    for said in re.findall(r"([\d,]{9,}) weights", text):
        assert int(said.replace(",", "")) == program.skeleton.num_params
    per_token = program.flops_per_step / program.tokens_per_step
    said = re.search(r"FLOPs a token.*?: ([\d.]+e\d+)", text)
    assert said and float(said[1]) == pytest.approx(per_token, rel=0.01)


@pytest.mark.parametrize("name", ["gpt2_124m:small", "small:causual"])
def test_unknown_variant(name: str) -> None:
    file, variant = name.split(":")
    with pytest.raises(InputError, match=f"{variant}"):
        configs.load(f"{ROOT}/configs/{file}.py:{variant}")


@pytest.fixture(scope="module")
def sentinel_cache(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Help texts in bytes, with sentinels behind."""
    from dataclasses import replace

    folder, vocabulary = tmp_path_factory.mktemp("sentinels"), replace(BYTES, size=BYTES.size + 100, num_sentinels=100)
    for split, texts in (("train", documents()[:40]), ("validation", documents()[40:44])):
        write_split(folder, "topics", split, texts, vocabulary=vocabulary)
    return folder


@pytest.mark.slow
@pytest.mark.usefixtures("one_device")
@pytest.mark.parametrize("name", SMALL, ids=lambda n: Path(n).name)
def test_small_variants_train(name: str, sentinel_cache: Path, tmp_path: Path) -> None:
    """Forty steps of a smaller copy: the held-out loss of every term falls below where it began."""
    loaded = configs.load(name)
    values: dict[str, Any] = dict(loaded.values)
    rates = {f"topics:{entry.partition(':')[2]}": rate for entry, rate in values["data"]["mixture"].items()}
    own = {"mixture": rates, "cache_dir": str(sentinel_cache), "vocabulary": "bytes+100", "sequence_length": 64}
    values["data"] = values["data"] | own
    shrunk = {"d_model": 64, "num_layers": 2, "scan_layers": True} | ({"embedding_size": 32} if "embedding_size" in values["model"] else {})
    values["model"] = dict(values["model"]) | shrunk
    values["train"] = dict(values["train"]) | {"steps": 40, "batch_size": 8}
    values["mesh"] = {"data": 1}
    values["eval"] = {"every": "50%", "max_rows": 16}
    values["log"] = {"every": 10, "tensorboard": False}
    run = loop.prepare(experiments.load(Config("small", loaded.file, values, values)), tmp_path)
    before = loop.evaluator(run)(run.program.init_state().params)
    loop.train(run)
    assert run.state is not None
    after = loop.evaluator(run)(run.state.params)
    losses = [key for key in before if key.endswith("/loss")]
    assert losses and all(np.isfinite(after[key]) for key in losses)
    for key in losses:
        if not key.endswith(("/nsp/loss", "/sop/loss", "/rtd/loss")):  # forty steps are too few to tell sentences apart
            assert after[key] < before[key] - 0.3, (key, before[key], after[key])
