"""utils.py: the label tree, rows in three formats with every fault a file can have, batches, writing, exit codes."""

import argparse
import errno
import os
import signal
import subprocess
import sys
import time
from collections import Counter
from contextlib import nullcontext
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

import utils
from utils import (
    InputError,
    LabelTree,
    Problems,
    atomic_write,
    check_minima,
    length_sorted_batches,
    levels_text,
    load_rows,
    multi_hot,
    pad,
    parse_rows,
    read_rows,
    require_file,
    require_outputs,
    require_row_format,
    write_rows,
)

ROOT = Path(__file__).resolve().parents[1]
PATHS = ["体育", "体育##足球", "体育##其他", "财经", "财经##其他", "财经##其他##利率"]
TREE = LabelTree(PATHS)


def write(path, content):
    path.write_bytes(content if isinstance(content, bytes) else content.encode("utf-8"))
    return path


def faults_of(path, content, tree=TREE, **options):
    """The message of the InputError that reading a file with this content raises."""
    with pytest.raises(InputError) as error:
        load_rows(write(path, content), tree, **options) if tree else LabelTree.read(write(path, content))
    return str(error.value)


# ---- the label tree --------------------------------------------------------------------------------------------------


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
        ("a\nb##c\n", 2, "add the line 'b'"),
        ("a\na##b##c\n", 2, "add the line 'a##b'"),
        ("a\nb\tc\n", 2, "a TAB"),
        ("体育\n足球\n".encode("gbk"), 1, "'体育'"),  # read as what it is, so that the user recognises it
        ("体育\n".encode() + b"\xff\xff\n", 2, "not UTF-8"),
        ("体育\n".encode("utf-16"), 1, "UTF-16"),
    ],
)
def test_label_file_faults_name_the_line(tmp_path, content, line, says):
    message = faults_of(tmp_path / "label.txt", content, tree=None)
    assert f"label.txt:{line}: " in message and says in message


def test_all_label_faults_at_once_and_each_once(tmp_path):
    message = faults_of(tmp_path / "label.txt", "a\na\nb##c\na##\n d##e##f", tree=None)
    assert message.startswith("4 problems found") and len(message.splitlines()) == 5


@pytest.mark.parametrize("content", ["", "\n \n", "\ufeff"])
def test_label_file_without_labels(tmp_path, content):
    assert "label.txt" in faults_of(tmp_path / "label.txt", content, tree=None)


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
    path = write(tmp_path / "label.txt", "\n".join(deep_labels()))
    started = time.process_time()
    tree = LabelTree.read(path)
    assert time.process_time() - started < 1
    assert len(tree) == 10_000 and tree.depth == 8 and tree.ancestors(7) == list(range(7))


@pytest.mark.parametrize(
    ("unknown", "known"),
    [
        ("足球", "体育##足球"),  # the name alone
        ("体育#足球", "体育##足球"),
        ("体育##足求", "体育##足球"),
        ("财经##其它##利率", "财经##其他##利率"),
        ("完全不同", None),
        ("", None),
    ],
)
def test_nearest(unknown, known):
    assert TREE.nearest(unknown) == known


def test_nearest_among_many():
    labels = deep_labels()
    tree = LabelTree(labels)
    started = time.process_time()
    for i in (7, 100, 9_999):
        assert tree.nearest(labels[i] + "误") == labels[i]
    tree.nearest("长" * 1_000_000)
    assert time.process_time() - started < 2


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


# ---- rows ------------------------------------------------------------------------------------------------------------

