"""Corpora as SeqIO Tasks and mixtures as SeqIO Mixtures, by name; the user's own module is looked up here too."""

import functools
import importlib
import os
import sys
from collections.abc import Iterable, Mapping
from typing import Any

import seqio

from pretrainx.core.errors import InputError, nearest
from pretrainx.core.sections import Corpus, Data
from pretrainx.tasks import corpora, mixtures, preprocess, sources, vocabularies, vocabulary_spec
from pretrainx.tasks.labelled import scoring
from pretrainx.tasks.labelled.task import FEATURES
from pretrainx.tasks.mixtures import split_name
from pretrainx.tasks.objective_step import with_objective


def make_task(name: str, data: Data, beside: Iterable[str] = ()) -> seqio.Task:
    """The Task of a corpus that the config describes or that is built in.

    "corpus" gives its documents as tokens; "corpus:objective" the objective's features of windows over them, filled up
    with zeros to those of all objectives that it is to share a Mixture with (`beside`).
    """
    corpus_name, objective = split_name(name, data)
    corpus = corpora.get(corpus_name, data)
    vocabulary = vocabularies.to_seqio(vocabulary_spec.load(data.vocabulary))
    if corpus.task:
        task = labelled_task(corpus_name, corpus, data, vocabulary)
        return task if name == corpus_name else with_objective(task, name, objective, data, beside)
    steps: list[Any] = [preprocess.tokenize_text, seqio.preprocessors.append_eos, seqio.CacheDatasetPlaceholder()]
    if corpus.source == "tfds":
        steps.insert(0, functools.partial(preprocess.keep_text, text_key=corpus.text_key))
    task = seqio.Task(
        corpus_name,
        source=sources.from_corpus(corpus_name, data),
        output_features={"targets": seqio.Feature(vocabulary, add_eos=True)},
        preprocessors=steps,
    )
    return task if name == corpus_name else with_objective(task, name, objective, data, beside)


def labelled_task(name: str, corpus: Corpus, data: Data, vocabulary: seqio.Vocabulary) -> seqio.Task:
    """The Task of a labelled corpus: texts as ids; a label as its decimal digits, or the answer as a text that ends.

    In form "words" it scores what a model writes as its leaderboard does, under `seqio.Evaluator` too.
    """
    texts = [feature for feature in FEATURES[corpus.form] if feature != "label"]
    features = {feature: seqio.Feature(vocabulary, add_eos=feature in ("inputs", "targets"), required=False) for feature in texts}
    if corpus.form == "classes":
        features["label"] = seqio.Feature(seqio.PassThroughVocabulary(10), add_eos=False, required=False)
    in_words: dict[str, Any] = {}
    if corpus.form == "words":
        in_words = {"postprocess_fn": scoring.postprocess, "metric_fns": [scoring.metric_of(corpora.task_of(name, corpus))]}
    return seqio.Task(
        name,
        source=sources.from_corpus(name, data),
        output_features=features,
        preprocessors=[
            functools.partial(preprocess.tokenize_features, texts=texts),
            seqio.CacheDatasetPlaceholder(),
            seqio.preprocessors.append_eos,
        ],
        **in_words,
    )


def find_task(corpus: str, data: Data) -> seqio.Task:
    """The Task behind a corpus's cache: ours by description, or one that the user's module registered."""
    if corpus in corpora.known(data):
        return make_task(corpus, data)
    import_module(data)
    if corpus not in seqio.TaskRegistry.names():
        names = [*corpora.known(data), *seqio.TaskRegistry.names()]
        raise InputError(f"data.mixture: unknown corpus or Task {corpus!r}; {nearest(corpus, names)}")
    task = seqio.TaskRegistry.get(corpus)
    ours = vocabulary_spec.load(data.vocabulary)
    for feature in task.output_features.values():
        vocabularies.check_same(feature.vocabulary, ours, corpus)
    return task


def import_module(data: Data) -> None:
    """Imports the user's own module, which registers its Tasks and Mixtures."""
    if not data.module:
        return
    if os.getcwd() not in sys.path:
        sys.path.append(os.getcwd())
    try:
        importlib.import_module(data.module)
    except InputError:
        raise
    except Exception as error:
        raise InputError(f"data.module: cannot import {data.module!r}: {type(error).__name__}: {error}") from None


def resolve(data: Data) -> dict[str, float]:
    """{"corpus:objective": rate} of `data.mixture`; a name is looked up among SeqIO's Mixtures and Tasks too."""
    import_module(data)
    name = data.mixture
    if isinstance(name, dict):
        rates: Mapping[str, float] = name
    elif name in mixtures.BUILTIN:
        rates = mixtures.BUILTIN[name]
    elif name in seqio.MixtureRegistry.names():
        mixture = seqio.MixtureRegistry.get(name)
        rates = {task.name: float(mixture.get_rate(task)) for task in mixture.tasks}
    else:
        corpus = split_name(name, data)[0]
        names = [*corpora.known(data), *mixtures.BUILTIN, *seqio.TaskRegistry.names(), *seqio.MixtureRegistry.names()]
        if corpus not in corpora.known(data) and corpus not in seqio.TaskRegistry.names():
            raise InputError(f"data.mixture: unknown Task or Mixture {name!r}; {nearest(name, names)}")
        rates = {name: 1.0}
    return {":".join(entry): rate for entry, rate in mixtures.parse(rates, data).items()}


def register(data: Data, mixture_name: str = "mixture") -> seqio.Mixture:
    """Puts the Tasks of `data.mixture`, and the Mixture of them, into SeqIO's registries, for its own tools.

    What these names stood for before is replaced. Returns the Mixture.
    """
    rates = resolve(data)
    objectives = [split_name(name, data)[1] for name in rates]
    for name in rates:
        corpus = split_name(name, data)[0]
        if corpus in corpora.known(data):
            _replace(seqio.TaskRegistry, make_task(name, data, objectives))
            _replace(seqio.TaskRegistry, make_task(corpus, data))
    named = data.mixture if isinstance(data.mixture, str) and data.mixture in mixtures.BUILTIN else mixture_name
    tasks = [(name if name in seqio.TaskRegistry.names() else split_name(name, data)[0], rate) for name, rate in rates.items()]
    mixture = seqio.Mixture(named, tasks)
    _replace(seqio.MixtureRegistry, mixture)
    return mixture


def _replace(registry: Any, provider: Any) -> None:
    if provider.name in registry.names():
        registry.remove(provider.name)
    registry.add_provider(provider.name, provider)
