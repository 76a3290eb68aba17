"""linear_training.py: machines as scikit-learn makes them, what bounds large data, and the two numbers by hand."""

import itertools
import warnings

import numpy as np
import pytest

from hierarchical import linear_training as module
from hierarchical.calibration import sigmoid
from hierarchical.decisions import Decision, decide
from hierarchical.labels import LabelTree
from hierarchical.linear_training import (
    LEAST_DEV,
    QUICK,
    Limits,
    Plan,
    alone,
    beside,
    drawn_rows,
    feature_matrix,
    fit_label,
    fit_linear,
    gains,
    mixed,
    quantized,
    rows_to_learn_from,
)
from hierarchical.metric import evaluate
from hierarchical.n_grams import NGrams
from tests.conftest import SAMPLE
from tests.memory import peak_bytes
from utils import load_rows, multi_hot

TREE = LabelTree.read(SAMPLE / "label.txt")


@pytest.fixture(scope="module")
def rows():
    return load_rows(SAMPLE / "train.txt", TREE)


@pytest.mark.slow
def test_decision_values_are_those_of_scikit_learn(rows, branch):
    from sklearn.feature_extraction.text import TfidfVectorizer
    from sklearn.svm import LinearSVC

    texts, gold = rows.texts[:300], multi_hot(rows.labels[:300], len(TREE))
    vectorizer = TfidfVectorizer(analyzer="char", ngram_range=(1, 4), min_df=2, sublinear_tf=True)
    features, others = vectorizer.fit_transform(texts), vectorizer.transform(rows.texts[300:500])
    found = branch.decision_values(rows.texts[300:500])
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        for label in range(len(TREE)):
            machine = LinearSVC(C=module.C, tol=module.TOLERANCE, dual=True, random_state=0).fit(
                features, gold[:, label]
            )
            expected, scale = machine.decision_function(others), np.abs(machine.coef_).max() / 127
            # each weight is off by half a scale at most; another order of n-grams leads to another end by 1e-3
            allowed = np.asarray(others.sum(1))[:, 0] * scale / 2
            assert (np.abs(found[:, label] - expected) < allowed + 2e-3).all()
            assert np.abs(found[:, label] - expected).mean() < scale
    assert np.array_equal(fit_linear(texts, rows.labels[:300], len(TREE)).bias, branch.bias)  # run after run


def test_labels_of_all_rows_and_of_none():
    texts, labels = ["足球联赛", "篮球联赛", "股市上涨", "股市下跌"], [(0,), (0,), (0, 1), (0, 1)]
    found = fit_linear(texts, labels, 3)
    values = found.decision_values(["股市", "足球"])
    assert (values[:, 0] == 1).all() and (values[:, 2] == -1).all()
    assert values[0, 1] > 0 > values[1, 1]


@pytest.mark.parametrize("labels", [[(0,), (0,)], [(), ()]])
def test_data_of_one_label(labels):
    found = fit_linear(["甲", "乙"], labels, 1)
    assert found.decision_values(["甲", ""]).tolist() == [[1.0 if labels[0] else -1.0]] * 2
    assert len(found.weights) == 0


def test_a_label_that_some_rows_have(branch):
    found = fit_linear(["股市上涨", "股市下跌", "球队取胜", "球队落败"], [(0,), (0,), (), ()], 1)
    assert (found.decision_values(["股市震荡", "球队晋级"])[:, 0] > 0).tolist() == [True, False]


# ---- what bounds large data ------------------------------------------------------------------------------------------


def test_each_label_keeps_its_share_of_the_rows():
    labels = [(0,)] * 90 + [(0, 1)] * 7 + [(2,)] * 2 + [()]
    assert rows_to_learn_from(labels, 3, 100).tolist() == list(range(100))
    chosen = rows_to_learn_from(labels, 3, 20)
    assert len(chosen) == 20 and (np.diff(chosen) > 0).all()
    counts = {row: sum(labels[i] == row for i in chosen) for row in set(labels)}
    assert counts == {(0,): 10, (0, 1): 7, (2,): 2, (): 1}  # in turns, until a label has no more
    assert np.array_equal(chosen, rows_to_learn_from(labels, 3, 20))


