"""A transformer layer on a CPU, forwards and backwards, with the passes of cpu_kernels.py between its products.

    layer_pass = LayerPass(Products(bfloat16=False, threads=2), layer, parameters, mask)
    y = layer_pass.forward(x)                            # texts [n, T, units]
    of_x, *of_parameters = layer_pass.backward(of_y)

Computes what paddle.nn.TransformerEncoderLayer does where that normalizes after its sums and has GELU or ReLU. Half of
a step (6 layers x 384 units) went into its dropout, normalizations, activations, sums and copies; each of these is part
of one pass over an array here. With bfloat16 the factors of products, and what they pass on to each other, are
bfloat16; sums, weights, normalizations, the soft-max and its products are float32.
"""

import ctypes
import math
import sys
import threading
from collections.abc import Callable, Sequence
from contextlib import suppress
from typing import Any, NamedTuple

import numpy as np
import paddle

from hierarchical import cpu_kernels as kernels
from hierarchical.cpu_kernels import in_parts

ACTIVATIONS = {  # the library's function -> the passes that compute it, and its gradient
    paddle.nn.functional.gelu: (kernels.gelu, kernels.gelu_gradient),
    paddle.nn.functional.relu: (kernels.relu, kernels.relu_gradient),
}
OWN = threading.local()  # what this thread has told oneDNN


class Products:
    """Matrix products, of float32 or with factors of bfloat16, and kernels between them, in so many threads.

    Tensors of the precision of the factors are called factors.
    """

    def __init__(self, bfloat16: bool, threads: int):
        self.bfloat16, self.threads = bfloat16, threads

    def product(self, x: Any, y: Any, transpose_x: bool = False, transpose_y: bool = False) -> Any:
        """The product of two factors, which can be a factor of others."""
        if not self.bfloat16:
            return paddle.matmul(x, y, transpose_x, transpose_y)
        use_threads(self.threads)
        options = "trans_x", transpose_x, "trans_y", transpose_y, "use_mkldnn", True, "mkldnn_data_type", "bfloat16"
        return paddle._legacy_C_ops.matmul_v2(x, y, *options)  # paddle.matmul has no bfloat16 on CPUs

    def float32_product(self, x: Any, y: Any, transpose_x: bool = False) -> Any:
        """The same in float32."""
        found = self.product(x, y, transpose_x)
        return self.run(kernels.convert, found, paddle.empty(found.shape)) if self.bfloat16 else found

    def empty(self, *shape: int) -> Any:
        """A new factor."""
        return paddle.empty(shape, "bfloat16" if self.bfloat16 else "float32")

    def factor(self, x: Any) -> Any:
        """A tensor of float32, [rows, units], as a factor."""
        if not self.bfloat16:
            return x
        return self.run(kernels.convert, x, self.empty(*x.shape))

    def sums(self, units: int) -> np.ndarray:
        """Where the parts of a kernel put sums over rows."""
        return np.zeros((self.threads, units), np.float32)

    def whole(self, sums: np.ndarray) -> Any:
        """The tensor of `sums` that are all there."""
        return paddle.to_tensor(sums.sum(0))

    def run(self, kernel: Callable, first: Any, *others: Any) -> Any:
        """Run a kernel on all rows of its first argument; returns its last one."""
        arguments = [array(x) if isinstance(x, paddle.Tensor) else x for x in (first, *others)]
        in_parts(kernel, len(arguments[0]), self.threads, *arguments)
        return others[-1]


def use_threads(number: int) -> None:
    """Have oneDNN, which multiplies in bfloat16, compute in so many threads: each that calls it has its own number."""
    if sys.platform == "linux" and getattr(OWN, "threads", None) != number:
        OWN.threads = number
        with suppress(OSError):
            ctypes.CDLL("libiomp5.so").omp_set_num_threads(number)  # the one that paddle has loaded


def array(tensor: Any) -> np.ndarray:
    """The numbers of a contiguous tensor of float32, or the bits of one of bfloat16 as uint16, not copied."""
    shape, width = tensor.shape, tensor.element_size()
    memory = (ctypes.c_char * (math.prod(shape) * width)).from_address(tensor.data_ptr())
    memory.owner = tensor  # whose memory it is, and which must live as long as the array
    return np.frombuffer(memory, np.uint16 if width == 2 else np.float32).reshape(shape)


class Dropout(NamedTuple):
    """What the kernels need to know of dropout: noise below a bound leaves an element out, the others are scaled."""

    seed: np.uint32
    below: np.uint32
    scale: np.float32


def dropouts(rates: Sequence[float]) -> list[Dropout]:
    """The dropouts of a layer, with seeds from paddle's generator, which is left alone where nothing is dropped."""
    seeds = paddle.randint(0, 2**31 - 1, [len(rates)]).tolist() if any(rates) else [0 for _ in rates]
    return [
        Dropout(np.uint32(seed), np.uint32(min(rate * 2**32, 2**32 - 1)), np.float32(1 / (1 - rate) if rate < 1 else 0))
        for seed, rate in zip(seeds, rates)
    ]


