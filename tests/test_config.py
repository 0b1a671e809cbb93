import copy
import sys
import textwrap
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from pretrainx.core import config as configs
from pretrainx.core import sections
from pretrainx.core.errors import InputError

EXAMPLE = '''
"""An experiment. The é is here to have a character of two bytes."""
import ml_collections

STEPS = 100


def get_config(size="small"):
    config = ml_collections.ConfigDict()
    config.data = {"mixture": {"mine": 2.0, "yours:masked": 1}, "corpora": {"mine": {"source": "text", "files": "*.txt"}}}
    config.train = {"steps": STEPS, "batch_size": 4 if size == "small" else 16}
    config.eval = {"every": "50%", "ngram_orders": (1, 3)}
    config.layout = "fsdp"
    config.model = {"name": "lent_plugins.tiny", "width": 8}
    config.optim = {"name": "lent_plugins.tiny"}
    config.lock()
    return config
'''
PLUGIN = """
from dataclasses import dataclass
from typing import Annotated
from pretrainx.core.schema import Range

@dataclass(frozen=True)
class Config:
    name: str
    width: Annotated[int, Range(ge=1)] = 4
    tied: bool = True
"""


@pytest.fixture(scope="session")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A user's folder with a config and a module of plug-ins beside it."""
    home = tmp_path_factory.mktemp("home")
    (home / "lent_plugins").mkdir()
    (home / "lent_plugins" / "tiny.py").write_text(PLUGIN)
    (home / "lent_plugins" / "empty.py").write_text("")
    (home / "example.py").write_text(EXAMPLE, encoding="utf-8")
    return home


def write(path: Path, body: str) -> str:
    path.write_text(textwrap.dedent(body), encoding="utf-8")
    return str(path)


def refusal(spec: str, *overrides: str) -> str:
    with pytest.raises(InputError) as caught:
        configs.load(spec, overrides)
    assert "\n" not in str(caught.value)
    return str(caught.value)


def test_file_argument_and_command_line(folder: Path) -> None:
    file = f"{folder}/example.py"
    config = configs.load(
        f"{file}:large", ["train.steps=2e6 tokens", "mesh.data=2", "data.corpora.mine.files=a=b.txt", "train.loss_weights={'mlm': 2}"]
    )
    train = config.section("train", sections.Train)
    assert (train.steps, train.batch_size, train.seed, train.loss_weights) == ("2e6 tokens", 16, 0, {"mlm": 2.0})
    assert config.section("data", sections.Data).corpora["mine"] == sections.Corpus(source="text", files="a=b.txt")
    assert config.section("mesh", sections.Mesh).data == 2
    assert (config.layout, config.init_from, config.name) == ("fsdp", "", "example_large")
    assert config.values["train"] == {"steps": "2e6 tokens", "batch_size": 16, "loss_weights": {"mlm": 2}}
    assert configs.load(file).name == "example"


def test_name_is_a_folder_name(folder: Path) -> None:
    assert configs.load(f"{folder}/example.py:../a b").name == "example_..-a-b"


def test_origin_of_every_value(folder: Path) -> None:
    file = f"{folder}/example.py"
    config = configs.load(file, ["train.seed=3", "eval={'every': 5}", "data.mixture.mine=3"])
    origins = {
        "train.seed": "command line",
        "train.steps": file,
        "train.dtype": "default",
        "eval.every": "command line",
        "data.mixture.mine": "command line",
        "data.mixture.yours:masked": file,
        "data.corpora.mine.files": file,
        "data.corpora.mine.holdout": "default",
        "layout": file,
        "init_from": "default",
    }
    assert {path: config.origin(path) for path in origins} == origins


def test_a_dict_is_replaced_or_one_entry_given(folder: Path) -> None:
    file = f"{folder}/example.py"

    def mixture(*overrides: str) -> Any:
        return configs.load(file, overrides).section("data", sections.Data).mixture

    assert mixture("data.mixture={'a': 1}") == {"a": 1.0}
    assert mixture("data.mixture.a=1") == {"mine": 2.0, "yours:masked": 1.0, "a": 1.0}
    assert mixture("data.mixture={'a': 1}", "data.mixture.b=2") == {"a": 1.0, "b": 2.0}
    assert mixture("data.mixture.b=2", "data.mixture={'a': 1}") == {"a": 1.0}
    assert mixture("data.mixture=mine") == "mine"


def test_resolved_has_every_leaf_and_parses_back(folder: Path, tmp_path: Path) -> None:
    resolved = configs.load(f"{folder}/example.py", ["model.tied=false"]).resolved()
    assert tuple(resolved) == configs.SECTIONS
    assert resolved["model"] == {"name": "lent_plugins.tiny", "width": 8, "tied": False}
    flat = configs.leaves(resolved)
    assert flat["train.dtype"] == "bfloat16" and flat["eval.ngram_orders"] == [1, 3] and flat["data.objectives"] == {}
    again = write(tmp_path / "again.py", f"def get_config(): return {resolved!r}")
    assert configs.load(again).resolved() == resolved


