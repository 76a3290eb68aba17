"""labelling.py: what stands in label cells, as paths; class numbers, ends of paths, and what can't be understood."""

import pytest

from hierarchical.errors import InputError
from hierarchical.tables.labelling import Labelling, Levelled, Odd, frozen, is_yes, read_class_names
from hierarchical.tables.taxonomies import tree_of

PATHS = [
    ("Mood",),
    ("Mood", "joy"),
    ("Mood", "fear"),
    ("Tone",),
    ("Tone", "joy"),
    ("Tone", "dry"),
    ("dry",),
    ("dry", "dry"),
]


def joined(key, **settings):
    """The labels of a key, joined, or what is wrong with them."""
    if settings.pop("with_tree", False):
        settings |= {"tree": tree_of(PATHS, "x"), "paths": PATHS}
    (one,) = Labelling(**settings).understand([key])
    return [fault.message() for fault in one.faults] or ["/".join(path) for path in one.paths]


@pytest.mark.parametrize(
    ("key", "settings", "labels"),
    [
        (("A",), {}, ["A"]),
        (("",), {}, []),
        ((None,), {}, []),
        (("A##B", "C"), {}, ["A", "A/B", "C"]),
        (("A; B ;;A",), {"delimiter": ";"}, ["A", "B"]),
        (("A > B;C",), {"delimiter": ";", "separator": " > "}, ["A", "A/B", "C"]),
        (("/A/B/",), {"separator": "/"}, ["A", "A/B"]),
        (("['A', \"it's\", 'a\\'b']",), {}, ["A", "a'b", "it's"]),
        (('["A", "B, c"]',), {}, ["A", "B, c"]),
        (("[1 2]",), {}, ["1", "2"]),
        (("('A',)",), {}, ["A"]),
        (("[A] b",), {}, ["[A] b"]),
        ((("A", None, "", "B"),), {}, ["A", "B"]),
        (((("A", "B"), ("C",)),), {}, ["A", "A/B", "C"]),
        ((Levelled(["A", " B ", "", "", ]), Levelled(["C"])), {}, ["A", "A/B", "C"]),
        ((Levelled(["", "B"]),), {}, []),
        ((3,), {}, ["3"]),
    ],
)  # fmt: skip
def test_labels_of_cells(key, settings, labels):
    assert joined(key, **settings) == labels


def test_blanks_and_gaps_are_noted():
    keys = [("A  b",), ("A",), (Levelled(["A", "", "C"]),), (Levelled([" A"]),)]
    notes = [one.notes for one in Labelling().understand(keys)]
    mended, gap = "labels with blanks mended", "a name behind a blank level: the path ends at the blank"
    assert notes == [(mended,), (), (gap,), (mended,)]


def test_a_list_is_only_one_if_all_cells_are():
    labelling = Labelling()
    understood = labelling.understand([("['A']",), ("B",), ("",)])
    assert [one.paths for one in understood] == [(("['A']",),), (("B",),), ()] and labelling.said == []
    labelling.understand([("['A']",), ("[]",)])
    assert labelling.said == ["each cell is a list"]


# ---- class numbers ---------------------------------------------------------------------------------------------------

CLASSES = {0: "joy", 1: "anger", 2: "fear"}


def test_class_numbers_and_names():
    assert joined(("2,0",), delimiter=",", class_names=CLASSES) == ["fear", "joy"]
    assert joined((1,), class_names=CLASSES) == joined(("1.0",), class_names=CLASSES) == ["anger"]
    assert joined((" joy ",), class_names=CLASSES) == ["joy"]
    message = "'3' is no class: --class_names has 3, 0 to 2: joy, anger, fear"
    assert joined(("3",), class_names=CLASSES | {}) == ["fear"]  # the only number, so they begin with 1
    assert joined(("3;0",), delimiter=";", class_names=CLASSES) == [message]
    assert joined(("rage",), class_names=CLASSES) == [message.replace("'3'", "'rage'")]


def test_numbers_from_1():
    labelling = Labelling(class_names=CLASSES)
    understood = labelling.understand([("1",), ("3",), ("2",)])
    assert [one.paths for one in understood] == [(("joy",),), (("fear",),), (("anger",),)]
    assert labelling.said == ["class numbers from 1 to 3"]
    far = Labelling(class_names={100: "a", 101: "b"})
    assert far.understand([("101",)])[0].paths == (("b",),) and far.said == []


