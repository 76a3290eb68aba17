"""Making a calibration from dev rows, and measuring what it is worth on rows that had no part in it.

    counts = LogitCounts(tree)
    counts.add(logits, gold, folds)                 # window by window
    calibration = counts.fit("isotonic")            # of all rows; counts.fit("isotonic", without=0) leaves a fold out
    reliability = Reliability(tree); reliability.add(probabilities, gold); reliability.result()

A model's logits are counted in narrow bins, so that memory depends neither on the rows nor on the labels; fitting looks
at the mean logit of each bin. Shapes: n rows of a window, L labels.
"""

from typing import Any

import numpy as np

from hierarchical.calibration import LIMIT, METHODS, Calibration
from hierarchical.decisions import one_of
from hierarchical.errors import InputError
from hierarchical.labels import LabelTree
from hierarchical.thresholds import FOLDS

PER_LOGIT = 64  # bins
BINS = int(2 * LIMIT * PER_LOGIT)
LEAST_GOLD = 20  # with fewer, a level takes what all levels together give
SLOPE = 1e-4  # of the way from 0 to 1 that a curve rises beside its steps, so that it keeps what was likelier likelier
ECE_BINS = 15


class LogitCounts:
    """How many cells (a row and a label) of each fold and level have a logit within each bin, and how many are gold.

    sums  float64 [3, FOLDS, depth, BINS]: cells, gold cells, sum of the cells' logits
    """

    def __init__(self, tree: LabelTree):
        self.tree, self.sums = tree, np.zeros((3, FOLDS, tree.depth, BINS))

    def add(self, logits: np.ndarray, gold: np.ndarray, folds: np.ndarray) -> None:
        """Rows: logits float [n, L], gold bool [n, L], and the fold of each, int [n]."""
        logits = np.clip(logits.astype(np.float64), -LIMIT, LIMIT)
        bins = np.minimum(((logits + LIMIT) * PER_LOGIT).astype(np.int64), BINS - 1)
        places = ((folds[:, None] * self.tree.depth + self.tree.levels - 1) * BINS + bins).ravel()
        for sums, weights in zip(self.sums, (None, gold.ravel(), logits.ravel())):
            sums += np.bincount(places, weights, sums.size).reshape(sums.shape)

    def fit(self, method: str, without: int | None = None, model: str = "") -> Calibration:
        """The Calibration of all rows, or of those of all folds but one. model: its `calibration.mark_of`.

        temperature: one scale for the logits of all labels: Guo, Pleiss, Sun and Weinberger (2017), On calibration of
        modern neural networks. per_level: a scale and a shift for each level: Platt (1999), Probabilistic outputs for
        support vector machines. isotonic: for each level the rising curve with the least squared error: Zadrozny and
        Elkan (2002), Transforming classifier scores into accurate multiclass probability estimates. Raises InputError
        where likelier labels are not right more often.
        """
        one_of("method", method, METHODS)
        used = np.arange(FOLDS) != (-1 if without is None else without)
        cells, gold, sums = self.sums[:, used].sum(axis=1)
        levels = [(cells[i], gold[i], sums[i]) for i in range(self.tree.depth)]
        everything = cells.sum(0), gold.sum(0), sums.sum(0)
        if method == "temperature":
            return Calibration(method, [fit_line(*everything, shifted=False)] * self.tree.depth, [], model)
        enough = [one if one[1].sum() >= LEAST_GOLD else everything for one in levels]
        if method == "per_level":
            return Calibration(method, [fit_line(*one, shifted=True) for one in enough], [], model)
        return Calibration(method, [], [fit_curve(*one) for one in enough], model)


