"""What a curation's config may say, by type; and the chain of steps and filters that each source gets by it.

Steps, filters and embeddings are plug-ins: their options are the fields of their own dataclass, checked against it here.
"""

import functools
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Annotated, Any, Literal

from pretrainx.core import config, files, plugins, schema
from pretrainx.core.errors import InputError, nearest
from pretrainx.core.schema import Range
from pretrainx.curate import presets
from pretrainx.curate.presets import Stage

FILTERS, STEPS = "pretrainx.curate.filters", "pretrainx.curate.clean"
NO_PRESET = "none"
Kind = Literal["auto", "jsonl", "parquet", "text", "lines", "html", "warc", "wikipedia", "code"]
Options = dict[str, Any]  # of plug-ins by name; None turns one off that a preset turns on


@dataclass(frozen=True)
class Input:
    """Some files of one source."""

    files: str
    format: Kind = "auto"  # auto: by the file's name


@dataclass(frozen=True)
class Reading:
    """How records become documents, and what happens with those that cannot."""

    text_key: str = "text"
    id_key: str = "id"
    source_key: str = "source"
    encoding_errors: Literal["replace", "refuse"] = "replace"
    html: Literal["builtin", "resiliparse", "trafilatura"] = "builtin"  # who finds the text of a page
    max_document_bytes: Annotated[int, Range(ge=1)] = 10_000_000
    bad_records: Literal["skip", "stop"] = "skip"
    max_bad_records: Annotated[int, Range(ge=0)] = 1000  # of the whole corpus; one more stops the run
    duplicate_ids: Literal["rename", "drop", "stop"] = "rename"
    piece_bytes: Annotated[int, Range(ge=1)] = 64_000_000  # a task's share: large files of lines are cut, small ones joined


@dataclass(frozen=True)
class Source:
    """What is different for one source."""

    preset: str | None = None
    clean: Options = field(default_factory=dict)
    filters: Options = field(default_factory=dict)


@dataclass(frozen=True)
class Deduplicate:
    """None turns a stage off, a dict turns it on with these options."""

    exact: dict[str, Any] | None = field(default_factory=dict)
    near: dict[str, Any] | None = field(default_factory=dict)
    semantic: dict[str, Any] | None = None
    passages: dict[str, Any] | None = None  # lines or paragraphs that were there before are cut out of documents
    against: tuple[str, ...] = ()  # indexes that earlier runs left: what is a copy of a document of theirs is dropped (exact, near)
    write_index: bool = False  # leave WORKDIR/index, of what was kept, for the `against` of later runs


@dataclass(frozen=True)
class Output:
    shard_bytes: Annotated[int, Range(ge=1)] = 100_000_000  # of text, before compression
    gzip_level: Annotated[int, Range(ge=1, le=9)] = 3
    dropped_characters: Annotated[int, Range(ge=0)] = 200  # of a dropped document's text that is kept with the reason
    examples: Annotated[int, Range(ge=0)] = 3  # of each reason and source, in the report


@dataclass(frozen=True)
class Settings:
    inputs: str | dict[str, str | Input] = ""
    reading: Reading = field(default_factory=Reading)
    preset: str = NO_PRESET  # steps and filters by one name, see curate/presets.py
    clean: Options = field(default_factory=dict)
    filters: Options = field(default_factory=dict)
    sources: dict[str, Source] = field(default_factory=dict)
    deduplicate: Deduplicate = field(default_factory=Deduplicate)
    decontaminate: dict[str, Any] | None = None
    output: Output = field(default_factory=Output)


Chain = tuple[Stage, ...]


def as_json(chain: Chain) -> list[Any]:
    """What results depend on: every option, and the content of the files that a part reads."""
    return [[stage.kind, stage.name, schema.to_dict(stage.part), *_files(stage.part)] for stage in chain]


def _files(part: Any) -> list[dict[str, str]]:
    names = part.files() if hasattr(part, "files") else ()
    return [{name: _sha256(name, files.stamp(name)) for name in names}] if names else []


@functools.lru_cache(maxsize=1024)
def _sha256(path: str, _: tuple[int, ...]) -> str:
    return files.sha256_file(path)


