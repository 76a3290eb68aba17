"""benchmarks/report_pictures.py: pictures of a report in a browser, with and without the places of a training."""

import pytest

from analysis.report import write_report
from benchmarks import report_pictures
from tests.analysis.report_example import ROWS, TOKENIZER, TREE, found
from utils import run


@pytest.mark.slow
def test_pictures(chromium, tmp_path):
    scores, findings = found()
    point = [0, 0, 0, 7, 0, 10, [0, 1], "行", 0, 202, 48, 2]
    kinds = {"easy": 0, "ambiguous": 0, "hard": 1}
    for name, points in (
        ("plain", None),
        ("map", {"points": [point], "share": 0.5, "epochs": 3, "kinds": kinds}),
    ):
        path = tmp_path / f"{name}.html"
        write_report(path, TREE, TOKENIZER, ROWS, scores, findings, {}, points=points)
        page = chromium.new_page(viewport={"width": report_pictures.WIDTH, "height": 900})
        page.goto(path.as_uri())
        report_pictures.take(page, tmp_path / name)
        page.close()
    assert [one.name for one in (tmp_path / "plain").iterdir()] == ["report.png"]
    assert sorted(one.name for one in (tmp_path / "map").iterdir()) == ["data-map.png", "report.png"]
    width = int.from_bytes((tmp_path / "map" / "report.png").read_bytes()[16:20], "big")
    assert width == report_pictures.WIDTH


def test_a_report_that_is_not_there(tmp_path, capsys):
    with pytest.raises(SystemExit, match="2"):
        run(lambda: report_pictures.main(["--report", str(tmp_path / "none.html"), "--pictures", str(tmp_path)]))
    assert "evaluate.py --report writes it" in capsys.readouterr().err
