"""What all kinds of tables have in common: columns and rows, a header that is found, and what is said about them."""

from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from operator import itemgetter
from pathlib import Path
from typing import Any, NamedTuple

from hierarchical.console import shown
from hierarchical.errors import InputError, Problems, some
from hierarchical.formats import LABEL_WORDS, TEXT_WORDS

HEAD = 200  # lines or records at the beginning that tell what a table is like
IN_LIST = 20  # characters of a cell that is shown in place of a column's name
HEADER_WITHIN = 20  # rows among which the header is looked for
MOST_COLUMNS = 16_384  # as in a spreadsheet
HEADER_WORDS = {*TEXT_WORDS, *LABEL_WORDS, *"id index class category title body target review comment".split()}

Rows = Iterator[tuple[int, Sequence[Any]]]  # line or row number, cells


@dataclass(frozen=True)
class Dialect:
    """What the user says about a table; None: to be found out."""

    delimiter: str | None = None
    encoding: str | None = None
    header: bool | None = None
    sheet: str | None = None


class Tally:
    """What was met and how often, with the place of the first."""

    def __init__(self) -> None:
        self.counts = Counter[str]()
        self.first: dict[str, str] = {}

    def add(self, what: str, where: str, count: int = 1) -> None:
        self.counts[what] += count
        self.first.setdefault(what, where)


class Table(NamedTuple):
    """A table that is open.

    said     what it was found to be
    columns  names, or numbers as text where the table has no header
    read     (column numbers, Tally, Problems) -> an iterator of (line, tuple of the cells in these columns)
    first    the first row of a table without a header
    """

    path: Path
    said: str
    columns: list[str]
    read: Callable[[Sequence[int], Tally, Problems], Iterator[tuple[int, tuple]]]
    first: Sequence[Any] = ()

    def find(self, name: str, flag: str) -> list[int]:
        """The numbers of the columns of this name; else of this number, or of this name in another case.

        Raises InputError, with the columns there are, if there is none.
        """
        if found := [i for i, column in enumerate(self.columns) if column == name]:
            return found
        if name.isdecimal() and int(name) < len(self.columns):
            return [int(name)]
        plain = name.strip().casefold()
        if found := [i for i, column in enumerate(self.columns) if column.strip().casefold() == plain]:
            return found
        raise InputError(f"{self.path}: {flag} {name}: no such column. It has: {self.listed()}. ({self.said})")

    def listed(self) -> str:
        """The columns, with their numbers, for a message; without a header, with what the first row has there."""
        names = [column if column != str(i) else "" for i, column in enumerate(self.columns)]
        for i, cell in enumerate(self.first):
            names[i] = f"({shown(_text(cell), IN_LIST)})"
        return some([f"{i} {name}".strip() for i, name in enumerate(names)], 30)


def select(
    path: Path, rows: Rows, numbers: Sequence[int], width: int, tally: Tally, problems: Problems
) -> Iterator[tuple[int, tuple]]:
    """Yield (line, the chosen cells as a tuple). Rows may be shorter than `width`; longer ones are a problem."""
    chosen = _getter(numbers)
    for line, cells in rows:
        if len(cells) != width:
            if len(cells) > width and any(cells[width:]):
                more = f"{len(cells)} cells in this row, {width} in the others"
                problems.add(path, line, f"{more}; is a delimiter within a cell, which then must stand in quotes?")
                continue
            if len(cells) < width:
                if any(cells):
                    tally.add(
                        "rows with fewer cells than the others; what is missing counts as blank", f"{path}:{line}"
                    )
                cells = [*cells, *[""] * (width - len(cells))]
        yield line, chosen(cells)


def _getter(numbers: Sequence[int]) -> Callable[[Sequence[Any]], tuple]:
    if len(numbers) == 1:
        (number,) = numbers
        return lambda cells: (cells[number],)
    return itemgetter(*numbers)


def find_header(
    rows: Sequence[Sequence[Any]], dialect: Dialect, wanted: Sequence[str], path: Path
) -> tuple[int, list[str]]:
    """(rows down to the header, which is the last of them, or 0; names of the columns) of a table's first rows.

    The header is the first row that has all the wanted names; numbers name columns, too. Else it is the first row that
    is not blank, if there are no wanted names, and it has a word that such rows have.
    """
    filled = [i for i, cells in enumerate(rows) if any(_text(cell) for cell in cells)]
    if not filled:
        raise InputError(f"{path}: no row in it.")
    names = {name.strip().casefold() for name in wanted if not name.isdecimal()}
    if dialect.header is False:
        return 0, [str(i) for i in range(max(map(len, rows)))]

    def folded(i: int) -> set[str]:
        return {_text(cell).casefold() for cell in rows[i]}

    at = next((i for i in filled if names and names <= folded(i)), None)
    if at is None and not names and folded(filled[0]) & HEADER_WORDS:
        at = filled[0]
    if at is None and names:  # it will be said what is missing in it
        at = filled[0]
    if at is None:
        return 0, [str(i) for i in range(max(map(len, rows)))]
    columns = [_text(cell) for cell in rows[at]]
    while columns and not columns[-1]:
        columns.pop()
    return at + 1, columns


def _text(cell: Any) -> str:
    return "" if cell is None else str(cell).strip()
