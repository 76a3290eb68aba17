"""analysis/report.py: what the page says against a worked example, and that texts and labels are shown, never executed.

A page is parsed with html.parser: what a browser would run or load shows as a tag, not as text.
"""

import json
from html.parser import HTMLParser
from types import SimpleNamespace

import numpy as np
import pytest

from analysis import evaluate, report
from analysis.report import (
    Findings,
    confusion_tables,
    label_table,
    length_groups,
    reliability_chart,
    render,
    support_chart,
    suspects,
    threshold_chart,
    write_report,
)
from analysis.word_interpret import Part
from hierarchical import batches, checkpoints
from hierarchical.checkpoints import write_settings
from hierarchical.predictor import Predictor
from metric import Decision, Scores, decide
from tests.analysis.conftest import StandIn
from utils import LabelTree, Rows, load_rows

TREE = LabelTree(["甲", "甲##子", "甲##丑", "乙", "乙##子"])
GOLD = [(0, 1), (0, 1), (0, 1), (3, 4), (3,)]
TEXTS = ["一行", "二行二行", "三行", "四行四行四行", "五行"]
PROBABILITIES = np.array(
    [
        [0.95, 0.95, 0.05, 0.02, 0.02],  # right
        [0.93, 0.12, 0.97, 0.02, 0.02],  # 甲##丑 for 甲##子: siblings
        [0.72, 0.42, 0.62, 0.02, 0.02],  # the same, less sure
        [0.02, 0.55, 0.02, 0.82, 0.32],  # 甲##子 for 乙##子: across branches
        [0.02, 0.02, 0.02, 0.03, 0.02],  # nothing
    ],
    np.float32,
)
ROWS = Rows(TEXTS, GOLD, 0, 0)
TOKENIZER = SimpleNamespace(max_seq_length=6, lengths=lambda texts: [len(text) + 2 for text in texts])


def found(
    decision=Decision(), probabilities=PROBABILITIES, rows=ROWS, tree=TREE, windows=(slice(0, 2), slice(2, None))
):
    """(scores, Findings) of the rows, given in windows."""
    gold, selected = rows.multi_hot(len(tree)), decide(probabilities, tree, decision)
    findings, scores = Findings(tree, decision, len(gold)), Scores(tree)
    scores.update(selected, gold)
    for window in windows:
        numbers = range(*window.indices(len(gold)))
        findings.update(numbers, probabilities[window], selected[window], gold[window])
    return {"dev": scores.result()}, findings


class Page(HTMLParser):
    """The tags of a page with their attributes, the text outside of <style> and <script>, and what a script reads."""

    def __init__(self, html):
        super().__init__()
        self.tags, self.text, self.inside, self.data = [], "", [], {}
        self.feed(html)

    def handle_starttag(self, tag, attributes):
        self.tags.append((tag, dict(attributes)))
        self.inside.append(tag)

    def handle_endtag(self, tag):
        while self.inside and self.inside.pop() != tag:
            pass  # a tag without an end, such as <meta>

    def handle_data(self, data):
        if not {"style", "script"} & {*self.inside}:
            self.text += data
        elif self.tags[-1] == ("script", {"type": "application/json", "id": "data"}):
            self.data = json.loads(data)


def write(path, scores, findings, rows=ROWS, tree=TREE, **facts):
    write_report(path, tree, TOKENIZER, rows, scores, findings, facts)
    return Page(path.read_text(encoding="utf-8"))


# ---- the worked example ----------------------------------------------------------------------------------------------


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


# ---- the page --------------------------------------------------------------------------------------------------------


def test_page_shows_scores_labels_and_wrong_rows(tmp_path):
    scores, findings = found()
    page = write(tmp_path / "report.html", scores, findings, checkpoint="checkpoint/here")
    assert "checkpoint/here" in page.text and "20.00" in page.text  # accuracy: 1 of 5
    rows = [a for tag, a in page.tags if tag == "tr" and "data-name" in a]
    assert [row["data-name"] for row in rows] == TREE.labels
    assert "4 dev rows have a wrong label set." in page.text and page.data["labels"] == TREE.labels
    assert page.data["rows"] == [  # number, text, (class, right, missed or extra, %); the worst first
        [1, "二行二行", [0, 0, 93, 1, 1, 12, 2, 2, 97]],
        [4, "五行", [3, 1, 3]],
        [3, "四行四行四行", [1, 2, 55, 3, 0, 82, 4, 1, 32]],
        [2, "三行", [0, 0, 72, 1, 1, 42, 2, 2, 62]],
    ]
    ticks = [int(a["data-row"]) for tag, a in page.tags if tag == "input" and "data-row" in a]
    assert sorted(ticks) == [1, 4], "suspects can be ticked"


