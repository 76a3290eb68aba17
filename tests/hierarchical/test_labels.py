"""labels.py: how a tree hangs together, label.txt with every fault it can have, and the label nearest to a wrong one."""

import networkx
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from hierarchical import labels as labels_module
from hierarchical.errors import InputError
from hierarchical.labels import LabelTree, levels_text
from tests.hierarchical.trees import parents_of, random_graph
from tests.seconds import least_seconds

PATHS = ["体育", "体育##足球", "体育##其他", "财经", "财经##其他", "财经##其他##利率"]
TREE = LabelTree(PATHS)


def write(path, content):
    path.write_bytes(content if isinstance(content, bytes) else content.encode("utf-8"))
    return path


def faults_of(path, content):
    """The message of the InputError that reading a label file with this content raises."""
    with pytest.raises(InputError) as error:
        LabelTree.read(write(path, content))
    return str(error.value)


def test_tree_structure():
    assert TREE.labels == PATHS and len(TREE) == 6 and TREE.depth == 3
    assert [TREE.index[path] for path in PATHS] == [0, 1, 2, 3, 4, 5]
    assert TREE.parents.tolist() == [-1, 0, 0, -1, 3, 4] and TREE.parents.dtype == np.int64
    assert TREE.children == [[1, 2], [], [], [4], [5], []]
    assert TREE.levels.tolist() == [1, 2, 2, 1, 2, 3]
    assert TREE.segments(5) == ["财经", "其他", "利率"]
    assert TREE.ancestors(5) == [3, 4] and TREE.ancestors(0) == []
    assert TREE.closure([5, 1]) == [0, 1, 3, 4, 5] and TREE.closure([]) == []


def test_a_node_is_its_full_path():
    assert TREE.index["体育##其他"] != TREE.index["财经##其他"]
    assert TREE.closure([2]) == [0, 2] and TREE.closure([4]) == [3, 4]


def test_parents_may_come_after_children():
    tree = LabelTree(["a##b##c", "a##b", "a"])
    assert tree.parents.tolist() == [1, 2, -1] and tree.ancestors(0) == [2, 1]


# ---- several parents -------------------------------------------------------------------------------------------------

GRAPH = LabelTree(["甲", "乙", "乙##丙", "甲##丁", "甲##丁##戊", "己"], further=[(3, 2), (4, 5), (4, 1)])
"""丁 is below 甲 and 乙##丙, and so on level 3; 戊 below 丁, 己 and 乙, on level 4."""


def test_graph_structure():
    assert GRAPH.parents.tolist() == [-1, -1, 1, 0, 3, -1] and GRAPH.further == [(3, 2), (4, 1), (4, 5)]
    assert GRAPH.children == [[3], [2, 4], [3], [4], [], [4]]
    assert GRAPH.levels.tolist() == [1, 1, 2, 3, 4, 1] and GRAPH.depth == 4
    assert GRAPH.ancestors(4) == [0, 1, 5, 2, 3] and GRAPH.ancestors(3) == [0, 1, 2] and GRAPH.ancestors(2) == [1]
    assert GRAPH.closure([3]) == [0, 1, 2, 3]
    assert [GRAPH.parents_of(i) for i in range(6)] == [[], [], [1], [0, 2], [3, 1, 5], []]
    assert GRAPH.by_level([3]) == {1: ["甲", "乙"], 2: ["乙##丙"], 3: ["甲##丁"]}
    assert levels_text(GRAPH, [4]) == ["level 1 : 甲,乙,己", "level 2 : 丙", "level 3 : 丁", "level 4 : 戊"]
    assert GRAPH.beside == {3: [1, 2], 4: [5]} and TREE.beside == {}
    assert [[(c.tolist(), p.tolist()) for c, p in pairs] for pairs in GRAPH.steps] == [
        [([2], [1])],
        [([3], [0]), ([3], [2])],
        [([4], [3]), ([4], [1]), ([4], [5])],
    ]


@given(st.integers(0, 2**32 - 1), st.integers(1, 30))
@settings(max_examples=100)
def test_graph_structure_equals_networkx(seed, size):
    tree = random_graph(np.random.default_rng(seed), size)
    graph = networkx.DiGraph((parent, child) for child in range(size) for parent in parents_of(tree, child))
    graph.add_nodes_from(range(size))
    assert [set(tree.ancestors(i)) for i in range(size)] == [networkx.ancestors(graph, i) for i in range(size)]
    assert all(tree.levels[tree.ancestors(i)].tolist() == sorted(tree.levels[tree.ancestors(i)]) for i in range(size))
    assert [set(children) for children in tree.children] == [{*graph.successors(i)} for i in range(size)]
    generations = [sorted(generation) for generation in networkx.topological_generations(graph)]
    assert generations == [np.flatnonzero(tree.levels == level).tolist() for level in range(1, tree.depth + 1)]


