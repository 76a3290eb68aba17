"""Batches of tokenised texts for inference, and windows of rows, so that memory does not grow with a file."""

from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass

import numpy as np

from hierarchical.errors import InputError
from hierarchical.long_texts import Windows

WINDOW = 4096  # rows whose outputs are held at a time
CELLS = 2_000_000  # rows x labels, at most: with hundreds of labels windows are smaller; larger ones miss the caches
CHOOSING_CELLS = 20_000_000  # rows x labels that a choice by dev rows looks at


def row_windows(n_rows: int, n_labels: int = 1) -> list[range]:
    """Consecutive row numbers, so few at a time that what there is for each row and label fits memory."""
    size = max(1, min(WINDOW, CELLS // n_labels))
    return [range(start, min(start + size, n_rows)) for start in range(0, n_rows, size)]


def choosing_rows(n_rows: int, n_labels: int, cells: int = CHOOSING_CELLS) -> range:
    """The dev rows that choose, say, a threshold: all, or with very many labels every second, third, ..."""
    return range(0, n_rows, max(1, -(-n_rows * n_labels // cells)))


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


@dataclass(frozen=True)
class Begun:
    """Work that was begun: `result()` waits for it, once, and `cancel()` gives up what is left of it."""

    result: Callable[[], np.ndarray]
    cancel: Callable[[], None] = lambda: None


def run_batches(
    compute: Callable[[np.ndarray], np.ndarray],
    ids: Sequence[Sequence[int]],
    pad_id: int,
    width: int,
    batch_size: int,
    callers: int = 1,
    progress: Callable | None = None,
    windows: Windows | None = None,
) -> np.ndarray:
    """What `compute` gives for tokenised texts, float32 [N, width], in the order given.

    compute: int64 token ids [n, T], padded -> float32 [n, width]; `callers` threads call it, each with batches of its
    own; with one caller this thread does. progress: called with the texts whose first row a batch has, once it is done.
    windows: cut each text into these rows, and take the largest of what they give, output by output. Raises InputError
    for numbers that are not finite.
    """
    return begin_batches(compute, ids, pad_id, width, batch_size, callers, progress, windows).result()


def begin_batches(
    compute: Callable[[np.ndarray], np.ndarray],
    ids: Sequence[Sequence[int]],
    pad_id: int,
    width: int,
    batch_size: int,
    callers: int = 1,
    progress: Callable | None = None,
    windows: Windows | None = None,
) -> Begun:
    """What run_batches() gives, begun: several callers go to work at once, a single one once it is waited for."""
    rows, owners = windows.expand(ids) if windows else (ids, np.arange(len(ids)))
    first = np.diff(owners, prepend=-1) > 0

    def run(batch: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        found = compute(pad([rows[i] for i in batch], pad_id))
        if not np.isfinite(found).all():
            raise InputError(
                "the model's outputs are not finite: its training diverged (use a lower learning rate), or float16 "
                "is too narrow for it (export it as float32)"
            )
        return batch, found

    batches = length_sorted_batches([len(row) for row in rows], batch_size)
    pool = ThreadPoolExecutor(callers) if callers > 1 else None
    results = pool.map(run, batches) if pool else map(run, batches)

    def cancel() -> None:
        if pool:
            pool.shutdown(cancel_futures=True)

    def result() -> np.ndarray:
        outputs = np.full((len(ids), width), -np.inf, np.float32)
        try:
            for batch, found in results:
                if windows:
                    for owner, row in zip(owners[batch], found):
                        np.maximum(outputs[owner], row, out=outputs[owner])
                else:
                    outputs[batch] = found
                if progress:
                    progress(int(first[batch].sum()))
        finally:
            cancel()
        return outputs

    return Begun(result, cancel)
