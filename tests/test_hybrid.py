"""Models with a linear branch: every script and server answers with encoder and branch together, and alike.

The servers are asked in tests/deploy, where everything that is deployed has a branch. Here are the others.
"""

import json
import shutil

import numpy as np
import pytest

import predict
import prune
from analysis import dirty, evaluate, sent_interpret, word_interpret
from deploy.predictor import infer
from deploy.simple_serving.model import Work, evidence, load_exported, named, pieces_of
from hierarchical.calibration import sigmoid
from hierarchical.checkpoints import Checkpoint
from hierarchical.modeling import predict_logits
from hierarchical.predictor import Predictor
from metric import evaluate as scores_of
from tests.conftest import SAMPLE
from utils import load_rows

pytestmark = pytest.mark.slow


@pytest.fixture(scope="module")
def rows():
    """40 dev rows, one of which is longer than the 64 tokens that the encoder reads."""
    rows = load_rows(SAMPLE / "dev.txt", sample_tree())
    texts = rows.texts[:40]
    texts[7] = texts[7] * 6 + "，某公司宣布上市"
    return rows._replace(texts=texts, labels=rows.labels[:40])


def sample_tree():
    from utils import LabelTree

    return LabelTree.read(SAMPLE / "label.txt")


@pytest.fixture(scope="module")
def expected(paddle, tiny_checkpoint, branch, rows):
    """What must come out: float32 logits [40, 31], from the encoder and the branch on their own."""
    opened = Checkpoint.open(tiny_checkpoint)
    of_encoder = predict_logits(opened.load_model(), opened.tokenizer.encode(rows.texts), opened.tokenizer.pad_id, 8)
    logits = of_encoder + branch.logits(rows.texts)
    assert ((logits > 0) != (of_encoder > 0)).sum() > 40  # the branch counts
    return logits


@pytest.fixture
def data(rows, tmp_path):
    """A data directory of these rows: dev.txt, train.txt, data.txt, and bad_case.txt."""
    folder, tree = tmp_path / "data", sample_tree()
    folder.mkdir()
    shutil.copy(SAMPLE / "label.txt", folder)
    lines = [f"{text}\t{','.join(tree.labels[i] for i in labels)}\n" for text, labels in zip(rows.texts, rows.labels)]
    for name in ("dev.txt", "train.txt", "bad_case.txt"):
        (folder / name).write_text("".join(lines), "utf-8")
    (folder / "data.txt").write_text("".join(f"{text}\n" for text in rows.texts), "utf-8")
    return folder


def f1(logits, rows):
    tree = sample_tree()
    scores = scores_of(logits > 0, rows.multi_hot(31), tree)
    return {key: scores[key] for key in ("micro_f1", "macro_f1", "accuracy")}


# ---- predicting ------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("source", "settings", "tolerance"),
    [
        ("hybrid_checkpoint", {}, 1e-4),
        ("hybrid_export", {}, 1e-4),
        ("hybrid_export", {"backend": "paddle"}, 1e-4),
        ("hybrid_export", {"num_threads": 2, "batch_size": 3}, 1e-4),
        ("hybrid_export", {"precision": "float16"}, 0.1),
        ("hybrid_export", {"precision": "int8"}, 1.5),
    ],
)
def test_predictor(request, rows, expected, source, settings, tolerance):
    predictor = Predictor(request.getfixturevalue(source), **settings)
    found = predictor.text_logits(rows.texts)
    np.testing.assert_allclose(found, expected, atol=tolerance)
    np.testing.assert_allclose(predictor.probabilities(rows.texts), sigmoid(found), atol=1e-6)
    alone = np.concatenate([predictor.text_logits([text]) for text in rows.texts])
    np.testing.assert_allclose(alone, found, atol=max(1e-4, tolerance / 50))  # of float16
    if tolerance == 1e-4:
        labels = [set(one.labels) for one in predictor.predict(rows.texts)]
        tree = predictor.tree
        assert labels == [{tree.labels[i] for i in np.flatnonzero(row > 0)} for row in expected]


