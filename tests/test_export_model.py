"""export_model.py: the exported models say what the checkpoint says, and what is lost is told."""

import json
import shutil
import sys

import numpy as np
import onnx
import pytest
from hierarchical.checkpoints import load_checkpoint, open_checkpoint, save_checkpoint
from deploy.predictor.predictor import Predictor
from hierarchical.modeling import predict_logits, sigmoid
from hierarchical.weights import find_weights

import export_model
from export_model import export_checkpoint, warn_about
from metric import Decision
from utils import InputError, LabelTree, file_digest, load_rows, run

from tests.conftest import SAMPLE  # isort: skip

TEXTS = [
    "短",
    "某公司宣布裁员",
    "球队主场获胜，股价随之上涨" * 4,
    "[PAD] is spelt out here",
    "𠮷野家 ㎡ ® emoji 😀",
    "长" * 300,
]


class Log:
    """A logger that keeps what it is told."""

    def __init__(self):
        self.infos, self.warnings = [], []
        self.info, self.warning = self.infos.append, self.warnings.append


@pytest.fixture(scope="module")
def expected(tiny_checkpoint):
    """(token ids of TEXTS, logits of the checkpoint)."""
    _, tokenizer, _ = open_checkpoint(tiny_checkpoint)
    ids = tokenizer.encode(TEXTS)
    return ids, predict_logits(load_checkpoint(tiny_checkpoint), ids, tokenizer.pad_id, 4)


@pytest.fixture
def call(monkeypatch, tmp_path):
    """call(*flags): main() in this process; returns the output directory."""

    def call(params_path, *flags):
        words = ["export_model.py", "--params_path", params_path, "--output_path", tmp_path / "export", *flags]
        monkeypatch.setattr(sys, "argv", [str(word) for word in words])
        export_model.main()
        return tmp_path / "export"

    return call


def test_the_folder_is_complete(tiny_export, tiny_checkpoint):
    names = {path.name for path in tiny_export.iterdir()}
    assert names == {
        *("float32.pdmodel", "float32.pdiparams", "float32.pdiparams.info"),
        *("float32.onnx", "float16.onnx", "int8.onnx"),
        *("config.json", "label.txt", "decision.json", "vocab.txt", "tokenizer_config.json"),
    }
    for name in ("config.json", "label.txt", "decision.json", "vocab.txt", "tokenizer_config.json"):
        assert (tiny_export / name).read_bytes() == (tiny_checkpoint / name).read_bytes()


@pytest.mark.parametrize("backend", ["onnx", "paddle"])
@pytest.mark.parametrize("batch_size", [1, 4])
def test_float32_equals_the_checkpoint(tiny_export, expected, backend, batch_size):
    ids, logits = expected
    predictor = Predictor(tiny_export / "float32", backend=backend, batch_size=batch_size)
    assert predictor.tokenizer.encode(TEXTS) == ids
    np.testing.assert_allclose(predictor.logits(ids), logits, atol=1e-3, rtol=1e-4)
    assert np.ptp(logits) > 5  # the tolerance is far below what the texts differ by


@pytest.mark.parametrize(("precision", "tolerance"), [("float16", 0.05), ("int8", 0.5)])
def test_smaller_precisions_are_near(tiny_export, expected, precision, tolerance):
    ids, logits = expected
    found = Predictor(tiny_export / "float32", precision).logits(ids)
    assert np.abs(sigmoid(found) - sigmoid(logits)).max() < tolerance
    assert np.corrcoef(found.ravel(), logits.ravel())[0, 1] > 0.98
    assert not np.array_equal(found, logits)


def test_int8_is_quantized_and_small(tiny_export):
    graph = onnx.load(tiny_export / "int8.onnx").graph
    encoder_layers, products = 2, 6  # q, k, v, attention output, two of the feed-forward network
    quantized = [node for node in graph.node if node.op_type == "MatMulInteger"]
    assert len(quantized) >= encoder_layers * products
    sizes = {name: (tiny_export / f"{name}.onnx").stat().st_size for name in ("float32", "float16", "int8")}
    assert sizes["int8"] < 0.45 * sizes["float32"] and sizes["float16"] < 0.6 * sizes["float32"]


