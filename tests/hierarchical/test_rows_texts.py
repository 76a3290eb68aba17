"""rows.py: texts to label, in every format: their labels are not shown, blank rows are counted."""

import logging
from collections import Counter

import pytest

from hierarchical.errors import InputError, Problems
from hierarchical.rows import count_texts, load_texts, read_texts, text_of_line
from tests.hierarchical.test_labels import TREE, write


@pytest.mark.parametrize(
    ("line", "text", "counted"),
    [
        ("甲", "甲", {}),
        ("甲\t体育, 财经", "甲", {"labelled": 1}),
        ("甲\t乙\t体育", "甲 乙", {"labelled": 1, "tab": 1}),
        ("甲\t体育\t财经", "甲", {"labelled": 1}),  # as in a table of right and predicted labels
        ("甲\t体育\t", "甲", {"labelled": 1}),  # nothing predicted
        ("甲\t体育，财经", "甲", {"labelled": 1}),  # labels all the same, though not well written
        ("甲\t体育,不认识", "甲", {"labelled": 1}),
        ("甲\t娱乐##电影", "甲", {"labelled": 1}),  # of another tree
        ("甲\t谈体育 与财经", "甲 谈体育 与财经", {"tab": 1}),
        ("甲\t", "甲", {}),
        ("\t体育", "", {"labelled": 1}),
    ],
)
def test_a_text_is_shown_without_its_labels(line, text, counted):
    seen = Counter()
    assert text_of_line(line, TREE, seen) == text and +seen == counted


@pytest.mark.parametrize(
    ("name", "content"),
    [
        ("a", "一\t体育\n\n二 三\n"),
        ("a.txt", " 一\t体育\n\n二\t三\n"),
        ("a.tsv", " 一\t体育\n\n二\t三\n"),
        ("a.jsonl", '{"text": " 一 ", "labels": ["没有"]}\n\n{"text": "二 三"}\n'),
        (
            "a.ndjson",
            '{"text": " 一 ", "label": 3}\n\n{"text": "二 三", "labels": "x"}\n',
        ),  # what is not read is not judged
        ("a.json", '[\n  {\n    "text": "一"\n  },\n  {"text": ""},\n  {"text": "二 三", "labels": [[]]}\n]\n'),
        ("a.csv", 'text,label\n一,没有\n,\n"二 三",\n'),
    ],
)
def test_texts_of_all_formats(tmp_path, name, content):
    seen, problems = Counter(), Problems()
    path = write(tmp_path / name, content)
    assert list(read_texts(path, TREE, problems, seen)) == ["一", "", "二 三"]
    assert seen["blank"] == 1 and problems.shown == []
    assert seen["labelled"] == (name in ("a", "a.txt", "a.tsv")) and seen["tab"] == (name in ("a.txt", "a.tsv"))
    assert count_texts(path, TREE, Counter()) == 3


def test_without_a_tree_nobody_knows_what_a_tab_means(tmp_path):
    problems = Problems()
    path = write(tmp_path / "a.txt", "一\t\n二\t体育\n三\n")
    assert list(read_texts(path, None, problems, Counter())) == ["一", "二\t体育", "三"]
    assert problems.count == 1 and "a.txt:2: a TAB: are labels or more of the text behind it?" in problems.shown[0]


def test_texts_without_labels_and_blank_rows(tmp_path, caplog, printed):
    path = write(tmp_path / "data.txt", "甲\n\n乙 丙\t体育\n丁\n")
    texts = load_texts(path, TREE, "It is for this.", logging.getLogger("hierarchical"))
    assert len(texts) == 3 and [list(texts), list(texts)] == [["甲", "乙 丙", "丁"]] * 2
    assert any("skipped 1 blank rows" in line for line in printed)
    assert any("rows with labels after a TAB: 1" in line for line in printed) and len(printed) == 2
    path.write_text("甲\n乙\n", "utf-8")
    with pytest.raises(InputError, match="was changed while it was read"):
        list(texts)
    for content in ("\n \n", ""):
        with pytest.raises(InputError, match="It is for this."):
            load_texts(
                write(tmp_path / "data.txt", content), TREE, "It is for this.", logging.getLogger("hierarchical")
            )
