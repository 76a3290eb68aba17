"""taxonomies.py: four forms of a tree, graphs that are no tree, and files that say too much with too little."""

import time

import pytest

from hierarchical.errors import InputError
from hierarchical.labels import LabelTree
from hierarchical.tables import taxonomies
from hierarchical.tables.taxonomies import Names, read_taxonomy, tree_of


@pytest.fixture
def read(tmp_path):
    """read(content, name, separator, dag) -> (joined paths, what is said)."""

    def call(content, name="a.txt", separator=None, dag=None):
        (tmp_path / name).write_text(content, encoding="utf-8")
        found = read_taxonomy(tmp_path / name, separator, dag)
        return ["/".join(path) for path in found.paths], found.said

    return call


def refused(read, *arguments, **settings):
    with pytest.raises(InputError) as error:
        read(*arguments, **settings)
    return str(error.value)


TREE = ["A", "A/B", "A/B/C", "D"]


@pytest.mark.parametrize(
    ("content", "name", "said"),
    [
        ("# Version 3\nA\nA > B\nA > B > C\nD\n", "a.txt", "a path per line, levels joined by '>'"),
        ("A/B\nA/B/C\n\nD\n", "a.txt", "levels joined by '/'"),
        ("A##B##C==word\nD\n", "label.txt", "levels joined by '##'"),
        ("Root\tA\tD\nA\tB\nB\tC\n", "a.txt", "a parent and its children per line, UTF-8"),
        ("A\tB\nB\tC\nD\t\n", "a.txt", "a parent and its children per line"),
        ('{"A": {"B": ["C"]}, "D": null}', "a.json", "nested JSON"),
        ('{"root": [{"A": [{"B": "C"}]}, "D"]}', "a.txt", "nested JSON"),
        ('[{"name": "A", "children": [{"name": "B", "children": [{"name": "C"}]}]}, {"name": "D", "size": 3}]', "a.json", ""),
        ("A:\n  B: [C]\nD:\n", "a.yaml", "nested YAML"),
    ],
)  # fmt: skip
def test_forms(read, content, name, said):
    paths, told = read(content, name)
    assert paths == TREE and said in told


def test_words_of_a_label_file_stay(tmp_path):
    (tmp_path / "label.txt").write_text("体育==运动\n体育##足球\n", encoding="utf-8")
    found = read_taxonomy(tmp_path / "label.txt", None, None)
    assert tree_of(found.paths, "x", found.words).lines() == ["体育==运动", "体育##足球"]


def test_a_separator_that_is_given(read):
    assert read("A/B | C/D\n", separator=" | ")[0] == ["A/B", "A/B/C/D"]
    assert read("A/B\nA/C\nD\n", separator=">")[0] == [
        "A",
        "A/B",
        "A/C",
        "D",
    ]  # the labels have another separator than the tree
    assert read("A\tB\nA\tC\n", separator="\t")[0] == ["A", "A/B", "A/C"]
    assert read("one\ntwo\n")[0] == ["one", "two"]


def test_names_are_mended(read):
    assert read(" A  > B\u3000b \n")[0] == ["A", "A/B b"]


DAG = "R\tA\tB\nA\tX\tY\nB\tX\nX\tZ\n"


def test_several_parents(read):
    message = refused(read, DAG)
    assert "not a tree, 1 labels have several parents: 'X' under 'A', 'B'. --dag keep has one label" in message
    assert read(DAG, dag="first")[0] == ["R", "R/A", "R/A/X", "R/A/X/Z", "R/A/Y", "R/B"]
    paths, said = read(DAG, dag="copy")
    assert paths == ["R", "R/A", "R/A/X", "R/A/X/Z", "R/A/Y", "R/B", "R/B/X", "R/B/X/Z"] and "(copy)" in said


@pytest.mark.parametrize("root", ["R", "Root"])
def test_several_parents_that_are_kept(tmp_path, root):
    (tmp_path / "a.txt").write_text(f"{root}\tA\tB\tX\nA\tX\tY\nB\tX\nX\tZ\n", "utf-8")
    found = read_taxonomy(tmp_path / "a.txt", None, "keep")
    tree = tree_of(*found.labels)
    if root == "R":  # a label, and the first parent of X
        assert tree.labels == ["R", "R##A", "R##A##Y", "R##B", "R##X", "R##X##Z"]
        assert tree.graph_lines() == ["R##X\tR##A", "R##X\tR##B"]
    else:  # no label, and so no parent
        assert tree.labels == ["A", "A##X", "A##X##Z", "A##Y", "B"] and tree.graph_lines() == ["A##X\tB"]
    assert "1 labels with several parents (keep)" in found.said


