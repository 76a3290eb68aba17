"""Answers and the training file, over several rounds: no row is lost or doubled, nothing is asked twice."""

import json
import shutil
from collections import Counter

import pytest

import doccano
from analysis import dirty
from analysis.merging import line_of, read_whole
from hierarchical.ledger import Ledger, id_of
from tests.analysis.conftest import PLANTED, TREE, planted_rows
from utils import LabelTree, run


@pytest.fixture
def log(log_of):
    log_of(doccano)
    return log_of(dirty)


@pytest.fixture
def folder(data_dir):
    """A data folder of 100 rows, three of them wrong."""
    train = planted_rows()
    lines = [f"{text}\t{','.join(TREE.labels[i] for i in labels)}" for text, labels in zip(train.texts, train.labels)]
    return data_dir(label_txt="\n".join(TREE.labels), train_txt="\n".join(lines) + "\n")


@pytest.fixture
def call(folder, log):
    def call(*flags):
        dirty.main(["--dataset_dir", str(folder), *map(str, flags)])

    return call


@pytest.fixture
def annotate(folder, tmp_path):
    """annotate(answer, flags): rows go out, and come back as answer(record) makes them; None: it is not exported."""

    def annotate(answer, *flags, source="train_dirty.jsonl", via="--dirty"):
        out = tmp_path / "relabel"
        shutil.rmtree(out, ignore_errors=True)
        doccano.main(["--annotate_file", str(folder / source), "--save_dir", str(out)])
        records = [json.loads(line) for line in (out / "doccano_import.jsonl").read_text("utf-8").splitlines()]
        back = [one for one in map(answer, records) if one]
        (tmp_path / "ann.jsonl").write_text("".join(json.dumps(one) + "\n" for one in back), "utf-8")
        arguments = [tmp_path / "ann.jsonl", "--task_type", "hierarchical", "--save_dir", folder, via, *flags]
        doccano.main(["--doccano_file", *map(str, arguments)])

    return annotate


def confirm(record):
    return record


def other(record):
    return record | {"label": ["财经"] if record["label"] == ["组织##裁员"] else ["组织##裁员"]}


def read(path):
    return path.read_text("utf-8").splitlines()


def texts(path):
    return [line.split("\t")[0] for line in read(path)]


# ---- rounds ----------------------------------------------------------------------------------------------------------


def test_what_is_confirmed_is_not_asked_again(call, folder, annotate):
    asked = []
    for _ in range(4):
        call("--dirty_num", 20)
        asked += texts(folder / "train_dirty.txt")
        annotate(confirm)
    assert len(asked) == 80 == len(set(asked))
    call("--dirty_num", 99)
    assert not {*texts(folder / "train_dirty.txt")} & {*asked} and len(read(folder / "train_dirty.txt")) == 20


def test_answers_of_one_round_and_the_rest_file_of_another(call, folder, annotate):
    train = read(folder / "train.txt")
    call("--dirty_num", 3)
    rest = (folder / "train_dirty_rest.txt").read_bytes()
    annotate(other)
    call("--dirty_num", 30, "--seed", 7)
    annotate(confirm)
    (folder / "train_dirty_rest.txt").write_bytes(rest)
    call("--merge")
    clean = read(folder / "train_clean.txt")
    assert texts(folder / "train_clean.txt") == texts(folder / "train.txt")
    changed = [i for i, (now, then) in enumerate(zip(clean, train)) if now != then]
    assert tuple(changed) == PLANTED
    assert [clean[i].split("\t")[1] for i in changed] == ["组织,组织##裁员" if i % 2 else "财经" for i in changed]


def test_rows_that_were_put_right_count_as_they_are_now(call, folder, annotate):
    call("--dirty_num", 3)
    assert Counter(texts(folder / "train_dirty.txt")) == Counter(planted_rows().texts[i] for i in PLANTED)
    annotate(other)
    call("--dirty_num", 97)
    right = [f"{planted_rows().texts[i]}\t{'组织,组织##裁员' if i % 2 else '财经'}" for i in PLANTED]
    assert read(folder / "train_dirty_rest.txt") == right  # they rest


