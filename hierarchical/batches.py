"""Batches of tokenised texts for inference."""

from collections.abc import Sequence

import numpy as np


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