GOOD = {
    "rows.txt": "进球\t体育,体育##足球\n升息\t财经\n",
    "rows.jsonl": '{"text": "进球", "labels": ["体育", "体育##足球"]}\n{"labels": ["财经"], "text": "升息", "id": 7}\n',
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
def test_three_formats_read_alike(tmp_path, name, change):
    rows = load_rows(write(tmp_path / name, change(GOOD[name])), TREE)
    assert rows == (["进球", "升息"], [(0, 1), (3,)], 0, 0)


@pytest.mark.parametrize("name", GOOD)
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
        ("文\t毫不相干", "none is like it"),
        ("文\t体育，财经", "ASCII comma"),
        ("文\t体育、财经", "ASCII comma"),
        ("文\t体育; 财经", "ASCII comma"),
        ("文\t体育,", "empty label"),
        ("文\t体育,,财经", "empty label"),
        ("文\t", "empty label"),
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


def test_a_wholly_wrong_large_file_is_reported_soon(tmp_path):
    labels = deep_labels()
    content = "".join(f"文\t{labels[i % 10_000]}误\n" for i in range(50_000))
    path, tree = write(tmp_path / "rows.txt", content), LabelTree(labels)
    started = time.process_time()
    with pytest.raises(InputError, match="50000 problems"):
        load_rows(path, tree)
    assert time.process_time() - started < 5


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
        ("{'text': '一'}", "not JSON"),
        ("[" * 100_000, "not JSON"),
        ('{"a":' * 100_000, "not JSON"),
        ('{"text": "一", "n": ' + "1" * 5_000 + "}", "not JSON"),
        ('{"text": "半\\ud83d", "labels": ["体育"]}', "not JSON"),  # half of a pair could never be written
        ('{"text": "一", "labels": ["半\\ud83d"]}', "not JSON"),
        ("[]", "one object on one line"),
        ("3", "one object on one line"),
        ('[{"text": "一", "labels": ["体育"]}]', "one object on one line"),
        ('{"labels": ["体育"]}', "one object on one line"),
        ('{"text": 3, "labels": ["体育"]}', "one object on one line"),
        ('{"text": "一", "labels": "体育"}', "one object on one line"),
        ('{"text": "一", "labels": {"体育": 1}}', "one object on one line"),
        ('{"text": "一", "labels": [3]}', "one object on one line"),
        ('{"text": "一", "labels": [null]}', "one object on one line"),
        ('{"text": "一", "labels": [["体育"]]}', "one object on one line"),
        ('{"text": " ", "labels": ["体育"]}', "text is empty"),
        ('{"text": "一", "labels": [""]}', "empty label"),
        ('{"text": "一", "labels": ["体育,财经"]}', "unknown label"),
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
        ("text,label\n一,体育##足求\n", 2, "did you mean"),
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


# ---- targets and batches ---------------------------------------------------------------------------------------------


def test_multi_hot():
    assert multi_hot([(0, 2), (), (1,)], 3).tolist() == [[True, False, True], [False] * 3, [False, True, False]]
    assert multi_hot([], 3).shape == (0, 3) and multi_hot([()], 3).dtype == bool


def test_length_sorted_batches():
    assert [batch.tolist() for batch in length_sorted_batches([3, 9, 5, 9], 3)] == [[1, 3, 2], [0]]
    assert length_sorted_batches([], 8) == []


def test_pad():
    padded = pad([[1, 7, 2], [1, 2]], pad_id=9)
    assert padded.tolist() == [[1, 7, 2], [1, 2, 9]] and padded.dtype == np.int64


# ---- writing and ending ----------------------------------------------------------------------------------------------


def test_atomic_write(tmp_path):
    path = tmp_path / "文件.txt"
    with atomic_write(path) as file:
        file.write("一\n")
        assert not path.exists()
    assert path.read_bytes() == "一\n".encode()
    with atomic_write(path, "wb") as file:
        file.write(b"\r\n")
    assert path.read_bytes() == b"\r\n" and os.listdir(tmp_path) == ["文件.txt"]


@pytest.mark.parametrize("failure", [ValueError("x"), KeyboardInterrupt(), OSError(errno.ENOSPC, "No space left")])
def test_a_failed_write_leaves_the_old_file(tmp_path, failure):
    path = write(tmp_path / "a.txt", "old")
    with pytest.raises(type(failure)) as error, atomic_write(path) as file:
        file.write("new")
        raise failure
    assert path.read_text() == "old" and os.listdir(tmp_path) == ["a.txt"]
    if isinstance(failure, OSError):
        assert error.value.filename == str(path)


def test_atomic_write_where_nothing_can_be_written(tmp_path):
    with pytest.raises(OSError), atomic_write(tmp_path / "nowhere" / "a.txt"):
        pass


def test_outputs_are_different_files(tmp_path):
    one, other = tmp_path / "one", tmp_path / "other"
    require_outputs({"--one": one, "--other": other}, [tmp_path / "rows"])
    with pytest.raises(InputError, match="--one and --other must have different names"):
        require_outputs({"--one": one, "--other": tmp_path / ".." / tmp_path.name / "one"}, [])
    with pytest.raises(InputError, match="--other would overwrite"):
        require_outputs({"--one": one, "--other": other}, [other])


@pytest.mark.parametrize("value, wrong", [(2, False), (None, False), (1, True), (float("nan"), True)])
def test_minima(capsys, value, wrong):
    with pytest.raises(SystemExit) if wrong else nullcontext():
        check_minima(argparse.ArgumentParser(), argparse.Namespace(a=9, b=value), a=9, b=2)
    assert (f"argument --b: must be at least 2, got {value}" in capsys.readouterr().err) == wrong


def test_require_file(tmp_path):
    assert require_file(write(tmp_path / "a", "x"), "") is None
    with pytest.raises(InputError, match="empty. The hint."):
        require_file(write(tmp_path / "a", ""), "The hint.")


def ended(code, **options):
    """A process that runs `code` as the main() of a script."""
    body = "".join(f"    {line}\n" for line in code.splitlines())
    command = [sys.executable, "-c", f"import sys, errno, utils\ndef main():\n{body}utils.run(main)"]
    return subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=60, encoding="utf-8", **options)


