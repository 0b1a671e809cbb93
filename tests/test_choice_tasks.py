"""Multiple choice and minimal pairs: what is asked, what counts as right, how sure that is, and the command."""

import gzip
import importlib.util
import json
import math
import os
from collections.abc import Callable, Sequence
from pathlib import Path
from types import ModuleType
from typing import Any

import jax
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from support import BYTES, ROOT, numpy_params, write_config
from support import settings as sections

from pretrainx.core import config as configs
from pretrainx.core.errors import InputError
from pretrainx.curate.records import read_records
from pretrainx.evaluate.choices.accuracy import NORMALISATIONS, credit, normalised, summary
from pretrainx.evaluate.choices.questions import Question, after
from pretrainx.evaluate.choices.tasks import TASKS, Asked, Task, read_task
from pretrainx.evaluate.likelihood import Item, Likelihood, Scorer
from pretrainx.models import decoder, skeleton
from pretrainx.parallel import layouts, mesh
from pretrainx.parallel.shard import Partitioner
from pretrainx.train import experiment as experiments
from pretrainx.train import loop, trained

# ---- accuracies


def says(nats_of: Callable[[str, str], float]) -> Callable[[list[Item]], list[Likelihood]]:
    """A model that is a function; a token is a word, and what it is sure of (0 nats) is greedy."""

    def likelihoods(items: list[Item]) -> list[Likelihood]:
        return [Likelihood(n := nats_of(*x), n == 0, len(x[1].split()), len(x[1].encode()), False, False) for x in items]

    return likelihoods


def one(question: Question, task: Task = TASKS["pairs"]) -> Asked:
    return Asked("t", task, [question])


@given(scores=st.lists(st.integers(0, 3), min_size=1, max_size=6))
def test_credit_is_shared_among_the_best(scores: list[int]) -> None:
    given_to = [credit(np.asarray(scores, float), right) for right in range(len(scores))]
    assert sum(given_to) == pytest.approx(1)
    best = max(scores)
    assert all(x == (1 / scores.count(best) if s == best else 0) for x, s in zip(given_to, scores, strict=True))


def test_normalisations_by_hand() -> None:
    """Each of four answers wins under one of the four."""
    # words, bytes, nats, nats after "Answer:"
    table = {
        " a": (1, 2, -2.0, -2.5),  # sum -2.0
        " aa b c": (3, 7, -3.0, -3.0),  # per token -1.0
        " abcdefghijklm": (1, 14, -5.0, -5.0),  # per byte -0.357
        " é": (1, 3, -4.0, -7.0),  # pmi 3.0
    }
    model = says(lambda context, answer: table[answer][2 if context == "Q" else 3])
    scores = normalised(model([("Q", answer) for answer in table]), model([("Answer:", answer) for answer in table]))
    np.testing.assert_allclose(scores["sum"], [-2, -3, -5, -4])
    np.testing.assert_allclose(scores["per_token"], [-2, -1, -5, -4])
    np.testing.assert_allclose(scores["per_byte"], [-1, -3 / 7, -5 / 14, -4 / 3])
    np.testing.assert_allclose(scores["pmi"], [0.5, 0, 0, 3])
    for right, winner in enumerate(NORMALISATIONS):
        found = one(Question(after("Q", list(table)), right)).score(model)
        assert {n: found[f"eval/t/accuracy_{n}"] for n in NORMALISATIONS} == {n: float(n == winner) for n in NORMALISATIONS}
        assert found["eval/t/accuracy"] == found["eval/t/accuracy_sum"] and found["eval/t/chance"] == 0.25


PAIRS = [Question(after("", [" ".join("ab" * (1 + i % 7)), " ".join("cd" * (1 + i % 7))]), i % 2, group=str(i % 3)) for i in range(41)]


