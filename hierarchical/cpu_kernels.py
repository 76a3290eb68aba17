"""What replaces operations whose kernels for CPUs are slow in the library."""

from functools import partial
from typing import Any


def affine(x: Any, weight: Any, bias: Any) -> Any:
    """x W + b as two matrix products, x W + 1 b.

    Paddle's own gradient of a broadcast sum is slow on CPUs: this saves 8 % of a training step (6 layers x 384 units).
    """
    import paddle

    ones = paddle.ones([*x.shape[:-1], 1], x.dtype)
    return paddle.matmul(x, weight) + paddle.matmul(ones, bias.unsqueeze(0))


def speed_up_bias_gradients(paddle: Any, model: Any) -> None:
    """For CPUs: make every linear layer's bias gradient a matrix product, see `affine`."""

    def forward(layer: Any, x: Any) -> Any:
        return affine(x, layer.weight, layer.bias)

    for layer in model.sublayers():
        if isinstance(layer, paddle.nn.Linear):
            layer.forward = partial(forward, layer)
