"""stratify.py: worked cases, and on random rows: nothing lost, shares kept, no label missing from part 0."""

from fractions import Fraction
from heapq import heappop

import numpy as np
import pytest

from hierarchical import stratify
from hierarchical.stratify import stratified_split

HALVES = [Fraction(1, 2)] * 2
FOUR_FIFTHS = [Fraction(4, 5), Fraction(1, 5)]


def counts(part, rows, n_labels, n_parts):
    """Rows of each label in each part, int64 [n_labels, n_parts]."""
    table = np.zeros((n_labels, n_parts), np.int64)
    for labels, to in zip(rows, part):
        table[list(labels), to] += 1
    return table


def random_rows(seed, n, n_labels, most):
    random = np.random.default_rng(seed)
    weights = 1 / np.arange(1, n_labels + 1)  # frequent labels and rare ones, as in real data
    chosen = [
        random.choice(n_labels, size=random.integers(0, most + 1), replace=False, p=weights / weights.sum())
        for _ in range(n)
    ]
    return [tuple(sorted(labels.tolist())) for labels in chosen]


def test_one_label_per_row_is_dealt_out_exactly():
    rows = [(0,)] * 50 + [(1,)] * 10 + [(2,)] * 5  # sorted by label, as exports are
    part = stratified_split(rows, 3, FOUR_FIFTHS, seed=3)
    assert counts(part, rows, 3, 2).tolist() == [[40, 10], [8, 2], [4, 1]]


def test_pairs_of_labels_are_spread_where_cutting_at_random_would_not():
    rows = [(0, 1)] * 4 + [(0, 2)] * 4 + [(0,)] * 4
    for seed in range(20):
        part = stratified_split(rows, 3, HALVES, seed)
        assert counts(part, rows, 3, 2).tolist() == [[6, 6], [2, 2], [2, 2]]


def test_the_only_row_of_a_label_goes_to_part_0_even_if_that_is_the_small_one():
    rows = [(0,)] * 9 + [(0, 1)]
    part = stratified_split(rows, 2, FOUR_FIFTHS[::-1], seed=3)
    assert part[9] == 0 and (part == 1).sum() == 8


def test_part_0_gets_a_row_of_a_label_all_of_whose_rows_another_label_has_dealt_to_part_1():
    rows = [(0, 2), (0, 1), (0, 1)]  # 2 first, to part 0; then 0, which has its share in part 0, is as rare as 1
    part = stratified_split(rows, 3, FOUR_FIFTHS[::-1], seed=3)
    assert part[0] == 0 and sorted(part[1:].tolist()) == [0, 1]


def test_each_label_is_looked_for_in_a_heap(monkeypatch):
    """A search through all labels for each of them would read them 4,000 x 4,000 times; here an entry is read once."""
    rows, popped = [(i % 4000, 4000 + i % 40) for i in range(8000)], []
    monkeypatch.setattr(stratify, "heappop", lambda heap: popped.append(heappop(heap)) or popped[-1])
    stratified_split(rows, 4040, FOUR_FIFTHS, seed=3)
    assert len(popped) == 16_000  # rows x labels of a row


@pytest.mark.parametrize("seed", range(3))
def test_the_order_is_that_of_a_search_through_all_labels(seed, monkeypatch):
    """The next label: the fewest rows left, of equals the first."""
    rows, order = random_rows(seed, 200, 30, 4), []
    monkeypatch.setattr(stratify, "heappop", lambda heap: order.append(heappop(heap)) or order[-1])
    part = stratified_split(rows, 30, FOUR_FIFTHS, seed)
    monkeypatch.setattr(stratify, "heappop", searched)
    assert np.array_equal(stratified_split(rows, 30, FOUR_FIFTHS, seed), part)


def searched(heap):
    """The least of all that is there, found by a search."""
    heap.remove(least := min(heap))
    return least


def test_rows_without_labels_fill_what_is_left():
    part = stratified_split([()] * 10, 3, FOUR_FIFTHS, seed=3)
    assert np.bincount(part).tolist() == [8, 2]


@pytest.mark.parametrize("shares", [[1], [0.8, 0.2], [0.8, 0.1, 0.1], [0.2, 0.8]])
@pytest.mark.parametrize("seed", range(5))
def test_random_rows(shares, seed):
    shares = [Fraction(str(share)) for share in shares]
    rows = random_rows(seed, n=400, n_labels=40, most=4)
    part = stratified_split(rows, 40, shares, seed)
    assert part.shape == (400,) and set(part.tolist()) == set(range(len(shares)))
    table = counts(part, rows, 40, len(shares))
    support = table.sum(axis=1)
    assert (table[support > 0, 0] > 0).all()
    wanted = np.array([float(share) for share in shares])
    assert np.abs(np.bincount(part) / 400 - wanted).max() < 0.06
    by_chance = np.random.default_rng(seed).choice(len(shares), size=400, p=wanted)
    error = np.abs(table - support[:, None] * wanted).sum()
    assert (
        error < 0.6 * np.abs(counts(by_chance, rows, 40, len(shares)) - support[:, None] * wanted).sum() or error == 0
    )


def test_same_seed_same_split_other_seed_other_split():
    rows = random_rows(0, n=200, n_labels=10, most=3)
    first, again, other = (stratified_split(rows, 10, FOUR_FIFTHS, seed) for seed in (3, 3, 4))
    assert (first == again).all() and (first != other).any()
