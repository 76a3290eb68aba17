"""analysis/baseline.py: the scores in the log and in a file, and what can be wrong."""

import json
import logging
import shutil

import numpy as np
import pytest

import predict
from analysis import baseline
from analysis.scoring import fit_baseline, headline
from hierarchical.linear import LINEAR
from hierarchical.predictor import Predictor
from metric import decide, evaluate
from tests.conftest import SAMPLE
from utils import InputError, LabelTree, load_rows, run


@pytest.fixture
def call():
    def call(*arguments):
        run(lambda: baseline.main(list(map(str, arguments))))

    return call


def test_prints_and_writes_the_scores(data_dir, call, tmp_path, monkeypatch):
    printed = []
    monkeypatch.setattr(baseline.get_logger(), "handle", lambda record: printed.append(record.getMessage()))
    data = data_dir(dev_txt="前锋梅开二度\t体育,体育##足球\n\n未标注\n大盘午后跳水\t财经,财经##股票\n")
    (data / "label_graph.txt").write_text("体育##足球\t财经\n", encoding="utf-8")  # for which no row was written
    call("--dataset_dir", data, "--output_json", tmp_path / "scores.json")
    tree = LabelTree.read(data / "label.txt")
    train, dev = (load_rows(data / name, tree, unlabelled="skip") for name in ("train.txt", "dev.txt"))
    _, scores = fit_baseline(train, dev, tree, logging.getLogger("of nobody"))
    assert json.loads((tmp_path / "scores.json").read_text(encoding="utf-8")) == scores
    lacking, skipped, lacking_dev, unseen, sizes, estimate, *lines, last = printed
    assert lacking.startswith(
        "train.txt: 1 rows lack a parent of one of their labels, first '国足今晚出战'; it counts as"
    )
    assert lacking_dev.startswith("dev.txt: 1 rows lack a parent of one of their labels, first '前锋梅开二度'")
    assert unseen == "dev.txt: no row for 1 of 5 labels (体育##篮球)"
    assert estimate.startswith("About ") and estimate.endswith(" seconds of one core")
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
    monkeypatch.setattr(baseline, "fit_baseline", lambda *_: pytest.fail("too late"))
    for path in (tmp_path / "nowhere" / "scores.json", tmp_path):
        with pytest.raises(SystemExit) as stopped:
            call("--dataset_dir", data_dir(), "--output_json", path)
        assert stopped.value.code == 2 and str(path) in capsys.readouterr().err


@pytest.mark.slow
def test_the_model_predicts_by_itself(call, tmp_path, printed):
    call("--dataset_dir", SAMPLE, "--save_dir", tmp_path / "model", "--output_json", tmp_path / "scores.json")
    assert f"Saved in {tmp_path / 'model'}" in printed[-1]
    predictor = Predictor(tmp_path / "model")
    dev = load_rows(SAMPLE / "dev.txt", predictor.tree)
    found = decide(predictor.probabilities(dev.texts), predictor.tree, predictor.decision)
    of_all = evaluate(found, dev.multi_hot(31), predictor.tree)
    honest = json.loads((tmp_path / "scores.json").read_text(encoding="utf-8"))
    assert 0 <= of_all["micro_f1"] + of_all["macro_f1"] - honest["micro_f1"] - honest["macro_f1"] < 0.02
    assert honest["micro_f1"] > 0.95 and honest["macro_f1"] > 0.9
    with pytest.raises(InputError, match="--use_bf16: a linear model has no encoder. Leave it out."):
        predict.main(["--params_path", str(tmp_path / "model"), "--dataset_dir", str(SAMPLE), "--use_bf16"])
    first = (tmp_path / "model" / LINEAR).read_bytes()
    call("--dataset_dir", SAMPLE, "--save_dir", tmp_path / "model")  # a second time, in its place
    assert (tmp_path / "model" / LINEAR).read_bytes() == first


@pytest.mark.slow
def test_it_leaves_no_model_among_the_rows(call, data_dir, capsys):
    folder = data_dir()
    before = sorted(path.name for path in folder.iterdir())
    with pytest.raises(SystemExit) as stopped:
        call("--dataset_dir", folder, "--save_dir", folder / ".." / folder.name)
    assert stopped.value.code == 2 and "is the data folder" in capsys.readouterr().err
    assert sorted(path.name for path in folder.iterdir()) == before


def test_it_replaces_no_model_with_an_encoder(
    call, data_dir, tiny_checkpoint, plain_export, tmp_path, capsys, monkeypatch
):
    monkeypatch.setattr(baseline, "fit_baseline", lambda *_: pytest.fail("too late"))
    for source in (tiny_checkpoint, plain_export):
        folder = shutil.copytree(source, tmp_path / source.name)
        with pytest.raises(SystemExit) as stopped:
            call("--dataset_dir", data_dir(), "--save_dir", folder)
        assert stopped.value.code == 2 and "holds a model with an encoder" in capsys.readouterr().err
        assert not (folder / LINEAR).exists()


def test_few_dev_rows(call, data_dir, tmp_path):
    """They choose nothing: each label is cut where its machine cuts it."""
    call("--dataset_dir", data_dir(), "--save_dir", tmp_path / "model")
    predictor = Predictor(tmp_path / "model")
    texts = ["国足今晚出战", "两市小幅收涨"]
    logits = predictor.text_logits(texts)
    assert logits[0, 0] > 0 > logits[0, 4] and logits[1, 4] > 0 > logits[1, 1]
    np.testing.assert_allclose(logits, 8 * predictor.engine.branch.decision_values(texts), rtol=1e-5)