def fit_line(cells: np.ndarray, gold: np.ndarray, sums: np.ndarray, shifted: bool) -> list[float]:
    """[scale, shift] of the logits with the highest likelihood, of counts by bin, float64 [BINS].

    The shift is 0 unless `shifted`. As in Platt's paper a cell counts a little as what it is not, once in all cells of
    its kind: else labels that are told apart without a mistake would have an infinite scale.
    """
    from sklearn.linear_model import LogisticRegression

    used = cells > 0
    cells, gold, logits = cells[used], gold[used], sums[used] / cells[used]
    other = cells - gold
    is_gold, is_other = (gold.sum() + 1) / (gold.sum() + 2), 1 / (other.sum() + 2)
    weights = np.concatenate([gold * is_gold + other * is_other, gold * (1 - is_gold) + other * (1 - is_other)])
    model = LogisticRegression(C=np.inf, fit_intercept=shifted, tol=1e-8, max_iter=1000)
    model.fit(np.tile(logits, 2)[:, None], np.repeat([1, 0], len(logits)), weights)
    if not (scale := float(model.coef_[0, 0])) > 0:
        raise InputError(
            "--calibrate: on these rows labels with a higher logit are right less often, so that there is nothing to "
            "calibrate. Train longer, or see whether the labels of the dev rows are right."
        )
    return [scale, float(model.intercept_[0]) if shifted else 0.0]


def fit_curve(cells: np.ndarray, gold: np.ndarray, sums: np.ndarray) -> list[list[float]]:
    """[logits, probabilities] of an isotonic curve that rises everywhere (see SLOPE), of counts by bin [BINS]."""
    from sklearn.isotonic import IsotonicRegression

    used = cells > 0
    logits = sums[used] / cells[used]
    curve = IsotonicRegression(y_min=0, y_max=1, out_of_bounds="clip")
    curve.fit(logits, gold[used] / cells[used], cells[used])
    xs = np.unique([-LIMIT - 1, *curve.X_thresholds_, LIMIT + 1])
    ys = (1 - SLOPE) * curve.predict(xs) + SLOPE * (xs + LIMIT + 1) / (2 * LIMIT + 2)
    return [xs.tolist(), ys.tolist()]


# ---- measures --------------------------------------------------------------------------------------------------------


class Reliability:
    """How far probabilities are from how often they are right, by level, from windows of rows.

    The expected calibration error is the mean distance between probability and share that is right, in ECE_BINS equal
    bins, weighted by the cells in each: Naeini, Cooper and Hauskrecht (2015), Obtaining well calibrated probabilities
    using Bayesian binning. Of all cells it is small for any model, since nearly all are rightly near 0; `top_ece` looks
    at each row's likeliest label of the level alone.
    """

    def __init__(self, tree: LabelTree):
        self.tree = tree
        self._cells, self._top = np.zeros((2, tree.depth, 3, ECE_BINS))
        self._squares = np.zeros(tree.depth)

    def add(self, probabilities: np.ndarray, gold: np.ndarray) -> None:
        """Rows: probabilities float [n, L], gold bool [n, L]."""
        rows = np.arange(len(gold))
        for i in range(self.tree.depth):
            labels = np.flatnonzero(self.tree.levels == i + 1)
            values, right = probabilities[:, labels].astype(np.float64), gold[:, labels]
            self._squares[i] += ((values - right) ** 2).sum()
            best = values.argmax(axis=1)
            self._cells[i] += _binned(values.ravel(), right.ravel())
            self._top[i] += _binned(values[rows, best], right[rows, best])

    def result(self) -> list[dict[str, Any]]:
        """[{level, ece, top_ece, brier}]: brier is the mean squared error of a cell."""
        return [
            {"level": i + 1, "ece": _ece(self._cells[i]), "top_ece": _ece(self._top[i])}
            | {"brier": float(self._squares[i] / max(self._cells[i, 0].sum(), 1))}
            for i in range(self.tree.depth)
        ]


def _binned(values: np.ndarray, right: np.ndarray) -> np.ndarray:
    """float64 [3, ECE_BINS]: how many values there are, their sum, how many are right."""
    bins = np.minimum((values * ECE_BINS).astype(np.int64), ECE_BINS - 1)
    return np.stack([np.bincount(bins, weights, ECE_BINS) for weights in (None, values, right)])


def _ece(sums: np.ndarray) -> float:
    count, probabilities, right = sums
    return float(np.abs(probabilities - right).sum() / max(count.sum(), 1))


def reliability_lines(before: list[dict], after: list[dict]) -> list[str]:
    """Lines for the log of two results of `Reliability`, on rows left out."""
    return [
        f"Level {one['level']} calibration, before -> after: ECE {one['ece']:.4f} -> {other['ece']:.4f} | of the "
        f"likeliest label {one['top_ece']:.4f} -> {other['top_ece']:.4f} | Brier {one['brier']:.5f} -> "
        f"{other['brier']:.5f}"
        for one, other in zip(before, after)
    ]
