"""The float16 form of an ONNX model for GPUs: attention, and what stands around it, as few kernels as there are for it.

`fuse_model` finds the attention of each encoder layer in a graph of export_model.py and puts one node of ONNX Runtime's
own in its place; its library fuses the rest. The numbers stay what they were, to rounding.
"""

from collections.abc import Iterable, Mapping
from typing import Any, NamedTuple

import numpy as np

DOMAIN = "com.microsoft"  # of ONNX Runtime's own nodes
OWN_DOMAIN = "hierarchical.gpu"  # of the function below, which the model brings along
# Of token ids int64 [n, T] and the id of padding: where each token belongs for those of a row to stand before its
# padding, int64 [n, T]; and what attention is told, int32 [3n + 2]: the lengths of the rows, and where each row begins,
# 0, T, 2T to nT, once for queries and once for keys. In this form alone ONNX Runtime has a fused kernel for padded rows
# on every GPU (cuDNN's, which takes the lengths alone, was twice as slow on an H100). CUDA graphs need all of it on the
# GPU, and each Concat with parts of one size: others copy from the host, and a graph would copy what is gone by then.
FUNCTION = """
    OrderRows (ids, padding) => (targets, rows) {
        zero = Constant <value = int64 {0}> ()
        one = Constant <value = int64 {1}> ()
        first = Constant <value = int64[1] {0}> ()
        second = Constant <value = int64[1] {1}> ()
        last = Constant <value = int64[1] {-1}> ()
        end = Constant <value = int64[1] {9223372036854775807}> ()
        is_padding = Equal (ids, padding)
        is_token = Not (is_padding)
        tokens = Cast <to = 7> (is_token)
        tokens_so_far = CumSum (tokens, one)
        totals = Gather <axis = 1> (tokens_so_far, last)
        is_cell = Equal (ids, ids)
        cells = Cast <to = 7> (is_cell)
        cells_so_far = CumSum (cells, one)
        padding_so_far = Sub (cells_so_far, tokens_so_far)
        after_tokens = Add (totals, padding_so_far)
        ordinals = Where (is_token, tokens_so_far, after_tokens)
        targets = Sub (ordinals, one)
        numbers = Squeeze (totals, second)
        ones = Reshape (cells, last)
        row_count = Shape <start = 0, end = 1> (ids)
        start_count = Add (row_count, second)
        some_ones = Slice (ones, first, start_count)
        from_zero = CumSum <exclusive = 1> (some_ones, zero)
        widths = Gather <axis = 1> (cells_so_far, last)
        widths_alone = Squeeze (widths, second)
        width = Gather <axis = 0> (widths_alone, first)
        starts = Mul (from_zero, width)
        from_one = Slice (from_zero, second, end)
        after_one = ScatterElements <axis = 0> (from_zero, from_one, numbers)
        parts = Concat <axis = 0> (after_one, starts, starts)
        part = Slice (parts, second, end)
        rows = Cast <to = 6> (part)
    }"""
TARGETS, ROWS = "rows.targets", "rows"  # what it gives in a fused graph
FUSED = "fused"  # key in the metadata of such a model
# What a layer computes for each token by itself.
TOKENWISE = {"MatMul", "Add", "Div", "Mul", "Erf", "LayerNormalization"}
PROJECTED = ("Transpose", "Reshape", "Add", "MatMul")  # from queries, keys or values back to the tokens


class Attention(NamedTuple):
    """What the attention of a layer is made of: names of tensors, and numbers."""

    tokens: str  # float [n, T, hidden]
    query: Any  # the node that makes queries of them, or of the first alone
    weights: list[np.ndarray]  # of queries, keys, values: [hidden, heads x size]
    biases: list[np.ndarray]
    heads: int
    scale: float
    mask: str  # what is added to the scores
    context: str  # float [n, T or 1, heads x size]: what comes out


