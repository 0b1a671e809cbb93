"""Metrics against scikit-learn, SciPy, sacrebleu and rouge_score over random inputs, and against what a person works out by hand."""

import math
import subprocess
import sys
import warnings
from collections import Counter
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from support import ROOT

from pretrainx.core.errors import InputError
from pretrainx.metrics import labels, leaderboards, text
from pretrainx.metrics.leaderboards import glue_score, superglue_score

WORDS = st.sampled_from(["a", "an", "the", "The", "cat", "Cat,", "sat.", "on", "mat!", "dog's", "(x)", "3.5", "é", "—", "\t\n"])
TEXT = st.lists(WORDS, max_size=7).map(" ".join)
MANY = settings(max_examples=200)


def sklearn_metrics() -> Any:
    return pytest.importorskip("sklearn.metrics", reason="scikit-learn is the reference")


def quietly(function: Any, *args: Any, **options: Any) -> float:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # of constant input, which is what is asked about
        return float(function(*args, **options))


# ---- labels


@st.composite
def label_pairs(draw: Any, low: int = 0, high: int = 3) -> tuple[list[int], list[int]]:
    """Targets and predictions; often all one class, or constant predictions."""
    count = draw(st.integers(1, 25))
    side = st.one_of(
        st.lists(st.integers(low, high), min_size=count, max_size=count), st.integers(low, high).map(lambda label: [label] * count)
    )
    return draw(side), draw(side)


@given(pairs=label_pairs())
@MANY
def test_labels_equal_scikit_learn(pairs: tuple[list[int], list[int]]) -> None:
    reference = sklearn_metrics()
    targets, said = pairs
    assert labels.accuracy(targets, said)["accuracy"] == pytest.approx(reference.accuracy_score(targets, said), abs=1e-12)
    assert labels.matthews(targets, said)["matthews"] == pytest.approx(quietly(reference.matthews_corrcoef, targets, said), abs=1e-12)
    for classes in (2, 4, 6):
        wanted = quietly(reference.f1_score, targets, said, labels=range(classes), average="macro", zero_division=0)
        assert labels.macro_f1(classes)(targets, said)["macro_f1"] == pytest.approx(wanted, abs=1e-12)


@given(pairs=label_pairs(high=1))
@MANY
def test_binary_f1_equals_scikit_learn(pairs: tuple[list[int], list[int]]) -> None:
    wanted = quietly(sklearn_metrics().f1_score, *pairs, zero_division=0)
    assert labels.f1(*pairs)["f1"] == pytest.approx(wanted, abs=1e-12)


@given(
    targets=st.lists(st.integers(-3, 3).map(lambda i: i / 2) | st.floats(-1e3, 1e3), min_size=2, max_size=20),
    seed=st.integers(0, 99),
    constant=st.booleans(),
)
@MANY
def test_correlations_equal_scipy(targets: list[float], seed: int, constant: bool) -> None:
    stats = pytest.importorskip("scipy.stats", reason="SciPy is the reference")
    said = [1.5] * len(targets) if constant else np.random.default_rng(seed).integers(-2, 3, len(targets)).astype(float).tolist()
    found = labels.pearson_spearman(targets, said)
    spearman = quietly(lambda *x: stats.spearmanr(*x).statistic, targets, said)
    assert found["spearman"] == pytest.approx(spearman, abs=1e-9, nan_ok=True)
    if np.ptp(targets) > 1e-6 or np.ptp(targets) == 0:  # of numbers that are nearly constant, SciPy's rounding is not ours
        pearson = quietly(lambda *x: stats.pearsonr(*x).statistic, targets, said)
        assert found["pearson"] == pytest.approx(pearson, abs=1e-9, nan_ok=True)
    assert math.isnan(found["pearson"]) == (np.ptp(targets) == 0 or np.ptp(said) == 0)
    assert found["pearson_spearman"] == pytest.approx((found["pearson"] + found["spearman"]) / 2, nan_ok=True)


