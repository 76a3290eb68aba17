"""batches.py: worked examples; that every row is there once is tested in test_training.py."""

import numpy as np

from hierarchical.batches import length_sorted_batches, pad


def test_length_sorted_batches():
    assert [batch.tolist() for batch in length_sorted_batches([3, 9, 5, 9], 3)] == [[1, 3, 2], [0]]
    assert length_sorted_batches([], 8) == []


def test_pad():
    padded = pad([[1, 7, 2], [1, 2]], pad_id=9)
    assert padded.tolist() == [[1, 7, 2], [1, 2, 9]] and padded.dtype == np.int64
