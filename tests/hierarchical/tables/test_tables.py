"""open_table(): what a table is, its header and its cells, by what it holds; delimited.py, json_records.py, table.py."""

import json

import pytest

from hierarchical.errors import InputError, Problems
from hierarchical.tables import open_table
from hierarchical.tables.json_records import field, field_names
from hierarchical.tables.table import Dialect, Tally


@pytest.fixture
def table(tmp_path):
    """table(name, content, *wanted, **dialect) -> (Table, its rows, all columns)."""

    def call(name, content, *wanted, **dialect):
        path = tmp_path / name
        path.write_bytes(content if isinstance(content, bytes) else content.encode("utf-8"))
        found = open_table(path, Dialect(**dialect), wanted)
        problems, tally = Problems(), Tally()
        rows = list(found.read(range(len(found.columns)), tally, problems))
        problems.raise_if_any()
        return found, rows, dict(tally.counts)

    return call


def refused(table, *arguments, **dialect):
    with pytest.raises(InputError) as error:
        table(*arguments, **dialect)
    return str(error.value)


# ---- CSV and its like ------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("name", "content", "columns", "first", "said"),
    [
        ("a.csv", 'text,label\n"a, b",A\nc,B\n', ["text", "label"], (2, ("a, b", "A")), "cells separated by ','"),
        ("a.csv", "text;label\na, b;A\nc;B\n", ["text", "label"], (2, ("a, b", "A")), "by ';'"),
        ("a.csv", "sep=|\ntext|label\na|A\n", ["text", "label"], (3, ("a", "A")), "by '|', header in line 2"),
        ("a.csv", 'text,label\n"a\nb ""c""",A\n', ["text", "label"], (2, ('a\nb "c"', "A")), "header in line 1"),
        ("a.csv", "text\tlabel\na, b, c\tA\nd\tB\n", ["text", "label"], (2, ("a, b, c", "A")), "by TAB"),
        ("a.tsv", "一, 二\tA\n三\tB\n", ["0", "1"], (1, ("一, 二", "A")), "by TAB, no header"),
        ("a.txt", '"a" said\tA\n"b\tB\n', ["0", "1"], (1, ('"a" said', "A")), "quotes are part of the text"),
        ("a.tsv", 'text\tlabel\n"a\tb"\tA\nc\tB\n', ["text", "label"], (2, ("a\tb", "A")), "header in line 1, UTF-8"),
        ("a.tsv", 'text\tlabel\n"a\nb"\tA\nc\tB\n', ["text", "label"], (2, ("a\nb", "A")), "header in line 1, UTF-8"),
        ("a.txt", "1_!_a,b_!_A\n2_!_c_!_B\n", ["0", "1", "2"], (1, ("1", "a,b", "A")), "by '_!_'"),
        ("a.txt", "1::a::A\n2::c::B\n", ["0", "1", "2"], (1, ("1", "a", "A")), "by '::'"),
        ("a.dat", "a\x01A\nb\x01B\n", ["0", "1"], (1, ("a", "A")), r"by \x01"),
        ("a.txt", "一，二\n三\n", ["0"], (1, ("一，二",)), "one column, no header"),
        ("a.csv", "text\na b\n", ["text"], (2, ("a b",)), "one column, header in line 1"),
        ("a.csv", "\n\ntext,label\n\na,A\n", ["text", "label"], (4, ("", "")), "header in line 3"),
        ("a.csv", "text,label,\na,A,\nb,B\n", ["text", "label"], (2, ("a", "A")), "header in line 1"),
    ],
)  # fmt: skip
def test_dialects(table, name, content, columns, first, said):
    found, rows, _ = table(name, content)
    assert found.columns == columns and rows[0] == first and said in found.said


def test_the_dialect_that_is_told_counts(table):
    found, rows, _ = table("a.csv", "text,label\na,A\n", delimiter=";", header=False)
    assert found.columns == ["0"] and rows == [(1, ("text,label",)), (2, ("a,A",))]
    _, rows, _ = table("a.csv", "text,label\na,A\n", header=False)
    assert rows[0] == (1, ("text", "label"))
    _, rows, _ = table("a.txt", "a<>A\nb<>B\n", delimiter="<>")
    assert rows == [(1, ("a", "A")), (2, ("b", "B"))]
    found, _, _ = table("a.txt", "雷电,天气\n股市,财经\n".encode("gbk"), encoding="gbk")
    assert found.said.endswith("no header, GBK (as told)")


def test_a_header_below_a_title_is_found_by_the_names_that_are_asked_for(table):
    content = "Report of 2024,,\n,,\nid,Review,Class\n1,good,A\n"
    found, rows, _ = table("a.csv", content, "review", "class")
    assert found.columns == ["id", "Review", "Class"] and rows == [(4, ("1", "good", "A"))]
    assert found.find("review", "--text_column") == [1] and found.find("2", "--text_column") == [2]
    with pytest.raises(InputError, match="--text_column rewiev: no such column. It has: 0 id, 1 Review, 2 Class"):
        found.find("rewiev", "--text_column")


def test_names_tell_the_delimiter(table):
    found, rows, _ = table("a.csv", "my;text,my;class\na;b,A;c\n", "my;text")
    assert found.columns == ["my;text", "my;class"] and rows == [(2, ("a;b", "A;c"))]


