"""The way back: rows, or predictions, as a table that other programs open.

    text, labels, level 1, level 2, ..., probability   and the further fields of JSON rows, one column each

labels       all of them, full paths joined by "; " (in Parquet a list)
level k      the names of the labels at this level
probability  of the least likely of the labels, if the rows are predictions
"""

import csv
import json
import re
from collections.abc import Callable, Iterable, Iterator
from contextlib import closing
from itertools import islice
from pathlib import Path
from typing import Any

from hierarchical.console import progress_bar
from hierarchical.errors import InputError, Problems
from hierarchical.files import atomic_write, require_file
from hierarchical.formats import Parsed, format_of
from hierarchical.labels import SEPARATOR
from hierarchical.rows import parse_rows

JOINED = "; "
LONGEST_CELL, MOST_ROWS = 32_767, 1_048_576  # in Excel
FORMULA = tuple("=+-@")  # how a cell begins that a spreadsheet takes for a formula, if it comes from CSV
INVISIBLE = re.compile(r"[\x00-\x08\x0b\x0c\x0e-\x1f\ufffe\uffff]")  # what XML can't hold
BATCH = 4096  # rows
OWN = ("levels", "probabilities")  # fields of predictions that have columns of another form

Row = dict[str, Any]


def give_back(path: Path, kind: str, folder: Path, overwrite: bool) -> str:
    """Write the rows of a file as a table of this kind into a folder; what is to be said about it.

    Raises InputError with every faulty row, if the file is there already, and for what a workbook can't hold.
    """
    require_file(path, "It holds rows or predictions.")
    format_of(path)
    target = folder / f"{path.stem}.{kind}"
    if target.exists() and (not overwrite or target.resolve() == path.resolve()):
        raise InputError(f"{target}: is there already. --overwrite replaces it, --save_dir names another directory.")
    columns, count, longest = _columns(path)
    if kind == "xlsx" and count >= MOST_ROWS:
        raise InputError(f"{path}: {count:,} rows, and Excel has {MOST_ROWS - 1:,} below a header. Take --to csv.")
    if kind == "xlsx" and longest > LONGEST_CELL:
        long = f"a text of {longest:,} characters"
        raise InputError(f"{path}: {long}, and a cell of Excel has {LONGEST_CELL:,}. Take --to csv.")
    folder.mkdir(parents=True, exist_ok=True)
    rows = progress_bar(count, path.name, iterable=_rows(path, Problems()), unit=" rows", delay=1)
    note = KINDS[kind](target, columns, rows)
    return f"Save {count:,} rows to {target}.{note}"


def _columns(path: Path) -> tuple[list[str], int, int]:
    """(columns, number of rows, characters of the longest cell). Raises InputError with every faulty row."""
    problems, others, depth, count = Problems(), dict[str, None](), 0, 0
    probable, longest = False, 0
    for row in _rows(path, problems):
        depth = max(depth, *(int(name.split()[1]) for name in row if name.startswith("level ")), 0)
        probable = probable or "probability" in row
        others.update(dict.fromkeys(row))
        longest = max(longest, *(len(str(cell)) for cell in _cells(row, row)))
        count += 1
    problems.raise_if_any()
    if not count:
        raise InputError(f"{path}: no row in it.")
    levels = [f"level {level}" for level in range(1, depth + 1)]
    first = ["text", "labels", *levels, *(["probability"] if probable else [])]
    return [*first, *(name for name in others if name not in first)], count, longest


def _rows(path: Path, problems: Problems) -> Iterator[Row]:
    for parsed in parse_rows(path, problems):
        if parsed.fault:
            problems.add(path, parsed.line, parsed.fault)
        yield _row(parsed)


