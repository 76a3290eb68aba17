"""A transformer layer on a CPU, forwards and backwards, with the passes of cpu_kernels.py between its products.

    install(model.sublayers(), bfloat16=False, threads=2)

Computes what paddle.nn.TransformerEncoderLayer does where that normalizes after its sums and has GELU or ReLU. Half of
a step (6 layers x 384 units) went into its dropout, normalizations, activations, sums and copies; each of these is part
of one pass over an array here. With bfloat16 the factors of products, and what they pass on to each other, are
bfloat16; sums, weights, normalizations, the soft-max and its products are float32.
"""

import ctypes
import math
import sys
import threading
from collections.abc import Callable, Iterable, Sequence
from contextlib import suppress
from types import NoneType
from typing import Any, NamedTuple

import numpy as np
import paddle

from hierarchical import cpu_kernels as kernels
from hierarchical.cpu_kernels import in_parts
from hierarchical.cpu_linear import Sliced

ACTIVATIONS = {  # the library's function -> the passes that compute it, and its gradient
    paddle.nn.functional.gelu: (kernels.gelu, kernels.gelu_gradient),
    paddle.nn.functional.relu: (kernels.relu, kernels.relu_gradient),
}
OWN = threading.local()  # what this thread has told oneDNN
FEW_TOKENS = 256  # of a call in evaluation, for which the library is faster


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
    """Self-attention without the layer after it: factors [rows, units] -> [rows, heads x head_dim].

    projections: (weight, bias) to queries, keys and values; mask: float32 [n, T], added to the scores; rows: n x T
    """

    def __init__(self, products: Products, projections: list, head_dim: int, mask: np.ndarray, dropout: Dropout):
        self.products, self.head_dim, self.mask, self.dropout = products, head_dim, mask, dropout
        self.linears = [Linear(products, weight) for weight, _ in projections]
        self.biases = [bias for _, bias in projections]
        self.scales = np.float32(head_dim**-0.5), np.float32(1), np.float32(1)

    def forward(self, x: Any) -> Any:
        products, matmul, (n, tokens) = self.products, paddle.matmul, self.mask.shape
        self.by_heads = []
        for linear, bias, scale in zip(self.linears, self.biases, self.scales):
            product = linear.forward(x).reshape([n, tokens, -1])
            out = paddle.empty([n, product.shape[-1] // self.head_dim, tokens, self.head_dim])
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

    def backward(self, gradient: Any) -> tuple:
        """The gradients with respect to x, float32, and to [weight, bias] of queries, keys and values."""
        products, matmul, (n, tokens) = self.products, paddle.matmul, self.mask.shape
        queries, keys, values = self.by_heads
        no_bias = np.zeros(gradient.shape[1], np.float32)
        above = paddle.empty_like(queries)
        products.run(kernels.to_heads, gradient.reshape([n, tokens, -1]), no_bias, np.float32(1), above)
        of_scores = matmul(above, values, transpose_y=True)
        products.run(kernels.softmax_gradient, of_scores, self.probabilities, self.dropped)
        of_parts = (
            matmul(of_scores, keys),
            matmul(of_scores, queries, transpose_x=True),
            matmul(self.dropped, above, transpose_x=True),
        )
        of_x, of_parameters = paddle.zeros([n * tokens, self.linears[0].weight.shape[0]]), []
        for linear, part, scale in zip(self.linears, of_parts, self.scales):
            joined, of_bias = self.joined(part, scale)
            of_input, of_weight = linear.backward(joined)
            products.run(kernels.add, of_x, of_input)
            of_parameters += [of_weight, of_bias]
        return of_x, of_parameters


class LayerPass:
    """One pass of texts [n, T, units] through a layer, and back.

    parameters: of `parameters`, which may be parts of the layer's; mask: float32 [n, T], added to attention's scores;
    rates: of dropout, on attention's probabilities and the outputs of both halves
    """

    def __init__(
        self, products: Products, layer: Any, parameters: list, mask: np.ndarray, rates: Sequence[float] = (0, 0, 0)
    ):
        *projections, output, norm1, widen, narrow, norm2 = zip(parameters[::2], parameters[1::2])
        of_attention, of_output, of_last = dropouts(rates)
        self.products, self.widen_bias, self.passes = products, widen[1], ACTIVATIONS[layer.activation]
        self.attention = Attention(products, projections, layer.self_attn.head_dim, mask, of_attention)
        self.output, self.widen, self.narrow = (Linear(products, weight) for weight, _ in (output, widen, narrow))
        self.middle = SumAndNorm(products, output[1], *norm1, layer.norm1._epsilon, of_output)
        self.last = SumAndNorm(products, narrow[1], *norm2, layer.norm2._epsilon, of_last)

    def forward(self, x: Any) -> Any:
        products, flat = self.products, x.contiguous().reshape([-1, x.shape[-1]])
        attended = self.output.forward(self.attention.forward(products.factor(flat)))
        middle = self.middle.forward(flat, attended)
        self.widened = self.widen.forward(products.factor(middle))
        active = products.run(self.passes[0], self.widened, self.widen_bias, products.empty(*self.widened.shape))
        return self.last.forward(middle, self.narrow.forward(active)).reshape(x.shape)

    def backward(self, gradient: Any) -> tuple:
        """The gradients with respect to x and to `parameters`."""
        products, flat = self.products, gradient.contiguous().reshape([-1, gradient.shape[-1]])
        of_middle, of_product, of_last = self.last.backward(flat)
        of_active, of_narrow = self.narrow.backward(of_product)
        of_wide, sums = products.empty(*of_active.shape), products.sums(of_active.shape[1])
        products.run(self.passes[1], of_active, self.widened, self.widen_bias, of_wide, sums)
        of_input, of_widen = self.widen.backward(of_wide)
        products.run(kernels.add, of_middle, of_input)
        of_x, of_product, of_norm = self.middle.backward(of_middle)
        of_joined, of_output = self.output.backward(of_product)
        of_input, of_projections = self.attention.backward(of_joined)
        products.run(kernels.add, of_x, of_input)
        of_feed_forward = [of_widen, products.whole(sums), of_narrow]
        return of_x.reshape(gradient.shape), *of_projections, of_output, *of_norm, *of_feed_forward, *of_last


# ---- layers of a network ---------------------------------------------------------------------------------------------


def parts(layer: Any) -> list:
    """The parts that have parameters."""
    attention = layer.self_attn
    projections = [attention.q_proj, attention.k_proj, attention.v_proj, attention.out_proj]
    return [*projections, layer.norm1, layer.linear1, layer.linear2, layer.norm2]


def parameters(layer: Any) -> list:
    """Weights and biases as they are in use, in the order of `LayerPass.backward`."""
    found: list = []
    for part in parts(layer):
        forward = vars(part).get("forward")
        found += forward.parameters() if isinstance(forward, Sliced) else [part.weight, part.bias]
    return found


def is_ours(layer: Any) -> bool:
    """Whether a layer is of the kind that is computed here, as the library made it."""
    if not isinstance(layer, paddle.nn.TransformerEncoderLayer):
        return False
    usual = layer.activation in ACTIVATIONS and not (layer.normalize_before or layer.dropout.p)
    return usual and untouched(layer) and not any("forward" in vars(part) for part in parts(layer))


def untouched(layer: Any) -> bool:
    """Whether nobody has given its parts a forward that is not known here, or something to do before or after it."""
    return not any(
        part._forward_pre_hooks
        or part._forward_post_hooks
        or not isinstance(vars(part).get("forward"), Sliced | NoneType)
        for part in parts(layer)
    )


class FastForward:
    """Stands for the forward of a transformer layer: computes the calls that it can, and leaves others to the library.

    evaluation, training: Products for each
    """

    def __init__(self, layer: Any, evaluation: Products, training: Products):
        self.layer, self.evaluation, self.training = layer, evaluation, training

    @paddle.jit.not_to_static
    def __call__(self, src: Any, src_mask: Any = None, cache: Any = None, output_attentions: bool = False) -> Any:
        layer = self.layer
        if cache or output_attentions or not self.can_compute(src, src_mask):
            return type(layer).forward(layer, src, src_mask, cache, output_attentions)
        mask, given = array(src_mask.contiguous().reshape([len(src), -1])), parameters(layer)
        if not layer.training:
            return LayerPass(self.evaluation, layer, given, mask).forward(src)
        rates = layer.self_attn.dropout, layer.dropout1.p, layer.dropout2.p
        return TrainedPass.apply(LayerPass(self.training, layer, given, mask, rates), src, *given)

    def can_compute(self, src: Any, src_mask: Any) -> bool:
        """Whether it is a call for training, or a large one without gradients, with a mask for all tokens of a text.

        With bfloat16 all calls are large, so that a text's answer does not depend on how many others it comes with.

        In evaluation with gradients the library computes: word_interpret.py goes backwards through a graph several
        times, and that ends the process in the library's own code for layers like `TrainedPass`.
        """
        n, tokens = src.shape[:2]
        if not paddle.in_dynamic_mode() or src_mask is None or src_mask.shape != [n, 1, 1, tokens]:
            return False
        if src_mask.dtype != src.dtype or not untouched(self.layer):
            return False
        large = n * tokens >= FEW_TOKENS or self.evaluation.bfloat16
        return self.layer.training or (large and not paddle.is_grad_enabled())


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


def install(layers: Iterable[Any], bfloat16: bool, threads: int, in_evaluation: bool = False) -> list:
    """Give those transformer layers another forward for which it computes the same; these layers.

    bfloat16: for the products in training; in_evaluation: there, too. The log says where numbers come out otherwise.
    """
    layers = [layer for layer in layers if is_ours(layer)]
    exact, training = Products(False, threads), Products(bfloat16, threads)
    if not layers or not agrees(exact, layers[0], 1e-4):
        return []
    if bfloat16 and not agrees(training, layers[0], 0.1):
        training = exact
    for layer in layers:
        layer.forward = FastForward(layer, training if in_evaluation else exact, training)
    return layers


def agrees(products: Products, layer: Any, tolerance: float) -> bool:
    """Whether outputs and gradients of a layer are those of the library, but for a share of the norm of each.

    Those with a norm below 1 may be off by the tolerance itself: the keys' bias has a gradient of 0.
    """
    was_training, given = layer.training, parameters(layer)
    frozen = [tensor for tensor in given if tensor.stop_gradient]
    layer.eval()
    for tensor in frozen:  # without a gradient of its weight, the library's layer norm gives a wrong one of its input
        tensor.stop_gradient = False

    def trial() -> float:
        pairs = zip(*outputs_and_gradients(products, layer, given), strict=True)
        return max(float((one - other).norm()) / max(float(one.norm()), 1) for one, other in pairs)

    try:
        what = "products of bfloat16" if products.bfloat16 else "faster transformer layers"
        return kernels.is_right(what, trial, tolerance)
    finally:
        for tensor in frozen:
            tensor.stop_gradient = True
        if was_training:
            layer.train()


def outputs_and_gradients(products: Products, layer: Any, given: list) -> tuple[list, list]:
    """(the library's, those found here) for two texts of five tokens, two of which are masked in the second."""
    rng, units = np.random.default_rng(0), given[0].shape[0]
    x, above = (paddle.to_tensor(rng.normal(size=(2, 5, units)), "float32") for _ in range(2))
    mask = np.array([[0, 0, 0, 0, 0], [0, 0, 0, -1e4, -1e4]], np.float32)
    x.stop_gradient = False
    with paddle.enable_grad():
        y = type(layer).forward(layer, x, paddle.to_tensor(mask).reshape([2, 1, 1, 5]))
        expected = [y, *paddle.grad(y, [x, *given], above)]
    with paddle.no_grad():
        layer_pass = LayerPass(products, layer, given, mask)
        return expected, [layer_pass.forward(x), *layer_pass.backward(above)]