def test_suspects_of_rare_labels_are_apart(tmp_path):
    scores, findings = found()
    common, rare = report.by_rarity(suspects(findings), scores)
    assert len(common) == 2 and rare == []
    support = {"甲": 100, "甲##子": 100, "甲##丑": 14, "乙": 15, "乙##子": 15}
    scores["train"] = {"labels": {label: {"support": rows} for label, rows in support.items()}}
    common, rare = report.by_rarity(suspects(findings), scores)
    assert [one["row"] for one in rare] == [1] and [one["row"] for one in common] == [4]
    page = write(tmp_path / "report.html", scores, findings)
    assert "fewer than 15 train rows" in page.text and page.text.index("五行") < page.text.index("Of rare labels")


def test_of_too_many_wrong_rows_the_worst_of_each_label(monkeypatch):
    def case(row, surest, *wrong):
        labels = [{"label": label, "gold": True, "predicted": False, "probability": 0.5} for label in wrong]
        right = {"label": "乙", "gold": True, "predicted": True, "probability": 0.9}
        return {"row": row, "surest": surest, "labels": [*labels, right]}

    findings = SimpleNamespace(tree=LabelTree(["甲", "乙", "丙"]), cases=[])
    texts = ["长" * 2000, "长" * 2000, "短", "短", "短", "短"]

    def rows_of(most):
        monkeypatch.setattr(report, "MOST_BYTES", most)
        found = report.wrong_rows(findings, Rows(texts, [], 0, 0))
        return found.pop("rows"), found

    assert rows_of(0) == ([], {"of_label": None, "longest": None})
    surest = [(0, 0.1, "甲"), (1, 0.9, "甲"), (2, 0.8, "甲"), (3, 0.7, "甲"), (4, 0.2, "甲", "丙"), (5, 0.1, "丙")]
    findings.cases = [case(*one) for one in surest]
    whole, how = rows_of(20_000)
    assert [row[0] for row in whole] == [1, 2, 3, 4, 0, 5] and how == {"of_label": None, "longest": None}
    assert whole[3] == [4, "短", [0, 1, 50, 2, 1, 50, 1, 0, 90]] and whole[0][1] == texts[1]
    cut, how = rows_of(10_000)
    assert how == {"of_label": None, "longest": 1000}
    assert cut[0] == [1, "长" * 1000, [0, 1, 50, 1, 0, 90], 2000] and cut[1:4] == whole[1:4]
    few, how = rows_of(600)
    assert [row[0] for row in few] == [1, 2, 3, 4, 5] and how == {"of_label": 3, "longest": 100}, (
        "of 甲 and of 丙 three"
    )


