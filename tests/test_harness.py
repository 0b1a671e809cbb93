"""The lm-evaluation-harness on our models: windows, options and prompts by hand; and its own Hugging Face backend on equal weights.

What needs the extra [harness] is skipped without it; the comparison also needs [parity] and accelerate.
"""

import gzip
import importlib.util
import json
import math
import os
import subprocess
import sys
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from types import ModuleType, SimpleNamespace
from typing import Any

import numpy as np
import pytest
from hypothesis import assume, given, settings
from hypothesis import strategies as st
from support import BYTES, ROOT, documents, numpy_params, write_config
from support import settings as sections
from test_likelihood import START, TEXT, WINDOW, build, ids, in_numpy, longest_match

from pretrainx.core import config as configs
from pretrainx.core.errors import InputError
from pretrainx.core.sections import Data
from pretrainx.evaluate import harness
from pretrainx.evaluate.choices.accuracy import credit, normalised
from pretrainx.evaluate.choices.tasks import Asked, read_task
from pretrainx.evaluate.generate import Generator
from pretrainx.evaluate.harness import Answers, FittedPrompts, Options, metrics_of, parse_options, rolling_rows
from pretrainx.evaluate.likelihood import Scorer, spell
from pretrainx.evaluate.sampling import Sampling
from pretrainx.models import encoder, gpt2, llama, prefix_decoder, skeleton, t5
from pretrainx.models.skeleton import Params, Skeleton
from pretrainx.objectives.examples import make_objective
from pretrainx.objectives.interface import Objective, Prompt
from pretrainx.tasks import vocabulary_spec
from pretrainx.train import experiment as experiments
from pretrainx.train import loop, trained

INSTALLED = importlib.util.find_spec("lm_eval") is not None
needs_harness = pytest.mark.skipif(not INSTALLED, reason="the extra [harness] is not installed: no lm_eval")
DATA = Path(os.environ.get("PRETRAINX_TEST_DATA", ROOT.parent / "shared" / "data")) / "tasks"
# Their libraries warn of their own doings: forks of progress bars, names that will go.
theirs_warns = pytest.mark.filterwarnings("default")


def objectives(*names: str, length: int = WINDOW, **options: Any) -> Callable[[], list[Objective]]:
    data = Data(sequence_length=length, objectives={name: options for name in names})
    return lambda: [make_objective(name, data, BYTES) for name in names]


# ---- without the harness


def test_without_the_harness_the_error_names_the_extra(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "lm_eval", None)  # as if it were not there
    for needs in (harness.require_installed, lambda: harness.load_tasks(["arc_easy"]), lambda: harness.make_lm(object())):
        with pytest.raises(InputError, match=r"lm-evaluation-harness is not installed: pip install 'pretrainx\[harness\]'"):
            needs()


def test_importing_ours_imports_nothing_of_theirs() -> None:
    code = "import sys, pretrainx.evaluate.harness; print(*sorted({'lm_eval', 'datasets', 'torch', 'tensorflow'} & set(sys.modules)))"
    done = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, check=True)
    assert done.stdout.split() == []


def pieces(tokens: Sequence[int], window: int) -> list[tuple[list[int], list[int]]]:
    """(what is read, what is predicted from its end) of each window."""
    rows = rolling_rows(np.asarray(tokens, np.int32), 99, window)
    for row in rows:
        assert row.stop == len(row.tokens) == len(row.targets)
    return [(row.tokens.tolist(), row.targets[row.first :].tolist()) for row in rows]


def test_rolling_windows_by_hand() -> None:
    """The example in the harness's own documentation of loglikelihood_rolling."""
    assert pieces(range(10), 4) == [([99, 0, 1, 2], [0, 1, 2, 3]), ([3, 4, 5, 6], [4, 5, 6, 7]), ([5, 6, 7, 8], [8, 9])]
    assert pieces(range(3), 4) == [([99, 0, 1], [0, 1, 2])]
    assert pieces(range(4), 4) == [([99, 0, 1, 2], [0, 1, 2, 3])]
    assert pieces(range(3), 1) == [([99], [0]), ([0], [1]), ([1], [2])]
    assert pieces([], 4) == []


@given(length=st.integers(0, 40), window=st.integers(1, 12))
@settings(max_examples=100)
def test_each_token_is_predicted_once_from_those_before_it(length: int, window: int) -> None:
    rows = rolling_rows(np.arange(length, dtype=np.int32), 99, window, prefix=True)
    told = [t for row in rows for t in row.targets[row.first : row.stop].tolist()]
    assert told == list(range(length))
    for number, row in enumerate(rows):
        assert row.tokens.tolist() == [99 if t == 0 else t - 1 for t in row.targets.tolist()]
        assert len(row.tokens) == min(window, length)
        assert row.seen == (1 if number == 0 else 0)  # the start alone is no context to be seen both ways


@needs_harness
@given(length=st.integers(0, 60), window=st.integers(1, 20))
@settings(max_examples=200)
def test_rolling_windows_are_theirs(length: int, window: int) -> None:
    from lm_eval.utils import get_rolling_token_windows

    assert pieces(range(length), window) == list(get_rolling_token_windows(list(range(length)), 99, window, 1))


@needs_harness
@given(context=TEXT, continuation=TEXT)
@settings(max_examples=300)
def test_continuations_begin_where_theirs_do(context: str, continuation: str) -> None:
    """With pieces that cross words: equal, but that a piece across the seam is paid for here. There it may be left out."""
    assume(context)
    ours = spell(longest_match, (context, continuation))
    before, after = their_pair(longest_match, context, continuation)
    assert ours.tokens[ours.first :].tolist()[len(ours.tokens) - ours.first - len(after) :] == after
    if not ours.crossed:
        assert ours.tokens[: ours.first].tolist() == before and ours.tokens[ours.first :].tolist() == after
    else:
        assert ours.first < len(before)


