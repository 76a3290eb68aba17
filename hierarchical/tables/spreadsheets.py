"""Excel workbooks and Parquet files, read with openpyxl and pyarrow, row by row: tables as table.py has them.

No formula is computed, nothing that a workbook refers to is loaded, and one that would unpack to gigabytes is refused.
"""

import zipfile
from collections.abc import Iterator, Sequence
from datetime import date, datetime, time
from itertools import islice
from pathlib import Path
from typing import Any

from hierarchical.errors import InputError, Problems, some
from hierarchical.tables.json_records import field
from hierarchical.tables.table import HEADER_WITHIN, MOST_COLUMNS, Dialect, Table, Tally, find_header, select
from hierarchical.tables.text_files import is_bomb

MOST_ROWS = 1_048_576  # of a sheet, in Excel
MOST_UNPACKED = 1 << 31  # bytes of all parts of a workbook; a million rows of 200 characters are a third of it
MOST_TEXTS = 1 << 29  # bytes of the texts that sheets share, which are held in memory
TEXTS = "xl/sharedStrings.xml"
PARQUET_BATCH = 4096  # rows
MOST_PARQUET_ROWS = 50_000_000


# ---- Excel -----------------------------------------------------------------------------------------------------------


def is_workbook(path: Path, head: bytes) -> bool:
    """Whether it is an Excel workbook (.xlsx, .xlsm). Raises InputError for what else lies in a zip file."""
    if not head.startswith(b"PK\x03\x04"):
        return False
    try:
        with zipfile.ZipFile(path) as archive:
            parts = archive.infolist()
    except Exception as error:  # zipfile lets through what struct and codecs say
        raise InputError(f"{path}: a damaged spreadsheet or zip file ({error}); fetch or save it again.") from None
    names = {part.filename for part in parts}
    if "xl/workbook.xml" not in names:
        if "content.xml" in names:
            raise InputError(f"{path}: an OpenDocument file; save the table as .xlsx or .csv.")
        if "xl/workbook.bin" in names:
            raise InputError(f"{path}: a binary workbook (.xlsb); save it as .xlsx or .csv.")
        raise InputError(f"{path}: a zip file with {some(sorted(names))}; unpack it, and give what is in it.")
    size, texts = (sum(part.file_size for part in some_of) for some_of in (parts, _shared(parts)))
    if size > MOST_UNPACKED or texts > MOST_TEXTS:
        raise InputError(
            f"{path}: {path.stat().st_size / 1e6:,.1f} MB that unpack to {size / 1e6:,.0f} MB, more than is read. "
            "If it is a table in truth, save it as CSV."
        )
    return True


def _shared(parts: Sequence[zipfile.ZipInfo]) -> list[zipfile.ZipInfo]:
    return [part for part in parts if part.filename == TEXTS]


def open_sheet(path: Path, dialect: Dialect, wanted: Sequence[str]) -> Table:
    """A sheet of a workbook: the one that `dialect` names, or the first that can be seen."""
    sheet, which = _find_sheet(path, dialect.sheet)  # opened once, since openpyxl looks for its size each time
    rows = list(islice(_rows(path, sheet), HEADER_WITHIN))
    above, columns = find_header([[cell.value for cell in cells] for _, cells in rows], dialect, wanted, path)

    def read(numbers: Sequence[int], tally: Tally, problems: Problems) -> Iterator[tuple[int, tuple]]:
        rest = islice(_rows(path, sheet), above, None)
        for line, cells in select(path, _padded(rest, len(columns)), numbers, len(columns), tally, problems):
            if wrong := next((cell for cell in cells if cell is not None and cell.data_type in "fe"), None):
                problems.add(path, line, _cell_fault(wrong))
            else:
                yield line, tuple(None if cell is None else plain(cell.value) for cell in cells)

    header = f"header in row {rows[above - 1][0]}" if above else "no header"
    first = () if above else [cell.value for cell in rows[0][1]]
    return Table(path, f"Excel, {which}, {header}", columns, read, first)


def _find_sheet(path: Path, asked: str | None) -> tuple[Any, str]:
    """(a sheet, what is to be said about it). Raises InputError if there is none of the name."""
    sheets = _load(path).worksheets
    names = [sheet.title for sheet in sheets]
    visible = [sheet for sheet in sheets if sheet.sheet_state == "visible"] or sheets
    if not names:
        raise InputError(f"{path}: a workbook without a sheet of cells.")
    if asked is not None and asked not in names and not (asked.isdecimal() and 0 < int(asked) <= len(names)):
        raise InputError(f"{path}: --sheet {asked}: no such sheet. There are: {some(names, 20)}.")
    found = visible[0] if asked is None else sheets[names.index(asked) if asked in names else int(asked) - 1]
    others = [repr(name) for name in names if name != found.title]
    return found, f"sheet {found.title!r}" + (f" (not {some(others)})" if others else "")


def _load(path: Path) -> Any:
    from openpyxl import load_workbook

    try:
        return load_workbook(path, read_only=True, data_only=False, keep_links=False)
    except Exception as error:  # openpyxl lets through whatever goes wrong within it
        raise InputError(_damaged(path, error)) from None


def _damaged(path: Path, error: Exception) -> str:
    told = f"{type(error).__name__}: {str(error)[:100]}"
    return f"{path}: not a workbook that can be read ({told}); save it again, or as CSV."


