"""SeqIO Tasks as others write them, on models of ours: what SeqIO's Evaluator says is what the model says when it is asked directly."""

import importlib.util
import json
import sys
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from types import ModuleType
from typing import Any

import jax
import numpy as np
import pytest
from support import BYTES, ROOT, numpy_params, settings, write_config

from pretrainx.core import config as configs
from pretrainx.core.errors import InputError
from pretrainx.core.sections import Data
from pretrainx.evaluate import seqio_tasks
from pretrainx.evaluate.beam import Beam
from pretrainx.evaluate.generate import Generator
from pretrainx.evaluate.sampling import Sampling
from pretrainx.evaluate.seqio_tasks import Answers, Evaluation, as_it_is, evaluate, find_tasks
from pretrainx.metrics import labels, text
from pretrainx.models import decoder, encoder, prefix_decoder, skeleton, t5
from pretrainx.models.skeleton import Skeleton
from pretrainx.objectives.interface import Prompt
from pretrainx.parallel import layouts, mesh
from pretrainx.parallel.shard import Partitioner
from pretrainx.train import experiment as experiments
from pretrainx.train import loop, trained

PAIRS = [(f"question {i}: {'what ' * (i % 4)}?", f"answer {'x' * (i % 3)}{i}") for i in range(7)]
EOS, START = BYTES.special.eos, BYTES.special.start
MODULE = f'''
import functools
import seqio
import tensorflow as tf
from pretrainx.metrics import labels, text

PAIRS = {PAIRS!r}
BYTES = seqio.ByteVocabulary()

def pairs(split, shuffle_files=False, seed=None):
    rows = PAIRS if split == "validation" else PAIRS[:0] if split == "empty" else PAIRS[:2]
    columns = {{"inputs": [a for a, _ in rows], "targets": [b for _, b in rows], "number": list(range(len(rows)))}}
    kinds = {{"inputs": tf.string, "targets": tf.string, "number": tf.int32}}
    return tf.data.Dataset.from_tensor_slices({{name: tf.constant(x, kinds[name]) for name, x in columns.items()}})

SOURCE = seqio.FunctionDataSource(pairs, splits=("train", "validation", "empty"))
FEATURES = {{"inputs": seqio.Feature(BYTES, add_eos=True), "targets": seqio.Feature(BYTES, add_eos=True)}}
STEPS = [seqio.preprocessors.tokenize, seqio.preprocessors.append_eos]

def answer(said, example=None, is_target=False):
    """Several references of a target; a prediction in upper case."""
    number = int(example["number"])
    return [said, str(number)] if is_target else said.upper()

def mean_score(targets, scores):
    return {{"mean_score": sum(float(x) for x in scores) / len(scores), "first_target_length": len(targets[0][0])}}

def with_aux(targets, predictions, aux_values):
    return {{"sum_of_scores": float(sum(aux_values["scores"])), "total_length": sum(map(len, predictions))}}

def a_text(targets, predictions):
    return {{"told": seqio.metrics.Text("no number"), "scalar": seqio.metrics.Scalar(3)}}

def add(name, **change):
    options = dict(source=SOURCE, preprocessors=STEPS, output_features=FEATURES, postprocess_fn=answer, metric_fns=[text.squad])
    seqio.TaskRegistry.add(name, **(options | change))

add("answers", metric_fns=[text.bleu, functools.partial(text.rouge, use_stemmer=True), text.squad])
add("every_kind", metric_fns=[text.chrf, mean_score, with_aux, a_text])
add("plain", postprocess_fn=None, metric_fns=[labels.accuracy, mean_score])
add("alone", output_features={{"targets": FEATURES["targets"]}}, metric_fns=[mean_score])
add("no_metrics", metric_fns=[])
add("other_vocabulary", output_features=FEATURES | {{"targets": seqio.Feature(seqio.ByteVocabulary(extra_ids=100))}})
add("floats", output_features=FEATURES | {{"inputs": seqio.ContinuousFeature(dtype=tf.float32)}})
add("strange", output_features={{"inputs": FEATURES["inputs"]}})
add("odd_metric", metric_fns=[lambda wanted, said: {{}}])
add("broken_metric", metric_fns=[lambda targets, predictions: {{"x": 1 / 0}}])
add("group_metric", metric_fns=[labels.multirc])
add("needs_lengths", preprocessors=[*STEPS, lambda ds, sequence_length: ds.map(lambda x: x)])
seqio.MixtureRegistry.add("both", [("answers", 1.0), ("plain", 1.0), ("no_metrics", 1.0)])
seqio.MixtureRegistry.add("nothing", [("no_metrics", 1.0)])
'''


