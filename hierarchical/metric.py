"""Scores for hierarchical multi-label classification, and the one rule that turns probabilities into label sets.

NumPy in, numbers out; nothing here is typed on a command line. Three parts:

    decide(probabilities, tree, decision)      probabilities -> multi-hot label sets; every script calls this one
    Scores(tree).update(predicted, gold)       counts batch by batch, result() -> micro, macro, per-level, hierarchical
    tune_threshold(probabilities, gold)        a threshold from dev rows, and what it is honestly worth

Shapes: N rows, L labels in class-index order. `tree` is a `labels.LabelTree`. A node is its full path everywhere, so
equal names under two parents are two nodes. All scores are fractions from 0 to 1, and 0/0 counts as 0.
"""

from collections.abc import Callable
from dataclasses import asdict, dataclass, fields, replace
from typing import Any

import numpy as np

from hierarchical.labels import LabelTree

DECODINGS = ("raw", "closure", "topdown")
CRITERIA = ("micro_f1", "macro_f1")


# ---- Decisions: from probabilities to label sets ---------------------------------------------------------------------


@dataclass(frozen=True)
class Decision:
    """How probabilities become label sets; checked when made, stored with a checkpoint as `to_dict()`.

    threshold   one float for all labels, or one per label in class-index order; a label needs a probability above it
    decoding    "raw": every label on its own; "closure": a predicted label brings its ancestors; "topdown": a label is
                predicted only under predicted ancestors
    min_labels  at least this many labels in every row, the best ones even when below their threshold
    max_labels  at most this many labels in every row, the best ones; None: no limit
    top_k       exactly this many labels in every row, whatever the threshold; None: off

    Raises ValueError for a wrong type, a value out of range, or top_k next to min_labels or max_labels.
    """

    threshold: float | list[float] = 0.5
    decoding: str = "raw"
    min_labels: int = 0
    max_labels: int | None = None
    top_k: int | None = None

    def __post_init__(self) -> None:
        if isinstance(self.threshold, (np.ndarray, np.generic)):  # as the tuning functions return them
            object.__setattr__(self, "threshold", self.threshold.tolist())
        self.validate()

    def validate(self) -> None:
        """Raise ValueError, saying what would be right, unless every setting is usable."""
        thresholds = self.threshold if isinstance(self.threshold, list) else [self.threshold]
        for value in thresholds:
            if not isinstance(value, (int, float)) or isinstance(value, bool) or not 0 <= value <= 1:
                raise ValueError(f"threshold must be a number from 0 to 1, or a list with one per label; got {value!r}")
        _one_of("decoding", self.decoding, DECODINGS)
        for name, lowest in (("min_labels", 0), ("max_labels", 1), ("top_k", 1)):
            value = getattr(self, name)
            if value is None and name != "min_labels":
                continue
            if not isinstance(value, int) or isinstance(value, bool) or value < lowest:
                raise ValueError(f"{name} must be a whole number, {lowest} or more; got {value!r}")
        if self.top_k is not None and (self.min_labels or self.max_labels is not None):
            raise ValueError("top_k already fixes the number of labels; leave min_labels and max_labels out")
        if self.max_labels is not None and self.min_labels > self.max_labels:
            raise ValueError(f"min_labels ({self.min_labels}) must not be above max_labels ({self.max_labels})")

    def to_dict(self) -> dict[str, Any]:
        """The settings as a dict that JSON can hold; `Decision.from_dict` reads it back."""
        return asdict(self)

    @classmethod
    def from_dict(cls, settings: Any) -> "Decision":
        """A Decision from `to_dict()`; settings left out keep their default. Raises ValueError on anything else."""
        if not isinstance(settings, dict):
            raise ValueError(f"decision settings must be a dict, got {type(settings).__name__}")
        known = [field.name for field in fields(cls)]
        unknown = [str(key) for key in settings if key not in known]
        if unknown:
            raise ValueError(f"unknown decision settings {', '.join(unknown)}; known are {', '.join(known)}")
        return cls(**settings)

    def updated(self, **asked: Any) -> "Decision":
        """The Decision with the settings that are not None in place of its own. Raises ValueError like the class.

        A number of labels asked for now replaces limits stored earlier, and the other way round.
        """
        given = {name: value for name, value in asked.items() if value is not None}
        settings = self.to_dict()
        if "top_k" in given:
            settings |= {"min_labels": 0, "max_labels": None}
        elif "min_labels" in given or "max_labels" in given:
            settings["top_k"] = None
        return Decision.from_dict(settings | given)