def test_a_constant_model_has_exactly_chance() -> None:
    found = Asked("t", TASKS["pairs"], PAIRS).score(says(lambda *_: -7.5))
    for name in ("accuracy", *(f"accuracy_{n}" for n in NORMALISATIONS), "0/accuracy", "chance"):
        assert 100 * found[f"eval/t/{name}"] == 50.0
    assert found["eval/t/accuracy_se"] == 0 and found["eval/t/accuracy_low"] == found["eval/t/accuracy_high"] == 0.5
    three = Asked("t", TASKS["choices"], [Question(after("Q", [" x", " y", " z"]), i % 3) for i in range(7)])
    assert three.score(says(lambda *_: 0.0))["eval/t/accuracy"] == pytest.approx(1 / 3, rel=1e-15)


def test_a_trained_networks_even_head_has_exactly_chance() -> None:
    """Per token for pairs of any lengths, and by the sum for pairs of equal length: ties are ties to the last bit."""
    config = decoder.Config(vocab_size=264, d_model=16, num_layers=1, num_heads=2, mlp_dim=16, max_length=32)
    tiny = skeleton.build(decoder, config, Partitioner(mesh.make(mesh.MeshSection(), jax.devices()[:1]), layouts.resolve("dp")))
    params = numpy_params(tiny)
    params["token_head"]["kernel"][:] = 0
    texts = [("x" * n, "a" * (n % 5 + 1), "b" * (n % 3 + 1)) for n in range(1, 20)]
    asked = Asked("t", TASKS["pairs"], [Question(after(c, [a, b]), n % 2) for n, (c, a, b) in enumerate(texts)])
    scorer = Scorer(tiny, BYTES, 3)
    found = asked.score(lambda items: scorer(params, items))
    assert 100 * found["eval/t/accuracy_per_token"] == 100 * found["eval/t/accuracy_per_byte"] == 50.0
    assert 100 * found["eval/t/accuracy_pmi"] == 50.0
    assert found["eval/t/accuracy_sum"] != 0.5  # the shorter one is more likely
    equal = Asked("t", TASKS["pairs"], [Question(after(c, [a, a.upper()]), n % 2) for n, (c, a, _) in enumerate(texts)])
    assert 100 * equal.score(lambda items: scorer(params, items))["eval/t/accuracy_sum"] == 50.0


def test_paradigms_count_alike() -> None:
    """Of group a (9 pairs) all are right, of b (1 pair) none: half, where nine in ten pairs are right."""
    questions = [Question(after("", ["good", "bad"]), group="a")] * 9 + [Question(after("", ["bad", "good"]), group="b")]
    found = Asked("t", TASKS["blimp"], questions).score(says(lambda _, text: -float(text == "bad")))
    assert (found["eval/t/accuracy"], found["eval/t/a/accuracy"], found["eval/t/b/accuracy"]) == (0.5, 1.0, 0.0)
    # Of the spread of one pair nothing is known.
    assert all(math.isnan(found[f"eval/t/accuracy_{end}"]) for end in ("se", "low", "high")) and found["eval/t/items"] == 10


def test_last_words_are_counted_and_their_perplexity_is_of_words() -> None:
    questions = [Question(after("It is", [f" {word}"])) for word in ("sure", "two words", "unlikely", "sure")]
    model = says(lambda _, word: {" sure": 0.0, " two words": -1.0, " unlikely": -3.0}[word])
    found = Asked("t", TASKS["lambada"], questions).score(model)
    assert found["eval/t/accuracy"] == 0.5
    assert found["eval/t/perplexity"] == pytest.approx(math.e)  # 4 nats over 4 words
    assert found["eval/t/accuracy_se"] == pytest.approx(math.sqrt(1 / 3 / 4))