def test_rows_of_one_label():
    positive = np.array([3, 50, 51])
    assert drawn_rows(positive, 100, 100, 0) is None
    drawn = drawn_rows(positive, 100, 20, 0)
    assert len(drawn) == 20 and len(set(drawn)) == 20 and set(positive) < set(drawn) and (np.diff(drawn) > 0).all()
    many = drawn_rows(np.arange(90), 100, 4, 7)  # 4 rows: half of them may be its own
    assert len(many) == 4 and sum(many < 90) == 2
    assert not np.array_equal(drawn_rows(positive, 100, 20, 1), drawn)
    assert len(drawn_rows(np.arange(99), 100, 20, 1)) == 11  # there is one other


def test_bounded_fits_still_learn(rows, monkeypatch):
    monkeypatch.setattr(module, "KEPT", 31 * 300)
    plan = Plan(rows_to_learn_from(rows.labels[:600], len(TREE), 250), 150, len(TREE), 0.0)
    found = fit_linear(rows.texts[:600], rows.labels[:600], len(TREE), plan)
    counts = np.bincount(found.labels, minlength=len(TREE))
    assert counts.max() == 300
    gold = multi_hot(rows.labels[600:900], len(TREE))
    assert evaluate(found.decision_values(rows.texts[600:900]) > 0, gold, TREE)["micro_f1"] > 0.6


LONG = ["字" * 100] * 20_000


@pytest.mark.parametrize("n_labels", [10, 1_000, 30_000])
@pytest.mark.parametrize("n_rows", [100, 20_000])
def test_a_plan_keeps_to_its_limits(n_rows, n_labels):
    limits = Limits(characters=1_000_000, visits=50_000_000, least_rows=5, labels=5_000)
    plan = Plan.of(LONG[:n_rows], [(i % n_labels,) for i in range(n_rows)], n_labels, limits)
    assert len(plan.rows) == min(n_rows, 10_000) and plan.n_labels == min(n_labels, 5_000)
    visits = plan.n_labels * plan.rows_of_label * 100 * module.N_GRAMS
    assert visits <= limits.visits and (plan.rows_of_label == len(plan.rows) or visits > limits.visits * 0.7)


def test_a_plan_is_told():
    plan = Plan.of(["字" * 10] * 200, [(0,)] * 200, 3, QUICK)
    assert plan.lines(200, 3) == ["About 3 seconds of one core"]
    seconds, capped = Plan(np.arange(50), 20, 2, 41.4).lines(200, 3)
    assert seconds == "About 41 seconds of one core" and "50 of 200 rows teach" in capped
    assert "fitted on 20 rows" in capped and "the 2 labels with the most rows are fitted" in capped


def test_only_the_commonest_labels_are_fitted():
    texts, labels = ["足球联赛", "篮球联赛", "股市上涨", "股市下跌"], [(0,), (0,), (1,), (2,)]
    found = fit_linear(texts, labels, 3, Plan(np.arange(4), 4, 1, 0.0))
    assert set(found.labels) == {0} and found.bias[1:].tolist() == [-1, -1]


def test_n_grams_of_other_rows_change_nothing(rows):
    """Left out before they are fitted, they take no time; the same weights, bit for bit."""
    from sklearn.svm import LinearSVC

    texts = rows.texts[:300]
    features = feature_matrix(NGrams.of(texts), texts)
    drawn = np.arange(0, 300, 7)
    columns, weights, bias = fit_label(features, drawn[::3], drawn, module.C)
    machine = LinearSVC(C=module.C, tol=module.TOLERANCE, dual=True, random_state=0)
    machine.fit(features[drawn], np.isin(drawn, drawn[::3]))
    expected = machine.coef_[0]
    assert np.array_equal(expected[columns], weights) and bias == machine.intercept_[0]
    assert not np.delete(expected, columns).any() and len(columns) < len(expected) / 2


