"""What two or more scripts share and what needs no deep-learning framework: errors, the label tree, rows, batches.

Files read here (all UTF-8, with or without a byte order mark, lines ending in LF or CRLF):
    label.txt                     one label per line, a path with its levels joined by `##`; class index = line order.
                                  `path==word` gives the few-shot route a word for the label; others ignore it
    train.txt, dev.txt, test.txt  `text<TAB>label,label,...`
    *.jsonl                       {"text": "...", "labels": ["...", ...]}  labels may hold commas, [] means none applies
    *.csv                         a header line, then text, label, label, ... with CSV quoting
"""

import argparse
import csv
import difflib
import hashlib
import heapq
import json
import logging
import os
import re
import sys
import tempfile
from collections import Counter
from contextlib import contextmanager, nullcontext
from itertools import chain
from pathlib import Path
from typing import NamedTuple

import numpy as np

SHOWN = 20  # bad rows of a file that are shown in full before the rest is counted
SEPARATOR, WORD_SEPARATOR = "##", "=="
# For text.translate(): what would break a line of a result, or give a terminal orders (escape sequences).
FLAT = {code: " " for code in (*range(0x20), *range(0x7F, 0xA0))}


# ---- errors and logging ----------------------------------------------------------------------------------------------


class InputError(ValueError):
    """Something the user can mend: the message says where, what and how. Ends a script with exit code 2."""


def run(main):
    """Call a script's `main()`, turning what the user can mend into a message and exit code 2, without a traceback."""
    if hasattr(sys.stdout, "reconfigure"):  # a terminal that cannot show a character shows its number instead
        sys.stdout.reconfigure(errors="backslashreplace")
    try:
        main()
        sys.stdout.flush()  # here, where an error can still be told from a good end
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


FORMATTER = logging.Formatter("[%(asctime)s] [%(levelname)8s] - %(message)s")


def get_logger(log_file=None):
    """The project's logger: PaddleNLP's line format, to stderr and, if given, appended to a file."""
    logger = logging.getLogger("hierarchical")
    logger.setLevel(logging.INFO)
    logger.propagate = False
    # other programs, and progress bars, put handlers of their own in place
    handlers = [] if any(one.formatter is FORMATTER for one in logger.handlers) else [logging.StreamHandler()]
    if log_file:
        handlers.append(logging.FileHandler(log_file, encoding="utf-8"))
    for handler in handlers:
        handler.setFormatter(FORMATTER)
        logger.addHandler(handler)
    return logger


@contextmanager
def quiet():
    """Keep what native code prints about its own progress off the terminal; an exception brings it back."""
    sys.stdout.flush()
    saved = [os.dup(1), os.dup(2)]
    with tempfile.TemporaryFile() as said:
        try:
            for stream in (1, 2):
                os.dup2(said.fileno(), stream)
            yield
        except Exception:
            said.seek(0)
            os.write(saved[1], said.read())
            raise
        finally:
            for stream, copy in enumerate(saved, start=1):
                os.dup2(copy, stream)
                os.close(copy)


class HelpFormatter(argparse.ArgumentDefaultsHelpFormatter):
    """--help with the default behind every flag that has one; "default: None" would tell nobody anything."""

    def _get_help_string(self, action):
        return action.help if action.default is None or action.default is False else super()._get_help_string(action)


def check_minima(parser, args, **minima):
    """End with a usage error if an argument that was given is below its minimum, or infinite."""
    for name, lowest in minima.items():
        if (value := getattr(args, name)) is not None and not lowest <= value < float("inf"):  # also catches nan
            parser.error(f"argument --{name}: must be at least {lowest}, got {value}")


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
    except OSError as error:
        error.filename = error.filename or os.fspath(path)  # a full disk does not say whose write failed
        raise
    finally:
        Path(temporary).unlink(missing_ok=True)


def file_digest(path):
    """SHA-256 of a file's bytes, as hexadecimal text."""
    sha256 = hashlib.sha256()
    with open(path, "rb") as file:
        while block := file.read(1 << 20):
            sha256.update(block)
    return sha256.hexdigest()


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


