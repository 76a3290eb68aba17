"""linear_training.py: machines as scikit-learn makes them, what bounds large data, and the two numbers by hand."""

import warnings

import numpy as np
import pytest

from hierarchical import linear_training as module
from hierarchical.decisions import Decision, decide
from hierarchical.labels import LabelTree
from hierarchical.linear_training import (
    LEAST_DEV,
    best_mix,
    choosing_rows,
    drawn_rows,
    fit_linear,
    mixed,
    quantized,
    rows_to_learn_from,
)
from hierarchical.metric import evaluate
from hierarchical.modeling import sigmoid
from tests.conftest import SAMPLE
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


def test_rows_of_one_label(monkeypatch):
    positive = np.array([3, 50, 51])
    assert drawn_rows(positive, 100, 10, 0) is None
    monkeypatch.setattr(module, "CELLS", 200)
    monkeypatch.setattr(module, "LEAST_ROWS", 4)
    drawn = drawn_rows(positive, 100, 10, 0)
    assert len(drawn) == 20 and len(set(drawn)) == 20 and set(positive) < set(drawn) and (np.diff(drawn) > 0).all()
    many = drawn_rows(np.arange(90), 100, 100, 7)  # 4 rows: half of them may be its own
    assert len(many) == 4 and sum(many < 90) == 2
    assert not np.array_equal(drawn_rows(positive, 100, 10, 1), drawn)
    assert len(drawn_rows(np.arange(99), 100, 10, 1)) == 11  # there is one other


def test_bounded_fits_still_learn(rows, monkeypatch):
    monkeypatch.setattr(module, "ROWS", 250)
    monkeypatch.setattr(module, "CELLS", 31 * 150)
    monkeypatch.setattr(module, "LEAST_ROWS", 100)
    monkeypatch.setattr(module, "WEIGHTS", 31 * 300)
    found = fit_linear(rows.texts[:600], rows.labels[:600], len(TREE))
    counts = np.bincount(found.labels, minlength=len(TREE))
    assert counts.max() == 300
    gold = multi_hot(rows.labels[600:900], len(TREE))
    assert evaluate(found.decision_values(rows.texts[600:900]) > 0, gold, TREE)["micro_f1"] > 0.6


def test_quantized():
    places, values, scale = quantized(np.array([0.0, 12.7, -6.35, 0.04, 1.0]), 10)
    assert (places.tolist(), values.tolist(), scale) == ([1, 2, 4], [127, -64, 10], pytest.approx(0.1))
    assert quantized(np.array([0.0, 12.7, -6.35, 0.04, 1.0]), 2)[0].tolist() == [1, 2]
    places, values, scale = quantized(np.zeros(3), 10)
    assert (len(places), scale) == (0, 1.0)


# ---- the two numbers -------------------------------------------------------------------------------------------------


def test_best_mix_is_the_best_of_all(rows):
    """Against every weight with many shifts."""
    rng = np.random.default_rng(0)
    tree = LabelTree(["甲", "甲##乙", "丙"])
    gold = rng.random((60, 3)) < 0.4
    encoder, values = (rng.normal(size=(60, 3)) + spread * (gold - 0.5) for spread in (2, 1))
    for decision in (Decision(), Decision(0.3, "closure")):
        weight, shift = best_mix(encoder, values, gold, tree, decision)

        def worth(weight, shift, decision=decision):
            return evaluate(decide(sigmoid(encoder + weight * values + shift), tree, decision), gold, tree)["micro_f1"]

        usual = max(worth(module.USUAL, s) for s in np.linspace(-20, 20, 50))
        every = max(worth(w, s) for w in module.OTHERS if w for s in np.linspace(-60, 60, 60))
        assert worth(weight, shift) >= max(usual, every - module.MARGIN) - 1e-9 and weight > 0


def test_a_branch_that_knows_nothing_is_left_out():
    rng = np.random.default_rng(0)
    gold = rng.random((200, 2)) < 0.5
    encoder = 4.0 * gold - 2  # always right
    assert best_mix(encoder, rng.normal(size=(200, 2)), gold, LabelTree(["甲", "乙"]), Decision()) == (0.0, 0.0)


def test_the_threshold_stays_and_the_shift_takes_its_place():
    gold = np.array([[True], [True], [False], [False]] * 5)
    encoder, values = np.zeros((20, 1)), np.array([[3.0], [2.0], [1.0], [0.0]] * 5)
    tree = LabelTree(["甲"])
    for threshold in (0.5, 0.9):
        weight, shift = best_mix(encoder, values, gold, tree, Decision(threshold))
        found = decide(sigmoid(weight * values + shift), tree, Decision(threshold))
        assert weight == 8.0 and np.array_equal(found, gold)


def test_an_encoder_that_knows_nothing_is_outweighed():
    rng = np.random.default_rng(0)
    gold = rng.random((200, 2)) < 0.3
    encoder, values = rng.normal(scale=8, size=(200, 2)), gold - 0.9  # far below 0, yet always right
    weight, shift = best_mix(encoder, values, gold, LabelTree(["甲", "乙"]), Decision())
    assert (
        weight == 64.0
        and evaluate(encoder + weight * values + shift > 0, gold, LabelTree(["甲", "乙"]))["micro_f1"] > 0.95
    )


def test_cross_fitting_by_hand(branch, rows):
    """Each fifth of the rows is labelled by the numbers that the four others choose."""
    texts, gold = rows.texts[300:343], multi_hot(rows.labels[300:343], len(TREE))
    encoder = np.random.default_rng(1).normal(size=gold.shape).astype(np.float32) + 3 * gold - 2
    decision = Decision(decoding="closure")
    found, honest = mixed(branch, texts, encoder, gold, TREE, decision)
    values, folds = branch.decision_values(texts), np.random.default_rng(0).permutation(43) % 5
    labels = np.zeros_like(gold)
    for fold in range(5):
        rest, own = folds != fold, folds == fold
        weight, shift = best_mix(encoder[rest].astype(float), values[rest], gold[rest], TREE, decision)
        labels[own] = decide(sigmoid(encoder[own] + weight * values[own] + shift), TREE, decision)
    expected = evaluate(labels, gold, TREE)
    assert {key: honest[key] for key in ("micro_f1", "macro_f1", "n_rows")} == pytest.approx(
        {key: expected[key] for key in ("micro_f1", "macro_f1", "n_rows")}
    )
    assert (found.weight, found.shift) == best_mix(encoder.astype(float), values, gold, TREE, decision)


def test_few_dev_rows_choose_nothing(branch, rows):
    few, gold = rows.texts[: LEAST_DEV - 1], multi_hot(rows.labels[: LEAST_DEV - 1], len(TREE))
    found, honest = mixed(branch, few, np.zeros(gold.shape, np.float32), gold, TREE, Decision())
    assert (found.weight, honest) == (0.0, None)
    found, honest = mixed(branch, few, None, gold, TREE, Decision())
    assert (found.weight, found.shift, honest) == (module.USUAL, 0.0, None)


def test_with_many_labels_some_of_the_rows_choose(monkeypatch):
    monkeypatch.setattr(module, "CHOOSING_CELLS", 31 * 25)
    assert choosing_rows(50, len(TREE)) == range(0, 50, 2) and choosing_rows(25, len(TREE)) == range(25)
    assert len(choosing_rows(1000, len(TREE))) == 25 and len(choosing_rows(3, 1000)) == 1