@pytest.mark.parametrize("precision", ["float32", "float16", "int8"])
def test_onnx_names_axes_and_labels(tiny_export, precision):
    model = onnx.load(tiny_export / f"{precision}.onnx")
    labels = LabelTree.read(SAMPLE / "label.txt").labels

    def axes(tensor):
        return [axis.dim_param or axis.dim_value for axis in tensor.type.tensor_type.shape.dim]

    assert {tensor.name: axes(tensor) for tensor in model.graph.input} == {
        "input_ids": ["batch", "length"],
        "token_type_ids": ["batch", "length"],
    }
    assert {tensor.name: axes(tensor) for tensor in model.graph.output} == {"logits": ["batch", len(labels)]}
    assert {tensor.type.tensor_type.elem_type for tensor in model.graph.input} == {onnx.TensorProto.INT64}
    assert json.loads({prop.key: prop.value for prop in model.metadata_props}["labels"]) == labels
    # no weight is left in a node, where a quantizer would not see it
    assert not [node for node in model.graph.node if node.op_type == "Constant"]


def test_ernie_m_has_one_input(paddle, tiny_checkpoint, call, tmp_path, capsys):
    """The flag --multilingual is left out: the checkpoint knows."""
    from tests.test_modeling import tiny_model

    tree, tokenizer, _ = open_checkpoint(tiny_checkpoint)
    model = tiny_model(paddle, len(tree), "ErnieM", vocab_size=1075, max_position_embeddings=130)
    folder = tmp_path / "checkpoint"
    folder.mkdir()
    save_checkpoint(folder, model, tokenizer, tree, Decision())
    export = call(folder, "--precision", "float32", "float16", "int8")
    assert "This checkpoint is ERNIE-M: its models read input_ids alone" in capsys.readouterr().err
    ids = tokenizer.encode(TEXTS)
    logits = predict_logits(model, ids, tokenizer.pad_id, 4)
    for flags, tolerance in (
        ((), 1e-4), (("float32", "paddle"), 1e-4), (("float16",), 0.02), (("int8",), 0.2),
    ):  # fmt: skip
        predictor = Predictor(export, *flags)
        assert predictor.model.inputs == ["input_ids"]
        np.testing.assert_allclose(predictor.logits(ids), logits, atol=tolerance)
    assert np.ptp(logits) > 1


def test_formats(tiny_checkpoint, tmp_path):
    paths = export_checkpoint(tiny_checkpoint, tmp_path / "paddle", format="paddle", precisions=("float32", "int8"))
    assert [path.name for path in paths] == ["float32.pdmodel"]
    assert not list((tmp_path / "paddle").glob("*.onnx"))
    paths = export_checkpoint(tiny_checkpoint, tmp_path / "onnx", format="onnx", precisions=("int8",), name="pruned")
    assert [path.name for path in paths] == ["pruned_int8.onnx"]
    assert not list((tmp_path / "onnx").glob("*.pd*")) and not (tmp_path / "onnx" / "pruned.onnx").exists()
    assert Predictor(tmp_path / "onnx" / "pruned", "int8").path == paths[0]


def test_into_the_checkpoints_own_folder(tiny_checkpoint, tmp_path):
    folder = tmp_path / "checkpoint"
    shutil.copytree(tiny_checkpoint, folder)
    before = {path.name: file_digest(path) for path in folder.iterdir()}
    export_checkpoint(folder, folder, "pruned_model")
    assert (folder / "pruned_model.onnx").exists() and (folder / "pruned_model.pdmodel").exists()
    assert before.items() <= {path.name: file_digest(path) for path in folder.iterdir()}.items()


def test_a_failure_leaves_the_earlier_export(tiny_export, tiny_checkpoint, tmp_path, monkeypatch):
    folder = tmp_path / "export"
    shutil.copytree(tiny_export, folder)
    before = {path.name: file_digest(path) for path in folder.iterdir()}

    def fail(*_):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(export_model, "quantize", fail)
    with pytest.raises(OSError, match="No space"):
        export_checkpoint(tiny_checkpoint, folder, precisions=("float32", "int8"))
    assert before == {path.name: file_digest(path) for path in folder.iterdir()}


