"""Records out of files: JSON lines, tab-separated tables, Arrow, Parquet, plain lines; values by their role, with errors that name them.

A record is a mapping from keys to values, whatever the file; which key has which role is told apart from the file.
"""

import json
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from pretrainx.core.errors import InputError, nearest
from pretrainx.curate import readers

Fields = Mapping[str, str | tuple[str, ...]]  # role -> its key, or the keys under which published files have it


@dataclass(frozen=True)
class Record:
    """One record; `fields` says under which key a role's value lies, `where` names file and number in errors."""

    values: Mapping[str, Any]
    fields: Fields
    where: str

    def key(self, role: str) -> str:
        """The role's key: of several, the first that is there."""
        keys = self.fields.get(role, "")
        options = (keys,) if isinstance(keys, str) else keys
        return next((key for key in options if key in self.values), options[0])

    def has(self, role: str) -> bool:
        """Whether there is a value, and not an empty one."""
        return self.values.get(self.key(role)) not in (None, "")

    def require(self, roles: Iterable[str]) -> None:
        for role in roles:
            if self.key(role) not in self.values:
                raise InputError(f"{self.where}: no field {self.key(role)!r}; {nearest(self.key(role), map(str, self.values))}")

    def value(self, role: str) -> Any:
        self.require([role])
        return self.values[self.key(role)]

    def text(self, role: str) -> str:
        value = self.value(role)
        if not isinstance(value, str) or not value.strip():
            raise self.wrong(role, "a text that is not empty")
        return value

    def texts(self, role: str) -> list[str]:
        """A list of two texts or more; of {"text": [...], "label": [...]}, the texts."""
        value = self.value(role)
        found = value.get("text") if isinstance(value, dict) else value
        if not isinstance(found, list) or len(found) < 2 or not all(isinstance(text, str) and text.strip() for text in found):
            raise self.wrong(role, "a list of two texts or more, none empty")
        return found

    def labels(self, role: str) -> list[str]:
        """Of {"text": [...], "label": [...]}, the labels, one for each text; of a plain list, none."""
        value = self.value(role)
        if not isinstance(value, dict):
            return []
        found = value.get("label")
        if not isinstance(found, list) or len(found) != len(self.texts(role)):
            raise self.wrong(role, "as many labels as texts")
        return list(map(str, found))

    def number(self, role: str, first: int, last: int) -> int:
        """A whole number in this range, also as text ("1"), or as a truth value (false is 0)."""
        value = self.value(role)
        if isinstance(value, str) and value.strip().isdecimal():
            value = int(value)
        if not isinstance(value, int) or not first <= value <= last:
            raise self.wrong(role, f"a whole number from {first} to {last}")
        return int(value)

    def wrong(self, role: str, wanted: str) -> InputError:
        shown = json.dumps(self.values[self.key(role)], ensure_ascii=False, default=str)
        return InputError(
            f"{self.where}: field {self.key(role)!r} is {shown if len(shown) < 60 else shown[:56] + ' ...'}, and {wanted} is wanted"
        )


def read_records(pattern: str, fields: Fields, where: str, limit: int = 0) -> list[Record]:
    """The records of all files of a glob, see `read_file`.

    With a `limit`, so many of them, evenly over all, since files are often sorted by kind. `where` is the flag in errors.

    Raises:
      InputError: no such file, none but empty lines in it, or a record is not JSON.
    """
    paths = readers.list_files(pattern, where=where)
    found = [item for path in paths for item in (_lines(path) if _is_lines(path) else read_file(path))]
    if not found:
        raise InputError(f"{where}: {pattern!r} holds no record, only empty lines")
    if limit and limit < len(found):
        found = [found[i * len(found) // limit] for i in range(limit)]
    return [Record(_parse(values, place), fields, place) for values, place in found]


def read_file(path: Path, columns: Sequence[str] = ()) -> Iterator[tuple[Mapping[str, Any], str]]:
    """(record, "file, record number") of one file, by its name.

    .jsonl            an object a line
    .tsv              a line of column names, then a record a line, no quoting (as GLUE's files); `columns` names those of a
                      table that has no such line
    .arrow, .parquet  rows of tables (Arrow: the stream that `datasets` keeps on disk, or an Arrow file)
    .txt              {"text": line}
    The first four may end in .gz or .zst where they are lines of text.

    Raises:
      InputError: a record that is none; the sentence names file and number.
    """
    suffixes = [suffix for suffix in path.suffixes if suffix not in (".gz", ".zst")]
    kind = suffixes[-1] if suffixes else ""
    if kind in (".arrow", ".parquet"):
        yield from _tables(path, kind)
    elif kind == ".tsv":
        yield from _table_of_lines(path, columns)
    else:
        for values, place in _lines(path):
            yield _parse(values, place), place


def _is_lines(path: Path) -> bool:
    return not {".tsv", ".arrow", ".parquet"} & set(path.suffixes)


def _lines(path: Path) -> list[tuple[Any, str]]:
    """(line, place) of a file without its empty lines; of a .txt file, ({"text": line}, place)."""
    plain = ".txt" in path.suffixes
    return [({"text": text} if plain else text, place) for text, place in _text_lines(path)]


def _text_lines(path: Path) -> Iterator[tuple[str, str]]:
    for document in readers.read(path, readers.Format(kind="text", document="line")):
        if document.text.strip():
            yield document.text, ", record ".join(document.origin.rsplit("#", 1))


def _parse(values: Any, place: str) -> Mapping[str, Any]:
    """A record from a line of JSON; what is one already stays."""
    if isinstance(values, Mapping):
        return values
    try:
        found = json.loads(values)
    except (ValueError, RecursionError) as error:
        raise InputError(f"{place}: not valid JSON: {error}") from None
    if not isinstance(found, dict):
        raise InputError(f"{place}: a {type(found).__name__} where a JSON object is wanted")
    return found


def _table_of_lines(path: Path, columns: Sequence[str]) -> Iterator[tuple[Mapping[str, Any], str]]:
    names = list(columns)
    for line, place in _text_lines(path):
        cells = line.removeprefix("\ufeff").split("\t")
        if not names:
            names = cells
            continue
        if len(cells) < len(names):  # more there may be: GLUE's MNLI and QQP have such lines, and the columns come first
            raise InputError(f"{place}: {len(cells)} columns where {len(names)} are wanted ({', '.join(names[:6])})")
        yield dict(zip(names, cells, strict=False)), place


def _tables(path: Path, kind: str) -> Iterator[tuple[Mapping[str, Any], str]]:
    try:
        import pyarrow as pa
        import pyarrow.parquet
    except ImportError:
        raise InputError(f"{path}: {kind[1:]} files need pyarrow: pip install 'pretrainx[tasks]'") from None
    number = 0
    try:
        if kind == ".parquet":
            batches: Any = pa.parquet.ParquetFile(path).iter_batches()
        else:
            source = pa.memory_map(str(path))
            with open(path, "rb") as stream:
                is_file = stream.read(6) == b"ARROW1"
            reader = pa.ipc.open_file(source) if is_file else pa.ipc.open_stream(source)
            batches = (reader.get_batch(i) for i in range(reader.num_record_batches)) if is_file else reader
        for batch in batches:
            for row in batch.to_pylist():
                number += 1
                yield row, f"{path}, record {number}"
    except (pa.ArrowException, OSError) as error:
        raise InputError(f"{path}, after record {number}: not a readable {kind[1:]} file: {str(error).splitlines()[0]}") from None
