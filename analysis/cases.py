"""The rows that word_interpret.py and sent_interpret.py explain: bad cases, or any texts with or without labels.

A .txt file has, separated by TABs, one of
    Text  Label  Prediction     bad cases, as evaluate.py writes them; older tools have the columns in another order
    text  label,label,...       rows of a train or dev file
    text                        rows to predict
Rows in other formats: see hierarchical/formats.py. Only the first line can be a header, and only one with these names.
"""

import os
from collections import Counter
from pathlib import Path
from typing import NamedTuple

from hierarchical.errors import SHOWN, InputError, Problems
from hierarchical.files import require_file
from hierarchical.formats import TEXT, format_of, open_rows
from hierarchical.rows import label_faults, read_rows

COLUMNS = ("Text", "Label", "Prediction")


class Case(NamedTuple):
    text: str
    labels: tuple | None  # class indices; None: not known
    prediction: tuple | None  # what another run predicted; None: not known


def in_directory(directory, name):
    """A bare file name lies in `directory`; one with a directory is taken as it is."""
    return Path(name) if os.path.dirname(name) else Path(directory) / name


def read_cases(path, tree, logger):
    """The rows of a file as a list of Case. Raises InputError with every bad row, or if there are none."""
    require_file(path, "It holds bad cases of analysis/evaluate.py, or rows text<TAB>label,label,..., or texts.")
    problems, seen = Problems(), Counter()
    if format_of(path) is not TEXT:
        cases = [Case(row.text, row.labels, None) for row in read_rows(path, tree, problems, seen)]
    else:
        cases = list(_read_columns(path, tree, problems, seen))
    problems.raise_if_any()
    if seen["blank"]:
        logger.warning(f"{path.name}: skipped {seen['blank']} blank lines")
    if not cases:
        what = "no rows in it, only the header: there are no bad cases" if seen["header"] else "no rows in it"
        raise InputError(f"{path}: {what}. Other rows can be explained, too: --interpret_input_file dev.txt")
    return cases


def report_other_predictions(path, cases, predicted, logger):
    """Warn of rows whose prediction in the file is another run's; predicted: tuples of class indices, one per case."""
    if others := sum(case.prediction not in (None, now) for case, now in zip(cases, predicted)):
        logger.warning(f"{path.name}: {others} predictions differ from this checkpoint's, whose are shown")


def _read_columns(path, tree, problems, seen):
    columns = COLUMNS
    _, lines = open_rows(path, problems)
    for number, line in lines:
        cells = line.split("\t")
        if number == 1 and len(cells) > 1 and set(cells) <= set(COLUMNS) and "Text" in cells:
            columns = tuple(cells)
            seen["header"] = 1
        elif not line.strip():
            seen["blank"] += 1
        elif len(cells) > len(columns) or (seen["header"] and len(cells) < len(columns)):
            wanted = f"{len(columns)}, as in the header" if seen["header"] else "1 to 3: text, labels, prediction"
            problems.add(path, number, f"{len(cells)} columns between TABs; there must be {wanted}")
        else:
            row = dict(zip(columns, cells))
            found = {name: _names(row[name], tree) for name in COLUMNS[1:] if name in row}
            wrong = [name for names in found.values() for name in names if name not in tree.index]
            if not row["Text"].strip():
                problems.add(path, number, "the text is empty")
            elif wrong:
                problems.add(path, number, label_faults(wrong, tree) if problems.count < SHOWN else "")
            else:
                sets = {name: tuple(sorted({tree.index[n] for n in names})) for name, names in found.items()}
                yield Case(row["Text"].strip(), sets.get("Label"), sets.get("Prediction"))


def _names(cell, tree):
    """The labels of a cell. Bad cases of .jsonl rows can have labels with commas: the longest known one is taken."""
    parts, names = cell.split(",") if cell.strip() else [], []
    while parts:
        joined = (",".join(parts[:n]).strip() for n in range(len(parts), 1, -1))
        names.append(next((name for name in joined if name in tree.index), parts[0].strip()))
        parts = parts[names[-1].count(",") + 1 :]
    return names
