"""cells.py: the same thresholds as of a full table, bounded memory, and what is said of the rows left out of a floor."""

from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from hierarchical.cells import Cells, best_cut, places_of
from hierarchical.decisions import DECODINGS, RULES, Decision, decide
from hierarchical.labels import LabelTree
from hierarchical.thresholds import WAYS, cross_fitted, dev_cells, tuned_decision
from tests.hierarchical.trees import random_tree
from tests.memory import peak_bytes


def table_threshold(probabilities, gold, tree, decoding, criterion):
    """The best threshold by a sort of the whole table [N, L]."""
    values = probabilities.astype(np.float64)
    RULES[decoding].make_consistent(values, tree)
    order = np.argsort(-values, axis=None)
    if criterion == "micro_f1":
        scores = curve(gold.ravel()[order])
    else:
        per_label = np.argsort(-values, axis=0)
        gains = np.empty_like(values)
        found = np.diff(curve(np.take_along_axis(gold, per_label, 0)), axis=0, prepend=0) / len(tree)
        np.put_along_axis(gains, per_label, found, axis=0)
        scores = np.cumsum(gains.ravel()[order])
    return best_cut(values.ravel()[order], scores, 0.5)


def table_thresholds(probabilities, gold, default, min_support=20):
    thresholds = np.full(gold.shape[1], default)
    for label, support in enumerate(gold.sum(0)):
        if support >= min_support:
            order = np.argsort(-probabilities[:, label])
            values, scores = probabilities[order, label].astype(np.float64), curve(gold[order, label])
            moved = default + support / (support + min_support) * (best_cut(values, scores, default) - default)
            before, after = (np.append(0.0, scores)[(values > cut).sum()] for cut in (default, moved))
            thresholds[label] = moved if after > before else default
    return thresholds


def table_level_thresholds(probabilities, gold, default, tree, criterion, min_support=20):
    """Level by level, each of its probabilities tried as what is just predicted."""
    axis, thresholds = None if criterion == "micro_f1" else 0, np.full(tree.depth, default)
    for level in range(1, tree.depth + 1):
        here = np.flatnonzero(tree.levels == level)
        values, right = probabilities[:, here].astype(np.float64), gold[:, here]
        falling = -np.sort(-values, axis=None)
        scores = np.array([mean_f1(values >= value, right, axis) for value in falling])
        support = right.sum()
        moved = default + support / (support + min_support) * (best_cut(falling, scores, default) - default)
        better = mean_f1(values > moved, right, axis) > mean_f1(values > default, right, axis)
        thresholds[level - 1] = moved if better and support >= min_support else default
    return thresholds


def mean_f1(chosen, right, axis):
    both = chosen.sum(axis) + right.sum(axis)
    return np.mean(2 * (chosen & right).sum(axis) / np.maximum(both, 1))


def curve(gold):
    predicted = np.arange(1, len(gold) + 1).reshape(-1, *[1] * (gold.ndim - 1))
    return 2 * np.cumsum(gold, axis=0) / (predicted + gold.sum(0))


def made_rows(seed, n_rows=80):
    """(tree, probabilities float32 with ties and zeros, gold): what is gold is likelier, as a rule."""
    rng = np.random.default_rng(seed)
    tree = random_tree(rng, 12)
    gold = rng.random((n_rows, len(tree))) < rng.choice([0.02, 0.3, 0.5], len(tree))
    probabilities = np.clip(rng.normal(0.3, 0.25, gold.shape) + 0.3 * gold, 0, 0.99)
    return tree, np.round(probabilities, 2).astype(np.float32), gold


def filled(tree, decision, probabilities, gold, most=None, size=7):
    cells = dev_cells(tree, decision) if most is None else Cells(len(tree), tree, decision.decoding, most=most)
    for start in range(0, len(gold), size):
        cells.add(probabilities[start : start + size], gold[start : start + size])
    return cells.finish()


