"""cpu_kernels.py: every pass computes what NumPy, SciPy or Paddle computes, on all rows, in any number of threads."""

import numpy as np
import pytest
from scipy.special import softmax
from scipy.stats import norm

from hierarchical import cpu_kernels as kernels
from hierarchical.cpu_kernels import in_parts

f32, u32 = np.float32, np.uint32
NOTHING_DROPPED = u32(7), u32(0), f32(1)
A_THIRD_DROPPED = u32(7), u32(2**32 / 3), f32(1.5)


@pytest.fixture(autouse=True)
def small_shares(monkeypatch):
    """The arrays of these tests are not worth several threads."""
    monkeypatch.setattr(kernels, "LEAST_SHARE", 1)


def numbers(*shape, seed=0):
    return np.random.default_rng(seed).normal(size=shape).astype(f32)


def bits(paddle, values):
    """float32 numbers as bfloat16, by Paddle's own cast: uint16."""
    return paddle.to_tensor(values).astype("bfloat16").numpy()


def from_bits(values):
    return (values.astype(u32) << 16).view(f32)


# ---- numbers ---------------------------------------------------------------------------------------------------------


def test_exp():
    x = np.linspace(-86, 88, 4001, dtype=f32)
    found = np.array([kernels.exp(value) for value in x])
    np.testing.assert_allclose(found, np.exp(x.astype(float)), rtol=3e-7)
    assert kernels.exp(f32(0)) == 1 and 0 <= kernels.exp(f32(-1e4)) < 2e-38


def test_the_normal_distribution():
    u = np.linspace(-7, 7, 1401, dtype=f32)
    distribution, density = np.array([kernels.normal(value) for value in u]).T
    np.testing.assert_allclose(distribution, norm.cdf(u.astype(float)), atol=4e-7)
    np.testing.assert_allclose(density, norm.pdf(u.astype(float)), atol=1e-7)


def test_noise_is_even_and_of_its_seed():
    found = np.array([[kernels.noise(u32(seed), u32(i)) for i in range(20_000)] for seed in (1, 2)], np.uint64)
    for row in found:
        counts = np.bincount((row >> np.uint64(28)).astype(int), minlength=16)
        assert ((counts - 1250) ** 2 / 1250).sum() < 37.7  # chi-squared of 15 degrees, one in a thousand
    assert abs(np.corrcoef(found.astype(float))[0, 1]) < 0.03
    assert len(set(found[0].tolist())) == 20_000  # one to one


def test_bfloat16_is_rounded_as_paddle_does(paddle):
    x = np.concatenate([numbers(1000) * 100, np.array([1 + 2**-8, 1 + 3 * 2**-8, 0, -0.0, 3e38], f32)])[None]
    out = np.empty(x.shape, np.uint16)
    in_parts(kernels.convert, 1, 1, x, out)
    np.testing.assert_array_equal(out, bits(paddle, x))  # halves to even among them
    back = np.empty_like(x)
    in_parts(kernels.convert, 1, 1, out, back)
    np.testing.assert_array_equal(back, from_bits(out))


@pytest.mark.parametrize("threads", [1, 2, 5])
def test_all_rows_are_worked_on_once(threads):
    total = numbers(3, 4)
    expected = total + 2
    in_parts(kernels.add, 3, threads, total, np.full((3, 4), 2, f32))
    np.testing.assert_array_equal(total, expected)


def test_threads_for_large_arrays_alone(monkeypatch):
    ranges = []

    def note(part, first, last, x):
        ranges.append((part, first, last))

    monkeypatch.setattr(kernels, "LEAST_SHARE", 100)
    in_parts(note, 10, 4, np.zeros((10, 19)))
    assert ranges == [(0, 0, 10)]
    in_parts(note, 10, 4, np.zeros((10, 20)))
    assert sorted(ranges[1:]) == [(0, 0, 5), (1, 5, 10)]
    ranges.clear()
    in_parts(note, 100, 64, np.zeros((100, 100)))
    assert len(ranges) == 16  # the most


# ---- passes ----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("activation", ["gelu", "relu"])
@pytest.mark.parametrize("narrow", [False, True])
def test_activations_and_their_gradients(paddle, narrow, activation):
    product, bias, above = numbers(5, 70) * 3, numbers(70, seed=1), numbers(5, 70, seed=2)
    given = [bits(paddle, product), bits(paddle, above)] if narrow else [product, above]
    if narrow:
        product, above = map(from_bits, given)
    u = paddle.to_tensor(product + bias, stop_gradient=False)
    expected = getattr(paddle.nn.functional, activation)(u)
    (expected * paddle.to_tensor(above)).sum().backward()
    out, of_u, of_bias = np.empty_like(given[0]), np.empty_like(given[0]), np.zeros((2, 70), f32)
    in_parts(getattr(kernels, activation), 5, 2, given[0], bias, out)
    in_parts(getattr(kernels, f"{activation}_gradient"), 5, 2, given[1], given[0], bias, of_u, of_bias)
    read, share = (from_bits, 2**-8) if narrow else (np.asarray, 1e-6)
    np.testing.assert_allclose(read(out), expected.numpy(), rtol=share, atol=2e-6)
    np.testing.assert_allclose(read(of_u), u.grad.numpy(), rtol=share, atol=2e-6)
    np.testing.assert_allclose(of_bias.sum(0), u.grad.numpy().sum(0), atol=1e-5)


