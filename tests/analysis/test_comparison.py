"""analysis/comparison.py against scores by scikit-learn, and what could be luck."""

import numpy as np
import pytest
from scipy.stats import ttest_ind
from sklearn.metrics import f1_score

from analysis.comparison import Change, _limits_over_seeds, compare, label_sets, verdicts
from hierarchical.rows import multi_hot
from tests.analysis.conftest import rows_of
from utils import LabelTree

TREE = LabelTree(["A", "B", "C", "D"])  # nobody has D


def drawn(n=60, seed=0):
    rng = np.random.default_rng(seed)
    gold = [tuple(sorted(set(rng.integers(3, size=2).tolist()))) for _ in range(n)]

    def noisy(share):
        return [labels if rng.random() > share else (int(rng.integers(3)),) for labels in gold]

    return gold, noisy(0.5), noisy(0.1)


def test_scores_and_rows():
    gold, old, new = drawn()
    found = compare(gold, [old], [new], TREE)
    hot = [multi_hot(one, 4) for one in (gold, old, new)]
    for name in ("micro", "macro"):
        scores = [f1_score(hot[0], one, average=name, zero_division=0) for one in hot[1:]]
        assert found.scores[f"{name}_f1"][:2] == pytest.approx(scores)
    by_label = [f1_score(hot[0], one, average=None, zero_division=0) for one in hot[1:]]
    assert list(found.labels) == ["A", "B", "C"]
    for i, (support, change) in enumerate(found.labels.values()):
        assert support == hot[0][:, i].sum() and change[:2] == pytest.approx((by_label[0][i], by_label[1][i]))
    right = [[set(g) == set(p) for g, p in zip(gold, one)] for one in (old, new)]
    assert found.scores["accuracy"][:2] == pytest.approx(np.mean(right, axis=1))
    assert found.newly_right == [i for i in range(60) if right[1][i] and not right[0][i]]
    assert found.newly_wrong == [i for i in range(60) if right[0][i] and not right[1][i]]


def test_intervals_are_those_of_a_bootstrap_done_the_long_way():
    gold, old, new = drawn()
    change, rng = compare(gold, [old], [new], TREE).scores["micro_f1"], np.random.default_rng(9)
    hot, differences = [multi_hot(one, 4) for one in (gold, old, new)], []
    for _ in range(1000):
        rows = rng.integers(60, size=60)
        before, after = (f1_score(hot[0][rows], one[rows], average="micro") for one in hot[1:])
        differences.append(after - before)
    assert (change.low, change.high) == pytest.approx(tuple(np.percentile(differences, [2.5, 97.5])), abs=0.015)
    assert not change.could_be_luck and 0 < change.low < change.change < change.high


def test_what_could_be_luck_is_called_so():
    gold, old, new = drawn()
    better = verdicts(compare(gold, [old], [new], TREE))
    assert better[0].startswith("micro_f1: ") and "This gain is more than luck" in better[0]
    first_wrong = next(i for i in range(60) if old[i] != gold[i])
    one_better = [gold[i] if i == first_wrong else labels for i, labels in enumerate(old)]
    assert "This gain could be luck: +" in verdicts(compare(gold, [old], [one_better], TREE))[0]
    assert "This loss could be luck: -" in verdicts(compare(gold, [one_better], [old], TREE))[0]
    same = verdicts(compare(gold, [old], [old], TREE))
    assert "This difference could be luck: +0.00" in same[0] and same[2] == "0 rows are newly right, 0 newly wrong"


