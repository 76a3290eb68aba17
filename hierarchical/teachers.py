"""Learning from teachers, train.py --teacher: what trained models say of unlabelled texts, beside the labelled rows.

    lessons = Lessons.open(["seed1", "seed2"], "label.txt", "data.txt")     # finds what is wrong; needs no paddle
    ids, targets, order = lessons.beside(train_ids, labels, tokenizer, 4)   # asks the teachers

The target of an unlabelled text is, for each label, the sigmoid of the mean of the teachers' logits, those of a linear
branch included. An epoch has each of these texts once, and each labelled row, with its own labels, as often as makes
its training as long as without teachers (recipes.repeats). Hinton, Vinyals and Dean (2015), Distilling the knowledge in
a neural network, teach one model what several know in this way.
"""

import hashlib
import json
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import islice
from pathlib import Path
from typing import Any

import numpy as np

from hierarchical.batches import row_windows
from hierarchical.calibration import sigmoid
from hierarchical.checkpoints import require_same_labels
from hierarchical.console import get_logger, progress_bar
from hierarchical.errors import InputError
from hierarchical.files import file_digest
from hierarchical.labels import LabelTree
from hierarchical.linear import LINEAR
from hierarchical.predictor import Predictor
from hierarchical.recipes import repeats
from hierarchical.rows import FileTexts, load_texts
from hierarchical.token_rows import TokenRows, encode_file
from hierarchical.tokens import Tokenizer

MOST_CELLS = 1 << 30  # texts x labels: 4 GiB of probabilities in float32
HINT = "--unlabelled_file names the texts that --teacher labels, a file in dataset_dir."


class Joined(Sequence):
    """Two sequences, one behind the other, without a copy."""

    def __init__(self, first: Any, second: Any):
        self.first, self.second = first, second

    def __len__(self) -> int:
        return len(self.first) + len(self.second)

    def __getitem__(self, i: Any) -> Any:
        return self.first[i] if i < len(self.first) else self.second[i - len(self.first)]


class JoinedRows(Joined):
    """Two TokenRows as one."""

    @property
    def lengths(self) -> np.ndarray:
        """int32 [N]: how many ids each row has."""
        return np.concatenate([self.first.lengths, self.second.lengths])


@dataclass(frozen=True)
class Lessons:
    """Teachers and the texts that they label.

    teachers   directories of their checkpoints
    marks      what each is known by, see `mark_of`
    texts      the unlabelled ones
    n_labels   of the student and of each of them, the same ones
    """

    teachers: list[str]
    marks: list[str]
    texts: FileTexts
    n_labels: int

    @classmethod
    def open(cls, teachers: Sequence[str], label_path: str | Path, path: str | Path) -> "Lessons":
        """Read the small files of the teachers, and the texts once. label_path: the student's labels; path: the texts.

        Raises InputError for a teacher that is no checkpoint or has other labels, for what is wrong with the texts, and
        for too many of them.
        """
        tree, marks = LabelTree.read(label_path), []
        for teacher in teachers:
            try:
                opened = Predictor(teacher, kind="checkpoint")
                require_same_labels(opened.tree, label_path)
            except InputError as error:
                raise InputError(f"--teacher {teacher}: {error}") from None
            marks.append(mark_of(opened))
        texts = load_texts(path, tree, HINT, get_logger())
        if (cells := len(texts) * len(tree)) > MOST_CELLS:
            raise InputError(
                f"{path}: the probabilities of {len(tree):,} labels for {len(texts):,} texts take {cells / 2**28:.1f} "
                f"GiB in every process; {MOST_CELLS / 2**28:.1f} are the most. Take {MOST_CELLS // len(tree):,} texts."
            )
        return cls(list(teachers), marks, texts, len(tree))

    def fingerprint(self) -> dict[str, Any]:
        """What a resumed run must share with the one it continues, by the flags' names."""
        return {"teacher": self.marks, "unlabelled_file": file_digest(self.texts.path)[:16]}

    def beside(
        self,
        ids: TokenRows,
        labels: list[tuple],
        tokenizer: Tokenizer,
        epochs: int,
        token_cache: str | None = None,
        device: str = "cpu",
    ) -> tuple[JoinedRows, Joined, np.ndarray]:
        """(token ids of the labelled rows and behind them of the texts, their targets, the row numbers of an epoch).

        The targets are as Trainer.train_step takes them: the labels of a row, the probabilities float32 [L] of a text.
        ids, labels: of the labelled rows; tokenizer, token_cache: the student's, see `encode_file`; device: as paddle
        writes it
        """
        n_rows, n_texts, times = len(labels), len(self.texts), repeats(len(labels), epochs)
        get_logger().info(f"An epoch has {n_texts:,} unlabelled texts, and {n_rows:,} labelled rows x {times}")
        probabilities = self.probabilities(device)
        sure = np.count_nonzero(probabilities > 0.5) / n_texts
        get_logger().info(f"Teachers: {len(self.teachers)}, whose mean gives a text {sure:.2f} labels (above 0.5)")
        text_ids = encode_file(tokenizer, self.texts, self.texts.path, token_cache)
        order = np.concatenate([np.tile(np.arange(n_rows), times), n_rows + np.arange(n_texts)])
        return JoinedRows(ids, text_ids), Joined(labels, probabilities), order

    def probabilities(self, device: str = "cpu") -> np.ndarray:
        """The sigmoid of the mean of the teachers' logits, float32 [N, L]; a teacher is loaded at a time."""
        n_texts = len(self.texts)
        found, windows = np.zeros((n_texts, self.n_labels), np.float32), row_windows(n_texts, self.n_labels)
        with progress_bar(n_texts * len(self.teachers), "teachers") as bar:
            for directory in self.teachers:
                teacher, texts = Predictor(directory, kind="checkpoint", device=device), iter(self.texts)
                for rows in windows:
                    logits = teacher.text_logits(list(islice(texts, len(rows))), bar.update)
                    found[rows.start : rows.stop] += logits
        for rows in windows:
            found[rows.start : rows.stop] = sigmoid(found[rows.start : rows.stop] / len(self.teachers))
        return found


def mark_of(teacher: Predictor) -> str:
    """16 hexadecimal digits of all that its logits depend on: its numbers, and what it reads of a text."""
    files = sorted({teacher.file, teacher.file.with_name(LINEAR)})
    reads = teacher.tokenizer.max_seq_length, teacher.tokenizer.long_text.to_dict()
    parts = [*(file_digest(path) for path in files if path.exists()), *reads]
    return hashlib.sha256(json.dumps(parts).encode()).hexdigest()[:16]
