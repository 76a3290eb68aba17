"""The rows that look most alike to a model."""

import numpy as np

from hierarchical.batches import row_windows
from hierarchical.console import progress_bar
from retrieval_based.vectors import EXACT, Vectors

CELLS = 20_000_000  # similarities held at a time: 80 MB


def nearest(features: np.ndarray, others: np.ndarray, k: int) -> tuple[np.ndarray, np.ndarray]:
    """The k rows of `others` with the highest cosine similarity to each row of `features`, best first.

    features float32 [N, H], others float32 [M, H] -> (row numbers int64 [N, k], similarities float32 [N, k]); equal
    ones in row order, k is at most M. A block of rows at a time, so that memory does not grow with N x M. With more
    than EXACT of both, where all pairs would take their square, they are looked for in the index of retrieval: of a
    hundred nearest rows it finds about 99.
    """
    features, others = (
        rows / np.maximum(np.linalg.norm(rows, axis=1, keepdims=True), 1e-12) for rows in (features, others)
    )
    k = min(k, len(others))
    if min(len(features), len(others)) > EXACT:
        return _searched(features, others, k)
    return _compared(features, others, k)


def _searched(features: np.ndarray, others: np.ndarray, k: int) -> tuple[np.ndarray, np.ndarray]:
    """`nearest` by an index, of rows of length 1."""
    vectors, found = Vectors(others.shape[1]), []
    with progress_bar(len(others) + len(features), "neighbours") as bar:
        for window in row_windows(len(others)):
            vectors.add(others[window.start : window.stop])
            bar.update(len(window))
        for window in row_windows(len(features)):
            found.append(vectors.search(features[window.start : window.stop], k))
            bar.update(len(window))
    similarities, rows = map(np.concatenate, zip(*found))
    if len(short := np.flatnonzero((rows < 0).any(1))):  # the search ended before it had found k
        rows[short], similarities[short] = _compared(features[short], others, k)
    return rows, similarities


def _compared(features: np.ndarray, others: np.ndarray, k: int) -> tuple[np.ndarray, np.ndarray]:
    """`nearest` by all pairs, of rows of length 1."""
    rows, similarities = np.empty((len(features), k), np.int64), np.empty((len(features), k), np.float32)
    step = max(1, CELLS // len(others))
    for start in range(0, len(features), step):
        block = features[start : start + step] @ others.T
        kth = -np.partition(-block, k - 1, axis=1)[:, k - 1]
        for i, (values, least) in enumerate(zip(block, kth), start=start):
            best = np.flatnonzero(values >= least)
            best = best[np.argsort(-values[best], kind="stable")][:k]
            rows[i], similarities[i] = best, values[best]
    return rows, similarities
