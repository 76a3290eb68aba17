"""doccano.py: exports become data folders that the other scripts read.

Rows that go out to be annotated, and come back: test_doccano_out_and_back.py.
"""

import json
import shutil
import subprocess
import sys
from collections import Counter

import pytest

from hierarchical.ledger import Ledger, id_of
from tests import doccano_exports
from tests.conftest import ROOT
from tests.doccano_exports import row
from utils import LabelTree, load_rows

convert, out = doccano_exports.convert, doccano_exports.out  # fixtures
TEN = [row(f"球赛{i}", "体育##足球") for i in range(5)] + [row(f"股市{i}", "财经") for i in range(5)]  # sorted by label

# ---- the files -------------------------------------------------------------------------------------------------------


def test_worked_example(convert, out):
    records = [
        row(" 国足\t今晚\r\n出战 ", "体育##足球", "体育##足球", "财经"),
        row("甲-乙", "体育-综合"),
        row("英超换帅", "财经##股票", "体育##足球##英超"),
        row("今天天气"),
    ]
    code, log = convert(records, "--task_type", "hierarchical", "--splits", "1.0", "--is_shuffle", "False")
    assert code == 0
    assert out("train.txt") == [
        "国足 今晚 出战\t体育,体育##足球,财经",
        "甲-乙\t体育-综合",
        "英超换帅\t体育,体育##足球,体育##足球##英超,财经,财经##股票",
    ]
    # in the order of the tree, which sorting the joined names would break: - comes after #
    assert out("label.txt") == ["体育", "体育##足球", "体育##足球##英超", "体育-综合", "财经", "财经##股票"]
    assert out("data.txt") == ["国足 今晚 出战", "甲-乙", "英超换帅"]
    assert out("unlabeled.txt") == ["今天天气"]
    assert out() == ["data.txt", "label.txt", "train.txt", "unlabeled.txt"]
    assert "texts with TABs or line ends, now blanks; --format jsonl keeps them: 1" in log
    assert "texts not annotated, or skipped: 1; left out" in log and "Finished! It takes 0." in log


def test_no_rows_into_a_models_folder(convert, tiny_export, tmp_path):
    model = shutil.copytree(tiny_export, tmp_path / "out")
    before = {path.name: path.read_bytes() for path in model.iterdir()}
    code, log = convert(TEN, "--overwrite")
    assert code == 2 and "holds a model, whose label.txt belongs to it" in log
    assert {path.name: path.read_bytes() for path in model.iterdir()} == before


def test_two_and_three_parts(convert, out, tmp_path):
    code, log = convert(TEN)
    assert code == 0 and out() == ["data.txt", "dev.txt", "label.txt", "train.txt"]
    assert [len(out(name)) for name in ("train.txt", "dev.txt", "label.txt")] == [8, 2, 3]
    assert out("data.txt") == [line.split("\t")[0] for line in out("dev.txt")]
    assert f"Save 8 examples to {tmp_path / 'out' / 'train.txt'}." in log
    assert convert(TEN, "--splits", 0.6, 0.2, 0.2, "--overwrite")[0] == 0
    assert [len(out(name)) for name in ("train.txt", "dev.txt", "test.txt")] == [6, 2, 2]
    assert out("data.txt") == [line.split("\t")[0] for line in out("test.txt")]
    texts = [line.split("\t")[0] for name in ("train.txt", "dev.txt", "test.txt") for line in out(name)]
    assert sorted(texts) == sorted(record["text"] for record in TEN)


def test_the_rest_of_the_project_reads_the_folder(convert, tmp_path):
    texts = {True: "带,逗号", False: "甲"}
    records = [row(f"{texts[i % 2 == 0]}{i}", "A##B, 或 C", "D") for i in range(10)]
    assert convert(records, "--format", "jsonl")[0] == 0
    tree = LabelTree.read(tmp_path / "out" / "label.txt")
    assert tree.labels == ["A", "A##B, 或 C", "D"]
    train, dev = (load_rows(tmp_path / "out" / name, tree) for name in ("train.jsonl", "dev.jsonl"))
    assert sorted(train.texts + dev.texts) == sorted(record["text"] for record in records)
    assert set(train.labels + dev.labels) == {(0, 1, 2)}


