"""SeqIO Tasks and Mixtures as others wrote them, evaluated by `seqio.Evaluator` on a model of ours: their preprocessors,
postprocessors and metrics run unchanged, and the model answers with texts, texts with their log-probabilities, or scores.

SeqIO and TensorFlow are imported when a Task is looked up, not before.
"""

import contextlib
import functools
import math
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from pretrainx.core.errors import InputError, nearest
from pretrainx.core.logs import log
from pretrainx.core.sections import Data
from pretrainx.core.vocabulary import Vocabulary
from pretrainx.evaluate.beam import Beam
from pretrainx.evaluate.generate import Generation, Generator
from pretrainx.evaluate.likelihood import Scorer
from pretrainx.evaluate.sampling import Sampling
from pretrainx.metrics import text
from pretrainx.models.skeleton import Params, Skeleton
from pretrainx.objectives.interface import Prompt

INPUTS, TARGETS = "inputs", "targets"
Numbered = tuple[int, list[int]]  # an example's number, and token ids
SHORTEST_WINDOW = 128  # of scoring, and its doubles: as long as a Task's longest example needs


@dataclass(frozen=True)
class Evaluation:
    """What a Task said of a model.

    metrics     {"eval/<task>/<metric>": value}; what is no number (a Task may give texts and pictures) is left out
    examples    in the split's order: {"task", "inputs", "targets", and what the metrics read: "output" (the text),
                "prediction" (postprocessed), "score", "aux_value"}
    signatures  {"eval/<task>/bleu": how sacrebleu measured}, where our own bleu or chrf was used
    left_out    names of metrics that gave no number
    seconds     of the model and the metrics
    """

    metrics: dict[str, float]
    examples: list[dict[str, Any]]
    signatures: dict[str, str]
    left_out: list[str]
    seconds: float


def find_tasks(names: Sequence[str], split: str, data: Data, vocabulary: Vocabulary) -> list[Any]:
    """The seqio.Tasks of these names, those of a Mixture one by one, none twice. `data.module` is imported first.

    Raises:
      InputError: SeqIO is not installed; no such name; or a Task has no such split, no metrics, other features than token
        ids `inputs` and `targets`, or another vocabulary.
    """
    seqio, registry = _seqio()
    registry.import_module(data)
    tasks: dict[str, Any] = {}
    for name in names:
        known = [*seqio.TaskRegistry.names(), *seqio.MixtureRegistry.names()]
        if name not in known:
            where = f"module {data.module!r} and what it imports" if data.module else "no module is named (data.module, or --module)"
            raise InputError(f"--tasks: no SeqIO Task or Mixture {name!r} ({where}); {nearest(name, known)}")
        found = seqio.get_mixture_or_task(name)
        own = list(seqio.get_subtasks(found))
        if isinstance(found, seqio.Mixture):
            left_out = [task for task in own if split not in task.splits or not _kinds(task)]
            own = [task for task in own if task not in left_out]
            if not own:
                raise InputError(f"Mixture {name!r}: none of its Tasks has a split {split!r} and metrics")
            if left_out:  # as SeqIO's Evaluator does
                log(f"Mixture {name!r}: left out, without split {split!r} or metrics: {', '.join(task.name for task in left_out)}")
        for task in own:
            _check(task, split, vocabulary)
        tasks |= {task.name: task for task in own}
    return list(tasks.values())


def _kinds(task: Any) -> set[Any]:
    """The seqio.metrics.ModelOutputType that a Task's metrics ask for."""
    try:
        return {metric.model_output_type for metric in task.metric_objs}
    except ValueError as error:  # a metric function with other arguments
        raise InputError(f"Task {task.name!r}: {error}") from None


def _seqio() -> tuple[Any, Any]:
    """(seqio, pretrainx.tasks.registry)."""
    try:
        import seqio
        import tensorflow as tf

        from pretrainx.tasks import registry
    except ImportError:
        raise InputError("SeqIO Tasks need SeqIO and TensorFlow: pip install 'pretrainx[tasks]'") from None
    with contextlib.suppress(RuntimeError):  # it is in use already
        tf.config.set_visible_devices([], "GPU")  # or TensorFlow takes the memory that the model needs
    return seqio, registry


