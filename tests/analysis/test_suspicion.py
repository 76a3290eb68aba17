"""analysis/suspicion.py: heads against scikit-learn, strategies on planted errors, and the words of a suspicion."""

import numpy as np
import pytest
from sklearn.linear_model import LogisticRegression

from analysis import suspicion as module
from analysis.suspicion import (
    Search,
    contradiction,
    fit_head,
    n_gram_features,
    neighbours,
    out_of_fold,
    representer,
    suspicion,
)
from hierarchical.calibration import sigmoid
from hierarchical.errors import InputError
from hierarchical.labels import LabelTree
from tests.analysis.conftest import PLANTED, TREE, planted_rows, rows_of
from tests.memory import peak_bytes

# ---- heads -----------------------------------------------------------------------------------------------------------


def test_sigmoid_heads_are_logistic_regressions():
    rng = np.random.default_rng(0)
    features = rng.standard_normal((60, 4)).astype(np.float32)
    targets = features[:, :2] + rng.standard_normal((60, 2)) > 0
    found = fit_head(features, targets, 0.01)
    for i in range(2):  # scikit-learn minimizes C * sum of losses + |w|^2 / 2
        reference = LogisticRegression(C=1 / (2 * 0.01 * 60), fit_intercept=False, tol=1e-8)
        np.testing.assert_allclose(found[:, i], reference.fit(features, targets[:, i]).coef_[0], atol=1e-3)


def test_soft_max_head_has_no_gradient_left():
    rng = np.random.default_rng(1)
    features = rng.standard_normal((30, 3)).astype(np.float32)
    targets = rng.dirichlet(np.ones(4), 30)
    found = fit_head(features, targets, 0.03, several=False)
    logits = features @ found
    expected = np.exp(logits) / np.exp(logits).sum(1, keepdims=True)
    np.testing.assert_allclose(features.T @ (expected - targets) / 30 + 0.06 * found, 0, atol=1e-3)


@pytest.mark.parametrize("texts", [["甲", "乙", "丙"], ["同", "同", "同"], ["甲乙丙", "甲乙丁", "戊"]])
def test_n_grams_of_odd_texts(texts):
    features = n_gram_features(texts)
    assert len(features) == 3 and features.dtype == np.float32 and np.isfinite(features).all()
    np.testing.assert_allclose(features.mean(0), 0, atol=1e-6)


# ---- strategies ------------------------------------------------------------------------------------------------------


def most_of_a_change(logits, gold, tree, exchange_cost=0):
    """The gain of the best change of a row's labels, by trying them all."""
    given, absent = np.flatnonzero(gold), np.flatnonzero(~gold)
    gains = [-logits[i] for i in given] + [logits[k] for k in absent]
    for i in (i for i in given if not gold[tree.children[i]].any()):
        parents = set(tree.parents_of(i))
        near = [parents & set(tree.parents_of(k)) or not parents and not tree.parents_of(k) for k in absent]
        gains += [logits[k] - logits[i] - exchange_cost - (0 if is_near else 2) for k, is_near in zip(absent, near)]
    return max(gains)


@pytest.mark.parametrize("exchange_cost", [0, 1.5])
@pytest.mark.parametrize("further", [[], [(2, 7), (4, 0), (8, 1)]])
def test_contradiction_is_the_gain_of_the_best_change(further, exchange_cost):
    labels = ["甲", "甲##子", "甲##子##一", "甲##子##二", "乙##丑", "乙", "丙", "甲##寅", "乙##卯"]
    tree = LabelTree(labels, further=further)
    rng = np.random.default_rng(4)
    logits = (3 * rng.standard_normal((300, 9)) - 1).astype(np.float32)
    gold = rng.random((300, 9)) < 0.3
    gold[:2] = [[False] * 9, [True] * 9]
    expected = [most_of_a_change(*row, tree, exchange_cost) for row in zip(logits.astype(np.float64), gold)]
    np.testing.assert_allclose(contradiction(logits, gold, tree, exchange_cost), expected, rtol=1e-5)


def test_an_exchange_for_a_sibling_is_more_suspicious_than_each_of_its_halves():
    gold = np.array([[True, True, False, False]] * 3)  # 组织, 组织##裁员
    logits = np.array([[4, -1, 1, -9], [4, -1, -9, 1], [4, -3, -9, 3]], np.float32)  # its sibling, then 财经
    assert contradiction(logits, gold, TREE).tolist() == [1 + 1, 1, 3 + 3 - 2]


def test_the_surest_rows_are_told_apart():
    gold = np.array([[True, True, False, False]] * 3)
    logits = np.array([[9, -9, 9, -9], [9, -12, 12, -9], [9, -14, 14, -9]], np.float32)
    assert np.diff(contradiction(logits, gold, TREE)).tolist() == [6, 4]


def test_out_of_fold_finds_what_was_planted():
    train = planted_rows()
    scores, likely = out_of_fold(train, TREE, Search(seed=3))
    assert set(np.argsort(-scores)[:3]) == set(PLANTED)
    gold = train.multi_hot(len(TREE))
    probabilities = likely(range(len(gold))).astype(np.float64)
    logits = np.log(probabilities) - np.log1p(-probabilities)
    np.testing.assert_allclose(scores, [most_of_a_change(*row, TREE) for row in zip(logits, gold)], rtol=1e-4)
    assert np.array_equal(out_of_fold(train, TREE, Search(seed=3))[0], scores)


