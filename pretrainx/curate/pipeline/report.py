"""The report: one page that shows what went in, what came out of each stage, and why the rest did not."""

import json
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from pretrainx.core.logs import duration
from pretrainx.core.page import Cell, Content, Html, Section, breakable, contents, details, facts, figure, figures, legend, table, tag
from pretrainx.core.page import page as whole_page
from pretrainx.core.svg import meter
from pretrainx.curate.pipeline.read import NOT_SAID

STAGES = {
    "read": "Read and cleaned", "ids_drop": "Duplicate ids", "filter": "Filtered", "exact": "Exact copies", "near": "Near copies",
    "semantic": "Copies in meaning", "passages": "Repeated passages", "decontaminate": "Decontaminated",
}  # fmt: skip
SHOWN_INPUTS = 200  # files named in the page; the manifest has all
SHOWN_REASONS = 40  # of one source
SHOWN_LANGUAGES = 40


def page(manifest: Mapping[str, Any]) -> str:
    """The page of a curation's manifest."""
    flow = manifest["flow"]
    totals = {stage: _total(sources) for stage, sources in flow.items()}
    first, last = next(iter(totals.values()))["in"], list(totals.values())[-1]["out"]
    sections = [
        Section("funnel", "What each stage left", _funnel(totals), "Records and bytes of text that go on after each stage."),
        Section("sources", "By source", _sources(flow)),
        Section("reasons", "Why documents were dropped", _reasons(flow), "Of each source, what each reason took of its records."),
        Section("lengths", "Lengths", _lengths(manifest["lengths"]), "Characters of a document, before filters and at the end."),
    ]
    languages = manifest["languages_before"], manifest["languages"]
    if {*languages[0], *languages[1]} - {NOT_SAID}:
        note = f"As the filter of languages found them, else as the records say ({NOT_SAID}: as for what filters before it dropped)."
        sections.append(Section("languages", "Languages", _languages(*languages), note))
    if manifest["clusters"]:
        sections.append(Section("copies", "Copies", _clusters(manifest["clusters"]), "Documents that say the same, one of which stays."))
    if manifest.get("decontamination"):
        sections.append(Section("leaks", "Evaluation sets", _leaks(manifest["decontamination"]), "Items found in the corpus."))
    if manifest["cleaned"]:
        sections.append(Section("repairs", "Repairs", _counts("Repairs by kind", ("repair", "times"), manifest["cleaned"])))
    sections += [
        Section("bad", "What could not be read", _bad(manifest["bad_records"])),
        Section("examples", "Examples of what was dropped", _examples(manifest["examples"])),
        Section("inputs", "Inputs", _inputs(manifest["inputs"])),
        Section("settings", "Settings", _settings(manifest)),
    ]
    kept = last["documents"] / max(first["documents"], 1)
    header = tag(
        "header", tag("p", "Curation", class_="eyebrow"), tag("h1", f"{last['documents']:,} of {first['documents']:,} records kept"),
        facts([
            ("Records in", f"{first['documents']:,}"), ("Documents out", f"{last['documents']:,}"), ("Kept", f"{kept:.1%}"),
            ("Text in", _size(first["bytes"])), ("Text out", _size(last["bytes"])), ("Input files", f"{len(manifest['inputs']):,}"),
            ("Output files", f"{len(manifest['documents']):,}"), ("Time", duration(sum(manifest["seconds"].values()))),
        ]),
    )  # fmt: skip
    return whole_page("Curation report", header, contents(sections), [section.html() for section in sections])


def _total(sources: Mapping[str, Any]) -> dict[str, dict[str, int]]:
    return {side: {unit: sum(flow[side][unit] for flow in sources.values()) for unit in ("documents", "bytes")} for side in ("in", "out")}


def _funnel(totals: Mapping[str, Any]) -> Html:
    first = next(iter(totals.values()))["in"]
    steps = [("Input", first), *((STAGES.get(stage, stage), total["out"]) for stage, total in totals.items())]
    rows: list[list[Cell | Content]] = []
    for i, (name, now) in enumerate(steps):
        before = steps[max(i - 1, 0)][1]
        cells: list[Cell | Content] = [name]
        for unit, text in (("documents", f"{now['documents']:,}"), ("bytes", _size(now["bytes"]))):
            share = now[unit] / max(first[unit], 1)
            cells.append(Cell(text, float(now[unit]), small=[f"{share:.1%}", tag("div", meter(share))]))
        lost = before["documents"] - now["documents"]
        cells.append(Cell(f"−{lost:,}" if lost else "", float(lost)))
        rows.append(cells)
    return table("Documents and bytes after each stage", ("stage", "documents", "text", "dropped here"), rows)


