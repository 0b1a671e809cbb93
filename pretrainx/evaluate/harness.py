"""EleutherAI's lm-evaluation-harness (Gao 2024) on our models: what it asks, answered by the scorer and the generator.

`make_lm(Answers(...))` is a model as the harness wants one; `evaluate` runs its tasks on it. The harness is an extra of its own:
importing this file does not import it.

We do as its Hugging Face backend does, so that numbers can be laid side by side (tests/test_harness.py does, on equal weights):
long texts lose their beginning, whole documents are read in its windows, prompts leave room for what is made. What to know:

Start. Our models have always seen the start id before a document, so it stands before every text: their `add_bos_token=True`.
  Whole documents begin with it too, and it is not itself scored: there theirs is `add_bos_token=False`, whose windows begin
  with it all the same. (With True it is read twice, and the second one is scored.)
Seam. likelihood.py says where a continuation begins. Where a piece crosses the seam, ours is longer by that piece: a line says
  how often.
Refused there, not here: a continuation that is longer than the window. It is scored in turns.
Ties. The harness takes the first of equally likely answers; our own tasks (choices/) give each of k the share 1/k.
Sampling. top-k and top-p are off unless a task gives them (theirs has a top-k of 50 by default).
"""

import contextlib
import math
import os
import sys
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from typing import Any

import numpy as np

from pretrainx.core.errors import InputError, nearest
from pretrainx.core.logs import log
from pretrainx.core.vocabulary import Vocabulary
from pretrainx.evaluate.generate import Generator, prompter
from pretrainx.evaluate.likelihood import SIGHT_OF, Item, Likelihood, Row, Scorer, Spelling, natural_way, require_way
from pretrainx.evaluate.sampling import Sampling
from pretrainx.models.skeleton import Params, Skeleton
from pretrainx.objectives.interface import Objective, Prompt

EXTRA = "lm-evaluation-harness is not installed: pip install 'pretrainx[harness]'"
DEFAULT_NUM_TOKENS = 256  # what a generation has where its task does not say: the Hugging Face backend's
# Names that tasks have for the same number, the first that is there wins.
NUM_TOKENS = ("max_gen_toks", "max_new_tokens", "max_tokens", "max_completion_tokens")
OPTIONS = (*NUM_TOKENS, "until", "do_sample", "temperature", "top_k", "top_p", "num_beams")


# ---- what is asked, without the harness


@dataclass(frozen=True)
class Options:
    """How a text is to go on: what the harness calls generation_kwargs."""

    num_tokens: int
    stop: tuple[str, ...]
    sampling: Sampling


def parse_options(given: Mapping[str, Any], where: str = "generation_kwargs") -> Options:
    """The options of a request, with the harness's defaults: greedy, unless it asks for sampling or for a temperature.

    Raises:
      InputError: an option that is not offered here, or a value out of range; `where` names it.
    """
    for name in given:
        if name not in OPTIONS:
            raise InputError(f"{where}.{name}: not offered here; {nearest(name, OPTIONS)}")
    asked = [name for name in NUM_TOKENS if given.get(name) is not None]
    num_tokens = _number(given, asked[0], where, int) if asked else DEFAULT_NUM_TOKENS
    if num_tokens < 1:
        raise InputError(f"{where}.{asked[0]} {num_tokens}: accepted are 1 and more")
    if given.get("num_beams") not in (None, 1):
        raise InputError(f"{where}.num_beams {given['num_beams']}: accepted is 1; no beams are searched here")
    until = given.get("until") or []
    stop = [until] if isinstance(until, str) else until
    if not isinstance(stop, list) or not all(isinstance(text, str) for text in stop):
        raise InputError(f"{where}.until: expected a text or a list of texts, found {until!r}")
    temperature = _number(given, "temperature", where, float) if given.get("temperature") is not None else 0.0
    draws = given.get("do_sample")
    if draws and not temperature > 0:
        raise InputError(f"{where}: do_sample needs a temperature above 0; give both, or neither for greedy")
    # An empty text stops nothing, as in the harness.
    texts = tuple(dict.fromkeys(text for text in stop if text))
    if not temperature > 0 or draws is False:
        return Options(num_tokens, texts, Sampling(0.0))
    top_k = _number(given, "top_k", where, int) if given.get("top_k") is not None else 0
    top_p = _number(given, "top_p", where, float) if given.get("top_p") is not None else 1.0
    try:
        return Options(num_tokens, texts, Sampling(temperature, top_k, top_p))
    except InputError as error:  # which speaks of a tool's flags
        raise InputError(f"{where}: {str(error).removeprefix('--')}") from None


