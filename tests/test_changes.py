"""Every config value changed once between a run and its resumption: free, flagged or refused, as train/resume.py lists it."""

import copy
import dataclasses
import json
import types
import typing
from pathlib import Path
from typing import Any

import jax
import pytest
from support import settings

from pretrainx.core import config as configs
from pretrainx.core import plugins, schema, sections
from pretrainx.core.config import Config
from pretrainx.core.errors import InputError
from pretrainx.train import build, resume
from pretrainx.train import experiment as experiments

LISTS = {"free": resume.FREE, "flagged": resume.FLAGGED, "refused": resume.REFUSED}


def fields() -> dict[str, Any]:
    """{dotted path: type} of every value that a config can hold, plug-ins included."""
    found: dict[str, Any] = {name: kind for name, (kind, _) in configs.SINGLE.items()}
    for section, cls in configs.TYPED.items():
        found |= {f"{section}.{name}": kind for name, kind in schema.hints(cls).items()}
    for section, (package, _) in configs.PLUGIN.items():
        for name in plugins.names(package, "Config"):
            module = plugins.find(package, "Config", name, section)
            found |= {f"{section}.{field}": kind for field, kind in schema.hints(module.Config).items()}
    return found


def kinds_of(path: str) -> list[str]:
    return [kind for kind, names in LISTS.items() for n in names if (path.startswith(n) if n.endswith(".") else path == n)]


def test_every_value_is_in_one_list() -> None:
    """A new one fails here until somebody decides what its change means."""
    wrong = {path: kinds_of(path) for path in fields() if len(kinds_of(path)) != 1}
    assert not wrong, f"put each into one list of train/resume.py: {wrong}"
    known = fields()
    stale = [n for names in LISTS.values() for n in names if not any(p.startswith(n) if n.endswith(".") else p == n for p in known)]
    assert not stale, f"no such config value: {stale}"


def test_a_value_in_no_list_is_not_free() -> None:
    assert not resume.free("train.invented") and not resume.free("layouts") and not resume.free("data.corporation")
    assert resume.free("layout.embed") and resume.free("data.corpora.a.files") and resume.free("mesh.data")


# Values that another type's default mutation would make invalid, or that mean something only beside others: (value, what is changed first).
BESIDE: dict[str, tuple[Any, dict[str, Any]]] = {
    "data.mixture": ({"topics": 0.5, "short": 0.5}, {}),
    "data.corpora": ({"topics": {"files": "*.jsonl"}}, {}),
    "data.decontaminated": ({"arc": "arc.jsonl"}, {}),
    "data.objective": ("prefix", {}),
    "data.objectives": ({"causal": {}}, {}),
    "data.module": ("my_tasks", {}),
    "data.vocabulary": ("wordpiece:words.txt", {}),
    "data.sequence_length": (64, {}),
    "mesh.data": (2, {}), "mesh.fsdp": (2, {}), "mesh.tensor": (2, {}), "mesh.sequence": (2, {}), "mesh.expert": (2, {}),
    "mesh.stage": (2, {}),
    "layout": ("fsdp", {}),
    "init_from": ("runs/other", {}),
    "train.steps": (24, {}), "train.stop_at": (6, {}), "train.remat": ("full", {}), "train.loss_weights": ({"causal": 0.5}, {}),
    "train.skip_rows": ("rows.json", {}), "train.grad_accum": (2, {}), "train.batch_size": (16, {}),
    "eval.every": ("50%", {}), "eval.ngram_orders": ([3], {}), "eval.stride": (16, {}), "eval.split": ("test", {}),
    "checkpoint.every": (6, {}), "checkpoint.keep_every": (6, {}), "log.every": (5, {}),
    "model.name": ("llama", {}), "model.vocab_size": (300, {}), "model.d_model": (64, {}), "model.num_heads": (2, {}),
    "model.num_kv_heads": (2, {}), "model.head_dim": (16, {}), "model.activation": ("gelu", {}), "model.norm": ("layer", {}),
    "model.post_norm": (True, {}), "model.positions": ("learned", {}), "model.max_length": (64, {"model": {"positions": "learned"}}),
    "model.position_offset": (2, {"model": {"positions": "learned", "max_length": 64}}),
    "model.max_block_positions": (40, {}), "model.relative_buckets": (16, {"model": {"positions": "relative"}}),
    "model.relative_max_distance": (64, {}), "model.embedding_size": (16, {}), "model.heads": (["classes"], {}),
    "model.num_classes": (3, {"model": {"heads": ["classes"]}}), "model.class_hidden": (None, {"model": {"heads": ["classes"]}}),
    "model.pooling": (None, {"model": {"heads": ["classes"]}}), "model.max_span": (7, {"model": {"heads": ["boundary"]}}),
    "model.lora_rank": (4, {}), "model.lora_targets": (["*query"], {"model": {"lora_rank": 4}}),
    "model.lora_alpha": (32.0, {"model": {"lora_rank": 4}}), "model.remat": ("full", {}), "model.attention_kernel": ("xla", {}),
    "model.loss_chunks": (2, {}), "model.head_transform": (None, {}), "model.num_token_types": (2, {}),
    "model.attention_scale": ("none", {}), "model.scan_layers": (False, {}), "model.dtype": ("float16", {}),
    "model.bigram_rows": (512, {"model": {"name": "encoder"}}),
    "model.bigram_dim": (4, {"model": {"name": "encoder", "bigram_rows": 512}}),
    "model.generator_size": (0.5, {"model": {"name": "electra"}}),
    "model.num_decoder_layers": (1, {"model": {"name": "t5"}}),
    "optim.name": ("muon", {}), "optim.trainable": (["token_head/*"], {}), "optim.schedule": ("linear", {}), "optim.warmup": (3, {}),
    "optim.decay": (3, {}), "optim.end_lr_ratio": (0.5, {}), "optim.layer_decay": (0.9, {}),
    "optim.muon_lr": (0.5, {"optim": {"name": "muon"}}), "optim.momentum": (0.5, {"optim": {"name": "muon"}}),
    "optim.muon_weight_decay": (0.5, {"optim": {"name": "muon"}}),
}  # fmt: skip


