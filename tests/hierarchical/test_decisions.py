"""Decisions: worked examples by hand, and properties that hold for any input."""

import json
import sys
import tracemalloc
from fractions import Fraction

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from hierarchical.decisions import STOPS, cut_values, thresholds_of
from hierarchical.labels import LabelTree
from metric import (
    DECODINGS,
    Decision,
    decide,
)
from tests.hierarchical.trees import (
    PATHS,
    TREE,
    ancestors_of,
    cases,
    is_closed,
    limits,
    multi_hot,
    parents_of,
    random_tree,
)

BY_THRESHOLD = ("raw", "closure", "topdown")


@st.composite
def structures(draw):
    """Settings by which labels are chosen by their place in the tree."""
    decoding, per_level = draw(st.sampled_from(DECODINGS)), draw(st.integers(0, 3))
    return {
        "decoding": decoding,
        "per_level": max(per_level, int(decoding != "path")),
        "stop": draw(st.sampled_from([*STOPS])),
    }


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
@given(cases(), st.one_of(st.sampled_from(BY_THRESHOLD).map(lambda name: {"decoding": name}), structures()), limits())
@settings(max_examples=400)
def test_decide_holds_its_promises(case, rule, limit):
    tree, probabilities, threshold = case
    before = probabilities.copy()
    decision = Decision(threshold, **rule, **limit)
    sets = decide(probabilities, tree, decision)
    assert sets.dtype == bool and sets.shape == probabilities.shape
    assert (probabilities == before).all()
    assert rule == {"decoding": "raw"} or is_closed(sets, tree)

    counts, n_labels = sets.sum(axis=1), len(tree)
    if decision.top_k:
        assert (counts == min(decision.top_k, n_labels)).all()
    else:
        assert (counts >= min(decision.min_labels, n_labels)).all()
        assert decision.max_labels is None or (counts <= decision.max_labels).all()

    # The limits only shorten or lengthen the plain result.
    plain = decide(probabilities, tree, Decision(threshold, **rule))
    assert ((sets & ~plain).any(axis=1) <= ~(plain & ~sets).any(axis=1)).all()
    # A row's result depends neither on its place nor on its batch.
    assert (decide(probabilities[::-1], tree, decision) == sets[::-1]).all()
    for row in range(len(sets)):
        assert (decide(probabilities[row : row + 1], tree, decision) == sets[row]).all()


@given(cases(), st.sampled_from(BY_THRESHOLD), limits())
@settings(max_examples=100)
def test_decide_equals_a_plain_loop(case, decoding, limit):
    tree, probabilities, threshold = case
    sets = decide(probabilities, tree, Decision(threshold, decoding, **limit))
    for row, expected in zip(probabilities.astype(float) - threshold, sets):
        margins = row.tolist()
        for level in range(tree.depth, 1, -1) if decoding == "closure" else ():
            for label in np.flatnonzero(tree.levels == level):
                for parent in parents_of(tree, label):
                    margins[parent] = max(margins[parent], margins[label])
        for level in range(2, tree.depth + 1) if decoding == "topdown" else ():
            for label in np.flatnonzero(tree.levels == level):
                margins[label] = min(margins[label], *(margins[parent] for parent in parents_of(tree, label)))
        ranking = sorted(range(len(tree)), key=lambda label: (-margins[label], tree.levels[label], label))
        count = sum(margin > 0 for margin in margins)
        lowest = limit.get("top_k") or limit.get("min_labels", 0)
        highest = limit.get("top_k") or limit.get("max_labels") or len(tree)
        assert sorted(ranking[: min(max(count, lowest), highest)]) == np.flatnonzero(expected).tolist()


@given(cases())
@settings(max_examples=100)
def test_topdown_within_raw_within_closure(case):
    tree, probabilities, threshold = case
    raw, closure, topdown = (decide(probabilities, tree, Decision(threshold, name)) for name in BY_THRESHOLD)
    assert (topdown <= raw).all() and (raw <= closure).all()
    if np.ndim(threshold) == 0:
        assert (raw == (probabilities.astype(float) > threshold)).all()


# ---- paths, and labels per level -------------------------------------------------------------------------------------