def _check(task: Any, split: str, vocabulary: Vocabulary) -> None:
    import seqio

    from pretrainx.tasks import vocabularies

    if split not in task.splits:
        raise InputError(f"Task {task.name!r} has no split {split!r}; {nearest(split, task.splits)}")
    kinds = _kinds(task)
    if not kinds:
        raise InputError(f"Task {task.name!r} has no metrics: give it metric_fns, such as pretrainx.metrics.text.squad")
    for kind in kinds:
        if kind not in (known := _known_kinds()):
            raise InputError(f"Task {task.name!r} has a metric of {kind}; accepted are {', '.join(map(str, known))}")
    features = task.output_features
    if TARGETS not in features:
        raise InputError(f"Task {task.name!r} has features {', '.join(features)}; needed are 'inputs' and 'targets', or 'targets' alone")
    for name in (INPUTS, TARGETS):
        if name not in features:
            continue
        feature = features[name]
        if feature.rank != 1 or not feature.dtype.is_integer:
            kind = feature.dtype.name
            raise InputError(f"Task {task.name!r}: feature {name!r} is {kind} of rank {feature.rank}; a model reads token ids of rank 1")
        if name == INPUTS or not isinstance(feature.vocabulary, seqio.PassThroughVocabulary):
            vocabularies.check_same(feature.vocabulary, vocabulary, task.name)


def _known_kinds() -> tuple[Any, ...]:
    from seqio.metrics import ModelOutputType

    return ModelOutputType.PREDICTION, ModelOutputType.PREDICTION_WITH_AUX, ModelOutputType.SCORE


def as_it_is(skeleton: Skeleton, vocabulary: Vocabulary, whole: bool) -> Callable[[list[int]], Prompt]:
    """How to prompt with a Task's `inputs` unchanged, as SeqIO's own feature converters give them to models of T5X.

    An encoder reads them, and the decoder begins with the start id; a decoder reads the start id and them, and what it makes
    goes on from there. With `whole` a prefix model sees all of them both ways.
    """
    special, sights = vocabulary.special, skeleton.config.sights
    if "encoder_decoder" in sights:
        return lambda inputs: Prompt([special.start], source=inputs or [special.eos])
    if not {"causal", "prefix"} & set(sights):
        raise InputError(f"model.name {skeleton.config.name!r}: cannot answer with texts; evaluate a decoder, or an encoder with a decoder")
    seen = whole and "prefix" in sights
    return lambda inputs: Prompt([special.start, *inputs], seen=len(inputs) + 1 if seen else 0)