def test_plugin_sections(folder: Path) -> None:
    config = configs.load(f"{folder}/example.py", ["model.width=16"])
    module, model = config.plugin_section("model", "pretrainx.models")
    assert model == module.Config("lent_plugins.tiny", 16) and model.width == 16

    def wrong(*overrides: str) -> str:
        with pytest.raises(InputError) as caught:
            configs.load(f"{folder}/example.py", overrides).plugin_section("model", "pretrainx.models")
        return str(caught.value)

    assert wrong("model.wdith=16") == "unknown config key 'model.wdith'; did you mean 'width'? accepted: name, tied, width"
    assert wrong("model.width=0") == "model.width: expected a whole number at least 1, found 0"
    assert "model.name: unknown name 'decodr'" in wrong("model.name=decodr")
    assert "has no 'Config'" in wrong("model.name=lent_plugins.empty")
    assert "cannot import 'lent_plugins.nowhere'" in wrong("model.name=lent_plugins.nowhere")
    for name in ("../..", ".tiny", "lent_plugins.", "lent_plugins/tiny.py"):  # paths, and a relative import
        assert f"model.name: unknown name {name!r}" in wrong(f"model.name={name}")
    assert wrong("model=5") == "model: expected a dict, found '5'"


def test_plugin_name_may_come_from_the_caller(tmp_path: Path, folder: Path) -> None:
    configs.load(f"{folder}/example.py")  # puts the user's folder on the path
    config = configs.load(write(tmp_path / "bare.py", "def get_config(): return {}"))
    assert config.plugin_section("model", "pretrainx.models", default_name="lent_plugins.tiny")[1].name == "lent_plugins.tiny"
    with pytest.raises(InputError, match=r"^model.name is missing; accepted: "):
        config.plugin_section("model", "pretrainx.models")


@pytest.mark.parametrize(
    ("override", "words"),
    [
        ("tran.steps=5", "unknown config section 'tran'; did you mean 'train'?"),
        ("train.stpes=5", "unknown config key 'train.stpes'; did you mean 'steps'"),
        ("train.batch_size=big", "train.batch_size: expected a whole number, found 'big'"),
        ("train.batch_size=0", "train.batch_size: expected a whole number at least 1, found 0"),
        ("train.steps.x=5", "train.steps is int 100 in"),
        ("train.steps", "expected --config.PATH=VALUE"),
        (".steps=5", "expected --config.PATH=VALUE"),
        ("train..steps=5", "expected --config.PATH=VALUE"),
        ("mesh.data=1.5", "mesh.data: expected a whole number, found '1.5'"),
        ("data.corpora.mine.sorce=x", "unknown config key 'data.corpora.mine.sorce'; did you mean 'source'"),
        ("data.corpora.mine.source=xml", "data.corpora.mine.source: unknown value 'xml'"),
        ("data.mixture={'a': 'b'}", "data.mixture.a: expected a number, found str 'b'"),
        ("data.mixture={'a'", "data.mixture: expected text or a dict"),
        ("layout={'a'", "layout: expected"),
        ("checkpoint={}x", "checkpoint: expected a dict"),
    ],
)
def test_bad_overrides(folder: Path, override: str, words: str) -> None:
    message = refusal(f"{folder}/example.py", override)
    assert words in message or (words.startswith("data.mixture: ") and message.startswith("data.mixture: expected a dict"))


@pytest.mark.parametrize(
    ("body", "words"),
    [
        ("def get_config(:\n", "line 1: SyntaxError"),
        ("x = 1\n", "defines no get_config() function"),
        ("get_config = 5\n", "defines no get_config() function"),
        ("def get_config():\n    return 5\n", "must return a ConfigDict or dict, found int 5"),
        ("def get_config():\n    x = {}\n    return x['a']\n", "line 3: KeyError: 'a'"),
        ("def get_config():\n    raise ValueError('one\\ntwo')\n", "line 2: ValueError: one two"),
        ("import no_such_module_at_all\n", "line 1: ModuleNotFoundError"),
        ("raise SystemExit(0)\n", "line 1: SystemExit"),
        ("def get_config(a, b):\n    return {}\n", "needs an argument"),
        ("def get_config():\n    x = {}\n    x['train'] = x\n    return x\n", "nested more than"),
        ("def get_config():\n    return {'train': {1: 2}}\n", "keys are text"),
        ("def get_config():\n    return {5: 2}\n", "unknown config section 5"),
        ("def get_config():\n    return {'train': 5}\n", "train: expected a dict, found int 5"),
        ("def get_config():\n    return {'train': {'seed': float('nan')}}\n", "train.seed: expected a whole number"),
        ("x = '\0'\n", "null bytes"),
    ],
)
def test_bad_files(tmp_path: Path, body: str, words: str) -> None:
    assert words in refusal(write(tmp_path / "bad.py", body))


def test_files_that_are_not_there(folder: Path, tmp_path: Path) -> None:
    assert f"did you mean '{folder}/example.py'" in refusal(f"{folder}/exmple.py")
    assert "config file not found" in refusal(str(tmp_path / "nowhere" / "x.py"))
    assert "cannot be read" in refusal(str(tmp_path))
    (tmp_path / "latin.py").write_bytes(b"x = '\xe9'\n")
    assert "latin.py" in refusal(str(tmp_path / "latin.py"))
    assert "takes no argument: write --config=" in refusal(write(tmp_path / "plain.py", "def get_config(): return {}") + ":arg")