# ---- splitting -------------------------------------------------------------------------------------------------------


def test_the_split_is_shuffled_stratified_and_depends_on_the_seed_alone(convert, out):
    files = {}
    for seed in (3, 3, 4):
        assert convert(TEN, "--seed", seed, "--overwrite")[0] == 0
        files.setdefault(seed, []).append((out("train.txt"), out("dev.txt")))
        assert Counter(line.split("\t")[1] for line in out("dev.txt")) == {"体育,体育##足球": 1, "财经": 1}
        assert Counter(line.split("\t")[1] for line in out("train.txt")) == {"体育,体育##足球": 4, "财经": 4}
    assert files[3][0] == files[3][1] != files[4][0]
    texts = [line.split("\t")[0] for line in out("train.txt")]
    assert texts != [record["text"] for record in TEN if record["text"] in texts]


def test_without_shuffle_the_order_stays_and_shares_are_exact(convert, out):
    code, log = convert(TEN, "--is_shuffle", "false", "--splits", 0.7, 0.2, 0.1)  # 0.7 + 0.2 < 0.9 in floating point
    texts = [record["text"] for record in TEN]
    read = [[line.split("\t")[0] for line in out(name)] for name in ("train.txt", "dev.txt", "test.txt")]
    assert code == 0 and read == [texts[:7], texts[7:9], texts[9:]]
    assert "labels without a row in dev: 2: 体育, 体育##足球" in log
    code, log = convert(TEN[::-1], "--is_shuffle", "False", "--splits", 0.5, 0.5, "--overwrite")
    assert "labels without a row in train: 2: 体育, 体育##足球" in log and "out keeps its test.txt" in log


def test_a_label_with_one_row_is_in_train(convert, out):
    rare = [row(f"稀有{i}", f"稀有##{i}") for i in range(3)]
    for seed in range(10):
        assert convert(TEN + rare, "--seed", seed, "--overwrite")[0] == 0
        assert sum("稀有" in line for line in out("train.txt")) == 3


@pytest.mark.parametrize(
    "flags, part",
    [
        (["--splits", "0.8"], "--splits: one to three numbers above 0 that sum to 1"),
        (["--splits", "0.5", "0.2", "0.2", "0.1"], "--splits: one to three"),
        (["--splits", "1.2", "-0.2"], "--splits: one to three"),
        (["--splits", "0.8", "nan"], "--splits: invalid share value: 'nan'"),
        (["--valid", "--splits", "0.8", "0.2"], "rows are not split"),
        (["--valid", "--dirty"], "not allowed with"),
        (["--is_shuffle", "maybe"], "true or false, not 'maybe'"),
        (["--task_type", "tree"], "invalid choice: 'tree'"),
        (["--keep_empty"], "add --format jsonl"),
        (["--seed", "-1"], "must be at least 0"),
        (["--separator", ""], "must not be empty"),
        (["--annotate_file", "x"], "one at a time"),
    ],
)
def test_wrong_flags(convert, out, flags, part):
    code, log = convert(TEN, *flags)
    assert code == 2 and part in log and out() == []


def test_too_few_rows_for_the_split(convert, out):
    code, log = convert([row("甲", "A"), row("乙", "B")])
    assert code == 2 and "dev would get none of the 2 annotated rows" in log and out() == []
    assert convert([row("甲", "A"), row("乙", "B")], "--splits", "1")[0] == 0


# ---- labels ----------------------------------------------------------------------------------------------------------


def test_ancestors_are_added_even_without_the_flag(convert, out):
    code, log = convert([row("甲", "A##B"), row("乙", "C")], "--splits", "1.0")
    assert code == 0 and out("label.txt") == ["A", "A##B", "C"]
    assert "texts with labels of several levels, to which their ancestors were added: 1" in log


def test_multi_class_has_one_label_per_text(convert):
    code, log = convert([row("甲", "A##B", "A"), row("乙", "C", "A##B")], "--task_type", "multi_class")
    assert code == 2 and log.count("all.jsonl:") == 1
    assert "all.jsonl:2: a multi_class text has one label, this one has A##B, C" in log


