"""analysis/sent_interpret.py: the result's lines by hand, the page, and what can be wrong."""

import shutil
from pathlib import Path

import numpy as np
import pytest

from analysis import sent_interpret
from analysis.cases import Case
from analysis.sent_interpret import page_case, result_lines
from hierarchical.calibration import sigmoid
from hierarchical.checkpoints import Checkpoint
from hierarchical.modeling import encode_features, predict_logits
from metric import decide
from utils import LabelTree, load_rows, run

ROOT = Path(__file__).resolve().parents[2]
TREE = LabelTree(["组织", "组织##裁员", "财经"])
CASE = Case("公司\t裁员", (0, 1), (2,))
SUPPORTS = [("工厂裁员", (0, 1), 0.993571), ("股市\n下跌", (2,), 0.5)]


def test_result_lines():
    assert list(result_lines(TREE, CASE, (2,), SUPPORTS)) == [
        "text: 公司 裁员",
        "predict label: 财经",
        "label: 组织,组织##裁员",
        "examples with positive influence",
        "support1 text: 工厂裁员\tlabel: 组织,组织##裁员\tscore: 0.99357",
        "support2 text: 股市 下跌\tlabel: 财经\tscore: 0.50000",
    ]
    assert list(result_lines(TREE, Case("文", None, None), (), []))[1:3] == ["predict label: ", "label: "]


def test_page_case():
    shown = page_case(TREE, CASE, (2,), np.array([0.1, 0.2, 0.9]), SUPPORTS)
    assert [(label["label"], label["gold"], label["predicted"]) for label in shown["labels"]] == [
        ("组织", True, False),
        ("组织##裁员", True, False),
        ("财经", False, True),
    ]
    assert [row["labels"] for row in shown["supports"]] == [[("组织", True), ("组织##裁员", True)], [("财经", False)]]


# ---- a real checkpoint -----------------------------------------------------------------------------------------------


@pytest.fixture
def data(tmp_path):
    """30 train rows of the sample data and three texts: a train row, one with HTML and emoji, one beyond all lengths."""
    folder = tmp_path / "data"
    folder.mkdir()
    shutil.copy(ROOT / "data" / "label.txt", folder)
    lines = (ROOT / "data" / "train.txt").read_text(encoding="utf-8").splitlines(keepends=True)[:30]
    (folder / "train.txt").write_text("".join(lines), encoding="utf-8")
    text, labels = lines[7].rstrip("\n").split("\t")
    (folder / "bad_case.txt").write_text(
        f"Text\tLabel\tPrediction\n{text}\t{labels}\t\n<script>alert(1)</script>😀ＡＢＣ\t公司动态\t\n{'长' * 3000}\t\t\n",
        encoding="utf-8",
    )
    return folder


@pytest.fixture
def call(tiny_checkpoint, data):
    def call(*flags):
        arguments = ["--dataset_dir", data, "--params_path", tiny_checkpoint, "--device", "cpu", *flags]
        sent_interpret.main(list(map(str, arguments)))

    return call


def test_result_file_and_page(tiny_checkpoint, data, call):
    call("--html_file", "neighbours.html", "--top_k", "2")
    lines = (data / "sent_interpret.txt").read_text(encoding="utf-8").splitlines()
    assert len(lines) == 3 * 6
    for shown in ("\n".join(lines), (data / "neighbours.html").read_text(encoding="utf-8")):
        assert "长" * 1000 + "... (3,000 characters)" in shown and "长" * 1001 not in shown
    checkpoint = Checkpoint.open(tiny_checkpoint)
    tree, tokenizer, decision = checkpoint.tree, checkpoint.tokenizer, checkpoint.decision
    text, labels = (data / "train.txt").read_text(encoding="utf-8").splitlines()[7].split("\t")
    assert lines[0] == f"text: {text}"
    assert lines[2] == "label: " + ",".join(sorted(labels.split(","), key=tree.index.get))
    assert lines[4].startswith(f"support1 text: {text}\tlabel: ") and lines[4].endswith("\tscore: 1.00000")
    (ids,) = tokenizer.encode([text])
    probabilities = sigmoid(predict_logits(checkpoint.load_model(), [ids], tokenizer.pad_id, 1))
    predicted = np.flatnonzero(decide(probabilities, tree, decision)[0])
    assert lines[1] == "predict label: " + ",".join(tree.labels[i] for i in predicted)
    page = (data / "neighbours.html").read_text(encoding="utf-8")
    assert "<script>alert" not in page and "&lt;script&gt;alert(1)&lt;/script&gt;😀ＡＢＣ" in page
    assert page.count("<li>") == 6


def test_labels_are_predicted_from_the_features(tiny_checkpoint, data):
    checkpoint = Checkpoint.open(tiny_checkpoint)
    tree, tokenizer, decision = checkpoint.tree, checkpoint.tokenizer, checkpoint.decision
    model, texts = checkpoint.load_model(), load_rows(data / "train.txt", tree).texts
    features = encode_features(model, tokenizer, texts, 8, "texts")
    probabilities, selected = sent_interpret.predict(model, features, texts, checkpoint)
    logits = predict_logits(model, tokenizer.encode(texts), tokenizer.pad_id, 8)
    np.testing.assert_allclose(probabilities, sigmoid(logits), atol=1e-4)
    assert np.array_equal(selected, decide(probabilities, tree, decision))


def test_predictions_of_another_run_are_told_of(data, call, capsys):
    call()  # the file says that nothing is predicted for any of its three texts
    assert "bad_case.txt: 3 predictions differ from this checkpoint's" in capsys.readouterr().err


def test_texts_without_labels_and_an_older_command(data, call):
    (data / "data.txt").write_text("一行\n二行\n", encoding="utf-8")
    call("--interpret_input_file", "data.txt", "--interpret_result_file", "near.txt", "--seed", "3")
    lines = (data / "near.txt").read_text(encoding="utf-8").splitlines()
    assert len(lines) == 2 * 7 and lines[2] == "label: "


@pytest.mark.parametrize(
    "flags, message",
    [
        (["--interpret_input_file", "gone.txt"], "gone.txt: no such file"),
        (["--interpret_result_file", "train.txt"], "would overwrite"),
        (["--html_file", "bad_case.txt"], "would overwrite"),
        (["--html_file", "sent_interpret.txt"], "--interpret_result_file and --html_file must have different names"),
        (["--train_file", "bad_case.txt"], "2 TABs"),
        (["--top_k", "0"], "--top_k: must be at least 1"),
        (["--dataset_dir", "nowhere"], "nowhere: no such directory"),
    ],
)
def test_what_is_wrong_is_said_before_the_model_is_loaded(call, capsys, monkeypatch, flags, message):
    monkeypatch.setattr(sent_interpret, "set_device", lambda device: pytest.fail("too late"))
    with pytest.raises(SystemExit) as stopped:
        run(lambda: call(*flags))
    assert stopped.value.code == 2 and message in capsys.readouterr().err
