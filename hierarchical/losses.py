"""Losses for several labels a row: what is trained, and the same for scores on dev.

Each stands here twice: as tensors, summed over the rows, to be differentiated; and in NumPy, row by row, for what the
log tells of dev. Both have logits [N, L] in, and the same mean over rows.
"""

from collections.abc import Callable
from typing import Any, NamedTuple

import numpy as np


class Loss(NamedTuple):
    """of_batch: tensors float32 [N, L] (logits, targets from 0 to 1) -> scalar tensor, summed over the rows; a third
    one, weights [L], says how many labels each stands for (see shortlist.py), those of the rows for themselves alone

    of_rows: arrays [N, L] (logits float, gold bool) -> float [N]
    """

    of_batch: Callable[..., Any]
    of_rows: Callable[[np.ndarray, np.ndarray], np.ndarray]


def binary_cross_entropy(logits: Any, targets: Any, weights: Any = None) -> Any:
    """The mean over the labels, summed over the rows. Every label for itself."""
    from paddle.nn.functional import binary_cross_entropy_with_logits

    n_labels = targets.shape[1] if weights is None else weights.sum()
    return binary_cross_entropy_with_logits(logits, targets, weights, reduction="sum") / n_labels


def binary_cross_entropy_of_rows(logits: np.ndarray, gold: np.ndarray) -> np.ndarray:
    """The mean over the labels, for each row."""
    return (np.logaddexp(0, logits) - logits * gold).mean(1)


def zlpr(logits: Any, targets: Any, weights: Any = None) -> Any:
    """log(1 + sum of e^s over a row's absent labels) + log(1 + sum of e^-s over its own), summed over the rows.

    The labels of a row compete, its own ones against 0 from above and the others from below, so that a logit above 0, a
    probability above 0.5, still means that the label applies. Su, Zhu, Murtadha, Pan and Liu (2022), ZLPR: a novel loss
    for multi-label classification. A label with a target t between 0 and 1 is on both sides, with (1 - t) e^s and
    t e^-s. For a single one the loss is least at half the logit of t, so a student is less sure than its teachers, and
    above 0 where they are above 0.5.
    """
    import paddle

    if weights is not None:
        logits = logits + weights.log()  # w times e^s
    none, zero = paddle.full_like(logits, -1e9), paddle.zeros_like(logits[:, :1])
    absent, own = (paddle.where(share > 0, share.log(), none) for share in (1 - targets, targets))
    sides = [paddle.concat([side, zero], 1).logsumexp(1) for side in (absent + logits, own - logits)]
    return sum(sides).sum()


def zlpr_of_rows(logits: np.ndarray, gold: np.ndarray) -> np.ndarray:
    """The same for each row."""
    wrong = np.where(gold, -logits, logits)
    sides = [np.where(side, wrong, -np.inf) for side in (~gold, gold)]
    return sum(np.logaddexp(0, np.logaddexp.reduce(side, axis=1)) for side in sides)


LOSSES = {
    "bce": Loss(binary_cross_entropy, binary_cross_entropy_of_rows),
    "zlpr": Loss(zlpr, zlpr_of_rows),
}
