"""exporting.py: the exported models say what the checkpoint says, in every format, or the earlier ones stay."""

import json
import shutil

import numpy as np
import onnx
import pytest

from hierarchical import exporting
from hierarchical.calibration import sigmoid
from hierarchical.checkpoints import Checkpoint
from hierarchical.errors import InputError
from hierarchical.exporting import export_checkpoint
from hierarchical.files import file_digest
from hierarchical.labels import LabelTree
from hierarchical.modeling import predict_logits
from hierarchical.predictor import Predictor
from metric import Decision
from tests.conftest import SAMPLE

TEXTS = [
    "短",
    "某公司宣布裁员",
    "球队主场获胜，股价随之上涨" * 4,
    "[PAD] is spelt out here",
    "𠮷野家 ㎡ ® emoji 😀",
    "长" * 300,
]


@pytest.fixture(scope="module")
def expected(tiny_checkpoint):
    """(token ids of TEXTS, logits of the checkpoint)."""
    checkpoint = Checkpoint.open(tiny_checkpoint)
    ids = checkpoint.tokenizer.encode(TEXTS)
    return ids, predict_logits(checkpoint.load_model(), ids, checkpoint.tokenizer.pad_id, 4)


@pytest.fixture
def export(paddle, tiny_checkpoint):
    """export(target, name, ...): `export_checkpoint` of tiny_checkpoint, or of another folder."""

    def call(target, *settings, folder=tiny_checkpoint, **further):
        checkpoint = Checkpoint.open(folder)
        return export_checkpoint(paddle, checkpoint, checkpoint.load_model(), target, *settings, **further)

    return call


def test_the_folder_is_complete(tiny_export, tiny_checkpoint):
    names = {path.name for path in tiny_export.iterdir()}
    assert names == {
        *("float32.pdmodel", "float32.pdiparams", "float32.pdiparams.info"),
        *("float32.onnx", "float16.onnx", "int8.onnx"),
        *("config.json", "label.txt", "decision.json", "vocab.txt", "tokenizer_config.json", "export.json", ".lock"),
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
    quantized = [node for node in graph.node if node.op_type == "MultiplyTokens"]
    assert len(quantized) == encoder_layers * products
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


def test_models_are_timed_in_turns_and_the_fastest_round_counts(monkeypatch):
    clock, asked = iter([0, 2, 6, 10, 11, 21, 30, 33, 36]), []  # seconds: 2 and 4, 1 and 10, 3 and 3
    monkeypatch.setattr(exporting.time, "perf_counter", lambda: next(clock))
    functions = [lambda ids, name=name: asked.append((name, len(ids))) for name in "ab"]
    assert exporting.round_times(functions, [[1]] * 256) == [1 / 128, 3 / 128]
    assert asked == [("a", 128), ("b", 128)] * 3


def test_decision_default_is_kept(tiny_export):
    assert Predictor(tiny_export / "float32").decision == Decision()


@pytest.mark.slow
def test_formats(export, tmp_path):
    paths = export(tmp_path / "paddle", format="paddle", precisions=("float32", "int8"))
    assert [path.name for path in paths] == ["float32.pdmodel"]
    assert not list((tmp_path / "paddle").glob("*.onnx"))
    paths = export(tmp_path / "onnx", format="onnx", precisions=("int8",), name="pruned")
    assert [path.name for path in paths] == ["pruned_int8.onnx"]
    assert not list((tmp_path / "onnx").glob("*.pd*")) and not (tmp_path / "onnx" / "pruned.onnx").exists()
    assert Predictor(tmp_path / "onnx" / "pruned", "int8").file == paths[0]


@pytest.mark.slow
def test_into_the_checkpoints_own_folder(export, tiny_checkpoint, tmp_path):
    folder = tmp_path / "checkpoint"
    shutil.copytree(tiny_checkpoint, folder)
    before = {path.name: file_digest(path) for path in folder.iterdir()}
    export(folder, "pruned_model", folder=folder)
    assert (folder / "pruned_model.onnx").exists() and (folder / "pruned_model.pdmodel").exists()
    assert before.items() <= {path.name: file_digest(path) for path in folder.iterdir()}.items()


@pytest.mark.slow
def test_a_failure_leaves_the_earlier_export(export, tiny_export, tmp_path, monkeypatch):
    folder = tmp_path / "export"
    shutil.copytree(tiny_export, folder)
    before = {path.name: file_digest(path) for path in folder.iterdir()}

    def fail(*_, **__):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(exporting, "quantize", fail)
    with pytest.raises(OSError, match="No space"):
        export(folder, precisions=("float32", "int8"))
    assert before == {path.name: file_digest(path) for path in folder.iterdir()}


def test_more_parameters_than_an_onnx_file_holds(tmp_path, monkeypatch):
    (tmp_path / "model.safetensors").write_bytes(b"x" * 1001)
    monkeypatch.setattr(exporting, "ONNX_BYTES", 1000)
    with pytest.raises(InputError, match=r"its parameters take 0.0 GB.*ends at 2.1. Export it with --format paddle"):
        exporting.require_onnx_size(tmp_path / "model.safetensors", "--format paddle")
    monkeypatch.setattr(exporting, "ONNX_BYTES", 1001)
    exporting.require_onnx_size(tmp_path / "model.safetensors", "--format paddle")