def test_path_and_per_level_by_hand():
    #                          组织  加盟  其他  财经  其他  利率
    probabilities = np.array([[0.60, 0.30, 0.20, 0.50, 0.70, 0.40]])

    def labels(**settings):
        return np.flatnonzero(decide(probabilities, TREE, Decision(**settings))[0]).tolist()

    # Odds 3/2 x 3/7 = 9/14 for 加盟, 3/2 x 1/4 = 3/8 for 组织##其他, 1 x 7/3 x 2/3 = 14/9 for 利率.
    assert labels(decoding="path") == [3, 4, 5]
    assert labels(per_level=1) == [0, 1]  # the best root, and its best child
    assert labels(per_level=2) == [0, 1, 3, 4, 5]  # both roots, the best two of their children
    assert labels(per_level=1, decoding="closure") == [3, 4, 5]  # 财经 stands for the .7 below it
    # 利率 is not above .5, 财经 itself neither, but 财经##其他 between them is.
    assert labels(decoding="path", stop="confident") == [3, 4]
    assert labels(decoding="path", stop="confident", threshold=0.7) == []
    assert labels(decoding="path", stop="confident", threshold=0.7, min_labels=1) == [3]
    assert labels(decoding="path", stop="confident", threshold=[0.4, 0.9, 0.5]) == [3]  # one per level
    assert labels(decoding="path", stop="confident", threshold=[0.4, 0.9, 0.3]) == [3, 4, 5]
    assert labels(per_level=1, stop="confident") == [0]
    # Limits keep the path first: of the rest 组织 and then 加盟 are the best.
    assert labels(decoding="path", max_labels=2) == [3, 4]
    assert labels(decoding="path", top_k=5) == [0, 1, 3, 4, 5]


def test_certain_labels_have_a_path_too():
    """Odds of 0 and 1 are 0 and infinite; float32 gives such probabilities."""
    probabilities = np.array([[1, 0, 1, 1, 1, 0], [0, 0, 0, 0, 0, 0], [1, 1, 1, 1, 1, 1]], np.float32)
    # Of the second row's paths the shorter ones have fewer odds of 0, in the third the longest has the most of 1.
    assert decide(probabilities, TREE, Decision(decoding="path")).tolist() == (
        multi_hot([0, 2], [0, 1], [3, 4, 5]).tolist()
    )


@given(cases())
@settings(max_examples=200)
def test_path_is_the_best_of_all(case):
    tree, probabilities, _ = case
    inner = {parent for i in range(len(tree)) for parent in parents_of(tree, i)}
    paths = [[*ancestors_of(tree, i), i] for i in range(len(tree)) if i not in inner]
    sets = decide(probabilities, tree, Decision(decoding="path"))
    for row, selected in zip(probabilities.astype(float).tolist(), sets):
        odds = [Fraction(min(max(p, 2**-24), 1 - 2**-24)) for p in row]
        odds = [p / (1 - p) for p in odds]
        products = {}
        for path in paths:
            products[tuple(sorted(path))] = product = Fraction(1)
            for label in path:
                products[tuple(sorted(path))] = product = product * odds[label]
        found = products[tuple(np.flatnonzero(selected).tolist())]  # KeyError: it is no path
        assert found >= max(products.values()) * (1 - Fraction(1, 10**10))  # of equals, rounding decides


@given(cases(), st.sampled_from(BY_THRESHOLD), st.integers(1, 3))
@settings(max_examples=200)
def test_per_level_equals_a_plain_loop(case, decoding, k):
    tree, probabilities, threshold = case
    margins = probabilities.astype(float) - threshold
    for level in range(tree.depth, 1, -1) if decoding == "closure" else ():
        for label in np.flatnonzero(tree.levels == level):
            for parent in parents_of(tree, label):
                margins[:, parent] = np.maximum(margins[:, parent], margins[:, label])
    for level in range(2, tree.depth + 1) if decoding == "topdown" else ():
        for label in np.flatnonzero(tree.levels == level):
            for parent in parents_of(tree, label):
                margins[:, label] = np.minimum(margins[:, parent], margins[:, label])
    whole = decide(probabilities, tree, Decision(threshold, decoding, per_level=k))
    for row, selected in zip(margins.tolist(), whole):
        chosen: list[int] = []
        for level in range(1, tree.depth + 1):
            labels = np.flatnonzero(tree.levels == level).tolist()
            candidates = [label for label in labels if set(parents_of(tree, label)) <= set(chosen)]
            chosen += sorted(candidates, key=lambda label: (-row[label], label))[:k]
        assert sorted(chosen) == np.flatnonzero(selected).tolist()


