"""Draws what each objective makes of one and the same text: docs/objectives.md and a picture each in docs/objectives/.

The text is a window of a short document; a word is a token here, so that the pictures can be read.
"""

import argparse
import tempfile
from collections.abc import Sequence
from dataclasses import dataclass
from html import escape
from pathlib import Path
from typing import Any

import numpy as np

from pretrainx.core import cli, files, plugins
from pretrainx.core.vocabulary import SpecialIds, Vocabulary
from pretrainx.objectives.examples import from_pieces, names_of_plain_text, randomness
from pretrainx.objectives.interface import Features, Objective

TEXT = "The owl left the barn at dusk . It crossed the frozen river and found a mouse . Nobody heard it come back ."
ELSEWHERE = "Bread needs flour , water and salt . Leave the dough to rise for an hour ."
SPECIAL = ["[PAD]", "[END]", "[UNK]", "[START]", "[MASK]", "[CLS]", "[SEP]"]
SENTINELS = 40
# Options that make a short text show what a long one would; the documents of a run use the defaults.
OPTIONS: dict[str, dict[str, Any]] = {
    "masked": {"mask_rate": 0.2},
    "span_boundary": {"mask_rate": 0.25},
    "replaced_token": {"mask_rate": 0.2},
    "span_corruption": {"noise_density": 0.25},
    "ul2": {"form": "decoder"},
    "blank_infilling": {"mask_rate": 0.25},
    "fill_in_middle": {"rate": 1.0, "spm_rate": 0.0},
    "next_sentence": {"next_rate": 0.0},
    "skip_gram": {"subsample": 0.02, "num_drawn": 8},
}
LENGTHS = {"next_sentence": 24, "sentence_order": 24}  # others take the whole text
STYLES = {  # kind -> (fill, stroke, text)
    "plain": ("#f4f5f7", "#c9cdd3", "#22252a"),
    "special": ("#fbe7b2", "#c79a2b", "#5c4303"),
    "changed": ("#f8d0cc", "#c4574c", "#5f1710"),
    "predicted": ("#cfe8d5", "#4b9560", "#123d1f"),
    "prefix": ("#d6e4f7", "#5b87c5", "#16305a"),
    "number": ("#ffffff", "#ffffff", "#6b7078"),
}
LEGEND = {
    "plain": "as in the text", "prefix": "seen by all of its segment", "special": "special token",
    "changed": "another token than in the text", "predicted": "predicted",
}  # fmt: skip
WIDTH, ROW, LABEL, CHAR = 980, 25, 96, 7.3


@dataclass(frozen=True)
class Line:
    """One row of boxes: (text, kind) for each place; an empty text leaves the place free."""

    label: str
    boxes: list[tuple[str, str]]


