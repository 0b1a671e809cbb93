"""What may differ between a run and its resumption: shown, and refused where it would change the run in silence."""

import re
from collections.abc import Iterable
from typing import Any

from pretrainx.core.config import leaves
from pretrainx.core.errors import InputError
from pretrainx.data import skips
from pretrainx.train import loss_scale
from pretrainx.train.checkpoint import Checkpoints

# What a change of each config value means for a run that has begun. A name that ends in a dot stands for all below it.
# Free: data, model and arithmetic stay as they were, or arrays move without changing. What `model` copies from `train` follows it.
FREE = (
    "mesh.", "layout", "checkpoint.", "eval.", "log.",
    "train.stop_at", "train.max_bad_steps", "train.max_rewinds", "train.recheck_every", "train.watchdog_seconds", "train.remat",
    "train.offload_optimizer", "train.pipeline_microbatches", "train.pipeline_repeats",
    "data.prefetch", "data.workers", "data.cache_dir", "data.module", "data.corpora", "data.cache_shards", "data.max_document_bytes",
    "data.encoding_errors", "data.vocabulary", "data.max_epochs", "data.decontaminated",
    "model.attention_kernel", "model.remat", "model.dtype", "model.param_dtype", "model.scan_layers", "model.loss_chunks",
    "model.mlp_chunks", "model.fused_qkv",
)  # fmt: skip
# Flagged: another run from here on. --allow_change=PATH says that it is meant.
FLAGGED = (
    "init_from", "optim.",
    "train.steps", "train.batch_size", "train.seed", "train.dtype", "train.param_dtype", "train.grad_accum", "train.loss_weights",
    "train.spike_policy", "train.spike_window", "train.spike_deviations", "train.spike_reach", "train.skip_rows",
    "data.mixture", "data.rates", "data.objective", "data.objectives", "data.sequence_length", "data.seed",
    "model.name", "model.activation", "model.norm_eps", "model.relative_max_distance", "model.rope_theta",
    "model.attention_scale", "model.attention_softcap", "model.attention_window", "model.logit_scale", "model.logit_softcap",
    "model.init_std",
    "model.depth_scaled_init", "model.embed_init_std", "model.head_init_std", "model.embed_scale", "model.pooling", "model.dropout",
    "model.word_dropout", "model.unknown_id", "model.lora_alpha", "model.matmul",
)  # fmt: skip
# Refused: the checkpoint's arrays are of other shapes, so no flag helps. Where a value happens to shape nothing (a table of positions
# that this model lacks), its change is flagged.
REFUSED = (
    "model.vocab_size", "model.d_model", "model.num_layers", "model.num_decoder_layers", "model.num_heads", "model.num_kv_heads",
    "model.head_dim", "model.mlp_dim", "model.gated_mlp", "model.norm", "model.post_norm", "model.embed_norm", "model.embedding_size",
    "model.positions", "model.position_offset", "model.max_length", "model.max_block_positions", "model.relative_buckets",
    "model.num_token_types", "model.use_bias", "model.qk_norm", "model.tied_head", "model.head_transform",
    "model.heads", "model.max_span", "model.num_classes", "model.class_hidden", "model.lora_rank",
    "model.lora_targets", "model.generator_size", "model.bigram_rows", "model.bigram_dim",
)  # fmt: skip
# Leaves that are filled in from another, unless they are given: a change of both is that other's.
FOLLOWS = {
    "model.max_length": "data.sequence_length", "model.dtype": "train.dtype", "model.param_dtype": "train.param_dtype",
    "model.remat": "train.remat",
}  # fmt: skip


# What `facts` would give of step 0, as far as a run stands on it.
START: dict[str, Any] = {"pending": [], "loss": None, "rows_sha256": "0", "losses": [], "spikes": 0, "skip_rows": skips.NONE}


def free(path: str) -> bool:
    """Whether a leaf may differ without a word; one that is in no list may not."""
    return any(path.startswith(name) if name.endswith(".") else path == name or path.startswith(f"{name}.") for name in FREE)


