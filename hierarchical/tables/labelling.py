"""From the cells of label columns to paths in a label tree: names, class numbers, lists, levels, ends of paths.

What stands for a row's labels is a key, which many rows share; so keys are understood once each, when all are known.
"""

import re
import shlex
from collections import Counter
from collections.abc import Callable, Hashable, Iterable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, NamedTuple

from hierarchical.errors import InputError, some
from hierarchical.folders import Paths, closure
from hierarchical.labels import GUESSED, SEPARATOR, LabelTree, clean_name, join_levels, separator_in
from hierarchical.tables.taxonomies import Levels, Names
from hierarchical.tables.text_files import open_text

Raw = Hashable  # a label as it stands in a cell: a name, a class number, or a tuple with the names of its levels
NUMBER = re.compile(r"([0-9]{1,9})(\.0+)?")  # 3.0 is what a 3 becomes in a column that has blank cells as well
PRINTED = re.compile(r"[\[(].*[\])]", re.DOTALL)  # a list, as Python or NumPy print it, or as JSON has it
ITEM = re.compile(r"""'((?:[^'\\]|\\.)*)'|"((?:[^"\\]|\\.)*)"|([^\s,'"\[\]()]+)""")


class Odd(str):
    """What no label can be, as text."""


class Fault(NamedTuple):
    """A label that can't be understood; message is called only if it is shown."""

    label: str
    message: Callable[[], str]


class Understood(NamedTuple):
    """paths: the labels of a key, with all their ancestors; faults: those that can't be understood."""

    paths: Paths
    faults: tuple[Fault, ...]
    notes: tuple[str, ...]  # what was done to them


@dataclass
class Labelling:
    """How labels are written.

    delimiter    what stands between the labels of a cell; None: each cell is a label, or a list
    separator    what stands between the levels of a label
    class_names  number -> name, where labels are class numbers; tree: the labels that there are, None: all names are
    match        a label may be the end of a path; dag: if "copy" or "first", for one that several paths end in
    """

    delimiter: str | None = None
    separator: str = SEPARATOR
    class_names: dict[int, str] | None = None
    tree: LabelTree | None = None
    paths: Sequence[Levels] = ()
    match: bool = False
    dag: str | None = None
    said: list[str] = field(default_factory=list)  # what was found out

    def understand(self, keys: Iterable[Sequence[Any]]) -> list[Understood]:
        """What each key means, in their order. A key has a cell, or a tuple with the cells of all levels, per item."""
        keys = list(keys)
        cells = [cell for key in keys for cell in key if isinstance(cell, str) and cell.strip()]
        printed = bool(cells) and not self.delimiter and all(PRINTED.fullmatch(cell.strip()) for cell in cells)
        if printed:
            self.said.append("each cell is a list")
        split = [self._labels(key, printed) for key in keys]
        first = self._first_number(split) if self.class_names else 0
        self.names, self.found = Names(self.paths), dict[Raw, Any]()
        understood = []
        for labels, notes in split:
            found = [self._find(label, first) for label in labels]
            faults = tuple(one for one in found if isinstance(one, Fault))
            paths = closure(path for one in found if not isinstance(one, Fault) for path in one)
            mended = any(_is_untidy(label) for label in labels)
            understood.append(Understood(paths, faults, (*notes, "labels with blanks mended") if mended else notes))
        return understood

    # ---- from cells to labels ----

    def _labels(self, key: Sequence[Any], printed: bool) -> tuple[list[Raw], tuple[str, ...]]:
        """(the labels that stand in a key, notes)."""
        labels: list[Raw] = []
        notes = set[str]()
        for cell in key:
            if isinstance(cell, Levelled):
                path = tuple(clean_name(name) for name in cell)
                depth = next((depth for depth, name in enumerate(path) if not name), len(path))
                labels += [Levelled(cell[:depth])] if depth else []
                if any(path[depth:]):
                    notes.add("a name behind a blank level: the path ends at the blank")
            elif isinstance(cell, tuple):
                labels += [Levelled(one) if isinstance(one, tuple) else one for one in cell if one not in (None, "")]
            elif isinstance(cell, str) and not isinstance(cell, Odd):
                labels += [label for label in self._split(cell, printed) if label.strip()]
            elif cell is not None:
                labels.append(cell)
        return labels, tuple(notes)

    def _split(self, cell: str, printed: bool) -> list[str]:
        if self.delimiter:
            return [label.strip() for label in cell.split(self.delimiter)]
        if printed:
            return [re.sub(r"\\(.)", r"\1", one or two) or three for one, two, three in ITEM.findall(cell)]
        return [cell]

    def _first_number(self, split: Iterable[tuple[list[Raw], Any]]) -> int:
        """The number of the first class: 1 if there is no class 0, and the highest is that of classes; else 0."""
        names = self.class_names or {}
        numbers = {number for labels, _ in split for label in labels if (number := _number(label)) is not None}
        if numbers and sorted(names) == list(range(len(names))) and 0 not in numbers and max(numbers) == len(names):
            self.said.append(f"class numbers from 1 to {len(names)}")
            return 1
        return 0

    # ---- from labels to paths ----

    def _find(self, label: Raw, first: int) -> Any:
        """The paths of a label, a list of Levels, or a Fault."""
        if label not in self.found:
            self.found[label] = self._look_up(label, first)
        return self.found[label]

    def _look_up(self, label: Raw, first: int) -> Any:
        shown = " > ".join(map(str, label)) if isinstance(label, tuple) else str(label)
        if isinstance(label, Odd | bool) or isinstance(label, tuple) and not all(_is_name(one) for one in label):
            return Fault(shown, lambda: f"{shown[:60]!r} where the name of a label must stand")
        name = self._named(label, first) if self.class_names and not isinstance(label, tuple) else label
        if name is None:
            names = self.class_names or {}
            return Fault(shown, lambda: f"{shown[:60]!r} is no class: --class_names has {len(names)}, {_range(names)}")
        if isinstance(name, tuple):
            levels = tuple(clean_name(str(one)) for one in name)
        else:
            levels = tuple(clean_name(one) for one in str(name).split(self.separator))
            levels = _without_ends(levels)
        try:
            path = join_levels(levels)
        except ValueError as error:
            told = str(error)
            return Fault(shown, lambda: told)
        return self._in_tree(levels, path) if self.tree else [levels]

    def _named(self, label: Raw, first: int) -> str | None:
        """The name of a class number, or the name itself, if it is that of a class; None: neither."""
        number, names = _number(label), self.class_names or {}
        if number is not None:
            return names.get(number - first)
        return str(label) if clean_name(str(label)) in names.values() else None

    def _in_tree(self, levels: Levels, path: str) -> Any:
        found = self.names.ending(levels) if self.match else []
        deepest = max(found, key=len, default=())
        if all(deepest[: len(one)] == one for one in found) and found:  # one path, in which names repeat
            return [deepest]
        if self.tree and path in self.tree.index:
            return [tuple(self.tree.segments(self.tree.index[path]))]
        if not found:
            return Fault(path, lambda: self._unknown(levels, path))
        if self.dag in ("copy", "first"):
            return found if self.dag == "copy" else found[:1]
        shown = [repr(join_levels(one)) for one in found]
        return Fault(
            path,
            lambda: (
                f"{path!r} is the end of {len(found)} paths: {', '.join(shown)}; write the full path, or give "
                "--dag first for the first of them, --dag copy for all"
            ),
        )

    def _unknown(self, levels: Levels, path: str) -> str:
        """What is wrong with a label that is not in the tree."""
        ending = self.names.ending(levels)
        if len(ending) == 1 and not self.match:
            return f"unknown label {path!r}; --match_names takes it for {join_levels(ending[0])!r}"
        mark = separator_in(levels) if len(levels) == 1 else None
        if mark and self.names.ending(tuple(clean_name(name) for name in path.split(mark))):
            return f"unknown label {path!r}; if {mark!r} stands between levels, give --separator {shlex.quote(mark)}"
        return f"unknown label {path!r}; {(self.tree and self.tree.guess(path)) or 'none is like it'}"