def main(argv: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(description=__doc__, epilog="example: python tools/draw_objectives.py --out docs")
    parser.add_argument("--out", type=Path, default=Path("docs"), help="folder of objectives.md and objectives/ (default: docs)")
    args = cli.parse_args(parser, argv)
    for path, content in pages().items():
        files.write_bytes(args.out / path, content.encode())
    return 0


def pages() -> dict[str, str]:
    """{path below docs/: content} of the page and its pictures."""
    with tempfile.TemporaryDirectory() as folder:
        vocabulary = word_vocabulary(Path(folder))
        names = names_of_plain_text()
        made = {name: drawn(name, vocabulary) for name in names}
    page = [
        "# Objectives\n",
        "Made by `python tools/draw_objectives.py`; a test keeps it true. Each picture shows what an objective makes of the same",
        "text (one document, one word a token). Options are given in a config as `data.objectives.<name>.<option>`.\n",
    ]
    for name in names:
        module = plugins.find("pretrainx.objectives", "Objective", name, "")
        page += [f"## {name}\n", paragraph(module.__doc__), "", f"![{name}](objectives/{name}.svg)\n"]
        page += [paragraph(module.Objective.__doc__), ""]
        objective, options = made[name][1], OPTIONS.get(name, {})
        facts = [f"sight `{objective.sight}`", "terms " + ", ".join(f"`{t}` (weight {w:g})" for t, w in objective.terms.items())]
        facts += [f"heads {', '.join(f'`{h}`' for h in objective.needs)}"] if objective.needs else []
        facts += ["drawn with " + ", ".join(f"`{k}={v!r}`" for k, v in options.items())] if options else []
        page.append("; ".join(facts) + ".\n")
    return {"objectives.md": "\n".join(page)} | {f"objectives/{name}.svg": svg for name, (svg, _) in made.items()}


def paragraph(docstring: str | None) -> str:
    return "\n".join(line.strip() for line in (docstring or "").strip().splitlines())


def word_vocabulary(folder: Path) -> Vocabulary:
    """A token for each word of the texts, and sentinels behind them."""
    words = SPECIAL + sorted({*TEXT.split(), *ELSEWHERE.split()})
    files.write_bytes(folder / "words.txt", "\n".join(words).encode())
    special = SpecialIds(pad=0, eos=1, unk=2, bos=3, mask=4, cls=5, sep=6)
    return Vocabulary("wordpiece", len(words) + SENTINELS, special, SENTINELS, file=folder / "words.txt")


def drawn(name: str, vocabulary: Vocabulary) -> tuple[str, Objective]:
    words = (vocabulary.file or Path()).read_text(encoding="utf-8").split("\n")
    ids = {word: i for i, word in enumerate(words)}
    text = [ids[w] for w in TEXT.split()] + [vocabulary.special.eos]
    module = plugins.find("pretrainx.objectives", "Objective", name, "")
    objective: Objective = module.Objective(vocabulary, LENGTHS.get(name, 4 * len(text)), **OPTIONS.get(name, {}))
    tokens = np.zeros(objective.window_length, np.int32)
    length = min(len(text), len(tokens))
    tokens[:length] = text[:length]
    elsewhere = np.asarray([ids[w] for w in ELSEWHERE.split()], np.int32)
    window = from_pieces(tokens, [(0, length)], vocabulary.special.start, elsewhere)
    features = objective.example(window, randomness(0, f"docs:{name}", 0, 1))
    text_line = Line("text", [(word(t, vocabulary), "plain") for t in tokens[:length]])
    return picture([[text_line], *lines(features, tokens[:length], objective.aligned, vocabulary)]), objective


def word(token: int, vocabulary: Vocabulary) -> str:
    named = {vocabulary.special.eos: "[END]", vocabulary.special.start: "[START]", vocabulary.special.pad: "[PAD]"}
    if token >= vocabulary.size - vocabulary.num_sentinels:
        return f"<{vocabulary.size - 1 - token}>"
    return named.get(token) or (vocabulary.file or Path()).read_text(encoding="utf-8").split("\n")[token]


def lines(features: Features, text: np.ndarray, aligned: bool, vocabulary: Vocabulary) -> list[list[Line]]:
    """Rows that stand below each other place by place, encoder and decoder apart."""
    groups = []
    known = set(text.tolist())
    if "encoder_tokens" in features:
        used = features["encoder_segment_ids"] > 0
        read = features["encoder_tokens"][used]
        groups.append([Line("encoder", [(word(t, vocabulary), kind(t, False, known, vocabulary)) for t in read])])
    used = features["segment_ids"] > 0
    tokens, targets, weights = (features[n][used] for n in ("tokens", "targets", "loss_weights"))
    seen = features["bidirectional"][used] > 0 if "bidirectional" in features else np.zeros(len(tokens), bool)
    whole = bool(seen.all())  # an encoder: everything is seen, which needs no colour
    reads, predicts = [], []
    for i, (token, target, weight) in enumerate(zip(tokens, targets, weights, strict=True)):
        look = kind(token, bool(seen[i]) and not whole, known, vocabulary)
        if aligned and whole and look == "plain" and token != text[i]:
            look = "changed"
        reads.append((word(token, vocabulary), look))
        predicts.append((word(target, vocabulary), "predicted") if weight > 0 else ("", ""))
    rows = [Line("reads", reads)]
    rows += [Line("predicts", predicts)] if "reach" not in features else []  # below: not the words themselves
    numbers = {"token_types": "type", "positions": "position", "block_positions": "in block", "span_offset": "in span", "reach": "reach"}
    for name, label in numbers.items():
        if name in features and (name != "positions" or "block_positions" in features):
            rows.append(Line(label, [(str(n) if n or name != "span_offset" else "", "number") for n in features[name][used]]))
    groups.append(rows)
    if "reach" in features:
        groups.append([Line("predicts", [("of each word those within its reach, told from the drawn ones", "predicted")])])
        groups.append([Line("drawn", [(word(t, vocabulary), "changed") for t in features["drawn"]])])
    if "pair_label" in features:
        groups.append([Line("label", [(str(int(features["pair_label"])), "predicted")])])
    if "token_weights" in features:
        groups.append(
            [Line("then", [("the generator's guesses are put in, and each token is judged: of the text, or replaced?", "predicted")])]
        )
    return groups


def kind(token: int, seen: bool, known: set[int], vocabulary: Vocabulary) -> str:
    if token in vocabulary.special.ids or token >= vocabulary.size - vocabulary.num_sentinels:
        return "special"
    return "prefix" if seen else "plain" if token in known else "changed"


def picture(groups: Sequence[Sequence[Line]]) -> str:
    """The groups below each other as one SVG; places that do not fit a line go on in the next."""
    parts: list[str] = []
    y = 12.0
    used = {k for group in groups for line in group for text, k in line.boxes if text}
    for group in groups:
        count = max(len(line.boxes) for line in group)
        widths = [max(len(line.boxes[i][0]) if i < len(line.boxes) else 0 for line in group) * CHAR + 12 for i in range(count)]
        start = 0
        while start < count:
            stop, x = start, float(LABEL)
            while stop < count and (stop == start or x + widths[stop] <= WIDTH - 10):
                x += widths[stop] + 3
                stop += 1
            for line in group:
                if any(text for text, _ in line.boxes[start:stop]):
                    parts.append(text_at(10, y + 16, line.label if start == 0 else "", "#6b7078", "start"))
                    parts += boxes(line.boxes[start:stop], widths[start:stop], y)
                    y += ROW
            start = stop
            y += 6
        y += 8
    x = 10.0
    for name, meaning in LEGEND.items():
        if name in used:
            fill, stroke, _ = STYLES[name]
            parts.append(f'<rect x="{x:g}" y="{y:g}" width="12" height="12" rx="3" fill="{fill}" stroke="{stroke}"/>')
            parts.append(text_at(x + 17, y + 10, meaning, "#6b7078", "start", 11))
            x += 17 + 6.2 * len(meaning) + 22
    height = y + 24
    size = f'width="{WIDTH}" height="{height:g}" viewBox="0 0 {WIDTH} {height:g}"'
    head = f'<svg xmlns="http://www.w3.org/2000/svg" {size} font-family="ui-monospace, Menlo, Consolas, monospace">'
    return "\n".join([head, f'<rect width="{WIDTH}" height="{height:g}" rx="8" fill="#ffffff"/>', *parts, "</svg>", ""])


def boxes(items: Sequence[tuple[str, str]], widths: Sequence[float], y: float) -> list[str]:
    parts, x = [], float(LABEL)
    for (text, name), width in zip(items, widths, strict=False):
        if text:
            fill, stroke, ink = STYLES[name]
            parts.append(f'<rect x="{x:g}" y="{y:g}" width="{width:g}" height="21" rx="4" fill="{fill}" stroke="{stroke}"/>')
            parts.append(text_at(x + width / 2, y + 15, text, ink, "middle"))
        x += width + 3
    return parts


def text_at(x: float, y: float, text: str, ink: str, anchor: str, size: int = 12) -> str:
    return f'<text x="{x:g}" y="{y:g}" fill="{ink}" text-anchor="{anchor}" font-size="{size}">{escape(text)}</text>' if text else ""


if __name__ == "__main__":
    cli.run(main)