@pytest.fixture(scope="module")
def module(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """The name of a module that registers Tasks, importable, and forgotten at the end."""
    seqio = pytest.importorskip("seqio", reason="needs pretrainx[tasks]")
    folder = tmp_path_factory.mktemp("their")
    (folder / "their_tasks.py").write_text(MODULE)
    before = {registry: set(registry.names()) for registry in (seqio.TaskRegistry, seqio.MixtureRegistry)}
    sys.path.insert(0, str(folder))
    yield "their_tasks"
    sys.path.remove(str(folder))
    sys.modules.pop("their_tasks", None)
    for registry, names in before.items():
        for name in set(registry.names()) - names:
            registry.remove(name)


ONE = Partitioner(mesh.make(mesh.MeshSection(), jax.devices()[:1]), layouts.resolve("dp"))
SMALL: dict[str, Any] = {"vocab_size": 264, "d_model": 32, "num_layers": 2, "num_heads": 4, "mlp_dim": 48, "max_length": 64}
FAMILIES = {"decoder": decoder, "prefix_decoder": prefix_decoder, "t5": t5}


def build(family: ModuleType, partitioner: Partitioner = ONE, **change: Any) -> Skeleton:
    change = {"tied_head": False} | change if family is t5 else change  # tied, weights that are drawn say the same again and again
    return skeleton.build(family, family.Config(**(SMALL | change)), partitioner)


def weights(model: Skeleton) -> Any:
    """Weights with which some texts stop by themselves, and others do not."""
    params = numpy_params(model, seed=5)
    if "token_head" in params and "kernel" in params["token_head"]:
        params["token_head"]["kernel"][:, EOS] *= 2.5
    return params


def answers(model: Skeleton, params: Any, **options: Any) -> Answers:
    return Answers(model, params, BYTES, as_it_is(model, BYTES, whole=True), **options)


def task(name: str, module: str, split: str = "validation") -> Any:
    (found,) = find_tasks([name], split, Data(module=module), BYTES)
    return found


def ids(said: str) -> list[int]:
    return [*BYTES.encode(said), EOS]


def nats_of(model: Skeleton, params: Any, source: list[int], targets: list[int]) -> float:
    """Log-likelihood of the targets in a pass of their own, without padding."""
    if "encoder_decoder" in model.config.sights:
        read, first = [START, *targets[:-1]], 0
        batch = {"encoder_tokens": source, "encoder_positions": range(len(source)), "encoder_segment_ids": [1] * len(source)}
    else:
        read, first = [START, *source, *targets[:-1]], len(source)
        batch = {"bidirectional": [i <= first for i in range(len(read))]}
    batch |= {"tokens": read, "positions": range(len(read)), "segment_ids": [1] * len(read)}
    run = jax.jit(lambda params, batch: (lambda o: jax.nn.log_softmax(o.logits(o.hidden[0])))(model.merge(params)(batch)))
    logs = np.asarray(run(params, {name: np.asarray([list(x)], np.int32) for name, x in batch.items()}), np.float64)
    return float(sum(logs[first + i, target] for i, target in enumerate(targets)))


@pytest.mark.parametrize("family", FAMILIES)
def test_predictions_are_the_generators_and_metrics_those_of_the_functions(module: str, family: str) -> None:
    model = build(FAMILIES[family])
    params = weights(model)
    found = evaluate(task("answers", module), answers(model, params, batch_size=3), "validation")
    longest = max(len(ids(b)) for _, b in PAIRS)
    asked = [ids(a) for a, _ in PAIRS]
    direct = Generator(model, BYTES, as_it_is(model, BYTES, whole=True), Sampling(0.0), longest)(params, asked)
    assert len({g.text for g in direct}) > 3
    # SeqIO's byte vocabulary drops what is no UTF-8, where ours shows a replacement mark.
    raw = [BYTES.decode_bytes(g.tokens).decode("utf-8", "ignore") for g in direct]
    assert [e["output"] for e in found.examples] == raw
    said, wanted = [t.upper() for t in raw], [[b, str(i)] for i, (_, b) in enumerate(PAIRS)]
    assert [e["prediction"] for e in found.examples] == said and [e["targets"] for e in found.examples] == wanted
    assert [e["inputs"] for e in found.examples] == [a for a, _ in PAIRS]
    by_hand = text.bleu(wanted, said) | text.rouge(wanted, said, use_stemmer=True) | text.squad(wanted, said)
    assert found.metrics == {f"eval/answers/{name}": value for name, value in by_hand.items()}
    assert found.signatures == {"eval/answers/bleu": text.signature("bleu", wanted)} and "nrefs:2" in found.signatures["eval/answers/bleu"]


@pytest.mark.parametrize("family", FAMILIES)
def test_scores_are_log_likelihoods_of_the_targets(module: str, family: str) -> None:
    model = build(FAMILIES[family])
    params = weights(model)
    found = evaluate(task("every_kind", module), answers(model, params), "validation")
    wanted = [nats_of(model, params, ids(a), ids(b)) for a, b in PAIRS]
    np.testing.assert_allclose([e["score"] for e in found.examples], wanted, rtol=1e-5)
    assert found.metrics["eval/every_kind/mean_score"] == pytest.approx(np.mean(wanted), rel=1e-5)
    assert found.metrics["eval/every_kind/first_target_length"] == len(PAIRS[0][1])


def test_every_kind_of_metric_is_answered(module: str) -> None:
    model = build(decoder)
    params = weights(model)
    found = evaluate(task("every_kind", module), answers(model, params, num_tokens=5), "validation")
    direct = Generator(model, BYTES, as_it_is(model, BYTES, True), Sampling(0.0), 5)(params, [ids(a) for a, _ in PAIRS])
    assert found.metrics["eval/every_kind/sum_of_scores"] == pytest.approx(sum(g.nats for g in direct), rel=1e-6)
    np.testing.assert_allclose([e["aux_value"]["scores"] for e in found.examples], [g.nats for g in direct], rtol=1e-6)
    assert found.metrics["eval/every_kind/scalar"] == 3 and found.left_out == ["told"]
    assert list(found.signatures) == ["eval/every_kind/chrf"]
    assert max(len(e["output"]) for e in found.examples) <= 5
    assert json.loads(json.dumps(found.examples, allow_nan=False)) == found.examples


def test_a_task_of_targets_alone_is_scored_from_the_start(module: str) -> None:
    model = build(decoder)
    params = weights(model)
    found = evaluate(task("alone", module), answers(model, params), "validation")
    np.testing.assert_allclose([e["score"] for e in found.examples], [nats_of(model, params, [], ids(b)) for _, b in PAIRS], rtol=1e-5)
    assert found.examples[0]["inputs"] == PAIRS[0][0]  # as text it is there


def comparable(found: Evaluation) -> list[tuple[Any, Any]]:
    return [(e["output"], e["prediction"]) for e in found.examples]


@pytest.mark.parametrize(
    ("family", "choice"),
    [
        ("t5", Beam(3)),
        pytest.param("decoder", Beam(3), marks=pytest.mark.slow),
        pytest.param("t5", Sampling(1.0, top_k=20), marks=pytest.mark.slow),
        pytest.param("decoder", Sampling(1.0, top_k=20), marks=pytest.mark.slow),
    ],
)
def test_neither_batch_nor_mesh_matters(module: str, family: str, choice: Beam | Sampling) -> None:
    model = build(FAMILIES[family])
    params = weights(model)
    kinds = task("every_kind", module)
    found = [evaluate(kinds, answers(model, params, choice=choice, batch_size=size, seed=2), "validation") for size in (1, 3, 50)]
    wide = Partitioner(mesh.make(mesh.MeshSection(data=2, fsdp=2, tensor=2)), layouts.resolve("fsdp"))
    spread = build(FAMILIES[family], wide)
    laid = jax.tree.map(jax.device_put, params, skeleton.map_with_dims(wide.weight, spread.dims))
    found.append(evaluate(kinds, answers(spread, laid, choice=choice, batch_size=4, seed=2), "validation"))
    for other in found[1:]:
        assert comparable(other) == comparable(found[0]) and other.metrics.keys() == found[0].metrics.keys()
        np.testing.assert_allclose(list(other.metrics.values()), list(found[0].metrics.values()), rtol=1e-5)
    assert len({e["output"] for e in found[0].examples}) > 3


def test_what_a_prompt_says_stops_is_no_part_of_the_text(module: str) -> None:
    """As the next sentinel of span corruption: SeqIO's vocabulary knows the end of document alone."""
    model = build(decoder)
    params = weights(model)
    stops = tuple(range(3, 130))

    def ask(inputs: list[int]) -> Prompt:
        return Prompt([START, *inputs], stop=stops)

    found = evaluate(task("plain", module), Answers(model, params, BYTES, ask, num_tokens=9), "validation")
    direct = Generator(model, BYTES, ask, Sampling(0.0), 9)(params, [ids(a) for a, _ in PAIRS])
    assert any(g.stopped and g.tokens[-1] != EOS for g in direct)
    kept = [g.tokens[:-1] if g.stopped else g.tokens for g in direct]
    assert [e["output"] for e in found.examples] == [BYTES.decode_bytes(t).decode("utf-8", "ignore") for t in kept]


def test_num_examples_are_the_first(module: str) -> None:
    model = build(decoder)
    params = weights(model)
    whole, few = (evaluate(task("plain", module), answers(model, params, num_tokens=6), "validation", count) for count in (0, 3))
    assert len(whole.examples) == 7 and few.examples == whole.examples[:3]
    assert (
        few.metrics["eval/plain/accuracy"]
        == labels.accuracy(*([e[k] for e in few.examples] for k in ("targets", "prediction")))["accuracy"]
    )


def test_lengths_cut(module: str) -> None:
    model = build(decoder)
    params = weights(model)
    found = evaluate(task("plain", module), answers(model, params), "validation", 2, {"inputs": 4, "targets": 5, "other": 3})
    wanted = [nats_of(model, params, ids(a)[:4], ids(b)[:5]) for a, b in PAIRS[:2]]
    np.testing.assert_allclose([e["score"] for e in found.examples], wanted, rtol=1e-5)
    with pytest.raises(InputError, match="Task 'needs_lengths': .*sequence_length"):
        evaluate(task("needs_lengths", module), answers(model, params), "validation")
    assert evaluate(task("needs_lengths", module), answers(model, params), "validation", 2, {"inputs": 9}).metrics


def test_a_mixture_is_its_tasks_each_once(module: str, capsys: pytest.CaptureFixture[str]) -> None:
    found = find_tasks(["both", "plain", "alone"], "validation", Data(module=module), BYTES)
    assert [t.name for t in found] == ["answers", "plain", "alone"]
    assert "Mixture 'both': left out, without split 'validation' or metrics: no_metrics" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("name", "said"),
    [
        ("answer", "no SeqIO Task or Mixture 'answer' .module 'their_tasks' and what it imports.; did you mean 'answers'"),
        ("no_metrics", "Task 'no_metrics' has no metrics"),
        ("other_vocabulary", r"Task 'other_vocabulary' tokenises with ByteVocabulary \(359 ids\)"),
        ("floats", "feature 'inputs' is float32 of rank 1; a model reads token ids"),
        ("strange", "Task 'strange' has features inputs; needed are 'inputs' and 'targets', or 'targets' alone"),
        ("odd_metric", "Task 'odd_metric': Metric functions must have positional arguments"),
        ("nothing", "Mixture 'nothing': none of its Tasks has a split 'validation' and metrics"),
    ],
)
def test_tasks_that_are_refused(module: str, name: str, said: str) -> None:
    with pytest.raises(InputError, match=said) as caught:
        task(name, module)
    assert "\n" not in str(caught.value)


