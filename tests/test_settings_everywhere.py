"""What is stored with a checkpoint decides alike wherever it is asked: in scripts, exports, back ends and servers."""

import json
import shutil
from dataclasses import replace

import numpy as np
import pytest

import predict
import prune
from analysis import evaluate
from deploy.predictor import infer
from deploy.simple_serving.model import Work, load_exported, named, pieces_of, run
from deploy.triton_serving import make_repository
from hierarchical.calibration import Calibration, sigmoid
from hierarchical.checkpoints import Checkpoint, read_settings, save_checkpoint, write_decision
from hierarchical.decisions import certainty, probabilities_of
from hierarchical.long_texts import LongText
from hierarchical.predictor import Predictor
from hierarchical.tokenizer import normalizing
from metric import Decision, Scores, decide
from tests.conftest import SAMPLE
from tests.deploy.triton_serving.asking import ask
from utils import InputError, LabelTree, load_rows

pytestmark = pytest.mark.slow

TREE = LabelTree.read(SAMPLE / "label.txt")
CURVE = [[-20.0, -2.0, 0.0, 1.0, 20.0], [0.0, 0.2, 0.4, 0.9, 1.0]]
STORED = [
    Decision([0.4, 0.3, 0.2], calibration=Calibration("per_level", [[0.5, 0.3], [0.8, -0.2], [1.2, 0.0]], [])),
    Decision(0.5, "path", stop="confident", calibration=Calibration("isotonic", [], [CURVE, CURVE, CURVE])),
    Decision(decoding="path"),
    Decision([0.9, 0.7, 0.5], "path", stop="confident"),
    Decision(per_level=2, decoding="closure"),
]


@pytest.fixture(scope="module")
def rows():
    rows = load_rows(SAMPLE / "dev.txt", TREE)
    return rows._replace(texts=rows.texts[:24], labels=rows.labels[:24])


@pytest.fixture(scope="module")
def logits(hybrid_checkpoint, rows):
    return Predictor(hybrid_checkpoint).text_logits(rows.texts)


@pytest.fixture
def stored(request, hybrid_checkpoint, hybrid_export, tmp_path):
    """(folder of a checkpoint, folder of its export), both with the decision that the test names."""
    folders = tmp_path / "checkpoint", tmp_path / "export"
    for source, folder in zip((hybrid_checkpoint, hybrid_export), folders):
        shutil.copytree(source, folder)
        write_decision(folder, 64, request.param)
    return folders


def rows_in(path):
    return [json.loads(line) for line in path.read_text("utf-8").splitlines()]


@pytest.mark.parametrize("stored", STORED, indirect=True)
def test_same_answers_everywhere(stored, rows, logits, tmp_path):
    checkpoint, export = stored
    decision = read_settings(checkpoint)[2]
    probabilities = probabilities_of(logits, TREE, decision)
    sets = decide(probabilities, TREE, decision)
    expected = [[TREE.labels[i] for i in np.flatnonzero(row)] for row in sets]
    assert len({tuple(row) for row in expected}) > 3
    assert (decision.calibration is None) == np.allclose(probabilities, sigmoid(logits), atol=1e-2)

    def same(answers):
        """Labels, and the probabilities of them all."""
        assert [row["labels"] for row in answers] == expected
        found = [[row["probabilities"][label] for label in TREE.labels] for row in answers]
        np.testing.assert_allclose(found, probabilities, atol=1e-4)
        sure = certainty(probabilities, sets)
        np.testing.assert_allclose([row["certainty"] for row in answers], sure, atol=1e-4)
        assert [row["sure"] for row in answers] == (sure >= 0.6).tolist()

    data, gold = tmp_path / "data", rows.multi_hot(len(TREE))
    data.mkdir()
    (data / "data.txt").write_text("".join(f"{text}\n" for text in rows.texts), "utf-8")
    lines = [f"{text}\t{','.join(TREE.labels[i] for i in row)}\n" for text, row in zip(rows.texts, rows.labels)]
    (data / "dev.txt").write_text("".join(lines), "utf-8")
    flags = ["--dataset_dir", str(data), "--device", "cpu"]
    output = ["--output_file", str(tmp_path / "out.jsonl"), "--floor", "0", "--certainty", "0.6"]
    predict.main([*flags, *output, "--params_path", str(checkpoint)])
    same(rows_in(tmp_path / "out.jsonl"))
    infer.main([*flags, *output, "--model_path_prefix", str(export / "float32")])
    same(rows_in(tmp_path / "out.jsonl"))
    for how in ({}, {"backend": "paddle"}):
        same([vars(one) for one in Predictor(export, **how).predict(rows.texts, floor=0, certainty=0.6)])

    scores = Scores(TREE)
    scores.update(sets, gold)
    asked = ["--params_path", str(checkpoint), "--train_file", "", "--output_json", str(tmp_path / "scores.json")]
    evaluate.main([*flags, *asked, "--report", str(tmp_path / "report.html")])
    found = json.loads((tmp_path / "scores.json").read_text("utf-8"))
    assert found["dev"]["micro_f1"] == pytest.approx(scores.result()["micro_f1"])
    assert found["decision"] == {"max_seq_length": 64} | decision.to_dict()

    model = load_exported(export, "float32")
    works = [Work(text, 64, named, model.decision, 0.0, 0.6) for text in rows.texts]
    items = [type("Item", (), {"work": work, "group": model}) for work in works]
    same([json.loads(row) for row in run(items)])
    make_repository.main(
        [
            "--model_path",
            str(export),
            "--output",
            str(tmp_path / "models"),
            "--precision",
            "float32",
            "--backend",
            "python",
        ]
    )
    by_triton = ask(tmp_path / "models", [rows.texts])[0]
    assert [[name for _, name, _ in row] for row in by_triton] == expected
    told = np.concatenate([[p for _, _, p in row] for row in by_triton])
    np.testing.assert_allclose(told, probabilities[sets], atol=1e-4)


