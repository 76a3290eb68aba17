"""Tables of strangers, whatever they are kept in: CSV and its like, JSON, spreadsheets, Parquet.

    table = open_table("sales.xlsx", Dialect(), ["title", "Cat1"])
    for line, (title, category) in table.read([0, 3], Tally(), problems): ...

What a file holds is told by its beginning, not by its name; what was found out is said in Table.said.
"""

from collections.abc import Sequence
from pathlib import Path

from hierarchical.errors import InputError
from hierarchical.files import require_file
from hierarchical.formats import JSON_ROW
from hierarchical.tables.delimited import open_delimited
from hierarchical.tables.json_records import is_json, open_json
from hierarchical.tables.spreadsheets import is_workbook, open_parquet, open_sheet
from hierarchical.tables.table import Dialect, Table
from hierarchical.tables.text_files import open_text


def open_table(path: str | Path, dialect: Dialect, wanted: Sequence[str]) -> Table:
    """Find out what a table is. wanted: the names of columns that are asked for; they help to find its header.

    Raises InputError for what is no table that can be read.
    """
    path = Path(path)
    require_file(path, "It holds a table, or rows.")
    with open(path, "rb") as file:
        head = file.read(8)
    if head.startswith(b"PAR1"):
        return open_parquet(path)
    if is_workbook(path, head):
        return open_sheet(path, dialect, wanted)
    text = open_text(path, dialect.encoding)
    if is_json(text):
        return open_json(text, wanted)
    if {".json", ".jsonl", ".ndjson"} & {suffix.lower() for suffix in path.suffixes}:
        begins = next(text.pieces(), "").lstrip()[:20]
        raise InputError(f"{path}: begins with {begins!r}, where objects must stand: {JSON_ROW}, or a list of them.")
    return open_delimited(text, dialect, wanted)