def test_what_goes_wrong_in_a_task_is_one_sentence(module: str) -> None:
    model = build(decoder)
    own = answers(model, weights(model), num_tokens=2)
    with pytest.raises(InputError, match="Task 'answers' has no split 'test'; .*accepted: empty, train, validation"):
        task("answers", module, "test")
    with pytest.raises(InputError, match="Task 'answers': no examples in its split 'empty'"):
        evaluate(task("answers", module), own, "empty")
    with pytest.raises(InputError, match="Task 'broken_metric': ZeroDivisionError: division by zero") as caught:
        evaluate(task("broken_metric", module), own, "validation")
    assert caught.value.__cause__ is not None and "\n" not in str(caught.value)
    with pytest.raises(InputError, match="Task 'group_metric': metric 'multirc': target 1 is"):
        evaluate(task("group_metric", module), own, "validation")
    learned = build(decoder, positions="learned", max_length=16)
    for name, said in (("answers", "prompt 1 takes 26 positions with its continuation"), ("alone", "")):
        if said:
            with pytest.raises(InputError, match=said):
                evaluate(task(name, module), answers(learned, weights(learned)), "validation")
        else:  # targets alone have room
            assert evaluate(task(name, module), answers(learned, weights(learned)), "validation").metrics
    with pytest.raises(InputError, match="model.name 'encoder': cannot answer with texts"):
        as_it_is(build(encoder), BYTES, whole=False)


