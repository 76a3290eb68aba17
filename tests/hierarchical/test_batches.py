"""batches.py: worked examples; that every row is there once is tested in test_training.py."""

import threading

import numpy as np
import pytest

from hierarchical.batches import (
    CELLS,
    WINDOW,
    begin_batches,
    choosing_rows,
    length_sorted_batches,
    pad,
    row_windows,
    run_batches,
)
from hierarchical.decisions import Decision, decide
from hierarchical.errors import InputError
from hierarchical.labels import LabelTree
from hierarchical.metric import Scores
from tests.memory import peak_bytes


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


def test_with_many_labels_some_of_the_rows_choose():
    assert choosing_rows(50, 31, 31 * 25) == range(0, 50, 2) and choosing_rows(25, 31, 31 * 25) == range(25)
    assert len(choosing_rows(1000, 31, 31 * 25)) == 25 and len(choosing_rows(3, 1000, 31)) == 1


@pytest.mark.parametrize("n_labels", [500, 10_000, 50_000])
def test_what_a_window_takes_is_constant_in_the_labels(n_labels):
    tree = LabelTree([str(i) for i in range(n_labels)])
    window = row_windows(5000, n_labels)[0]
    assert CELLS / 2 < len(window) * n_labels <= CELLS
    scores, rng = Scores(tree), np.random.default_rng(0)
    probabilities = rng.random((len(window), n_labels), np.float32)

    def score():
        predicted = decide(probabilities, tree, Decision(threshold=0.999))
        scores.update(predicted, probabilities > 0.5)

    assert peak_bytes(score)[1] < 50e6


def test_batches_run_side_by_side_and_must_be_finite():
    both = threading.Barrier(2, timeout=60)  # lets nobody through alone

    def compute(input_ids):
        both.wait()
        return input_ids.sum(1, keepdims=True).astype(np.float32)

    done, ids = [], [[1, 2, 3], [4], [5, 6], [7, 8, 9, 10]]
    assert run_batches(compute, ids, 0, 1, 2, 2, done.append).tolist() == [[6], [4], [11], [34]] and done == [2, 2]
    assert run_batches(compute, [], 0, 3, 2, 2).shape == (0, 3)
    with pytest.raises(InputError, match="not finite"):
        run_batches(lambda input_ids: np.full((len(input_ids), 1), np.nan), ids, 0, 1, 2, 2)


def test_begun_batches_are_at_work_before_anybody_waits_and_can_be_given_up():
    ids, seen, go_on, started = [[i] for i in range(20)], [], threading.Event(), threading.Semaphore(0)

    def compute(input_ids):
        seen.append(input_ids[0, 0])
        started.release()
        assert go_on.wait(60)
        return input_ids.astype(np.float32)

    begun = begin_batches(compute, ids, 0, 1, 1, 2)
    assert started.acquire(timeout=60) and started.acquire(timeout=60)  # both callers
    threading.Timer(0.05, go_on.set).start()  # while cancel() waits for the two
    begun.cancel()
    assert len(seen) == 2
    assert begin_batches(compute, ids, 0, 1, 1, 2).result().ravel().tolist() == [*range(20)]
    del seen[:]
    begun = begin_batches(compute, ids, 0, 1, 5, 1)
    assert not seen  # a single caller is the one who waits
    assert begun.result().ravel().tolist() == [*range(20)] and len(seen) == 4