@pytest.mark.parametrize("dropout", [NOTHING_DROPPED, A_THIRD_DROPPED])
def test_sum_and_norm(paddle, dropout):
    x, product, above = (numbers(9, 40, seed=seed) for seed in range(3))
    bias, gamma, beta = (numbers(40, seed=seed) for seed in range(3, 6))
    kept, normalized = np.empty((9, 40), bool), np.empty((9, 40), f32)
    inverse, out = np.empty(9, f32), np.empty((9, 40), f32)
    norm_arguments = x, product, bias, gamma, beta, f32(1e-5), *dropout
    in_parts(kernels.add_normalize, 9, 3, *norm_arguments, kept, normalized, inverse, out)
    assert abs(kept.mean() - (1 if dropout is NOTHING_DROPPED else 2 / 3)) < 0.09

    tensors = [paddle.to_tensor(value, stop_gradient=False) for value in (x, product, bias, gamma, beta)]
    scale = paddle.to_tensor(kept * dropout[2])
    total = tensors[0] + (tensors[1] + tensors[2]) * scale
    expected = paddle.nn.functional.layer_norm(total, 40, *tensors[3:], epsilon=1e-5)
    (expected * paddle.to_tensor(above)).sum().backward()
    np.testing.assert_allclose(out, expected.numpy(), atol=1e-5)

    of_x, of_product, sums = np.empty_like(x), np.empty_like(x), [np.zeros((3, 40), f32) for _ in range(3)]
    arguments = above, normalized, inverse, gamma, dropout[2], kept, of_x, of_product, *sums
    in_parts(kernels.normalize_gradient, 9, 3, *arguments)
    of_gamma, of_beta, of_bias = (found.sum(0) for found in sums)
    for found, tensor in zip((of_x, of_product, of_bias, of_gamma, of_beta), tensors, strict=True):
        np.testing.assert_allclose(found, tensor.grad.numpy(), atol=1e-5)


def test_heads_there_and_back():
    x, bias = numbers(2, 3, 8), numbers(8, seed=1)  # 2 texts, 3 tokens, 2 heads of 4 units
    out, back, sums = np.empty((2, 2, 3, 4), f32), np.empty((2, 3, 8), f32), np.zeros((2, 8), f32)
    in_parts(kernels.to_heads, 2, 2, x, bias, f32(0.5), out)
    np.testing.assert_allclose(out, ((x + bias) / 2).reshape(2, 3, 2, 4).transpose(0, 2, 1, 3), rtol=1e-6)
    in_parts(kernels.from_heads, 2, 2, out, f32(2), back, sums)
    np.testing.assert_allclose(back, x + bias, rtol=1e-6)
    np.testing.assert_allclose(sums.sum(0), (x + bias).sum((0, 1)), rtol=1e-5)


@pytest.mark.parametrize("dropout", [NOTHING_DROPPED, A_THIRD_DROPPED])
def test_softmax_and_its_gradient(paddle, dropout):
    scores, above = numbers(3, 2, 20, 20) * 3, numbers(3, 2, 20, 20, seed=1)
    mask = np.where(np.arange(20) < [[20], [7], [1]], 0, -1e4).astype(f32)
    expected = softmax(scores.astype(float) + mask[:, None, None], axis=-1)
    probabilities, dropped = scores.copy(), np.empty_like(scores)
    in_parts(kernels.softmax, 3, 2, probabilities, mask, *dropout, dropped)
    np.testing.assert_allclose(probabilities, expected, atol=1e-6)
    assert not probabilities[np.broadcast_to(mask[:, None, None] < 0, probabilities.shape)].any()  # and no denormals
    seen = probabilities > 1e-30
    scale = np.where(dropped > 0, dropout[2], 0)
    np.testing.assert_allclose(dropped[seen], (probabilities * scale)[seen], rtol=1e-6)
    assert abs((dropped > 0)[seen].mean() - (1 if dropout is NOTHING_DROPPED else 2 / 3)) < 0.05

    tensor = paddle.to_tensor(scores + mask[:, None, None], stop_gradient=False)
    (paddle.nn.functional.softmax(tensor) * paddle.to_tensor(scale * above)).sum().backward()
    gradient = above.copy()
    in_parts(kernels.softmax_gradient, 3, 2, gradient, probabilities, dropped)
    np.testing.assert_allclose(gradient, tensor.grad.numpy(), atol=1e-5)
