"""Labelling files of any size: texts in, one window of batches at a time, rows out, and going on after a kill.

Several processes take a stretch of the rows each; what a run that was stopped has written is continued.
"""

import json
import os
import sys
import time
from collections import Counter
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from itertools import islice
from logging import Logger
from pathlib import Path
from typing import BinaryIO, Protocol

import numpy as np

from hierarchical.batches import CELLS, WINDOW, Begun
from hierarchical.checkpoints import require_same_labels
from hierarchical.console import FLAT, get_logger, shown
from hierarchical.decisions import Decision, decide
from hierarchical.devices import launched_processes
from hierarchical.errors import InputError, Problems
from hierarchical.files import atomic_write, file_digest
from hierarchical.labelled import FLOOR, Labelled, describe, label_windows
from hierarchical.labels import LabelTree, levels_text
from hierarchical.output_parts import Parts
from hierarchical.rows import count_texts, read_texts, warn_about
from hierarchical.tokens import Tokenizer

WINDOW_BATCHES = 64  # batches per window: enough texts to sort by length, so that little is padding
LOGGED_ROWS = 12  # rows that are logged when there is an output file
COMMONEST = 5  # labels that the last lines of the log name


@dataclass(frozen=True)
class Job:
    """What is to be labelled, and how.

    data        the file of the texts; "-": standard input
    label_path  a label.txt that must have the model's labels, if it is there
    output_file a file that ends in one of FORMATS; "-": standard output, None: only the log
    batch_size  texts of a step
    floor       write the probabilities of labels above this
    resume      continue the run that left output_file.part
    quiet       with a file, log none of the rows
    certainty   mark the rows that are less certain than this; None: do not ask
    """

    data: Path | str
    label_path: Path | None = None
    output_file: str | None = None
    batch_size: int = 32
    floor: float = FLOOR
    resume: bool = False
    quiet: bool = False
    certainty: float | None = None


# ---- texts -----------------------------------------------------------------------------------------------------------


def windows(texts: Iterable[str], size: int, problems: Problems) -> Iterator[list[str]]:
    """Yield lists of `size` texts, the last one shorter, reading no further than the one that is yielded."""
    while window := list(islice(texts, size)):
        problems.raise_if_any()
        yield window
    problems.raise_if_any()