def test_a_draw_does_not_take_all_rows():
    positive = np.arange(0, 10**6, 10**4)
    drawn, peak = peak_bytes(drawn_rows, positive, 10**6, 300, 0)
    assert len(drawn) == 300 and np.isin(positive, drawn).all() and peak < 100_000


def test_quantized():
    places, values, scale = quantized(np.array([0.0, 12.7, -6.35, 0.04, 1.0]), 10)
    assert (places.tolist(), values.tolist(), scale) == ([1, 2, 4], [127, -64, 10], pytest.approx(0.1))
    assert quantized(np.array([0.0, 12.7, -6.35, 0.04, 1.0]), 2)[0].tolist() == [1, 2]
    places, values, scale = quantized(np.zeros(3), 10)
    assert (len(places), scale) == (0, 1.0)


# ---- the two numbers -------------------------------------------------------------------------------------------------


ROWS = np.ones(200, bool)


def separate(seed, n_rows=200, n_labels=2, share=0.4):
    """(bool [N, L], generator of noise)."""
    rng = np.random.default_rng(seed)
    return rng.random((n_rows, n_labels)) < share, rng


def test_gains_by_hand():
    """Two mixtures and four rows, with F1 6/10 and 8/10."""
    hits, sizes = np.array([[1, 1, 1, 0], [1, 1, 1, 1]]), np.array([[2, 2, 3, 3], [2, 2, 3, 3]])
    # parts of the rows, (2 hits - F1 x size) / 10 x 4: [.32, .32, .08, -.72] and [.16, .16, -.16, -.16];
    # their difference: [-.16, -.16, -.24, .56], of which the standard deviation is .32496, and half of that the error
    gain, error = gains(hits, sizes)
    assert gain.tolist() == pytest.approx([0, 0.2]) and error.tolist() == pytest.approx([0, 0.16248], abs=1e-5)
    gain, error = gains(np.zeros((2, 3), int), np.zeros((2, 3), int))  # no labels at all
    assert gain.tolist() == error.tolist() == [0, 0]


def test_the_error_of_a_gain_is_that_of_resampling():
    gold, rng = separate(0, 400)
    found = [gold ^ (rng.random(gold.shape) < wrong) for wrong in (0.2, 0.1)]
    hits = np.array([(one & gold).sum(1) for one in found])
    sizes = np.array([one.sum(1) + gold.sum(1) for one in found])
    draws = rng.integers(0, 400, (4000, 400))
    first, second = 2 * hits[:, draws].sum(2) / sizes[:, draws].sum(2)
    assert gains(hits, sizes)[1][1] == pytest.approx(np.std(second - first), rel=0.05)


def test_few_rows_leave_the_usual_mixture():
    """What is best of all by chance is not taken."""
    tree = LabelTree(["甲", "甲##乙", "丙"])
    gold, rng = separate(5, 60, 3)
    encoder = rng.normal(size=gold.shape) + 2 * gold - 1
    values = rng.normal(size=gold.shape) / 3 + 0.5 * gold - 0.75
    choose = beside(encoder, values, gold, tree, Decision())
    worth = [
        evaluate(decide(sigmoid(encoder + w * (values + cut)), tree, Decision()), gold, tree)["micro_f1"]
        for w, cut in (module.USUAL, *itertools.product(module.WEIGHTS, module.CUTS))
    ]
    assert max(worth) > worth[0] + 0.01
    assert choose(ROWS[:60]) == (module.USUAL[0], module.USUAL[0] * module.USUAL[1])


