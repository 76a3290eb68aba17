"""Calibration: each kind by hand, thresholds that go along, and what is refused."""

import json
import math
from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from hierarchical.calibration import LIMIT, Calibration, logits_of, mark_of, sigmoid
from hierarchical.decisions import certainty, probabilities_of, recalibrated
from metric import Decision, decide
from tests.hierarchical.trees import TREE, cases

LINES = Calibration("per_level", [[0.5, -1.0], [2.0, 0.5], [1.0, 0.0]], [])
CURVE = [[-LIMIT, -1.0, 0.0, 3.0, LIMIT], [0.0, 0.1, 0.3, 0.9, 1.0]]
CURVES = Calibration("isotonic", [], [CURVE, [[-LIMIT, LIMIT], [0.2, 0.7]], CURVE])


def test_probabilities_by_hand():
    logits = np.array([[2.0, 1.0, -30.0, 0.0, 4.0, 1.5]], np.float32)  # levels 1 2 2 1 2 3
    plain = probabilities_of(logits, TREE, Decision())
    assert plain.dtype == np.float32 and (plain == sigmoid(logits)).all()
    found = probabilities_of(logits, TREE, Decision(calibration=LINES))
    by_hand = [1 / (1 + math.exp(-z)) for z in (0.0, 2.5, -59.5, -1.0, 8.5, 1.5)]
    assert found.dtype == np.float32 and found[0].tolist() == pytest.approx(by_hand, rel=1e-6)
    found = probabilities_of(logits, TREE, Decision(calibration=CURVES))
    by_hand = [0.7, 0.2 + 0.5 * 21 / 40, 0.2, 0.3, 0.2 + 0.5 * 24 / 40, 0.6]
    assert found.dtype == np.float32 and found[0].tolist() == pytest.approx(by_hand, rel=1e-6)


def test_logits_of_probabilities():
    found = logits_of(np.array([0, 0.25, 0.5, 0.9, 1], np.float32))
    surest = math.log(1e-7 / (1 - 1e-7))
    assert found.tolist() == pytest.approx([surest, -math.log(3), 0, math.log(9), -surest], rel=1e-6)
    logits = np.linspace(-14, 14, 50, dtype=np.float32)
    np.testing.assert_allclose(logits_of(sigmoid(logits)), logits, atol=0.08)  # float32 next to 1


@given(cases(), st.sampled_from([LINES, CURVES]), st.sampled_from(["raw", "closure", "topdown"]), st.data())
@settings(max_examples=200)
def test_thresholds_go_along_so_that_the_labels_stay(case, calibration, decoding, data):
    """There and back, from sigmoids to calibrated probabilities and to those of another calibration."""
    tree, probabilities, threshold = case
    levels = [calibration.lines or calibration.curves, None]
    fitting = replace(
        calibration,
        **{
            name: [data.draw(st.sampled_from(levels[0])) for _ in range(tree.depth)]
            for name in ("lines", "curves")
            if getattr(calibration, name)
        },
    )
    with np.errstate(divide="ignore"):
        values = np.clip(probabilities.astype(np.float64), 1e-6, 1 - 1e-6)
        logits = np.log(values / (1 - values))
    plain = Decision(np.clip(np.add(threshold, 0.0123), 0, 0.987), decoding)  # equal to none of the probabilities
    moved = recalibrated(plain, fitting, tree)
    expected = decide(sigmoid(logits), tree, plain)
    assert (decide(probabilities_of(logits, tree, moved), tree, moved) == expected).all()
    back = recalibrated(moved, None, tree)
    assert back.calibration is None and (decide(sigmoid(logits), tree, back) == expected).all()
    other = recalibrated(moved, Calibration("temperature", [[0.5, 0.0]] * tree.depth, []), tree)
    assert (decide(probabilities_of(logits, tree, other), tree, other) == expected).all()


def test_a_calibration_is_stored_with_the_decision():
    for calibration in (LINES, CURVES):
        decision = Decision(0.4, "closure", calibration=calibration)
        assert Decision.from_dict(json.loads(json.dumps(decision.to_dict()))) == decision
        assert decision.updated(threshold=0.3, top_k=2).calibration == calibration
    assert "calibration" not in Decision().to_dict()


@pytest.mark.parametrize(
    "wrong",
    [
        {},
        {"method": "temperature"},
        {"method": "magic", "lines": [[1, 0]], "curves": []},
        {"method": "temperature", "lines": [[0, 0]], "curves": []},  # no order is kept
        {"method": "temperature", "lines": [[1, math.nan]], "curves": []},
        {"method": "temperature", "lines": [["1", {}]], "curves": []},
        {"method": "temperature", "lines": [], "curves": [CURVE]},
        {"method": "isotonic", "lines": [], "curves": [[[0, 1], [0.5, 0.5]]]},
        {"method": "isotonic", "lines": [], "curves": [[[0, 1], [0.5, 1.5]]]},
        {"method": "isotonic", "lines": [], "curves": [[[0, 1], [0.5]]]},
        {"method": "isotonic", "lines": [], "curves": [CURVE], "more": 1},
        "isotonic",
        3,
    ],
)
def test_what_is_no_calibration(wrong):
    with pytest.raises(ValueError, match="calibration"):
        Decision.from_dict({"calibration": wrong})


def test_it_is_for_as_many_levels_as_the_tree_has():
    LINES.require_levels(TREE)
    with pytest.raises(ValueError, match="for 1 levels, and the labels have 3"):
        Calibration("temperature", [[1.0, 0.0]], []).require_levels(TREE)


def test_the_mark_of_a_model():
    assert mark_of(None, "b") == "" and len({mark_of("a"), mark_of("b"), mark_of("a", "b")}) == 3


def test_certainty_by_hand():
    probabilities = np.array([[0.9, 0.7, 0.1, 0.2], [0.9, 0.7, 0.45, 0.2], [0.4, 0.3, 0.2, 0.1]], np.float32)
    selected = probabilities > 0.5  # the least sure of the first row is .7, of the second 1 - .45; the third has none
    assert certainty(probabilities, selected).tolist() == pytest.approx([0.7, 0.55, 0.0])