def test_another_separator_becomes_ours(convert, out):
    assert convert([row("甲", "灾害/意外>坍/垮塌")], "--separator", ">", "--splits", "1.0")[0] == 0
    assert out("train.txt") == ["甲\t灾害/意外,灾害/意外##坍/垮塌"]


@pytest.mark.parametrize("typed", [["--separator", "--"], ["--separator=--"]])
def test_a_separator_of_dashes(convert, out, typed):
    assert convert([row("甲", "体育--足球")], *typed, "--splits", "1.0")[0] == 0
    assert out("train.txt") == ["甲\t体育,体育##足球"]


@pytest.mark.parametrize(
    ("mark", "given"),
    [(" > ", ">"), ("/", "/"), ("->", "'->'"), (" --> ", "'-->'"), ("--", "--"), ("|", "'|'"), ("::", "::")],
)
def test_a_forgotten_separator_is_asked_for(convert, out, mark, given):
    records = [row(f"甲{i}", f"体育{mark}{i}") for i in range(10)] + [row("乙", "财经"), row("丙", "气象")]
    flags = ("--task_type", "hierarchical", "--splits", "1.0", "--overwrite")
    code, log = convert(records, *flags)
    assert code == 0 and len(out("label.txt")) == 12
    shown = given.strip("'")
    hint = f"no label has several levels, and most hold {shown!r}: if that stands between levels, run this again with "
    given = f"'{shown}'" if shown in (">", "|") else given
    assert hint + f"--separator {given} and another --save_dir" in log
    code, log = convert(records, *flags, "--separator", shown, save_dir="other")
    assert code == 0 and "if that stands between" not in log
    records = [row("甲", f"A{mark}B"), row("乙", "C"), row("丙", "D##E")]
    assert (
        "if that stands between" not in convert(records, *flags, save_dir="new")[1]
    )  # a tree, so the separator is right


def test_names_that_a_label_file_cannot_hold(convert, out):
    code, log = convert([row("甲", "交往==见面")])
    assert code == 2 and "all.jsonl:1: label '交往==见面' holds '=='" in log and out() == []


def test_text_field_and_label_control(convert, out):
    records = [{"content": "甲", "topic": ["A"], "text": "x", "label": ["B"]}]
    flags = ("--text_field", "content", "--label_control", "topic", "--splits", "1.0")
    assert convert(records, *flags)[0] == 0
    assert out("train.txt") == ["甲\tA"]


def test_a_label_with_a_comma_needs_jsonl(convert, out):
    code, log = convert([row("甲", "A, B")], "--splits", "1.0")
    assert code == 2 and "'A, B': a label with a comma can't stand in a .txt row" in log and out() == []
    assert convert([row("甲\n乙\t丙", "A, B")], "--splits", "1.0", "--format", "jsonl")[0] == 0
    assert json.loads(out("train.jsonl")[0]) == {"text": "甲\n乙\t丙", "labels": ["A, B"]}


def test_an_existing_label_file_keeps_its_order(convert, out, tmp_path):
    (tmp_path / "out").mkdir()
    labels = "财经\n体育\n体育##足球==踢球\n娱乐\n"
    (tmp_path / "out" / "label.txt").write_text(labels, encoding="utf-8")
    code, log = convert([row("甲", "体育##足求"), row("乙", "时政"), row("丙", "财经")], "--splits", "1.0")
    assert code == 2 and "2 labels of the export are not in it" in log
    assert "体育##足求   (did you mean '体育##足球'?)" in log and "--add_labels" in log and out() == ["label.txt"]
    code, log = convert([row("甲", "体育##足求"), row("丙", "体育", "财经")], "--splits", "1.0", "--add_labels")
    assert code == 0 and "labels without a row in train: 2: 体育##足球, 娱乐" in log
    assert out("label.txt") == [*labels.split(), "体育##足求"]
    assert sorted(out("train.txt")) == sorted(["甲\t体育,体育##足求", "丙\t财经,体育"])


