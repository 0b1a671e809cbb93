"""The page of an autopsy: the loss up to the step, the rows by how far they stand out, and the text of those that do."""

import math
from collections.abc import Sequence

from pretrainx.core import page, svg
from pretrainx.core.page import Cell, Html, Section, tag
from pretrainx.train.autopsy import Autopsy, Finding

SHOWN_CHARACTERS = 1500  # of a document's piece
NAMED = 3  # documents of a row in the table


def render(autopsy: Autopsy, chosen: Sequence[Finding], command: str) -> str:
    """The whole page; `chosen` rows are on the skip list, and `command` goes on without them."""
    worst = autopsy.findings[0]
    named = [
        ("Run", page.breakable(str(autopsy.folder))),
        ("Replayed from", f"step {autopsy.base:,}"),
        ("Loss of the step", f"{autopsy.loss:.4f}"),
        ("The run had", "not recorded" if autopsy.recorded is None else f"{autopsy.recorded:.4f}"),
        ("A spike above", f"{autopsy.limit:.4f}" if math.isfinite(autopsy.limit) else "too few losses to say"),
        ("Gradient norm", f"{autopsy.gradient:.3g}"),
        ("Rows on the skip list", f"{len(chosen)} of {len(autopsy.findings)}"),
    ]
    head = tag(
        "header", tag("p", "Autopsy of a training step", class_="eyebrow"), tag("h1", f"Step {autopsy.step:,}"), page.facts(named),
    )  # fmt: skip
    points: dict[float, float] = {float(s): x for s, x in autopsy.history.items()} | {float(autopsy.step): autopsy.loss}
    levels = [svg.Level("limit", autopsy.limit)] if math.isfinite(autopsy.limit) else []
    curve = svg.curves("Loss up to the step", [svg.Curve("loss", points)], levels)
    rows_note = (
        "Loss is the mean of the row's own predicted tokens; share is what the row adds to the loss of the batch; gradient is the norm of "
        "its part of the batch's gradient; deviations say how far loss or gradient lies above the median row (robust standard deviations)."
    )
    sections = [
        Section("loss", "Loss", page.figures([page.figure("Loss up to the step", curve)], "wide")),
        Section("rows", "Rows", table(autopsy.findings, chosen), rows_note),
        Section("texts", "Texts", [texts(f) for f in (chosen or (worst,))], "The rows that stand out, document by document."),
        Section("go-on", "Go on without them", tag("pre", command), "Rows that a checkpoint was already fed cannot be left out any more."),
    ]
    return page.page(f"Autopsy of step {autopsy.step}", head, page.contents(sections), [section.html() for section in sections])


def table(findings: Sequence[Finding], chosen: Sequence[Finding]) -> Html:
    """Rows by how far they stand out."""
    largest = max((f.gradient for f in findings if math.isfinite(f.gradient)), default=0.0) or 1.0
    rows: list[list[Cell | page.Content]] = []
    for f in findings:
        documents = [part.piece.id for part in f.parts]
        names = ", ".join(documents[:NAMED]) + (f" and {len(documents) - NAMED} more" if len(documents) > NAMED else "")
        rows.append([
            Cell(f"row {f.row.row}", small=f"number {f.row.number:,}", strong=f in chosen),
            Cell(names, small=f.row.source, style="white-space:normal;text-align:left"),
            Cell(f"{f.loss:.3f}", f.loss), Cell(f"{f.share:.3f}", f.share),
            Cell(f"{f.gradient:.3g}", f.gradient, small=svg.meter(min(f.gradient / largest, 1.0) if math.isfinite(f.gradient) else 1.0)),
            Cell(f"{f.deviations:.1f}", f.deviations),
        ])  # fmt: skip
    return page.table("Rows of the step", ("Row", "Documents", "Loss", "Share", "Gradient", "Deviations"), rows)


def texts(finding: Finding) -> Html:
    """The documents of a row."""
    row, made = finding.row, []
    for part in finding.parts:
        piece = part.piece
        loss = "" if part.loss is None else f", loss {part.loss:.3f}"
        cut = piece.text[:SHOWN_CHARACTERS] + (" ..." if len(piece.text) > SHOWN_CHARACTERS else "")
        made += [
            tag("h3", page.breakable(piece.id)),
            tag("p", f"tokens {piece.start:,} to {piece.end:,} of {piece.document_tokens:,}, {piece.origin}{loss}", class_="note"),
            tag("pre", cut),
        ]
    return tag("div", tag("p", tag("strong", f"row {row.row}"), f" (number {row.number:,}), {row.source}, window {row.window:,}"), made)
