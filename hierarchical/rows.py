"""Labelled rows, and texts to label: their one reader, and the writer of rows. The formats are those of formats.py."""

import json
import re
from collections import Counter
from collections.abc import Iterable, Iterator, Sequence
from itertools import chain, islice
from logging import Logger
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from hierarchical.errors import SHOWN, InputError, Problems, some
from hierarchical.files import atomic_write, require_file
from hierarchical.formats import JSON_LINES, PARSERS, TEXT, Format, Lines, Parsed, format_of, open_rows, text_lines
from hierarchical.labels import SEPARATOR, LabelTree

MARKS = "[,，、;；|]"  # what people put between labels


class Row(NamedTuple):
    """labels: class indices in ascending order, or names (see read_rows); None: the row is not labelled."""

    line: int
    text: str
    labels: tuple | None


class FileTexts:
    """The texts of a file's labelled rows, read anew each time that they are asked for, one after the other.

    labelled: False for those of all rows with a text, of which the labels are nothing
    """

    def __init__(self, path: Path, tree: LabelTree | None, count: int, labelled: bool = True):
        self.path, self.tree, self.count, self.labelled = path, tree, count, labelled

    def __len__(self) -> int:
        return self.count

    def __iter__(self) -> Iterator[str]:
        problems, found = Problems(), 0
        texts: Iterable[str]
        if self.labelled:
            rows = read_rows(self.path, self.tree, problems, Counter())
            texts = (row.text for row in rows if row.labels is not None)
        else:
            texts = filter(None, read_texts(self.path, self.tree, problems, Counter()))
        for text in texts:
            found += 1
            yield text
        if problems.count or found != self.count:
            raise InputError(f"{self.path}: was changed while it was read. Start again.")


class Rows(NamedTuple):
    """A labelled file: texts list[str] or FileTexts, labels list[tuple[int]] in memory, and what was passed over."""

    texts: Any
    labels: list
    blank: int
    unlabelled: int

    def multi_hot(self, n_labels: int, rows: Iterable[int] | None = None) -> np.ndarray:
        """The targets of the given rows (default: all) as bool [n, L]."""
        return multi_hot(self.labels if rows is None else [self.labels[i] for i in rows], n_labels)

    def label_counts(self, n_labels: int) -> np.ndarray:
        """How many rows have each label: int64 [L]. `multi_hot` would be N x L bytes large."""
        return np.bincount(np.fromiter(chain.from_iterable(self.labels), np.int64), minlength=n_labels)


def multi_hot(labels: Sequence[Sequence[int]], n_labels: int) -> np.ndarray:
    """Tuples of class indices -> bool [N, n_labels]."""
    targets = np.zeros((len(labels), n_labels), bool)
    rows = np.repeat(np.arange(len(labels)), np.array([len(row) for row in labels], np.int64))
    targets[rows, np.fromiter(chain.from_iterable(labels), np.int64, len(rows))] = True
    return targets


def soft_targets(rows: Sequence[Any], n_labels: int) -> np.ndarray:
    """The same of rows that may also be arrays [n_labels], a target from 0 to 1 for each label: then as float32."""
    soft = [i for i, row in enumerate(rows) if isinstance(row, np.ndarray)]
    if not soft:
        return multi_hot(rows, n_labels)
    targets = multi_hot([() if isinstance(row, np.ndarray) else row for row in rows], n_labels).astype(np.float32)
    targets[soft] = [rows[i] for i in soft]
    return targets


def load_rows(path: str | Path, tree: LabelTree | None, unlabelled: str = "error", keep_texts: bool = True) -> Rows:
    """Read a labelled file whole. Raises InputError with every bad row; blank rows are skipped and counted.

    tree: as in read_rows
    unlabelled: "error" or "skip", for rows that have a text but no label column.
    keep_texts: whether the texts stay in memory, or are FileTexts
    """
    path, problems, seen = Path(path), Problems(), Counter[str]()
    form = format_of(path)
    require_file(path, f"A row is: {form.row}")
    rows, lacking = Rows([], [], 0, 0), []
    sets: dict[tuple, tuple] = {}  # rows with the same labels share one tuple
    for row in read_rows(path, tree, problems, seen):
        if row.labels is None:
            lacking.append(row.line)
        else:
            if keep_texts:
                rows.texts.append(row.text)
            rows.labels.append(sets.setdefault(row.labels, row.labels))
    for line in lacking if unlabelled == "error" else ():
        problems.add(path, line, f"no label: a row is {form.row}")
    problems.raise_if_any()
    if not rows.labels:
        raise InputError(f"{path}: no labelled row in it. A row is: {form.row}")
    if not keep_texts:
        rows = rows._replace(texts=FileTexts(path, tree, len(rows.labels)))
    return rows._replace(blank=seen["blank"], unlabelled=seen["unlabelled"])