def test_table_has_the_scores_of_the_dev_rows(tiny_checkpoint, call, capsys):
    folder = call(tiny_checkpoint, "--dataset_dir", SAMPLE, "--precision", "float32", "--multilingual")
    printed = capsys.readouterr().err
    assert "--multilingual: this checkpoint is not ERNIE-M" in printed
    report = json.loads((folder / "export.json").read_text(encoding="utf-8"))
    tree, tokenizer, decision = open_checkpoint(tiny_checkpoint)
    rows = load_rows(SAMPLE / "dev.txt", tree)
    assert report["rows"] == len(rows.texts)
    assert [row["model"] for row in report["models"]] == ["checkpoint", "float32.pdmodel", "float32.onnx"]
    # scikit-learn's figures for the same predictions
    from sklearn.metrics import f1_score

    model = load_checkpoint(tiny_checkpoint)
    predicted = sigmoid(predict_logits(model, tokenizer.encode(rows.texts), tokenizer.pad_id, 64)) > 0.5
    gold = rows.multi_hot(len(tree))
    for row in report["models"]:
        for average in ("micro", "macro"):
            reference = f1_score(gold, predicted, average=average, zero_division=0)
            assert row[f"{average}_f1"] == pytest.approx(reference, abs=2e-3)
        assert row["milliseconds_per_text"] > 0
        assert row["largest_difference"] < 1e-4
        assert f"{row['model']:<18}" in printed
    assert report["models"][0]["megabytes"] == find_weights(tiny_checkpoint).stat().st_size / 1e6


def test_without_dev_rows_the_names_of_the_labels_are_compared(tiny_checkpoint, call, capsys):
    folder = call(tiny_checkpoint, "--format", "onnx", "--precision", "float32")
    assert "No dev rows to check on" in capsys.readouterr().err
    report = json.loads((folder / "export.json").read_text(encoding="utf-8"))
    assert report["rows"] == len(LabelTree.read(SAMPLE / "label.txt"))
    assert "micro_f1" not in report["models"][0]


def test_rows_default_to_those_of_the_training(tiny_checkpoint, tmp_path, call, data_dir):
    folder = tmp_path / "checkpoint"
    shutil.copytree(tiny_checkpoint, folder)
    label = LabelTree.read(SAMPLE / "label.txt").labels[0]
    data = data_dir(
        label_txt=(SAMPLE / "label.txt").read_text(encoding="utf-8"),
        dev_txt=f"文\t{label}\n",
        own_jsonl="".join(json.dumps({"text": text, "labels": [label]}) + "\n" for text in ("文一", "文二")),
    )
    arguments = {"dataset_dir": str(data), "dev_file": "own.jsonl"}
    (folder / "run.json").write_text(json.dumps({"arguments": arguments}), encoding="utf-8")
    for flags, rows in (((), 2), (("--dev_file", "dev.txt"), 1)):
        output = call(folder, "--format", "onnx", "--precision", "float32", *flags)
        assert json.loads((output / "export.json").read_text(encoding="utf-8"))["rows"] == rows


def test_what_is_lost_is_told():
    def row(model, micro, macro, time):
        return {"model": model, "micro_f1": micro, "macro_f1": macro, "milliseconds_per_text": time}

    log = Log()
    table = [row("checkpoint", 0.95, 0.92, 9), row("float32.onnx", 0.95, 0.92, 4), row("int8.onnx", 0.9471, 0.91, 5)]
    warn_about(table, 0.3, log)
    assert len(log.warnings) == 2
    assert "int8.onnx: macro-F1 is 1.00 points below" in log.warnings[0]
    assert "slower than float32.onnx on this processor" in log.warnings[1]
    log = Log()
    warn_about([*table[:2], row("int8.onnx", 0.9471, 0.9171, 3)], 0.3, log)
    assert log.warnings == []


@pytest.mark.parametrize(
    ("missing", "message"),
    [
        ("model.safetensors", "no model.safetensors in it"),
        ("decision.json", "not a complete checkpoint"),
        ("vocab.txt", "vocab.txt"),
    ],
)
def test_incomplete_checkpoint(tiny_checkpoint, tmp_path, call, missing, message):
    folder = tmp_path / "checkpoint"
    shutil.copytree(tiny_checkpoint, folder)
    (folder / missing).unlink()
    (folder / "model_state.pdparams").unlink(missing_ok=True)
    with pytest.raises(InputError, match=message):
        call(folder)
    assert not (tmp_path / "export").exists()