def _number(given: Mapping[str, Any], name: str, where: str, kind: Callable[[Any], Any]) -> Any:
    try:
        value = kind(given[name])
    except (TypeError, ValueError):
        raise InputError(f"{where}.{name}: expected a number, found {given[name]!r}") from None
    if isinstance(given[name], bool) or value != float(given[name]) or not math.isfinite(value):
        raise InputError(f"{where}.{name}: expected {'a whole' if kind is int else 'a finite'} number, found {given[name]!r}")
    return value


def rolling_rows(tokens: np.ndarray, start: int, window: int, prefix: bool = False) -> list[Row]:
    """The rows that score a whole text, each token once: windows from its beginning, the first after the start id.

    The last is as long as the others, and what was scored before it is context in it (the harness's
    get_rolling_token_windows with context_len=1). No text, no rows.
    """
    read = np.concatenate([[np.int32(start)], tokens]).astype(np.int32)
    rows = []
    for first in range(0, len(tokens), window):
        stop = min(first + window, len(tokens))
        begin = max(0, stop - window)
        rows.append(Row(read[begin:stop], tokens[begin:stop], first - begin, stop - begin, int(prefix and begin == 0)))
    return rows


class RollingScorer(Scorer):
    """Scores whole texts in the harness's windows: items have an empty context."""

    def rows(self, spelling: Spelling) -> list[Row]:
        return rolling_rows(spelling.tokens, self.vocabulary.special.start, self.window, self.way == "prefix")


class FittedPrompts:
    """An objective's way to prompt, for texts of any length: they lose their beginning where there is no room for them.

    `room` is what the decoder may read, `window` the encoder; `cut` counts the texts that were too long.
    """

    def __init__(self, prompt: Callable[[list[int]], Prompt], room: int, window: int):
        self.prompt, self.room, self.window, self.cut = prompt, room, window, 0

    def __call__(self, text: list[int]) -> Prompt:
        made = self.prompt(text)
        over = max(len(made.tokens) - self.room, len(made.source or []) - self.window)
        if over <= 0:
            return made
        self.cut += 1
        if made.source is None and not made.seen:  # plain text: the start id is its beginning, and goes first
            return replace(made, tokens=made.tokens[-self.room :])
        return self.prompt(text[over:])  # what frames the text stays


