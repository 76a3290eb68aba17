"""cpu_linear.py: products, sums and gradients of linear layers, and of parts of them."""

import numpy as np
import pytest

from hierarchical.cpu_linear import Sliced, affine


@pytest.mark.parametrize("shape", [(4, 3), (2, 5, 3)])
def test_affine_by_hand(paddle, shape):
    rng = np.random.default_rng(0)
    values = rng.normal(size=shape), rng.normal(size=(3, 2)), rng.normal(size=2)
    x, weight, bias = (paddle.to_tensor(value, "float64", stop_gradient=False) for value in values)
    y = affine(x, weight, bias)
    np.testing.assert_allclose(y.numpy(), values[0] @ values[1] + values[2], rtol=1e-12)
    seen = rng.normal(size=y.shape)  # the gradient that comes from above
    (y * paddle.to_tensor(seen)).sum().backward()
    np.testing.assert_allclose(bias.grad.numpy(), seen.reshape(-1, 2).sum(0), rtol=1e-12)
    np.testing.assert_allclose(weight.grad.numpy(), values[0].reshape(-1, 3).T @ seen.reshape(-1, 2), rtol=1e-12)
    np.testing.assert_allclose(x.grad.numpy(), seen @ values[1].T, rtol=1e-12)


@pytest.mark.parametrize("rows, columns", [(None, None), (2, None), (None, 4), (2, 4)])
def test_a_part_of_a_layer(paddle, rows, columns):
    layer = paddle.nn.Linear(3, 5)
    weight, bias = layer.weight.numpy()[:rows, :columns], np.arange(5, dtype=np.float32)[:columns]
    layer.bias.set_value(np.arange(5, dtype=np.float32))
    x = np.random.default_rng(0).normal(size=(2, len(weight))).astype(np.float32)
    part = Sliced(layer, rows, columns)
    y = part(paddle.to_tensor(x))
    np.testing.assert_allclose(y.numpy(), x @ weight + bias, atol=1e-6)
    assert [list(tensor.shape) for tensor in part.parameters()] == [list(weight.shape), list(bias.shape)]
    y.sum().backward()
    used = np.zeros((3, 5), bool)
    used[:rows, :columns] = True
    expected = np.where(used, np.pad(x.sum(0), (0, 3 - len(weight)))[:, None], 0)
    np.testing.assert_allclose(layer.weight.grad.numpy(), expected, atol=1e-6)