def test_labels_under_several_parents_stay_so(convert, out, tmp_path):
    (tmp_path / "out").mkdir()
    LabelTree(["财经", "体育", "体育##转会"], further=[(2, 0)]).write(tmp_path / "out" / "label.txt")
    records = [row("甲", "体育##转会"), row("乙", "财经##转会"), row("丙", "财经##股市")]
    code, log = convert(records, "--splits", "1.0", "--add_labels")
    assert code == 0 and out("label.txt") == ["财经", "体育", "体育##转会", "财经##股市"]
    assert out("label_graph.txt") == ["体育##转会\t财经"]
    assert sorted(out("train.txt")) == sorted(
        [f"{text}\t财经,体育,体育##转会" for text in "甲乙"] + ["丙\t财经,财经##股市"]
    )
    # Out again, and back as answers, which hold all parents in the ledger, too.
    assert convert(tmp_path / "out" / "train.txt", to="--annotate_file")[0] == 0
    lines = [json.loads(line) for line in out("doccano_import.jsonl")]
    assert sorted(line["label"] for line in lines) == [["体育##转会"], ["体育##转会"], ["财经##股市"]]
    assert convert([row("丁", "财经##转会")], "--valid")[0] == 0
    assert out("valid.txt") == ["丁\t财经,体育,体育##转会"]
    (decision,) = Ledger(tmp_path / "out").decisions[id_of("丁")]
    assert sorted(decision.after) == ["体育", "体育##转会", "财经"]


def test_without_new_labels_the_label_file_is_not_touched(convert, out, tmp_path):
    (tmp_path / "out").mkdir()
    (tmp_path / "out" / "label.txt").write_bytes(b"\xef\xbb\xbfB\r\n\r\nA\r\n")
    assert convert([row("甲", "A"), row("乙", "B")], "--splits", "1.0")[0] == 0
    assert (tmp_path / "out" / "label.txt").read_bytes() == b"\xef\xbb\xbfB\r\n\r\nA\r\n"


# ---- what annotators do ----------------------------------------------------------------------------------------------


def test_repeated_texts_agree_or_become_conflicts(convert, out, tmp_path):
    records = [row("甲", "A##B"), row("乙", "A##B"), row("甲 ", "A", "A##B"), row("乙", "A"), row("丙", "C")]
    code, log = convert(records, "--splits", "1.0")
    assert code == 0 and "2 texts were annotated more than once, 1 of them with one result" in log
    assert "texts given different labels, see conflicts.jsonl: 1; left out" in log
    assert sorted(out("train.txt")) == ["丙\tC", "甲\tA,A##B"]
    conflict = {"text": "乙", "labels": ["A"]}
    said = [{"annotator": "all", "labels": ["A", "A##B"]}, {"annotator": "all", "labels": ["A"]}]
    assert [json.loads(line) for line in out("conflicts.jsonl")] == [conflict | {"annotations": said}]
    # and out again, to be settled
    assert convert(tmp_path / "out" / "conflicts.jsonl", to="--annotate_file")[0] == 0
    (line,) = (json.loads(line) for line in out("doccano_import.jsonl"))
    assert line["label"] == ["A"] and '"labels": ["A", "A##B"]' in line["note"]


def test_one_file_per_annotator(convert, out, tmp_path):
    for name, label in (("ann", "A"), ("bob", "B")):
        lines = [row("甲", label), row("乙", *["B"] * (name == "ann"))]  # bob has not come to 乙 yet
        (tmp_path / f"{name}.jsonl").write_text("\n".join(map(json.dumps, lines)), encoding="utf-8")
    code, log = convert(tmp_path / "ann.jsonl", tmp_path / "bob.jsonl", "--splits", "1.0")
    assert code == 2 and "unrecognized" in log  # one flag, several files
    arguments = ["--doccano_file", tmp_path / "ann.jsonl", tmp_path / "bob.jsonl", "--splits", "1.0"]
    assert convert(tmp_path / "ann.jsonl", *arguments)[0] == 0
    assert out("train.txt") == ["乙\tB"]
    assert [one["annotator"] for one in json.loads(out("conflicts.jsonl")[0])["annotations"]] == ["ann", "bob"]