def test_normalised_texts_get_one_answer_everywhere(paddle, hybrid_checkpoint, rows, tmp_path):
    """Of texts that look alike: by the encoder, whose branch reads n-grams as they stand, so it is left out here."""
    from hierarchical.exporting import export_checkpoint

    opened = Checkpoint.open(hybrid_checkpoint)
    tokenizer, model = normalizing(opened.tokenizer, "nfkc"), opened.load_model()
    save_checkpoint(tmp_path / "checkpoint", model, tokenizer, TREE, opened.decision)
    opened = Checkpoint.open(tmp_path / "checkpoint")
    export_checkpoint(paddle, opened, opened.load_model(), tmp_path / "export")
    wide = {i: i + 0xFEE0 for i in map(ord, "0123456789")} | {ord("人"): "⼈", ord("车"): "⻋", ord("的"): "的\u200b"}
    odd = [text.translate(wide) for text in rows.texts]
    assert sum(one != other for one, other in zip(odd, rows.texts)) > 8
    expected = Predictor(tmp_path / "checkpoint").probabilities(rows.texts)
    for folder, how in (("checkpoint", {}), ("export", {}), ("export", {"backend": "paddle"})):
        np.testing.assert_allclose(Predictor(tmp_path / folder, **how).probabilities(odd), expected, atol=1e-4)
    assert (
        np.abs(
            Predictor(hybrid_checkpoint).probabilities(odd) - Predictor(hybrid_checkpoint).probabilities(rows.texts)
        ).max()
        > 0.1
    )
    served = load_exported(tmp_path / "export", "float32")
    np.testing.assert_allclose(served.probabilities(odd, [64] * len(odd)), expected, atol=1e-4)
    for text in odd:  # explanations point into the text as it stands
        assert max(end for _, end in served.tokenizer.spans(text)) <= len(text)
        assert all(0 <= start < end <= len(text) for start, end in pieces_of(served, text)[1])
    flags = ["--output", str(tmp_path / "models"), "--precision", "float32", "--backend", "python"]
    make_repository.main(["--model_path", str(tmp_path / "export"), *flags])
    found = ask(tmp_path / "models", [odd])[0]
    sets = decide(expected, TREE, opened.decision)
    assert [[i for i, _, _ in row] for row in found] == [np.flatnonzero(row).tolist() for row in sets]


