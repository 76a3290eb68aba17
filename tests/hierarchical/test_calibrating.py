"""Fitting a calibration, against scikit-learn on the cells themselves; measures, against other computations."""

import numpy as np
import pytest

from hierarchical.calibrating import LogitCounts, Reliability, reliability_lines
from hierarchical.calibration import sigmoid
from hierarchical.decisions import probabilities_of
from hierarchical.errors import InputError
from hierarchical.thresholds import FOLDS, folds_of
from metric import Decision
from tests.hierarchical.trees import TREE

TRUTH = {1: (0.6, -0.5), 2: (1.5, 0.4), 3: (0.8, 0.0)}  # level -> what the logits must be scaled and shifted by


@pytest.fixture(scope="module")
def rows():
    """(logits float32 [N, 6], gold): labels that are right as often as TRUTH says, in 6,000 rows."""
    rng = np.random.default_rng(0)
    logits = rng.normal(-1, 2.5, (6000, len(TREE))).astype(np.float32)
    scale, shift = np.array([TRUTH[level] for level in TREE.levels]).T
    return logits, rng.random(logits.shape) < sigmoid(logits * scale + shift)


@pytest.fixture(scope="module")
def counts(rows):
    """Counted in windows of 700 rows."""
    logits, gold = rows
    counts, folds = LogitCounts(TREE), folds_of(len(gold), FOLDS)
    for start in range(0, len(gold), 700):
        part = slice(start, start + 700)
        counts.add(logits[part], gold[part], folds[part])
    return counts


def of_level(rows, level):
    labels = TREE.levels == level
    return rows[0][:, labels].ravel(), rows[1][:, labels].ravel()


def test_lines_equal_logistic_regression_on_all_cells(rows, counts):
    from sklearn.linear_model import LogisticRegression

    for level, line in enumerate(counts.fit("per_level").lines, start=1):
        logits, gold = of_level(rows, level)
        exact = LogisticRegression(C=np.inf, tol=1e-8).fit(logits[:, None], gold)
        assert line == pytest.approx([exact.coef_[0, 0], exact.intercept_[0]], abs=2e-3)
        assert line == pytest.approx(TRUTH[level], abs=0.1)
    exact = LogisticRegression(C=np.inf, tol=1e-8, fit_intercept=False).fit(rows[0].reshape(-1, 1), rows[1].ravel())
    lines = counts.fit("temperature").lines
    assert lines == [[pytest.approx(exact.coef_[0, 0], abs=2e-3), 0.0]] * 3


def test_curves_equal_isotonic_regression_on_all_cells(rows, counts):
    from sklearn.isotonic import IsotonicRegression

    calibration = counts.fit("isotonic", model="mark")
    found = probabilities_of(rows[0], TREE, Decision(calibration=calibration))
    assert calibration.model == "mark"
    for level in TRUTH:
        logits, gold = of_level(rows, level)
        exact = IsotonicRegression(y_min=0, y_max=1, out_of_bounds="clip").fit(logits, gold).predict(logits)
        assert np.abs(found[:, TREE.levels == level].ravel() - exact).mean() < 4e-3


@pytest.mark.parametrize("method", ["temperature", "per_level", "isotonic"])
def test_what_was_likelier_stays_likelier(counts, method):
    logits = np.linspace(-15, 15, 1001, dtype=np.float32)
    calibrated = probabilities_of(np.tile(logits[:, None], 6), TREE, Decision(calibration=counts.fit(method)))
    assert (np.diff(calibrated, axis=0) >= 0).all()
    middle = np.abs(logits[1:]) < 6
    assert (np.diff(calibrated, axis=0)[middle] > 0).all()