@given(p=st.floats(0.1, 0.9), seed=st.integers(0, 50))
@settings(max_examples=20)
def test_intervals_are_those_of_the_binomial(p: float, seed: int) -> None:
    values = (np.random.default_rng(seed).random(900) < p).astype(float)
    found = summary("x", values, [""] * 900, seed)
    mean = values.mean()
    se = math.sqrt(mean * (1 - mean) / 899)
    assert found["x_se"] == pytest.approx(se, rel=1e-12)
    # The ends of a percentile interval of 1,000 draws scatter by about 0.085 standard errors; they lie on multiples of 1/900.
    assert found["x_low"] == pytest.approx(mean - 1.96 * se, abs=0.4 * se + 1 / 900)
    assert found["x_high"] == pytest.approx(mean + 1.96 * se, abs=0.4 * se + 1 / 900)
    assert found == summary("x", values, [""] * 900, seed)


def test_groups_are_resampled_by_themselves() -> None:
    """Two groups that differ, each without spread: nothing is unsure. A plain bootstrap would say 0.2 to 0.8."""
    values, groups = np.asarray([1.0] * 5 + [0.0] * 5), ["a"] * 5 + ["b"] * 5
    assert summary("x", values, groups, 0) == {"x": 0.5, "x_se": 0.0, "x_low": 0.5, "x_high": 0.5}
    spread = summary("x", np.asarray([1.0, 0.0] * 50), ["a"] * 50 + ["b"] * 50, 0)
    assert spread["x_se"] == pytest.approx(math.sqrt(2 * (0.25 * 50 / 49) / 50) / 2)


# ---- what is asked

RECORDS: dict[str, tuple[dict[str, Any], Question]] = {
    "blimp": (
        {"UID": "island", "good": "Who left?", "bad": "Who leave?", "pairID": "3"},
        Question((("", "Who left?"), ("", "Who leave?")), 0, group="island"),
    ),
    "arc_easy": (
        {"id": "1", "question": "What melts?", "choices": {"text": ["ice", "iron"], "label": ["1", "2"]}, "answerKey": "2"},
        Question(after("Question: What melts?\nAnswer:", [" ice", " iron"]), 1),
    ),
    "commonsense_qa": (
        {"question": "Where?", "choices": {"label": ["A", "B", "C"], "text": ["here", "there", "new york"]}, "answerKey": "C"},
        Question(after("Question: Where?\nAnswer:", [" here", " there", " new york"]), 2),
    ),
    "copa": (
        {"premise": "The man fell.", "choice1": "He slipped.", "choice2": "It rained.", "question": "cause", "idx": 0, "label": 1},
        Question(after("The man fell because", [" he slipped.", " it rained."]), 1, "because"),
    ),
    "lambada": ({"text": "a cake for claire\n"}, Question((("a cake for", " claire"),))),
    "hellaswag": (
        {
            "activity_label": "Baking", "ctx_a": "[header] How to bake [title] Mix.", "ctx_b": "she then", "label": "1",
            "endings": ["stirs  it.", "[step] leaves.", "a", "b"],
        },
        Question(after("Baking: How to bake. Mix. She then", [" stirs it.", " leaves.", " a", " b"]), 1),
    ),
    "piqa": (
        {"goal": "Open a jar.", "sol1": "Turn it.", "sol2": "Sing.", "label": 0},
        Question(after("Question: Open a jar.\nAnswer:", [" Turn it.", " Sing."]), 0),
    ),
    "boolq": (
        {"question": "is ice cold", "title": "Ice", "answer": True, "passage": "Ice is frozen."},
        Question(after("Ice is frozen.\nQuestion: is ice cold?\nAnswer:", [" no", " yes"]), 1),
    ),
    "winogrande": (
        {"sentence": "The cup beat the lid because _ was big.", "option1": "the cup", "option2": "the lid", "answer": "2"},
        Question(
            (("The cup beat the lid because the cup", " was big."), ("The cup beat the lid because the lid", " was big.")), 1
        ),
    ),
    "pairs": (
        {"context": "I see ", "good": "it", "bad": "its", "group": 7},
        Question((("I see ", "it"), ("I see ", "its")), 0, group="7"),
    ),
    "choices": (
        {"question": "2 + 2?", "choices": ["3", "4", "5"], "answer": 1},
        Question(after("Question: 2 + 2?\nAnswer:", [" 3", " 4", " 5"]), 1),
    ),
}  # fmt: skip