def _rows(path: Path, sheet: Any) -> Iterator[tuple[int, Sequence[Any]]]:
    """Yield (row number, cells as openpyxl has them) of a sheet, blank rows too."""
    try:
        sheet.reset_dimensions()  # what a sheet says of its size may be wrong
        for number, cells in enumerate(sheet.iter_rows(), start=1):
            if number > MOST_ROWS:
                raise InputError(
                    f"{path}: more than {MOST_ROWS:,} rows in {sheet.title!r}; Excel has no more. Save it as CSV."
                )
            yield number, cells
    except InputError:
        raise
    except Exception as error:
        raise InputError(_damaged(path, error)) from None


def _padded(rows: Iterator[tuple[int, Sequence[Any]]], width: int) -> Iterator[tuple[int, Sequence[Any]]]:
    """Rows of this width: a sheet ends each with its last cell; what is beyond the header is no part of the table."""
    for number, cells in rows:
        yield number, (*cells[:width], *[None] * (width - len(cells)))


def _cell_fault(cell: Any) -> str:
    """What is wrong with a cell that holds a formula, or the error that came of one."""
    if cell.data_type == "e":
        return f"cell {cell.coordinate} holds the error {cell.value}; write what should stand there, or nothing"
    return (
        f"cell {cell.coordinate} holds the formula {str(cell.value)[:40]!r}, and formulas are not computed: copy the "
        "column, and paste it as values"
    )


def plain(value: Any) -> Any:
    """A cell's value as text, and None for a blank one; whole numbers without a point. Lists and objects stay."""
    if isinstance(value, float):
        return None if value != value else str(int(value)) if value.is_integer() else str(value)
    if isinstance(value, datetime | date | time):
        return value.isoformat()
    return value if value is None or isinstance(value, str | list | tuple | dict) else str(value)


# ---- Parquet ---------------------------------------------------------------------------------------------------------


def open_parquet(path: Path) -> Table:
    """A Parquet file; fields of a struct are named with dots."""
    import pyarrow
    from pyarrow import parquet

    try:
        file = parquet.ParquetFile(path)
        rows, columns = file.metadata.num_rows, [name for one in file.schema_arrow for name in _fields(one)]
        groups = [file.metadata.row_group(number) for number in range(file.metadata.num_row_groups)]
        size = sum(group.total_byte_size for group in groups)
        file.close()
    except (pyarrow.ArrowException, OSError, ValueError, KeyError) as error:
        raise InputError(f"{path}: a damaged Parquet file ({str(error)[:100]}); fetch it again.") from None
    if is_bomb(size, path.stat().st_size):
        raise InputError(f"{path}: says that it unpacks to {size / 1e6:,.0f} MB, far more than a file of texts does.")
    if len(columns) > MOST_COLUMNS or rows > MOST_PARQUET_ROWS:
        raise InputError(
            f"{path}: says that it has {rows:,} rows of {len(columns):,} columns; {MOST_PARQUET_ROWS:,} of "
            f"{MOST_COLUMNS:,} are read at most."
        )

    def read(numbers: Sequence[int], tally: Tally, problems: Problems) -> Iterator[tuple[int, tuple]]:
        names = [columns[number] for number in numbers]
        try:
            with parquet.ParquetFile(path) as file:
                tops = list(dict.fromkeys(_top(name, file.schema_arrow.names) for name in names))
                number = 0
                for batch in file.iter_batches(PARQUET_BATCH, columns=tops):
                    held = {top: _values(batch.column(top)) for top in tops}
                    wanted = [held[name] if name in held else _within(held, name) for name in names]
                    for cells in zip(*wanted):
                        number += 1
                        yield number, tuple(map(plain, cells))
        except (pyarrow.ArrowException, OSError, ValueError, KeyError) as error:
            problems.add(path, None, f"a damaged Parquet file ({str(error)[:100]}); fetch it again")

    return Table(path, "Parquet", columns, read)


def _fields(one: Any, prefix: str = "") -> Iterator[str]:
    """The dotted names of a column: of a struct, of a list of structs, those of its fields."""
    import pyarrow

    kind, name = one.type, f"{prefix}{one.name}"
    while pyarrow.types.is_list(kind) or pyarrow.types.is_large_list(kind):
        kind = kind.value_type
    if not pyarrow.types.is_struct(kind):
        yield name
        return
    for number in range(kind.num_fields):
        yield from _fields(kind.field(number), f"{name}.")


def _values(column: Any) -> list:
    """The values of an Arrow array; of lists of plain values by way of NumPy, which is five times as fast."""
    import pyarrow

    nested = pyarrow.types.is_nested
    if not pyarrow.types.is_list(column.type) or nested(column.type.value_type):
        return column.to_pylist()
    return [None if value is None else value.tolist() for value in column.to_numpy(zero_copy_only=False)]


def _within(held: dict[str, list], name: str) -> list:
    """The fields of a dotted name. held: column of the file -> its values"""

    top = _top(name, list(held))
    return [field({top: value}, name) for value in held[top]]


def _top(name: str, tops: Sequence[str]) -> str:
    """The column of the file that a dotted name is in."""
    return next(top for top in tops if name == top or name.startswith(f"{top}."))