def require_writable(path, flag, inputs):
    """Raise InputError now if a file could not be written after all the work, or would replace one that is read."""
    if path.is_dir():
        raise InputError(f"{path}: is a directory. {flag} names a file to write.")
    if path.resolve() in [source.resolve() for source in inputs]:
        raise InputError(f"{path}: {flag} would overwrite the rows it is made from. Give it another name.")
    try:
        tempfile.TemporaryFile(dir=path.parent).close()
    except OSError as error:
        raise InputError(f"{path}: cannot be written ({error.strerror}). Check {flag} and your rights.") from None


def require_outputs(outputs, inputs):
    """`require_writable` for every file of {flag: path}; no two flags may name the same one."""
    flag_of = {}
    for flag, path in outputs.items():
        require_writable(path, flag, inputs)
        if (other := flag_of.setdefault(path.resolve(), flag)) != flag:
            raise InputError(f"{path}: {other} and {flag} must have different names.")


def read_lines(path, problems):
    """Yield (line number, text without line end) of a UTF-8 file; a line that is not UTF-8 is a problem.

    Only LF and CRLF end a line, so that the rarer Unicode line separators may stand inside a text. "-" is stdin.
    """
    with nullcontext(sys.stdin.buffer) if str(path) == "-" else open(path, "rb") as file:
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
    words    list[str], what a label is called in a sentence: its path's last level, unless label.txt gives another word
    Raises InputError for duplicates, empty segments and children whose parent is missing. A node is its full path:
    equal names under two parents are two nodes.
    """

    def __init__(self, labels, source="label list", lines=None, words=None):
        self.labels = list(labels)
        lines = lines or range(1, len(self.labels) + 1)
        problems, line_of, self.index = Problems(), {}, {}
        for i, (label, line) in enumerate(zip(self.labels, lines)):
            self.index.setdefault(label, i)
            if line_of.setdefault(label, line) != line:
                problems.add(source, line, f"label {label!r} is already on line {line_of[label]}; remove one of them")
        parents = [label.rpartition(SEPARATOR)[0] for label in self.labels]
        for parent, label, line in zip(parents, self.labels, lines):
            segments = label.split(SEPARATOR)
            if not all(segment.strip() for segment in segments):
                problems.add(source, line, f"label {label!r} has an empty level; write parent{SEPARATOR}child")
            elif any(segment != segment.strip() for segment in segments):
                problems.add(source, line, f"label {label!r} has a blank beside a level's name; remove it")
            elif SEPARATOR + "#" in label:
                problems.add(source, line, f"label {label!r} has more than two # in a row; no level may begin with #")
            elif parent and parent not in self.index:
                problems.add(source, line, f"the parent of {label!r} is missing; add the line {parent!r}")
        if not self.labels:
            problems.add(source, None, "no label in it; write one label per line")
        problems.raise_if_any()
        self.parents = np.array([self.index[parent] if parent else -1 for parent in parents], np.int64)
        self.levels = np.array([label.count(SEPARATOR) + 1 for label in self.labels], np.int64)
        self.depth = int(self.levels.max())
        words = words or [""] * len(self.labels)
        self.words = [word or label.split(SEPARATOR)[-1] for label, word in zip(self.labels, words)]
        self.children = [[] for _ in self.labels]
        for child, parent in enumerate(self.parents):
            if parent >= 0:
                self.children[parent].append(child)

    @classmethod
    def read(cls, path):
        """Read label.txt; blank lines are skipped, every fault is named with its line."""
        require_file(path, "It holds one label per line, each level of a path joined by '##'.")
        problems, lines, labels, words = Problems(), [], [], []
        for number, text in read_lines(path, problems):
            if "\t" in text.strip():
                problems.add(path, number, "a TAB in a label; one label per line, nothing else")
            if text.strip():
                label, equals, word = map(str.strip, text.partition(WORD_SEPARATOR))
                if not label or equals and not word:
                    problems.add(path, number, f"a label and its word are written path{WORD_SEPARATOR}word")
                lines.append(number)
                labels.append(label)
                words.append(word)
        problems.raise_if_any()
        return cls(labels, path, lines, words)

    def __len__(self):
        return len(self.labels)

    def lines(self):
        """The lines of label.txt that give this tree and its words, without line ends."""
        own = [label.split(SEPARATOR)[-1] for label in self.labels]
        return [
            label if word == name else f"{label}{WORD_SEPARATOR}{word}"
            for label, word, name in zip(self.labels, self.words, own)
        ]

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
        if same_name := [known for known in self.labels if known.split(SEPARATOR)[-1] == label]:
            return same_name[0]
        # difflib is slow: it compares only the labels that share most pairs of neighbouring characters with this one
        pairs = _pairs(label)

        def shared(known):
            others = _pairs(known)
            return len(pairs & others) / (len(pairs) + len(others))

        candidates = heapq.nlargest(50, self.labels, shared)
        return next(iter(difflib.get_close_matches(label, candidates, n=1, cutoff=0.4)), None)


def _pairs(name):
    name = f" {name} "
    return set(zip(name, name[1:]))


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
    labels: tuple | None  # class indices in ascending order, or names (see read_rows); None: the row is not labelled


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
    rows = np.repeat(np.arange(len(labels)), np.array([len(row) for row in labels], np.int64))
    targets[rows, np.fromiter(chain.from_iterable(labels), np.int64, len(rows))] = True
    return targets


def load_rows(path, tree, unlabelled="error"):
    """Read a labelled file whole. Raises InputError with every bad row; blank rows are skipped and counted.

    tree: as in read_rows
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