@dataclass(frozen=True)
class Chains:
    """The chain of each source that has one of its own, and that of all others."""

    default: Chain
    by_source: Mapping[str, Chain]

    def of(self, source: str) -> Chain:
        return self.by_source.get(source, self.default)

    def as_json(self, sources: Iterable[str] | None = None) -> dict[str, Any]:
        """What results depend on; of some `sources` only, the chains that these get."""
        if sources is not None:
            return {source: as_json(self.of(source)) for source in sorted(sources)}
        found = {name: as_json(chain) for name, chain in self.by_source.items() if chain != self.default}
        return {"default": as_json(self.default), "by_source": found}

    def split(self) -> tuple["Chains", "Chains"]:
        """The steps that come before any filter, and the rest."""
        pairs = {name: _split(chain) for name, chain in {"": self.default, **self.by_source}.items()}
        first, rest = ({name: pair[i] for name, pair in pairs.items()} for i in range(2))
        return Chains(first.pop(""), first), Chains(rest.pop(""), rest)


def _split(chain: Chain) -> tuple[Chain, Chain]:
    at = next((i for i, stage in enumerate(chain) if stage.kind == "filter"), len(chain))
    return chain[:at], chain[at:]


def load(spec: str, overrides: Iterable[str]) -> dict[str, Any]:
    """What a config file and the command line say, for `parse`."""
    return config.read(spec, overrides, schema.hints(Settings))[3]


def parse(raw: Mapping[str, Any]) -> Settings:
    """The settings of a config, checked by type; the options of plug-ins are checked by `chains`."""
    settings = schema.parse(Settings, raw, "")
    if not settings.inputs:
        raise InputError("inputs is missing: which files to read, such as --config.inputs='data/*.jsonl.gz'")
    return settings


def chains(settings: Settings) -> Chains:
    """The cleaning steps and filters of each source: those of its preset, with the options that the config says otherwise."""
    common = [("clean", "clean", settings.clean), ("filters", "filter", settings.filters)]
    default = _chain(settings.preset, "preset", common)
    by_source = {}
    for name, source in settings.sources.items():
        path = f"sources.{name}"
        own = [(f"{path}.clean", "clean", source.clean), (f"{path}.filters", "filter", source.filters)]
        preset, where = (settings.preset, "preset") if source.preset is None else (source.preset, f"{path}.preset")
        by_source[name] = _chain(preset, where, [*common, *own])
    return Chains(default, by_source)


def _chain(preset: str, where: str, layers: Sequence[tuple[str, str, Options]]) -> Chain:
    """The preset's stages with the options of all layers, later ones speaking last. What a preset does not have is put before its first
    filter (a step) or behind all (a filter)."""
    if preset not in (NO_PRESET, *presets.PRESETS):
        raise InputError(f"{where}: unknown preset {preset!r}; {nearest(preset, [NO_PRESET, *presets.PRESETS])}")
    entries: list[tuple[str, str, dict[str, Any], str]] = []  # (kind, name, options, where it was named)
    for entry in presets.PRESETS.get(preset, ()):
        kind = "clean" if "clean" in entry else "filter"
        entries.append((kind, entry[kind], {key: value for key, value in entry.items() if key != kind}, where))
    for path, kind, layer in layers:
        for name, options in layer.items():
            here = f"{path}.{name}"
            _plugin(kind, name, here)
            mine = [entry for entry in entries if entry[:2] == (kind, name)]
            if options is None:
                entries = [entry for entry in entries if entry not in mine]
                continue
            given = schema.coerce(dict[str, Any], options, here)
            if mine:
                entries = [(*entry[:2], {**entry[2], **given}, here) if entry in mine else entry for entry in entries]
            else:
                first = next((i for i, entry in enumerate(entries) if entry[0] == "filter"), len(entries))
                entries.insert(first if kind == "clean" else len(entries), (kind, name, given, here))
    made = []
    for kind, name, options, here in entries:
        part = schema.parse(_plugin(kind, name, here), options, here)
        made.append(Stage("clean" if kind == "clean" else "filter", name, part))
    return tuple(made)


def _plugin(kind: str, name: str, where: str) -> Any:
    package, attribute = (STEPS, "Step") if kind == "clean" else (FILTERS, "Filter")
    return getattr(plugins.find(package, attribute, name, where), attribute)