def _one_of(name: str, value: object, known: tuple[str, ...]) -> None:
    if value not in known:
        raise ValueError(f"{name} must be one of {', '.join(known)}; got {value!r}")


def decide(probabilities: np.ndarray, tree: LabelTree, decision: Decision = Decision()) -> np.ndarray:
    """Turn probabilities (float [N, L], sigmoid outputs) into label sets (bool [N, L]).

    Everything follows from the margin, probability minus threshold, in float64. "closure" raises a node's margin to the
    largest in its subtree, "topdown" lowers it to the smallest on its path from the root, and labels with a margin
    above 0 are selected. Where min_labels, max_labels or top_k ask for another number, the row keeps that many labels
    from the ranking by margin, then shallower level, then lower class index. After "closure" and "topdown" no margin is
    above its parent's, so a parent ranks before its children and every result holds all ancestors of its labels. A
    row's result does not depend on the rows beside it. The default equals `probabilities > 0.5`.

    Raises ValueError for a wrong shape, NaN, values outside 0..1 (logits?), or a wrong number of thresholds.
    """
    margins = _probabilities(probabilities, len(tree))
    thresholds = np.asarray(decision.threshold, dtype=np.float64)
    if thresholds.ndim and len(thresholds) != len(tree):
        raise ValueError(f"{len(thresholds)} thresholds for {len(tree)} labels; give one number or one per label")
    margins -= thresholds
    _decode(margins, tree, decision.decoding)
    selected = margins > 0
    fewest = min(decision.top_k or decision.min_labels, len(tree))
    most = min(decision.top_k or decision.max_labels or len(tree), len(tree))
    counts = np.count_nonzero(selected, axis=1)
    for rows, k in ((counts < fewest, fewest), (counts > most, most)):
        if rows.any():
            selected[rows] = _best_k(margins[rows], tree, k)
    return selected


def _decode(values: np.ndarray, tree: LabelTree, decoding: str) -> None:
    """Make values [N, L] consistent with the tree, in place."""
    if decoding == "closure":
        _raise_to_subtree_maximum(values, tree)
    elif decoding == "topdown":
        for level in range(2, tree.depth + 1):
            children = np.flatnonzero(tree.levels == level)
            values[:, children] = np.minimum(values[:, children], values[:, tree.parents[children]])


def _raise_to_subtree_maximum(values: np.ndarray, tree: LabelTree) -> None:
    """Bottom-up, in place; on bool values [N, L] this adds the ancestors of every label set."""
    for level in range(tree.depth, 1, -1):
        children = np.flatnonzero(tree.levels == level)
        children = children[np.argsort(tree.parents[children], kind="stable")]
        parents, starts = np.unique(tree.parents[children], return_index=True)
        best_child = np.maximum.reduceat(values[:, children], starts, axis=1)
        values[:, parents] = np.maximum(values[:, parents], best_child)


def _best_k(margins: np.ndarray, tree: LabelTree, k: int) -> np.ndarray:
    """The k best labels of every row, bool [N, L], for 1 <= k <= L; no full sort, only the k-th value is looked for."""
    by_level = np.argsort(tree.levels, kind="stable")
    margins = margins[:, by_level]
    kth = np.partition(margins, -k, axis=1)[:, -k, None]
    above, equal = margins > kth, margins == kth
    open_places = k - np.count_nonzero(above, axis=1)[:, None]
    best = np.empty_like(above)
    best[:, by_level] = above | (equal & (np.cumsum(equal, axis=1) <= open_places))
    return best