def another(kind: Any, value: Any) -> Any:
    """Another value of this type, near the old one."""
    while typing.get_origin(kind) is typing.Annotated:
        kind = typing.get_args(kind)[0]
    if typing.get_origin(kind) is typing.Literal:
        return next(choice for choice in typing.get_args(kind) if choice != value)
    if typing.get_origin(kind) in (typing.Union, types.UnionType):
        kind = next(k for k in typing.get_args(kind) if k is not type(None))
        return another(kind, value)
    if kind is bool:
        return not value
    if kind is int:
        return value + 1 if isinstance(value, int) else 1
    if kind is float:
        return value * 0.5 if value else 0.5
    return f"{value}x"


def loaded(values: dict[str, Any]) -> experiments.Experiment:
    return experiments.load(Config("tiny", "tiny.py", values, values))


def changed(path: str, value: Any, values: dict[str, Any]) -> dict[str, Any]:
    made = copy.deepcopy(values)
    *above, last = path.split(".")
    here = made
    for key in above:
        here = here.setdefault(key, {})
    here[last] = value
    return made


def seen(experiment: experiments.Experiment) -> tuple[dict[str, Any], dict[str, Any], dict[str, Any]]:
    """What a checkpoint keeps of a run: (resolved config, identity, defaults). The data's hash is left to tests of its own."""
    model = experiment.model
    classes = model.num_classes or (2 if "classes" in model.heads else 0)
    model = dataclasses.replace(model, vocab_size=model.vocab_size or 264, num_classes=classes)
    one = dataclasses.replace(experiment, model=model, mesh=sections.Mesh(data=1), layout="dp")
    identity = {"model": build.make_skeleton(one, jax.devices()[:1]).shapes(), "vocabulary": "bytes", "data": "the same"}
    return json.loads(json.dumps(experiment.resolved())), identity, experiment.defaults()


def outcome(facts: dict[str, Any], now: dict[str, Any], identity: dict[str, Any], defaults: dict[str, Any], *allowed: str) -> str:
    """What a resumption with these flags comes to."""
    try:
        return "accepted" if resume.check("runs/x", facts, now, identity, allowed, defaults) else "unseen"
    except InputError as error:
        said = str(error)
        assert "\n" not in said
        return next((short for mark, short in MARKS.items() if mark in said), said)


MARKS = {"checkpoint of another model": "another model", "--allow_change=": "named"}
WANTED = {"free": ["accepted"] * 3, "flagged": ["named", "accepted", "accepted"], "refused": ["another model"] * 3}


@pytest.mark.slow
def test_every_value_changed_once(tmp_path: Path) -> None:
    counts = dict.fromkeys(LISTS, 0)
    wrong = []
    cache: dict[str, Any] = {}
    for path, kind in fields().items():
        expected = kinds_of(path)[0]
        value, beside = BESIDE.get(path, (None, {}))
        base = settings(tmp_path, **beside)
        try:
            config, identity, defaults = cache[str(base)] = cache.get(str(base)) or seen(loaded(base))
        except InputError as error:
            wrong.append(f"{path}: its base is no config: {error}")
            continue
        old = configs.leaves(config).get(path, config.get(path))
        if value is None:
            value = another(kind, old)
        try:
            now, new_identity, _ = seen(loaded(changed(path, value, base)))
        except InputError as error:
            wrong.append(f"{path}={value!r}: not a config: {error}")
            continue
        if path in ("model.remat", "model.dtype", "model.param_dtype"):  # `train` fills them
            now = changed(path, value, now)
        facts = {"config": config, "identity": identity}
        flags: tuple[tuple[str, ...], ...] = ((), (path,), (path.partition(".")[0],))
        found = [outcome(facts, now, new_identity, defaults, *allowed) for allowed in flags]
        wanted = WANTED[expected]
        if path in ("model.name", "optim.name"):  # the values that come with a plug-in change with it: one flag is not enough
            found, wanted = found[:1], ["named"]
        if found != wanted:
            wrong.append(f"{path}={value!r} is listed as {expected}: {found}")
        counts[expected] += 1
    assert not wrong, "\n".join(wrong)
    assert sum(counts.values()) == len(fields()) and min(counts.values()) > 20
    print(counts)