def their_pair(encode: Callable[[str], list[int]], context: str, continuation: str) -> tuple[list[int], list[int]]:
    """What TemplateLM, their backend's base, makes of them."""
    from lm_eval.api.model import TemplateLM

    return TemplateLM._encode_pair(SimpleNamespace(backend="causal", tok_encode=encode), context, continuation)


@needs_harness
def test_real_questions_in_real_pieces_begin_where_theirs_do() -> None:
    """1,000 SentencePiece pieces, no tokenizer of theirs: what their base class does with ours."""
    file, path = DATA.parent / "tokenizers" / "sentencepiece_test_model.model", DATA / "arc_easy.validation.jsonl.gz"
    if not (file.exists() and path.exists()):
        pytest.skip(f"no {file} or no {path}")
    vocabulary = vocabulary_spec.load(str(file))
    asked = read_task("arc_easy", "arc_easy", str(path), {})
    items = [choice for question in asked.questions for choice in question.choices]
    assert len(items) > 2000
    for item in items:
        ours = spell(vocabulary.encode, item)
        before, after = their_pair(vocabulary.encode, *item)
        assert (ours.tokens[: ours.first].tolist(), ours.tokens[ours.first :].tolist()) == (before, after) and not ours.crossed


GREEDY = Sampling(0.0)
TELLS: list[tuple[dict[str, Any], Options]] = [
    ({}, Options(256, (), GREEDY)),
    ({"until": "\n", "max_gen_toks": 7}, Options(7, ("\n",), GREEDY)),
    ({"until": ["\n", "", "Q:", "\n"], "do_sample": False, "temperature": 0.0}, Options(256, ("\n", "Q:"), GREEDY)),
    ({"max_tokens": 5, "max_new_tokens": 6}, Options(6, (), GREEDY)),
    ({"max_gen_toks": 8, "max_completion_tokens": 9, "num_beams": 1}, Options(8, (), GREEDY)),
    ({"temperature": 0.7, "top_k": 5}, Options(256, (), Sampling(0.7, 5, 1.0))),
    ({"do_sample": True, "temperature": "1", "top_p": 0.95}, Options(256, (), Sampling(1.0, 0, 0.95))),
    ({"do_sample": False, "temperature": 0.9, "top_p": 0.5}, Options(256, (), GREEDY)),
    ({"do_sample": None, "temperature": None, "until": None}, Options(256, (), GREEDY)),
]


@pytest.mark.parametrize(("kwargs", "wanted"), TELLS)
def test_options_as_tasks_give_them(kwargs: dict[str, Any], wanted: Options) -> None:
    before = json.dumps(kwargs)
    assert parse_options(kwargs) == wanted
    assert json.dumps(kwargs) == before


@needs_harness
@theirs_warns
@pytest.mark.parametrize("kwargs", [kwargs for kwargs, _ in TELLS if None not in kwargs.values()])
def test_options_are_read_as_theirs(kwargs: dict[str, Any]) -> None:
    from lm_eval.models.utils import normalize_gen_kwargs

    theirs, ours = normalize_gen_kwargs(kwargs), parse_options(kwargs)
    assert theirs["max_gen_toks"] == ours.num_tokens
    assert {text for text in theirs["until"] if text} == set(ours.stop)
    assert bool(theirs["do_sample"]) == (ours.sampling.temperature > 0)
    if theirs["do_sample"]:
        assert float(theirs["temperature"]) == ours.sampling.temperature


@pytest.mark.parametrize(
    ("kwargs", "said"),
    [
        ({"untill": "\n"}, "t: kwargs.untill: not offered here; did you mean 'until'"),
        ({"max_gen_toks": 0}, "t: kwargs.max_gen_toks 0: accepted are 1"),
        ({"max_gen_toks": "many"}, "max_gen_toks: expected a number, found 'many'"),
        ({"max_new_tokens": 2.5}, "max_new_tokens: expected a whole number"),
        ({"max_new_tokens": True}, "max_new_tokens: expected a whole number"),
        ({"temperature": math.nan}, "temperature: expected a finite number"),
        ({"do_sample": True}, "do_sample needs a temperature above 0"),
        ({"temperature": 1, "top_p": 1.5}, "t: kwargs: top_p 1.5: accepted are"),
        ({"temperature": 1, "top_k": -1}, "t: kwargs: top_k -1: accepted are"),
        ({"num_beams": 4}, "num_beams 4: accepted is 1"),
        ({"until": 3}, "until: expected a text or a list of texts, found 3"),
        ({"until": ["a", 3]}, "until: expected a text or a list of texts"),
    ],
)
def test_options_that_are_refused(kwargs: dict[str, Any], said: str) -> None:
    with pytest.raises(InputError, match=said):
        parse_options(kwargs, "t: kwargs")


def test_long_prompts_lose_their_beginning() -> None:
    plain = FittedPrompts(lambda text: Prompt([0, *text]), 4, 9)
    assert plain([5, 6, 7]).tokens == [0, 5, 6, 7] and plain.cut == 0
    assert plain([5, 6, 7, 8]).tokens == [5, 6, 7, 8] and plain.cut == 1  # the start goes first, as in their backend
    assert plain([4, 5, 6, 7, 8]).tokens == [5, 6, 7, 8] and plain.cut == 2
    marked = FittedPrompts(lambda text: Prompt([2, *text, 3], seen=len(text) + 1), 4, 9)
    assert marked([5, 6, 7, 8]) == Prompt([2, 7, 8, 3], seen=3)  # what frames a text stays
    pair = FittedPrompts(lambda text: Prompt([0], source=[*text, 3]), 4, 5)
    assert pair([5, 6, 7, 8, 9]) == Prompt([0], source=[6, 7, 8, 9, 3])
    both = FittedPrompts(lambda text: Prompt([0, *text], source=[*text, 3]), 3, 5)
    assert both([5, 6, 7, 8]) == Prompt([0, 7, 8], source=[7, 8, 3])


# ---- answers of a small model


