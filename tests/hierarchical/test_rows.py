"""rows.py: rows in every format, every fault of theirs, and rows that are written and read back."""

import logging
from collections import Counter

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from hierarchical.errors import InputError, Problems
from hierarchical.labels import LabelTree
from hierarchical.rows import (
    Rows,
    load_reported,
    load_rows,
    multi_hot,
    parse_rows,
    read_rows,
    report_rows,
    require_row_format,
    soft_targets,
    write_rows,
)
from tests.hierarchical.test_labels import PATHS, TREE, deep_labels, write
from tests.memory import peak_bytes
from tests.seconds import least_seconds


def faults_of(path, content, **options):
    """The message of the InputError that reading a file of rows with this content raises."""
    with pytest.raises(InputError) as error:
        load_rows(write(path, content), TREE, **options)
    return str(error.value)


def test_what_starts_a_run_does_not_grow_with_rows_times_labels():
    n_rows, n_labels = 20_000, 10_000  # as bool [N, L] 200 MB
    tree = LabelTree([str(i) for i in range(n_labels)])
    labels = [(i % 997, 1000 + i % 89) for i in range(n_rows)]
    rows, logger = Rows([""] * n_rows, labels, 0, 0), logging.getLogger("nothing")
    counts, peak = peak_bytes(rows.label_counts, n_labels)
    assert np.array_equal(counts, np.bincount(np.ravel(labels), minlength=n_labels))
    assert peak < 1e6
    assert peak_bytes(report_rows, "train.txt", rows, tree, logger)[1] < 15e6  # the distinct sets of labels


@given(st.lists(st.sets(st.integers(0, 4))))
def test_label_counts_are_those_of_multi_hot(labels):
    rows = Rows([""] * len(labels), [tuple(sorted(row)) for row in labels], 0, 0)
    assert rows.label_counts(5).tolist() == rows.multi_hot(5).sum(0).tolist()


def test_equal_label_sets_are_one_object(tmp_path):
    rows = load_rows(write(tmp_path / "rows.txt", "一\t体育,财经\n二\t财经,体育\n"), TREE)
    assert rows.labels[0] is rows.labels[1]


# ---- reading ---------------------------------------------------------------------------------------------------------


GOOD = {
    "rows.txt": "进球\t体育,体育##足球\n升息\t财经\n",
    "rows.jsonl": '{"text": "进球", "labels": ["体育", "体育##足球"]}\n{"labels": ["财经"], "text": "升息", "id": 7}\n',
    "rows.json": '[{"text": "进球",\n "labels": ["体育", "体育##足球"]},\n\n {"text": "升息", "labels": ["财经"]}]\n',
    "rows.csv": "text,label,label\n进球,体育,体育##足球\n升息,财经,\n",
}


@pytest.mark.parametrize("name", GOOD)
@pytest.mark.parametrize(
    "change",
    [
        lambda text: text,
        lambda text: "\ufeff" + text,
        lambda text: text.replace("\n", "\r\n"),
        lambda text: text.removesuffix("\n"),
    ],
    ids=["as is", "BOM", "CRLF", "no last LF"],
)
def test_all_formats_read_alike(tmp_path, name, change):
    rows = load_rows(write(tmp_path / name, change(GOOD[name])), TREE)
    assert rows == (["进球", "升息"], [(0, 1), (3,)], 0, 0)


@pytest.mark.parametrize("name", sorted(GOOD.keys() - {"rows.json"}))
def test_blank_lines_are_counted(tmp_path, name):
    blank = "\n,,\n" if name == "rows.csv" else "\n \t \n"
    rows = load_rows(write(tmp_path / name, GOOD[name] + blank), TREE)
    assert rows.texts == ["进球", "升息"] and rows.blank == 2


def read(path, content, tree=TREE):
    """The rows of a file that has no fault."""
    problems, seen = Problems(), Counter()
    rows = list(read_rows(write(path, content), tree, problems, seen))
    assert problems.shown == []
    return rows