def write(path: Path, *records: Any) -> Path:
    text = "".join(record if isinstance(record, str) else json.dumps(record, ensure_ascii=False) + "\n" for record in records)
    opened = gzip.open if path.suffix == ".gz" else open
    with opened(path, "wt", encoding="utf-8") as stream:
        stream.write(text)
    return path


def test_every_task_has_its_record_here() -> None:
    assert set(RECORDS) == set(TASKS)


@pytest.mark.parametrize("kind", TASKS)
def test_questions_by_hand(kind: str, tmp_path: Path) -> None:
    record, question = RECORDS[kind]
    path = write(tmp_path / "one.jsonl.gz", record, "\n", record)  # an empty line is none
    assert read_task(kind, kind, str(path), {}).questions == [question, question]


def test_answers_by_place_text_or_label(tmp_path: Path) -> None:
    plain: dict[str, Any] = {"question": "?", "choices": ["1", "0", "x"]}
    labelled: dict[str, Any] = {"question": "?", "choices": {"text": ["1", "0"], "label": ["0", "1"]}}
    answers = [(plain, 2), (plain, "x"), (plain, "2"), (plain, "0"), (labelled, "0"), (labelled, 1)]
    path = write(tmp_path / "a.jsonl", *({**record, "answer": answer} for record, answer in answers))
    assert [q.right for q in read_task("mine", "choices", str(path), {}).questions] == [2, 2, 2, 1, 0, 1]


def test_files_of_a_glob_lines_of_text_and_a_limit(tmp_path: Path) -> None:
    for i in range(3):
        write(tmp_path / f"part{i}.txt.gz", *(f"passage {i} word{n}\n" for n in range(10)))
    asked = read_task("lambada", "lambada", f"{tmp_path}/part*.txt.gz", {})
    assert [q.choices[0] for q in asked.questions[9:12]] == [("passage 0", " word9"), ("passage 1", " word0"), ("passage 1", " word1")]
    some = read_task("lambada", "lambada", f"{tmp_path}/part*.txt.gz", {}, limit=6)
    assert [q.choices[0] for q in some.questions] == [(f"passage {i}", f" word{n}") for i in range(3) for n in (0, 5)]
    assert len(read_records(f"{tmp_path}/part0.txt.gz", {}, "", limit=99)) == 10


def test_fields_of_ones_own(tmp_path: Path) -> None:
    path = write(tmp_path / "a.jsonl", {"chosen": "yes", "bad": "no"})
    assert read_task("mine", "pairs", str(path), {"good": "chosen"}).questions == [Question((("", "yes"), ("", "no")))]


BAD: list[tuple[str, Any, str]] = [
    ("pairs", {"good": "a"}, "record 2: no field 'bad'; .*accepted: good"),
    ("pairs", {"good": "a", "bad": 3}, "record 2: field 'bad' is 3, and a text that is not empty is wanted"),
    ("pairs", {"good": " ", "bad": "b"}, "field 'good' is \" \""),
    ("pairs", "[1]\n", "record 2: a list where a JSON object is wanted"),
    ("pairs", "{good\n", "record 2: not valid JSON"),
    ("blimp", {"good": "a", "bad": "b"}, "record 2: no field 'UID'"),
    ("choices", {"question": "?", "choices": ["a"], "answer": 0}, "two texts or more"),
    ("choices", {"question": "?", "choices": ["a", "b"], "answer": 2}, "field 'answer' is 2, and a whole number from 0 to 1 is wanted"),
    ("arc_easy", {"question": "?", "choices": {"text": ["a", "b"], "label": ["A", "B"]}, "answerKey": "E"}, "one of the labels A, B"),
    ("arc_easy", {"question": "?", "choices": {"text": ["a", "b"], "label": ["A"]}, "answerKey": "A"}, "as many labels as texts"),
    ("copa", RECORDS["copa"][0] | {"question": "why"}, "'cause' or 'effect'"),
    ("copa", RECORDS["copa"][0] | {"label": -1}, "from 0 to 1"),
    ("winogrande", RECORDS["winogrande"][0] | {"sentence": "no gap"}, "a gap '_'"),
    ("winogrande", RECORDS["winogrande"][0] | {"answer": ""}, "from 1 to 2"),
    ("lambada", {"text": "word"}, "two words or more"),
]