@pytest.mark.slow
def test_the_report_of_1000_labels_and_100_000_rows_is_below_10_mb(tmp_path):
    """With 30,000 wrong rows: Findings of a few rows, to which the others' are added as `update` would."""
    names = [
        name for group in "甲乙丙丁戊己庚辛壬癸" for name in (group, *(f"{group}##第{i}个标签" for i in range(99)))
    ]
    tree, rng = LabelTree(names), np.random.default_rng(0)
    texts = [f"{i}".ljust(60, "字") for i in range(100_000)]
    rows = Rows(texts, [(0, 1 + i % 99) for i in range(100_000)], 0, 0)
    few = rows._replace(texts=texts[:1000], labels=[(i // 100 * 100, i) for i in range(1000)])
    wrong = np.roll(few.multi_hot(1000), 1, 0).astype(np.float32) * 0.9
    scores, findings = found(Decision(top_k=2), wrong, few, tree, [slice(0, 1000)])
    findings.row_counts = np.repeat(findings.row_counts, 100, 0)
    for row, (label, missed, p) in enumerate(zip(*rng.integers(1, 100, (2, 29_000)), rng.random(29_000)), 1000):
        labels = [(0, True, True, 0.9), (int(missed), True, False, 1 - p), (int(label), False, True, p)]
        keys = "label", "gold", "predicted", "probability"
        labels = [dict(zip(keys, (names[i], *rest))) for i, *rest in labels]
        findings.cases.append({"row": row, "labels": labels, "surest": float(p), "gain": float(p)})
    page = write(tmp_path / "report.html", scores, findings, rows, tree)
    assert len(page.data["rows"]) == len(findings.cases) == 30_000 and "Texts are cut" not in page.text
    assert (tmp_path / "report.html").stat().st_size < 10_000_000


def test_labels_without_dev_rows_have_no_score_and_a_better_baseline_is_told_at_once(tmp_path):
    scores, findings = found()
    scores["dev"]["labels"]["乙"] |= {"support": 0, "f1": 0.0}
    page = write(tmp_path / "a.html", scores, findings)
    rows = {a["data-name"]: a for tag, a in page.tags if tag == "tr" and "data-name" in a}
    assert rows["乙"]["data-f1"] == "" and rows["乙"]["data-rows"] == "0" and rows["甲"]["data-f1"] == "100.0"
    assert "linear baseline is as good" not in page.text
    scores["baseline"] = scores["dev"]
    page = write(tmp_path / "b.html", scores, findings)
    assert page.text.index("The linear baseline is as good as this model or better") < page.text.index("in percent.")


def test_long_texts_are_cut(tmp_path):
    rows = Rows([text + "长" * 1_000_000 for text in TEXTS], GOLD, 0, 0)
    page = write(tmp_path / "report.html", *found(), rows=rows)
    assert "五行" + "长" * 998 + "... (1,000,002 characters)" in page.text and len(page.text) < 20_000
    assert [len(row[1]) for row in page.data["rows"]] == [1000] * 4 and "cut after 1000 characters" in page.text


def test_page_loads_nothing_from_elsewhere(tmp_path):
    page = write(tmp_path / "report.html", *found())
    assert not {"link", "img", "iframe", "object", "base"} & {tag for tag, _ in page.tags}
    for tag, attributes in page.tags:
        assert not {"src", "onclick", "onload", "onerror"} & attributes.keys()
        assert attributes.get("href", "#").startswith("#"), tag
    policy = next(a for tag, a in page.tags if a.get("http-equiv") == "Content-Security-Policy")
    assert policy["content"].startswith("default-src 'none'")
    html = (tmp_path / "report.html").read_text(encoding="utf-8")
    assert "url(" not in html and "@import" not in html and "http://" not in html and "https://" not in html


def test_no_wrong_rows_and_labels_without_rows(tmp_path):
    perfect = ROWS.multi_hot(5).astype(np.float32)
    page = write(tmp_path / "report.html", *found(probabilities=perfect))
    assert "every dev row is labelled rightly" in page.text and page.text.count("None.") == 3  # two tables, suspects
    assert "1 of 5 labels have no dev row" in page.text


@pytest.fixture
def hostile():
    """(tree, rows, probabilities) with HTML in labels and texts; every row is wrong."""
    bad = "<script>alert(1)</script>\"'><img src=x onerror=alert(2)>&amp;"
    tree = LabelTree([bad, f"{bad}##</td><b>", "好"])
    rows = Rows([bad, "</div></section><script>alert(3)</script>", "&lt;"], [(0, 1), (2,), (2,)], 0, 0)
    return tree, rows, np.array([[0.9, 0.1, 0.9], [0.9, 0.9, 0.1], [0.9, 0.9, 0.1]], np.float32)


def test_html_in_texts_and_labels_is_shown_not_executed(tmp_path, hostile):
    tree, rows, probabilities = hostile
    clean = write(tmp_path / "clean.html", *found(probabilities=PROBABILITIES))
    scores, findings = found(probabilities=probabilities, rows=rows, tree=tree)
    page = write(tmp_path / "report.html", scores, findings, rows, tree, checkpoint="<script>")
    scripts = [{"type": "application/json", "id": "data"}, {}]
    assert [a for tag, a in page.tags if tag == "script"] == [a for tag, a in clean.tags if tag == "script"] == scripts
    assert {tag for tag, _ in page.tags} <= {tag for tag, _ in clean.tags}
    assert sorted(row[1] for row in page.data["rows"]) == sorted(rows.texts) and page.data["labels"] == tree.labels
    assert (
        "</script"
        not in (tmp_path / "report.html").read_text(encoding="utf-8").split('id="data">')[1].split("</script>")[0]
    )
    assert [a["data-name"] for tag, a in page.tags if tag == "tr" and "data-name" in a] == tree.labels


def test_no_label_has_a_dev_row(tmp_path):
    rows = Rows(["一行"], [()], 0, 0)
    scores, findings = found(probabilities=np.full((1, 5), 0.1, np.float32), rows=rows, windows=[slice(0, 1)])
    scores["train"] = {"labels": {label: {"support": 7} for label in TREE.labels}}
    page = write(tmp_path / "report.html", scores, findings, rows)
    assert "No label has a dev row." in page.text and "were not read" not in page.text


@pytest.mark.slow
@pytest.mark.parametrize("width", [1280, 390])
def test_the_report_in_a_browser(tmp_path, hostile, opened, width):
    tree, rows, probabilities = hostile
    rows = rows._replace(texts=[rows.texts[0], "字" * 5000, "w" * 500])
    scores, findings = found(probabilities=probabilities, rows=rows, tree=tree)
    write(tmp_path / "report.html", scores, findings, rows, tree)
    page = opened(tmp_path / "report.html", width)
    assert page.evaluate("document.documentElement.scrollWidth") == width and page.locator("img").count() == 0
    assert page.inner_text("#cases .text >> nth=0") == rows.texts[0]
    assert max(page.evaluate("[...document.querySelectorAll('.text')].map(text => text.clientHeight)")) < 400
    label = page.locator("#label-table td").first
    page.evaluate("document.querySelector('#labels .scroll').scrollLeft = 200")
    assert label.bounding_box()["x"] == page.locator("#labels .scroll").bounding_box()["x"] + 1, "it stays in sight"
    page.locator("[data-show]").first.click()  # right in the first row, and wrongly predicted in the others
    assert page.inner_text("#case-count") == "2 of 3 rows" and page.locator("#cases .case:visible").count() == 2
    page.fill("#f1-filter", "50")
    assert page.inner_text("#label-count") == "2 of 3 labels"
    page.locator("#label-table th", has_text="Missed").click()
    assert page.locator("#label-table tbody tr").first.get_attribute("data-name") == "好"
    assert page.faults == []


@pytest.mark.slow
def test_rows_are_ticked_and_downloaded_in_a_browser(tmp_path, opened):
    rows = Rows(
        [f'{text}"\n</script>' for text in [*TEXTS, *(f"第{i}行" for i in range(60))]], [*GOLD, *[(3, 4)] * 60], 0, 0
    )
    more = np.tile(np.array([[0.02, 0.02, 0.02, 0.4, 0.9]], np.float32), (60, 1))
    more[:, 3] -= np.arange(60) / 200
    scores, findings = found(probabilities=np.concatenate([PROBABILITIES, more]), rows=rows)
    write(tmp_path / "report.html", scores, findings, rows)
    page = opened(tmp_path / "report.html", 390)
    assert page.inner_text("#case-count") == "64 of 64 rows" and page.locator("#case-list .case").count() == 50
    page.click("#more-cases")
    assert page.locator("#case-list .case").count() == 64 and not page.locator("#more-cases").is_visible()
    page.locator("[data-show]", has_text="乙").first.click()
    assert page.inner_text("#case-count") == "61 of 64 rows"
    first = page.locator("#case-list .case").first.inner_text()
    assert "dev row 5" in first and "missed 乙 3" in first, "the label is contradicted most in this row"
    page.fill("#case-filter", "乙##子")
    assert page.inner_text("#case-count") == "1 of 64 rows" and page.locator("#download").is_disabled()
    page.click("#tick-found")
    page.locator("#suspects [data-row='1']").check()
    page.fill("#case-filter", "")
    assert (
        page.locator("#case-list [data-row='1']").is_checked()
        and page.inner_text("#download") == "Download 2 ticked rows"
    )
    with page.expect_download() as download:
        page.click("#download")
    assert download.value.suggested_filename == "picked.jsonl"
    download.value.save_as(tmp_path / "picked.jsonl")
    picked = load_rows(tmp_path / "picked.jsonl", TREE)
    assert picked.texts == [rows.texts[1], rows.texts[3]] and picked.labels == [(0, 1), (3, 4)]
    page.click("#tick-none")
    assert not page.locator("#suspects [data-row='1']").is_checked() and page.faults == []


@pytest.mark.slow
@pytest.mark.parametrize("width", [1280, 390])
def test_the_coloured_words_in_a_browser(tmp_path, opened, width):
    text = "<img src=x onerror=alert(1)>" + "w" * 500 + "字" * 5000
    item = {"label": "甲##子", "probability": 0.9, "predicted": True, "key_words": ["w" * 500]}
    item["parts"] = [Part(text[:28], -0.5, -0.5), Part(text[28:528], 1.0, 1.0), Part(text[528:])]
    row = {"text": text, "labels": None, "prediction": ["甲##子"], "explanations": [item]}
    (tmp_path / "words.html").write_text(render("words.html", title="Words", facts={}, rows=[row]), encoding="utf-8")
    page = opened(tmp_path / "words.html", width)
    assert page.evaluate("document.documentElement.scrollWidth") == width and page.locator("img").count() == 0
    words = page.locator("div.words")
    assert words.inner_text() == text and words.bounding_box()["height"] < 400
    assert page.locator("div.words .against").get_attribute("title") == "-0.500" and page.faults == []


# ---- evaluate.py --report --------------------------------------------------------------------------------------------


@pytest.fixture
def call(tmp_path, monkeypatch, data_dir):
    """call(*flags): evaluate.main() on rows whose probabilities are those above, without paddle."""

    def text_logits(predictor, texts, progress):
        return np.log(PROBABILITIES / (1 - PROBABILITIES))[[TEXTS.index(text) for text in texts]]

    tokenizer = StandIn(pad_id=0, encode=list, **vars(TOKENIZER))
    monkeypatch.setattr(Predictor, "load", lambda self: None)
    monkeypatch.setattr(Predictor, "text_logits", text_logits)
    monkeypatch.setattr(checkpoints, "load_tokenizer", lambda *_: tokenizer)
    monkeypatch.setattr(batches, "WINDOW", 2)
    folder = tmp_path / "checkpoint"
    folder.mkdir()
    (folder / "model.safetensors").write_bytes(b"-")
    (folder / "config.json").write_text('{"model_type": "ernie"}')
    write_settings(folder, TREE, 6, Decision())
    lines = "".join(f"{text}\t{','.join(TREE.labels[i] for i in labels)}\n" for text, labels in zip(TEXTS, GOLD))
    data = data_dir(label_txt="\n".join(TREE.labels), train_txt=lines, dev_txt=lines)

    def call(*flags):
        arguments = ["--dataset_dir", data, "--params_path", folder, "--device", "cpu", *flags]
        evaluate.main(list(map(str, arguments)))

    return call


def test_evaluate_writes_the_report(call, tmp_path):
    call("--report", tmp_path / "report.html", "--output_json", tmp_path / "scores.json")
    page = Page((tmp_path / "report.html").read_text(encoding="utf-8"))
    scores = json.loads((tmp_path / "scores.json").read_text(encoding="utf-8"))
    assert f"{100 * scores['dev']['micro_f1']:.2f}" in page.text
    assert "median" not in page.text and "chosen threshold: 0.5" in page.text
    dots = [attributes for tag, attributes in page.tags if tag == "circle"]
    assert len(dots) == 4 + 9 + 4  # chosen point, bins in use, labels with dev rows


def test_report_that_cannot_be_written(call, tmp_path, capsys):
    from utils import run

    with pytest.raises(SystemExit) as stopped:
        run(lambda: call("--report", tmp_path / "nowhere" / "report.html"))
    assert stopped.value.code == 2 and "--report" in capsys.readouterr().err