def test_several_seeds_against_scipy():
    """The mean over a side's trainings, its interval over seeds by scipy, and over rows by the long way."""
    gold, *_ = drawn()
    old, new = ([drawn(seed=0)[side]] for side in (1, 2))
    rng = np.random.default_rng(5)

    def noisy(share):
        return [labels if rng.random() > share else (int(rng.integers(3)),) for labels in gold]

    old, new = old + [noisy(0.5), noisy(0.4)], new + [noisy(0.2)]
    found = compare(gold, old, new, TREE)
    hot = multi_hot(gold, 4)

    def scores(side, average, rows=slice(None)):
        return [f1_score(hot[rows], multi_hot(one, 4)[rows], average=average, zero_division=0) for one in side]

    for name in ("micro", "macro"):
        before, after = scores(old, name), scores(new, name)
        change = found.scores[f"{name}_f1"]
        assert change[:2] == pytest.approx((np.mean(before), np.mean(after)))
        limits = ttest_ind(after, before).confidence_interval(0.95)
        assert (change.seeds_low, change.seeds_high) == pytest.approx(tuple(limits))
    rows, differences = np.random.default_rng(1), []
    for _ in range(300):
        picks = rows.integers(60, size=60)
        differences.append(np.mean(scores(new, "micro", picks)) - np.mean(scores(old, "micro", picks)))
    over_rows = found.scores["micro_f1"].low, found.scores["micro_f1"].high
    assert over_rows == pytest.approx(tuple(np.percentile(differences, [2.5, 97.5])), abs=0.025)
    by_label = [[f1_score(hot[:, 1], multi_hot(one, 4)[:, 1]) for one in side] for side in (new, old)]
    limits = ttest_ind(*by_label).confidence_interval(0.95)
    assert found.labels["B"][1][4:] == pytest.approx(tuple(limits))
    told = found.to_dict()
    assert told["seeds"] == [3, 2] and told["labels"]["B"]["seeds_low"] == pytest.approx(limits.low)


def test_one_training_against_several():
    """Student's interval with the variance of the side that has several: by hand, for one degree of freedom."""
    low, high = _limits_over_seeds(np.array([[0.5]]), np.array([[0.6], [0.8]]))
    error = np.sqrt(0.02 / 1 * (1 + 1 / 2))  # squares 0.01 + 0.01
    assert (low[0], high[0]) == pytest.approx((0.2 - 12.7062 * error, 0.2 + 12.7062 * error), abs=1e-4)
    assert _limits_over_seeds(np.array([[0.5]]), np.array([[0.6]])) == ()


def test_luck_follows_rows_and_seeds():
    assert Change(0.5, 0.6, 0.01, 0.2, -0.1, 0.3).could_be_luck and not Change(0.5, 0.6, 0.01, 0.2).could_be_luck
    assert (
        not Change(0.5, 0.6, 0.01, 0.2, 0.02, 0.18).could_be_luck
        and Change(0.5, 0.6, -0.1, 0.2, 0.1, 0.2).could_be_luck
    )
    gold, old, new = drawn()
    seeds = verdicts(compare(gold, [old, old], [new], TREE))[0]  # seeds that make no difference
    assert "(means of 2 and 1 seeds). This gain is more than luck in the choice of dev rows and seeds: +" in seeds
    assert "other seeds of training +" in seeds
    worse = [labels if i % 2 else (0,) for i, labels in enumerate(new)]
    doubtful = verdicts(compare(gold, [old], [new, worse], TREE))[0]
    assert "This gain could be luck: +" in doubtful and "other seeds of training -" in doubtful


def test_rows_turn_by_the_majority_of_seeds():
    gold = [(0,)] * 4
    right, wrong = (0,), (1,)
    old = [[right, wrong, wrong, right], [right, wrong, right, right], [wrong, wrong, right, right]]
    new = [[wrong, right, right, wrong], [right, right, right, wrong]]  # a tie is no majority
    found = compare(gold, old, new, TREE)
    assert (found.newly_right, found.newly_wrong) == ([1], [0, 3])


def test_predictions_come_back_from_the_wrong_rows():
    rows = rows_of(["甲", "乙", "丙"], [(0,), (1, 2), ()])
    assert label_sets(rows, [(1, [1])]) == [(0,), (1,), ()]