def _probabilities(values: Any, n_labels: int) -> np.ndarray:
    """A float64 copy [N, L] of the probabilities, checked."""
    values = np.asarray(values)
    if values.ndim != 2 or values.shape[1] != n_labels:
        raise ValueError(f"probabilities must have the shape [rows, {n_labels} labels], got {list(values.shape)}")
    if values.dtype.kind not in "fiub":
        raise ValueError(f"probabilities must be numbers, got dtype {values.dtype}")
    if values.size and not (values.min() >= 0 and values.max() <= 1):  # false for NaN, too
        raise ValueError("probabilities must lie within 0..1 and not be NaN; logits need a sigmoid first")
    return values.astype(np.float64)


def _multi_hot(values: Any, shape: tuple, name: str) -> np.ndarray:
    """The label sets as bool, checked; `shape` may leave the number of rows open with None."""
    values = np.asarray(values)
    if values.ndim != 2 or values.shape[1] != shape[1] or shape[0] not in (None, len(values)):
        raise ValueError(f"{name} must have the shape [{shape[0] or 'rows'}, {shape[1]}], got {list(values.shape)}")
    if values.dtype != bool and not np.isin(values, (0, 1)).all():
        raise ValueError(f"{name} must be multi-hot (only 0 and 1); probabilities go through decide() first")
    return values.astype(bool)


# ---- Scores: counts batch by batch -----------------------------------------------------------------------------------


