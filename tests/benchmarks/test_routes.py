"""benchmarks/routes.py: what it would run, and the recall of some labels; the runs themselves take hours."""

import pytest

from benchmarks import routes
from benchmarks.withholding import withheld_labels
from utils import LabelTree

TREE = LabelTree(["体育", "体育##足球", "体育##篮球", "财经"])


def test_runs():
    args = routes.parse_args("--dataset_dir d --model_name m --shots 2 all --draws 2".split())
    keys = routes.wanted_runs(args)
    assert len(keys) == 3 * 3 and keys[0] == ("2", 0, "fine-tuning", 0) and ("all", 1, "few-shot", 0) not in keys
    args.withheld = 2
    assert routes.wanted_runs(args)[-1] == ("all", 0, "retrieval", 2)


@pytest.mark.parametrize("flags, says", [("--shots 0", "numbers from 1"), ("--shots 2 --withheld 3", "--shots all")])
def test_flags(capsys, flags, says):
    with pytest.raises(SystemExit):
        routes.parse_args(f"--dataset_dir d --model_name m {flags}".split())
    assert says in capsys.readouterr().err


def test_withheld_labels_are_leaves_and_always_the_same():
    assert withheld_labels(TREE, 3) == {1, 2, 3} and withheld_labels(TREE, 0) == set()
    assert withheld_labels(TREE, 2) == withheld_labels(TREE, 2)


def test_recall_of_some_labels(tmp_path):
    (tmp_path / "test.txt").write_text("甲\t体育,体育##足球\n乙\t体育##足球,财经\n丙\t财经\n", encoding="utf-8")
    result = tmp_path / "retrieval" / "recall" / "recall_result_file.txt"
    result.parent.mkdir(parents=True)
    found = "甲\t体育##足球\t0.9\n乙\t财经\t0.8\n乙\t体育##足球\t0.7\n丙\t体育##足球\t0.6\n"
    result.write_text(found, encoding="utf-8")
    # 体育##足球: first of 甲, second of 乙; 财经: first of 乙, missed for 丙
    assert routes.recall_of(TREE, tmp_path, {1})["recall@1"] == 50
    assert routes.recall_of(TREE, tmp_path, {1})["recall@5"] == 100
    assert routes.recall_of(TREE, tmp_path, {3})["recall@5"] == 50