class Linear:
    """x W of a linear layer, x a factor [rows, in]; its bias is added in the pass that follows."""

    def __init__(self, products: Products, weight: Any):
        self.products, self.weight = products, products.factor(weight)

    def forward(self, x: Any) -> Any:
        self.x = x
        return self.products.product(x, self.weight)

    def backward(self, gradient: Any) -> tuple:
        """The gradients with respect to x, a factor, and to the weight."""
        of_x = self.products.product(gradient, self.weight, transpose_y=True)
        return of_x, self.products.float32_product(self.x, gradient, transpose_x=True)


class SumAndNorm:
    """Layer normalization of x + dropout(product + bias), [rows, units]; the product is a factor."""

    def __init__(self, products: Products, bias: Any, gamma: Any, beta: Any, epsilon: float, dropout: Dropout):
        self.products, self.dropout, self.gamma = products, dropout, gamma
        self.others = bias, gamma, beta, np.float32(epsilon)

    def forward(self, x: Any, product: Any) -> Any:
        self.kept = np.empty(x.shape, np.bool_)
        self.normalized, self.inverse = np.empty(x.shape, np.float32), np.empty(len(x), np.float32)
        return self.products.run(
            kernels.add_normalize, x, product, *self.others, *self.dropout,
            self.kept, self.normalized, self.inverse, paddle.empty_like(x),
        )  # fmt: skip

    def backward(self, gradient: Any) -> tuple:
        """The gradients with respect to x, to the product (a factor), and to [bias, gamma, beta]."""
        products, units = self.products, gradient.shape[1]
        of_x, of_product = paddle.empty_like(gradient), products.empty(*gradient.shape)
        sums = [products.sums(units) for _ in range(3)]
        products.run(
            kernels.normalize_gradient, gradient, self.normalized, self.inverse, self.gamma, self.dropout.scale,
            self.kept, of_x, of_product, *sums,
        )  # fmt: skip
        of_gamma, of_beta, of_bias = (products.whole(x) for x in sums)
        return of_x, of_product, [of_bias, of_gamma, of_beta]