class Levelled(tuple):
    """The names of a label's levels, which stand each in a place of its own."""


def _is_name(value: Any) -> bool:
    return isinstance(value, str | int) and not isinstance(value, Odd | bool)


def _number(label: Raw) -> int | None:
    if isinstance(label, int) and not isinstance(label, bool):
        return label
    match = NUMBER.fullmatch(label.strip()) if isinstance(label, str) else None
    return int(match[1]) if match else None


def _range(names: dict[int, str]) -> str:
    return f"{min(names)} to {max(names)}: {some(list(names.values()), GUESSED)}"


def _is_untidy(label: Raw) -> bool:
    """Whether there are blanks where none should be."""
    parts = label if isinstance(label, tuple) else (label,)
    return any(isinstance(part, str) and part != clean_name(part) for part in parts)


def _without_ends(levels: Levels) -> Levels:
    """Levels as in /Arts/Music/ without the blank ones at the ends."""
    filled = [i for i, name in enumerate(levels) if name]
    return levels[filled[0] : filled[-1] + 1] if filled else levels


# ---- cells -----------------------------------------------------------------------------------------------------------


def frozen(value: Any) -> Any:
    """A cell that can be a part of a key: lists become tuples, what can be no label is Odd."""
    if isinstance(value, list | tuple):
        return tuple(frozen(item) for item in value)
    if isinstance(value, float):  # what numbers become beside blank cells
        return None if value != value else int(value) if value.is_integer() else Odd(value)
    return Odd(value) if isinstance(value, dict) else value


NO = {"", "0", "0.0", "false", "no", "n", "f", "-"}
YES = {"1", "1.0", "true", "yes", "y", "t", "x", "✓", "✔", "√", "是"}


def is_yes(cell: Any) -> bool | None:
    """Whether the cell of a one-hot column says that the label applies; counts say so, too. None: it says neither."""
    if cell is None or isinstance(cell, bool):
        return bool(cell)
    text = str(cell).strip().casefold()
    if text in NO or text in YES:
        return text in YES
    match = NUMBER.fullmatch(text)
    return int(match[1]) > 0 if match else None


# ---- class names -----------------------------------------------------------------------------------------------------


def read_class_names(path: str | Path, encoding: str | None = None) -> dict[int, str]:
    """Class number -> name, from a file with a name on each line, the first that of class 0, or number<TAB>name.

    Raises InputError for numbers or names that are there twice.
    """
    lines = [line.strip("\ufeff\r\n") for line in open_text(path, encoding).lines()]
    while lines and not lines[-1].strip():
        lines.pop()
    cells = [[clean_name(cell) for cell in line.split("\t")] for line in lines]
    if cells and all(len(row) == 2 and row[0].isdecimal() for row in cells):
        pairs = [(int(number), name) for number, name in cells]
    else:
        pairs = list(enumerate(clean_name(line) for line in lines))
    if blank := next((number for number, name in pairs if not name), None):
        raise InputError(f"{path}: class {blank} has no name.")
    for what, values in (("number", [number for number, _ in pairs]), ("name", [name for _, name in pairs])):
        twice = [str(value) for value, count in Counter(values).items() if count > 1]
        if twice:
            raise InputError(f"{path}: a {what} of a class is there more than once: {some(twice)}.")
    if not pairs:
        raise InputError(f"{path}: no class in it; it has the name of a class on each line.")
    return dict(pairs)