def load_reported(path, tree, logger):
    """The labelled rows of a file (utils.Rows); what is passed over is reported."""
    rows = load_rows(path, tree, unlabelled="skip")
    if rows.blank or rows.unlabelled:
        logger.warning(f"{Path(path).name}: skipped {rows.blank} blank and {rows.unlabelled} unlabelled lines")
    return rows


def report_rows(name, rows, tree, logger):
    """Warn about the lines of a file that were passed over, labels without their parent, and labels without a row."""
    if rows.blank or rows.unlabelled:
        logger.warning(f"{name}: skipped {rows.blank} blank and {rows.unlabelled} unlabelled lines")
    open_rows = [i for i, labels in enumerate(rows.labels) if tree.closure(labels) != list(labels)]
    if open_rows:
        logger.warning(
            f"{name}: {len(open_rows)} rows have a label without its parent, first "
            f"{rows.texts[open_rows[0]][:30]!r}; the parent counts as absent. `python check_data.py` lists them."
        )
    unseen = np.flatnonzero(~rows.multi_hot(len(tree)).any(0))
    if len(unseen):
        names = ", ".join([*(tree.labels[i] for i in unseen[:5]), *["..."] * (len(unseen) > 5)])
        logger.warning(f"{name}: no row for {len(unseen)} of {len(tree)} labels ({names})")


def read_rows(path, tree, problems, seen):
    """Yield the good rows of a labelled file, of any size, in order.

    tree: its labels are the known ones; None: any name is a label, and Row.labels are the names as they stand.
    Bad rows go to `problems` (Problems); blank and unlabelled ones are counted in `seen` (a Counter).
    """
    for line, text, names in parse_rows(path, problems):
        if text is None:
            seen["blank"] += 1
        elif not text.strip():
            problems.add(path, line, "the text is empty")
        elif names is None:
            seen["unlabelled"] += 1
            yield Row(line, text.strip(), None)
        elif all(name in tree.index if tree else name for name in names):
            labels = tuple(sorted({tree.index[name] for name in names}) if tree else names)
            yield Row(line, text.strip(), labels)
        else:  # what will not be shown is not put into words, since looking for near labels takes its time
            problems.add(path, line, label_faults(names, tree) if problems.count < SHOWN else "")


