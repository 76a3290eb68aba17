"""giving_back.py: rows and predictions as CSV, a workbook and Parquet, read again by other libraries."""

import csv
import io
import json

import pandas
import pytest
from openpyxl import load_workbook
from pyarrow import parquet

from hierarchical.errors import InputError
from hierarchical.tables import giving_back
from hierarchical.tables.giving_back import give_back

PREDICTIONS = [
    {
        "text": "=1+1\x0b; 一",
        "labels": ["A", "A##B", "C"],
        "probabilities": {"A": 0.9, "A##B": 0.7, "C": 0.8, "D": 0.1},
        "levels": {"1": ["A", "C"], "2": ["A##B"]},
    },
    {"text": "", "labels": [], "probabilities": {}, "levels": {}, "note": {"by": "me"}},
    {"text": "plain", "labels": [], "probabilities": {"D": 0.2}, "levels": {}, "note": 3},
]
COLUMNS = ["text", "labels", "level 1", "level 2", "probability", "note"]


@pytest.fixture
def give(tmp_path):
    """give(rows, kind, name) -> (path of what was written, what is said)."""

    def call(rows, kind, name="a.jsonl", overwrite=False):
        path = tmp_path / name
        text = rows if isinstance(rows, str) else "".join(json.dumps(row) + "\n" for row in rows)
        path.write_text(text, encoding="utf-8")
        said = give_back(path, kind, tmp_path / "out", overwrite)
        return tmp_path / "out" / f"{path.stem}.{kind}", said

    return call


def test_csv(give):
    path, said = give(PREDICTIONS, "csv")
    content = path.read_text("utf-8")
    assert content.startswith("\ufefftext,") and "\r" not in content
    rows = list(csv.reader(io.StringIO(content[1:])))
    assert rows[0] == COLUMNS
    assert rows[1] == ["=1+1\x0b; 一", "A; A##B; C", "A; C", "B", "0.7", ""]
    assert rows[2] == ["", "", "", "", "", '{"by": "me"}'] and rows[3] == ["plain", "", "", "", "", "3"]
    assert said.startswith(f"Save 3 rows to {path}. 1 cells begin with = + - or @")


def test_a_workbook_holds_texts_and_no_formulas(give):
    path, said = give(PREDICTIONS, "xlsx")
    sheet = load_workbook(path).active
    cells = list(sheet.iter_rows())
    assert [cell.value for cell in cells[0]] == COLUMNS and sheet.freeze_panes == "A2"
    assert (cells[1][0].data_type, cells[1][0].value) == ("s", "=1+1 ; 一") and cells[1][4].value == 0.7
    assert len(cells) == 4 and "1 cells had characters that no workbook can hold" in said
    assert list(pandas.read_excel(path)["text"])[0] == "=1+1 ; 一"


def test_parquet(give):
    held = parquet.read_table(give(PREDICTIONS, "parquet")[0]).to_pydict()
    assert list(held) == COLUMNS and held["labels"] == [["A", "A##B", "C"], [], []]
    assert held["text"] == ["=1+1\x0b; 一", "", "plain"] and held["probability"] == [0.7, None, None]
    assert held["level 2"] == ["B", None, None] and held["note"] == [None, '{"by": "me"}', "3"]


def test_rows_of_this_project(give):
    path, _ = give("一\tA,A##B\n\n二\tC\n三\n", "csv", "train.txt")
    rows = list(csv.reader(path.read_text("utf-8-sig").splitlines()))
    assert rows == [
        ["text", "labels", "level 1", "level 2"],
        ["一", "A; A##B", "A", "B"],
        ["", "", "", ""],
        ["二", "C", "C", ""],
        ["三", "", "", ""],
    ]


def test_a_field_by_the_name_of_a_column(give):
    path, _ = give([{"text": "a", "labels": ["A"], "level 1": "x", "levels": 3}], "csv")
    assert path.read_text("utf-8-sig").splitlines() == ["text,labels,level 1,level 1 (field),levels", "a,A,A,x,3"]


def test_nothing_is_replaced_unasked(give, tmp_path):
    give(PREDICTIONS, "csv")
    with pytest.raises(InputError, match="is there already. --overwrite replaces it"):
        give(PREDICTIONS[:1], "csv")
    assert "Save 1 rows" in give(PREDICTIONS[:1], "csv", overwrite=True)[1]
    (tmp_path / "b.csv").write_text("text,label\na,A\n")
    with pytest.raises(InputError, match="is there already"):
        give_back(tmp_path / "b.csv", "csv", tmp_path, True)  # itself


def test_what_a_workbook_cannot_hold(give, monkeypatch, tmp_path):
    with pytest.raises(InputError, match="a text of 40,000 characters, and a cell of Excel has 32,767. Take --to csv"):
        give([{"text": "x" * 40_000}], "xlsx")
    monkeypatch.setattr(giving_back, "MOST_ROWS", 3)
    with pytest.raises(InputError, match="3 rows, and Excel has 2 below a header. Take --to csv"):
        give(PREDICTIONS, "xlsx")
    assert not list((tmp_path / "out").glob("*"))


@pytest.mark.parametrize(
    ("content", "says"),
    [
        ('{"text": 3}\n{"text": "a", "labels": "A"}\n', "a.jsonl:2:"),
        ("", "the file is empty"),
        ('[{"text": "a"}]', "the file holds a JSON list"),
    ],
)
def test_faulty_rows(give, content, says):
    with pytest.raises(InputError, match=says):
        give(content, "csv")