def test_a_label_has_the_paths_of_all_its_parents():
    assert GRAPH.index["乙##丙##丁"] == 3 and GRAPH.index["己##戊"] == GRAPH.index["乙##戊"] == 4
    assert "乙##丙##丁##戊" not in GRAPH.index and len(GRAPH.labels) == 6  # one step aside, no more
    # 乙##丁 is a label, 丙##丁 could be two.
    tree = LabelTree(["甲", "甲##丁", "乙", "乙##丁", "丙"], further=[(1, 2), (1, 4), (3, 4)])
    assert tree.index["乙##丁"] == 3 and "丙##丁" not in tree.index


@pytest.mark.parametrize(
    ("label", "advice"),
    [
        ("乙##丁##子", "'乙##丁' is '甲##丁', by its first parent; write '甲##丁##子'"),
        ("乙##丁##戊##子", "'乙##丁' is '甲##丁', by its first parent; write '甲##丁##戊##子'"),
        ("乙##庚##子", "add the line '乙##庚'"),  # two labels could be meant
        ("乙##己##丑##子", "add the line '乙##己##丑'"),  # 乙##己 is a label itself
    ],
)
def test_a_label_below_a_further_path_of_another(tmp_path, label, advice):
    labels = ["甲", "甲##丁", "甲##丁##戊", "甲##庚", "甲##己", "丙", "丙##庚", "乙", "乙##己", label]
    write(tmp_path / "label_graph.txt", "甲##丁\t乙\n甲##庚\t乙\n丙##庚\t乙\n甲##己\t乙\n甲\n")
    message = faults_of(tmp_path / "label.txt", "\n".join(labels))
    assert message.strip().endswith(f"label.txt:10: the parent of {label!r} is missing; {advice}")


def test_a_graph_is_written_and_read(tmp_path):
    for name, graph in (("label.txt", "label_graph.txt"), ("mine.v2.txt", "mine.v2_graph.txt")):
        GRAPH.write(tmp_path / name)
        assert sorted(path.name for path in tmp_path.iterdir()) == sorted([name, graph])
        assert (tmp_path / graph).read_text("utf-8") == "甲##丁\t乙##丙\n甲##丁##戊\t乙\n甲##丁##戊\t己\n"
        assert LabelTree.read(tmp_path / name).is_same(GRAPH)
        LabelTree(GRAPH.labels).write(tmp_path / name)  # without it: the graph that was there would be wrong
        assert not LabelTree.read(tmp_path / name).is_same(GRAPH)
        (tmp_path / name).unlink()
    write(tmp_path / "label.txt", "".join(f"{label}\n" for label in GRAPH.labels))
    write(tmp_path / "label_graph.txt", "\ufeff甲##丁##戊 \t 己\r\n\n甲##丁\t乙##丙\n甲##丁##戊\t乙")
    assert LabelTree.read(tmp_path / "label.txt").is_same(GRAPH)


@pytest.mark.parametrize(
    ("content", "line", "says"),
    [
        ("甲##丁\t乙##丙\n甲##丁 乙\n", 2, "no TAB in it; a line is label<TAB>further parent"),
        ("甲##丁\t乙\t己\n", 1, "2 TAB in it"),
        ("甲##丁\t乙##丁\n", 1, "unknown label '乙##丁'; did you mean '甲##丁'?"),
        ("甲##丁\t\n", 1, "no TAB in it"),
        ("甲##丁\t乙\n甲##丁\t甲\n", 2, "'甲' is the first parent of '甲##丁' already"),
        ("甲##丁\t甲##丁\n", 1, "is its own parent"),
        ("甲\t乙\n", 1, "'甲' is a root by its name"),
        ("甲##丁\t乙\n\n甲##丁\t 乙\n", 3, "repeats line 1"),
        (
            "甲##丁\t乙\n乙##丙\t甲##丁##戊\n甲##丁\t乙##丙\n",
            2,
            "'乙##丙' under '甲##丁##戊' under '甲##丁' under '乙##丙'",
        ),
        ("甲##丁\t甲##丁##戊\n", 1, "goes in a circle, '甲##丁' under '甲##丁##戊' under '甲##丁'; remove this line"),
        (b"\xff\xfe", 1, "UTF-16"),
    ],
)
def test_graph_faults_name_the_line(tmp_path, content, line, says):
    LabelTree(GRAPH.labels).write(tmp_path / "label.txt")
    write(tmp_path / "label_graph.txt", content)
    with pytest.raises(InputError) as error:
        LabelTree.read(tmp_path / "label.txt")
    assert f"label_graph.txt:{line}: " in str(error.value) and says in str(error.value)


