"""formats.py: which format a file has by its name, what it plainly has instead, and what is told once."""

import gzip
import io
import json
import os
import sys
import threading
import time
import zipfile
from collections import Counter

import pytest

from hierarchical.errors import InputError, Problems
from hierarchical.formats import format_of
from hierarchical.rows import load_rows, parse_rows, read_texts
from tests.hierarchical.test_labels import TREE, write

OBJECT, ROWS = (
    '{"text": "进球", "labels": ["体育"]}',
    '[{"text": "进球", "labels": ["体育"]}, {"text": "升息", "labels": ["财经"]}]',
)
PRETTY = json.dumps(json.loads(ROWS), ensure_ascii=False, indent=2)


def texts_of(path):
    """(texts, what is wrong) of a file to predict."""
    problems = Problems()
    return list(read_texts(path, TREE, problems, Counter())), problems.shown


# ---- names -----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("name", "suffix"),
    [
        ("rows", ".txt"),
        ("a.b/rows", ".txt"),
        ("-", ".txt"),
        ("rows.txt", ".txt"),
        ("rows.TXT", ".txt"),
        ("rows.tsv", ".txt"),
        ("rows.jsonl", ".jsonl"),
        ("rows.ndjson", ".jsonl"),
        ("rows.json", ".json"),
        ("rows.csv", ".csv"),
    ],
)
def test_the_table_of_suffixes(name, suffix):
    assert format_of(name).suffix == suffix


@pytest.mark.parametrize(
    ("name", "says"),
    [
        (
            "rows.xlsx",
            "convert.py makes a data folder of it. Or save the sheet as CSV in UTF-8; its first line must be: text,label,label,...",
        ),
        ("rows.XLS", "Save the sheet as CSV"),
        ("rows.jsonl.gz", "convert.py makes a data folder of it. Or unpack it"),
        ("rows.zip", "Unpack it"),
        ("rows.docx", "plain text in UTF-8"),
        ("rows.parquet", "convert.py makes a data folder of it."),
        ("rows.2024", "If it holds lines of text, give it a name that ends in .txt."),
    ],
)
def test_other_names_are_refused_once_with_what_is_possible(tmp_path, name, says):
    path = write(tmp_path / name, "文\t体育\n" * 100)
    for read in (lambda: load_rows(path, TREE), lambda: texts_of(path)):
        with pytest.raises(InputError) as error:
            read()
        message = str(error.value)
        assert message.count(name) == 1 and f"and .csv, not from {path.suffix.lower()}. " in message and says in message


# ---- contents --------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("name", "content", "says"),
    [
        ("a.txt", OBJECT, "1: the file holds JSON lines, not lines of text: give it a name that ends in .jsonl"),
        ("a.tsv", f"\n{OBJECT}\n{OBJECT}", "2: the file holds JSON lines, not lines of text"),
        ("a", OBJECT, "1: the file holds JSON lines"),
        ("a.txt", ROWS, "1: the file holds a JSON list, not lines of text: give it a name that ends in .json"),
        ("a.txt", PRETTY, "1: the file holds a JSON list"),
        ("a.csv", ROWS, "1: the file holds a JSON list, not CSV"),
        ("a.csv", OBJECT, "1: the file holds JSON lines, not CSV"),
        ("a.jsonl", ROWS, "1: the file holds a JSON list, not JSON lines: give it a name that ends in .json"),
        ("a.jsonl", PRETTY, "1: the file holds a JSON list, not JSON lines"),
        ("a.json", f"{OBJECT}\n{OBJECT}", "1: the file holds JSON lines, not a JSON list"),
        ("a.jsonl", '{\n "text": "进球"\n}\n' * 20, "1: the file holds JSON objects over several lines: write each on one"),
        ("a.txt", '{\n "text": "进球"\n}\n' * 20, "1: the file holds JSON objects over several lines"),
        ("a.json", '{\n "text": "进球"\n}\n' * 20, "1: the file holds JSON objects over several lines"),
        ("a.jsonl", "{'text': '进球', 'labels': ['体育']}\n" * 20, "1: the file holds objects as Python prints them"),
        ("a.txt", "{'text': '进球', 'labels': ['体育']}\n" * 20, "1: the file holds objects as Python prints them"),
        ("a.json", "[{'text': '进球', 'labels': ['体育']}]", "write them with json.dumps(row, ensure_ascii=False)"),
        ("a.json", "进球\t体育\n" * 20, "1: the file begins with '进球\\t体育', where a list of rows must stand: [{"),
        ("a.jsonl", "进球\t体育\n" * 20, "1: the file begins with '进球\\t体育', not with an object: lines of text need"),
        ("a.txt", "text\tlabel\n" + "进球\t体育\n" * 20, "1: 'text\\tlabel' looks like a header; rows begin with the first line"),
        ("a.txt", "text\n" + "进球\n" * 20, "1: 'text' looks like a header; rows begin with the first line: remove it"),
        ("a.txt", "\n内容\t标签1\t标签2\n", "2: '内容\\t标签1\\t标签2' looks like a header"),
        ("a.txt", "id,text,label\n1,进球,体育\n", "remove it, or give CSV a name that ends in .csv"),
        ("a.txt", "Text\tLabel\tPrediction\n进球\t体育\t财经\n", "1: 'Text\\tLabel\\tPrediction' looks like a header"),
    ],
)  # fmt: skip
def test_what_plainly_is_another_format_is_told_once(tmp_path, name, content, says):
    path = write(tmp_path / name, content)
    with pytest.raises(InputError) as error:
        load_rows(path, TREE)
    first, *lines = str(error.value).splitlines()
    if "header" not in says or "CSV" in says:
        assert first == "1 problem found" and len(lines) == 1
        assert texts_of(path)[0] == []
    assert f"{path}:" in lines[0] and says in lines[0]
    assert says in texts_of(path)[1][0]