@pytest.fixture(scope="module")
def model() -> Skeleton:
    return build()


@pytest.fixture(scope="module")
def params(model: Skeleton) -> Params:
    return numpy_params(model)


@pytest.fixture(scope="module")
def answers(model: Skeleton, params: Params) -> Answers:
    return Answers(model, BYTES, params, objectives("causal"), batch_size=3)


def test_whole_texts_are_scored_window_by_window(answers: Answers, params: Params) -> None:
    texts = [documents()[0][:150], "", documents()[1][:WINDOW], documents()[2][:20], documents()[0][:150]]
    found = answers.loglikelihood_rolling(texts)
    for text, nats in zip(texts, found, strict=True):
        tokens, wanted = ids(text), 0.0
        for read, told in pieces(tokens, WINDOW):
            whole = [START if t == 99 and i == 0 and tokens[0] != 99 else t for i, t in enumerate(read)]
            targets = [*whole[1:], told[-1]]
            wanted += in_numpy(params, whole, targets, len(whole) - len(told))[0]
        assert nats == pytest.approx(wanted, rel=3e-6)
    assert found[1] == 0 and found[0] == found[4] and all(type(nats) is float for nats in found)


def test_likelihoods_are_the_scorers(answers: Answers, model: Skeleton, params: Params, capsys: pytest.CaptureFixture[str]) -> None:
    long = documents()[0][:200]
    items = [("a ", "b"), ("a", " b"), ("", "x"), (long, " end"), ("a ", "b")]
    wanted = Scorer(model, BYTES, 2)(params, items)
    found = answers.loglikelihood(items)
    assert [(nats, greedy) for nats, greedy in found] == [(pytest.approx(w.nats, rel=3e-6), w.greedy) for w in wanted]
    assert found[0] == found[1] == found[4]
    assert f"1 of 5 texts were longer than the window of {WINDOW} tokens" in capsys.readouterr().err


def test_texts_without_tokens_are_refused(answers: Answers) -> None:
    with pytest.raises(InputError, match="an empty text after 'Q: why'"):
        answers.loglikelihood([("Q: why", " so"), ("Q: why", "")])
    scorer = answers.scorer
    encode, scorer.encode = scorer.encode, lambda text: BYTES.encode(text.rstrip())
    try:
        with pytest.raises(InputError, match=r"' ' after 'Q' has no token"):
            answers.loglikelihood([("Q", " ")])
    finally:
        scorer.encode = encode


def test_generations_keep_their_order_in_groups(answers: Answers, model: Skeleton, params: Params) -> None:
    short, long = {"max_gen_toks": 6, "until": ["\n"]}, {"max_new_tokens": 12, "until": []}
    prompts = ["The ", "An ", "The ", "Of all", ""]
    asked = [(prompt, short if i % 2 else long) for i, prompt in enumerate(prompts)]
    found = answers.generate_until(asked)
    for (prompt, kwargs), text in zip(asked, found, strict=True):
        alone = Generator(model, BYTES, lambda text: Prompt([START, *text]), GREEDY, 6 if kwargs is short else 12, kwargs["until"])
        assert text == alone(params, [prompt])[0].text
    assert found[0] == found[2] and found[1] != found[0]
    assert len(answers.generators) == 2  # compiled once each
    answers.generate_until(asked[:1])
    assert len(answers.generators) == 2


def test_sampled_repeats_differ_and_a_seed_repeats_them(model: Skeleton, params: Params) -> None:
    drawn = {"max_gen_toks": 8, "do_sample": True, "temperature": 1.0}
    asked = [("The ", drawn)] * 4
    one, again, other = (Answers(model, BYTES, params, objectives("causal"), seed=s).generate_until(asked) for s in (1, 1, 2))
    assert one == again and one != other and len(set(one)) == 4


def test_a_prompt_without_room_is_cut_or_refused(
    answers: Answers, model: Skeleton, params: Params, capsys: pytest.CaptureFixture[str]
) -> None:
    text = documents()[0][:200]
    (found,) = answers.generate_until([(text, {"max_gen_toks": 10})])
    alone = Generator(model, BYTES, lambda _: Prompt(ids(text)[-(WINDOW - 10) :]), GREEDY, 10)
    assert found == alone(params, [text])[0].text
    assert f"1 of 1 prompts were longer than {WINDOW - 10} tokens" in capsys.readouterr().err
    with pytest.raises(InputError, match=f"max_gen_toks 256: leaves no room .* accepted are 1 to {WINDOW - 1}"):
        answers.generate_until([("x", {"max_gen_toks": 4}), ("x", {})])


def test_each_kind_of_model_answers_what_it_can() -> None:
    bert = build(encoder)
    masked = Answers(bert, BYTES, numpy_params(bert), objectives("masked"))
    assert masked.way == "masked" and masked.loglikelihood([("a b", " c")])[0][0] < 0
    masked.require(["multiple_choice", "loglikelihood"])
    with pytest.raises(InputError, match="read masked, a model has no perplexity"):
        masked.require(["loglikelihood_rolling"])
    with pytest.raises(InputError, match="cannot generate"):
        masked.require(["generate_until"])
    pair = build(t5, num_decoder_layers=2)
    translator = Answers(pair, BYTES, numpy_params(pair), objectives("prefix", form="encoder_decoder"))
    translator.require(["generate_until"])
    long, short = documents()[0][: 3 * WINDOW], documents()[0][2 * WINDOW : 3 * WINDOW]
    made = translator.generate_until([(long, {"max_gen_toks": 5}), (short, {"max_gen_toks": 5})])
    assert made[0] == made[1]  # the encoder reads the end of a long text
    translator.require(["multiple_choice"])
    assert translator.way == "encoder_decoder" and translator.loglikelihood([("a b", " c")])[0][0] < 0
    with pytest.raises(InputError, match="read encoder_decoder, a model has no perplexity"):
        translator.require(["loglikelihood_rolling"])
    with pytest.raises(InputError, match="trained on nothing that tells how likely a text is"):
        Answers(pair, BYTES, {}, objectives("denoising")).require(["multiple_choice"])
    both = build(prefix_decoder)
    assert Answers(both, BYTES, {}, objectives("prefix")).way == "prefix"
    assert Answers(both, BYTES, {}, objectives("causal", "prefix")).way == "causal"
    with pytest.raises(InputError, match="--way=maskd: not for"):
        _ = Answers(both, BYTES, {}, objectives("prefix"), way="maskd").scorer


