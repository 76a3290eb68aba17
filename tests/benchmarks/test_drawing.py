"""benchmarks/drawing.py: which rows, and how often they are read."""

import numpy as np

from benchmarks import drawing


def test_rows_that_choose_are_always_the_same_and_never_drawn():
    choose, others = drawing.split(50, 20)
    assert sorted([*choose, *others]) == list(range(50)) and len(choose) == 20
    assert np.array_equal(drawing.split(50, 20)[0], choose)


def test_rows_that_are_drawn():
    targets = np.zeros((100, 3), bool)
    targets[:90, 0], targets[80:, 1], targets[99, 2] = True, True, True
    assert sorted(drawing.drawn(targets, "all", 1)) == list(range(100))
    some = drawing.drawn(targets, "30", 1)
    assert len(set(some)) == 30 and set(some) != set(drawing.drawn(targets, "30", 2))
    few = drawing.drawn(targets, "5x", 1)
    assert len(set(few)) == 1 + 5 + 5 and 99 in few and targets[few, 1].sum() >= 5


def test_fewer_rows_are_read_more_often():
    assert [drawing.plan(n) for n in (74, 370, 1480, 2000, 10_000)] == [
        (60, 8, 1e-4), (60, 8, 1e-4), (16, 32, 3e-4), (12, 32, 3e-4), (8, 32, 3e-4),
    ]  # fmt: skip
    assert drawing.plan(74, 0.01)[0] == 1