@pytest.mark.parametrize(
    ("code", "status", "says"),
    [
        ("pass", 0, ""),
        ("raise utils.InputError('文件: 坏了')", 2, "error: 文件: 坏了"),
        ("open('no/such/file')", 2, "error: no/such/file: No such file or directory"),
        ("raise OSError(errno.ENOSPC, 'No space left on device')", 2, "free disk space"),
        ("raise BrokenPipeError()", 0, ""),
        ("raise KeyboardInterrupt()", 130, ""),
        ("sys.exit(7)", 7, ""),
    ],
)
def test_exit_codes(code, status, says):
    done = ended(code, env=os.environ | {"PYTHONIOENCODING": "utf-8"})
    assert done.returncode == status and says in done.stderr and "Traceback" not in done.stderr
    assert bool(done.stderr) == bool(says)


def test_a_bug_keeps_its_traceback():
    done = ended("1 / 0")
    assert done.returncode == 1 and "ZeroDivisionError" in done.stderr


# ---- writing rows ----------------------------------------------------------------------------------------------------

ROWS = [("前锋进球", ["体育", "体育##足球"]), ('他说：“好”, "ok" 😀', ["财经"])]
HARD_ROWS = [("一\t二\n三", ["a,b"]), ("无关", [])]


@pytest.mark.parametrize(
    "name, rows", [("a.txt", ROWS), ("a.jsonl", ROWS + HARD_ROWS), ("b.jsonl", [("只有文", None)])]
)
def test_written_rows_read_back_the_same(tmp_path, name, rows):
    problems = Problems()
    require_row_format(tmp_path / name, "--x", rows)
    write_rows(tmp_path / name, rows)
    assert [(text, names) for _, text, names in parse_rows(tmp_path / name, problems)] == rows
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
        ("a.csv", ("一", ["体育"]), "not .csv"),
    ],
)
def test_rows_that_a_format_cannot_hold(tmp_path, name, row, fault):
    with pytest.raises(InputError, match=fault) as caught:
        require_row_format(tmp_path / name, "--aug_path", [row])
    assert "--aug_path" in str(caught.value)


@pytest.mark.skipif(not hasattr(signal, "SIGPIPE"), reason="pipes of POSIX")
@pytest.mark.parametrize("lines", [10, 100_000])  # written at the end, or on the way
def test_a_reader_that_leaves_early_is_no_error(lines):
    code = f"import utils\ndef main():\n    for i in range({lines}): print(i)\nutils.run(main)"
    reader, writer = os.pipe()
    os.close(reader)
    env = {name: value for name, value in os.environ.items() if name != "PYTHONUNBUFFERED"}
    command = [sys.executable, "-c", code]
    done = subprocess.run(command, cwd=ROOT, stdout=writer, stderr=subprocess.PIPE, timeout=60, env=env)
    os.close(writer)
    assert (done.returncode, done.stderr) == (0, b"")


def test_a_terminal_without_the_character():
    done = ended("print('体育 😀')", env=os.environ | {"PYTHONIOENCODING": "ascii"})
    assert done.returncode == 0 and done.stdout == "\\u4f53\\u80b2 \\U0001f600\n"


def test_the_logger_writes_to_a_file_as_well(tmp_path):
    code = f"log = utils.get_logger({str(tmp_path / 'a.log')!r})\nlog.info('训练')\nutils.get_logger().warning('完')"
    done = ended(code, env=os.environ | {"PYTHONIOENCODING": "utf-8"})
    written = (tmp_path / "a.log").read_text(encoding="utf-8")
    assert done.stderr == written and len(written.splitlines()) == 2 and "[    INFO] - 训练" in written


def test_no_framework_is_loaded():
    done = ended("print(any(name in sys.modules for name in ('paddle', 'paddlenlp', 'torch')))")
    assert done.stdout == "False\n" and utils.SEPARATOR == "##"
