"""The files of a data lake: found by address, checked before any work, and cut into pieces.

    places = find_files(["s3://bucket/in/*.parquet"])
    pieces = cut(places, "body", added)

An address is a local path, or one that pyarrow knows: s3://, gs://, hdfs://. A name that begins with "_" or "." is no
file of rows, as Spark and Hive have it.
"""

import csv
import fnmatch
import io
import json
import os
import posixpath
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass

from hierarchical.console import progress_bar
from hierarchical.errors import InputError, Problems, some
from hierarchical.files import KINDS

PARQUET, JSON_LINES, CSV, TEXT = ".parquet", ".jsonl", ".csv", ".txt"
SUFFIXES = {PARQUET: PARQUET, JSON_LINES: JSON_LINES, ".ndjson": JSON_LINES, CSV: CSV, TEXT: TEXT}
COMPRESSED = (".gz", ".bz2", ".zst", ".lz4")  # pyarrow unpacks them while it reads
PIECE_ROWS = 50_000  # of a Parquet file: a minute or two on one core; what a killed process has to do again
READERS = 16  # beginnings of files that are read at a time


@dataclass(frozen=True)
class Place:
    """An input file. path: in its file system; name: below the folder that was asked for; mark: size and time."""

    address: str
    path: str
    name: str
    mark: str

    @property
    def kind(self) -> str | None:
        """A value of SUFFIXES, or None for a file that is not read."""
        stem, suffix = posixpath.splitext(self.name.lower())
        kind = SUFFIXES.get(posixpath.splitext(stem)[1] if suffix in COMPRESSED else suffix)
        return None if kind == PARQUET and suffix in COMPRESSED else kind


@dataclass(frozen=True)
class Piece:
    """What is read and written in one go: rows start to stop (-1: the last) of a file; output: below the output."""

    address: str
    path: str
    kind: str
    start: int
    stop: int
    output: str


def file_system(address):
    """(pyarrow FileSystem, path in it) of an address. Raises InputError for one that pyarrow does not know."""
    from pyarrow import fs

    if "://" not in address:
        return fs.LocalFileSystem(), os.path.abspath(address)
    try:
        return fs.FileSystem.from_uri(address)
    except (ValueError, OSError) as error:  # pyarrow's ArrowInvalid is a ValueError
        raise InputError(f"{address}: pyarrow cannot open it ({first_line(error)}).") from None


def first_line(error):
    return next(iter(str(error).splitlines()), type(error).__name__)


# ---- finding ---------------------------------------------------------------------------------------------------------


def find_files(addresses: Sequence[str]) -> list[Place]:
    """The files that files, folders and patterns name, in the order of their names. Raises InputError for none."""
    places: dict[str, Place] = {}
    for address in addresses:
        found = _listed(address)
        if not found:
            raise InputError(f"--input {address}: no file of rows there ({', '.join(SUFFIXES)}, also with .gz).")
        for place in found:
            if places.setdefault(place.name, place).path != place.path:
                raise InputError(
                    f"--input: {places[place.name].path} and {place.path} would be written under one name, "
                    f"{place.name}. Give the folder above both, or run twice, with two outputs."
                )
    return [places[name] for name in sorted(places)]


def _listed(address: str) -> list[Place]:
    from pyarrow.fs import FileSelector, FileType

    system, path = file_system(address)
    base = fixed_part(path)
    try:
        info = system.get_file_info(base)
        if info.type == FileType.File:
            infos = [info]
            base = posixpath.dirname(base)
        else:
            infos = system.get_file_info(FileSelector(base, recursive=True, allow_not_found=True))
    except OSError as error:
        raise InputError(f"--input {address}: cannot be listed ({first_line(error)}).") from None
    found = []
    for one in infos:
        name = one.path[len(base) :].lstrip("/")
        wanted = base == path or one.path == path or matches(one.path, path)
        if one.type == FileType.File and wanted and not any(part[0] in "_." for part in name.split("/")):
            found.append(Place(address, one.path, name, f"{one.size} {one.mtime_ns}"))
    if unread := [place.path for place in found if place.kind is None]:
        if len(unread) == len(found) or path != base:
            raise InputError(
                f"--input {address}: not a format that is read: {some(unread)}. Read: {', '.join(SUFFIXES)}."
            )
    return [place for place in found if place.kind]


