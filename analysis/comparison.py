"""Two models on the same rows: what changed, and whether it could be luck.

Intervals over rows are 95 % percentiles of a paired bootstrap (Efron and Tibshirani 1993, chapter 13; for systems on
one test set, Koehn 2004): rows are drawn with replacement, the same for both models, and scores are worked out anew.

Where a side has several trainings, which differ by their seeds, its score is their mean, and intervals over seeds are
Student's for the difference of two means, with one variance for both sides (Student 1908): of trainings of one recipe.
"""

from typing import NamedTuple

import numpy as np

DRAWS, AT_A_TIME = 1000, 100
LOW, HIGH = 2.5, 97.5  # percentiles


class Change(NamedTuple):
    """A score of the old and of the new model, as fractions, and the limits of the difference.

    low, high: over rows; seeds_low, seeds_high: over seeds, None where neither side has several
    """

    old: float
    new: float
    low: float
    high: float
    seeds_low: float | None = None
    seeds_high: float | None = None

    @property
    def change(self):
        return self.new - self.old

    @property
    def could_be_luck(self):
        """Whether no difference at all is within the limits, over rows or over seeds."""
        over_seeds = self.seeds_low is not None and self.seeds_low <= 0 <= self.seeds_high
        return self.low <= 0 <= self.high or over_seeds


class Comparison(NamedTuple):
    """scores: accuracy, micro_f1, macro_f1 -> Change; labels: label -> (dev rows, Change), of those with dev rows.

    newly_right, newly_wrong: row numbers, by whether all labels of a row are right, with most of a side's seeds
    seeds: how many trainings the old and the new side have
    """

    scores: dict
    labels: dict
    newly_right: list
    newly_wrong: list
    seeds: tuple = (1, 1)

    def to_dict(self):
        """As JSON holds it."""

        def fields(change):
            return {**change._asdict(), "could_be_luck": bool(change.could_be_luck)}

        labels = {label: {"rows": rows, **fields(change)} for label, (rows, change) in self.labels.items()}
        scores = {name: fields(change) for name, change in self.scores.items()}
        turned = {"newly_right": self.newly_right, "newly_wrong": self.newly_wrong}
        return {"seeds": list(self.seeds), "scores": scores, "labels": labels, **turned}


def label_sets(rows, bad_cases):
    """What a model predicted for Rows: list of tuples; bad_cases: (row number, predicted) of all rows it gets wrong."""
    wrong = dict(bad_cases)
    return [tuple(wrong.get(i, labels)) for i, labels in enumerate(rows.labels)]


def compare(gold, old, new, tree, seed=3):
    """The Comparison of old and new trainings: a list of label sets each, and gold, the right ones.

    A label set is a tuple of class indices.
    """
    trainings, sides = [*old, *new], (slice(0, len(old)), slice(len(old), None))
    sets = [_matrix(one, len(tree)) for one in (gold, *trainings)]
    exact = np.array([[set(g) == set(p) for g, p in zip(gold, one)] for one in trainings], float)
    each = _scores(np.ones((1, len(gold))), sets, exact)
    rng, drawn = np.random.default_rng(seed), []
    for _ in range(DRAWS // AT_A_TIME):
        picks = rng.integers(len(gold), size=(AT_A_TIME, len(gold)))
        weights = np.stack([np.bincount(one, minlength=len(gold)) for one in picks]).astype(float)
        drawn.append(_means(_scores(weights, sets, exact), sides))
    names = "accuracy", "micro_f1", "macro_f1"
    found = _changes(_means(each, sides), drawn, *_limits_over_seeds(*(each[side, :, 0] for side in sides)))
    support = np.asarray(sets[0].sum(0)).ravel().astype(int)
    labels = {tree.labels[i]: (int(support[i]), found[3 + i]) for i in np.flatnonzero(support)}
    before, after = (exact[side].mean(0) > 0.5 for side in sides)
    right, wrong = (np.flatnonzero(one).tolist() for one in (after & ~before, before & ~after))
    return Comparison(dict(zip(names, found)), labels, right, wrong, (len(old), len(new)))


def verdicts(comparison):
    """The comparison in words: list[str]."""
    lines, several = [], max(comparison.seeds) > 1
    of_seeds = f" (means of {comparison.seeds[0]} and {comparison.seeds[1]} seeds)" if several else ""
    for name in ("micro_f1", "macro_f1"):
        one = comparison.scores[name]
        how = "gain" if one.change > 0 else "loss" if one.change < 0 else "difference"
        luck = f"is more than luck in the choice of dev rows{' and seeds' if several else ''}"
        limits = f"95 % of resampled dev sets say {_points(one.low)} to {_points(one.high)}"
        if several:
            limits += f", other seeds of training {_points(one.seeds_low)} to {_points(one.seeds_high)}"
        lines.append(
            f"{name}: {100 * one.old:.2f} -> {100 * one.new:.2f}{of_seeds}. This {how} "
            f"{'could be luck' if one.could_be_luck else luck}: {_points(one.change)} points, {limits}."
        )
    right, wrong = len(comparison.newly_right), len(comparison.newly_wrong)
    return [*lines, f"{right} rows are newly right, {wrong} newly wrong"]


def _points(share):
    return f"{100 * share:+.2f}"


def _matrix(label_sets, n_labels):
    from scipy.sparse import csr_matrix

    rows = np.repeat(np.arange(len(label_sets)), [len(one) for one in label_sets])
    columns = np.fromiter((label for one in label_sets for label in one), np.int64, len(rows))
    return csr_matrix((np.ones(len(rows)), (rows, columns)), (len(label_sets), n_labels))


def _scores(weights, sets, exact):
    """float [M, 3 + L, B] of M trainings: accuracy, micro F1, macro F1, F1 of each label.

    weights float [B, N]: how often each row counts; sets: the right labels, and those of each training, as matrices;
    exact float [M, N]: 1 where they are the same. 0/0 counts as 0, as in metric.Scores
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


def _means(scores, sides):
    """float [2, 3 + L, B]: the mean scores of each side's trainings."""
    return np.stack([scores[side].mean(0) for side in sides])


def _limits_over_seeds(old, new):
    """(low, high) of the difference of means for each of S scores: float [S] each, of float [M, S]; () of one each."""
    from scipy.stats import t

    freedom = len(old) + len(new) - 2
    if not freedom:
        return ()
    squares = sum(np.square(one - one.mean(0)).sum(0) for one in (old, new))
    error = np.sqrt(squares / freedom * (1 / len(old) + 1 / len(new)))
    change, reach = new.mean(0) - old.mean(0), t.ppf(HIGH / 100, freedom) * error
    return change - reach, change + reach


def _changes(first, drawn, *over_seeds):
    """A Change for each score, of those of all rows and of the draws; over_seeds: see _limits_over_seeds."""
    (old, new), differences = first[..., 0], np.concatenate([one[1] - one[0] for one in drawn], axis=1)
    low, high = np.percentile(differences, (LOW, HIGH), axis=1)
    return [Change(*map(float, one)) for one in zip(old, new, low, high, *over_seeds)]