def test_a_label_file_with_a_graph_is_no_taxonomy(tmp_path):
    LabelTree(["A", "A##X", "B"], further=[(1, 2)]).write(tmp_path / "label.txt")
    with pytest.raises(
        InputError, match="label.txt: has further parents .* in label_graph.txt. Pass it as --label_file"
    ):
        read_taxonomy(tmp_path / "label.txt", None, "keep")


def test_only_a_node_that_says_so_is_left_out_at_the_top(read):
    assert read("ROOT\tA\nA\tB\n")[0] == ["A", "A/B"] and read("Root > A\n")[0] == ["Root", "Root/A"]
    assert read("Goods\tA\nA\tB\n")[0] == ["Goods", "Goods/A", "Goods/A/B"]
    assert read("Root\n")[0] == ["Root"] and read("Root\tA\nC\tB\n")[0] == ["Root", "Root/A", "C", "C/B"]


@pytest.mark.parametrize(
    ("content", "name", "says"),
    [
        ("A\tB\nB\tC\nC\tA\n", "a.txt", "goes in a circle, which a tree cannot: A > B > C > A."),
        ("A\tA\n", "a.txt", "a.txt:1: 'A' is its own parent"),
        ("A\tB\n\tC\n", "a.txt", "a.txt:2: no parent before the first TAB"),
        ("A > > B\nA > B\n", "a.txt", "a.txt:1: 'A > > B' has an empty level"),
        ("# only a comment\n", "a.txt", "no label in it"),
        ("{}", "a.json", "no label in it"),
        ('{"A": ', "a.json", "not JSON: Expecting value"),
        ('{"A": true}', "a.json", "'True' where a name, a list or an object must stand"),
        ("[" * 100_000, "a.json", "too deep for a taxonomy"),
        ("A: [B\n", "a.yaml", "not YAML: while parsing"),
        ("!!python/object/apply:os.system ['touch /tmp/x']", "a.yaml", "not YAML: could not determine a constructor"),
    ],
)  # fmt: skip
def test_what_is_no_tree(read, content, name, says):
    assert says in refused(read, content, name)


def test_little_that_says_a_lot(read, monkeypatch):
    monkeypatch.setattr(taxonomies, "MOST_NODES", 2_000)
    levels = [f"l{i}: &l{i} [{', '.join([f'*l{i - 1}'] * 9) if i else 'x'}]" for i in range(12)]
    diamonds = "".join(f"{i}\ta{i}\tb{i}\na{i}\t{i + 1}\nb{i}\t{i + 1}\n" for i in range(40))
    began = time.process_time()
    assert "more than 2,000 labels" in refused(read, "\n".join(levels), "a.yaml")
    assert "more than 2,000 labels" in refused(read, diamonds, dag="copy")
    assert time.process_time() - began < 5


def test_names_that_no_label_file_can_hold(read, tmp_path):
    (tmp_path / "a.txt").write_text("A\tB==C\n", encoding="utf-8")
    with pytest.raises(ValueError, match="label 'A##B==C' holds '=='"):
        tree_of(read_taxonomy(tmp_path / "a.txt", None, None).paths, "a")


def test_ends_of_paths():
    names = Names([("A",), ("A", "X"), ("B", "X"), ("B", "X", "C")])
    assert names.ending(("X",)) == [("A", "X"), ("B", "X")] and names.ending(("B", "X")) == [("B", "X")]
    assert names.ending(("X", "C")) == [("B", "X", "C")] and names.ending(("Y",)) == []


@pytest.mark.parametrize("levels", [100, 101, 5_000])
def test_a_tree_has_a_deepest_level(read, levels):
    chain = "".join(f"n{i}\tn{i + 1}\n" for i in range(levels - 1))
    if levels == 100:
        assert len(read(chain)[0]) == 100 and len(read('{"a":' * 99 + "0" + "}" * 99, "a.json")[0]) == 100
        return
    assert "more than 100 levels, down to 'n100'; no tree of labels is so deep" in refused(read, chain)
    assert "more than 100 levels" in refused(read, '{"a":' * 500 + "0" + "}" * 500, "a.json")
