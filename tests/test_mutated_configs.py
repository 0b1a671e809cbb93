"""Ten thousand bad configs: each is taken, or refused in one sentence; nothing else ever comes out, and none takes long.

What is tried is the whole way of a command's config up to the point where data or devices are touched: file, command line, sections,
plug-ins, what belongs together, durations.
"""

import copy
import random
import time
from pathlib import Path
from typing import Any

import pytest
from support import settings

from pretrainx.core import config as configs
from pretrainx.core import schema
from pretrainx.core.config import Config
from pretrainx.core.errors import InputError
from pretrainx.train import experiment as experiments

COUNT, SEED = 12_000, 11
SLOWEST_S = 5.0  # of one config, on a machine that is busy with others
WORDS = (
    "",
    " ",
    "0",
    "-1",
    "1e400",
    "nan",
    "inf",
    "true",
    "None",
    "{}",
    "[",
    "{'a': 1}",
    "decoder",
    "muon",
    "10%",
    "-5 tokens",
    "3 epochs",
    "é\0",
    "a" * 5000,
)
ATOMS: tuple[Any, ...] = (
    None, True, False, 0, 1, -1, 2, 7, 10**30, -(10**30), 0.0, -0.5, 1e300, 1e-300, float("nan"), float("inf"), *WORDS, (), [], {}, {1: 2},
    {"a": {"b": []}}, [1, "x"], b"bytes", object, 1j, "\ud800", "../..", "os.system", "pretrainx.models.decoder",
)  # fmt: skip


def paths(values: dict[str, Any], above: tuple[str, ...] = ()) -> list[tuple[str, ...]]:
    inner = [path for key, value in values.items() if isinstance(value, dict) for path in paths(value, (*above, str(key)))]
    return [(*above, str(key)) for key in values] + inner


def full() -> dict[str, Any]:
    """A config that names every value that there is, so that each can be mutated."""
    values = settings("cache", optim={"name": "muon"})
    parsed = experiments.load(Config("tiny", "tiny.py", values, values))
    resolved = parsed.resolved()
    for derived in ("dtype", "param_dtype", "remat"):
        del resolved["model"][derived]
    resolved["data"]["corpora"] = {"topics": schema.to_dict(configs.sections.Corpus())}
    return resolved


def mutate(draw: random.Random, values: dict[str, Any], found: list[tuple[str, ...]]) -> None:
    """One to four values replaced, removed, renamed, added, or swapped with another's."""
    for _ in range(draw.randint(1, 4)):
        path, here = draw.choice(found), values
        for key in path[:-1]:
            here = here.get(key, {}) if isinstance(here, dict) else {}
        if not isinstance(here, dict) or path[-1] not in here:
            continue
        action = draw.randrange(6)
        if action == 0:
            del here[path[-1]]
        elif action == 1:
            name = path[-1]
            at = draw.randrange(len(name))
            here[name[:at] + draw.choice("xyz_.") + name[at + 1 :]] = here.pop(name)
        elif action == 2:
            here[draw.choice(WORDS) or "new"] = draw.choice(ATOMS)
        elif action == 3 and isinstance(here[path[-1]], (int, float)) and not isinstance(here[path[-1]], bool):
            here[path[-1]] = draw.choice((-1, 0, 1, 3, 1000, 10**9)) * draw.choice((1, here[path[-1]], 0.5))
        else:
            here[path[-1]] = draw.choice(ATOMS)


def tried(values: dict[str, Any], overrides: list[str]) -> str:
    """The refusal of a config, "" if it is taken."""
    try:
        said = tuple(overrides)
        raw = configs._copy(values)
        configs._check_top(raw, configs.SECTIONS)
        for override in said:
            configs._apply(raw, override, "tiny.py", configs.SECTIONS)
        config = Config("tiny", "tiny.py", values, raw, said)
        for name, cls in configs.TYPED.items():
            config.section(name, cls)
        for name in configs.SINGLE:
            config._single(name)
        experiment = experiments.load(config)
        experiment.resolved()
        experiments.lengths(experiment, 1000)
    except InputError as error:
        return str(error)
    return ""


@pytest.mark.slow
def test_ten_thousand_mutations(tmp_path: Path) -> None:
    draw, whole = random.Random(SEED), full()
    assert tried(whole, []) == ""  # else all that follows would be refused for one reason
    found = paths(whole)
    refused: dict[str, int] = {}
    taken, slowest = 0, 0.0
    for number in range(COUNT):
        values, overrides = copy.deepcopy(whole), []
        if number % 3:
            mutate(draw, values, found)
        if number % 3 != 1:  # by the command line, whose values are text
            for _ in range(draw.randint(1, 3)):
                path = ".".join(draw.choice(found))
                overrides.append(
                    f"{path}={draw.choice(WORDS)}" if draw.random() < 0.9 else draw.choice((path, f".{path}=1", f"{path}.x=1", "="))
                )
        began = time.perf_counter()
        try:
            said = tried(values, overrides)
        except BaseException as error:
            raise AssertionError(f"number {number} of seed {SEED}: {overrides} {values}") from error
        slowest = max(slowest, time.perf_counter() - began)
        if said:
            assert "\n" not in said and len(said.strip()) > 10, said
            where = said.partition(":")[0][:40]
            refused[where] = refused.get(where, 0) + 1
        else:
            taken += 1
    assert sum(refused.values()) + taken == COUNT and taken > COUNT // 50 and len(refused) > 200
    assert slowest < SLOWEST_S
    print(f"{COUNT} mutations: {taken} taken, {COUNT - taken} refused in {len(refused)} ways, the slowest took {slowest:.3f} s")