@given(cases(), structures())
@settings(max_examples=200)
def test_confident_stops_at_the_deepest_label_above_its_threshold(case, rule):
    tree, probabilities, threshold = case
    whole, part = (
        decide(probabilities, tree, Decision(threshold, **rule | {"stop": stop})) for stop in ("leaf", "confident")
    )
    # What passes by the decoding alone: closure lets a label pass by one below it, topdown only with all above it.
    alone = rule["decoding"] if rule["decoding"] in BY_THRESHOLD else "raw"
    passes = decide(probabilities, tree, Decision(threshold, alone))
    for chosen, kept, above in zip(whole, part, passes):
        assert tree.closure(np.flatnonzero(chosen & above)) == np.flatnonzero(kept).tolist()
    if np.ndim(threshold) == 0:  # what tuning cuts
        values = cut_values(probabilities, tree, rule["decoding"], rule["per_level"])
        assert ((values > threshold) == part).all()


def test_several_parents_by_hand():
    """加盟 is below 财经##其他, too, and so on level 3."""
    tree = LabelTree(PATHS, further=[(1, 4)])
    #                          组织  加盟  其他  财经  其他  利率
    probabilities = np.array([[0.60, 0.70, 0.20, 0.50, 0.60, 0.40]])

    def labels(**settings):
        return np.flatnonzero(decide(probabilities, tree, Decision(**settings))[0]).tolist()

    assert tree.levels.tolist() == [1, 3, 2, 1, 2, 3]
    assert labels() == [0, 1, 4]
    assert labels(decoding="closure") == [0, 1, 3, 4]
    assert labels(decoding="topdown") == [0]  # 财经 is not above .5, and without it neither 财经##其他 nor 加盟 stands
    assert labels(decoding="topdown", threshold=0.4) == [0, 1, 3, 4]
    # Odds 3/2 x 1 x 3/2 x 7/3 = 21/4 for 加盟 with all above it; 3/2 x 1/4 for 组织##其他, 1 x 3/2 x 2/3 for 利率.
    assert labels(decoding="path") == [0, 1, 3, 4]
    # 组织 alone is chosen on level 1, so that 加盟 lacks a parent; with two of each level it has both.
    assert labels(per_level=1) == [0, 2] and labels(per_level=2) == [0, 1, 2, 3, 4, 5]
    assert labels(decoding="path", per_level=1) == [0, 1, 3, 4]  # the path is whole, with two labels of level 1
    assert labels(top_k=2, decoding="topdown") == [0, 3]


def cost(n_labels, decision):
    """(calls of functions, peak bytes) of deciding 20 rows, for trees that differ in width alone."""
    tree = random_tree(np.random.default_rng(0), n_labels, depth=4)
    probabilities, calls = np.random.default_rng(1).random((20, n_labels)), 0

    def count(frame, event, argument):
        nonlocal calls
        calls += event in ("call", "c_call")

    decide(probabilities, tree, decision)
    tracemalloc.start()
    sys.setprofile(count)
    try:
        decide(probabilities, tree, decision)
    finally:
        sys.setprofile(None)
        peak = tracemalloc.get_traced_memory()[1]
        tracemalloc.stop()
    return calls, peak


@pytest.mark.parametrize("rule", [{"decoding": "path"}, {"per_level": 1}, {"per_level": 2, "stop": "confident"}])
def test_cost_is_linear_in_labels(rule):
    decision = Decision(**rule)
    (calls, peak), (same_calls, larger) = cost(1000, decision), cost(10_000, decision)
    assert calls == same_calls < 600 and larger < 11 * peak and larger < 20 * 20 * 10_000 * 8


# ---- settings --------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "decision",
    [
        Decision(),
        Decision(0.5, "path", stop="confident"),
        Decision([0.5, 0.75, 0.5], per_level=2),
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
        ({"per_level": 1}, Decision(per_level=1)),
        ({"decoding": "path"}, Decision(decoding="path")),
        ({"decoding": "path", "max_labels": 2}, Decision(decoding="path", max_labels=2)),
        ({"decoding": "closure"}, Decision(decoding="closure", top_k=2)),
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
    with pytest.raises(ValueError, match="2 thresholds for 6 labels on 3 levels"):
        decide(np.zeros((1, 6)), TREE, Decision([0.5, 0.5]))


@pytest.mark.parametrize(
    ("threshold", "expected"),
    [
        (0.5, 0.5),
        ([0.1, 0.2, 0.3], [0.1, 0.2, 0.2, 0.1, 0.2, 0.3]),
        ([0.1, 0.2, 0.3, 0.4, 0.5, 0.6], [0.1, 0.2, 0.3, 0.4, 0.5, 0.6]),
    ],
)
def test_thresholds_of_levels_and_labels(threshold, expected):
    assert thresholds_of(Decision(threshold), TREE).tolist() == expected
