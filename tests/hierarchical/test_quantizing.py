"""quantizing.py: what the 8-bit nodes compute, worked out by other means, and that rows leave each other alone."""

import numpy as np
import onnx
import onnxruntime
import pytest
from onnx import TensorProto, helper, numpy_helper

from hierarchical.quantizing import quantize_matrix, quantize_model


def build(nodes, weights, inputs, dims=("a", "b", "c")):
    """A float32 model: nodes as (kind, inputs, output), the last output is the model's; inputs: name -> (type, dims)."""
    nodes = [helper.make_node(kind, names, [output]) for kind, names, output in nodes]
    tensors = [numpy_helper.from_array(value, name) for name, value in weights.items()]
    given = [helper.make_tensor_value_info(name, *kind) for name, kind in inputs.items()]
    result = helper.make_tensor_value_info(nodes[-1].output[0], TensorProto.FLOAT, dims)
    graph = helper.make_graph(nodes, "test", given, [result], tensors)
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8)


def compute(model, **feed):
    onnx.checker.check_model(model)
    options = onnxruntime.SessionOptions()
    options.log_severity_level = 3
    session = onnxruntime.InferenceSession(model.SerializeToString(), options, providers=["CPUExecutionProvider"])
    return session.run(None, feed)[0]


def product(weights):
    return build([("MatMul", ["x", "w"], "y")], {"w": weights}, {"x": (TensorProto.FLOAT, ["n", "t", len(weights)])})


@pytest.fixture
def numbers():
    return np.random.default_rng(0)


def test_a_matrix_by_hand():
    matrix = np.array([[127, 0.0, -254], [1, 0, 127]], np.float32)
    values, scales = quantize_matrix(matrix, 1)
    assert values.dtype == np.int8 and scales.dtype == np.float32
    assert values.tolist() == [[64, 0, -127], [1, 0, 127]] and scales.tolist() == [[2], [1]]  # 63.5 to the even number
    values, scales = quantize_matrix(matrix, 0)
    assert values.tolist() == [[127, 0, -127], [1, 0, 64]] and scales[0, ::2].tolist() == [1, 2]


def test_a_product_is_that_of_the_rounded_numbers(numbers):
    tokens = numbers.normal(size=(3, 5, 64)).astype(np.float32) * numbers.uniform(0.01, 100, (3, 5, 1))
    weights = numbers.normal(size=(64, 48)).astype(np.float32) * numbers.uniform(0.01, 100, 48)
    tokens, weights = tokens.astype(np.float32), weights.astype(np.float32)
    model = product(weights)
    assert quantize_model(model) == 1
    found = compute(model, x=tokens)
    step, steps = (np.abs(values).max(axis, keepdims=True) / 127 for values, axis in ((tokens, -1), (weights, 0)))
    expected = (np.round(tokens / step) * step) @ (np.round(weights / steps) * steps)
    np.testing.assert_allclose(found, expected, rtol=1e-3, atol=1e-4 * np.abs(expected).max())
    exact = tokens @ weights
    assert not np.array_equal(found, exact)
    errors = np.abs(found - exact).max(-1) / np.abs(exact).max(-1)
    assert errors.max() < 0.03, "a text of small numbers is as exact as one of large ones"


def test_tokens_leave_each_other_alone(numbers):
    tokens = numbers.normal(size=(4, 7, 96)).astype(np.float32)
    model = product(numbers.normal(size=(96, 32)).astype(np.float32))
    quantize_model(model)
    alone = [compute(model, x=tokens[i : i + 1, j : j + 1])[0, 0] for i in range(4) for j in range(7)]
    tokens_and_giant = np.concatenate([tokens, 1e6 * tokens[:1]])
    np.testing.assert_array_equal(compute(model, x=tokens_and_giant)[:4].reshape(28, 32), alone)


def test_zeros(numbers):
    model = product(numbers.normal(size=(16, 8)).astype(np.float32))
    quantize_model(model)
    assert not compute(model, x=np.zeros((1, 2, 16), np.float32)).any()


def test_a_table_has_a_scale_for_each_row(numbers):
    table = (numbers.normal(size=(20, 12)) * 10.0 ** numbers.integers(-3, 3, (20, 1))).astype(np.float32)
    model = build([("Gather", ["table", "ids"], "y")], {"table": table}, {"ids": (TensorProto.INT64, ["n", "t"])})
    assert quantize_model(model) == 0
    ids = numbers.integers(0, 20, (3, 4))
    found = compute(model, ids=ids)
    assert (np.abs(found - table[ids]) <= np.abs(table[ids]).max(-1, keepdims=True) / 254 * 1.001).all()


def test_what_is_quantized_once_and_what_is_not(numbers):
    """Two products of the same tokens; a vector, a product of activations and a Gemm stay as they are."""
    weights = {name: numbers.normal(size=(32, 32)).astype(np.float32) for name in ("a", "b", "c")}
    nodes = [
        ("MatMul", ["x", "a"], "q"), ("MatMul", ["x", "b"], "k"), ("MatMul", ["q", "k"], "s"), ("Add", ["s", "bias"], "t"),
        ("Gemm", ["t", "c"], "y"),
    ]  # fmt: skip
    bias = numbers.normal(size=32).astype(np.float32)
    model = build(nodes, weights | {"bias": bias}, {"x": (TensorProto.FLOAT, [32, 32])}, [32, 32])
    assert quantize_model(model) == 2
    kinds = [node.op_type for node in model.graph.node]
    assert kinds == ["QuantizeTokens", "MultiplyTokens", "MultiplyTokens", "MatMul", "Add", "Gemm"]
    stored = {tensor.name: numpy_helper.to_array(tensor) for tensor in model.graph.initializer}
    assert sorted(stored) == ["a.int8", "a.scales", "b.int8", "b.scales", "bias", "c"]
    assert stored["a.int8"].dtype == np.int8 and np.array_equal(stored["c"], weights["c"])
    x = numbers.normal(size=(32, 32)).astype(np.float32)
    exact = ((x @ weights["a"]) @ (x @ weights["b"]) + bias) @ weights["c"]
    assert np.abs(compute(model, x=x) - exact).max() < 0.03 * np.abs(exact).max()