def test_a_config_imports_its_neighbours(tmp_path: Path) -> None:
    write(tmp_path / "neighbour_of_config.py", "SEED = 7")
    file = write(tmp_path / "x.py", "import neighbour_of_config as base\ndef get_config(): return {'train': {'seed': base.SEED}}")
    assert configs.load(file).section("train", sections.Train).seed == 7


VALID: dict[str, Any] = {
    "data": {
        "mixture": {"mine": 2.0},
        "corpora": {"mine": {"source": "text", "files": "*.txt", "holdout": 0.1}},
        "objectives": {"mlm": {"rate": 0.15}},
    },
    "model": {"name": "lent_plugins.tiny", "width": 8},
    "optim": {"name": "lent_plugins.tiny", "tied": False},
    "mesh": {"data": -1, "fsdp": 2},
    "layout": "fsdp",
    "train": {"steps": "10 epochs", "batch_size": 4, "dtype": "float32", "loss_weights": {"mlm": 1}},
    "checkpoint": {"every": 10},
    "eval": {"ngram_orders": [1, 2], "split": "validation"},
    "log": {"tensorboard": False},
    "init_from": "",
}
# Written to a file with repr, so everything here must read back as itself.
ATOMS = st.none() | st.booleans() | st.integers() | st.text(max_size=6) | st.floats(allow_nan=False, allow_infinity=False) | st.just(10**30)
VALUES = st.recursive(
    ATOMS, lambda inner: st.lists(inner, max_size=2) | st.dictionaries(st.text(max_size=4) | st.integers(), inner, max_size=2), max_leaves=4
)


def paths(values: dict[str, Any], above: tuple[str, ...] = ()) -> list[tuple[str, ...]]:
    inner = [path for key, value in values.items() if isinstance(value, dict) for path in paths(value, (*above, key))]
    return [(*above, key) for key in values] + inner


@st.composite
def mutated(draw: st.DrawFn) -> dict[str, Any]:
    """The valid config with one to three values replaced, removed, renamed or added."""
    values = copy.deepcopy(VALID)
    for _ in range(draw(st.integers(1, 3))):
        path = draw(st.sampled_from(paths(values)))
        here = values
        for key in path[:-1]:
            here = here[key]
        action = draw(st.sampled_from(["replace", "remove", "rename", "add"]))
        if action == "replace":
            here[path[-1]] = draw(VALUES)
        elif action == "add":
            here[draw(st.text(max_size=4))] = draw(VALUES)
        else:
            value = here.pop(path[-1])
            if action == "rename":
                here[str(path[-1])[1:]] = value  # a drawn key may be a number
        if not values:
            break
    return values


def load_or_refuse(spec: str, overrides: list[str]) -> dict[str, Any] | None:
    try:
        return configs.load(spec, overrides).resolved()
    except InputError as error:
        assert "\n" not in str(error) and str(error).strip()
        return None


@given(values=mutated())
@settings(max_examples=300)
def test_a_mutated_config_loads_or_is_refused_in_one_sentence(
    folder: Path, tmp_path_factory: pytest.TempPathFactory, values: dict[str, Any]
) -> None:
    configs.load(f"{folder}/example.py")
    file = tmp_path_factory.getbasetemp() / "mutated.py"
    file.write_text(f"def get_config(): return {values!r}", encoding="utf-8", errors="surrogatepass")
    resolved = load_or_refuse(str(file), [])
    assert resolved is None or tuple(resolved) == configs.SECTIONS


@given(place=st.floats(0, 1), length=st.integers(0, 6), text=st.sampled_from(["", "x", " ", "\n", ":", "{", "'", "5", "\x00", "é"]))
@settings(max_examples=200)
def test_a_damaged_file_loads_or_is_refused_in_one_sentence(folder: Path, place: float, length: int, text: str) -> None:
    at = int(place * len(EXAMPLE))
    file = folder / "damaged.py"
    file.write_text(EXAMPLE[:at] + text + EXAMPLE[at + length :], encoding="utf-8")
    load_or_refuse(str(file), [])


@given(
    st.lists(st.tuples(st.sampled_from([".".join(path) for path in paths(VALID)]) | st.text(max_size=12), st.text(max_size=10)), max_size=3)
)
@settings(max_examples=200)
def test_any_overrides_load_or_are_refused_in_one_sentence(folder: Path, pairs: list[tuple[str, str]]) -> None:
    load_or_refuse(f"{folder}/example.py", [f"{path}={text}" for path, text in pairs])


def test_the_fuzzed_config_itself_is_valid(folder: Path, tmp_path: Path) -> None:
    """Otherwise the three tests above would see nothing but refusals."""
    configs.load(f"{folder}/example.py")
    resolved = load_or_refuse(write(tmp_path / "valid.py", f"def get_config(): return {VALID!r}"), [])
    assert resolved is not None and resolved["model"]["width"] == 8
    assert str(folder) in sys.path
