"""The rows that look most alike to a model."""

import numpy as np

CELLS = 20_000_000  # similarities held at a time: 80 MB


def nearest(features: np.ndarray, others: np.ndarray, k: int) -> tuple[np.ndarray, np.ndarray]:
    """The k rows of `others` with the highest cosine similarity to each row of `features`, best first.

    features float32 [N, H], others float32 [M, H] -> (row numbers int64 [N, k], similarities float32 [N, k]); equal
    ones in row order, k is at most M. A block of rows at a time, so that memory does not grow with N x M.
    """
    features, others = (
        rows / np.maximum(np.linalg.norm(rows, axis=1, keepdims=True), 1e-12) for rows in (features, others)
    )
    k = min(k, len(others))
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