@pytest.mark.parametrize(
    "text",
    [
        "[图片] 国足今晚出战",
        '["快讯"] 国足今晚出战',
        "{{模板}} 国足今晚出战",
        "[",
        "[{}]",
        "{",
        "{国足}: 今晚",
        "text 今晚",
        "内容",
        "label",
        "文本,我的",
        "标签,类别",
    ],
)
def test_texts_that_only_look_a_little_like_it(tmp_path, text):
    for name in ("a.txt", "a"):
        assert texts_of(write(tmp_path / name, f"{text}\n二\n三\n")) == ([text, "二", "三"], [])


PACKED = {
    "zip": b"PK\x03\x04\x14\x00\x06\x00\n\xff\n" * 50,
    "gzip": gzip.compress("文\t体育\n".encode() * 1000),
    ".xls": b"\xd0\xcf\x11\xe0\xa1\xb1\x1a\xe1\n\xff" * 50,
    "PDF": b"%PDF-1.7\n%\xe2\xe3\xcf\xd3\n" * 50,
    "Parquet": b"PAR1\x15\x04\x15\n\xff\xff\n" * 50,
    "bzip2": b"BZh91AY&SY\n\xff\n" * 50,
    "UTF-16": "文\t体育\n".encode("utf-16") * 50,
    "UTF-16 without a mark": "text\tsport\n".encode("utf-16-le") * 50,
    "no text at all": bytes(5000),
}


@pytest.mark.parametrize("kind", PACKED)
@pytest.mark.parametrize("name", ["a.txt", "a.csv", "a.jsonl", "a.json"])
def test_what_is_no_text_is_told_once(tmp_path, kind, name):
    path = write(tmp_path / name, PACKED[kind])
    with pytest.raises(InputError) as error:
        load_rows(path, TREE)
    message = str(error.value)
    assert message.startswith("1 problem found\n") and f"{path}:1: the file is " in message and kind in message
    texts, told = texts_of(path)
    assert texts == [] and len(told) == 1


def test_a_real_spreadsheet_under_a_wrong_name(tmp_path):
    with zipfile.ZipFile(tmp_path / "a.csv", "w") as file:
        file.writestr("xl/sharedStrings.xml", "文" * 1000)
    texts, (told,) = texts_of(tmp_path / "a.csv")
    assert (
        "a.csv:1: the file is a zip file, as spreadsheets (.xlsx) are, too; unpack it, or save the sheet as CSV" in told
    )


# ---- JSON lists ------------------------------------------------------------------------------------------------------


