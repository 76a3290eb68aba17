"""Scores for hierarchical multi-label classification, counted batch by batch.

    Scores(tree).update(predicted, gold)       counts, result() -> micro, macro, per-level, hierarchical

NumPy in, numbers out. Shapes: N rows, L labels in class-index order. A node is its full path everywhere, so equal names
under two parents are two nodes. All scores are fractions from 0 to 1, and 0/0 counts as 0.
"""

from typing import Any

import numpy as np

from hierarchical.decisions import checked_multi_hot, raise_to_subtree_maximum
from hierarchical.labels import LabelTree


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
        predicted = checked_multi_hot(predicted, (None, len(self.tree)), "predicted")
        gold = checked_multi_hot(gold, predicted.shape, "gold")
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

        raise_to_subtree_maximum(predicted, self.tree)  # copies of the caller's arrays
        raise_to_subtree_maximum(gold, self.tree)
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