@dataclass
class Answers:
    """The model functions of `seqio.Evaluator`, for one Task: dataset -> what the model says, each with its example's number.

    Texts are made once, whatever kinds of metrics ask for them. `num_tokens` 0: as many as the longest target has, as in T5X.
    """

    skeleton: Skeleton
    params: Params
    vocabulary: Vocabulary
    prompt: Callable[[list[int]], Prompt]
    choice: Sampling | Beam = field(default_factory=lambda: Sampling(temperature=0.0))
    num_tokens: int = 0
    batch_size: int = 16
    seed: int = 0
    show: bool = False
    generators: dict[int, Generator] = field(default_factory=dict)
    _made: tuple[Any, list[int], list[Generation]] | None = None

    def functions(self) -> dict[Any, Callable[..., Any]]:
        """{seqio.metrics.ModelOutputType: function}."""
        from seqio.metrics import ModelOutputType as Kind

        return {Kind.PREDICTION: self.predict, Kind.PREDICTION_WITH_AUX: self.predict_with_aux, Kind.SCORE: self.score}

    def predict(self, dataset: Any, _: Any = None) -> list[Numbered]:
        """(number, token ids up to and with the end of document, padded to one length)."""
        numbers, found = self._generate(dataset)
        special, width = self.vocabulary.special, max(len(generation.tokens) for generation in found)
        rows = []
        for generation in found:
            tokens = generation.tokens.tolist()
            if generation.stopped:  # with the end of document, or with another id that the prompt says
                tokens[-1] = special.eos
            rows.append(tokens + [special.pad] * (width - len(tokens)))
        return list(zip(numbers, rows, strict=True))

    def predict_with_aux(self, dataset: Any, _: Any = None) -> tuple[list[Numbered], dict[str, list[float]]]:
        """The same, and {"scores": log-probabilities of the texts in nats}, as T5X calls them."""
        rows = self.predict(dataset)
        return rows, {"scores": [generation.nats for generation in self._generate(dataset)[1]]}

    def score(self, dataset: Any, _: Any = None) -> list[tuple[int, float]]:
        """(number, log-likelihood of the targets after the inputs in nats), their end token included where they have one."""
        numbers, inputs, targets = read_examples(dataset)
        asked = [(self.prompt(own), wanted) for own, wanted in zip(inputs, targets, strict=True)]
        longest = max(max(len(prompt.tokens) + len(wanted) - 1, len(prompt.source or ())) for prompt, wanted in asked)
        config, window = self.skeleton.config, SHORTEST_WINDOW
        while window < longest:
            window *= 2
        if config.positions == "learned":
            window = min(window, config.max_length)
        way = next(way for way in ("encoder_decoder", "prefix", "causal") if way in config.sights)
        scorer = Scorer(self.skeleton, self.vocabulary, self.batch_size, way, window, self.show)
        return [(number, nats) for number, (nats, _) in zip(numbers, scorer.after(self.params, asked), strict=True)]

    def _generate(self, dataset: Any) -> tuple[list[int], list[Generation]]:
        if self._made is None or self._made[0] is not dataset:
            numbers, inputs, targets = read_examples(dataset)
            count = self.num_tokens or max(1, *map(len, targets))
            if count not in self.generators:
                self.generators[count] = Generator(
                    self.skeleton, self.vocabulary, self.prompt, self.choice, count, batch_size=self.batch_size, show=self.show
                )
            self._made = (dataset, numbers, self.generators[count](self.params, inputs, self.seed))
        return self._made[1], self._made[2]


def read_examples(dataset: Any) -> tuple[list[int], list[list[int]], list[list[int]]]:
    """(numbers, inputs, targets) of an enumerated dataset; no inputs where a Task has none."""
    numbers, inputs, targets = [], [], []
    for number, example in dataset.as_numpy_iterator():
        numbers.append(int(number))
        inputs.append(example[INPUTS].tolist() if INPUTS in example else [])
        targets.append(example[TARGETS].tolist())
    return numbers, inputs, targets


def evaluate(task: Any, answers: Answers, split: str, num_examples: int = 0, lengths: Mapping[str, int] | None = None) -> Evaluation:
    """The Task's metrics of the model, over the first `num_examples` of the split (0: all).

    `lengths` cut features, {"inputs": 512}; without them nothing is cut.

    Raises:
      InputError: a preprocessor, postprocessor or metric of the Task fails, or there are no examples.
    """
    import seqio

    started, seen = time.monotonic(), _Seen()
    cut_to = {name: size for name, size in (lengths or {}).items() if name in task.output_features}
    with _in_one_sentence(task.name):
        evaluator = seqio.Evaluator(
            task.name, _converter(task), split, sequence_length=cut_to or None, num_examples=num_examples or None,
            logger_cls=[functools.partial(_logger(), seen)], log_dir=split, async_compute_metrics=False,
        )  # fmt: skip
        if not int(evaluator.cached_task_datasets[task.name].cardinality()):
            raise InputError(f"Task {task.name!r}: no examples in its split {split!r}")
        future, _ = evaluator.evaluate(compute_metrics=True, model_fns=answers.functions())
        values = future.result()[task.name]
    numbers = {name: as_number(value) for name, value in values.items()}
    own = {function for metric in task.metric_fns if (function := _function(metric)) in (text.bleu, text.chrf)}
    signatures = {f"eval/{task.name}/{f.__name__}": text.signature(f.__name__, seen.targets) for f in own}
    return Evaluation(
        {f"eval/{task.name}/{name}": number for name, number in numbers.items() if number is not None},
        list(seen.examples(task)), signatures, [name for name, number in numbers.items() if number is None], time.monotonic() - started,
    )  # fmt: skip