def test_labels_by_hand() -> None:
    targets, said = [1, 1, 1, 0, 0, 0], [1, 1, 0, 0, 0, 1]
    assert labels.accuracy(targets, said) == {"accuracy": pytest.approx(4 / 6)}
    assert labels.f1(targets, said) == {"f1": pytest.approx(2 * 2 / 6)}
    assert labels.matthews(targets, said) == {"matthews": pytest.approx((2 * 2 - 1 * 1) / math.sqrt(3 * 3 * 3 * 3))}
    # three classes of which one is never seen: (2/3 + 2/3 + 0) / 3
    assert labels.macro_f1(3)(targets, said) == {"macro_f1": pytest.approx(4 / 9)}
    assert labels.accuracy(["yes", "no"], ["yes", "No"]) == {"accuracy": 0.5}
    ranks = labels.pearson_spearman([0.0, 1.0, 2.0, 10.0], [1.0, 2.0, 4.0, 3.0])
    assert ranks["spearman"] == pytest.approx(1 - 6 * 2 / (4 * 15))


@pytest.mark.parametrize(
    ("targets", "said", "f1", "macro"), [([0, 0], [0, 0], 0.0, 0.5), ([1, 1], [1, 1], 1.0, 0.5), ([1, 1], [0, 0], 0.0, 0.0)]
)
def test_of_one_class_a_correlation_is_zero(targets: list[int], said: list[int], f1: float, macro: float) -> None:
    assert labels.matthews(targets, said) == {"matthews": 0.0}
    assert labels.f1(targets, said) == {"f1": f1} and labels.macro_f1(2)(targets, said) == {"macro_f1": macro}


def test_what_names_no_label_is_wrong() -> None:
    assert labels.accuracy([0, 1], [-1, 1]) == {"accuracy": 0.5}
    assert labels.f1([0, 1], [-1, 1]) == {"f1": 1.0}  # it is not said to be 1, which is right
    assert labels.macro_f1(2)([0, 1], [-1, 1]) == {"macro_f1": 0.5}


def test_numbers_that_do_not_correlate() -> None:
    for targets, said in (([1.0, 2.0], [3.0, 3.0]), ([1.0], [2.0]), ([1.0, 2.0], [math.nan, 1.0])):
        assert all(math.isnan(x) for x in labels.pearson_spearman(targets, said).values())
    assert labels.pearson_spearman([1e-200, 2e-200, 3e-200], [1e200, 2e200, 3e200])["pearson"] == pytest.approx(1)


def grouped(*items: tuple[Any, Any]) -> list[dict[str, Any]]:
    return [{"group": group, "value": value} for group, value in items]


def test_multirc_by_hand() -> None:
    targets = grouped(("q1", 1), ("q1", 0), ("q2", 1), ("q2", 1), ("q3", 0))
    said = [1, 0, 1, 0, 1]
    # Of three right answers two are found, and one is said too many; all of q1 alone.
    wanted = {"f1a": pytest.approx(2 * 2 / (3 + 3)), "em": pytest.approx(1 / 3)}
    assert labels.multirc(targets, said) == wanted
    assert labels.multirc(targets, grouped(*((t["group"], p) for t, p in zip(targets, said, strict=True)))) == wanted
    order = [4, 2, 0, 3, 1]  # the answers of a question need not stand together
    assert labels.multirc([targets[i] for i in order], [said[i] for i in order]) == wanted
    ids = [np.asarray([3, 1]), np.asarray([3, 1]), np.asarray([3, 2]), np.asarray([3, 2]), np.int64(7)]  # as data sets number them
    assert labels.multirc(grouped(*((i, t["value"]) for i, t in zip(ids, targets, strict=True))), said) == wanted


