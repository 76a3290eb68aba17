"""CSV and its like: tables whose lines are rows. What separates cells, and whether quotes do, is found out."""

import csv
import re
from collections import Counter
from collections.abc import Iterable, Iterator, Sequence
from itertools import islice
from pathlib import Path

from hierarchical.errors import InputError, Problems
from hierarchical.tables.table import (
    HEAD,
    HEADER_WITHIN,
    MOST_COLUMNS,
    Dialect,
    Rows,
    Table,
    Tally,
    find_header,
    select,
)
from hierarchical.tables.text_files import LONGEST_LINE, TextFile

DELIMITERS = (",", "\t", ";", "|", "_!_", "::", "\x01")
NAMES = {"\t": "TAB", " ": "blank", "\x01": "\\x01"}
QUOTED = (",", ";")  # where cells may stand in quotes, without question


def open_delimited(text: TextFile, dialect: Dialect, wanted: Sequence[str]) -> Table:
    """A table whose lines are rows."""
    head = list(islice(text.lines(), HEAD))
    skipped, delimiter = 0, dialect.delimiter
    if head and (told := re.fullmatch(r"sep=(.)\s*", head[0])):  # a line that is for spreadsheet programs
        skipped, delimiter = 1, delimiter or told[1]
    delimiter = delimiter or find_delimiter(head[skipped:], wanted, text.path)
    quoted = delimiter in QUOTED or (are_cells_quoted(text, delimiter) if len(delimiter) == 1 else False)
    rows = list(islice(records(islice(head, skipped, None), delimiter, bool(quoted), None), HEADER_WITHIN))
    above, columns = find_header([cells for _, cells in rows], dialect, wanted, text.path)
    begin = rows[above - 1][0] + skipped if above else skipped  # line of the header
    width, first = len(columns), next(cells for _, cells in rows if any(cells))
    if width > MOST_COLUMNS:
        raise InputError(f"{text.path}: a table of {width:,} columns; {MOST_COLUMNS:,} are read at most.")

    def read(numbers: Sequence[int], tally: Tally, problems: Problems) -> Iterator[tuple[int, tuple]]:
        lines = islice(text.lines(), skipped, None)
        rest = islice(records(lines, delimiter, bool(quoted), (text.path, skipped, problems)), above, None)
        return select(text.path, rest, numbers, width, tally, problems)

    kind = f"cells separated by {NAMES.get(delimiter, repr(delimiter))}" if delimiter else "one column"
    header = f"header in line {begin}" if above else "no header"
    quotes = ", quotes are part of the text" if quoted is False and len(delimiter) == 1 else ""
    return Table(text.path, f"{kind}, {header}, {text.said}{quotes}", columns, read, () if above else first)


def records(lines: Iterable[str], delimiter: str, quoted: bool, to: tuple[Path, int, Problems] | None) -> Rows:
    """Yield (line it begins on, cells) of each record, [] or [""] for a blank line.

    to: (path, lines that were left out before, Problems) for what is not CSV; None: such records are passed over
    """
    if not quoted:
        for number, content in enumerate(lines, start=1 + (to[1] if to else 0)):
            content = content.rstrip("\r\n")
            yield number, content.split(delimiter) if delimiter else [content]
        return
    csv.field_size_limit(LONGEST_LINE)
    reader = csv.reader(iter(lines), delimiter=delimiter, strict=True)
    while True:
        line = reader.line_num + 1
        try:
            cells = next(reader)
        except StopIteration:
            return
        except csv.Error as error:
            if to:
                path, skipped, problems = to
                problems.add(path, line + skipped, _csv_fault(str(error), delimiter))
            continue
        yield line + (to[1] if to else 0), cells


def _csv_fault(error: str, delimiter: str) -> str:
    if "unexpected end of data" in error or "field limit" in error:
        return 'a quote " opens a cell here and is never closed; close it, or write "" for a quote in a cell'
    if "expected after" in error:
        return f'more text behind the quote that closes a cell; write "" for a quote in a cell ({error})'
    if "new-line character" in error:
        return "a carriage return (CR) within a cell; put the cell in quotes, or take it away"
    return f"not CSV: {error}"


# ---- finding out -----------------------------------------------------------------------------------------------------


def find_delimiter(head: Sequence[str], wanted: Sequence[str], path: Path) -> str:
    """What separates the cells of these lines; "" if there is one column."""
    names = {name for name in wanted if not name.isdecimal()}
    first = "," if ".csv" in map(str.lower, path.suffixes) else "\t"
    best, best_key = "", (False, 0.6, 0, 0)
    for candidate in sorted(DELIMITERS, key=lambda mark: mark != first):
        rows = [cells for _, cells in records(head, candidate, candidate in QUOTED, None) if any(cells)]
        width, count = Counter(map(len, rows)).most_common(1)[0] if rows else (1, 0)
        named = bool(names) and any(names <= set(cells) for cells in rows[:HEADER_WITHIN])
        key = (named, count / max(1, len(rows)), candidate == first, len(candidate))
        if width > 1 and key > best_key:
            best, best_key = candidate, key
    if not best and any(first in line for line in head[: 1 if first == "," else None]):
        return first  # as the name says; what does not fit will be told
    return best


def are_cells_quoted(text: TextFile, delimiter: str) -> bool | None:
    """Whether quotes enclose cells; False: they are part of the text, as where people write what others have said.

    None: no cell begins with one.

    They enclose cells if every cell that begins with one also ends with it. If not, but lines that are cut at each
    delimiter have equally many cells, they do not. Else cells may hold line ends, if it all fits together then.
    """
    mark = re.escape(delimiter)
    opening, whole = re.compile(rf'(?:^|{mark})(?=")'), re.compile(rf'"(?:[^"]|"")*"(?={mark}|$)')
    widths, stray, any_quote = Counter[int](), False, False
    for line in text.lines():
        content = line.rstrip("\r\n")
        if content:
            widths[content.count(delimiter)] += 1
        if '"' in content:
            begins = [found.end() for found in opening.finditer(content)]
            any_quote = any_quote or bool(begins)
            stray = stray or not all(whole.match(content, begin) for begin in begins)
    if not stray or len(widths) == 1:
        return not stray if any_quote else None
    problems = Problems()
    fits = {len(cells) for _, cells in records(text.lines(), delimiter, True, (text.path, 0, problems)) if any(cells)}
    if len(fits) == 1 and not problems.count:
        return True
    return max(widths) > widths.most_common(1)[0][0]  # else some lines are only shorter
