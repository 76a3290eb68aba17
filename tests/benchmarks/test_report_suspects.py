"""benchmarks/report_suspects.py: the suspects of planted errors, in the report's order and in the one before."""

import numpy as np

from benchmarks.report_suspects import suspects_of
from metric import Decision
from utils import LabelTree, Rows

TREE = LabelTree(["体育", "体育##足球", "体育##篮球"])


def test_the_two_orders():
    rows = Rows(["甲", "乙", "丙"], [(0, 1), (0, 1), (0, 1)], 0, 0)
    # right; 篮球 for 足球, fairly sure; 足球 alone, and surer
    probabilities = np.array([[0.9, 0.9, 0.1], [0.9, 0.06, 0.94], [0.9, 0.03, 0.01]], np.float32)
    found, by_surest = suspects_of(rows, probabilities, TREE, Decision())
    assert (found, by_surest) == ([1, 2], [2, 1])
