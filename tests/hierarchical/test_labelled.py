"""labelled.py: answers worked out by hand, of a window as of each text, and windows that are begun ahead."""

import json

import numpy as np
import pytest

from hierarchical.batches import Begun
from hierarchical.decisions import Decision
from hierarchical.labelled import Labelled, Prediction, describe, label_texts, label_windows
from hierarchical.labels import LabelTree


def test_an_answer_by_hand():
    tree = LabelTree(["A", "A##B", "A##B##C", "D", "D##E"])
    probabilities = np.array([0.4, 0.02, 0.9, 0.75, 0.01], np.float32)
    (answer,) = describe(tree, Labelled.one("x", [2, 3], probabilities), floor=0.02)
    assert answer == Prediction(
        "x",
        ["A##B##C", "D"],
        {"A##B##C": 0.9, "D": 0.75, "A": 0.4},  # 0.02 is not above the floor
        {1: ["A", "D"], 2: ["A##B"], 3: ["A##B##C"]},
    )
    assert json.loads(answer.to_json()) == {
        "text": "x",
        "labels": ["A##B##C", "D"],
        "probabilities": {"A##B##C": 0.9, "D": 0.75, "A": 0.4},
        "levels": {"1": ["A", "D"], "2": ["A##B"], "3": ["A##B##C"]},
    }
    (low,) = describe(tree, Labelled.one("x", [4], probabilities), floor=1)
    assert low.probabilities == {"D##E": 0.01}, "a predicted label's is told, however low"
    with pytest.raises(AttributeError):
        answer.text = "y"


def test_blank_texts_are_kept_from_the_model():
    tree, asked = LabelTree(["A", "A##B", "D"]), []

    def compute(texts):
        asked.append(texts)
        return np.array([[0.9, 0.2, 0.1], [0.1, 0.8, 0.6]], np.float32)

    found = label_texts(["", "x", " \t\u3000", "y"], compute, tree, Decision(min_labels=1))
    assert asked == [["x", "y"]]
    assert found.texts == ["", "x", " \t\u3000", "y"] and list(found.labels()) == [[], [0], [], [1, 2]]
    expected = [[0, 0, 0], [0.9, 0.2, 0.1], [0, 0, 0], [0.1, 0.8, 0.6]]
    assert np.array_equal(found.probabilities, np.array(expected, np.float32))
    assert found.row(3)[:2] == ("y", [1, 2])
    del asked[:]
    assert list(label_texts(["", " "], compute, tree, Decision()).labels()) == [[], []] and asked == []


def test_the_answers_of_a_window_are_those_of_its_texts_one_by_one():
    random = np.random.default_rng(7)
    tree = LabelTree(["A", "A##B", "D", "A##B##C", "D##E", "A##G"])  # not in the order of the levels
    probabilities = random.random((300, 6), np.float32)
    probabilities[:100] = random.choice(np.float32([0, 0.01, 0.25, 1, 2**-7, 3 * 2**-7, 5e-7, 1e-30]), (100, 6))  # ties
    selected, texts = random.random((300, 6)) < 0.3, [f"文本 {i}" for i in range(300)]
    found = Labelled(texts, selected, probabilities)
    for answer, (text, labels, row) in zip(
        describe(tree, found, 0.01, 0.5, 4), map(found.row, range(300)), strict=True
    ):
        told = [i for i in range(6) if row[i] > np.float32(0.01) or i in labels]
        told.sort(key=lambda i: -row[i])
        assert answer.text == text and answer.labels == [tree.labels[i] for i in labels]
        assert list(answer.probabilities.items()) == [(tree.labels[i], round(float(row[i]), 6)) for i in told]
        closed = tree.closure(labels)
        levels = {level: [tree.labels[i] for i in closed if tree.levels[i] == level] for level in (1, 2, 3)}
        assert list(answer.levels.items()) == [(level, there) for level, there in levels.items() if there]
        sure = min([float(p) if i in labels else 1 - float(p) for i, p in enumerate(row)]) if labels else 0
        assert (answer.certainty, answer.sure) == (round(sure, 6), sure >= 0.5)
        assert answer.unseen == [tree.labels[i] for i in labels if i >= 4]
    first, second = describe(tree, Labelled(["x", "y"], selected[[1, 1]], probabilities[[1, 1]]))
    assert first.levels == second.levels and first.levels is not second.levels  # nobody's change is another's


def test_probabilities_are_rounded_as_python_rounds_them():
    tree = LabelTree([str(i) for i in range(4096)])
    ties = np.arange(1, 4097, dtype=np.float32) / 4096  # an odd number of 128ths has a 5 at the seventh place, its last
    for values in (ties, np.nextafter(ties, np.float32(0)), np.random.default_rng(3).random(4096, np.float32)):
        (answer,) = describe(tree, Labelled.one("x", [], values), floor=0)
        assert answer.probabilities == {str(i): round(float(value), 6) for i, value in enumerate(values) if value > 0}


# ---- ahead -----------------------------------------------------------------------------------------------------------

PLAIN = LabelTree(["A", "B"])


class Journal:
    """Stands in for a model, and notes what is done with it."""

    def __init__(self):
        self.lines = []

    def read(self, *windows):
        for window in windows:
            self.lines.append(f"read {window[0]}")
            yield window

    def begin(self, texts):
        def result():
            self.lines.append(f"wait {texts}")
            if "bad" in texts:
                raise ValueError("bad")
            return np.array([[0.75, 0.25]] * len(texts), np.float32)

        self.lines.append(f"begin {texts}")
        return Begun(result, lambda: self.lines.append(f"cancel {texts}"))

    def label(self, *windows, ahead):
        for found in label_windows(self.read(*windows), self.begin, PLAIN, Decision(), ahead=ahead):
            assert list(found.labels()) == [[0] if text else [] for text in found.texts]
            self.lines.append(f"write {found.texts}")


def test_one_window_is_begun_before_the_last_one_is_written():
    journal = Journal()
    journal.label(["a", ""], ["b"], ["c"], ahead=1)
    assert journal.lines == [
        *("read a", "begin ['a']", "read b", "begin ['b']", "wait ['a']", "write ['a', '']"),
        *("read c", "begin ['c']", "wait ['b']", "write ['b']", "wait ['c']", "write ['c']"),
    ]


def test_without_going_ahead_a_window_is_written_before_the_next_is_read():
    journal = Journal()
    journal.label(["a"], [""], ["c"], ahead=0)
    assert journal.lines == [
        *("read a", "begin ['a']", "wait ['a']", "write ['a']", "read ", "begin []", "write ['']"),
        *("read c", "begin ['c']", "wait ['c']", "write ['c']"),
    ]


def test_what_was_begun_is_given_up_after_a_failure_and_when_nobody_wants_it():
    journal = Journal()
    with pytest.raises(ValueError, match="bad"):
        journal.label(["a"], ["bad"], ["c"], ["d"], ahead=1)
    assert journal.lines[-4:] == ["read c", "begin ['c']", "wait ['bad']", "cancel ['c']"]
    assert "write ['a']" in journal.lines
    journal = Journal()
    next(found := label_windows(journal.read(["a"], ["b"]), journal.begin, PLAIN, Decision()))
    found.close()
    assert journal.lines[-1] == "cancel ['b']"