@pytest.mark.parametrize("long_text", [LongText("head_tail"), LongText("windows", 7, 5)], ids=["head_tail", "windows"])
def test_long_texts_get_one_answer_everywhere(hybrid_checkpoint, hybrid_export, rows, long_text, tmp_path, capsys):
    """With windows of 14 tokens, which most rows are longer than; the branch reads whole texts in any case."""
    checkpoint, export = tmp_path / "checkpoint", tmp_path / "export"
    for source, folder in ((hybrid_checkpoint, checkpoint), (hybrid_export, export)):
        shutil.copytree(source, folder)
        write_decision(folder, 14, Decision(), long_text)
    expected, texts = by_hand(hybrid_checkpoint, rows.texts, long_text), rows.texts
    cut = Predictor(export, long_text="cut").probabilities(texts)
    assert f"long_text cut: the model is stored with {long_text.method}" in capsys.readouterr().err
    assert np.abs(expected - cut).max() > 0.05
    np.testing.assert_allclose(Predictor(checkpoint, long_text="cut").probabilities(texts), cut, atol=1e-4)
    for folder, how in ((checkpoint, {}), (export, {}), (export, {"backend": "paddle"}), (export, {"batch_size": 3})):
        np.testing.assert_allclose(Predictor(folder, **how).probabilities(texts), expected, atol=1e-4)
    int8 = Predictor(export, "int8")
    np.testing.assert_allclose(int8.probabilities(texts[:2]), [int8.probabilities([text])[0] for text in texts[:2]])
    served = load_exported(export, "float32")
    np.testing.assert_allclose(served.probabilities(texts, [14] * len(texts)), expected, atol=1e-4)
    assert all(pieces_of(served, text)[0] == len(text) for text in texts)

    (tmp_path / "data.txt").write_text("".join(f"{text}\n" for text in texts), "utf-8")
    flags = ["--dataset_dir", str(tmp_path), "--device", "cpu", "--output_file", str(tmp_path / "out.jsonl")]
    predict.main([*flags, "--params_path", str(checkpoint), "--floor", "0"])
    found = [[row["probabilities"][label] for label in TREE.labels] for row in rows_in(tmp_path / "out.jsonl")]
    np.testing.assert_allclose(found, expected, atol=1e-4)
    data = ["--dataset_dir", str(SAMPLE), "--dev_file", "dev.txt", "--train_file", "", "--device", "cpu"]
    evaluate.main([*data, "--params_path", str(checkpoint), "--output_json", str(tmp_path / "scores.json")])
    told = json.loads((tmp_path / "scores.json").read_text("utf-8"))["decision"]
    assert told == {"max_seq_length": 14} | long_text.to_dict() | Decision().to_dict()

    triton = ["--output", str(tmp_path / "models"), "--precision", "float32", "--backend", "python"]
    if long_text.method == "windows":
        with pytest.raises(InputError, match="reads long texts in windows, which Triton's steps cannot"):
            make_repository.main(["--model_path", str(export), *triton])
    else:
        make_repository.main(["--model_path", str(export), *triton])
        found = ask(tmp_path / "models", [texts])[0]
        assert [[i for i, _, _ in row] for row in found] == [np.flatnonzero(row > 0.5).tolist() for row in expected]


def by_hand(checkpoint, texts, long_text):
    """The probabilities with 14 tokens a text, or a window, worked out one text after the other."""
    opened, predictor, found = Checkpoint.open(checkpoint, 256), Predictor(checkpoint), []
    for text in texts:
        (first, *ids, last) = opened.tokenizer.encode([text])[0]
        if long_text.method == "head_tail":
            parts = [ids if len(ids) <= 12 else ids[:6] + ids[-6:]]
        else:
            ids = ids[: 12 + 4 * long_text.stride]
            starts = range(0, max(1, len(ids) - 12), long_text.stride)
            parts = [ids[:12], *(ids[start : start + 12] for start in starts), ids[-12:]]
        found.append(predictor.logits([[first, *part, last] for part in parts]).max(0))
    return sigmoid(np.array(found) + opened.linear.logits(texts))


def test_an_export_carries_the_settings(paddle, hybrid_checkpoint, tmp_path):
    from hierarchical.exporting import export_checkpoint

    shutil.copytree(hybrid_checkpoint, tmp_path / "checkpoint")
    mark = Checkpoint.open(tmp_path / "checkpoint").mark
    stored = replace(STORED[1], calibration=replace(STORED[1].calibration, model=mark))
    write_decision(tmp_path / "checkpoint", 64, stored)
    opened = Checkpoint.open(tmp_path / "checkpoint")
    export_checkpoint(paddle, opened, opened.load_model(), tmp_path / "export", format="onnx")
    exported = Predictor(tmp_path / "export")
    assert exported.decision == stored and exported.mark == mark


def test_a_calibration_made_by_evaluate_is_for_its_model_alone(hybrid_checkpoint, tiny_checkpoint, tmp_path):
    """And for the model as it is: neither for the encoder without its linear branch, nor for a width of prune.py."""
    for source, name in ((hybrid_checkpoint, "checkpoint"), (tiny_checkpoint, "other")):
        shutil.copytree(source, tmp_path / name)
    data = ["--dataset_dir", str(SAMPLE), "--device", "cpu"]
    asked = [
        "--params_path",
        str(tmp_path / "checkpoint"),
        "--train_file",
        "",
        "--bad_case_file",
        str(tmp_path / "bad"),
    ]
    evaluate.main([*data, *asked, "--calibrate", "per_level"])
    stored = Checkpoint.open(tmp_path / "checkpoint")
    assert stored.decision.calibration.model == stored.mark != ""
    shutil.copy(tmp_path / "checkpoint" / "decision.json", tmp_path / "other")
    with pytest.raises(InputError, match="its calibration is that of another model"):
        Checkpoint.open(tmp_path / "other")
    widths = ["--params_dir", str(tmp_path / "checkpoint"), "--output_dir", str(tmp_path / "p"), "--max_steps", "1"]
    prune.main([*data, *widths, "--width_mult_list", "1/2"])
    narrow = read_settings(tmp_path / "p" / "width_mult_0.5")[2]
    assert narrow.calibration is None and np.array(narrow.threshold) == pytest.approx(0.5, abs=1e-6)