def test_rows_of_a_list_are_named_by_their_lines(tmp_path):
    content = '\n[\n  {"text": "一",\n   "labels": ["体玉"]}\n,\n\n  {"text": "二"}, {"text": 3},\n{"text": "四", "x": [1]}\n\n]\n'
    path, problems = write(tmp_path / "a.json", content), Problems()
    rows = list(parse_rows(path, problems))
    assert [(row.line, row.text, row.labels, row.others) for row in rows] == [
        (3, "一", ["体玉"], {}),
        (7, "二", None, {}),
        (8, "四", None, {"x": [1]}),
    ]
    assert problems.shown == [f'{path}:7: "text" must be a text in quotes, not 3']
    with pytest.raises(InputError, match="a.json:3: unknown label '体玉'; did you mean '体育'"):
        load_rows(path, TREE)


@pytest.mark.parametrize(
    ("content", "line", "says"),
    [
        ('[\n{"text": "一"},\n{"text": "二"\n', 3, "not JSON: Expecting ',' delimiter"),
        ('[{"text": "一"}', 1, "not JSON: Expecting ',' or ']', at character 15"),
        ('[\n{"text": "一"}\n{"text": "二"}]', 3, "not JSON: Expecting ',' or ']', at character 1"),
        ('[\n{"text": "一"},\n]', 3, "not JSON: Expecting value, at character 1"),
        ('[\n{"text": "一"},\n{"text": 二}]', 3, "not JSON: Expecting value, at character 10"),
        ('[\n{"text": "一"}]\n[{"text": "二"}]', 3, "something stands behind the end of the list"),
        ("[" * 100_000, 1, "not JSON"),
        ('["一", "二"]', 1, 'a row is one object {"text": "...", "labels": ["...", ...]}, not "一"'),
    ],
)
def test_a_broken_list(tmp_path, content, line, says):
    told = texts_of(write(tmp_path / "a.json", content))[1]
    assert f"a.json:{line}: {says}" in told[0]


def test_an_empty_list_has_no_row(tmp_path):
    assert texts_of(write(tmp_path / "a.json", "[ ]\n")) == ([], [])
    with pytest.raises(InputError, match="no labelled row in it"):
        load_rows(tmp_path / "a.json", TREE)


def test_a_long_list_takes_no_longer_than_its_lines(tmp_path):
    """A list on one line, whose rest must not be copied for every row."""
    rows = [{"text": f"第{i}条", "labels": ["体育"]} for i in range(20_000)]
    path, started = write(tmp_path / "a.json", json.dumps(rows, ensure_ascii=False)), time.process_time()
    assert len(load_rows(path, TREE).texts) == 20_000
    assert time.process_time() - started < 3


# ---- pipes -----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "content",
    [f'\n{OBJECT}\n{{"text": "升息"}}\n', ROWS, PRETTY, "[\n\n" + ROWS[1:], "进球\t体育\n升息\n"],
    ids=["lines", "list", "pretty list", "list over lines", "text"],
)
@pytest.mark.parametrize("stream", ["stdin", "pipe"])
def test_json_in_a_pipe_is_told_by_its_beginning(tmp_path, monkeypatch, content, stream):
    if stream == "stdin":
        monkeypatch.setattr(sys, "stdin", io.TextIOWrapper(io.BytesIO(content.encode())))
        path, writer = "-", threading.Thread()
    else:
        path = tmp_path / "pipe"
        os.mkfifo(path)
        writer = threading.Thread(target=path.write_text, args=(content, "utf-8"))
    if stream == "pipe":
        writer.start()
    texts, told = texts_of(path)
    assert [text for text in texts if text] == ["进球", "升息"] and told == []
    if stream == "pipe":
        writer.join()


def test_the_first_line_of_a_pipe_is_enough(monkeypatch):
    """Whoever types texts must not wait for more lines to be told of."""

    class Typed(io.BytesIO):
        def readline(self, *size):
            assert self.tell() == 0, "a second line was asked for"
            return super().readline(*size)

        __next__ = readline

    monkeypatch.setattr(sys, "stdin", io.TextIOWrapper(Typed("进球\n升息\n".encode())))
    assert next(read_texts("-", TREE, Problems(), Counter())) == "进球"


def test_objects_over_several_lines_in_a_pipe(monkeypatch):
    monkeypatch.setattr(sys, "stdin", io.TextIOWrapper(io.BytesIO(b'{\n "text": "a"\n}\n')))
    assert texts_of("-") == ([], ["-:1: the file holds JSON objects over several lines: write each on one line "
                                  "(`jq -c .` does) into a file that ends in .jsonl"])  # fmt: skip