def test_answers_that_are_not_merged_are_not_overwritten(call, folder, annotate, capsys):
    call("--dirty_num", 3)
    lines = read(folder / "train_dirty.txt")
    (folder / "train_dirty.txt").write_text("\n".join([f"{lines[0].split(chr(9))[0]}\t组织", *lines[1:]]), "utf-8")
    edited = (folder / "train_dirty.txt").read_bytes()
    with pytest.raises(SystemExit) as ended:
        run(lambda: call("--dirty_num", 3))
    assert (
        ended.value.code == 2
        and "1 of its rows have been labelled by hand and are not yet merged" in capsys.readouterr().err
    )
    assert (folder / "train_dirty.txt").read_bytes() == edited
    call("--merge")
    call("--dirty_num", 3)  # now they are in the ledger
    assert Ledger(folder).verdict(id_of(lines[0].split("\t")[0])).labels == ("组织",)
    # What came back from the tool is in the ledger at once, so the file may go; a second import needs no --overwrite.
    annotate(confirm)
    annotate(confirm)
    call("--dirty_num", 3)


def test_a_row_that_nobody_touched_in_the_file_takes_no_answer_back(call, folder):
    """One row is answered elsewhere, another by editing the file, in which the first still has its old labels."""
    call("--dirty_num", 3)
    lines = read(folder / "train_dirty.txt")
    ledger = Ledger(folder)
    first, second = (line.split("\t")[0] for line in lines[:2])
    ledger.add([ledger.answer(first, "ann", ["财经"], via="page")])
    (folder / "train_dirty.txt").write_text("\n".join([lines[0], f"{second}\t组织", lines[2]]) + "\n", "utf-8")
    call("--merge")
    clean = dict(line.split("\t") for line in read(folder / "train_clean.txt"))
    assert (clean[first], clean[second]) == ("财经", "组织")
    assert len(Ledger(folder).decisions[id_of(first)]) == 2  # asked, and answered once


def test_a_text_that_was_edited_is_merged_once_train_has_it(call, folder, log):
    call("--dirty_num", 3)
    lines = read(folder / "train_dirty.txt")
    text = lines[0].split("\t")[0]
    (folder / "train_dirty.txt").write_text("\n".join([f"{text}。改\t组织", *lines[1:]]) + "\n", "utf-8")
    call("--merge")
    assert "1 texts in it are not in train.txt" in log.text
    train = folder / "train.txt"
    train.write_text(train.read_text("utf-8").replace(f"{text}\t", f"{text}。改\t"), "utf-8")
    call("--merge")  # as the log advises
    assert dict(line.split("\t") for line in read(folder / "train_clean.txt"))[f"{text}。改"] == "组织"


def test_rows_that_stay_as_they_were_are_named(call, folder, annotate, log):
    call("--dirty_num", 4)
    first, second, third, fourth = (json.loads(line)["text"] for line in read(folder / "train_dirty.jsonl"))

    def answer(record):
        if record["text"] == first:
            return record | {"text": first + "（已改）", "label": ["财经"]}
        if record["text"] == second:
            return record | {"label": []}  # doccano: not annotated
        return other(record) if record["text"] == third else None

    annotate(answer)
    ledger = Ledger(folder)
    ledger.add([ledger.answer(fourth, "bob", None)])
    call("--merge")
    clean, train = (dict(line.split("\t") for line in read(folder / name)) for name in ("train_clean.txt", "train.txt"))
    assert list(clean) == list(train) and [text for text in train if clean[text] != train[text]] == [third]
    why = {row["text"]: row["why"] for row in map(json.loads, read(folder / "train_open.jsonl"))}
    assert why == {
        first: f"ann edited the text: put it into the training file: {first}（已改）",
        second: "asked, no answer yet",
        fourth: "skipped by bob: ask somebody else",
    }
    assert "3 rows were asked about and keep their labels, 1 of them without an answer yet" in log.text
    # The remedy works: with the new text in the training file its answer counts.
    content = (folder / "train.txt").read_text("utf-8").replace(f"{first}\t", f"{first}（已改）\t")
    (folder / "train.txt").write_text(content, "utf-8")
    call("--merge")
    assert dict(line.split("\t") for line in read(folder / "train_clean.txt"))[f"{first}（已改）"] == "财经"


def test_three_against_one(call, folder, annotate, tmp_path):
    call("--dirty_num", 1)
    (text,) = texts(folder / "train_dirty.txt")
    ledger = Ledger(folder)
    ledger.add(ledger.answer(text, who, ["财经"] if who == "di" else ["组织"]) for who in ("ann", "bob", "cy", "di"))
    before = dict(line.split("\t") for line in read(folder / "train.txt"))[text]

    def merged(*flags):
        call("--merge", *flags)
        return dict(line.split("\t") for line in read(folder / "train_clean.txt"))[text]

    assert merged() == before and "ann: 组织; bob: 组织; cy: 组织; di: 财经" in read(folder / "train_open.jsonl")[0]
    assert merged("--resolve", "majority") == "组织" and read(folder / "train_open.jsonl") == []
    assert merged("--resolve", "newest") == "财经" and merged("--resolve", "common_ancestor") == before


