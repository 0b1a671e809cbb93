"""A trained model's score on a held-out split: computed on its mesh, shown as a table, kept beside the run."""

import json
from pathlib import Path

from rich.console import Console
from rich.table import Table

from pretrainx.core.errors import InputError
from pretrainx.data.loader import Mixture
from pretrainx.evaluate.perplexity import Evaluator
from pretrainx.evaluate.results import Items
from pretrainx.train import curves
from pretrainx.train.trained import Trained


def score(model: Trained, held_out: Mixture) -> tuple[dict[str, float], dict[str, Items]]:
    """(numbers, bits of documents by source) of every token of the split; they do not depend on `eval.batch_size` or mesh."""
    if held_out.vocabulary != model.vocabulary:
        raise InputError(
            "the held-out caches were made with another vocabulary than the checkpoint's; run tools/cache_tasks.py with its config"
        )
    batch_size, stride = model.experiment.eval_batch_size, model.experiment.eval.stride
    evaluator = Evaluator(model.skeleton, held_out, batch_size, show=True, stride=stride, by_document=True)
    return evaluator.score(model.params)


def keep(folder: Path, step: int, found: dict[str, float]) -> None:
    """Adds the numbers to the run's metrics and draws its curves anew."""
    with open(folder / "metrics.jsonl", "a", encoding="utf-8") as stream:
        stream.write(json.dumps({"step": step} | found) + "\n")
    curves.draw(folder / "metrics.jsonl", folder / "curves.png")


def show(folder: Path, step: int, found: dict[str, float], counted: dict[str, float]) -> None:
    """The table on stdout."""
    sources = [name.removeprefix("eval/").removesuffix("/loss") for name in found if name.endswith("/loss")]
    orders = sorted({int(name.split("/")[2].removeprefix("ngram_")) for name in counted})
    strides = {int(value) for name, value in found.items() if name.endswith("/stride")}
    windows = f" (windows {strides.pop()} tokens apart)" if strides else ""
    table = Table(title=f"{folder}, step {step}: bits per byte on held-out text{windows}, beside counted n-grams", title_justify="left")
    table.add_column("source")
    for heading in ("bytes", "tokens", "right", "perplexity", "model", *(f"n={n}" for n in orders)):
        table.add_column(heading, justify="right")
    for source in sources:
        bits = found.get(f"eval/{source}/bits_per_byte")
        table.add_row(
            source,
            f"{found.get(f'eval/{source}/bytes', 0):,.0f}",
            f"{found[f'eval/{source}/tokens']:,.0f}",
            f"{100 * found[f'eval/{source}/accuracy']:.1f} %" if f"eval/{source}/accuracy" in found else "-",
            f"{found[f'eval/{source}/perplexity']:.2f}",
            f"[bold]{bits:.4f}[/]" if bits is not None else f"loss {found[f'eval/{source}/loss']:.4f}",
            *(
                f"{counted[f'eval/{source}/ngram_{n}/bits_per_byte']:.2f}" if f"eval/{source}/ngram_{n}/bits_per_byte" in counted else "-"
                for n in orders
            ),
        )
    Console(width=max(118, Console().width)).print(table)  # a log is not a terminal of 80 columns
