"""analysis/data_map.py: where rows lie and what is told of them, and the map in a browser."""

import json
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest

from analysis import data_map
from analysis.data_map import Marks, flattened, map_points
from analysis.report import write_report
from hierarchical.long_texts import CUT
from tests.analysis.conftest import StandIn, rows_of
from tests.analysis.test_report import ROWS, TOKENIZER, TREE, found
from utils import run


def test_the_two_directions_in_which_features_vary_most():
    corners = np.array([[0, 0], [4, 0], [0, 1], [4, 1]], np.float32)
    turned = np.linalg.qr(np.random.default_rng(0).normal(size=(5, 5)))[0][:2].astype(np.float32)  # into 5 dimensions
    places, share = flattened(corners @ turned + 7)
    assert share == pytest.approx(1) and set(places.ravel().tolist()) == {0, 1000}
    assert places[0, 0] == places[2, 0] != places[1, 0] == places[3, 0], "the first direction is the longer side"
    assert places[0, 1] == places[1, 1] != places[2, 1] == places[3, 1]
    third = np.concatenate([corners, corners]) @ np.eye(2, 3) + np.repeat([[0, 0, 0.5], [0, 0, -0.5]], 4, 0)
    assert flattened(third)[1] == pytest.approx((4 + 0.25) / (4 + 0.25 + 0.25)), "variances: 4, 1/4 and 1/4"
    assert flattened(np.ones((4, 3)))[0].tolist() == [[500, 500]] * 4
    assert len(flattened(np.ones((2, 3)))[0]) == 2


def test_marks():
    marks, gold = Marks(3), np.array([[1, 0], [1, 0], [0, 1]], bool)
    p = np.array([[0.9, 0.3], [0.2, 0.6], [0.1, 0.7]], np.float32)
    for window in (range(0, 1), range(1, 3)):
        rows = slice(window.start, window.stop)
        marks.update(window, p[rows], p[rows] > 0.5, gold[rows])
    assert marks.wrong.tolist() == [False, True, False] and marks.surest.tolist() == pytest.approx([0.3, 0.8, 0.3])


@pytest.fixture
def points(monkeypatch):
    """points(rows): of Rows by name, whose features are the numbers in their texts."""

    def points(**rows):
        marks = {name: Marks(len(part.texts)) for name, part in rows.items()}
        marks["dev"].wrong[-1], marks["dev"].surest[-1] = True, 0.876
        tokenizer = StandIn(windows=True, long_text="windows")
        predictor = SimpleNamespace(engine=SimpleNamespace(model=None), tokenizer=tokenizer, batch_size=1)
        return map_points(predictor, rows, marks, dict.fromkeys(rows, Path("data/rows.txt")))

    def encode(model, tokenizer, texts, batch_size, name):
        assert tokenizer.long_text == CUT
        return np.array([[float(text.split()[0]), 0, 1] for text in texts], np.float32)

    monkeypatch.setattr("analysis.features.text_features", encode)
    return points


def test_what_is_told_of_a_row(points):
    made = points(train=rows_of(["1", "3 " + "长" * 200], [(0, 1), ()]), dev=rows_of(["2"], [(3,)]))
    one, cut, of_dev = made["points"]
    assert one[2:] == [0, 0, 0, 0, [0, 1], "1"] and of_dev[2:] == [1, 0, 1, 88, [3], "2"]
    assert cut[7] == "3 " + "长" * 98 and cut[8] == 202 and {one[0], cut[0]} == {0, 1000} and of_dev[0] == 500
    assert json.loads(json.dumps(made)) == made


def test_of_many_rows_a_draw(points, monkeypatch):
    monkeypatch.setattr(data_map, "MOST_POINTS", 5)
    made = points(train=rows_of(map(str, range(50)), [()] * 50), dev=rows_of(["2"] * 4, [()] * 4))["points"]
    numbers = [one[3] for one in made if not one[2]]
    assert len(made) == 9 and numbers == sorted(set(numbers)) and numbers != list(range(5))


def test_a_map_needs_a_report(capsys):
    from analysis import evaluate

    with pytest.raises(SystemExit, match="2"):
        run(lambda: evaluate.main(["--dataset_dir", "data", "--data_map"]))
    assert "--data_map: is part of a report" in capsys.readouterr().err


@pytest.mark.slow
def test_a_line_round_some_dots_shows_their_rows(tmp_path, opened):
    places = [(0, 0, 0, 7), (1000, 1000, 0, 8), (0, 1000, 1, 0), (1000, 0, 1, 1)]
    rows = [[x, y, dev, i, dev * i, 10 * i, [0, 1], f"行{i}</script>"] for x, y, dev, i in places]
    scores, findings = found()
    points = {"points": rows, "share": 0.5}
    write_report(tmp_path / "r.html", TREE, TOKENIZER, ROWS, scores, findings, {}, points=points)
    page = opened(tmp_path / "r.html", 390)
    assert page.evaluate("document.documentElement.scrollWidth") == 390
    box = page.locator("#map-canvas")
    box.scroll_into_view_if_needed()
    box = box.bounding_box()

    def encircle(*corners):
        spots = [(box["x"] + x * box["width"], box["y"] + y * box["height"]) for x, y in corners]
        page.mouse.move(*spots[0])
        page.mouse.down()
        for spot in spots[1:]:
            page.mouse.move(*spot)
        page.mouse.up()

    encircle((0.5, 0.01), (0.99, 0.01), (0.99, 0.99), (0.5, 0.99))  # the right half
    assert page.inner_text("#map-count") == "2 rows"
    assert page.locator("#map-list .line").all_inner_texts() == ["labelled train row 9", "labelled dev row 2"]
    page.select_option("#map-split", "0")
    assert page.inner_text("#map-count") == "1 rows"
    page.click("#map-tick")
    for colour, kinds in (("error", 2), ("suspicion", 3), ("split", 2), ("label", 2)):
        page.select_option("#map-colour", colour)
        assert page.locator("#map-key .key").count() == kinds
    with page.expect_download() as download:
        page.click("#download")
    download.value.save_as(tmp_path / "picked.jsonl")
    (line,) = (tmp_path / "picked.jsonl").read_text(encoding="utf-8").splitlines()
    assert json.loads(line) == {"text": "行8</script>", "labels": ["甲", "甲##子"], "train_row": 9}
    assert page.faults == []
