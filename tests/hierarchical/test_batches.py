"""batches.py: worked examples; that every row is there once is tested in test_training.py."""

import numpy as np

from hierarchical.batches import CELLS, WINDOW, length_sorted_batches, pad, row_windows


def test_length_sorted_batches():
    assert [batch.tolist() for batch in length_sorted_batches([3, 9, 5, 9], 3)] == [[1, 3, 2], [0]]
    assert length_sorted_batches([], 8) == []


def test_pad():
    padded = pad([[1, 7, 2], [1, 2]], pad_id=9)
    assert padded.tolist() == [[1, 7, 2], [1, 2, 9]] and padded.dtype == np.int64


def test_row_windows_cover_all_rows():
    assert row_windows(10, CELLS // 4) == [range(0, 4), range(4, 8), range(8, 10)]
    assert row_windows(2, CELLS * 2) == [range(0, 1), range(1, 2)]  # a row at least
    assert row_windows(WINDOW + 1) == [range(0, WINDOW), range(WINDOW, WINDOW + 1)]
    assert row_windows(0) == []
