"""Fine-tuning: what is taken over, what is trained, what a head says, and that heads on stored features are heads on the trunk."""

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from support import BYTES, numpy_params, settings, write_config

from pretrainx.core import config as configs
from pretrainx.core import inherit
from pretrainx.core.config import Config
from pretrainx.core.errors import InputError
from pretrainx.core.sections import Corpus
from pretrainx.data.cache import CachedDocument, write_manifest, write_shard
from pretrainx.evaluate import labelled, submission
from pretrainx.models import lora
from pretrainx.models.skeleton import Skeleton, flatten
from pretrainx.optim import build as optimizers
from pretrainx.tasks import corpora
from pretrainx.tasks.labelled import scoring, tables
from pretrainx.train import experiment as experiments
from pretrainx.train import finetune, loop, probe, trained
from pretrainx.train.build import Program

ENCODER = {"name": "encoder", "d_model": 32, "num_layers": 2, "num_heads": 4, "mlp_dim": 64}
WORDS = ("river", "stone", "cloud", "ember"), ("ledger", "market", "tariff", "budget")


def rows(count: int) -> list[dict[str, Any]]:
    """Texts of two kinds, by the words in them."""
    rng = np.random.default_rng(3)
    return [{"id": f"r{i}", "text": " ".join(rng.choice(WORDS[i % 2], 3)), "label": "ab"[i % 2]} for i in range(count)]