@pytest.mark.parametrize(
    ("row", "labels"),
    [
        ("文\t体育", (0,)),
        ("文\t财经, 体育", (0, 3)),  # a blank after the comma
        ("文\t 体育 ,　财经 ", (0, 3)),
        ("文\t体育,体育,体育", (0,)),  # twice is once
        ("文\t财经##其他##利率,体育", (0, 5)),  # in class order, whatever the row's
        ("文", None),
    ],
)
def test_good_txt_rows(tmp_path, row, labels):
    assert read(tmp_path / "rows.txt", row + "\n") == [(1, "文", labels)]


@pytest.mark.parametrize("char", ["\u2028", "\u2029", "\x85", "\x0b", "\x0c", "\x1c", "\u3000", "\u200b"])
def test_only_lf_ends_a_line(tmp_path, char):
    rows = read(tmp_path / "rows.txt", f"前{char}后\t体育\n二\t财经\n")
    assert [(row.line, row.text) for row in rows] == [(1, f"前{char}后"), (2, "二")]


def test_a_line_of_a_megabyte(tmp_path):
    text = "长" * 350_000
    assert read(tmp_path / "rows.txt", f"{text}\t体育\n")[0].text == text
    message = faults_of(tmp_path / "rows.txt", f"文\t{text}\n")
    assert "unknown label" in message and len(message) < 500
    message = faults_of(tmp_path / "rows.txt", "文\t" + ",".join(map(str, range(100_000))) + "\n")
    assert "and 99997 more wrong labels" in message and len(message) < 500


@pytest.mark.parametrize(
    ("row", "says"),
    [
        ("文\t体育##足求", "did you mean '体育##足球'?"),
        ("文\t足球", "did you mean '体育##足球'?"),
        ("文\t其他", "unknown label '其他'; several labels end so, write the full path: '体育##其他', '财经##其他'"),
        ("文\t3", "unknown label '3'; looks like a class number; line 4 of label.txt is '财经'"),
        ("文\t体育/财经", "ASCII comma"),
        ("文\t体育|财经##其他", "ASCII comma"),
        ("文\t体育 财经", "ASCII comma"),
        ("文\t毫不相干", "none is like it"),
        ("文\t体育，财经", "ASCII comma"),
        ("文\t体育、财经", "ASCII comma"),
        ("文\t体育; 财经", "ASCII comma"),
        ("文\t体育,", "empty label"),
        ("文\t体育,,财经", "empty label"),
        ("文\t", "no label: a row is"),
        ("\t体育", "text is empty"),
        (" \t体育", "text is empty"),
        ("文\t体育\t财经", "2 TABs"),
        ("前\t后\t体育", "2 TABs"),
        ("文", "no label"),
    ],
)
def test_txt_faults(tmp_path, row, says):
    message = faults_of(tmp_path / "rows.txt", f"好\t体育\n\n{row}\n好\t体育\n")
    assert message.startswith("1 problem found") and "rows.txt:3: " in message and says in message


def test_rows_whose_labels_have_another_name_are_not_skipped(tmp_path):
    """They would be missing from the scores, and no one would know."""
    content = '{"text": "好", "labels": ["体育"]}\n{"text": "文", "label": ["体育"]}\n{"text": "无"}\n'
    message = faults_of(tmp_path / "dev.jsonl", content, unlabelled="skip")
    assert message.startswith("1 problem found") and "dev.jsonl:2: unknown field 'label', did you mean" in message


@pytest.mark.parametrize(
    ("name", "content", "says"),
    [
        ("a.txt", "文\n", "no label: a row is text<TAB>label,label,..."),
        ("a.jsonl", '{"text": "文"}\n', 'no label: a row is {"text": "...", "labels": ["...", ...]}'),
        ("a.json", '[{"text": "文"}]\n', 'no label: a row is {"text": "...", "labels": ["...", ...]}'),
        ("a.csv", "text,label\n文,\n", "no label: a row is text,label,label,..."),
    ],
)
def test_what_is_said_of_rows_is_said_in_their_format(tmp_path, name, content, says):
    assert says in faults_of(tmp_path / name, content)
    assert says.replace("no label: a row is", "the file is empty. A row is:") in faults_of(tmp_path / name, "")


def test_unlabelled_rows_can_be_skipped(tmp_path):
    rows = load_rows(write(tmp_path / "dev.txt", "文\n好\t体育\n文二\n"), TREE, unlabelled="skip")
    assert rows == (["好"], [(0,)], 0, 2)