def facts(checkpoints: Checkpoints, step: int) -> dict[str, Any]:
    """What a run wrote beside the arrays of a step, with the types that its readers count on.

    Raises:
      InputError: no such step, a damaged one, or no facts of a run.
    """
    found = checkpoints.facts(step)
    wanted = {"identity": dict, "config": dict, "vocabulary": dict, "pending": list, "rows_sha256": str}
    for name, kind in wanted.items():
        if not isinstance(found, dict) or not isinstance(found.get(name), kind):
            raise InputError(
                f"{checkpoints.folder}: the facts of step {step} have no {name!r} as a run writes it; they are not this program's"
            )
    hexadecimal = re.fullmatch("[0-9a-f]{64}", found["rows_sha256"])
    identity, pending, loss = found["identity"], found["pending"], found.get("loss")
    whole = isinstance(identity.get("model"), dict) and all(isinstance(identity.get(name), str) for name in ("vocabulary", "data"))
    counted = all(isinstance(row, dict) and {"loss", "grad_norm"} <= row.keys() and all(map(_number, row.values())) for row in pending)
    if not (hexadecimal and whole and counted and (loss is None or _number(loss))):
        raise InputError(f"{checkpoints.folder}: the facts of step {step} hold values that no run writes; they are not this program's")
    past, count = found.get("losses", []), found.get("spikes", 0)  # absent from what earlier versions wrote
    if not (isinstance(past, list) and all(map(_number, past)) and type(count) is int):
        raise InputError(f"{checkpoints.folder}: the facts of step {step} hold past losses that no run writes; they are not this program's")
    left_out = skips.parse(found.get("skip_rows", []), f"{checkpoints.folder}: skip_rows of step {step}")
    return found | {"loss": loss, "losses": past, "spikes": count, "skip_rows": left_out}


def _number(value: Any) -> bool:
    return isinstance(value, (int, float)) and not isinstance(value, bool)


def difference(old: dict[str, Any], new: dict[str, Any]) -> dict[str, tuple[Any, Any]]:
    """{path: (old, new)} of the leaves that differ."""
    before, after = leaves(old), leaves(new)
    return {p: (before.get(p), after.get(p)) for p in sorted(before.keys() | after.keys()) if before.get(p) != after.get(p)}


def check(
    folder: Any,
    facts: dict[str, Any],
    resolved: dict[str, Any],
    identity: dict[str, Any],
    allowed: Iterable[str],
    defaults: dict[str, Any] | None = None,
) -> list[str]:
    """Lines that show what changed and is accepted.

    A leaf that the checkpoint's config lacks, from before there was one, stands for its default. `identity` holds hashes and
    tables (model, vocabulary, data) that must be those of the checkpoint.

    Raises:
      InputError: the checkpoint is of another model, vocabulary or data, or a leaf changed that changes the run.
    """
    allowed = tuple(allowed)
    require_same(folder, facts["identity"], identity, "model", "vocabulary")
    lines = []
    known, unset = leaves(facts["config"]), leaves(defaults or {})
    changed = difference(facts["config"], resolved)
    for path, (old, new) in changed.items():
        if path not in known and path in unset and unset[path] == new:
            continue
        line = f"{path}: {old!r} -> {new!r}"
        if not free(path) and FOLLOWS.get(path) not in changed and not any(path == a or path.startswith(a + ".") for a in allowed):
            raise InputError(
                f"{folder}: the run was started with another config, {line}; this changes the run, so name it to go on: "
                f"--allow_change={path} (or use another --workdir)"
            )
        lines.append(line)
    if not any(a == "data" or a.startswith("data.") for a in allowed):
        require_same(folder, facts["identity"], identity, "data")  # the config is the same, and the files are not
    return lines


def check_optimizer(folder: Any, there: dict[str, tuple[int, ...]], here: dict[str, tuple[int, ...]]) -> None:
    """Raises InputError where the optimizer's arrays in a checkpoint are not those of the config's; a loss scale may come and go."""
    before, after = loss_scale.without_scale(there), loss_scale.without_scale(here)
    for path in sorted(before.keys() | after.keys()):
        if before.get(path) != after.get(path):
            raise InputError(
                f"{folder}: the optimizer's state in the checkpoint is another's: {path} is {before.get(path, 'not there')} there and "
                f"{after.get(path, 'not there')} here; go back to the old `optim`, or begin a new run from its weights: "
                f"--config.init_from={folder} --workdir=..."
            )


def require_same(folder: Any, there: dict[str, Any], here: dict[str, Any], *what: str) -> None:
    """Raises InputError where the checkpoint's `there` and the config's `here` differ in one of `what`."""
    for name in what:
        old, new = there[name], here[name]
        if old == new:
            continue
        if isinstance(old, dict):
            path = next(p for p in sorted(old.keys() | new.keys()) if old.get(p) != new.get(p))
            detail = f"{path} is {old.get(path, 'absent')} there and {new.get(path, 'absent')} here"
        else:
            detail = f"its hash is {old[:12]} there and {new[:12]} here"
        hint = "name it to go on: --allow_change=data" if name == "data" else "use the config of that run"
        raise InputError(f"{folder} holds a checkpoint of another {name} ({detail}); {hint}, or another --workdir")
