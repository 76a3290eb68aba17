"""What replaces operations that are slow in the library when a network trains on a CPU.

    flush_denormals()
    masks = speed_up(paddle, model, bfloat16=False)   # of all its layers
    masks.seed(step)                                  # before each step

All of it computes what the library's own operations do; with bfloat16, products to some three decimals.
"""

import ctypes
import os
import platform
import sys
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np

FLUSH_BITS = {"x86_64": (7, 0x8040), "aarch64": (0, 1 << 24)}  # machine -> (word of C's fenv_t, its bits) on Linux
NARROW = 256  # units of a layer's output below which casts to bfloat16 cost more than they save


def flush_denormals() -> bool:
    """Have this thread, and those it starts from now on, take numbers below 1.2e-38 for zero; whether it could be done.

    Arithmetic with them is a hundred times slower, and padding makes them: the library's soft-max gives a masked
    token exp(-64), not zero, so that gradients fade out through it from layer to layer. A backward pass over 32 rows of
    4 to 128 tokens took 2.3 seconds instead of 18.9 (6 layers x 384 units, --loss bce).
    """
    if sys.platform != "linux" or platform.machine() not in FLUSH_BITS:
        return False
    word, bits = FLUSH_BITS[platform.machine()]
    environment = (ctypes.c_uint32 * 64)()  # more than any fenv_t has
    library = ctypes.CDLL(None)
    if library.fegetenv(environment):
        return False
    environment[word] |= bits
    return library.fesetenv(environment) == 0


def has_bfloat16(cpuinfo: str = "/proc/cpuinfo") -> bool:
    """Whether this CPU multiplies matrices of bfloat16 (AMX), which alone makes up for the casts."""
    try:
        return " amx_bf16" in Path(cpuinfo).read_text()
    except OSError:
        return False


def speed_up(paddle: Any, model: Any, bfloat16: bool = False) -> "Masks":
    """Give a network's linear layers, attention and dropout faster forms; returns what draws its dropout masks.

    bfloat16: for the products of wide linear layers in training, where `has_bfloat16`; evaluation stays as it is.
    """
    masks = Masks(paddle)
    product = rounded_affine(paddle) if bfloat16 and has_bfloat16() else None
    for layer in model.sublayers():
        if isinstance(layer, paddle.nn.Linear):
            rounded = product if layer.weight.shape[1] >= NARROW else None
            layer.forward = partial(linear, layer, rounded)
        elif isinstance(layer, paddle.nn.Dropout) and layer.axis is None and layer.mode == "upscale_in_train":
            layer.forward = partial(dropout, layer, masks)
        elif isinstance(layer, paddle.nn.MultiHeadAttention):
            layer.forward = partial(attention, layer, layer.forward, masks)
    return masks


# ---- linear layers ---------------------------------------------------------------------------------------------------


def linear(layer: Any, rounded: Callable | None, x: Any) -> Any:
    if rounded and layer.training:
        return rounded(x, layer.weight, layer.bias)
    return affine(x, layer.weight, layer.bias)


def affine(x: Any, weight: Any, bias: Any) -> Any:
    """x W + b as two matrix products, x W + 1 b.

    Paddle's own gradient of a broadcast sum is slow on CPUs: this saves 8 % of a training step (6 layers x 384 units).
    """
    import paddle

    ones = paddle.ones([*x.shape[:-1], 1], x.dtype)
    return paddle.matmul(x, weight) + paddle.matmul(ones, bias.unsqueeze(0))


def rounded_affine(paddle: Any) -> Callable:
    """x W + b whose products, and those of its gradient, round their float32 factors to bfloat16 and sum in float32.

    oneDNN does so by itself when it is asked to by its environment, which it reads at its first operation.
    """
    os.environ.setdefault("ONEDNN_DEFAULT_FPMATH_MODE", "BF16")

    def product(x: Any, y: Any, *options: Any) -> Any:
        return paddle._legacy_C_ops.matmul_v2(x, y, *options, "use_mkldnn", True)

    class RoundedAffine(paddle.autograd.PyLayer):
        @staticmethod
        def forward(context: Any, x: Any, weight: Any, bias: Any) -> Any:
            context.save_for_backward(x, weight)
            return product(x, weight) + bias

        @staticmethod
        def backward(context: Any, gradient: Any) -> Any:
            x, weight = context.saved_tensor()
            flat = gradient.reshape([-1, gradient.shape[-1]])
            of_weight = product(x.reshape([-1, x.shape[-1]]), flat, "trans_x", True)
            of_bias = paddle.matmul(paddle.ones([1, flat.shape[0]]), flat).reshape([-1])
            return product(gradient, weight, "trans_y", True), of_weight, of_bias

    return RoundedAffine.apply


# ---- dropout ---------------------------------------------------------------------------------------------------------


class Masks:
    """Draws dropout masks. The library draws a number at a time, which takes an eighth of a training step."""

    def __init__(self, paddle: Any):
        self.paddle, self.rng = paddle, np.random.default_rng(0)

    def seed(self, number: int) -> None:
        self.rng = np.random.Generator(np.random.SFC64(number))

    def __call__(self, x: Any, rate: float) -> Any:
        """x with a share of its numbers zero and the others so much larger that the mean stays; rates in 65,536ths."""
        least = round(rate * 65536)
        scale = np.float32(65536 / (65536 - least) if least < 65536 else 0)
        kept = self.rng.integers(0, 65536, x.shape, np.uint16) >= least
        return x * self.paddle.to_tensor(np.multiply(kept, scale, dtype=np.float32))


def dropout(layer: Any, masks: Masks, x: Any) -> Any:
    return masks(x, layer.p) if layer.training and layer.p else x


def attention(
    layer: Any,
    plain: Callable,
    masks: Masks,
    query: Any,
    key: Any = None,
    value: Any = None,
    attn_mask: Any = None,
    cache: Any = None,
) -> Any:
    """MultiHeadAttention.forward, with `masks` for its dropout; whatever else it can do is left to `plain`."""
    if not (layer.training and layer.dropout) or layer.need_weights or cache is not None:
        return plain(query, key, value, attn_mask, cache)
    import paddle

    q, k, v = layer._prepare_qkv(query, query if key is None else key, query if value is None else value)
    scores = paddle.matmul(q * layer.head_dim**-0.5, k, transpose_y=True)
    if attn_mask is not None:
        scores = scores + paddle.nn.layer.transformer._convert_attention_mask(attn_mask, scores.dtype)
    heads = paddle.matmul(masks(paddle.nn.functional.softmax(scores), layer.dropout), v)
    return layer.out_proj(heads.transpose([0, 2, 1, 3]).reshape([0, 0, layer.embed_dim]))
