"""analysis/data_map.py: where rows lie and what is told of them, and the map in a browser."""

import json
import shutil
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest

from analysis import data_map, evaluate
from analysis.data_map import Marks, flattened, map_points
from analysis.report import write_report
from hierarchical.dynamics import Dynamics, Seen
from hierarchical.long_texts import CUT
from tests.analysis.conftest import StandIn, rows_of
from tests.analysis.report_example import ROWS, TOKENIZER, TREE, found
from tests.conftest import SAMPLE
from utils import InputError, LabelTree, load_rows, run


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

    def points(seen=None, **rows):
        marks = {name: Marks(len(part.texts)) for name, part in rows.items() if name != "unlabelled"}
        marks["dev"].wrong[-1], marks["dev"].surest[-1] = True, 0.876
        tokenizer = StandIn(windows=True, long_text="windows")
        predictor = SimpleNamespace(engine=SimpleNamespace(model=None), tokenizer=tokenizer, batch_size=1, bf16=False)
        return map_points(predictor, rows, marks, dict.fromkeys(rows, Path("data/rows.txt")), seen)

    def encode(model, tokenizer, texts, batch_size, name):
        assert tokenizer.long_text == CUT
        return np.array([[float(text.split()[0]), 0, 1] for text in texts], np.float32)

    monkeypatch.setattr("analysis.features.text_features", encode)
    return points


def test_what_is_told_of_a_row(points):
    made = points(train=rows_of(["1", "3 " + "长" * 200], [(0, 1), ()]), dev=rows_of(["2"], [(3,)]))
    one, cut, of_dev = made["points"]
    assert one[2:] == [0, 0, 0, 0, [0, 1], "1", 0] and of_dev[2:] == [1, 0, 1, 88, [3], "2", 0]
    assert cut[7] == "3 " + "长" * 98 and cut[8] == 202 and {one[0], cut[0]} == {0, 1000} and of_dev[0] == 500
    assert json.loads(json.dumps(made)) == made and made["kinds"] == {}


def test_texts_without_labels_and_how_a_training_saw_its_rows(points):
    nan = float("nan")
    seen = Seen(np.array([0.96, nan, 0.2, 0.4]), np.array([0.01, nan, 0.02, 0.3]), 5)
    train, dev = rows_of("1234", [(0,)] * 4), rows_of("51", [(3,)] * 2)
    made = points(seen, train=train, dev=dev, unlabelled=rows_of(["6", "2", "5", "7", "6"], []))
    assert made["kinds"] == {"easy": 1, "ambiguous": 1, "hard": 1} and made["epochs"] == 5
    assert [one[9:] for one in made["points"]] == [[960, 10, 0], [], [200, 20, 2], [400, 300, 1], *[[]] * 4]
    assert [one[7] for one in made["points"] if one[2] == 1] == ["5", "1"], "what is in train, too, stays a dev row"
    assert [one[2:8] for one in made["points"][6:]] == [[2, 0, 0, 0, [], "6"], [2, 3, 0, 0, [], "7"]], (
        "others are known, and 6 is there once"
    )


def test_the_hardest_rows_are_on_the_map_however_many_there_are(points, monkeypatch):
    monkeypatch.setattr(data_map, "MOST_POINTS", 5)
    monkeypatch.setattr(data_map, "HARDEST", 2)
    confidence = np.full(50, 0.9)
    confidence[[17, 41]] = 0.1
    seen, rows = Seen(confidence, np.zeros(50), 3), rows_of(map(str, range(50)), [()] * 50)
    made = points(seen, train=rows, dev=rows_of(["2"], [()]))["points"]
    numbers = [one[3] for one in made if one[2] == 0]
    assert len(numbers) == 5 and {17, 41} <= set(numbers) and numbers == sorted(set(numbers))


def test_of_many_rows_a_draw(points, monkeypatch):
    monkeypatch.setattr(data_map, "MOST_POINTS", 5)
    made = points(train=rows_of(map(str, range(50)), [()] * 50), dev=rows_of(["2"] * 4, [()] * 4))["points"]
    numbers = [one[3] for one in made if not one[2]]
    assert len(made) == 9 and numbers == sorted(set(numbers)) and numbers != list(range(5))


def test_parts_of_files_are_not_kept_as_the_files(points, monkeypatch):
    monkeypatch.setattr(data_map, "MOST_POINTS", 5)
    named, of = [], data_map.Features.of
    monkeypatch.setattr(data_map.Features, "of", lambda self, *all: named.append(all[1].name) or of(self, *all))
    points(train=rows_of(map(str, range(50)), [()] * 50), dev=rows_of("23", [()] * 2))
    assert named == ["map-rows.txt", "rows.txt"]