class Answers:
    """What a trained model says to the harness's three kinds of requests, in the requests' order.

    objectives  gives what it was trained on, which says how it is prompted (generate.py: prompter) and, where it can be read
                in several ways, how it is read; asked for that only, since it may need the run's data folder
    way         how to read it instead, of likelihood.py's ways
    window      how many tokens it sees at once (0: its max_length), those that it makes included

    A request may stand there several times; of its likelihood's rows each is scored once.
    """

    def __init__(
        self, skeleton: Skeleton, vocabulary: Vocabulary, params: Params, objectives: Callable[[], Sequence[Objective]],
        way: str | None = None, window: int = 0, batch_size: int = 16, seed: int = 0, show: bool = False,
    ):  # fmt: skip
        self.skeleton, self.vocabulary, self.params, self.objectives = skeleton, vocabulary, params, objectives
        self.given_way, self.window, self.batch_size = way, window or skeleton.config.max_length, batch_size
        self.seed, self.show = seed, show
        self.generators: dict[Options, tuple[Generator, FittedPrompts]] = {}

    @cached_property
    def way(self) -> str:
        model = self.skeleton.config
        chosen = self.given_way or natural_way(model, self.objectives)
        require_way(chosen, model, self.vocabulary)
        return chosen

    @cached_property
    def scorer(self) -> Scorer:
        return Scorer(self.skeleton, self.vocabulary, self.batch_size, self.way, self.window, self.show)

    @cached_property
    def rolling_scorer(self) -> RollingScorer:
        if SIGHT_OF[self.way] not in ("causal", "prefix"):
            raise InputError(f"loglikelihood_rolling: read {self.way}, a model has no perplexity of whole texts; score it on choices")
        return RollingScorer(self.skeleton, self.vocabulary, self.batch_size, self.way, self.window, self.show)

    @cached_property
    def prompt(self) -> Callable[[list[int]], Prompt]:
        return prompter(self.skeleton.config, self.objectives())

    def require(self, kinds: Iterable[str]) -> None:
        """Raises InputError where the model cannot answer requests of one of these kinds (a task's output_type)."""
        answerers = {"loglikelihood": "scorer", "multiple_choice": "scorer", "loglikelihood_rolling": "rolling_scorer"}
        for kind in sorted(set(kinds)):
            getattr(self, answerers.get(kind, "prompt"))

    def loglikelihood(self, pairs: Sequence[Item]) -> list[tuple[float, bool]]:
        """(log-likelihood in nats, whether it is the first guess throughout) of each (context, continuation).

        Raises:
          InputError: a continuation has no token to be scored.
        """
        for context, continuation in pairs:
            if not continuation:
                raise InputError(f"an empty text after {_shown(context)} has no likelihood: look at the task's doc_to_choice")
        found = self.scorer(self.params, pairs, "loglikelihood")
        for (context, continuation), likelihood in zip(pairs, found, strict=True):
            if not likelihood.num_tokens:
                raise InputError(f"{continuation!r} after {_shown(context)} has no token in this vocabulary: look at the task's texts")
        self._report(found)
        return [(float(x.nats), x.greedy) for x in found]

    def loglikelihood_rolling(self, texts: Sequence[str]) -> list[float]:
        """Log-likelihood of each whole text, in nats; of an empty one 0."""
        found = self.rolling_scorer(self.params, [("", text) for text in texts], "loglikelihood_rolling")
        return [float(x.nats) for x in found]

    def generate_until(self, asked: Sequence[tuple[str, Mapping[str, Any]]]) -> list[str]:
        """How each (prompt, generation_kwargs) goes on, without what stopped it. Equal kwargs are worked on together.

        Raises:
          InputError: kwargs that are not offered, or that leave no room for a prompt.
        """
        groups: dict[Options, list[int]] = {}
        for number, (_, kwargs) in enumerate(asked):
            groups.setdefault(parse_options(kwargs), []).append(number)
        for options in groups:
            self.generator(options)  # their errors, before the first of them works
        made: dict[int, str] = {}
        for options, numbers in groups.items():
            generator, prompts = self.generator(options)
            before = prompts.cut
            found = generator(self.params, [asked[n][0] for n in numbers], self.seed)
            made |= {n: generation.text for n, generation in zip(numbers, found, strict=True)}
            if cut := prompts.cut - before:
                log(f"generate_until: {cut:,} of {len(numbers):,} prompts were longer than {prompts.room} tokens, and lost their beginning")
        return [made[n] for n in range(len(asked))]

    def generator(self, options: Options) -> tuple[Generator, FittedPrompts]:
        """What goes on so, and how it prompts; kept, since it holds what is compiled.

        Raises:
          InputError: no room for a prompt.
        """
        if options not in self.generators:
            room, least = self.window - options.num_tokens, len(self.prompt([]).tokens)
            if room < least:
                raise InputError(
                    f"max_gen_toks {options.num_tokens}: leaves no room for a prompt in the {self.window} tokens that the model sees; "
                    f"accepted are 1 to {self.window - least}: change it with --gen_kwargs max_gen_toks=N"
                )
            prompts = FittedPrompts(self.prompt, room, self.window)
            self.generators[options] = (
                Generator(
                    self.skeleton, self.vocabulary, prompts, options.sampling, options.num_tokens, options.stop, self.batch_size, self.show
                ),
                prompts,
            )
        return self.generators[options]

    def _report(self, found: Sequence[Likelihood]) -> None:
        for what, count in (
            (f"longer than the window of {self.window} tokens, and lost their beginning", sum(x.cut for x in found)),
            ("spelled across the seam of context and continuation, and count from that piece on", sum(x.crossed for x in found)),
        ):
            if count:
                log(f"loglikelihood: {count:,} of {len(found):,} texts were {what}")