# ---- new texts -------------------------------------------------------------------------------------------------------


def test_texts_that_were_labelled_become_rows(call, folder, annotate):
    (folder / "support.txt").write_text("门将扑出点球\n前锋梅开二度\n央行下调利率\n", "utf-8")
    (folder / "dev.txt").write_text("前锋梅开二度\t财经\n", "utf-8")
    annotate(
        lambda record: record | {"label": ["财经"] if "央" not in record["text"] else []},
        source="support.txt",
        via="--valid",
    )
    assert read(folder / "valid.txt") == ["门将扑出点球\t财经", "前锋梅开二度\t财经"]
    call("--merge")
    # in their place behind the rows; what judges the model does not teach it
    assert read(folder / "train_clean.txt") == [*read(folder / "train.txt"), "门将扑出点球\t财经"]


def test_dev_rows_that_were_picked_come_back_into_dev(call, folder, annotate):
    """Nothing of dev goes into train, and no new text of train into dev."""
    (folder / "dev.txt").write_text("前锋梅开二度\t财经\n某厂裁员\t财经\n", "utf-8")
    (folder / "support.txt").write_text("门将扑出点球\n", "utf-8")
    (folder / "picked.jsonl").write_text('{"text": "某厂裁员", "labels": ["财经"], "dev_row": 2}\n', "utf-8")
    annotate(lambda record: record | {"label": ["财经"]}, source="support.txt", via="--valid")
    annotate(other, source="picked.jsonl")
    call("--merge", "--train_file", "dev.txt", "--clean_file", "dev_clean.txt")
    assert read(folder / "dev_clean.txt") == ["前锋梅开二度\t财经", "某厂裁员\t组织,组织##裁员"]
    call("--merge")
    assert read(folder / "train_clean.txt") == [*read(folder / "train.txt"), "门将扑出点球\t财经"]


def test_an_answer_without_a_row_is_no_new_row(call, folder, annotate):
    """Rows that went out without ids, and were edited in the tool."""
    call("--dirty_num", 3)
    annotate(lambda record: {"text": record["text"] + "！", "label": ["财经"]})
    call("--merge")
    assert read(folder / "train_clean.txt") == read(folder / "train.txt")


def test_a_label_that_is_no_longer_there(call, folder, annotate, capsys):
    call("--dirty_num", 1)
    ledger = Ledger(folder)
    ledger.add([ledger.answer(texts(folder / "train_dirty.txt")[0], "ann", ["组织##裁圆"])])
    with pytest.raises(SystemExit):
        run(lambda: call("--merge"))
    assert "'组织##裁圆', which label.txt has not (did you mean '组织##裁员'?)" in capsys.readouterr().err


# ---- rows as they were -----------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("name", "content"),
    [
        ("a.txt", "甲\tA\n  乙  \tA\n丙\n"),
        (
            "a.jsonl",
            '{"id": 7, "text": "甲", "labels": ["A"], "x": null}\n{"labels":["A"],  "text":"乙"}\n{"text": "丙"}\n',
        ),
    ],
)
def test_lines_that_do_not_change_stay_byte_for_byte(tmp_path, name, content):
    (tmp_path / name).write_text(content, "utf-8")
    rows = read_whole(tmp_path / name, LabelTree(["A", "B"]))
    assert [row.text for row in rows] == ["甲", "乙", "丙"]
    assert "".join(line_of(row, row.labels, tmp_path / name) for row in rows) == content


def test_other_fields_go_along_into_another_format(tmp_path):
    (tmp_path / "a.json").write_text(
        '[{"id": 7, "text": "甲", "labels": ["A"]}, {"text": "乙", "labels": [], "x": 1}]', "utf-8"
    )
    first, second = read_whole(tmp_path / "a.json", LabelTree(["A", "B"]))
    assert json.loads(line_of(first, ("B",), "b.jsonl")) == {"id": 7, "text": "甲", "labels": ["B"]}
    assert json.loads(line_of(second, (), "b.jsonl")) == {"text": "乙", "labels": [], "x": 1}