@pytest.mark.parametrize("content", ["\n\n", "文\n"])
def test_a_file_without_labelled_rows(tmp_path, content):
    assert "no labelled row" in faults_of(tmp_path / "dev.txt", content, unlabelled="skip")


def test_not_utf8_is_named_by_line(tmp_path):
    content = "好\t体育\n".encode() + "进球\t体育\n".encode("gbk") + "好\t体育\n".encode() + b"\xff\xfe\n"
    message = faults_of(tmp_path / "rows.txt", content)
    assert "rows.txt:2: byte 1 is not UTF-8 (as GB18030 it reads" in message and "rows.txt:4: " in message
    assert "UTF-16" in faults_of(tmp_path / "rows.txt", "好\t体育\n".encode("utf-16"))


def test_all_faults_at_once_the_first_twenty_in_full(tmp_path):
    message = faults_of(tmp_path / "rows.txt", "文\t不认识的\n" * 25 + "\t体育\n")
    lines = message.splitlines()
    assert lines[0] == "26 problems found" and len(lines) == 22 and lines[-1].strip() == "... and 6 more like these"
    message = faults_of(tmp_path / "rows.txt", "\n".join(["文\t无", "文\t体育,", "\t体育", "文", "a\tb\tc"]))
    assert message.startswith("5 problems") and all(f":{line}: " in message for line in range(1, 6))


@pytest.mark.slow
def test_a_wholly_wrong_large_file_is_reported_soon(tmp_path, monkeypatch):
    """What a label may stand for is looked for where it is shown alone, and the rest takes no longer for being much."""
    labels, looks = deep_labels(), []
    tree = LabelTree(labels)
    monkeypatch.setattr(tree, "nearest", lambda label: looks.append(label) or [])

    def seconds(rows):
        path = write(tmp_path / f"{rows}.txt", "".join(f"文\t{labels[i % 10_000]}误\n" for i in range(rows)))

        def load():
            looks.clear()
            with pytest.raises(InputError, match=f"{rows} problems"):
                load_rows(path, tree)
            assert len(looks) == 20

        return least_seconds(load)

    assert seconds(50_000) < 30 * seconds(5_000)


def test_a_tree_with_one_label(tmp_path):
    tree = LabelTree(["体育"])
    rows = load_rows(write(tmp_path / "rows.txt", "文\t体育\n"), tree)
    assert rows.multi_hot(1).tolist() == [[True]]


def test_jsonl_labels(tmp_path):
    tree = LabelTree(["a,b", "c"])
    labels = ['"labels": ["a,b"], ', '"labels": [], ', "", '"labels": null, ']
    rows = read(tmp_path / "rows.jsonl", "\n".join(f'{{{label}"text": "文"}}' for label in labels), tree)
    assert [row.labels for row in rows] == [(0,), (), None, None]  # [] says that no label applies
    rows = load_rows(tmp_path / "rows.jsonl", tree, unlabelled="skip")
    assert rows.multi_hot(2).tolist() == [[True, False], [False, False]] and rows.unlabelled == 2


