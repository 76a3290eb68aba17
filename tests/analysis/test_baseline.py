"""analysis/baseline.py: the scores in the log and in a file, and what can be wrong."""

import json

import pytest

from analysis import baseline
from analysis.scoring import baseline_scores, headline
from utils import LabelTree, load_rows, run


@pytest.fixture
def call():
    def call(*arguments):
        run(lambda: baseline.main(list(map(str, arguments))))

    return call


def test_prints_and_writes_the_scores(data_dir, call, tmp_path, monkeypatch):
    printed = []
    monkeypatch.setattr(baseline.get_logger(), "handle", lambda record: printed.append(record.getMessage()))
    data = data_dir(dev_txt="前锋梅开二度\t体育,体育##足球\n\n未标注\n大盘午后跳水\t财经,财经##股票\n")
    call("--dataset_dir", data, "--output_json", tmp_path / "scores.json")
    tree = LabelTree.read(data / "label.txt")
    train, dev = (load_rows(data / name, tree, unlabelled="skip") for name in ("train.txt", "dev.txt"))
    scores = baseline_scores(train, dev, tree)
    assert json.loads((tmp_path / "scores.json").read_text(encoding="utf-8")) == scores
    skipped, sizes, *lines, last = printed
    assert skipped == "dev.txt: skipped 1 blank and 1 unlabelled lines"
    assert sizes == "Linear baseline: 5 labels, 4 train rows, 2 dev rows"
    assert lines == headline(scores)
    assert last.startswith("Done in ") and "look at the labels" in last


@pytest.mark.parametrize(
    "contents, message",
    [
        ({"train_txt": None}, "train.txt: no such file"),
        ({"label_txt": "体育\n体育\n"}, "label.txt:2: label '体育' is already on line 1"),
        ({"dev_txt": "一行\t体于\n"}, "dev.txt:1: unknown label '体于'; did you mean '体育'?"),
    ],
)
def test_bad_data(data_dir, call, capsys, contents, message):
    with pytest.raises(SystemExit) as stopped:
        call("--dataset_dir", data_dir(**contents))
    assert stopped.value.code == 2 and message in capsys.readouterr().err


def test_unwritable_output_is_found_first(data_dir, call, capsys, tmp_path, monkeypatch):
    monkeypatch.setattr(baseline, "baseline_scores", lambda *_: pytest.fail("too late"))
    for path in (tmp_path / "nowhere" / "scores.json", tmp_path):
        with pytest.raises(SystemExit) as stopped:
            call("--dataset_dir", data_dir(), "--output_json", path)
        assert stopped.value.code == 2 and str(path) in capsys.readouterr().err