class Scores:
    """Counts of a comparison of predicted and gold label sets; memory depends on the tree alone, not on the rows.

    All state is one float64 vector of sums, so several processes add theirs with a single all_reduce of `to_vector()`
    and read the whole with `Scores.from_vector(tree, summed).result()`.
    """

    def __init__(self, tree: LabelTree):
        self.tree = tree
        n_labels, depth = len(tree), tree.depth
        self._vector = np.zeros(3 * n_labels + 2 * depth + 7)
        # The named counts are views into the vector: adding to one of them changes the vector.
        counts, level_counts, self._totals = np.split(self._vector, [3 * n_labels, 3 * n_labels + 2 * depth])
        self._tp, self._fp, self._fn = counts.reshape(3, n_labels)
        self._level_rows, self._level_exact = level_counts.reshape(2, depth)
        self._by_level = np.argsort(tree.levels, kind="stable")
        self._level_starts = np.searchsorted(tree.levels[self._by_level], np.arange(1, depth + 1))

    def update(self, predicted: Any, gold: Any, losses: Any = None) -> None:
        """Count a batch: predicted and gold are multi-hot [n, L] (bool, or 0 and 1), losses a float [n] or their mean.

        Raises ValueError, and counts nothing, for a wrong shape or values that are not multi-hot.
        """
        predicted = _multi_hot(predicted, (None, len(self.tree)), "predicted")
        gold = _multi_hot(gold, predicted.shape, "gold")
        n = len(gold)
        loss_sum = 0.0 if losses is None else np.broadcast_to(np.asarray(losses, dtype=np.float64), (n,)).sum()
        true_positive, wrong = predicted & gold, predicted ^ gold
        tp = np.count_nonzero(true_positive, axis=0)
        self._tp += tp
        self._fp += np.count_nonzero(predicted, axis=0) - tp
        self._fn += np.count_nonzero(gold, axis=0) - tp

        level_used, level_wrong = self._any_per_level(true_positive | wrong), self._any_per_level(wrong)
        self._level_rows += np.count_nonzero(level_used, axis=0)
        self._level_exact += np.count_nonzero(level_used & ~level_wrong, axis=0)
        exact = n - np.count_nonzero(level_wrong.any(axis=1))

        _raise_to_subtree_maximum(predicted, self.tree)  # copies of the caller's arrays
        _raise_to_subtree_maximum(gold, self.tree)
        closed = [np.count_nonzero(sets) for sets in (predicted & gold, predicted, gold)]
        self._totals += [n, exact, 0 if losses is None else n, loss_sum, *closed]

    def _any_per_level(self, values: np.ndarray) -> np.ndarray:
        """bool [n, L] -> bool [n, depth]: is any label of the level set?"""
        return np.logical_or.reduceat(values[:, self._by_level], self._level_starts, axis=1)

    def to_vector(self) -> np.ndarray:
        """A copy of all counts, float64 [3 L + 2 depth + 7]; vectors of the same tree may be summed."""
        return self._vector.copy()

    @classmethod
    def from_vector(cls, tree: LabelTree, vector: Any) -> "Scores":
        """The Scores with the counts of `to_vector()`. Raises ValueError when the length does not fit the tree."""
        scores, vector = cls(tree), np.asarray(vector)
        if vector.shape != scores._vector.shape:
            raise ValueError(f"counts of this tree are a vector of {scores._vector.size}, got shape {vector.shape}")
        scores._vector[:] = vector
        return scores

    def result(self) -> dict[str, Any]:
        """All scores so far, in plain Python types.

        n_rows, loss             rows counted; mean loss of the rows that came with one, or None
        accuracy                 rows whose whole label set is right (an empty set is right where gold is empty)
        micro_precision, micro_recall, micro_f1    from the counts summed over labels
        macro_precision, macro_recall, macro_f1    unweighted mean over ALL labels, a label without any count is a 0
                                 (scikit-learn with zero_division=0)
        macro_f1_supported       mean over the labels that have gold rows
        labels_without_support, labels_never_predicted   numbers of labels, to read macro_f1 with
        hierarchical_precision, hierarchical_recall, hierarchical_f1
                                 micro scores of ancestor-closed sets, without a common root above level 1: Kiritchenko,
                                 Matwin, Nock and Famili (2006), Learning and evaluation in the presence of class
                                 hierarchies: application to text categorization
        levels                   [{level, n_labels, n_rows, micro_f1, macro_f1, accuracy}], level 1 first. n_rows: the
                                 rows with a gold or predicted label at the level, and accuracy is the share of those
                                 whose labels at the level are all right: a row empty on both sides is not counted as
                                 correct. A predicted child does not count as its predicted parent.
        labels                   {path: {precision, recall, f1, support}} in class-index order
        """
        tp, fp, fn = self._tp, self._fp, self._fn
        support = tp + fn
        n_rows, exact, loss_rows, loss_sum, both, closed_predicted, closed_gold = self._totals.tolist()
        per_label = _precision_recall_f1(tp, fp, fn)
        micro = _precision_recall_f1(tp.sum(), fp.sum(), fn.sum())
        hierarchical = _precision_recall_f1(both, closed_predicted - both, closed_gold - both)
        result = {
            "n_rows": int(n_rows),
            "loss": loss_sum / loss_rows if loss_rows else None,
            "accuracy": exact / max(n_rows, 1),
            **{f"micro_{name}": float(value) for name, value in micro.items()},
            **{f"macro_{name}": float(values.mean()) for name, values in per_label.items()},
            "macro_f1_supported": float(per_label["f1"][support > 0].mean()) if support.any() else 0.0,
            "labels_without_support": int((support == 0).sum()),
            "labels_never_predicted": int((tp + fp == 0).sum()),
            **{f"hierarchical_{name}": float(value) for name, value in hierarchical.items()},
            "levels": [],
        }
        for level, rows, exact in zip(range(1, self.tree.depth + 1), self._level_rows, self._level_exact):
            labels = self.tree.levels == level
            result["levels"].append(
                {
                    "level": level,
                    "n_labels": int(labels.sum()),
                    "n_rows": int(rows),
                    "micro_f1": float(_precision_recall_f1(tp[labels].sum(), fp[labels].sum(), fn[labels].sum())["f1"]),
                    "macro_f1": float(per_label["f1"][labels].mean()),
                    "accuracy": float(exact / max(rows, 1)),
                }
            )
        columns = {**per_label, "support": support.astype(int)}
        rows = zip(*(column.tolist() for column in columns.values()))
        result["labels"] = {path: dict(zip(columns, row)) for path, row in zip(self.tree.labels, rows)}
        return result