class Attention:
    """Self-attention without the layer after it.

    projections: (weight, bias) to queries, keys and values; mask: float32 [n, T], added to the scores
    """

    def __init__(self, products: Products, projections: list, head_dim: int, mask: np.ndarray, dropout: Dropout):
        self.products, self.head_dim, self.mask, self.dropout = products, head_dim, mask, dropout
        self.linears = [Linear(products, weight) for weight, _ in projections]
        self.biases = [bias for _, bias in projections]
        self.scales = np.float32(head_dim**-0.5), np.float32(1), np.float32(1)

    def forward(self, asking: Any, x: Any) -> Any:
        """A factor [rows of `asking`, heads x head_dim] of factors [rows, units].

        x: all tokens of the n texts; asking: those whose outputs are wanted, of each text as many
        """
        products, matmul, n = self.products, paddle.matmul, len(self.mask)
        self.by_heads = []
        for tokens, linear, bias, scale in zip((asking, x, x), self.linears, self.biases, self.scales):
            product = linear.forward(tokens).reshape([n, len(tokens) // n, -1])
            out = paddle.empty([n, product.shape[-1] // self.head_dim, product.shape[1], self.head_dim])
            self.by_heads.append(products.run(kernels.to_heads, product, bias, scale, out))
        queries, keys, values = self.by_heads
        self.probabilities = matmul(queries, keys, transpose_y=True)
        self.dropped = products.run(
            kernels.softmax, self.probabilities, self.mask, *self.dropout,
            paddle.empty_like(self.probabilities),
        )  # fmt: skip
        return self.joined(matmul(self.dropped, values), np.float32(1))[0]

    def joined(self, x: Any, scale: np.float32) -> tuple:
        """[n, heads, T, head_dim] times a number as rows of a factor, and the sums of these."""
        n, heads, tokens, units = x.shape
        out, sums = self.products.empty(n, tokens, heads * units), self.products.sums(heads * units)
        self.products.run(kernels.from_heads, x, scale, out, sums)
        return out.reshape([n * tokens, -1]), self.products.whole(sums)

    def backward(self, gradient: Any, of_asking: Any, of_x: Any) -> list:
        """The gradients with respect to [weight, bias] of queries, keys and values.

        Adds those with respect to what `forward` was given to of_asking and of_x, float32, which may be one.
        """
        products, matmul, n = self.products, paddle.matmul, len(self.mask)
        queries, keys, values = self.by_heads
        no_bias = np.zeros(gradient.shape[1], np.float32)
        above = paddle.empty_like(queries)
        products.run(kernels.to_heads, gradient.reshape([n, len(gradient) // n, -1]), no_bias, np.float32(1), above)
        of_scores = matmul(above, values, transpose_y=True)
        products.run(kernels.softmax_gradient, of_scores, self.probabilities, self.dropped)
        of_parts = (
            matmul(of_scores, keys),
            matmul(of_scores, queries, transpose_x=True),
            matmul(self.dropped, above, transpose_x=True),
        )
        of_parameters = []
        for total, linear, part, scale in zip((of_asking, of_x, of_x), self.linears, of_parts, self.scales):
            joined, of_bias = self.joined(part, scale)
            of_input, of_weight = linear.backward(joined)
            products.run(kernels.add, total, of_input)
            of_parameters += [of_weight, of_bias]
        return of_parameters


class LayerPass:
    """One pass of texts [n, T, units] through a layer, and back.

    parameters: of `cpu_network.parameters`, which may be parts of the layer's; mask: float32 [n, T], added to
    attention's scores; rates: of dropout, on attention's probabilities and the outputs of both halves; first_token: the
    outputs are [n, 1, units], of the first token of each text
    """

    def __init__(
        self,
        products: Products,
        layer: Any,
        parameters: list,
        mask: np.ndarray,
        rates: Sequence[float] = (0, 0, 0),
        first_token: bool = False,
    ):
        self.first_token = first_token
        *projections, output, norm1, widen, narrow, norm2 = zip(parameters[::2], parameters[1::2])
        of_attention, of_output, of_last = dropouts(rates)
        self.products, self.widen_bias, self.passes = products, widen[1], ACTIVATIONS[layer.activation]
        self.attention = Attention(products, projections, layer.self_attn.head_dim, mask, of_attention)
        self.output, self.widen, self.narrow = (Linear(products, weight) for weight, _ in (output, widen, narrow))
        self.middle = SumAndNorm(products, output[1], *norm1, layer.norm1._epsilon, of_output)
        self.last = SumAndNorm(products, narrow[1], *norm2, layer.norm2._epsilon, of_last)

    def forward(self, x: Any) -> Any:
        products, (n, _, units) = self.products, x.shape
        flat = x.contiguous().reshape([-1, units])
        own, factor = flat, products.factor(flat)
        asking = factor
        if self.first_token:
            own = x[:, 0].contiguous()
            asking = products.factor(own)
        attended = self.output.forward(self.attention.forward(asking, factor))
        middle = self.middle.forward(own, attended)
        self.widened = self.widen.forward(products.factor(middle))
        active = products.run(self.passes[0], self.widened, self.widen_bias, products.empty(*self.widened.shape))
        return self.last.forward(middle, self.narrow.forward(active)).reshape([n, -1, units])

    def backward(self, gradient: Any) -> tuple:
        """The gradients with respect to x and to `parameters`."""
        products, flat = self.products, gradient.contiguous().reshape([-1, gradient.shape[-1]])
        of_middle, of_product, of_last = self.last.backward(flat)
        of_active, of_narrow = self.narrow.backward(of_product)
        of_wide, sums = products.empty(*of_active.shape), products.sums(of_active.shape[1])
        products.run(self.passes[1], of_active, self.widened, self.widen_bias, of_wide, sums)
        of_input, of_widen = self.widen.backward(of_wide)
        products.run(kernels.add, of_middle, of_input)
        of_own, of_product, of_norm = self.middle.backward(of_middle)
        of_joined, of_output = self.output.backward(of_product)
        (n, tokens), units = self.attention.mask.shape, gradient.shape[-1]
        of_x = paddle.zeros([n * tokens, units]) if self.first_token else of_own
        of_projections = self.attention.backward(of_joined, of_own, of_x)
        of_x = of_x.reshape([n, tokens, units])
        if self.first_token:
            array(of_x)[:, 0] += array(of_own)
        of_feed_forward = [of_widen, products.whole(sums), of_narrow]
        return of_x, *of_projections, of_output, *of_norm, *of_feed_forward, *of_last


class TrainedPass(paddle.autograd.PyLayer):
    """A LayerPass whose gradients are asked for."""

    @staticmethod
    def forward(context: Any, layer_pass: LayerPass, x: Any, *others: Any) -> Any:
        context.layer_pass, context.wanted = layer_pass, [not tensor.stop_gradient for tensor in (x, *others)]
        return layer_pass.forward(x)

    @staticmethod
    def backward(context: Any, gradient: Any) -> tuple:
        layer_pass, context.layer_pass = context.layer_pass, None  # so much memory is not kept for the next step
        found = layer_pass.backward(gradient)
        return tuple(x if wanted else None for x, wanted in zip(found, context.wanted, strict=True))