def test_without_seqio_the_extra_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "seqio", None)
    with pytest.raises(InputError, match=r"pip install 'pretrainx\[tasks\]'"):
        find_tasks(["x"], "validation", Data(), BYTES)


@pytest.mark.parametrize(
    ("value", "wanted"), [(3, 3.0), (np.float32(0.5), 0.5), (np.asarray([2.0]), 2.0), ("text", None), (np.zeros(3), None), (None, None)]
)
def test_numbers_of_metrics(value: Any, wanted: float | None) -> None:
    assert seqio_tasks.as_number(value) == wanted


def test_plain_values_are_json() -> None:
    value = {b"a": np.arange(2), "b": (np.float32(1), float("nan")), "c": {1: b"\xff"}, "d": {1}}
    assert json.loads(json.dumps(seqio_tasks.plain(value), allow_nan=False)) == {
        "a": [0, 1], "b": [1.0, None], "c": {"1": "\ufffd"}, "d": "{1}",
    }  # fmt: skip


# ---- the command


def tool() -> ModuleType:
    spec = importlib.util.spec_from_file_location("tool_evaluate_tasks", ROOT / "tools" / "evaluate_tasks.py")
    assert spec and spec.loader
    found = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(found)
    return found


@pytest.fixture(scope="module")
def run(cache_dir: Path, tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Path]:
    """(config file, run folder) of a few steps of a T5 that goes on from prefixes."""
    folder = tmp_path_factory.mktemp("tasks")
    values = settings(
        cache_dir,
        data={"objective": "prefix", "objectives": {"prefix": {"form": "encoder_decoder"}}},
        model={"name": "t5"},
        train={"steps": 4},
        mesh={"data": 8},
    )
    file = write_config(folder / "tiny.py", values)
    loop.train(loop.prepare(experiments.load(configs.load(str(file))), folder / "run"))
    return file, folder / "run"


