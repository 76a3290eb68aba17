"""The formats of rows, by the ending of a file's name; a file that plainly holds another one is refused.

.txt, .tsv, or none   text<TAB>label,label,...  or the text alone, one row per line
.jsonl, .ndjson       {"text": "...", "labels": ["...", ...]}  one per line; labels may hold commas, [] means that none
                      applies, further fields are passed on
.json                 a list of these, over any number of lines
.csv                  a header line, then text, label, label, ... with CSV quoting

What comes through a pipe has no name: JSON is told from lines of text by its beginning.
"""

import csv
import json
import re
from collections.abc import Callable, Iterable, Iterator
from itertools import chain
from pathlib import Path
from typing import Any, NamedTuple

from hierarchical.errors import InputError, Problems
from hierarchical.files import read_lines
from hierarchical.json_values import JsonFault, JsonReader, json_fault

Lines = Iterable[tuple[int, str]]  # line number, content without line end
OBJECT = re.compile(r'\s*\{\s*("(?:[^"\\]|\\.)*"\s*:|\})')  # how a JSON object begins
LIST = re.compile(r'\s*\[\s*\{\s*"')  # and a list of them
PYTHONS = re.compile(r"\s*(\[\s*)?\{\s*'")  # an object as Python prints it
SPREAD, PRINTED = "JSON objects over several lines", "objects as Python prints them, which is not JSON"
TEXT_WORDS = "text texts txt sentence content 文本 内容".split()  # what people call these columns and fields
LABEL_WORDS = "labels label lables lable prediction 标签 类别".split()
JSON_ROW = '{"text": "...", "labels": ["...", ...]}'


class Parsed(NamedTuple):
    """A row as it stands in a file.

    text    None: the row is blank
    labels  names, or numbers where a JSON row has some; None: the row is not labelled
    fault   what is wrong with the labels, whatever the label tree; "": nothing
    others  the further fields of a JSON row
    """

    line: int
    text: str | None
    labels: list[str | int] | None = None
    fault: str = ""
    others: dict | None = None


class Format(NamedTuple):
    """name, suffix: what it is called; row: how a labelled row is written; several: how several labels are."""

    parse: Callable[[str | Path, Lines, Problems], Iterator[Parsed]]
    name: str
    suffix: str
    row: str
    several: str


# ---- which format ----------------------------------------------------------------------------------------------------


def format_of(path: str | Path) -> Format:
    """The format that a file's name says it has. Raises InputError for one that can't be read."""
    suffix = Path(path).suffix.lower()
    if suffix not in PARSERS:
        advice = next((advice for suffixes, advice in ADVICE.items() if suffix in suffixes.split()), OTHER_ADVICE)
        raise InputError(
            f"{path}: rows and texts are read from .txt and .tsv (one per line), .jsonl and .ndjson (a JSON object per "
            f"line), .json (a list of them) and .csv, not from {suffix}. {advice}"
        )
    return PARSERS[suffix]


def existing(path: Path) -> Path | None:
    """This file, else the one of its name in another format, if there is one."""
    others = [path.with_suffix(suffix) for suffix in PARSERS if suffix]
    return next((one for one in (path, *others) if one.exists()), None)


def open_rows(path: str | Path, problems: Problems) -> tuple[Format, Lines]:
    """(format, lines) of a file; no lines, and a problem, where it plainly has another format than its name says."""
    form, lines = format_of(path), read_lines(path, problems)
    before: list[tuple[int, str]] = []  # what is read to find that out
    head: list[str] = []  # without blank lines
    for number, line in lines:
        before.append((number, line))
        head += [line] if line.strip() else []
        if len(head) == 3 or head and form is not JSON_LINES and not head[0].lstrip().startswith(("[", "{")):
            break
    found = _look(head)
    if str(path) == "-" or (Path(path).suffix == "" and Path(path).is_fifo()):
        form = found if isinstance(found, Format) else form
    if fault := _other_format(form, found, head):
        problems.add(path, next(number for number, line in before if line.strip()), fault)
        return form, []
    return form, chain(before, lines)


def _look(head: list[str]) -> Format | str | None:
    """What the first lines plainly are: JSON_LINES, JSON_LIST, SPREAD or PRINTED; else None."""
    if head and OBJECT.match(head[0]):
        return JSON_LINES
    if PYTHONS.match("\n".join(head)):
        return PRINTED
    if LIST.match("\n".join(head)):
        return JSON_LIST
    return SPREAD if OBJECT.match("\n".join(head)) else None


