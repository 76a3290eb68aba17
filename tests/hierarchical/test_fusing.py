"""fusing.py: the fused graph computes what the plain one does, with padding wherever it stands, for all encoders."""

from collections import Counter

import numpy as np
import onnx
import onnxruntime
import pytest

from hierarchical import exporting
from hierarchical.encoders import family_of
from hierarchical.exporting import export_onnx, export_static, halve
from hierarchical.fusing import fuse_model, keep_first_token
from hierarchical.modeling import build_model

PAD = {"Ernie": 0, "ErnieM": 1}
LAYERS = 2


@pytest.fixture(scope="module", params=["Ernie", "ErnieM", "pruned", "task"])
def exported(request, paddle, tmp_path_factory):
    """(path of a float32.onnx of two layers, id of padding); pruned: with fewer heads than the hidden size has room for; task: with the table of tasks that published ones have."""
    import paddlenlp.transformers as library

    name = request.param if request.param in PAD else "Ernie"
    config = getattr(library, f"{name}Config")(
        vocab_size=100, hidden_size=32, num_hidden_layers=LAYERS, num_attention_heads=4, intermediate_size=64,
        max_position_embeddings=40, initializer_range=0.3,
        **({"use_task_id": True, "task_type_vocab_size": 3} if request.param == "task" else {}),
    )  # fmt: skip
    config.num_labels = 5
    paddle.seed(0)
    model = build_model(config)
    if request.param == "pruned":
        for layer in family_of(model).layers(model):
            family_of(model).replace_linears(layer, 2, 8, 48, 32)
    folder = tmp_path_factory.mktemp(request.param)
    export_onnx(export_static(paddle, model, PAD[name], folder / "float32"), folder / "float32.onnx", list("abcde"))
    return folder / "float32.onnx", PAD[name]


@pytest.fixture
def rows(exported):
    """Token ids int64 [7, 23]: rows of many lengths, and of the first and the third one tokens within are padding."""
    rng = np.random.default_rng(0)
    ids = rng.integers(5, 100, (7, 23))
    for row, length in zip(ids, (23, 2, 9, 22, 3, 16, 1)):
        row[length:] = exported[1]
    ids[0, 3:5] = ids[2, 1] = exported[1]
    return ids


def compute(model, ids):
    onnx.checker.check_model(model)
    options = onnxruntime.SessionOptions()
    options.log_severity_level = 3
    session = onnxruntime.InferenceSession(model.SerializeToString(), options, providers=["CPUExecutionProvider"])
    feed = {"input_ids": ids, "token_type_ids": np.zeros_like(ids)}
    return session.run(None, {tensor.name: feed[tensor.name] for tensor in session.get_inputs()})[0]


def kinds(model):
    return Counter(node.op_type for node in model.graph.node)


def test_a_fused_graph_computes_the_same(exported, rows):
    plain, fused = onnx.load(exported[0]), onnx.load(exported[0])
    assert fuse_model(fused) == LAYERS
    found = kinds(fused)
    assert found["Attention"] == found["BiasGelu"] == LAYERS and "Softmax" not in found and "Erf" not in found
    assert found["SkipLayerNormalization"] >= 2 * LAYERS  # the one of the embeddings may be among them
    assert [tensor.name for tensor in fused.graph.input] == [tensor.name for tensor in plain.graph.input]
    expected = compute(plain, rows)
    np.testing.assert_allclose(compute(fused, rows), expected, atol=1e-4)
    assert np.ptp(expected, axis=0).min() > 0.1  # rows differ by far more
    # and each row for itself, without what the others need of padding
    for row, logits in zip(rows, expected):
        length = np.flatnonzero(row != exported[1])[-1] + 1
        if length > 1:
            np.testing.assert_allclose(compute(fused, row[None, :length])[0], logits, atol=1e-4)


def test_padding_counts(exported, rows):
    """A check of the test above: what is hidden as padding is not seen, and would change the answers."""
    fused, seen = onnx.load(exported[0]), rows.copy()
    fuse_model(fused)
    seen[0, 3:5] = 7
    assert np.abs(compute(fused, seen) - compute(fused, rows))[0].max() > 1e-2


def test_what_is_built_otherwise_stays(exported, tmp_path, printed):
    model = onnx.load(exported[0])
    for node in model.graph.node:
        if node.op_type == "Softmax":
            softmax = node
    multiplied = next(node for node in model.graph.node if softmax.output[0] in node.input)
    softmax.output[0] = multiplied.input[0] = "shares"
    softmax.input[0], scores = "softened", softmax.input[0]
    model.graph.node.insert(
        list(model.graph.node).index(softmax), onnx.helper.make_node("Tanh", [scores], ["softened"])
    )
    before = model.SerializeToString()
    assert fuse_model(model) == 0 and not keep_first_token(model)
    assert model.SerializeToString() == before
    onnx.save(model, tmp_path / "other.onnx")
    halve(tmp_path / "other.onnx", tmp_path / "float16.onnx", list("abcde"))
    assert printed == ["float16.onnx: the attention of its layers was not found, so that it is slower on GPUs"]
    assert "Attention" not in kinds(onnx.load(tmp_path / "float16.onnx"))


def test_of_the_last_layer_the_first_token_alone(paddle, tmp_path, monkeypatch):
    """Where the logits come from the first token; and not where all tokens are an output."""
    import paddlenlp.transformers as library

    config = library.ErnieConfig(
        vocab_size=100, hidden_size=32, num_hidden_layers=3, num_attention_heads=4, intermediate_size=64,
        max_position_embeddings=40, initializer_range=0.3,
    )  # fmt: skip
    config.num_labels = 5
    program = export_static(paddle, build_model(config), 0, tmp_path / "model")
    export_onnx(program, tmp_path / "less.onnx", list("abcde"))
    monkeypatch.setattr(exporting, "keep_first_token", lambda model: False)
    export_onnx(program, tmp_path / "all.onnx", list("abcde"))
    ids = np.random.default_rng(0).integers(5, 100, (4, 19))
    ids[1, 5:] = 0
    less, every = onnx.load(tmp_path / "less.onnx"), onnx.load(tmp_path / "all.onnx")
    np.testing.assert_allclose(compute(less, ids), compute(every, ids), atol=1e-5)
    assert kinds(less) == kinds(every) + Counter(Slice=1)
    assert tokens_of(less, ids) == [19, 19, 1] and tokens_of(every, ids) == [19, 19, 19]
    assert not keep_first_token(less)  # which is so already

    tokens = every.graph.node[[node.op_type for node in every.graph.node].index("Tanh") - 3].input[0]
    (node,) = (node for node in every.graph.node if tokens in node.output)
    assert node.op_type == "LayerNormalization"
    every.graph.output.append(onnx.helper.make_tensor_value_info(tokens, onnx.TensorProto.FLOAT, None))
    assert not keep_first_token(every) and not fuse_model(every)


def tokens_of(model, ids):
    """For how many tokens the feed-forward network of each layer is computed."""
    model = onnx.ModelProto.FromString(model.SerializeToString())
    names = [node.output[0] for node in model.graph.node if node.op_type == "Erf"]
    model.graph.output.extend(onnx.helper.make_tensor_value_info(name, onnx.TensorProto.FLOAT, None) for name in names)
    session = onnxruntime.InferenceSession(model.SerializeToString(), providers=["CPUExecutionProvider"])
    found = session.run(names, {"input_ids": ids, "token_type_ids": np.zeros_like(ids)})
    return [values.shape[1] for values in found]