def test_all_graph_faults_at_once(tmp_path):
    LabelTree(GRAPH.labels).write(tmp_path / "label.txt")
    write(tmp_path / "label_graph.txt", "甲\n甲##丁\t甲##丁\n无\t甲\n甲##丁\t乙\n")
    with pytest.raises(InputError, match="3 problems found"):
        LabelTree.read(tmp_path / "label.txt")
    with pytest.raises(InputError, match="go in a circle"):
        LabelTree(GRAPH.labels, further=[(3, 4)])


def test_ten_thousand_labels_with_as_many_further_parents(tmp_path):
    def seconds(roots):
        labels, rng, path = deep_labels(roots), np.random.default_rng(0), tmp_path / str(roots) / "label.txt"
        further = [(i, int(rng.integers(roots)) * 8 + i % 8 - 1) for i in range(8 * roots) if i % 8]
        tree = LabelTree(labels)
        path.parent.mkdir()
        LabelTree(labels, further=[edge for edge in further if tree.parents[edge[0]] != edge[1]]).write(path)

        def read():
            tree = LabelTree.read(path)
            assert sum(len(tree.closure([i])) for i in range(8 * roots)) > 40 * 8 * roots and tree.depth == 8

        return least_seconds(read, 2)

    assert seconds(1250) < 30 * seconds(125)


# ---- label.txt -------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("content", ["\ufeffa\nb\n", "a\r\nb\r\n", "a\n\n  \nb", " a \nb\t\n", "\n\na\nb\n\n"])
def test_label_files_that_are_read_alike(tmp_path, content):
    assert LabelTree.read(write(tmp_path / "label.txt", content)).labels == ["a", "b"]


@pytest.mark.parametrize(
    ("content", "line", "says"),
    [
        ("a\nb\na\n", 3, "already on line 1"),
        ("a\n\nb\n\na\n", 5, "already on line 1"),  # the line of the file, not of the list
        ("a\na##\n", 2, "empty level"),
        ("a\n##a\n", 2, "empty level"),
        ("a\na####b\n", 2, "empty level"),
        ("a\na## ##b\n", 2, "empty level"),
        ("a\na ## b\n", 2, "blank beside"),
        ("a\na###b\n", 2, "more than two #"),
        ("体育\n足球\n比赛\n".encode("gb18030"), 1, "iconv -f GB18030 -t UTF-8"),
        ("a\nb##c\n", 2, "add the line 'b'"),
        ("a\na##b##c\n", 2, "add the line 'a##b'"),
        ("a\nb\tc\n", 2, "a TAB"),
        ("体育\n足球\n".encode("gbk"), 1, "'体育'"),  # read as what it is, so that the user recognises it
        ("体育\n".encode() + b"\xff\xff\n", 2, "not UTF-8"),
        ("体育\n".encode("utf-16"), 1, "UTF-16"),
    ],
)
def test_label_file_faults_name_the_line(tmp_path, content, line, says):
    message = faults_of(tmp_path / "label.txt", content)
    assert f"label.txt:{line}: " in message and says in message


def test_all_label_faults_at_once_and_each_once(tmp_path):
    message = faults_of(tmp_path / "label.txt", "a\na\nb##c\na##\n d##e##f")
    assert message.startswith("4 problems found") and len(message.splitlines()) == 5


@pytest.mark.parametrize("content", ["", "\n \n", "\ufeff"])
def test_label_file_without_labels(tmp_path, content):
    assert "label.txt" in faults_of(tmp_path / "label.txt", content)


def test_missing_file_says_what_is_there(tmp_path):
    write(tmp_path / "labels.txt", "a")
    with pytest.raises(InputError, match="label.txt: no such file.*labels.txt"):
        LabelTree.read(tmp_path / "label.txt")
    with pytest.raises(InputError, match="no such file"):
        LabelTree.read(tmp_path / "nowhere" / "label.txt")
    with pytest.raises(InputError, match="directory"):
        LabelTree.read(tmp_path)


def deep_labels(roots=1250, depth=8):
    names = [[f"类{root}", *(f"层{level}节点{root}" for level in range(1, depth))] for root in range(roots)]
    return ["##".join(path[:level]) for path in names for level in range(1, depth + 1)]