@given(pairs=label_pairs(high=1), groups=st.lists(st.integers(0, 4), min_size=25, max_size=25))
@MANY
def test_multirc_is_an_f1_and_a_share_of_questions(pairs: tuple[list[int], list[int]], groups: list[int]) -> None:
    targets, said = pairs
    found = labels.multirc(grouped(*zip(groups, targets, strict=False)), said)
    assert found["f1a"] == labels.f1(targets, said)["f1"]
    wrong = {group for group, target, own in zip(groups, targets, said, strict=False) if target != own}
    asked = set(groups[: len(targets)])
    assert found["em"] == pytest.approx(1 - len(wrong) / len(asked))


def test_record_by_hand() -> None:
    answers = {"a": ["The Foo Corp.", "Foo"], "b": "New York City"}
    targets = grouped(("a", answers["a"]), ("b", answers["b"]), ("a", answers["a"]))  # as T5 has it, a query once an answer
    assert labels.record(targets, ["foo", "New York", "something else"]) == {"f1": pytest.approx((1 + 0.8) / 2), "em": 0.5}
    candidates = [
        {"group": group, "value": answers[group], "candidate": text}
        for group, text in [("a", "foo"), ("a", "bar"), ("b", "york"), ("b", "new york city"), ("b", "city")]
    ]
    assert labels.record_candidates(candidates, [-1.0, -2.0, -1.0, -3.0, -4.0]) == {"f1": pytest.approx((1 + 0.5) / 2), "em": 0.5}
    assert labels.record_candidates(candidates, [-1.0, -1.0, -5.0, -3.0, -4.0]) == {"f1": 1.0, "em": 1.0}


def test_grouped_argmax_by_hand() -> None:
    targets = grouped(("p", 0), ("p", 1), ("q", True), ("q", False), ("q", False))
    assert labels.grouped_argmax(targets, [-2.0, -1.0, -5.0, -4.0, -9.0]) == {"accuracy": 0.5}
    assert labels.grouped_argmax(targets, [0.0] * 5) == {"accuracy": pytest.approx((1 / 2 + 1 / 3) / 2)}  # it knows nothing
    assert labels.grouped_argmax(targets, np.asarray([-np.inf, -1.0, -4.0, -4.0, -9.0])) == {"accuracy": 0.75}
    with pytest.raises(InputError, match="group 'q' has 2 right candidates"):
        labels.grouped_argmax(grouped(("q", 1), ("q", 1)), [0.0, 1.0])
    with pytest.raises(InputError, match="NaN"):
        labels.grouped_argmax(targets, [math.nan] * 5)


def test_gender_parity_by_hand() -> None:
    targets = grouped((1, 0), (2, 1), (1, 0), (2, 1), (3, 1), (3, 0))
    # 1 is labelled alike and wrongly, which is parity all the same; 2 is not; 3 is.
    assert labels.gender_parity(targets, [1, 1, 1, 0, 0, 0]) == {"gender_parity": pytest.approx(2 / 3)}
    with pytest.raises(InputError, match="group 1 has 3 examples; accepted are pairs"):
        labels.gender_parity(grouped((1, 0), (1, 0), (1, 0)), [0, 0, 0])


# ---- texts


def squad_script(metric: str, truths: list[str], prediction: str) -> float:
    """The released SQuAD 1.1 script's steps, spelled again from its description."""

    def normalise(said: str) -> list[str]:
        kept = "".join(c for c in said.lower() if c not in "!\"#$%&'()*+,-./:;<=>?@[\\]^_`{|}~")
        return [word for word in kept.split() if word not in ("a", "an", "the")]

    def one(truth: str) -> float:
        ours, theirs = normalise(prediction), normalise(truth)
        if metric == "exact_match":
            return float(ours == theirs)
        same = sum((Counter(ours) & Counter(theirs)).values())
        if not same:
            return 0.0
        precision, recall = same / len(ours), same / len(theirs)
        return 2 * precision * recall / (precision + recall)

    return max(map(one, truths))