@pytest.mark.parametrize("script", ["predict", "infer"])
def test_files_of_predictions(hybrid_checkpoint, hybrid_export, data, rows, expected, script, tmp_path):
    flags = ["--dataset_dir", data, "--device", "cpu", "--output_file", tmp_path / "out.jsonl", "--floor", "0"]
    module, model = {
        "predict": (predict, ["--params_path", hybrid_checkpoint]),
        "infer": (infer, ["--model_path_prefix", hybrid_export / "float32"]),
    }[script]
    module.main(list(map(str, [*flags, *model])))
    lines = [json.loads(line) for line in (tmp_path / "out.jsonl").read_text("utf-8").splitlines()]
    tree = sample_tree()
    found = np.array([[line["probabilities"][label] for label in tree.labels] for line in lines])
    np.testing.assert_allclose(found, sigmoid(expected), atol=1e-4)
    assert [line["labels"] for line in lines] == [[tree.labels[i] for i in np.flatnonzero(row > 0)] for row in expected]


def test_infer_perf(hybrid_export, data, rows, expected, printed):
    infer.main(["--model_path_prefix", str(hybrid_export), "--dataset_dir", str(data), "--device", "cpu", "--perf"])
    wanted = f1(expected, rows)
    assert f"micro f1: {100 * wanted['micro_f1']:.2f}, macro f1: {100 * wanted['macro_f1']:.2f}" in printed


def test_http_server_and_its_explanations(hybrid_export, rows, expected):
    model = load_exported(hybrid_export, "float32")
    works = [Work(text, 64, named, model.decision) for text in rows.texts[:8]]
    found = model.probabilities([work.text for work in works], [work.max_seq_length for work in works])
    np.testing.assert_allclose(found, sigmoid(expected[:8]), atol=1e-4)
    long = rows.texts[7]
    read, pieces = pieces_of(model, long)
    assert read == len(long) and pieces[-1][1] == len(long)  # though the encoder reads 64 tokens
    changed = [long, *(long[:start] + long[end:] for start, end in pieces)]
    probabilities = np.concatenate([model.probabilities([text], [64]) for text in changed])
    told = json.loads(evidence(model, long, read, pieces, None, probabilities))
    assert told["read"] == len(long) and any(max(map(abs, row["falls"][-4:])) > 1e-4 for row in told["labels"])


# ---- scores ----------------------------------------------------------------------------------------------------------


def test_evaluate(hybrid_checkpoint, data, rows, expected, tmp_path):
    flags = ["--params_path", hybrid_checkpoint, "--device", "cpu", "--train_file", "", "--output_json", tmp_path / "s"]
    evaluate.main(["--dataset_dir", str(data), *map(str, flags)])
    found = json.loads((tmp_path / "s").read_text("utf-8"))["dev"]
    assert {key: found[key] for key in f1(expected, rows)} == pytest.approx(f1(expected, rows))


def test_export_compares_with_the_branch(hybrid_checkpoint, data, rows, expected, tmp_path):
    import export_model

    flags = [
        "--params_path",
        hybrid_checkpoint,
        "--output_path",
        tmp_path / "e",
        "--dataset_dir",
        data,
        "--format",
        "onnx",
    ]
    export_model.main([*map(str, flags), "--precision", "float32"])
    table = json.loads((tmp_path / "e" / "export.json").read_text("utf-8"))["models"]
    for row in table:
        assert {key: row[key] for key in ("micro_f1", "macro_f1")} == pytest.approx(
            {key: f1(expected, rows)[key] for key in ("micro_f1", "macro_f1")}
        )
    assert (tmp_path / "e" / "linear.safetensors").read_bytes() == (
        hybrid_checkpoint / "linear.safetensors"
    ).read_bytes()


def test_a_pruned_width_keeps_the_branch(hybrid_checkpoint, data, rows, expected, tmp_path):
    flags = [
        "--params_dir",
        hybrid_checkpoint,
        "--dataset_dir",
        data,
        "--output_dir",
        tmp_path / "p",
        "--device",
        "cpu",
    ]
    prune.main([*map(str, flags), "--max_steps", "1", "--width_mult_list", "1/2"])
    record = json.loads((tmp_path / "p" / "prune.json").read_text("utf-8"))
    wanted = f1(expected, rows)
    assert record["full"]["micro_f1"] == pytest.approx(wanted["micro_f1"])
    folder = tmp_path / "p" / "width_mult_0.5"
    narrow = Checkpoint.open(folder)
    assert np.array_equal(
        narrow.linear.logits(rows.texts), Checkpoint.open(hybrid_checkpoint).linear.logits(rows.texts)
    )
    of_checkpoint = Predictor(folder, kind="checkpoint").text_logits(rows.texts)
    assert record["best"]["0.5"]["micro_f1"] == pytest.approx(f1(of_checkpoint, rows)["micro_f1"])
    for prefix in ("pruned_model",):
        np.testing.assert_allclose(Predictor(folder / prefix).text_logits(rows.texts), of_checkpoint, atol=1e-4)


