"""What runs in an actor of Ray: read a piece of a file, label it with the Predictor, write it under its name.

    Labeller(settings, model)({"piece": [...]})     # once for each piece

A piece takes its name only when it is whole, and the name says which piece it is: whatever is done twice, after a kill
or a failure, replaces itself. Needs pyarrow beside what the Predictor needs.
"""

import csv
import json
import os
import tempfile
import time
import uuid
from collections import Counter
from collections.abc import Callable, Iterable, Iterator
from contextlib import suppress
from dataclasses import dataclass
from itertools import islice
from pathlib import Path

from deploy.ray_batch.lake import CSV, JSON_LINES, PARQUET, Piece, file_system, open_lines
from hierarchical.batches import CELLS
from hierarchical.decisions import Decision, decide
from hierarchical.errors import InputError, Problems
from hierarchical.formats import can_be_written
from hierarchical.json_values import json_fault
from hierarchical.labelled import describe, label_texts
from hierarchical.predictions import WINDOW_BATCHES
from hierarchical.predictor import Predictor
from hierarchical.unseen import WithUnseen

ROW = "row"  # number of a row in its file, from 0
COUNTED = ("rows", "blank", "unlabelled", "new")  # of a piece; new: rows with new labels
NEW_LABELS, ENCODER = "new_labels", "encoder"  # folders beside the model's files, as an actor gets them
UNFINISHED = "_unfinished"  # a folder of the output; readers of data lakes pass over such names
PAUSES = (1, 5, 15)  # seconds before a piece is tried again, where a file system failed


@dataclass(frozen=True)
class Settings:
    """What the output depends on beside the texts.

    model: the prefix in its folder, "" for the folder's own; long_text: arguments of the Predictor; decision: as
    Decision.to_dict() has it; unseen: name of the file of new labels, None for the model's labels alone
    """

    output: str
    model: str
    text_column: str
    prefix: str
    precision: str
    device: str
    max_seq_length: int | None
    long_text: dict
    batch_size: int
    decision: dict
    floor: float
    certainty: float | None
    unseen: str | None = None

    def added(self) -> list[str]:
        """The names of the new columns."""
        names = [ROW, "labels", "probabilities", "levels"]
        names += [] if self.certainty is None else ["certainty", "sure"]
        names += ["unseen"] if self.unseen else []
        return [self.prefix + name for name in names]


