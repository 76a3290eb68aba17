"""analysis/cases.py: every form of input rows, and what can be wrong with them."""

import logging

import pytest

from analysis.cases import Case, in_directory, read_cases
from utils import InputError, LabelTree

TREE = LabelTree(["组织", "组织##裁员", "财经", "a", "a,b"])
LOGGER = logging.getLogger("hierarchical")


def read(tmp_path, text, name="rows.txt"):
    path = tmp_path / name
    path.write_bytes(text.encode("utf-8") if isinstance(text, str) else text)
    return read_cases(path, TREE, LOGGER)


@pytest.mark.parametrize(
    "text, expected",
    [
        ("Text\tLabel\tPrediction\n一行\t组织##裁员,组织\t财经\n", [Case("一行", (0, 1), (2,))]),
        ("Prediction\tLabel\tText\r\n财经\t组织\t一行\r\n", [Case("一行", (0,), (2,))]),  # older tools
        ("Text\tLabel\tPrediction\n一行\t组织\t\n\n二行\t\t财经\n", [Case("一行", (0,), ()), Case("二行", (), (2,))]),
        ("一行\t组织\t财经\n", [Case("一行", (0,), (2,))]),
        ("Text\tLabel\n一行\t组织\n", [Case("一行", (0,), None)]),
        ("一行\t组织, 财经\n二行\n", [Case("一行", (0, 2), None), Case("二行", None, None)]),
        ("一行\nText\n", [Case("一行", None, None), Case("Text", None, None)]),  # a text may well be "Text"
        ("Text\n一行\n", [Case("Text", None, None), Case("一行", None, None)]),
        (
            "一行\ta,b,a\t财经,a,b\n",
            [Case("一行", (3, 4), (2, 4))],
        ),  # a label with a comma, as in bad cases of .jsonl rows
        ("\ufeff一行\t组织\n", [Case("一行", (0,), None)]),
    ],
)
def test_forms(tmp_path, text, expected):
    assert read(tmp_path, text) == expected


def test_json_lines_and_csv(tmp_path):
    text = '{"text": "一行", "labels": ["a,b"]}\n{"text": "二行"}\n'
    assert read(tmp_path, text, "rows.jsonl") == [Case("一行", (4,), None), Case("二行", None, None)]
    assert read(tmp_path, 'text,label\n"一行,二行",组织\n', "rows.csv") == [Case("一行,二行", (0,), None)]


@pytest.mark.parametrize(
    "text, message",
    [
        ("", "the file is empty"),
        ("Text\tLabel\tPrediction\n", "there are no bad cases"),
        ("\n \n", "no rows in it. Other"),
        (
            "Text\tLabel\tPrediction\n一行\t组织\n",
            "rows.txt:2: 2 columns between TABs; there must be 3, as in the header",
        ),
        ("一行\t组织\t财经\t多\n", "rows.txt:1: 4 columns"),
        ("一行\t组织\t财京\n", "rows.txt:1: unknown label '财京'; did you mean '财经'?"),
        ("\t组织\t财经\n", "rows.txt:1: the text is empty"),
        ("一行\n".encode("utf-16"), "UTF-16"),
    ],
)
def test_what_is_wrong(tmp_path, text, message):
    with pytest.raises(InputError) as error:
        read(tmp_path, text)
    assert message in str(error.value)


def test_all_bad_rows_at_once(tmp_path):
    with pytest.raises(InputError) as error:
        read(tmp_path, "一行\t组识\n二行\t组织\n三行\t材经\t组织\t多\n")
    assert "2 problems" in str(error.value) and "rows.txt:1:" in str(error.value) and "rows.txt:3:" in str(error.value)


def test_bare_names_lie_in_the_directory(tmp_path):
    assert in_directory("data", "bad_case.txt").as_posix() == "data/bad_case.txt"
    assert in_directory("data", "./bad_case.txt").as_posix() == "bad_case.txt"
    assert in_directory("data", str(tmp_path / "x")) == tmp_path / "x"