def label_faults(names, tree):
    """What is wrong with the labels of a row, in words; without a tree only an empty name is wrong."""
    faults, wrong = [], [name for name in dict.fromkeys(names) if not (name in tree.index if tree else name)]
    for name in wrong[:3]:
        shown = repr(name if len(name) <= 60 else f"{name[:60]}...")
        if not name:
            faults.append("an empty label (a comma at the end, two commas in a row, or nothing after the TAB)")
        elif len(parts := re.split("[，、;；]", name)) > 1 and all(part.strip() in tree.index for part in parts):
            faults.append(f"labels must be separated by an ASCII comma ',', not as in {shown}")
        else:
            near = tree.nearest(name)
            faults.append(f"unknown label {shown}; " + (f"did you mean {near!r}?" if near else "none is like it"))
    return "; ".join(faults + [f"and {len(wrong) - 3} more wrong labels"] * (len(wrong) > 3))


def parse_rows(path, problems):
    """Yield (line, text, label names) of every row, whatever its labels; None as in parse_jsonl."""
    parse = {".jsonl": parse_jsonl, ".csv": parse_csv}.get(Path(path).suffix.lower(), _parse_tab)
    return parse(path, problems)


def _parse_tab(path, problems):
    for line, content in read_lines(path, problems):
        text, *labels = content.split("\t")
        if not content.strip():
            yield line, None, None
        elif len(labels) > 1:
            problems.add(path, line, f"{len(labels)} TABs; only one may stand in a row, between text and labels")
        else:
            yield line, text, [name.strip() for name in labels[0].split(",")] if labels else None


def parse_jsonl(path, problems):
    """Yield (line, text, label names) of every row; text is None for a blank line, names where there are none."""
    for line, content in read_lines(path, problems):
        if not content.strip():
            yield line, None, None
            continue
        try:
            row = json.loads(content)
            text, names = row["text"], row.get("labels")
            if not isinstance(names, list | None) or not all(isinstance(name, str) for name in names or ()):
                raise TypeError
            for part in (text, *(names or ())):
                part.encode()  # half of a surrogate pair could be read, but never written
        except (KeyError, TypeError, AttributeError):
            problems.add(path, line, 'a row is one object on one line: {"text": "...", "labels": ["...", ...]}')
        except (ValueError, RecursionError) as error:
            problems.add(path, line, f"not JSON: {error}")
        else:
            yield line, text, names if names is None else [name.strip() for name in names]


def parse_csv(path, problems):
    """Like parse_jsonl; a quoted text may go over several lines, the first of which then names the row."""
    first = None

    def lines():
        nonlocal first
        for number, content in read_lines(path, problems):
            first = first or number
            yield f"{content}\n"

    csv.field_size_limit(2**31 - 1)
    reader, header = csv.reader(lines(), strict=True), None
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
                problems.add(path, first, f"a header that starts with text must come first, not {','.join(row)!r}")
                return
        else:
            text, *names = row if any(map(str.strip, row)) else [None]
            yield first, text, [name.strip() for name in names if name.strip()] or None


def require_row_format(path, flag, rows):
    """Raise InputError if `write_rows` could not write these (text, label names) so that they read back the same."""
    path = Path(path)
    if path.suffix.lower() == ".csv":
        raise InputError(f"{path}: {flag} writes rows as .txt or .jsonl, not .csv.")
    if path.suffix.lower() == ".jsonl":
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


def write_rows(path, rows):
    """Write (text, label names) in the format of the file's suffix, atomically; names is None for an unlabelled row."""
    with atomic_write(path) as file:
        file.writelines(format_row(path, text, names) for text, names in rows)


def format_row(path, text, names):
    """The line of a row in a file of this name."""
    if Path(path).suffix.lower() == ".jsonl":
        row = {"text": text} if names is None else {"text": text, "labels": list(names)}
        return json.dumps(row, ensure_ascii=False) + "\n"
    return f"{text}\n" if names is None else f"{text}\t{','.join(names)}\n"


# ---- batches ---------------------------------------------------------------------------------------------------------


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