@pytest.mark.parametrize(("kind", "record", "said"), BAD)
def test_a_bad_record_is_named(kind: str, record: Any, said: str, tmp_path: Path) -> None:
    path = write(tmp_path / "bad.jsonl", RECORDS[kind][0], record)
    with pytest.raises(InputError, match=said) as caught:
        read_task(kind, kind, str(path), {})
    assert str(path) in str(caught.value) and "\n" not in str(caught.value)


def test_a_file_without_records_is_refused(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="empty lines"):
        read_task("pairs", "pairs", str(write(tmp_path / "a.jsonl", " \n", "  \n")), {})


# ---- published files, where they are

PUBLISHED = {
    "blimp": ("blimp.dev.jsonl.gz", 6700, 67, 0.5),
    "arc_easy": ("arc_easy.validation.jsonl.gz", 570, 1, (567 / 4 + 2 / 5 + 1 / 3) / 570),
    "commonsense_qa": ("commonsense_qa.validation.jsonl.gz", 1221, 1, 0.2),
    "copa": ("copa.validation.jsonl.gz", 100, 1, 0.5),
    "lambada": ("lambada_dev_plain.txt.gz", 4869, 1, None),
}


@pytest.mark.parametrize("kind", PUBLISHED)
def test_published_files_are_read_whole(kind: str) -> None:
    folder = os.environ.get("PRETRAINX_TEST_DATA", "")
    name, count, groups, chance = PUBLISHED[kind]
    path = Path(folder, "tasks", name)
    if not folder or not path.exists():
        pytest.skip(f"set PRETRAINX_TEST_DATA to a folder that has tasks/{name}")
    asked = read_task(kind, kind, str(path), {})
    assert len(asked.questions) == count and len({q.group for q in asked.questions}) == groups
    if kind == "blimp":
        assert {sum(q.group == g for q in asked.questions) for g in {q.group for q in asked.questions}} == {100}
    found = asked.score(says(lambda *_: -1.0))
    assert found.get(f"eval/{kind}/chance") == (pytest.approx(chance) if chance else None)
    # Where all answers are as likely, it is by their length alone that one is better per byte.
    assert found["eval/lambada/accuracy" if kind == "lambada" else f"eval/{kind}/accuracy_sum"] == (pytest.approx(chance) if chance else 0)


# ---- the command


def tool() -> ModuleType:
    spec = importlib.util.spec_from_file_location("tool_score_choices", ROOT / "tools" / "score_choices.py")
    assert spec and spec.loader
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


@pytest.fixture(scope="module")
def run(cache_dir: Path, tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Path]:
    """(config file, run folder) of a decoder after two steps."""
    folder = tmp_path_factory.mktemp("choices")
    values = sections(cache_dir, train={"steps": 2}, checkpoint={"every": 2}, mesh={"data": 8})
    config = write_config(folder / "tiny.py", values)
    loop.train(loop.prepare(experiments.load(configs.load(str(config))), folder / "run"))
    return config, folder / "run"