@pytest.fixture(scope="module")
def texts(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A labelled file with its token cache, made without SeqIO."""
    folder = tmp_path_factory.mktemp("texts")
    (folder / "rows.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows(96)))
    corpus = described(folder)
    task = corpora.task_of("kinds", corpus)
    for split in ("train", "validation"):
        examples = corpora.read_examples("kinds", corpus, split)
        records = labelled.records_of(task, "classes", examples, BYTES)
        made = (CachedDocument(e.id, f"rows#{e.id}", len(e.first), r) for e, r in zip(examples, records, strict=True))
        place = folder / "cache" / "kinds" / split
        write_shard(place, 0, made, ["first", "second", "label"], BYTES.size)
        write_manifest(place, corpus="kinds", split=split, task_sha256="t", vocabulary=BYTES, num_shards=1, source={})
    return folder


def described(folder: Path) -> Corpus:
    return Corpus(task="classes", files=str(folder / "rows.jsonl"), fields={"first": "text"}, labels=("a", "b"), holdout=0.25)


def values(folder: Path, **sections: Any) -> dict[str, Any]:
    corpus = {"task": "classes", "files": str(folder / "rows.jsonl"), "fields": {"first": "text"}, "labels": ("a", "b"), "holdout": 0.25}
    own = settings(folder / "cache", data={"mixture": {"kinds:classify": 1.0}, "corpora": {"kinds": corpus}}, model=ENCODER)
    own["data"]["sequence_length"], own["mesh"] = 32, {"data": 8}
    for name, change in sections.items():
        own[name] = {**own.get(name, {}), **change} if isinstance(change, dict) else change
    return own


def config_of(folder: Path, **sections: Any) -> Config:
    own = values(folder, **sections)
    return Config("tuned", "tuned.py", own, own)


def program_of(folder: Path, **sections: Any) -> Program:
    return loop.prepare(experiments.load(config_of(folder, **sections)), folder / "nowhere").program


def skeleton_of(folder: Path, **model: Any) -> Skeleton:
    return program_of(folder, model=ENCODER | model).skeleton


def flat(tree: Any) -> dict[str, np.ndarray]:
    return {path: np.asarray(leaf) for path, leaf in flatten(tree)}


# ---- the head


@pytest.mark.parametrize("pooling", ["first", "last", "mean", "attention"])
def test_head_by_numpy(texts: Path, pooling: str) -> None:
    skeleton = skeleton_of(texts, pooling=pooling)
    params = numpy_params(skeleton)
    batch = {
        "tokens": np.asarray([[5, 6, 7, 0], [8, 9, 0, 0]], np.int32), "positions": np.tile(np.arange(4, dtype=np.int32), (2, 1)),
        "segment_ids": np.asarray([[1, 1, 1, 0], [1, 1, 0, 0]], np.int32), "token_types": np.zeros((2, 4), np.int32),
    }  # fmt: skip
    batch = {name: np.tile(array, (4, 1)) for name, array in batch.items()}  # a row for each device
    model = skeleton.merge(params)
    made, hidden = np.asarray(model(batch).heads["classes"]()), np.asarray(model.encode(batch), np.float64)
    own, lengths = params["class_head"], (3, 2)
    for row, length in enumerate(lengths):
        x = hidden[row, :length]
        shares = np.full(length, 1 / length)
        if pooling == "attention":
            scores = x @ own["query"] / 32**0.5
            shares = np.exp(scores - scores.max()) / np.exp(scores - scores.max()).sum()
        pooled = {"first": x[0], "last": x[-1]}.get(pooling, shares @ x)
        wanted = np.tanh(pooled @ own["dense"]["kernel"] + own["dense"]["bias"]) @ own["out"]["kernel"] + own["out"]["bias"]
        np.testing.assert_allclose(made[row], wanted, atol=1e-5)


def test_padding_and_neighbours_do_not_matter(texts: Path) -> None:
    skeleton = skeleton_of(texts, pooling="attention")
    params, objective = numpy_params(skeleton), program_of(texts).objectives["classify"]
    records = [
        {"first": np.arange(3, 3 + n, dtype=np.int32), "second": np.zeros(0, np.int32), "label": np.ones(1, np.int32)} for n in range(1, 12)
    ]
    together = labelled.Classifier(skeleton, objective, 4)(params, records)
    alone = np.concatenate([labelled.Classifier(skeleton, objective, 1)(params, [record]) for record in records])
    np.testing.assert_allclose(together, alone, atol=2e-6)


# ---- what is trained


def test_frozen_weights_stay_bit_for_bit(texts: Path, tmp_path: Path) -> None:
    frozen = config_of(texts, optim={"trainable": ("class_head/*", "*final_norm/scale")}, train={"steps": 4})
    run = loop.prepare(experiments.load(frozen), tmp_path)
    before = flat(run.program.init_state().params)
    loop.train(run)
    assert run.state is not None
    after = flat(run.state.params)
    moved = {path for path in before if not np.array_equal(before[path], after[path])}
    assert moved == {path for path in before if path.startswith("class_head/") or path.endswith("final_norm/scale")}
    moments = [leaf for leaf in jax.tree.leaves(run.state.opt_state) if leaf.ndim > 1]
    assert sum(leaf.size for leaf in moments) < 3 * sum(before[path].size for path in moved)  # frozen weights have none


@pytest.mark.slow
def test_no_gradient_is_computed_for_what_is_frozen(texts: Path) -> None:
    """The compiled step of a frozen trunk does about the work of its forward pass alone: a third."""
    work = {}
    for name, patterns in (("full", ()), ("frozen", ("class_head/*",))):
        program = program_of(texts, optim={"trainable": patterns}, model=ENCODER | {"scan_layers": False})
        work[name] = program.compile_train().cost_analysis()["flops"]
    assert work["frozen"] < 0.45 * work["full"]


def test_unknown_patterns_are_refused(texts: Path) -> None:
    with pytest.raises(InputError, match=r"optim.trainable: no weight matches 'clas_head/\*'; weights are class_head/dense/bias"):
        program_of(texts, optim={"trainable": ("clas_head/*",)})


@pytest.mark.parametrize("name", ["adamw", "muon"])
def test_layer_decay_by_hand(texts: Path, name: str) -> None:
    program = program_of(texts, optim={"name": name, "layer_decay": 0.5})
    plain = program_of(texts, optim={"name": name})
    params = jax.tree.map(jnp.asarray, numpy_params(program.skeleton))
    grads = jax.tree.map(lambda x: jnp.sin(100 * x), params)
    steps = [flat(p.tx.update(grads, p.tx.init(params), params)[0]) for p in (program, plain)]
    for path, step in steps[0].items():
        whole = steps[1][path]
        if path.startswith("stack/blocks/"):
            factors = np.asarray([0.25, 0.5]).reshape(-1, *[1] * (whole.ndim - 1))  # two layers below the head
        else:
            factors = 0.125 if path.startswith("embedder/") else 1.0
        np.testing.assert_allclose(step, whole * factors, rtol=1e-6, atol=1e-12, err_msg=path)


# ---- adapters


def test_adapters_by_numpy_and_nothing_at_first(texts: Path) -> None:
    targets = ("*attention/query", "*attention/out", "*mlp/down", "class_head/dense/kernel")
    skeleton = skeleton_of(texts, lora_rank=3, lora_alpha=6.0, lora_targets=targets)
    fresh = skeleton.init(jax.random.key(0))
    own = {path: leaf for path, leaf in flat(fresh).items() if path.startswith("lora/")}
    assert all(not leaf.any() for path, leaf in own.items() if path.endswith("/b"))
    folded = flat(lora.fold(fresh, 6.0))
    assert folded.keys() == {path for path in flat(fresh) if not path.startswith("lora/")}
    for path, leaf in folded.items():
        np.testing.assert_array_equal(leaf, flat(fresh)[path])
    drawn = numpy_params(skeleton)
    folded, plain = flat(lora.fold(drawn, 6.0)), flat(drawn)
    q, a, b = (
        plain[p] for p in ("stack/blocks/attention/query", "lora/stack/blocks/attention/query/a", "lora/stack/blocks/attention/query/b")
    )
    assert (a.shape, b.shape) == ((2, 32, 3), (2, 3, 4, 8))
    np.testing.assert_allclose(folded["stack/blocks/attention/query"], q + 2 * np.einsum("ldr,lrnh->ldnh", a, b), atol=1e-5)
    o, a, b = (plain[p] for p in ("stack/blocks/attention/out", "lora/stack/blocks/attention/out/a", "lora/stack/blocks/attention/out/b"))
    np.testing.assert_allclose(folded["stack/blocks/attention/out"], o + 2 * np.einsum("lnhr,lrd->lnhd", a, b), atol=1e-5)
    k, a, b = (plain[p] for p in ("class_head/dense/kernel", "lora/class_head/dense/kernel/a", "lora/class_head/dense/kernel/b"))
    np.testing.assert_allclose(folded["class_head/dense/kernel"], k + 2 * a @ b, atol=1e-5)
    assert folded["token_head/transform/kernel"] is not None


@pytest.mark.slow
def test_adapters_alone_are_trained_and_scored(texts: Path, tmp_path: Path) -> None:
    config = config_of(texts, model=ENCODER | {"lora_rank": 2}, train={"steps": 3})
    run = loop.prepare(experiments.load(config), tmp_path)
    before = flat(run.program.init_state().params)
    loop.train(run)
    assert run.state is not None
    after = flat(run.state.params)
    moved = {path for path in before if not np.array_equal(before[path], after[path])}
    assert moved == {path for path in before if path.startswith(("lora/", "class_head/"))}
    model = trained.load(tmp_path)  # the adapters come back from the checkpoint
    assert flat(model.params).keys() == after.keys()
    same = trained.load(tmp_path, config=config)  # which names no head: the mixture's objectives ask for it
    assert same.experiment.model.heads == ("classes",) and same.experiment.model.num_classes == 2
    assert flat(same.params).keys() == after.keys()


def test_adapters_that_cannot_be(texts: Path) -> None:
    for targets, sentence in ((("*atention/query",), "no weight matches"), (("*_norm/scale",), "is no matrix")):
        with pytest.raises(InputError, match=sentence):
            skeleton_of(texts, lora_rank=2, lora_targets=targets)


# ---- beginning from another run


@pytest.fixture(scope="module")
def pretrained(texts: Path, cache_dir: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A few steps of masked language modelling."""
    folder = tmp_path_factory.mktemp("pretrained")
    own = settings(cache_dir, data={"objective": "masked"}, model=ENCODER, train={"steps": 4}, mesh={"data": 8})
    loop.train(loop.prepare(experiments.load(Config("pre", "pre.py", own, own)), folder))
    return folder


def tuned_from(pretrained: Path, texts: Path, tmp_path: Path, **sections: Any) -> Config:
    """As a user writes it: no sizes of the model, which are those of the other run."""
    own = values(texts, **sections)
    own["model"] = sections.get("model", {})
    own["init_from"] = str(pretrained)
    return configs.load(str(write_config(tmp_path / "tuned.py", own)))


@pytest.mark.slow
def test_weights_and_sizes_are_taken_over(pretrained: Path, texts: Path, tmp_path: Path) -> None:
    config = tuned_from(pretrained, texts, tmp_path)
    assert config.origin("model.d_model") == f"init_from {pretrained}"
    run = loop.prepare(experiments.load(config), tmp_path / "run")
    assert (run.program.experiment.model.name, run.program.experiment.model.d_model) == ("encoder", 32)
    before, fresh = flat(trained.load(pretrained).params), flat(run.program.init_state().params)
    state = flat(loop.first_state(run.program).params)
    for path, leaf in state.items():
        np.testing.assert_array_equal(leaf, fresh[path] if path.startswith("class_head/") else before[path], err_msg=path)
    assert {path for path in state if path.startswith("class_head/")}
    loop.train(run)
    assert json.loads((tmp_path / "run" / "config.json").read_text())["init_from"] == str(pretrained)
    again = loop.prepare(experiments.load(config), tmp_path / "run")
    assert again.step == run.step  # a resumption goes on from its own checkpoint


def test_pairs_may_be_new_to_a_network_that_had_none(pretrained: Path, texts: Path, tmp_path: Path) -> None:
    """Their vectors begin as zeros, so at first it answers as it did."""
    answers = []
    for name, model in (("without", {}), ("with", {"bigram_rows": 64})):
        run = loop.prepare(experiments.load(tuned_from(pretrained, texts, tmp_path, model=model)), tmp_path / name)
        params, batch = loop.first_state(run.program).params, run.builder.build(run.mixture.order().rows(0, 8))
        assert name == "without" or not np.asarray(params["embedder"]["bigram_embedding"]).any()
        answers.append(np.asarray(run.program.skeleton.merge(params)({k: jnp.asarray(v) for k, v in batch.items()}).hidden))
    np.testing.assert_array_equal(*answers)


@pytest.mark.slow
def test_on_a_mesh_the_same(pretrained: Path, texts: Path, tmp_path: Path) -> None:
    one = loop.prepare(experiments.load(tuned_from(pretrained, texts, tmp_path)), tmp_path / "one")
    many = tuned_from(pretrained, texts, tmp_path, mesh={"data": 2, "fsdp": 2, "tensor": 2}, layout="fsdp_tp")
    eight = loop.prepare(experiments.load(many), tmp_path / "eight")
    a, b = flat(loop.first_state(one.program).params), flat(loop.first_state(eight.program).params)
    for path in a:
        np.testing.assert_array_equal(a[path], b[path], err_msg=path)
    losses = [loop.train(run)["loss"] for run in (one, eight)]
    assert losses[0] == pytest.approx(losses[1], rel=1e-4)


def test_what_does_not_fit_is_refused(pretrained: Path, texts: Path, tmp_path: Path) -> None:
    with pytest.raises(InputError, match="init_from .*nowhere: config of the run not found"):
        tuned_from(tmp_path / "nowhere", texts, tmp_path)
    wide = loop.prepare(experiments.load(tuned_from(pretrained, texts, tmp_path, model={"mlp_dim": 96})), tmp_path / "wide")
    with pytest.raises(InputError, match=r"weight stack/blocks/mlp/down has shape \(2, 64, 32\), and this model needs \(2, 96, 32\)"):
        loop.first_state(wide.program)


def test_vocabulary_of_the_other_run() -> None:
    assert inherit.vocabulary("runs/x", "bytes+100") == "bytes+100"
    assert inherit.vocabulary("runs/x", "mine.model") == "runs/x/vocabulary.model"
    assert inherit.vocabulary("runs/x", "a/b.model+100") == "runs/x/vocabulary.model+100"
    assert inherit.vocabulary("runs/x", "wordpiece:v.txt") == "wordpiece:runs/x/vocabulary.txt"


# ---- grids


@pytest.mark.slow
def test_a_grid_learns_and_goes_on(texts: Path, tmp_path: Path) -> None:
    config = config_of(texts, train={"steps": 60, "batch_size": 16}, optim={"peak_lr": 3e-3}, model=ENCODER | {"pooling": "mean"})
    target = finetune.target_of(config)
    cells = finetune.grid(config, tmp_path, (0, 1), (3e-3,), ("validation",), target)
    assert [cell.seed for cell in cells] == [0, 1]
    assert all(cell.scores["validation"]["accuracy"] > 0.9 for cell in cells)
    again = finetune.grid(config, tmp_path, (0, 1), (3e-3,), ("validation",), target)
    assert again == cells  # read, not trained anew
    found = finetune.summary(cells, "validation", "validation")
    values = [cell.scores["validation"]["accuracy"] for cell in cells]
    assert found["best"]["validation/accuracy"]["mean"] == pytest.approx(np.mean(values))
    assert found["best_lr"] == 3e-3


def beside(texts: Path, **sections: Any) -> Config:
    """A config with a second labelled corpus, under the same objective."""
    corpus = values(texts)["data"]["corpora"]["kinds"]
    mixture = {"kinds:classify": 0.75, "others:classify": 0.25}
    cache = texts / "cache" / "others"
    if not cache.exists():
        cache.symlink_to(texts / "cache" / "kinds")
    return config_of(texts, data={"corpora": {"kinds": corpus, "others": corpus}, "mixture": mixture}, **sections)


def test_of_several_labelled_corpora_one_is_scored(texts: Path, tmp_path: Path) -> None:
    config = beside(texts)
    with pytest.raises(InputError, match="2 labelled corpora, kinds, others; say with --corpus"):
        finetune.target_of(config)
    with pytest.raises(InputError, match="--corpus kind: no labelled corpus .*kinds"):
        finetune.target_of(config, "kind")
    found = finetune.target_of(config, "kinds")
    assert (found.name, found.objective) == ("kinds", "classify")
    with pytest.raises(InputError, match="there is none; add one"):
        finetune.target_of(config_of(texts, data={"mixture": {"stdlib_code": 1.0}}))
    frozen = beside(texts, optim={"trainable": probe.TRAINABLE})
    with pytest.raises(InputError, match="fitted on one corpus; leave 'kinds' alone"):
        finetune.grid(frozen, tmp_path, (0,), (1e-2,), ("validation",), found)


def test_mean_and_interval_against_scipy() -> None:
    import scipy.stats

    values = [0.61, 0.64, 0.6, 0.66, 0.63]
    mean, half = finetune.mean_interval(values)
    low, high = scipy.stats.t.interval(0.95, 4, loc=np.mean(values), scale=scipy.stats.sem(values))
    assert (mean - half, mean + half) == pytest.approx((low, high))
    assert np.isnan(finetune.mean_interval([0.5])[1])


@pytest.mark.slow
@pytest.mark.parametrize("pooling", ["mean", "attention"])
def test_heads_on_features_are_heads_on_the_trunk(texts: Path, tmp_path: Path, pooling: str) -> None:
    """A head fitted on stored features gives what the whole model gives with that head in place."""
    model = ENCODER | {"pooling": pooling, "class_hidden": False}
    config = config_of(texts, model=model, optim={"trainable": probe.TRAINABLE, "peak_lr": 1e-2}, train={"steps": 40, "batch_size": 16})
    run = loop.prepare(experiments.load(config), tmp_path)
    program, target = run.program, finetune.target_of(config)
    params, objective = program.init_state().params, program.objectives["classify"]
    records = labelled.records_of(target.task, "classes", target.examples("train"), BYTES)
    data = probe.features(program.skeleton, params, objective, records, 8)
    recipe = probe.Recipe((0, 1), (1e-2, 1e-2), 40, 16, 2, program.experiment.optim)
    head = probe.Head(program.skeleton.config)
    fitted = head.fit(data, recipe)
    outputs = head.predict(fitted, data)
    for run_number in range(2):
        own = jax.tree.map(lambda x: x[run_number], fitted)  # noqa: B023 - used at once
        whole = labelled.Classifier(program.skeleton, objective, 8)({**params, "class_head": own}, records)
        np.testing.assert_allclose(outputs[run_number], whole, atol=2e-5)
    assert not np.allclose(outputs[0], outputs[1])
    labels = np.asarray([example.label for example in target.examples("train")])
    assert np.mean(outputs[0].argmax(-1) == labels) > 0.8  # random features tell these words apart


def test_a_step_of_the_probe_is_a_step_of_the_trainer(texts: Path) -> None:
    """One batch from one head: the probe's gradient step is that of the config's own optimizer on the whole model."""
    optim = {"trainable": probe.TRAINABLE, "peak_lr": 1e-2, "warmup": 0, "schedule": "constant", "clip_norm": 0.1}
    program = program_of(texts, model=ENCODER | {"pooling": "mean", "class_hidden": False}, optim=optim, train={"steps": 1})
    target = finetune.target_of(config_of(texts))
    records = labelled.records_of(target.task, "classes", target.examples("train")[:8], BYTES)
    state = program.init_state()
    data = probe.features(program.skeleton, state.params, program.objectives["classify"], records, 8)
    head = probe.Head(program.skeleton.config)
    start = jax.tree.map(jnp.asarray, state.params["class_head"])
    head.make = lambda key: start  # type: ignore[method-assign]
    fitted = head.fit(data, probe.Recipe((0,), (1e-2,), 1, 8, 0, program.experiment.optim))
    rows = [program.objectives["classify"].example(record, np.random.default_rng(0)) for record in records]
    batch = {name: np.stack([row[name] for row in rows]) for name in rows[0]} | {"objective": np.zeros(8, np.int32)}
    new, _ = jax.jit(program.step)(state, batch)
    for path, leaf in flat(new.params["class_head"]).items():
        np.testing.assert_allclose(flat(fitted)[path][0], leaf, atol=1e-6, err_msg=path)


def test_epochs_of_the_probe() -> None:
    found = probe.batches(0, 10, 5, 4)
    assert sorted(found.ravel()[:10]) == list(range(10)) == sorted(found.ravel()[10:])
    assert not np.array_equal(found, probe.batches(1, 10, 5, 4))


# ---- scores and files for leaderboards


def says(*outputs: Any) -> list[scoring.Prediction]:
    return [scoring.Prediction(text=o) if isinstance(o, str) else scoring.Prediction(outputs=np.asarray(o, np.float64)) for o in outputs]


def examples_of(name: str, form: Any, *records: dict[str, Any]) -> tuple[Any, list[Any]]:
    task = tables.find(name, "x")
    return task, [example for example, _ in tables.examples(task, form, [(record, "f, record 1") for record in records])]


def test_scores_by_hand() -> None:
    task, examples = examples_of(
        "superglue_copa",
        "classes",
        *({"premise": "p.", "choice1": "A", "choice2": "B", "question": "cause", "label": n, "idx": n} for n in (0, 1)),
    )
    made = says([0, 1], [0, 3], [0, 1], [0, 3])  # the second alternative twice, right once
    assert scoring.score(task, "classes", examples, made) == {"accuracy": 0.5, "items": 4.0}
    task, examples = examples_of(
        "superglue_cb", "words", *({"premise": "p", "hypothesis": "h", "label": n, "idx": n} for n in (0, 1, 2, 1))
    )
    found = scoring.score(task, "words", examples, says("entailment", "contradiction", "no label", "neutral"))
    assert found["accuracy"] == 0.5
    assert found["macro_f1"] == pytest.approx((1 + 2 / 3 + 0) / 3)
    task, examples = examples_of(
        "glue_stsb", "words", *({"sentence1": "a", "sentence2": "b", "label": x, "idx": 0} for x in (1.0, 2.0, 4.0))
    )
    assert scoring.score(task, "words", examples, says("1.0", "2.0", "4.0"))["pearson_spearman"] == pytest.approx(1)
    record = {"passage": "p", "query": "@placeholder", "entities": ["x", "y"], "answers": ["y"], "idx": {"passage": 0, "query": 0}}
    task, examples = examples_of("superglue_record", "classes", record)
    assert scoring.score(task, "classes", examples, says([0, -1], [0, 2])) == {"f1": 1.0, "em": 1.0, "items": 2.0}
    with pytest.raises(InputError, match="not known; ask for a submission"):
        scoring.score(task, "classes", [replace(e, answers=()) for e in examples], says([0, 1], [0, 1]))


def test_files_for_leaderboards(tmp_path: Path) -> None:
    def written(name: str, form: Any, made: list[Any], *records: dict[str, Any]) -> str:
        task, examples = examples_of(name, form, *records)
        return submission.write(tmp_path, name, task, form, examples, made).read_text()

    two = [{"sentence1": "a", "sentence2": "b", "label": -1, "idx": i} for i in range(2)]
    assert written("glue_rte", "classes", says([1, 0], [0, 1]), *two) == "index\tprediction\n0\tentailment\n1\tnot_entailment\n"
    assert written("glue_wnli", "classes", says([1, 0], [0, 1]), *two) == "index\tprediction\n0\t0\n1\t1\n"
    assert written("glue_stsb", "classes", says([7.0], [2.5]), *two) == "index\tprediction\n0\t5.000\n1\t2.500\n"
    assert (
        written("superglue_wic", "words", says("True", "nonsense"), *({**r, "word": "w"} for r in two))
        == '{"idx": 0, "label": "true"}\n{"idx": 1, "label": "false"}\n'
    )
    copa = {"premise": "p", "choice1": "A", "choice2": "B", "question": "cause", "idx": 5}
    assert written("superglue_copa", "classes", says([0, 1], [0, 2]), copa) == '{"idx": 5, "label": 1}\n'
    answers = [{"paragraph": "p", "question": "q", "answer": "a", "idx": {"paragraph": 1, "question": 2, "answer": n}} for n in (3, 4)]
    line = json.loads(written("superglue_multirc", "classes", says([0, 1], [1, 0]), *answers))
    assert line == {"idx": 1, "passage": {"questions": [{"idx": 2, "answers": [{"idx": 3, "label": 1}, {"idx": 4, "label": 0}]}]}}
    record = {"passage": "p", "query": "@placeholder", "entities": ["x", "y"], "idx": {"passage": 0, "query": 9}}
    assert written("superglue_record", "classes", says([0, -1], [0, 2]), record) == '{"idx": 9, "label": "y"}\n'
    assert written("superglue_record", "words", says("anything"), record) == '{"idx": 9, "label": "anything"}\n'
    with pytest.raises(InputError, match="is on no leaderboard"):
        submission.write(tmp_path, "mine", tables.find("score", "x"), "classes", [], [])


def test_patterns_choose_weights(texts: Path) -> None:
    skeleton = skeleton_of(texts)
    kept = {path for path, keep in flatten(optimizers.trainable(skeleton.dims, ("class_head/*",))) if keep}
    assert kept == {path for path, _ in flatten(skeleton.abstract) if path.startswith("class_head/")}
    assert all(keep for _, keep in flatten(optimizers.trainable(skeleton.dims, ())))
