"""Labelled rows: their one reader, in three formats, and their writer.

*.txt     `text<TAB>label,label,...`, one row per line
*.jsonl   {"text": "...", "labels": ["...", ...]}  labels may hold commas, [] means none applies
*.csv     a header line, then text, label, label, ... with CSV quoting
"""

import csv
import json
import re
from collections import Counter
from collections.abc import Iterable, Iterator, Sequence
from itertools import chain
from logging import Logger
from pathlib import Path
from typing import NamedTuple

import numpy as np

from hierarchical.errors import SHOWN, InputError, Problems, some
from hierarchical.files import atomic_write, read_lines, require_file
from hierarchical.labels import LabelTree

Parsed = tuple[int, str | None, list[str] | None]  # line, text, label names


class Row(NamedTuple):
    """labels: class indices in ascending order, or names (see read_rows); None: the row is not labelled."""

    line: int
    text: str
    labels: tuple | None


class Rows(NamedTuple):
    """A labelled file in memory: texts list[str], labels list[tuple[int]], and what was passed over."""

    texts: list
    labels: list
    blank: int
    unlabelled: int

    def multi_hot(self, n_labels: int, rows: Iterable[int] | None = None) -> np.ndarray:
        """The targets of the given rows (default: all) as bool [n, L]."""
        return multi_hot(self.labels if rows is None else [self.labels[i] for i in rows], n_labels)


def multi_hot(labels: Sequence[Sequence[int]], n_labels: int) -> np.ndarray:
    """Tuples of class indices -> bool [N, n_labels]."""
    targets = np.zeros((len(labels), n_labels), bool)
    rows = np.repeat(np.arange(len(labels)), np.array([len(row) for row in labels], np.int64))
    targets[rows, np.fromiter(chain.from_iterable(labels), np.int64, len(rows))] = True
    return targets


def load_rows(path: str | Path, tree: LabelTree | None, unlabelled: str = "error") -> Rows:
    """Read a labelled file whole. Raises InputError with every bad row; blank rows are skipped and counted.

    tree: as in read_rows
    unlabelled: "error" or "skip", for rows that have a text but no label column.
    """
    path, problems, seen = Path(path), Problems(), Counter[str]()
    require_file(path, "A row is: text<TAB>label,label,...")
    rows = list(read_rows(path, tree, problems, seen))
    if unlabelled == "error":
        for row in rows:
            if row.labels is None:
                problems.add(path, row.line, "no label: a row is text<TAB>label,label,...")
    problems.raise_if_any()
    rows = [row for row in rows if row.labels is not None]
    if not rows:
        raise InputError(f"{path}: no labelled row in it. A row is: text<TAB>label,label,...")
    return Rows([row.text for row in rows], [row.labels for row in rows], seen["blank"], seen["unlabelled"])


def load_reported(path: str | Path, tree: LabelTree | None, logger: Logger) -> Rows:
    """The labelled rows of a file; what is passed over is reported."""
    rows = load_rows(path, tree, unlabelled="skip")
    if rows.blank or rows.unlabelled:
        logger.warning(f"{Path(path).name}: skipped {rows.blank} blank and {rows.unlabelled} unlabelled lines")
    return rows


def report_rows(name: str, rows: Rows, tree: LabelTree, logger: Logger) -> None:
    """Warn about the lines of a file that were passed over, labels without their parent, and labels without a row."""
    if rows.blank or rows.unlabelled:
        logger.warning(f"{name}: skipped {rows.blank} blank and {rows.unlabelled} unlabelled lines")
    open_rows = [i for i, labels in enumerate(rows.labels) if tree.closure(labels) != list(labels)]
    if open_rows:
        logger.warning(
            f"{name}: {len(open_rows)} rows have a label without its parent, first "
            f"{rows.texts[open_rows[0]][:30]!r}; the parent counts as absent. `python check_data.py` lists them."
        )
    unseen = np.flatnonzero(~rows.multi_hot(len(tree)).any(0))
    if len(unseen):
        names = some([tree.labels[i] for i in unseen])
        logger.warning(f"{name}: no row for {len(unseen)} of {len(tree)} labels ({names})")


def read_rows(path: str | Path, tree: LabelTree | None, problems: Problems, seen: Counter) -> Iterator[Row]:
    """Yield the good rows of a labelled file, of any size, in order.

    tree: its labels are the known ones; None: any name is a label, and Row.labels are the names as they stand.
    Bad rows go to `problems` (Problems); blank and unlabelled ones are counted in `seen` (a Counter).
    """
    for line, text, names in parse_rows(path, problems):
        if text is None:
            seen["blank"] += 1
        elif not text.strip():
            problems.add(path, line, "the text is empty")
        elif names is None:
            seen["unlabelled"] += 1
            yield Row(line, text.strip(), None)
        elif all(name in tree.index if tree else name for name in names):
            labels = tuple(sorted({tree.index[name] for name in names}) if tree else names)
            yield Row(line, text.strip(), labels)
        else:  # what will not be shown is not put into words, since looking for near labels takes its time
            problems.add(path, line, label_faults(names, tree) if problems.count < SHOWN else "")


