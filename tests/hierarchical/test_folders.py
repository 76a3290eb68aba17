"""folders.py: what is said about texts becomes rows, classes keep their numbers, and files are written together."""

import logging
from fractions import Fraction

import numpy as np
import pytest

from hierarchical import folders
from hierarchical.annotation import Annotation
from hierarchical.errors import InputError
from hierarchical.labels import LabelTree

A, B = (("A",),), (("A",), ("A", "B"))
LOGGER = logging.getLogger("hierarchical")


def said(text, labels, who="ann", checked=False):
    return Annotation(text, labels, who, "", checked)


def test_one_row_per_text():
    annotations = [
        said("agreed", B), said("alone", A), said("agreed", B, "bob"), said("nobody", None), said("nobody", None),
        said("one did", None), said("one did", ()), said("disputed", A), said("disputed", B, "bob"),
        said("settled", A), said("settled", B, checked=True), said("half", A), said("half", None), said("half", A),
    ]  # fmt: skip
    settled = folders.settle(annotations)
    assert settled.rows == {"agreed": B, "alone": A, "one did": (), "settled": B, "half": A}
    assert settled.not_annotated == ["nobody"] and settled.several == 4
    assert {text: [one.annotator for one in group] for text, group in settled.conflicts.items()} == {
        "disputed": ["ann", "bob"]
    }


def test_closure():
    assert folders.closure([("A", "B", "C"), ("A-",), ("A", "B")]) == (("A",), ("A", "B"), ("A", "B", "C"), ("A-",))


def test_new_labels_go_to_the_end(tmp_path):
    known = LabelTree(["B", "A"], words=["word", ""])
    arguments = (known, LabelTree(["A", "A##C", "B", "D"]))
    tree = folders.extended(*arguments, True, tmp_path, "the table", "mend them")
    assert tree.lines() == ["B==word", "A", "A##C", "D"]
    with pytest.raises(InputError) as error:
        folders.extended(*arguments, False, tmp_path / "label.txt", "the table", "mend them there")
    assert f"{tmp_path / 'label.txt'}: 2 labels of the table are not in it:\n  A##C" in str(error.value)
    assert "If they are wrong, mend them there." in str(error.value)


def test_further_parents_are_added_like_labels(tmp_path):
    known = LabelTree(["A", "A##X", "B", "C"], further=[(1, 2)])
    # By another first parent, with one that is known, one that is new, and a new label with two.
    wanted = LabelTree(["B", "B##X", "C", "A", "A##N"], further=[(1, 2), (1, 3), (4, 2)])
    tree = folders.extended(known, wanted, True, tmp_path, "the table", "mend them")
    assert tree.lines() == ["A", "A##X", "B", "C", "A##N"]
    assert tree.graph_lines() == ["A##X\tB", "A##X\tC", "A##N\tC"]
    assert folders.extended(known, known, False, tmp_path, "the table", "mend them").is_same(known)
    other = LabelTree(["B", "B##X", "C"], further=[(1, 2)])
    with pytest.raises(InputError, match="labels_graph.txt: 1 parents of the table are not in it: 'A##X' under 'C'"):
        folders.extended(known, other, False, tmp_path / "labels.txt", "the table", "mend them")


def test_rows_of_a_graph_are_closed():
    indices = folders.ClassIndices(LabelTree(["A", "A##X", "B"], further=[(1, 2)]))
    assert indices((("A",), ("A", "X"))) == (0, 1, 2) == indices((("B",), ("B", "X")))
    assert indices.names([("A", "X")]) == ["A", "A##X", "B"]


def test_parts():
    tree = LabelTree(["A", "B"])
    rows = [(0,)] * 6 + [(1,)] * 4
    shares = [Fraction(1, 2), Fraction(1, 2)]
    first, second = folders.split(rows, tree, shares, True, 3)
    assert sorted([*first, *second]) == list(range(10)) and sum(rows[i] == (0,) for i in first) == 3
    assert [part.tolist() for part in folders.split(rows, tree, shares, False, 3)] == [
        list(range(5)),
        list(range(5, 10)),
    ]
    assert [np.array_equal(*pair) for pair in zip((first, second), folders.split(rows, tree, shares, True, 3))] == [
        True
    ] * 2


def test_all_files_are_written_or_none(tmp_path):
    def lines():
        yield "first\n"
        raise InputError("in the middle")

    contents = {"label.txt": ("1 labels", ["A\n"]), "train.txt": ("2 examples", lines())}
    with pytest.raises(InputError, match="in the middle"):
        folders.write_folder(tmp_path / "new", contents, False, LOGGER)
    assert list((tmp_path / "new").iterdir()) == []
    (tmp_path / "new" / "label.txt").write_text("old")
    folders.write_folder(tmp_path / "new", {"label.txt": ("1 labels", ["A\n"])}, False, LOGGER)
    (tmp_path / "new" / "train.txt").write_text("old")
    with pytest.raises(InputError, match="already has train.txt"):
        folders.write_folder(tmp_path / "new", {"train.txt": ("", ["x\n"])}, False, LOGGER)
    assert (tmp_path / "new" / "train.txt").read_text() == "old"
    folders.write_folder(tmp_path / "new", {"train.txt": ("", ["x\n"])}, True, LOGGER)
    assert (tmp_path / "new" / "train.txt").read_text() == "x\n"


def test_the_graph_of_earlier_labels_goes_with_them(tmp_path):
    graph = LabelTree(["A", "B", "A##x"], further=[(2, 1)])
    folders.write_folder(tmp_path, folders.label_contents(graph), False, LOGGER)
    folders.write_folder(tmp_path, {"train.txt": ("1 examples", ["x\tA\n"])}, False, LOGGER)
    assert LabelTree.read(tmp_path / "label.txt").further == [(2, 1)], "other files leave the labels alone"
    tree = LabelTree(graph.labels)
    folders.write_folder(tmp_path, folders.label_contents(tree), False, LOGGER)
    assert LabelTree.read(tmp_path / "label.txt").is_same(tree)
    assert not (tmp_path / "label_graph.txt").exists()


def test_lines_of_rows():
    tree = LabelTree(["A", "A##B"])
    files = {"train": [("a", (0, 1))], "data": [("a", None)]}
    held = {name: (what, list(lines)) for name, (what, lines) in folders.row_contents(files, tree, "txt").items()}
    assert held == {"train.txt": ("1 examples", ["a\tA,A##B\n"]), "data.txt": ("1 examples", ["a\n"])}
    held = folders.row_contents(files, tree, "jsonl")["train.jsonl"][1]
    assert list(held) == ['{"text": "a", "labels": ["A", "A##B"]}\n']