def _sources(flow: Mapping[str, Any]) -> Html:
    stages = list(flow)
    rows: list[list[Cell | Content]] = []
    for source in sorted(flow[stages[0]]):
        first, last = flow[stages[0]][source]["in"], flow[stages[-1]][source]["out"]
        share = last["documents"] / max(first["documents"], 1)
        shares = [f"{flow[stage][source]['out']['documents']:,}" for stage in stages]
        kept = Cell(f"{share:.1%}", share, small=meter(share))
        rows.append([breakable(source), f"{first['documents']:,}", *shares, kept, _size(last["bytes"])])
    names = [STAGES.get(stage, stage).lower() for stage in stages]
    return table("Documents of each source after each stage", ("source", "in", *names, "kept", "text out"), rows)


def _reasons(flow: Mapping[str, Any]) -> Html:
    made: list[Content] = []
    first = next(iter(flow.values()))
    for source in sorted(first):
        records = max(first[source]["in"]["documents"], 1)
        found = [
            (stage, reason, drop["documents"], drop["bytes"])
            for stage, sources in flow.items()
            for reason, drop in sources.get(source, {"dropped": {}})["dropped"].items()
        ]
        found.sort(key=lambda row: (-row[2], row[:2]))
        if not found:
            continue
        rows: list[list[Cell | Content]] = []
        for stage, reason, number, size in found[:SHOWN_REASONS]:
            share = Cell(f"{number / records:.2%}", number / records, small=meter(number / records))
            rows.append([breakable(reason), STAGES.get(stage, stage), f"{number:,}", share, _size(size)])
        made += [tag("h3", source), table(f"Reasons, {source}", ("reason", "stage", "documents", "of its records", "text"), rows)]
    return tag("div", made or tag("p", "Nothing was dropped.", class_="note"))