def label_faults(names: Sequence[str], tree: LabelTree | None) -> str:
    """What is wrong with the labels of a row, in words; without a tree only an empty name is wrong."""
    faults, wrong = [], [name for name in dict.fromkeys(names) if not (name in tree.index if tree else name)]
    for name in wrong[:3]:
        shown = repr(name if len(name) <= 60 else f"{name[:60]}...")
        if not name or tree is None:
            faults.append("an empty label (a comma at the end, two commas in a row, or nothing after the TAB)")
        elif len(parts := re.split("[，、;；]", name)) > 1 and all(part.strip() in tree.index for part in parts):
            faults.append(f"labels must be separated by an ASCII comma ',', not as in {shown}")
        else:
            near = tree.nearest(name)
            faults.append(f"unknown label {shown}; " + (f"did you mean {near!r}?" if near else "none is like it"))
    if len(wrong) > 3:
        faults.append(f"and {len(wrong) - 3} more wrong labels")
    return "; ".join(faults)


def parse_rows(path: str | Path, problems: Problems) -> Iterator[Parsed]:
    """Yield (line, text, label names) of every row, whatever its labels; None as in parse_jsonl."""
    return PARSERS.get(Path(path).suffix.lower(), _parse_tab)(path, problems)


def _parse_tab(path: str | Path, problems: Problems) -> Iterator[Parsed]:
    for line, content in read_lines(path, problems):
        text, *labels = content.split("\t")
        if not content.strip():
            yield line, None, None
        elif len(labels) > 1:
            problems.add(path, line, f"{len(labels)} TABs; only one may stand in a row, between text and labels")
        else:
            yield line, text, [name.strip() for name in labels[0].split(",")] if labels else None


def parse_jsonl(path: str | Path, problems: Problems) -> Iterator[Parsed]:
    """Yield (line, text, label names) of every row; text is None for a blank line, names where there are none."""
    for line, content in read_lines(path, problems):
        if not content.strip():
            yield line, None, None
            continue
        try:
            row = json.loads(content)
            text, names = row["text"], row.get("labels")
            if not isinstance(names, list | None) or not all(isinstance(name, str) for name in names or ()):
                raise TypeError
            for part in (text, *(names or ())):
                part.encode()  # half of a surrogate pair could be read, but never written
        except (KeyError, TypeError, AttributeError):
            problems.add(path, line, 'a row is one object on one line: {"text": "...", "labels": ["...", ...]}')
        except (ValueError, RecursionError) as error:
            problems.add(path, line, f"not JSON: {error}")
        else:
            yield line, text, names if names is None else [name.strip() for name in names]


def parse_csv(path: str | Path, problems: Problems) -> Iterator[Parsed]:
    """Like parse_jsonl; a quoted text may go over several lines, the first of which then names the row."""
    first: int | None = None

    def lines() -> Iterator[str]:
        nonlocal first
        for number, content in read_lines(path, problems):
            first = first or number
            yield f"{content}\n"

    csv.field_size_limit(2**31 - 1)
    reader, header = csv.reader(lines(), strict=True), None
    while True:
        first = None
        try:
            row = next(reader)
        except StopIteration:
            return
        except csv.Error as error:
            problems.add(path, first, f"not CSV: {error}")
            continue
        if header is None:
            header = row
            if not row or row[0].strip().lower() != "text":
                problems.add(path, first, f"a header that starts with text must come first, not {','.join(row)!r}")
                return
        else:
            text, *names = row or [""]
            names = [name.strip() for name in names if name.strip()]
            yield first or 0, text if text.strip() or names else None, names or None


PARSERS = {".jsonl": parse_jsonl, ".csv": parse_csv}  # by a file's suffix; others hold a row, or a text, in each line


def require_row_format(path: str | Path, flag: str, rows: Iterable[tuple[str, Sequence[str] | None]]) -> None:
    """Raise InputError if `write_rows` could not write these (text, label names) so that they read back the same."""
    path = Path(path)
    if path.suffix.lower() == ".csv":
        raise InputError(f"{path}: {flag} writes rows as .txt or .jsonl, not .csv.")
    if path.suffix.lower() == ".jsonl":
        return
    for text, names in rows:
        fault = "a TAB or a line end in the text" if re.search("[\t\r\n]", text) else ""
        if names is not None:
            fault = fault or ("no label that applies" if not names else "")
            fault = fault or next((f"a comma in the label {name!r}" for name in names if "," in name), "")
        if fault:
            raise InputError(
                f"{path}: the row {text[:20]!r} has {fault}, which a .txt row can't hold. "
                f"Give {flag} a name that ends in .jsonl."
            )


def write_rows(path: str | Path, rows: Iterable[tuple[str, Sequence[str] | None]]) -> None:
    """Write (text, label names) in the format of the file's suffix, atomically; names is None for an unlabelled row."""
    with atomic_write(path) as file:
        file.writelines(format_row(path, text, names) for text, names in rows)


def format_row(path: str | Path, text: str, names: Sequence[str] | None) -> str:
    """The line of a row in a file of this name."""
    if Path(path).suffix.lower() == ".jsonl":
        row = {"text": text} if names is None else {"text": text, "labels": list(names)}
        return json.dumps(row, ensure_ascii=False) + "\n"
    return f"{text}\n" if names is None else f"{text}\t{','.join(names)}\n"
