"""analysis/neighbours.py: the nearest rows, against all pairs."""

import numpy as np
import pytest

from analysis import neighbours
from analysis.neighbours import nearest
from retrieval_based.vectors import load_faiss


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


@pytest.mark.parametrize("n_rows", [200, 400])
def test_many_rows_are_looked_for_in_an_index(monkeypatch, n_rows):
    """Not all pairs are compared: the law of its cost is that of the index."""
    rng = np.random.default_rng(0)
    features = rng.standard_normal((n_rows, 8)).astype(np.float32)
    exact, pairs = nearest(features, features, 4), []
    monkeypatch.setattr(neighbours, "EXACT", 100)
    monkeypatch.setattr("retrieval_based.vectors.EXACT", 100)
    compared = neighbours._compared
    monkeypatch.setattr(neighbours, "_compared", lambda some, *_: pairs.append(len(some)) or compared(some, *_))
    rows, similarities = nearest(features, features, 4)
    assert (rows == exact[0]).mean() > 0.97 and np.array_equal(rows[:, 0], np.arange(n_rows))
    np.testing.assert_allclose(similarities[:, 1], exact[1][:, 1], atol=0.02)
    few, _ = nearest(features[:50], features, 4)  # as many comparisons as an index takes to make
    assert np.array_equal(few, exact[0][:50]) and pairs == [50]


def test_rows_that_the_index_does_not_find(monkeypatch):
    features = np.eye(5, dtype=np.float32)
    monkeypatch.setattr(neighbours, "EXACT", 3)

    def nothing(self, queries, k):
        return np.zeros((len(queries), k), np.float32), np.full((len(queries), k), -1)

    monkeypatch.setattr(neighbours.Vectors, "search", nothing)
    assert nearest(features, features, 1)[0].tolist() == [[0], [1], [2], [3], [4]]


def test_comparisons_of_a_row_hardly_grow_with_the_rows(monkeypatch):
    """Four times the rows: comparing all pairs, each would be compared with four times as many."""
    faiss = load_faiss()

    monkeypatch.setattr(neighbours, "EXACT", 100)
    monkeypatch.setattr("retrieval_based.vectors.EXACT", 100)
    features, of_a_row = np.random.default_rng(0).standard_normal((8_000, 8)).astype(np.float32), []
    for n_rows in (2_000, 8_000):
        faiss.cvar.hnsw_stats.reset()
        nearest(features[:n_rows], features[:n_rows], 4)
        of_a_row.append(faiss.cvar.hnsw_stats.ndis / n_rows)
    assert 0 < of_a_row[1] < 1.6 * of_a_row[0]