def load_reported(path: str | Path, tree: LabelTree | None, logger: Logger) -> Rows:
    """The labelled rows of a file; what is passed over, and labels without a parent, are reported."""
    rows = load_rows(path, tree, unlabelled="skip")
    report_lines(Path(path).name, rows, tree, logger)
    return rows


def report_lines(name: str, rows: Rows, tree: LabelTree | None, logger: Logger) -> None:
    """Warn about the lines of a file that were passed over, and labels without a parent if there is a tree."""
    if rows.blank or rows.unlabelled:
        logger.warning(f"{name}: skipped {rows.blank} blank and {rows.unlabelled} unlabelled lines")
    if tree is None:
        return
    open_sets = {labels for labels in set(rows.labels) if tree.closure(labels) != list(labels)}
    lacking = [i for i, labels in enumerate(rows.labels) if labels in open_sets]
    if lacking:
        first = next(islice(rows.texts, lacking[0], None))
        logger.warning(
            f"{name}: {len(lacking)} rows lack a parent of one of their labels, first {first[:30]!r}; it "
            "counts as absent. `python check_data.py` lists them, `python convert.py --label_file` completes them."
        )


def report_rows(name: str, rows: Rows, tree: LabelTree, logger: Logger) -> None:
    """What `report_lines` warns about, and labels without a row."""
    report_lines(name, rows, tree, logger)
    unseen = np.flatnonzero(rows.label_counts(len(tree)) == 0)
    if len(unseen):
        names = some([tree.labels[i] for i in unseen])
        logger.warning(f"{name}: no row for {len(unseen)} of {len(tree)} labels ({names})")


def parse_rows(path: str | Path, problems: Problems) -> Iterator[Parsed]:
    """Yield every row of a file as it stands there, whatever its labels, blank ones too."""
    form, lines = open_rows(path, problems)
    return form.parse(path, lines, problems)


def read_rows(path: str | Path, tree: LabelTree | None, problems: Problems, seen: Counter) -> Iterator[Row]:
    """Yield the good rows of a labelled file, of any size, in order.

    tree: its labels are the known ones; None: any name is a label, and Row.labels are the names as they stand.
    Bad rows go to `problems` (Problems); blank and unlabelled ones are counted in `seen` (a Counter).
    """
    form, lines = open_rows(path, problems)
    for row in form.parse(path, lines, problems):
        if row.text is None:
            seen["blank"] += 1
        elif not row.text.strip():
            problems.add(path, row.line, "the text is empty")
        elif row.fault:
            problems.add(path, row.line, row.fault)
        elif row.labels is None:
            seen["unlabelled"] += 1
            yield Row(row.line, row.text.strip(), None)
        elif all(is_label(name, tree) for name in row.labels):
            names = map(str, row.labels)
            labels = tuple(sorted({tree.index[name] for name in names}) if tree else names)
            yield Row(row.line, row.text.strip(), labels)
        else:  # what will not be shown is not put into words, since looking for near labels takes its time
            problems.add(path, row.line, label_faults(row.labels, tree, form) if problems.count < SHOWN else "")


def is_label(name: str | int, tree: LabelTree | None) -> bool:
    """Whether it is one of the tree's labels; without a tree, whether it can be one."""
    return name in tree.index if tree else isinstance(name, str) and bool(name)


def label_faults(names: Sequence[str | int], tree: LabelTree | None, form: Format = TEXT) -> str:
    """What is wrong with the labels of a row of this format, in words."""
    wrong = [name for name in dict.fromkeys(names) if not is_label(name, tree)]
    faults = [label_fault(name, tree, form) for name in wrong[:3]]
    if len(wrong) > 3:
        faults.append(f"and {len(wrong) - 3} more wrong labels")
    return "; ".join(faults)


def label_fault(name: str | int, tree: LabelTree | None, form: Format) -> str:
    """What is wrong with one that is_label() refuses."""
    if name == "":
        how = " (a comma at the end, or two in a row)" if form is TEXT else ""
        return f"an empty label{how}"
    if isinstance(name, str):
        named = repr(name if len(name) <= 60 else f"{name[:60]}...")
        for marks in (MARKS, f"{MARKS}|[/ ]"):
            parts = [part.strip() for part in re.split(marks, name) if part.strip()]
            if len(parts) > 1 and all(is_label(part, tree) for part in parts):
                return f"{form.several}, not as in {named}"
        fault = f"unknown label {named}"
    else:
        fault = f"{str(name)[:60]} is a number, not the name of a label"
    return f"{fault}; {tree.guess(name) or 'none is like it'}" if tree else fault


