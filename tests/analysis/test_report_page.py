"""analysis/report.py: the page, parsed and in a browser, also by evaluate.py --report; what it shows never runs."""

import json
from types import SimpleNamespace

import numpy as np
import pytest

from analysis import evaluate, report
from analysis.report import render, suspects
from analysis.word_interpret import Part
from hierarchical import batches, checkpoints
from hierarchical.checkpoints import write_settings
from hierarchical.predictor import Predictor
from metric import Decision
from tests.analysis.conftest import StandIn
from tests.analysis.report_example import GOLD, PROBABILITIES, ROWS, TEXTS, TOKENIZER, TREE, Page, found, write
from utils import LabelTree, Rows, load_rows

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