def test_metrics_have_our_names() -> None:
    results = {
        "results": {
            "arc": {"alias": "arc", "acc,none": 0.5, "acc_stderr,none": np.float64(0.1), "sample_len": 8},
            "gsm": {"alias": " - gsm", "match,strict": 1, "match,loose": 0.25, "match_stderr,loose": "N/A"},
        },
        "groups": {"all": {"alias": "all", "acc,none": 0.75}},
        "n-samples": {"arc": {"original": 9, "effective": 8}, "gsm": {"original": 4, "effective": 4}},
    }
    assert metrics_of(results) == {
        "eval/arc/acc": 0.5, "eval/arc/acc_stderr": 0.1, "eval/gsm/strict/match": 1.0, "eval/gsm/loose/match": 0.25,
        "eval/all/acc": 0.75, "eval/arc/items": 8.0, "eval/gsm/items": 4.0,
    }  # fmt: skip


# ---- in the harness


def write_lines(path: Path, records: Sequence[dict[str, Any]]) -> Path:
    path.write_text("".join(json.dumps(record, ensure_ascii=False) + "\n" for record in records), encoding="utf-8")
    return path


def write_task(folder: Path, name: str, records: Sequence[dict[str, Any]], **keys: Any) -> str:
    """A task of local records in the folder, as a user writes it; YAML takes JSON."""
    data = write_lines(folder / f"{name}.jsonl", records)
    values = {
        "task": name, "dataset_path": "json", "test_split": "test", "metadata": {"version": 1.0},
        "dataset_kwargs": {"data_files": {"test": str(data)}, "cache_dir": str(folder / "cache")}, **keys,
    }  # fmt: skip
    (folder / f"{name}.yaml").write_text(json.dumps(values), encoding="utf-8")
    return name


def metric_list(*names: str) -> list[dict[str, str]]:
    return [{"metric": name} for name in names]


# The answer's space is part of the answer, as in our tasks: then their normalisation by bytes is ours.
CHOICES: dict[str, Any] = {
    "output_type": "multiple_choice", "doc_to_text": "Question: {{question}}\nAnswer:", "target_delimiter": "",
    "doc_to_choice": "{{choices.text | map('regex_replace', '^', ' ') | list}}",
    "doc_to_target": "{{choices.label.index(answerKey)}}", "metric_list": metric_list("acc", "acc_norm", "acc_bytes"),
}  # fmt: skip
PAIRS: dict[str, Any] = {
    "output_type": "multiple_choice", "doc_to_text": "", "target_delimiter": "", "doc_to_choice": "{{[good, bad]}}", "doc_to_target": 0,
    "metric_list": metric_list("acc", "acc_norm", "acc_bytes"),
}  # fmt: skip
LAST_WORD: dict[str, Any] = {
    "output_type": "loglikelihood", "doc_to_text": "{{text.split(' ')[:-1] | join(' ')}}", "doc_to_target": "{{' ' + text.split(' ')[-1]}}",
    "metric_list": metric_list("acc", "perplexity"),
}  # fmt: skip
ROLLING: dict[str, Any] = {
    "output_type": "loglikelihood_rolling", "doc_to_text": "", "doc_to_target": "{{text}}",
    "metric_list": metric_list("word_perplexity", "byte_perplexity", "bits_per_byte"),
}  # fmt: skip
GENERATE: dict[str, Any] = {
    "output_type": "generate_until", "doc_to_text": "{{question}}", "doc_to_target": "{{answer}}",
    "metric_list": metric_list("exact_match"),
}  # fmt: skip

SMALL_CHOICES = [
    {
        "question": f"What is {i} and {i}{' again' * (i % 4)}?", "answerKey": "ABCD"[i % 3],
        "choices": {"text": [f"{2 * i}", f"{i}, or so I say", f"not {i} ü"], "label": ["A", "B", "C"]},
    }
    for i in range(12)
]  # fmt: skip
TOPICS = documents()
SMALL_TEXTS = [{"text": TOPICS[i][: 1 + 41 * i].strip()} for i in range(11)] + [{"text": "Größe é 漢字 " * 9}]


@dataclass(frozen=True)
class Twins:
    """One model's weights in both worlds, and both ways of asking it in the harness."""

    theirs: Any
    tokenizer: Any
    model: Skeleton
    params: Params
    answers: Answers

    def hflm(self, add_bos: bool, batch_size: int = 4) -> Any:
        from lm_eval.models.huggingface import HFLM

        return HFLM(
            pretrained=self.theirs, tokenizer=self.tokenizer, backend="causal", batch_size=batch_size, add_bos_token=add_bos, device="cpu"
        )


def byte_tokenizer() -> Any:
    """Ours as one of theirs: byte + 3, start before a text where it is asked for."""
    from tokenizers import Tokenizer, decoders, models, pre_tokenizers, processors
    from transformers import PreTrainedTokenizerFast
    from transformers.convert_slow_tokenizer import bytes_to_unicode

    special = {"<pad>": 0, "</s>": 1, "<unk>": 2, "<s>": START}
    made = Tokenizer(models.BPE(vocab={**{c: b + 3 for b, c in bytes_to_unicode().items()}, **special}, merges=[], unk_token="<unk>"))
    made.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False)
    made.decoder = decoders.ByteLevel()
    made.post_processor = processors.TemplateProcessing(single="<s> $A", special_tokens=[("<s>", START)])
    return PreTrainedTokenizerFast(
        tokenizer_object=made, bos_token="<s>", eos_token="</s>", unk_token="<unk>", pad_token="<pad>", clean_up_tokenization_spaces=False
    )


