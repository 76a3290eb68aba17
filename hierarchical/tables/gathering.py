"""Rows out of tables: which columns hold texts and labels, and what stands in them, held as small as it can be."""

from array import array
from collections.abc import Callable, Hashable, Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from fnmatch import fnmatchcase
from pathlib import Path
from typing import Any

from hierarchical.console import progress_bar
from hierarchical.errors import InputError, Problems
from hierarchical.formats import LABEL_WORDS, TEXT_WORDS, can_be_written
from hierarchical.tables import open_table
from hierarchical.tables.labelling import Levelled, Odd, frozen, is_yes
from hierarchical.tables.table import Dialect, Table, Tally


@dataclass(frozen=True)
class Columns:
    """The columns that are asked for, by name or number.

    texts   joined by blanks; label: a column of labels; groups: columns of levels, a path each; onehot: a label each,
            names or patterns
    """

    texts: Sequence[str] = ()
    label: str | None = None
    groups: Sequence[Sequence[str]] = ()
    onehot: Sequence[str] = ()

    def wanted(self) -> list[str]:
        """The names that a table's header must have."""
        plain = [name for name in self.onehot if not set(name) & set("*?[")]
        return [
            *self.texts,
            *([self.label] if self.label else []),
            *(n for group in self.groups for n in group),
            *plain,
        ]


@dataclass
class Rows:
    """The rows of some tables: texts, and for each the number of its key, of its line and of its file.

    keys: key -> its number; rows of several Rows share them
    """

    keys: dict[Hashable, int]
    texts: list[str] = field(default_factory=list)
    key_of: array = field(default_factory=lambda: array("q"))
    lines: array = field(default_factory=lambda: array("q"))
    files: list[tuple[int, Path]] = field(default_factory=list)  # (number of its first row, path)
    tables: list[tuple[Table, str]] = field(default_factory=list)  # with a word on the columns that were taken
    labelled: bool = False  # whether one of the tables has columns of labels

    def places(self) -> Iterator[str]:
        """Yield file:line of every row."""
        ends = [start for start, _ in self.files[1:]] + [len(self.texts)]
        for (start, path), end in zip(self.files, ends):
            name = f"{path}:"
            for line in self.lines[start:end]:
                yield f"{name}{line}"

    def where(self, row: int) -> str:
        """file:line of a row."""
        path = next(path for start, path in reversed(self.files) if start <= row)
        return f"{path}:{self.lines[row]}"


def gather(
    paths: Iterable[Path],
    columns: Columns,
    dialect: Dialect,
    keys: dict[Hashable, int],
    tally: Tally,
    problems: Problems,
) -> Rows:
    """Read the rows of all tables; those without a text are there, too. Faults of cells go to `problems`."""
    rows = Rows(keys)
    for path in paths:
        table = open_table(path, dialect, columns.wanted())
        layout = Layout(table, columns)
        rows.tables.append((table, layout.said))
        rows.labelled = rows.labelled or layout.labelled
        rows.files.append((len(rows.texts), path))
        found = table.read(layout.numbers, tally, problems)
        for line, cells in progress_bar(None, path.name, iterable=found, unit=" rows", delay=1):
            try:
                text, key = layout.text(cells), layout.key(cells)
            except InputError as error:
                problems.add(path, line, str(error))
                continue
            rows.texts.append(text)
            rows.key_of.append(keys.setdefault(key, len(keys)))
            rows.lines.append(line)
    return rows