def _other_format(form: Format, found: Format | str | None, head: list[str]) -> str:
    """What is wrong with a file whose name says `form`, and whose first lines look like `found`; "": nothing."""
    if not head or found is form:
        return ""
    if found == SPREAD:
        return f"the file holds {SPREAD}: write each on one line (`jq -c .` does) into a file that ends in .jsonl"
    if found == PRINTED:
        return f"the file holds {PRINTED}: write them with json.dumps(row, ensure_ascii=False), one on each line"
    if isinstance(found, Format):
        return f"the file holds {found.name}, not {form.name}: give it a name that ends in {found.suffix}"
    begins = head[0].lstrip()
    if form is JSON_LIST and not begins.startswith("["):
        return f"the file begins with {begins[:20]!r}, where a list of rows must stand: [{form.row}, ...]"
    if form is JSON_LINES and not any(line.lstrip().startswith(("{", "[")) for line in head):
        return f"the file begins with {begins[:20]!r}, not with an object: lines of text need a name that ends in .txt"
    return ""


# ---- lines of text ---------------------------------------------------------------------------------------------------


def text_lines(path: str | Path, lines: Lines, problems: Problems) -> Iterator[tuple[int, str]]:
    """Pass on the lines of a file of text; a header, of which there is none in it, is a problem."""
    first = True
    for number, line in lines:
        if first and _is_header(line):
            table = "\t" not in line and not line.isalpha()  # of CSV: the other lines are no better
            advice = "remove it, or give CSV a name that ends in .csv" if table else "remove it"
            problems.add(path, number, f"{line[:60]!r} looks like a header; rows begin with the first line: {advice}")
            if table:
                return
        else:
            yield number, line
        first = first and not line.strip()


def _is_header(line: str) -> bool:
    cells = [re.sub("[0-9]+$", "", cell.strip(' "').lower()) for cell in re.split("[\t,;]", line.strip())]
    texts, labels = (sum(cell in words for cell in cells) for words in (TEXT_WORDS, LABEL_WORDS))
    return cells == ["text"] or texts == 1 and labels > 0 and texts + labels + cells.count("id") == len(cells)


def parse_text(path: str | Path, lines: Lines, problems: Problems) -> Iterator[Parsed]:
    """The rows text<TAB>label,label,..."""
    for number, line in text_lines(path, lines, problems):
        text, *labels = line.split("\t")
        if not line.strip():
            yield Parsed(number, None)
        elif len(labels) > 1:
            tabs = f"{len(labels)} TABs; only one may stand in a row, between text and labels"
            yield Parsed(number, text, fault=tabs)
        else:
            named = labels and labels[0].strip()  # nothing behind the TAB: a prediction that found no label
            yield Parsed(number, text, [name.strip() for name in labels[0].split(",")] if named else None)


# ---- JSON ------------------------------------------------------------------------------------------------------------


def parse_json_lines(path: str | Path, lines: Lines, problems: Problems) -> Iterator[Parsed]:
    """The rows {"text": "...", "labels": [...]}, one per line."""
    for number, line in lines:
        if not line.strip():
            yield Parsed(number, None)
            continue
        try:
            row = json_row(number, json.loads(line))
        except InputError as error:
            problems.add(path, number, str(error))
        except (ValueError, RecursionError) as error:
            problems.add(path, number, json_fault(error))
        else:
            yield row


def parse_json_list(path: str | Path, lines: Lines, problems: Problems) -> Iterator[Parsed]:
    """The same in a list, each named by the line it begins on."""

    def pieces() -> Iterator[str]:
        last = 1
        for number, line in lines:
            yield "\n" * (number - last) + line
            last = number

    reader = JsonReader(pieces())
    try:
        for number, value in reader.items() if reader.peek() else ():
            try:
                yield json_row(number, value)
            except InputError as error:
                problems.add(path, number, str(error))
    except JsonFault as error:
        problems.add(path, error.line, str(error))


def json_row(line: int, row: Any) -> Parsed:
    """A parsed JSON value as a row. Raises InputError where there is no text in it."""
    if not isinstance(row, dict):
        raise InputError(f"a row is one object {JSON_ROW}, not {short(row)}")
    if "text" not in row:
        near = next((key for key in row if key.strip().lower() in TEXT_WORDS), None)
        has = f"which has: {', '.join(row) or 'nothing'}"
        raise InputError(f"unknown field {near!r}, did you mean 'text'?" if near else f'no "text" in this row, {has}')
    text = row["text"]
    if not isinstance(text, str):
        raise InputError(f'"text" must be a text in quotes, not {short(text)}')
    if not can_be_written(text):
        raise InputError(f"the text {text[:40]!r} holds half a character, which no file can hold; correct it")
    labels, fault = _json_labels(row)
    others = {key: row[key] for key in row if key not in ("text", "labels")}
    return Parsed(line, text, labels, fault, others)


