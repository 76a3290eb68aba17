"""Decisions: worked examples by hand, and properties that hold for any input."""

import json

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from metric import (
    DECODINGS,
    Decision,
    decide,
)
from tests.hierarchical.trees import TREE, cases, is_closed, limits, multi_hot


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
