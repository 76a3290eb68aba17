"""What two or more scripts share and what needs no deep-learning framework: errors, the label tree, rows, batches.

Files read here (all UTF-8, with or without a byte order mark, lines ending in LF or CRLF):
    label.txt                     one label per line, a path with its levels joined by `##`; class index = line order
    train.txt, dev.txt, test.txt  `text<TAB>label,label,...`
    *.jsonl                       {"text": "...", "labels": ["...", ...]}  labels may hold commas, [] means none applies
    *.csv                         a header line, then text, label, label, ... with CSV quoting
"""

import csv
import difflib
import json
import logging
import os
import re
import sys
from collections import Counter
from contextlib import contextmanager
from itertools import chain
from pathlib import Path
from typing import NamedTuple

import numpy as np

SHOWN = 20  # bad rows of a file that are shown in full before the rest is counted
SEPARATOR = "##"


# ---- errors and logging ----------------------------------------------------------------------------------------------


class InputError(Exception):
    """Something the user can mend: the message says where, what and how. Ends a script with exit code 2."""


def run(main):
    """Call a script's `main()`, turning what the user can mend into a message and exit code 2, without a traceback."""
    try:
        main()
    except InputError as error:
        sys.exit(_complain(error))
    except OSError as error:  # missing, unwritable, disk full ... anything else that opens or writes files
        if isinstance(error, BrokenPipeError):  # the reader of our stdout (head, less) has gone: not an error
            os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
            sys.exit(0)
        where = error.filename or "a file"
        sys.exit(_complain(f"{where}: {error.strerror or error}. Check the path, your rights and the free disk space."))
    except KeyboardInterrupt:
        sys.exit(130)


def _complain(message):
    print(f"error: {message}", file=sys.stderr, flush=True)
    return 2


def get_logger(log_file=None):
    """The project's logger: PaddleNLP's line format, to stderr and, if given, appended to a file."""
    logger = logging.getLogger("hierarchical")
    logger.setLevel(logging.INFO)
    logger.propagate = False
    formatter = logging.Formatter("[%(asctime)s] [%(levelname)8s] - %(message)s")
    handlers = [] if logger.handlers else [logging.StreamHandler()]
    if log_file:
        handlers.append(logging.FileHandler(log_file, encoding="utf-8"))
    for handler in handlers:
        handler.setFormatter(formatter)
        logger.addHandler(handler)
    return logger


class Problems:
    """Collects what is wrong in a file, so that one run shows all of it."""

    def __init__(self):
        self.count, self.shown = 0, []

    def add(self, path, line, message):
        self.count += 1
        if len(self.shown) < SHOWN:
            self.shown.append(f"{path}:{line}: {message}" if line else f"{path}: {message}")

    def raise_if_any(self):
        if self.count:
            more = [f"... and {self.count - SHOWN} more like these"] if self.count > SHOWN else []
            raise InputError("\n  ".join([f"{self.count} problem{'s' * (self.count > 1)} found", *self.shown, *more]))


# ---- files -----------------------------------------------------------------------------------------------------------


@contextmanager
def atomic_write(path, mode="w"):
    """Open a file for writing that takes its name only when it is complete and on disk (UTF-8, LF)."""
    temporary = f"{path}.{os.getpid()}.tmp"
    text = {} if "b" in mode else {"encoding": "utf-8", "newline": "\n"}
    try:
        with open(temporary, mode, **text) as file:
            yield file
            file.flush()
            os.fsync(file.fileno())
        os.replace(temporary, path)
    finally:
        Path(temporary).unlink(missing_ok=True)


def require_file(path, hint):
    """Raise InputError unless `path` is a file that is not empty."""
    path = Path(path)
    if path.is_dir():
        raise InputError(f"{path}: is a directory, not a file. {hint}")
    if not path.exists():
        beside = sorted(p.name for p in path.parent.glob("*") if p.is_file())[:10] if path.parent.is_dir() else []
        there = f" {path.parent} holds: {', '.join(beside) or 'no files'}." if path.parent.is_dir() else ""
        raise InputError(f"{path}: no such file.{there} {hint}")
    if path.stat().st_size == 0:
        raise InputError(f"{path}: the file is empty. {hint}")


def read_lines(path, problems):
    """Yield (line number, text without line end) of a UTF-8 file; a line that is not UTF-8 is a problem.

    Only LF and CRLF end a line, so that the rarer Unicode line separators may stand inside a text.
    """
    with open(path, "rb") as file:
        for number, raw in enumerate(file, start=1):
            if number == 1:
                if raw.startswith((b"\xff\xfe", b"\xfe\xff")):
                    problems.add(path, 1, "the file is UTF-16; save it as UTF-8")
                    return
                raw = raw.removeprefix(b"\xef\xbb\xbf")
            try:
                yield number, raw.rstrip(b"\r\n").decode("utf-8")
            except UnicodeDecodeError as error:
                guess = _guess_encoding(raw)
                problems.add(path, number, f"byte {error.start + 1} is not UTF-8{guess}; convert the file to UTF-8")


