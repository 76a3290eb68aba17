"""analysis/report.py: what is found, its tables and charts, against a worked example; the page: test_report_page.py."""

import numpy as np
import pytest

from analysis import report
from analysis.report import (
    confusion_tables,
    label_table,
    length_groups,
    reliability_chart,
    support_chart,
    suspects,
    threshold_chart,
)
from metric import Decision, Scores, decide
from tests.analysis.report_example import GOLD, PROBABILITIES, ROWS, TEXTS, TREE, found, write
from utils import LabelTree, Rows


def test_confusions_within_siblings_and_across_branches():
    siblings, across = confusion_tables(TREE, found()[1], ROWS)
    assert siblings == [{"missed": "甲##子", "extra": "甲##丑", "count": 2, "support": 3, "text": "二行二行"}]
    assert across == [{"missed": "乙##子", "extra": "甲##子", "count": 1, "support": 1, "text": "四行四行四行"}]


def test_labels_with_one_parent_in_common_are_siblings():
    tree = LabelTree(TREE.labels, further=[(4, 0)])
    siblings, across = confusion_tables(tree, found(tree=tree)[1], ROWS)
    assert ("乙##子", "甲##子") in [(one["missed"], one["extra"]) for one in siblings] and not across


def test_label_table():
    scores, findings = found()
    scores["train"] = {"labels": {label: {"support": 7} for label in TREE.labels}}
    table = {row["label"]: row for row in label_table(TREE, scores, findings)}
    assert [table[label]["missed"] for label in TREE.labels] == [0, 2, 0, 1, 1]
    assert [table[label]["extra"] for label in TREE.labels] == [0, 1, 2, 0, 0]
    assert table["甲##子"]["taken_for"] == ("甲##丑", 2) and table["甲"]["taken_for"] is None
    assert table["甲"]["f1"] == 1 and table["乙"]["f1"] == pytest.approx(2 / 3) and table["乙"]["train"] == 7
    del scores["train"]
    assert label_table(TREE, scores, findings)[0]["train"] is None


def test_suspects_come_by_what_the_best_change_of_their_labels_gains():
    """One more nat for each that a label's logit speaks against what is given; an exchange costs one."""
    findings = found()[1]
    # 甲##丑 for 甲##子: logits 3.476 and 1.992, less 1; 乙 left out: 3.476; the unsure ones are no suspects
    assert [round(case["gain"], 2) for case in findings.cases] == [4.47, 0.49, 0.75, 3.48]
    first, second = suspects(findings)
    assert [(label["label"], round(label["probability"], 2)) for label in first["labels"]] == [
        ("甲##子", 0.12),
        ("甲##丑", 0.97),
    ]
    assert (first["row"], second["row"]) == (1, 4) and [label["label"] for label in second["labels"]] == ["乙"]
    assert [one["row"] for one in suspects(findings, {1})] == [4]  # what somebody has confirmed is none


def test_rows_that_are_no_suspects_take_no_place_among_them(monkeypatch):
    monkeypatch.setattr(report, "SHOWN_SUSPECTS", 1)
    unsure, sure = [0.9, 0.21, 0.79, 0.01, 0.01], [0.9, 0.19, 0.01, 0.01, 0.01]  # both of 甲, 甲##子
    probabilities, rows = np.array([unsure, sure], np.float32), Rows(TEXTS[:2], GOLD[:2], 0, 0)
    findings = found(probabilities=probabilities, rows=rows, windows=[slice(0, 2)])[1]
    assert findings.cases[0]["gain"] > findings.cases[1]["gain"]
    assert [one["row"] for one in suspects(findings)] == [1]
    assert suspects(findings, {1}) == []


@pytest.mark.parametrize("windows", [[slice(0, 5)], [slice(i, i + 1) for i in range(5)]])
def test_windows_do_not_matter(windows):
    one, other = found()[1], found(windows=windows)[1]
    assert one.cases == other.cases and one.confused == other.confused
    np.testing.assert_allclose(one.reliability, other.reliability)
    assert np.array_equal(one.row_counts, other.row_counts)
    assert [s.result() for s in one.curve.values()] == [s.result() for s in other.curve.values()]


def test_reliability_counts_cells():
    cells, sums, gold = found()[1].reliability
    assert cells.sum() == 25 and gold.sum() == 9
    assert sums.sum() == pytest.approx(PROBABILITIES.sum())
    assert (cells[9], gold[9]) == (4, 3)  # 0.95, 0.95, 0.93 and the wrong 0.97
    chart = reliability_chart(found()[1])
    assert len(chart.dots) == (cells > 0).sum()
    highest = chart.dots[-1]
    assert highest["title"].startswith("4 cells: mean probability 0.950, right 0.750")
    assert highest["y"] == chart.y(0.75) and chart.y(0) == chart.bottom and chart.y(1) == chart.top


def test_curve_and_chosen_point():
    decision = Decision(threshold=0.52, decoding="topdown")
    _, findings = found(decision)
    assert 0.52 in findings.curve
    for threshold, scores in findings.curve.items():
        expected = Scores(TREE)
        expected.update(decide(PROBABILITIES, TREE, Decision(threshold, "topdown")), ROWS.multi_hot(5))
        assert scores.result() == expected.result()
    chart = threshold_chart(findings)
    assert [line["name"] for line in chart.lines] == ["micro precision", "micro recall", "micro F1", "macro F1"]
    assert chart.marks == [{"x": chart.x(0.52), "title": "chosen threshold: 0.52"}]
    assert {dot["x"] for dot in chart.dots} == {chart.x(0.52)}


def test_thresholds_per_label_and_none_at_all(tmp_path):
    scores, findings = found(Decision(threshold=[0.5, 0.3, 0.7, 0.5, 0.5]))
    assert "median of the thresholds: 0.50" in threshold_chart(findings).marks[0]["title"]
    assert "5 of them, 0.30 to 0.70" in write(tmp_path / "r.html", scores, findings).text
    scores, findings = found(Decision(top_k=2))
    assert threshold_chart(findings) is None
    assert "no threshold counts" in write(tmp_path / "r.html", scores, findings).text


def test_length_groups():
    _, findings = found()
    groups = length_groups(findings, [4, 6, 4, 8, 4], limit=6)
    # 4 tokens: rows 0, 2, 4 with tp 3, fp 1, fn 2; 6 tokens: row 1, tp 1, fp 1, fn 1; 8 tokens: cut, tp 1, fp 1, fn 1
    assert [(g["name"], g["rows"]) for g in groups] == [("4", 3), ("6", 1), ("8 (cut)", 1)]
    assert [g["f1"] for g in groups] == pytest.approx([6 / 9, 1 / 2, 1 / 2])
    assert [g["right"] for g in groups] == pytest.approx([1 / 3, 0, 0])
    assert [g["name"] for g in length_groups(findings, [9] * 5, limit=6)] == ["9 (cut)"]
    assert sum(g["rows"] for g in length_groups(findings, [3, 4, 5, 6, 7], limit=99)) == 5


def test_support_chart_has_a_dot_for_each_label_with_dev_rows():
    scores, _ = found()
    assert support_chart(TREE, scores) is None
    scores["train"] = {"labels": {label: {"support": n} for label, n in zip(TREE.labels, (100, 50, 0, 20, 1))}}
    chart = support_chart(TREE, scores)
    assert len(chart.dots) == 4  # 甲##丑 has no dev row
    assert "乙##子: 1 train rows, F1 0.000" == chart.dots[0]["title"] and chart.dots[0]["x"] == chart.left
    assert chart.dots[-1]["x"] < chart.right