def test_foreign_and_damaged_checkpoints(tiny_checkpoint, tmp_path, monkeypatch, capsys):
    """What a user sees: exit code 2, and a message without a traceback."""
    folder = tmp_path / "checkpoint"
    shutil.copytree(tiny_checkpoint, folder)

    def fails():
        words = ["export_model.py", "--params_path", folder, "--output_path", tmp_path / "export"]
        monkeypatch.setattr(sys, "argv", list(map(str, words)))
        with pytest.raises(SystemExit) as stopped:
            run(export_model.main)
        assert stopped.value.code == 2 and not (tmp_path / "export").exists()
        message = capsys.readouterr().err
        assert "Traceback" not in message
        return message

    weights = folder / "model.safetensors"
    weights.write_bytes(weights.read_bytes()[:-1000])
    assert "model.safetensors: not a usable parameter file" in fails()
    config = json.loads((folder / "config.json").read_text(encoding="utf-8"))
    (folder / "config.json").write_text(json.dumps(config | {"model_type": "bert"}), encoding="utf-8")
    assert "config.json: model_type is 'bert'; supported are ernie, ernie_m" in fails()
    shutil.rmtree(folder)
    assert "checkpoint: no such directory. Pass the --save_dir of train.py." in fails()


def test_folder_that_cannot_be_written(tiny_checkpoint, tmp_path, monkeypatch, capsys):
    """/sys is read-only for everybody, also for root, whom the rights of a folder would not stop."""
    words = ["export_model.py", "--params_path", tiny_checkpoint, "--output_path", "/sys/export", "--format", "paddle"]
    monkeypatch.setattr(sys, "argv", list(map(str, words)))
    with pytest.raises(SystemExit) as stopped:
        run(export_model.main)
    assert stopped.value.code == 2
    assert "error: /sys/export: " in capsys.readouterr().err


def test_more_parameters_than_an_onnx_file_holds(tiny_checkpoint, tmp_path, monkeypatch):
    monkeypatch.setattr(export_model, "ONNX_BYTES", 1_000_000)
    with pytest.raises(InputError, match=r"its parameters take 0.0 GB.*--format paddle"):
        export_checkpoint(tiny_checkpoint, tmp_path / "export")
    assert export_checkpoint(tiny_checkpoint, tmp_path / "export", format="paddle")


def test_models_of_an_earlier_export_are_named(tiny_export, tiny_checkpoint, tmp_path, call, capsys):
    shutil.copytree(tiny_export, tmp_path / "export")
    call(tiny_checkpoint, "--format", "onnx", "--precision", "float32", "float16")
    warned = [line for line in capsys.readouterr().err.splitlines() if "left from an earlier export" in line]
    assert [line.split(": left")[0].rsplit("/", 1)[1] for line in warned] == ["int8.onnx", "float32.pdmodel"]


def test_other_labels_and_missing_rows(tiny_checkpoint, call, data_dir):
    with pytest.raises(InputError, match="differs from the labels the checkpoint was trained with"):
        call(tiny_checkpoint, "--dataset_dir", data_dir())
    with pytest.raises(InputError, match="no such file"):
        call(tiny_checkpoint, "--dataset_dir", SAMPLE, "--dev_file", "dev2.txt")
    empty = data_dir(label_txt=(SAMPLE / "label.txt").read_bytes(), dev_txt="没有标签的一行\n")
    with pytest.raises(InputError, match="dev.txt: no labelled row in it"):
        call(tiny_checkpoint, "--dataset_dir", empty)


@pytest.mark.parametrize(
    "flags",
    [
        ["--max_f1_drop", "nan"], ["--precision", "int4"], ["--precision"], ["--format", "torch"],
        ["--format", "paddle", "--precision", "float32", "int8"],
    ],
)  # fmt: skip
def test_bad_flags(tiny_checkpoint, call, flags):
    with pytest.raises(SystemExit) as stopped:
        call(tiny_checkpoint, *flags)
    assert stopped.value.code == 2


def test_decision_default_is_kept(tiny_export):
    assert Predictor(tiny_export / "float32").decision == Decision()
