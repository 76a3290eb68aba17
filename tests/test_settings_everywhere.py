"""What is stored with a checkpoint decides alike wherever it is asked: in scripts, exports, back ends and servers."""

import json
import shutil

import numpy as np
import pytest

import predict
from analysis import evaluate
from deploy.predictor import infer
from deploy.simple_serving.model import Work, load_exported, named, run
from deploy.triton_serving import make_repository
from hierarchical.checkpoints import Checkpoint, read_settings, write_decision
from hierarchical.modeling import sigmoid
from hierarchical.predictor import Predictor
from metric import Decision, Scores, decide
from tests.conftest import SAMPLE
from tests.deploy.test_triton import ask
from utils import LabelTree, load_rows

pytestmark = pytest.mark.slow

TREE = LabelTree.read(SAMPLE / "label.txt")
STORED = [
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


def labels_in(path):
    return [json.loads(line)["labels"] for line in path.read_text("utf-8").splitlines()]


@pytest.mark.parametrize("stored", STORED, indirect=True)
def test_same_labels_everywhere(stored, rows, logits, tmp_path):
    checkpoint, export = stored
    decision = read_settings(checkpoint)[2]
    sets = decide(sigmoid(logits), TREE, decision)
    expected = [[TREE.labels[i] for i in np.flatnonzero(row)] for row in sets]
    assert len({tuple(row) for row in expected}) > 3

    data, gold = tmp_path / "data", rows.multi_hot(len(TREE))
    data.mkdir()
    (data / "data.txt").write_text("".join(f"{text}\n" for text in rows.texts), "utf-8")
    lines = [f"{text}\t{','.join(TREE.labels[i] for i in row)}\n" for text, row in zip(rows.texts, rows.labels)]
    (data / "dev.txt").write_text("".join(lines), "utf-8")
    flags = ["--dataset_dir", str(data), "--device", "cpu"]
    output = ["--output_file", str(tmp_path / "out.jsonl")]
    predict.main([*flags, *output, "--params_path", str(checkpoint)])
    assert labels_in(tmp_path / "out.jsonl") == expected
    infer.main([*flags, *output, "--model_path_prefix", str(export / "float32")])
    assert labels_in(tmp_path / "out.jsonl") == expected
    for how in ({}, {"backend": "paddle"}):
        assert [one.labels for one in Predictor(export, **how).predict(rows.texts)] == expected

    scores = Scores(TREE)
    scores.update(sets, gold)
    asked = ["--params_path", str(checkpoint), "--train_file", "", "--output_json", str(tmp_path / "scores.json")]
    evaluate.main([*flags, *asked, "--report", str(tmp_path / "report.html")])
    found = json.loads((tmp_path / "scores.json").read_text("utf-8"))
    assert found["dev"]["micro_f1"] == pytest.approx(scores.result()["micro_f1"])
    assert found["decision"] == {"max_seq_length": 64} | decision.to_dict()

    model = load_exported(export, "float32")
    works = [Work(text, 64, named, model.decision) for text in rows.texts]
    items = [type("Item", (), {"work": work, "group": model}) for work in works]
    assert [json.loads(row)["labels"] for row in run(items)] == expected
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
    assert [[name for _, name, _ in row] for row in ask(tmp_path / "models", [rows.texts])[0]] == expected


def test_an_export_carries_the_settings(paddle, hybrid_checkpoint, tmp_path):
    from hierarchical.exporting import export_checkpoint

    shutil.copytree(hybrid_checkpoint, tmp_path / "checkpoint")
    write_decision(tmp_path / "checkpoint", 64, STORED[1])
    opened = Checkpoint.open(tmp_path / "checkpoint")
    export_checkpoint(paddle, opened, opened.load_model(), tmp_path / "export", format="onnx")
    assert Predictor(tmp_path / "export").decision == STORED[1]
