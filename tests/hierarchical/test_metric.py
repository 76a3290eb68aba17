"""metric.py: worked examples by hand, parity with scikit-learn and hiclass, and properties that hold for any input."""

import json
import warnings

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from metric import (
    CRITERIA,
    DECODINGS,
    Decision,
    Scores,
    cross_fitted_score,
    decide,
    evaluate,
    tune_threshold,
    tune_thresholds_per_label,
)
from utils import LabelTree

# Class indices 0..5; "其他" (other) is the name of a node under both roots.
PATHS = ["组织", "组织##加盟", "组织##其他", "财经", "财经##其他", "财经##其他##利率"]
TREE = LabelTree(PATHS)


def multi_hot(*rows, n_labels=len(PATHS)):
    sets = np.zeros((len(rows), n_labels), dtype=bool)
    for row, labels in enumerate(rows):
        sets[row, list(labels)] = True
    return sets


def random_tree(rng, n_labels, depth=5):
    """Labels in random order, so that class index order, level order and parent order all differ."""
    paths = [f"根{i}" for i in range(max(1, n_labels // 5))]
    while len(paths) < n_labels:
        parent = paths[rng.integers(len(paths))]
        if parent.count("##") < depth - 1:
            paths.append(f"{parent}##节{len(paths)}")
    return LabelTree([paths[i] for i in rng.permutation(n_labels)])


def is_closed(sets, tree):
    children = np.flatnonzero(np.asarray(tree.parents) >= 0)
    return not (sets[:, children] & ~sets[:, np.asarray(tree.parents)[children]]).any()


@st.composite
def cases(draw):
    """A tree, probabilities with many exact ties, and thresholds."""
    rng = np.random.default_rng(draw(st.integers(0, 2**32 - 1)))
    tree = random_tree(rng, draw(st.integers(1, 14)))
    shape = (draw(st.integers(0, 5)), len(tree))
    steps = draw(st.sampled_from([1, 2, 4, 10, 10**6]))
    probabilities = rng.integers(0, steps + 1, shape) / steps
    per_label = draw(st.booleans())
    threshold = rng.integers(0, 11, len(tree)) / 10 if per_label else draw(st.sampled_from([0.0, 0.3, 0.5, 0.9, 1.0]))
    dtype = draw(st.sampled_from([np.float32, np.float64]))
    return tree, probabilities.astype(dtype), threshold


@st.composite
def limits(draw):
    if draw(st.booleans()):
        return {"top_k": draw(st.integers(1, 20))}
    lowest = draw(st.integers(0, 6))
    return {"min_labels": lowest, "max_labels": draw(st.one_of(st.none(), st.integers(max(lowest, 1), 20)))}


# ---- Decisions -------------------------------------------------------------------------------------------------------


def test_decide_by_hand():
    #                          组织  加盟  其他  财经  其他  利率
    probabilities = np.array([[0.40, 0.90, 0.20, 0.60, 0.30, 0.70]])
    assert decide(probabilities, TREE).tolist() == multi_hot([1, 3, 5]).tolist()
    # closure: 加盟 brings 组织; 利率 brings 财经##其他 and 财经.
    assert decide(probabilities, TREE, Decision(decoding="closure")).tolist() == multi_hot([0, 1, 3, 4, 5]).tolist()
    # topdown: 加盟 has no predicted parent, 利率 lacks 财经##其他; 财经 stays.
    assert decide(probabilities, TREE, Decision(decoding="topdown")).tolist() == multi_hot([3]).tolist()


def test_limits_by_hand():
    probabilities = np.array([[0.40, 0.90, 0.20, 0.60, 0.30, 0.70]])

    def labels(**settings):
        return np.flatnonzero(decide(probabilities, TREE, Decision(**settings))[0]).tolist()

    assert labels(max_labels=2) == [1, 5]
    assert labels(min_labels=4) == [0, 1, 3, 5]
    assert labels(top_k=1) == [1]
    # closure margins: 组织 .4 加盟 .4 其他 -.3 财经 .2 其他 .2 利率 .2 -> of equals the shallower first.
    assert labels(decoding="closure", top_k=1) == [0]
    assert labels(decoding="closure", max_labels=3) == [0, 1, 3]
    # topdown margins: 组织 -.1 加盟 -.1 其他 -.3 财经 .1 其他 -.2 利率 -.2
    assert labels(decoding="topdown", min_labels=3) == [0, 1, 3]
    # One threshold per label: margins are -.5 -.05 -.7 .1 -.6 -.2.
    assert labels(threshold=[0.9, 0.95, 0.9, 0.5, 0.9, 0.9], min_labels=2) == [1, 3]


def test_equal_margins_rank_by_level_then_class_index():
    # All margins are equal: level 1 is {0, 3}, level 2 is {1, 2, 4}, level 3 is {5}.
    for k, expected in enumerate([[0], [0, 3], [0, 1, 3], [0, 1, 2, 3], [0, 1, 2, 3, 4], [0, 1, 2, 3, 4, 5]], 1):
        assert np.flatnonzero(decide(np.full((1, 6), 0.7), TREE, Decision(top_k=k))[0]).tolist() == expected


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
def test_default_is_above_one_half(dtype):
    half = dtype(0.5)
    values = np.array([0, 1, half, np.nextafter(half, dtype(0)), np.nextafter(half, dtype(1)), 0.25], dtype=dtype)
    probabilities = np.stack([np.roll(values, shift) for shift in range(6)])
    assert (decide(probabilities, TREE) == (probabilities > 0.5)).all()
    noise = np.random.default_rng(0).random((500, 6)).astype(dtype)
    assert (decide(noise, TREE) == (noise > 0.5)).all()


@pytest.mark.slow
@given(cases(), st.sampled_from(DECODINGS), limits())
@settings(max_examples=300, deadline=None)
def test_decide_holds_its_promises(case, decoding, limit):
    tree, probabilities, threshold = case
    before = probabilities.copy()
    decision = Decision(threshold, decoding, **limit)
    sets = decide(probabilities, tree, decision)
    assert sets.dtype == bool and sets.shape == probabilities.shape
    assert (probabilities == before).all()
    assert decoding == "raw" or is_closed(sets, tree)

    counts, n_labels = sets.sum(axis=1), len(tree)
    if decision.top_k:
        assert (counts == min(decision.top_k, n_labels)).all()
    else:
        assert (counts >= min(decision.min_labels, n_labels)).all()
        assert decision.max_labels is None or (counts <= decision.max_labels).all()

    # The limits only shorten or lengthen the plain result.
    plain = decide(probabilities, tree, Decision(threshold, decoding))
    assert ((sets & ~plain).any(axis=1) <= ~(plain & ~sets).any(axis=1)).all()
    # A row's result depends neither on its place nor on its batch.
    assert (decide(probabilities[::-1], tree, decision) == sets[::-1]).all()
    for row in range(len(sets)):
        assert (decide(probabilities[row : row + 1], tree, decision) == sets[row]).all()


@given(cases(), st.sampled_from(DECODINGS), limits())
@settings(max_examples=100, deadline=None)
def test_decide_equals_a_plain_loop(case, decoding, limit):
    tree, probabilities, threshold = case
    sets = decide(probabilities, tree, Decision(threshold, decoding, **limit))
    for row, expected in zip(probabilities.astype(float) - threshold, sets):
        margins = row.tolist()
        for level in range(tree.depth, 1, -1) if decoding == "closure" else ():
            for label in np.flatnonzero(tree.levels == level):
                margins[tree.parents[label]] = max(margins[tree.parents[label]], margins[label])
        for level in range(2, tree.depth + 1) if decoding == "topdown" else ():
            for label in np.flatnonzero(tree.levels == level):
                margins[label] = min(margins[tree.parents[label]], margins[label])
        ranking = sorted(range(len(tree)), key=lambda label: (-margins[label], tree.levels[label], label))
        count = sum(margin > 0 for margin in margins)
        lowest = limit.get("top_k") or limit.get("min_labels", 0)
        highest = limit.get("top_k") or limit.get("max_labels") or len(tree)
        assert sorted(ranking[: min(max(count, lowest), highest)]) == np.flatnonzero(expected).tolist()


@given(cases())
@settings(max_examples=100, deadline=None)
def test_topdown_within_raw_within_closure(case):
    tree, probabilities, threshold = case
    raw, closure, topdown = (decide(probabilities, tree, Decision(threshold, name)) for name in DECODINGS)
    assert (topdown <= raw).all() and (raw <= closure).all()
    if np.ndim(threshold) == 0:
        assert (raw == (probabilities.astype(float) > threshold)).all()


@pytest.mark.parametrize(
    "decision",
    [
        Decision(),
        Decision(0.25, "closure", 1, 3),
        Decision([0.1, 0.2, 0.3], "topdown"),
        Decision(top_k=2),
        Decision(np.array([0.5, 0.25])),
        Decision(np.float64(0.125)),
        Decision(1),
        Decision(max_labels=1),
    ],
)
def test_decision_round_trip(decision):
    assert Decision.from_dict(json.loads(json.dumps(decision.to_dict()))) == decision


def test_decision_defaults_for_missing_keys():
    assert Decision.from_dict({}) == Decision()
    assert Decision.from_dict({"top_k": 3}) == Decision(top_k=3)


@pytest.mark.parametrize(
    "wrong, said",
    [
        ({"treshold": 0.5}, "unknown decision settings treshold; known are threshold"),
        ({"threshold": 1.5}, "from 0 to 1"),
        ({"threshold": -0.1}, "from 0 to 1"),
        ({"threshold": float("nan")}, "from 0 to 1"),
        ({"threshold": "0.5"}, "from 0 to 1"),
        ({"threshold": True}, "from 0 to 1"),
        ({"threshold": None}, "from 0 to 1"),
        ({"threshold": {"组织": 0.5}}, "from 0 to 1"),
        ({"threshold": [0.5, "x"]}, "from 0 to 1"),
        ({"threshold": [[0.5]]}, "from 0 to 1"),
        ({"decoding": "top-down"}, "one of raw, closure, topdown"),
        ({"decoding": ["raw"]}, "one of raw, closure, topdown"),
        ({"min_labels": -1}, "0 or more"),
        ({"min_labels": 1.0}, "whole number"),
        ({"min_labels": None}, "whole number"),
        ({"max_labels": 0}, "1 or more"),
        ({"max_labels": True}, "whole number"),
        ({"top_k": 0}, "1 or more"),
        ({"top_k": "3"}, "whole number"),
        ({"min_labels": 3, "max_labels": 2}, "must not be above"),
        ({"top_k": 3, "min_labels": 1}, "already fixes"),
        ({"top_k": 3, "max_labels": 3}, "already fixes"),
        (["raw"], "must be a dict"),
    ],
)
def test_bad_decision_settings(wrong, said):
    with pytest.raises(ValueError, match=said):
        Decision.from_dict(wrong)


@pytest.mark.parametrize(
    "asked, expected",
    [
        ({}, Decision(0.25, "closure", 1, 3)),
        (
            dict(threshold=None, decoding=None, min_labels=None, max_labels=None, top_k=None),
            Decision(0.25, "closure", 1, 3),
        ),
        ({"threshold": 0.0}, Decision(0.0, "closure", 1, 3)),  # 0 is something asked for
        ({"threshold": [0.5, 0.75]}, Decision([0.5, 0.75], "closure", 1, 3)),
        ({"decoding": "raw", "top_k": None}, Decision(0.25, "raw", 1, 3)),
        ({"min_labels": 0}, Decision(0.25, "closure", 0, 3)),
        ({"max_labels": 2}, Decision(0.25, "closure", 1, 2)),
        ({"top_k": 2}, Decision(0.25, "closure", top_k=2)),
        ({"top_k": 2, "threshold": 0.5, "min_labels": None}, Decision(0.5, "closure", top_k=2)),
    ],
)
def test_an_updated_decision_over_limits(asked, expected):
    stored = Decision(0.25, "closure", 1, 3)
    assert stored.updated(**asked) == expected
    assert stored == Decision(0.25, "closure", 1, 3)  # and is another one


@pytest.mark.parametrize(
    "asked, expected",
    [
        ({}, Decision(top_k=2)),
        ({"threshold": 0.75}, Decision(0.75, top_k=2)),
        ({"top_k": 5}, Decision(top_k=5)),
        ({"min_labels": 1}, Decision(min_labels=1)),
        ({"max_labels": 4}, Decision(max_labels=4)),
        ({"min_labels": 1, "max_labels": 4, "top_k": None}, Decision(min_labels=1, max_labels=4)),
    ],
)
def test_an_updated_decision_over_a_number_of_labels(asked, expected):
    assert Decision(top_k=2).updated(**asked) == expected


@pytest.mark.parametrize(
    "asked, said",
    [
        ({"treshold": 0.5}, "unknown decision settings treshold; known are threshold"),
        ({"threshold": 1.5}, "from 0 to 1"),
        ({"decoding": "best"}, "one of raw, closure, topdown"),
        ({"top_k": 0}, "1 or more"),
        ({"top_k": 2, "max_labels": 2}, "already fixes"),
        ({"min_labels": 4}, r"min_labels \(4\) must not be above max_labels \(3\)"),  # of which one was stored
    ],
)
def test_a_decision_that_cannot_be_updated(asked, said):
    with pytest.raises(ValueError, match=said):
        Decision(0.25, "closure", 1, 3).updated(**asked)


@pytest.mark.parametrize(
    "probabilities, said",
    [
        (np.full((2, 5), 0.5), "shape"),
        (np.full(6, 0.5), "shape"),
        (np.full((1, 2, 6), 0.5), "shape"),
        ([[0.5, 0.5, np.nan, 0.5, 0.5, 0.5]], "NaN"),
        (np.array([[3.0, -2.0, 0, 0, 0, 0]]), "sigmoid"),
        (np.array([["0.5"] * 6]), "numbers"),
        (np.array([[None] * 6]), "numbers"),
    ],
)
def test_bad_probabilities(probabilities, said):
    with pytest.raises(ValueError, match=said):
        decide(probabilities, TREE)


def test_wrong_number_of_thresholds():
    with pytest.raises(ValueError, match="2 thresholds for 6 labels"):
        decide(np.zeros((1, 6)), TREE, Decision([0.5, 0.5]))


# ---- Scores ----------------------------------------------------------------------------------------------------------


def test_scores_by_hand():
    gold = multi_hot([0, 1], [3, 4, 5], [], [3])
    predicted = multi_hot([0, 1], [4, 5], [], [0])
    result = evaluate(predicted, gold, TREE)
    # Counts tp/fp/fn per label: 0: 1/1/0, 1: 1/0/0, 2: 0/0/0, 3: 0/0/2, 4: 1/0/0, 5: 1/0/0. Sums: 4/1/2.
    assert result["n_rows"] == 4 and result["loss"] is None
    assert result["accuracy"] == 2 / 4  # the first row and the empty one
    assert result["micro_precision"] == 4 / 5
    assert result["micro_recall"] == 4 / 6
    assert result["micro_f1"] == pytest.approx(2 * 4 / (2 * 4 + 1 + 2))  # 8/11
    # F1 per label: 2/3, 1, 0 (never seen), 0, 1, 1
    assert result["macro_f1"] == pytest.approx((2 / 3 + 3) / 6)
    assert result["macro_f1_supported"] == pytest.approx((2 / 3 + 3) / 5)
    assert result["macro_precision"] == pytest.approx((1 / 2 + 3) / 6)
    assert result["macro_recall"] == pytest.approx(4 / 6)
    assert result["labels_without_support"] == 1  # 组织##其他
    assert result["labels_never_predicted"] == 2  # 组织##其他 and 财经
    assert result["labels"]["组织"] == {"precision": 1 / 2, "recall": 1.0, "f1": pytest.approx(2 / 3), "support": 1}
    assert list(result["labels"]) == PATHS
    # Closed predictions: {0,1}, {3,4,5}, {}, {0} = 6 nodes; closed gold: {0,1}, {3,4,5}, {}, {3} = 6; common: 2+3.
    assert result["hierarchical_precision"] == result["hierarchical_recall"] == 5 / 6
    assert result["hierarchical_f1"] == pytest.approx(5 / 6)
    # Level 1 (labels 0, 3): tp 1, fp 1, fn 2 -> 2/5; F1s 2/3 and 0. Rows 1, 2, 4 hold a label there; only row 1 is
    # right: row 2 predicts 财经##其他 without 财经, and a child is no substitute for its parent.
    # Level 2 (1, 2, 4): tp 2; F1s 1, 0, 1; rows 1 and 2. Level 3 (5): row 2.
    third = pytest.approx(1 / 3)
    assert result["levels"] == [
        {"level": 1, "n_labels": 2, "n_rows": 3, "micro_f1": 2 / 5, "macro_f1": third, "accuracy": third},
        {"level": 2, "n_labels": 3, "n_rows": 2, "micro_f1": 1.0, "macro_f1": pytest.approx(2 / 3), "accuracy": 1.0},
        {"level": 3, "n_labels": 1, "n_rows": 1, "micro_f1": 1.0, "macro_f1": 1.0, "accuracy": 1.0},
    ]
    assert json.loads(json.dumps(result)) == result  # plain Python types


def test_a_row_empty_at_a_level_does_not_count_as_correct_there():
    # Of ten rows only one has a level 2 label, and it is missed: 0/1, not 9/10.
    gold = multi_hot([0, 1], *[[0]] * 9)
    predicted = multi_hot(*[[0]] * 10)
    level_2 = evaluate(predicted, gold, TREE)["levels"][1]
    assert (level_2["n_rows"], level_2["accuracy"]) == (1, 0.0)


def test_equal_names_under_two_parents_are_two_nodes():
    # Gold 组织##其他, predicted 财经##其他: by name level 2 would be perfect.
    result = evaluate(multi_hot([3, 4]), multi_hot([0, 2]), TREE)
    assert result["levels"][1]["micro_f1"] == result["levels"][1]["accuracy"] == 0.0
    assert result["hierarchical_f1"] == 0.0
    assert result["labels"]["组织##其他"]["support"] == 1 and result["labels"]["财经##其他"]["support"] == 0


@pytest.mark.slow
@pytest.mark.parametrize("density", [0.02, 0.3, 0.9])
def test_equals_scikit_learn(density):
    metrics = pytest.importorskip("sklearn.metrics")
    rng = np.random.default_rng(int(density * 100))
    tree = random_tree(rng, 60)
    gold = rng.random((80, 60)) < density
    predicted = gold ^ (rng.random(gold.shape) < 0.05)
    gold[:, 5] = predicted[:, 5] = False  # no support, never predicted
    gold[:, 6] = False
    predicted[:, 7] = False
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        result = evaluate(predicted, gold, tree)

    def expected(average, labels=slice(None)):
        pair = gold[:, labels].astype(int), predicted[:, labels].astype(int)
        return metrics.precision_recall_fscore_support(*pair, average=average, zero_division=0)

    for average in ("micro", "macro"):
        got = [result[f"{average}_{name}"] for name in ("precision", "recall", "f1")]
        np.testing.assert_allclose(got, expected(average)[:3], rtol=1e-12)
    got = [[row[name] for row in result["labels"].values()] for name in ("precision", "recall", "f1", "support")]
    np.testing.assert_allclose(got, expected(None), rtol=1e-12)
    assert result["accuracy"] == pytest.approx(metrics.accuracy_score(gold, predicted))
    assert len(result["levels"]) == tree.depth
    for level in result["levels"]:
        labels = np.flatnonzero(tree.levels == level["level"])
        pair = gold[:, labels].astype(int), predicted[:, labels].astype(int)
        for average in ("micro", "macro"):  # a single column would make scikit-learn see a binary problem
            f1 = (
                metrics.f1_score(*pair, labels=range(len(labels)), average=average, zero_division=0)
                if len(labels) > 1
                else metrics.f1_score(*pair, zero_division=0)
            )
            assert level[f"{average}_f1"] == pytest.approx(f1, rel=1e-12)
        used = (pair[0] | pair[1]).any(axis=1)
        exact = metrics.accuracy_score(pair[0][used], pair[1][used]) if used.any() else 0.0
        assert level["accuracy"] == pytest.approx(exact) and level["n_rows"] == used.sum()


@pytest.mark.slow
def test_hierarchical_scores_equal_hiclass():
    """hiclass averages "micro" by default (sums over rows before dividing) and knows no root above level 1, as here.

    It takes one path per row as a list of nodes padded with "", and compares what it is given as plain sets: full paths
    are passed, because with bare names two nodes of one name would be the same. It always receives whole paths, so the
    predictions passed here hold only the last node, and closing them is this module's part.
    """
    hiclass = pytest.importorskip("hiclass.metrics")
    rng = np.random.default_rng(3)
    tree = random_tree(rng, 40)
    chosen = rng.integers(0, 40, (2, 300))
    chosen[1, :100] = chosen[0, :100]

    def whole_path(label):
        path = []
        while label >= 0:
            path.insert(0, tree.labels[label])
            label = tree.parents[label]
        return path + [""] * (tree.depth - len(path))

    true_paths, predicted_paths = ([whole_path(label) for label in labels] for labels in chosen)
    gold, predicted = (multi_hot(*[[label] for label in labels], n_labels=40) for labels in chosen)
    result = evaluate(predicted, gold, tree)
    for name in ("precision", "recall", "f1"):
        expected = getattr(hiclass, name)(np.array(true_paths), np.array(predicted_paths))
        assert result[f"hierarchical_{name}"] == pytest.approx(expected, rel=1e-12)
    closed = evaluate(*(decide(sets, tree, Decision(decoding="closure")) for sets in (predicted, gold)), tree)
    assert closed["hierarchical_f1"] == result["hierarchical_f1"]  # closing twice changes nothing


def test_batches_and_processes_add_up():
    rng = np.random.default_rng(1)
    tree = random_tree(rng, 30)
    gold, predicted, losses = rng.random((50, 30)) < 0.2, rng.random((50, 30)) < 0.2, rng.integers(0, 9, 50) / 8
    whole = Scores(tree)
    whole.update(predicted, gold, losses)
    processes = [Scores(tree), Scores(tree)]
    for start in range(0, 50, 7):
        rows = slice(start, start + 7)
        processes[start % 2].update(predicted[rows].astype(np.float32), gold[rows].astype(int), losses[rows])
    summed = processes[0].to_vector() + processes[1].to_vector()
    assert summed.dtype == np.float64
    assert (summed == whole.to_vector()).all()
    assert Scores.from_vector(tree, summed).result() == whole.result()
    assert whole.result()["loss"] == losses.mean()
    # from_vector and to_vector share no memory with anybody.
    copy = Scores.from_vector(tree, summed)
    taken = copy.to_vector()
    copy.update(predicted, gold)
    assert (summed == whole.to_vector()).all() and (taken == summed).all()


def test_a_mean_loss_counts_for_its_rows():
    scores = Scores(TREE)
    scores.update(multi_hot([0], [1], [2]), multi_hot([0], [1], [2]), 0.5)
    scores.update(multi_hot([0]), multi_hot([0]), 0.9)
    assert scores.result()["loss"] == pytest.approx((3 * 0.5 + 0.9) / 4)


def test_memory_depends_on_the_tree_only():
    scores = Scores(TREE)
    size = scores.to_vector().size
    assert size == 3 * 6 + 2 * 3 + 7
    arrays = {name: value.nbytes for name, value in vars(scores).items() if isinstance(value, np.ndarray)}
    for _ in range(20):
        scores.update(np.ones((50, 6), bool), np.ones((50, 6), bool))
    assert scores.to_vector().size == size
    assert {name: value.nbytes for name, value in vars(scores).items() if isinstance(value, np.ndarray)} == arrays
    assert scores.result()["n_rows"] == 1000


def test_update_leaves_its_inputs_alone():
    predicted, gold = multi_hot([5]), multi_hot([1])
    evaluate(predicted, gold, TREE)
    assert (predicted == multi_hot([5])).all() and (gold == multi_hot([1])).all()


def test_nothing_counted_is_all_zero_without_warnings():
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        for result in (Scores(TREE).result(), evaluate(np.zeros((0, 6)), np.zeros((0, 6)), TREE)):
            assert result["n_rows"] == result["accuracy"] == result["macro_f1"] == result["hierarchical_f1"] == 0
            assert result["labels_without_support"] == 6 and result["macro_f1_supported"] == 0


@pytest.mark.parametrize(
    "predicted, gold, said",
    [
        (np.zeros((2, 5)), np.zeros((2, 6)), "predicted must have the shape"),
        (np.zeros((2, 6)), np.zeros((2, 5)), "gold must have the shape"),
        (np.zeros((2, 6)), np.zeros((3, 6)), r"gold must have the shape \[2, 6\]"),
        (np.zeros(6), np.zeros(6), "shape"),
        (np.full((2, 6), 0.7), np.zeros((2, 6)), "decide"),
        (np.zeros((2, 6)), np.full((2, 6), 2), "gold must be multi-hot"),
    ],
)
def test_bad_label_sets(predicted, gold, said):
    scores = Scores(TREE)
    with pytest.raises(ValueError, match=said):
        scores.update(predicted, gold)
    assert not scores.to_vector().any()


def test_losses_of_the_wrong_length_count_nothing():
    scores = Scores(TREE)
    with pytest.raises(ValueError):
        scores.update(np.zeros((3, 6)), np.zeros((3, 6)), [0.1, 0.2])
    assert not scores.to_vector().any()


def test_counts_of_another_tree():
    with pytest.raises(ValueError, match="vector of 31"):
        Scores.from_vector(TREE, np.zeros(30))


# ---- Thresholds ------------------------------------------------------------------------------------------------------


@given(cases(), st.integers(0, 2**32 - 1), st.sampled_from(DECODINGS), st.sampled_from(CRITERIA))
@settings(max_examples=100, deadline=None)
def test_tuned_threshold_is_optimal(case, seed, decoding, criterion):
    tree, probabilities, _ = case
    gold = np.random.default_rng(seed).random(probabilities.shape) < 0.4

    def score(threshold):
        return evaluate(decide(probabilities, tree, Decision(threshold, decoding)), gold, tree)[criterion]

    tuned = tune_threshold(probabilities, gold, tree, decoding, criterion)
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


@given(cases(), st.integers(0, 2**32 - 1), st.integers(1, 4), st.sampled_from([0.0, 0.3, 0.5, 1.0]))
@settings(max_examples=100, deadline=None)
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