def share(total: int, size: int, rank: int, world: int) -> tuple[int, int]:
    """(first row, row after the last) for one of `world` processes: whole windows, as one process would cut them."""
    count = -(-total // size)
    return rank * count // world * size, min(total, (rank + 1) * count // world * size)


# ---- results ---------------------------------------------------------------------------------------------------------


def jsonl_rows(
    tree: LabelTree, found: Labelled, floor: float, certainty: float | None = None, known: int | None = None
) -> Iterator[str]:
    """The lines of a .jsonl file: each a labelled.Prediction."""
    for prediction in describe(tree, found, floor, certainty, known):
        yield prediction.to_json() + "\n"


def tsv_rows(
    tree: LabelTree, found: Labelled, floor: float, certainty: float | None = None, known: int | None = None
) -> Iterator[str]:
    """Those of a .tsv file: text<TAB>label,label,... and, where asked for, <TAB>sure or unsure, <TAB>new labels."""
    sure = [] if certainty is None else (found.certainties() >= certainty).tolist()
    for i, (text, labels) in enumerate(zip(found.texts, found.labels())):
        row = f"{text.translate(FLAT)}\t{','.join(tree.labels[label] for label in labels)}"
        if certainty is not None:
            row += "\tsure" if sure[i] else "\tunsure"
        if known is not None:
            row += f"\t{','.join(tree.labels[label] for label in labels if label >= known)}"
        yield row + "\n"


FORMATS = {".jsonl": jsonl_rows, ".tsv": tsv_rows}


def log_row(
    logger: Logger,
    tree: LabelTree,
    text: str,
    predicted: list[int],
    probabilities: np.ndarray,
    known: int | None = None,
) -> None:
    """Log a row in the familiar form; known: see labelled.describe."""
    logger.info(f"text: {shown(text)}")
    logger.info(f"prediction result: {','.join(tree.labels[i] for i in predicted)}")
    if not text:
        logger.info("(blank row)")
    elif not predicted:
        best = probabilities.argmax()
        logger.info(f"(no label above the threshold; most likely: {tree.labels[best]} {probabilities[best]:.2f})")
    if new := [f"{tree.labels[i]} {probabilities[i]:.2f}" for i in predicted if known is not None and i >= known]:
        logger.info(f"(new, by their words alone: {', '.join(new)})")
    for line in levels_text(tree, predicted):
        logger.info(line)
    logger.info("-" * 20)


class Outcome:
    """What came out, over all rows that it is shown, for the last lines of the log."""

    def __init__(self, tree: LabelTree, certainty: float | None = None, known: int | None = None):
        self.tree, self.certainty, self.known = tree, certainty, known
        self.texts = self.unlabelled = self.without_leaf = self.sure = self.new = 0
        self.leaves = [i for i, children in enumerate(tree.children) if not children]
        self.counts = np.zeros(len(tree), np.int64)  # texts that have each label

    def update(self, found: Labelled) -> None:
        """Count what label_texts() gives, leaving blank texts out."""
        filled = np.array([bool(text) for text in found.texts], bool)
        selected = found.selected[filled]
        labelled = selected.any(axis=1)
        if self.certainty is not None:
            self.sure += int((found.certainties()[filled] >= self.certainty).sum())
        if self.known is not None:
            self.new += int(selected[:, self.known :].any(axis=1).sum())
        self.texts += len(selected)
        self.unlabelled += int((~labelled).sum())
        self.without_leaf += int((labelled & ~selected[:, self.leaves].any(axis=1)).sum())
        self.counts += selected.sum(axis=0)

    def lines(self) -> list[str]:
        """The lines to log; none without texts."""
        if not self.texts:
            return []
        line = f"Without a label: {self.unlabelled} of {self.texts} texts ({self.unlabelled / self.texts:.1%})"
        if self.unlabelled:
            line += ", to which --min_labels 1 gives the likeliest"
        if self.tree.depth > 1:
            share = self.without_leaf / self.texts
            line += f"; with labels of upper levels alone: {self.without_leaf} ({share:.1%})"
        most = np.argsort(-self.counts, kind="stable")[:COMMONEST]
        common = [f"{self.tree.labels[i]} {self.counts[i]}" for i in most if self.counts[i]]
        how_many = f"{np.count_nonzero(self.counts)} of {len(self.tree)} labels were given"
        lines = [line, f"{how_many}; the commonest: {', '.join(common)}" if common else how_many]
        if self.certainty is not None:
            enough = f"{self.sure} of {self.texts} texts ({self.sure / self.texts:.1%})"
            lines.append(f"Certain enough ({self.certainty:g}): {enough}; the others are for people")
        if self.known is not None:
            lines.append(f"New labels, by their words alone: in {self.new} of {self.texts} texts")
        return lines


# ---- the output file -------------------------------------------------------------------------------------------------


def output_path(output_file: str | None, tree: LabelTree) -> Path | str | None:
    """The file to write, "-" or None; what can be wrong with it is found here."""
    if output_file in (None, "-"):
        return output_file
    path = Path(output_file)
    if path.is_dir():
        raise InputError(f"{path}: is a directory. --output_file names a file to write.")
    if path.suffix == ".tsv" and (label := next((label for label in tree.labels if "," in label), None)):
        raise InputError(f"{path}: the label {label!r} holds a comma, which separates labels in .tsv. Write .jsonl.")
    return path


@contextmanager
def open_output(
    path: Path | str | None, resume: bool, settings: dict, size: int, logger: Logger
) -> Iterator[tuple[BinaryIO | None, int]]:
    """Yields (binary file to append to, rows already in it); a file takes the name `path` when the body is through.

    settings: what the rows depend on; kept beside the unfinished file, it must be the same on resuming. size: rows of a
    window; one is kept whole or not at all, because its texts share batches.
    """
    if path in (None, "-"):
        yield (sys.stdout.buffer if path else None), 0
        return
    part, record, done = Path(f"{path}.part"), Path(f"{path}.part.json"), 0
    if part.exists() and resume:
        done = rows_to_keep(part, record, settings, size)
        logger.info(f"Resuming after {done} rows")
    elif part.exists():
        logger.warning(f"{part}: the rows of an unfinished run are overwritten; --resume would have continued it")
    file = open(part, "ab" if done else "wb")
    try:
        with atomic_write(record) as settings_file:
            json.dump(settings, settings_file, ensure_ascii=False, indent=1)
        yield file, done
        file.flush()
        os.fsync(file.fileno())
        os.replace(part, path)
        record.unlink()
    except OSError as error:
        error.filename = error.filename or str(part)  # a full disk does not say whose write failed
        raise
    finally:
        file.close()
        if part.exists() and not part.stat().st_size:  # nothing in it to continue
            part.unlink()
            record.unlink(missing_ok=True)


def rows_to_keep(part: Path, record: Path, settings: dict, size: int) -> int:
    """Cut the rows of an unfinished run after the last whole window of `size` rows; how many stay."""
    try:
        then = json.loads(record.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise InputError(f"--resume: {record} is not readable ({error}). Start again without --resume.") from None
    require_same_run(then, settings)
    position = kept = end = 0
    with open(part, "r+b") as file:
        for number, line in enumerate(file, start=1):
            position += len(line)
            if number % size == 0 and line.endswith(b"\n"):
                kept, end = number, position
        file.truncate(end)
    return kept


def is_complete(path: Path | str | None, rank: int, world: int) -> bool:
    """Whether the output file is there, and no unfinished run beside it."""
    if not isinstance(path, Path):
        return False
    return Parts(path, rank, world).are_joined() if world > 1 else path.exists() and not Path(f"{path}.part").exists()


def require_same_run(then: dict, settings: dict) -> None:
    """Raise InputError if a run that is to be continued had other settings."""
    if changed := [name for name, value in settings.items() if then.get(name) != value]:
        raise InputError(
            f"--resume: the unfinished run was another one; since then these have changed: {', '.join(changed)}. "
            "Give the same arguments and files, or start again without --resume."
        )


class Labeller(Protocol):
    """What can label a file: a Predictor, or what stands in for one.

    file: its contents decide whether an unfinished run may be continued. load() is called once everything else is found
    to be in order; begin(texts): their probabilities float32 [n, L].
    """

    tree: LabelTree
    tokenizer: Tokenizer
    file: Path

    def load(self) -> None: ...

    def begin(self, texts: list[str]) -> Begun: ...


def predict_file(
    job: Job,
    labeller: Labeller,
    decision: Decision,
    further: dict | None = None,
    choose: Callable[[np.ndarray, LabelTree, Decision], np.ndarray] = decide,
    known: int | None = None,
) -> None:
    """Label what `job` names and write it where it says.

    further: more settings that the rows depend on; choose: what makes label sets of probabilities, as decide() does;
    known: how many of the labels were learned from rows, where others were not, see labelled.describe
    """
    rank, world = launched_processes()
    logger, tree = get_logger(), labeller.tree
    if job.label_path:
        require_same_labels(tree, job.label_path)

    data = job.data
    stream = data == "-" or Path(data).is_fifo()  # can be read only once
    if world > 1 and (stream or job.output_file == "-"):
        raise InputError("Several processes share the rows of a file and write a file each; for pipes use one process.")
    path, parts = output_path(job.output_file, tree), None
    if job.resume and is_complete(path, rank, world):
        logger.info(f"{path} is complete; remove it to predict again")
        return
    if world > 1 and isinstance(path, Path):
        parts = Parts(path, rank, world)
        path = parts.own
    most = min(WINDOW, CELLS // len(tree)) // job.batch_size  # of large batches fewer: what is ahead should not be late
    size = job.batch_size * max(1, min(WINDOW_BATCHES, most))
    seen, problems = Counter[str](), Problems()
    start, stop = 0, None
    if not stream:
        start, stop = share(count_texts(data, tree, seen), size, rank, world)
    texts = read_texts(data, tree, problems, seen if stream else Counter())
    settings: dict = {
        "max_seq_length": labeller.tokenizer.max_seq_length,
        **labeller.tokenizer.long_text.to_dict(),
        "batch_size": job.batch_size,
        "floor": job.floor,
        "certainty": job.certainty,
    }
    settings |= {"rows": [start, stop], **decision.to_dict(), **(further or {})}
    if isinstance(path, Path):
        settings |= {"data": None if stream else file_digest(data), "weights": file_digest(labeller.file)}
    if parts:
        begun = parts.settings() if job.resume and not Path(f"{path}.part").exists() else None
        if begun is not None:
            require_same_run(begun, settings)
        parts.begin()
        if begun is not None:
            logger.info(f"{path} is complete")
            parts.end(settings, logger)
            return

    with open_output(path, job.resume, settings, size, logger) as (file, done):
        from tqdm import tqdm
        from tqdm.contrib.logging import logging_redirect_tqdm

        labeller.load()
        write_rows = FORMATS[path.suffix] if isinstance(path, Path) else jsonl_rows
        to_log = rows_to_log(path, rank, job.quiet)
        total = None if stop is None else stop - start
        bar = tqdm(total=total, initial=done, desc="predict", unit=" texts", disable=None if path else True)
        began, count, outcome = time.monotonic(), 0, Outcome(tree, job.certainty, known)
        told = began
        with bar, logging_redirect_tqdm([logger]):
            read = windows(islice(texts, start + done, stop), size, problems)
            ahead = 0 if stream else 1  # who waits for a stream's next texts has written what there is
            for found in label_windows(read, labeller.begin, tree, decision, choose, ahead):
                for i in range(min(len(found.texts), to_log - count)):
                    log_row(logger, tree, *found.row(i), known)
                if file:
                    file.write("".join(write_rows(tree, found, job.floor, job.certainty, known)).encode("utf-8"))
                    file.flush()
                outcome.update(found)
                count += len(found.texts)
                bar.update(len(found.texts))
                if path and bar.disable and time.monotonic() - told > 60:  # no terminal for a bar
                    told = time.monotonic()
                    logger.info(f"{done + count} of {total or '?'} texts, {count / (told - began):.1f} texts/s")
    if rank == 0:
        warn_about(seen, data, logger)
    for line in outcome.lines():
        logger.info(line)
    seconds = time.monotonic() - began
    where = f", in {path}" if file and path != "-" else ""
    logger.info(f"Predicted {count} texts in {seconds:.1f} s ({count / max(seconds, 1e-9):.1f} texts/s){where}")
    if parts:
        parts.end(settings, logger)


def rows_to_log(path: Path | str | None, rank: int, quiet: bool) -> int:
    """How many rows: without a file the log is the result, with one it shows what the first rows look like."""
    if not path:
        return sys.maxsize
    return 0 if path == "-" or rank or quiet else LOGGED_ROWS
