"""Thresholds from dev rows, and what they are honestly worth on rows that they have not seen."""

from collections.abc import Callable
from dataclasses import replace
from typing import Any

import numpy as np

from hierarchical.decisions import (
    DECODINGS,
    Decision,
    checked_multi_hot,
    checked_probabilities,
    cut_values,
    decide,
    one_of,
)
from hierarchical.labels import LabelTree
from hierarchical.metric import Scores

CRITERIA = ("micro_f1", "macro_f1")


def tune_threshold(
    probabilities: Any,
    gold: Any,
    tree: LabelTree | None = None,
    decoding: str = "raw",
    criterion: str = "micro_f1",
    per_level: int = 0,
) -> float:
    """The one threshold (float) with the highest "micro_f1" or "macro_f1" on these rows.

    probabilities float [N, L], gold multi-hot [N, L]; `tree` is needed unless labels are decided alone. Exact: F1 only
    changes where the threshold passes a probability, so one sort visits every case there is. The threshold lies midway
    between two neighbouring probabilities; of several optima the nearest to 0.5 wins, and 0.5 itself stays if it is
    one. min_labels, max_labels and top_k play no part. Time O(N L log(N L)), memory O(N L). Raises ValueError for bad
    arrays or an unknown name.
    """
    one_of("criterion", criterion, CRITERIA)
    one_of("decoding", decoding, DECODINGS)
    if tree is None and (decoding != "raw" or per_level):
        raise ValueError(f"decoding {decoding!r} needs the label tree")
    probabilities, gold = _dev_arrays(probabilities, gold, None if tree is None else len(tree))
    # With one threshold for all labels, margins and probabilities have the same order: decode once, then cut anywhere.
    if tree is not None:
        probabilities = cut_values(probabilities, tree, decoding, per_level)
    if criterion == "macro_f1":
        per_label = np.argsort(-probabilities, axis=0)
        curves = _f1_curve(np.take_along_axis(gold, per_label, axis=0))
        gains = np.empty_like(probabilities)  # what macro-F1 gains when this one cell is predicted as well
        np.put_along_axis(gains, per_label, np.diff(curves, axis=0, prepend=0) / gold.shape[1], axis=0)
    order = np.argsort(-probabilities, axis=None)
    scores = _f1_curve(gold.ravel()[order]) if criterion == "micro_f1" else np.cumsum(gains.ravel()[order])
    return _best_threshold(probabilities.ravel()[order], scores, preferred=0.5)


def tune_thresholds_per_label(probabilities: Any, gold: Any, default: float, min_support: int = 20) -> np.ndarray:
    """One threshold per label (float64 [L]), each raising that label's own F1 on these rows, or `default`.

    A threshold fitted to a handful of positives is mostly noise. So a label with fewer than `min_support` positive rows
    keeps `default` (a float, best from `tune_threshold`), and one with n positives goes the share n / (n + min_support)
    of the way from `default` to its optimum: half of it right at the guard, nearly all of it for a frequent label, as a
    mean shrinks toward a prior worth min_support observations. A move that does not raise F1 on these rows is not made.
    Labels are tuned on their own ("raw"). Raises ValueError for bad arrays, default or min_support.
    """
    probabilities, gold = _dev_arrays(probabilities, gold)
    if not 0 <= default <= 1 or min_support < 1:
        raise ValueError(f"default must be from 0 to 1 and min_support 1 or more; got {default} and {min_support}")
    support = np.count_nonzero(gold, axis=0)
    thresholds = np.full(gold.shape[1], default, dtype=np.float64)
    for label in np.flatnonzero(support >= min_support):
        order = np.argsort(-probabilities[:, label])
        values, curve = probabilities[order, label], _f1_curve(gold[order, label])
        optimum = _best_threshold(values, curve, preferred=default)
        moved = default + support[label] / (support[label] + min_support) * (optimum - default)
        before, after = (np.append(0.0, curve)[np.count_nonzero(values > cut)] for cut in (default, moved))
        if after > before:
            thresholds[label] = moved
    return thresholds