@given(pairs=st.lists(st.tuples(st.lists(TEXT, min_size=1, max_size=3), TEXT), min_size=1, max_size=5))
@MANY
def test_squad_equals_the_script(pairs: list[tuple[list[str], str]]) -> None:
    targets, said = [list(truths) for truths, _ in pairs], [prediction for _, prediction in pairs]
    found = text.squad(targets, said)
    for name, value in found.items():
        assert value == pytest.approx(np.mean([squad_script(name, truths, prediction) for truths, prediction in pairs]), abs=1e-12)
    assert found == text.exact_match(targets, said) | text.token_f1(targets, said)


def test_answers_by_hand() -> None:
    assert text.squad(["The Cat sat."], ["a cat, sat"]) == {"exact_match": 1.0, "token_f1": 1.0}
    assert text.token_f1(["one two three"], ["two three four five"]) == {"token_f1": pytest.approx(2 * 2 / 7)}
    assert text.token_f1(["one one two"], ["one one one"]) == {"token_f1": pytest.approx(2 * 2 / 6)}  # as often as both have it
    assert text.exact_match([["Big Apple", "New York"], "x"], ["new york!", "y"]) == {"exact_match": 0.5}
    assert text.squad(["the"], ["a"]) == {"exact_match": 1.0, "token_f1": 0.0}  # as the script has it
    assert text.exact_match(["anthem"], ["them"]) == {"exact_match": 0.0}  # an article is a word


REFERENCES = ["The quick brown fox jumped over the lazy dog.", "It was a dark and stormy night; the rain fell in torrents."]
SAID = ["The quick brown dog jumped over the lazy fox.", "It was a dark and rainy night, the rain fell."]


def test_bleu_by_hand() -> None:
    """13a makes 6 tokens of five words and a stop; of the n-grams of "a b c d e ." in "a b c d f .", 5/6, 3/5, 2/4 and 1/3 are right."""
    found = text.bleu(["a b c d f."], ["a b c d e."])
    assert found == {"bleu": pytest.approx(100 * (5 / 6 * 3 / 5 * 2 / 4 * 1 / 3) ** 0.25)}
    short = text.bleu(["a b c d e f g h"], ["a b c d e f"])  # all right but short: exp(1 - 8 / 6)
    assert short == {"bleu": pytest.approx(100 * math.exp(1 - 8 / 6))}
    assert text.bleu(REFERENCES, REFERENCES) == {"bleu": pytest.approx(100)}
    assert text.bleu(REFERENCES, ["", ""]) == {"bleu": 0.0}


def test_several_references_are_those_of_sacrebleu() -> None:
    sacrebleu = pytest.importorskip("sacrebleu")
    targets = [[REFERENCES[0], SAID[0]], [REFERENCES[1], "It was night."]]
    streams = [list(stream) for stream in zip(*targets, strict=True)]
    assert text.bleu(targets, SAID) == {"bleu": sacrebleu.corpus_bleu(SAID, streams).score}
    assert text.chrf(targets, SAID) == {"chrf": sacrebleu.corpus_chrf(SAID, streams).score}
    assert text.chrf([list(t) for t in targets], SAID)["chrf"] > text.chrf(REFERENCES, SAID)["chrf"]
    # As many references as each has; a text alone is one reference.
    assert text.bleu([[REFERENCES[0], SAID[0]], REFERENCES[1]], SAID)["bleu"] > text.bleu(REFERENCES, SAID)["bleu"]
    assert text.bleu([[r] for r in REFERENCES], SAID) == text.bleu(REFERENCES, SAID)


def test_signatures_say_how() -> None:
    sacrebleu = pytest.importorskip("sacrebleu")
    version = sacrebleu.__version__
    assert text.signature("bleu", REFERENCES) == f"nrefs:1|case:mixed|eff:no|tok:13a|smooth:exp|version:{version}"
    assert text.signature("bleu", [["a", "b"], ["c", "d"]]).startswith("nrefs:2|")
    assert text.signature("bleu", ["a", ["c", "d"]]).startswith("nrefs:var|")
    assert text.signature("chrf", REFERENCES) == f"nrefs:1|case:mixed|eff:yes|nc:6|nw:0|space:no|version:{version}"


