"""Two models on the same rows: what changed, and whether it could be luck.

Intervals are 95 % percentiles of a paired bootstrap over rows (Efron and Tibshirani 1993, chapter 13; for systems on
one test set, Koehn 2004): rows are drawn with replacement, the same for both models, and scores are worked out anew.
"""

from typing import NamedTuple

import numpy as np

DRAWS, AT_A_TIME = 1000, 100
LOW, HIGH = 2.5, 97.5  # percentiles


class Change(NamedTuple):
    """A score of the old and of the new model, as fractions, and the limits of the difference."""

    old: float
    new: float
    low: float
    high: float

    @property
    def change(self):
        return self.new - self.old

    @property
    def could_be_luck(self):
        """Whether no difference at all is within the limits."""
        return self.low <= 0 <= self.high


class Comparison(NamedTuple):
    """scores: accuracy, micro_f1, macro_f1 -> Change; labels: label -> (dev rows, Change), of those with dev rows.

    newly_right, newly_wrong: row numbers, by whether all labels of a row are right
    """

    scores: dict
    labels: dict
    newly_right: list
    newly_wrong: list

    def to_dict(self):
        """As JSON holds it."""

        def fields(change):
            return {**change._asdict(), "could_be_luck": bool(change.could_be_luck)}

        labels = {label: {"rows": rows, **fields(change)} for label, (rows, change) in self.labels.items()}
        scores = {name: fields(change) for name, change in self.scores.items()}
        return {"scores": scores, "labels": labels, "newly_right": self.newly_right, "newly_wrong": self.newly_wrong}


def label_sets(rows, bad_cases):
    """What a model predicted for Rows: list of tuples; bad_cases: (row number, predicted) of all rows it gets wrong."""
    wrong = dict(bad_cases)
    return [tuple(wrong.get(i, labels)) for i, labels in enumerate(rows.labels)]


def compare(gold, old, new, tree, seed=3):
    """The Comparison of two lists of label sets with the right ones; a set is a tuple of class indices."""
    sets = [_matrix(one, len(tree)) for one in (gold, old, new)]
    exact = np.array([[set(g) == set(p) for g, p in zip(gold, one)] for one in (old, new)], float)
    first = [_scores(np.ones((1, len(gold))), sets, exact)]
    rng, drawn = np.random.default_rng(seed), []
    for _ in range(DRAWS // AT_A_TIME):
        picks = rng.integers(len(gold), size=(AT_A_TIME, len(gold)))
        weights = np.stack([np.bincount(one, minlength=len(gold)) for one in picks]).astype(float)
        drawn.append(_scores(weights, sets, exact))
    found, names = _changes(first, drawn), ("accuracy", "micro_f1", "macro_f1")
    support = np.asarray(sets[0].sum(0)).ravel().astype(int)
    labels = {tree.labels[i]: (int(support[i]), found[3 + i]) for i in np.flatnonzero(support)}
    turned = exact[1] - exact[0]
    right, wrong = (np.flatnonzero(turned == sign).tolist() for sign in (1, -1))
    return Comparison(dict(zip(names, found)), labels, right, wrong)


def verdicts(comparison):
    """The comparison in words: list[str]."""
    lines = []
    for name in ("micro_f1", "macro_f1"):
        one = comparison.scores[name]
        how = "gain" if one.change > 0 else "loss" if one.change < 0 else "difference"
        luck = "could be luck" if one.could_be_luck else "is more than luck in the choice of dev rows"
        change, low, high = (f"{100 * share:+.2f}" for share in (one.change, one.low, one.high))
        lines.append(
            f"{name}: {100 * one.old:.2f} -> {100 * one.new:.2f}. This {how} {luck}: {change} points, "
            f"95 % of resampled dev sets say {low} to {high}."
        )
    right, wrong = len(comparison.newly_right), len(comparison.newly_wrong)
    return [*lines, f"{right} rows are newly right, {wrong} newly wrong"]


def _matrix(label_sets, n_labels):
    from scipy.sparse import csr_matrix

    rows = np.repeat(np.arange(len(label_sets)), [len(one) for one in label_sets])
    columns = np.fromiter((label for one in label_sets for label in one), np.int64, len(rows))
    return csr_matrix((np.ones(len(rows)), (rows, columns)), (len(label_sets), n_labels))


def _scores(weights, sets, exact):
    """float [2, 3 + L, B] of the old and the new model: accuracy, micro F1, macro F1, F1 of each label.

    weights float [B, N]: how often each row counts; 0/0 counts as 0, as in metric.Scores
    """
    gold, scores = sets[0], []
    of_gold = gold.T @ weights.T
    for predicted, right in zip(sets[1:], exact):
        of_predicted, hits = predicted.T @ weights.T, gold.multiply(predicted).T @ weights.T
        by_label = _ratio(2 * hits, of_gold + of_predicted)
        micro = _ratio(2 * hits.sum(0), of_gold.sum(0) + of_predicted.sum(0))
        accuracy = weights @ right / weights.sum(1)
        scores.append(np.concatenate([np.stack([accuracy, micro, by_label.mean(0)]), by_label]))
    return np.stack(scores)


def _ratio(above, below):
    return np.divide(above, below, out=np.zeros_like(above), where=below > 0)


def _changes(first, drawn):
    """A Change for each score, of those of all rows and of the draws."""
    (old, new), differences = first[0][..., 0], np.concatenate([one[1] - one[0] for one in drawn], axis=1)
    low, high = np.percentile(differences, (LOW, HIGH), axis=1)
    return [Change(*map(float, one)) for one in zip(old, new, low, high)]
