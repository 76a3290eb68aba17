"""Thresholds from dev rows, and what they are honestly worth on rows that they have not seen."""

from collections.abc import Callable
from dataclasses import replace
from typing import Any

import numpy as np

from hierarchical.cells import Cells
from hierarchical.decisions import (
    DECODINGS,
    Decision,
    checked_multi_hot,
    checked_probabilities,
    decide,
    one_of,
)
from hierarchical.labels import LabelTree
from hierarchical.metric import Scores

CRITERIA = ("micro_f1", "macro_f1")
WAYS = ("global", "per_level", "per_label")  # to choose thresholds
FOLDS, MIN_SUPPORT = 5, 20


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
    return _all_cells(probabilities, gold, tree, decoding, per_level).best_threshold(criterion)


def tune_thresholds_per_label(
    probabilities: Any, gold: Any, default: float, min_support: int = MIN_SUPPORT
) -> np.ndarray:
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
    return _all_cells(probabilities, gold).best_thresholds(default, min_support)


def tune_thresholds_per_level(
    probabilities: Any,
    gold: Any,
    tree: LabelTree,
    default: float,
    criterion: str = "micro_f1",
    min_support: int = MIN_SUPPORT,
) -> np.ndarray:
    """One threshold per level (float64 [depth]), each raising "micro_f1" or "macro_f1" of the level's own labels.

    With the guard and the shrinkage of `tune_thresholds_per_label`, n being the gold cells of the level: levels have so
    many that little is left of either. Labels are tuned as if decided on their own ("raw"). Raises ValueError alike.
    """
    one_of("criterion", criterion, CRITERIA)
    probabilities, gold = _dev_arrays(probabilities, gold, len(tree))
    if not 0 <= default <= 1 or min_support < 1:
        raise ValueError(f"default must be from 0 to 1 and min_support 1 or more; got {default} and {min_support}")
    return _all_cells(probabilities, gold, tree).best_level_thresholds(default, criterion, min_support)


def cross_fitted_score(
    probabilities: Any,
    gold: Any,
    tree: LabelTree,
    tune: Callable,
    decision: Decision = Decision(),
    folds: int = FOLDS,
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
    label: Callable[[np.ndarray, np.ndarray], np.ndarray], gold: np.ndarray, tree: LabelTree, folds: int = FOLDS
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


def _all_cells(
    probabilities: np.ndarray,
    gold: np.ndarray,
    tree: LabelTree | None = None,
    decoding: str = "raw",
    per_level: int = 0,
) -> Cells:
    cells = Cells(gold.shape[1], tree, decoding, per_level, most=gold.size)
    cells.add(probabilities, gold)
    return cells.finish()


def dev_cells(tree: LabelTree, decision: Decision) -> Cells:
    """Empty Cells, to be filled with the probabilities of dev rows for `tuned_decision`."""
    return Cells(len(tree), tree, decision.decoding, decision.per_level)


def tuned_decision(
    cells: Cells, tree: LabelTree, decision: Decision, how: str, criterion: str = "micro_f1"
) -> tuple[Decision, dict[str, Any] | None]:
    """Choose threshold(s) on dev rows: (Decision, what that is worth on rows that had no part in it).

    cells: `dev_cells`, finished; how: "global" for one threshold, "per_level" for one per level, "per_label" for one
    per label with enough rows. The worth is a result dict as of `cross_fitted`, or None with a single row; the score on
    the tuned rows themselves flatters. In it, probabilities that `cells` has no room for count as 0.
    """
    one_of("how", how, WAYS)

    def tuned(among: np.ndarray | None = None) -> Decision:
        threshold = cells.best_threshold(criterion, among)
        if how == "global":
            return replace(decision, threshold=threshold)
        if how == "per_level":
            levels = cells.best_level_thresholds(threshold, criterion, MIN_SUPPORT, among)
            # As many thresholds as labels are one per label: in a tree that is one chain, whose order may be another.
            return replace(
                decision, threshold=(levels[tree.levels - 1] if tree.depth == len(tree) else levels).tolist()
            )
        return replace(decision, threshold=cells.best_thresholds(threshold, MIN_SUPPORT, among).tolist())

    scores, fold_of_row = Scores(tree), folds_of(cells.n_rows, FOLDS)
    for fold in range(FOLDS) if cells.n_rows > 1 else ():
        held_out = fold_of_row == fold
        chosen = tuned(~held_out)
        for probabilities, gold in cells.windows(held_out):
            scores.update(decide(probabilities, tree, chosen), gold)
    return tuned(), scores.result() if cells.n_rows > 1 else None
