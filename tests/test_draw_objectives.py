"""The page of objectives is what its command makes, and every objective is on it."""

import xml.etree.ElementTree as ElementTree
from pathlib import Path

import pytest
from support import ROOT

from pretrainx.objectives.examples import names_of_plain_text
from tools import draw_objectives

NAMES = names_of_plain_text()


@pytest.fixture(scope="module")
def pages() -> dict[str, str]:
    return draw_objectives.pages()


def test_the_page_in_docs_is_current(pages: dict[str, str]) -> None:
    for path, content in pages.items():
        assert (ROOT / "docs" / path).read_text(encoding="utf-8") == content, f"run python tools/draw_objectives.py: docs/{path}"
    drawn = {f"objectives/{path.name}" for path in Path(ROOT / "docs/objectives").iterdir()}
    assert drawn == set(pages) - {"objectives.md"}


@pytest.mark.parametrize("name", NAMES)
def test_each_picture_shows_what_is_read_and_predicted(pages: dict[str, str], name: str) -> None:
    words = [element.text for element in ElementTree.fromstring(pages[f"objectives/{name}.svg"]).iter() if element.tag.endswith("text")]
    assert {"text", "reads", "predicts", "owl", "predicted"} <= set(words)
    assert f"## {name}\n" in pages["objectives.md"]
