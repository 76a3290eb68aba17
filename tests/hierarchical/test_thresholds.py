"""Thresholds: optimal by brute force, guarded and shrunk by hand, honest where they were not tuned."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from hierarchical.labels import LabelTree
from metric import (
    CRITERIA,
    DECODINGS,
    Decision,
    cross_fitted_score,
    decide,
    dev_cells,
    evaluate,
    tune_threshold,
    tune_thresholds_per_label,
    tune_thresholds_per_level,
    tuned_decision,
)
from tests.hierarchical.trees import TREE, cases, multi_hot, random_tree


@pytest.mark.slow
@given(cases(), st.integers(0, 2**32 - 1), st.sampled_from(DECODINGS), st.sampled_from(CRITERIA), st.integers(0, 2))
@settings(max_examples=100)
def test_tuned_threshold_is_optimal(case, seed, decoding, criterion, per_level):
    tree, probabilities, _ = case
    gold = np.random.default_rng(seed).random(probabilities.shape) < 0.4

    def score(threshold):
        decision = Decision(threshold, decoding, per_level=per_level, stop="confident")
        return evaluate(decide(probabilities, tree, decision), gold, tree)[criterion]

    tuned = tune_threshold(probabilities, gold, tree, decoding, criterion, per_level)
    values = np.unique(np.append(probabilities.astype(float), [0, 1]))
    best = max(score(threshold) for threshold in [0.5, *values, *((values[1:] + values[:-1]) / 2)])
    assert score(tuned) == pytest.approx(best, abs=1e-9)
    if score(0.5) >= best - 1e-12:
        assert tuned == 0.5  # nothing to win, nothing changed


def test_tuned_threshold_by_hand():
    probabilities = np.array([[0.9], [0.4], [0.3], [0.2]])
    # Positives 0.9, 0.4, 0.3: predicting three gives F1 1, with any threshold in [0.2, 0.3); the middle is taken.
    assert tune_threshold(probabilities, [[1], [1], [1], [0]]) == pytest.approx(0.25)
    # Positive 0.9 only: 0.5 is perfect, so it stays. Without positives every threshold scores 0: 0.5 again.
    assert tune_threshold(probabilities, [[1], [0], [0], [0]]) == 0.5
    for criterion in CRITERIA:
        assert tune_threshold(probabilities, [[0]] * 4, criterion=criterion) == 0.5
    # Two optima, F1 2/3: {0.8} and {0.8, 0.4, 0.3, 0.2} -> 2*1/(1+2) and 2*2/(4+2); [0.4, 0.8) holds 0.5.
    assert tune_threshold([[0.8], [0.4], [0.3], [0.2]], [[1], [0], [0], [1]]) == 0.5
    # All probabilities equal 0 or 1, and neighbouring floats without a middle.
    assert tune_threshold([[1.0], [0.0]], [[1], [1]]) == 0.5
    low = np.nextafter(0.75, 0)
    assert tune_threshold([[0.75], [low]], [[1], [0]]) == low


def test_tuned_threshold_fits_the_decoding():
    # 加盟 at 0.3 is right and brings its parent, whose own probability of 0 would never pass.
    probabilities = np.array([[0.0, 0.3, 0.1, 0.0, 0.0, 0.0]])
    gold = multi_hot([0, 1])
    tuned = tune_threshold(probabilities, gold, TREE, "closure")
    assert tuned == pytest.approx(0.2)
    assert (decide(probabilities, TREE, Decision(tuned, "closure")) == gold).all()


def test_per_label_thresholds_guard_and_shrink():
    rng = np.random.default_rng(0)
    gold = np.zeros((400, 4), dtype=bool)
    gold[:40, 0] = gold[:5, 1] = gold[:40, 2] = True
    # Label 0: positives at 0.3, negatives at 0.1, so 0.2 is the optimum. Label 1 likewise with 5 positives only.
    # Label 2 is perfect at 0.5. Label 3 has no positives.
    probabilities = np.where(gold, 0.3, 0.1)
    probabilities[:, 2] = np.where(gold[:, 2], 0.9, 0.1)
    probabilities[:, 3] = rng.random(400)
    # 40 / (40 + 20) = 2/3 of the way from 0.5 to 0.2 is 0.3, which is not below the positives at 0.3: no gain, no move.
    assert tune_thresholds_per_label(probabilities, gold, 0.5).tolist() == [0.5] * 4
    # 40 / (40 + 10) = 4/5 of the way is 0.26, and this lets the positives pass.
    thresholds = tune_thresholds_per_label(probabilities, gold, 0.5, min_support=10)
    np.testing.assert_allclose(thresholds, [0.26, 0.5, 0.5, 0.5])
    # Support of exactly min_support is enough: 5 / (5 + 5) of the way from 0.35 to 0.2 is 0.275.
    assert tune_thresholds_per_label(probabilities, gold, 0.35, min_support=5)[1] == pytest.approx(0.275)
    assert tune_thresholds_per_label(probabilities, gold, 0.35, min_support=6)[1] == 0.35


def test_per_level_thresholds_by_hand():
    # Of the roots, gold cells lie at 0.8 and all others at 0.6, so that 0.7 is the optimum; below them gold lies at 0.3,
    # the rest at 0.1: 0.2. The third level has no gold cell and keeps the default.
    gold = np.zeros((40, 6), bool)
    gold[:, 0] = gold[:20, 1] = True
    roots = TREE.levels == 1
    probabilities = np.where(roots, np.where(gold, 0.8, 0.6), np.where(gold, 0.3, 0.1))
    # 40 / (40 + 10) of the way from 0.5 to 0.7 is 0.66; 20 / (20 + 10) of that to 0.2 is 0.3, below which is nothing.
    assert tune_thresholds_per_level(probabilities, gold, TREE, 0.5, min_support=10) == pytest.approx([0.66, 0.5, 0.5])
    # 20 / (20 + 5) of the way is 0.26. With a guard above 20 the lower level stays.
    assert tune_thresholds_per_level(probabilities, gold, TREE, 0.5, min_support=5)[1] == pytest.approx(0.26)
    assert tune_thresholds_per_level(probabilities, gold, TREE, 0.4, min_support=21)[1] == 0.4
    with pytest.raises(ValueError, match="criterion must be one of"):
        tune_thresholds_per_level(probabilities, gold, TREE, 0.5, "f1")


def test_a_chain_has_a_threshold_for_each_label():
    """As many levels as labels: the thresholds are stored by label, whose order need not be that of the levels."""
    tree = LabelTree(["a##b", "a"])
    gold = np.ones((600, 2), bool)
    gold[300:] = False
    probabilities = np.where(gold, [0.3, 0.9], [0.1, 0.7])
    cells = dev_cells(tree, Decision())
    cells.add(probabilities, gold)
    tuned, worth = tuned_decision(cells.finish(), tree, Decision(), "per_level")
    child, root = tuned.threshold
    assert 0.1 <= child < 0.3 and 0.7 <= root < 0.9 and worth["micro_f1"] == 1


@given(cases(), st.integers(0, 2**32 - 1), st.integers(1, 4), st.sampled_from([0.0, 0.3, 0.5, 1.0]))
@settings(max_examples=100)
def test_per_label_thresholds_only_raise_f1(case, seed, min_support, default):
    tree, probabilities, _ = case
    gold = np.random.default_rng(seed).random(probabilities.shape) < 0.4
    thresholds = tune_thresholds_per_label(probabilities, gold, default, min_support)
    assert thresholds.shape == (len(tree),) and thresholds.dtype == np.float64
    before = evaluate(decide(probabilities, tree, Decision(default)), gold, tree)["labels"]
    after = evaluate(decide(probabilities, tree, Decision(thresholds)), gold, tree)["labels"]
    for label, path in enumerate(tree.labels):
        if thresholds[label] == default:
            continue
        assert before[path]["support"] >= min_support and after[path]["f1"] > before[path]["f1"]


def test_cross_fitting_is_honest():
    # Pure noise: the label says nothing about the probability. Fitted per label on its own rows, tuning looks like a
    # gain over the same tuning judged on rows it has not seen.
    rng = np.random.default_rng(5)
    tree = random_tree(rng, 30)
    probabilities, gold = rng.random((60, 30)), rng.random((60, 30)) < 0.2

    def tune(p, g):
        return tune_thresholds_per_label(p, g, 0.5, min_support=1)

    fitted = evaluate(decide(probabilities, tree, Decision(tune(probabilities, gold))), gold, tree)["macro_f1"]
    honest = cross_fitted_score(probabilities, gold, tree, tune)
    assert honest["n_rows"] == 60
    assert honest["macro_f1"] < fitted - 0.02
    assert cross_fitted_score(probabilities, gold, tree, tune) == honest  # the same folds again


def test_cross_fitting_pools_all_rows_and_keeps_the_decision():
    rng = np.random.default_rng(6)
    gold = decide(rng.random((53, 6)), TREE, Decision(0.7, "closure"))
    probabilities = np.clip(np.where(gold, 0.4, 0.1) + rng.normal(0, 0.02, gold.shape), 0, 1)
    seen = []

    def tune(p, g):
        seen.append(len(p))
        return tune_threshold(p, g, TREE, "closure")

    result = cross_fitted_score(probabilities, gold, TREE, tune, Decision(decoding="closure"), folds=4)
    assert sorted(seen) == [39, 40, 40, 40] and result["n_rows"] == 53
    assert result["micro_f1"] > 0.99  # 0.5 would find nothing at all
    # A tuning that returns the default is the plain evaluation.
    plain = cross_fitted_score(probabilities, gold, TREE, lambda p, g: 0.5, Decision(min_labels=1))
    assert plain == evaluate(decide(probabilities, TREE, Decision(min_labels=1)), gold, TREE)


@pytest.mark.parametrize(
    "call, said",
    [
        (lambda p, g: tune_threshold(p, g[:, :5]), "gold must have the shape"),
        (lambda p, g: tune_threshold(p + 1, g), "0..1"),
        (lambda p, g: tune_threshold(p[0], g[0]), "shape"),
        (lambda p, g: tune_threshold(p, g, criterion="f1"), "criterion must be one of micro_f1, macro_f1"),
        (lambda p, g: tune_threshold(p, g, TREE, "flat"), "decoding must be one of"),
        (lambda p, g: tune_threshold(p, g, decoding="closure"), "needs the label tree"),
        (lambda p, g: tune_threshold(p[:, :5], g[:, :5], TREE), "6 labels"),
        (lambda p, g: tune_thresholds_per_label(p, g, 1.5), "default"),
        (lambda p, g: tune_thresholds_per_label(p, g, 0.5, 0), "min_support"),
        (lambda p, g: tune_thresholds_per_label(p, p, 0.5), "gold must be multi-hot"),
        (lambda p, g: cross_fitted_score(p, g, TREE, tune_threshold, folds=1), "folds"),
        (lambda p, g: cross_fitted_score(p, g, TREE, tune_threshold, folds=9), "folds"),
    ],
)
def test_bad_tuning_inputs(call, said):
    with pytest.raises(ValueError, match=said):
        call(np.full((8, 6), 0.5), np.zeros((8, 6), dtype=bool))