def _lengths(lengths: Mapping[str, Sequence[int]]) -> Html:
    before, after = lengths["before"], lengths["after"]
    used = [i for i, count in enumerate(before) if count] + [i for i, count in enumerate(after) if count]
    if not used:
        return tag("p", "No document.", class_="note")
    low, high = min(used), max(used)
    names = [str(2 ** (i // 2)) if i < 20 else f"{2 ** (i // 2) / 1000:.0f}k" for i in range(high + 1)]
    bars = [(names[i] if i % 2 == 0 else "", before[i], after[i]) for i in range(low, high + 1)]
    picture = _histogram("Characters of a document", bars)
    both = [legend([(7, "before"), (0, "kept")]), picture]
    return figures([figure("Documents by length", both, "characters, each step 1.41 times")], "wide")


def _histogram(title: str, bars: Sequence[tuple[str, int, int]]) -> Html:
    """Pairs of bars, the second in front of the first."""
    width, height, bottom = 440, 200, 24
    most = max(max(a, b) for _, a, b in bars)
    step = width / len(bars)
    drawn: list[Content] = []
    for i, (name, before, after) in enumerate(bars):
        for value, colour in ((before, "c7"), (after, "c0")):
            tall = value / most * (height - bottom - 8)
            said = tag("title", f"{name or 'between'}: {before:,} before, {after:,} kept")
            place = {"x": round(i * step + 1, 1), "y": round(height - bottom - tall, 1)}
            faint = "opacity:.45" if colour == "c7" else None
            bar = tag("rect", said, width=round(step - 2, 1), height=round(tall, 1), class_="bar", style=faint, **place)
            drawn.append(tag("g", bar, class_=colour))
        if name and (len(bars) < 24 or i % 4 == 0):
            drawn.append(tag("text", name, x=round((i + 0.5) * step, 1), y=height - 6, text_anchor="middle"))
    summary = f"{title}: {sum(bar[1] for bar in bars):,} before, {sum(bar[2] for bar in bars):,} kept"
    return tag("svg", tag("title", summary), drawn, viewBox=f"0 0 {width} {height}", role="img", aria_label=summary)


def _languages(before: Mapping[str, int], after: Mapping[str, int]) -> Html:
    names = sorted({*before, *after}, key=lambda name: (-before.get(name, 0), name))
    totals = [max(sum(some.values()), 1) for some in (before, after)]
    rows: list[list[Cell | Content]] = []
    for name in names[:SHOWN_LANGUAGES]:
        cells: list[Cell | Content] = [name]
        for some, total in zip((before, after), totals, strict=True):
            share = some.get(name, 0) / total
            cells.append(Cell(f"{some.get(name, 0):,}", float(some.get(name, 0)), small=[f"{share:.1%}", tag("div", meter(share))]))
        rows.append(cells)
    made = table("Documents by language", ("language", "before", "kept"), rows)
    more = len(names) - SHOWN_LANGUAGES
    return tag("div", made, tag("p", f"And {more:,} more languages; manifest.json has all.", class_="note") if more > 0 else None)


def _clusters(clusters: Mapping[str, int]) -> Html:
    most = max(clusters.values())
    rows: list[list[Cell | Content]] = []
    groups: dict[str, list[int]] = {}
    for size, count in clusters.items():
        name = size if int(size) < 10 else f"{2 ** (int(size).bit_length() - 1)} and more"
        entry = groups.setdefault(name, [0, 0])
        entry[0] += count
        entry[1] += count * (int(size) - 1)
    for name, (count, gone) in groups.items():
        rows.append([name, Cell(f"{count:,}", float(count), small=meter(count / most)), f"{gone:,}"])
    return table("Clusters of copies by size", ("documents in a cluster", "clusters", "documents dropped"), rows)


def _leaks(told: Mapping[str, Any]) -> Html:
    rows: list[list[Cell | Content]] = []
    for name, found in told["sets"].items():
        hits = Cell(f"{found['found']:,}", float(found["found"]), strong=found["found"] > 0)
        rows.append([name, f"{found['items']:,}", f"{found['looked_for']:,}", hits])
    note = f"{told['documents_with_leaks']:,} of {told['documents']:,} documents held {told['spans']:,} stretches; see leaks.jsonl.gz."
    return tag("div", table("Evaluation sets", ("set", "items", "looked for", "found"), rows), tag("p", note, class_="note"))


def _counts(caption: str, columns: tuple[str, str], found: Mapping[str, int]) -> Html:
    return table(caption, columns, [[breakable(name), f"{count:,}"] for name, count in found.items()])


def _bad(bad: Mapping[str, Any]) -> Html:
    told = [
        ("Records at fault", f"{bad['faults']:,}"),
        ("Documents with characters replaced", f"{bad['documents_with_replaced_characters']:,}"),
        ("Characters replaced", f"{bad['characters_replaced']:,}"),
    ]
    return tag("div", facts(told), details("The first of them", [tag("pre", line) for line in bad["first"]]) if bad["first"] else None)


def _examples(examples: Mapping[str, Any]) -> Html:
    made: list[Content] = []
    for source, stages in sorted(examples.items()):
        made.append(tag("h3", source))
        for stage, reasons in stages.items():
            for reason, rows in sorted(reasons.items()):
                made.append(details(f"{STAGES.get(stage, stage)}: {reason}", list(_shown(rows))))
    return tag("div", made or tag("p", "Nothing was dropped.", class_="note"))


def _shown(rows: Sequence[Mapping[str, Any]]) -> Iterator[Html]:
    for row in rows:
        said = [tag("b", row["id"]), f"  {row['origin']}"]
        if "duplicate_of" in row:
            said.append(f"\nlike {row['duplicate_of']} ({row['similarity']:.0%})")
        if "sentence" in row:
            said.append(f"\n{row['sentence']}")
        yield tag("pre", said, "\n", row["text"])


def _inputs(inputs: Sequence[Mapping[str, Any]]) -> Html:
    rows = [
        [breakable(str(one["file"])), one["source"] or "by record", one["format"], _size(one["bytes"]), tag("code", one["sha256"][:16])]
        for one in inputs[:SHOWN_INPUTS]
    ]
    more = f"and {len(inputs) - SHOWN_INPUTS:,} more, see manifest.json" if len(inputs) > SHOWN_INPUTS else None
    shown = table("Input files", ("file", "source", "format", "size", "sha256"), rows)
    return tag("div", details(f"{len(inputs):,} files", shown, open_=len(inputs) <= 8), tag("p", more, class_="note") if more else None)


def _settings(manifest: Mapping[str, Any]) -> Html:
    times = table("Seconds by stage", ("stage", "seconds"), [[stage, f"{seconds:,.1f}"] for stage, seconds in manifest["seconds"].items()])
    packages = table("Versions", ("package", "version"), [[name, version] for name, version in manifest["versions"].items()])
    text = json.dumps(manifest["settings"], indent=1, ensure_ascii=False)
    return tag("div", details("Settings as JSON", tag("pre", text)), details("Seconds by stage", times), details("Versions", packages))


def _size(size: float) -> str:
    """Bytes for people.

    >>> _size(999), _size(1234567)
    ('999 B', '1.23 MB')
    """
    for unit in ("B", "kB", "MB", "GB", "TB"):
        if size < 1000 or unit == "TB":
            return f"{size:.0f} B" if unit == "B" else f"{size:.3g} {unit}"
        size /= 1000
    raise AssertionError
