"""dynamics.py: one number of a row and epoch, worked out by hand, found again by text and labels, and what is damaged."""

from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest

from hierarchical.dynamics import NAME, Dynamics, Seen, dynamics_for, read_dynamics
from hierarchical.rows import Rows
from utils import InputError

ROWS = Rows(["一", "二", "三"], [(0,), (1,), ()], 0, 0)


def log_odds(*probabilities):
    """What a network gives for these, as a tensor is asked for it."""
    p = np.array(probabilities, np.float64)
    found = SimpleNamespace(numpy=lambda: np.log(p / (1 - p)).astype(np.float32))
    found.detach = lambda: found
    found.astype = lambda _: found
    return found


def noted(*epochs):
    """Dynamics of ROWS; of each epoch the probabilities of both labels for each row."""
    dynamics, targets = Dynamics(ROWS, len(epochs)), np.array([[1, 0], [0, 1], [0, 0]], np.float32)
    for dynamics.epoch, rows in enumerate(epochs):
        for numbers in ([2, 0], [1]):  # in batches
            dynamics.note(numbers, targets[numbers], log_odds(*(rows[i] for i in numbers)))
    return dynamics


def test_by_hand(tmp_path):
    dynamics = noted([(0.9, 0.2), (0.4, 0.5), (0.5, 0.1)], [(0.7, 0.1), (0.9, 0.5), (0.1, 0.2)])
    assert dynamics.values == pytest.approx(np.array([[0.8, 0.5, 0.5], [0.7, 0.1, 0.8]]), abs=1e-3)
    dynamics.write(tmp_path)
    seen = read_dynamics(tmp_path, Rows(["三", "新", "二", "一", "二"], [(), (0,), (0,), (0,), (1,)], 0, 0))
    assert seen.epochs == 2, "a new row, and one with other labels, have not been seen"
    expected = [0.65, np.nan, np.nan, 0.75, 0.3]
    assert seen.confidence == pytest.approx(np.array(expected), abs=1e-3, nan_ok=True)
    assert seen.variability == pytest.approx(np.array([0.15, np.nan, np.nan, 0.05, 0.2]), abs=1e-3, nan_ok=True)


def test_epochs_that_did_not_see_a_row_do_not_count(tmp_path):
    dynamics = Dynamics(ROWS, 3)
    for dynamics.epoch, p in enumerate((0.6, 0.8)):
        dynamics.note([0], np.array([[1, 0]]), log_odds((p, 0.1)))
    dynamics.note([3, 1], np.array([[0.3, 0.4], [0, 1]]), log_odds((0.2, 0.2), (0.1, 0.7)))  # 3: a text of a teacher
    dynamics.write(tmp_path)
    seen = read_dynamics(tmp_path, ROWS)
    assert seen.epochs == 2 and seen.confidence[:2] == pytest.approx([0.7, 0.7], abs=1e-3)
    assert np.isnan(seen.confidence[2]) and seen.variability[:2] == pytest.approx([0.1, 0], abs=1e-3)


def test_kinds():
    confidence = np.array([0.9, 0.5, 0.2, 0.49, 0.8, 0.1, np.nan], np.float32)
    variability = np.array([0.1, 0.1, 0.1, 0.1, 0.4, 0.3, np.nan], np.float32)  # a third of six is two
    assert Seen(confidence, variability, 3).kinds() == ["easy", "easy", "hard", "hard", "ambiguous", "ambiguous", ""]
    nothing = np.array([np.nan], np.float32)
    assert Seen(nothing, nothing, 0).kinds() == [""]


def test_a_state_goes_on(tmp_path):
    first = noted([(0.9, 0.2), (0.4, 0.5), (0.5, 0.1)], [(0.7, 0.1), (0.9, 0.5), (0.1, 0.2)])
    for epochs in (2, 1, 4):
        again = Dynamics(ROWS, epochs)
        again.restore(first.values, Path("state.safetensors"))
        known = min(epochs, 2)
        assert np.array_equal(again.values[:known], first.values[:known]) and (again.values[known:] == -1).all()
    again.restore(None, Path("state.safetensors"))
    for values in (first.values[:, 1:], first.values[0]):
        with pytest.raises(InputError, match=r"state.safetensors: damaged \(dynamics: "):
            again.restore(values, Path("state.safetensors"))
    assert np.array_equal(again.values[:2], first.values) and (again.values[2:] == -1).all(), "as it was"


def test_an_earlier_run_leaves_nothing(tmp_path):
    noted([(0.9, 0.2), (0.4, 0.5), (0.5, 0.1)]).write(tmp_path)
    assert dynamics_for(False, tmp_path, ROWS, 3) is None and read_dynamics(tmp_path, ROWS) is None
    assert dynamics_for(True, tmp_path, ROWS, 3).values.shape == (3, 3)


def test_a_run_that_goes_on_keeps_what_it_kept(tmp_path):
    noted([(0.9, 0.2), (0.4, 0.5), (0.5, 0.1)]).write(tmp_path)
    before = (tmp_path / NAME).read_bytes()
    state = {"parameter/x": np.zeros(1), "dynamics": np.zeros((1, 3), np.float16)}
    assert dynamics_for(False, tmp_path, ROWS, 3, state).values.shape == (3, 3)
    assert (tmp_path / NAME).read_bytes() == before
    assert dynamics_for(False, tmp_path, ROWS, 3, {"parameter/x": np.zeros(1)}) is None


@pytest.mark.parametrize("content", [b"", b"PK\x03\x04", b"\x80\x04\x95"])
def test_a_damaged_file(tmp_path, content):
    (tmp_path / NAME).write_bytes(content)
    with pytest.raises(InputError, match="dynamics.npz: damaged"):
        read_dynamics(tmp_path, ROWS)


def test_other_arrays(tmp_path):
    np.savez(tmp_path / NAME, values=np.zeros((2, 3)), keys=np.zeros(2, np.uint64))
    with pytest.raises(InputError, match="other arrays"):
        read_dynamics(tmp_path, ROWS)