@contextlib.contextmanager
def _in_one_sentence(name: str) -> Iterator[None]:
    """Turns what the Task's own code raises into an InputError; what caused it stays its cause, for a traceback."""
    try:
        yield
    except InputError:
        raise
    except Exception as error:
        cause: BaseException = error
        while isinstance(cause.__cause__, Exception):  # SeqIO wraps what a metric raises
            cause = cause.__cause__
        said = str(cause) if isinstance(cause, InputError) else f"{type(cause).__name__}: {' '.join(str(cause).split())[:300]}"
        raise InputError(f"Task {name!r}: {said}") from error


def _function(metric: Any) -> Any:
    return _function(metric.func) if isinstance(metric, functools.partial) else metric


def as_number(value: Any) -> float | None:
    """The number of a metric's value, as it is or in a seqio.metrics.Scalar; None: it is none."""
    value = getattr(value, "value", value)
    if value is None:
        return None
    try:
        array = np.asarray(value, np.float64)
    except (TypeError, ValueError):
        return None
    return float(array.reshape(())) if array.size == 1 else None


@dataclass
class _Seen:
    """What SeqIO tells a logger at the end."""

    dataset: Any = None
    targets: Sequence[Any] = ()
    inferences: Mapping[str, Any] = field(default_factory=dict)

    def examples(self, task: Any) -> Iterator[dict[str, Any]]:
        for place, example in enumerate(self.dataset.as_numpy_iterator()):
            made = {name: _of(values, place) for name, values in self.inferences.items()}
            yield {"task": task.name, "inputs": _inputs(task, example), "targets": plain(_of(self.targets, place)), **made}


def _of(values: Any, place: int) -> Any:
    """The value of one example; of a dict of values by example, each."""
    return {name: _of(own, place) for name, own in values.items()} if isinstance(values, Mapping) else plain(values[place])


def _inputs(task: Any, example: Mapping[str, Any]) -> Any:
    """The text of the inputs, as it was before it became tokens if that is there."""
    if f"{INPUTS}_pretokenized" in example:
        return plain(example[f"{INPUTS}_pretokenized"])
    if INPUTS in task.output_features:
        return task.output_features[INPUTS].vocabulary.decode(example[INPUTS].tolist())
    return plain(example.get(INPUTS, ""))


def plain(value: Any) -> Any:
    """The value as JSON has it; what it has no form for, as text."""
    if isinstance(value, bytes):
        return value.decode("utf-8", "replace")
    if isinstance(value, Mapping):
        return {str(plain(key)): plain(own) for key, own in value.items()}
    if isinstance(value, list | tuple):
        return [plain(own) for own in value]
    if hasattr(value, "tolist"):
        return plain(value.tolist())
    if isinstance(value, float):
        return value if math.isfinite(value) else None
    return value if isinstance(value, str | int | bool) or value is None else str(value)


def _logger() -> type:
    import seqio

    class Keep(seqio.loggers.Logger):
        """Hands on what was measured instead of writing it."""

        def __init__(self, seen: _Seen, output_dir: str):
            super().__init__(output_dir)
            self.seen = seen

        def __call__(self, task_name: Any, step: Any, metrics: Any, dataset: Any, inferences: Any, targets: Any) -> None:
            self.seen.dataset, self.seen.targets, self.seen.inferences = dataset, targets or (), inferences or {}

    return Keep


def _converter(task: Any) -> Any:
    import seqio
    import tensorflow as tf

    names = [name for name in (INPUTS, TARGETS) if name in task.output_features]

    class KeepTokens(seqio.FeatureConverter):
        """inputs and targets as the Task made them: our models are prompted, and nothing is padded before it is batched."""

        TASK_FEATURES = {name: seqio.FeatureConverter.FeatureSpec(dtype=tf.int32) for name in names}  # noqa: RUF012
        MODEL_FEATURES = TASK_FEATURES
        PACKING_FEATURE_DTYPES = None

        def __call__(self, ds: Any, task_feature_lengths: Mapping[str, int]) -> Any:
            return ds.map(lambda example: {name: example[name] for name in names})

        def _convert_features(self, ds: Any, task_feature_lengths: Mapping[str, int]) -> Any:
            return ds

        def get_model_feature_lengths(self, task_feature_lengths: Mapping[str, int]) -> Mapping[str, int]:
            return task_feature_lengths

    return KeepTokens(pack=False)