def _shown(text: str) -> str:
    return repr(text if len(text) < 60 else f"... {text[-56:]}")


# ---- the harness


def make_lm(answers: Answers) -> Any:
    """The model as the harness wants it, an `lm_eval.api.model.LM`: for `lm_eval.simple_evaluate(model=...)`.

    Raises:
      InputError: lm-evaluation-harness is not installed.
    """
    require_installed()
    from lm_eval.api.model import LM

    class PretrainxLM(LM):
        """Requests' arguments go to `Answers`; what comes back also goes to the harness's cache of answers."""

        max_length = answers.window
        eot_token_id = answers.vocabulary.special.eos
        max_gen_toks = DEFAULT_NUM_TOKENS
        batch_size = answers.batch_size

        def loglikelihood(self, requests: list[Any], disable_tqdm: bool = False) -> list[tuple[float, bool]]:
            return self._kept("loglikelihood", requests, answers.loglikelihood([r.args[:2] for r in requests]))

        def loglikelihood_rolling(self, requests: list[Any], disable_tqdm: bool = False) -> list[float]:
            return self._kept("loglikelihood_rolling", requests, answers.loglikelihood_rolling([r.args[0] for r in requests]))

        def generate_until(self, requests: list[Any], disable_tqdm: bool = False) -> list[str]:
            return self._kept("generate_until", requests, answers.generate_until([r.args[:2] for r in requests]))

        def _kept(self, kind: str, requests: list[Any], found: list[Any]) -> list[Any]:
            for request, answer in zip(requests, found, strict=True):
                self.cache_hook.add_partial(kind, request.args, answer)
            return found

        @property
        def tokenizer_name(self) -> str:
            """Equal for equal vocabularies: it is part of the name under which the harness keeps requests."""
            vocabulary = answers.vocabulary
            return f"pretrainx-{vocabulary.kind}-{vocabulary.size}" + (f"-{vocabulary.sha256[:12]}" if vocabulary.sha256 else "")

        def chat_template(self, chat_template: bool | str = False) -> str:
            if chat_template:
                raise InputError(NO_CHAT)
            return ""

        def apply_chat_template(self, chat_history: list[dict[str, str]], add_generation_prompt: bool = True) -> str:
            raise InputError(NO_CHAT)

        def get_model_info(self) -> dict[str, Any]:
            """What the harness writes beside its results."""
            config = answers.skeleton.config
            return {"model_name": config.name, "model_num_parameters": answers.skeleton.num_params, "model_dtype": str(config.dtype)}

    return PretrainxLM()


NO_CHAT = "apply_chat_template: a pretrained model has no chat template; leave it out"


def require_installed() -> None:
    """Raises InputError where there is no lm-evaluation-harness."""
    try:
        import lm_eval  # noqa: F401
    except ModuleNotFoundError as error:
        if error.name != "lm_eval":
            raise  # one that is there and broken says more by itself
        raise InputError(EXTRA) from None