def fixed_part(path: str) -> str:
    """The folder, or file, before the first pattern in a path."""
    parts = path.split("/")
    end = next((i for i, part in enumerate(parts) if any(mark in part for mark in "*?[")), len(parts))
    return "/".join(parts[:end]) or "/"


def matches(path: str, pattern: str) -> bool:
    """Whether each folder, and the name, fits its part of the pattern; what lies below a folder that fits does, too."""
    parts, wanted = path.split("/"), pattern.rstrip("/").split("/")
    return len(parts) >= len(wanted) and all(map(fnmatch.fnmatchcase, parts, wanted))


# ---- checking and cutting --------------------------------------------------------------------------------------------


def cut(places: Sequence[Place], text_column: str, added: Sequence[str]) -> list[Piece]:
    """The pieces of all files: a Parquet file by PIECE_ROWS, another one whole.

    added: the columns that come in; raises InputError with every file that lacks the text column, has one of them
    already, or cannot be read.
    """
    problems, pieces = Problems(), []

    def look(place: Place) -> tuple[int, str]:
        try:
            return (look_at_parquet if place.kind == PARQUET else look_at_lines)(place, text_column, added)
        except (ValueError, OSError) as error:
            return 0, first_line(error)

    with ThreadPoolExecutor(READERS) as pool, progress_bar(len(places), "looking at files") as bar:
        for place, (rows, fault) in zip(places, pool.map(look, places)):
            bar.update()
            if fault:
                problems.add(place.path, None, fault)
            starts = range(0, max(rows, 1), PIECE_ROWS) if place.kind == PARQUET else [0]
            suffix = PARQUET if place.kind == PARQUET else JSON_LINES
            for number, start in enumerate(starts):
                stop = min(start + PIECE_ROWS, rows) if place.kind == PARQUET else -1
                output = f"{place.name}-{number:05}-of-{len(starts):05}{suffix}"
                pieces.append(Piece(place.address, place.path, place.kind or "", start, stop, output))
    problems.raise_if_any()
    return pieces


def column_fault(columns: Sequence[str], text_column: str, added: Sequence[str]) -> str:
    """What is wrong with the columns of a file; "": nothing."""
    if text_column not in columns:
        return f"no column {text_column!r}; it has: {some(list(columns), 20)}. Name the text's with --text_column"
    if taken := [name for name in added if name in columns]:
        return (
            f"has the columns {', '.join(taken)} already. Give --prefix, which stands before the names of the new ones"
        )
    return ""


def look_at_parquet(place: Place, text_column: str, added: Sequence[str]) -> tuple[int, str]:
    """(rows, what is wrong) of a Parquet file, from its footer."""
    import pyarrow as pa
    import pyarrow.parquet as pq

    system, _ = file_system(place.address)
    with system.open_input_file(place.path) as stream:
        file = pq.ParquetFile(stream)
        schema, rows = file.schema_arrow, file.metadata.num_rows
    if fault := column_fault(schema.names, text_column, added):
        return rows, fault
    kind = schema.field(text_column).type
    kind = kind.value_type if pa.types.is_dictionary(kind) else kind
    texts = pa.types.is_string(kind) or pa.types.is_large_string(kind) or pa.types.is_string_view(kind)
    return rows, "" if texts else f"the column {text_column!r} holds {kind}, not texts"


def look_at_lines(place: Place, text_column: str, added: Sequence[str]) -> tuple[int, str]:
    """(0, what is wrong) with the beginning of another file, whose rows nobody has counted."""
    with open_lines(place.address, place.path) as file:
        first = file.readline().removeprefix(b"\xef\xbb\xbf")
    if fault := next((what for beginning, what in KINDS.items() if first.startswith(beginning)), ""):
        return 0, f"the file is {fault}"
    if place.kind == TEXT or not first.strip():
        return 0, ""
    line = first.decode("utf-8")
    if place.kind == CSV:
        return 0, column_fault(next(csv.reader([line])), text_column, added)
    row = json.loads(line)
    if not isinstance(row, dict):
        return 0, "its first line is no JSON object"
    return 0, column_fault(list(row), text_column, added)


def open_lines(address: str, path: str):
    """A binary file, unpacked, whose lines can be read one after the other."""
    system, _ = file_system(address)
    return io.BufferedReader(system.open_input_stream(path, compression="detect"), 1 << 20)