class Layout:
    """Where a table has what is asked for; what is not asked for is looked for by the names that people give it.

    numbers  of the columns that are read, those of the texts first
    """

    def __init__(self, table: Table, columns: Columns):
        self.table = table
        texts = [number for name in columns.texts for number in table.find(name, "--text_column")]
        texts = texts or self._usual(TEXT_WORDS, 0)[:1]
        if not texts:
            raise InputError(f"{table.path}: --text_column names the column of the texts. It has: {table.listed()}.")
        self.n_texts, labels = len(texts), list[int]()
        self.make: Callable[[tuple], Hashable] = lambda cells: ()
        self.made: dict[tuple, Hashable] = {}  # key by cells, where these are all text
        if columns.label is not None:
            labels = table.find(columns.label, "--label_column")
        elif not columns.groups and not columns.onehot:
            labels = [number for number in self._usual(LABEL_WORDS, 1) if number not in texts]
        if labels:
            self.make = self._cells
        if columns.groups:
            groups = [[self._one(name, "--label_columns") for name in group] for group in columns.groups]
            labels = [number for group in groups for number in group]
            self.sizes = [len(group) for group in groups]
            self.make = self._levels
        if columns.onehot:
            labels = self._matching(columns.onehot)
            self.names = [table.columns[number] for number in labels]
            self.answers: dict[Any, bool | None] = {}
            self.make = self._yes
        self.numbers = [*texts, *labels]
        self.labelled = bool(labels)
        named = [[table.columns[number] for number in numbers] for numbers in (texts, labels)]
        self.said = f"text: {' + '.join(named[0])}; labels: {', '.join(named[1]) or 'none'}"

    def _usual(self, words: Sequence[str], place: int) -> list[int]:
        """The columns with one of these names; without a header, the one of this place in rows of this project."""
        columns = self.table.columns
        found = [number for number, name in enumerate(columns) if name.strip().casefold() in words]
        if not found and columns == [str(number) for number in range(len(columns))] and place < len(columns) <= 2:
            return [place]
        return found

    def _one(self, name: str, flag: str) -> int:
        found = self.table.find(name, flag)
        if len(found) > 1:
            raise InputError(f"{self.table.path}: {flag} {name}: the name of {len(found)} columns; give numbers.")
        return found[0]

    def _matching(self, patterns: Sequence[str]) -> list[int]:
        numbers: list[int] = []
        for pattern in patterns:
            found = [number for number, name in enumerate(self.table.columns) if fnmatchcase(name, pattern)]
            numbers += found or [self._one(pattern, "--onehot_columns")]
        return list(dict.fromkeys(numbers))

    # ---- cells ----

    def text(self, cells: tuple) -> str:
        """The text of a row. Raises InputError for an object in its place, and for what no file can hold."""
        if self.n_texts == 1 and isinstance(cells[0], str):
            text = cells[0].strip()
        else:
            text = " ".join(part for cell in cells[: self.n_texts] if (part := self._words(cell).strip()))
        if not can_be_written(text):
            raise InputError(f"the text {text[:40]!r} holds half a character, which no file can hold; correct it")
        return text

    def _words(self, cell: Any) -> str:
        if isinstance(cell, list | tuple):
            return " ".join(map(self._words, cell))
        if isinstance(cell, dict):
            raise InputError("an object where a text must stand; name the field in it with a dot, as in meta.text")
        return "" if cell is None else str(cell)

    def key(self, cells: tuple) -> Hashable:
        """What stands for the labels of a row; see labelling.py. Raises InputError for cells that can't."""
        labels = cells[self.n_texts :]
        if not all(isinstance(cell, str) for cell in labels):
            return self.make(labels)
        if labels not in self.made:
            self.made[labels] = self.make(labels)
        return self.made[labels]

    def _cells(self, labels: tuple) -> Hashable:
        return tuple(map(frozen, labels))

    def _levels(self, labels: tuple) -> Hashable:
        rest: Iterator[Any] = iter(labels)
        return tuple(Levelled(self._words(next(rest)) for _ in range(size)) for size in self.sizes)

    def _yes(self, cells: tuple) -> Hashable:
        labels = []
        for name, cell in zip(self.names, cells):
            if isinstance(cell, list | tuple | dict):
                cell = Odd(cell)
            if cell not in self.answers:
                self.answers[cell] = is_yes(cell)
            if self.answers[cell] is None:
                raise InputError(f"the column {name!r} holds {str(cell)[:40]!r}, where 0 or 1 must stand")
            if self.answers[cell]:
                labels.append(name)
        return (tuple(labels),)
