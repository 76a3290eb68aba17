"""doccano.py: rows that were chosen go out to be annotated and come back, and answers go into the ledger."""

import json
from collections import Counter

import pytest

from hierarchical.ledger import Ledger, id_of
from tests import doccano_exports
from tests.conftest import SAMPLE
from tests.doccano_exports import row
from utils import LabelTree, Problems, load_rows, read_rows

convert, out = doccano_exports.convert, doccano_exports.out  # fixtures


def test_valid_and_dirty_make_one_file_and_leave_the_labels_alone(convert, out, data_dir):
    folder = data_dir()
    before = {path.name: path.read_bytes() for path in folder.iterdir()}
    code, log = convert([row("甲", "体育##足球"), row("乙", "财经"), row("丙")], "--valid", save_dir="data")
    assert code == 0 and "texts not annotated, or skipped: 1; valid.txt lacks them" in log
    assert (folder / "valid.txt").read_text("utf-8") == "甲\t体育,体育##足球\n乙\t财经\n"
    assert convert([row("甲", "体育")], "--dirty", "--splits", "1.0", save_dir="data")[0] == 0
    assert (folder / "train_dirty.txt").read_text("utf-8") == "甲\t体育\n"
    code, log = convert([row("甲", "体育##网球")], "--dirty", "--overwrite", save_dir="data")
    assert code == 2 and "体育##网球" in log
    after = {path.name: path.read_bytes() for path in folder.iterdir()}
    assert {name: after[name] for name in before} == before
    assert after.keys() - before.keys() == {"valid.txt", "train_dirty.txt", "ledger.jsonl", ".ledger.lock"}
    code, log = convert([row("甲", "体育")], "--valid")
    assert code == 0 and "out has no label.txt" in log and out() == ["ledger.jsonl", "valid.txt"]


def test_answers_go_into_the_ledger_with_who_gave_them(convert, data_dir, tmp_path):
    folder = data_dir()
    assert convert(folder / "train.txt", "--label_file", folder / "label.txt", to="--annotate_file")[0] == 0
    tasks = json.loads((tmp_path / "out" / "label_studio_tasks.json").read_bytes())

    def said(who, path, **others):
        result = [{"from_name": "label", "to_name": "text", "type": "taxonomy", "value": {"taxonomy": [path]}}]
        return {"completed_by": {"email": who}, "result": result, "was_cancelled": False, **others}

    tasks[0]["annotations"] = [said("ann", ["体育", "足球"]), said("bob", ["财经"])]
    tasks[1]["annotations"] = [said("ann", ["体育"], was_cancelled=True)]
    tasks[2]["annotations"] = [said("ann", ["财经", "股票"])]
    tasks[2]["data"]["text"] += "（已改）"  # in the tool
    tasks[3]["annotations"] = []
    (tmp_path / "p.json").write_text(json.dumps(tasks), "utf-8")
    for _ in range(2):  # the second time nothing is new, and no --overwrite is needed
        code, log = convert(tmp_path / "p.json", "--dirty", "--task_type", "hierarchical", save_dir="data")
        assert code == 0, log
    assert "Krippendorff" in log and "0 answers went into" in log
    train = load_rows(folder / "train.txt", LabelTree.read(folder / "label.txt")).texts
    ledger = Ledger(folder)
    assert [ledger.verdict(id_of(text)) and ledger.verdict(id_of(text)).state for text in train] == [
        "disputed", "skipped", "edited", None,
    ]  # fmt: skip
    assert [one.who for one in ledger.decisions[id_of(train[0])]] == ["ann", "bob"]
    found = json.loads((folder / "agreement.json").read_bytes())
    assert found["annotators"] == ["ann", "bob"] and found["texts"] == 1
    code, log = convert(tmp_path / "p.json", "--dirty", "--resolve", "newest", save_dir="data")
    assert (folder / "train_dirty.txt").read_text("utf-8").splitlines()[0] == f"{train[0]}\t财经"


def test_rows_that_come_back_have_the_format_of_train(convert, data_dir):
    folder = data_dir(train_txt=None, train_jsonl='{"text": "甲", "labels": ["体育"]}\n')
    assert convert([row("甲", "财经")], "--dirty", save_dir="data")[0] == 0
    assert (folder / "train_dirty.jsonl").read_text("utf-8") == '{"text": "甲", "labels": ["财经"]}\n'


def test_dirty_rows_that_went_out_as_lines_of_text(convert, data_dir):
    folder = data_dir()
    records = [row("国足今晚出战\t体育,体育##足球", "体育##篮球"), row("甲\t乙", "财经")]  # 乙 is no label: it stays
    code, log = convert(records, "--dirty", save_dir="data")
    assert code == 0
    assert (folder / "train_dirty.txt").read_text("utf-8") == "国足今晚出战\t体育,体育##篮球\n甲 乙\t财经\n"
    code, log = convert(records, "--valid", save_dir="data")
    assert "texts that end with a TAB and labels, which --dirty removes: 1" in log
    code, log = convert([row("甲\tA##B", "A##B")], "--splits", "1.0")
    assert "which --dirty removes: 1" in log


