"""What replaces operations that are slow in the library when a network trains on a CPU.

    flush_denormals()
    speed_up(paddle, model, bfloat16=False)   # its linear layers

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


def speed_up(paddle: Any, model: Any, bfloat16: bool = False) -> None:
    """Give a network's linear layers faster forms.

    bfloat16: for the products of wide layers in training, where `has_bfloat16`; evaluation stays as it is.
    """
    product = rounded_affine(paddle) if bfloat16 and has_bfloat16() else None
    for layer in model.sublayers():
        if isinstance(layer, paddle.nn.Linear):
            layer.forward = partial(linear, layer, product if layer.weight.shape[1] >= NARROW else None)


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