def _guess_encoding(raw):
    try:
        return f" (as GB18030 it reads {raw.decode('gb18030').strip()[:20]!r})"
    except UnicodeDecodeError:
        return ""


# ---- the label tree --------------------------------------------------------------------------------------------------


class LabelTree:
    """The labels of a project: full paths in class-index order, and how they hang together.

    labels   list[str], length L; `index` maps a path back to its class index
    parents  int64 [L], class index of the parent, -1 for a root
    levels   int64 [L], 1 for a root; `depth` is the largest
    Raises InputError for duplicates, empty segments and children whose parent is missing. A node is its full path:
    equal names under two parents are two nodes.
    """

    def __init__(self, labels, source="label list", lines=None):
        self.labels = list(labels)
        lines = lines or range(1, len(self.labels) + 1)
        problems, line_of, self.index = Problems(), {}, {}
        for i, (label, line) in enumerate(zip(self.labels, lines)):
            if label in self.index:
                problems.add(source, line, f"label {label!r} is already on line {line_of[label]}; remove one of them")
            elif not all(segment.strip() for segment in label.split(SEPARATOR)):
                problems.add(source, line, f"label {label!r} has an empty level; write parent{SEPARATOR}child")
            self.index.setdefault(label, i)
            line_of.setdefault(label, line)
        parents = [label.rpartition(SEPARATOR)[0] for label in self.labels]
        for parent, label, line in zip(parents, self.labels, lines):
            if parent and parent not in self.index:
                problems.add(source, line, f"the parent of {label!r} is missing; add the line {parent!r}")
        if not self.labels:
            problems.add(source, None, "no label in it; write one label per line")
        problems.raise_if_any()
        self.parents = np.array([self.index[parent] if parent else -1 for parent in parents], np.int64)
        self.levels = np.array([label.count(SEPARATOR) + 1 for label in self.labels], np.int64)
        self.depth = int(self.levels.max())
        self.children = [[] for _ in self.labels]
        for child, parent in enumerate(self.parents):
            if parent >= 0:
                self.children[parent].append(child)

    @classmethod
    def read(cls, path):
        """Read label.txt; blank lines are skipped, every fault is named with its line."""
        require_file(path, "It holds one label per line, each level of a path joined by '##'.")
        problems, lines, labels = Problems(), [], []
        for number, text in read_lines(path, problems):
            if "\t" in text.strip():
                problems.add(path, number, "a TAB in a label; one label per line, nothing else")
            if label := text.strip():
                lines.append(number)
                labels.append(label)
        problems.raise_if_any()
        return cls(labels, path, lines)

    def __len__(self):
        return len(self.labels)

    def segments(self, i):
        """The names on the path to node i, root first: list[str]."""
        return self.labels[i].split(SEPARATOR)

    def ancestors(self, i):
        """The class indices above node i, root first."""
        above = []
        while (i := int(self.parents[i])) >= 0:
            above.append(i)
        return above[::-1]

    def closure(self, indices):
        """The given class indices and all their ancestors, as a sorted list."""
        return sorted(set(chain.from_iterable((i, *self.ancestors(i)) for i in indices)))

    def nearest(self, label):
        """The known label most like an unknown one, or None."""
        found = difflib.get_close_matches(label, self.labels, n=1, cutoff=0.4)
        same_name = [known for known in self.labels if known.split(SEPARATOR)[-1] == label]
        return (same_name or found or [None])[0]


def levels_text(tree, predicted):
    """The `level k : name,name` lines of a prediction: each level's names once, in first-seen order.

    predicted: class indices in ascending order. A child shows its parent's name above it whether or not the parent's
    own class was predicted.
    """
    paths = [tree.segments(i) for i in predicted]
    depth = max(map(len, paths), default=0)
    names = [dict.fromkeys(path[k] for path in paths if len(path) > k) for k in range(depth)]
    return [f"level {k} : {','.join(level)}" for k, level in enumerate(names, start=1)]


# ---- rows ------------------------------------------------------------------------------------------------------------


class Row(NamedTuple):
    line: int
    text: str
    labels: tuple | None  # class indices in ascending order; None: the row is not labelled


class Rows(NamedTuple):
    """A labelled file in memory: texts list[str], labels list[tuple[int]], and what was passed over."""

    texts: list
    labels: list
    blank: int
    unlabelled: int

    def multi_hot(self, n_labels, rows=None):
        """The targets of the given rows (default: all) as bool [n, L]."""
        return multi_hot(self.labels if rows is None else [self.labels[i] for i in rows], n_labels)


def multi_hot(labels, n_labels):
    """Tuples of class indices -> bool [N, n_labels]."""
    targets = np.zeros((len(labels), n_labels), bool)
    rows = np.repeat(np.arange(len(labels)), [len(row) for row in labels])
    targets[rows, np.fromiter(chain.from_iterable(labels), np.int64, len(rows))] = True
    return targets