@pytest.mark.parametrize(
    ("row", "says"),
    [
        ('{"text": "一", "labels": ["体育"]', "not JSON"),
        ("{'text': '一'}", "which is not JSON"),
        ("[" * 100_000, "not JSON"),
        ('{"a":' * 100_000, "not JSON"),
        ('{"text": "一", "n": ' + "1" * 5_000 + "}", "not JSON"),
        ('{"text": "半\\ud83d", "labels": ["体育"]}', "half a character"),  # which could never be written
        ('{"text": "一", "labels": ["半\\ud83d"]}', "half a character"),
        ("[]", 'a row is one object {"text": "...", "labels": ["...", ...]}, not []'),
        ("3", "a row is one object"),
        ('[{"text": "一", "labels": ["体育"]}]', "the file holds a JSON list, not JSON lines: give it a name"),
        ('{"labels": ["体育"]}', 'no "text" in this row, which has: labels'),
        ('{"id": 3, "Text": "一", "labels": ["体育"]}', "unknown field 'Text', did you mean 'text'?"),
        ('{"text": 3, "labels": ["体育"]}', '"text" must be a text in quotes, not 3'),
        ('{"text": null, "labels": ["体育"]}', '"text" must be a text in quotes, not null'),
        ('{"text": "一", "label": ["体育"]}', "unknown field 'label', did you mean 'labels'?"),
        ('{"text": "一", "Labels": ["体育"]}', "unknown field 'Labels', did you mean 'labels'?"),
        ('{"text": "一", "labels": "体育"}', '"labels" must be a list of names, ["体育"], not "体育"'),
        ('{"text": "一", "labels": {"体育": 1}}', '"labels" must be a list of names, ["...", ...], not {"体育": 1}'),
        (
            '{"text": "一", "labels": [3]}',
            "3 is a number, not the name of a label; looks like a class number; line 4 of",
        ),
        ('{"text": "一", "labels": 3}', "line 4 of label.txt is '财经'"),
        ('{"text": "一", "labels": ["3"]}', "line 4 of label.txt is '财经'"),
        ('{"text": "一", "labels": [99]}', "99 is a number, not the name of a label; none is like it"),
        ('{"text": "一", "labels": [3.5]}', "a label must be a name in quotes, not 3.5"),
        ('{"text": "一", "labels": [true]}', "a label must be a name in quotes, not true"),
        ('{"text": "一", "labels": [null]}', "a label must be a name in quotes, not null"),
        ('{"text": "一", "labels": [["体育"]]}', 'a label must be a name in quotes, not ["体育"]'),
        ('{"text": " ", "labels": ["体育"]}', "text is empty"),
        ('{"text": "一", "labels": [""]}', "empty label"),
        ('{"text": "一", "labels": ["体育,财经"]}', "each label must be an item of its own, not as in '体育,财经'"),
        ('{"text": "一", "labels": ["体育;财经"]}', "each label must be an item of its own, not as in '体育;财经'"),
    ],
)
def test_jsonl_faults(tmp_path, row, says):
    message = faults_of(tmp_path / "rows.jsonl", f'\n{row}\n{{"text": "好", "labels": ["体育"]}}\n')
    assert message.startswith("1 problem found") and "rows.jsonl:2: " in message and says in message


def test_csv_quoting(tmp_path):
    tree = LabelTree(["a,b", "c"])
    content = 'text,label,label\n"说 ""好"", 又\n走了","a,b",c\n\n无,,\n句,c\n'
    rows = read(tmp_path / "rows.csv", content, tree)
    # a row that spans lines is named by its first; trailing commas, as spreadsheets write them, are no labels
    assert rows == [(2, '说 "好", 又\n走了', (0, 1)), (5, "无", None), (6, "句", (1,))]


@pytest.mark.parametrize(
    ("content", "line", "says"),
    [
        ("一,体育\n", 1, "header"),
        ("\n一,体育\n", 1, "header"),
        ("content,label\n一,体育\n", 1, "a header that starts with text must come first, not 'content,label'"),
        ("text;label\n一;体育\n", 1, "columns must be separated by ',', not by ';'"),
        ("text\tlabel\n一\t体育\n", 1, "columns must be separated by ',', not by '\\t'"),
        ("text,label\n一,体育##足求\n", 2, "did you mean"),
        ("text,label\n一,体育;财经\n", 2, "each label must have a column of its own, not as in '体育;财经'"),
        ('text,label\n一,"体育,财经"\n', 2, "each label must have a column of its own"),
        ("text,label\n一,3\n", 2, "line 4 of label.txt is '财经'"),
        ("text,label\n,体育\n", 2, "text is empty"),
        ('text,label\n一,体育\n"二,体育\n三,体育\n', 3, "not CSV"),  # the quote is never closed
        ('text,label\n"二"三,体育\n四,体育\n', 2, "not CSV"),
        (
            "text,label\n一,体育\n".encode() + b"\xff,x\n" + "好,无\n".encode(),
            4,
            "unknown label",
        ),  # counted past line 3
    ],
)
def test_csv_faults(tmp_path, content, line, says):
    message = faults_of(tmp_path / "rows.csv", content)
    assert f"rows.csv:{line}: " in message and says in message


TEXTS = st.text(st.characters(exclude_categories=["Cs"]))


