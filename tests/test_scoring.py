"""The commands that use a trained model: evaluate and sample, from a real run's folder."""

import importlib.util
import json
import math
from pathlib import Path
from types import ModuleType

import jax
import numpy as np
import pytest
from support import ROOT, settings, write_config

from pretrainx.core import config as configs
from pretrainx.core.errors import InputError
from pretrainx.data.cache import TokenCache
from pretrainx.evaluate import baselines, ngram
from pretrainx.train import experiment as experiments
from pretrainx.train import loop, trained


def tool(name: str) -> ModuleType:
    spec = importlib.util.spec_from_file_location(f"tool_{name}", ROOT / "tools" / f"{name}.py")
    assert spec and spec.loader
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


@pytest.fixture(scope="module")
def run(cache_dir: Path, tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Path]:
    """(config file, run folder) of a few steps on two corpora, over a mesh of eight devices."""
    folder = tmp_path_factory.mktemp("scoring")
    values = settings(
        cache_dir,
        data={"mixture": {"topics": 3.0, "short": 1.0}},
        mesh={"data": 8},
        train={"steps": 6},
        eval={"every": 0, "ngram_orders": (1, 3)},
    )
    file = write_config(folder / "tiny.py", values)
    loop.train(loop.prepare(experiments.load(configs.load(str(file))), folder / "run"))
    return file, folder / "run"


def closing_json(capsys: pytest.CaptureFixture[str]) -> dict:
    return json.loads(capsys.readouterr().out.splitlines()[-1])


def test_evaluate_agrees_with_a_loop_over_single_tokens(
    run: tuple[Path, Path], cache_dir: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    file, folder = run
    tool("evaluate").main([f"--config={file}", f"--workdir={folder}", "--json"])
    found = closing_json(capsys)
    model = trained.load(folder)
    cache = TokenCache(cache_dir / "short" / "validation")
    # The same numbers from plain NumPy over logits: windows of 32 cut by hand, segments by document.
    stream, length = cache.read(0, cache.num_tokens()), 32
    starts = {cache.document_span(i)[0] for i in range(cache.num_documents)}
    logits_of = jax.jit(lambda p, b: (lambda o: o.logits(o.hidden))(model.skeleton.merge(p)(b)))
    nats = 0.0
    for first in range(0, len(stream), length):
        targets = stream[first : first + length]
        at = np.arange(first, first + len(targets))
        begins = np.asarray([p in starts for p in at])
        inputs = np.where(begins, model.vocabulary.special.start, stream[at - 1])
        segments = np.cumsum(begins) + (0 if begins[0] else 1)
        positions = np.asarray([i - np.max(np.flatnonzero(segments == s)[0]) for i, s in enumerate(segments)])
        pad = (0, length - len(targets))
        batch = {
            "tokens": np.pad(inputs, pad).astype(np.int32)[None],
            "positions": np.pad(positions, pad).astype(np.int32)[None],
            "segment_ids": np.pad(segments, pad).astype(np.int32)[None],
        }
        logits = np.asarray(logits_of(model.params, batch), np.float64)[0, : len(targets)]
        shares = logits - np.log(np.exp(logits).sum(-1, keepdims=True))
        nats -= shares[np.arange(len(targets)), targets].sum()
    assert found["eval/short/tokens"] == len(stream)
    assert found["eval/short/bytes"] == cache.num_bytes
    # float32 logits of up to a few units, summed over some hundred tokens
    assert math.isclose(found["eval/short/bits_per_byte"], nats / math.log(2) / cache.num_bytes, rel_tol=2e-6)
    both = [found[f"eval/{c}/loss"] * found[f"eval/{c}/tokens"] for c in ("topics", "short")]
    assert math.isclose(found["eval/all/loss"], sum(both) / (found["eval/topics/tokens"] + found["eval/short/tokens"]), rel_tol=1e-9)


def test_evaluate_writes_its_numbers_and_baselines_beside_the_run(run: tuple[Path, Path], capsys: pytest.CaptureFixture[str]) -> None:
    file, folder = run
    tool("evaluate").main([f"--config={file}", f"--workdir={folder}", "--config.eval.batch_size=16"])
    shown = capsys.readouterr().out
    assert "n=3" in shown and "all" in shown
    last = json.loads((folder / "metrics.jsonl").read_text().splitlines()[-1])
    assert last["step"] == 6 and last["eval/all/ngram_3/bits_per_byte"] < last["eval/all/ngram_1/bits_per_byte"] < 8
    assert (folder / "curves.png").read_bytes().startswith(b"\x89PNG")


def test_baselines_count_the_texts_that_were_cached(cache_dir: Path) -> None:
    cache = TokenCache(cache_dir / "topics" / "validation")
    texts = list(baselines.documents(cache, 10**9))
    assert sum(map(len, texts)) == cache.num_bytes and len(texts) == cache.num_documents
    assert len(list(baselines.documents(cache, 1))) == 1
    assert ngram.baselines(texts, texts, [5])[5] < 2  # text it has seen


def test_sample_is_the_same_for_a_seed_and_greedy_needs_none(run: tuple[Path, Path], capsys: pytest.CaptureFixture[str]) -> None:
    _, folder = run

    def texts(*flags: str) -> list[str]:
        tool("sample").main([f"--workdir={folder}", "--num_tokens=12", "--json", "--prompt=The", "--prompt=A longer one", *flags])
        return [s["text"] for s in closing_json(capsys)["samples"]]

    assert texts("--seed=3") == texts("--seed=3") != texts("--seed=4")
    assert texts("--temperature=0") == texts("--temperature=0", "--seed=9")


@pytest.mark.parametrize(
    ("flags", "said"),
    [
        (["--temperature=-1"], "--temperature"),
        (["--top_p=0"], "--top_p"),
        (["--num_tokens=0"], "--num_tokens"),
        (["--step=5"], "no checkpoint of step 5; those there: 4, 6"),
        (["--tempreture=1"], "--temperature"),
    ],
)
def test_sample_refuses_in_one_sentence(run: tuple[Path, Path], flags: list[str], said: str) -> None:
    with pytest.raises(InputError, match=said) as caught:
        tool("sample").main([f"--workdir={run[1]}", *flags])
    assert "\n" not in str(caught.value)


def test_evaluate_refuses_a_config_of_another_model_and_a_folder_without_a_run(run: tuple[Path, Path], tmp_path: Path) -> None:
    file, folder = run
    with pytest.raises(InputError, match="another model"):
        tool("evaluate").main([f"--config={file}", f"--workdir={folder}", "--config.model.num_layers=3"])
    with pytest.raises(InputError, match="no checkpoint there"):
        tool("evaluate").main([f"--config={file}", f"--workdir={tmp_path}"])
    with pytest.raises(InputError, match="is .* a run's folder"):
        tool("sample").main([f"--workdir={tmp_path}"])