LENGTH = 128  # what the twins see at once: no sentence of BLiMP is longer, many other texts are


def make_twins(family: str) -> Twins:
    for name in ("lm_eval", "torch", "transformers", "accelerate"):
        pytest.importorskip(name, reason=f"the comparison needs the extras [harness] and [parity] and accelerate: no {name}")
    import torch
    import transformers
    from test_parity import ONE, arrays, randomise

    from pretrainx.interop.hf import from_hf

    sizes = {"vocab_size": BYTES.size, "d_model": 48, "num_layers": 2, "mlp_dim": 52, "max_length": LENGTH}
    marks = {"bos_token_id": START, "eos_token_id": 1, "pad_token_id": 0, "attn_implementation": "eager"}
    config: Any
    if family == "gpt2":
        module, config = gpt2, gpt2.Config(**sizes, num_heads=3)
        theirs = transformers.GPT2LMHeadModel(transformers.GPT2Config(
            vocab_size=BYTES.size, n_positions=LENGTH, n_embd=48, n_layer=2, n_head=3, n_inner=52, **marks,
        ))  # fmt: skip
    else:
        module, config = llama, llama.Config(**sizes, num_heads=6, num_kv_heads=2, head_dim=8, rope_theta=500.0)
        theirs = transformers.LlamaForCausalLM(transformers.LlamaConfig(
            vocab_size=BYTES.size, hidden_size=48, intermediate_size=52, num_hidden_layers=2, num_attention_heads=6, num_key_value_heads=2,
            head_dim=8, rms_norm_eps=1e-5, max_position_embeddings=LENGTH, rope_parameters={"rope_type": "default", "rope_theta": 500.0},
            **marks,
        ))  # fmt: skip
    theirs.eval()
    randomise(theirs)
    with torch.no_grad():
        theirs.lm_head.weight[[1, 13]] *= torch.tensor([[4.0], [2.5]])  # end of document and newline: some texts stop
    model = skeleton.build(module, config, ONE)
    params = from_hf(family, arrays(theirs.state_dict().items()), model)
    return Twins(theirs, byte_tokenizer(), model, params, Answers(model, BYTES, params, objectives("causal", length=LENGTH)))


@pytest.fixture(scope="module", params=["gpt2", "llama"])
def twins(request: pytest.FixtureRequest) -> Twins:
    import warnings

    with warnings.catch_warnings():
        warnings.simplefilter("default")
        return make_twins(request.param)


def run(lm: Any, folder: Path, *names: str, **options: Any) -> dict[str, Any]:
    """Their results, with what each item got."""
    import lm_eval
    from lm_eval.tasks import TaskManager

    manager = TaskManager(include_path=str(folder), include_defaults=False)
    with harness._quiet():
        return lm_eval.simple_evaluate(model=lm, tasks=list(names), task_manager=manager, bootstrap_iters=1000, **options)


def requests(kind: str, arguments: Sequence[tuple[Any, ...]]) -> list[Any]:
    from lm_eval.api.instance import Instance

    return [Instance(request_type=kind, doc={}, arguments=own, idx=0) for own in arguments]


def same_metrics(mine: dict[str, Any], theirs: dict[str, Any]) -> None:
    ours, wanted = metrics_of(mine), metrics_of(theirs)
    assert ours.keys() == wanted.keys()
    for name, value in wanted.items():
        # perplexities are exponentials of sums over hundreds of tokens
        assert ours[name] == pytest.approx(value, rel=1e-4), name


@pytest.mark.slow
@theirs_warns
def test_tokenizers_are_one(twins: Twins) -> None:
    for text in [*(t[:300] for t in TOPICS[:20]), "Größe é 漢字\n\n \t ", "\x00\x7f"]:
        assert twins.tokenizer.encode(text, add_special_tokens=False) == BYTES.encode(text)
        assert twins.tokenizer.encode(text, add_special_tokens=True) == [START, *BYTES.encode(text)]
        assert twins.tokenizer.decode(BYTES.encode(text)) == text


@pytest.mark.slow
@theirs_warns
def test_loglikelihoods_are_their_backends(twins: Twins) -> None:
    items = [(t[: 9 * i], t[9 * i : 9 * i + 1 + 2 * i]) for i, t in enumerate(TOPICS[:14])]
    items += [("The end ", "is near"), ("The end", " is near"), ("", "Who?"), (" ", "x"), ("q\n\n", "été"), ("q\n\n", "été")]
    items += [("same context", ending) for ending in ("a", "b", "ab", "b")]
    items += [(TOPICS[0][:400], " and"), (TOPICS[0][: LENGTH - 4], " end"), (TOPICS[0][: LENGTH - 3], " end")]
    mine = harness.make_lm(twins.answers).loglikelihood(requests("loglikelihood", items))
    theirs = twins.hflm(add_bos=True).loglikelihood(requests("loglikelihood", items), disable_tqdm=True)
    gaps = [abs(a[0] - b[0]) for a, b in zip(mine, theirs, strict=True)]
    print(f"largest difference of {len(items)} log-likelihoods: {max(gaps):.2e} nats")
    assert max(gaps) < 1e-4
    assert [a[1] for a in mine] == [b[1] for b in theirs]
    assert len({round(a[0], 3) for a in mine}) > 15


@pytest.mark.slow
@theirs_warns
def test_first_guesses_are_their_backends(twins: Twins) -> None:
    """What the model itself says is greedy, with one letter changed it is not."""
    contexts = [t[:30] for t in TOPICS[:6]]
    said = twins.answers.generate_until([(context, {"max_gen_toks": 3}) for context in contexts])
    right = [(c, s) for c, s in zip(contexts, said, strict=True) if s and s.isascii() and not c[-1].isspace()]
    items = [*right, *((c, s[:-1] + chr((ord(s[-1]) + 1) % 128)) for c, s in right)]
    mine = harness.make_lm(twins.answers).loglikelihood(requests("loglikelihood", items))
    theirs = twins.hflm(add_bos=True).loglikelihood(requests("loglikelihood", items), disable_tqdm=True)
    assert [a[1] for a in mine] == [b[1] for b in theirs]


