"""Tables that are kept as JSON: lines, lists, and objects that hold a list, at whatever depth the fields are.

A field in a field is named with dots, `meta.aspects.name`; where a list is on the way, all of its items are meant.
"""

import json
from collections.abc import Callable, Iterable, Iterator, Sequence
from itertools import islice
from typing import Any

from hierarchical.errors import InputError, Problems
from hierarchical.formats import LIST, OBJECT, PYTHONS, TEXT_WORDS
from hierarchical.json_values import JsonFault, JsonReader, json_fault
from hierarchical.tables.table import HEAD, MOST_COLUMNS, Table, Tally
from hierarchical.tables.text_files import TextFile

Records = Iterator[tuple[int, Any]]  # line, parsed JSON
DEEPEST = 10  # levels of fields whose names are looked for


def is_json(text: TextFile) -> bool:
    """Whether a file begins as JSON records do. Raises InputError for what Python prints in their place."""
    head = next(text.pieces(), "")
    if PYTHONS.match(head):
        raise InputError(
            f"{text.path}: holds objects as Python prints them, which is not JSON: write them with "
            "json.dumps(row, ensure_ascii=False), one on each line."
        )
    return bool(OBJECT.match(head) or LIST.match(head))


def open_json(text: TextFile, wanted: Sequence[str]) -> Table:
    """The table of a file for which is_json(). Raises InputError where no records are found in it."""
    kind, records = _find_records(text, wanted)
    try:
        head = [value for _, value in islice(records(Problems()), HEAD)]
    except JsonFault as error:
        raise InputError(f"{text.path}:{error.line}: {error}") from None
    columns = list(dict.fromkeys(name for value in head for name in field_names(value)))
    if not columns:
        raise InputError(f"{text.path}: no object with fields in it.")
    columns += [name for name in wanted if name not in columns and _is_further(name, columns)]

    def read(numbers: Sequence[int], tally: Tally, problems: Problems) -> Iterator[tuple[int, tuple]]:
        names = [columns[number] for number in numbers]
        try:
            for line, value in records(problems):
                if isinstance(value, dict):
                    yield line, tuple(value[name] if name in value else field(value, name) for name in names)
                else:
                    problems.add(text.path, line, f"a record must be an object {{...}}, not {json.dumps(value)[:40]}")
        except JsonFault as error:
            problems.add(text.path, error.line, str(error))

    return Table(text.path, f"{kind}, {text.said}", columns[:MOST_COLUMNS], read)


def _is_further(name: str, columns: Sequence[str]) -> bool:
    """Whether a name may be a field that the first records lack: within one that they have, or beside them."""
    return "." in name and name.partition(".")[0] in {column.partition(".")[0] for column in columns}


# ---- records ---------------------------------------------------------------------------------------------------------


def _find_records(text: TextFile, wanted: Sequence[str]) -> tuple[str, Callable[[Problems], Records]]:
    """(what the file holds, Problems -> its records)."""
    if JsonReader(text.pieces()).peek() == "[":
        if "\n" in next(text.pieces(), "").strip():
            return "a JSON list", lambda problems: JsonReader(text.pieces()).items()
        return "a JSON list on one line, places are numbers of records", lambda problems: _numbered(text)
    first, _, more = next(text.pieces(), "").strip().partition("\n")
    try:
        json.loads(first)
    except (ValueError, RecursionError):
        pass  # the object goes over several lines, or it is not JSON
    else:
        if more:
            return "JSON lines", lambda problems: _lines(text, problems)
    reader = JsonReader(text.pieces())
    try:
        line, value = next(reader.values())
        more = reader.peek()
    except JsonFault as error:
        raise InputError(f"{text.path}:{error.line}: {error}") from None
    if more:
        return "JSON objects, one after the other", lambda problems: JsonReader(text.pieces()).values()
    return _within(text, line, value, wanted)


def _numbered(text: TextFile) -> Records:
    return ((number, value) for number, (_, value) in enumerate(JsonReader(text.pieces()).items(), start=1))


def _lines(text: TextFile, problems: Problems) -> Records:
    for number, line in enumerate(text.lines(), start=1):
        if line.strip():
            try:
                yield number, json.loads(line)
            except (ValueError, RecursionError) as error:
                problems.add(text.path, number, json_fault(error))


def _within(text: TextFile, line: int, value: dict, wanted: Sequence[str]) -> tuple[str, Callable[[Problems], Records]]:
    """The records that a file of one object holds: a list, the object itself by columns, its values, or the object."""
    lists = [name for name, items in value.items() if isinstance(items, list) and items and isinstance(items[0], dict)]
    kind, records = "a JSON object", [value]
    if any(name in value or name.partition(".")[0] in value for name in wanted or TEXT_WORDS):
        if all(isinstance(items, list | dict) for items in value.values()):
            kind, records = "a JSON object by columns", _by_columns(value)
    elif len(lists) == 1:
        kind, records = f"a JSON list in the field {lists[0]!r}", value[lists[0]]
    elif value and all(isinstance(item, dict) for item in value.values()):
        kind, records = "a JSON object whose fields are records", list(value.values())
    return kind, lambda problems: ((line, record) for record in records)


def _by_columns(value: dict) -> list[dict]:
    """{"text": ["...", ...], ...} or {"text": {"0": "...", ...}, ...} as records. Columns may differ in length."""
    columns = {name: dict(enumerate(items)) if isinstance(items, list) else items for name, items in value.items()}
    rows = dict.fromkeys(key for items in columns.values() for key in items)
    return [{name: items[key] for name, items in columns.items() if key in items} for key in rows]


# ---- fields ----------------------------------------------------------------------------------------------------------


def field_names(value: Any, prefix: str = "", depth: int = 0) -> Iterator[str]:
    """Yield the dotted names of all fields in a JSON value that are not objects themselves."""
    if isinstance(value, dict) and depth < DEEPEST:
        for name, item in value.items():
            yield from field_names(item, f"{prefix}.{name}" if prefix else name, depth + 1)
    elif isinstance(value, list) and any(isinstance(item, dict) for item in value):
        for item in value:
            yield from field_names(item, prefix, depth + 1)
    elif prefix:
        yield prefix


def field(value: Any, name: str) -> Any:
    """The field of this dotted name; of a list on the way, the fields of all its items; None if there is none."""
    if isinstance(value, list):
        found = [one for one in (field(item, name) for item in value) if one is not None]
        return list(_flat(found)) or None
    if not isinstance(value, dict):
        return None
    if name in value:
        return value[name]
    ends = [at for at, mark in enumerate(name) if mark == "." and name[:at] in value]
    return next((found for at in ends if (found := field(value[name[:at]], name[at + 1 :])) is not None), None)


def _flat(found: Iterable[Any]) -> Iterator[Any]:
    for one in found:
        if isinstance(one, list):
            yield from one
        else:
            yield one