class Graph:
    """A graph (onnx.GraphProto) that is read from the end: which node makes a tensor, and which weights there are."""

    def __init__(self, graph: Any):
        from onnx import numpy_helper

        self.graph = graph
        self.maker = {name: node for node in graph.node for name in node.output}
        self.weights: Mapping[str, np.ndarray] = {
            tensor.name: numpy_helper.to_array(tensor) for tensor in graph.initializer
        }

    def back(self, name: str, *kinds: str) -> list:
        """The nodes of these kinds that lead to a tensor, the last one first, each by the first input that fits.

        [] where there are none.
        """
        if not kinds:
            return []
        node = self.maker.get(name)
        if node is None or node.op_type != kinds[0]:
            return []
        if len(kinds) == 1:
            return [node]
        return next(([node, *rest] for one in node.input if (rest := self.back(one, *kinds[1:]))), [])

    def weight_of(self, node: Any) -> np.ndarray | None:
        """The one input of a node that is a weight; None if none or several are."""
        found = [self.weights[name] for name in node.input if name in self.weights]
        return found[0] if len(found) == 1 else None

    def attention(self, softmax: Any) -> Attention | None:
        """The attention that a Softmax node belongs to, if it is built as export_model.py builds it."""
        masked = self.maker.get(softmax.input[0])
        product = next((node for node in self.graph.node if softmax.output[0] in node.input), None)
        if masked is None or masked.op_type != "Add" or product is None or product.op_type != "MatMul":
            return None
        scores = next((name for name in masked.input if self.back(name, "MatMul")), "")
        mask = next((name for name in masked.input if name != scores), "")
        end = self.followed_by(product.output[0], "Transpose", "Reshape")
        if not (scores and mask and end and self.reads_padding(mask)):
            return None
        query, key = self.maker[scores].input
        ways = [
            self.back(query, "Mul", *PROJECTED),
            self.back(key, *PROJECTED),
            self.back(product.input[1], *PROJECTED),
        ]
        if not all(ways):
            return None
        scale = self.weight_of(ways[0][0])
        ways[0] = ways[0][1:]
        shapes, biases, weights = (self.weights_of(way[place] for way in ways) for place in (1, 2, 3))
        (query, *others) = (self.tensor_of(way[3]) for way in ways)
        tokens = {*others, self.tensor_of(self.maker[query]) if self.is_first_token(query) else query}
        orders = [list(way[0].attribute[0].ints) for way in ways]
        if orders != [[0, 2, 1, 3], [0, 2, 3, 1], [0, 2, 1, 3]] or len({tuple(shape) for shape in shapes}) != 1:
            return None
        if len(tokens) != 1 or scale is None or scale.size != 1 or not len(biases) == len(weights) == 3:
            return None
        return Attention(tokens.pop(), ways[0][3], weights, biases, int(shapes[0][2]), float(scale.item()), mask, end)

    def tensor_of(self, node: Any) -> str:
        """The first input of a node that is no weight; "" without one."""
        return next((name for name in node.input if name not in self.weights), "")

    def is_first_token(self, name: str) -> bool:
        """Whether a tensor [n, 1, ...] is the first of all tokens of another."""
        node = self.maker.get(name)
        return node is not None and node.op_type == "Slice" and self.cut(node) == [[0], [1], [1]]

    def cut(self, node: Any) -> list:
        """Where a Slice begins and ends, and along which axes."""
        return [self.weights[name].tolist() if name in self.weights else None for name in node.input[1:4]]

    def weights_of(self, nodes: Iterable) -> list[np.ndarray]:
        """The weight of each of these nodes that has one."""
        return [weight for node in nodes if (weight := self.weight_of(node)) is not None]

    def followed_by(self, name: str, *kinds: str) -> str:
        """The tensor that comes out of these kinds of nodes, the first one of which reads `name`; "" without them."""
        for kind in kinds:
            readers = [node for node in self.graph.node if name in node.input]
            if len(readers) != 1 or readers[0].op_type != kind:
                return ""
            name = readers[0].output[0]
        return name

    def tables(self) -> list:
        """The Gather nodes that look up words and positions; [] where there are others or none."""
        looks = [node for node in self.graph.node if node.op_type == "Gather" and node.input[0] in self.weights]
        words = [node for node in looks if node.input[1] == "input_ids"]
        positions = [node for node in looks if self.is_counted(node.input[1])]  # not those of a task's number
        return [*words, *positions] if len(words) == len(positions) == 1 else []

    def is_counted(self, name: str) -> bool:
        """Whether a tensor is made by counting tokens."""
        node = self.maker.get(name)
        return node is not None and (node.op_type == "CumSum" or any(map(self.is_counted, node.input)))

    def first_token(self, attention: Attention) -> tuple[list, list]:
        """(the nodes that follow an attention token by token, the Slice nodes after them that read the first alone).

        ([], []) where something else follows.
        """
        reached, nodes, ends = {attention.context}, [], []
        for node in self.graph.node:
            if not reached & {*node.input}:
                continue
            if self.is_first_token(node.output[0]):
                ends.append(node)
            elif node.op_type in TOKENWISE and {*node.input} <= reached | {attention.tokens} | self.weights.keys():
                nodes.append(node)
                reached |= {*node.output}
            else:
                return [], []
        read_by_others = reached & {output.name for output in self.graph.output}
        return (nodes, ends) if ends and not read_by_others else ([], [])

    def reads_padding(self, mask: str) -> bool:
        """Whether a mask is made of a comparison of input_ids alone, so that it hides padding and nothing else."""
        node = self.maker.get(mask)
        if node is None:
            return False
        if node.op_type == "Equal":
            return node.input[0] == "input_ids" and node.input[1] in self.weights
        further = [name for name in node.input if name not in self.weights]
        return len(further) == 1 and self.reads_padding(further[0])