@given(st.lists(st.tuples(TEXTS, st.sets(st.sampled_from(PATHS), min_size=1))))
def test_what_was_written_is_read(tmp_path_factory, rows):
    rows = [(text.strip().translate({9: " ", 10: " ", 13: " "}), labels) for text, labels in rows]
    rows = [(text.strip("\ufeff").strip(), labels) for text, labels in rows if text.strip("\ufeff").strip()]
    path = tmp_path_factory.mktemp("rows") / "rows.txt"
    read_back = read(path, "".join(f"{text}\t{','.join(labels)}\n" for text, labels in rows))
    classes = [tuple(sorted(TREE.index[label] for label in labels)) for _, labels in rows]
    assert read_back == [(i + 1, text, labels) for i, ((text, _), labels) in enumerate(zip(rows, classes))]


def test_multi_hot():
    assert multi_hot([(0, 2), (), (1,)], 3).tolist() == [[True, False, True], [False] * 3, [False, True, False]]
    assert multi_hot([], 3).shape == (0, 3) and multi_hot([()], 3).dtype == bool


def test_soft_targets():
    found = soft_targets([(0, 2), np.array([0.25, 0, 1], np.float32), ()], 3)
    assert found.tolist() == [[1, 0, 1], [0.25, 0, 1], [0, 0, 0]] and found.dtype == np.float32
    assert soft_targets([(1,)], 2).tolist() == [[0, 1]] and soft_targets([], 2).shape == (0, 2)


def test_what_a_file_lacks_is_told(tmp_path, caplog):
    path, logger = (
        write(tmp_path / "dev.txt", "一\t体育##足球\n\n二\t体育,体育##足球\n三\n四\t体育##足球\n"),
        logging.getLogger("told"),
    )
    assert len(load_reported(path, TREE, logger).labels) == 3
    assert [record.getMessage().split(". ")[0] for record in caplog.records] == [
        "dev.txt: skipped 1 blank and 1 unlabelled lines",
        "dev.txt: 2 rows lack a parent of one of their labels, first '一'; it counts as absent",
    ]
    caplog.clear()
    load_reported(path, None, logger)  # names alone: no tree says which labels have parents
    assert len(caplog.records) == 1


# ---- writing ---------------------------------------------------------------------------------------------------------


ROWS = [("前锋进球", ["体育", "体育##足球"]), ('他说：“好”, "ok" 😀', ["财经"])]
HARD_ROWS = [("一\t二\n三", ["a,b"]), ("无关", [])]


@pytest.mark.parametrize(
    "name, rows",
    [
        ("a.txt", ROWS),
        ("a.tsv", ROWS),
        ("a.jsonl", ROWS + HARD_ROWS),
        ("a.ndjson", ROWS + HARD_ROWS),
        ("b.jsonl", [("只有文", None)]),
    ],
)
def test_written_rows_read_back_the_same(tmp_path, name, rows):
    problems = Problems()
    require_row_format(tmp_path / name, "--x", rows)
    write_rows(tmp_path / name, rows)
    assert [(row.text, row.labels) for row in parse_rows(tmp_path / name, problems)] == rows
    assert problems.count == 0


def test_the_lines_of_written_rows(tmp_path):
    write_rows(tmp_path / "a.txt", [*ROWS[:1], ("只有文", None)])
    assert (tmp_path / "a.txt").read_bytes().decode() == "前锋进球\t体育,体育##足球\n只有文\n"


@pytest.mark.parametrize(
    "name, row, fault",
    [
        ("a.txt", ("一\t二", ["体育"]), "TAB"),
        ("a.txt", ("一\n二", None), "line end"),
        ("a.txt", ("一", ["a,b"]), "comma in the label 'a,b'"),
        ("a.txt", ("一", []), "no label"),
        ("a.tsv", ("一\t二", ["体育"]), "TAB"),
        ("a.csv", ("一", ["体育"]), "not .csv"),
        ("a.json", ("一", ["体育"]), "not .json"),
        ("a.xlsx", ("一", ["体育"]), "not .xlsx"),
    ],
)
def test_rows_that_a_format_cannot_hold(tmp_path, name, row, fault):
    with pytest.raises(InputError, match=fault) as caught:
        require_row_format(tmp_path / name, "--aug_path", [row])
    assert "--aug_path" in str(caught.value)