@pytest.fixture(scope="module")
def files(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("files")
    write(folder / "blimp.jsonl.gz", *({"UID": f"p{i % 2}", "good": f"It is {i}.", "bad": f"It are {i}."} for i in range(10)))
    write(folder / "copa.jsonl", *[RECORDS["copa"][0]] * 3)
    write(folder / "lambada.txt", "a cake for claire\n", "something much longer than thirty two bytes it is\n")
    return folder


def test_command_gives_the_librarys_numbers(run: tuple[Path, Path], files: Path, capsys: pytest.CaptureFixture[str]) -> None:
    names = {"blimp": "blimp.jsonl.gz", "copa": "copa.jsonl", "lambada": "lambada.txt"}
    words = [f"--workdir={run[1]}", "--tasks", *(f"{kind}={files / name}" for kind, name in names.items())]
    tool().main([*words, "--json"])
    said = json.loads(capsys.readouterr().out.splitlines()[-1])
    assert said["step"] == 2 and said["way"] == "causal"
    model = trained.load(run[1])
    scorer = Scorer(model.skeleton, model.vocabulary, 1)
    for kind, name in names.items():
        wanted = read_task(kind, kind, str(files / name), {}).score(lambda items: scorer(model.params, items))
        for key, value in wanted.items():
            assert said[key] == pytest.approx(value, rel=1e-6), key
        assert said[f"eval/{kind}/seconds"] > 0
    assert said["eval/lambada/cut"] == 1 and said["eval/blimp/items"] == 10


def test_command_on_a_mesh_shows_tables(run: tuple[Path, Path], files: Path, capsys: pytest.CaptureFixture[str]) -> None:
    config, folder = run
    tool().main([
        f"--workdir={folder}", f"--config={config}", "--limit=4", "--by_group",
        "--tasks", f"mine:pairs={files / 'blimp.jsonl.gz'}", f"lambada={files / 'lambada.txt'}", "--fields", "mine.group=UID",
    ])  # fmt: skip
    shown = capsys.readouterr()
    rows = [line.split("│") for line in shown.out.splitlines() if line.startswith("│")]
    cells = {row[1].strip(): [cell.strip() for cell in row[2:-1]] for row in rows}
    assert cells["mine"][:2] == ["4", "50.0"] and len(cells["mine"]) == 8
    assert {"p0", "p1"} <= set(cells)
    assert "lambada: 1 texts were longer" in shown.out
    assert "mine: " in shown.err  # progress


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (["--tasks", "blimpp=x.jsonl"], "unknown task 'blimpp'; did you mean 'blimp'"),
        (["--tasks", "copa=nowhere.jsonl"], "--tasks copa: file not found: 'nowhere.jsonl'"),
        (["--tasks", "copa"], "expected TASK=FILE"),
        (["--tasks", "copa=a", "copa=b"], "two are called 'copa'"),
        (["--tasks", "copa={copa}", "--fields", "cop.first=x"], "no task of that name; did you mean 'copa'"),
        (["--tasks", "copa={copa}", "--fields", "copa.frist=x"], "no such role; did you mean 'first'"),
        (["--tasks", "copa={copa}", "--fields", "copa=x"], "expected NAME.ROLE=KEY"),
        (["--tasks", "copa={copa}", "--fields", "copa.first=choice"], "copa.jsonl, record 1: no field 'choice'"),
        (["--tasks", "copa={copa}", "--limit=-1"], "--limit -1"),
        (["--tasks", "copa={copa}", "--way=maskd"], "--way=maskd: not for model.name 'decoder'"),
        (["--tasks", "copa={copa}", "--step=7"], "no checkpoint of step 7"),
        (["--tasks", "copa={copa}", "--config.mesh.data=2"], "needs a --config"),
        (["--task", "copa={copa}"], "--tasks"),
    ],
)
def test_command_refuses_in_one_sentence(run: tuple[Path, Path], files: Path, words: Sequence[str], said: str) -> None:
    with pytest.raises(InputError, match=said) as caught:
        tool().main([f"--workdir={run[1]}", *(word.format(copa=files / "copa.jsonl") for word in words)])
    assert "\n" not in str(caught.value)


def test_help_names_every_task(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit):
        tool().main(["--help"])
    out = capsys.readouterr().out
    assert all(name in out for name in TASKS) and "example: python tools/score_choices.py" in out


def test_headlines_are_normalisations() -> None:
    assert {task.headline for task in TASKS.values()} <= set(NORMALISATIONS)
