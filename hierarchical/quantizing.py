"""The int8 form of an ONNX model: 8-bit weights, and activations in 8 bits with a scale for each token.

`onnxruntime.quantization.quantize_dynamic` takes one scale for all that a call holds. Then the answer to a text depends
on its batch, and a single large number makes the rest of the batch coarse. Here each token has a scale of its own.
"""

from typing import Any

import numpy as np

DOMAIN = "hierarchical"  # of the functions below, which the model brings along
LEVELS = 127  # of weights above 0, and as many below
SMALLEST = 1e-12  # scale: a row of zeros needs one, too

# In 8 bits, activations are unsigned with 128 for 0: on most processors the fastest kind to multiply. Tokens of zeros
# become 0/0, then some bytes, and these times 0.
FUNCTIONS = (
    """
    LookUp (table, scales, ids) => (rows) {
        values = Gather (table, ids)
        floats = Cast <to = 1> (values)
        factors = Gather (scales, ids)
        rows = Mul (floats, factors)
    }""",
    """
    QuantizeTokens (tokens) => (values, largest) {
        sizes = Abs (tokens)
        largest = ReduceMax <axes = [-1], keepdims = 1> (sizes)
        shares = Div (tokens, largest)
        step = Constant <value = float {STEP}> ()
        zero = Constant <value = uint8 {128}> ()
        values = QuantizeLinear (shares, step, zero)
    }""",
    """
    MultiplyTokens (values, largest, weights, scales) => (product) {
        step = Constant <value = float {STEP}> ()
        zero = Constant <value = uint8 {128}> ()
        shares = com.microsoft.MatMulIntegerToFloat (values, weights, step, scales, zero)
        product = Mul (shares, largest)
    }""",
)


def quantize_matrix(matrix: np.ndarray, axis: int) -> tuple[np.ndarray, np.ndarray]:
    """float32 [m, n] -> (int8 [m, n], float32 scales: [1, n] along axis 0, [m, 1] along axis 1)."""
    scales = np.maximum(np.abs(matrix).max(axis, keepdims=True) / LEVELS, SMALLEST).astype(np.float32)
    return np.round(matrix / scales).astype(np.int8), scales


def quantize_model(model: Any) -> int:
    """Quantize a float32 model (onnx.ModelProto) in place; returns how many of its products are in 8 bits then.

    Weights get a scale for each output, tables of embeddings one for each row. The Gemm nodes, pooler and classifier,
    stay as they are: they see one token of a text, so they take next to no time, and much of the error would be theirs.
    """
    from onnx import helper, numpy_helper, parser

    graph = model.graph
    matrices = {
        tensor.name: numpy_helper.to_array(tensor)
        for tensor in graph.initializer
        if len(tensor.dims) == 2 and tensor.data_type == tensor.FLOAT
    }
    nodes: list = []
    constants: dict[str, np.ndarray] = {}
    quantized, products = set(), 0

    def call(function: str, inputs: list[str], outputs: list[str]) -> None:
        nodes.append(helper.make_node(function, inputs, outputs, domain=DOMAIN))

    for node in graph.node:
        if node.op_type == "Gather" and node.input[0] in matrices:
            table, ids = node.input
            names = [f"{table}.int8", f"{table}.scales"]
            constants.update(zip(names, quantize_matrix(matrices[table], 1)))
            call("LookUp", [*names, ids], node.output)
        elif node.op_type == "MatMul" and node.input[1] in matrices:
            tokens, weights = node.input
            names = [f"{weights}.int8", f"{weights}.scales"]
            values, scales = quantize_matrix(matrices[weights], 0)
            constants.update(zip(names, (values, scales[0])))
            parts = [f"{tokens}.int8", f"{tokens}.largest"]
            if tokens not in quantized:  # the same go into query, key and value
                call("QuantizeTokens", [tokens], parts)
                quantized.add(tokens)
            call("MultiplyTokens", [*parts, *names], node.output)
            products += 1
        else:
            nodes.append(node)
    used = {name for node in nodes for name in node.input}
    kept = [tensor for tensor in graph.initializer if tensor.name in used]
    kept += [numpy_helper.from_array(value, name) for name, value in constants.items()]
    new = helper.make_graph(nodes, graph.name, graph.input, graph.output, kept)
    graph.CopyFrom(new)
    standard = next(one.version for one in model.opset_import if not one.domain)
    head = f'<domain: "{DOMAIN}", opset_import: ["" : {standard}, "com.microsoft" : 1]>'
    model.functions.extend(
        parser.parse_function(head + function.replace("STEP", repr(1 / LEVELS))) for function in FUNCTIONS
    )
    model.opset_import.append(helper.make_opsetid(DOMAIN, 1))
    return products