def _json_labels(row: dict) -> tuple[list[str | int] | None, str]:
    """(labels, what is wrong with them) of a JSON row."""
    labels = row.get("labels")
    if "labels" not in row and (near := next((key for key in row if key.strip().lower() in LABEL_WORDS[:4]), None)):
        return None, f"unknown field {near!r}, did you mean 'labels'?"
    if isinstance(labels, str):
        return None, f'"labels" must be a list of names, [{short(labels)}], not {short(labels)}'
    if isinstance(labels, int) and not isinstance(labels, bool):
        return [labels], ""
    if not isinstance(labels, list | None):
        return None, f'"labels" must be a list of names, ["...", ...], not {short(labels)}'
    for label in labels or ():
        if not isinstance(label, str | int) or isinstance(label, bool):
            return None, f"a label must be a name in quotes, not {short(label)}"
        if isinstance(label, str) and not can_be_written(label):
            return None, f"the label {label[:40]!r} holds half a character, which no file can hold; correct it"
    return labels and [label.strip() if isinstance(label, str) else label for label in labels], ""


def can_be_written(text: str) -> bool:
    """Not with half of a surrogate pair in it, which JSON can spell."""
    try:
        text.encode()
    except UnicodeEncodeError:
        return False
    return True


def short(value: Any) -> str:
    """A JSON value as text, cut."""
    text = json.dumps(value, ensure_ascii=False)
    return text if len(text) <= 40 else f"{text[:40]}..."


# ---- CSV -------------------------------------------------------------------------------------------------------------


def parse_csv(path: str | Path, lines: Lines, problems: Problems) -> Iterator[Parsed]:
    """The rows text,label,label,... under a header; one that goes over several lines is named by the first."""
    first: int | None = None

    def contents() -> Iterator[str]:
        nonlocal first
        for number, content in lines:
            first = first or number
            yield f"{content}\n"

    csv.field_size_limit(2**31 - 1)
    reader, header = csv.reader(contents(), strict=True), None
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
                problems.add(path, first, _header_fault(row))
                return
        else:
            text, *names = row or [""]
            labels: list[str | int] = [name.strip() for name in names if name.strip()]
            yield Parsed(first or 0, text if text.strip() or labels else None, labels or None)


def _header_fault(row: list[str]) -> str:
    if row and (separated := re.match(r"text\s*([;\t|])", row[0].strip().lower())):
        return f"columns must be separated by ',', not by {separated[1]!r}, as in {','.join(row)[:60]!r}"
    return f"a header that starts with text must come first, not {','.join(row)[:60]!r}"


# ---- the table -------------------------------------------------------------------------------------------------------

TEXT = Format(
    parse_text, "lines of text", ".txt", "text<TAB>label,label,...", "labels must be separated by an ASCII comma ','"
)
JSON_LINES = Format(parse_json_lines, "JSON lines", ".jsonl", JSON_ROW, "each label must be an item of its own")
JSON_LIST = Format(parse_json_list, "a JSON list", ".json", JSON_ROW, "each label must be an item of its own")
CSV = Format(parse_csv, "CSV", ".csv", "text,label,label,...", "each label must have a column of its own")
PARSERS = {
    "": TEXT,
    ".txt": TEXT,
    ".tsv": TEXT,
    ".jsonl": JSON_LINES,
    ".ndjson": JSON_LINES,
    ".json": JSON_LIST,
    ".csv": CSV,
}
ROW_FILES = ".txt, .jsonl, .json or .csv"  # for the --help of what names a file of rows
CONVERT = "convert.py makes a data folder of it."
ADVICE = {  # suffixes -> what to do
    ".xlsx .xlsm": f"{CONVERT} Or save the sheet as CSV in UTF-8; its first line must be: text,label,label,...",
    ".xls .ods .numbers": "Save the sheet as CSV in UTF-8; its first line must be: text,label,label,...",
    ".gz": f"{CONVERT} Or unpack it, and give what is in it.",
    ".bz2 .xz .zst .zip .7z .rar .tar .tgz": "Unpack it, and give what is in it.",
    ".docx .doc .pdf .rtf .odt": "Save it as plain text in UTF-8, one text per line.",
    ".parquet": CONVERT,
    ".feather .arrow": "Write its rows as JSON lines (pandas: to_json(..., orient='records', lines=True)).",
}
OTHER_ADVICE = "If it holds lines of text, give it a name that ends in .txt."
