"""Rows of a run's order that are left out: those after them move up, so a step still has all of its rows.

Row numbers stay those of the order, whatever is left out; what moves is the place at which a row is fed.
"""

import itertools
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from pretrainx.core import files
from pretrainx.core.errors import InputError
from pretrainx.data.order import Order, Rows

FORMAT = 1
LIMIT = 1 << 62  # of a row number: places are counted in int64


@dataclass(frozen=True)
class Skips:
    """Stretches [start, stop) of row numbers that are not fed: sorted, apart, none empty."""

    stretches: tuple[tuple[int, int], ...] = ()

    def __len__(self) -> int:
        return sum(stop - start for start, stop in self.stretches)

    def __contains__(self, number: int) -> bool:
        return any(start <= number < stop for start, stop in self.stretches)

    def number(self, place: int) -> int:
        """The number of the row that is fed at a place, both counted from the start of the run.

        >>> [Skips(((2, 4),)).number(place) for place in range(4)]
        [0, 1, 4, 5]
        """
        for start, stop in self.stretches:
            if place < start:
                break
            place += stop - start
        return place

    def place(self, number: int) -> int | None:
        """Where a row is fed; None if it is left out.

        >>> [Skips(((2, 4),)).place(number) for number in range(6)]
        [0, 1, None, None, 2, 3]
        """
        return None if number in self else number - sum(min(stop, number) - start for start, stop in self.stretches if start < number)

    def rows(self, order: Order, first: int, last: int) -> Rows:
        """Addresses of the rows that are fed at places [first, last)."""
        if not self.stretches or first == last:
            return order.rows(first, last)
        start, stop = self.number(first), self.number(last - 1) + 1
        edges = [start, *itertools.chain(*((max(a, start), min(b, stop)) for a, b in self.stretches if a < stop and b > start)), stop]
        parts = [order.rows(a, b) for a, b in zip(edges[::2], edges[1::2], strict=True) if a < b]
        return Rows(*(np.concatenate([getattr(part, field) for part in parts]) for field in ("number", "source", "epoch", "window")))

    def with_rows(self, other: "Skips", fed: int) -> "Skips":
        """These and those of `other` that come after the first `fed` places: what was fed cannot be left out any more."""
        position = self.number(fed)
        return merged([*self.stretches, *((max(start, position), stop) for start, stop in other.stretches)])

    def to_json(self) -> list[list[int]]:
        return [list(stretch) for stretch in self.stretches]


NONE = Skips()


def merged(stretches: Iterable[tuple[int, int]]) -> Skips:
    """Skips of any stretches, which may overlap, touch or be empty.

    >>> merged([(5, 7), (1, 2), (2, 3), (6, 9), (4, 4)]).stretches
    ((1, 3), (5, 9))
    """
    made: list[tuple[int, int]] = []
    for start, stop in sorted(stretch for stretch in stretches if stretch[0] < stretch[1]):
        if made and start <= made[-1][1]:
            made[-1] = (made[-1][0], max(stop, made[-1][1]))
        else:
            made.append((start, stop))
    return Skips(tuple(made))


def parse(value: Any, where: str) -> Skips:
    """Skips of [[start, stop], ...], as `to_json` gives them.

    Raises:
      InputError: it is no such list; `where` names it.
    """
    if not isinstance(value, list):
        raise InputError(f"{where}: expected a list of [first row, row after the last], found {type(value).__name__}")
    for item in value:
        whole = isinstance(item, list) and len(item) == 2 and all(type(number) is int for number in item)
        if not whole or not 0 <= item[0] < item[1] < LIMIT:
            raise InputError(f"{where}: expected [first row, row after the last] with 0 <= first < last, found {str(item)[:60]}")
    return merged((start, stop) for start, stop in value)


def read(path: Path | str) -> Skips:
    """The rows of a skip list as tools/autopsy.py writes it: {"skip_list": 1, "rows": [[start, stop], ...]}.

    Raises:
      InputError: there is none, or it holds something else.
    """
    values = files.read_json(path, "train.skip_rows: skip list")
    if not isinstance(values, dict) or values.get("skip_list") != FORMAT:
        raise InputError(f"train.skip_rows: {path} is no skip list of this version; expected {{'skip_list': {FORMAT}, 'rows': [...]}}")
    return parse(values.get("rows"), f"train.skip_rows: {path}")


def write(path: Path | str, skips: Skips, **why: Any) -> None:
    """Writes a skip list; `why` is kept beside the rows for people."""
    files.write_json(path, {"skip_list": FORMAT, "rows": skips.to_json()} | why)