def fuse_model(model: Any) -> int:
    """Fuse a float32 model (onnx.ModelProto) in place; returns how many layers' attention is one node then.

    0, and the model stays as it was, where the attention of a layer is not found, or where other tokens are read after
    the last layer than the first, since tokens change their places.
    """
    from onnx import helper, numpy_helper, parser

    graph = model.graph
    read = Graph(graph)
    found = [read.attention(node) for node in graph.node if node.op_type == "Softmax"]
    layers = {attention.context: attention for attention in found if attention}
    tables, last = read.tables(), found[-1] if found else None
    if len(layers) < len(found) or not tables or not last:
        return 0
    if last.tokens in last.query.input and not read.first_token(last)[0]:
        return 0
    padding = next(node.input[1] for node in graph.node if node.op_type == "Equal" and node.input[0] == "input_ids")
    nodes = [helper.make_node("OrderRows", ["input_ids", padding], [TARGETS, ROWS], domain=OWN_DOMAIN)]
    for look in tables:  # a token of padding within a text stays hidden, and the others where they were
        ids, moved = look.input[1], f"{look.input[1]}.ordered"
        nodes.append(helper.make_node("ScatterElements", [ids, TARGETS, ids], [moved], axis=1))
        look.input[1] = moved
    constants: dict[str, np.ndarray] = {}
    for node in graph.node:
        if (attention := layers.get(node.output[0])) is None:
            nodes.append(node)
            continue
        names = [f"{attention.context}.{part}" for part in ("weights", "biases")]
        constants[names[0]] = np.concatenate(attention.weights, axis=1)
        constants[names[1]] = np.concatenate(attention.biases)
        inputs, sizes = [attention.tokens, *names, ROWS], [matrix.shape[1] for matrix in attention.weights]
        more: dict[str, Any] = {"num_heads": attention.heads, "scale": attention.scale, "qkv_hidden_sizes": sizes}
        whole = [f"{attention.context}.all"] if attention.tokens not in attention.query.input else [attention.context]
        nodes.append(helper.make_node("Attention", inputs, whole, domain=DOMAIN, **more))
        if whole != [attention.context]:  # the node knows no queries of the first token alone
            cut = read.maker[read.tensor_of(attention.query)].input[1:]
            nodes.append(helper.make_node("Slice", [*whole, *cut], [attention.context]))
    weights = [*graph.initializer, *(numpy_helper.from_array(value, name) for name, value in constants.items())]
    graph.CopyFrom(helper.make_graph(nodes, graph.name, graph.input, graph.output, weights))
    standard = next(one.version for one in model.opset_import if not one.domain)
    head = f'<domain: "{OWN_DOMAIN}", opset_import: ["" : {standard}]>'
    model.functions.append(parser.parse_function(head + FUNCTION))
    model.opset_import.extend(helper.make_opsetid(domain, 1) for domain in (DOMAIN, OWN_DOMAIN))
    fuse_rest(model)
    return len(layers)


def fuse_rest(model: Any) -> None:
    """The activation with its bias, and each normalization with the sum before it, by ONNX Runtime's own classes."""
    from onnxruntime.transformers.fusion_biasgelu import FusionBiasGelu
    from onnxruntime.transformers.fusion_gelu import FusionGelu
    from onnxruntime.transformers.fusion_skiplayernorm import (
        FusionBiasSkipLayerNormalization,
        FusionSkipLayerNormalization,
    )
    from onnxruntime.transformers.onnx_model import OnnxModel

    wrapped = OnnxModel(model)
    FusionGelu(wrapped).apply()
    FusionBiasGelu(wrapped, is_fastgelu=False).apply()
    FusionSkipLayerNormalization(wrapped, shape_infer=False).apply()
    FusionBiasSkipLayerNormalization(wrapped).apply()
    wrapped.prune_graph(allow_remove_graph_inputs=False)
    wrapped.topological_sort()


def keep_first_token(model: Any) -> bool:
    """Have the last layer compute the first token alone, where no other is read after it.

    Keys and values are still of all tokens. In place; False where the graph is built in another way. Of 6 layers a
    seventh of all products falls away, and the numbers stay what they were.
    """
    from onnx import helper

    graph = model.graph
    read = Graph(graph)
    softmax = next((node for node in reversed(graph.node) if node.op_type == "Softmax"), None)
    attention = softmax and read.attention(softmax)
    if not attention or attention.tokens not in attention.query.input:
        return False
    nodes, ends = read.first_token(attention)
    if not nodes:
        return False
    first = f"{attention.tokens}.first"
    for node in (attention.query, *nodes):
        node.input[:] = [first if name == attention.tokens else name for name in node.input]
    place = next(place for place, node in enumerate(graph.node) if first in node.input)
    graph.node.insert(place, helper.make_node("Slice", [attention.tokens, *ends[0].input[1:]], [first]))
    return True
