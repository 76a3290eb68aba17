"""gathering.py: which columns are taken, what becomes of their cells, and where a row was."""

import json

import pytest

from hierarchical.errors import InputError, Problems
from hierarchical.tables.gathering import Columns, gather
from hierarchical.tables.table import Dialect, Tally


@pytest.fixture
def rows(tmp_path):
    """rows(Columns, name=content, ...) -> (Rows, the key of each row, problems)."""

    def call(columns, **files):
        paths = []
        for name, content in files.items():
            paths.append(tmp_path / name.replace("_", "."))
            paths[-1].write_text(content, encoding="utf-8")
        keys, problems = {}, Problems()
        found = gather(paths, columns, Dialect(), keys, Tally(), problems)
        known = list(keys)
        return found, [known[key] for key in found.key_of], problems.shown

    return call


def test_usual_names(rows):
    found, keys, _ = rows(Columns(), a_csv="id,Content,标签,label\n1, 文 ,A,B\n")
    assert found.texts == ["文"] and keys == [("A", "B")]
    assert found.tables[0][1] == "text: Content; labels: 标签, label" and found.labelled
    found, keys, _ = rows(Columns(), a_txt="a\tA\nb\n")
    assert found.texts == ["a", "b"] and keys == [("A",), ("",)]
    with pytest.raises(InputError, match="--text_column names the column of the texts. It has: 0 .a., 1 .A., 2 .x."):
        rows(Columns(), a_txt="a\tA\tx\nb\tB\ty\n")
    assert not rows(Columns(["id"], None), a_csv="id,x\n1,2\n")[0].labelled


def test_places_in_several_files(rows, tmp_path):
    found, keys, _ = rows(Columns(), a_csv="text,label\na,A\n\nb,B\n", b_csv="label,text\nA,c\n")
    assert found.texts == ["a", "", "b", "c"] and keys == [("A",), ("",), ("B",), ("A",)]
    places = [f"{tmp_path}/a.csv:2", f"{tmp_path}/a.csv:3", f"{tmp_path}/a.csv:4", f"{tmp_path}/b.csv:2"]
    assert list(found.places()) == places == [found.where(row) for row in range(4)]


def test_texts_of_several_columns_and_of_words(rows):
    record = {"title": " One ", "body": ["two", ["three"], None], "n": 4, "label": ["A", ["B", "C"], {"x": 1}, None]}
    found, keys, _ = rows(Columns(["title", "body", "n"]), a_jsonl=json.dumps(record) + "\n")
    assert found.texts == ["One two three 4"] and keys == [(("A", ("B", "C"), "{'x': 1}", None),)]


def test_levels_and_one_hot_columns(rows):
    csv = "text,a,b,c\nx,1,0,\ny,0,true,3\n"
    assert rows(Columns(["text"], None, [["a", "b"], ["c"]]), a_csv=csv)[1] == [
        (("1", "0"), ("",)),
        (("0", "true"), ("3",)),
    ]
    assert rows(Columns(["text"], None, (), ["[ab]", "c"]), a_csv=csv)[1] == [(("a",),), (("b", "c"),)]
    found, _, problems = rows(Columns(["text"], None, (), ["a", "b"]), a_csv="text,a,b\nx,1,0\ny,0.5,1\nz,,maybe\n")
    assert found.texts == ["x"] and [problem.rpartition(": ")[2] for problem in problems] == [
        "the column 'a' holds '0.5', where 0 or 1 must stand",
        "the column 'b' holds 'maybe', where 0 or 1 must stand",
    ]
    with pytest.raises(InputError, match="--label_columns a: the name of 2 columns; give numbers"):
        rows(Columns(["text"], None, [["a"]]), a_csv="text,a,a\nx,1,2\n")


def test_texts_that_cannot_be_written(rows):
    _, _, problems = rows(Columns(), a_jsonl='{"text": "a\\ud800"}\n{"text": {"b": 1}}\n')
    assert "holds half a character" in problems[0] and "an object where a text must stand" in problems[1]