def test_columns_of_one_name_are_all_meant(table):
    found, rows, _ = table("a.csv", "text,label,label\na,A,B\n")
    assert found.find("label", "--label_column") == [1, 2] and rows == [(2, ("a", "A", "B"))]


def test_rows_that_are_shorter_or_longer(table):
    _, rows, tally = table("a.csv", "text,label\na\nb,B,,\nc,C\n")
    assert [cells for _, cells in rows] == [("a", ""), ("b", "B"), ("c", "C")]
    assert tally == {"rows with fewer cells than the others; what is missing counts as blank": 1}
    message = refused(table, "a.csv", "text,label\na,b,A\nc,C\nd, e, f,D\n")
    assert "a.csv:2: 3 cells in this row, 2 in the others" in message and "a.csv:4: 4 cells" in message


@pytest.mark.parametrize(
    ("content", "says"),
    [
        ('text,label\n"never closed,A\nb,B\n', 'a.csv:2: a quote " opens a cell here and is never closed'),
        ('text,label\nx,X\n"a"b,A\n', "a.csv:3: more text behind the quote that closes a cell"),
        ("text,label\na\rb,A\nc,C\n", "a.csv:2: a carriage return (CR) within a cell"),
        ("\n\n\n", "a.csv: no row in it"),
        (
            ",".join(f"c{i}" for i in range(20_000)) + "\n1\n",
            "a.csv: a table of 20,000 columns; 16,384 are read at most",
        ),
        ("," * (1 << 24) + "\n", "a.csv:1: a line of more than 16,777,216 characters"),
        ("{'text': 'a'}\n", "holds objects as Python prints them"),
    ],
)
def test_damaged_and_hostile_csv(table, content, says):
    assert says in refused(table, "a.csv", content)


# ---- JSON ------------------------------------------------------------------------------------------------------------

RECORDS = [{"text": "一", "label": ["A", "B"]}, {"text": "二", "label": "C"}]
ROWS = [("一", ["A", "B"]), ("二", "C")]


@pytest.mark.parametrize(
    ("content", "lines", "said"),
    [
        ("".join(json.dumps(one) + "\n" for one in RECORDS), [1, 2], "JSON lines"),
        (json.dumps(RECORDS), [1, 2], "a JSON list on one line, places are numbers of records"),
        (json.dumps(RECORDS, indent=1), [2, 9], "a JSON list, UTF-8"),
        ("\n".join(json.dumps(one, indent=1) for one in RECORDS), [1, 8], "JSON objects, one after the other"),
        (json.dumps({"version": 1, "data": RECORDS}), [1, 1], "a JSON list in the field 'data'"),
        (json.dumps({"id1": RECORDS[0], "id2": RECORDS[1]}), [1, 1], "a JSON object whose fields are records"),
        (json.dumps({"text": ["一", "二"], "label": [["A", "B"], "C"]}), [1, 1], "a JSON object by columns"),
        (json.dumps({"text": {"0": "一", "7": "二"}, "label": {"0": ["A", "B"], "7": "C"}}), [1, 1], "by columns"),
        ("\ufeff" + json.dumps(RECORDS), [1, 2], "a JSON list"),
    ],
)
def test_kinds_of_json(table, content, lines, said):
    found, rows, _ = table("a.txt", content)
    assert found.columns == ["text", "label"] and said in found.said
    assert [line for line, _ in rows] == lines and [cells for _, cells in rows] == ROWS


def test_one_record_is_not_taken_for_a_list(table):
    _, rows, _ = table("a.json", '{"text": "a", "labels": [{"name": "A"}]}')
    assert rows == [(1, ("a", ["A"]))]


def test_fields_in_fields():
    record = {"a.b": 1, "a": {"b": 2, "c": [{"d": "x"}, {"d": ["y", "z"]}, {"e": 1}, 5]}, "f": [], "g": {}}
    assert list(dict.fromkeys(field_names(record))) == ["a.b", "a.c.d", "a.c.e", "a.c", "f"]
    assert field(record, "a.b") == 1 and field(record["a"], "b") == 2
    assert field(record, "a.c.d") == ["x", "y", "z"] and field(record, "a.c.e") == [1]
    assert field(record, "a.x") is None and field(record, "x.y") is None and field(record, "g.x") is None


@pytest.mark.parametrize(
    ("content", "says"),
    [
        ('{"text": "a"}\n{"text": }\n5\n', ["a.jsonl:2: not JSON: Expecting value", "a.jsonl:3: a record must be an object"]),
        ('[{"text": "a"},\n{"text": "b"', ["a.jsonl:2: not JSON: Expecting ',' delimiter"]),
        ('[{"text": "a"}] []', ["something stands behind the end of the list"]),
        ('{"text": "a"}\n{"text": ' + "[" * 100_000 + "\n", ["a.jsonl:2: not JSON that is read: lists or objects in one"]),
        ('[{"text": "a", "n": ' + "1" * 5000 + "}]", ["a number of thousands of digits"]),
        ("text\n", ["begins with 'text\\n'", "where objects must stand"]),
        ("[]\n", ["begins with '[]\\n'", "where objects must stand"]),
        ('[{"text": "a"}, 5]', ["a.jsonl:2: a record must be an object {...}, not 5"]),
        ('{"": {}}', ["no object with fields"]),
    ],
)  # fmt: skip
def test_damaged_json(table, content, says):
    message = refused(table, "a.jsonl", content)
    assert [part for part in says if part not in message] == []