@pytest.mark.slow
def test_from_files_to_the_map(tiny_checkpoint, tmp_path):
    """What a training kept, and the texts of data.txt, of which one is in train, are on the page."""
    for name, n_rows in (("train.txt", 30), ("dev.txt", 20)):
        lines = (SAMPLE / name).read_text(encoding="utf-8").splitlines(keepends=True)[:n_rows]
        (tmp_path / name).write_text("".join(lines), encoding="utf-8")
    train = load_rows(tmp_path / "train.txt", LabelTree.read(SAMPLE / "label.txt"))
    (tmp_path / "data.txt").write_text(f"{train.texts[3]}\n\n没人标过\n", encoding="utf-8")
    checkpoint = tmp_path / "checkpoint"
    shutil.copytree(tiny_checkpoint, checkpoint)
    dynamics = Dynamics(train, 1)
    dynamics.values[0] = np.linspace(0, 1, 30)
    dynamics.write(checkpoint)
    flags = ["--dataset_dir", tmp_path, "--params_path", checkpoint, "--device", "cpu", "--data_map"]
    evaluate.main(list(map(str, [*flags, "--report", tmp_path / "r.html"])))
    page = (tmp_path / "r.html").read_text(encoding="utf-8")
    data = json.loads(page.split('id="data">')[1].split("</script>")[0])
    assert [sum(point[2] == split for point in data["points"]) for split in range(3)] == [30, 20, 1]
    assert data["points"][-1][3:8] == [1, 0, 0, [], "没人标过"] and data["points"][29][9:] == [1000, 0, 0]
    assert "15 rows were easy, 0 ambiguous" in page and "15 hard" in page
    evaluate.main(list(map(str, [*flags, "--report", tmp_path / "r.html", "--unlabeled_file", ""])))
    assert "没人标过" not in (tmp_path / "r.html").read_text(encoding="utf-8")
    (checkpoint / "dynamics.npz").write_bytes(b"PK")
    with pytest.raises(InputError, match="dynamics.npz: damaged"):
        evaluate.main(list(map(str, [*flags, "--report", tmp_path / "r.html"])))


def test_a_map_needs_a_report(capsys):
    with pytest.raises(SystemExit, match="2"):
        run(lambda: evaluate.main(["--dataset_dir", "data", "--data_map"]))
    assert "--data_map: is part of a report" in capsys.readouterr().err


@pytest.mark.slow
def test_a_line_round_some_dots_shows_their_rows(tmp_path, opened):
    places = [(0, 0, 0, 7), (1000, 1000, 0, 8), (0, 1000, 1, 0), (1000, 0, 1, 1)]
    rows = [[x, y, dev, i, dev * i, 10 * i, [0, 1], f"行{i}</script>", 0] for x, y, dev, i in places]
    rows[0] += [202, 48, 2]  # hard
    rows[1] += [704, 451, 1]  # ambiguous
    rows.append([0, 500, 2, 4, 0, 0, [], "未标注", 0])
    scores, findings = found()
    points = {"points": rows, "share": 0.5, "epochs": 3, "kinds": {"easy": 0, "ambiguous": 1, "hard": 1}}
    write_report(tmp_path / "r.html", TREE, TOKENIZER, ROWS, scores, findings, {}, points=points)
    page = opened(tmp_path / "r.html", 390)
    assert page.evaluate("document.documentElement.scrollWidth") == 390
    canvas = page.locator("#map-canvas")

    def encircle(*corners):
        canvas.scroll_into_view_if_needed()
        box = canvas.bounding_box()
        spots = [(box["x"] + x * box["width"], box["y"] + y * box["height"]) for x, y in corners]
        page.mouse.move(*spots[0])
        page.mouse.down()
        for spot in spots[1:]:
            page.mouse.move(*spot)
        page.mouse.up()

    encircle((0.5, 0.01), (0.99, 0.01), (0.99, 0.99), (0.5, 0.99))  # the right half
    assert page.inner_text("#map-count") == "2 rows"
    varied = "labelled train row 9, ambiguous: confidence 70\xa0%, variability 45\xa0%"
    assert page.locator("#map-list .line").all_inner_texts() == [varied, "labelled dev row 2"]
    page.select_option("#map-split", "0")
    assert page.inner_text("#map-count") == "1 rows"
    page.click("#map-tick")
    for colour, kinds in (("error", 3), ("suspicion", 4), ("split", 3), ("label", 3), ("kind", 4)):
        page.select_option("#map-colour", colour)
        assert page.locator("#map-key .key").count() == kinds
    page.select_option("#map-split", "2")
    encircle((0.01, 0.3), (0.2, 0.3), (0.2, 0.7), (0.01, 0.7))
    assert page.locator("#map-list .line").all_inner_texts() == ["unlabelled text 5"]
    page.click("#map-tick")
    with page.expect_download() as download:
        page.click("#download")
    download.value.save_as(tmp_path / "picked.jsonl")
    lines = (tmp_path / "picked.jsonl").read_text(encoding="utf-8").splitlines()
    assert list(map(json.loads, lines)) == [
        {"text": "行8</script>", "labels": ["甲", "甲##子"], "train_row": 9},
        {"text": "未标注", "unlabelled_row": 5},
    ]
    page.select_option("#map-place", "training")
    assert page.input_value("#map-colour") == "kind" and page.inner_text("#map-count") == ""
    page.select_option("#map-split", "")
    encircle((0.01, 0.6), (0.3, 0.6), (0.3, 0.99), (0.01, 0.99))  # little confidence, and it does not vary
    (told,) = page.locator("#map-list .line").all_inner_texts()
    assert told.replace("\xa0", " ") == "labelled train row 8, hard: confidence 20 %, variability 5 %"
    page.select_option("#map-place", "")
    page.select_option("#map-split", "ambiguous")  # all of them, without a line
    assert page.locator("#map-list .line").all_inner_texts() == [varied]
    assert page.faults == []