# ---- explanations ----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("interpreter", ["ig", "grad", "lime"])
def test_words(hybrid_checkpoint, tiny_checkpoint, data, rows, expected, branch, interpreter):
    """The scores are those of the encoder alone and what each word adds to the branch."""
    found = {}
    for name, folder in (("both", hybrid_checkpoint), ("encoder", tiny_checkpoint)):
        flags = [
            "--params_path",
            folder,
            "--dataset_dir",
            data,
            "--device",
            "cpu",
            "--num_rows",
            "8",
            "--samples",
            "32",
        ]
        word_interpret.main([*map(str, flags), "--label", *sample_tree().labels[:3], "--interpreter", interpreter])
        lines = (data / "word_interpret.jsonl").read_text("utf-8").splitlines()
        found[name] = [json.loads(line) for line in lines]
    tree = sample_tree()
    for i, (both, alone) in enumerate(zip(found["both"], found["encoder"])):
        assert both["prediction"] == [tree.labels[k] for k in np.flatnonzero(expected[i] > 0)]
        for one, other in zip(both["explanations"], alone["explanations"]):
            label = tree.index[one["label"]]
            assert one["logit"] == pytest.approx(expected[i, label], abs=2e-4)
            assert one["words"][-1]["end"] >= len(rows.texts[i]) - 1
            further = [a["score"] - b["score"] for a, b in zip(one["words"], other["words"])]
            further += [word["score"] for word in one["words"][len(other["words"]) :]]
            without = branch.logits([""])[0, label]
            if interpreter != "grad":  # whose random points are other ones
                assert sum(further) + without == pytest.approx(branch.logits([rows.texts[i]])[0, label], abs=0.02)
            if interpreter == "ig":
                assert one["baseline_logit"] == pytest.approx(other["baseline_logit"] + without, abs=2e-4)
                total = sum(word["score"] for word in one["words"])
                assert total == pytest.approx(one["logit"] - one["baseline_logit"], abs=0.2)


def test_nearest_rows(hybrid_checkpoint, data, expected):
    flags = ["--params_path", hybrid_checkpoint, "--dataset_dir", data, "--device", "cpu"]
    sent_interpret.main(list(map(str, flags)))
    lines = (data / "sent_interpret.txt").read_text("utf-8").splitlines()
    tree = sample_tree()
    told = [line.removeprefix("predict label: ") for line in lines if line.startswith("predict label: ")]
    assert told == [",".join(tree.labels[i] for i in np.flatnonzero(row > 0)) for row in expected]


def test_suspected_rows(hybrid_checkpoint, data, rows, expected):
    from analysis.suspicion import Search, representer

    _, likely = representer(rows, sample_tree(), Search(checkpoint=Checkpoint.open(hybrid_checkpoint)))
    np.testing.assert_allclose(likely(range(len(rows.texts))), sigmoid(expected), atol=1e-4)
    flags = ["--dataset_dir", data, "--params_path", hybrid_checkpoint, "--device", "cpu", "--strategy", "neighbours"]
    dirty.main([*map(str, flags), "--dirty_num", "5"])
    assert len((data / "train_dirty.txt").read_text("utf-8").splitlines()) == 5


def test_a_training_goes_on_from_a_hybrid(paddle, hybrid_checkpoint, data, tmp_path):
    """Its encoder is what is taken; the branch belongs to the old model."""
    import train

    flags = ["--model_name", hybrid_checkpoint, "--dataset_dir", data, "--device", "cpu", "--epochs", "1"]
    train.main([*map(str, flags), "--save_dir", str(tmp_path / "c")])
    assert Checkpoint.open(tmp_path / "c").linear is None