def test_ten_thousand_labels_of_depth_eight(tmp_path):
    path, tenth = write(tmp_path / "label.txt", "\n".join(deep_labels())), tmp_path / "tenth.txt"
    write(tenth, "\n".join(deep_labels(125)))
    assert least_seconds(lambda: LabelTree.read(path)) < 30 * least_seconds(lambda: LabelTree.read(tenth), 5)
    tree = LabelTree.read(path)
    assert len(tree) == 10_000 and tree.depth == 8 and tree.ancestors(7) == list(range(7))


@pytest.mark.parametrize(
    ("unknown", "known"),
    [
        ("足球", ["体育##足球"]),  # the name alone
        ("其他", ["体育##其他", "财经##其他"]),  # of several labels: all of them
        ("其他##利率", ["财经##其他##利率"]),
        ("体育#足球", ["体育##足球"]),
        ("体育##足求", ["体育##足球"]),
        ("财经##其它##利率", ["财经##其他##利率"]),
        ("完全不同", []),
        ("", []),
    ],
)
def test_nearest(unknown, known):
    assert TREE.nearest(unknown) == known


@pytest.mark.slow
def test_nearest_among_many(monkeypatch):
    """Few are compared letter by letter, and a long one takes no longer than its letters do."""
    labels, compared = deep_labels(), []
    tree, get_close_matches = LabelTree(labels), labels_module.difflib.get_close_matches

    def count(label, candidates, **settings):
        compared.append(len(candidates))
        return get_close_matches(label, candidates, **settings)

    monkeypatch.setattr(labels_module.difflib, "get_close_matches", count)
    for i in (7, 100, 9_999):
        assert tree.nearest(labels[i] + "误") == [labels[i]]
    assert compared == [50] * 3
    million, tenth = "长" * 1_000_000, "长" * 100_000
    assert least_seconds(lambda: tree.nearest(million), 1) < 30 * least_seconds(lambda: tree.nearest(tenth), 1)


@pytest.mark.parametrize(
    ("unknown", "says"),
    [
        ("足球", "did you mean '体育##足球'?"),
        ("其他", "several labels end so, write the full path: '体育##其他', '财经##其他'"),
        ("4", "looks like a class number; line 7 of label.txt is '财经##其他'"),
        (4, "looks like a class number; line 7 of label.txt is '财经##其他'"),
        ("6", ""),  # there are six labels, the last number is 5
        (6, ""),
        (-1, ""),
        (10**18, ""),
        ("9" * 50, ""),
        ("完全不同", ""),
    ],
)
def test_guess(tmp_path, unknown, says):
    content = f"\n{PATHS[0]}\n{PATHS[1]}\n\n" + "\n".join(PATHS[2:])  # the lines are those of the file, not of the list
    assert LabelTree.read(write(tmp_path / "label.txt", content)).guess(unknown) == says


def test_a_guess_names_five_of_many():
    labels = [f"{name}{end}" for name in "甲乙丙丁戊己庚" for end in ("", "##其他")]
    guess = LabelTree(labels).guess("其他")
    assert guess.endswith("'甲##其他', '乙##其他', '丙##其他', '丁##其他', '戊##其他' or 2 more")


def test_levels_text():
    assert levels_text(TREE, [0, 1, 2]) == ["level 1 : 体育", "level 2 : 足球,其他"]
    assert levels_text(TREE, [5]) == [
        "level 1 : 财经",
        "level 2 : 其他",
        "level 3 : 利率",
    ]  # as if the parents were there
    assert levels_text(TREE, [2, 4]) == ["level 1 : 体育,财经", "level 2 : 其他"]  # one name, shown once
    assert levels_text(TREE, []) == []


def test_label_words(tmp_path):
    path = tmp_path / "label.txt"
    path.write_text("交往\n交往##会见==见面\n灾害 == 天灾\n", encoding="utf-8")
    tree = LabelTree.read(path)
    assert tree.labels == ["交往", "交往##会见", "灾害"] and tree.words == ["交往", "见面", "天灾"]
    assert tree.lines() == ["交往", "交往##会见==见面", "灾害==天灾"]
    assert LabelTree(["a", "a##b"]).words == ["a", "b"]
    path.write_text("交往\n交往##会见==\n==见面\n", encoding="utf-8")
    with pytest.raises(InputError) as error:
        LabelTree.read(path)
    assert "label.txt:2: a label and its word are written path==word" in str(error.value)
    assert "label.txt:3: " in str(error.value)


def test_a_name_that_label_txt_cannot_hold():
    with pytest.raises(InputError, match="'交往==见面' holds '==', which sets off a label's word"):
        LabelTree(["交往==见面"])
