"""analysis/report.py: what the page says against a worked example, and that texts and labels are shown, never executed.

A page is parsed with html.parser: what a browser would run or load shows as a tag, not as text.
"""

import json
from html.parser import HTMLParser
from types import SimpleNamespace

import numpy as np
import pytest

from analysis import evaluate
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
from utils import LabelTree, Rows

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
    """The tags of a page with their attributes, and the text outside of <style> and <script>."""

    def __init__(self, html):
        super().__init__()
        self.tags, self.text, self.inside = [], "", []
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


def write(path, scores, findings, rows=ROWS, tree=TREE, **facts):
    write_report(path, tree, TOKENIZER, rows, scores, findings, facts)
    return Page(path.read_text(encoding="utf-8"))


# ---- the worked example ----------------------------------------------------------------------------------------------


def test_confusions_within_siblings_and_across_branches():
    siblings, across = confusion_tables(TREE, found()[1], ROWS)
    assert siblings == [{"missed": "甲##子", "extra": "甲##丑", "count": 2, "support": 3, "text": "二行二行"}]
    assert across == [{"missed": "乙##子", "extra": "甲##子", "count": 1, "support": 1, "text": "四行四行四行"}]


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


def test_suspects_are_the_surest_contradictions():
    assert len(suspects(found()[1], {suspects(found()[1])[0]["row"]})) == 1  # what somebody has confirmed is none
    first, second = suspects(found()[1])  # 0.97 against 甲##丑 and 0.12 for 甲##子; 0.03 for 乙
    assert (first["row"], second["row"]) in ((1, 4), (4, 1))
    both = first if first["row"] == 1 else second
    assert [(label["label"], round(label["probability"], 2)) for label in both["labels"]] == [
        ("甲##子", 0.12),
        ("甲##丑", 0.97),
    ]
    alone = second if first["row"] == 1 else first
    assert [label["label"] for label in alone["labels"]] == ["乙"]


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
    wrong = page.text[page.text.index("Wrong rows", page.text.index("Suspected label errors", 200)) :]
    assert [text for text in TEXTS if text in wrong] == TEXTS[1:]
    assert "4 dev rows have a wrong label set" in page.text
    assert wrong.count("missed") == 4 and wrong.count("extra") == 3


def test_long_texts_are_cut(tmp_path):
    rows = Rows([text + "长" * 1_000_000 for text in TEXTS], GOLD, 0, 0)
    page = write(tmp_path / "report.html", *found(), rows=rows)
    assert "三行" + "长" * 998 + "... (1,000,002 characters)" in page.text and len(page.text) < 20_000


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
    assert [a for tag, a in page.tags if tag == "script"] == [a for tag, a in clean.tags if tag == "script"] == [{}]
    assert {tag for tag, _ in page.tags} <= {tag for tag, _ in clean.tags}
    for text in rows.texts:
        assert text in page.text
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
    page.locator("[data-show]").first.click()  # right in the first row, and wrongly predicted in the others
    assert page.inner_text("#case-count") == "2 of 3 rows" and page.locator("#cases .case:visible").count() == 2
    page.fill("#f1-filter", "50")
    assert page.inner_text("#label-count") == "2 of 3 labels"
    page.locator("#label-table th", has_text="Missed").click()
    assert page.locator("#label-table tbody tr").first.get_attribute("data-name") == "好"
    assert page.faults == []


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
