"""Batches of tokenised texts for inference, and windows of rows, so that memory does not grow with a file."""

from collections.abc import Sequence

import numpy as np

WINDOW = 4096  # rows whose outputs are held at a time
CELLS = 20_000_000  # rows x labels, at most: with thousands of labels windows are smaller


def row_windows(n_rows: int, n_labels: int = 1) -> list[range]:
    """Consecutive row numbers, so few at a time that what there is for each row and label fits memory."""
    size = max(1, min(WINDOW, CELLS // n_labels))
    return [range(start, min(start + size, n_rows)) for start in range(0, n_rows, size)]


def length_sorted_batches(lengths: Sequence[int], batch_size: int) -> list[np.ndarray]:
    """Batches for inference: row numbers from longest to shortest, so that memory runs out at the start or never."""
    order = np.argsort(-np.asarray(lengths), kind="stable")
    return [order[i : i + batch_size] for i in range(0, len(order), batch_size)]


def pad(ids: Sequence[Sequence[int]], pad_id: int) -> np.ndarray:
    """Lists of token ids -> int64 [n, longest], padded at the end."""
    padded = np.full((len(ids), max(map(len, ids))), pad_id, np.int64)
    for row, tokens in zip(padded, ids):
        row[: len(tokens)] = tokens
    return padded