def test_the_answer_marked_as_truth_settles_a_disagreement(convert, out, tmp_path):
    def said(path, truth):
        answer = {"from_name": "label", "to_name": "text", "type": "taxonomy", "value": {"taxonomy": [path]}}
        return {"completed_by": 1, "ground_truth": truth, "was_cancelled": False, "result": [answer]}

    tasks = [{"id": 1, "data": {"text": "甲"}, "annotations": [said(["A"], False), said(["B", "C"], True)]}]
    (tmp_path / "p.json").write_text(json.dumps(tasks), encoding="utf-8")
    assert convert(tmp_path / "p.json", "--splits", "1.0")[0] == 0
    assert out("train.txt") == ["甲\tB,B##C"] and "conflicts.jsonl" not in out()


def test_settled_disagreements_are_said_to_lie_about(convert, out):
    assert convert([row("甲", "A"), row("乙", "A"), row("乙", "B")], "--splits", "1.0")[0] == 0
    code, log = convert([row("甲", "A"), row("乙", "B")], "--splits", "1.0", "--overwrite")
    assert code == 0 and "out keeps its conflicts.jsonl, whose texts may now be in other files as well" in log
    assert set(out("train.txt")) == {"乙\tB", "甲\tA"}


def test_only_disagreements(convert, out):
    code, log = convert([row("甲", "A"), row("甲", "B")])
    assert code == 0 and out() == ["conflicts.jsonl", "label.txt"]


def test_only_disagreements_among_rows_that_came_back(convert, out):
    code, log = convert([row("甲", "A"), row("甲", "B")], "--valid")
    assert code == 0 and out() == ["conflicts.jsonl", "ledger.jsonl"] and "valid.txt lacks them" in log


def test_nothing_annotated(convert, out):
    code, log = convert([row("甲"), row("乙")])
    assert code == 2 and "no text with labels is left" in log and out() == []


def test_texts_that_no_label_applies_to(convert, out):
    records = [row("甲", "A"), row("乙"), row("  ", "A")]
    code, log = convert(records, "--keep_empty", "--format", "jsonl", "--splits", "1.0", "--is_shuffle", "false")
    assert code == 0 and "empty texts, left out: 1" in log
    assert [json.loads(line)["labels"] for line in out("train.jsonl")] == [["A"], []]


# ---- nothing is lost -------------------------------------------------------------------------------------------------


def test_files_are_not_replaced_without_a_word(convert, out):
    assert convert(TEN)[0] == 0
    before = {name: out(name) for name in out()}
    code, log = convert([row(f"新{i}", "财经") for i in range(10)])
    assert code == 2 and "already has train.txt, dev.txt, data.txt" in log and "--overwrite" in log
    assert {name: out(name) for name in out()} == before
    code, log = convert([row(f"新{i}", "财经") for i in range(10)], "--overwrite", "--splits", "1.0")
    assert code == 0 and "out keeps its dev.txt" in log and len(out("train.txt")) == 10


def test_bad_records_of_all_files_are_told_at_once_and_nothing_is_written(convert, out, tmp_path):
    (tmp_path / "b.jsonl").write_text('{"text": "甲", "label": ["A##"]}\n{"label": []}\n', "utf-8")
    (tmp_path / "c.jsonl").write_text('{"text": "甲", "label": [[0, 1, "A"]]}\n', "utf-8")
    code, log = convert(tmp_path / "b.jsonl", "--doccano_file", tmp_path / "b.jsonl", tmp_path / "c.jsonl")
    assert code == 2 and "3 problems found" in log and "c.jsonl:1: labels must be names" in log and out() == []


def test_as_a_command(tmp_path):
    (tmp_path / "all.csv").write_text("id,text,label\n1,甲,A#A##B\n", "utf-8")
    command = [sys.executable, "doccano.py", "--doccano_file", tmp_path / "all.csv", "--save_dir", tmp_path / "out"]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, encoding="utf-8")
    assert done.returncode == 2 and "Traceback" not in done.stderr
    assert done.stderr.startswith("error: ") and "CSV is not read" in done.stderr and not (tmp_path / "out").exists()