def test_with_many_rows_and_labels_each_label_has_a_draw(monkeypatch):
    """The same finds, and no more cells fitted than is allowed."""
    monkeypatch.setattr(module, "SVD_ROWS", 30)
    monkeypatch.setattr(module, "FITTED_CELLS", 4 * 25)
    monkeypatch.setattr(module, "LEAST_DRAWN", 10)
    monkeypatch.setattr(module, "LABELS_OF_A_DRAW", 2)
    cells, fit = [], module.fit_head
    monkeypatch.setattr(module, "fit_head", lambda *given: cells.append(given[1].size) or fit(*given))
    train = planted_rows()
    scores, likely = out_of_fold(train, TREE, Search(seed=3))
    assert len(set(np.argsort(-scores)[:6]) & set(PLANTED)) >= 2
    assert len(cells) == 5 * 2 and sum(cells) <= 5 * 4 * 25


def test_scores_hold_no_table_of_rows_and_labels(monkeypatch):
    tree, labels = LabelTree([str(i) for i in range(2_000)]), [(i % 2_000,) for i in range(3_000)]
    inputs = np.random.default_rng(0).standard_normal((3_000, 5)).astype(np.float32)
    monkeypatch.setattr(module, "n_gram_features", lambda texts: inputs)
    monkeypatch.setattr(module, "fit_heads", lambda inputs, *_: np.ones((6, 2_000), np.float32))
    monkeypatch.setattr("hierarchical.batches.CELLS", 50_000)
    train = rows_of([str(i) for i in range(3_000)], labels)
    _, peak = peak_bytes(out_of_fold, train, tree, Search())
    assert peak < 3e6  # of 6,000,000 cells


def test_representer_says_what_it_would_take():
    with pytest.raises(InputError, match="1,000 rows x 200,000 labels would take about 6 GB"):
        representer(rows_of("甲" * 1000, [()] * 1000), LabelTree([str(i) for i in range(200_000)]), Search())


def test_equal_texts_do_not_vouch_for_each_other():
    """Three copies of a text with the same wrong label: were they in different folds, they would confirm it."""
    train = planted_rows()
    train = rows_of(train.texts + ["丑厂裁员"] * 3, train.labels + [(3,)] * 3)
    for seed in range(3):
        scores, likely = out_of_fold(train, TREE, Search(seed=seed))
        copies = likely(range(len(train.texts))[-3:])
        assert (copies[:, 3] < 0.5).all()
        assert np.array_equal(copies, copies[[0] * 3])


def test_probabilities_are_probabilities():
    train = planted_rows()
    _, likely = out_of_fold(train, TREE, Search(seed=0))
    likely = likely(range(len(train.texts)))
    assert likely.min() >= 0 and likely.max() <= 1 and likely.dtype == sigmoid(np.zeros(1)).dtype


def outputs(monkeypatch, features, logits=None):
    monkeypatch.setattr(module, "model_outputs", lambda texts, search: (features, logits))


def test_neighbours_by_hand(monkeypatch):
    features = np.array([[1, 0], [1, 0.1], [1, -0.1], [0, 1], [0.1, 1]], np.float32)
    monkeypatch.setattr(module, "encoded", lambda texts, search: features)
    monkeypatch.setattr(module, "NEIGHBOURS", 2)
    train = rows_of("甲乙丙丁戊", [(0,), (0,), (3,), (3,), (3,)])
    scores, likely = neighbours(train, TREE, Search())
    # Row 2's nearest are 0 and 1, which have label 0; row 3's are 4 and 1; row 0's are 1 and 2.
    np.testing.assert_allclose(likely([0, 2, 3]), [[0.5, 0, 0, 0.5], [1, 0, 0, 0], [0.5, 0, 0, 0.5]])
    np.testing.assert_allclose(scores[[0, 2]], [2 * np.log(2), 2 * np.log(100)])
    assert scores.argmax() == 2


def test_representer_weights(monkeypatch):
    """The weights of a row sum up, over the rows, to the layer that was fitted: the representer theorem."""
    rng = np.random.default_rng(2)
    features = rng.standard_normal((12, 3)).astype(np.float32)
    logits = rng.standard_normal((12, 4)).astype(np.float32)
    probabilities = np.exp(logits) / np.exp(logits).sum(1, keepdims=True)
    outputs(monkeypatch, features, logits)
    rank, likely = representer(rows_of("甲" * 12, [()] * 12), TREE, Search())
    inputs = np.c_[features, np.ones(12, np.float32)]
    layer = fit_head(inputs, probabilities, 0.03, several=False)
    of_layer = np.exp(inputs @ layer) / np.exp(inputs @ layer).sum(1, keepdims=True)
    weights = (of_layer - probabilities) / (-2 * 0.03 * 12)
    np.testing.assert_allclose(inputs.T @ weights, layer, atol=2e-2)
    keys = [((row > 0).sum(), row[row > 0].sum()) for row in weights]
    assert [keys[i] for i in np.argsort(-rank)] == sorted(keys, reverse=True)
    np.testing.assert_allclose(likely(range(12)), 1 / (1 + np.exp(-logits)), rtol=1e-5)


# ---- words -----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "gold, likely, words",
    [
        ([1, 1, 0, 0], [0.98, 0.02, 0.97, 0], "has 组织##裁员, model says 组织##解雇, 0.97"),
        ([1, 1, 0, 0], [0.1, 0.02, 0, 0.93], "has 组织##裁员, model says 财经, 0.93"),
        ([1, 1, 0, 1], [0.9, 0.9, 0, 0.04], "has 财经, model gives it 0.04"),
        ([0, 0, 0, 1], [0.9, 0.8, 0, 0.9], "lacks a label, model says 组织##裁员, 0.80"),
        ([1, 1, 0, 0], [0.9, 0.9, 0, 0.4], "no single label stands out"),
    ],
)
def test_the_label_in_question(gold, likely, words):
    assert suspicion(TREE, np.array(gold, bool), np.array(likely)) == words