@pytest.mark.parametrize(
    ("content", "names"),
    [
        ("joy\n anger  b\n\n", {0: "joy", 1: "anger b"}),
        ("7\tjoy\n9\tanger\n", {7: "joy", 9: "anger"}),
        ("\ufeffjoy\r\nanger", {0: "joy", 1: "anger"}),
    ],
)
def test_files_of_class_names(tmp_path, content, names):
    (tmp_path / "a.txt").write_bytes(content.encode("utf-8"))
    assert read_class_names(tmp_path / "a.txt") == names


@pytest.mark.parametrize(
    ("content", "says"),
    [
        ("a\n\nb\n", "class 1 has no name"),
        ("a\na\n", "a name of a class is there more than once: a"),
        ("1\ta\n1\tb\n", "a number of a class is there more than once: 1"),
        ("\n", "no class in it"),
    ],
)
def test_wrong_class_names(tmp_path, content, says):
    (tmp_path / "a.txt").write_text(content, encoding="utf-8")
    with pytest.raises(InputError, match=says):
        read_class_names(tmp_path / "a.txt")


# ---- a tree ----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("label", "settings", "labels"),
    [
        ("Mood##fear", {}, ["Mood", "Mood/fear"]),
        ("fear", {"match": True}, ["Mood", "Mood/fear"]),
        ("Tone##joy", {"match": True}, ["Tone", "Tone/joy"]),
        ("joy", {"match": True, "dag": "copy"}, ["Mood", "Mood/joy", "Tone", "Tone/joy"]),
        ("joy", {"match": True, "dag": "first"}, ["Mood", "Mood/joy"]),
        ("fear", {}, ["unknown label 'fear'; --match_names takes it for 'Mood##fear'"]),
        ("Mood##feer", {}, ["unknown label 'Mood##feer'; did you mean 'Mood##fear'?"]),
        ("xyz", {"match": True}, ["unknown label 'xyz'; none is like it"]),
        ("Mood > fear", {}, ["unknown label 'Mood > fear'; if '>' stands between levels, give --separator '>'"]),
        ("joy", {"match": True}, [
            "'joy' is the end of 2 paths: 'Mood##joy', 'Tone##joy'; write the full path, or give --dag first for the first of "
            "them, --dag copy for all"
        ]),
        ("dry", {"match": True}, ["dry"]),  # a full path before the ends of others
        ("dry##dry", {"match": True}, ["dry", "dry/dry"]),
    ],
)  # fmt: skip
def test_labels_of_a_tree(label, settings, labels):
    assert joined((label,), with_tree=True, **settings) == labels


def test_of_names_that_repeat_on_one_path_the_deepest_is_meant():
    paths = [("anger",), ("anger", "anger"), ("anger", "rage")]
    labelling = Labelling(tree=tree_of(paths, "x"), paths=paths, match=True)
    assert labelling.understand([("anger",)])[0].paths == (("anger",), ("anger", "anger"))


# ---- what is no label ------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("label", "says"),
    [
        ({"a": 1}, "{'a': 1}\" where the name of a label must stand"),
        (True, "'True' where the name of a label must stand"),
        (2.5, "'2.5' where the name of a label must stand"),
        ([["A", {"b": 1}]], "where the name of a label must stand"),
        ("A==B", "label 'A==B' holds '=='"),
        ("A##", "A"),
        ("A## ##B", "has an empty level"),
        ("A###B", "begins with '#'"),
        ("\ud800", "half a character"),
    ],
)
def test_what_can_be_no_label(label, says):
    assert says in joined((frozen(label),))[0]


def test_cells_become_keys():
    assert frozen([1.0, "a", [None, 2.0], float("nan")]) == (1, "a", (None, 2), None)
    assert isinstance(frozen({"a": 1}), Odd) and isinstance(frozen(0.5), Odd)


@pytest.mark.parametrize(
    ("answer", "cells"),
    [
        (True, ["1", 1, "1.0", "TRUE", " yes ", "x", "✓", "是", True, "3"]),
        (False, ["0", 0, "", None, "0.0", "False", "no", "-", False]),
        (None, ["0.3", "maybe", "-1", {}]),
    ],
)
def test_yes_and_no(answer, cells):
    assert [is_yes(cell) for cell in cells] == [answer] * len(cells)