@pytest.mark.parametrize("decision", [Decision(), Decision(0.3, "closure")])
def test_many_rows_find_the_best_mixture(decision):
    """Nearly so good as the best of all, though the usual one is far from it."""
    tree = LabelTree(["甲", "甲##乙", "丙"])
    gold, rng = separate(0, 2000, 3)
    encoder, values = rng.normal(size=gold.shape) * 9, rng.normal(size=gold.shape) / 5 + gold - 0.5
    weight, shift = beside(encoder, values, gold, tree, decision)(np.ones(2000, bool))

    def worth(weight, shift):
        return evaluate(decide(sigmoid(encoder + weight * values + shift), tree, decision), gold, tree)["micro_f1"]

    best = max(worth(w, w * cut) for w in module.WEIGHTS for cut in module.CUTS)
    usual = module.USUAL[0], module.USUAL[0] * module.USUAL[1]
    assert weight == 64.0 and worth(*usual) + 0.05 < best - 0.01 < worth(weight, shift)


def test_a_branch_that_knows_nothing_is_left_out():
    gold, rng = separate(0)
    encoder = 4.0 * gold - 2  # always right
    choose = beside(encoder, rng.normal(size=gold.shape), gold, LabelTree(["甲", "乙"]), Decision())
    assert choose(ROWS) == (0.0, 0.0)


def test_the_threshold_stays_and_the_shift_takes_its_place():
    gold = np.array([[True], [True], [False], [False]] * 5)
    values = np.array([[3.0], [2.0], [1.0], [0.0]] * 5)
    tree = LabelTree(["甲"])
    for threshold in (0.5, 0.9):
        weight, shift = alone(values, gold, tree, Decision(threshold))(ROWS[:20])
        found = decide(sigmoid(weight * values + shift), tree, Decision(threshold))
        assert weight == 8.0 and np.array_equal(found, gold)


def test_an_encoder_that_knows_nothing_is_outweighed():
    gold, rng = separate(0, share=0.3)
    tree = LabelTree(["甲", "乙"])
    encoder, values = rng.normal(scale=8, size=(200, 2)), gold - 0.9  # far below 0, yet always right
    weight, shift = beside(encoder, values, gold, tree, Decision())(ROWS)
    assert weight == 64.0 and evaluate(encoder + weight * values + shift > 0, gold, tree)["micro_f1"] > 0.95


def test_cross_fitting_by_hand(branch, rows):
    """Each fifth of the rows is labelled by the numbers that the four others choose."""
    texts, gold = rows.texts[300:343], multi_hot(rows.labels[300:343], len(TREE))
    encoder = np.random.default_rng(1).normal(size=gold.shape).astype(np.float32) * 9  # so that folds differ
    decision = Decision(decoding="closure")
    found, honest = mixed(branch, texts, encoder, gold, TREE, decision)
    values, folds = branch.decision_values(texts), np.random.default_rng(0).permutation(43) % 5
    choose, labels = beside(encoder.astype(float), values, gold, TREE, decision), np.zeros_like(gold)
    for fold in range(5):
        rest, own = folds != fold, folds == fold
        weight, shift = choose(rest)
        assert (weight, shift) == beside(encoder[rest], values[rest], gold[rest], TREE, decision)(rest[rest])
        labels[own] = decide(sigmoid(encoder[own] + weight * values[own] + shift), TREE, decision)
    expected = evaluate(labels, gold, TREE)
    assert {key: honest[key] for key in ("micro_f1", "macro_f1", "n_rows")} == pytest.approx(
        {key: expected[key] for key in ("micro_f1", "macro_f1", "n_rows")}
    )
    assert (found.weight, found.shift) == choose(np.ones(43, bool))


def test_few_dev_rows_choose_nothing(branch, rows):
    few, gold = rows.texts[: LEAST_DEV - 1], multi_hot(rows.labels[: LEAST_DEV - 1], len(TREE))
    found, honest = mixed(branch, few, np.zeros(gold.shape, np.float32), gold, TREE, Decision())
    assert (found.weight, honest) == (0.0, None)
    found, honest = mixed(branch, few, None, gold, TREE, Decision())
    assert (found.weight, found.shift, honest) == (module.ALONE, 0.0, None)
