"""Which layers of a network cpu_transformer.py computes, and how it comes to do so.

    faster = install(model.sublayers(), bfloat16=False, threads=2)

A layer is given another forward after a trial that finds the library's outputs and gradients.
"""

from collections.abc import Iterable
from types import NoneType
from typing import Any

import numpy as np
import paddle

from hierarchical import cpu_kernels as kernels
from hierarchical.cpu_linear import Sliced
from hierarchical.cpu_transformer import ACTIVATIONS, LayerPass, Products, TrainedPass, array
from hierarchical.first_token import is_alone

FEW_TOKENS = 256  # of a call in evaluation, for which the library is faster


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
        alone = is_alone(layer)
        if not layer.training:
            return LayerPass(self.evaluation, layer, given, mask, first_token=alone).forward(src)
        rates = layer.self_attn.dropout, layer.dropout1.p, layer.dropout2.p
        return TrainedPass.apply(LayerPass(self.training, layer, given, mask, rates, first_token=alone), src, *given)

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
        # Of so few numbers those that bfloat16 rounds to the other side of a ReLU are a large share.
        alone = (False,) if products.bfloat16 else (False, True)
        pairs = [pair for first in alone for pair in outputs_and_gradients(products, layer, given, first)]
        return max(float((one - other).norm()) / max(float(one.norm()), 1) for one, other in pairs)

    try:
        what = "products of bfloat16" if products.bfloat16 else "faster transformer layers"
        return kernels.is_right(what, trial, tolerance)
    finally:
        for tensor in frozen:
            tensor.stop_gradient = True
        if was_training:
            layer.train()


def outputs_and_gradients(products: Products, layer: Any, given: list, first_token: bool) -> list[tuple]:
    """[(the library's, that found here)] for two texts of five tokens, two of which are masked in the second."""
    rng, units = np.random.default_rng(0), given[0].shape[0]
    x, above = (paddle.to_tensor(rng.normal(size=(2, 5, units)), "float32") for _ in range(2))
    mask = np.array([[0, 0, 0, 0, 0], [0, 0, 0, -1e4, -1e4]], np.float32)
    x.stop_gradient = False
    with paddle.enable_grad():
        y = type(layer).forward(layer, x, paddle.to_tensor(mask).reshape([2, 1, 1, 5]))
        if first_token:
            y, above = y[:, :1], above[:, :1]
        expected = [y, *paddle.grad(y, [x, *given], above)]
    with paddle.no_grad():
        layer_pass = LayerPass(products, layer, given, mask, first_token=first_token)
        return list(zip(expected, [layer_pass.forward(x), *layer_pass.backward(above)], strict=True))