def load_rows(path, tree, unlabelled="error"):
    """Read a labelled file whole. Raises InputError with every bad row; blank rows are skipped and counted.

    unlabelled: "error" or "skip", for rows that have a text but no label column.
    """
    path, problems, seen = Path(path), Problems(), Counter()
    require_file(path, "A row is: text<TAB>label,label,...")
    rows = list(read_rows(path, tree, problems, seen))
    if unlabelled == "error":
        for row in rows:
            if row.labels is None:
                problems.add(path, row.line, "no label: a row is text<TAB>label,label,...")
    problems.raise_if_any()
    rows = [row for row in rows if row.labels is not None]
    if not rows:
        raise InputError(f"{path}: no labelled row in it. A row is: text<TAB>label,label,...")
    return Rows([row.text for row in rows], [row.labels for row in rows], seen["blank"], seen["unlabelled"])


def read_rows(path, tree, problems, seen):
    """Yield the good rows of a labelled file, of any size, in order.

    Bad rows go to `problems` (Problems); blank and unlabelled ones are counted in `seen` (a Counter).
    """
    parse = {".jsonl": _parse_jsonl, ".csv": _parse_csv}.get(Path(path).suffix.lower(), _parse_tab)
    for line, text, names in parse(path, problems):
        if text is None:
            seen["blank"] += 1
        elif not text.strip():
            problems.add(path, line, "the text is empty")
        elif names is None:
            seen["unlabelled"] += 1
            yield Row(line, text.strip(), None)
        elif not (faults := list(_label_faults(names, tree))):
            yield Row(line, text.strip(), tuple(sorted({tree.index[name] for name in names})))
        else:
            problems.add(path, line, "; ".join(faults))


def _label_faults(names, tree):
    for name in names:
        if name in tree.index:
            continue
        if not name:
            yield "an empty label (a comma at the end, two commas in a row, or nothing after the TAB)"
        elif len(parts := re.split("[，、;；]", name)) > 1 and all(part.strip() in tree.index for part in parts):
            yield f"labels must be separated by an ASCII comma ',', not as in {name!r}"
        else:
            near = tree.nearest(name)
            yield f"unknown label {name!r}; " + (f"did you mean {near!r}?" if near else "it is not in the label file")


def _parse_tab(path, problems):
    for line, content in read_lines(path, problems):
        text, *labels = content.split("\t")
        if not content.strip():
            yield line, None, None
        elif len(labels) > 1:
            problems.add(path, line, f"{len(labels)} TABs; only one may stand in a row, between text and labels")
        else:
            yield line, text, [name.strip() for name in labels[0].split(",")] if labels else None


def _parse_jsonl(path, problems):
    for line, content in read_lines(path, problems):
        if not content.strip():
            yield line, None, None
            continue
        try:
            row = json.loads(content)
        except (ValueError, RecursionError) as error:
            problems.add(path, line, f"not JSON: {error}")
            continue
        row = row if isinstance(row, dict) else {}
        names = row.get("labels")
        if not isinstance(row.get("text"), str) or not (names is None or isinstance(names, list)):
            problems.add(path, line, 'a row is {"text": "...", "labels": ["...", ...]}')
        else:
            yield line, row["text"], names if names is None else [str(name).strip() for name in names]


def _parse_csv(path, problems):
    csv.field_size_limit(2**31 - 1)
    reader = csv.reader(f"{text}\n" for _, text in read_lines(path, problems))
    try:
        if (header := next(reader, [""]))[0].strip().lower() != "text":
            problems.add(path, 1, f"the first line must be a header that starts with text, not {','.join(header)!r}")
            return
        for text, *names in filter(None, reader):
            yield reader.line_num, text, [name.strip() for name in names if name.strip()] or None
    except csv.Error as error:
        problems.add(path, reader.line_num, f"not CSV: {error}")


# ---- batches ---------------------------------------------------------------------------------------------------------


def train_batches(lengths, batch_size, seed, epoch):
    """The batches of one epoch: a list of int arrays of row numbers, every row once, in an order fixed by seed and epoch.

    lengths: token count per row. Rows of like length share a batch, so that little is padding: rows are shuffled,
    sorted by length within pools of 32 batches, cut into batches, and the batches are shuffled.
    """
    rng = np.random.default_rng([seed, epoch])
    order, lengths = rng.permutation(len(lengths)), np.asarray(lengths)
    pools = [order[i : i + 32 * batch_size] for i in range(0, len(order), 32 * batch_size)]
    order = np.concatenate([pool[np.argsort(lengths[pool], kind="stable")] for pool in pools])
    batches = [order[i : i + batch_size] for i in range(0, len(order), batch_size)]
    rng.shuffle(batches)
    return batches


def length_sorted_batches(lengths, batch_size):
    """Batches for inference: row numbers from longest to shortest, so that memory runs out at the start or never."""
    order = np.argsort(-np.asarray(lengths), kind="stable")
    return [order[i : i + batch_size] for i in range(0, len(order), batch_size)]


def pad(ids, pad_id):
    """Lists of token ids -> int64 [n, longest], padded at the end."""
    padded = np.full((len(ids), max(map(len, ids))), pad_id, np.int64)
    for row, tokens in zip(padded, ids):
        row[: len(tokens)] = tokens
    return padded