# ---- texts -----------------------------------------------------------------------------------------------------------


def read_texts(path: str | Path, tree: LabelTree | None, problems: Problems, seen: Counter) -> Iterator[str]:
    """Yield the text of every row, "" for a blank one, without its labels, should it have some.

    tree: tells labels after a TAB from text; without it a TAB in a line is a problem
    What is wrong goes to `problems`; `seen` counts what is odd.
    """
    form, lines = open_rows(path, problems)
    texts: Iterator[str]
    if form is not TEXT:
        texts = (row.text or "" for row in form.parse(path, lines, problems))
    elif tree:
        texts = (text_of_line(line, tree, seen) for _, line in text_lines(path, lines, problems))
    else:
        texts = _lines_without_tab(path, text_lines(path, lines, problems), problems)
    for text in map(str.strip, texts):
        seen["blank"] += not text
        yield text


def text_of_line(line: str, tree: LabelTree, seen: Counter) -> str:
    """A line without its labels, should it have some: a model must not be shown the answer."""
    if "\t" not in line:  # as of most lines
        return line
    text, *columns = line.rstrip("\t ").split("\t")
    labelled = 0
    while labelled < len(columns) and names_labels(columns[-1 - labelled], tree):
        labelled += 1
    seen["labelled"] += labelled > 0
    seen["tab"] += labelled < len(columns)
    return " ".join([text, *columns[: len(columns) - labelled]])


def _lines_without_tab(path: str | Path, lines: Lines, problems: Problems) -> Iterator[str]:
    for number, line in lines:
        if "\t" in line.strip():
            how = "give a --dataset_dir with the label.txt that tells, or put a blank for the TAB"
            problems.add(path, number, f"a TAB: are labels or more of the text behind it? {how}")
        yield line


def names_labels(column: str, tree: LabelTree) -> bool:
    """Whether what stands after a TAB are labels, good ones or not: a known one, or a path, is among them."""
    return SEPARATOR in column or any(name.strip() in tree.index for name in re.split(MARKS, column))


def count_texts(path: str | Path, tree: LabelTree | None, seen: Counter) -> int:
    """Read a file once to find everything that is wrong with it, before any model is loaded; the number of its rows."""
    require_file(path, "It holds one text per line.")
    problems = Problems()
    count = sum(1 for _ in read_texts(path, tree, problems, seen))
    problems.raise_if_any()
    return count


def load_texts(path: str | Path, tree: LabelTree | None, hint: str, logger: Logger) -> FileTexts:
    """The texts of a file without their labels; blank ones are passed over, and reported. hint: what the file is for.

    Raises InputError with everything that is wrong with it, or if it holds no text.
    """
    require_file(path, hint)
    seen = Counter[str]()
    n_rows = count_texts(path, tree, seen)
    if blank := seen.pop("blank", 0):
        logger.warning(f"{path}: skipped {blank} blank rows")
    if n_rows == blank:
        raise InputError(f"{path}: no text in it. {hint}")
    warn_about(seen, path, logger)
    return FileTexts(Path(path), tree, n_rows - blank, labelled=False)


def warn_about(seen: Counter, path: str | Path, logger: Logger) -> None:
    """Tell what `read_texts` found odd."""
    for key, message in (
        ("blank", "blank rows: {} (each has an empty prediction, so that the rows stay in step)"),
        ("labelled", "rows with labels after a TAB: {} (only the text before it was used)"),
        ("tab", "rows with a TAB that no known labels follow: {} (it was read as a blank)"),
    ):
        if seen[key]:
            logger.warning(f"{path}: {message.format(seen[key])}")


# ---- writing ---------------------------------------------------------------------------------------------------------


def require_row_format(path: str | Path, flag: str, rows: Iterable[tuple[str, Sequence[str] | None]]) -> None:
    """Raise InputError if `write_rows` could not write these (text, label names) so that they read back the same."""
    suffix = Path(path).suffix.lower()
    form = PARSERS.get(suffix)
    if form not in (TEXT, JSON_LINES):
        raise InputError(f"{path}: {flag} writes rows as .txt or .jsonl, not {suffix}.")
    if form is JSON_LINES:
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
        file.writelines(format_rows(path, rows))


def format_rows(path: str | Path, rows: Iterable[tuple[str, Sequence[str] | None]]) -> Iterator[str]:
    """Yield the lines of (text, label names) in a file of this name; names is None for an unlabelled row."""
    as_json = format_of(path) is JSON_LINES
    for text, names in rows:
        if as_json:
            row = {"text": text} if names is None else {"text": text, "labels": list(names)}
            yield json.dumps(row, ensure_ascii=False) + "\n"
        else:
            yield f"{text}\n" if names is None else f"{text}\t{','.join(names)}\n"