def _row(parsed: Parsed) -> Row:
    """column -> value of a row; a blank one has no labels."""
    labels = [str(label) for label in parsed.labels or ()]
    row: Row = {"text": parsed.text or "", "labels": labels}
    names: dict[str, dict[str, None]] = {}
    for label in labels:
        for level, name in enumerate(label.split(SEPARATOR), start=1):
            names.setdefault(f"level {level}", {})[name] = None
    row |= {level: JOINED.join(held) for level, held in names.items()}
    others = parsed.others or {}
    probabilities = others.get("probabilities")
    if isinstance(probabilities, dict) and labels and all(label in probabilities for label in labels):
        row["probability"] = min(probabilities[label] for label in labels)
    for name, value in others.items():
        if name not in OWN or not isinstance(value, dict):
            row[name if name not in row else f"{name} (field)"] = value
    return row


def _cells(row: Row, columns: Iterable[str]) -> list[Any]:
    """Texts and numbers alone, "" for what a row does not have."""
    cells = []
    for name in columns:
        value = row.get(name, "")
        if name == "labels":
            value = JOINED.join(value)
        elif value is None:
            value = ""
        elif not isinstance(value, str | int | float):
            value = json.dumps(value, ensure_ascii=False)
        cells.append(value)
    return cells


# ---- kinds -----------------------------------------------------------------------------------------------------------


def _write_csv(path: Path, columns: list[str], rows: Iterable[Row]) -> str:
    """UTF-8 with the mark by which Excel knows it."""
    formulas = 0
    with atomic_write(path) as file:
        file.write("\ufeff")
        writer = csv.writer(file, lineterminator="\n")
        writer.writerow(columns)
        for row in rows:
            cells = _cells(row, columns)
            formulas += sum(isinstance(cell, str) and cell.startswith(FORMULA) for cell in cells)
            writer.writerow(cells)
    if not formulas:
        return ""
    return (
        f" {formulas:,} cells begin with = + - or @, which spreadsheets take for formulas; --to xlsx keeps them texts."
    )


def _write_workbook(path: Path, columns: list[str], rows: Iterable[Row]) -> str:
    from openpyxl import Workbook
    from openpyxl.cell import WriteOnlyCell

    book, without = Workbook(write_only=True), 0
    sheet = book.create_sheet("rows")

    def cell(value: Any) -> Any:
        """Texts are texts, even if they begin with =."""
        nonlocal without
        if isinstance(value, str):
            plain = INVISIBLE.sub(" ", value)
            without += plain != value
            made = WriteOnlyCell(sheet, value=plain)
            made.data_type = "s"
            return made
        return value

    sheet.freeze_panes = "A2"
    sheet.column_dimensions["A"].width = 80
    sheet.append([cell(name) for name in columns])
    for row in rows:
        sheet.append([cell(value) for value in _cells(row, columns)])
    with atomic_write(path, "wb") as file:
        book.save(file)
    return f" {without:,} cells had characters that no workbook can hold; they are blanks there." if without else ""


def _write_parquet(path: Path, columns: list[str], rows: Iterable[Row]) -> str:
    import pyarrow
    from pyarrow import parquet

    kinds = {"labels": pyarrow.list_(pyarrow.string()), "probability": pyarrow.float64()}
    schema = pyarrow.schema([(name, kinds.get(name, pyarrow.string())) for name in columns])
    rest = iter(rows)
    with atomic_write(path, "wb") as file, closing(parquet.ParquetWriter(file, schema)) as writer:
        while batch := list(islice(rest, BATCH)):
            held = {name: [_as_parquet(row.get(name), name) for row in batch] for name in columns}
            writer.write_table(pyarrow.table(held, schema))
    return ""


def _as_parquet(value: Any, name: str) -> Any:
    """labels and probabilities as they are; else text, and None for what a row does not have."""
    if value is None or isinstance(value, str) or name in ("labels", "probability"):
        return value
    return json.dumps(value, ensure_ascii=False)


KINDS: dict[str, Callable[[Path, list[str], Iterable[Row]], str]] = {
    "csv": _write_csv,
    "xlsx": _write_workbook,
    "parquet": _write_parquet,
}