def cross_fitted_score(
    probabilities: Any,
    gold: Any,
    tree: LabelTree,
    tune: Callable,
    decision: Decision = Decision(),
    folds: int = 5,
) -> dict[str, Any]:
    """What tuning is worth on rows it has not seen: `Scores.result()` pooled over K held-out folds.

    `tune(probabilities, gold)` returns a threshold or one per label; it sees K-1 folds, and `decision` with that
    threshold labels the fold left out. Compare with `evaluate(decide(probabilities, tree, decision), gold, tree)`. The
    folds depend on the number of rows only. Raises ValueError for bad arrays or fewer rows than folds.
    """
    probabilities, gold = _dev_arrays(probabilities, gold, len(tree))
    if not 2 <= folds <= len(gold):
        raise ValueError(f"folds must be from 2 to the number of rows ({len(gold)}), got {folds}")

    def label(rows: np.ndarray, held_out: np.ndarray) -> np.ndarray:
        tuned = replace(decision, threshold=tune(probabilities[rows], gold[rows]))
        return decide(probabilities[held_out], tree, tuned)

    return cross_fitted(label, gold, tree, folds)


def cross_fitted(
    label: Callable[[np.ndarray, np.ndarray], np.ndarray], gold: np.ndarray, tree: LabelTree, folds: int = 5
) -> dict[str, Any]:
    """What a choice is worth on rows that had no part in it: `Scores.result()` pooled over K held-out folds.

    label(rows, held_out), both bool [N]: chooses by `rows`, K-1 folds, and returns the label sets, bool, of the others.
    gold bool [N, L]. The folds depend on the number of rows only.
    """
    scores, fold_of_row = Scores(tree), folds_of(len(gold), folds)
    for fold in range(folds):
        held_out = fold_of_row == fold
        scores.update(label(~held_out, held_out), gold[held_out])
    return scores.result()


def folds_of(n_rows: int, folds: int) -> np.ndarray:
    """The fold of each row, int64 [N]; it depends on the number of rows only."""
    # Shuffled, because files come sorted or in turns by label; the seed is fixed, so the same rows give the same score.
    return np.random.default_rng(0).permutation(n_rows) % folds


def _dev_arrays(probabilities: Any, gold: Any, n_labels: int | None = None) -> tuple[np.ndarray, np.ndarray]:
    """Checked copies: probabilities float64 [N, L] and gold bool [N, L]."""
    if n_labels is None:
        n_labels = np.shape(probabilities)[-1] if np.ndim(probabilities) else 0
    probabilities = checked_probabilities(probabilities, n_labels)
    return probabilities, checked_multi_hot(gold, probabilities.shape, "gold")


def _f1_curve(gold: np.ndarray) -> np.ndarray:
    """Element k: the F1 when rows 0..k are predicted; gold is bool [N] or [N, L], sorted by falling probability."""
    predicted = np.arange(1, len(gold) + 1)
    predicted = predicted if gold.ndim == 1 else predicted[:, None]
    return 2 * np.cumsum(gold, axis=0) / (predicted + np.count_nonzero(gold, axis=0))


def _best_threshold(values: np.ndarray, scores: np.ndarray, preferred: float) -> float:
    """The threshold with the best score; values [M] fall, scores[k] belongs to predicting values[:k + 1]."""
    # Predicting k values needs low[k] <= threshold < high[k].
    high, low = np.append(1.0, values), np.append(values, 0.0)
    scores = np.append(0.0, scores)
    cuts = np.flatnonzero(high > low)  # equal values cannot be told apart
    cuts = cuts[scores[cuts] >= scores[cuts].max() - 1e-9]  # macro-F1 is a sum with rounding errors
    high, low = high[cuts], low[cuts]
    middle = (high + low) / 2
    middle = np.where(middle < high, middle, low)  # neighbouring floats have no middle
    candidates = np.where((low <= preferred) & (preferred < high), preferred, middle)
    return float(candidates[np.argmin(np.abs(candidates - preferred))])


def tuned_decision(
    probabilities: Any, gold: Any, tree: LabelTree, decision: Decision, how: str, criterion: str = "micro_f1"
) -> tuple[Decision, dict[str, Any] | None]:
    """Choose threshold(s) on dev rows: (Decision, result dict of `cross_fitted_score`, or None with a single row).

    how: "global" for one threshold, "per_label" for one per label with enough rows. The result says what the tuning is
    worth on rows it has not seen; the score on the tuned rows themselves flatters.
    """
    one_of("how", how, ("global", "per_label"))

    def tune(p: np.ndarray, g: np.ndarray) -> float | list[float]:
        threshold = tune_threshold(p, g, tree, decision.decoding, criterion, decision.per_level)
        return threshold if how == "global" else tune_thresholds_per_label(p, g, threshold).tolist()

    tuned, folds = replace(decision, threshold=tune(probabilities, gold)), min(5, len(gold))
    return tuned, cross_fitted_score(probabilities, gold, tree, tune, decision, folds) if folds > 1 else None