def evaluate(predicted: Any, gold: Any, tree: LabelTree) -> dict[str, Any]:
    """`Scores.result()` of one comparison: predicted and gold are multi-hot [N, L]. Raises ValueError like update."""
    scores = Scores(tree)
    scores.update(predicted, gold)
    return scores.result()


def _precision_recall_f1(tp: Any, fp: Any, fn: Any) -> dict[str, Any]:
    # Counts are whole numbers and the numerator is 0 wherever the denominator is: a floor of 1 makes 0/0 a 0.
    return {
        "precision": tp / np.maximum(tp + fp, 1),
        "recall": tp / np.maximum(tp + fn, 1),
        "f1": 2 * tp / np.maximum(2 * tp + fp + fn, 1),
    }


# ---- Thresholds from dev rows ----------------------------------------------------------------------------------------


def tune_threshold(
    probabilities: Any, gold: Any, tree: LabelTree | None = None, decoding: str = "raw", criterion: str = "micro_f1"
) -> float:
    """The one threshold (float) with the highest "micro_f1" or "macro_f1" on these rows.

    probabilities float [N, L], gold multi-hot [N, L]; `tree` is needed for a decoding other than "raw". Exact: F1 only
    changes where the threshold passes a probability, so one sort visits every case there is. The threshold lies midway
    between two neighbouring probabilities; of several optima the nearest to 0.5 wins, and 0.5 itself stays if it is
    one. min_labels, max_labels and top_k play no part. Time O(N L log(N L)), memory O(N L). Raises ValueError for bad
    arrays or an unknown name.
    """
    _one_of("criterion", criterion, CRITERIA)
    _one_of("decoding", decoding, DECODINGS)
    if tree is None and decoding != "raw":
        raise ValueError(f"decoding {decoding!r} needs the label tree")
    probabilities, gold = _dev_arrays(probabilities, gold, None if tree is None else len(tree))
    # With one threshold for all labels, margins and probabilities have the same order: decode once, then cut anywhere.
    if tree is not None:
        _decode(probabilities, tree, decoding)
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
    # Shuffled, because files come sorted or in turns by label; the seed is fixed, so the same rows give the same score.
    fold_of_row = np.random.default_rng(0).permutation(len(gold)) % folds
    scores = Scores(tree)
    for fold in range(folds):
        held_out = fold_of_row == fold
        tuned = replace(decision, threshold=tune(probabilities[~held_out], gold[~held_out]))
        scores.update(decide(probabilities[held_out], tree, tuned), gold[held_out])
    return scores.result()


def _dev_arrays(probabilities: Any, gold: Any, n_labels: int | None = None) -> tuple[np.ndarray, np.ndarray]:
    """Checked copies: probabilities float64 [N, L] and gold bool [N, L]."""
    if n_labels is None:
        n_labels = np.shape(probabilities)[-1] if np.ndim(probabilities) else 0
    probabilities = _probabilities(probabilities, n_labels)
    return probabilities, _multi_hot(gold, probabilities.shape, "gold")


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
    _one_of("how", how, ("global", "per_label"))

    def tune(p: np.ndarray, g: np.ndarray) -> float | list[float]:
        threshold = tune_threshold(p, g, tree, decision.decoding, criterion)
        return threshold if how == "global" else tune_thresholds_per_label(p, g, threshold).tolist()

    tuned, folds = replace(decision, threshold=tune(probabilities, gold)), min(5, len(gold))
    return tuned, cross_fitted_score(probabilities, gold, tree, tune, decision, folds) if folds > 1 else None