def test_the_command_says_what_the_library_says(
    run: tuple[Path, Path], module: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    _, folder = run
    words = [f"--workdir={folder}", f"--module={module}", "--num_tokens=7", "--num_examples=4"]
    tool().main([*words, "--tasks", "both", "alone", "--num_beams=2", "--json", f"--out={tmp_path}/said.jsonl"])
    told = capsys.readouterr()
    found = json.loads(told.out.splitlines()[-1])
    model = trained.load(folder)
    own = answers(model.skeleton, model.params, num_tokens=7, choice=Beam(2))
    wanted = [evaluate(task(name, module), own, "validation", 4) for name in ("answers", "plain", "alone")]
    metrics = {name: value for one in wanted for name, value in one.metrics.items()}
    assert {name: found[name] for name in metrics} == pytest.approx(metrics, rel=1e-6)
    assert found["eval/answers/examples"] == 4 and found["step"] == 4 and found["split"] == "validation"
    assert found["signatures"] == wanted[0].signatures and f"eval/answers/bleu: {found['signatures']['eval/answers/bleu']}" in told.err
    lines = [json.loads(line) for line in (tmp_path / "said.jsonl").read_text().splitlines()]
    assert [(e["task"], e["inputs"], e.get("output")) for e in lines] == [
        (e["task"], e["inputs"], e.get("output")) for one in wanted for e in one.examples
    ]


def test_the_command_prompts_as_an_objective_taught_and_shows_a_table(
    run: tuple[Path, Path], module: str, capsys: pytest.CaptureFixture[str]
) -> None:
    file, folder = run
    words = [f"--workdir={folder}", f"--module={module}", "--tasks", "plain", "--num_examples=2", "--num_tokens=3"]
    tool().main([*words, "--objective=prefix"])
    shown = capsys.readouterr().out
    assert "plain" in shown and "accuracy" in shown and "mean_score" in shown
    tool().main([*words, "--objective=prefix", "--json"])
    taught = json.loads(capsys.readouterr().out.splitlines()[-1])
    model = trained.load(folder)  # the objective's prompts have no end token
    wanted = [nats_of(model.skeleton, model.params, ids(a)[:-1], ids(b)) for a, b in PAIRS[:2]]
    assert taught["eval/plain/mean_score"] == pytest.approx(np.mean(wanted), rel=1e-5)
    tool().main([*words, f"--config={file}", "--config.mesh.data=8", "--config.train.batch_size=8", "--json"])
    spread = json.loads(capsys.readouterr().out.splitlines()[-1])
    tool().main([*words, "--json"])
    alone = json.loads(capsys.readouterr().out.splitlines()[-1])
    assert spread["eval/plain/mean_score"] == pytest.approx(alone["eval/plain/mean_score"], rel=1e-5)


@pytest.mark.parametrize(
    ("flags", "said"),
    [
        (["--num_examples=-1"], "--num_examples -1: accepted are 0 and above"),
        (["--batch_size=0"], "--batch_size 0"),
        (["--out=no/such/folder/x.jsonl"], "no folder no/such/folder"),
        (["--temperature=-1"], "--temperature -1"),
        (["--config.mesh.data=8"], "needs a --config=FILE"),
        (["--objective=causal"], "--objective=causal: the run was not trained on it; .*accepted: prefix"),
        (["--module=no_such_module"], "data.module: cannot import 'no_such_module': ModuleNotFoundError"),
        (["--tempreture=1"], "did you mean '--temperature'"),
    ],
)
def test_the_command_refuses_in_one_sentence(run: tuple[Path, Path], module: str, flags: list[str], said: str) -> None:
    with pytest.raises(InputError, match=said) as caught:
        tool().main([f"--workdir={run[1]}", "--tasks", "plain", *([] if "--module" in flags[0] else [f"--module={module}"]), *flags])
    assert "\n" not in str(caught.value)


def test_the_runs_own_module_is_the_default(run: tuple[Path, Path], module: str) -> None:
    own = replace(trained.load(run[1]).experiment.data, module=module)
    assert [t.name for t in find_tasks(["plain"], "validation", own, BYTES)] == ["plain"]
    with pytest.raises(InputError, match=r"no module is named \(data.module, or --module\)"):
        find_tasks(["never_heard_of"], "validation", replace(own, module=""), BYTES)
