"""benchmarks/review_walk.py: the planted errors, and the minutes worked out by hand; the walk itself takes a while."""

import pytest

from benchmarks import review_walk as walk
from benchmarks.planting import plant
from tests.conftest import SAMPLE
from utils import LabelTree, load_rows


def test_planted_errors_change_one_leaf_and_are_known(tmp_path):
    truth = plant(SAMPLE, tmp_path / "data", 30, 3)
    tree = LabelTree.read(tmp_path / "data" / "label.txt")
    right, wrong = (load_rows(folder / "train.txt", tree) for folder in (SAMPLE, tmp_path / "data"))
    assert right.texts == wrong.texts and all(tree.closure(labels) == list(labels) for labels in wrong.labels)
    changed = [i for i, (now, then) in enumerate(zip(wrong.labels, right.labels)) if now != then]
    assert len(changed) == 30
    for i, text in enumerate(right.texts):
        assert truth[text] == {tree.labels[k] for k in right.labels[i]}
    for i in changed:
        assert len(walk.deepest([tree.labels[k] for k in {*wrong.labels[i]} - {*right.labels[i]}])) == 1


def test_what_is_typed_to_find_a_label():
    names = ["A", "A##人事", "B", "B##人事", "B##人事##高管"]
    assert walk.typed("A##人事", names) == "A 人事" and walk.typed("B##人事##高管", names) == "高管"


def test_minutes_of_a_person():
    found = {"rows": 10, "characters": 510, "keys": 20, "waits": [0.1] * 10}
    # 510 characters at 255 a minute: 120 s; 10 decisions: 13.5 s; 20 keys: 5.6 s; waiting: 1 s. Ten times that for 100.
    assert walk.minutes(found) == pytest.approx(140.1 / 60 * 10)
    assert walk.deepest(["A", "A##B", "C"]) == ["A##B", "C"]