def test_rouge_by_hand() -> None:
    # unigrams 2 of 3 and 4, no bigram; longest common subsequence "a b"
    found = text.rouge(["a x b"], ["a y z b"])
    assert found["rouge1"] == pytest.approx(100 * 2 * 2 / 7) and found["rouge2"] == 0
    assert found["rougeLsum"] == pytest.approx(100 * 2 * 2 / 7)
    # By lines: each line of the reference is found whole, in whatever order the lines stand.
    assert text.rouge(["a b\nc d"], ["c d\na b"])["rougeLsum"] == pytest.approx(100)
    assert text.rouge(["a b c d"], ["c d a b"])["rougeLsum"] == pytest.approx(50)
    assert text.rouge([["x", "a b"], "c"], ["a b", "d"]) == {"rouge1": 50.0, "rouge2": 50.0, "rougeLsum": 50.0}
    assert text.rouge(["cats"], ["cat"])["rouge1"] == 0 and text.rouge(["cats"], ["cat"], use_stemmer=True)["rouge1"] == 100
    assert text.rouge(["a"], [""]) == {"rouge1": 0.0, "rouge2": 0.0, "rougeLsum": 0.0}


@given(pairs=st.lists(st.tuples(TEXT, TEXT), min_size=1, max_size=4))
@settings(max_examples=40)
def test_rouge_1_equals_a_count(pairs: list[tuple[str, str]]) -> None:
    import re

    def words(said: str) -> Counter[str]:
        return Counter(re.sub(r"[^a-z0-9]+", " ", said.lower()).split())

    shares = []
    for target, said in pairs:
        shared = (words(target) & words(said)).total()
        shares.append(2 * shared / (words(target).total() + words(said).total()) if shared else 0.0)
    assert text.rouge(*zip(*pairs, strict=True))["rouge1"] == pytest.approx(100 * np.mean(shares))  # type: ignore[arg-type]


# ---- what is refused

ALL: dict[str, Any] = {
    **{name: getattr(text, name) for name in ("bleu", "chrf", "rouge", "exact_match", "token_f1", "squad")},
    **{name: getattr(labels, name) for name in ("accuracy", "f1", "matthews", "pearson_spearman", "multirc", "record")},
    **{name: getattr(labels, name) for name in ("record_candidates", "grouped_argmax", "gender_parity")},
    "macro_f1": labels.macro_f1(3),
}


@pytest.mark.parametrize("name", ALL)
def test_nothing_is_measured_of_nothing(name: str) -> None:
    with pytest.raises(InputError, match="no examples"):
        ALL[name]([], [])
    with pytest.raises(InputError, match="2 targets and 1 predictions"):
        ALL[name](["a", "b"], ["a"])


@pytest.mark.parametrize("target", [[], 3, ["a", 3], None])
def test_targets_that_are_no_texts(target: Any) -> None:
    with pytest.raises(InputError, match="accepted are a text and a list of one text or more"):
        text.bleu([target], ["a"])


def test_targets_without_a_group() -> None:
    with pytest.raises(InputError, match=r"metric 'multirc': target 2 is 1; accepted is {'group'"):
        labels.multirc([{"group": 1, "value": 1}, 1], [1, 1])
    with pytest.raises(InputError, match="num_classes 1; accepted are 2"):
        labels.macro_f1(1)


@pytest.mark.parametrize(("module", "call"), [("sacrebleu.metrics", "bleu"), ("rouge_score.rouge_scorer", "rouge")])
def test_a_missing_library_is_named(monkeypatch: pytest.MonkeyPatch, module: str, call: str) -> None:
    monkeypatch.setitem(sys.modules, module, None)
    with pytest.raises(InputError, match=r"pip install 'pretrainx\[eval\]'"):
        ALL[call](["a"], ["a"])