class Labeller:
    """An actor. model: returns the files of an exported model, name -> bytes, so that no node needs to have them.

    Those of new labels are in the folders NEW_LABELS and ENCODER.
    """

    def __init__(self, settings: Settings, model: Callable[[], dict[str, bytes]]):
        self.settings = settings
        self.choose: Callable = decide
        self.known: int | None = None
        with tempfile.TemporaryDirectory() as folder:
            for name, content in model().items():
                (path := Path(folder) / name).parent.mkdir(exist_ok=True)
                path.write_bytes(content)
            self.predictor: Predictor | WithUnseen = Predictor(
                Path(folder, settings.model), settings.precision, device=settings.device, num_threads=1, kind="export",
                max_seq_length=settings.max_seq_length, batch_size=settings.batch_size, **settings.long_text,
            )  # fmt: skip
            if settings.unseen:
                labels = Path(folder, NEW_LABELS, settings.unseen)
                beside = WithUnseen.read(self.predictor, labels, Path(folder, ENCODER), without_paddle=True)
                beside.load()
                self.predictor, self.choose, self.known = beside, beside.decide, beside.known
        self.decision = Decision.from_dict(settings.decision)
        self.window = max(1, min(settings.batch_size * WINDOW_BATCHES, CELLS // len(self.predictor.tree)))

    def __call__(self, batch: dict) -> dict:
        """{"piece": [a Piece as JSON]} -> one row: what came of it, or its fault."""
        piece = Piece(**json.loads(str(batch["piece"][0])))
        try:
            counts, fault = self.label_patiently(piece), ""
        except InputError as error:
            counts, fault = Counter[str](), str(error)
        except Exception as error:  # whatever it is, one file stops no other
            counts, fault = Counter[str](), f"{piece.path}: {type(error).__name__}: {error}"
        return {name: [counts[name]] for name in COUNTED} | {"fault": [fault]}

    def label_patiently(self, piece: Piece) -> Counter:
        """label(), again after a pause where a file system fails: it may be there in a moment."""
        for pause in PAUSES:
            try:
                return self.label(piece)
            except OSError:
                time.sleep(pause)
        return self.label(piece)

    def label(self, piece: Piece) -> Counter:
        """Label a piece and write it. Raises InputError with all that is wrong in it; then nothing is written."""
        from pyarrow.fs import LocalFileSystem

        system, folder = file_system(self.settings.output)
        unfinished, output = f"{folder}/{UNFINISHED}/{uuid.uuid4().hex}", f"{folder}/{piece.output}"
        counts = Counter[str]()
        for place in (unfinished, output):
            system.create_dir(place.rpartition("/")[0])
        try:
            (self.label_parquet if piece.kind == PARQUET else self.label_lines)(piece, system, unfinished, counts)
        except BaseException:
            with suppress(OSError):
                system.delete_file(unfinished)
            raise
        if isinstance(system, LocalFileSystem):
            with open(unfinished, "rb") as file:  # on the disk before it takes its name
                os.fsync(file.fileno())
        system.move(unfinished, output)
        return counts

    def predict(self, texts: list[str], first: int, counts: Counter) -> list[dict]:
        """The new columns of rows, one dict for each; first: the number of the first one in its file."""
        rows, predictor, settings = [], self.predictor, self.settings
        found = label_texts(texts, predictor.probabilities, predictor.tree, self.decision, self.choose)
        names = settings.added()
        for one in describe(predictor.tree, found, settings.floor, settings.certainty, self.known):
            counts["rows"] += 1
            counts["blank"] += not one.text.strip()
            counts["unlabelled"] += bool(one.text.strip()) and not one.labels
            counts["new"] += bool(one.unseen)
            values = [first + len(rows), *(getattr(one, name.removeprefix(settings.prefix)) for name in names[1:])]
            rows.append(dict(zip(names, values)))
        return rows

    # ---- Parquet -----------------------------------------------------------------------------------------------------

    def label_parquet(self, piece: Piece, system, output: str, counts: Counter) -> None:
        """All columns go out as they came in, with their types and the file's own notes."""
        import pyarrow as pa
        import pyarrow.parquet as pq

        source, _ = file_system(piece.address)
        with source.open_input_file(piece.path) as stream:
            file = pq.ParquetFile(stream)
            schema = file.schema_arrow
            for field in self.new_fields(pa):
                schema = schema.append(field)
            tables, first = [], piece.start
            for batch in read_rows(file, piece.start, piece.stop, self.window):
                texts = [(text or "").strip() for text in batch.column(self.settings.text_column).to_pylist()]
                rows = self.predict(texts, first, counts)
                first += len(rows)
                new = [pa.array([row[field.name] for row in rows], field.type) for field in self.new_fields(pa)]
                tables.append(pa.Table.from_arrays([*batch.columns, *new], schema=schema))
        table = pa.concat_tables(tables) if tables else schema.empty_table()
        with system.open_output_stream(output) as stream:
            pq.write_table(table, stream, compression="zstd")

    def new_fields(self, pa) -> list:
        """The pyarrow fields of the new columns."""
        labels = pa.list_(pa.string())
        types = {
            ROW: pa.int64(), "labels": labels, "probabilities": pa.map_(pa.string(), pa.float32()),
            "levels": pa.map_(pa.int32(), labels), "certainty": pa.float32(), "sure": pa.bool_(), "unseen": labels,
        }  # fmt: skip
        prefix = self.settings.prefix
        return [pa.field(name, types[name.removeprefix(prefix)]) for name in self.settings.added()]

    # ---- lines -------------------------------------------------------------------------------------------------------

    def label_lines(self, piece: Piece, system, output: str, counts: Counter) -> None:
        """Rows of JSON lines, CSV or text go out as JSON lines: their fields, and the new ones."""
        problems = Problems()
        rows = self.rows_of_lines(piece, problems)
        with system.open_output_stream(output) as stream:
            while window := list(islice(rows, self.window)):
                if problems.count:  # the rest is only looked at
                    continue
                texts = [(row[self.settings.text_column] or "").strip() for row in window]
                new = self.predict(texts, piece.start + counts["rows"], counts)
                lines = (json.dumps(row | more, ensure_ascii=False) + "\n" for row, more in zip(window, new))
                stream.write("".join(lines).encode("utf-8"))
        problems.raise_if_any()

    def rows_of_lines(self, piece: Piece, problems: Problems) -> Iterator[dict]:
        """Yield the good rows; a blank line is a row without a text."""
        column, added = self.settings.text_column, self.settings.added()
        with open_lines(piece.address, piece.path, piece.offset) as file:
            rows = islice(file, None if piece.stop is None else piece.stop - piece.start)
            lines = text_lines(piece.path, rows, piece.start, problems)
            read = {CSV: csv_rows, JSON_LINES: json_rows}.get(piece.kind, plain_rows)
            for number, row in read(piece.path, lines, column, problems):
                if column not in row:
                    problems.add(piece.path, number, f"no {column!r} in this row, which has: {', '.join(row)}")
                elif not isinstance(row[column], str | None):
                    problems.add(piece.path, number, f"{column!r} must be a text, not {json.dumps(row[column])[:40]}")
                elif not can_be_written(json.dumps(row, ensure_ascii=False)):
                    problems.add(piece.path, number, "holds half a character, which no file can hold; correct it")
                elif taken := [name for name in added if name in row]:
                    problems.add(piece.path, number, f"has {', '.join(taken)} already; give --prefix")
                else:
                    yield row


def read_rows(file, start: int, stop: int, size: int) -> Iterator:
    """Yield the rows start to stop of a ParquetFile as RecordBatches of at most `size`, out of their groups alone."""
    first = 0
    for group in range(file.num_row_groups):
        end = first + file.metadata.row_group(group).num_rows
        if end > start and first < stop:
            at = first
            for batch in file.iter_batches(batch_size=size, row_groups=[group]):
                low, high = max(start - at, 0), min(stop - at, len(batch))
                if low < high:
                    yield batch.slice(low, high - low)
                at += len(batch)
        first = end


def text_lines(path: str, lines: Iterable[bytes], before: int, problems: Problems) -> Iterator[tuple[int, str]]:
    """Yield (line number, line), of which there are so many before; what is not UTF-8 is a problem."""
    for number, raw in enumerate(lines, start=before + 1):
        raw = raw.removeprefix(b"\xef\xbb\xbf") if number == 1 else raw
        try:
            yield number, raw.rstrip(b"\r\n").decode("utf-8")
        except UnicodeDecodeError as error:
            problems.add(path, number, f"byte {error.start + 1} is not UTF-8; save the file as UTF-8")


def plain_rows(path, lines, column, problems) -> Iterator[tuple[int, dict]]:
    for number, line in lines:
        yield number, {column: line}


def json_rows(path, lines, column, problems) -> Iterator[tuple[int, dict]]:
    for number, line in lines:
        try:
            row = json.loads(line) if line.strip() else {column: ""}
        except (ValueError, RecursionError) as error:
            problems.add(path, number, json_fault(error))
            continue
        if isinstance(row, dict):
            yield number, row
        else:
            problems.add(path, number, f"a row is one JSON object, not {line[:40]}")


def csv_rows(path, lines, column, problems) -> Iterator[tuple[int, dict]]:
    """The rows under a header; one that goes over several lines is named by the last."""
    csv.field_size_limit(2**31 - 1)
    at = 0

    def contents() -> Iterator[str]:
        nonlocal at
        for at, line in lines:  # noqa: B007 (told where a row ends)
            yield f"{line}\n"

    reader = csv.reader(contents(), strict=True)
    header = next(reader, [])
    while True:
        try:
            cells = next(reader)
        except StopIteration:
            return
        except csv.Error as error:
            problems.add(path, at, f"not CSV: {error}")
            continue
        if cells and len(cells) != len(header):
            problems.add(path, at, f"{len(cells)} cells under a header of {len(header)}")
        else:
            yield at, dict(zip(header, cells)) if cells else {column: ""}