@pytest.mark.slow
@theirs_warns
def test_choices_are_scored_as_by_their_backend(twins: Twins, tmp_path: Path) -> None:
    write_task(tmp_path, "choices", SMALL_CHOICES, **CHOICES)
    lm = harness.make_lm(twins.answers)
    for shots in (0, 1):
        options = {"num_fewshot": shots} if shots else {}
        mine, theirs = (run(x, tmp_path, "choices", **options) for x in (lm, twins.hflm(add_bos=True)))
        same_metrics(mine, theirs)
        for a, b in zip(mine["samples"]["choices"], theirs["samples"]["choices"], strict=True):
            assert a["arguments"] == b["arguments"]
            np.testing.assert_allclose([x[0] for x in a["filtered_resps"]], [x[0] for x in b["filtered_resps"]], atol=1e-4)
    assert set(metrics_of(mine)) >= {"eval/choices/acc", "eval/choices/acc_norm", "eval/choices/acc_stderr", "eval/choices/items"}


@pytest.mark.slow
@theirs_warns
def test_whole_documents_are_scored_as_by_their_backend(twins: Twins, tmp_path: Path) -> None:
    """Their windows begin with the start id without `add_bos_token`; with it, it would be there twice."""
    assert max(len(t["text"].encode()) for t in SMALL_TEXTS) > 3 * LENGTH
    assert twins.hflm(add_bos=True).tok_encode("x") == [START, *ids("x")]  # which its windows would begin with, after another one
    write_task(tmp_path, "whole", SMALL_TEXTS, **ROLLING)
    mine, theirs = (run(x, tmp_path, "whole") for x in (harness.make_lm(twins.answers), twins.hflm(add_bos=False)))
    same_metrics(mine, theirs)
    for a, b in zip(mine["samples"]["whole"], theirs["samples"]["whole"], strict=True):
        assert abs(a["filtered_resps"][0] - b["filtered_resps"][0]) < 1e-3  # up to 411 tokens
    assert metrics_of(mine)["eval/whole/bits_per_byte"] > 1


@pytest.mark.slow
@theirs_warns
def test_generations_are_their_backends(twins: Twins, tmp_path: Path) -> None:
    """Until a newline, until one of several texts, to the end; prompts of many lengths, some too long."""
    rng = np.random.default_rng(0)
    questions = [TOPICS[i % 20][: int(n)] for i, n in enumerate(rng.integers(1, 200, 24))]
    records = [{"question": q.strip() or "x", "answer": ""} for q in questions]
    # Theirs looks for stop texts among the names of special tokens too: "a" would be found in "<pad>", which this model says.
    kinds: dict[str, dict[str, Any]] = {
        "line": {"until": ["\n"], "max_gen_toks": 20, "do_sample": False},
        "several": {"until": ["v", "7", "\n\n"], "max_gen_toks": 24, "do_sample": False, "temperature": 0.0},
        "free": {"until": [], "max_gen_toks": 24, "do_sample": False},
    }
    for name, kwargs in kinds.items():
        write_task(tmp_path, name, records, generation_kwargs=kwargs, **GENERATE)
    # One by one: where their batch is padded on the left, a prompt may be cut that is not too long by itself.
    mine, theirs = (run(x, tmp_path, *kinds) for x in (harness.make_lm(twins.answers), twins.hflm(add_bos=True, batch_size=1)))
    same_metrics(mine, theirs)
    texts: dict[str, list[str]] = {}
    for name in kinds:
        texts[name] = [sample["resps"][0][0] for sample in mine["samples"][name]]
        assert texts[name] == [sample["resps"][0][0] for sample in theirs["samples"][name]]
    assert len(set(texts["free"])) > 8
    assert any(len(line) < len(free) for line, free in zip(texts["line"], texts["free"], strict=True))
    generator, _ = twins.answers.generator(parse_options(kinds["free"]))
    ends = [generation.stopped for generation in generator(twins.params, [record["question"] for record in records])]
    print(f"{sum(ends)} of {len(ends)} texts ended by themselves")
    assert 0 < sum(ends) < len(ends)


@pytest.mark.slow
@theirs_warns
@pytest.mark.parametrize("kind", ["arc_easy", "blimp", "lambada"])
def test_real_tasks_agree_with_their_backend_and_with_ours(twins: Twins, tmp_path: Path, kind: str) -> None:
    """Three ways to the same numbers: their backend, our model in their harness, and our own task, item by item.

    Prompts are equal, so likelihoods are. Our accuracy of an item is theirs wherever one answer is the best alone; of k equally
    likely ones ours counts 1/k and theirs the first, 0 or 1. There are such items in none of these files (answers that are
    equal texts would be), which the test asserts instead of allowing for them.
    """
    name, yaml = {
        "arc_easy": ("arc_easy.validation.jsonl.gz", CHOICES),
        "blimp": ("blimp.dev.jsonl.gz", PAIRS),
        "lambada": ("lambada_dev_plain.txt.gz", LAST_WORD),
    }[kind]
    path = DATA / name
    if not path.exists():
        pytest.skip(f"no {path}: set PRETRAINX_TEST_DATA to a folder that has tasks/{name}")
    asked = read_task(kind, kind, str(path), {}, 80)
    records = real_records(path, 80)
    write_task(tmp_path, kind, records, **yaml)
    mine, theirs = (run(x, tmp_path, kind) for x in (harness.make_lm(twins.answers), twins.hflm(add_bos=True)))
    same_metrics(mine, theirs)
    agree_with_ours(asked, Scorer(twins.model, BYTES, 4), twins.params, mine)
    print(f"{kind}: {metrics_of(mine)}")