def test_no_heavy_library_comes_with_the_metrics() -> None:
    code = (
        "import sys, pretrainx.metrics.text, pretrainx.metrics.labels, pretrainx.metrics.leaderboards\n"
        "print([m for m in ('tensorflow', 'seqio', 'jax', 'sacrebleu', 'rouge_score', 'sklearn', 'scipy') if m in sys.modules])"
    )
    assert subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, cwd=ROOT, check=True).stdout == "[]\n"


# ---- leaderboards: published rows, in percent, each with the score that was published beside it

GLUE_ROWS: dict[str, tuple[list[float], float]] = {
    # Devlin 2019's BERT-large and Raffel 2020's T5-11B (table 14), as on the leaderboard
    "bert_large": ([60.5, 94.9, 89.3, 85.4, 87.6, 86.5, 72.1, 89.3, 86.7, 85.9, 92.7, 70.1, 65.1], 80.5),
    "t5_11b": ([71.6, 97.5, 92.8, 90.4, 93.1, 92.8, 75.1, 90.6, 92.2, 91.9, 96.9, 92.8, 94.5], 90.3),
}
SUPERGLUE_ROWS: dict[str, tuple[list[float], float]] = {
    # T5-11B on the leaderboard; BERT++ and human performance of Wang 2019, table 3
    "t5_11b": ([91.2, 93.9, 96.8, 94.8, 88.1, 63.3, 94.1, 93.4, 92.5, 76.9, 93.8], 89.3),
    "bert_plus_plus": ([79.0, 84.8, 90.4, 73.8, 70.0, 24.1, 72.0, 71.3, 79.0, 69.6, 64.4], 71.5),
    "human": ([89.0, 95.8, 98.9, 100.0, 81.8, 51.9, 91.7, 91.3, 93.6, 80.0, 100.0], 89.8),
}


def board_scores(board: leaderboards.Board, numbers: list[float]) -> dict[str, dict[str, float]]:
    scores: dict[str, dict[str, float]] = {}
    for (task, metric), number in zip((part for parts in board.values() for part in parts), numbers, strict=True):
        scores.setdefault(task, {})[metric] = number
    return scores


@pytest.mark.parametrize("row", GLUE_ROWS)
def test_glue_scores_are_those_published(row: str) -> None:
    numbers, published = GLUE_ROWS[row]
    scores = board_scores(leaderboards.GLUE, numbers)
    assert glue_score(scores) == pytest.approx(published, abs=0.051)  # numbers and score are rounded to a tenth
    assert glue_score(scores | {"ax": {"matthews": 0.0}}) == glue_score(scores)


@pytest.mark.parametrize("row", SUPERGLUE_ROWS)
def test_superglue_scores_are_those_published(row: str) -> None:
    numbers, published = SUPERGLUE_ROWS[row]
    scores = board_scores(leaderboards.SUPERGLUE, numbers)
    assert superglue_score(scores) == pytest.approx(published, abs=0.051)
    assert superglue_score(scores | {"axg": {"accuracy": 0.0}, "axb": {"matthews": 0.0}}) == superglue_score(scores)


def test_superglue_in_full_by_hand() -> None:
    """T5-11B: (91.2 + 95.35 + 94.8 + 75.7 + 93.75 + 92.5 + 76.9 + 93.8) / 8."""
    assert superglue_score(board_scores(leaderboards.SUPERGLUE, SUPERGLUE_ROWS["t5_11b"][0])) == pytest.approx(89.25)


def test_a_score_needs_every_task() -> None:
    scores = board_scores(leaderboards.SUPERGLUE, SUPERGLUE_ROWS["human"][0])
    del scores["wic"], scores["copa"], scores["cb"]["macro_f1"]
    with pytest.raises(InputError, match="SuperGLUE's score needs all of its tasks; missing are tasks copa, wic and metrics cb/macro_f1"):
        superglue_score(scores)
    with pytest.raises(InputError, match="missing are tasks cola, sst2, .* wnli$"):
        glue_score({})
    with pytest.raises(InputError, match="GLUE has no task 'mnli_matched'; did you mean 'mnli_mismatched'"):
        glue_score({"mnli_matched": {"accuracy": 1.0}})