def test_a_fold_left_out_has_no_part(rows, counts):
    logits, gold = rows
    folds, alone = folds_of(len(gold), FOLDS), LogitCounts(TREE)
    others = folds != 3
    alone.add(logits[others], gold[others], folds[others])
    for method in ("temperature", "per_level", "isotonic"):
        left_out, exact = counts.fit(method, without=3), alone.fit(method)
        for one, other in zip(left_out.lines + left_out.curves, exact.lines + exact.curves):
            np.testing.assert_allclose(one, other, rtol=1e-9)
        assert left_out != counts.fit(method)


def test_levels_with_few_gold_cells_take_what_all_give(rows):
    logits, gold = rows
    gold = gold & ((TREE.levels < 3) | (np.cumsum(gold[:, -1:], axis=0) < 20))
    counts = LogitCounts(TREE)
    counts.add(logits, gold, folds_of(len(gold), FOLDS))
    lines, everything = counts.fit("per_level").lines, LogitCounts(TREE)
    everything.sums[:, :, 2] = counts.sums.sum(axis=2)
    assert lines[2] == pytest.approx(everything.fit("per_level").lines[2]) and lines[1] != lines[2] != lines[0]


def test_rows_without_a_mistake_have_a_scale_all_the_same():
    logits = np.where(np.arange(60)[:, None] % 2 == 0, 1.0, -1.0) * np.ones((60, 6), np.float32)
    counts = LogitCounts(TREE)
    counts.add(logits, logits > 0, folds_of(60, FOLDS))
    for scale, _ in counts.fit("per_level").lines:
        assert 1 < scale < 20
    backwards = LogitCounts(TREE)
    backwards.add(logits, logits < 0, folds_of(60, FOLDS))
    with pytest.raises(InputError, match="right less often"):
        backwards.fit("temperature")


# ---- measures --------------------------------------------------------------------------------------------------------


def plain_ece(values, right):
    """Bin after bin, as the definition says it."""
    total = 0.0
    for k in range(15):
        inside = [i for i, value in enumerate(values) if k <= value * 15 < k + 1 or (k == 14 and value == 1)]
        if inside:
            mean = sum(values[i] for i in inside) / len(inside)
            share = sum(bool(right[i]) for i in inside) / len(inside)
            total += len(inside) / len(values) * abs(mean - share)
    return total


def test_measures_against_other_computations(rows):
    from sklearn.metrics import brier_score_loss

    logits, gold = rows[0][:500], rows[1][:500]
    probabilities = sigmoid(logits)
    reliability = Reliability(TREE)
    reliability.add(probabilities[:123], gold[:123])
    reliability.add(probabilities[123:], gold[123:])
    for level, found in enumerate(reliability.result(), start=1):
        labels = TREE.levels == level
        values, right = probabilities[:, labels].astype(float), gold[:, labels]
        best = values.argmax(1)
        top = [row[i] for row, i in zip(values, best)], [row[i] for row, i in zip(right, best)]
        assert found["level"] == level
        assert found["brier"] == pytest.approx(brier_score_loss(right.ravel(), values.ravel()))
        assert found["ece"] == pytest.approx(plain_ece(values.ravel(), right.ravel()))
        assert found["top_ece"] == pytest.approx(plain_ece(*top))


def test_calibrated_rows_left_out_have_less_error(rows, counts):
    """Of each fold by what the others gave: the error of each level falls to what chance leaves."""
    logits, gold = rows
    folds, before, after = folds_of(len(gold), FOLDS), Reliability(TREE), Reliability(TREE)
    before.add(sigmoid(logits), gold)
    for fold in range(FOLDS):
        part = folds == fold
        after.add(counts.fit("isotonic", without=fold).probabilities(logits[part], TREE), gold[part])
    for one, other in zip(before.result(), after.result()):
        if TRUTH[one["level"]] != (0.8, 0.0):
            assert one["ece"] > 0.03
        assert other["ece"] < 0.02 and other["brier"] <= one["brier"] + 1e-4
    line = reliability_lines(before.result(), after.result())[0]
    assert line.startswith("Level 1 calibration, before -> after: ECE 0.")