def real_records(path: Path, limit: int) -> list[dict[str, Any]]:
    """Evenly over the file, as read_task takes them, by another reading of it."""
    lines = [line for line in gzip.decompress(path.read_bytes()).decode().split("\n") if line.strip()]
    chosen = [lines[i * len(lines) // limit] for i in range(limit)]
    return [{"text": line.rstrip()} if ".txt" in path.name else json.loads(line) for line in chosen]


def agree_with_ours(asked: Asked, scorer: Scorer, params: Params, results: dict[str, Any]) -> None:
    """Each item of our task against the same in the harness's results."""
    samples = results["samples"][asked.name]
    assert len(samples) == len(asked.questions)
    found = iter(scorer(params, [choice for question in asked.questions for choice in question.choices]))
    for question, sample in zip(asked.questions, samples, strict=True):
        own = [next(found) for _ in question.choices]
        assert [tuple(argument) for argument in sample["arguments"]] == list(question.choices)
        np.testing.assert_allclose([x.nats for x in own], [x[0] for x in sample["filtered_resps"]], rtol=1e-5)
        if asked.task.measure == "last_word":
            assert own[0].greedy == bool(sample["acc"])
            continue
        scores = normalised(own, own)
        for mine, theirs in (("sum", "acc"), ("per_byte", "acc_bytes")):
            assert np.sum(scores[mine] == scores[mine].max()) == 1
            assert credit(scores[mine], question.right) == sample[theirs]
        if all(answer.isascii() for _, answer in question.choices):
            assert sample["acc_norm"] == sample["acc_bytes"]  # by characters, and these are bytes
    if asked.task.measure == "last_word":
        wanted = asked.score(lambda items: scorer(params, items))
        numbers = metrics_of(results)
        assert wanted[f"eval/{asked.name}/accuracy"] == numbers[f"eval/{asked.name}/acc"]
        assert wanted[f"eval/{asked.name}/perplexity"] == pytest.approx(numbers[f"eval/{asked.name}/perplexity"], rel=1e-5)


@pytest.mark.slow
@needs_harness
@theirs_warns
def test_our_tasks_and_theirs_agree_item_by_item(answers: Answers, model: Skeleton, params: Params, tmp_path: Path) -> None:
    """On small data of our own, without PyTorch; item by item, with one tie that counts otherwise."""
    pairs = [{"good": t[:20], "bad": t[1:24], "UID": "p"} for t in TOPICS[:10]]
    texts = [{"text": t[:40].split("\n")[0].strip()} for t in TOPICS[:10] if " " in t[:40].split("\n")[0].strip()]
    for name, kind, records, yaml in (
        ("c", "arc_easy", SMALL_CHOICES, CHOICES), ("p", "blimp", pairs, PAIRS), ("w", "lambada", texts, LAST_WORD)
    ):  # fmt: skip
        write_task(tmp_path, name, records, **yaml)
        asked = read_task(name, kind, str(tmp_path / f"{name}.jsonl"), {})
        agree_with_ours(asked, Scorer(model, BYTES, 4), params, run(harness.make_lm(answers), tmp_path, name))
    tied = [{"question": "Which?", "choices": {"text": ["the same", "the same"], "label": ["A", "B"]}, "answerKey": key} for key in "AB"]
    write_task(tmp_path, "tied", tied, **CHOICES)
    counted = run(harness.make_lm(answers), tmp_path, "tied")["samples"]["tied"]
    assert [sample["acc"] for sample in counted] == [1.0, 0.0]  # theirs: the first of equals
    asked = read_task("tied", "arc_easy", str(tmp_path / "tied.jsonl"), {})
    found = Scorer(model, BYTES, 4)(params, list(asked.questions[0].choices))
    assert [credit([x.nats for x in found], right) for right in (0, 1)] == [0.5, 0.5]


@pytest.mark.slow
@needs_harness
@theirs_warns
def test_answers_are_kept_in_their_cache(answers: Answers, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    write_task(tmp_path, "choices", SMALL_CHOICES, **CHOICES)
    write_task(tmp_path, "whole", SMALL_TEXTS[:2], **ROLLING)
    kwargs = {"until": ["\n"], "max_gen_toks": 8}
    write_task(tmp_path, "made", [{"question": "The", "answer": " a"}], generation_kwargs=kwargs, **GENERATE)
    names = ("choices", "whole", "made")
    lm = harness.make_lm(answers)
    first = run(lm, tmp_path, *names, use_cache=str(tmp_path / "answers"))
    for kind in ("loglikelihood", "loglikelihood_rolling", "generate_until"):
        monkeypatch.setattr(answers, kind, lambda asked: pytest.fail(f"{len(asked)} requests were not kept"))
    again = run(lm, tmp_path, *names, use_cache=str(tmp_path / "answers"))
    assert metrics_of(first) == metrics_of(again) and "eval/made/exact_match" in metrics_of(first)
    assert first["config"]["model"] == "PretrainxLM" and first["config"]["model_num_parameters"] == answers.skeleton.num_params


@needs_harness
@theirs_warns
def test_the_model_as_the_harness_sees_it(answers: Answers) -> None:
    from lm_eval.api.model import LM

    lm = harness.make_lm(answers)
    assert isinstance(lm, LM) and (lm.rank, lm.world_size, lm.max_length, lm.eot_token_id) == (0, 1, WINDOW, 1)
    assert lm.tokenizer_name == "pretrainx-bytes-264" and lm.chat_template() == ""
    for asks in (lambda: lm.chat_template(True), lambda: lm.apply_chat_template([{"role": "user", "content": "Hi"}])):
        with pytest.raises(InputError, match="a pretrained model has no chat template"):
            asks()


# ---- the command


def tool() -> ModuleType:
    spec = importlib.util.spec_from_file_location("tool_harness", ROOT / "tools" / "harness.py")
    assert spec and spec.loader
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


@pytest.fixture(scope="module")
def trained_run(cache_dir: Path, tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Path]:
    """(config file, run folder) of a decoder after two steps, which sees 32 bytes."""
    folder = tmp_path_factory.mktemp("harness")
    values = sections(cache_dir, train={"steps": 2}, checkpoint={"every": 2}, mesh={"data": 8})
    config = write_config(folder / "tiny.py", values)
    loop.train(loop.prepare(experiments.load(configs.load(str(config))), folder / "run"))
    return config, folder / "run"


@pytest.mark.slow
@needs_harness
@theirs_warns
def test_command_runs_local_tasks(trained_run: tuple[Path, Path], tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    config, folder = trained_run
    write_task(tmp_path, "my_choices", SMALL_CHOICES, **CHOICES)
    write_task(tmp_path, "my_texts", SMALL_TEXTS, **ROLLING)
    write_task(tmp_path, "my_lines", [{"question": "The", "answer": " a"}] * 2, **GENERATE)
    group = {"group": "mine", "task": ["my_choices"], "aggregate_metric_list": [{"metric": "acc"}], "metadata": {"version": 1}}
    (tmp_path / "mine.yaml").write_text(json.dumps(group))
    out = tmp_path / "out" / "results.json"
    words = [f"--workdir={folder}", f"--include_path={tmp_path}", "--limit=5", "--gen_kwargs", "max_gen_toks=8", 'until=["x"]']
    assert tool().main([*words, "--tasks", "mine", "my_t*", "my_lines", f"--out={out}", "--json"]) == 0
    shown = capsys.readouterr()
    said = json.loads(shown.out)  # one line: what the harness prints is on stderr
    model = trained.load(folder)
    answers = Answers(model.skeleton, model.vocabulary, model.params, objectives("causal", length=32), window=32)
    # `run` has its own errors by bootstrap; means and sums are equal
    wanted = metrics_of(run(harness.make_lm(answers), tmp_path, "my_choices", "my_texts", limit=5))
    assert {name: said[name] for name in wanted} == {name: pytest.approx(value, rel=1e-5) for name, value in wanted.items()}
    assert said["eval/mine/acc"] == said["eval/my_choices/acc"] and said["step"] == 2 and said["eval/my_choices/items"] == 5
    kept = json.loads(out.read_text())
    assert kept["metrics"]["eval/my_lines/exact_match"] == said["eval/my_lines/exact_match"]
    assert kept["harness"]["samples"]["my_lines"][0]["arguments"][0][1]["max_gen_toks"] == 8
    assert len(kept["harness"]["samples"]["my_choices"]) == 5
    # On the run's mesh, and the table.
    assert tool().main([*words, f"--config={config}", "--tasks", "mine"]) == 0
    table = capsys.readouterr().out.replace(" ", "")
    acc = f"|acc|↑|{said['eval/my_choices/acc']:.1f}|"
    assert "|Tasks|Version|" in table and "|Groups|Version|" in table
    assert any(line.startswith("|-my_choices|") and acc in line for line in table.splitlines())
    assert any(line.startswith("|mine|") and acc in line for line in table.splitlines())


@pytest.mark.slow
@needs_harness
@theirs_warns
@pytest.mark.parametrize(
    ("words", "said"),
    [
        (["--tasks", "arc_easyy"], "--tasks: unknown task 'arc_easyy'; did you mean 'arc_easy'"),
        (["--tasks", "gone"], "--tasks gone: its data or its settings cannot be loaded"),
        (["--tasks", "lines"], "max_gen_toks 256: leaves no room for a prompt in the 32 tokens"),
        (["--tasks", "lines", "--gen_kwargs", "num_beams=3"], "task lines: generation_kwargs.num_beams 3"),
        (["--tasks", "choices", "--way=prefix"], "--way=prefix: not for model.name 'decoder'"),
        (["--tasks", "choices", "--step=7"], "no checkpoint of step 7"),
    ],
)
def test_command_refuses_in_one_sentence(trained_run: tuple[Path, Path], tmp_path: Path, words: Sequence[str], said: str) -> None:
    write_task(tmp_path, "choices", SMALL_CHOICES, **CHOICES)
    write_task(tmp_path, "lines", [{"question": "The", "answer": " a"}], **GENERATE)
    write_task(tmp_path, "gone", [{"text": "x"}], **ROLLING)
    (tmp_path / "gone.jsonl").unlink()
    with pytest.raises(InputError, match=said) as caught:
        tool().main([f"--workdir={trained_run[1]}", f"--include_path={tmp_path}", *words])
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (["--limit=-1"], "--limit -1"),
        (["--limit=2.5"], "--limit 2.5: accepted are whole numbers, and shares below 1"),
        (["--num_fewshot=-1"], "--num_fewshot -1"),
        (["--include_path=nowhere"], "--include_path nowhere: no such folder"),
        (["--gen_kwargs", "max_gen_toks"], "expected KEY=VALUE"),
        (["--config.train.steps=1"], "needs a --config"),
        (["--task=x"], "unknown flag '--task'; did you mean '--tasks'"),
    ],
)
def test_flags_are_checked_before_anything_is_loaded(words: Sequence[str], said: str) -> None:
    with pytest.raises(InputError, match=said):
        tool().main(["--workdir=nowhere", "--tasks", "arc_easy", *words])


def test_values_of_options_are_json_where_they_can_be() -> None:
    words = ["max_gen_toks=64", "temperature=0.8", "do_sample=true", 'until=["\\n"]', "top_p=1e-1", "until=Q: a=b"]
    assert tool().split_gen_kwargs(words[:5]) == {
        "max_gen_toks": 64, "temperature": 0.8, "do_sample": True, "until": ["\n"], "top_p": 0.1,
    }  # fmt: skip
    assert tool().split_gen_kwargs(words[5:]) == {"until": "Q: a=b"}


def test_help_shows_an_example(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit):
        tool().main(["--help"])
    assert "example: python tools/harness.py" in capsys.readouterr().out
