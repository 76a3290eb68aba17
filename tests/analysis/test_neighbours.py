"""analysis/neighbours.py: the nearest rows, against all pairs."""

import numpy as np
import pytest

from analysis import neighbours
from analysis.neighbours import nearest


@pytest.mark.parametrize("cells", [1, 100, 10**9])
def test_nearest_is_the_best_of_all_pairs(monkeypatch, cells):
    monkeypatch.setattr(neighbours, "CELLS", cells)
    rng = np.random.default_rng(0)
    features, others = (rng.standard_normal((n, 8)).astype(np.float32) for n in (17, 23))
    rows, similarities = nearest(features, others, 4)
    cosine = np.array([[f @ o / np.linalg.norm(f) / np.linalg.norm(o) for o in others] for f in features])
    assert np.array_equal(rows, np.argsort(-cosine, axis=1)[:, :4])
    np.testing.assert_allclose(similarities, -np.sort(-cosine, axis=1)[:, :4], atol=1e-6)


def test_nearest_with_ties_zeros_and_few_rows():
    one = np.array([[1, 0]], np.float32)
    rows, similarities = nearest(one, np.array([[0, 1], [2, 0], [3, 0], [-1, 0]], np.float32), 3)
    assert rows.tolist() == [[1, 2, 0]] and similarities.tolist() == [[1, 1, 0]]
    rows, similarities = nearest(0 * one, one, 3)  # only one train row; a feature of zeros is like nothing
    assert rows.tolist() == [[0]] and similarities.tolist() == [[0]]