def load_tasks(names: Sequence[str], include_path: str | None = None) -> list[Any]:
    """The harness's tasks and groups of these names (or globs, tags, YAML files), their data loaded.

    Tasks of `include_path`, a folder of YAML files, come before the harness's own of that name.

    Raises:
      InputError: an unknown name, or data that cannot be had.
    """
    require_installed()
    from lm_eval.tasks import TaskManager

    manager = TaskManager(include_path=include_path)
    found: dict[str, Any] = {}
    for name in names:
        matching = manager.match_tasks([name]) or ([name] if name.endswith((".yaml", ".yml")) and os.path.isfile(name) else [])
        if not matching:
            raise InputError(f"--tasks: unknown task {name!r}; {nearest(name, manager.all_tasks)}")
        for match in matching:
            try:
                loaded = manager.load([match])
            except (OSError, ValueError, KeyError, ImportError) as error:
                reason = " ".join(str(error).split()) or type(error).__name__
                raise InputError(f"--tasks {match}: its data or its settings cannot be loaded: {reason[:300]}") from None
            inside = {child for children in loaded["group_map"].values() for child in children}
            found |= {key: item for key, item in {**loaded["groups"], **loaded["tasks"]}.items() if key not in inside}
    return list(found.values())


def evaluate(answers: Answers, tasks: Sequence[Any], **options: Any) -> dict[str, Any]:
    """The harness's results for tasks from `load_tasks`; `options` are of its simple_evaluate.

    It prints nothing on stdout.

    Raises:
      InputError: the model cannot answer what a task asks; a task runs code that the model writes, and nobody confirmed that.
    """
    import lm_eval

    lm = make_lm(answers)
    leaves = [leaf for task in tasks for leaf in (task.get_all_tasks() if hasattr(task, "get_all_tasks") else [task])]
    for leaf in leaves:
        if getattr(leaf, "UNSAFE_CODE", False) and not options.get("confirm_run_unsafe_code"):
            raise InputError(f"--tasks {leaf.task_name}: it runs code that the model writes; allow that with --confirm_run_unsafe_code")
    answers.require(leaf.OUTPUT_TYPE for leaf in leaves)
    for leaf in leaves:
        if leaf.OUTPUT_TYPE == "generate_until":
            kwargs = {**(leaf.config.generation_kwargs or {}), **(options.get("gen_kwargs") or {})}
            answers.generator(parse_options(kwargs, f"task {leaf.task_name}: generation_kwargs"))
    with _quiet():
        results: dict[str, Any] = lm_eval.simple_evaluate(model=lm, tasks=list(tasks), batch_size=answers.batch_size, **options)
    return results


@contextlib.contextmanager
def _quiet() -> Iterator[None]:
    """What the harness prints goes to stderr, and its bootstrap stays in this process: JAX's threads do not survive a fork."""
    before = os.environ.get("DISABLE_MULTIPROC")
    os.environ["DISABLE_MULTIPROC"] = "1"
    try:
        with contextlib.redirect_stdout(sys.stderr):
            yield
    finally:
        if before is None:
            del os.environ["DISABLE_MULTIPROC"]
        else:
            os.environ["DISABLE_MULTIPROC"] = before


def metrics_of(results: Mapping[str, Any]) -> dict[str, float]:
    """{"eval/<task>/<metric>": value} of tasks and groups, standard errors as <metric>_stderr, and `items` of a task.

    A metric after one of several filters is eval/<task>/<filter>/<metric>. What the harness could not know ("N/A") is left out.
    """
    found: dict[str, float] = {}
    for task, values in {**results["results"], **results.get("groups", {})}.items():
        for key, value in values.items():
            metric, comma, filtered = key.partition(",")
            if comma and isinstance(value, (int, float, np.number)):
                found[f"eval/{task}/{metric}" if filtered == "none" else f"eval/{task}/{filtered}/{metric}"] = float(value)
    return found | {f"eval/{task}/items": float(count["effective"]) for task, count in results["n-samples"].items()}