@pytest.mark.parametrize("criterion", ["micro_f1", "macro_f1"])
@pytest.mark.parametrize("decoding", ["raw", "closure", "topdown"])
@pytest.mark.parametrize("how", WAYS)
def test_equal_to_the_whole_table(decoding, criterion, how):
    tree, probabilities, gold = made_rows(1)
    decision = Decision(decoding=decoding, min_labels=1)

    def tuned(rows):
        threshold = table_threshold(probabilities[rows], gold[rows], tree, decoding, criterion)
        if how == "global":
            return replace(decision, threshold=threshold)
        if how == "per_level":
            levels = table_level_thresholds(probabilities[rows], gold[rows], threshold, tree, criterion)
            return replace(decision, threshold=levels.tolist())
        return replace(decision, threshold=table_thresholds(probabilities[rows], gold[rows], threshold).tolist())

    def label(rows, held_out):
        return decide(probabilities[held_out], tree, tuned(rows))

    cells = filled(tree, decision, probabilities, gold)
    found, honest = tuned_decision(cells, tree, decision, how, criterion)
    assert found == tuned(np.ones(len(gold), bool)) != decision
    assert honest == cross_fitted(label, gold, tree)


@given(st.integers(0, 10**6), st.integers(20, 400))
@settings(max_examples=30)
def test_above_the_floor_nothing_is_lost(seed, most):
    tree, probabilities, gold = made_rows(seed)
    cells = filled(tree, Decision(), probabilities, gold, most)
    assert len(cells.raw) <= most and cells.floor > 0
    rows, labels = np.nonzero(probabilities > cells.floor)
    assert cells.rows.tolist() == rows.tolist() and cells.labels.tolist() == labels.tolist()
    assert np.array_equal(cells.gold, gold[rows, labels]) and np.array_equal(cells.support(), gold.sum(0))
    best = table_threshold(probabilities, gold, tree, "raw", "micro_f1")
    if best > cells.floor:
        assert cells.best_threshold("micro_f1") == best
    else:
        assert cells.best_threshold("micro_f1") >= cells.floor


def test_rows_come_back_with_zeros_below_the_floor():
    tree, probabilities, gold = made_rows(2)
    cells, among = filled(tree, Decision(), probabilities, gold, 300), np.arange(80) % 3 == 1
    ((found, found_gold),) = cells.windows(among)
    kept = np.where(probabilities > cells.floor, probabilities, 0)
    assert np.array_equal(found, kept[among]) and np.array_equal(found_gold, gold[among])


def test_memory_does_not_grow_with_rows_times_labels(monkeypatch):
    monkeypatch.setattr("hierarchical.batches.CELLS", 20_000)
    tree, decision = LabelTree([str(i) for i in range(1000)]), Decision()
    rng, most = np.random.default_rng(0), 20_000

    def tune(n_rows):
        cells = Cells(len(tree), tree, "raw", most=most)
        for _ in range(0, n_rows, 20):
            gold = np.zeros((20, 1000), bool)
            gold[np.arange(20), rng.integers(0, 1000, 20)] = True
            cells.add((rng.random(gold.shape, np.float32) ** 8 + gold).clip(0, 1), gold)
        return tuned_decision(cells.finish(), tree, decision, "global")[0]

    few, many = peak_bytes(tune, 100), peak_bytes(tune, 1000)
    assert many[1] < 1.5 * few[1]  # most cells are held in either; the table of the second has 1,000,000
    assert 0.9 < many[0].threshold <= 1


def test_places_of():
    places, which = places_of(np.array([0, 0, 2, 5, 5, 5]), np.array([5, 1, 0]))
    assert places.tolist() == [3, 4, 5, 0, 1] and which.tolist() == [0, 0, 0, 2, 2]


def test_every_decoding_can_be_held():
    tree, probabilities, gold = made_rows(3)
    for decoding in DECODINGS:
        cells = filled(tree, Decision(decoding=decoding), probabilities, gold)
        assert cells.floor == 0 and len(cells.raw) > 0
