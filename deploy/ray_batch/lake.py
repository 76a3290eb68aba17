"""The files of a data lake: found by address, checked before any work, and cut into pieces.

    places = find_files(["s3://bucket/in/*.parquet"])
    pieces = cut(places, "body", added)

An address is a local path, or one that pyarrow knows: s3://, gs://, hdfs://. Where a folder or a pattern is searched, a
name that begins with "_" or "." is no file of rows, as Spark and Hive have it.
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
from functools import cache

from hierarchical.console import progress_bar
from hierarchical.errors import InputError, Problems, some
from hierarchical.files import KINDS

PARQUET, JSON_LINES, CSV, TEXT = ".parquet", ".jsonl", ".csv", ".txt"
SUFFIXES = {PARQUET: PARQUET, JSON_LINES: JSON_LINES, ".ndjson": JSON_LINES, CSV: CSV, TEXT: TEXT}
COMPRESSED = (".gz", ".bz2", ".zst", ".lz4")  # pyarrow unpacks them while it reads
PIECE_ROWS = 20_000  # a minute or so on one core; what a killed process has to do again
WHOLE_BYTES = 1 << 20  # a file of lines up to this size is one piece; of a larger one the lines are counted
READERS = 16  # beginnings of files that are read at a time


@dataclass(frozen=True)
class Place:
    """An input file. path: in its file system; name: below the folder that was asked for; time: of its last change."""

    address: str
    path: str
    name: str
    size: int
    time: int

    @property
    def mark(self) -> str:
        """Differs once the file has changed."""
        return f"{self.size} {self.time}"

    @property
    def kind(self) -> str | None:
        """A value of SUFFIXES, or None for a file that is not read."""
        stem, suffix = posixpath.splitext(self.name.lower())
        kind = SUFFIXES.get(posixpath.splitext(stem)[1] if suffix in COMPRESSED else suffix)
        return None if kind == PARQUET and suffix in COMPRESSED else kind


# (first row, the row after the last, None: to the end, the byte at which they begin in a file of lines)
Cut = tuple[int, int | None, int]


@dataclass(frozen=True)
class Piece:
    """What is read and written in one go. start, stop, offset: a Cut; output: its name below the output folder."""

    address: str
    path: str
    kind: str
    start: int
    stop: int | None
    offset: int
    output: str


@cache  # to connect to a store takes requests of its own
def file_system(address):
    """(pyarrow FileSystem, path in it) of an address. Raises InputError for one that pyarrow does not know."""
    from pyarrow import fs

    if "://" not in address:
        return fs.LocalFileSystem(), os.path.abspath(address)
    try:
        system, path = fs.FileSystem.from_uri(address)
    except (ValueError, OSError) as error:  # pyarrow's ArrowInvalid is a ValueError
        raise InputError(f"{address}: pyarrow cannot open it ({first_line(error)}).") from None
    return system, path.rstrip("/") or "/"


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
    try:
        named = system.get_file_info(path)
        if named.type == FileType.File:
            base, infos = posixpath.dirname(path), [named]
        else:
            base = path if named.type == FileType.Directory else fixed_part(path)
            infos = system.get_file_info(FileSelector(base, recursive=True, allow_not_found=True))
    except OSError as error:
        raise InputError(f"--input {address}: cannot be listed ({first_line(error)}).") from None
    found = []
    for one in infos:
        name = one.path[len(base) :].lstrip("/")
        hidden = one is not named and any(part.startswith(("_", ".")) for part in name.split("/"))
        wanted = path in (base, one.path) or matches(one.path, path)
        if one.type == FileType.File and wanted and not hidden:
            found.append(Place(address, one.path, name, one.size, one.mtime_ns or 0))
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
    """The pieces of all files: PIECE_ROWS each of Parquet, JSON lines and text; CSV, and what is packed, is not cut.

    added: the columns that come in; raises InputError with every file that lacks the text column, has one of them
    already, or cannot be read.
    """
    problems, pieces = Problems(), []

    def look(place: Place) -> tuple[list[Cut], str]:
        try:
            return (look_at_parquet if place.kind == PARQUET else look_at_lines)(place, text_column, added)
        except (ValueError, OSError) as error:
            return [], first_line(error)

    with ThreadPoolExecutor(READERS) as pool, progress_bar(len(places), "looking at files") as bar:
        for place, (cuts, fault) in zip(places, pool.map(look, places)):
            bar.update()
            if fault:
                problems.add(place.path, None, fault)
            kind = place.kind or ""
            suffix = PARQUET if kind == PARQUET else JSON_LINES
            for number, cut in enumerate(cuts):
                output = f"{place.name}-{number:05}-of-{len(cuts):05}{suffix}"
                pieces.append(Piece(place.address, place.path, kind, *cut, output))
    problems.raise_if_any()
    return pieces


def column_fault(columns: list[str], text_column: str, added: Sequence[str]) -> str:
    """What is wrong with the columns of a file; "": nothing."""
    if twice := sorted({name for name in columns if columns.count(name) > 1}):
        return f"has several columns of one name: {', '.join(twice)}. Give each its own"
    if text_column not in columns:
        return f"no column {text_column!r}; it has: {some(columns, 20)}. Name the text's with --text_column"
    if taken := [name for name in added if name in columns]:
        return (
            f"has the columns {', '.join(taken)} already. Give --prefix, which stands before the names of the new ones"
        )
    return ""


def look_at_parquet(place: Place, text_column: str, added: Sequence[str]) -> tuple[list[Cut], str]:
    """(pieces, what is wrong) of a Parquet file, from its footer."""
    import pyarrow as pa
    import pyarrow.parquet as pq

    system, _ = file_system(place.address)
    with system.open_input_file(place.path) as stream:
        file = pq.ParquetFile(stream)
        schema, rows = file.schema_arrow, file.metadata.num_rows
    if fault := column_fault(schema.names, text_column, added):
        return [], fault
    kind = schema.field(text_column).type
    kind = kind.value_type if pa.types.is_dictionary(kind) else kind
    if not (pa.types.is_string(kind) or pa.types.is_large_string(kind) or pa.types.is_string_view(kind)):
        return [], f"the column {text_column!r} holds {kind}, not texts"
    return [(start, min(start + PIECE_ROWS, rows), 0) for start in range(0, max(rows, 1), PIECE_ROWS)], ""


def look_at_lines(place: Place, text_column: str, added: Sequence[str]) -> tuple[list[Cut], str]:
    """(pieces, what is wrong with its beginning) of another file."""
    with open_lines(place.address, place.path) as file:
        first = file.readline().removeprefix(b"\xef\xbb\xbf")
    if fault := next((what for beginning, what in KINDS.items() if first.startswith(beginning)), ""):
        return [], f"the file is {fault}"
    if place.kind != TEXT and first.strip():
        line = first.decode("utf-8")
        columns = next(csv.reader([line])) if place.kind == CSV else json.loads(line)
        if not isinstance(columns, list | dict) or (place.kind == JSON_LINES and isinstance(columns, list)):
            return [], "its first line is no JSON object"
        if fault := column_fault(list(columns), text_column, added):
            return [], fault
    packed = place.name.lower().endswith(COMPRESSED)
    if place.kind == CSV or packed or place.size <= WHOLE_BYTES:  # in CSV a row may go over several lines
        return [(0, None, 0)], ""
    return cut_lines(place), ""


def cut_lines(place: Place) -> list[Cut]:
    """The pieces of a file with a row on each line, all of which is read."""
    starts, at, rows = [0], 0, 0
    with open_lines(place.address, place.path) as file:
        for line in file:
            if rows == len(starts) * PIECE_ROWS:
                starts.append(at)
            at += len(line)
            rows += 1
    stops: list[int | None] = [PIECE_ROWS * i for i in range(1, len(starts))]
    return [(PIECE_ROWS * i, stop, start) for i, (start, stop) in enumerate(zip(starts, [*stops, None]))]


def open_lines(address: str, path: str, offset: int = 0):
    """A binary file, unpacked, whose lines can be read one after the other; offset: of one that is not packed."""
    system, _ = file_system(address)
    if offset:
        stream = system.open_input_file(path)
        stream.seek(offset)
    else:
        stream = system.open_input_stream(path, compression="detect")
    return io.BufferedReader(stream, 1 << 20)
