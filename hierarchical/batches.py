"""Batches of tokenised texts for inference."""

import numpy as np


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