def test_sample_rows_go_out_and_come_back_the_same(convert, out, tmp_path):
    assert convert(SAMPLE / "dev.txt", to="--annotate_file")[0] == 0
    assert out() == [
        "doccano_import.jsonl",
        "doccano_labels.json",
        "label_studio_config.xml",
        "label_studio_tasks.json",
    ]
    tasks = json.loads((tmp_path / "out" / "label_studio_tasks.json").read_bytes())
    for task in tasks:  # an annotator who accepts everything
        task["annotations"] = [{"result": task.pop("predictions")[0]["result"], "was_cancelled": False}]
    (tmp_path / "accepted.json").write_text(json.dumps(tasks), encoding="utf-8")
    tree = LabelTree.read(SAMPLE / "label.txt")
    expected = [(row.text, row.labels) for row in read_rows(SAMPLE / "dev.txt", tree, Problems(), Counter())]
    (tmp_path / "back").mkdir()
    (tmp_path / "back" / "label.txt").write_bytes((SAMPLE / "label.txt").read_bytes())
    for export in (tmp_path / "out" / "doccano_import.jsonl", tmp_path / "accepted.json"):
        assert convert(export, "--valid", "--overwrite", "--task_type", "hierarchical", save_dir="back")[0] == 0
        rows = load_rows(tmp_path / "back" / "valid.txt", tree)
        assert list(zip(rows.texts, rows.labels)) == expected


def test_texts_alone_and_what_else_a_row_says(convert, out, data_dir, tmp_path):
    folder = data_dir()
    code, log = convert(folder / "data.txt", to="--annotate_file")
    assert code == 0 and "Save 2 examples" in log and "Save 5 labels" in log
    assert [json.loads(line) for line in out("doccano_import.jsonl")] == [
        {"text": "门将扑出点球", "row_id": id_of("门将扑出点球"), "label": []},
        {"text": "央行下调利率", "row_id": id_of("央行下调利率"), "label": []},
    ]
    (tmp_path / "dirty.jsonl").write_text(
        '{"text": "甲", "labels": ["体育"], "suspect": "体育", "p": 0.97, "x": "\\ud800"}\n', "utf-8"
    )
    flags = ("--label_file", folder / "label.txt", "--overwrite")
    assert convert(tmp_path / "dirty.jsonl", *flags, to="--annotate_file")[0] == 0
    note = "suspect: 体育; p: 0.97; x: ?"
    expected = {"text": "甲", "note": note, "row_id": id_of("甲"), "label": ["体育"]}
    assert json.loads(out("doccano_import.jsonl")[0]) == expected
    content = '[{"text": "甲", "labels": ["体育"],\n "suspect": "体育", "p": 0.97, "x": "\\ud800"}]\n'
    (tmp_path / "dirty.json").write_text(content, "utf-8")
    assert convert(tmp_path / "dirty.json", *flags, to="--annotate_file")[0] == 0
    assert json.loads(out("doccano_import.jsonl")[0]) == expected


@pytest.mark.parametrize(
    "name, content, part",
    [
        ("rows.txt", "甲\t体育##足求\n", "rows.txt:1: unknown label '体育##足求'; did you mean '体育##足球'?"),
        ("rows.txt", "\n\n", "rows.txt: no row in it"),
        ("rows.txt", "", "rows.txt: the file is empty"),
        ("rows.jsonl", '{"txt": "甲"}\n', "rows.jsonl:1: unknown field 'txt', did you mean 'text'?"),
        (
            "rows.jsonl",
            '{"text": "甲", "label": "体育"}\n',
            "rows.jsonl:1: unknown field 'label', did you mean 'labels'",
        ),
        ("rows.xlsx", "x", "rows.xlsx: rows and texts are read from"),
    ],
)
def test_bad_rows_to_send_out(convert, out, data_dir, name, content, part):
    path = data_dir() / name
    path.write_text(content, encoding="utf-8")
    code, log = convert(path, to="--annotate_file")
    assert code == 2 and part in log and out() == []


def test_no_label_tree_beside_the_rows(convert, tmp_path):
    (tmp_path / "rows.txt").write_text("甲\n", "utf-8")
    code, log = convert(tmp_path / "rows.txt", to="--annotate_file")
    assert code == 2 and "label.txt: no such file" in log


def test_a_label_that_is_too_long_for_doccano(convert, data_dir):
    folder = data_dir(label_txt="体育\n体育##" + "长" * 97, data_txt="甲\n")
    assert "labels of more than 100 characters" in convert(folder / "data.txt", to="--annotate_file")[1]
